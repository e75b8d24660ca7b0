"""What each rung buys: runs the rungs on copies with edited constants, and writes the figures that the README shows.

    python bench/ladder.py                          # all experiments; stop it at will, it continues where it was
    python bench/ladder.py --only as-shipped        # one of them
    python bench/ladder.py --setting large --lyrics ChineseLyrics --rungs v9_llama v10_muon     # a large corpus
    python bench/ladder.py --report                 # nothing runs: only the table and the plots, from the results

Results: bench/results/<machine>.json (settings, curves, versions), <machine>.md (tables), <machine>-*.svg (plots).
How it is measured, and on what: bench/README.md.
"""
import argparse
import ast
import functools
import glob
import hashlib
import io
import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'bench' / 'results'
# step 0, before any training, has no speed and no point of the curve
LOG_LINE = re.compile(r'step +(\d+)/(\d+) \| train ([\d.]+) \| test ([\d.]+) \| ([\d.]+) bits/char \| ([\d,]+) tok/s')
RUNGS = ['v0_char_english', 'v0_char_chinese', 'v0_char_rope', 'v1_bpe_rope', 'v2_cosine_lr', 'v3_gpt2_amp',
         'v4_flash_optim', 'v5_checkpoint', 'v6_wandb', 'v7_grad_accum', 'v8_mfu', 'v9_llama', 'v10_muon', 'v11_memmap',
         'v12_ddp']

# The controlled experiment: one size and one budget of training text for every Chinese rung. Without a GPU the default
# is the sample that ships, read two or three times as the rungs do; "large" reads a part of a large corpus once.
CPU = {'N_EMBED': 128, 'N_HEADS': 4, 'N_LAYERS': 4, 'BLOCK_SIZE': 128, 'BATCH_SIZE': 16, 'DROP_OUT': 0.0,
       'BPE_VOCAB_SIZE': 4000, 'WARMUP_ITERS': 30}
CONTROLLED = {
    'small': CPU | {'LEARNING_RATE': 1e-3, 'MIN_LR': 1e-4, 'EVAL_ITERS': 20},
    'large': CPU | {'LEARNING_RATE': 3e-3, 'MIN_LR': 3e-4, 'EVAL_ITERS': 10},
    'gpu': {'N_EMBED': 512, 'N_HEADS': 8, 'N_LAYERS': 8, 'BLOCK_SIZE': 256, 'BATCH_SIZE': 64, 'DROP_OUT': 0.0,
            'BPE_VOCAB_SIZE': 8000, 'LEARNING_RATE': 6e-4, 'MIN_LR': 6e-5, 'WARMUP_ITERS': 100, 'EVAL_ITERS': 20},
}
# From v10 on: Muon allows the word vectors a much higher rate than AdamW alone.
OWN = {'small': {'LEARNING_RATE': 1e-2, 'MIN_LR': 1e-3}, 'large': {'LEARNING_RATE': 4e-2, 'MIN_LR': 4e-3},
       'gpu': {'LEARNING_RATE': 6e-3, 'MIN_LR': 6e-4}}
BUDGET = {'small': 1_400_000, 'large': 1_200_000, 'gpu': 30_000_000}    # characters of training text
STEPS = {'small': 40, 'large': 40, 'gpu': 300}      # a run for its speed: that many steps
EVALUATIONS = 5                                     # points of a curve
START = 100_000                                     # tokens: a run's start lasts about as long as training on that many

