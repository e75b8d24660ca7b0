"""Against nanoGPT, in one run: v6 and v10 beside its train.py, on the same tokens, at the same size, batch and steps.

    python bench/field.py --nanogpt DIR --lyrics FOLDER --corpus "classical poems"

DIR is a checkout of github.com/karpathy/nanoGPT; nothing in it is changed but data/ladder/ and out-ladder/. Each
model's peak rate is the best of the grid of ladder.py, on the last tenth of the training songs; then three rounds in
turn, each with a seed (split, windows, weights) of its own, and v10 once more with a quarter of the steps and of the
warm-up. Losses are over whole windows of the test songs. Stop it at will: the same command continues. Writes
bench/results/field/<machine>-<corpus>.json.
"""
import argparse
import json
import math
import pickle
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import report
import running
import sentences
import settings
import torch
from machine import describe

RESULTS, STEPS = running.ROOT / 'bench' / 'results' / 'field', 600
MODELS = {'nanoGPT': settings.GRID, 'v6_wandb': settings.GRID, 'v10_muon': settings.MUON_GRID}
QUARTER = 'v10_muon, 1/4'                           # a quarter of the steps, and of the warm-up


def prepare(nano: Path, data: Path, seed: int, patches: list):
    """Write v6's tokens as nanoGPT reads them; (test tokens, test characters)."""
    module = {'__name__': 'v6', '__file__': 'v6_wandb.py'}
    source = running.edit('v6_wandb', settings.CONTROLLED | {'LYRICS_DIR': str(data), 'SEED': seed}, patches)
    exec(compile(source, 'v6_wandb.py', 'exec'), module)
    tokenizer, train, test, characters = module['load_data']()
    folder = nano / 'data' / 'ladder'
    folder.mkdir(exist_ok=True)
    train.numpy().astype(np.uint16).tofile(folder / 'train.bin')
    test.numpy().astype(np.uint16).tofile(folder / 'val.bin')
    (folder / 'meta.pkl').write_bytes(pickle.dumps({'vocab_size': len(tokenizer)}))
    return test, characters


def nanogpt(nano: Path, data: Path, rate: float, seed: int, patches: list) -> dict:
    """One run of train.py: its tok/s, and bits/char over whole windows of the test tokens."""
    test, characters = prepare(nano, data, seed, patches)
    c = settings.CONTROLLED
    options = {'device': 'cuda' if torch.cuda.is_available() else 'cpu', 'compile': torch.cuda.is_available(),
               'dataset': 'ladder', 'out_dir': 'out-ladder', 'n_layer': c['N_LAYERS'], 'n_head': c['N_HEADS'],
               'n_embd': c['N_EMBED'], 'block_size': c['BLOCK_SIZE'], 'batch_size': c['BATCH_SIZE'], 'dropout': 0.0,
               'gradient_accumulation_steps': 1, 'max_iters': STEPS, 'lr_decay_iters': STEPS, 'learning_rate': rate,
               'warmup_iters': c['WARMUP_ITERS'], 'min_lr': rate / 10, 'beta2': 0.95, 'eval_interval': STEPS,
               'eval_iters': 1, 'log_interval': 1, 'always_save_checkpoint': True}
    seeded = (nano / 'train.py').read_text(encoding='utf-8').replace('manual_seed(1337', f'manual_seed({seed}')
    command = [sys.executable, '-c', seeded] + [f'--{name}={value}' for name, value in options.items()]
    done = subprocess.run(command, cwd=nano, capture_output=True, encoding='utf-8')
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    times = [float(ms) / 1000 for ms in re.findall(r'time ([\d.]+)ms', done.stdout)][10:]
    times = [seconds for seconds in times if seconds < 5 * min(times)]      # not the one that evaluates and saves
    sys.path.insert(0, str(nano))
    from model import GPT, GPTConfig
    checkpoint = torch.load(nano / 'out-ladder' / 'ckpt.pt', map_location='cpu', weights_only=False)
    model = GPT(GPTConfig(**checkpoint['model_args']))
    model.load_state_dict(checkpoint['model'])
    model.eval()
    block, total, count = c['BLOCK_SIZE'], 0.0, math.ceil(len(test) / c['BLOCK_SIZE'])
    with torch.no_grad():
        for starts in torch.linspace(0, len(test) - block - 1, count, dtype=torch.float64).long().split(64):
            positions = starts[:, None] + torch.arange(block)
            total += model(test[positions], test[positions + 1])[1].item() * len(starts)
    return {'tok_per_s': round(c['BATCH_SIZE'] * block * len(times) / sum(times)),
            'bits_per_char': total / count / math.log(2) * len(test) / characters}


