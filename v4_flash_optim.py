"""真正训练 GPT 时用的配方：flash attention 和一整套优化细节。

相对 v3_gpt2_amp.py 的改动：
- 注意力：`MultiHeadAttention` 一次算出所有头的 q、k、v，交给 flash attention，`Head` 不再需要；省下的显存让 `BATCH_SIZE` 变大；
- 显存：`FeedForward` 不存 GELU 的输出，反向时再算一次（recompute，arXiv:1604.06174）；v 另存一份，合在一起的 qkv 才能释放；
- 初始化：`GPT` 里的 init_weights，N(0, 0.02)，残差上的投影再缩小；
- 优化：`make_optimizer` 按 `WEIGHT_DECAY` 和 `BETAS` 建 AdamW（fused，只衰减矩阵），`GRAD_CLIP` 裁剪梯度；`check_constants` 核对；
- 数据：`train_loader` 用 DataLoader 让 `NUM_WORKERS` 个子进程提前（`PREFETCH_FACTOR` 批）准备 `TrainBatches`；
  `ignore_signals` 让子进程不理会 Ctrl-C 和停止信号。

看差异：git diff --no-index v3_gpt2_amp.py v4_flash_optim.py
运行：python v4_flash_optim.py
预期：两核 CPU（AMD EPYC）上用自带的数据，144 秒，test 6.12，7.73 bits/char，内存 0.8 GB；GPU 上没有测过
"""
import hashlib
import io
import json
import math
import random
import re
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import sentencepiece as spm
import torch
import torch.nn as nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as recompute
from torch.utils.data import DataLoader, Dataset

# ---------- 超参数：改这里，再运行。「A if GPU else B」：有 CUDA GPU 时取 A，没有时取 B ----------
DEVICE = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
GPU = DEVICE.startswith('cuda')

# 数据
LYRICS_DIR = 'ChineseLyrics'                # 歌词文件夹：里面的 lyrics*.json，没有就用 sample.json
MAX_SONGS = None                            # 最多用多少首歌；None：全部
BPE_VOCAB_SIZE = 8000 if GPU else 4000      # 词表大小（token）
SEED = 1337                                 # 随机种子：同一个种子，同样的结果

# 训练
BATCH_SIZE = 64 if GPU else 16              # 一步训练多少个窗口
BLOCK_SIZE = 1024 if GPU else 128           # 窗口长度（token），也就是模型能看到的上文
LEARNING_RATE = 6e-4 if GPU else 1.5e-3     # 学习率的最高点
MIN_LR = 6e-5 if GPU else 1.5e-4            # 学习率的终点
WARMUP_ITERS = 200 if GPU else 30           # 前多少步从 0 升到最高点
TRAIN_ITERS = 5000 if GPU else 600          # 训练多少步
EVAL_INTERVAL = 200                         # 每隔多少步评估一次
EVAL_ITERS = 20                             # 一次评估用多少批窗口
USE_AMP = GPU                               # 混合精度：矩阵乘法用 16 位
AMP_DTYPE = 'bfloat16' if not GPU or torch.cuda.is_bf16_supported(including_emulation=False) else 'float16'
USE_COMPILE = GPU                           # torch.compile：把模型编译成融合的内核
WEIGHT_DECAY = 0.1                          # 权重衰减，只对矩阵
BETAS = (0.9, 0.95)                         # AdamW 的两个动量系数
GRAD_CLIP = 1.0                             # 梯度范数的上限
NUM_WORKERS = 4 if GPU else 0               # 准备数据的子进程数；0：主进程自己准备
PREFETCH_FACTOR = 4                         # 每个子进程提前准备多少批

# 模型
N_EMBED = 768 if GPU else 128               # 向量宽度
N_HEADS = 12 if GPU else 4                  # 注意力头数
N_LAYERS = 12 if GPU else 4                 # 层数
DROP_OUT = 0.1 if GPU else 0.0              # 训练时随机丢弃的比例

# 采样
MAX_NEW_TOKENS = 200                        # 最多写多少个 token
TEMPERATURE = 0.8                           # 小于 1 更稳妥，大于 1 更大胆


def fail(message):
    """遇到用户能改正的错误：说清哪里不对、怎么办，以状态 1 退出。"""
    sys.exit(f'错误：{message}')