# Leave one out: (rung, idea, the idea in Chinese and what stands in for it, what is edited).
# A dict replaces constants, a list code.
WITHOUT = [
    ('v3_gpt2_amp', 'GELU', 'GELU（换成 ReLU）', [('nn.GELU()', 'nn.ReLU()')]),
    ('v3_gpt2_amp', 'autocast', '混合精度', {'USE_AMP': False}),
    ('v3_gpt2_amp', 'torch.compile', 'torch.compile', {'USE_COMPILE': False}),
    ('v3_gpt2_amp', 'TF32', 'TF32', [("matmul_precision('high')", "matmul_precision('highest')")]),
    ('v4_flash_optim', 'one QKV projection', 'q、k、v 一次矩阵乘法（换成三次）', [
        ('self.qkv(x)', 'torch.cat([F.linear(x, w) for w in self.qkv.weight.chunk(3)], dim=-1)')]),
    ('v4_flash_optim', 'flash attention', 'flash attention（换成遮罩 + softmax）', [
        ('F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)',
         'F.dropout((q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5'
         ' + torch.full((T, T), -torch.inf, device=x.device).triu(1)).softmax(dim=-1), dropout) @ v')]),
    ('v4_flash_optim', 'weight decay', '权重衰减', {'WEIGHT_DECAY': 0.0}),
    ('v4_flash_optim', 'decay groups', '衰减分组（全都衰减）', [
        ("{'params': rest, 'weight_decay': 0.0}", "{'params': rest, 'weight_decay': WEIGHT_DECAY}")]),
    ('v4_flash_optim', 'gradient clipping', '梯度裁剪', {'GRAD_CLIP': 1e9}),
    ('v4_flash_optim', 'betas', 'betas（换成 0.9, 0.999）', {'BETAS': (0.9, 0.999)}),
    ('v4_flash_optim', 'init', 'GPT-2 的初始化（换成 PyTorch 的）', [
        ('for name, p in self.named_parameters():', 'for name, p in ():')]),
    ('v4_flash_optim', 'residual scaling', '残差投影缩小', [
        ('0.02 / math.sqrt(2 * N_LAYERS) if residual else 0.02', '0.02')]),
    ('v4_flash_optim', 'fused AdamW', 'fused AdamW', [('fused=True', 'fused=False')]),
    ('v4_flash_optim', 'DataLoader workers', 'DataLoader 的子进程', {'NUM_WORKERS': 0}),
    ('v9_llama', 'the smaller model', '模型变小（补到与 v8 差不多一样多的参数）',
     {'N_EMBED': {'small': 160, 'large': 160, 'gpu': 576}}),
    ('v9_llama', 'grouped queries', '分组查询（每个头有自己的 k、v）', [
        ('N_KV_HEADS = N_HEADS // 5 if N_HEADS % 2 else N_HEADS // 2', 'N_KV_HEADS = N_HEADS')]),
    ('v9_llama', 'tied embeddings', '词向量共用', [('self.lm_head.weight = self.token_embedding.weight', 'pass')]),
    ('v9_llama', 'SwiGLU', 'SwiGLU（换成 4 倍宽的 GELU）', [
        ('hidden = math.ceil(N_EMBED * 8 / 3 / 64) * 64', 'hidden = 4 * N_EMBED'),
        ('self.gate = nn.Linear(N_EMBED, hidden, bias=False)', 'pass'),
        ('F.silu(self.gate(x)) * self.up(x)', 'F.gelu(self.up(x))')]),
    ('v9_llama', 'RMSNorm', 'RMSNorm（换成 LayerNorm）', [
        (f'self.{name} = nn.RMSNorm(N_EMBED, eps=1e-5)', f'self.{name} = nn.LayerNorm(N_EMBED)')
        for name in ('ln1', 'ln2', 'ln_f')]),
    ('v10_muon', 'Muon', 'Muon（换成 v9 的 AdamW）', [
        ('return Muon([', 'return torch.optim.AdamW(['), ("'peak': MUON_LR", "'peak': @LEARNING_RATE")]),
    ('v10_muon', 'the high rate for the word vectors', '词向量的大学习率（换成 v9 的）', [
        ("'peak': LEARNING_RATE", "'peak': @LEARNING_RATE")]),
    ('v10_muon', 'q and k normalised', 'q、k 归一', [
        ('self.q_norm(q)', 'q'), ('self.k_norm(k)', 'k')]),
]
NEEDS_GPU = {'autocast', 'torch.compile', 'TF32', 'DataLoader workers'}    # off, or without effect, without a GPU
# Each repeats the losses of the rung below; v7, which adds up in another order, to some digits.
SAME_TRAINING = {'v5_checkpoint', 'v6_wandb', 'v7_grad_accum', 'v8_mfu', 'v12_ddp'}
OTHER_SPLIT = 'v11_memmap'      # splits by content, as v12 does: other test songs, and no change to the training
ENGLISH = {'| 脚本 |': '| script |', '比上一级': 'against the rung below', '显存': 'GPU memory', '内存': 'memory',
           '去掉': 'without', '比完整的': 'against the whole rung', '备注': 'remarks',
           '曲线最低': 'lowest of the curve', 'tok/s 变化': 'tok/s',
           '字/s': 'chars/s', '参数': 'parameters', '算力利用率': 'FLOPs utilisation',
           '编译': 'compilation', '要有 GPU': 'needs a GPU',
           '训练没有变，应当相同': 'the training does not change: equal',
           '训练没有变；数据按内容切分，测试集不同，不能与别的级比':
           'the training does not change; another test set (split by content)',
           '混合精度、编译要有 GPU 才开，这里只有 GELU': 'autocast and compilation need a GPU; here only GELU',
           } | {chinese: name for _, name, chinese, _ in WITHOUT}


