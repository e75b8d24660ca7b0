"""用训练好的模型写歌词。v5 起任何一级存下的检查点都能用：常量和分词器都在里面。

python generate.py                                   # checkpoints/best.pt，写一首
python generate.py --prompt "雨落在旧站台" --num 4      # 给定开头，写四首
python generate.py --interactive                     # 你一句，它接着写
python generate.py --prompts prompts.txt --output songs.jsonl
python generate.py --checkpoint checkpoints/s1_control/best.pt --mood 悲伤 --rhyme 江阳 --chars 7     # 照要求写
"""
import argparse
import json
import os
import random
import re
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

import sentencepiece as spm
import torch
from pypinyin import Style, lazy_pinyin
from torch import nn
from torch.nn import functional as F


def fail(message):
    """遇到用户能改正的错误：说清哪里不对、怎么办，以状态 1 退出。"""
    sys.exit(f'错误：{message}')


def note(message, end='\n'):
    """说明走 stderr，歌走 stdout：`python generate.py > song.txt` 里只有歌。"""
    print(message, end=end, file=sys.stderr, flush=True)


def printable(text):
    """去掉会弄乱终端的控制字符；终端传来的坏字节变成 ?。"""
    return re.sub(r'[\x00-\x08\x0b-\x1f\x7f-\x9f]', '', text.encode('utf-8', 'replace').decode())