def out_of_memory(error):
    """这个错误说的是不是显存（或 CPU 的内存）不够：各种设备的说法不同。"""
    says = ('out of memory', "can't allocate memory", 'not enough memory', 'bad_alloc', 'ALLOC_FAILED', 'Invalid buffer size')
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in str(error) for words in says)


def check_constants():
    """常量不合用时，现在就说，不等到训练中途。"""
    counts = ('_SIZE', '_INTERVAL', '_TOKENS', 'TRAIN_ITERS', 'EVAL_ITERS', 'N_EMBED', 'N_HEADS', 'N_LAYERS', 'PREFETCH_FACTOR')
    for name, value in globals().items():
        if name.endswith(counts) and (not isinstance(value, int) or value < 1):
            fail(f'{name} = {value!r}：要是正整数')
        if name in ('LEARNING_RATE', 'GRAD_CLIP', 'TEMPERATURE') and (not isinstance(value, (int, float)) or value <= 0):
            fail(f'{name} = {value!r}：要是大于 0 的数')
    if not isinstance(DROP_OUT, (int, float)) or not 0 <= DROP_OUT < 1:
        fail(f'DROP_OUT = {DROP_OUT!r}：要在 0（含）和 1 之间，0.1 是丢掉一成')
    if N_EMBED % N_HEADS:
        fail(f'N_EMBED = {N_EMBED} 不能被 N_HEADS = {N_HEADS} 整除：每个头要分到同样多的通道，请改其中一个')
    if N_EMBED // N_HEADS % 2:
        fail(f'每个头的通道数 N_EMBED / N_HEADS = {N_EMBED // N_HEADS} 是奇数：RoPE 把通道两两配对，请改其中一个')
    if BPE_VOCAB_SIZE <= 260:
        fail(f'BPE_VOCAB_SIZE = {BPE_VOCAB_SIZE}：要大于 260，字节和特殊符号就占去 260 个')
    if MAX_SONGS is not None and (not isinstance(MAX_SONGS, int) or MAX_SONGS < 1):
        fail(f'MAX_SONGS = {MAX_SONGS!r}：要是正整数，或 None（全用）')
    if not isinstance(MIN_LR, (int, float)) or not 0 <= MIN_LR <= LEARNING_RATE:
        fail(f'MIN_LR = {MIN_LR!r}：要在 0 和 LEARNING_RATE = {LEARNING_RATE} 之间')
    if not isinstance(WARMUP_ITERS, int) or WARMUP_ITERS < 0:
        fail(f'WARMUP_ITERS = {WARMUP_ITERS!r}：要是整数，不预热就设成 0')
    if AMP_DTYPE not in ('bfloat16', 'float16'):
        fail(f"AMP_DTYPE = {AMP_DTYPE!r}：要是 'bfloat16' 或 'float16'")
    if not isinstance(WEIGHT_DECAY, (int, float)) or WEIGHT_DECAY < 0:
        fail(f'WEIGHT_DECAY = {WEIGHT_DECAY!r}：要是数，不衰减就设成 0')
    if not isinstance(NUM_WORKERS, int) or NUM_WORKERS < 0:
        fail(f'NUM_WORKERS = {NUM_WORKERS!r}：要是整数，不用子进程就设成 0')
    try:
        torch.zeros(1, device=DEVICE)
    except (RuntimeError, AssertionError) as error:
        fail(f"DEVICE = '{DEVICE}' 在这台机器上用不了（{str(error).splitlines()[0][:100]}），请改成 'cpu'")


# ---------- 数据 ----------
def clean(lyric):
    """歌词正文，一行一句：去掉空行、署名行（「作词：某某」）和段落标记（「副歌」）。

    署名行要有职务名 *和* 冒号：以「鼓」「制作」开头的歌词不能误删。
    """
    jobs = ('作词|作曲|编曲|填词|谱曲|词|曲|演唱|原唱|翻唱|歌手|制作|监制|出品|发行|策划|统筹|企划|录音|混音|缩混|母带|后期|配唱'
            '|和声|合音|吉他|贝斯|鼓|键盘|钢琴|弦乐|小提琴|大提琴|二胡|古筝|笛子|箫|琵琶|萨克斯|打击乐|乐队|编写|编程|版权|推广')
    english = 'lyrics?|lyricist|music|composer|arranger|producer|vocals?|mixing|mastering|recording|OP|SP'
    others = r'人|师|者|员|室|棚|公司|助理|总|工程|设计|指导|演奏|及|和|与|[\sA-Za-z/、&·.・()（）-]'
    credit = re.compile(rf'\W*(?:{jobs}|(?:{english})\b)(?:{jobs}|{others})*[:：]', re.IGNORECASE)
    section = re.compile(r'\W*(?:主歌|副歌|导歌|预副歌|前奏|间奏|尾奏|过门|桥段|verse|(?:pre-?)?chorus|bridge|intro|outro|hook'
                         r'|interlude|refrain|rap|solo|ending)[\s\d一二三四]*[A-D]?\W*', re.IGNORECASE)
    lines = (line.strip() for line in lyric.splitlines())
    return '\n'.join(line for line in lines if line and not credit.match(line) and not section.fullmatch(line))