def edit(rung: str, constants: dict, patches: list = ()) -> str:
    """The rung's source with the constants that it has replaced, and each patch applied: it must fit exactly once."""
    source = (ROOT / f'{rung}.py').read_text(encoding='utf-8')
    source = re.sub(r'^(N_EMBED), (N_HEADS), (N_LAYERS) = (MODEL_SIZES\[.*?\]).*$',     # v8 on: a line for each
                    r'\1 = \4[0]\n\2 = \4[1]\n\3 = \4[2]', source, flags=re.M)
    for name, value in constants.items():
        source = re.sub(rf'^{name} = .*$', lambda _, n=name, v=value: f'{n} = {v!r}', source, flags=re.M)
    for old, new in patches:
        if source.count(old) != 1:
            sys.exit(f'{rung}.py holds {source.count(old)} times, not once: {old}')
        source = source.replace(old, new)
    return source


def run(source: str, rung: str, report=lambda step, steps: None) -> dict:
    """Run a script in a folder of its own; its curve, the figures it prints and those of measured.py.

    `report(step, steps)` is called at every log line. Raises RuntimeError with the script's output when it fails.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        (Path(folder) / f'{rung}.py').write_text(source, encoding='utf-8')
        environment = os.environ | {'PYTHONUTF8': '1', 'WANDB_MODE': 'offline', 'HOME': folder,
                                    'TORCHINDUCTOR_CACHE_DIR': f'{folder}/inductor',    # each compiles anew
                                    'TRITON_CACHE_DIR': f'{folder}/triton'}
        command = [sys.executable, '-u', str(ROOT / 'bench' / 'measured.py'), f'{rung}.py', 'measured.json']
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, encoding='utf-8')
        output = []
        try:
            for line in process.stdout:
                output.append(line)
                if match := LOG_LINE.match(line):
                    report(int(match[1]), int(match[2]))
            status = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        if status:
            raise RuntimeError(''.join(output[-20:]))
        text = ''.join(output)
        lines = LOG_LINE.findall(text)
        result = json.loads((Path(folder) / 'measured.json').read_text(encoding='utf-8'))
    window = math.prod(constants_of(source, 'BATCH_SIZE', 'BLOCK_SIZE').values())
    result['curve'] = [{'step': int(step), 'tokens': int(step) * window, 'train': float(train), 'test': float(test),
                        'bits_per_char': float(bits)} for step, _, train, test, bits, _ in lines]
    result['tok_per_s'] = int(lines[-1][5].replace(',', ''))
    result['parameters'] = float(re.search(r'参数 ([\d.]+) M', text).group(1)) * 1e6
    result['vocabulary'] = int(re.search(r'词表 ([\d,]+)', text).group(1).replace(',', ''))
    result['compile_seconds'] = int(found.group(1)) if (found := re.search(r'编译用了 (\d+) 秒', text)) else None
    return result


def chars_per_token(rung: str, constants: dict) -> float:
    """Characters of text that one token of this rung stands for, over the test songs."""
    code = f'import {rung}; _, _, test, chars = {rung}.load_data(); print("ratio", chars / len(test))'
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f'{rung}.py').write_text(edit(rung, constants), encoding='utf-8')
        done = subprocess.run([sys.executable, '-c', code], cwd=folder, capture_output=True, encoding='utf-8',
                              env=os.environ | {'PYTHONUTF8': '1', 'PYTHONPATH': folder})
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return float(re.search(r'ratio (.*)', done.stdout).group(1))


def left_out(edits: dict | list, setting: str) -> tuple[dict, list]:
    """(constants, patches) of an entry of WITHOUT in a setting; @LEARNING_RATE is the rate that it gives to AdamW."""
    if isinstance(edits, dict):
        return {name: value[setting] if isinstance(value, dict) else value for name, value in edits.items()}, []
    return {}, [(old, new.replace('@LEARNING_RATE', str(CONTROLLED[setting]['LEARNING_RATE']))) for old, new in edits]


def plan(machine: dict, options) -> list[dict]:
    """All jobs: {'key', 'rung', 'constants', 'patches', 'budget', 'together'}.

    A budget is in characters, without one the steps are set; jobs of one `together` are measured one after another,
    or not at all.
    """
    setting, lyrics, cuda = options.setting, {'LYRICS_DIR': str(options.lyrics.resolve())}, machine['device'] == 'cuda'
    steps = options.steps or STEPS[setting]
    short = {'TRAIN_ITERS': steps, 'EVAL_INTERVAL': steps}
    chinese = [rung for rung in options.rungs if rung != RUNGS[0]]  # the English one has no lyrics to be compared on
    ideas = [(rung, name, edits) for rung, name, _, edits in WITHOUT
             if rung in chinese and (cuda or name not in NEEDS_GPU)]
    jobs = []

    def add(key, rung, seed, edits=(), budget=None, together=None):
        constants, patches = left_out(edits, setting)
        own = OWN[setting] if RUNGS.index(rung) >= RUNGS.index('v10_muon') else {}
        constants = CONTROLLED[setting] | lyrics | own | {'SEED': seed} | constants | ({} if budget else short)
        jobs.append({'key': key, 'rung': rung, 'constants': constants, 'patches': patches, 'budget': budget,
                     'together': together})

    budget = options.budget or BUDGET[setting]
    if 'controlled' in options.only:
        for seed in range(1, options.seeds + 1):
            for rung in chinese:
                if seed == 1 or rung not in SAME_TRAINING | {OTHER_SPLIT}:     # one run shows that nothing has changed
                    add(f'controlled/{rung}/seed {seed}', rung, seed, budget=budget)
    if 'leave-one-out' in options.only:
        for seed in range(1, options.seeds + 1):
            for rung, name, edits in ideas:
                add(f'without/{rung}/{name}/seed {seed}', rung, seed, edits, budget)
    if 'speed' in options.only:
        for number in range(1, options.rounds + 1):
            for rung in chinese:
                add(f'speed/{rung}/round {number}', rung, 1, together=f'{rung} {number}')
                for _, name, edits in (idea for idea in ideas if idea[0] == rung):     # beside its rung: speeds drift
                    add(f'speed/{rung}/{name}/round {number}', rung, 1, edits, together=f'{rung} {number}')
    if 'as-shipped' in options.only:
        for number in range(1, options.rounds + 1):
            for rung in options.rungs:
                files = {'INPUT_FILE': str(ROOT / 'input.txt')} if rung == RUNGS[0] else lyrics
                jobs.append({'key': f'as-shipped/{rung}/round {number}', 'rung': rung, 'constants': files | short,
                             'patches': [], 'budget': None, 'together': None})
    return jobs


def complete(job: dict, ratios: dict) -> str:
    """The job's source. A budget in characters becomes a number of steps here."""
    constants = job['constants']
    if job['budget']:
        at = RUNGS.index(job['rung'])
        tokenizer = [name for name in ('v0_char_chinese', 'v1_bpe_rope', OTHER_SPLIT) if RUNGS.index(name) <= at][-1]
        key = f'{tokenizer} {constants["SEED"]} {constants["BPE_VOCAB_SIZE"]} {constants["LYRICS_DIR"]}'
        if key not in ratios:
            ratios[key] = chars_per_token(job['rung'], constants)
        steps = round(job['budget'] / (constants['BATCH_SIZE'] * constants['BLOCK_SIZE'] * ratios[key]))
        constants = constants | {'TRAIN_ITERS': steps, 'EVAL_INTERVAL': math.ceil(steps / EVALUATIONS)}
    return edit(job['rung'], constants, job['patches'])


