"""The chips of the step pages: for each script its title, what it buys, a label for every bullet of its docstring.

IDEAS: script -> (title, in English, currency, [(label, in English)]), in the order of the bullets; None: plumbing.
CURRENCIES: what a rung buys -> (name, in English); style.css has a colour for each.
"""
CURRENCIES = {'quality': ('质量', 'quality'), 'speed': ('速度', 'speed'), 'memory': ('内存', 'memory'), 'safety': ('可靠', 'safety'),
              'scale': ('规模', 'scale'), 'rhyme': ('押韵', 'rhyme'), 'yours': ('个性化', 'yours'),
              'sight': ('可观测', 'sight')}

# chip -> the leave-one-out runs of bench/settings.py that belong to it; what changes most stands on the chip
LEFT_OUT = {
    'v4_flash_optim': {0: ['flash attention', 'one QKV projection'], 1: ['init', 'width in the init', 'residual scaling'],
                       2: ['weight decay', 'decay groups', 'gradient clipping', 'betas', 'fused AdamW']},
    'v9_llama': {0: ['grouped queries'], 1: ['SwiGLU'], 2: ['RMSNorm', 'tied embeddings']},
    'v10_muon': {0: ['Muon', 'weight decay of 0.3'], 1: ['q and k normalised']}}
FOLDER = None                                                       # a checkpoint folder of its own
IDEAS = {
    'v0_char_english': ('一个 GPT，从字符开始', 'a GPT, from characters up', 'quality', []),
    'v0_char_chinese': ('换成中文歌词', 'Chinese lyrics', 'quality', [
        ('许多歌', 'many songs'), ('清洗', 'cleaning'), ('按歌切分', 'splitting by song'), None]),
    'v0_char_rope': ('旋转位置编码', 'rotary positions', 'quality', [
        ('旋转', 'rotation'), ('转 q、k', 'q and k rotate'), ('不再学位置', 'no learned positions')]),
    'v1_bpe_rope': ('子词', 'sub-words', 'quality', [
        ('学词表', 'learning a vocabulary'), ('分隔符', 'a separator'), ('一首一首写', 'one song at a time')]),
    'v2_cosine_lr': ('预热 + 余弦学习率', 'warm-up and cosine', 'quality', [
        ('学习率曲线', 'the schedule'), ('更高的峰值', 'a higher peak')]),
    'v3_gpt2_amp': ('GPT-2 的尺寸，和训练得起的办法', 'GPT-2 Small, and making it affordable', 'speed', [
        ('GPT-2 的尺寸', 'the size of GPT-2'), ('混合精度', 'mixed precision'), ('编译', 'compilation')]),
    'v4_flash_optim': ('flash attention 与实用的训练配方', 'flash attention and the real recipe', 'quality', [
        ('flash attention', 'flash attention'), ('初始化', 'initialisation'), ('优化', 'optimisation'), ('数据', 'data')]),
    'v5_checkpoint': ('检查点：断了再续', 'runs that survive', 'safety', [
        ('存', 'saving'), ('续', 'resuming'), ('停止信号', 'stop signals'), ('试写', 'previews')]),
    'v6_wandb': ('看得见的训练', 'seeing the run', 'sight', [('开始记录', 'start recording'), ('记什么', 'what is recorded')]),
    'v7_grad_accum': ('梯度累积', 'gradient accumulation', 'memory', [
        ('一份一份算', 'part by part'), ('评估也分份', 'evaluation in parts'), FOLDER]),
    'v8_mfu': ('有多快，最快能有多快', 'how fast, and how fast it could be', 'sight', [
        ('各种大小', 'every size'), ('MFU', 'MFU'), ('日志', 'the log line'), FOLDER]),
    'v9_llama': ('当今开源模型的架构', "the architecture of today's open models", 'memory', [
        ('分组查询', 'grouped queries'), ('SwiGLU', 'SwiGLU'), ('RMSNorm、共用词向量', 'RMSNorm, tied embeddings'), FOLDER]),
    'v10_muon': ('更好的优化器：Muon', 'a better optimizer: Muon', 'quality', [
        ('Muon', 'Muon'), ('q、k 归一', 'q and k normalised'), FOLDER]),
    'v11_memmap': ('比内存还大的数据', 'more data than memory', 'scale', [
        ('一篇一篇读', 'text by text'), ('token 文件', 'the token file'), ('内存映射', 'memory-mapping')]),
    'v12_ddp': ('多块 GPU、多台机器', 'several GPUs, several machines', 'scale', [
        ('多个进程', 'processes'), ('分窗口，加梯度', 'split windows, sum gradients'), ('只有一个存盘', 'one of them saves'), FOLDER]),
    's1_control': ('要什么，就写什么', 'say what you want', 'rhyme', [
        ('歌头', 'the header'), ('字数和韵', 'length and rhyme'), ('窗口从歌头开始', 'windows begin with it'),
        ('随机去掉', 'fields left out'), ('只算歌词', 'the lyric alone counts'), FOLDER]),
    's2_rhyme_rl': ('练习押韵', 'practice with a reward', 'rhyme', [
        ('从 s1 开始', 'start from s1'), ('自己写', 'writing'), ('打分', 'scoring'), ('策略梯度', 'policy gradient'),
        ('小步子', 'small steps'), ('同一个模型', 'the same model'), ('不再读歌', 'no songs to read'), FOLDER]),
    's3_finetune': ('教它写你的歌', 'make it yours', 'yours', [
        ('自己的歌', 'songs of your own'), ('从训练好的开始', 'start from trained weights'), ('小步子', 'small steps'),
        ('看得勤', 'frequent looks'), FOLDER]),
}