def load_songs():
    """所有歌曲的正文：清洗，去重，打乱。同样的文件和 SEED 得到同样的次序。"""
    files = sorted(Path(LYRICS_DIR).glob('**/lyrics*.json'), key=Path.as_posix)
    if not files:
        files = [Path(LYRICS_DIR) / 'sample.json']
        if not files[0].is_file():
            fail(f'{LYRICS_DIR}/ 里没有 lyrics*.json，也没有 sample.json：请在项目文件夹里运行，数据的来处见 ChineseLyrics/README.md')
        print(f'{LYRICS_DIR}/ 里没有 lyrics*.json，用自带的小样本 {files[0]}；完整数据集见 ChineseLyrics/README.md')
    songs = {}                                                      # 用字典去重：保持次序
    for file in files:
        try:
            entries = json.loads(file.read_text(encoding='utf-8-sig'))
        except UnicodeDecodeError:
            fail(f'{file} 不是 UTF-8 编码（可能是 GBK）：请用编辑器另存为 UTF-8')
        except (json.JSONDecodeError, RecursionError) as error:
            fail(f'{file} 不是完整的 JSON（{error}）：可能没有下载完，请重新下载或改正这一处')
        if not isinstance(entries, list):
            fail(f'{file} 的最外层不是数组：应当是 [{{"name": …, "singer": …, "lyric": [一行, 一行, …]}}, …]')
        for number, entry in enumerate(entries, 1):
            lyric = entry.get('lyric') if isinstance(entry, dict) else None
            lyric = [lyric] if isinstance(lyric, str) else lyric
            if not isinstance(lyric, list) or not all(isinstance(line, str) for line in lyric):
                fail(f'{file} 的第 {number} 首没有 "lyric"，或者它不是一行行的文字：应当是 "lyric": ["第一行", "第二行", …]')
            songs[clean('\n'.join(lyric).encode('utf-8', 'ignore').decode())] = None    # 坏掉的半个表情符号去掉
    songs.pop('', None)
    songs = list(songs)
    random.Random(SEED).shuffle(songs)
    songs = songs[:MAX_SONGS]
    if len(songs) < 2:
        fail(f'{LYRICS_DIR}/ 里清洗之后只有 {len(songs)} 首歌，分不出训练和测试两部分：请多放些歌，或调大 MAX_SONGS')
    return songs


