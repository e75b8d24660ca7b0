"""Tables, sentences and plots from a results file; no figure in them is typed by hand."""
import io
import json
import re
import statistics
from contextlib import suppress
from pathlib import Path

from settings import (
    EVERY,
    FAMILIES,
    FILES,
    MICRO,
    PROCESSES,
    RUNGS,
    SAME_TRAINING,
    SIZES_OF_CORPUS,
    STEPS,
    WITHOUT,
    chars_per_token,
    rate,
)

COLOURS = ['#3b7dd8', '#d9622b', '#2f9e44', '#a855c8', '#0c8599', '#d6457a']    # 3:1 or more on white and near-black


def by(results: dict, prefix: str) -> dict:
    """What follows the prefix and a slash in a key -> job, sorted: side by side, jobs end in any order."""
    return {key[len(prefix) + 1:]: job for key, job in sorted(results['jobs'].items()) if key.startswith(prefix + '/')}


def final(job: dict) -> float:
    return job['curve'][-1]['bits_per_char']


def first(jobs: dict) -> dict:
    return next(iter(jobs.values()))


def below(results: dict, rung: str) -> dict:
    """The jobs of the last rung below that changes the training: what this rung is compared with, seed by seed."""
    changing = [name for name in RUNGS[1:RUNGS.index(rung)] if name not in SAME_TRAINING]
    return by(results, f'steps/{changing[-1]}') if changing else {}


def difference(jobs: dict, others: dict) -> str:
    """bits/char minus that of the others, seed by seed: mean ± sample standard deviation."""
    values = [final(jobs[seed]) - final(others[seed]) for seed in sorted(jobs.keys() & others.keys())]
    if not values:
        return '—'
    spread = f' ± {statistics.stdev(values):.3f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):+.3f}'.replace('-', '−') + spread


def table(header: list, rows: list) -> str:
    return '\n'.join(f'| {" | ".join(map(str, row))} |' for row in [header, ['---'] * len(header), *rows])


def median(jobs: dict, name: str = 'tok_per_s') -> float:
    return statistics.median(job[name] for job in jobs.values())


def speed(results: dict, key: str) -> float | None:
    jobs = {name: job for name, job in by(results, f'speed/{key}').items() if name.startswith('round')}
    return median(jobs) if jobs else None


def climb(results: dict) -> str:
    rows = []
    for rung in RUNGS[1:]:
        jobs = by(results, f'steps/{rung}')
        if jobs:
            same_text = by(results, f'characters/{rung}')
            tok_per_s = speed(results, rung)
            other_songs = rung in ('v11_memmap', 'v12_ddp')         # they split by content
            rows.append([f'`{rung}`', f'{rate(results, rung):g}', f'{final(first(jobs)):.3f}',
                         '测试集不同' if other_songs else '训练没有变' if rung in SAME_TRAINING
                         else difference(jobs, below(results, rung)),
                         f'{final(first(same_text)):.3f}' if same_text else '',
                         f'{tok_per_s:,.0f}' if tok_per_s else '—',
                         f'{tok_per_s * chars_per_token(first(jobs)):,.0f}' if tok_per_s else '—'])
    return table(['脚本', '学习率', f'{STEPS} 步后的 bits/char', '比上一级', '读同样多的字', 'tok/s', '字/s'], rows)


def shipped(results: dict) -> str:
    """Constants as they stand: what a learner's own run should look like."""
    rows = []
    for rung in RUNGS:
        for job in by(results, f'shipped/{rung}').values():
            points = '，'.join(f'{point["step"]}: {point["bits_per_char"]:.2f}' for point in job['curve'][1:])
            rows.append([f'`{rung}`', points, f'{final(job):.3f}', f'{job["tok_per_s"]:,}',
                         f'{job["peak_memory"] / 2**30:.1f} GiB'])
    return table(['脚本', '各步的 bits/char', '最后', 'tok/s', '内存'], rows)


def rates(results: dict) -> str:
    rows = []
    for family in FAMILIES:
        if jobs := by(results, f'rates/{family[0]}'):
            tried = ' '.join(f'{key.split()[1]}: {final(job):.3f}' for key, job in jobs.items())
            rows.append([f'`{family[0]}`', tried, f'{rate(results, family[0]):g}'])
    return table(['一家里的第一级', '各学习率在验证歌曲上的 bits/char', '取'], rows)


