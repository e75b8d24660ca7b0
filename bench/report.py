"""Tables from a results file; no figure in them is typed by hand."""
import statistics

import numpy as np
import settings as s
from lyrics import shares


def by(results: dict, prefix: str) -> dict:
    """What follows the prefix and a slash in a key -> job, sorted: side by side, jobs end in any order."""
    return {key[len(prefix) + 1:]: job for key, job in sorted(results['jobs'].items()) if key.startswith(prefix + '/')}


def final(job: dict) -> float:
    return job['curve'][-1]['bits_per_char']


def lowest(job: dict) -> float:
    return min(point['bits_per_char'] for point in job['curve'])    # a small corpus is learned by heart before the end


def below(rung: str) -> str | None:
    """The last rung below that changes the training: what this one is compared with, seed by seed."""
    changing = [name for name in s.RUNGS[1:s.RUNGS.index(rung)] if name not in s.SAME_TRAINING]
    return changing[-1] if changing else None


def changes(jobs: dict, others: dict) -> list[float]:
    """bits/char minus that of the others, seed by seed."""
    return [final(jobs[seed]) - final(others[seed]) for seed in sorted(jobs.keys() & others.keys())]


def signed(values: list[float]) -> str:
    """Mean ± sample standard deviation."""
    spread = f' ± {statistics.stdev(values):.3f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):+.3f}'.replace('-', '−') + spread if values else '—'


def change(results: dict, rung: str) -> list[float]:
    """What the rung changes after equal steps, seed by seed."""
    return changes(by(results, f'steps/{rung}'), by(results, f'steps/{below(rung)}'))


def median(jobs: dict, name: str = 'tok_per_s') -> float:
    return statistics.median(job[name] for key, job in jobs.items() if key.startswith('round'))


def best(results: dict, rung: str, steps: int) -> float:
    """bits/char on the validation songs at the best rate."""
    return min(final(job) for job in by(results, f'rates/{rung}/{steps} steps').values())


def table(header: list, rows: list) -> str:
    return '\n'.join(f'| {" | ".join(map(str, row))} |' for row in [header, ['---'] * len(header), *rows])


def shipped(results: dict, english: bool = False) -> str:
    """Constants as they stand: what a learner's own run should end with."""
    rows = [[f'`{rung}`', f'{final(job):.3f}', f'{job["tok_per_s"]:,}', f'{job["peak_memory"] / 2**30:.1f} GiB']
            for rung in s.RUNGS + s.BRANCH for job in by(results, f'shipped/{rung}').values()]
    return table(['script', 'bits/char', 'tok/s', 'memory'] if english else
                 ['脚本', 'bits/char', 'tok/s', '内存'], rows)


def rhyming(results: dict, rung: str) -> tuple[float, float, float] | None:
    """(share, low, high) of the stanzas that rhyme; rungs that train alike write alike."""
    while rung in s.SAME_SONGS:
        rung = s.RUNGS[s.RUNGS.index(rung) - 1]
    songs = [job['rhyming'] for job in by(results, f'rhymes/{rung}').values()]
    return shares(np.array(songs[0])[:, None])[0] if songs else None


def rhymes(results: dict, english: bool = False) -> str:
    rows = [[f'`{rung}`', f'{final(job):.3f}', '{:.0%} [{:.0%}, {:.0%}]'.format(*rhyming(results, rung))]
            for rung in s.RUNGS + s.BRANCH for job in by(results, f'rhymes/{rung}').values()]
    return table(['script', 'bits/char', 'rhyming stanzas'] if english else ['脚本', 'bits/char', '押韵的节'], rows)


def climb(results: dict, english: bool = False) -> str:
    """After equal steps, the mean of the seeds; after as many characters as the rungs of characters read."""
    rows = []
    others, same = (('other test songs', 'same training, other rounding') if english else
                    ('测试歌曲不同', '训练没有变，只差舍入'))
    for rung in s.RUNGS[1:]:
        if jobs := by(results, f'steps/{rung}'):
            same_text = by(results, f'characters/{rung}')
            note = (others if rung in s.RUNGS[-2:] else same if rung in s.SAME_TRAINING else
                    signed(change(results, rung)))
            rows.append([f'`{rung}`', f'{s.rate(results, rung):g}', f'{statistics.mean(map(final, jobs.values())):.3f}',
                         note, f'{final(same_text["seed 1"]):.3f}' if same_text else ''])
    return table(['script', 'rate', f'bits/char after {s.STEPS} steps', 'against the rung below',
                  'after as many characters'] if english else
                 ['脚本', '学习率', f'{s.STEPS} 步后的 bits/char', '比上一级', '读同样多的字'], rows)


def rates(results: dict, english: bool = False) -> str:
    rows = []
    for rung, *_ in s.FAMILIES:
        for steps in sorted({s.STEPS, *s.BUDGETS}):
            if jobs := by(results, f'rates/{rung}/{steps} steps'):
                tried = ' '.join(f'{key.split()[1]}: {final(job):.3f}' for key, job in jobs.items())
                rows.append([f'`{rung}`', steps, tried, f'{s.rate(results, rung, steps):g}'])
    return table(['first of its family', 'steps', 'bits/char of each rate, validation songs', 'chosen'] if english else
                 ['同组中的第一级', '步数', '各学习率在验证歌曲上的 bits/char', '取'], rows)


def left_out(results: dict, rung: str) -> dict[str, tuple[str, str]]:
    """idea -> (its name in Chinese, what changes without it)."""
    found = {}
    for idea, chinese, _ in s.WITHOUT.get(rung, []):
        if jobs := by(results, f'without/{rung}/{idea}'):
            found[idea] = chinese, f'{signed(changes(jobs, by(results, f"steps/{rung}")))} bits/char'
    for idea, (chinese, _) in s.FASTER.items():
        if jobs := by(results, f'speed/{rung}/without {idea}'):
            change = median(jobs) / median(by(results, f'speed/{rung}')) - 1
            found[idea] = chinese, f'{change:+.0%} tok/s'.replace('-', '−')
    return found


def without(results: dict, english: bool = False, rungs=tuple(s.WITHOUT)) -> str:
    rows = [[f'`{rung}`', idea if english else chinese, change] for rung in rungs
            for idea, (chinese, change) in left_out(results, rung).items()]
    header = ['script', 'without', 'change'] if english else ['脚本', '去掉或换掉', '变化']
    return table(header, rows) if len(rungs) > 1 else table(header[1:], [row[1:] for row in rows])


def corpus(results: dict, english: bool = False) -> str:
    chars, bpe = by(results, 'corpus/v0_char_rope'), by(results, 'corpus/v1_bpe_rope')
    rows = [[f'{songs:,}', f'{lowest(chars[f"{songs} songs"]):.3f}', f'{lowest(bpe[f"{songs} songs"]):.3f}']
            for songs in s.SIZES_OF_CORPUS if f'{songs} songs' in chars.keys() & bpe.keys()]
    return table(['songs' if english else '歌的数目', '`v0_char_rope`', '`v1_bpe_rope`'], rows)


def tables(results: dict, english: bool = False) -> dict[str, str]:
    """name -> Markdown of each experiment that has results."""
    made = {'shipped': shipped, 'steps': climb, 'without': without, 'corpus': corpus, 'rhymes': rhymes, 'rates': rates}
    return {name: make(results, english) for name, make in made.items() if by(results, name)}
