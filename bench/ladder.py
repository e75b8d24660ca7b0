"""What each rung buys: runs the rungs on copies with edited constants, and writes the figures that the README shows.

    python bench/ladder.py                          # all experiments; stop it at will, it continues where it was
    python bench/ladder.py --only as-shipped        # one of them
    python bench/ladder.py --report                 # nothing runs: only the table and the plots, from the results

Results: bench/results/<machine>.json (settings, curves, versions), <machine>.md (tables), <machine>-*.svg (plots).
How it is measured, and on what: bench/README.md.
"""
import argparse
import hashlib
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'bench' / 'results'
LOG_LINE = re.compile(r'step +(\d+)/(\d+) \| train ([\d.]+) \| test ([\d.]+) \| ([\d.]+) bits/char \| ([\d,]+) tok/s \|')
RUNGS = ['v0_char_english', 'v0_char_chinese', 'v0_char_rope', 'v1_bpe_rope', 'v2_cosine_lr', 'v3_gpt2_amp', 'v4_flash_optim',
         'v5_checkpoint', 'v6_wandb', 'v7_grad_accum', 'v8_llama', 'v9_muon', 'v10_ddp']

# The controlled experiment: one size and one budget of training text for every Chinese rung.
CONTROLLED = {
    'cpu': {'MAX_SONGS': 30000, 'N_EMBED': 128, 'N_HEADS': 4, 'N_LAYERS': 4, 'BLOCK_SIZE': 128, 'BATCH_SIZE': 16, 'DROP_OUT': 0.0,
            'BPE_VOCAB_SIZE': 4000, 'LEARNING_RATE': 2e-3, 'MIN_LR': 2e-4, 'WARMUP_ITERS': 20, 'EVAL_ITERS': 10},
    'cuda': {'N_EMBED': 512, 'N_HEADS': 8, 'N_LAYERS': 8, 'BLOCK_SIZE': 256, 'BATCH_SIZE': 64, 'DROP_OUT': 0.0, 'BPE_VOCAB_SIZE': 8000,
             'LEARNING_RATE': 6e-4, 'MIN_LR': 6e-5, 'WARMUP_ITERS': 100, 'EVAL_ITERS': 20},
}
# Muon allows the word vectors a much higher rate than AdamW alone: from v9 on the rung's own.
OWN_RATES = {'cpu': {'LEARNING_RATE': 4e-2, 'MIN_LR': 4e-3, 'WEIGHT_DECAY': 0.1},
             'cuda': {'LEARNING_RATE': 4e-3, 'MIN_LR': 4e-4}}
BUDGET = {'cpu': 1_000_000, 'cuda': 30_000_000}                       # characters of training text
STEPS = {'cpu': 40, 'cuda': 300}                                    # as shipped: that many steps
EVALUATIONS = 5                                                     # points of a curve