def without(results: dict) -> str:
    rows = []
    for rung, idea, chinese, _ in WITHOUT:
        whole, jobs = by(results, f'steps/{rung}'), by(results, f'without/{rung}/{idea}')
        if jobs:
            rows.append([f'`{rung}`', chinese, difference(jobs, whole)])
    return table(['脚本', '去掉', 'bits/char 的变化'], rows)


def reached(job: dict, loss: float) -> int | None:
    """The first step of the curve with a bits/char at or under this."""
    return next((point['step'] for point in job['curve'] if point['bits_per_char'] <= loss), None)


def currencies(results: dict) -> dict[str, str]:
    """rung -> what it buys, in one Chinese sentence with its figures; only what has been measured."""
    jobs = results['jobs']

    def change(rung):
        return difference(by(results, f'steps/{rung}'), below(results, rung)) + ' bits/char'

    def rope():
        longer = [float(line.split()[2]) for line in jobs['own/v0_char_rope/longer windows']['extra']]
        return (f'同样的步数，{change("v0_char_rope")}；窗口是训练时的两倍、四倍，损失从 {longer[0]:.3f} 到'
                f' {longer[1]:.3f}、{longer[2]:.3f}（学来的位置没有那些行，不能算）')

    def bpe():
        tokens = chars_per_token(jobs['steps/v1_bpe_rope/seed 1'])
        return f'一个 token 是 {tokens:.2f} 个字，一步读的文字也是这么多倍；{change("v1_bpe_rope")}'

    def amp():
        plain, amp, both = (median(by(results, f'speed/v3_gpt2_amp/autocast {a}, compile {c}')) for a, c in
                            ((False, False), (True, False), (True, True)))
        seconds = median(by(results, 'speed/v3_gpt2_amp/autocast True, compile True'), 'compile_seconds')
        return f'混合精度让 tok/s {amp / plain - 1:+.0%}，再编译 {both / amp - 1:+.0%}（先要编译 {seconds:.0f} 秒）'

    def checkpoint():
        saving = [float(line.split()[1]) for line in jobs['own/v5_checkpoint/saving']['extra']]
        return f'存一次 {statistics.median(saving):.2f} 秒；损失不变'

    def accumulation():
        memory = [(micro, jobs[f'own/v7_grad_accum/micro {micro}']['peak_memory'] / 2**20) for micro in MICRO]
        return '内存的峰值：' + '，'.join(f'一份 {micro} 个窗口 {mib:.0f} MiB' for micro, mib in memory)

    def muon():
        v6, v10 = jobs['steps/v6_wandb/seed 1'], jobs['steps/v10_muon/seed 1']
        seconds = [step * job['tokens_per_step'] / speed(results, rung) for step, job, rung in
                   ((reached(v10, final(v6)), v10, 'v10_muon'), (STEPS, v6, 'v6_wandb'))]
        return (f'{change("v10_muon")}；{reached(v10, final(v6))} 步（{seconds[0]:.0f} 秒）就到了 v6 在 {STEPS} 步'
                f'（{seconds[1]:.0f} 秒）后的 {final(v6):.3f}')

    def memmap():
        memory = [jobs[f'own/{rung}/{files} files']['peak_memory'] / 2**20 for rung in ('v10_muon', 'v11_memmap')
                  for files in FILES[::len(FILES) - 1]]
        return (f'数据从一份到{FILES[-1]}份，内存的峰值 v10 从 {memory[0]:.0f} 到 {memory[1]:.0f} MiB，'
                f'v11 从 {memory[2]:.0f} 到 {memory[3]:.0f} MiB')

    def ddp():
        runs = [(n, jobs[f'own/v12_ddp/{n} processes']) for n in PROCESSES]
        speeds = [f'{n} 个进程 {job["tok_per_s"]:,} tok/s、损失 {job["curve"][-1]["test"]:.4f}' for n, job in runs]
        return f'{"，".join(speeds)}；每步每个进程发出 {4 * runs[0][1]["parameters"] / 1e6:.1f} MB'

    sentences = {'v0_char_rope': rope, 'v1_bpe_rope': bpe, 'v3_gpt2_amp': amp, 'v5_checkpoint': checkpoint,
                 'v7_grad_accum': accumulation, 'v10_muon': muon, 'v11_memmap': memmap, 'v12_ddp': ddp,
                 'v8_mfu': lambda: f'MFU {median(by(results, "speed/v8_mfu"), "mfu"):.0f}%'}
    for rung in ('v2_cosine_lr', 'v4_flash_optim', 'v9_llama'):
        if by(results, f'steps/{rung}'):
            sentences[rung] = lambda rung=rung: f'同样的步数，{change(rung)}'
    said = {}
    for rung in RUNGS:
        with suppress(KeyError, statistics.StatisticsError, TypeError):     # not measured yet, or never reached
            said[rung] = sentences[rung]()
    return said


