"""What each rung buys, in one sentence with its figures, in Chinese and English; only what has been measured."""
import re
import statistics
from contextlib import suppress

import settings as s
from report import below, best, by, change, final, lowest, median, signed


def corpus(results: dict) -> tuple[str, str]:
    """On what it was measured, in Chinese and English."""
    return {'sample': ('自带的样本', 'the shipped sample'), 'classical poems': ('古诗', 'classical poems')}.get(
        results['corpus'], (results['corpus'], results['corpus']))


def places(results: dict) -> tuple[str, str]:
    """Where and on what it was measured."""
    machine, (chinese, english) = results['machine'], corpus(results)
    processor = machine['gpu'] or machine['cpu']
    return f'{processor}，{machine["cores"]} 核，{chinese}', f'{processor}, {machine["cores"]} cores, {english}'


def lower(values) -> str:
    """What a mean difference is in a Chinese sentence."""
    mean = statistics.mean(values)
    return f'{"低" if mean < 0 else "高"} {abs(mean):.3f}'


def noise(results: dict) -> float:
    """How much a difference between two rungs varies from seed to seed: the largest standard deviation."""
    return max([statistics.stdev(found) for rung in s.NEAR if len(found := change(results, rung)) > 1], default=0)


def learned(rung):
    def sentence(results, jobs):
        curve = jobs[f'shipped/{rung}/whole run']['curve']
        first, last, steps = curve[0]['bits_per_char'], curve[-1]['bits_per_char'], curve[-1]['step']
        return (f'按默认设置训练 {steps} 步，从 {first:.2f} 到 {last:.2f} bits/char',
                f'as shipped, from {first:.2f} to {last:.2f} bits/char in {steps} steps')
    return sentence


def recorded(results, jobs):
    bits, others = (final(jobs[f'shipped/{rung}/whole run']) for rung in ('v6_wandb', 'v5_checkpoint'))
    return (f'每 10 步的损失、学习率、梯度范数都看得见，训练不变：{bits:.3f} bits/char，v5 是 {others:.3f}',
            f'loss, rate and gradient norm of every tenth step in sight, the same training: {bits:.3f} bits/char, v5 '
            f'{others:.3f}')


def rope(results, jobs):
    longer = [float(line.split()[2]) for line in jobs['own/v0_char_rope/longer windows']['extra']]
    values = change(results, 'v0_char_rope')
    gain = signed(values)
    one, two, four = (f'{loss:.2f}' for loss in longer)
    return (f'{s.STEPS} 步，比 v0_char_chinese {lower(values)} bits/char；窗口拉到训练时的 2 倍、4 倍，损失从 {one} 升到 {two}、{four}',
            f'{gain} bits/char after {s.STEPS} steps; in windows two and four times as long as those trained on, the loss '
            f'goes from {one} to {two} and {four}')


def paying(rung):
    def sentence(results, jobs):
        other = s.PAY_LATER[s.PAY_LATER.index(rung) - 1]
        found = [(n, signed([best(results, rung, n) - best(results, other, n)])) for n in s.BUDGETS
                 if by(results, f'rates/{rung}/{n} steps') and by(results, f'rates/{other}/{n} steps')]
        if not found:
            raise KeyError(rung)
        return (f'验证歌曲上与 {other} 相比，各取最佳学习率：{"，".join(f"{n} 步 {gain}" for n, gain in found)} bits/char',
                f'on validation songs, against {other}, each at its best rate: {", ".join(f"{gain} after {n}" for n, gain in found)} steps, '
                'in bits/char')
    return sentence


def bpe(results, jobs):
    tokens = s.chars_per_token(jobs['steps/v1_bpe_rope/seed 1'])
    found = []
    for songs in s.SIZES_OF_CORPUS:
        ours, other = (lowest(jobs[f'corpus/{rung}/{songs} songs']) for rung in ('v1_bpe_rope', 'v0_char_rope'))
        found.append((songs, ours - other))
    (few, first), (many, last) = found[0], found[-1]
    return (f'一个 token 平均 {tokens:.2f} 个字，省不了多少；{few:,} 首时比 v0_char_rope {lower([first])} bits/char，'
            f'{many:,} 首时{lower([last])}',
            f'a token is {tokens:.2f} characters, which saves little; against v0_char_rope, {signed([first])} '
            f'bits/char with {few:,} texts, {signed([last])} with {many:,}')


def recipe(results, jobs):
    said = paying('v4_flash_optim')(results, jobs)
    flash, plain = (by(results, f'speed/v4_flash_optim/windows of 1024, {how}') for how in ('flash', 'plain'))
    if not flash or not plain:
        return said
    faster = f'{median(flash) / median(plain) - 1:+.0%}'.replace('-', '−')
    mib = [f'{median(jobs, "peak_memory") / 2**20:.0f}' for jobs in (plain, flash)]
    return (f'{said[0]}。窗口 1024 时，flash attention 让 tok/s {faster}，内存峰值从 {mib[0]} 变为 {mib[1]} MiB',
            f'{said[1]}. With windows of 1024, flash attention changes tok/s by {faster} and peak memory from {mib[0]} to '
            f'{mib[1]} MiB')


def amp(results, jobs):
    plain, amp, both = (median(by(results, f'speed/v3_gpt2_amp/autocast {a}, compile {c}')) for a, c in
                        ((False, False), (True, False), (True, True)))
    seconds = median(by(results, 'speed/v3_gpt2_amp/autocast True, compile True'), 'compile_seconds')
    one, two = f'{amp / plain - 1:+.0%}', f'{both / amp - 1:+.0%}'
    return (f'混合精度让 tok/s {one}，编译再 {two}（先要编译 {seconds:.0f} 秒）',
            f'mixed precision changes tok/s by {one}, compilation by another {two} (after {seconds:.0f} s of compiling)')


