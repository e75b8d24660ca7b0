"""Tables and sentences from a results file; no figure in them is typed by hand."""
import re
import statistics
from contextlib import suppress

import settings as s


def by(results: dict, prefix: str) -> dict:
    """What follows the prefix and a slash in a key -> job, sorted: side by side, jobs end in any order."""
    return {key[len(prefix) + 1:]: job for key, job in sorted(results['jobs'].items()) if key.startswith(prefix + '/')}


def final(job: dict) -> float:
    return job['curve'][-1]['bits_per_char']


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


def reached(job: dict, loss: float) -> int:
    """The first step of the curve with a bits/char at or under this."""
    return next(point['step'] for point in job['curve'] if point['bits_per_char'] <= loss)


def table(header: list, rows: list) -> str:
    return '\n'.join(f'| {" | ".join(map(str, row))} |' for row in [header, ['---'] * len(header), *rows])


def shipped(results: dict) -> str:
    """Constants as they stand: what a learner's own run should look like."""
    rows = [[f'`{rung}`', '，'.join(f'{point["step"]}: {point["bits_per_char"]:.2f}' for point in job['curve'][1:]),
             f'{final(job):.3f}', f'{job["tok_per_s"]:,}', f'{job["peak_memory"] / 2**30:.1f} GiB']
            for rung in s.RUNGS for job in by(results, f'shipped/{rung}').values()]
    return table(['脚本', '各步的 bits/char', '最后', 'tok/s', '内存'], rows)


def climb(results: dict) -> str:
    rows = []
    for rung in s.RUNGS[1:]:
        if jobs := by(results, f'steps/{rung}'):
            same_text = by(results, f'characters/{rung}')
            note = ('测试集不同' if rung in s.RUNGS[-2:] else '训练没有变' if rung in s.SAME_TRAINING
                    else signed(change(results, rung)))
            rows.append([f'`{rung}`', f'{s.rate(results, rung):g}', f'{final(jobs["seed 1"]):.3f}', note,
                         f'{final(same_text["seed 1"]):.3f}' if same_text else ''])
    return table(['脚本', '学习率', f'{s.STEPS} 步后的 bits/char', '比上一级', '读同样多的字'], rows)


def rates(results: dict) -> str:
    rows = []
    for rung, *_ in s.FAMILIES:
        for steps in sorted({s.STEPS, *s.BUDGETS}):
            if jobs := by(results, f'rates/{rung}/{steps} steps'):
                tried = ' '.join(f'{key.split()[1]}: {final(job):.3f}' for key, job in jobs.items())
                rows.append([f'`{rung}`', steps, tried, f'{s.rate(results, rung, steps):g}'])
    return table(['一家里的第一级', '步数', '各学习率在验证歌曲上的 bits/char', '取'], rows)


def without(results: dict) -> str:
    rows = [[f'`{rung}`', chinese, signed(changes(jobs, by(results, f'steps/{rung}')))] for rung in s.WITHOUT
            for idea, chinese, _ in s.WITHOUT[rung] if (jobs := by(results, f'without/{rung}/{idea}'))]
    return table(['脚本', '去掉', 'bits/char 的变化'], rows)


def corpus(results: dict) -> str:
    chars, bpe = by(results, 'corpus/v0_char_rope'), by(results, 'corpus/v1_bpe_rope')
    rows = [[key.split()[0].replace('all', '全部'), f'{final(chars[key]):.3f}', f'{final(bpe[key]):.3f}']
            for key in (f'{songs or "all"} songs' for songs in s.SIZES_OF_CORPUS) if key in chars and key in bpe]
    return table(['歌的数目', '`v0_char_rope`', '`v1_bpe_rope`'], rows)