def break_even(results: dict) -> str:
    chars, bpe = by(results, 'corpus/v0_char_rope'), by(results, 'corpus/v1_bpe_rope')
    keys = [f'{songs or "all"} songs' for songs in SIZES_OF_CORPUS]
    rows = [[key.split()[0].replace('all', '全部'), f'{final(chars[key]):.3f}', f'{final(bpe[key]):.3f}']
            for key in keys if key in chars and key in bpe]
    return table(['歌的数目', '`v0_char_rope`', '`v1_bpe_rope`'], rows)


def tables(results: dict) -> dict[str, str]:
    """name -> Markdown of each experiment that has results."""
    made = {'shipped': shipped, 'climb': climb, 'rates': rates, 'without': without, 'corpus': break_even}
    needs = {'shipped': 'shipped', 'climb': 'steps', 'rates': 'rates', 'without': 'without', 'corpus': 'corpus'}
    found = {name: make(results) for name, make in made.items() if by(results, needs[name])}
    if said := currencies(results):
        found['currencies'] = '\n'.join(f'- `{rung}`：{text}' for rung, text in said.items())
    return found


def plot(results: dict, path: Path):
    """The first seed's test bits/char over steps, as an SVG whose text follows the reader's light or dark."""
    import matplotlib
    matplotlib.use('svg')
    import matplotlib.pyplot as plt
    with plt.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'steps', 'font.size': 11}):
        figure, axes = plt.subplots(figsize=(8, 5))
        changing = [rung for rung in RUNGS[1:] if rung not in SAME_TRAINING and by(results, f'steps/{rung}')]
        for number, rung in enumerate(changing):
            curve = [point for point in first(by(results, f'steps/{rung}'))['curve'] if point['step'] >= EVERY]
            axes.plot([point['step'] for point in curve], [point['bits_per_char'] for point in curve], marker='o',
                      markersize=3, linestyle=['-', '--'][number // len(COLOURS)],
                      color=COLOURS[number % len(COLOURS)], label=rung)
        axes.set_xlabel('steps')
        axes.set_ylabel('test bits/char')
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, loc='upper left', bbox_to_anchor=(1.01, 1.02))     # beside the curves
        text = io.StringIO()
        figure.savefig(text, format='svg', transparent=True, bbox_inches='tight', metadata={'Date': None})
        plt.close(figure)
    svg = text.getvalue().replace('#000000', 'currentColor')
    svg = svg.replace('<text style="', '<text style="fill: currentColor; ')
    style = '<style>svg { color: #24292f } @media (prefers-color-scheme: dark) { svg { color: #d0d7de } }</style>'
    path.write_text(re.sub(r'(<svg [^>]*>)', rf'\1\n {style}', svg, count=1), encoding='utf-8')


def write(path: Path):
    """The tables (.md) and the plot (.svg) of a results file."""
    results = json.loads(path.read_text(encoding='utf-8'))
    machine = results['machine']
    body = [f'# {results["corpus"]}: {machine["gpu"] or machine["cpu"]}, {machine["cores"]} cores']
    body += [f'{machine["system"]}, Python {machine["python"]}, '
             + ', '.join(f'{name} {version}' for name, version in machine['packages'].items())]
    body += [f'## {name}\n\n{text}' for name, text in tables(results).items()]
    path.with_suffix('.md').write_text('\n\n'.join(body) + '\n', encoding='utf-8')
    if by(results, 'steps'):
        plot(results, path.with_suffix('.svg'))
