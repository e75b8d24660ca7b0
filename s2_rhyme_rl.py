"""练习押韵：自己写一批歌，押得好的写法以后多写，押得不好的少写（策略梯度）。

相对 s1_control.py 的改动：
- 从 s1 的模型 `INIT_FROM` 开始（`load_base`），模型多大看它，所以开头不说大小，也不提醒过拟合；它也留着做 `base`：
  练习时不能离它太远；
- 一步不再读歌词，而是写 `BATCH_SIZE` 首：`generate` 一批一起写，存下 k、v（`MultiHeadAttention`、`Block`、`GPT`）；
- `practice` 写一批，`score` 给每一节打分，只看写出来的字：第 2、4 行押韵，字不同，没有重复的行；
- `policy_loss`：得分比平均高的，把决定韵的 token 的概率往上推，低的往下压（REINFORCE，Williams 1992，只算这几个 token；
  GRPO 也拿同一批的平均作比较，arXiv:2402.03300）；KL 是缰绳：离 `base` 越远，损失越大，`KL_WEIGHT` 定它的松紧；
- 步子小、步数少（`LEARNING_RATE`、`MIN_LR`、`MUON_LR`、`WARMUP_ITERS`、`TRAIN_ITERS`），一步却久得多：评估、保存都勤
  （`EVAL_INTERVAL`、`EVAL_ITERS`、`SAVE_INTERVAL`、`PREVIEW_INTERVAL`、`LOG_INTERVAL`）；
- 写的和练的必须是同一个模型，所以 `DROP_OUT` 是 0；
- 训练数据只用来评估（tok/s 里有写歌的时间）：不再要 `get_batch`、`TrainBatches`、`train_loader` 和它们的 `DROP_FIELD`、
  `NUM_WORKERS`、`PREFETCH_FACTOR`，不训练分词器（`train_tokenizer`、`BPE_VOCAB_SIZE`、`load_data`），
  也不编译（`compile_blocks`、`USE_COMPILE`）；
- `best.pt` 是最近一次评估时的；检查点有自己的文件夹 `CHECKPOINT_DIR`。

测得（AMD EPYC，2 核，自带的样本）：押韵的节从 68.5% 到 89.1%；不练习，同样的时间多写几遍挑最好的：98.3%。

看差异：git diff --no-index s1_control.py s2_rhyme_rl.py
运行：python s1_control.py && python s2_rhyme_rl.py
"""
import copy
import glob
import hashlib
import html
import json
import math
import os
import re
import signal
import sqlite3
import sys
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import sentencepiece as spm
import torch
import torch.nn as nn
import wandb
from pypinyin import Style, lazy_pinyin
from torch.nn import functional as F

# ---------- 超参数：改这里，再运行。「A if BIG else B」：有 GPU、数据也够多时取 A，否则取 B ----------
DEVICE = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
GPU = DEVICE.startswith('cuda')

# 数据
LYRICS_DIR = 'ChineseLyrics'                # 歌词文件夹：里面的 lyrics*.json，没有就用 sample.json
MAX_SONGS = None                            # 最多用多少首歌；None：全部
# 大模型要 10 MB 以上的歌词
BIG = GPU and sum(Path(f).stat().st_size for f in glob.glob(f'{LYRICS_DIR}/**/lyrics*.json', recursive=True)) > 10e6
INIT_FROM = 'checkpoints/s1_control/best.pt'    # 从哪个模型开始
SEED = 1337                                 # 随机种子：同一个种子，同样的结果