def checkpoint(results, jobs):
    saving = [float(line.split()[1]) for line in jobs['own/v5_checkpoint/saving']['extra']]
    killed = jobs['own/v5_checkpoint/killed']
    step, save = int(re.search(r'第 (\d+) 步', killed['extra'][0])[1]), statistics.median(saving)
    lost = (500 - step) * 2048 / killed['tok_per_s']
    return (f'第 500 步被 kill -9，从第 {step} 步继续，丢了 {lost:.0f} 秒，而不是全部；存一次 {save:.2f} 秒',
            f'killed at step 500, it goes on from step {step}: {lost:.0f} seconds lost, not everything; a save takes '
            f'{save:.2f} seconds')


def accumulation(results, jobs):
    runs = [jobs[f'own/v7_grad_accum/micro {n}'] for n in s.MICRO]
    rows = zip(*((str(n), f'{job["peak_memory"] / 2**20:.0f}', f'{job["curve"][-1]["test"]:.4f}')
                 for n, job in zip(s.MICRO, runs, strict=True)))
    windows, mib, losses = ('／'.join(row) for row in rows)
    return (f'每次算 {windows} 个窗口，内存峰值 {mib} MiB，测试损失 {losses}',
            f'with {windows} windows at a time the peak of memory is {mib} MiB, the test loss {losses}'.replace('／', ' / '))


def mfu(results, jobs):
    share = median(by(results, 'speed/v8_mfu'), 'mfu')
    return f'知道用上了多少算力：MFU {share:.0f}%', f'tells how much of the machine is used: MFU {share:.0f} %'


def llama(results, jobs):
    ours, other = jobs['steps/v9_llama/seed 1'], below('v9_llama')
    values, fewer = change(results, 'v9_llama'), 1 - ours['parameters'] / jobs[f'steps/{other}/seed 1']['parameters']
    return (f'参数少 {fewer:.0%}，{s.STEPS} 步到 {final(ours):.3f} bits/char，比 {other} {lower(values)}',
            f'{fewer:.0%} fewer parameters, {final(ours):.3f} bits/char after {s.STEPS} steps, {signed(values)} against {other}')


def muon(results, jobs):
    v6 = jobs['steps/v6_wandb/seed 1']
    runs = {n: final(jobs[f'own/v10_muon/{n} steps']) for n in s.SHORTER} | {s.STEPS: final(jobs['steps/v10_muon/seed 1'])}
    steps = min(n for n, bits in runs.items() if bits <= final(v6))
    ours, theirs = (f'{n * 2048 / median(by(results, f"speed/{rung}")):.0f}'
                    for n, rung in ((steps, 'v10_muon'), (s.STEPS, 'v6_wandb')))
    values = change(results, 'v10_muon')
    return (f'{s.STEPS} 步，比 v9_llama {lower(values)} bits/char；只训练 {steps} 步（{ours} 秒）到 {runs[steps]:.3f}，'
            f'v6 训练 {s.STEPS} 步（{theirs} 秒）才到 {final(v6):.3f}',
            f'{signed(values)} bits/char against v9_llama after {s.STEPS} steps; a run of {steps} steps ({ours} s) ends at '
            f'{runs[steps]:.3f}, one of v6 of {s.STEPS} ({theirs} s) at {final(v6):.3f}')


def memmap(results, jobs):
    a, b, c, d = (jobs[f'own/{rung}/{files} files']['peak_memory'] / 2**20 for rung in ('v10_muon', 'v11_memmap')
                  for files in s.FILES[::len(s.FILES) - 1])
    return (f'数据是 {s.FILES[-1]} 倍时，v10 的内存从 {a:.0f} 到 {b:.0f} MiB，v11 从 {c:.0f} 到 {d:.0f}',
            f'with {s.FILES[-1]} times the data, the memory of v10 grows from {a:.0f} to {b:.0f} MiB, that of v11 from '
            f'{c:.0f} to {d:.0f}')


def ddp(results, jobs):
    runs = [(n, jobs[f'own/v12_ddp/{n} processes']) for n in s.PROCESSES]
    sent = 4 * runs[0][1]['parameters'] / 1e6
    counts, speeds, losses = zip(*((str(n), f'{job["tok_per_s"]:,}', f'{job["curve"][-1]["test"]:.4f}') for n, job in runs))
    return (f'{"／".join(counts)} 个进程，各用一个线程：{"／".join(speeds)} tok/s，损失 {"／".join(losses)}；每步通信 {sent:.1f} MB',
            f'{" / ".join(counts)} processes of one thread each: {" / ".join(speeds)} tok/s, loss {" / ".join(losses)}; '
            f'{sent:.1f} MB are sent per step')


SENTENCES = {'v0_char_english': learned('v0_char_english'), 'v0_char_chinese': learned('v0_char_chinese'),
             'v0_char_rope': rope, 'v1_bpe_rope': bpe, 'v2_cosine_lr': paying('v2_cosine_lr'), 'v3_gpt2_amp': amp,
             'v4_flash_optim': recipe, 'v5_checkpoint': checkpoint, 'v6_wandb': recorded,
             'v7_grad_accum': accumulation, 'v8_mfu': mfu, 'v9_llama': llama, 'v10_muon': muon, 'v11_memmap': memmap,
             'v12_ddp': ddp}


def currencies(results: dict, english: bool = False) -> dict[str, str]:
    """rung -> its sentence; those whose figures are not measured (yet) have none."""
    said = {}
    for rung, sentence in SENTENCES.items():
        with suppress(KeyError, ValueError, StopIteration, statistics.StatisticsError):
            said[rung] = sentence(results, results['jobs'])[english]
    return said