def save(path: Path, results: dict):
    """Written whole or not at all."""
    temporary = path.with_suffix('.tmp')
    temporary.write_text(json.dumps(results, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    temporary.replace(path)


def clock(seconds: float) -> str:
    return f'{int(seconds) // 60:02d}:{int(seconds) % 60:02d}'


@functools.cache
def corpus_hash(folder_or_file: str) -> str:
    """Of the bytes that a rung reads: lyrics*.json, or sample.json where there are none, or the one file."""
    found = sorted(glob.glob(f'{folder_or_file}/**/lyrics*.json', recursive=True))      # in linked folders, too
    files = [folder_or_file] if os.path.isfile(folder_or_file) else found or [f'{folder_or_file}/sample.json']
    return hashlib.sha256(b''.join(hashlib.sha256(Path(file).read_bytes()).digest() for file in files)).hexdigest()


def fingerprint(job: dict, source: str, machine: dict) -> str:
    """A result counts as long as this is the same: the edited script (comments, docstrings aside), corpus, packages."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body[0].value.value = ''
    corpus = job['constants'].get('LYRICS_DIR', job['constants'].get('INPUT_FILE'))
    parts = [ast.unparse(tree).replace(repr(corpus), ''), corpus_hash(corpus), machine['python'], machine['packages']]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def run_all(jobs: list[dict], results: dict, path: Path) -> list[str]:
    """Run what has no result yet; the keys of the jobs that failed (their last lines go to stderr, others go on)."""
    ratios, ready, failed = {}, [], []
    for job in jobs:
        try:
            source = complete(job, ratios)
        except RuntimeError as error:
            failed.append(job['key'])
            print(f'{job["key"]} failed; its last lines:\n{error}', file=sys.stderr)
            continue
        ready.append((job, source, fingerprint(job, source, results['machine'])))
    missing = [entry for entry in ready if results['jobs'].get(entry[0]['key'], {}).get('fingerprint') != entry[2]]
    rounds = {job['together'] for job, _, _ in missing}             # one of a round is missing: all of it again
    todo = [entry for entry in ready if entry in missing or entry[0]['together'] in rounds - {None}]
    print(f'{len(jobs)} runs, {len(jobs) - len(todo) - len(failed)} of them done already')
    started = time.perf_counter()

    def show(line, end=''):
        width = shutil.get_terminal_size((110, 24)).columns - 1
        print(f'\r{line[:width]:{width}}', end=end, flush=True)

    costs = [START + math.prod(constants_of(source, 'TRAIN_ITERS', 'BATCH_SIZE', 'BLOCK_SIZE').values())
             for _, source, _ in todo]

    def left(number, part):
        """The estimate when `number` runs are done and this part of the next."""
        done = sum(costs[:number]) + costs[number] * part
        return f' | about {clock((time.perf_counter() - started) / done * (sum(costs) - done))} left' if done else ''

    for number, (job, source, digest) in enumerate(todo):
        def report(step, steps, number=number, job=job):
            show(f'[{number + 1}/{len(todo)}] {job["key"]} | step {step}/{steps}{left(number, step / steps)}')

        show(f'[{number + 1}/{len(todo)}] {job["key"]} | starting{left(number, 0)}')
        try:
            result = run(source, job['rung'], report)
        except RuntimeError as error:
            failed.append(job['key'])
            print(f'\n{job["key"]} failed; its last lines:\n{error}', file=sys.stderr)
            continue
        constants = {key: value for key, value in job['constants'].items() if key not in ('LYRICS_DIR', 'INPUT_FILE')}
        size = constants_of(source, 'N_EMBED', 'N_HEADS', 'N_KV_HEADS', 'N_LAYERS', 'BLOCK_SIZE', 'BATCH_SIZE')
        results['jobs'][job['key']] = {'fingerprint': digest, 'constants': constants, 'patches': job['patches'],
                                       'size': size, 'budget': job['budget']} | result
        save(path, results)
        show(f'[{number + 1}/{len(todo)}] {job["key"]} | {result["curve"][-1]["bits_per_char"]:.3f} bits/char,'
             f' {result["tok_per_s"]:,} tok/s', end='\n')
    return failed


def constants_of(source: str, *names: str) -> dict:
    """Those of the constants that the script has, as they are on this machine: its lines above `fail` are executed."""
    values = {}
    exec(source[:source.index('\ndef fail(')], values)
    return {name: values[name] for name in names if name in values}


def model_flops(job: dict) -> float:
    """FLOPs per token, both ways: 6 x parameters in matrices + 12 x layers x width x block (arXiv:2204.02311)."""
    width, layers, block = (job['size'][name] for name in ('N_EMBED', 'N_LAYERS', 'BLOCK_SIZE'))
    matrices = (4 + 8) * width ** 2
    if 'N_KV_HEADS' in job['size']:                                 # from v9 on: grouped queries, SwiGLU
        matrices = (2 + 2 * job['size']['N_KV_HEADS'] / job['size']['N_HEADS']) * width ** 2
        matrices += 3 * width * math.ceil(width * 8 / 3 / 64) * 64
    return 6 * (layers * matrices + width * job['vocabulary']) + 12 * layers * width * block


# ---------- the report ----------
def by_number(results: dict, prefix: str) -> dict[int, dict]:
    """N -> job, of the jobs whose key is `prefix`/seed N or `prefix`/round N."""
    return {int(key.rsplit(' ', 1)[1]): job for key, job in results['jobs'].items() if key.rsplit('/', 1)[0] == prefix}


def reference(results: dict, rung: str) -> dict[int, dict]:
    """seed -> job of the rung below; where that does not change the training, it lends the seeds from further below."""
    jobs = {}
    for below in reversed(RUNGS[1:RUNGS.index(rung)]):
        jobs = by_number(results, f'controlled/{below}') | jobs
        if below not in SAME_TRAINING:
            break
    return {} if rung == OTHER_SPLIT else jobs                      # other test songs: nothing to compare with


def final(job: dict) -> float:
    return job['curve'][-1]['bits_per_char']


def lowest(job: dict) -> float:
    """The lowest point of the curve, where overfitting made the end higher; as it was sampled during training."""
    return min(point['bits_per_char'] for point in job['curve'])


def first(jobs: dict[int, dict]) -> dict:
    """The job of the first seed, which every rung has: bits/char of other seeds are those of other test songs."""
    return jobs[min(jobs)]


def difference(jobs: dict[int, dict], below: dict[int, dict]) -> str:
    """bits/char of `jobs` minus that of `below`, seed by seed (the same songs are held out).

    mean ± sample standard deviation over the seeds; the difference alone where there is one.
    """
    values = [final(jobs[seed]) - final(below[seed]) for seed in sorted(jobs.keys() & below.keys())]
    if not values:
        return '—'
    spread = f' ± {statistics.stdev(values):.3f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):+.3f}'.replace('-', '−') + spread


def table(header: list[str], rows: list[list[str]]) -> str:
    return '\n'.join(f'| {" | ".join(row)} |' for row in [header, ['---'] * len(header), *rows])


def median(values) -> float | None:
    """Of those that are not None; None where there are no others."""
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def around(values: list[float], form: str) -> str:
    """The median and, where there is more than one value, (lowest … highest)."""
    if not values:
        return '—'
    text = f'{statistics.median(values):{form}}'
    text += f' ({min(values):{form}} … {max(values):{form}})' if len(values) > 1 else ''
    return text.replace('-0%', '0%').replace('+0%', '0%').replace('-', '−')


def speeds(results: dict, rung: str) -> list[float]:
    """tok/s in the controlled setting, of each round."""
    return [job['tok_per_s'] for job in by_number(results, f'speed/{rung}').values()]


def speed_changes(results: dict, rung: str, name: str) -> list[float]:
    """tok/s without the idea over that of the rung itself, minus 1, of each round."""
    rounds, whole = by_number(results, f'speed/{rung}/{name}'), by_number(results, f'speed/{rung}')
    return [rounds[number]['tok_per_s'] / whole[number]['tok_per_s'] - 1 for number in rounds.keys() & whole.keys()]


def memory(jobs: dict, gpu: bool) -> str:
    return f'{max(job["peak_gpu" if gpu else "peak_ram"] for job in jobs.values()) / 2**30:.1f} GiB'


def notes(rung: str, device: str) -> str:
    """What the controlled setting cannot show."""
    if rung == 'v3_gpt2_amp' and device == 'cpu':
        return '混合精度、编译要有 GPU 才开，这里只有 GELU'
    if rung == OTHER_SPLIT:
        return '训练没有变；数据按内容切分，测试集不同，不能与别的级比'
    return '训练没有变，应当相同' if rung in SAME_TRAINING else ''


def report(results: dict) -> dict[str, str]:
    """name -> Markdown of each experiment that has results, in Chinese as the README; "NAME large" in that setting."""
    machine, tables = results['machine'], {}
    suffix = ' large' if results['setting'] == 'large' else ''
    gpu = machine['device'] == 'cuda'
    controlled = {rung: jobs for rung in RUNGS[1:] if (jobs := by_number(results, f'controlled/{rung}'))}
    memory_name, rows = '显存' if gpu else '内存', []
    for rung, jobs in controlled.items():
        tok_per_s, chars_per_token = speeds(results, rung), first(jobs)['budget'] / first(jobs)['curve'][-1]['tokens']
        chars_per_s = f'{median(tok_per_s) * chars_per_token:,.0f}' if tok_per_s else '—'
        rows.append([f'`{rung}`', f'{final(first(jobs)):.3f}', difference(jobs, reference(results, rung)),
                     f'{lowest(first(jobs)):.3f}', around(tok_per_s, ',.0f'), chars_per_s, memory(jobs, gpu),
                     notes(rung, machine['device'])])
    if rows:
        header = ['脚本', 'bits/char', '比上一级', '曲线最低', 'tok/s', '字/s', memory_name, '备注']
        tables['controlled' + suffix] = table(header, rows)
    rows = []
    for rung, name, chinese, _ in WITHOUT:
        jobs = by_number(results, f'without/{rung}/{name}')
        if jobs and rung in controlled:
            rows.append([f'`{rung}`', chinese, f'{final(first(jobs)):.3f}', difference(jobs, controlled[rung]),
                         around(speed_changes(results, rung, name), '+.0%'), memory(jobs, gpu)])
        elif rung in controlled and not gpu and name in NEEDS_GPU:
            rows.append([f'`{rung}`', chinese, '要有 GPU', '—', '—', '—'])
    if any('要有 GPU' not in row for row in rows):
        header = ['脚本', '去掉', 'bits/char', '比完整的', 'tok/s 变化', memory_name]
        tables['leave-one-out' + suffix] = table(header, rows)
    rows = []
    for rung in RUNGS:
        if jobs := by_number(results, f'as-shipped/{rung}'):
            tok_per_s = around([job['tok_per_s'] for job in jobs.values()], ',.0f')
            utilisation = median(model_flops(job) * job['tok_per_s'] / job['matrix_flops'] for job in jobs.values())
            compilation = median(job['compile_seconds'] for job in jobs.values())
            parameters = first(jobs)['parameters']
            rows.append([f'`{rung}`', f'{parameters / 1e6:.2f} M', tok_per_s, f'{utilisation:.1%}', memory(jobs, gpu),
                         f'{compilation:.0f} s' if compilation is not None else '—'])
    if rows:
        tables['as-shipped' + suffix] = table(['脚本', '参数', 'tok/s', '算力利用率', memory_name, '编译'], rows)
    return tables


COLOURS = ['#3b7dd8', '#d9622b', '#2f9e44', '#a855c8', '#0c8599', '#d6457a']    # 3:1 or more on white and near-black


def in_english(text: str) -> str:
    for chinese in sorted(ENGLISH, key=len, reverse=True):          # longer ones first: they contain shorter ones
        text = text.replace(chinese, ENGLISH[chinese])
    return text


def plot(results: dict, axis: str, path: Path):
    """The curves of the first seed over `axis` ('tokens' or 'seconds'), as an SVG for dark and light pages.

    Seconds are tokens over the rung's tok/s as the rounds gave it: a machine's speed drifts while the long runs last.
    v11 and v12 are not among them: their test songs are others. Text and axes are drawn in `currentColor`, which
    follows the reader's system.
    """
    import matplotlib
    matplotlib.use('svg')
    import matplotlib.pyplot as plt
    with plt.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': axis, 'font.size': 11}):
        figure, axes = plt.subplots(figsize=(8, 5))
        for number, rung in enumerate(RUNGS[1:]):
            jobs, tok_per_s = by_number(results, f'controlled/{rung}'), median(speeds(results, rung))
            if not jobs or number + 1 >= RUNGS.index(OTHER_SPLIT) or (axis == 'seconds' and not tok_per_s):
                continue
            curve, rate = first(jobs)['curve'], tok_per_s if axis == 'seconds' else 1
            axes.plot([point['tokens'] / rate for point in curve], [point['bits_per_char'] for point in curve],
                      marker='o', markersize=3, linestyle=['-', '--'][number // len(COLOURS)],
                      color=COLOURS[number % len(COLOURS)], label=rung)
        axes.set_xlabel({'tokens': 'training tokens', 'seconds': 'seconds of training'}[axis])
        axes.set_ylabel('test bits/char')
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, loc='upper left', bbox_to_anchor=(1.01, 1.02))     # beside the curves
        if axis == 'tokens':
            axes.xaxis.set_major_formatter(plt.FuncFormatter(lambda tokens, _: f'{tokens / 1e6:g} M'))
        text = io.StringIO()
        figure.savefig(text, format='svg', transparent=True, bbox_inches='tight', metadata={'Date': None})
        plt.close(figure)
    svg = text.getvalue().replace('#000000', 'currentColor')
    svg = svg.replace('<text style="', '<text style="fill: currentColor; ')
    style = '<style>svg { color: #24292f } @media (prefers-color-scheme: dark) { svg { color: #d0d7de } }</style>'
    path.write_text(re.sub(r'(<svg [^>]*>)', rf'\1\n {style}', svg, count=1), encoding='utf-8')


def fill(text: str, results: dict) -> str:
    """`text` with the tables of `results` between its markers <!-- bench NAME --> and <!-- /bench -->."""
    for name, markdown in report(results).items():
        text = re.sub(rf'(<!-- bench {name} -->\n).*?(<!-- /bench -->)', lambda m, t=markdown: f'{m[1]}\n{t}\n\n{m[2]}',
                      text, flags=re.S)
    return text


def stem(results: dict) -> str:
    """The name of the results' files: the machine, and _large for that setting."""
    return results['machine']['name'] + ('_large' if results['setting'] == 'large' else '')


def write_report(results: dict):
    """<machine>.md and the plots."""
    machine = results['machine']
    title = f'# {machine["gpu"] or machine["cpu"]}, {machine["cores"]} cores'
    packages = ', '.join(f'{name} {version}' for name, version in machine['packages'].items())
    tables = report(results)
    body = [title, f'{machine["system"]}, Python {machine["python"]}, {packages}']
    body += [f'## {name}\n\n{in_english(text)}' for name, text in tables.items()]
    (RESULTS / f'{stem(results)}.md').write_text('\n\n'.join(body) + '\n', encoding='utf-8')
    if 'controlled' in tables:                                      # "large" may be a few rungs only: no plot
        for axis in ('tokens', 'seconds') if any(speeds(results, rung) for rung in RUNGS) else ('tokens',):
            plot(results, axis, RESULTS / f'{stem(results)}-{axis}.svg')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    experiments = ['controlled', 'leave-one-out', 'speed', 'as-shipped']
    parser.add_argument('--only', nargs='+', choices=experiments, default=experiments, help='default: all')
    parser.add_argument('--setting', choices=['small', 'large'], default='small',
                        help='without a GPU: the sample (default), or a large corpus (with --lyrics), read once')
    parser.add_argument('--lyrics', type=Path, help='the corpus (default: the sample that ships)')
    parser.add_argument('--rungs', nargs='+', choices=RUNGS, default=RUNGS, metavar='RUNG', help='these rungs only')
    parser.add_argument('--seeds', type=int, default=3, help='seeds of controlled and leave-one-out (default 3)')
    parser.add_argument('--rounds', type=int, default=3, help='runs of each rung in speed and as-shipped (default 3)')
    parser.add_argument('--budget', type=int, help='characters of training text for each run '
                        f'(default {BUDGET["small"]:,}; {BUDGET["gpu"]:,} on a GPU)')
    parser.add_argument('--steps', type=int, help='steps of a run of speed and as-shipped '
                        f'(default {STEPS["small"]}; {STEPS["gpu"]} on a GPU)')
    parser.add_argument('--report', action='store_true',
                        help='run nothing: write tables and plots from all results, those of other machines too')
    parser.add_argument('--readme', action='store_true', help="also put this machine's tables into README.md")
    options = parser.parse_args()
    machine = describe()
    if machine['device'] == 'cuda':
        options.setting = 'gpu'
    found = options.lyrics and glob.glob(f'{options.lyrics}/**/lyrics*.json', recursive=True)
    if not options.report and options.setting != 'small' and not found:
        parser.error(f'this setting ({options.setting}) needs a large corpus: --lyrics FOLDER, with lyrics*.json in it')
    signal.signal(signal.SIGTERM, signal.default_int_handler)       # `kill` stops it, and the rung, as Ctrl-C does
    results = {'machine': machine, 'setting': options.setting, 'jobs': {}}
    path = RESULTS / f'{stem(results)}.json'
    RESULTS.mkdir(exist_ok=True)
    failed = []
    if not options.report:
        if path.exists():
            results['jobs'] = json.loads(path.read_text(encoding='utf-8'))['jobs']
        try:
            with tempfile.TemporaryDirectory() as sample:           # without lyrics*.json, whatever the user has
                if not options.lyrics:
                    shutil.copy(ROOT / 'ChineseLyrics' / 'sample.json', sample)
                    options.lyrics = Path(sample)
                failed = run_all(plan(machine, options), results, path)
        except KeyboardInterrupt:
            sys.exit('\nstopped; the same command continues')
    for file in sorted(RESULTS.glob('*.json')) if options.report else [path] if results['jobs'] else []:
        write_report(json.loads(file.read_text(encoding='utf-8')))
    if path.exists():
        results = json.loads(path.read_text(encoding='utf-8'))
        for name, text in report(results).items():
            print(f'\n{name}\n\n{text}')
        if options.readme:
            readme = ROOT / 'README.md'
            readme.write_text(fill(readme.read_text(encoding='utf-8'), results), encoding='utf-8')
    elif not failed:
        sys.exit(f'{path} holds no results yet: run without --report first')
    if failed:
        sys.exit(f'\n{len(failed)} of the runs failed ({", ".join(failed)}); the same command tries them again')


if __name__ == '__main__':
    main()
