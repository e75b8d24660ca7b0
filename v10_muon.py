"""更好的优化器：各层的矩阵用 Muon，其余的用 AdamW；q、k 先归一，注意力就经得起大的学习率。结构就是 Qwen3 的。

相对 v9_llama.py 的改动：
- `Muon` 把动量正交化再更新（`orthogonalize`），各方向走同样远；`make_optimizer` 把各层的矩阵交给它，学习率 `MUON_LR`，
  词向量和 RMSNorm 仍用 AdamW，不衰减，`LEARNING_RATE`、`MIN_LR` 现在只是它们的，可以高得多；动量 `MUON_MOMENTUM`；
  `WEIGHT_DECAY` 在小样本上大一些；
- `MultiHeadAttention` 里，q、k 每个头先 RMSNorm 再旋转（QK-Norm，arXiv:2010.04245）；
- 检查点有自己的文件夹 `CHECKPOINT_DIR`。

测得（AMD EPYC，2 核，古诗）：1200 步，比 v9_llama 低 0.227 bits/char；只训练 900 步（124 秒）到 7.041，
v6 训练 1200 步（121 秒）才到 7.206。

看差异：git diff --no-index v9_llama.py v10_muon.py
运行：python v10_muon.py
"""
import glob
import hashlib
import html
import io
import json
import math
import os
import re
import shutil
import signal
import sqlite3
import sys
import time
from collections import Counter, defaultdict
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import sentencepiece as spm
import torch
import torch.nn as nn
import wandb
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

# ---------- 超参数：改这里，再运行。「A if BIG else B」：有 GPU、数据也够多时取 A，否则取 B ----------
DEVICE = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
GPU = DEVICE.startswith('cuda')

# 数据
LYRICS_DIR = 'ChineseLyrics'                # 歌词文件夹：里面的 lyrics*.json，没有就用 sample.json
MAX_SONGS = None                            # 最多用多少首歌；None：全部
# 大模型要 10 MB 以上的歌词
BIG = GPU and sum(Path(f).stat().st_size for f in glob.glob(f'{LYRICS_DIR}/**/lyrics*.json', recursive=True)) > 10e6
BPE_VOCAB_SIZE = 8000 if BIG else 4000      # 词表大小（token）
SEED = 1337                                 # 随机种子：同一个种子，同样的结果

# 训练
BATCH_SIZE = 64 if BIG else 16              # 一步训练多少个窗口
MICRO_BATCH_SIZE = 16 if BIG else 8         # 一份多少个窗口：显存只要放得下一份
BLOCK_SIZE = 1024 if BIG else 128           # 窗口长度（token），也就是模型能看到的上文
MUON_LR = 0.02                              # Muon 的学习率的峰值：各层的矩阵
MUON_MOMENTUM = 0.95                        # Muon 的动量
LEARNING_RATE = 6e-3 if BIG else 1e-2       # AdamW 的学习率的峰值：词向量、RMSNorm
MIN_LR = 6e-4 if BIG else 1e-3              # AdamW 最后的学习率；Muon 的按同样的比例下降
WARMUP_ITERS = 200                          # 前多少步从 0 升到峰值
TRAIN_ITERS = 5000 if BIG else 800          # 训练多少步
EVAL_INTERVAL = 200                         # 每隔多少步评估一次
EVAL_ITERS = 20                             # 一次评估用多少批窗口
USE_AMP = GPU or torch.cpu.get_capabilities().get('avx512_bf16', False)  # 混合精度：硬件支持，就用 16 位浮点做矩阵乘法
# bfloat16 的范围与 float32 一样大；不支持它的显卡用 float16
AMP_DTYPE = 'bfloat16' if not GPU or torch.cuda.is_bf16_supported(including_emulation=False) else 'float16'
USE_COMPILE = BIG and bool(find_spec('triton') and (shutil.which('gcc') or shutil.which('clang')))  # 编译成融合的内核
WEIGHT_DECAY = 0.1 if BIG else 0.3          # 权重衰减，只对各层的矩阵；数据少，就大一些
BETAS = (0.9, 0.95)                         # AdamW 的一阶、二阶矩的衰减率
GRAD_CLIP = 1.0                             # 梯度范数的上限
NUM_WORKERS = 4 if GPU else 0               # 准备数据的子进程数；0：主进程自己准备
PREFETCH_FACTOR = 4                         # 每个子进程提前准备多少批