def train_tokenizer(songs):
    """在训练歌曲上学出 BPE 词表（arXiv:1508.07909），返回 SentencePieceProcessor。

    decode(encode(s)) == s 对任何文字成立：不做全半角转换，空格、换行各有自己的 token，词表外的字拆成 UTF-8 字节。
    唯一的例外是符号「▁」（U+2581）：SentencePiece 用它记空格，解码出来也是空格。
    """
    lines = [line for song in songs for line in song.split('\n')]
    digest = hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:12]
    path = Path(LYRICS_DIR) / f'bpe_{BPE_VOCAB_SIZE}_{digest}.model'    # 名字里有训练文本的指纹：换了数据就不会误用

    # 除去字节和特殊符号的 260 格，字最多占六成，其余留给词：更罕见的字拆成字节。
    # 但至少要收够 98% 的文字（SentencePiece 的下限），还放不下才扩大词表。
    counts = Counter(char for line in lines for char in line)
    share, kept, total = 0.0, 0, counts.total()
    for _, count in counts.most_common():
        if share >= 0.98 and kept >= 0.6 * (BPE_VOCAB_SIZE - 260):
            break
        share, kept = share + count / total, kept + 1
    if kept < len(counts):
        print(f'语料有 {len(counts)} 种字，词表放不下：常见的 {kept} 种（占 {share:.2%}）各有一个 token，其余拆成字节')

    if not path.exists():
        model = io.BytesIO()
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, model_type='bpe', vocab_size=max(BPE_VOCAB_SIZE, kept + 260),
            hard_vocab_limit=False, character_coverage=min(share, 1.0), byte_fallback=True, required_chars='▁\n',
            normalization_rule_name='identity', add_dummy_prefix=False, remove_extra_whitespaces=False,
            max_sentence_length=2**30, unk_id=0, eos_id=1, bos_id=-1, minloglevel=2)
        temporary = path.with_suffix('.tmp')
        temporary.write_bytes(model.getvalue())
        temporary.replace(path)                                     # 写完才改名：中途被杀也不会留下半个文件
    try:
        tokenizer = spm.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError):
        fail(f'{path} 坏了：删掉它再运行，会重新学一份')
    if len(tokenizer) != BPE_VOCAB_SIZE:
        print(f'BPE_VOCAB_SIZE = {BPE_VOCAB_SIZE} 对这份语料不合适，实际用 {len(tokenizer)}')
    return tokenizer


def encode_songs(tokenizer, songs):
    """(N,) 所有歌曲的 token，每首后面一个分隔符（eos）。"""
    return torch.tensor([i for ids in tokenizer.encode(songs, add_eos=True) for i in ids])


def load_data():
    """返回 (tokenizer, 训练 token, 测试 token, 测试字符数)。按歌曲分：90% 训练，10% 测试。"""
    songs = load_songs()
    n = int(0.9 * len(songs))
    train_songs, test_songs = songs[:n], songs[n:]
    tokenizer = train_tokenizer(train_songs)
    train_data = encode_songs(tokenizer, train_songs)               # (N,)
    test_data = encode_songs(tokenizer, test_songs)
    print(f'歌曲 {len(songs):,} | 词表 {len(tokenizer):,} | 训练 {len(train_data):,} token | 测试 {len(test_data):,} token')
    for name, data in (('训练', train_data), ('测试', test_data)):
        if len(data) <= BLOCK_SIZE:
            fail(f'{name}部分只有 {len(data)} 个 token，不够一个窗口（BLOCK_SIZE = {BLOCK_SIZE}）：请用更多的数据，或改小 BLOCK_SIZE')
    return tokenizer, train_data, test_data, sum(len(song) + 1 for song in test_songs)  # 一处分隔算一个字符


def get_batch(data, it):
    """第 it 步的 BATCH_SIZE 个随机窗口，由 (SEED, it) 决定。y 是 x 的每个位置上要预测的下一个 token。"""
    rng = random.Random(f'{SEED} {it}')
    starts = torch.tensor([rng.randrange(len(data) - BLOCK_SIZE) for _ in range(BATCH_SIZE)])
    positions = starts[:, None] + torch.arange(BLOCK_SIZE)          # (B, T)
    return data[positions], data[positions + 1]                     # (B, T), (B, T)


class TrainBatches(Dataset):
    """第 it 项是第 it 步的一批窗口：由子进程提前准备，GPU 不必等。"""

    def __init__(self, data):
        self.data = data

    def __getitem__(self, it):
        return get_batch(self.data, it)


def ignore_signals(worker_id):
    """Ctrl-C 和停止信号归主进程处理，子进程不理会。"""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def train_loader(data):
    """依次给出第 0、1、2…… 步的批。"""
    return DataLoader(TrainBatches(data), batch_size=None, sampler=range(TRAIN_ITERS), num_workers=NUM_WORKERS,
                      prefetch_factor=PREFETCH_FACTOR if NUM_WORKERS else None, pin_memory=GPU,
                      worker_init_fn=ignore_signals, generator=torch.Generator())    # 自己的发生器：不动全局的随机状态


# ---------- 模型 ----------
def rope_table():
    """RoPE（arXiv:2104.09864）旋转角的 cos 与 sin，(2, BLOCK_SIZE, head_size)。位置 t 上第 i 对通道转 t * 10000^(-2i / head_size) 弧度。"""
    head_size = N_EMBED // N_HEADS
    frequencies = 10000.0 ** (-torch.arange(0, head_size, 2) / head_size)
    angles = torch.outer(torch.arange(BLOCK_SIZE).float(), frequencies)     # (BLOCK_SIZE, head_size / 2)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)))


