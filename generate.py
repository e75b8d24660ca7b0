"""用训练好的模型写歌词。v5 起任何一级存下的检查点都能用：常量和分词器都在里面。

python generate.py                                   # best.pt，写一首
python generate.py --prompt "雨落在旧站台" --num 4      # 给定开头，写四首
python generate.py --interactive                     # 你一句，它接着写
python generate.py --prompts prompts.txt --output songs.jsonl

全部选项：python generate.py --help
"""
import argparse
import codecs
import contextlib
import functools
import hashlib
import itertools
import json
import os
import random
import re
import sys
import time
from pathlib import Path

import sentencepiece as spm
import torch
import torch.nn as nn
from torch.nn import functional as F

COPY_WINDOW = 8                             # --novelty：照抄按多少个字的片段算


def fail(message):
    """遇到用户能改正的错误：说清哪里不对、怎么办，以状态 1 退出。"""
    sys.exit(f'错误：{message}')


def out_of_memory(error):
    """这个错误说的是不是显存（或 CPU 的内存）不够：各种设备的说法不同。"""
    says = ('out of memory', "can't allocate memory", 'not enough memory', 'bad_alloc', 'ALLOC_FAILED', 'Invalid buffer size')
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in str(error) for words in says)


def note(message, end='\n'):
    """说明走 stderr，歌走 stdout：`python generate.py > song.txt` 里只有歌。"""
    print(message, end=end, file=sys.stderr, flush=True)


# ---------- 模型：与训练脚本同样的计算，多一份 k、v 缓存 ----------
def rope_table(block_size, head_size):
    """RoPE 旋转角的 cos 与 sin，(2, block_size, head_size)，与训练脚本相同。"""
    frequencies = 10000.0 ** (-torch.arange(0, head_size, 2) / head_size)
    angles = torch.outer(torch.arange(block_size).float(), frequencies)     # (block_size, head_size / 2)
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
    """注意力。有缓存时，前 start 个位置的 k、v 不必再算。"""

    def __init__(self, n_embed, n_heads, bias, qk_norm):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(n_embed, 3 * n_embed, bias=False)
        self.q_norm, self.k_norm = (nn.RMSNorm(n_embed // n_heads, eps=1e-5) if qk_norm else nn.Identity() for _ in 'qk')
        self.proj = nn.Linear(n_embed, n_embed, bias=bias)

    def forward(self, x, rope, cache, start):                       # (B, T, C)，(2, B, n_heads, 缓存长度, head_size) 或 None
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)    # 各 (B, n_heads, T, head_size)
        q, k = apply_rope(self.q_norm(q), rope), apply_rope(self.k_norm(k), rope)
        if cache is not None:
            cache[0, :, :, start:start + T], cache[1, :, :, start:start + T] = k, v
            k, v = cache[:, :, :, :start + T]                       # (B, n_heads, start + T, head_size)
        # 新来的第 i 个看得见前 start + i + 1 个；只来一个时它全看得见，不用遮罩
        mask = torch.ones(T, start + T, dtype=torch.bool, device=x.device).tril(start) if T > 1 else None
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(out.transpose(1, 2).reshape(B, T, C))


class FeedForward(nn.Module):
    """v5～v7 的前馈：放宽到 4 倍，过 GELU，再收回来。"""

    def __init__(self, n_embed):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(n_embed, 4 * n_embed), nn.GELU(), nn.Linear(4 * n_embed, n_embed))

    def forward(self, x):                                           # (B, T, C)
        return self.net(x)


class SwiGLU(nn.Module):
    """v8 起的前馈：一条支路开门，一条支路放行。"""

    def __init__(self, n_embed, hidden):
        super().__init__()
        self.gate = nn.Linear(n_embed, hidden, bias=False)
        self.up = nn.Linear(n_embed, hidden, bias=False)
        self.down = nn.Linear(hidden, n_embed, bias=False)

    def forward(self, x):                                           # (B, T, C)
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """一层：注意力，再前馈，每一步都加回原来的 x。"""

    def __init__(self, norm, attention, ffwd):
        super().__init__()
        self.ln1, self.ln2 = norm(), norm()
        self.attention = attention
        self.ffwd = ffwd

    def forward(self, x, rope, cache, start):                       # (B, T, C)
        x = x + self.attention(self.ln1(x), rope, cache, start)
        return x + self.ffwd(self.ln2(x))