# Leave one out: (rung, idea, the idea in Chinese and what stands in for it, what is edited). A dict replaces constants, a list code.
WITHOUT = [
    ('v3_gpt2_amp', 'GELU', 'GELU（换成 ReLU）', [('nn.GELU()', 'nn.ReLU()')]),
    ('v3_gpt2_amp', 'autocast', '混合精度', {'USE_AMP': False}),
    ('v3_gpt2_amp', 'torch.compile', 'torch.compile', {'USE_COMPILE': False}),
    ('v3_gpt2_amp', 'TF32', 'TF32', [("set_float32_matmul_precision('high')", "set_float32_matmul_precision('highest')")]),
    ('v4_flash_optim', 'one QKV projection', 'q、k、v 一次矩阵乘法（换成三次）', [
        ('self.qkv(x)', 'torch.cat([F.linear(x, w) for w in self.qkv.weight.chunk(3)], dim=-1)')]),
    ('v4_flash_optim', 'flash attention', 'flash attention（换成遮罩 + softmax）', [
        ('F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)',
         'F.dropout((q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + torch.full((T, T), -torch.inf, device=x.device).triu(1))'
         '.softmax(dim=-1), dropout) @ v')]),
    ('v4_flash_optim', 'weight decay', '权重衰减', {'WEIGHT_DECAY': 0.0}),
    ('v4_flash_optim', 'decay groups', '衰减分组（全都衰减）', [
        ("{'params': rest, 'weight_decay': 0.0}", "{'params': rest, 'weight_decay': WEIGHT_DECAY}")]),
    ('v4_flash_optim', 'gradient clipping', '梯度裁剪', {'GRAD_CLIP': 1e9}),
    ('v4_flash_optim', 'betas', 'betas（换成 0.9, 0.999）', {'BETAS': (0.9, 0.999)}),
    ('v4_flash_optim', 'init', '初始化 N(0, 0.02)', [('self.apply(self.init_weights)', 'pass')]),
    ('v4_flash_optim', 'residual scaling', '残差投影缩小', [('std=0.02 / math.sqrt(2 * N_LAYERS)', 'std=0.02')]),
    ('v4_flash_optim', 'fused AdamW', 'fused AdamW', [('fused=True', 'fused=False')]),
    ('v4_flash_optim', 'DataLoader workers', 'DataLoader 的子进程', {'NUM_WORKERS': 0}),
    ('v8_llama', 'the smaller model', '模型变小（补到与 v7 一样多的参数）', {'N_EMBED': 152}),
    ('v8_llama', 'tied embeddings', '词向量共用', [
        ('self.lm_head.weight = self.token_embedding.weight', 'pass'),
        ('for module in model.blocks.modules()', 'for module in model.modules()')]),
    ('v8_llama', 'SwiGLU', 'SwiGLU（换成 4 倍宽的 GELU）', [
        ('hidden = math.ceil(N_EMBED * 8 / 3 / 64) * 64', 'hidden = 4 * N_EMBED'),
        ('self.gate = nn.Linear(N_EMBED, hidden, bias=False)', 'pass'),
        ('F.silu(self.gate(x)) * self.up(x)', 'F.gelu(self.up(x))')]),
    ('v8_llama', 'RMSNorm', 'RMSNorm（换成 LayerNorm）', [
        (f'self.{name} = nn.RMSNorm(N_EMBED, eps=1e-5)', f'self.{name} = nn.LayerNorm(N_EMBED)') for name in ('ln1', 'ln2', 'ln_f')]),
    ('v9_muon', 'Muon', 'Muon（换成 AdamW）', [
        ('torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=WEIGHT_DECAY)',
         'torch.optim.AdamW(matrices, lr=6e-4 if GPU else 2e-3, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)'),
        ('(MUON_LR, LEARNING_RATE)', '(6e-4 if GPU else 2e-3, LEARNING_RATE)')]),
    ('v9_muon', 'a high rate for the word vectors', '词向量的大学习率（换成 2e-3）', {'LEARNING_RATE': 2e-3, 'MIN_LR': 2e-4}),
    ('v9_muon', 'q and k normalised', 'q、k 归一', [('apply_rope(self.q_norm(q), rope), apply_rope(self.k_norm(k), rope)',
                                               'apply_rope(q, rope), apply_rope(k, rope)')]),
    ('v9_muon', 'zero-initialised residuals', '残差从 0 开始（换成 v4 的缩小）', [
        ('nn.init.zeros_(parameter)', 'nn.init.normal_(parameter, mean=0.0, std=0.02 / math.sqrt(2 * N_LAYERS))')]),
]
NEEDS_GPU = {'autocast', 'torch.compile', 'TF32', 'DataLoader workers'}    # off, or without effect, where there is no GPU
SAME_TRAINING = {'v5_checkpoint', 'v6_wandb', 'v7_grad_accum'}      # each repeats the losses of the rung below
OTHER_SPLIT = 'v10_ddp'                                             # splits by content: other test songs, and no change to the training
ENGLISH = {'| 脚本 |': '| script |', '比上一级': 'against the rung below', '显存': 'GPU memory', '内存': 'memory', '去掉': 'without',
           '比不去掉': 'against with', 'tok/s 变化': 'tok/s', '参数': 'parameters', '算力利用率': 'FLOPs utilisation',
           '编译': 'compilation', '要有 GPU': 'needs a GPU',
           '训练没有变，应当相同': 'the training does not change: equal',
           '训练没有变；数据按内容切分，测试集不同，不能与上面比': 'the training does not change; another test set (split by content)',
           '混合精度、编译要有 GPU 才开，这里只有 GELU':
           'autocast and compilation need a GPU; here only GELU'} | {chinese: name for _, name, chinese, _ in WITHOUT}