def currencies(results: dict) -> dict[str, str]:
    """rung -> what it buys, in one Chinese sentence with its figures; only what has been measured."""
    jobs = results['jobs']

    def rope():
        longer = [float(line.split()[2]) for line in jobs['own/v0_char_rope/longer windows']['extra']]
        return (f'{s.STEPS} 步，{signed(change(results, "v0_char_rope"))} bits/char；窗口比训练时长一倍、三倍，'
                f'损失从 {longer[0]:.2f} 到 {longer[1]:.2f}、{longer[2]:.2f}')

    def bpe():
        tokens = s.chars_per_token(jobs['steps/v1_bpe_rope/seed 1'])
        return (f'一个 token 是 {tokens:.2f} 个字，一步读的文字也是这么多倍；{s.STEPS} 步，'
                f'{signed(change(results, "v1_bpe_rope"))} bits/char')

    def paying(rung):
        other = s.PAY_LATER[s.PAY_LATER.index(rung) - 1]
        differences = [f'{n} 步 {signed([best(results, rung, n) - best(results, other, n)])}' for n in s.BUDGETS]
        return f'比 {other}，各用最好的学习率：{"，".join(differences)} bits/char'

    def amp():
        plain, amp, both = (median(by(results, f'speed/v3_gpt2_amp/autocast {a}, compile {c}')) for a, c in
                            ((False, False), (True, False), (True, True)))
        seconds = median(by(results, 'speed/v3_gpt2_amp/autocast True, compile True'), 'compile_seconds')
        return f'混合精度让 tok/s {amp / plain - 1:+.0%}，再编译 {both / amp - 1:+.0%}（先要编译 {seconds:.0f} 秒）'

    def checkpoint():
        saving = [float(line.split()[1]) for line in jobs['own/v5_checkpoint/saving']['extra']]
        killed = jobs['own/v5_checkpoint/killed']
        step = int(re.search(r'第 (\d+) 步', killed['extra'][0])[1])
        lost = (500 - step) * 2048 / killed['tok_per_s']
        return (f'第 500 步被 kill -9，从第 {step} 步继续，丢了 {lost:.0f} 秒，而不是全部；'
                f'存一次 {statistics.median(saving):.2f} 秒')

    def accumulation():
        memory = [f'{n} 个窗口 {jobs[f"own/v7_grad_accum/micro {n}"]["peak_memory"] / 2**20:.0f}' for n in s.MICRO]
        return f'一份 {"，".join(memory)} MiB（内存的峰值），损失一样'

    def muon():
        v6, v10 = jobs['steps/v6_wandb/seed 1'], jobs['steps/v10_muon/seed 1']
        steps = reached(v10, final(v6))
        seconds = [n * 2048 / median(by(results, f'speed/{rung}'))
                   for n, rung in ((steps, 'v10_muon'), (s.STEPS, 'v6_wandb'))]
        return (f'{steps} 步（{seconds[0]:.0f} 秒）就到了 v6 训练 {s.STEPS} 步（{seconds[1]:.0f} 秒）的'
                f' {final(v6):.3f} bits/char')

    def memmap():
        memory = [jobs[f'own/{rung}/{files} files']['peak_memory'] / 2**20 for rung in ('v10_muon', 'v11_memmap')
                  for files in s.FILES[::len(s.FILES) - 1]]
        return (f'数据是 {s.FILES[-1]} 倍时，v10 的内存从 {memory[0]:.0f} 到 {memory[1]:.0f} MiB，'
                f'v11 从 {memory[2]:.0f} 到 {memory[3]:.0f}')

    def ddp():
        runs = [(n, jobs[f'own/v12_ddp/{n} processes']) for n in s.PROCESSES]
        speeds = [f'{n} 个进程 {job["tok_per_s"]:,} tok/s（损失 {job["curve"][-1]["test"]:.4f}）' for n, job in runs]
        return f'{"，".join(speeds)}；一步发 {4 * runs[0][1]["parameters"] / 1e6:.1f} MB'

    sentences = {
        'v0_char_rope': rope, 'v1_bpe_rope': bpe, 'v2_cosine_lr': lambda: paying('v2_cosine_lr'), 'v3_gpt2_amp': amp,
        'v4_flash_optim': lambda: paying('v4_flash_optim'), 'v5_checkpoint': checkpoint, 'v7_grad_accum': accumulation,
        'v8_mfu': lambda: f'MFU {median(by(results, "speed/v8_mfu"), "mfu"):.0f}%',
        'v9_llama': lambda: (f'参数少四分之一，{s.STEPS} 步到 {final(jobs["steps/v9_llama/seed 1"]):.3f} bits/char'
                             f'（{signed(change(results, "v9_llama"))}）'),
        'v10_muon': muon, 'v11_memmap': memmap, 'v12_ddp': ddp}
    said = {}
    for rung, sentence in sentences.items():
        with suppress(KeyError, ValueError, StopIteration, statistics.StatisticsError):     # not measured (yet)
            said[rung] = sentence()
    return said


def tables(results: dict) -> dict[str, str]:
    """name -> Markdown of each experiment that has results."""
    made = {'shipped': shipped, 'steps': climb, 'rates': rates, 'without': without, 'corpus': corpus}
    found = {name: make(results) for name, make in made.items() if by(results, name)}
    if said := currencies(results):
        found['currencies'] = '\n'.join(f'- `{rung}`：{text}' for rung, text in said.items())
    return found
