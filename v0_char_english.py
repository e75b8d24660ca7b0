"""一个 GPT，从字符开始：读一个英文剧本，逐个字符地预测下一个字符，学会接着写。
整个语言模型都在这一个文件里：数据、Transformer、训练、采样。这是阶梯的第一级，后面每一级只加一个想法。

运行：python v0_char_english.py（训练文本是 input.txt，可以换成任何 UTF-8 文本）
预期：两核 CPU（AMD EPYC）上用自带的数据，87 秒，test 1.79，2.59 bits/char，内存 0.6 GB；GPU 上没有测过
"""
import math
import random
import sys
import time
from pathlib import Path

import torch
import torch.nn as nn
from torch.nn import functional as F

# ---------- 超参数：改这里，再运行。「A if GPU else B」：有 CUDA GPU 时取 A，没有时取 B ----------
DEVICE = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
GPU = DEVICE.startswith('cuda')

# 数据
INPUT_FILE = 'input.txt'                    # 训练文本
SEED = 1337                                 # 随机种子：同一个种子，同样的结果

# 训练
BATCH_SIZE = 64 if GPU else 16              # 一步训练多少个窗口
BLOCK_SIZE = 256 if GPU else 128            # 窗口长度（token），也就是模型能看到的上文
LEARNING_RATE = 3e-4 if GPU else 1e-3       # 学习率
TRAIN_ITERS = 5000 if GPU else 600          # 训练多少步
EVAL_INTERVAL = 200                         # 每隔多少步评估一次
EVAL_ITERS = 20                             # 一次评估用多少批窗口

# 模型
N_EMBED = 384 if GPU else 128               # 向量宽度
N_HEADS = 6 if GPU else 4                   # 注意力头数
N_LAYERS = 6 if GPU else 4                  # 层数
DROP_OUT = 0.2 if GPU else 0.0              # 训练时随机丢弃的比例

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
    counts = ('_SIZE', '_INTERVAL', '_TOKENS', 'TRAIN_ITERS', 'EVAL_ITERS', 'N_EMBED', 'N_HEADS', 'N_LAYERS')
    for name, value in globals().items():
        if name.endswith(counts) and (not isinstance(value, int) or value < 1):
            fail(f'{name} = {value!r}：要是正整数')
        if name in ('LEARNING_RATE', 'TEMPERATURE') and (not isinstance(value, (int, float)) or value <= 0):
            fail(f'{name} = {value!r}：要是大于 0 的数')
    if not isinstance(DROP_OUT, (int, float)) or not 0 <= DROP_OUT < 1:
        fail(f'DROP_OUT = {DROP_OUT!r}：要在 0（含）和 1 之间，0.1 是丢掉一成')
    if N_EMBED % N_HEADS:
        fail(f'N_EMBED = {N_EMBED} 不能被 N_HEADS = {N_HEADS} 整除：每个头要分到同样多的通道，请改其中一个')
    try:
        torch.zeros(1, device=DEVICE)
    except (RuntimeError, AssertionError) as error:
        fail(f"DEVICE = '{DEVICE}' 在这台机器上用不了（{str(error).splitlines()[0][:100]}），请改成 'cpu'")


# ---------- 数据 ----------
def load_text():
    """读入 INPUT_FILE 的全文。"""
    try:
        return Path(INPUT_FILE).read_text(encoding='utf-8-sig')
    except FileNotFoundError:
        fail(f'找不到 {INPUT_FILE}：请在项目文件夹里运行，或把 INPUT_FILE 改成你的文本文件')
    except UnicodeDecodeError:
        fail(f'{INPUT_FILE} 不是 UTF-8 编码（可能是 GBK）：请用编辑器另存为 UTF-8')


class CharTokenizer:
    """每个字符是一个 token：字符与编号互换。"""

    def __init__(self, text):
        self.chars = sorted(set(text))                              # 编号 -> 字符
        self.ids = {char: i for i, char in enumerate(self.chars)}   # 字符 -> 编号

    def __len__(self):
        return len(self.chars)

    def encode(self, text):
        return [self.ids[char] for char in text]

    def decode(self, ids):
        return ''.join(self.chars[i] for i in ids)


def load_data():
    """返回 (tokenizer, 训练 token, 测试 token, 测试字符数)。前 90% 训练，后 10% 测试。"""
    text = load_text()
    tokenizer = CharTokenizer(text)
    data = torch.tensor(tokenizer.encode(text))                     # (N,)
    n = int(0.9 * len(data))
    train_data, test_data = data[:n], data[n:]
    print(f'词表 {len(tokenizer):,} | 训练 {len(train_data):,} token | 测试 {len(test_data):,} token')
    for name, data in (('训练', train_data), ('测试', test_data)):
        if len(data) <= BLOCK_SIZE:
            fail(f'{name}部分只有 {len(data)} 个 token，不够一个窗口（BLOCK_SIZE = {BLOCK_SIZE}）：请用更多的数据，或改小 BLOCK_SIZE')
    return tokenizer, train_data, test_data, len(test_data)


def get_batch(data, it):
    """第 it 步的 BATCH_SIZE 个随机窗口，由 (SEED, it) 决定。y 是 x 的每个位置上要预测的下一个 token。"""
    rng = random.Random(f'{SEED} {it}')
    starts = torch.tensor([rng.randrange(len(data) - BLOCK_SIZE) for _ in range(BATCH_SIZE)])
    positions = starts[:, None] + torch.arange(BLOCK_SIZE)          # (B, T)
    return data[positions], data[positions + 1]                     # (B, T), (B, T)