def ours(rung: str, data: Path, rate: float, seed: int, patches: list, part: int = 1) -> dict:
    constants = settings.CONTROLLED | {'LEARNING_RATE': rate, 'MIN_LR': rate / 10, 'SEED': seed, 'EVAL_INTERVAL': 25,
                                       'TRAIN_ITERS': STEPS // part,
                                       'WARMUP_ITERS': settings.CONTROLLED['WARMUP_ITERS'] // part}
    job = {'rung': rung, 'constants': constants, 'patches': patches, 'alone': True, 'processes': 0, 'files': None}
    found = running.run(running.edit(rung, constants, patches), job, [], data)
    return {'tok_per_s': found['tok_per_s'], 'bits_per_char': report.final(found), 'curve': found['curve']}


def reached(job: dict, loss: float) -> int:
    """The first step of the curve with a bits/char at or under this."""
    return next(point['step'] for point in job['curve'] if point['bits_per_char'] <= loss)


def marked(results: dict) -> dict[str, str]:
    """What the results have to say, by the name of its mark in the Markdown files."""
    made, rounds = {}, results['rounds']
    steps = [reached({'curve': row['v10_muon']['curve']}, row['nanoGPT']['bits_per_char']) for row in rounds]
    chinese, english = sentences.places(results)
    for suffix, header, quarter, said in (
            ('', ['', '学习率', 'bits/char（三个种子）', 'tok/s（三轮）'], 'v10_muon，{} 步',
             f'三个种子下，v10 分别用 {{}} 步，就到了 nanoGPT 训练 {{total}} 步的 bits/char（{chinese}）。'),
            ('-en', ['', 'rate', 'bits/char (three seeds)', 'tok/s (three rounds)'], 'v10_muon, {} steps',
             f'v10 has after {{}} steps (three seeds) the bits/char that nanoGPT has after {{total}} ({english}).')):
        rows = []
        for model in rounds[0]:
            bits, speed = ([row[model][key] for row in rounds] for key in ('bits_per_char', 'tok_per_s'))
            tried = results['rates'][model.split(',')[0]]
            name = quarter.format(results['steps'] // 4) if model == QUARTER else model
            rows.append([name, min(tried, key=tried.get), ', '.join(f'{one:.3f}' for one in bits),
                         ', '.join(f'{one:,}' for one in speed)])
        said = said.format(', '.join(map(str, steps)), total=results['steps'])
        made[f'field{suffix}'] = f'{report.table(header, rows)}\n\n{said}'
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--nanogpt', type=Path, required=True)
    parser.add_argument('--lyrics', type=Path)
    parser.add_argument('--corpus', default='sample')
    options = parser.parse_args()
    machine = describe()
    path = RESULTS / f'{machine["name"]}-{re.sub("[^a-z0-9]+", "-", options.corpus.lower())}.json'
    path.parent.mkdir(exist_ok=True, parents=True)
    results = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
    results = {'rates': {}, 'rounds': [{} for _ in settings.SEEDS]} | results | {
        'machine': machine, 'corpus': options.corpus, 'steps': STEPS}
    with tempfile.TemporaryDirectory() as folder:
        data = running.link(running.files_of(options.lyrics), Path(folder))

        def run(model, rate, seed, patches=()):
            name, _, part = model.partition(', 1/')
            found = (nanogpt(options.nanogpt, data, rate, seed, patches) if name == 'nanoGPT' else
                     ours(name, data, rate, seed, patches, int(part or 1)))
            print(model, rate, seed, found['bits_per_char'], found['tok_per_s'], flush=True)
            return found

        for model, grid in MODELS.items():
            tried = results['rates'].setdefault(model, {})
            for rate in (rate for rate in map(str, grid) if rate not in tried):
                tried[rate] = run(model, float(rate), 1, settings.VALIDATION)['bits_per_char']
                running.save(path, results)
        for seed, row in zip(settings.SEEDS, results['rounds'], strict=True):
            for model in (model for model in (*MODELS, QUARTER) if model not in row):
                tried = results['rates'][model.split(',')[0]]
                row[model] = run(model, float(min(tried, key=tried.get)), seed)
                running.save(path, results)


if __name__ == '__main__':
    main()
