"""子词：用 SentencePiece 的 BPE 代替单个字符，常见的词合成一个 token，窗口一样长，看到的字更多。

相对 v0_char_rope.py 的改动：
- `train_tokenizer` 在训练歌曲上训练出最多 `BPE_VOCAB_SIZE` 个 token 的词表，代替 `CharTokenizer`；
- `encode_songs` 在每首歌后面放一个分隔符 token，`load_data` 用它代替空行；
- `write` 从分隔符写起，`GPT` 的 generate 遇到分隔符就停：一次写一首歌。

测得（AMD EPYC，2 核，古诗）：一个 token 平均 1.01 个字，省不了多少；1,000 首时比 v0_char_rope 高 0.510 bits/char，
64,000 首时高 0.140。

看差异：git diff --no-index v0_char_rope.py v1_bpe_rope.py
运行：python v1_bpe_rope.py
"""
import glob
import hashlib
import html
import io
import json
import math
import os
import re
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import sentencepiece as spm
import torch
import torch.nn as nn
from torch.nn import functional as F

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
BLOCK_SIZE = 256 if BIG else 128            # 窗口长度（token），也就是模型能看到的上文
LEARNING_RATE = 3e-4 if BIG else 1e-3       # 学习率
TRAIN_ITERS = 5000 if BIG else 800          # 训练多少步
EVAL_INTERVAL = 200                         # 每隔多少步评估一次
EVAL_ITERS = 20                             # 一次评估用多少批窗口

# 模型
N_EMBED = 384 if BIG else 128               # 向量宽度
N_HEADS = 6 if BIG else 4                   # 注意力头数
N_LAYERS = 6 if BIG else 4                  # 层数
DROP_OUT = 0.2 if BIG else 0.0              # 训练时随机丢弃的比例

# 采样
MAX_NEW_TOKENS = 200                        # 最多写多少个 token
TEMPERATURE = 0.8                           # 小于 1 更稳妥，大于 1 更大胆


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


class Head(nn.Module):
    """一个注意力头：每个位置看自己和前面的位置，按相关程度取回它们的内容（arXiv:1706.03762）。"""

    def __init__(self, head_size):
        super().__init__()
        self.query = nn.Linear(N_EMBED, head_size, bias=False)      # 我在找什么
        self.key = nn.Linear(N_EMBED, head_size, bias=False)        # 我有什么
        self.value = nn.Linear(N_EMBED, head_size, bias=False)      # 找到我时，我给出什么
        self.register_buffer('tril', torch.tril(torch.ones(BLOCK_SIZE, BLOCK_SIZE, dtype=torch.bool)))
        self.dropout = nn.Dropout(DROP_OUT)

    def forward(self, x, rope):                                     # (B, T, C)
        T = x.shape[1]
        q, k, v = self.query(x), self.key(x), self.value(x)         # (B, T, head_size)
        q, k = apply_rope(q, rope), apply_rope(k, rope)
        wei = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5         # (B, T, T)
        wei = wei.masked_fill(~self.tril[:T, :T], float('-inf'))    # 不许看后面
        wei = self.dropout(F.softmax(wei, dim=-1))
        return wei @ v                                              # (B, T, head_size)