# ---------- 模型 ----------
class Head(nn.Module):
    """一个注意力头：每个位置看自己和前面的位置，按相关程度取回它们的内容。"""

    def __init__(self, head_size):
        super().__init__()
        self.query = nn.Linear(N_EMBED, head_size, bias=False)      # 我在找什么
        self.key = nn.Linear(N_EMBED, head_size, bias=False)        # 我有什么
        self.value = nn.Linear(N_EMBED, head_size, bias=False)      # 找到我时，我给出什么
        self.register_buffer('tril', torch.tril(torch.ones(BLOCK_SIZE, BLOCK_SIZE, dtype=torch.bool)))
        self.dropout = nn.Dropout(DROP_OUT)

    def forward(self, x):                                           # (B, T, C)
        T = x.shape[1]
        q, k, v = self.query(x), self.key(x), self.value(x)         # (B, T, head_size)
        wei = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)         # (B, T, T)
        wei = torch.where(self.tril[:T, :T], wei, float('-inf'))    # 不许看后面
        wei = self.dropout(F.softmax(wei, dim=-1))
        return wei @ v                                              # (B, T, head_size)


class MultiHeadAttention(nn.Module):
    """几个头并排，各看各的，结果拼起来。"""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(Head(N_EMBED // N_HEADS) for _ in range(N_HEADS))
        self.proj = nn.Linear(N_EMBED, N_EMBED)
        self.dropout = nn.Dropout(DROP_OUT)

    def forward(self, x):                                           # (B, T, C)
        out = torch.cat([head(x) for head in self.heads], dim=-1)   # (B, T, C)
        return self.dropout(self.proj(out))


class FeedForward(nn.Module):
    """每个位置各自想一想：放宽到 4 倍，过一个非线性，再收回来。"""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(N_EMBED, 4 * N_EMBED),
            nn.ReLU(),
            nn.Linear(4 * N_EMBED, N_EMBED),
            nn.Dropout(DROP_OUT),
        )

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

    def forward(self, x):                                           # (B, T, C)
        x = x + self.attention(self.ln1(x))
        x = x + self.ffwd(self.ln2(x))
        return x


class GPT(nn.Module):
    """token 编号 -> 向量 + 位置 -> N_LAYERS 层 -> 下一个 token 的得分。"""

    def __init__(self, vocab_size):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, N_EMBED)
        self.position_embedding = nn.Embedding(BLOCK_SIZE, N_EMBED)
        self.dropout = nn.Dropout(DROP_OUT)
        self.blocks = nn.ModuleList(Block() for _ in range(N_LAYERS))
        self.ln_f = nn.LayerNorm(N_EMBED)
        self.lm_head = nn.Linear(N_EMBED, vocab_size, bias=False)

    def forward(self, idx, targets=None):                           # (B, T), (B, T)
        T = idx.shape[1]
        x = self.token_embedding(idx) + self.position_embedding(torch.arange(T, device=idx.device))     # (B, T, C)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))                         # (B, T, vocab_size)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def generate(self, idx):                                        # (1, T)
        """接着 idx 写 MAX_NEW_TOKENS 个 token。自带随机数发生器：采样不影响训练。"""
        self.eval()
        generator = torch.Generator().manual_seed(SEED)
        for _ in range(MAX_NEW_TOKENS):
            logits, _ = self(idx[:, -BLOCK_SIZE:])                  # (1, T, vocab_size)
            probs = F.softmax(logits[:, -1].float().cpu() / TEMPERATURE, dim=-1)
            idx_next = torch.multinomial(probs, 1, generator=generator)     # (1, 1)
            idx = torch.cat((idx, idx_next.to(idx.device)), dim=1)
        self.train()
        return idx


# ---------- 训练 ----------
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
    """让模型写一段，从 0 号字符（通常是换行）写起。"""
    start = torch.zeros((1, 1), dtype=torch.long, device=DEVICE)
    return tokenizer.decode(model.generate(start)[0, 1:].tolist())


def main():
    if hasattr(sys.stdout, 'reconfigure'):                          # IDLE、Jupyter 里没有，也不需要
        sys.stdout.reconfigure(errors='replace', line_buffering=True)   # 终端显示不了的字用 ? 代替；写进文件时也逐行写出
    check_constants()
    torch.manual_seed(SEED)
    print(f'设备 {DEVICE}：' + ('用 GPU 的常量' if GPU else '没有 CUDA GPU，用 else 后面的小常量'))
    tokenizer, train_data, test_data, test_chars = load_data()
    epochs = TRAIN_ITERS * BATCH_SIZE * BLOCK_SIZE / len(train_data)
    if epochs > 20:
        print(f'训练文本会看 {epochs:.0f} 遍，会过拟合（train 还在降，test 却上升）：请换更长的文本')

    model = GPT(len(tokenizer)).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    initial_loss, uniform = estimate_loss(model, sample_batches(test_data)), math.log(len(tokenizer))
    print(f'参数 {parameters:.2f} M | 第 0 步的损失 {initial_loss:.4f}，瞎猜是 ln {len(tokenizer)} = {uniform:.4f}')
    print(f'--- 训练前写的 ---\n{write(model, tokenizer)}\n---')

    train_time, began = 0.0, time.perf_counter()
    started = began
    for it in range(TRAIN_ITERS):
        x, y = get_batch(train_data, it)
        _, loss = model(x.to(DEVICE), y.to(DEVICE))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        step, loss = it + 1, loss.item()                            # item() 等 GPU 算完：计时才准
        train_time += time.perf_counter() - started
        check_finite(step, loss)
        if step % EVAL_INTERVAL == 0 or step == TRAIN_ITERS:
            train_loss = estimate_loss(model, sample_batches(train_data))
            test_loss = estimate_loss(model, sample_batches(test_data))
            if step == TRAIN_ITERS:
                test_loss = estimate_loss(model, all_batches(test_data))
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