def apply_rope(x, rope):
    """把通道 i 与 i + head_size / 2 看成平面上的点 (a, b)，按所在位置旋转：a cos - b sin，b cos + a sin。

    q、k 都转过之后，位置对点积的影响只剩两个位置的距离。
    """
    cos, sin = rope                                                 # (T, head_size)
    swapped = x.roll(x.shape[-1] // 2, dims=-1)                     # (..., T, head_size)，两半互换；负号已在 sin 表里
    return torch.addcmul(x * cos, swapped, sin)                     # x * cos + swapped * sin，一步算完


class MultiHeadAttention(nn.Module):
    """所有的头一起算：一次矩阵乘法得到全部 q、k、v，flash attention 不存 (T, T) 的矩阵（arXiv:2205.14135）。"""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(N_EMBED, 3 * N_EMBED, bias=False)
        self.proj = nn.Linear(N_EMBED, N_EMBED)
        self.dropout = nn.Dropout(DROP_OUT)

    def forward(self, x, rope):                                     # (B, T, C)
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, N_HEADS, -1).permute(2, 0, 3, 1, 4)     # 各 (B, n_heads, T, head_size)
        q, k, v = apply_rope(q, rope), apply_rope(k, rope), v.contiguous()     # v 另存一份，不拖着合在一起的 qkv
        # 这里的 dropout 是参数，不会随 eval() 自己关掉；CPU 的 flash 内核没有 dropout，留着它会退回慢路径
        dropout = DROP_OUT if self.training and DEVICE != 'cpu' else 0.0
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        out = out.transpose(1, 2).reshape(B, T, C)                  # (B, T, C)，各头接起来
        return self.dropout(self.proj(out))


class FeedForward(nn.Module):
    """每个位置各自想一想：放宽到 4 倍，过一个非线性，再收回来。"""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(N_EMBED, 4 * N_EMBED),
            nn.GELU(),
            nn.Linear(4 * N_EMBED, N_EMBED),
            nn.Dropout(DROP_OUT),
        )

    def forward(self, x):                                           # (B, T, C)
        # 一层里最宽的是 GELU 的输入和输出，各 4C：只存输入，net[2] 反向时要的输出，到时再算一次（arXiv:1604.06174）
        x = recompute(self.net[1:3], self.net[0](x), use_reentrant=False)
        return self.net[3](x)


class Block(nn.Module):
    """一层：先交流（注意力），再思考（前馈）。每一步都加回原来的 x（残差）。"""

    def __init__(self):
        super().__init__()
        self.ln1 = nn.LayerNorm(N_EMBED)
        self.attention = MultiHeadAttention()
        self.ln2 = nn.LayerNorm(N_EMBED)
        self.ffwd = FeedForward()

    def forward(self, x, rope):                                     # (B, T, C)
        x = x + self.attention(self.ln1(x), rope)
        x = x + self.ffwd(self.ln2(x))
        return x


class GPT(nn.Module):
    """token 编号 -> 向量 -> N_LAYERS 层 -> 下一个 token 的得分。位置由 RoPE 在注意力里给出。"""

    def __init__(self, vocab_size):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, N_EMBED)
        self.register_buffer('rope', rope_table(), persistent=False)    # 全模型共用一张表；算得出来，不必存
        self.dropout = nn.Dropout(DROP_OUT)
        self.blocks = nn.ModuleList(Block() for _ in range(N_LAYERS))
        self.ln_f = nn.LayerNorm(N_EMBED)
        self.lm_head = nn.Linear(N_EMBED, vocab_size, bias=False)
        self.apply(self.init_weights)
        for name, parameter in self.named_parameters():
            if name.endswith(('attention.proj.weight', 'ffwd.net.2.weight')):   # 每层往残差上加两次：缩小，免得越加越大
                nn.init.normal_(parameter, mean=0.0, std=0.02 / math.sqrt(2 * N_LAYERS))

    def init_weights(self, module):
        """GPT-2 的初始化：矩阵 N(0, 0.02)，偏置 0。"""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, mean=0.0, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, idx, targets=None):                           # (B, T), (B, T)
        T = idx.shape[1]
        x = self.dropout(self.token_embedding(idx))                 # (B, T, C)
        for block in self.blocks:
            x = block(x, self.rope[:, :T])
        logits = self.lm_head(self.ln_f(x))                         # (B, T, vocab_size)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def generate(self, idx, stop):                                  # (1, T)
        """接着 idx 写，到 stop 或 MAX_NEW_TOKENS 个 token 为止。自带随机数发生器：采样不影响训练。"""
        self.eval()
        generator = torch.Generator().manual_seed(SEED)
        for _ in range(MAX_NEW_TOKENS):
            with autocast():
                logits, _ = self(idx[:, -BLOCK_SIZE:])              # (1, T, vocab_size)
            probs = F.softmax(logits[:, -1].float().cpu() / TEMPERATURE, dim=-1)
            idx_next = torch.multinomial(probs, 1, generator=generator)     # (1, 1)
            if idx_next.item() == stop:
                break
            idx = torch.cat((idx, idx_next.to(idx.device)), dim=1)
        self.train()
        return idx