class MultiHeadAttention(nn.Module):
    """几个头并排，各看各的，结果拼起来。"""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(Head(N_EMBED // N_HEADS) for _ in range(N_HEADS))
        self.proj = nn.Linear(N_EMBED, N_EMBED)
        self.dropout = nn.Dropout(DROP_OUT)

    def forward(self, x, rope):                                     # (B, T, C)
        out = torch.cat([head(x, rope) for head in self.heads], dim=-1)     # (B, T, C)
        return self.dropout(self.proj(out))


class FeedForward(nn.Module):
    """每个位置各自想一想：放宽到 4 倍，过一个非线性，再收回来。"""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(N_EMBED, 4 * N_EMBED), nn.ReLU(),
                                 nn.Linear(4 * N_EMBED, N_EMBED), nn.Dropout(DROP_OUT))

    def forward(self, x):                                           # (B, T, C)
        return self.net(x)


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
        self.ln_f = nn.LayerNorm(N_EMBED)
        self.lm_head = nn.Linear(N_EMBED, vocab_size, bias=False)

    def forward(self, idx, targets=None):                           # (B, T), (B, T)
        T = idx.shape[1]
        x = self.dropout(self.token_embedding(idx))                 # (B, T, C)
        for block in self.blocks:
            x = block(x, self.rope[:, :T])
        logits = self.lm_head(self.ln_f(x))                         # (B, T, vocab_size)
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss

    @torch.no_grad()
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
    for batch in starts.split(BATCH_SIZE):
        x, y = get_windows(data, batch)
        total += model(x.to(DEVICE), y.to(DEVICE))[1] * len(batch)
    model.train()
    loss = total.item() / len(starts)
    if not math.isfinite(loss):
        fail('损失不是有限的数：训练发散了，请改小学习率再运行')
    return loss


def report(step, train, test, bits, tok_per_s):
    """打印一行日志。第 0 步还没有训练，不知道速度。"""
    left = round((TRAIN_ITERS - step) * BATCH_SIZE * BLOCK_SIZE / tok_per_s) if step else 0
    speed = f'{tok_per_s:,.0f} tok/s | 剩余 {left // 60:02d}:{left % 60:02d}' if step else '- tok/s | 剩余 --:--'
    print(f'step {step:5d}/{TRAIN_ITERS} | train {train:.4f} | test {test:.4f} | {bits:.3f} bits/char | {speed}')


def write(model, tokenizer):
    """让模型写一首，从分隔符写起，写到分隔符为止。"""
    eos = tokenizer.eos_id()
    return tokenizer.decode(model.generate(torch.tensor([[eos]], device=DEVICE), eos)[0, 1:].tolist())


def main():
    torch.manual_seed(SEED)
    print(f'设备 {DEVICE} | ' + ('大模型' if BIG else '小模型（大模型要 GPU、10 MB 歌词：ChineseLyrics/README.md）'))
    tokenizer, train_data, test_data, test_chars = load_data()
    epochs = TRAIN_ITERS * BATCH_SIZE * BLOCK_SIZE / len(train_data)
    if epochs > 20:
        print(f'训练数据会看 {epochs:.0f} 遍，会过拟合（train 还在降，test 却上升）：请用更多的数据')

    model = GPT(len(tokenizer)).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    print(f'参数 {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M | 瞎猜的损失 {math.log(len(tokenizer)):.4f}')

    began = time.perf_counter()
    for step in range(TRAIN_ITERS + 1):
        last = step == TRAIN_ITERS
        evaluate = step % EVAL_INTERVAL == 0 or last
        if evaluate and GPU:
            torch.cuda.synchronize(DEVICE)                          # 等 GPU 算完，计时才准
        paused = time.perf_counter()
        if evaluate:
            train_loss = estimate_loss(model, train_data)
            test_loss = estimate_loss(model, test_data)
            if last:                                                # 最后一次读完整个测试集
                test_loss = estimate_loss(model, test_data, math.ceil(len(test_data) / (BATCH_SIZE * BLOCK_SIZE)))
            bits = test_loss / math.log(2) * len(test_data) / test_chars    # 每个字符多少 bit
            report(step, train_loss, test_loss, bits, step * BATCH_SIZE * BLOCK_SIZE / (paused - began))
        if step == 0 or last:
            print(f'--- 第 {step} 步写的 ---\n{write(model, tokenizer)}\n---')
        if last:
            break
        began += time.perf_counter() - paused                       # 评估和写作的时间不算

        x, y = get_batch(train_data, step)
        _, loss = model(x.to(DEVICE), y.to(DEVICE))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == '__main__':
    sys.stdout.reconfigure(errors='replace', line_buffering=True)   # 终端显示不了的字写成 ?；存进文件也逐行写
    try:
        main()
    except KeyboardInterrupt:
        fail('已中断')
    except torch.OutOfMemoryError:
        fail(f'显存不够：请改小 BATCH_SIZE（现在是 {BATCH_SIZE}），比如减半，再运行')