def edit(rung: str, constants: dict, patches: list = ()) -> str:
    """The rung's source with the constants that it has replaced, and each patch applied; a patch must fit exactly once."""
    source = (ROOT / f'{rung}.py').read_text(encoding='utf-8')
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
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f'{rung}.py').write_text(source, encoding='utf-8')
        environment = os.environ | {'PYTHONUTF8': '1', 'WANDB_MODE': 'offline', 'HOME': folder}
        command = [sys.executable, '-u', str(ROOT / 'bench' / 'measured.py'), f'{rung}.py', 'measured.json']
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   encoding='utf-8')
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
    batch, block = eval_constant(source, 'BATCH_SIZE'), eval_constant(source, 'BLOCK_SIZE')
    result['curve'] = [{'step': int(step), 'tokens': int(step) * batch * block, 'train': float(train), 'test': float(test),
                        'bits_per_char': float(bits), 'seconds': int(step) * batch * block / int(speed.replace(',', ''))}
                       for step, _, train, test, bits, speed in lines]
    result['tok_per_s'] = int(lines[-1][5].replace(',', ''))
    result['parameters'] = float(re.search(r'参数 ([\d.]+) M', text).group(1)) * 1e6
    result['vocabulary'] = int(re.search(r'词表 ([\d,]+)', text).group(1).replace(',', ''))
    result['compile_seconds'] = int(found.group(1)) if (found := re.search(r'编译用了 (\d+) 秒', text)) else None
    return result


def chars_per_token(rung: str, constants: dict) -> float:
    """Characters of text that one token of this rung stands for, over the test songs."""
    code = 'import importlib, sys; _, _, test, chars = importlib.import_module(sys.argv[1]).load_data(); print("ratio", chars / len(test))'
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f'{rung}.py').write_text(edit(rung, constants), encoding='utf-8')
        done = subprocess.run([sys.executable, '-c', code, rung], cwd=folder, text=True, capture_output=True, encoding='utf-8',
                              env=os.environ | {'PYTHONUTF8': '1', 'PYTHONPATH': folder})
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return float(re.search(r'ratio (.*)', done.stdout).group(1))


def plan(machine: dict, options) -> list[dict]:
    """All jobs: {'key', 'rung', 'constants', 'patches', ...}."""
    device, lyrics = machine['device'], {'LYRICS_DIR': str(options.lyrics.resolve())}
    size = CONTROLLED[device] | lyrics
    jobs = []

    def controlled(rung, seed, name=None, edits=()):
        constants, patches = (edits, []) if isinstance(edits, dict) else ({}, list(edits))
        rates = OWN_RATES[device] if RUNGS.index(rung) >= RUNGS.index('v9_muon') else {}
        key = f'{"without" if name else "controlled"}/{rung}/{name + "/" if name else ""}seed {seed}'
        jobs.append({'key': key, 'rung': rung, 'constants': size | rates | {'SEED': seed} | constants, 'patches': patches,
                     'budget': options.budget or BUDGET[device]})

    if 'controlled' in options.only:
        for seed in range(1, options.seeds + 1):
            for rung in RUNGS[1:]:
                if seed == 1 or rung not in SAME_TRAINING | {OTHER_SPLIT}:     # one run shows that nothing has changed
                    controlled(rung, seed)
    if 'leave-one-out' in options.only:
        for seed in range(1, options.seeds + 1):
            for rung, name, _, edits in WITHOUT:
                if device == 'cuda' or name not in NEEDS_GPU:
                    controlled(rung, seed, name, edits)
    if 'as-shipped' in options.only:
        steps = options.steps or STEPS[device]
        for rung in RUNGS:
            files = {'INPUT_FILE': str(ROOT / 'input.txt')} if rung == RUNGS[0] else lyrics
            jobs.append({'key': f'as-shipped/{rung}', 'rung': rung, 'constants': files | {'TRAIN_ITERS': steps, 'EVAL_INTERVAL': steps},
                         'patches': []})
    return jobs


