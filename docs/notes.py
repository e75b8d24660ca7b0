"""What the pages say: for each rung its idea, and notes beside the changes.

IDEAS: rung -> (short title, the same in English, paragraphs, the same in English, figure, or a pair: Chinese, English).
NOTES: rung -> [(text that stands in the changed lines, why, the same in English)]; build.py stops where a note fits no change.
"""

IDEAS = {
    'v0_char_english': (
        '一个 GPT，从字符开始', 'a GPT, from characters up',
        ['模型只做一件事：看着前面的字符，猜下一个。一个窗口里每个位置都是一道题，一次前向全部做完。',
         '先读 `main()`：取一批窗口，前向算损失，反向求梯度，更新权重，再来一遍。然后从 `GPT` 往上读，最小的零件是 `Head`。'],
        ['The model does one thing: it looks at the characters so far and guesses the next one. Every position of a window is a question, '
         'and one forward pass answers them all.',
         'Read `main()` first: take a batch of windows, compute the loss, the gradients, update the weights, and again. Then read upwards from '
         '`GPT`; the smallest part is `Head`.'],
        ('''
idx (B, T) -> 向量 (B, T, C) -> [ 注意力 -> 前馈 ] x N_LAYERS -> logits (B, T, 词表大小)

        I  love  you                  因果遮罩：1 是看得见的
  I     1   .    .
  love  1   1    .
  you   1   1    1
''', '''
idx (B, T) -> embeddings (B, T, C) -> [ attention -> feed-forward ] x N_LAYERS -> logits (B, T, vocabulary)

        I  love  you                  the causal mask: 1 may be seen
  I     1   .    .
  love  1   1    .
  you   1   1    1
''')),
    'v0_char_chinese': (
        '换成中文歌词', 'Chinese lyrics instead of one English file',
        ['模型一行没改，变的是数据。数字可不可信，取决于三件小事：清洗（署名不是歌词）、去重（同一首歌不能既训练又测试）、按歌切分。',
         '词表从几十个字母变成几千个汉字，损失的绝对值不能再与上一级比；要比 bits/char。'],
        ['The model does not change, the data do. Whether a figure can be trusted depends on three small things: cleaning (credits are not '
         'lyrics), dropping duplicates (no song is both trained and tested on), and splitting by song.',
         'The vocabulary grows from some sixty letters to thousands of characters, so that losses cannot be compared with the step below; '
         'bits/char can.'],
        ('''
lyrics*.json -> 清洗 -> 去重 -> 按 SEED 打乱 -> | 90% 的歌：训练 | 10%：测试 |
''', '''
lyrics*.json -> clean -> drop duplicates -> shuffle by SEED -> | 90 % of the songs: train | 10 %: test |
''')),
    'v0_char_rope': (
        '旋转位置编码', 'rotary positions',
        ['注意力本身不知道谁在前谁在后。原来的办法是给每个位置一个学来的向量；RoPE 不加向量，而是把 q、k 按所在的位置旋转一个角度。',
         '位置对点积的影响，只剩两个转角之差，也就是两个位置的距离：「往前第 3 个字」在窗口哪里都是同一件事。'],
        ['Attention by itself does not know what comes first. Until here every position had a learned vector; RoPE adds none, and rotates q and '
         'k by an angle that grows with the position.',
         'Positions enter the dot product only through the difference of the two rotations, that is, through the distance: three characters '
         'back is the same thing everywhere in the window.'],
        ('''
第 0 个  ->        第 1 个  /        第 2 个  |        第 i 对通道在位置 t 转 t * 10000^(-2i / head_size)

q 在 7、k 在 4：夹角多转 3 步；q 在 107、k 在 104：也是 3 步
''', '''
position 0   ->        position 1   /        position 2   |        pair i turns by t * 10000^(-2i / head_size)

q at 7, k at 4:  the angle between them turns by 3 steps;  q at 107, k at 104:  by 3 steps as well
''')),
    'v1_bpe_rope': (
        '子词', 'sub-words',
        ['一个字一个 token 太碎，一个词一个 token 又太多。BPE 从字开始，把最常相邻的两个合成一个，一直合到词表满为止。',
         '同样长的窗口装得下更多的字。分词器只在训练歌曲上学；没见过的字拆成字节，所以任何文字都写得出来。'],
        ['A token for each character is too fine, a token for each word too many. BPE begins with characters and joins the pair that stands '
         'together most often, until the vocabulary is full.',
         'A window of the same length now holds more text. The tokenizer learns from the training songs alone; characters that it '
         'has not seen become bytes, so that every text can be written.'],
        ('''
明 月 几 时 有    ->    明月 几时 有              没见过的 𠮷  ->  <0xF0> <0xA0> <0xAE> <0xB7>
''', '''
明 月 几 时 有    ->    明月 几时 有              unseen 𠮷  ->  <0xF0> <0xA0> <0xAE> <0xB7>
''')),
    'v2_cosine_lr': (
        '预热 + 余弦学习率', 'a learning-rate schedule',
        ['学习率一直不变，要么开头太大（优化器还没有摸清梯度的大小），要么结尾太大（在谷底两边来回跳）。',
         '先从 0 直线升上去，再沿余弦慢慢降下来。整个想法是一个函数，和训练循环里的两行。'],
        ['A constant learning rate is too large at the start, when the optimizer does not know the size of the gradients yet, or too large at '
         'the end, when it jumps from side to side of the valley.',
         'Up in a straight line from 0, then down along a cosine. The whole idea is one function and two lines of the loop.'],
        '''
lr   LEARNING_RATE  .--.
                   /    '-.
                  /        '-.
                 /            '-.__ MIN_LR
                 +--+--------------+--> step
              WARMUP_ITERS     TRAIN_ITERS
'''),
    'v3_gpt2_amp': (
        'GPT-2 Small，以及怎样负担得起', 'GPT-2 Small, and making it affordable',
        ['模型长到 GPT-2 Small 的大小：12 层，宽 768，窗口 1024。要在一块显卡上训练它，矩阵乘法用 16 位（autocast），留在 32 位的用 TF32，'
         '各层编译成融合的内核。',
         '编译和 TF32 只在 GPU 上开；混合精度，有 bf16 指令的 CPU 上也开。'],
        ['The model grows to GPT-2 Small: 12 layers, width 768, windows of 1024. To train it on one card, matrix products use 16 bits '
         '(autocast), those that stay in 32 bits use TF32, and the blocks are compiled into fused kernels.',
         'Compilation and TF32 are for GPUs; autocast is on wherever the CPU has bf16 instructions, too.'],
        ('''
float32  符号 1 | 指数 8 | 尾数 23
bfloat16 符号 1 | 指数 8 | 尾数  7      范围一样：不用缩放
float16  符号 1 | 指数 5 | 尾数 10      小梯度变成 0：GradScaler
''', '''
float32  1 sign | 8 exponent | 23 fraction
bfloat16 1 sign | 8 exponent |  7 fraction      same range: no scaling needed
float16  1 sign | 5 exponent | 10 fraction      small gradients vanish: GradScaler
''')),
    'v4_flash_optim': (
        'flash attention 与真正的训练配方', 'flash attention and the training recipe of real GPTs',
        ['注意力的各个头合成一次矩阵乘法，再交给 flash attention：分块计算，从不把 (T, T) 的矩阵写进显存。',
         '其余是真正的 GPT 用的配方：GPT-2 的初始化、只对矩阵做权重衰减、梯度裁剪、由子进程准备数据。'],
        ['All heads become one matrix product, and flash attention takes it from there: it computes in tiles and never writes the (T, T) matrix '
         'to memory.',
         'The rest is the recipe of real GPTs: initialisation as in GPT-2, weight decay for matrices only, gradient clipping, and worker '
         'processes that prepare the data.'],
        ('''
v3：每个头：q、k、v 三次乘法；(T, T) 的矩阵写进显存，再 softmax
v4：所有头的 q、k、v 一次乘法 -> q 的一块对 k、v 的一块，边走边算 softmax
''', '''
v3:  for each head:  q, k, v = three products;  softmax of a (T, T) matrix in memory
v4:  q, k, v of all heads = one product  ->  tiles of q against tiles of k and v, one running softmax
''')),
    'v5_checkpoint': (
        '检查点：断了再续', 'runs that survive',
        ['训练会被打断：Ctrl-C、断电、磁盘写满。这一级让任何时刻的打断最多重走上次存盘之后的几步，而且续上之后与没断过一模一样：CPU 上连最后一位都相同。',
         '要做到这一点，只存权重不够：优化器的动量、走到了第几步，都要存；窗口和 dropout 由 `(SEED, step)` 决定，不必存随机数的状态。文件先写到旁边，落盘，再改名。'],
        ['Runs are interrupted: Ctrl-C, a power cut, a full disk. From here on an interruption costs at most the steps since the last save, '
         'and a run that was continued equals one that never stopped: on a CPU to the last bit.',
         'The weights are not enough for that: the momentum of the optimizer and the step belong to it. Windows and dropout depend on '
         '`(SEED, step)`, so no random state has to be kept. A file is written beside the old one, flushed, then renamed.'],
        ('''
写 unfinished.tmp  ->  fsync  ->  改名为 latest.pt        在哪一步被杀，latest.pt 都是完整的
''', '''
write unfinished.tmp  ->  fsync  ->  rename to latest.pt        killed here, here or here: latest.pt is whole
''')),
    'v6_wandb': (
        'wandb：看得见的训练', 'seeing the run',
        ['一串数字看不出趋势，一条曲线一眼就看出来。损失、学习率、梯度范数、样例，都记进 wandb；全部常量也在里面，几个月后还知道当时改了什么。',
         '它从不提问，也从不中断训练：没有账号、没有网络，就离线记录。'],
        ['A column of numbers hides what a curve shows at once. Loss, learning rate, gradient norm and samples go to wandb, and so do all '
         'constants, so that months later it is still known what was changed.',
         'It never asks and never stops a run: without an account or a network it records offline.'],
        ('''
train/loss, lr, grad_norm                 --.  每 10 步
test/loss, test/bits_per_char, tok_per_s  --+-->  每次评估；都记在一次训练、一个编号下  -->  wandb leet / 网页
samples                                   --'  每次试写
''', '''
every 10 steps      train/loss, lr, grad_norm                 --.
every evaluation    test/loss, test/bits_per_char, tok_per_s  --+-->  one run, one id  -->  wandb leet / the web
every preview       samples                                   --'
''')),
    'v7_grad_accum': (
        '梯度累积：多大的一批都放得下', 'gradient accumulation: any batch on any card',
        ['显存放得下多大的一批由显卡决定，训练要多大的一批由模型决定。平均损失的梯度等于梯度的平均，所以一批可以分几次算，把梯度加起来。'],
        ['How much fits is up to the card, how large a batch should be is up to the model. The gradient of a mean is the mean of the gradients, '
         'so a batch can be computed in parts whose gradients add up.'],
        ('''
BATCH_SIZE = 64    [ 16 ] -> grad x 16/64 \\
                   [ 16 ] -> grad x 16/64  \\  加起来 -> 裁剪 -> 更新一次
                   [ 16 ] -> grad x 16/64  /
                   [ 16 ] -> grad x 16/64 /
''', '''
BATCH_SIZE = 64    [ 16 ] -> grad x 16/64 \\
                   [ 16 ] -> grad x 16/64  \\  sum -> clip -> one update
                   [ 16 ] -> grad x 16/64  /
                   [ 16 ] -> grad x 16/64 /
''')),
    'v8_mfu': (
        '有多快，最快能有多快', 'how fast it is, how fast it could be',
        ['tok/s 与模型的大小、与机器有关，单看一个数，不知道是快是慢。数一数训练一个 token 要算多少次，量一量这台设备做大矩阵乘法有多快，'
         '两者一比就是 MFU：算力用上了几成。',
         '模型一大，它怎么变？各种大小列成一张表，改一个名字就换。'],
        ['Tokens a second depend on the size of the model and on the machine; alone they do not say whether that is fast. Count the operations '
         'that a token takes, time a large matrix product on the same device, and the ratio is the MFU: how much of the device is used.',
         'How does it change with the size of the model? The sizes stand in a table, and one name picks from it.'],
        '''
MFU = tok/s x FLOPs per token / (FLOP/s of a large matrix product)

FLOPs per token = 6 x parameters of the matrices + 12 x N_LAYERS x N_EMBED x BLOCK_SIZE
'''),
    'v9_llama': (
        '今天的开放模型的结构', "the architecture of today's open models",
        ['GPT-2 是 2019 年的结构。今天的开放模型大多像 Llama：RMSNorm 代替 LayerNorm，SwiGLU 代替 GELU 的前馈，几个查询头共用一组 k、v，没有偏置；小一些的模型，输出就用词向量的矩阵。',
         '训练循环一行没改。结果就是一个 Llama：`export_hf.py` 改个名字，transformers 就能读。'],
        ['GPT-2 is an architecture of 2019. Most open models of today look like Llama: RMSNorm for LayerNorm, SwiGLU for the feed-forward with '
         'GELU, several query heads that share a k and v, no biases; and the smaller ones use the word vectors as output matrix.',
         'The training loop does not change. The result is a Llama: `export_hf.py` renames its parameters, and transformers reads it.'],
        ('''
x --+-- gate -- silu --+
    +-- up ------------x--> down --> 加回残差
''', '''
x --+-- gate -- silu --+
    +-- up ------------x--> down --> back to the residual stream
''')),
    'v10_muon': (
        '更好的优化器：Muon', 'a better optimizer: Muon',
        ['AdamW 把每个权重当作一个数；Muon 把一个矩阵当作一个矩阵。它把动量换成离它最近的正交矩阵，每个方向走同样远，小方向不再被大方向淹没。',
         '它只用于各层的矩阵；词向量既是一行行查的表，又是输出的矩阵，照通常的做法仍用 AdamW。q、k 先归一，结构正是一个 Qwen3。'],
        ['AdamW treats each weight as a number of its own; Muon treats a matrix as a matrix. It replaces the momentum by the nearest orthogonal matrix: all '
         'directions move equally far, and the small ones no longer drown in the large ones.',
         'It is for the matrices inside the blocks; the word vectors, a table that is looked up row by row and the output matrix as well, '
         'stay with AdamW, as is usual. With q and k normalised the model is a Qwen3.'],
        '''
momentum = U diag(9, 3, 0.1, 0.02) V^T    ->    update = U diag(1, 1, 1, 1) V^T
'''),
    'v11_memmap': (
        '比内存还大的数据', 'more data than memory',
        ['前面各级把全部歌词读进内存。这一级把数据读一遍，编码成 16 位的文件，内存映射着用：用到哪里，操作系统读到哪里。',
         '全部正文不在内存里，没法打乱，所以由每篇的指纹决定它在训练还是测试的一边。'],
        ['Until here all songs were read into memory. Now the data are read once and become a file of 16-bit tokens that is mapped into memory: '
         'the system reads what is looked at.',
         'The texts are never in memory together and cannot be shuffled, so the hash of each decides whether it is for training or testing.'],
        ('''
lyrics*.json, *.txt -> 一篇一篇 -> 清洗 -> 见过？ -> 指纹 < 0.1？ -> test.bin
                                                          否则 -> train.bin （uint16，内存映射）
''', '''
lyrics*.json, *.txt -> one by one -> clean -> seen? -> hash < 0.1? -> test.bin
                                                         otherwise -> train.bin (uint16, memory-mapped)
''')),
    'v12_ddp': (
        '不止一块 GPU，不止一台机器', 'more than one GPU, more than one machine',
        ['torchrun 起几个一样的进程，每个取这一批里归自己的窗口，各算梯度，再加起来：人人得到同样的总和，更新出同样的权重。'],
        ['torchrun starts several equal processes. Each takes its windows of the batch, computes their gradients, and all gradients are summed: '
         'everybody gets the same sum and makes the same update.'],
        ('''
rank 0: 0, 4, 8 ...  -> grad \\
rank 1: 1, 5, 9 ...  -> grad  \\  加起来（all-reduce）-> 裁剪 -> 各处更新得一样
rank 2: 2, 6, 10 ... -> grad  /
rank 3: 3, 7, 11 ... -> grad /
''', '''
rank 0: windows 0, 4, 8 ...  -> grad \\
rank 1: windows 1, 5, 9 ...  -> grad  \\  all-reduce (sum) -> clip -> the same update everywhere
rank 2: windows 2, 6, 10 ... -> grad  /
rank 3: windows 3, 7, 11 ... -> grad /
''')),
}

