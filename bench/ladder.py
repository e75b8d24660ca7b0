"""What each rung buys: runs the rungs on copies with edited constants, and writes the figures that the README shows.

    python bench/ladder.py                                      # all experiments on the shipped sample
    python bench/ladder.py --lyrics FOLDER --corpus "classical poems"       # on a large corpus
    python bench/ladder.py --only speed own                     # some of them
    python bench/ladder.py --report                             # nothing runs: tables and plots from the results

Stop it at will: the same command continues. Results: bench/results/<machine>-<corpus>.json (constants, curves), .md
(tables), .svg (plots). How it is measured, and on what: bench/README.md.
"""
import argparse
import json
import re
import signal
import sys
import tempfile
from pathlib import Path

import report
import running
import settings
from machine import describe

RESULTS = running.ROOT / 'bench' / 'results'
EXPERIMENTS = ['shipped', 'rates', 'steps', 'characters', 'without', 'corpus', 'speed', 'own']


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
        for path in sorted(RESULTS.glob('*.json')):
            report.write(path)
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
    report.write(path)
    if failed:
        sys.exit(f'\n{len(failed)} of the runs failed ({", ".join(failed)}); the same command tries them again')


if __name__ == '__main__':
    main()