# 模型
MODEL_SIZES = {                             # 向量宽度、注意力头数、层数
    'cpu': (128, 4, 4),
    'tiny': (192, 6, 6),
    'small': (384, 6, 6),
    'medium': (512, 8, 8),
    'gpt2': (768, 12, 12),
    'gpt2-medium': (1024, 16, 24),
    'gpt2-large': (1280, 20, 36),
    'gpt2-xl': (1600, 25, 48),
}
N_EMBED, N_HEADS, N_LAYERS = MODEL_SIZES['gpt2' if BIG else 'cpu']      # 想换大小，改这里的名字
N_KV_HEADS = max(1, N_HEADS // 5) if N_HEADS % 2 else N_HEADS // 2      # k、v 的头数，要能整除 N_HEADS（xl 有 25 个）
DROP_OUT = 0.1 if BIG else 0.0              # 训练时随机丢弃的比例

# 采样
MAX_NEW_TOKENS = 200                        # 最多写多少个 token
TEMPERATURE = 0.8                           # 小于 1 更稳妥，大于 1 更大胆

# 检查点
CHECKPOINT_DIR = 'checkpoints/v10_muon'     # best.pt、latest.pt、ckpt_<步数>.pt 放在这里
SAVE_INTERVAL = 1000 if BIG else 200        # 每隔多少步另存一份 ckpt_<步数>.pt
PREVIEW_INTERVAL = 1000 if BIG else 200     # 每隔多少步试写一首
RESUME = True                               # 接着 latest.pt 训练；False：从头训练，旧文件移到 old-<时间>/

# wandb
WANDB_PROJECT = 'chinese-lyrics-gpt'        # 项目名
LOG_INTERVAL = 10                           # 每隔多少步记录一次这一批的损失、学习率、梯度范数


def fail(message):
    """遇到用户能改正的错误：说清哪里不对、怎么办，以状态 1 退出。"""
    sys.exit(f'错误：{message}')


# ---------- 数据 ----------
# 认职务、段落之前，繁体的字换成简体
simplified = str.maketrans('詞暫監製箏簫輯譯編錄劃籌統傳發樂擊帶貝鍵盤聲獨後橋廣號鳴謝權視覺設計隊團導間過門複經請純無',
                           '词暂监制筝箫辑译编录划筹统传发乐击带贝键盘声独后桥广号鸣谢权视觉设计队团导间过门复经请纯无')
# 不是歌词的行。署名要有职务，后面还要有分隔（作词：某某）：以「鼓」「制作」开头的歌词不能误删
junk = re.compile(r'''(?ix)\[[a-z]+:.*\]$|\W*(?:$|暂无歌词|.{0,3}歌词.*(?:上传|提供|访问)|.*著作权人   # 文件头、声明
    |.*未经.{0,15}(?:不得|禁止|请勿).{0,9}[唱录用载]|.*纯音乐\W*(?:$|.*欣|无[歌词])
    |(?=[\w\s/、&·]*?(?:[曲监制混缩箫筝弦胡琶辑译演绘]|(?<!歌)词|[琴鼓笛](?!声)|编(?!号)|录[音制]|[策企统宣][划筹传发]
        |[音击管]乐|[原翻配伴监]唱|乐[队团]|[人和童][声音]|母带|吉他|贝斯|键盘|萨克斯|小号|后期|总监|出品|发行|推广|版权
        |封面|视觉|设计|文案|海报|歌[手名]|鸣谢))(?:(?![你我她它的了是会说问台插关起动控])[\w\s/、&·]){1,30}    # 职务
        (?:[:：】〕\]]|\s*[-－–—](?!—)\s*\S{1,9}$|(?<=[作编][词曲]|作人)\s\S{2,4}$)                            # 分隔
    |(?:\b(?:lyric|word|writ|music|compos|arrang|pro[dg]|perform|mix|master|record|engineer|vocal|guitar|bass|drum|piano
        |string|keyboard|studio|back|execut|ISRC)\w*|and|[OS]\.?P\.?|\W)+(?:(?:by)?\s*[:：]|by\s+(?-i:[A-Z一-\u9fff]))
    |(?:重复|repeat|.?副歌|[主导]歌|[前间尾]奏|过门|桥段|[A-D]段|[独念旁]白|verse|(p\w+.)?chorus|bridge|refrain|hook
        |intro|outro|(the\s)?end|rap|music|interlude)[\s\dx×*一二三四男女合重复副主歌（()）]*[A-D]?\W*$)''')  # 段落


def clean(lyric):
    """歌词正文，一行一句：去掉时间标签、看不见的字符、「男：」这样的角色，和不是歌词的行。"""
    lyric = re.sub(r'[\[<]\d+[:：][\d.,:：]+[\]>]|[\u200b-\u200f\ufeff\ud800-\udfff]', '', html.unescape(lyric))
    lyric = re.sub(r'(?m)^\s*(?:[（(【\[][男女合]+[)）】\]]|[男女合]+[声聲唱]?[:：])', '', lyric.replace('\xa0', ' '))
    return '\n'.join(line for line in map(str.strip, lyric.splitlines()) if not junk.match(line.translate(simplified)))


def read_lyrics(file):
    """依次给出一个 lyrics*.json 里各首歌的正文。"""
    entries = json.loads(Path(file).read_text(encoding='utf-8-sig'))
    if not any(entry.get('lyric') for entry in entries):
        raise ValueError('没有一首有 "lyric"')
    for entry in entries:
        lyric = entry.get('lyric') or ''
        yield clean(lyric if type(lyric) is str else '\n'.join(lyric))         # 多数文件存成一行一项的列表


def load_songs():
    """所有歌曲的正文：清洗，去重（空格、标点不算），打乱。同样的文件和 SEED 得到同样的次序。"""
    files = sorted(glob.glob(f'{LYRICS_DIR}/**/lyrics*.json', recursive=True)) or [f'{LYRICS_DIR}/sample.json']
    texts = []
    for file in files:
        before = len(texts)
        try:
            texts.extend(read_lyrics(file))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            fail(f'{file} 第 {len(texts) - before + 1} 首附近出错（{error}）：要 UTF-8，格式见 ChineseLyrics/README.md')
    songs = list({re.sub(r'\W', '', text): text for text in texts if text}.values())     # 一样的只留一首
    print(f'{"、".join(files[:3])}：{len(songs)} 首，空 {texts.count("")}，重复 {sum(map(bool, texts)) - len(songs)}')
    return [songs[i] for i in torch.randperm(len(songs), generator=torch.Generator().manual_seed(SEED))][:MAX_SONGS]


def train_tokenizer(songs):
    """在训练歌曲上训练 BPE 词表（arXiv:1508.07909），返回 SentencePieceProcessor。

    decode(encode(s)) == s 对任何文字成立：不做全半角转换，空格、换行各有自己的 token，词表外的字拆成 UTF-8 字节。
    唯一的例外是符号「▁」（U+2581）：SentencePiece 用它记空格，解码出来也是空格。
    """
    text = '\n'.join(songs)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    path = Path(LYRICS_DIR) / f'bpe_{BPE_VOCAB_SIZE}_{digest}.model'    # 名字里有训练文本的指纹：换了数据就不会误用
    with suppress(OSError, RuntimeError):                           # 还没训练过，或者文件坏了：往下走
        return spm.SentencePieceProcessor(model_file=str(path))

    # 字节和特殊符号占去约 260 个名额，其余的最多八成给单个的字，先给常见的；罕见的字拆成字节，名额留给词
    common = {char for char, _ in Counter(text).most_common(int(0.8 * (BPE_VOCAB_SIZE - 260)))}
    text = ''.join(char if char in common else '\n' for char in text)
    model = io.BytesIO()
    try:
        # byte_fallback、identity、required_chars……：无损，任何文字都能还原；分隔符 eos 是 1 号
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(text.split('\n')), model_writer=model, model_type='bpe', vocab_size=BPE_VOCAB_SIZE,
            hard_vocab_limit=False, character_coverage=1.0, byte_fallback=True, required_chars='▁\n', unk_id=0,
            eos_id=1, bos_id=-1, normalization_rule_name='identity', add_dummy_prefix=False,
            remove_extra_whitespaces=False, max_sentence_length=2**30, minloglevel=2)
    except RuntimeError as error:
        fail(f'训练不出 BPE_VOCAB_SIZE = {BPE_VOCAB_SIZE} 的词表，歌太少或词表太小（{error}）')
    with suppress(OSError):                                         # 文件夹不能写，就不缓存
        temporary = path.with_suffix(f'.{os.getpid()}')
        temporary.write_bytes(model.getvalue())
        temporary.replace(path)                                     # 写完才改名：别处不会读到写了一半的
    return spm.SentencePieceProcessor(model_proto=model.getvalue())


