"""Notes beside the lines of the step pages: script -> [(text that stands in a changed line, why, the same in English)].

build.py stops where a note fits no change.
"""

NOTES = {
    'v0_char_chinese': [
        ('LYRICS_DIR = ', '一个文件夹代替一个文件：放进多少个 `lyrics*.json` 都行。', 'A folder instead of a file: it takes any number of `lyrics*.json`.'),
        ('def load_text', '`load_songs` 代替它：不再是一整篇文本，而是一首一首的歌。',
         '`load_songs` takes its place: songs one by one instead of a single text.'),
        ('simplified = str.maketrans(', '只在认行的时候换，歌词本身不动：规则写一套简体的就够了，繁体的歌仍是繁体。',
         'Only for recognising lines, the lyrics stay as they are: one set of rules in simplified characters is enough, and traditional songs stay traditional.'),
        ('junk = re.compile(', '这些行千篇一律，最容易学：留着它们，模型就会写出一堆署名来。',
         'Such lines are all alike and the easiest to learn: left in, they would have the model write credits.'),
        ('def clean(lyric)', '署名行要有职务名和分隔符：「鼓声响起」是歌词，「鼓：某人」不是。', 'A credit needs both a job and a separator: '
         '「鼓声响起」 (the drums sound) is a lyric, 「鼓：某人」 (drums: somebody) is not.'),
        ("if not any(entry.get('lyric')", '一首有歌词的都没有，多半是格式不对：要说出来，不能当成一堆空歌悄悄跳过。',
         'A file without a single lyric probably has the wrong format: better to say so than to skip it as so many empty songs.'),
        ('def load_songs', '去重：一首歌出现两次，可能一次在训练、一次在测试，测的就只是死记硬背。打乱：文件可能按歌手排序，不打乱就切，测的会是另一批歌手。',
         'Duplicates go: a song that occurs twice could be trained on and tested on. And they are shuffled: files may be sorted by singer, '
         'and the test would be on other singers than the training.'),
        ('sum(len(song) + 1', 'bits/char 要除以字符数；歌与歌之间的分隔算一个字符，各级都这样数。', 'bits/char divides by characters; the '
         'separator between songs counts as one, in every rung.'),
        ('test_data, test_chars = load_data()', '测试的字符数由 `load_data` 数好带出来：以后一个 token 不再是一个字符，光看 token 就数不出来了。',
         'The characters of the test are counted in `load_data`: once a token is no longer a character, the tokens alone do not tell.'),
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
        ('head(x, rope) for head', '每个头宽度相同，转的角度也相同：一张表从 `GPT` 传下来，大家共用。',
         'All heads are equally wide and turn by the same angles: one table, handed down from `GPT`, serves them all.'),
        ('self.attention(self.ln1(x), rope)', '位置不再加进 x，每一层的注意力就都要拿到表：q、k 是各层现算的，得各层自己转。',
         'Positions are no longer part of x, so the attention of every layer needs the table: each layer computes its own q and k and has to turn them itself.'),
        ('persistent=False', '算得出来的东西不进检查点。', 'What can be computed does not belong in a checkpoint.'),
        ('x + self.position_embedding', '位置向量没有了，少了 `BLOCK_SIZE × N_EMBED` 个参数。', 'The position vectors are '
         'gone, and `BLOCK_SIZE × N_EMBED` parameters with them.'),
    ],
    'v1_bpe_rope': [
        ('BPE_VOCAB_SIZE = ', '词表的大小从此可以选：大了，窗口装得多，但每个 token 见得少。', 'The size of the vocabulary is a choice from here '
         'on: a larger one fits more text into a window, and shows each token less often.'),
        ('class CharTokenizer', '`train_tokenizer` 训练出来的 BPE 分词器代替它，没见过的字也能编码。',
         'The BPE tokenizer from `train_tokenizer` takes its place and can encode characters that it has never seen.'),
        ('common = {char', '单个的字最多占词表的八成，其余留给词；少见的字拆成字节。', 'Characters take up to 80 % of the vocabulary and leave '
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
        ('MIN_LR = ', '有了预热和衰减，峰值可以比原来的常数更高。', 'With warm-up and decay the peak may be higher than the constant was.'),
        ('N_EMBED = 512', '更稳的训练养得起更宽的模型（只在 GPU 的默认值里）。', 'A steadier training affords a wider model (in the GPU values only).'),
        ('def get_lr(step)', '给出的是峰值的几分之几。第 0 步不是 0，否则那一步就白走了；终点是 `MIN_LR`，不是 0：最后几步仍在学。', 'It gives the fraction of '
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
        ('@torch.autocast(', '矩阵乘法和它后面的 GELU、dropout 用 16 位；损失和权重是 float32，GPU 上 softmax、归一化也是。', 'Matrix products, and the GELU and dropout that '
         'follow them, use 16 bits; the loss and the weights stay in float32, and on a GPU softmax and norms do, too.'),
        ("set_stance('force_eager')", '写歌时长度每步都变，形状变了要重新编译，不划算。', 'While writing, the length changes at every step: compiled code is of no use.'),
        ('def compile_blocks', '层层相同，编译一层的代码就够了；参数的名字也不变。先算一遍，编译的时间就不算进速度里。', 'All blocks are alike, so the code of one is enough, '
         'and parameters keep their names. One pass in advance keeps the compilation out of the speed.'),
        ("set_float32_matmul_precision('high')", 'TF32：Ampere 及更新的显卡才有，T4 上这一行不起作用。', 'TF32: only Ampere cards and newer have '
         'it; on a T4 this line does nothing.'),
        ('torch.amp.GradScaler(', '放大多少倍由它自己找：溢出了就减半，这一步不算；一直没有溢出，隔一阵就加倍。',
         'It finds the factor itself: halved after an overflow, and that step is skipped; doubled now and then while all goes well.'),
        ('scaler.scale(loss).backward()', 'fp16 的小梯度会变成 0：先放大损失，更新前再把梯度缩回来。bf16 时它什么也不做。', 'Small fp16 gradients '
         'become 0: the loss is scaled up, and the gradients down again before the update. With bf16 it does nothing.'),
    ],
    'v4_flash_optim': [
        ('BATCH_SIZE = ', '(T, T) 的矩阵没有了，批可以大得多。', 'Without the (T, T) matrices the batch can be much larger.'),
        ('BETAS = (0.9, 0.95)', '第二个系数比默认的 0.999 小：记性短一些，损失突变后恢复得快。规模这么小、步数这么少时测不出好处（见上面的表）。', 'The second one is below the default of 0.999: a '
         'shorter memory, which recovers faster from a jump. At this size and in so few steps no gain is to be seen (the table above).'),
        ('class TrainBatches', 'GPU 算这一步时，子进程已经在准备后面几步。第几步看什么仍由 `(SEED, step)` 决定，与谁准备无关。',
         'While the GPU computes, worker processes prepare the steps to come. What a step sees still depends on `(SEED, step)` alone.'),
        ('batch_size=None', '`TrainBatches` 的一项已经是一整批，不用再拼。`pin_memory` 把数据放在锁页内存里，往 GPU 上搬时，CPU 不必等着。',
         'An item of `TrainBatches` is a whole batch already. `pin_memory` keeps it in page-locked memory, so that the CPU need not wait while it is copied to '
         'the GPU.'),
        ('class Head', '`MultiHeadAttention` 代替它，所有的头一次算完。',
         '`MultiHeadAttention` takes its place and computes all heads at once.'),
        ('self.qkv = nn.Linear', '十二个头、三样东西，三十六次小乘法合成一次大的：GPU 喜欢大的。', 'Twelve heads and three things: thirty-six '
         'small products become a large one, which is what a GPU likes.'),
        ('F.scaled_dot_product_attention', '掩码、softmax、加权求和，在一个内核里分块做完。', 'Mask, softmax and weighted sum, in tiles inside '
         'one kernel.'),
        ('std = 0.02 * math.sqrt(768 / N_EMBED)', '一次矩阵乘法把 N_EMBED 项加起来，标准差变为 √N_EMBED 倍：0.02 适合 GPT-2 的 768，宽 128 时用它，'
         '每一层加进残差的就太小，学得慢。', 'A matrix product adds N_EMBED terms, and its deviation grows by the root of that: 0.02 suits the 768 of '
         'GPT-2; at a width of 128 each layer would add too little to the residual stream and learn slowly.'),
        ('std / math.sqrt(2 * N_LAYERS)', '2 × N_LAYERS 次加到残差上，方差会越加越大；除以 √(2 × N_LAYERS)，正好抵消。',
         'The residual stream is added to 2 × N_LAYERS times; dividing by the root of that keeps its variance in place.'),
        ('def make_optimizer', '衰减是把权重往 0 拉：对矩阵是好的约束，对偏置和归一化的缩放参数没有意义。', 'Decay pulls weights towards 0: a '
         'good restraint for matrices, which makes no sense for biases and norm gains.'),
        ('iter(train_loader(train_data))', '只在循环之前建一次：子进程一直活着，才能提前准备后面几步；每步重建，就每步都要等它们启动。',
         'Made once, before the loop: worker processes that stay alive can prepare the steps to come; made anew at each step, they would have to be waited for '
         'each time.'),
        ('clip_grad_norm_', '偶尔一批坏数据的梯度会特别大；限住它的长度，方向不变。', 'Now and then a batch has a huge gradient; its length is '
         'limited, its direction stays.'),
    ],
    'v5_checkpoint': [
        ('CHECKPOINT_DIR = ', '存得勤，丢得少；每隔 `SAVE_INTERVAL` 另留一份，可以退回去。', 'Frequent saves lose little; every `SAVE_INTERVAL` steps '
         'another copy is kept, to go back to.'),
        ('received = []', '信号随时会来，处理它的函数又没有地方可以返回：只往这里记一笔，由训练循环挑合适的时候看。',
         'A signal may come at any moment, and its handler has nowhere to return anything: it leaves a note here, and the loop looks when it suits.'),
        ('def catch_signals', '信号先记下来，做完这一步、存好再停。再按一次 Ctrl-C 立即停：第一次之后，处理办法就还给了系统。', 'The signal is noted; the step is '
         "finished and saved first. A second Ctrl-C stops at once: after the first, the system's own handler is back."),
        ('def train_loader(data, start)', '从第 `start` 步接着取：因为每一步的窗口只由 `(SEED, step)` 决定，不必重放前面的。',
         'Goes on at step `start`: as the windows depend on `(SEED, step)` alone, nothing has to be replayed.'),
        ('def config(', '全部常量写进检查点：以后不看脚本也知道这个模型是怎么训练的。', 'All constants go into the checkpoint: it says by itself '
         'how it was trained.'),
        ('def save_checkpoint', '先写到临时文件，`fsync` 落盘，再改名。改名是一瞬间的事：要么是旧的，要么是新的，没有半个。', 'Written aside, '
         'flushed to disk, then renamed. Renaming is atomic: the old file or the new one, never half of either.'),
        ('def move_old_checkpoints', '只移走，不删除：一时设错了常量，上一次训练出来的还找得回来。',
         'Moved, never deleted: if a constant was set by mistake, the work of the last training can still be recovered.'),
        ('def lock_folder', '借 SQLite 的锁：哪个系统都有，进程一死就没了。', "SQLite's lock: every system has it, and it dies with its process."),
        ('def resume(', '没训练完的接着训练，接不上就说清哪里不同；训练完了又改了常量的，移开旧的，从头开始。', 'An unfinished run goes on, or says what does not fit; '
         'a finished one whose constants have changed moves aside, and a new one starts.'),
        ('.isfinite().all()', '坏掉的权重不存，免得盖住好的那一份。', 'Broken weights are never saved over good ones.'),
        ("save_checkpoint('latest.pt', checkpoint)", '`latest.pt` 最后写：在它之前被杀，就从上一份重走这几步，结果相同。', '`latest.pt` comes last: '
         'killed before it, the run walks these steps again and gets the same.'),
        ('torch.manual_seed(hash((SEED, step)))', 'dropout 也由 `(SEED, step)` 决定，不必存随机数的状态。', 'Dropout, too, depends on `(SEED, step)`: no random state has to be saved.'),
        ('signal.raise_signal(received[0])', '把信号再发给自己一次，这回照系统的办法退出：启动它的程序就知道，它是被叫停的，不是训练完了。',
         'The signal is raised once more and ends the process the usual way: whatever started it can tell that it was stopped and did not finish.'),
    ],
    'v6_wandb': [
        ('LOG_INTERVAL = ', '每步都记太多，评估时才记太少。', 'Every step would be too much, every evaluation too little.'),
        ('返回 (第几步, 最好的 test, wandb_id)', '从头训练，就没有编号可接：`None` 让 `start_wandb` 另开一条曲线。',
         'A training from scratch has no id to go on with: `None` makes `start_wandb` begin new curves.'),
        ("checkpoint.get('wandb_id')", '用 `get`：v5 的检查点在同一个文件夹里，没有编号，也要接得上。',
         '`get`, because checkpoints of v5 lie in the same folder and have no id, and should be continued all the same.'),
        ('def start_wandb', '没有登录就离线，连不上也离线：哪一种都不停下训练。', 'No login: offline. No connection: offline. The run goes on in each case.'),
        ('def try_to', '曲线丢了可惜，训练停了更可惜：wandb 的错误一律不往外传。',
         'Losing a curve is a pity, losing the run would be worse: no error of wandb gets out of here.'),
        ('best_test_loss, wandb_id = resume(', '接哪条曲线，检查点里才有：所以先 `resume`，后 `start_wandb`。',
         'Which curves to continue is written in the checkpoint: hence `resume` first, `start_wandb` later.'),
        ('run = start_wandb(wandb_id', '设置核对过了，编译也好了，才开始记录：前面就出错的训练，不会留下一条空曲线。',
         'Recording begins after the settings are checked and the code is compiled: a run that fails before leaves no empty curves.'),
        ("'wandb_id': run.id", '编号存进检查点：续训接着画同一条曲线。', 'The id is in the checkpoint: a continued run goes on with the same curves.'),
        ('grad_norm = nn.utils', '裁剪时顺便得到梯度的范数：训练出问题，它往往先知道。', 'Clipping yields the norm anyway: it is often the first to '
         'tell of trouble.'),
        ('return 0, math.inf, None', '旧的检查点移走了，旧的曲线也不接：两次训练画在一起，谁也看不懂。',
         'The old checkpoints move away, and the old curves are left alone: two trainings in one plot could not be read.'),
    ],
    'v7_grad_accum': [
        ('显存不够：请改小 MICRO_BATCH_SIZE', '显存装的只是一份，所以不够时要改小的是它；`BATCH_SIZE` 不用动，训练就不变。',
         'Memory holds one part at a time, so that is what has to shrink; `BATCH_SIZE` stays, and so does the training.'),
        ('MICRO_BATCH_SIZE = 16', '一批多大、一次算多大，从此是两回事。', 'How large a batch is and how much is computed at once are two things '
         'from here on.'),
        ('CHECKPOINT_DIR = ', '从这一级起，检查点各在自己的文件夹。', 'From here on each rung has a folder of its own for its checkpoints.'),
        ('starts.split(MICRO_BATCH_SIZE)', '评估也一次只放进一份。', 'Evaluation, too, takes one part at a time.'),
        ('part[:MICRO_BATCH_SIZE]', '编译按输入的形状来，所以空算的要与训练时一次算的一样大；整批放进去，显存也可能不够。',
         'Code is compiled for the shape of its input, so this pass takes as much as training takes at once; the whole batch might not fit into memory either.'),
        ('for micro_x, micro_y in', '每份的损失按窗口数加权，最后一份小一些也对；`backward()` 把梯度加在一起。', 'Each part counts by its windows, so a smaller last one is '
         'right too; `backward()` adds the gradients up.'),
    ],
    'v8_mfu': [
        ('MODEL_SIZES = {', '几个现成的大小，不必自己凑宽度和头数。', 'Sizes that fit together, for those who do not want to work them out.'),
        ('def flops_per_token', '数一数浮点运算：前向 2 次，反向 4 次，每个矩阵参数一共 6 次；注意力另算。', 'Counting operations: 2 forward and 4 '
         'backward for each weight in a matrix, and attention on top.'),
        ('def matrix_rate', '理论上的峰值要查表，也够不着；同一台设备测到的大矩阵乘法，才是够得着的 100%。', 'The peak on the data sheet is out of reach; '
         'a large product on the same device is a 100 % that can be had.'),
        ("speed += (f' | MFU", '显存和 MFU 写在一行，改了大小，一眼就看得出值不值；显存还有富余，可以试试一次多算一些。',
         'Memory and MFU in one line show at a glance whether a change of size pays; with memory to spare, more can be computed at once.'),
        ('torch.cuda.reset_peak_memory_stats(DEVICE)', '编译和上面的大矩阵乘法也用过显存：不清零，报的就可能是它们的峰值，不是训练的。',
         'Compilation and the large product above have used memory, too: without a reset, the peak might be theirs and not that of the training.'),
        ('mfu = tok_per_s', 'MFU 低，说明时间花在了搬数据、小操作或等 CPU 上。', 'A low MFU means that time goes into moving data, small operations or '
         'waiting for the CPU.'),
    ],
    'v9_llama': [
        ('N_KV_HEADS = ', '查询头是 `N_KV_HEADS` 的几倍，就几个共用一组 k、v：写歌时要记住的 k、v 少一半以上。', 'Several query heads share a k and v: at most half '
         'as much has to be remembered while writing.'),
        ('CHECKPOINT_DIR = ', '模型变了，检查点放在别处。', 'Another model, another folder for its checkpoints.'),
        ('repeat_interleave', 'flash attention 要 q、k、v 的头一样多，所以每组 k、v 抄给用它的几个头；存的、要学的仍只有一份。',
         'Flash attention wants as many heads of k and v as of q, so each is copied to those that share it; only one is learned and kept.'),
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
        ('MUON_LR = ', '两种更新，两个学习率，同样的升降。词向量起步时小，走小步要很久才长得大，所以 AdamW 的学习率也调大了。', 'Two kinds of updates, two learning rates, one schedule. '
         'Word vectors start small and would take long to grow in small steps, so the rate of AdamW goes up as well.'),
        ('WEIGHT_DECAY = 0.1 if BIG else 0.3', '小样本要看好多遍，容易背下来；衰减大一些，权重就不容易为了背它而长大。',
         'A small sample is seen many times and easily learned by heart; more decay keeps weights from growing just for that.'),
        ('self.q_norm = nn.RMSNorm(head_size', '每个头各自归一：一个头的 q 再长，也压不小别的头。q 和 k 各学一组缩放，注意力该多集中，仍由模型自己定。',
         'Each head is normalised by itself: however long the q of one head, the others do not shrink. The gains of q and k are learned, so how sharp attention '
         'gets is still up to the model.'),
        ('self.q_norm(q.float())', 'q、k 归一后，点积不再随权重变大而变大（只看学来的缩放），softmax 不容易变得极端：可以放心走大步。',
         'With q and k normalised, their product no longer grows with the weights (only with the learned gains), and softmax is less likely to '
         'become extreme: larger steps are safe.'),
        ('def orthogonalize', '不必做奇异值分解：五次矩阵多项式，就把奇异值都推到 1 附近。', 'No singular value decomposition: five matrix polynomials push all singular values near 1.'),
        ('class Muon', '第一组用正交化的动量，其余的组交给 AdamW：训练循环只见到一个优化器。', 'The first group uses the orthogonalised momentum, the others AdamW: the loop sees one optimizer.'),
        ('return Muon([', '正交化只对矩阵有意义；归一的缩放是一串数，词向量是一行行查的表，照通常的做法都留给 AdamW。',
         'Only matrices can be usefully orthogonalised; gains are a mere list of numbers and word vectors a table read row by row, and both are left to AdamW, '
         'as usual.'),
        ("group['peak'] * get_lr(step)", '同一条曲线，各乘各的峰值。', 'The same curve, times the peak of each.'),
    ],
    'v11_memmap': [
        ('TOKENIZER_BYTES = ', '学词表不必读完全部数据：随机抽一部分就够。', 'The vocabulary does not need all the data: a random part will do.'),
        ("'checkpoints/v11_memmap'", '测试的歌换了，v10 的检查点接不上：各放一处，谁也不会把谁移走。',
         'The test songs are others, and checkpoints of v10 cannot be continued: kept apart, neither moves the other away.'),
        ('def load_songs', '`documents` 代替它：一篇一篇地给，不把全部正文放进内存。',
         '`documents` takes its place and yields text by text, without holding them all in memory.'),
        ('def read_texts', '纯文本一段一段地读：文件多大，内存都一样。', 'Plain text is read piece by piece: however large the file, the memory stays the same.'),
        ('def documents', '全部正文不在内存里，没法打乱；由正文的指纹决定它在哪一边，重复的总在同一边。所以测试的歌与 v10 不同，bits/char 不能直接比。',
         "The texts are not all in memory and cannot be shuffled; the hash of a text decides its side, so that duplicates are always on the same. Hence the "
         "test songs are not v10's, and bits/char cannot be compared with it."),
        ('def encode_songs', '`build_tokens` 代替它：编好一篇就写进磁盘，不攒成一个大张量。',
         '`build_tokens` takes its place: each text goes to disk as soon as it is encoded, and no large tensor piles up.'),
        ('def fingerprint', '数据和设置变了，指纹就变，另建一份；没有变，直接用。', 'Where data or settings change, so does the hash, and the tokens are built anew.'),
        ('def build_tokens', '在临时文件夹里写好，再改名：建到一半的不会被当成建好的。', 'Written aside, then renamed: half a build is '
         'never taken for a whole one.'),
        ('np.memmap(folder / name', '内存映射不是读入：打开时什么也没读，以后用到哪里，系统才去磁盘上取哪里。',
         'Mapping is not reading: nothing is read when the file is opened; later, the system fetches what is used from the disk.'),
        ('.astype(np.int64)', '只有这几个窗口真的从磁盘读进来。', 'Only these windows are really read from the disk.'),
        ('self.path = data.filename', '有的系统上，对象要序列化才能交给子进程，而 `memmap` 会连同全部内容一起序列化。只给路径，由子进程自己打开映射。',
         'On some systems objects are pickled for the worker processes, and a `memmap` is pickled with all of its contents. So they get the path and open the '
         'map themselves.'),
    ],
    'v12_ddp': [
        ('sys.stdout = open(os.devnull', '每个进程都从头到尾跑同一个脚本，同一行会印好几遍：只留第 0 个的。',
         'Every process runs the same script from end to end and would print every line again: only those of number 0 stay.'),
        ('world_size = int(', 'torchrun 用环境变量告诉每个进程它是谁；没有它们，就只有一个进程。', 'torchrun tells each process who it is through the '
         'environment; without it there is one.'),
        ('if local_rank == 0 else 1', '几个进程遇到同样的错误，只说一遍。', 'Several processes meet the same error; it is said once.'),
        ('def join_processes', '一组进程先互相找到。重启的一组换一个名字，免得读到上一组留下的地址。只有一个进程时什么也不做。',
         'The processes find one another first. A restarted group takes another name, so that it does not '
         'read the address that the dead one left. With a single process there is nothing to do.'),
        ('def all_reduce', '人人得到同一个总和，也就做出同一个更新：权重不用再传。只有一个进程时，总和就是它自己。',
         'All get the same sum and so make the same update: weights never have to be sent. With one process, the sum is its own.'),
        ('def wait_for_all', '有人没到，和就算不出来，所以加一个 0 就是等人。`item()` 让 CPU 也等，GPU 上的通信本来是不等的。',
         'A sum cannot be had until everybody has contributed, so adding a 0 means waiting. `item()` makes the CPU wait as well, which communication on a GPU '
         'does not.'),
        ('for mine in (rank == 0', '同一份文件不能几个进程一起写：先由第 0 个建，大家等着。不共用硬盘的机器看不到它建的，再由那台的第一个进程自己建。',
         'Several processes must not write the same files: number 0 builds them while all wait. On a machine that does not share its disk, the first process '
         'there then builds its own.'),
        ('[rank::world_size]', '整批的窗口每个进程都知道，各取各的一份：几个进程，看到的都是同一批。', 'Every process knows the whole batch and takes '
         'its share: any number of processes sees the same batch.'),
        ('received.append(n))', 'torchrun 会转发信号，按一次 Ctrl-C 可能收到两次：若还是第二次就立即停，便来不及存了。',
         'torchrun forwards signals, and one Ctrl-C may arrive twice: if the second still meant stopping at once, there would be no time to save.'),
        ('all_reduce(total)', '各算一份，加起来才是整份评估的平均。人人拿到同一个数，发散了就一起停，不会有谁还在等。',
         'Each computes a share, and only the sum is the mean over the whole evaluation. As all get the same number, they all stop on divergence, and nobody is '
         'left waiting.'),
        ('def flat_gradients', '全部梯度是一块连续的内存：一次通信就都加起来了。', 'All gradients are one stretch of memory: a single message adds them up.'),
        ('只由第 0 个进程写', '大家的权重一样，存一份就够；几个进程同时写一个文件，反而会写坏。',
         'All have the same weights, so one copy will do; several processes writing one file would only spoil it.'),
        ('大家都读过了，才移', '第 0 个移得太早，别的进程正要读 `latest.pt`，文件就不见了。',
         'If number 0 moved it too early, `latest.pt` would be gone just when another process is about to read it.'),
        ('总是接着自己的训练', '`RESUME = False` 说的是第一次启动。崩溃之后由 torchrun 重启的，若也从头来，每崩溃一次就前功尽弃。',
         '`RESUME = False` is meant for the first start. If a group that torchrun restarts after a crash began from scratch as well, every crash would cost all '
         'the work.'),
        ("'disabled' if rank", '损失已经加到了一起，一个进程记就是全部。别的拿到一个什么也不做的 `run`，循环里就不必处处判断。',
         'The losses are summed already, so what one process records is everything. The others get a `run` that does nothing, and the loop need not ask each '
         'time.'),
        ('同样的种子', '起点一样，每步的更新又一样，权重就一直一样：不必从第 0 个发给大家。',
         'With the same start and the same updates, weights stay the same: number 0 need not send them to anybody.'),
        ('all_reduce(mine.clone())', '不共用磁盘的机器，数据可能不同，接起的步也可能不同：加起来的梯度就没有意义，还不报错。总和恰好是人人自己的 `world_size` 倍，才说明大家一样。',
         'Machines without a shared disk may have other data or go on at other steps: their gradients would add up to nonsense, without any error. Only if the '
         'sum is `world_size` times what each one has are they all alike.'),
        ('matrix_rate() * world_size', 'tok/s 数的是所有进程的 token，100% 也就该是所有设备加起来的速度。',
         'tok/s counts the tokens of all processes, so 100 % has to be the speed of all devices together.'),
        ('hash((SEED, step, rank))', '初始权重人人一样；dropout 各丢各的。', 'The first weights are the same everywhere; dropout differs from process to process.'),
        ('flat[-1] = len(received)', '谁收到停止信号，大家都在同一步停：否则有人会永远等下去。', 'Whoever is told to stop, all stop after the same step: else '
         'somebody would wait for ever.'),
    ],
    'v0_char_english': [
        ("DEVICE = 'cuda' if", '有 NVIDIA 显卡就用它，其次是 Apple 芯片，都没有就用 CPU：同一个脚本，到处都能跑。',
         'An NVIDIA card where there is one, else an Apple chip, else the CPU: the same script runs everywhere.'),
        ('BIG = GPU and', '大小两套数值写在同一行。先用小的跑通，再换大的：大模型配小数据，只会把数据背下来。',
         'Both sizes stand on one line. Run the small one first: a large model with little data only learns it by heart.'),
        ('BATCH_SIZE = 64', '窗口多，梯度就稳，一步也就慢；窗口长，看得远，可注意力要算的格子随长度的平方增长。',
         'More windows make a steadier gradient and a slower step; longer ones see further, but the scores of attention grow with the square of the length.'),
        ('LEARNING_RATE = 3e-4', '最值得调的一个数：大了会发散，小了学得慢。大模型通常要小一些。',
         'The number most worth tuning: too large diverges, too small is slow. Large models usually want a smaller one.'),
        ('class CharTokenizer', '模型只认得编号。一个字符一个编号是最简单的办法，不用训练；代价是一个窗口只装得下 128 个字符。',
         'The model knows numbers only. One for each character is the simplest way and needs no training; the price: a window holds just 128 characters.'),
        ('n = int(0.9 * len(data))', '最后一成不拿来训练：在没见过的文字上也猜得准，才算学会，不是背会。',
         'The last tenth is not trained on: only a good guess on text it has never seen shows that it has learned, and not memorised.'),
        ('starts[:, None] + torch.arange(BLOCK_SIZE)', '一列起点加一行偏移，广播成 (B, T) 的下标：整批窗口一次取出，不用循环。',
         'A column of starts plus a row of offsets broadcasts to (B, T) indices: the whole batch at once, without a loop.'),
        ('return data[positions], data[positions + 1]', 'y 比 x 晚一位，每个位置就都有了答案：一个窗口是 T 道题，不只是最后一道。',
         'y is x one step later, so every position has its answer: a window asks T questions, and not only the last one.'),
        ('torch.Generator().manual_seed(hash((SEED, step)))', '用自己的随机数发生器：别处不管用过多少随机数，第 `step` 步看的都是同样的窗口，两次运行才好比较。',
         'A generator of its own: whatever else draws random numbers, step `step` sees the same windows, and two runs can be compared.'),
        ('self.query = nn.Linear', '要是直接拿 x 与 x 比，甲看乙和乙看甲的得分总相等。「找什么」和「有什么」分开，谁看谁才可以不对称。',
         'Were x compared with x, A would score B exactly as B scores A. With what I look for kept apart from what I have, looking can go one way.'),
        ('self.register_buffer(', '掩码不是学来的，所以不是参数；登记成 buffer，它才会跟着模型搬到 GPU 上。',
         'The mask is not learned, so it is no parameter; as a buffer it still moves to the GPU with the model.'),
        ('q.shape[-1] ** -0.5', '点积是 head_size 项加起来的，头越宽，得分越大。不缩小，softmax 容易全押在一个位置上，梯度几乎没有了，也就学不动了。',
         'The product adds head_size terms, so scores grow with the head. Without the scaling softmax tends to bet all on one position, which '
         'leaves hardly any gradient to learn from.'),
        ('masked_fill(~self.tril', '答案就在 x 的下一个位置上，看得见就不用学了。负无穷过了 softmax 正好是 0。',
         'The answer stands in x itself, one position further on: if it could be seen, nothing would be learned. Softmax turns minus infinity into exactly 0.'),
        ('return wei @ v', 'softmax 的每一行加起来是 1，所以这是前面各处的加权平均。整个模型里，不同的位置只在这一步互通消息。',
         'Each row of the softmax sums to 1, so this is a weighted mean over the positions so far. Nowhere else in the model do positions exchange anything.'),
        ('nn.ModuleList(Head(', '放在普通的列表里，PyTorch 看不见这些头，它们的权重就不会被训练。每个头只有 N_EMBED / N_HEADS 宽，头再多，参数也不变多。',
         'In a plain list PyTorch would not see the heads, and their weights would not be trained. Each is N_EMBED / N_HEADS wide, so more heads '
         'do not mean more parameters.'),
        ('self.proj = nn.Linear(N_EMBED, N_EMBED)', '刚拼起来时，各头的结果还各占一段；过一个矩阵，才混到一起。',
         'Side by side, each head still has a stretch of its own; this matrix mixes them.'),
        ('4 * N_EMBED), nn.ReLU()', '中间少不了 ReLU：两个矩阵连着乘还是一个矩阵，放宽到 4 倍也白放。',
         'The ReLU is needed: two matrices in a row are one matrix again, and the fourfold width would be for nothing.'),
        ('self.ln1 = nn.LayerNorm', '一层层加下来，x 会越来越大；进每一步之前先归一，后面的层收到的大小才差不多。',
         'x grows as layer after layer adds to it; normalised before each step, it reaches all layers in about the same size.'),
        ('x = x + self.attention(', '每一步只往 x 上加一点改动；反向时，梯度沿着加号直通到底，层数多了也训练得动。',
         'A step only adds its change to x; on the way back gradients run straight through the plus signs, so that many layers can be trained.'),
        ('self.position_embedding = nn.Embedding', '注意力取的是加权平均：前面的字符打乱次序，取回来的还是一样。所以谁在第几个，要另外告诉它。',
         'Attention takes a weighted mean: shuffle the characters before, and it brings back the same. So it has to be told where each one stands.'),
        ('F.cross_entropy(', '它要一行一道题，所以把 B × T 道题排成一列。softmax 在它里面做，损失就是正确字符的概率取 −ln，再平均。',
         'It wants one question a row, so the B × T questions are lined up. Softmax happens inside; the loss is −ln of the probability of the right '
         'character, on average.'),
        ('self(idx[:, -BLOCK_SIZE:])', '位置向量只有 BLOCK_SIZE 个，再早的字符只好不看了。',
         'There are only BLOCK_SIZE position vectors; characters further back have to be dropped.'),
        ('logits[:, -1].float().cpu() / TEMPERATURE', '只有最后一个位置猜的是新字符，别处的答案早就写好了。除以小于 1 的数，得分的差距拉大，更常选到有把握的。',
         'Only the last position guesses something new, the other answers are written already. Division by less than 1 widens the gaps between '
         'scores, so that likely characters come up more often.'),
        ('torch.multinomial(probs', '按概率抽，而不是总取最可能的：那样很容易绕着同一句话打转。',
         'Drawn by probability; always taking the likeliest easily goes round and round in one phrase.'),
        ('model.eval()', '评估时关掉 dropout：考试要拿出全部本事，同样的卷子也要得同样的分。',
         'No dropout while evaluating: a test wants all the model can do, and the same marks for the same paper.'),
        ('瞎猜的损失', '什么都没学时，各个字符机会均等，损失大约是 ln(词表大小)。第 0 步要是离它很远，多半是代码写错了。',
         'A model that knows nothing gives all characters the same chance, and its loss is about ln(vocabulary). If step 0 is far from that, there '
         'is probably a mistake in the code.'),
        ('for step in range(TRAIN_ITERS + 1)', '多出来的一圈只评估、不训练：最后一次更新之后的模型，也要量一量。',
         'The extra round evaluates and does not train: the model after the last update has to be measured, too.'),
        ('bits = test_loss / math.log(2)', '损失用的是自然对数；换成以 2 为底，就是拿这个模型压缩文本时，每个字符平均要几个 bit。',
         'The loss uses the natural logarithm; to base 2 it says how many bits a character takes on average when the model is used to compress the text.'),
        ('optimizer.zero_grad()', '`backward()` 是往旧的梯度上加：不清零，就混进了上一步的。',
         '`backward()` adds to the gradients that are there: without this line, those of the step before would be mixed in.'),
        ('optimizer.step()', '梯度只说往哪边走；AdamW 看每个参数近来的梯度有多大，给它配一步的长短。',
         'The gradient only says which way to go; AdamW gives each parameter a step that suits the size of its recent gradients.'),
    ],
    's1_control': [
        ('MAX_NEW_TOKENS = 400', '加上标记，一首歌两三百个 token：200 个写不完。', 'With its marks a song has two or three hundred tokens: 200 would cut it off.'),
        ('BLOCK_SIZE = 512 if BIG else 448', '窗口从歌头开始，要放得下一首歌，不能想多长就多长：补齐的地方也要算，白费力气。',
         'A window begins with the header and has to hold a song. It should not be longer than that: padding is computed as well, for nothing.'),
        ('DROP_FIELD = 0.3', '要是每次都给全三项，只给一项的歌头它就从没见过。',
         'If all three fields were always given, a header with a single one would be something it has never seen.'),
        ("FIELDS = {'情绪'", '这三项数据里本来就有，不用另外标注；写之前也想得好，才能当作要求。',
         'The data has these three already, so nothing needs to be labelled; and they can be decided before writing, as a request must be.'),
        ("RHYMES = {'发花'", '十三辙把唱起来相近的韵母算作一个韵，比如 en 和 in；韵分得太细，每个韵见到的例子就少了。',
         'The thirteen rhyme classes (十三辙) join finals that sound alike when sung, such as en and in; finer classes would leave fewer examples of each.'),
        ('CODES = [f', '次序固定，编号就连成一片：一个 token 是不是标记、是哪一种，看它落在哪个范围就知道，不用查表。',
         'In a fixed order they get numbers in one stretch: whether a token is a mark, and of which kind, shows by the range that it falls in, without a table.'),
        ('CONTINUED, LYRIC, *field_ids', '标记的编号从 2 起，因为 0 是不认识的、1 是分隔符。要单独认出来的只有这几个，所以给它们名字。',
         '0 is unknown and 1 the separator, so marks begin at 2. Only these few have to be recognised by themselves, hence their names.'),
        ("brackets = str.maketrans('<>", '歌里原有的尖括号若不换掉，会被当成标记，`lyric_of` 还会把括号里的字一起删掉。',
         'Angle brackets that a song contains would pass for marks, and `lyric_of` would delete what stands between them.'),
        ('known = set()', '只记训练歌曲里的：只在测试歌曲里出现的歌手，模型没有学过，不能让人以为可以要求。',
         'Those of the training songs only: a singer who occurs in the test songs alone has not been learned, and nobody should be told to ask for that name.'),
        ('def mark_line(line)', '字数写在行首，因为下笔之前就要知道这一行多长。韵紧挨着末字：离要决定的那个字越近，越容易照做。',
         'The length stands first, as it has to be known before the line is written. The rhyme stands right before the last character: the '
         'closer to what it decides, the easier it is to obey.'),
        ('lazy_pinyin(line[', '「银行」的「行」和「不行」的「行」不同韵：多音字要看上文，才知道怎么念。',
         'The 行 in 银行 (bank) and that in 不行 (no good) do not rhyme: how such a character is read depends on those before it.'),
        ('def lyric_of', '标记是写给模型的，不是歌词：给人看、认重复、数字符之前，都要先去掉。',
         'Marks are meant for the model and are not lyrics: they go before a song is shown, compared or counted.'),
        ("head = [f", '没有的项整项不写。歌手、歌名是普通文字，不是专门的 token：没见过的名字也写得进去。',
         'A field without a value is left out. Singers and titles are plain text and not tokens of their own: a name never seen before fits in as well.'),
        ('lyric_of(text)): text for text', '同样的词，换一位歌手、换一个歌名，歌头就不同了；只比歌词，才认得出是重复的。',
         'The same words under another singer or title have another header; only the lyrics show that they are duplicates.'),
        ('user_defined_symbols=CODES', '不这样，「<江阳>」会被拆成几片，还可能与旁边的字合成一个词。一个标记一个 token，写歌时才能指定它、遮住它。',
         'Otherwise <江阳> would fall into pieces, and some might join the characters next to them. One token a mark is what lets us force it or rule it out when writing.'),
        ('segments.append([CONTINUED if start', '每一段都重复歌头：要求一直在眼前。后面的段从「<续>」写起，不然模型会以为歌可以从半截开始。',
         'Each piece repeats the header, so that the request is always in view. Later pieces begin with <续> (continued), or the model would '
         'learn that songs may begin in the middle.'),
        ('return tokenizer, train_data, test_data, tokens /', '损失是每个歌词 token 的平均；乘上每个字符有几个这样的 token，才是 bits/char。',
         'The loss is a mean over tokens of the lyrics; times the number of such tokens for each character, it becomes bits/char.'),
        ('[-100] * (BLOCK_SIZE + 1 - len(segment))', '−100 是 `cross_entropy` 约定跳过的答案。补在末尾就不用另加掩码：因果注意力里，前面的本来就看不见后面的。',
         '−100 is the answer that `cross_entropy` skips. Padding at the end needs no mask of its own: with causal attention, what comes before '
         'does not see it anyway.'),
        ('hidden = ((x == LYRIC)', '`cumsum` 还是 0 的地方，「<歌词>」还没有出现，就是歌头。标记是要求，不是作品：评估时，猜中要求不算本事。',
         'Where `cumsum` is still 0, <歌词> has not come yet: that is the header. Marks are the request and not the work, so guessing them earns nothing in the evaluation.'),
        ('field = token if token in (LYRIC', '歌手、歌名有长有短，所以要记住走到了哪一项，整项去掉。歌头和标记在训练时照样算损失：没有人给要求时，要它自己写。',
         'Names and titles differ in length, so the loop remembers which field it is in and drops all of it. Header and marks do count in the '
         'training loss: where nobody asks for anything, the model has to write them itself.'),
        ('total, count = total + model(', '补齐之后，各批里的歌词 token 不一样多；按个数加权，才是每个 token 的平均。',
         'With padding, batches hold different numbers of lyric tokens; weighted by these, the result is a mean over tokens.'),
        ("return f'{text.rpartition(", '没有给要求，歌头是它自己写的：也显示出来，看看它以为自己在写什么歌。',
         'Nothing was asked for, so the header is its own: it is shown as well, to tell what song the model believes it is writing.'),
        ("constants['KNOWN'] = ", '出现过的情绪、歌手跟着检查点走：要求了没见过的，写歌时就能说明有哪些，而不是乱写一首。',
         'Moods and singers that occur travel with the checkpoint: asked for an unknown one, the generator can say which there are instead of writing just anything.'),
        ('TRAIN_ITERS * BATCH_SIZE / len(train_data)', '训练数据按段数，一步看 `BATCH_SIZE` 段：补齐的地方不是数据，按 token 算遍数就多算了。',
         'Training data is counted in pieces, `BATCH_SIZE` of them a step: padding is no data, and counting tokens would give too many passes.'),
        ('hashlib.sha256(str(train_data)', '各段长短不一，存成列表，没有张量的 `numpy()`：写成文字，照样算得出指纹。',
         'Pieces differ in length and are kept in lists, which have no `numpy()`: written out as text, they can be hashed all the same.'),
        ('(micro_y >= 0).sum() / (y >= 0).sum()', '每段补的不一样多。若还按窗口数加权，补得多的那一份里，每个 token 就算得重了，切成几份也会影响结果。',
         'Padding differs from part to part. Weighted by windows, each token of a part with more padding would count for more, and the result would depend on how the batch is cut.'),
        ('math.ceil(len(test_data) / BATCH_SIZE)', '测试也按段数：取这么多批，每一段才都看得到。',
         'The test is counted in pieces as well: it takes this many batches to see every one of them.'),
    ],
    's2_rhyme_rl': [
        ('一步写多少首', '好坏是与这一批的平均比出来的；一批小了，平均就不准，噪声也大。',
         'Good and bad are relative to the mean of the batch; the smaller the batch, the less exact the mean and the louder the noise.'),
        ('KL_WEIGHT = 0.5', '只求押韵，模型会走捷径，翻来覆去用几个保险的字，别的都忘了。KL 量它离原来的模型多远，越远损失越大，把它拴住。',
         'If only rhymes count, the model takes the short cut: a few safe characters over and over, and the rest forgotten. KL measures how far '
         'it has moved from the original model and makes distance cost.'),
        ('DROP_OUT = 0.0', '写歌时不用 dropout；练的时候用，算出来的概率就不是写歌的那个模型的了。',
         'Songs are written without dropout; with it in training, the probabilities would not be those of the model that wrote them.'),
        ('def train_tokenizer', '`load_base` 读出的 s1 的分词器代替它，编号才对得上学过的词向量。',
         "s1's tokenizer, read by `load_base`, takes its place, so that numbers match the word vectors that were learned."),
        ("globals()[name] = checkpoint['config'][name]", '权重只装得进原来的形状，所以宽度、层数、窗口都照检查点，不照这里的常量。',
         'Weights only fit the shape that they come from, so width, layers and window follow the checkpoint and not the constants here.'),
        ('def load_data(tokenizer)', '分词器由 `load_base` 给。歌还是按同样的种子切分：数据不换，s1 没学过的歌，在这里也只用来测试。',
         'The tokenizer comes from `load_base`. Songs are split by the same seed: with the same data, those that s1 has not learned only serve for testing '
         'here, too.'),
        ('def get_batch(data, step)', '不再从歌里取训练的窗口：练习看的是模型自己写的，真歌只用来评估。',
         'No more training windows from songs: the model practises on what it writes itself, and real songs are for evaluation only.'),
        ('class TrainBatches', '`practice` 代替它：一批不是从数据里取的，是模型当场写的。',
         '`practice` takes its place: a batch is not taken from the data, the model writes it on the spot.'),
        ('def train_loader', '也由 `practice` 代替：上一步更新完了才能写下一批，没有什么可以提前准备。',
         '`practice` takes its place, too: the next batch can only be written after the last update, so there is nothing to prepare.'),
        ('if self in cache:', '前面的看不到后面的，它们的 k、v 就不会再变：存下来，不必重算。这时 q 只有最新的一个，前面全看得见，也就不用掩码。',
         'Earlier tokens do not see later ones, so their k and v never change: they are kept and not computed again. The only q is then the '
         'newest one, which may see everything, so no mask is needed.'),
        ('self.attention(self.ln1(x), rope, cache)', '每一层的 k、v 不同，所以同一个缓存传给各层，各层只存取自己的那一份。',
         'Each layer has its own k and v: all are handed the same cache, and each keeps its own part in it.'),
        ('self.rope[:, start:start + T]', '有了缓存，每次只送进一个 token；它仍要按自己在歌里的位置旋转，不能总当作第 0 个。',
         'With the cache one token goes in at a time; it still has to turn by its place in the song, and not always as number 0.'),
        ('cache, writing = {}, torch.ones(', '64 首有长有短，却要一步步一起写；写完的接着占位，记成 −100，后面不算它。',
         'Songs end at different lengths, yet all are written in step; a finished one keeps its row and gets −100, which nothing counts later.'),
        ('def compile_blocks(model, data)', '写歌时长度每步都变，编译的代码派不上用场；练的步数又少，编译花的时间多半赚不回来。',
         'While writing, the length changes at every step, and compiled code is of no use; with so few steps of practice, compiling would hardly pay.'),
        ('idx = torch.cat((idx, idx_next.where(', '写完的歌后面补 −100。分隔符这次也留着：`score` 靠它认出最后一行写完了，`write` 解码时它不会显示。',
         'After the end of a song there is −100. The separator is kept this time: by it `score` knows that the last line is finished, and in `write` '
         'decoding does not show it.'),
        ('decided = [j for j in range(begin, i)', '一首歌那么多 token，押不押韵却是韵标和末字定的：只奖罚它们，别的 token 就不会跟着沾光、受罚。',
         'Of all the tokens of a song, the mark and the last character decide the rhyme: only they are rewarded or punished, and the others '
         'do not share what they did not earn.'),
        ('good = rhymes[1] == rhymes[3]', '每个条件堵一个空子：同一个字当然与自己押韵，把写过的行再抄一遍也押韵。留下空子，模型就会去钻。',
         'Each condition closes a loophole: a character rhymes with itself, and so does a line that is copied. A loophole left open is one that '
         'the model will find.'),
        ('= points - reward', '得分只有 0 和 1，不减平均，就只有夸、没有罚。减了以后，比平均差的写法才会往下压。',
         'Points are 0 or 1: without taking off the mean there is praise and no blame. With it, whatever does worse than the mean is pushed down.'),
        ('log_probs, base_log_probs = (F.log_softmax(', '写的时候除过温度，这里也要除：要推的，是它写歌时真正用的那个概率。',
         'Writing divided by the temperature, and so does this: what is to be pushed is the probability that it really wrote with.'),
        ('base = copy.deepcopy(model).eval()', '在 `resume` 之前复制：断了再续，缰绳那一头仍是 s1 的模型，不是练到一半的。',
         'Copied before `resume`: when a run is continued, the other end of the leash is still the model of s1, and not a half-trained one.'),
        ('iter(train_loader(train_data, start))', '训练用的歌要由这一步的模型自己写，循环里现写现用：这里没有可以预先取的了。',
         'The songs to train on are written by the model of that very step, inside the loop: there is nothing to fetch in advance.'),
        ('练习不是为了 test', 'test 量的是猜真歌猜得多准，练习求的是押韵；按 test 挑，很可能挑中练得最少的一份。',
         'test tells how well real songs are predicted, and practice is about rhymes; picked by test, the best may well be the one that practised least.'),
        ('x, y, advantage, metrics = practice(', '每批歌只用一次：更新之后，它们就是旧模型写的了；这种算法要求样本来自当前的模型（on-policy）。',
         'Each batch serves once: after the update it is the work of an older model, and what has to be pushed are the ways of the present one.'),
    ],
    's3_finetune': [
        ('or fail(', '别人的样本不能顶替自己的歌：没有写好就停下来说，不要悄悄学了别的。', "The sample cannot stand in for one's own songs: better to stop and say so than to learn others in silence."),
        ('INIT_FROM = ', '几十首歌学不会语言；语言它已经会了，只要换一种口吻。',
         'A few dozen songs do not teach a language; it knows the language already and only has to change its voice.'),
        ("LYRICS_DIR = 'MySongs'", '歌手写一个它没见过的名字，以后凭这个名字叫出你的口吻；用它学过的歌手，两种口吻就混在一起了。',
         'Give a singer whom it has never seen, and that name will call up your voice; with one that it knows, two voices would mix.'),
        ('MUON_LR = 0.002', '步子只有 s1 的十分之一：学过的大半要留着，几十首歌教不出那么多。',
         'A tenth of the steps of s1: most of what it has learned should stay, as a few dozen songs cannot teach it anew.'),
        ('WARMUP_ITERS = 10', '权重是旧的，优化器却是新的，还不知道梯度有多大：预热仍要有，短一些就行。',
         'The weights are old, but the optimizer is new and does not know the size of the gradients: it still warms up, only shorter.'),
        ('TRAIN_ITERS = 60', '歌少，走不了多少步就每首都看过好多遍；再走下去，学的就不是口吻，是背词了。',
         'With few songs, each has soon been seen many times; beyond that the model no longer learns a voice, it learns the words by heart.'),
        ('EVAL_INTERVAL = 5 ', 'test 的最低点来得快，过得也快；隔得太久才看，就错过了。',
         'The lowest test loss comes soon and soon passes; looking too rarely would miss it.'),
        ('EVAL_ITERS = 2 ', '测试只有几首歌，一两批就看完了；多取几批，也是同样的几首。',
         'There are only a few test songs, and a batch or two shows them all; more batches would show the same ones again.'),
        ('def train_tokenizer(songs)', '词向量是按旧的编号学的；换一套分词器，同一个编号成了别的词，学过的就对不上了。',
         'Word vectors were learned by their old numbers; with another tokenizer a number would mean another word, and what was learned would no longer fit.'),
        ("torch.load(INIT_FROM, map_location='cpu'", '先读到内存：GPU 上存的检查点，没有 GPU 的电脑也能用。`weights_only` 只读数据，不执行文件里的代码：检查点可以是别人给的。',
         'Read into ordinary memory first, a checkpoint made on a GPU also serves where there is none. `weights_only` reads data and runs no code from '
         'the file, which may come from somebody else.'),
        ("globals()[name] = checkpoint['config'][name]", '权重只装得进原来的形状，所以宽度、层数、窗口都照检查点，不照这里的常量。',
         'Weights only fit the shape that they come from, so width, layers and window follow the checkpoint and not the constants here.'),
        ('known.update((name, value) for name', '底子学过的歌手、情绪以后还能要；自己的歌里的，`load_data` 再加进去。',
         'Singers and moods that the base model knows can still be asked for; `load_data` adds those of your own songs.'),
        ('def load_data(tokenizer)', '分词器跟着底子来，切分之前就有了：所以是参数，不再由这里训练、返回。',
         'The tokenizer comes with the base model and is there before the songs are split: hence a parameter, and no longer something to train and return here.'),
        ('model.load_state_dict(weights)', '放在 `resume` 之前：微调断了再续，用的是自己的 `latest.pt`，它会盖过这里装的。',
         'It comes before `resume`: if fine-tuning was interrupted, its own `latest.pt` replaces what is loaded here.'),
        ('str((train_data, weights))', '底子也算进指纹：重新训练了 s1，就不会接着从旧底子微调到一半的。',
         'The base model is part of the hash: after s1 has been trained anew, a half-done fine-tuning of the old one is not continued.'),
    ],
}