# 训练
BATCH_SIZE = 64                             # 一步写多少首，评估一批多少段
MICRO_BATCH_SIZE = 16 if BIG else 4         # 一份多少个窗口：显存只要放得下一份
BLOCK_SIZE = 512 if BIG else 448            # 窗口长度（token），也就是模型能看到的上文
KL_WEIGHT = 0.5                             # 缰绳（KL）多紧；0：没有缰绳
MUON_LR = 0.001                             # Muon 的学习率的峰值：各层的矩阵
MUON_MOMENTUM = 0.95                        # Muon 的动量
LEARNING_RATE = 5e-4                        # AdamW 的学习率的峰值：词向量、RMSNorm
MIN_LR = 5e-5                               # AdamW 最后的学习率；Muon 的按同样的比例下降
WARMUP_ITERS = 2                            # 前多少步从 0 升到峰值
TRAIN_ITERS = 20                            # 训练多少步
EVAL_INTERVAL = 5                           # 每隔多少步评估一次
EVAL_ITERS = 2                              # 一次评估用多少批窗口
USE_AMP = GPU or torch.cpu.get_capabilities().get('avx512_bf16', False)  # 混合精度：硬件支持，就用 16 位浮点做矩阵乘法
# bfloat16 的范围与 float32 一样大；不支持它的显卡用 float16
AMP_DTYPE = 'bfloat16' if not GPU or torch.cuda.is_bf16_supported(including_emulation=False) else 'float16'
WEIGHT_DECAY = 0.1 if BIG else 0.3          # 权重衰减，只对各层的矩阵；数据少，就大一些
BETAS = (0.9, 0.95)                         # AdamW 的一阶、二阶矩的衰减率
GRAD_CLIP = 1.0                             # 梯度范数的上限

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
DROP_OUT = 0.0                              # 训练时随机丢弃的比例

# 采样
MAX_NEW_TOKENS = 400                        # 最多写多少个 token
TEMPERATURE = 0.8                           # 小于 1 更稳妥，大于 1 更大胆

# 检查点
CHECKPOINT_DIR = 'checkpoints/s2_rhyme_rl'    # best.pt、latest.pt、ckpt_<步数>.pt 放在这里
SAVE_INTERVAL = 10                          # 每隔多少步另存一份 ckpt_<步数>.pt
PREVIEW_INTERVAL = 10                       # 每隔多少步试写一首
RESUME = True                               # 接着 latest.pt 训练；False：从头训练，旧文件移到 old-<时间>/

# wandb
WANDB_PROJECT = 'chinese-lyrics-gpt'        # 项目名
LOG_INTERVAL = 1                            # 每隔多少步记录一次这一批的损失、学习率、梯度范数


def fail(message):
    """遇到用户能改正的错误：说清哪里不对、怎么办，以状态 1 退出。"""
    sys.exit(f'错误：{message}')


# ---------- 数据 ----------
FIELDS = {'情绪': 'mood', '歌手': 'singer', '歌名': 'name'}         # 歌头的各项，和它们在 lyrics*.json 里的名字
# 十三辙：北方戏曲、歌词的韵部（张洵如《北平音系十三辙》，1937），各有哪些韵母
RHYMES = {'发花': 'a ia ua', '梭坡': 'o e uo io', '乜斜': 'ie ve', '一七': 'i v er', '姑苏': 'u', '怀来': 'ai uai',
          '灰堆': 'ei uei', '遥条': 'ao iao', '油求': 'ou iou', '言前': 'an ian uan van', '人辰': 'en in uen vn',
          '江阳': 'ang iang uang', '中东': 'eng ing ueng ong iong', '无': ''}
CODES = [f'<{name}>' for name in ('续', '歌词', *FIELDS, *RHYMES, *range(1, 21))]     # 各是一个 token，编号从 2 起
CONTINUED, LYRIC, *field_ids = range(2, 4 + len(FIELDS))            # CODES 里前几个的编号
brackets = str.maketrans('<>\n', '〈〉 ')                           # 尖括号留给标记；歌头里没有换行
known = set()                                                       # 训练歌曲里有过的 (项, 值)：以后可以这样要求


def mark_line(line):
    """给一行标上字数（20 以上都写 20）和韵：「旧站台上」成了「<4>旧站台<江阳>上」。末尾不是汉字的，韵是「无」。"""
    found = re.search(r'[\u4e00-\u9fff](?=\W*$)', line)
    at = found.start() if found else len(line) - 1
    final = lazy_pinyin(line[max(0, at - 3):at + 1], Style.FINALS)[-1] if found else ''     # 多音字看前三个字
    rhyme = next((name for name, finals in RHYMES.items() if final in finals.split()), '无')
    return f'<{min(20, len(line))}>{line[:at]}<{rhyme}>{line[at:]}'


