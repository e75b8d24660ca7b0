"""一个 GPT，从字符开始：读一个英文剧本，逐个字符地预测下一个字符，学会接着写。
整个语言模型都在这一个文件里：数据、Transformer、训练、采样。这是阶梯的第一级，后面每一级只加一个想法。

运行：python v0_char_english.py（训练文本是 input.txt，可以换成任何 UTF-8 文本）
"""
import math
import sys
import time
from pathlib import Path

import torch
import torch.nn as nn
from torch.nn import functional as F

# ---------- 超参数：改这里，再运行。「A if BIG else B」：有 GPU、数据也够多时取 A，否则取 B ----------
DEVICE = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
GPU = DEVICE.startswith('cuda')

# 数据
INPUT_FILE = 'input.txt'                    # 训练文本
BIG = GPU and Path(INPUT_FILE).is_file() and Path(INPUT_FILE).stat().st_size > 1e6   # 大模型要 1 MB 以上的文本
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
def load_text():
    """读入 INPUT_FILE 的全文。"""
    try:
        return Path(INPUT_FILE).read_text(encoding='utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        fail(f'{INPUT_FILE} 读不了（{error}）：请在项目文件夹里运行；训练文本要用 UTF-8 编码')


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
    """返回 (tokenizer, 训练 token, 测试 token)。前 90% 训练，后 10% 测试。"""
    text = load_text()
    tokenizer = CharTokenizer(text)
    data = torch.tensor(tokenizer.encode(text))                     # (N,)
    n = int(0.9 * len(data))
    train_data, test_data = data[:n], data[n:]
    print(f'词表 {len(tokenizer):,} | 训练 {len(train_data):,} | 测试 {len(test_data):,} token')
    if min(len(train_data), len(test_data)) <= BLOCK_SIZE:
        fail(f'数据太少，不够一个 BLOCK_SIZE = {BLOCK_SIZE} 的窗口：请换更多的数据，或改小 BLOCK_SIZE')
    return tokenizer, train_data, test_data


def get_windows(data, starts):
    """data 里从 starts (B,) 各处开始的窗口。y 是 x 的每个位置上要预测的下一个 token。"""
    positions = starts[:, None] + torch.arange(BLOCK_SIZE)          # (B, T)
    return data[positions], data[positions + 1]                     # (B, T), (B, T)


def get_batch(data, step):
    """第 step 步的 BATCH_SIZE 个随机窗口，只由 (SEED, step) 决定。"""
    generator = torch.Generator().manual_seed(hash((SEED, step)))
    return get_windows(data, torch.randint(len(data) - BLOCK_SIZE, (BATCH_SIZE,), generator=generator))


# ---------- 模型 ----------
class Head(nn.Module):
    """一个注意力头：每个位置看自己和前面的位置，按相关程度取回它们的内容（arXiv:1706.03762）。"""

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

    def forward(self, x):                                           # (B, T, C)
        out = torch.cat([head(x) for head in self.heads], dim=-1)   # (B, T, C)
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

    def forward(self, x):                                           # (B, T, C)
        x = x + self.attention(self.ln1(x))
        return x + self.ffwd(self.ln2(x))


class GPT(nn.Module):
    """token 编号 -> 向量 + 位置 -> N_LAYERS 层 -> 下一个 token 的得分。"""

    def __init__(self, vocab_size):
        super().__init__()
        if N_EMBED % N_HEADS:
            fail(f'N_EMBED = {N_EMBED} 不能被 N_HEADS = {N_HEADS} 整除：每个头要分到同样多的通道，请改其中一个')
        self.token_embedding = nn.Embedding(vocab_size, N_EMBED)
        self.position_embedding = nn.Embedding(BLOCK_SIZE, N_EMBED)
        self.dropout = nn.Dropout(DROP_OUT)
        self.blocks = nn.ModuleList(Block() for _ in range(N_LAYERS))
        self.ln_f = nn.LayerNorm(N_EMBED)
        self.lm_head = nn.Linear(N_EMBED, vocab_size, bias=False)

    def forward(self, idx, targets=None):                           # (B, T), (B, T)
        T = idx.shape[1]
        x = self.token_embedding(idx)                               # (B, T, C)
        x = self.dropout(x + self.position_embedding(torch.arange(T, device=idx.device)))
        for block in self.blocks:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))                         # (B, T, vocab_size)
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss

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
    """让模型写一段，从 0 号字符（通常是换行）写起。"""
    return tokenizer.decode(model.generate(torch.zeros((1, 1), dtype=torch.long, device=DEVICE))[0, 1:].tolist())


def main():
    torch.manual_seed(SEED)
    print(f'设备 {DEVICE} | ' + ('大模型' if BIG else '小模型（大模型要有 GPU 和 1 MB 以上的文本）'))
    tokenizer, train_data, test_data = load_data()
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
            bits = test_loss / math.log(2)                          # 每个字符多少 bit
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