def complete(job: dict, ratios: dict) -> str:
    """The job's source. A budget in characters becomes a number of steps here."""
    constants = job['constants']
    if 'budget' in job:
        tokenizer = 'BPE' if RUNGS.index(job['rung']) >= RUNGS.index('v1_bpe_rope') else 'characters'
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


def run_all(jobs: list[dict], results: dict, path: Path):
    """Run what has no result yet. A result counts as long as the edited script is the one that it came from."""
    ratios, todo = {}, []
    for job in jobs:
        source = complete(job, ratios)
        code = re.sub(r'\A""".*?"""', '', source, flags=re.S)       # its docstring may hold figures of this very bench
        code = code.replace(job['constants'].get('LYRICS_DIR', job['constants'].get('INPUT_FILE')), '')
        digest = hashlib.sha256(code.encode()).hexdigest()[:12]
        if results['jobs'].get(job['key'], {}).get('script') != digest:
            todo.append((job, source, digest))
    print(f'{len(jobs)} runs, {len(jobs) - len(todo)} of them done already')
    started = time.perf_counter()
    for number, (job, source, digest) in enumerate(todo):
        def report(step, steps, number=number, job=job):
            done = number + step / steps
            left = (time.perf_counter() - started) / done * (len(todo) - done)
            line = f'[{number + 1}/{len(todo)}] {job["key"]} | step {step}/{steps} | about {clock(left)} left'
            print(f'\r{line:110}', end='', flush=True)

        print(f'\r[{number + 1}/{len(todo)}] {job["key"]} | starting'.ljust(110), end='', flush=True)
        result = run(source, job['rung'], report)
        constants = {key: value for key, value in job['constants'].items() if key not in ('LYRICS_DIR', 'INPUT_FILE')}
        size = {key: eval_constant(source, key) for key in ('N_EMBED', 'N_LAYERS', 'BLOCK_SIZE', 'BATCH_SIZE')}
        results['jobs'][job['key']] = {'script': digest, 'constants': constants, 'patches': job['patches'], 'size': size} | result
        save(path, results)
        print(f'\r[{number + 1}/{len(todo)}] {job["key"]} | {result["curve"][-1]["bits_per_char"]:.3f} bits/char,'
              f' {result["tok_per_s"]:,} tok/s'.ljust(110), flush=True)


def eval_constant(source: str, name: str) -> int:
    """The value of an UPPER_CASE constant, `A if GPU else B` resolved for this machine."""
    expression = re.search(rf'^{name} = ([^#\n]*)', source, re.M).group(1)
    return eval(expression, {'GPU': describe()['device'] == 'cuda'})


def model_flops(job: dict) -> float:
    """FLOPs per token, forward and backward: 6 x parameters in matrix products + 12 x layers x width x block (arXiv:2204.02311)."""
    width, layers, block = (job['size'][name] for name in ('N_EMBED', 'N_LAYERS', 'BLOCK_SIZE'))
    return 6 * (12 * layers * width ** 2 + width * job['vocabulary']) + 12 * layers * width * block


# ---------- the report ----------
def by_seed(results: dict, prefix: str) -> dict[int, dict]:
    """seed -> job, of the jobs whose key is `prefix`/seed N."""
    return {int(key.rsplit(' ', 1)[1]): job for key, job in results['jobs'].items() if key.rsplit('/', 1)[0] == prefix}


def final(job: dict) -> float:
    return job['curve'][-1]['bits_per_char']


def spread(values: list[float], sign: bool = False) -> str:
    """mean ± sample standard deviation; the mean alone where there is one value."""
    text = f'{statistics.mean(values):{"+" if sign else ""}.3f}'.replace('-', '−')
    return text + (f' ± {statistics.stdev(values):.3f}' if len(values) > 1 else '')