def encode_songs(tokenizer, songs):
    """(N,) 所有歌曲的 token，每首后面一个分隔符（eos）。"""
    return torch.tensor([i for ids in tokenizer.encode(songs, add_eos=True) for i in ids])


def load_data():
    """返回 (tokenizer, 训练 token, 测试 token, 测试字符数)。按歌曲分：90% 训练，10% 测试。"""
    songs = load_songs()
    n = int(0.9 * len(songs))
    tokenizer = train_tokenizer(songs[:n])
    train_data, test_data = encode_songs(tokenizer, songs[:n]), encode_songs(tokenizer, songs[n:])
    print(f'词表 {len(tokenizer):,} | 训练 {len(train_data):,} | 测试 {len(test_data):,} token')
    if min(len(train_data), len(test_data)) <= BLOCK_SIZE:
        fail(f'数据太少，不够一个 BLOCK_SIZE = {BLOCK_SIZE} 的窗口：请换更多的数据，或改小 BLOCK_SIZE')
    return tokenizer, train_data, test_data, sum(len(song) + 1 for song in songs[n:])    # 一处分隔算一个字符


def get_windows(data, starts):
    """data 里从 starts (B,) 各处开始的窗口。y 是 x 的每个位置上要预测的下一个 token。"""
    positions = starts[:, None] + torch.arange(BLOCK_SIZE)          # (B, T)
    return data[positions], data[positions + 1]                     # (B, T), (B, T)


def get_batch(data, step):
    """第 step 步的 BATCH_SIZE 个随机窗口，只由 (SEED, step) 决定。"""
    generator = torch.Generator().manual_seed(hash((SEED, step)))
    return get_windows(data, torch.randint(len(data) - BLOCK_SIZE, (BATCH_SIZE,), generator=generator))


class TrainBatches(Dataset):
    """第 step 项是第 step 步的一批窗口。"""

    def __init__(self, data):
        self.data = data

    def __getitem__(self, step):
        return get_batch(self.data, step)


received = []                                                       # 收到的停止信号


def catch_signals(worker_id=None):
    """停止信号只记下来：训练循环存好了再停，子进程不理会。同一个信号再来一次，立即停。"""
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, 'SIGHUP', signal.SIGTERM)):   # Windows 没有 SIGHUP
        if signal.getsignal(number) != signal.SIG_IGN:              # nohup 已经不理会 SIGHUP
            signal.signal(number, lambda n, frame: received.append(n) or signal.signal(n, signal.SIG_DFL))


def train_loader(data, start):
    """依次给出第 start、start + 1…… 步的批：由子进程提前准备，GPU 不必等。"""
    return DataLoader(TrainBatches(data), batch_size=None, sampler=range(start, TRAIN_ITERS), num_workers=NUM_WORKERS,
                      prefetch_factor=PREFETCH_FACTOR if NUM_WORKERS else None,
                      pin_memory=GPU, worker_init_fn=catch_signals)


