"""What each rung buys: runs the rungs on copies with edited constants, and writes the figures that the README shows.

    python bench/ladder.py                                      # all experiments on the shipped sample
    python bench/ladder.py --lyrics FOLDER --corpus "classical poems"       # on a large corpus
    python bench/ladder.py --only speed own                     # some of them
    python bench/ladder.py --report                             # nothing runs: tables and plots from the results

Stop it at will: the same command continues. Results: bench/results/<machine>-<corpus>.json (constants, curves), .md
(tables), a folder of .svg (plots); --report also puts them into the README files, the lessons (between their marks)
and the scripts' docstrings. How it is measured, and on what: bench/README.md.
"""
import argparse
import importlib.util
import json
import re
import signal
import sys
import tempfile
import unicodedata
from pathlib import Path

import plots
import report
import running
import sentences
import settings
from machine import describe

RESULTS = running.ROOT / 'bench' / 'results'
PLOTS = {'v1_bpe_rope': 'v1-corpus', 'v2_cosine_lr': 'budgets', 'v4_flash_optim': 'budgets',
         'v7_grad_accum': 'v7-memory', 'v11_memmap': 'v11-memory',
         'v12_ddp': 'v12-speed'}                                    # the others have one of their own name, or none
EXPERIMENTS = ['shipped', 'rhymes', 'rates', 'steps', 'characters', 'without', 'corpus', 'speed', 'own']


def write(path: Path) -> dict:
    """The tables (.md) and the plots (a folder of .svg) of a results file; returns the results."""
    results = json.loads(path.read_text(encoding='utf-8'))
    machine = results['machine']
    body = [f'# {results["corpus"]}: {machine["gpu"] or machine["cpu"]}, {machine["cores"]} cores',
            f'{machine["system"]}, Python {machine["python"]}, '
            + ', '.join(f'{name} {version}' for name, version in machine['packages'].items())]
    body += [f'## {name}\n\n{text}' for name, text in report.tables(results, english=True).items()]
    path.with_suffix('.md').write_text('\n\n'.join(body) + '\n', encoding='utf-8')
    for name, svg in plots.figures(results).items():
        path.with_suffix('').mkdir(exist_ok=True)
        (path.with_suffix('') / f'{name}.svg').write_text(svg, encoding='utf-8')
    return results


def wrapped(text: str, width: int = 118) -> str:
    """Broken after punctuation into lines of this width, a Chinese character counting two."""
    lines = ['']
    for part in re.findall(r'.+?(?:[，；：。]|$)', text):
        if sum(1 + (unicodedata.east_asian_width(char) in 'WF') for char in lines[-1] + part) > width:
            lines.append('')
        lines[-1] += part
    return '\n'.join(lines)


def file_name(results: dict) -> str:
    """<machine>-<corpus>, of the results' files and folder."""
    return f'{results["machine"]["name"]}-{re.sub("[^a-z0-9]+", "-", results["corpus"].lower())}'


def plot(results: dict, rung: str) -> str:
    """The plot that a lesson shows, if there is one."""
    path = RESULTS / file_name(results) / f'{PLOTS.get(rung, rung)}.svg'
    return f'\n\n![{rung}](../{path.relative_to(running.ROOT).as_posix()})' if path.exists() else ''


def marked(results: dict) -> dict[str, str]:
    """What the results have to say, by the name of its mark in the Markdown files."""
    corpus, made, songs = results['corpus'], {}, {}
    for rung in settings.RUNGS + settings.BRANCH:
        for job in report.by(results, f'shipped/{rung}').values():
            song = job.get('song', '').splitlines()
            curve = ' → '.join(f'{point["step"]}: {point["bits_per_char"]:.2f}' for point in job['curve'])
            other = songs.setdefault(tuple(song), rung)             # the first that wrote this song
            for language, same in (('', f'写的歌与 `{other}` 的一样。'), ('-en', f'Its song is that of `{other}`.')):
                printed = ['```text', *job['log'], *(['', *song[:12]] if other == rung else []), '```', '']
                made[f'{corpus} log{language} {rung}'] = '\n'.join([
                    *(printed if job.get('log') else []), *([] if other == rung else [same, '']), f'bits/char {curve}'])
            made[f'{corpus} song {rung}'] = '\n'.join(['```text', *song[:5], '```'])
        if report.by(results, 'rhymes'):
            share = report.rhyming(results, rung)
            made[f'rhymes-short {rung}'] = f'{share[0]:.0%}' if share else '—'
    marks = [('', '：', '（', '）', '。'), ('-en', ': ', ' (', ')', '.')]
    for (language, dash, left, right, stop), place, what in zip(
            marks, sentences.places(results), sentences.corpus(results), strict=True):
        for rung, sentence in sentences.currencies(results, language == '-en').items():
            made |= {f'buys{language} {rung}': f'{sentence}{left}{place}{right}{stop}{plot(results, rung)}',
                     f'buys-short{language} {rung}': f'{dash}{sentence}{left}{what}{right}'}
            made.setdefault(f'measured {rung}', f'测得（{place}）：{sentence}。')          # the first, in Chinese
        noise = sentences.noise(results)
        windows, size = settings.CONTROLLED['BATCH_SIZE'], settings.CONTROLLED['BLOCK_SIZE']
        lead = (f'Leave one out, the rest unchanged, after {settings.STEPS} steps of {windows} windows of {size}. '
                f'Where bits/char rise, the idea was worth it; where they fall, it is better left out. '
                f'From seed to seed the difference between two rungs varies by {noise:.3f}:' if language else
                f'逐个去掉，别的不变，{settings.STEPS} 步，每步 {windows} 个 {size} 的窗口。bits/char 升了，'
                f'说明它有用；降了，去掉反而好。换一个种子，两级之差也会变 {noise:.3f} 左右：')
        made |= {f'without{language} {rung}': f'{lead}\n\n{report.without(results, bool(language), [rung])}'
                 for rung in settings.WITHOUT if report.left_out(results, rung)}
    return made