NOTES = {
    'v0_char_english': [],
    'v0_char_chinese': [
        ('LYRICS_DIR = ', '一个文件夹代替一个文件：放进多少个 `lyrics*.json` 都行。', 'A folder instead of a file: it takes any number of `lyrics*.json`.'),
        ('def clean(lyric)', '署名行要有职务名和分隔符：「鼓声响起」是歌词，「鼓：某人」不是。', 'A credit needs both a job and a separator: '
         '「鼓声响起」 (the drums sound) is a lyric, 「鼓：某人」 (drums: somebody) is not.'),
        ('def load_songs', '去重：一首歌出现两次，可能一次在训练、一次在测试，测试就成了背书。打乱：文件按歌手排序，不打乱就切，测的会是另一批歌手。',
         'Duplicates go: a song that occurs twice could be trained on and tested on. And they are shuffled: the files are sorted by singer, '
         'and the test would be on other singers than the training.'),
        ('sum(len(song) + 1', 'bits/char 要除以字符数；歌与歌之间的分隔算一个字符，各级都这样数。', 'bits/char divides by characters; the '
         'separator between songs counts as one, in every rung.'),
    ],
    'v0_char_rope': [
        ('def rope_table()', '角度随位置线性增长；每对通道的快慢不同，像钟表的时针、分针、秒针。表只算一次，全模型共用。', 'Angles grow '
         'with the position; each pair of channels has its own speed, like the hands of a clock. The table is built once for the whole model.'),
        ('if head_size % 2', '通道两两配成平面上的点才能旋转，所以每个头的通道数要是偶数。', 'Channels are rotated in pairs, so a head '
         'needs an even number of them.'),
        ('def apply_rope(x, rope)', '把点 (a, b) 转一个角度，得到 (a cos − b sin, b cos + a sin)。', 'A rotation turns (a, b) into '
         '(a cos − b sin, b cos + a sin).'),
        ('q, k = apply_rope(q, rope)', '只转 q 和 k：位置只影响谁看谁，不影响取回的内容 v。', 'Only q and k turn: positions decide who looks '
         'at whom, not what is brought back.'),
        ('persistent=False', '算得出来的东西不进检查点。', 'What can be computed does not belong in a checkpoint.'),
        ('x + self.position_embedding', '位置向量没有了，少了 `BLOCK_SIZE × N_EMBED` 个参数。', 'The position vectors are '
         'gone, and `BLOCK_SIZE × N_EMBED` parameters with them.'),
    ],
    'v1_bpe_rope': [
        ('BPE_VOCAB_SIZE = ', '词表的大小从此可以选：大了，窗口装得多，但每个 token 见得少。', 'The size of the vocabulary is a choice from here '
         'on: a larger one fits more text into a window, and shows each token less often.'),
        ('common = {char', '单个的字最多占词表的六成，其余留给词；少见的字拆成字节。', 'Characters take up to 60 % of the vocabulary and leave '
         'the rest to words; rare characters become bytes.'),
        ('byte_fallback=True', '没见过的字拆成 UTF-8 字节：任何文字都写得出来。不做全半角转换，空格和换行各有自己的 token。',
         'Unseen characters become UTF-8 bytes: every text can be written. Nothing is normalised, and spaces and line breaks have tokens of their own.'),
        ('add_eos=True', '每首歌后面一个分隔符：模型学会什么时候该结束。', 'A separator after each song: the model learns when to end.'),
        ('tokenizer = train_tokenizer(songs', '只用训练歌曲学词表：测试歌曲里的字不能提前看。', 'The vocabulary is learned from the training '
         'songs alone: the test songs stay unseen.'),
        ('if idx_next.item() == stop', '写到分隔符就停，不必写满。', 'Writing stops at the separator.'),
        ('eos = tokenizer.eos_id()', '从分隔符写起，写到下一个分隔符：一次一首完整的歌。', 'From one separator to the next: one whole song.'),
    ],
    'v2_cosine_lr': [
        ('MIN_LR = ', '有了预热和衰减，最高点可以比原来的常数更高。', 'With warm-up and decay the peak may be higher than the constant was.'),
        ('N_EMBED = 512', '更稳的训练养得起更宽的模型（只在 GPU 的默认值里）。', 'A steadier training affords a wider model (in the GPU values only).'),
        ('def get_lr(step)', '给出的是最高点的几分之几。第 0 步不是 0，否则那一步就白走了；终点是 `MIN_LR`，不是 0：最后几步仍在学。', 'It gives the fraction of '
         'the peak. That of step 0 is not 0, which would waste the step; the end is `MIN_LR` and not 0: the last steps still learn.'),
        ("group['lr'] = ", '优化器的学习率就是参数组里的一个数，每步改写它就行。', "The learning rate is a number in the optimizer's "
         'groups; writing it at every step is all there is.'),
    ],
    'v3_gpt2_amp': [
        ('BLOCK_SIZE = 1024', '每个头的 (T, T) 矩阵随窗口的平方增长，窗口 1024 时显存只放得下几个窗口。下一级解决它。',
         'The (T, T) matrix of each head grows with the square of the window: at 1024 a card holds few of them. The next step mends this.'),
        ('AMP_DTYPE = ', 'bf16 的范围与 float32 一样，不用缩放；老显卡（T4）没有 bf16，用 fp16。', 'bf16 has the range of float32 and '
         'needs no scaling; older cards (T4) lack it and use fp16.'),
        ('nn.GELU()', 'GPT-2 用的非线性：在 0 附近是光滑的，负数那边也漏一点。', "GPT-2's non-linearity: smooth around 0, and it lets a "
         'little through on the negative side.'),
        ('@torch.autocast(', '矩阵乘法和它后面的 GELU、dropout 用 16 位；softmax、归一、损失和权重是 float32。', 'Matrix products, and the GELU and dropout that '
         'follow them, use 16 bits; softmax, norms, the loss and the weights stay in float32.'),
        ("set_stance('force_eager')", '写歌时长度每步都变，编译的代码派不上用场。', 'While writing, the length changes at every step: compiled code is of no use.'),
        ('def compile_blocks', '层层相同，编译一层的代码就够了；参数的名字也不变。先算一遍，编译的时间就不算进速度里。', 'All blocks are alike, so the code of one is enough, '
         'and parameters keep their names. One pass in advance keeps the compilation out of the speed.'),
        ("set_float32_matmul_precision('high')", 'TF32：留在 float32 的矩阵乘法少算几位小数，快得多。', 'TF32: products that stay in float32 drop '
         'some digits and run much faster.'),
        ('scaler.scale(loss).backward()', 'fp16 的小梯度会变成 0：先放大损失，更新前再缩回来。bf16 时它什么也不做。', 'Small fp16 gradients '
         'become 0: the loss is scaled up, and the gradients down again before the update. With bf16 it does nothing.'),
    ],
    'v4_flash_optim': [
        ('BATCH_SIZE = ', '(T, T) 的矩阵没有了，批可以大得多。', 'Without the (T, T) matrices the batch can be much larger.'),
        ('BETAS = (0.9, 0.95)', '第二个系数比默认的 0.999 小：记性短一些，损失突变后恢复得快。', 'The second one is below the default of 0.999: a '
         'shorter memory, which recovers faster from a jump.'),
        ('class TrainBatches', 'GPU 算这一步时，子进程已经在准备后面几步。第几步看什么仍由 `(SEED, step)` 决定，与谁准备无关。',
         'While the GPU computes, worker processes prepare the steps to come. What a step sees still depends on `(SEED, step)` alone.'),
        ('self.qkv = nn.Linear', '十二个头、三样东西，三十六次小乘法合成一次大的：GPU 喜欢大的。', 'Twelve heads and three things: thirty-six '
         'small products become a large one, which is what a GPU likes.'),
        ('F.scaled_dot_product_attention', '遮罩、softmax、加权求和，在一个内核里分块做完。', 'Mask, softmax and weighted sum, in tiles inside '
         'one kernel.'),
        ('std = 0.02 * math.sqrt(768 / N_EMBED)', '一次矩阵乘法把 N_EMBED 项加起来，标准差长 √N_EMBED 倍：0.02 适合 GPT-2 的 768，宽 128 时用它，'
         '每一层加进残差的就太小，学得慢。', 'A matrix product adds N_EMBED terms, and its deviation grows by the root of that: 0.02 suits the 768 of '
         'GPT-2; at a width of 128 each layer would add too little to the residual stream and learn slowly.'),
        ('std / math.sqrt(2 * N_LAYERS)', '2 × N_LAYERS 次加到残差上，方差会越加越大；缩小 √(2 × N_LAYERS) 倍，正好抵消。',
         'The residual stream is added to 2 × N_LAYERS times; dividing by the root of that keeps its variance in place.'),
        ('def make_optimizer', '衰减是把权重往 0 拉：对矩阵是好的约束，对偏置、归一的缩放没有道理。', 'Decay pulls weights towards 0: a '
         'good restraint for matrices, which makes no sense for biases and norm gains.'),
        ('clip_grad_norm_', '偶尔一批坏数据的梯度会特别大；限住它的长度，方向不变。', 'Now and then a batch has a huge gradient; its length is '
         'limited, its direction stays.'),
    ],
    'v5_checkpoint': [
        ('CHECKPOINT_DIR = ', '存得勤，丢得少；每隔 `SAVE_INTERVAL` 另留一份，可以退回去。', 'Frequent saves lose little; every `SAVE_INTERVAL` steps '
         'another copy is kept, to go back to.'),
        ('def catch_signals', '信号先记下来，做完这一步、存好再停。再按一次 Ctrl-C 立即停：第一次之后，处理办法就还给了系统。', 'The signal is noted; the step is '
         "finished and saved first. A second Ctrl-C stops at once: after the first, the system's own handler is back."),
        ('def train_loader(data, start)', '从第 `start` 步接着取：因为每一步的窗口只由 `(SEED, step)` 决定，不必重放前面的。',
         'Goes on at step `start`: as the windows depend on `(SEED, step)` alone, nothing has to be replayed.'),
        ('def config(', '全部常量写进检查点：以后不看脚本也知道这个模型是怎么训练的。', 'All constants go into the checkpoint: it says by itself '
         'how it was trained.'),
        ('def save_checkpoint', '先写到临时文件，`fsync` 落盘，再改名。改名是一瞬间的事：要么是旧的，要么是新的，没有半个。', 'Written aside, '
         'flushed to disk, then renamed. Renaming is atomic: the old file or the new one, never half of either.'),
        ('def lock_folder', '借 SQLite 的锁：哪个系统都有，进程一死就没了。', "SQLite's lock: every system has it, and it dies with its process."),
        ('def resume(', '没训练完的接着训练，接不上就说清哪里不同；训练完了又改了常量的，移开旧的，从头开始。', 'An unfinished run goes on, or says what does not fit; '
         'a finished one whose constants have changed moves aside, and a new one starts.'),
        ('.isfinite().all()', '坏掉的权重不存，免得盖住好的那一份。', 'Broken weights are never saved over good ones.'),
        ("save_checkpoint('latest.pt', checkpoint)", '`latest.pt` 最后写：在它之前被杀，就从上一份重走这几步，结果相同。', '`latest.pt` comes last: '
         'killed before it, the run walks these steps again and gets the same.'),
        ('torch.manual_seed(hash((SEED, step)))', 'dropout 也由 `(SEED, step)` 决定，不必存随机数的状态。', 'Dropout, too, depends on `(SEED, step)`: no random state has to be saved.'),
    ],
    'v6_wandb': [
        ('LOG_INTERVAL = ', '每步都记太多，评估时才记太少。', 'Every step would be too much, every evaluation too little.'),
        ('def start_wandb', '没有登录就离线，连不上也离线：哪一种都不停下训练。', 'No login: offline. No connection: offline. The run goes on in each case.'),
        ("'wandb_id': run.id", '编号存进检查点：续训接着画同一条曲线。', 'The id is in the checkpoint: a continued run goes on with the same curves.'),
        ('grad_norm = nn.utils', '裁剪时顺便得到梯度的范数：训练出问题，它往往先知道。', 'Clipping yields the norm anyway: it is often the first to '
         'tell of trouble.'),
    ],
    'v7_grad_accum': [
        ('MICRO_BATCH_SIZE = 16', '一批多大、一次算多大，从此是两回事。', 'How large a batch is and how much is computed at once are two things '
         'from here on.'),
        ('CHECKPOINT_DIR = ', '从这一级起，检查点各在自己的文件夹。', 'From here on each rung has a folder of its own for its checkpoints.'),
        ('starts.split(MICRO_BATCH_SIZE)', '评估也一次只放进一份。', 'Evaluation, too, takes one part at a time.'),
        ('for micro_x, micro_y in', '每份的损失按窗口数加权，最后一份小一些也对；`backward()` 把梯度加在一起。', 'Each part counts by its windows, so a smaller last one is '
         'right too; `backward()` adds the gradients up.'),
    ],
    'v8_mfu': [
        ('MODEL_SIZES = {', '几个现成的大小，不必自己凑宽度和头数。', 'Sizes that fit together, for those who do not want to work them out.'),
        ('def flops_per_token', '数一数浮点运算：前向 2 次，反向 4 次，每个矩阵参数一共 6 次；注意力另算。', 'Counting operations: 2 forward and 4 '
         'backward for each weight in a matrix, and attention on top.'),
        ('def matrix_rate', '理论上的峰值要查表，也够不着；同一台设备测到的大矩阵乘法，才是够得着的 100%。', 'The peak on the data sheet is out of reach; '
         'a large product on the same device is a 100 % that can be had.'),
        ('mfu = tok_per_s', 'MFU 低，说明时间花在了搬数据、小操作或等 CPU 上。', 'A low MFU means that time goes into moving data, small operations or '
         'waiting for the CPU.'),
    ],
    'v9_llama': [
        ('N_KV_HEADS = ', '查询头是 `N_KV_HEADS` 的几倍，就几个共用一组 k、v：写歌时要记住的 k、v 少一半以上。', 'Several query heads share a k and v: at most half '
         'as much has to be remembered while writing.'),
        ('CHECKPOINT_DIR = ', '模型变了，检查点放在别处。', 'Another model, another folder for its checkpoints.'),
        ('self.proj = nn.Linear(N_EMBED, N_EMBED, bias=False)', '偏置在大模型里用处不大，去掉更简单。', 'Biases do little in large models; without '
         'them there is less to think of.'),
        ('F.silu(self.gate(x))', '一条支路决定另一条的每个通道放行多少。三个矩阵各宽 8/3 倍，与两个 4 倍宽的差不多一样多；凑成 64 的倍数，GPU 好算（宽 128 时因此多 12.5%）。',
         'One branch decides how much of each channel of the other passes. Three matrices of 8/3 the width have about as many parameters as two '
         'of four times; rounded up to a multiple of 64, which suits a GPU (12.5 % more at width 128).'),
        ('self.ln1 = nn.RMSNorm', '只除以均方根，不减均值，也没有偏置。', 'Divided by the root mean square: no mean is taken away, no bias added.'),
        ('self.lm_head.weight = self.token_embedding.weight', '读进来与写出去用同一张表：省下 词表 × 宽 个参数，每个词向量也学得更勤。',
         'One table for reading and writing: it saves vocabulary × width parameters, and each word vector learns more often.'),
    ],
    'v10_muon': [
        ('MUON_LR = ', '两种更新，两个学习率，同样的升降。词向量起步时小，走小步要很久才长得大，所以 AdamW 的也加大了。', 'Two kinds of updates, two learning rates, one schedule. '
         'Word vectors start small and would take long to grow in small steps, so the rate of AdamW goes up as well.'),
        ('self.q_norm(q.float())', 'q、k 归一后，点积不再随权重变大而变大（只看学来的缩放），softmax 不容易变得极端：可以放心走大步。',
         'With q and k normalised, their product no longer grows with the weights (only with the learned gains), and softmax is less likely to '
         'become extreme: larger steps are safe.'),
        ('def orthogonalize', '不必做奇异值分解：五次矩阵多项式，就把奇异值都推到 1 附近。', 'No singular value decomposition: five matrix polynomials push all singular values near 1.'),
        ('class Muon', '第一组用正交化的动量，其余的组交给 AdamW：训练循环只见到一个优化器。', 'The first group uses the orthogonalised momentum, the others AdamW: the loop sees one optimizer.'),
        ("group['peak'] * get_lr(step)", '同一条曲线，各乘各的最高点。', 'The same curve, times the peak of each.'),
    ],
    'v11_memmap': [
        ('TOKENIZER_BYTES = ', '学词表不必读完全部数据：随机抽一部分就够。', 'The vocabulary does not need all the data: a random part will do.'),
        ('def read_texts', '纯文本一段一段地读：文件多大，内存都一样。', 'Plain text is read piece by piece: however large the file, the memory stays the same.'),
        ('def documents', '全部正文不在内存里，没法打乱；由正文的指纹决定它在哪一边，重复的总在同一边。所以测试的歌与 v10 不同，bits/char 不能直接比。',
         "The texts are not all in memory and cannot be shuffled; the hash of a text decides its side, so that duplicates are always on the same. Hence the "
         "test songs are not v10's, and bits/char cannot be compared with it."),
        ('def fingerprint', '数据和设置变了，指纹就变，另建一份；没有变，直接用。', 'Where data or settings change, so does the hash, and the tokens are built anew.'),
        ('def build_tokens', '在临时文件夹里写好，再改名：建到一半的不会被当成建好的。', 'Written aside, then renamed: half a build is '
         'never taken for a whole one.'),
        ('.astype(np.int64)', '只有这几个窗口真的从磁盘读进来。', 'Only these windows are really read from the disk.'),
    ],
    'v12_ddp': [
        ('world_size = int(', 'torchrun 用环境变量告诉每个进程它是谁；没有它们，就只有一个进程。', 'torchrun tells each process who it is through the '
         'environment; without it there is one.'),
        ('if local_rank == 0 else 1', '几个进程遇到同样的错误，只说一遍。', 'Several processes meet the same error; it is said once.'),
        ('def join_processes', '一组进程先互相找到。重启的一组换一个名字，免得读到上一组留下的地址。只有一个进程时什么也不做。',
         'The processes find one another first. A restarted group takes another name, so that it does not '
         'read the address that the dead one left. With a single process there is nothing to do.'),
        ('[rank::world_size]', '整批的窗口每个进程都知道，各取各的一份：几个进程，看到的都是同一批。', 'Every process knows the whole batch and takes '
         'its share: any number of processes sees the same batch.'),
        ('def flat_gradients', '全部梯度是一块连续的内存：一次通信就都加起来了。', 'All gradients are one stretch of memory: a single message adds them up.'),
        ('len(micro_x) / BATCH_SIZE', '除以整批的大小，不是自己那份的：各进程的梯度加起来，就是整批的平均。', 'Divided by the size of the whole batch and '
         'not of the share: the sum over all processes is the mean over the batch.'),
        ('hash((SEED, step, rank))', '初始权重人人一样；dropout 各丢各的。', 'The first weights are the same everywhere; dropout differs from process to process.'),
        ('flat[-1] = len(received)', '谁收到停止信号，大家都在同一步停：否则有人会永远等下去。', 'Whoever is told to stop, all stop after the same step: else '
         'somebody would wait for ever.'),
    ],
}