# ---------- 模型 ----------
def rope_table():
    """RoPE（arXiv:2104.09864）各旋转角的 cos 与 sin，(2, BLOCK_SIZE, head_size / 2)。

    位置 t 上的第 i 对通道转 t * 10000^(-2i / head_size) 弧度；通道 i 与 i + head_size / 2 是一对。
    """
    head_size = N_EMBED // N_HEADS
    if head_size % 2:
        fail(f'每个头有 N_EMBED / N_HEADS = {head_size} 个通道，是奇数：RoPE 把通道两两配对，请改其中一个')
    frequencies = 10000.0 ** (-torch.arange(0, head_size, 2) / head_size)
    angles = torch.outer(torch.arange(BLOCK_SIZE).float(), frequencies)
    return torch.stack((angles.cos(), angles.sin()))                # (2, BLOCK_SIZE, head_size / 2)


def apply_rope(x, rope):
    """把每对通道看成平面上的一点 (a, b)，按 token 的位置旋转。

    q、k 都转过之后，点积里的位置信息只剩两个位置之差。
    """
    cos, sin = rope                                                 # 各 (T, head_size / 2)
    a, b = x.chunk(2, dim=-1)                                       # 各 (..., T, head_size / 2)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class MultiHeadAttention(nn.Module):
    """N_HEADS 个查询头，N_KV_HEADS 组 k、v；flash attention 不存 (T, T) 的矩阵（arXiv:2205.14135）。"""

    def __init__(self):
        super().__init__()
        if N_HEADS % N_KV_HEADS:
            fail(f'N_HEADS = {N_HEADS} 不能被 N_KV_HEADS = {N_KV_HEADS} 整除：每组 k、v 要给同样多的头用，请改其中一个')
        head_size = N_EMBED // N_HEADS
        self.q = nn.Linear(N_EMBED, N_EMBED, bias=False)
        self.k = nn.Linear(N_EMBED, N_KV_HEADS * head_size, bias=False)
        self.v = nn.Linear(N_EMBED, N_KV_HEADS * head_size, bias=False)
        self.q_norm = nn.RMSNorm(head_size, eps=1e-5)
        self.k_norm = nn.RMSNorm(head_size, eps=1e-5)
        self.proj = nn.Linear(N_EMBED, N_EMBED, bias=False)
        self.dropout = nn.Dropout(DROP_OUT)

    def forward(self, x, rope):                                     # (B, T, C)
        B, T, C = x.shape
        q = self.q(x).view(B, T, N_HEADS, -1).transpose(1, 2)       # (B, n_heads, T, head_size)
        k = self.k(x).view(B, T, N_KV_HEADS, -1).transpose(1, 2)    # (B, n_kv_heads, T, head_size)
        v = self.v(x).view(B, T, N_KV_HEADS, -1).transpose(1, 2)
        q, k = self.q_norm(q.float()), self.k_norm(k.float())       # 用 float32 归一
        q, k = apply_rope(q, rope), apply_rope(k, rope)
        k, v = (part.repeat_interleave(N_HEADS // N_KV_HEADS, dim=1) for part in (k, v))    # (B, n_heads, T, head_size)
        dropout = DROP_OUT if self.training else 0.0                # 函数的实参，eval() 关不掉它
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        out = out.transpose(1, 2).reshape(B, T, C)                  # 各头接起来
        return self.dropout(self.proj(out))


class FeedForward(nn.Module):
    """SwiGLU：up 放宽，gate 决定各通道放行多少，down 收回来。"""

    def __init__(self):
        super().__init__()
        hidden = math.ceil(N_EMBED * 8 / 3 / 64) * 64               # 三个 8/3 倍与两个 4 倍的一样多，凑成 64 的倍数
        self.gate = nn.Linear(N_EMBED, hidden, bias=False)
        self.up = nn.Linear(N_EMBED, hidden, bias=False)
        self.down = nn.Linear(hidden, N_EMBED, bias=False)
        self.dropout = nn.Dropout(DROP_OUT)

    def forward(self, x):                                           # (B, T, C)
        return self.dropout(self.down(F.silu(self.gate(x)) * self.up(x)))


class Block(nn.Module):
    """一层：先交流（注意力），再思考（前馈）。每一步都加回原来的 x（残差）。"""

    def __init__(self):
        super().__init__()
        self.ln1 = nn.RMSNorm(N_EMBED, eps=1e-5)
        self.attention = MultiHeadAttention()
        self.ln2 = nn.RMSNorm(N_EMBED, eps=1e-5)
        self.ffwd = FeedForward()

    def forward(self, x, rope):                                     # (B, T, C)
        x = x + self.attention(self.ln1(x), rope)
        return x + self.ffwd(self.ln2(x))


class GPT(nn.Module):
    """token 编号 -> 向量 -> N_LAYERS 层 -> 下一个 token 的得分。位置由 RoPE 在注意力里给出。"""

    def __init__(self, vocab_size):
        super().__init__()
        if N_EMBED % N_HEADS:
            fail(f'N_EMBED = {N_EMBED} 不能被 N_HEADS = {N_HEADS} 整除：每个头要分到同样多的通道，请改其中一个')
        self.token_embedding = nn.Embedding(vocab_size, N_EMBED)
        self.register_buffer('rope', rope_table(), persistent=False)    # 全模型共用一张表；算得出来，不必存
        self.dropout = nn.Dropout(DROP_OUT)
        self.blocks = nn.ModuleList(Block() for _ in range(N_LAYERS))
        self.ln_f = nn.RMSNorm(N_EMBED, eps=1e-5)
        self.lm_head = nn.Linear(N_EMBED, vocab_size, bias=False)
        self.lm_head.weight = self.token_embedding.weight           # 输入和输出共用
        std = 0.02 * math.sqrt(768 / N_EMBED)                       # GPT-2 的初始化：宽 768 时标准差 0.02，窄的要大一些
        for name, p in self.named_parameters():
            residual = name.endswith(('attention.proj.weight', 'ffwd.down.weight'))
            if p.ndim == 2:
                nn.init.normal_(p, std=std / math.sqrt(2 * N_LAYERS) if residual else std)      # 一共加 2 N_LAYERS 次

    # 矩阵乘法用 AMP_DTYPE 算；权重、损失仍是 float32（arXiv:1710.03740），GPU 上 softmax、归一化也是
    @torch.autocast(torch.device(DEVICE).type, dtype=getattr(torch, AMP_DTYPE), enabled=USE_AMP)
    def forward(self, idx, targets=None):                           # (B, T), (B, T)
        T = idx.shape[1]
        x = self.dropout(self.token_embedding(idx))                 # (B, T, C)
        for block in self.blocks:
            x = block(x, self.rope[:, :T])
        logits = self.lm_head(self.ln_f(x))                         # (B, T, vocab_size)
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss

    @torch.no_grad()
    @torch.compiler.set_stance('force_eager')                       # 长度每步都变：不编译，免得一再重新编译
    def generate(self, idx, stop):                                  # (1, T)
        """接着 idx 写，到 stop 或 MAX_NEW_TOKENS 个 token 为止。自带随机数发生器：采样不影响训练。"""
        self.eval()
        generator = torch.Generator().manual_seed(SEED)
        for _ in range(MAX_NEW_TOKENS):
            logits, _ = self(idx[:, -BLOCK_SIZE:])                  # (1, T, vocab_size)
            probs = F.softmax(logits[:, -1].float().cpu() / TEMPERATURE, dim=-1)
            idx_next = torch.multinomial(probs, 1, generator=generator)     # (1, 1)
            if idx_next.item() == stop:
                break
            idx = torch.cat((idx, idx_next.to(idx.device)), dim=1)
        self.train()
        return idx


# ---------- 训练 ----------
@torch.no_grad()
def estimate_loss(model, data, n_batches=EVAL_ITERS):
    """data 上等距的 n_batches 批窗口里，每个 token 的平均损失（nat）。每次都是同样的窗口，前后才好比较。"""
    model.eval()
    starts = torch.linspace(0, len(data) - BLOCK_SIZE - 1, n_batches * BATCH_SIZE, dtype=torch.float64).long()
    total = 0.0
    for batch in starts.split(MICRO_BATCH_SIZE):
        x, y = get_windows(data, batch)
        total += model(x.to(DEVICE), y.to(DEVICE))[1] * len(batch)
    model.train()
    loss = total.item() / len(starts)
    if not math.isfinite(loss):
        fail('损失不是有限的数：训练发散了，请改小学习率再运行')
    return loss


def flops_per_token(model):
    """训练一个 token 的浮点运算次数（arXiv:2204.02311）：前向加反向，矩阵的每个参数 6 次，注意力每层 12 C T 次。"""
    matrices = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear))
    return 6 * matrices + 12 * N_LAYERS * N_EMBED * BLOCK_SIZE