def everything(found: list[dict]) -> dict[str, str]:
    """What these results and those of the other benches have to say; what a large corpus says, counts."""
    marks = {}
    for results in sorted(found, key=lambda results: results['corpus'] != 'sample'):
        marks |= marked(results)
    for path in RESULTS.glob('*/*.json'):                           # those of the other benches
        name = path.parent.name
        spec = importlib.util.spec_from_file_location(f'bench_{name}', Path(__file__).with_name(f'{name}.py'))
        bench = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(bench)
        marks |= bench.marked(json.loads(path.read_text(encoding='utf-8')))
    return marks


def publish(found: list[dict]):
    """Into the Markdown files, between <!-- bench NAME --> and <!-- /bench -->, and the scripts' docstrings."""
    root, marks = running.ROOT, everything(found)
    for path in [*root.glob('README*.md'), *root.glob('lessons/*.md'), *root.glob('site/pages/*.md')]:
        text = path.read_text(encoding='utf-8')
        for name, markdown in marks.items():
            gap = '' if '-short' in name else '\n\n'               # in a row of a table, or a paragraph of its own
            text = re.sub(rf'(<!-- bench {re.escape(name)} -->).*?(<!-- /bench -->)',
                          lambda mark, made=f'{gap}{markdown}{gap}': f'{mark[1]}{made}{mark[2]}', text, flags=re.S)
        path.write_text(text, encoding='utf-8')
    for name, sentence in marks.items():
        if name.startswith('measured '):
            script = root / f'{name.split()[1]}.py'
            source = re.sub(r'\n测得（.*?\n(?=\n)', '', script.read_text(encoding='utf-8'), count=1, flags=re.S)
            script.write_text(source.replace('\n看差异：', f'\n{wrapped(sentence)}\n\n看差异：', 1), encoding='utf-8')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', choices=EXPERIMENTS, default=EXPERIMENTS, help='default: all')
    parser.add_argument('--lyrics', type=Path, help='a folder with lyrics*.json (default: the shipped sample)')
    parser.add_argument('--corpus', default='sample', help='what the corpus is called in the results')
    parser.add_argument('--report', action='store_true', help='run nothing: tables and plots from all results')
    options = parser.parse_args()
    if options.lyrics and (options.corpus == 'sample' or running.files_of(options.lyrics)[0].name == 'sample.json'):
        parser.error(f'{options.lyrics} must hold lyrics*.json, and --corpus its name')
    if options.report:
        publish([write(path) for path in sorted(RESULTS.glob('*.json'))])
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)       # `kill` stops it, and the rungs, as Ctrl-C does
    machine, failed = describe(), set()
    path = RESULTS / f'{file_name({"machine": machine, "corpus": options.corpus})}.json'
    RESULTS.mkdir(exist_ok=True)
    results = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {'jobs': {}}
    results |= {'machine': machine, 'corpus': options.corpus}
    try:
        with tempfile.TemporaryDirectory() as data:                 # the jobs share the tokenizers that they learn
            for experiment in [name for name in options.only for _ in range(3 if name == 'rates' else 1)]:
                print(f'--- {experiment} ---')                      # a grid may have to go on beyond its ends
                jobs = settings.plan(experiment, results)
                failed |= set(running.run_all(jobs, results, path, options.lyrics, Path(data)))
    except KeyboardInterrupt:
        sys.exit('\nstopped; the same command continues')
    write(path)
    if failed:
        sys.exit(f'\n{len(failed)} of the runs failed ({", ".join(sorted(failed))}); the same command tries them again')


if __name__ == '__main__':
    main()