def difference(jobs: dict[int, dict], reference: dict[int, dict]) -> str:
    """bits/char of `jobs` minus that of `reference`, seed by seed (the same songs are held out)."""
    values = [final(jobs[seed]) - final(reference[seed]) for seed in sorted(jobs.keys() & reference.keys())]
    return spread(values, sign=True) if values else '—'


def table(header: list[str], rows: list[list[str]]) -> str:
    return '\n'.join(f'| {" | ".join(row)} |' for row in [header, ['---'] * len(header), *rows])


def median(jobs, name):
    return statistics.median(job[name] for job in jobs.values())


def memory(jobs: dict, gpu: bool) -> str:
    return f'{median(jobs, "peak_gpu" if gpu else "peak_ram") / 2**30:.1f} GiB'


def notes(rung: str, device: str) -> str:
    """What the controlled setting cannot show."""
    if rung == 'v3_gpt2_amp' and device == 'cpu':
        return '混合精度、编译要有 GPU 才开，这里只有 GELU'
    if rung == OTHER_SPLIT:
        return '训练没有变；数据按内容切分，测试集不同，不能与上面比'
    return '训练没有变，应当相同' if rung in SAME_TRAINING else ''


def report(results: dict) -> dict[str, str]:
    """name -> Markdown of each experiment that has results, in Chinese as the README is."""
    machine, tables = results['machine'], {}
    gpu = machine['device'] == 'cuda'
    controlled = {rung: jobs for rung in RUNGS[1:] if (jobs := by_seed(results, f'controlled/{rung}'))}
    rows, below = [], {}
    for rung, jobs in controlled.items():
        rows.append([f'`{rung}`', spread([final(job) for job in jobs.values()]),
                     difference(jobs, below) if below and rung != OTHER_SPLIT else '—',
                     f'{median(jobs, "tok_per_s"):,.0f}', memory(jobs, gpu), notes(rung, machine['device'])])
        below = below | jobs if rung in SAME_TRAINING else jobs      # v8 is compared with v4's three seeds, which v7 repeats
    if rows:
        tables['controlled'] = table(['脚本', 'bits/char', '比上一级', 'tok/s', '内存' if not gpu else '显存', ''], rows)
    rows = []
    for rung, name, chinese, _ in WITHOUT:
        jobs = by_seed(results, f'without/{rung}/{name}')
        if jobs and rung in controlled:
            speed = median(jobs, 'tok_per_s') / median(controlled[rung], 'tok_per_s') - 1
            rows.append([f'`{rung}`', chinese, spread([final(job) for job in jobs.values()]), difference(jobs, controlled[rung]),
                         f'{speed:+.0%}'.replace('-', '−'), memory(jobs, gpu)])
        elif rung in controlled and not gpu and name in NEEDS_GPU:
            rows.append([f'`{rung}`', chinese, '要有 GPU', '—', '—', '—'])
    if any('要有 GPU' not in row for row in rows):
        tables['leave-one-out'] = table(['脚本', '去掉', 'bits/char', '比不去掉', 'tok/s 变化', '内存' if not gpu else '显存'], rows)
    rows = []
    for rung in RUNGS:
        if job := results['jobs'].get(f'as-shipped/{rung}'):
            utilisation = model_flops(job) * job['tok_per_s'] / job['matrix_flops']
            rows.append([f'`{rung}`', f'{job["parameters"] / 1e6:.2f} M', f'{job["tok_per_s"]:,}', f'{utilisation:.1%}',
                         memory({1: job}, gpu), f'{job["compile_seconds"]} s' if job['compile_seconds'] is not None else '—'])
    if rows:
        tables['as-shipped'] = table(['脚本', '参数', 'tok/s', '算力利用率', '内存' if not gpu else '显存', '编译'], rows)
    return tables


def in_english(text: str) -> str:
    for chinese in sorted(ENGLISH, key=len, reverse=True):          # the longer ones first: they contain the shorter ones
        text = text.replace(chinese, ENGLISH[chinese])
    return text