def matrix_rate():
    """这台设备做大矩阵乘法的速度，FLOP/s：MFU 以它为 100%。用随机数：全是 0 的矩阵耗电少、不降频，量出来偏快。"""
    n, best = 8192 if GPU else 2048, 0.0
    a = torch.randn(n, n, device=DEVICE, dtype=getattr(torch, AMP_DTYPE) if USE_AMP else torch.float32)
    for _ in range(10):
        started = time.perf_counter()
        (a @ a)[0, 0].item()                                        # item() 等它算完
        best = max(best, 2 * n ** 3 / (time.perf_counter() - started))
    return best


def report(step, train, test, bits, tok_per_s, mfu, memory):
    """打印一行日志。第 0 步还没有训练，不知道速度。"""
    left = round((TRAIN_ITERS - step) * BATCH_SIZE * BLOCK_SIZE / tok_per_s) if step else 0
    speed = f'{tok_per_s:,.0f} tok/s | 剩余 {left // 60:02d}:{left % 60:02d}' if step else '- tok/s | 剩余 --:--'
    speed += (f' | MFU {mfu:.1%}' if step else ' | MFU -') + (f' | 显存 {memory:.1f} GiB' if GPU else '')
    print(f'step {step:5d}/{TRAIN_ITERS} | train {train:.4f} | test {test:.4f} | {bits:.3f} bits/char | {speed}')


def compile_blocks(model, data):
    """就地编译各层：层层相同，只需编译一次。先空算一遍（结果不要），编译的时间就不算在 tok/s 里。"""
    print('torch.compile 编译中，要等一会儿……')
    started = time.perf_counter()
    for block in model.blocks:
        block.compile()
    x, y = (part[:MICRO_BATCH_SIZE] for part in get_batch(data, 0))
    model(x.to(DEVICE), y.to(DEVICE))[1].backward()
    model.zero_grad()
    print(f'编译用了 {time.perf_counter() - started:.0f} 秒')