class GPT(nn.Module):
    """训练脚本的 GPT，参数的名字相同。config 是检查点里的常量；是哪一种结构，看 weights 里有哪些参数。"""

    def __init__(self, vocab_size, config, weights):
        super().__init__()
        n_embed, n_heads, self.block_size = config['N_EMBED'], config['N_HEADS'], config['BLOCK_SIZE']
        gate, qk_norm = weights.get('blocks.0.ffwd.gate.weight'), 'blocks.0.attention.q_norm.weight' in weights
        llama = gate is not None                                    # v8 起：RMSNorm、SwiGLU、没有偏置、词向量共用

        def norm():
            return nn.RMSNorm(n_embed, eps=1e-5) if llama else nn.LayerNorm(n_embed)

        self.token_embedding = nn.Embedding(vocab_size, n_embed)
        self.register_buffer('rope', rope_table(self.block_size, n_embed // n_heads), persistent=False)
        self.blocks = nn.ModuleList(
            Block(norm, MultiHeadAttention(n_embed, n_heads, not llama, qk_norm),
                  SwiGLU(n_embed, len(gate)) if llama else FeedForward(n_embed)) for _ in range(config['N_LAYERS']))
        self.ln_f = norm()
        self.lm_head = nn.Linear(n_embed, vocab_size, bias=False)
        if llama:
            self.lm_head.weight = self.token_embedding.weight

    def new_cache(self, batch, length):
        """空的缓存，(n_layers, 2, B, n_heads, length, head_size)。"""
        return self.rope.new_empty(len(self.blocks), 2, batch, self.blocks[0].attention.n_heads, length, self.rope.shape[-1])

    def forward(self, idx, cache=None, start=0, last_only=False):   # (B, T)
        """idx 是第 start 个位置起的 token；返回 (B, T, vocab_size) 的得分，last_only 时只算最后一个位置。

        有缓存时，前 start 个位置的 k、v 已在里面，idx 的会存进去。
        """
        x = self.token_embedding(idx)                               # (B, T, C)
        rope = self.rope[:, start:start + idx.shape[1]]
        for layer, block in enumerate(self.blocks):
            x = block(x, rope, None if cache is None else cache[layer], start)
        if last_only:
            x = x[:, -1:]
        return self.lm_head(self.ln_f(x))


def load(path, device):
    """读检查点，返回 (model, tokenizer, checkpoint)。只读数据，不运行里面的代码（weights_only）。"""
    if not os.path.isfile(path):
        fail(f'没有检查点 {path}：先训练一个（python v6_wandb.py），或用 --checkpoint 指出它在哪里，比如 checkpoints/v9_muon/best.pt')
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
        tokenizer = spm.SentencePieceProcessor(model_proto=checkpoint['tokenizer'])
        model = GPT(len(tokenizer), checkpoint['config'], checkpoint['model'])
        model.load_state_dict(checkpoint['model'])
        checkpoint['step'], checkpoint['best_test_loss']
    except PermissionError as error:
        fail(f'{path} 读不了（{error.strerror}）')
    except Exception as error:
        if out_of_memory(error):
            raise
        fail(f'{path} 不是 v5 起各级存下的检查点，或者不完整（{type(error).__name__}）：换一份，或重新训练')
    try:
        model = model.to(device).eval()
        model(torch.zeros(1, 1, dtype=torch.long, device=device)).cpu()     # 真的算一次
        return model, tokenizer, checkpoint
    except (RuntimeError, AssertionError) as error:
        fail(f'--device {device} 在这台机器上用不了（{str(error).splitlines()[0]}），请用 --device cpu')


# ---------- 写歌 ----------
class Song:
    """一首正在写的歌：token、已经能看的文字、自己的随机数发生器。"""

    def __init__(self, prompt, seed, tokenizer, block_size):
        prompt = prompt.encode('utf-8', 'replace').decode()         # 终端传来的坏字节变成 ?
        self.prompt, self.seed, self.tokenizer = prompt, seed, tokenizer
        self.generator = torch.Generator().manual_seed(seed)
        self.ids = [tokenizer.eos_id()] + tokenizer.encode(prompt)  # 与训练时一样，歌从分隔符开始
        if len(self.ids) > block_size:
            note(f'开头有 {len(self.ids)} 个 token，模型只看得见 {block_size} 个：只用末尾的')
            self.ids = self.ids[-block_size:]
        self.utf8 = codecs.getincrementaldecoder('utf-8')('replace')
        self.written, self.n_tokens = '', 0                         # 写出的文字（不含开头），它的 token 数
        self.ended = self.done = False                              # 写到了歌的结尾；写到了结尾或长度的上限

    @property
    def text(self):
        return self.prompt + self.written

    def append(self, token, max_tokens):
        """接上一个 token。拆成字节的字，凑齐了才出现；分隔符或写够了 max_tokens 个就完。"""
        self.n_tokens += 1
        self.ended = token == self.tokenizer.eos_id()
        self.done = self.ended or self.n_tokens == max_tokens
        data = b''
        if not self.ended:
            self.ids.append(token)
            piece = self.tokenizer.id_to_piece(token)
            data = bytes([int(piece[1:-1], 16)]) if self.tokenizer.is_byte(token) else piece.replace('▁', ' ').encode()
        text = self.utf8.decode(data, final=self.ended)             # 写到上限时，没凑齐的字不要了
        self.written += re.sub(r'[\x00-\x08\x0b-\x1f\x7f-\x9f]', '', text)     # 控制字符会弄乱终端


def choose(logits, songs, options):                                 # (B, vocab_size)
    """按得分给每首歌选下一个 token，返回 B 个编号。先罚重复，再 temperature，再 top-k，再 top-p。"""
    logits = logits.cpu().double()
    tokenizer = songs[0].tokenizer
    logits[:, tokenizer.unk_id()] = -torch.inf                      # 从没训练过，写出来也没有意义
    if options.repetition_penalty != 1:                             # arXiv:1909.05858；换行不罚，否则歌会连成一行
        free = {tokenizer.eos_id(), *tokenizer.encode('\n')}
        for row, song in zip(logits, songs):
            used = torch.tensor(sorted(set(song.ids) - free), dtype=torch.long)
            row[used] = torch.where(row[used] > 0, row[used] / options.repetition_penalty, row[used] * options.repetition_penalty)
    if options.greedy:
        return logits.argmax(dim=-1).tolist()
    if options.top_k:
        kth = logits.topk(min(options.top_k, logits.shape[-1])).values[:, -1:]
        logits[logits < kth] = -torch.inf
    probs = F.softmax(logits / options.temperature, dim=-1)
    if options.top_p < 1:                                           # arXiv:1904.09751：从大到小，加到 top_p 为止
        ordered, order = probs.sort(dim=-1, descending=True)
        ordered[ordered.cumsum(dim=-1) - ordered >= options.top_p] = 0
        probs = torch.zeros_like(probs).scatter(-1, order, ordered)
    # 抽签：每个 token 得一个指数分布的随机数，probs / 随机数 最大的中签，概率正好是 probs（multinomial 也这样做）。
    # 舍入误差只在两个 token 几乎并列时才会换人，所以一批里写的与单独写的一样
    noise = torch.stack([torch.empty_like(probs[0]).exponential_(generator=song.generator) for song in songs])     # 各用各的
    return (probs / noise).argmax(dim=-1).tolist()


@torch.inference_mode()
def write_songs(model, songs, options, use_cache=True):
    """一起写 songs，每走一步 yield 一次。每一首都与它单独写时相同（除了浮点舍入）。

    各首的开头可以不一样长：都从位置 0 排起，一步步往前走，走到谁的末尾就给谁写。超过窗口时，从最后半个窗口重新开始，
    什么时候重新开始只看走到了哪里，所以不受同伴影响。
    """
    begin, filled = 0, 0                                            # 窗口从第几个 token 开始；其中多少个已在缓存里
    longest = max(len(song.ids) for song in songs) + options.max_tokens
    cache = model.new_cache(len(songs), min(model.block_size, longest)) if use_cache else None
    while songs:
        end = min(len(song.ids) for song in songs)                  # 到这里为止，每首都已经有了
        if end - begin > model.block_size:
            begin, filled = end - max(1, model.block_size // 2), 0
        idx = torch.tensor([song.ids[begin + filled:end] for song in songs], device=model.rope.device)
        logits = model(idx, cache, filled, last_only=True)[:, -1]   # (B, vocab_size)
        filled = end - begin if use_cache else 0
        ready = [i for i, song in enumerate(songs) if len(song.ids) == end]     # 其余的还在读开头
        writing = [songs[i] for i in ready]
        for song, token in zip(writing, choose(logits[ready], writing, options)):
            song.append(token, options.max_tokens)
        yield
        keep = [i for i, song in enumerate(songs) if not song.done]
        if len(keep) < len(songs):
            songs = [songs[i] for i in keep]
            cache = cache[:, :, keep] if use_cache else None


# ---------- 新意：有多少是照抄的 ----------
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


def read_texts(file):
    """依次给出一个纯文本文件里的各篇：用空行分开，超过两千字的从中间断开；有 <|endoftext|> 的，用它分开，超过两万字才断开。"""
    with open(file, encoding='utf-8-sig') as stream:
        marked = any('<|endoftext|>' in line for line in iter(lambda: stream.readline(20_000), ''))
        end, limit = ('<|endoftext|>', 20_000) if marked else ('', 2_000)
        stream.seek(0)
        lines, size = [], 0
        for line in itertools.chain(iter(lambda: stream.readline(limit), ''), [end]):
            for part in re.split(r'(<\|endoftext\|>)', line) if marked else [line]:
                part = part.strip()
                if part and part != end:
                    lines.append(part)
                    size += len(part)
                if part == end or size >= limit:
                    yield '\n'.join(lines)
                    lines, size = [], 0


def training_songs(config):
    """检查点训练时用的那九成歌，拼成一段文字：与训练脚本同样的清洗、去重、切分。"""
    folder, by_content = Path(config['LYRICS_DIR']), 'TOKENIZER_BYTES' in config     # v10 起按内容的指纹切分，纯文本也读
    patterns = ('lyrics*.json', '*.txt') if by_content else ('lyrics*.json',)
    files = sorted((path for pattern in patterns for path in folder.glob(f'**/{pattern}')), key=Path.as_posix) or [folder / 'sample.json']
    if not files[0].is_file():
        fail(f'--novelty 要对照训练歌词，{folder}/ 里却没有 lyrics*.json，也没有 sample.json：请在项目文件夹里运行，或去掉 --novelty')
    songs = {}
    for file in files:
        try:
            if file.suffix.lower() == '.txt':
                songs |= dict.fromkeys(read_texts(file))
                continue
            for entry in json.loads(file.read_text(encoding='utf-8-sig')):
                lyric = entry['lyric'] if isinstance(entry['lyric'], str) else '\n'.join(entry['lyric'])
                songs[clean(lyric.encode('utf-8', 'ignore').decode())] = None
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            fail(f'{file} 读不了（{type(error).__name__}）：训练脚本会说出是哪一处、怎么改')
    songs.pop('', None)
    songs = list(songs)
    if by_content:
        digests = [hashlib.sha256(f'{config["SEED"]} {text}'.encode()).digest() for text in songs[:config['MAX_SONGS']]]
        training = [text for text, digest in zip(songs, digests) if int.from_bytes(digest[16:24], 'big') / 2**64 >= 0.1]
    else:
        random.Random(config['SEED']).shuffle(songs)
        songs = songs[:config['MAX_SONGS']]
        training = songs[:int(0.9 * len(songs))]
    if not training:
        fail(f'--novelty 要对照训练歌词，{folder}/ 里却没有歌：请放回训练时的数据，或去掉 --novelty')
    note(f'对照 {folder}/ 里的 {len(training):,} 首训练歌词')
    return '\n\n'.join(training)                                    # 空行隔开：照抄不会跨过两首


@functools.cache                                                    # --output 每一批都重存全部的歌
def novelty(written, corpus):
    """(最长的一段照抄, 所有 COPY_WINDOW 字片段里照抄的比例)。照抄：原样出现在训练歌词 corpus 里。太短而没有片段时，比例是 None。"""
    longest, start = '', 0
    for end in range(1, len(written) + 1):                          # 两端只进不退：每个片段最多查一次
        while written[start:end] not in corpus:
            start += 1
        longest = max(longest, written[start:end], key=len)
    windows = [written[i:i + COPY_WINDOW] for i in range(len(written) - COPY_WINDOW + 1)]
    return longest, sum(window in corpus for window in windows) / len(windows) if windows else None


def describe_novelty(song, corpus):
    """一行话：这首歌（不算开头）照抄了多少。"""
    longest, share = novelty(song.written, corpus)
    shown = longest.replace('\n', ' / ')
    copied = f'{COPY_WINDOW} 字片段有 {share:.1%} 在训练歌词里' if share is not None else f'不足 {COPY_WINDOW} 字'
    return f'[最长的照抄 {len(longest)} 字「{shown}」；{copied}]'


# ---------- 三种用法 ----------
def stream(model, songs, options, corpus):
    """一批歌一起写，依次显示：第一首边写边出，后面的等它写完。"""
    current, shown = 0, None
    for _ in write_songs(model, songs, options):
        while current < len(songs):
            song = songs[current]
            if shown is None:                                       # 轮到这一首：先是开头
                if options.total > 1:
                    print(f'--- seed {song.seed} ---')
                print(song.prompt, end='')
                shown = 0
            print(song.written[shown:], end='', flush=True)
            shown = len(song.written)
            if not song.done:
                break
            print()
            if corpus is not None:
                print(describe_novelty(song, corpus))
            current, shown = current + 1, None


def check_output(path):
    """现在就试着写，不等歌写完了才发现存不了。返回真正的文件（顺着符号链接）。"""
    try:
        file = path.resolve()
        if file.exists() and not file.is_file():
            raise OSError(0, '不是普通文件')
        temporary = file.with_name(file.name + '.tmp')
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        fail(f'存不了 {path}（{error.strerror}）')
    return file


def save(path, songs, options, corpus):
    """写完的歌存成 JSON Lines：先写临时文件再改名，不会留下半个文件。"""
    settings = {name: getattr(options, name) for name in SETTINGS}
    temporary = path.with_name(path.name + '.tmp')
    try:
        with open(temporary, 'w', encoding='utf-8') as file:
            for song in songs:
                record = {'prompt': song.prompt, 'text': song.text, 'settings': settings, 'seed': song.seed}
                if corpus is not None:
                    longest, share = novelty(song.written, corpus)
                    record['novelty'] = {'longest_copy': longest, 'copied_share': share}
                print(json.dumps(record, ensure_ascii=False), file=file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        fail(f'写不了 {path}（{error.strerror}）')


def interact(model, tokenizer, options, corpus):
    """你一句，它接着写。/help 列出命令。"""
    with contextlib.suppress(ImportError):                          # Windows 没有，也不需要
        import readline  # noqa: F401                               # 有了它，input() 就能移动光标、翻出历史
    if sys.stdin:
        sys.stdin.reconfigure(errors='replace')                     # 终端传来的坏字节也一样
    note('输入第一行，按回车，它接着写；之后再输入就接在后面，直接按回车让它自己往下写。Ctrl-C 打断，/help 看命令')
    song = None
    while True:
        try:
            line = input('接着写> ' if song else '第一行> ')
        except (EOFError, KeyboardInterrupt):
            note('')
            break
        if line.strip() == '/quit':
            break
        if line.strip() == '/new':
            song = None
            continue
        if line.startswith('/'):
            note(command(line.split(), options))
            continue
        text = song.text if song else ''
        if text and (line or song.ended) and not text.endswith('\n'):
            text += '\n'                                            # 你写的另起一行；直接按回车，就从打断的地方往下写
        song = Song(text + line, options.seed, tokenizer, model.block_size)
        shown = 0
        try:
            print(song.prompt.rsplit('\n', 1)[-1], end='', flush=True)
            for _ in write_songs(model, [song], options):
                print(song.written[shown:], end='', flush=True)
                shown = len(song.written)
        except KeyboardInterrupt:
            pass
        print()
        if corpus is not None:
            print(describe_novelty(song, corpus))
        options.seed += 1                                           # 下一次写点别的；/seed 可以回到这一次
    note('再见')


# ---------- 选项 ----------
def number(kind, low, high):
    """范围是 low～high 的数，用来读选项和命令。"""
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f'{text} 不行，要 {low}～{high} 的{"整数" if kind is int else "数"}')
        return value
    return parse


# 名字：（读法，默认值，交互时的命令，说明）
SETTINGS = {
    'temperature': (number(float, 0.01, 10.0), 0.8, '/temp', '0.01～10，小于 1 更稳妥，大于 1 更大胆'),
    'top_k': (number(int, 0, 10**6), 0, '/topk', '0～1000000，只从得分最高的 K 个里选；0：不限'),
    'top_p': (number(float, 0.01, 1.0), 1.0, '/topp', '0.01～1，只从概率最大、合计达到 P 的那些里选；1：不限'),
    'greedy': (bool, False, '/greedy', '每次都选得分最高的，不抽签（temperature、top-k、top-p、seed 都不起作用）'),
    'repetition_penalty': (number(float, 1.0, 10.0), 1.0, '/penalty', '1～10，已经写过的 token 得分缩小多少倍（换行不算）；1：不罚'),
    'max_tokens': (number(int, 1, 10**6), 500, '/max', '1～1000000，一首最多写多少个 token；写到歌的结尾会自己停'),
}
SEED = number(int, 0, 2**62)


def command(words, options):
    """执行一条交互命令，返回要显示的话。"""
    names = {SETTINGS[name][2]: name for name in SETTINGS}
    try:
        if words == ['/greedy']:
            options.greedy = not options.greedy
        elif words[0] == '/seed' and len(words) == 2:
            options.seed = SEED(words[1])
        elif words[0] in {*names, '/seed'} - {'/greedy'} and len(words) == 1:
            return f'{words[0]} 后面要有一个数'
        elif words[0] in names and words[0] != '/greedy' and len(words) == 2:
            setattr(options, names[words[0]], SETTINGS[names[words[0]]][0](words[1]))
        else:
            unknown = '' if words == ['/help'] else f'没有这样的命令：{" ".join(words)}\n'
            lines = [f'{key + ("" if key == "/greedy" else " 数"):12}{SETTINGS[name][3]}' for key, name in names.items()]
            return unknown + '\n'.join(['/new        另写一首', *lines, '/seed 数    随机种子：同样的种子、设置和文字，写出同样的歌',
                                        '/help       这份说明', '/quit       结束'])
    except argparse.ArgumentTypeError as error:
        return str(error)
    return '，'.join(f'{name} {getattr(options, name)}' for name in [*SETTINGS, 'seed'])


class Help(argparse.RawTextHelpFormatter):
    """--help 里 argparse 自己的英文词换成中文。"""

    def add_usage(self, usage, actions, groups, prefix=None):
        super().add_usage(usage, actions, groups, prefix='用法：')


class Parser(argparse.ArgumentParser):
    """用法有误时与别的错误一样：一句中文，状态 1。"""

    def error(self, message):
        for english, chinese in (('ignored explicit argument', '不带值，多了'), ('argument ', '选项 '), ('not allowed with', '不能同时用'),
                                 ('expected one argument', '后面要有一个值（以 - 开头的，写成 --prompt=-…）'),
                                 ('unrecognized arguments', '没有这样的选项'), ('ambiguous option', '选项不明确'),
                                 ('could match', '可能是')):
            message = message.replace(english, chinese)
        fail(f'{message}（python generate.py --help 列出全部选项）')


def read_options():
    parser = Parser(usage='python generate.py [选项]', description=__doc__, formatter_class=Help, add_help=False)
    what = parser.add_argument_group('写什么')
    what.add_argument('--checkpoint', type=Path, default=Path('checkpoints/best.pt'), metavar='文件',
                      help='检查点，默认 checkpoints/best.pt')
    given = what.add_mutually_exclusive_group()
    given.add_argument('--prompt', default='', metavar='文字', help='歌的开头，默认没有')
    given.add_argument('--prompts', type=Path, metavar='文件', help='一行一个开头（UTF-8），空行不算')
    given.add_argument('--interactive', action='store_true', help='你一句，它接着写；中途可以改设置')
    what.add_argument('--num', type=number(int, 1, 10**6), default=1, metavar='N', help='每个开头写几首，1～1000000，默认 1；种子依次加 1')
    what.add_argument('--output', type=Path, metavar='文件', help='存成 JSON Lines（prompt, text, settings, seed），写完才覆盖旧文件')
    what.add_argument('--novelty', action='store_true', help='每首歌有多少是从训练歌词里照抄的（要读数据集）')
    how = parser.add_argument_group('怎么写')
    for name, (read, default, _, text) in SETTINGS.items():
        kind = {'action': 'store_true'} if read is bool else {'type': read, 'default': default, 'metavar': 'X'}
        how.add_argument(f'--{name.replace("_", "-")}', **kind, help=text if read is bool else f'{text}；默认 {default}')
    how.add_argument('--seed', type=SEED, metavar='N', help='0～2^62，随机种子：同样的种子写出同样的歌；默认随便取一个，并显示出来')
    machine = parser.add_argument_group('机器')
    machine.add_argument('--batch-size', type=number(int, 1, 10**4), default=16, metavar='N', help='最多几首一起写，1～10000，默认 16')
    device = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
    machine.add_argument('--device', default=device, metavar='D', help=f'在哪里算，cpu、cuda、cuda:1、mps……，这台机器上默认 {device}')
    machine.add_argument('-h', '--help', action='help', help='显示这份说明')
    options = parser.parse_args()
    if options.interactive and (options.output or options.num > 1):
        fail('--interactive 是一首一首写给你看的，不能与 --output、--num 同时用')
    if options.seed is None:
        options.seed = random.randrange(10**6)
    return options


def read_prompts(path):
    """文件里的开头，一行一个。"""
    try:
        prompts = [line for line in path.read_text(encoding='utf-8-sig').splitlines() if line.strip()]
    except UnicodeDecodeError:
        fail(f'{path} 不是 UTF-8 编码（可能是 GBK）：请用编辑器另存为 UTF-8')
    except OSError as error:
        fail(f'{path} 读不了（{error.strerror}）')
    if not prompts:
        fail(f'{path} 里一个开头也没有：一行写一个')
    return prompts


def show_progress(songs, total, started, end=''):
    """一行进度，写在原处；不是终端时，只写最后一次。"""
    if end or sys.stderr.isatty():
        n_tokens = sum(song.n_tokens for song in songs)
        speed = n_tokens / (time.perf_counter() - started)
        note(f'\r写完 {sum(song.done for song in songs)}/{total} 首 | {n_tokens:,} token | {speed:,.0f} tok/s', end=end)


def main():
    for file in (sys.stdout, sys.stderr):
        if hasattr(file, 'reconfigure'):                            # 关掉了的是 None，IDLE、Jupyter 的没有
            file.reconfigure(errors='replace')                      # 终端显示不了的字用 ? 代替
    options = read_options()
    prompts = read_prompts(options.prompts) if options.prompts else [options.prompt]
    output = check_output(options.output) if options.output else None
    model, tokenizer, checkpoint = load(options.checkpoint, options.device)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    note(f'{options.checkpoint}：{parameters:.2f} M 参数，第 {checkpoint["step"]} 步，最好的 test {checkpoint["best_test_loss"]:.4f}'
         f' | 设备 {options.device} | seed {options.seed}')
    corpus = training_songs(checkpoint['config']) if options.novelty else None
    if options.interactive:
        interact(model, tokenizer, options, corpus)
        return

    options.total, started, songs = len(prompts) * options.num, time.perf_counter(), []
    status = 0
    try:
        for first in range(0, options.total, options.batch_size):
            numbers = range(first, min(first + options.batch_size, options.total))
            batch = [Song(prompts[i // options.num], options.seed + i, tokenizer, model.block_size) for i in numbers]
            songs += batch
            if output:
                for _ in write_songs(model, batch, options):
                    show_progress(songs, options.total, started)
                save(output, songs, options, corpus)                # 每一批都存：后面出了事，写好的还在
            else:
                stream(model, batch, options, corpus)
    except KeyboardInterrupt:
        note('\n已停止')
        status = 130
    show_progress(songs, options.total, started, end='\n')
    if output:
        done = [song for song in songs if song.done]
        if status and done:
            save(output, done, options, corpus)
        note(f'{len(done)} 首存入 {options.output}' if done else f'一首也没写完，{options.output} 没有动')
    sys.exit(status)


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        fail('已中断')
    except BrokenPipeError:                                         # python generate.py | head：读的人走了
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:                                        # 磁盘写满……
        fail(f'读写文件出错：{error}')
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        fail('显存或内存不够：请改小 --batch-size，或用 --device cpu')
