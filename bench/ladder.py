"""What each rung buys: runs the rungs on copies with edited constants, and writes the figures that the README shows.

    python bench/ladder.py                                      # all experiments on the shipped sample
    python bench/ladder.py --lyrics FOLDER --corpus "classical poems"       # on a large corpus
    python bench/ladder.py --only speed own                     # some of them
    python bench/ladder.py --report                             # nothing runs: tables and plots from the results

Stop it at will: the same command continues. Results: bench/results/<machine>-<corpus>.json (constants, curves), .md
(tables), a folder of .svg (plots); --report also puts them into README.md (between their marks) and the scripts'
docstrings. How it is measured, and on what: bench/README.md.
"""
import argparse
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
import settings
from machine import describe

RESULTS = running.ROOT / 'bench' / 'results'
EXPERIMENTS = ['shipped', 'rates', 'steps', 'characters', 'without', 'corpus', 'speed', 'own']


def write(path: Path) -> dict:
    """The tables (.md) and the plots (a folder of .svg) of a results file; returns the results."""
    results = json.loads(path.read_text(encoding='utf-8'))
    machine = results['machine']
    body = [f'# {results["corpus"]}: {machine["gpu"] or machine["cpu"]}, {machine["cores"]} cores',
            f'{machine["system"]}, Python {machine["python"]}, '
            + ', '.join(f'{name} {version}' for name, version in machine['packages'].items())]
    body += [f'## {name}\n\n{text}' for name, text in report.tables(results).items()]
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


def publish(found: list[dict]):
    """Tables into README.md, between <!-- bench CORPUS TABLE --> and <!-- /bench -->; sentences into the docstrings."""
    path = running.ROOT / 'README.md'
    text = path.read_text(encoding='utf-8')
    for results in found:
        for name, markdown in report.tables(results).items():
            text = re.sub(rf'(<!-- bench {results["corpus"]} {name} -->\n\n).*?(\n\n<!-- /bench -->)',
                          lambda mark, markdown=markdown: mark[1] + markdown + mark[2], text, flags=re.S)
        machine, names = results['machine'], {'sample': '自带的样本', 'classical poems': '古诗'}
        corpus = names.get(results['corpus'], results['corpus'])
        where = f'{machine["gpu"] or machine["cpu"]}，{machine["cores"]} 核，{corpus}'
        for rung, sentence in report.currencies(results).items():
            script = running.ROOT / f'{rung}.py'
            source = re.sub(r'\n测得（.*?\n(?=\n)', '', script.read_text(encoding='utf-8'), count=1, flags=re.S)
            line = wrapped(f'测得（{where}）：{sentence}。')
            script.write_text(source.replace('\n看差异：', f'\n{line}\n\n看差异：', 1), encoding='utf-8')
    path.write_text(text, encoding='utf-8')


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
    machine, failed = describe(), []
    path = RESULTS / f'{machine["name"]}-{re.sub("[^a-z0-9]+", "-", options.corpus.lower())}.json'
    RESULTS.mkdir(exist_ok=True)
    results = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {'jobs': {}}
    results |= {'machine': machine, 'corpus': options.corpus}
    try:
        with tempfile.TemporaryDirectory() as data:                 # the jobs share the tokenizers that they learn
            for experiment in options.only:
                print(f'--- {experiment} ---')
                failed += running.run_all(settings.plan(experiment, results), results, path, options.lyrics, Path(data))
    except KeyboardInterrupt:
        sys.exit('\nstopped; the same command continues')
    write(path)
    if failed:
        sys.exit(f'\n{len(failed)} of the runs failed ({", ".join(failed)}); the same command tries them again')


if __name__ == '__main__':
    main()