def write(model, tokenizer):
    """让模型写一首，从分隔符写起，写到分隔符为止。"""
    eos = tokenizer.eos_id()
    return tokenizer.decode(model.generate(torch.tensor([[eos]], device=DEVICE), eos)[0, 1:].tolist())


def get_lr(step):
    """第 step 步的学习率与峰值之比（0 到 1）：先线性上升，再沿余弦下降（arXiv:1608.03983）。"""
    if step < WARMUP_ITERS:
        return (step + 1) / (WARMUP_ITERS + 1)
    progress = (step - WARMUP_ITERS) / (TRAIN_ITERS - WARMUP_ITERS)     # 0 到 1
    low = MIN_LR / LEARNING_RATE
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))


def orthogonalize(m):
    """把 m (..., 行, 列) 近似地正交化：牛顿–舒尔茨迭代五次，奇异值大多来到 0.7 和 1.2 之间。

    x = U S Vᵀ 时，x xᵀ x = U S³ Vᵀ：这样的多项式只改变奇异值。系数是调出来的：小的奇异值每次放大 3.4 倍，不求精确到 1。
    """
    x = m / (m.norm(dim=(-2, -1), keepdim=True) + 1e-7)             # 奇异值不超过 1
    x = x.to(getattr(torch, AMP_DTYPE)) if USE_AMP else x
    if m.shape[-2] > m.shape[-1]:
        x = x.mT                                                    # 让行数不多于列数：x @ x.mT 小一些
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x         # 每个奇异值 s 变成 3.4445 s - 4.775 s³ + 2.0315 s⁵
    return x.mT if m.shape[-2] > m.shape[-1] else x


class Muon(torch.optim.AdamW):
    """第一组是各层的矩阵，用 Muon（kellerjordan.github.io/posts/muon；衰减见 arXiv:2502.16982）；其余的组用 AdamW。"""

    @torch.no_grad()
    def step(self, closure=None):
        muon, *adamw = self.param_groups
        self.param_groups = adamw                                   # AdamW 只看见其余的组
        super().step(closure)
        self.param_groups = [muon, *adamw]
        same_shape = defaultdict(list)
        for p in muon['params']:
            same_shape[p.shape].append(p)
        for (rows, columns), matrices in same_shape.items():        # 形状相同的叠在一起，一次正交化：快得多
            updates = []
            for p in matrices:
                if p not in self.state:                             # step 在 Muon 里用不着，AdamW 读检查点时要有
                    self.state[p] = {'momentum': torch.zeros_like(p), 'step': torch.zeros(())}
                momentum = self.state[p]['momentum']
                momentum.lerp_(p.grad, 1 - MUON_MOMENTUM)
                updates.append(p.grad.lerp(momentum, MUON_MOMENTUM))    # Nesterov：比动量再往前看一步
            for p, update in zip(matrices, orthogonalize(torch.stack(updates))):
                p.mul_(1 - muon['lr'] * muon['weight_decay'])
                p.add_(update, alpha=-muon['lr'] * max(1, rows / columns) ** 0.5)   # 高的矩阵走大一些


