"""SVG plots whose text follows the reader's light or dark, readable at phone size; labels at the lines, no legend."""
import io
import re
import statistics
from contextlib import suppress

import matplotlib
import report
import settings as s

matplotlib.use('svg')
import matplotlib.pyplot as plt  # noqa: E402

COLOURS = ['#3b7dd8', '#d9622b', '#2f9e44', '#a855c8']              # of lines: 3:1 or more on white and near-black
STYLE = '<style>svg { color: #24292f } @media (prefers-color-scheme: dark) { svg { color: #d0d7de } }</style>'
plt.rcParams |= {'svg.fonttype': 'none', 'svg.hashsalt': 'ladder', 'font.size': 13, 'axes.spines.top': False,
                 'axes.spines.right': False, 'font.family': 'sans-serif'}


def finish(figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format='svg', transparent=True, bbox_inches='tight', metadata={'Date': None})
    plt.close(figure)
    svg = text.getvalue().replace('#000000', 'currentColor')
    svg = svg.replace('<text style="', '<text style="fill: currentColor; ')      # a colour of its own comes later
    return re.sub(r'(<svg [^>]*>)', rf'\1\n {STYLE}', svg[svg.index('<svg'):], count=1)


def lines(curves: dict, xlabel: str, ylabel: str, log: bool = False) -> str:
    """Curves {label: (xs, ys)}, each with its label at its end; labels that would overlap are moved apart."""
    figure, axes = plt.subplots(figsize=(5, 3.4))
    for (xs, ys), colour in zip(curves.values(), COLOURS, strict=False):
        axes.plot(xs, ys, marker='o', markersize=3, color=colour)
    if log:
        axes.set_xscale('log', base=2)
    if log or len(xs) <= 5:
        axes.set_xticks(xs, xs)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    gap, at = 0.08 * (axes.get_ylim()[1] - axes.get_ylim()[0]), -float('inf')
    for label, (xs, ys) in sorted(curves.items(), key=lambda curve: curve[1][1][-1]):
        at = max(at + gap, ys[-1])
        axes.annotate(label, (xs[-1], at), (6, 0), textcoords='offset points', va='center')
    return finish(figure)


def waterfall(steps: dict) -> str:
    """What each rung changes, stacked from the first: {rung: differences by seed}; no differences: zero by design."""
    figure, axes = plt.subplots(figsize=(5, 0.42 * len(steps) + 0.6))
    total = 0.0
    for row, differences in enumerate(steps.values()):
        mean = statistics.mean(differences) if differences else 0.0
        axes.barh(row, mean, left=total, color=COLOURS[2 if mean < 0 else 1], height=0.6)
        if len(differences) > 1:
            axes.errorbar(total + mean, row, xerr=statistics.stdev(differences), color='#808080', capsize=3)
        total += mean
        label = f'{mean:+.3f}'.replace('-', '−') if differences else '0 (same training)'
        axes.annotate(label, (max(total, total - mean), row), (8, 0), textcoords='offset points', va='center')
    axes.set_yticks(range(len(steps)), list(steps))
    axes.invert_yaxis()
    axes.set_xlabel('bits/char')
    return finish(figure)


def figures(results: dict) -> dict[str, str]:
    """name -> SVG: the waterfall of the climb, every rung against the one below, and one for each own currency."""
    jobs, made = results['jobs'], {}

    def curve(rung):
        points = report.by(results, f'steps/{rung}')['seed 1']['curve'][1:]
        return [point['step'] for point in points], [point['bits_per_char'] for point in points]

    def numbers(key, values, name, unit=1):
        return list(values), [jobs[key.format(value)][name] / unit for value in values]

    climbed = [rung for rung in s.RUNGS[2:-2] if report.by(results, f'steps/{rung}')]
    steps = {rung: [] if rung in s.SAME_TRAINING else report.change(results, rung) for rung in climbed}
    if steps:
        made['waterfall'] = waterfall(steps)
    for rung in (rung for rung in climbed if steps[rung]):
        made[rung] = lines({name: curve(name) for name in (report.below(rung), rung)}, 'steps', 'bits/char')
    for rung in ('v0_char_english', 'v0_char_chinese', 'v6_wandb', 's1_control'):        # how a run goes
        for job in report.by(results, f'shipped/{rung}').values():
            made[rung] = lines({rung: ([point['step'] for point in job['curve']],
                                       [point['bits_per_char'] for point in job['curve']])}, 'steps', 'bits/char')
    budgets = [n for n in s.BUDGETS if all(report.by(results, f'rates/{rung}/{n} steps') for rung in s.PAY_LATER)]
    if len(budgets) > 1:
        made['budgets'] = lines({rung: (budgets, [report.best(results, rung, n) for n in budgets])
                                 for rung in s.PAY_LATER}, 'steps of a whole run', 'bits/char', log=True)
    wanted = {
        'v1-corpus': lambda: lines({rung: (list(s.SIZES_OF_CORPUS), [
            report.lowest(jobs[f'corpus/{rung}/{songs} songs']) for songs in s.SIZES_OF_CORPUS])
            for rung in ('v0_char_rope', 'v1_bpe_rope')}, 'songs', 'bits/char', log=True),
        'v7-memory': lambda: lines({'v7_grad_accum': numbers(
            'own/v7_grad_accum/micro {}', s.MICRO, 'peak_memory', 2**20)}, 'micro-batch, windows', 'peak memory, MiB'),
        'v11-memory': lambda: lines({rung: numbers(f'own/{rung}/{{}} files', s.FILES, 'peak_memory', 2**20)
                                     for rung in ('v10_muon', 'v11_memmap')}, 'files', 'peak memory, MiB'),
        'v12-speed': lambda: lines({'v12_ddp': numbers(
            'own/v12_ddp/{} processes', s.PROCESSES, 'tok_per_s')}, 'processes', 'tok/s')}
    for name, make in wanted.items():
        with suppress(KeyError, ValueError):                        # not measured (yet)
            made[name] = make()
    return made