# ---------- 训练 ----------
def autocast():
    """这个范围里的矩阵乘法（和它后面的激活函数、dropout）用 AMP_DTYPE；权重、softmax、归一、损失仍是 float32。"""
    return torch.autocast(torch.device(DEVICE).type, dtype=getattr(torch, AMP_DTYPE), enabled=USE_AMP)


def compile_model(model, data):
    """用一批数据试着编译。编译不了（没有 C 编译器或 Triton）就说一声，用原来的模型继续。"""
    if not USE_COMPILE:
        return model
    print('torch.compile 编译中，第一次要等一会儿……')
    started = time.perf_counter()
    x, y = get_batch(data, 0)
    try:
        compiled = torch.compile(model)
        with autocast():
            _, loss = compiled(x.to(DEVICE), y.to(DEVICE))
        loss.backward()
        loss.item()
    except Exception as error:
        if out_of_memory(error):
            raise
        print(f'torch.compile 在这台机器上用不了（{type(error).__name__}），不编译，继续训练')
        compiled = model
    else:
        print(f'编译用了 {time.perf_counter() - started:.0f} 秒')
    model.zero_grad()
    return compiled


def sample_batches(data):
    """评估用的 EVAL_ITERS 批窗口：每次都是同样的，前后才好比较。"""
    return [get_batch(data, f'eval {i}') for i in range(EVAL_ITERS)]


def all_batches(data):
    """从头到尾一遍的窗口；最后一个不满，用 -100 补齐（cross_entropy 跳过它）。"""
    pad = -(len(data) - 1) % BLOCK_SIZE
    x = F.pad(data[:-1], (0, pad)).view(-1, BLOCK_SIZE)
    y = F.pad(data[1:], (0, pad), value=-100).view(-1, BLOCK_SIZE)
    return zip(x.split(BATCH_SIZE), y.split(BATCH_SIZE))


@torch.no_grad()
def estimate_loss(model, batches):
    """batches 里每个 token 的平均损失（nat）。"""
    model.eval()
    total, count = 0.0, 0
    for x, y in batches:
        with autocast():
            _, loss = model(x.to(DEVICE), y.to(DEVICE))
        n = (y != -100).sum().item()
        total, count = total + loss.item() * n, count + n
    model.train()
    return total / count


def check_finite(step, *values):
    """损失变成 nan 或 inf，就不必再训练下去了。"""
    if not all(math.isfinite(value) for value in values):
        fail(f'第 {step} 步的损失不是有限的数：训练发散了，请改小 LEARNING_RATE 再运行')


def write(model, tokenizer):
    """让模型写一首，从分隔符写起，写到分隔符为止。"""
    start = torch.tensor([[tokenizer.eos_id()]], device=DEVICE)
    text = tokenizer.decode(model.generate(start, tokenizer.eos_id())[0, 1:].tolist())
    return re.sub(r'[\x00-\x08\x0b-\x1f\x7f-\x9f]', '', text)      # 字节会拼出控制字符，终端不爱看；全角空格留着