def make_optimizer(model):
    """Muon 更新各层的矩阵，AdamW（arXiv:1711.05101）更新词向量和 RMSNorm。peak 是一组的学习率的峰值。

    不用 fused 的 AdamW：它自己跳过溢出的一步，Muon 那一半却不会跳过。
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and 'embedding' not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim < 2 or 'embedding' in name]
    return Muon([{'params': matrices, 'peak': MUON_LR, 'weight_decay': WEIGHT_DECAY},
                 {'params': rest, 'peak': LEARNING_RATE, 'weight_decay': 0.0}], betas=BETAS)


def config(songs):
    """脚本的名字、训练数据的指纹、全部常量，写进检查点。经过 JSON：weights_only 不读 Path 这样的值。"""
    constants = {name: value for name, value in globals().items() if name.isupper() and name not in ('F', 'GPT')}
    return json.loads(json.dumps({'SCRIPT': Path(__file__).name, 'SONGS': songs, **constants}, default=str))


def save_checkpoint(name, checkpoint):
    """写到临时文件，落盘，再改名：任何时刻被杀、断电、磁盘写满，原来的文件都完好。"""
    path, temporary = Path(CHECKPOINT_DIR) / name, Path(CHECKPOINT_DIR) / 'unfinished.tmp'
    try:
        with open(temporary, 'wb') as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:                        # 磁盘写满时，torch.save 两种都可能抛出
        fail(f'写不了 {path}（{error}）。原来的检查点完好：解决之后（磁盘满了就腾出空间）再运行，从 latest.pt 继续')


def move_old_checkpoints():
    """旧的检查点移到 old-<时间>/，不覆盖。"""
    folder = Path(CHECKPOINT_DIR) / time.strftime('old-%Y%m%d-%H%M%S')
    for file in list(Path(CHECKPOINT_DIR).glob('*.pt')):
        folder.mkdir(exist_ok=True)
        file.rename(folder / file.name)


def lock_folder():
    """一个文件夹同时只给一次训练用。锁随进程消失：kill -9 之后也不必收拾。"""
    try:
        lock = sqlite3.connect(Path(CHECKPOINT_DIR) / 'lock', timeout=0)
        lock.executescript(f'PRAGMA user_version = {os.getpid()}; BEGIN IMMEDIATE')     # 不提交，锁就一直在
        return lock
    except sqlite3.OperationalError as error:
        if 'locked' in str(error):
            fail(f'{CHECKPOINT_DIR}/ 正由进程 {lock.execute("PRAGMA user_version").fetchone()[0]} 使用，请等它结束')
        print(f'{CHECKPOINT_DIR}/ 无法加锁（{error}）：请不要同时在这里训练两次')


def resume(model, optimizer, scaler, settings):
    """从 latest.pt 接着训练：读，核对，装回去。返回 (第几步, 最好的 test, wandb_id)，没有就是 (0, inf, None)。"""
    path = Path(CHECKPOINT_DIR) / 'latest.pt'
    if not RESUME or not path.exists():
        move_old_checkpoints()
        return 0, math.inf, None
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
        saved, step, state = checkpoint['config'], checkpoint['step'], checkpoint['optimizer']['state']
    except Exception as error:
        fail(f'{path} 读不出来（{type(error).__name__}）：把一份 ckpt_*.pt 复制成 latest.pt，或设 RESUME = False')
    changed = {name: f'{name} {saved.get(name)} → {now}' for name, now in settings.items() if now != saved.get(name)}
    difference = f'（变了：{"，".join(changed.values())}）' if changed else ''
    if step >= saved['TRAIN_ITERS'] and changed.keys() - {'TRAIN_ITERS', 'RESUME'}:
        print(f'上一次训练已经完成，这次的设置不同{difference}，从头训练：旧的检查点移到 {CHECKPOINT_DIR}/old-<时间>/')
        move_old_checkpoints()
        return 0, math.inf, None
    if changed.keys() & {'SONGS', 'N_EMBED', 'N_HEADS', 'N_KV_HEADS', 'N_LAYERS'}:
        fail(f'{path} 还没有训练完，但无法续训{difference}：改回去，或设 RESUME = False 从头训练（旧文件会移走）')
    model.load_state_dict(checkpoint['model'])
    optimizer.load_state_dict({**optimizer.state_dict(), 'state': state})       # 学习率、衰减用现在的常量
    scaler.load_state_dict(checkpoint['scaler'] or scaler.state_dict())     # 存的时候没用 float16，就是空的
    incomparable = changed.keys() & {'BLOCK_SIZE', 'BATCH_SIZE', 'EVAL_ITERS'}
    print(f'从 {path} 的第 {step} 步继续{difference}' + ('，评估的窗口变了，重新评选 best.pt' if incomparable else ''))
    return step, math.inf if incomparable else checkpoint['best_test_loss'], checkpoint.get('wandb_id')


def start_wandb(run_id, settings):
    """开始（或接着 run_id）记录。没有登录、没有网络就离线记录：不会停下来问，也不耽误训练。"""
    options = {'project': WANDB_PROJECT, 'id': run_id, 'resume': 'allow', 'config': settings,
               'settings': wandb.Settings(silent=True, init_timeout=20, finish_timeout=60)}
    try:
        mode = wandb.setup().settings.mode                          # 默认 online；WANDB_MODE 或 wandb offline 可以改
        run = wandb.init(mode='offline' if mode == 'online' and not wandb.login(prompt=False) else mode, **options)
    except Exception:                                               # 没有网络、密钥失效……
        run = wandb.init(mode='offline', **options)
    run.define_metric('*', step_metric='step')                      # 续训会重走几步，wandb 自己的计数器不会退回去
    print(f'wandb：{f"离线，wandb leet 看曲线，wandb sync {Path(run.dir).parent} 上传" if run.offline else run.url}')
    return run


def try_to(function, *arguments):
    """wandb 出了问题（进程被杀、磁盘写满……），也不停下训练。"""
    with suppress(Exception):
        function(*arguments)


def main():
    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision('high')                      # 留在 float32 的矩阵乘法用 TF32
    print(f'设备 {DEVICE} | ' + ('大模型' if BIG else '小模型（大模型要 GPU、10 MB 歌词：ChineseLyrics/README.md）'))
    tokenizer, train_data, test_data, test_chars = load_data()
    epochs = TRAIN_ITERS * BATCH_SIZE * BLOCK_SIZE / len(train_data)
    if epochs > 20:
        print(f'训练数据会看 {epochs:.0f} 遍，会过拟合（train 还在降，test 却上升）：请用更多的数据')

    model = GPT(len(tokenizer)).to(DEVICE)
    optimizer = make_optimizer(model)
    # float16 的小梯度会变成 0：先把损失放大，更新前再缩回来；放得太大而溢出了，就跳过这一步
    scaler = torch.amp.GradScaler(torch.device(DEVICE).type, enabled=USE_AMP and AMP_DTYPE == 'float16')
    Path(CHECKPOINT_DIR).mkdir(parents=True, exist_ok=True)
    # lock 要留着：连接一关，锁就没了
    lock, settings = lock_folder(), config(hashlib.sha256(train_data.numpy()).hexdigest()[:12])
    start, best_test_loss, wandb_id = resume(model, optimizer, scaler, settings)
    if start >= TRAIN_ITERS:
        print(f'训练已经完成（{start} 步）。想训练更久：调大 TRAIN_ITERS；想从头再来：设 RESUME = False')
        return
    print(f'参数 {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M | 瞎猜的损失 {math.log(len(tokenizer)):.4f}')
    if USE_COMPILE:
        compile_blocks(model, train_data)

    run = start_wandb(wandb_id, settings)
    peak, flops = matrix_rate(), flops_per_token(model)
    print(f'大矩阵乘法 {peak / 1e12:.2f} TFLOP/s，算力全用上是 {peak / flops:,.0f} tok/s')
    if GPU:
        torch.cuda.reset_peak_memory_stats(DEVICE)                  # 显存的峰值从这里算起
    catch_signals()
    batches = iter(train_loader(train_data, start))
    began = time.perf_counter()
    for step in range(start, TRAIN_ITERS + 1):
        last = step == TRAIN_ITERS
        fresh, stop = step == 0 or step > start, step > start and bool(received)    # 续训的第一步，上次已经评估过
        evaluate = fresh and (step % EVAL_INTERVAL == 0 or last)
        if evaluate and GPU:
            torch.cuda.synchronize(DEVICE)                          # 等 GPU 算完，计时才准
        paused = time.perf_counter()
        if evaluate:
            train_loss = estimate_loss(model, train_data)
            test_loss = estimate_loss(model, test_data)
            improved, best_test_loss = test_loss < best_test_loss, min(test_loss, best_test_loss) if step else math.inf
            if last:                                                # 最后一次读完整个测试集
                test_loss = estimate_loss(model, test_data, math.ceil(len(test_data) / (BATCH_SIZE * BLOCK_SIZE)))
            bits = test_loss / math.log(2) * len(test_data) / test_chars    # 每个字符多少 bit
            tok_per_s = (step - start) * BATCH_SIZE * BLOCK_SIZE / (paused - began)
            mfu = tok_per_s * flops / peak
            memory = torch.cuda.max_memory_allocated(DEVICE) / 2**30 if GPU else 0.0
            report(step, train_loss, test_loss, bits, tok_per_s, mfu, memory)
            try_to(run.log, {'step': step, 'test/loss': test_loss, 'test/bits_per_char': bits,
                             'tok_per_s': tok_per_s, 'mfu': mfu, 'gpu_memory_gib': memory})
        if fresh and (step % PREVIEW_INTERVAL == 0 or last):
            text = write(model, tokenizer)
            print(f'--- 第 {step} 步写的 ---\n{text}\n---')
            try_to(run.log, {'step': step, 'samples': wandb.Table(columns=['step', 'text'], data=[[step, text]])})
        if step > start and (evaluate or step % SAVE_INTERVAL == 0 or stop):
            if not all(p.isfinite().all() for p in model.parameters()):
                fail(f'第 {step} 步的权重不是有限的数，没有保存：训练发散了，请改小学习率再运行')
            checkpoint = {'model': model.state_dict(), 'step': step, 'best_test_loss': best_test_loss,
                          'config': settings, 'tokenizer': tokenizer.serialized_model_proto(), 'wandb_id': run.id}
            if evaluate and improved:
                save_checkpoint('best.pt', checkpoint)              # 没有优化器的状态：用来采样、分享
            checkpoint |= {'optimizer': optimizer.state_dict(), 'scaler': scaler.state_dict()}
            if step % SAVE_INTERVAL == 0:
                save_checkpoint(f'ckpt_{step}.pt', checkpoint)
            save_checkpoint('latest.pt', checkpoint)                # 最后写：之前被杀，就从上一份重走这几步
        if last or stop:
            break
        began += time.perf_counter() - paused                       # 评估和写作的时间不算

        for group in optimizer.param_groups:
            group['lr'] = group['peak'] * get_lr(step)
        torch.manual_seed(hash((SEED, step)))                       # dropout 由 (SEED, step) 决定：续训也一样
        x, y = next(batches)
        optimizer.zero_grad()
        loss = 0.0                                                  # 加起来是整批的平均
        for micro_x, micro_y in zip(x.split(MICRO_BATCH_SIZE), y.split(MICRO_BATCH_SIZE)):
            _, micro_loss = model(micro_x.to(DEVICE, non_blocking=GPU), micro_y.to(DEVICE, non_blocking=GPU))
            micro_loss = micro_loss * len(micro_x) / BATCH_SIZE     # 加起来，正是整批的平均
            scaler.scale(micro_loss).backward()                     # 梯度加在一起，直到 zero_grad
            loss += micro_loss.detach()
        scaler.unscale_(optimizer)                                  # 先还原，再裁剪
        grad_norm = nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
        scaler.step(optimizer)
        scaler.update()
        if step % LOG_INTERVAL == 0:
            try_to(run.log, {'step': step, 'train/loss': loss.item(), 'lr': group['lr'], 'grad_norm': grad_norm.item()})

    try_to(run.finish)
    if stop and not last:
        print(f'收到停止信号，停在第 {step} 步，已存入 {CHECKPOINT_DIR}/latest.pt：再运行就会继续')
        signal.raise_signal(received[0])                            # 存好了，按信号原来的方式退出


if __name__ == '__main__':
    sys.stdout.reconfigure(errors='replace', line_buffering=True)   # 终端显示不了的字写成 ?；存进文件也逐行写
    try:
        main()
    except KeyboardInterrupt:
        fail('已中断')
    except torch.OutOfMemoryError:
        fail(f'显存不够：请改小 MICRO_BATCH_SIZE（现在是 {MICRO_BATCH_SIZE}），比如减半，再运行')