def lyric_of(text):
    """去掉歌头、字数和韵。"""
    return re.sub('<[^<>]*>', '', text.split('<歌词>')[-1])


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
    """依次给出一个 lyrics*.json 里各首歌：歌头，「<歌词>」，标了字数和韵的正文。"""
    entries = json.loads(Path(file).read_text(encoding='utf-8-sig'))
    if not any(entry.get('lyric') for entry in entries):
        raise ValueError('没有一首有 "lyric"')
    for entry in entries:
        lyric = entry.get('lyric') or ''
        lyric = clean(lyric if type(lyric) is str else '\n'.join(lyric))       # 多数文件存成一行一项的列表
        lines = [mark_line(line.translate(brackets)) for line in lyric.split('\n')]
        head = [f'<{name}>{str(entry[key]).translate(brackets)[:20]}' for name, key in FIELDS.items() if entry.get(key)]
        yield ''.join((*head, '<歌词>', '\n'.join(lines))) if lyric else ''


def load_songs():
    """所有歌曲，歌头和标了字数、韵的正文：清洗，去重（空格、标点不算），打乱。同样的文件和 SEED 得到同样的次序。"""
    files = sorted(glob.glob(f'{LYRICS_DIR}/**/lyrics*.json', recursive=True)) or [f'{LYRICS_DIR}/sample.json']
    texts = []
    for file in files:
        before = len(texts)
        try:
            texts.extend(read_lyrics(file))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            fail(f'{file} 第 {len(texts) - before + 1} 首附近出错（{error}）：要 UTF-8，格式见 ChineseLyrics/README.md')
    songs = list({re.sub(r'\W', '', lyric_of(text)): text for text in texts if text}.values())     # 一样的只留一首
    print(f'{"、".join(files[:3])}：{len(songs)} 首，空 {texts.count("")}，重复 {sum(map(bool, texts)) - len(songs)}')
    return [songs[i] for i in torch.randperm(len(songs), generator=torch.Generator().manual_seed(SEED))][:MAX_SONGS]


def load_base():
    """INIT_FROM 的 (权重, 分词器)。模型的形状、窗口也照它的，不看上面的常量。"""
    try:
        checkpoint = torch.load(INIT_FROM, map_location='cpu', weights_only=True)
        for name in ('N_EMBED', 'N_HEADS', 'N_KV_HEADS', 'N_LAYERS', 'BLOCK_SIZE'):
            globals()[name] = checkpoint['config'][name]
        known.update((name, value) for name, values in checkpoint['config']['KNOWN'].items() for value in values)
        return checkpoint['model'], spm.SentencePieceProcessor(model_proto=checkpoint['tokenizer'])
    except Exception as error:
        fail(f'{INIT_FROM} 不能用（{type(error).__name__}）：要 s1_control.py 存下的检查点，先运行它，或改 INIT_FROM')


def encode_songs(tokenizer, songs):
    """各首歌切成的段，token 的列表：分隔符，歌头，歌词。放不进一个窗口的，另起一段，从「<续>」写起，重复歌头。"""
    segments = []
    for ids in tokenizer.encode(songs, add_eos=True):
        at = ids.index(LYRIC) + 1
        header, lyric, room = ids[:at], ids[at:], BLOCK_SIZE - at
        for start in range(0, len(lyric), room):
            segments.append([CONTINUED if start else tokenizer.eos_id(), *header, *lyric[start:start + room]])
    return segments


def load_data(tokenizer):
    """返回 (训练的段, 测试的段, 测试集每个字符有几个 token)。按歌曲分：90% 训练，10% 测试。"""
    songs = load_songs()
    n = int(0.9 * len(songs))
    train_data, test_data = encode_songs(tokenizer, songs[:n]), encode_songs(tokenizer, songs[n:])
    print(f'词表 {len(tokenizer):,} | 训练 {len(train_data):,} | 测试 {len(test_data):,} 段')
    if not train_data or not test_data:
        fail('数据太少，不够分成训练和测试：请换更多的数据')
    tokens = (lyric_only(*get_windows(test_data)) >= 0).sum().item()
    return train_data, test_data, tokens / sum(len(lyric_of(song)) + 1 for song in songs[n:])   # 分隔算一个