def plot(results: dict, axis: str, path: Path):
    """The curves of the controlled experiment over `axis` ('tokens' or 'seconds'), first seed, as an SVG for dark and light pages."""
    import matplotlib
    matplotlib.use('svg')
    import matplotlib.pyplot as plt
    grey = '#7f7f7f'                                                # stands out from white and from black alike
    with plt.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'ladder', 'axes.edgecolor': grey, 'axes.labelcolor': grey,
                         'xtick.color': grey, 'ytick.color': grey, 'font.size': 11}):
        figure, axes = plt.subplots(figsize=(8, 5))
        for number, rung in enumerate(RUNGS[1:]):
            jobs = by_seed(results, f'controlled/{rung}')
            if not jobs:
                continue
            curve = jobs[min(jobs)]['curve']
            axes.plot([point[axis] for point in curve], [point['bits_per_char'] for point in curve], marker='o', markersize=3,
                      linestyle=['-', '--'][number % 2], color=plt.get_cmap('tab10')(number), label=rung)
        axes.set_xlabel({'tokens': 'training tokens', 'seconds': 'seconds of training'}[axis])
        axes.set_ylabel('test bits/char')
        axes.grid(alpha=0.25)
        axes.legend(labelcolor=grey, frameon=False)
        figure.savefig(path, format='svg', transparent=True, bbox_inches='tight', metadata={'Date': None})
        plt.close(figure)


def fill(text: str, results: dict) -> str:
    """`text` with the tables of `results` between its markers <!-- bench NAME --> and <!-- /bench -->."""
    for name, markdown in report(results).items():
        text = re.sub(rf'(<!-- bench {name} -->\n).*?(<!-- /bench -->)', lambda m, t=markdown: f'{m[1]}\n{t}\n\n{m[2]}', text, flags=re.S)
    return text


def write_report(results: dict):
    """<machine>.md and the plots."""
    machine = results['machine']
    title = f'# {machine["gpu"] or machine["cpu"]}, {machine["cores"]} cores'
    packages = ', '.join(f'{name} {version}' for name, version in machine['packages'].items())
    tables = report(results)
    body = [title, f'{machine["system"]}, Python {machine["python"]}, {packages}']
    body += [f'## {name}\n\n{in_english(text)}' for name, text in tables.items()]
    (RESULTS / f'{machine["name"]}.md').write_text('\n\n'.join(body) + '\n', encoding='utf-8')
    if 'controlled' in tables:
        for axis in ('tokens', 'seconds'):
            plot(results, axis, RESULTS / f'{machine["name"]}-{axis}.svg')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    experiments = ['controlled', 'leave-one-out', 'as-shipped']
    parser.add_argument('--only', nargs='+', choices=experiments, default=experiments, help='which experiments (default: all)')
    parser.add_argument('--lyrics', type=Path, default=ROOT / 'ChineseLyrics', help='the corpus (default: ChineseLyrics/)')
    parser.add_argument('--seeds', type=int, default=3, help='seeds of the controlled experiment (default 3)')
    parser.add_argument('--budget', type=int,
                        help=f'characters of training text for each run (default {BUDGET["cpu"]:,}; {BUDGET["cuda"]:,} on a GPU)')
    parser.add_argument('--steps', type=int, help=f'steps of a run as shipped (default {STEPS["cpu"]}; {STEPS["cuda"]} on a GPU)')
    parser.add_argument('--report', action='store_true', help='run nothing: write table and plots from the results')
    parser.add_argument('--readme', action='store_true', help="also put this machine's tables into README.md")
    options = parser.parse_args()
    machine = describe()
    path = RESULTS / f'{machine["name"]}.json'
    RESULTS.mkdir(exist_ok=True)
    results = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {'jobs': {}}
    if not options.report:
        results['machine'] = machine
        try:
            run_all(plan(machine, options), results, path)
        except KeyboardInterrupt:
            sys.exit('\nstopped; the same command continues')
        except RuntimeError as error:
            sys.exit(f'\nthe rung failed; its last lines:\n{error}')
    if not results['jobs']:
        sys.exit(f'{path} holds no results yet: run without --report first')
    write_report(results)
    for name, text in report(results).items():
        print(f'\n{name}\n\n{text}')
    if options.readme:
        readme = ROOT / 'README.md'
        readme.write_text(fill(readme.read_text(encoding='utf-8'), results), encoding='utf-8')


if __name__ == '__main__':
    main()