def get_lr(it):
    """第 it 步的学习率：先直线上升，再沿余弦降到 MIN_LR（arXiv:1608.03983）。"""
    if it < WARMUP_ITERS:
        return LEARNING_RATE * (it + 1) / (WARMUP_ITERS + 1)
    progress = (it - WARMUP_ITERS) / (TRAIN_ITERS - WARMUP_ITERS)   # 0 到 1
    return MIN_LR + 0.5 * (1 + math.cos(math.pi * progress)) * (LEARNING_RATE - MIN_LR)


def make_optimizer(model):
    """AdamW。权重衰减只用于矩阵：词向量、偏置、LayerNorm 不衰减（arXiv:1711.05101）。"""
    decay = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    rest = [p for p in model.parameters() if all(p is not q for q in decay)]
    groups = [{'params': decay, 'weight_decay': WEIGHT_DECAY}, {'params': rest, 'weight_decay': 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, fused=True)


def main():
    if hasattr(sys.stdout, 'reconfigure'):                          # IDLE、Jupyter 里没有，也不需要
        sys.stdout.reconfigure(errors='replace', line_buffering=True)   # 终端显示不了的字用 ? 代替；写进文件时也逐行写出
    check_constants()
    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision('high')                      # 留在 float32 的矩阵乘法用 TF32
    print(f'设备 {DEVICE}：' + ('用 GPU 的常量' if GPU else '没有 CUDA GPU，用 else 后面的小常量'))
    tokenizer, train_data, test_data, test_chars = load_data()
    epochs = TRAIN_ITERS * BATCH_SIZE * BLOCK_SIZE / len(train_data)
    if epochs > 20:
        print(f'训练歌曲会看 {epochs:.0f} 遍，会过拟合（train 还在降，test 却上升）：完整数据集见 ChineseLyrics/README.md')

    model = GPT(len(tokenizer)).to(DEVICE)
    optimizer = make_optimizer(model)
    # float16 的小梯度会变成 0：先把损失放大，更新前再缩回来
    scaler = torch.amp.GradScaler(torch.device(DEVICE).type, enabled=USE_AMP and AMP_DTYPE == 'float16')
    compiled = compile_model(model, train_data)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    initial_loss, uniform = estimate_loss(model, sample_batches(test_data)), math.log(len(tokenizer))
    print(f'参数 {parameters:.2f} M | 第 0 步的损失 {initial_loss:.4f}，瞎猜是 ln {len(tokenizer)} = {uniform:.4f}')
    print(f'--- 训练前写的 ---\n{write(model, tokenizer)}\n---')

    train_time, began = 0.0, time.perf_counter()
    started = began
    for it, (x, y) in enumerate(train_loader(train_data)):
        for group in optimizer.param_groups:
            group['lr'] = get_lr(it)
        with autocast():
            _, loss = compiled(x.to(DEVICE, non_blocking=GPU), y.to(DEVICE, non_blocking=GPU))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)                                  # 先还原，再裁剪
        nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
        scaler.step(optimizer)
        scaler.update()

        step, loss = it + 1, loss.item()                            # item() 等 GPU 算完：计时才准
        train_time += time.perf_counter() - started
        check_finite(step, loss)
        if step % EVAL_INTERVAL == 0 or step == TRAIN_ITERS:
            train_loss = estimate_loss(compiled, sample_batches(train_data))
            test_loss = estimate_loss(compiled, sample_batches(test_data))
            if step == TRAIN_ITERS:
                test_loss = estimate_loss(model, all_batches(test_data))    # 形状不一，用没有编译的
            check_finite(step, train_loss, test_loss)
            bits_per_char = test_loss / math.log(2) * len(test_data) / test_chars
            tok_per_s = step * BATCH_SIZE * BLOCK_SIZE / train_time
            left = round((time.perf_counter() - began) / step * (TRAIN_ITERS - step))
            print(f'step {step:5d}/{TRAIN_ITERS} | train {train_loss:.4f} | test {test_loss:.4f} | {bits_per_char:.3f} bits/char'
                  f' | {tok_per_s:,.0f} tok/s | 剩余 {left // 60:02d}:{left % 60:02d}')
        started = time.perf_counter()

    print(f'--- 训练后写的 ---\n{write(model, tokenizer)}\n---')


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        fail('已中断')
    except OSError as error:                                        # 磁盘写满、没有权限……
        fail(f'读写文件出错：{error}')
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        fail(f'显存或内存不够（BATCH_SIZE = {BATCH_SIZE}）：请改小 BATCH_SIZE，比如减半，再运行')