def get_windows(segments):
    """各段补齐成窗口。y 是 x 的每个位置上要预测的下一个 token；补的地方是 -100，不算损失。"""
    rows = torch.tensor([segment + [-100] * (BLOCK_SIZE + 1 - len(segment)) for segment in segments])     # (B, T + 1)
    return rows[:, :-1].clamp(min=0), rows[:, 1:]                   # (B, T), (B, T)；x 补在末尾，前面的看不见它


def lyric_only(x, y):
    """y 里只留歌词自己的 token：歌头、字数、韵也换成 -100。"""
    hidden = ((x == LYRIC).cumsum(1) == 0) | ((y >= CONTINUED) & (y < CONTINUED + len(CODES)))
    return y.masked_fill(hidden, -100)


received = []                                                       # 收到的停止信号


def catch_signals(worker_id=None):
    """停止信号只记下来：训练循环存好了再停，子进程不理会。同一个信号再来一次，立即停。"""
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, 'SIGHUP', signal.SIGTERM)):   # Windows 没有 SIGHUP
        if signal.getsignal(number) != signal.SIG_IGN:              # nohup 已经不理会 SIGHUP
            signal.signal(number, lambda n, frame: received.append(n) or signal.signal(n, signal.SIG_DFL))


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

    def forward(self, x, rope, cache=None):                         # (B, T, C)
        B, T, C = x.shape
        q = self.q(x).view(B, T, N_HEADS, -1).transpose(1, 2)       # (B, n_heads, T, head_size)
        k = self.k(x).view(B, T, N_KV_HEADS, -1).transpose(1, 2)    # (B, n_kv_heads, T, head_size)
        v = self.v(x).view(B, T, N_KV_HEADS, -1).transpose(1, 2)
        q, k = self.q_norm(q.float()), self.k_norm(k.float())       # 用 float32 归一
        q, k = apply_rope(q, rope), apply_rope(k, rope)
        if cache is not None:                                       # 写歌时：前面各 token 的 k、v 存着，不必重算
            if self in cache:
                k, v = (torch.cat(parts, dim=2) for parts in zip(cache[self], (k, v)))
            cache[self] = k, v
        k, v = (part.repeat_interleave(N_HEADS // N_KV_HEADS, dim=1) for part in (k, v))    # (B, n_heads, T, head_size)
        dropout = DROP_OUT if self.training else 0.0                # 函数的实参，eval() 关不掉它
        # 写歌时 q 只有最新的一个，前面的都看得见
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=cache is None)
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

    def forward(self, x, rope, cache=None):                         # (B, T, C)
        x = x + self.attention(self.ln1(x), rope, cache)
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
    def forward(self, idx, targets=None, start=0, cache=None):      # (B, T), (B, T)
        T = idx.shape[1]
        x = self.dropout(self.token_embedding(idx))                 # (B, T, C)
        for block in self.blocks:
            x = block(x, self.rope[:, start:start + T], cache)
        logits = self.lm_head(self.ln_f(x))                         # (B, T, vocab_size)
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss

    @torch.no_grad()
    @torch.compiler.set_stance('force_eager')                       # 长度每步都变：不编译，免得一再重新编译
    def generate(self, idx, stop, seed=SEED):                       # (B, 1)
        """B 首一起写，各到 stop 或 MAX_NEW_TOKENS 个 token 为止，后面补 -100。自带随机数发生器：采样不影响训练。"""
        self.eval()
        generator = torch.Generator().manual_seed(seed)
        cache, writing = {}, torch.ones(len(idx), 1, dtype=torch.bool, device=idx.device)
        for t in range(min(MAX_NEW_TOKENS, BLOCK_SIZE)):
            logits, _ = self(idx[:, -1:].clamp(min=0), start=t, cache=cache)        # (B, 1, vocab_size)
            probs = F.softmax(logits[:, -1].float().cpu() / TEMPERATURE, dim=-1)
            idx_next = torch.multinomial(probs, 1, generator=generator).to(idx.device)      # (B, 1)
            idx = torch.cat((idx, idx_next.where(writing, -100)), dim=1)
            writing = writing & (idx_next != stop)
            if not writing.any():
                break
        self.train()
        return idx                                                  # (B, T)


# ---------- 训练 ----------
@torch.no_grad()
def estimate_loss(model, data, n_batches=EVAL_ITERS):
    """在 data 里等距地取 n_batches 批，求歌词自己每个 token 的平均损失（nat）。每次都是同样的段，前后才好比较。"""
    model.eval()
    indices = torch.linspace(0, len(data) - 1, n_batches * BATCH_SIZE, dtype=torch.float64).long()
    total, count = 0.0, 0
    for batch in indices.split(MICRO_BATCH_SIZE):
        x, y = get_windows([data[i] for i in batch.tolist()])
        y = lyric_only(x, y)
        n = (y >= 0).sum().item()
        total, count = total + model(x.to(DEVICE), y.to(DEVICE))[1] * n, count + n
    model.train()
    loss = total.item() / count
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


def write(model, tokenizer):
    """让模型写一首，从分隔符写起，写到分隔符为止。"""
    eos = tokenizer.eos_id()
    text = tokenizer.decode(model.generate(torch.tensor([[eos]], device=DEVICE), eos)[0, 1:].tolist())
    return f'{text.rpartition("<歌词>")[0]}\n{lyric_of(text)}'


def score(tokenizer, song):
    """一首歌（token 的列表）每四行一节，各节的 (得分, 第 2、4 行的韵和末字的位置)。

    第 2、4 行押韵而字不同，四行互不相同，前面也没写过：1 分，否则 0 分。押韵看写出来的字，不看标记：标了不照做，没用。
    """
    rhyme_ids = range(4 + len(FIELDS), 4 + len(FIELDS) + len(RHYMES))
    ends = [tokenizer.eos_id(), *tokenizer.encode('\n')]
    lines, stanzas, seen = [], [], set()
    begin = song.index(LYRIC) + 1 if LYRIC in song else len(song)
    for i in range(begin, len(song)):
        if song[i] in ends:
            line = lyric_of(tokenizer.decode(song[begin:i]))
            rhyme, char = re.search(r'<([^<>\d]+)>(.?)', mark_line(line)).groups()
            decided = [j for j in range(begin, i) if song[j] in rhyme_ids or song[j - 1] in rhyme_ids]      # 韵，末字
            lines.append((line, rhyme, char, decided))
            begin = i + 1
    for first in range(0, len(lines) - 3, 4):
        texts, rhymes, chars, decided = zip(*lines[first:first + 4])
        good = rhymes[1] == rhymes[3] != '无' and chars[1] != chars[3] and len(set(texts) - seen) == 4
        seen.update(texts)
        stanzas.append((float(good), decided[1] + decided[3]))
    return stanzas


def practice(model, tokenizer, step):
    """写一批歌，打分。返回 x、y、各 token 的优势 (B, T)，和几个观察用的指标。"""
    eos = tokenizer.eos_id()
    songs = model.generate(torch.full((BATCH_SIZE, 1), eos, device=DEVICE), eos, hash((SEED, step))).tolist()
    songs = [[token for token in song if token >= 0] for song in songs]
    x, y = get_windows(songs)
    stanzas = [(row, *stanza) for row, song in enumerate(songs) for stanza in score(tokenizer, song)]
    reward = sum(points for _, points, _ in stanzas) / max(1, len(stanzas))
    advantage = torch.zeros(x.shape)
    for row, points, positions in stanzas:
        advantage[row, [i - 1 for i in positions]] = points - reward        # y 的第 i - 1 个，就是歌的第 i 个
    texts = [re.sub(r'\W', '', lyric_of(tokenizer.decode(song[1:]))) for song in songs]
    pairs = [pair for text in texts for pair in zip(text, text[1:])]
    distinct = len(set(pairs)) / max(1, len(pairs))                 # distinct-2：这一批里，不重复的两字占多少
    return x, y, advantage, {'reward': reward, 'stanzas': len(stanzas) / len(songs), 'distinct_2': distinct}


def policy_loss(logits, base_logits, y, advantage):
    """策略梯度的损失和 KL，都是各 token 的和。

    优势大于 0 的 token，降低损失就是提高它的概率，小于 0 的相反，等于 0 的不管。KL：各处的分布离 base 多远（nat）。
    """
    log_probs, base_log_probs = (F.log_softmax(part.float() / TEMPERATURE, dim=-1) for part in (logits, base_logits))
    chosen = log_probs.gather(-1, y.clamp(min=0)[..., None])[..., 0]                    # (B, T)
    kl = (log_probs.exp() * (log_probs - base_log_probs)).sum(dim=-1).masked_fill(y < 0, 0.0)     # (B, T)
    return -(advantage * chosen).sum(), kl.sum()


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
    """脚本的名字、训练数据的指纹、歌头可以写什么、全部常量，写进检查点。经过 JSON：weights_only 不读 Path 这样的值。"""
    constants = {name: value for name, value in globals().items() if name.isupper() and name not in ('F', 'GPT')}
    constants['KNOWN'] = {name: sorted(v for n, v in known if n == name) for name in ('情绪', '歌手')}
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
    weights, tokenizer = load_base()
    train_data, test_data, tokens_per_char = load_data(tokenizer)

    model = GPT(len(tokenizer)).to(DEVICE)
    model.load_state_dict(weights)
    base = copy.deepcopy(model).eval()
    optimizer = make_optimizer(model)
    # float16 的小梯度会变成 0：先把损失放大，更新前再缩回来；放得太大而溢出了，就跳过这一步
    scaler = torch.amp.GradScaler(torch.device(DEVICE).type, enabled=USE_AMP and AMP_DTYPE == 'float16')
    Path(CHECKPOINT_DIR).mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(str(train_data).encode() + Path(INIT_FROM).read_bytes()).hexdigest()[:12]
    # lock 要留着：连接一关，锁就没了
    lock, settings = lock_folder(), config(digest)
    start, best_test_loss, wandb_id = resume(model, optimizer, scaler, settings)
    if start >= TRAIN_ITERS:
        print(f'训练已经完成（{start} 步）。想训练更久：调大 TRAIN_ITERS；想从头再来：设 RESUME = False')
        return
    print(f'参数 {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M | 瞎猜的损失 {math.log(len(tokenizer)):.4f}')

    run = start_wandb(wandb_id, settings)
    peak, flops = matrix_rate(), flops_per_token(model)
    print(f'大矩阵乘法 {peak / 1e12:.2f} TFLOP/s，算力全用上是 {peak / flops:,.0f} tok/s')
    if GPU:
        torch.cuda.reset_peak_memory_stats(DEVICE)                  # 显存的峰值从这里算起
    catch_signals()
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
            best_test_loss = test_loss
            if last:                                                # 最后一次读完整个测试集
                test_loss = estimate_loss(model, test_data, math.ceil(len(test_data) / BATCH_SIZE))
            bits = test_loss / math.log(2) * tokens_per_char        # 每个字符多少 bit
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
            if evaluate:                                            # 练习不是为了 test：不挑选，只留最近的
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
        x, y, advantage, metrics = practice(model, tokenizer, step)
        optimizer.zero_grad()
        n_credited, n_written = max(1, (advantage != 0).sum().item()), (y >= 0).sum().item()
        kl = 0.0
        for micro in zip(*(part.split(MICRO_BATCH_SIZE) for part in (x, y, advantage))):
            micro_x, micro_y, micro_advantage = (part.to(DEVICE) for part in micro)
            with torch.no_grad():
                base_logits, _ = base(micro_x)
            micro_loss, micro_kl = policy_loss(model(micro_x)[0], base_logits, micro_y, micro_advantage)
            micro_loss = micro_loss / n_credited + KL_WEIGHT * micro_kl / n_written     # 两项各按自己的个数平均
            scaler.scale(micro_loss).backward()                     # 梯度加在一起，直到 zero_grad
            kl += micro_kl.item() / n_written
        scaler.unscale_(optimizer)                                  # 先还原，再裁剪
        grad_norm = nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
        scaler.step(optimizer)
        scaler.update()
        if step % LOG_INTERVAL == 0:
            print(f'第 {step} 步：押韵的节 {metrics["reward"]:.0%} | 一首 {metrics["stanzas"]:.1f} 节 | '
                  f'distinct-2 {metrics["distinct_2"]:.3f} | KL {kl:.4f}')
            try_to(run.log, {'step': step, 'kl': kl, 'lr': group['lr'], 'grad_norm': grad_norm.item(), **metrics})

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