# ---------- 模型：与训练脚本同样的计算，多一份 k、v 缓存 ----------
def apply_rope(x, rope):
    """把每对通道看成平面上的一点 (a, b)，按 token 的位置旋转。

    q、k 都转过之后，点积里的位置信息只剩两个位置之差。
    """
    cos, sin = rope                                                 # 各 (T, head_size / 2)
    a, b = x.chunk(2, dim=-1)                                       # 各 (..., T, head_size / 2)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class GPT:
    """各级的 GPT。weights 是检查点里的参数：有哪些、什么形状，就知道是哪一种结构。"""

    def __init__(self, weights, config, device='cpu'):
        self.weights, self.int8 = {}, {}
        for name, weight in weights.items():                        # v5～v8 的 q、k、v 在一个矩阵 qkv 里：拆成三个
            for letter, part in zip('qkv', weight.chunk(3) if '.qkv.' in name else [weight]):
                self.weights[name.replace('qkv', letter)] = part.to(device)
        self.config, self.n_layers, self.block_size = config, config['N_LAYERS'], config['BLOCK_SIZE']
        self.head_size = config['N_EMBED'] // config['N_HEADS']
        self.n_kv_heads = len(self.weights['blocks.0.attention.k.weight']) // self.head_size
        frequencies = 10000.0 ** (-torch.arange(0, self.head_size, 2) / self.head_size)
        angles = torch.outer(torch.arange(self.block_size).float(), frequencies)
        self.rope = torch.stack((angles.cos(), angles.sin())).to(device)    # (2, block_size, head_size / 2)

    def new_cache(self, batch, length):
        """空的缓存，(n_layers, 2, B, n_kv_heads, length, head_size)。"""
        return self.rope.new_empty(self.n_layers, 2, batch, self.n_kv_heads, length, self.head_size)

    def to_int8(self):
        """CPU 上的矩阵乘法改用 int8：权重每行一个缩放，输入现算一个。要读的内存只有四分之一。"""
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic
        for key, weight in self.weights.items():
            if weight.dim() == 2 and key != 'token_embedding.weight':       # 词向量是一行行查的表，不做乘法
                name = key.removesuffix('.weight')
                bias = self.weights.get(f'{name}.bias')
                layer = nn.Linear(*weight.shape[::-1], bias=bias is not None)
                layer.load_state_dict({'weight': weight} if bias is None else {'weight': weight, 'bias': bias})
                one = nn.Sequential(layer)
                with warnings.catch_warnings():                     # 要搬去 torchao 的提醒；那里的 CPU 上没有这么快
                    warnings.simplefilter('ignore')
                    self.int8[name] = quantize_dynamic(one, {nn.Linear: per_channel_dynamic_qconfig})[0]

    def linear(self, x, name):
        if name in self.int8:
            return self.int8[name](x)
        return F.linear(x, self.weights[f'{name}.weight'], self.weights.get(f'{name}.bias'))

    def norm(self, x, name):
        """有偏置的是 LayerNorm，没有的是 RMSNorm（v9 起）。"""
        weight, bias = self.weights[f'{name}.weight'], self.weights.get(f'{name}.bias')
        if bias is None:
            return F.rms_norm(x, weight.shape, weight, 1e-5)
        return F.layer_norm(x, weight.shape, weight, bias)

    def attention(self, x, name, rope, mask, cache, start):         # (B, T, C)；cache 是一层的
        B, T, C = x.shape
        q, k, v = (self.linear(x, f'{name}.{part}').view(B, T, -1, self.head_size).transpose(1, 2) for part in 'qkv')
        if f'{name}.q_norm.weight' in self.weights:                 # v10 起
            q, k = self.norm(q, f'{name}.q_norm'), self.norm(k, f'{name}.k_norm')
        cache[0, :, :, start:start + T], cache[1, :, :, start:start + T] = apply_rope(k, rope), v
        k, v = cache[:, :, :, :start + T]                           # (B, n_kv_heads, start + T, head_size)
        n_heads = q.shape[1]
        q = apply_rope(q, rope).reshape(B, self.n_kv_heads, -1, self.head_size)     # 共用一组 k、v 的头首尾相接，一起查
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.repeat(n_heads // self.n_kv_heads, 1))
        return self.linear(out.reshape(B, n_heads, T, -1).transpose(1, 2).reshape(B, T, C), f'{name}.proj')

    def ffwd(self, x, name):                                        # (B, T, C)
        if f'{name}.gate.weight' in self.weights:                   # v9 起是 SwiGLU
            return self.linear(F.silu(self.linear(x, f'{name}.gate')) * self.linear(x, f'{name}.up'), f'{name}.down')
        return self.linear(F.gelu(self.linear(x, f'{name}.net.0')), f'{name}.net.2')

    def forward(self, idx, cache, start):                           # (B, T)
        """idx 从第 start 个位置起，之前的 k、v 在缓存里，idx 的会存进去。返回下一个 token 的得分 (B, vocab_size)。"""
        x = self.weights['token_embedding.weight'][idx]             # (B, T, C)
        end = start + idx.shape[1]
        rope = self.rope[:, start:end]
        mask = torch.ones(end - start, end, dtype=torch.bool, device=x.device).tril(start)  # 只看得见自己和前面的
        for i in range(self.n_layers):
            name = f'blocks.{i}'
            x = x + self.attention(self.norm(x, f'{name}.ln1'), f'{name}.attention', rope, mask, cache[i], start)
            x = x + self.ffwd(self.norm(x, f'{name}.ln2'), f'{name}.ffwd')
        return self.linear(self.norm(x[:, -1], 'ln_f'), 'lm_head')


def load(path, device):
    """读检查点，返回 (model, tokenizer)。只读数据，不运行里面的代码（weights_only）。"""
    if not path.is_file():
        fail(f'没有检查点 {path}：先训练一个（python v6_wandb.py），或用 --checkpoint 指出它在哪里')
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
        weights, config = checkpoint['model'], checkpoint['config']
        tokenizer = spm.SentencePieceProcessor(model_proto=checkpoint['tokenizer'])
        model = GPT(weights, config)
        model.forward(torch.tensor([[tokenizer.eos_id()]]), model.new_cache(1, 1), 0)   # 算一步，就知道参数全不全
        note(f'{path}：第 {checkpoint["step"]:d} 步，最好的 test {checkpoint["best_test_loss"]:.4f} | 设备 {device}')
    except Exception as error:
        fail(f'{path} 读不出来（{type(error).__name__}）：要 v5 起各级存下的、完整的检查点')
    return GPT(weights, config, device), tokenizer


# ---------- 写歌 ----------
class Song:
    """一首正在写的歌：token、已经能看的文字、自己的随机数发生器。"""
    codes = frozenset()                                             # 不显示的 token

    def __init__(self, prompt, seed, tokenizer, block_size):
        self.prompt = self.text = printable(prompt)
        self.seed, self.tokenizer = seed, tokenizer
        self.generator = torch.Generator().manual_seed(seed % 2**63)
        self.ids = [tokenizer.eos_id()] + tokenizer.encode(self.prompt)     # 与训练时一样，歌从分隔符开始
        if len(self.ids) > block_size:
            note(f'开头有 {len(self.ids)} 个 token，模型只看得见 {block_size} 个：只用末尾的')
            self.ids = self.ids[-block_size:]
        self.n_tokens, self.pending = 0, []                         # 写了多少个 token；其中还凑不成字的
        self.ended, self.done = False, False                        # 写到了歌的结尾；写到了结尾，或长度的上限

    def append(self, token, max_tokens):
        """接上一个 token。拆成字节的字，凑齐了才出现；分隔符或写够了 max_tokens 个就完。"""
        self.ids.append(token)
        self.pending.append(token)
        self.n_tokens += 1
        self.ended = token == self.tokenizer.eos_id()
        self.done = self.ended or self.n_tokens >= max_tokens
        text = self.tokenizer.decode(self.pending)
        if self.ended or not text.endswith('\ufffd'):
            self.text += printable(text.replace('\ufffd', ''))      # 凑不成字的字节不要了
            self.pending = []


brackets = str.maketrans('<>', '〈〉')                             # 尖括号留给标记


class Form:
    """怎么照要求写：s1_control.py 的歌头和标记，这一次要的韵、字数、藏头。要求不能满足时抛出 ValueError。"""

    def __init__(self, config, tokenizer, options):
        self.rhyme_of_final = {final: name for name, finals in config['RHYMES'].items() for final in finals.split()}
        title = printable(options.title).translate(brackets)[:20]
        fields = {'情绪': options.mood, '歌手': options.singer, '歌名': title}
        known = config['KNOWN'] | {'韵': list(config['RHYMES'])[:-1]}        # 最后一个是「无」
        for name, value in (fields | {'韵': options.rhyme}).items():
            if value and value not in known.get(name, [value]):
                some = '、'.join(known[name][:20]) + '……' * (len(known[name]) > 20)
                raise ValueError(f'没有「{value}」这个{name}，有的是：{some or "（训练的歌没有标这一项）"}')
        if not 0 <= options.chars <= 20:
            raise ValueError(f'一行可以有 1 到 20 个字，--chars 却是 {options.chars}')
        if options.chars == 1 and options.acrostic:
            raise ValueError('藏头的一行至少有 2 个字，--chars 却是 1')
        self.header = ''.join(f'<{name}>{value}' for name, value in fields.items() if value) + '<歌词>'
        self.scheme = ''.join(options.scheme.split()).replace('-', '.') or ('A' if options.rhyme else '.')
        if options.rhyme and not self.scheme.strip('.'):
            raise ValueError('--scheme 里只有点，没有哪一行要押 --rhyme')
        self.rhyme, self.chars = options.rhyme, options.chars
        self.acrostic = ''.join(printable(options.acrostic).translate(brackets).split())
        codes = {name[1:-1]: i for i, name in enumerate(config['CODES'], 2)}
        self.codes, self.continued = frozenset(codes.values()), codes['续']
        self.rhymes = {name: codes[name] for name in config['RHYMES']}
        self.rhyme_codes = frozenset(self.rhymes.values())
        self.lengths = [i for name, i in codes.items() if name.isdigit() and self.chars in (0, int(name))]
        pieces = [tokenizer.decode([i]) for i in range(len(tokenizer))]
        self.ends = [tokenizer.eos_id(), *tokenizer.encode('\n')]   # 一行完了
        self.words = [i for i, piece in enumerate(pieces) if i > 1 and i not in self.codes and '\n' not in piece]
        self.final_chars = [i for i in self.words if re.fullmatch(r'\w', pieces[i])]
        # 各有几个字；拆成的字节不好数
        self.sizes = [99 if tokenizer.is_byte(i) else len(tokenizer.id_to_piece(i)) for i in range(len(pieces))]
        self.after_final = [i for i in self.words if re.fullmatch(r'[^\w\ufffd]+', pieces[i])]       # 标点
        self.starts = {}                                            # 藏头的字：行首的几个 token，各可以是哪些
        for char in self.acrostic:                                  # 以它开头、放得下的词；词表外的字是几个字节
            whole = [i for i in self.words if pieces[i].startswith(char) and self.sizes[i] < (self.chars or 99)]
            self.starts[char] = [whole] if whole else [[i] for i in tokenizer.encode(char)]

    def letter(self, number):
        """第 number 行在韵式里的字母。"""
        return self.scheme[number % len(self.scheme)]

    def marked(self, line):
        """(韵，标了字数和韵的一行)：与 s1_control.py 的 mark_line 一样。"""
        found = re.search(r'[\u4e00-\u9fff](?=\W*$)', line)
        at = found.start() if found else len(line) - 1
        final = lazy_pinyin(line[max(0, at - 3):at + 1], Style.FINALS)[-1] if found else ''
        rhyme = self.rhyme_of_final.get(final, '无')
        return rhyme, f'<{min(20, len(line))}>{line[:at]}<{rhyme}>{line[at:]}'


class Verse(Song):
    """照要求写的一首，最长写满一个窗口；开头的每一行都算写完的。

    每行是「<字数>……<韵>末字」，写完才看得见；不合要求的，退回行首重写，最多八次，第八次数着字写。
    """

    def __init__(self, prompt, seed, tokenizer, block_size, form):
        super().__init__('', seed, tokenizer, block_size)
        self.form, self.codes, self.block_size = form, form.codes, block_size
        self.decided = {form.scheme.strip('.')[:1]: form.rhyme} if form.rhyme else {}   # 字母：定下的韵
        lines, ids = [line.strip() for line in printable(prompt).translate(brackets).splitlines() if line.strip()], []
        self.prompt = self.text = '\n'.join(lines)
        for number, line in enumerate(lines):
            rhyme, text = form.marked(line)
            self.decide(number, rhyme)
            ids.append(tokenizer.encode(text + '\n'))
        while sum(map(len, ids)) > block_size // 2:                 # 歌头总要看得见：放不下的，从最前面的行去掉
            ids.pop(0)
        if len(ids) < len(lines):
            note(f'开头有 {len(lines)} 行，只用得上最后 {len(ids)} 行')
            self.ids = [form.continued]                             # 训练时，另起的一段就是这样开始的
        self.ids += tokenizer.encode(form.header) + sum(ids, [])
        self.line, self.number = len(self.ids), len(lines)          # 正在写的一行：从第几个 token 起，是第几行
        self.given = len(lines)                                     # 开头有几行：藏头从它们后面数起
        self.tries, self.banned = 0, set()                          # 重写了几次；不合要求的末字

    def plain(self, ids):
        """去掉标记，解码。"""
        return self.tokenizer.decode([i for i in ids if i not in self.codes])

    def decide(self, number, rhyme):
        """第 number 行押了这个韵：同一个字母的其余各行也要押它。"""
        if self.form.letter(number) != '.' and rhyme != '无':
            self.decided.setdefault(self.form.letter(number), rhyme)

    def rhymes(self):
        """这一行可以押哪些韵：同一个字母的相同，不同字母的不同。"""
        letter = self.form.letter(self.number)
        if letter == '.':
            return set(self.form.rhymes)
        if letter in self.decided:
            return {self.decided[letter]}
        return set(self.form.rhymes) - {'无', *self.decided.values()} or set(self.form.rhymes)      # 字母多，韵不够分

    def allowed(self):
        """下一个 token 可以是哪些。"""
        form, line, acrostic = self.form, self.ids[self.line:], self.form.acrostic[self.number - self.given:]
        counting = form.chars and self.tries == 8
        if not line:
            return form.lengths
        if line[-1] in form.rhyme_codes:
            return set(form.final_chars) - self.banned or form.final_chars
        if form.rhyme_codes & set(line):
            ends = form.ends[1:] if len(acrostic) > 1 else form.ends        # 藏头没写完，歌就没完
            return ends if counting or len(line) > 40 else form.after_final + ends
        first = form.starts[acrostic[0]] if acrostic else []
        if len(line) <= len(first):
            return first[len(line) - 1]
        rhymes = [form.rhymes[name] for name in self.rhymes()]
        if counting:                                                # 留一个字给末字
            left = form.chars - len(self.plain(line))
            return [i for i in form.words if form.sizes[i] < left] or rhymes
        return rhymes + (form.words if len(line) < 30 else [])

    def append(self, token, max_tokens):
        self.ids.append(token)
        self.n_tokens += 1
        self.done = self.n_tokens >= max_tokens or len(self.ids) >= self.block_size     # 写了一半的一行不要
        if token not in self.form.ends:
            return
        ids = self.ids[self.line:]
        line = self.plain(ids).strip('\n').replace('\ufffd', '')
        rhyme = self.form.marked(line)[0]
        wrong_rhyme = self.form.letter(self.number) != '.' and rhyme not in self.rhymes()
        if (wrong_rhyme or self.form.chars not in (0, len(line))) and self.tries < 8:       # 来不及重写的，也不要
            if wrong_rhyme:
                self.banned |= {after for code, after in zip(ids, ids[1:]) if code in self.form.rhyme_codes}
            self.n_tokens -= len(ids)
            del self.ids[self.line:]
            self.tries += 1
            return
        self.decide(self.number, rhyme)
        self.text += '\n' * bool(self.text) + printable(line)
        self.line, self.number, self.tries, self.banned = len(self.ids), self.number + 1, 0, set()
        self.ended = token == self.tokenizer.eos_id() or self.number - self.given >= len(self.form.acrostic) > 0
        self.done = self.done or self.ended


def song_maker(model, tokenizer, options):
    """(开头, 种子) -> 要写的一首。"""
    if 'CODES' in model.config:
        form = Form(model.config, tokenizer, options)
        return lambda prompt, seed: Verse(prompt, seed, tokenizer, model.block_size, form)
    if wishes := [name for name in WISHES if getattr(options, name)]:
        raise ValueError(f'{"、".join(wishes)} 要 s1_control.py 的检查点，这个检查点不会照要求写')
    return lambda prompt, seed: Song(prompt, seed, tokenizer, model.block_size)


def choose(logits, songs, options):                                 # (B, vocab_size)
    """按得分给每首歌选下一个 token，返回 B 个编号。先只留合要求的，再罚重复，再 top-k，再 temperature，再 top-p。"""
    logits = logits.cpu().double()
    tokenizer = songs[0].tokenizer
    logits[:, tokenizer.unk_id()] = -torch.inf                      # 从没训练过，写出来也没有意义
    for row, song in zip(logits, songs):
        if isinstance(song, Verse):
            row[list(set(range(len(row))) - set(song.allowed()))] = -torch.inf
    if options.repetition_penalty > 1:                              # arXiv:1909.05858；换行不罚，否则歌会连成一行
        free = {tokenizer.eos_id(), *tokenizer.encode('\n'), *songs[0].codes}
        for row, song in zip(logits, songs):
            used = list(set(song.ids) - free)
            row[used] *= torch.where(row[used] > 0, 1 / options.repetition_penalty, options.repetition_penalty)
    if options.temperature < 0.01:                                  # 0：不抽签
        return logits.argmax(dim=-1).tolist()
    if options.top_k > 0:
        kth = logits.topk(min(options.top_k, logits.shape[-1])).values[:, -1:]
        logits[logits < kth] = -torch.inf
    probs = F.softmax(logits / options.temperature, dim=-1)
    if options.top_p < 1:                                           # arXiv:1904.09751：从大到小，加到 top_p 为止
        ordered, order = probs.sort(dim=-1, descending=True)
        ordered[:, 1:][ordered.cumsum(dim=-1)[:, :-1] >= options.top_p] = 0
        probs = torch.zeros_like(probs).scatter(-1, order, ordered)
    # 抽签：每个 token 得一个指数分布的随机数，probs / 随机数 最大的中签，概率正好是 probs（multinomial 也这样做）。
    # 每首歌用自己的随机数，舍入误差只在两个 token 几乎并列时才会换人：一批里写的与单独写的一样
    noise = torch.stack([torch.empty_like(probs[0]).exponential_(generator=song.generator) for song in songs])
    return (probs / noise).argmax(dim=-1).tolist()


@torch.inference_mode()
def write_songs(model, songs, options):
    """一起写 songs，每走一步 yield 一次。每一首都与它单独写时相同，除了浮点舍入；--int8 时全批一起缩放，会略有出入。

    各首的开头可以不一样长：都从位置 0 排起，一步步往前走，走到谁的末尾就给谁写。超过窗口时，从最后半个窗口重新开始，
    什么时候重新开始只看走到了哪里，所以不受同伴影响。
    """
    begin, filled = 0, 0                                            # 窗口从第几个 token 开始；其中多少个已在缓存里
    longest = max(len(song.ids) for song in songs) + options.max_tokens
    cache = model.new_cache(len(songs), min(model.block_size, longest))
    while songs:
        end = min(len(song.ids) for song in songs)                  # 到这里为止，每首都已经有了
        if end - begin > model.block_size:
            begin, filled = end - (model.block_size + 1) // 2, 0
        idx = torch.tensor([song.ids[begin + filled:end] for song in songs], device=cache.device)
        logits = model.forward(idx, cache, filled)                  # (B, vocab_size)
        filled = end - begin
        ready = [i for i, song in enumerate(songs) if len(song.ids) == end]     # 其余的还在读开头
        writing = [songs[i] for i in ready]
        for song, token in zip(writing, choose(logits[ready], writing, options)):
            song.append(token, options.max_tokens)
        filled = min(filled, *(len(song.ids) - begin - 1 for song in songs))        # 退回了行首的，从那里算起
        yield
        keep = [i for i, song in enumerate(songs) if not song.done]
        if len(keep) < len(songs):
            songs, cache = [songs[i] for i in keep], cache[:, :, keep]


# ---------- 三种用法 ----------
def show(model, batches, options, titles):
    """显示出来：每一批的第一首边写边出，后面的等它写完。"""
    for songs in batches:
        shown = 0
        for _ in write_songs(model, songs, options):
            text = ''
            for song in songs:                                      # 写完的各首，和接着的那一首已有的
                text += (f'--- seed {song.seed} ---\n' if titles else '') + song.text
                if not song.done:
                    break
                text += '\n'
            print(text[shown:], end='', flush=True)
            shown = len(text)


def save(model, batches, options, total):
    """存成 JSON Lines。先写在旁边的新文件里，写完或停下时才改名；一首也没写完，旧文件就不动。"""
    path = options.output.resolve()                                 # 是符号链接时，写它指的文件
    sources = filter(None, (options.checkpoint, options.prompts))
    if path.exists() and (not path.is_file() or any(map(path.samefile, sources))):
        fail(f'不能存成 {options.output}：它不是普通文件，或者正是要读的文件，请换一个名字')
    unfinished = path.with_name(f'{path.name}.{time.time_ns()}')
    settings = {name: value for name, value in settings_of(options).items() if name != 'seed'}
    done = 0
    with open(unfinished, 'x', encoding='utf-8') as file:
        try:
            for songs in batches:
                try:
                    for _ in write_songs(model, songs, options):
                        if sys.stderr.isatty():
                            note(f'\r写完 {done + sum(song.done for song in songs)}/{total} 首', end='')
                finally:                                            # 按了 Ctrl-C，也存下写完的
                    for song in filter(lambda song: song.done, songs):
                        record = {'prompt': song.prompt, 'text': song.text, 'settings': settings, 'seed': song.seed}
                        print(json.dumps(record, ensure_ascii=False), file=file)
                        done += 1
                    file.flush()
        finally:
            file.close()                                            # 磁盘写满，就停在这里：旧文件不动，新文件留着
            unfinished.replace(path) if done else unfinished.unlink()
            note(f'\r写完 {done}/{total} 首' + (f'，存入 {options.output}' if done else f'，{options.output} 没有动'))


def interact(model, tokenizer, options):
    """你一句，它接着写。/help 列出命令。"""
    with suppress(ImportError):                                     # Windows 没有，也不需要
        import readline  # noqa: F401                               # 有了它，input() 就能移动光标、翻出历史
    if sys.stdin is None:                                           # 0<&-：与输入的末尾一样
        return
    sys.stdin.reconfigure(errors='replace')
    note('输入第一行，按回车，它接着写；之后再输入就接在后面，直接按回车让它自己往下写。Ctrl-C 打断，/help 看命令')
    song = None
    while True:
        try:
            line = input('接着写> ' if song else '第一行> ').rstrip()
        except (EOFError, KeyboardInterrupt):
            line = '/quit'
        if line == '/quit':
            note('再见')
            return
        if line == '/new':
            song = None
        elif line.startswith('/'):
            note(command(line.split(), options))
        else:
            text = song.text if song else ''
            if text and (line or song.ended) and not text.endswith('\n'):
                text += '\n'                                        # 你写的另起一行；直接按回车，就往下写
            try:
                song = song_maker(model, tokenizer, options)(text + line, options.seed)
            except ValueError as error:                             # 没有这个韵……
                note(error)
                continue
            shown = len(song.text) + bool(song.text) if isinstance(song, Verse) else song.text.rfind('\n') + 1
            with suppress(KeyboardInterrupt):
                for _ in write_songs(model, [song], options):
                    print(song.text[shown:], end='', flush=True)
                    shown = max(shown, len(song.text))
            print()
            options.seed += 1                                       # 下一次写点别的；/seed 可以回到这一次


# ---------- 选项 ----------
SETTINGS = {                                                        # 名字：(类型，默认值，交互时的命令，说明)
    'temperature': (float, 0.8, '/temp', '小于 1 更稳妥，大于 1 更大胆；0：每次都选得分最高的，不抽签'),
    'top_k': (int, 0, '/topk', '只从得分最高的 K 个里选；0：不限'),
    'top_p': (float, 0.9, '/topp', '只从概率最大、合计达到 P 的那些里选；1：不限'),
    'repetition_penalty': (float, 1.0, '/penalty', '已经写过的 token 得分缩小多少倍（换行不算）；1：不罚'),
    'max_tokens': (int, 500, '/max', '一首最多写多少个 token；写到歌的结尾会自己停'),
    'seed': (int, None, '/seed', '随机种子：同样的种子、设置和开头，写出同样的歌；默认随便取一个'),
    'mood': (str, '', '/mood', '情绪；从这一项起，要 s1_control.py 的检查点'),
    'singer': (str, '', '/singer', '谁的风格'),
    'title': (str, '', '/title', '歌名'),
    'rhyme': (str, '', '/rhyme', '押什么韵：十三辙之一，如 江阳'),
    'scheme': (str, '', '/scheme', '哪几行同韵：如 .A.A，点是随意；默认每行都押 --rhyme'),
    'chars': (int, 0, '/chars', '一行几个字，标点也算；0：不限'),
    'acrostic': (str, '', '/acrostic', '藏头：各行的第一个字；写完就停'),
}
WISHES = list(SETTINGS)[list(SETTINGS).index('mood'):]


def settings_of(options):
    """现在的设置；没有要求的不列。"""
    return {name: getattr(options, name) for name in SETTINGS if name not in WISHES or getattr(options, name)}


def command(words, options):
    """执行一条交互命令，返回要显示的话。"""
    names = {row[2]: name for name, row in SETTINGS.items()}
    try:
        key, *value = ['/temp', '0'] if words == ['/greedy'] else words
        setattr(options, names[key], SETTINGS[names[key]][0](' '.join(value)))      # 「/mood」：不再要求
    except (KeyError, ValueError):                                  # /help，和读不懂的
        settings = [f'{key + " 值":13}{SETTINGS[name][3]}' for key, name in names.items()]
        return '\n'.join(['/new          另写一首', *settings, '/greedy       就是 /temp 0', '/quit         结束'])
    return '，'.join(f'{name} {value}' for name, value in settings_of(options).items())


def read_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, given = parser.add_argument, parser.add_mutually_exclusive_group()
    add('--checkpoint', type=Path, default=Path('checkpoints/best.pt'), metavar='文件', help='默认 %(default)s')
    given.add_argument('--prompt', default='', metavar='文字', help='歌的开头，默认没有')
    given.add_argument('--prompts', type=Path, metavar='文件', help='一行一个开头（UTF-8），空行不算')
    given.add_argument('--interactive', action='store_true', help='你一句，它接着写；中途可以改设置')
    add('--num', type=int, default=1, metavar='N', help='每个开头写几首，默认 %(default)s；种子依次加 1')
    add('--output', type=Path, metavar='文件', help='存成 JSON Lines（prompt, text, settings, seed），停下时才覆盖')
    for name, (kind, default, _, text) in SETTINGS.items():
        text += '' if default in (None, '') else f'；默认 {default}'
        add(f'--{name.replace("_", "-")}', type=kind, default=default, metavar='X', help=text)
    add('--greedy', dest='temperature', action='store_const', const=0.0, help='就是 --temperature 0')
    add('--batch-size', type=int, default=16, metavar='N', help='最多几首一起写，默认 %(default)s')
    device = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
    add('--int8', action='store_true', help='矩阵乘法用 int8，只在 CPU 上：大模型快几倍，小模型不快')
    add('--device', default=device, metavar='D', help='cpu、cuda、cuda:1、mps……，这台机器上默认 %(default)s')
    options = parser.parse_args()
    if options.interactive and (options.output or options.num > 1):
        parser.error('--interactive 是一首一首写给你看的，不能与 --output、--num 同时用')
    if options.int8 and options.device != 'cpu':
        parser.error('--int8 只在 CPU 上：加上 --device cpu')
    if options.seed is None:
        options.seed = random.randrange(10**6)
    return options


def main():
    options = read_options()
    prompts = [options.prompt]
    if options.prompts:
        try:
            lines = options.prompts.read_text(encoding='utf-8-sig').splitlines()
        except (OSError, UnicodeDecodeError) as error:
            fail(f'{options.prompts} 读不了（{error}）：要 UTF-8 的文本文件，一行一个开头')
        prompts = [line for line in lines if line.strip()] or fail(f'{options.prompts} 里一个开头也没有')
    model, tokenizer = load(options.checkpoint, options.device)
    if options.int8:
        model.to_int8()
    note(f'seed {options.seed}')
    if options.interactive:
        return interact(model, tokenizer, options)
    total, size = len(prompts) * options.num, max(1, options.batch_size)
    try:
        new_song = song_maker(model, tokenizer, options)
    except ValueError as error:
        fail(error)
    batches = ([new_song(prompts[i // options.num], options.seed + i)
                for i in range(first, min(first + size, total))] for first in range(0, total, size))
    if options.output:
        save(model, batches, options, total)
    else:
        show(model, batches, options, titles=total > 1)


if __name__ == '__main__':
    sys.stdout.reconfigure(errors='replace')                        # 终端显示不了的字写成 ?
    try:
        main()
    except KeyboardInterrupt:
        note('\n已停止')
        sys.exit(130)
    except BrokenPipeError:                                         # python generate.py | head：读的人走了
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:                                        # 没有权限、磁盘写满……
        fail(f'读写文件出错：{error}')
    except torch.OutOfMemoryError:
        fail('显存不够：请改小 --batch-size，或用 --device cpu')
