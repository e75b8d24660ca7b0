"""A scaling law of our own: v10 in four sizes by three budgets, fitted; then a run four times larger, to test it.

    python bench/scaling.py --lyrics FOLDER --corpus "classical poems"          # twelve runs, the fit, the prediction
    python bench/scaling.py --lyrics FOLDER --corpus "classical poems" --large  # the large run: commit the former first

Fitted is the form of Hoffmann et al. 2022 (arXiv:2203.15556): loss = E + A / N^alpha + B / D^beta, nats a token on the
test songs, N the parameters (the shared word vectors included), D the tokens trained on. Stop it at will: the same
command continues. Writes bench/results/scaling/<machine>-<corpus>.json, .md and .svg.
"""
import argparse
import json
import math
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import plots
import running
import sentences
import settings
from machine import describe
from scipy.optimize import least_squares

SIZES = [(64, 2), (96, 3), (128, 4), (192, 5)]                      # width, layers
BUDGETS = (400, 800, 1600)                                          # steps of 16 windows of 128 tokens
LARGE = (256, 7, 3200)                                              # twice the parameters, twice the steps
RESULTS = running.ROOT / 'bench' / 'results' / 'scaling'


def job(width: int, layers: int, steps: int, rates: dict) -> dict:
    constants = settings.CONTROLLED | rates | {'N_EMBED': width, 'N_LAYERS': layers, 'TRAIN_ITERS': steps,
                                               'EVAL_INTERVAL': steps, 'WARMUP_ITERS': 100}
    return {'key': f'{width} wide, {layers} layers, {steps} steps', 'rung': 'v10_muon', 'constants': constants,
            'patches': [], 'alone': steps == LARGE[-1], 'processes': 0, 'files': None}


def size(constants: dict) -> tuple[int, int]:
    """(parameters, tokens trained on) of a v10 with these constants: q, proj, half a k and v each; gate, up, down."""
    width, hidden = constants['N_EMBED'], math.ceil(constants['N_EMBED'] * 8 / 3 / 64) * 64
    layer = 3 * width ** 2 + 3 * width * hidden + 2 * width + 2 * width // constants['N_HEADS']
    return (constants['BPE_VOCAB_SIZE'] * width + constants['N_LAYERS'] * layer + width,
            constants['TRAIN_ITERS'] * constants['BATCH_SIZE'] * constants['BLOCK_SIZE'])


def points(jobs: list[dict]) -> np.ndarray:
    """(runs, 3): parameters, tokens, loss."""
    return np.array([(*size(found['constants']), found['curve'][-1]['test']) for found in jobs])


def predict(fit: list, n: float, d: float) -> float:
    e, log_a, alpha, log_b, beta = fit
    return e + np.exp(log_a - alpha * np.log(n)) + np.exp(log_b - beta * np.log(d))


def fitted(runs: np.ndarray) -> list[float]:
    """E, ln A, alpha, ln B, beta: least squares of the loss, the best of several starts."""
    tries = [least_squares(lambda fit: predict(fit, runs[:, 0], runs[:, 1]) - runs[:, 2], (e, 4, alpha, 6, beta),
                           bounds=([0, -20, 0.01, -20, 0.01], [10, 40, 3, 60, 3]))
             for e in (1, 3) for alpha in (0.2, 0.5) for beta in (0.3, 0.6)]
    return min(tries, key=lambda found: found.cost).x.tolist()


def report(results: dict, english: bool = True) -> tuple[str, str]:
    """The runs beside the fit, the prediction and its miss (Markdown), and the curves (SVG)."""
    small = {key: found for key, found in results['jobs'].items() if key != results['large']}
    rows, curves = [], {}
    for n, d, loss in sorted(points(small.values()).tolist()):
        rows.append(f'| {n / 1e6:.2f} M | {d / 1e6:.2f} M | {loss:.4f} | {predict(results["fit"], n, d) - loss:+.4f} |')
        xs, ys = curves.setdefault(f'{n / 1e6:.2f} M parameters', ([], []))
        xs.append(d / 1e6)
        ys.append(loss)
    e, log_a, alpha, log_b, beta = results['fit']
    width, layers, steps = LARGE
    header, predicted, measured = (
        ('| parameters | tokens | test loss | fit − loss |',
         f'Predicted for {width} wide, {layers} layers, {steps} steps: ',
         'Measured: {:.4f}; the prediction misses by {:+.4f}.') if english else
        ('| 参数 | token | 测试损失 | 拟合 − 实测 |', f'预测（宽 {width}，{layers} 层，{steps} 步）：',
         '实测 {:.4f}，预测差 {:+.4f}。'))
    text = [header, '|---|---|---|---|', *rows, '',
            f'loss = {e:.3f} + {np.exp(log_a):.3g} / N^{alpha:.3f} + {np.exp(log_b):.3g} / D^{beta:.3f}', '',
            f'{predicted}{results["prediction"]:.4f}']
    if results['large'] in results['jobs']:
        loss = results['jobs'][results['large']]['curve'][-1]['test']
        text.append(measured.format(loss, results['prediction'] - loss))
    return '\n'.join(text) + '\n', plots.lines(curves, 'tokens, million', 'test loss', log=True)


def marked(results: dict) -> dict[str, str]:
    """What the results have to say, by the name of its mark in the Markdown files."""
    name = f'{results["machine"]["name"]}-{re.sub("[^a-z0-9]+", "-", results["corpus"].lower())}'
    places = dict(zip(('', '-en'), sentences.places(results), strict=True))
    return {f'scaling{language}': f'{report(results, english=bool(language))[0]}\n{places[language]}\n\n'
                                  f'![scaling](../../bench/results/scaling/{name}.svg)' for language in places}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--lyrics', type=Path, required=True)
    parser.add_argument('--corpus', required=True, help='what the corpus is called in the results')
    parser.add_argument('--large', action='store_true', help='the large run')
    options = parser.parse_args()
    machine = describe()
    name = f'{machine["name"]}-{re.sub("[^a-z0-9]+", "-", options.corpus.lower())}'
    climb = json.loads((running.ROOT / 'bench' / 'results' / f'{name}.json').read_text(encoding='utf-8'))
    peak = settings.rate(climb, 'v10_muon')
    rates = {'LEARNING_RATE': peak, 'MIN_LR': peak / 10, 'SEED': 1}
    jobs = [job(*shape, steps, rates) for shape in SIZES for steps in BUDGETS]
    large, path = job(*LARGE, rates), RESULTS / f'{name}.json'
    RESULTS.mkdir(exist_ok=True, parents=True)
    results = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {'jobs': {}}
    if options.large and 'prediction' not in results:
        parser.error('first the prediction: the same command without --large')
    results |= {'machine': machine, 'corpus': options.corpus, 'large': large['key']}
    with tempfile.TemporaryDirectory() as data:
        if running.run_all([large] if options.large else jobs, results, path, options.lyrics, Path(data)):
            sys.exit(1)
    if not options.large:
        results['fit'] = fitted(points([results['jobs'][one['key']] for one in jobs]))
        results['prediction'] = float(predict(results['fit'], *size(large['constants'])))
        running.save(path, results)
    text, svg = report(results)
    path.with_suffix('.md').write_text(text, encoding='utf-8')
    path.with_suffix('.svg').write_text(svg, encoding='utf-8')
    print(text)


if __name__ == '__main__':
    main()
