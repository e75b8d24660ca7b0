"""Against nanoGPT, in one run: v6 and v10 beside its train.py, on the same tokens, at the same size, batch and steps.

    python bench/field.py --nanogpt DIR --lyrics FOLDER --corpus "classical poems"

DIR is a checkout of github.com/karpathy/nanoGPT; nothing in it is changed but data/ladder/ and out-ladder/. Three
rounds in turn, each model at its best rate (`rates` of ladder.py must have run; nanoGPT's is searched on the same
grid). Its loss is measured on whole windows of the test songs, as v6's last line is. Writes
bench/results/field-<machine>-<corpus>.json.
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
import running
import settings
import torch
from machine import describe

RESULTS = running.ROOT / 'bench' / 'results'


def prepare(nano: Path, corpus: list, data: Path):
    """Write v6's tokens as nanoGPT reads them; (test tokens, test characters)."""
    source = running.edit('v6_wandb', settings.CONTROLLED | {'LYRICS_DIR': str(data)})
    running.link(corpus, data)
    module = {'__name__': 'v6', '__file__': 'v6_wandb.py'}
    exec(compile(source, 'v6_wandb.py', 'exec'), module)
    tokenizer, train, test, characters = module['load_data']()
    folder = nano / 'data' / 'ladder'
    folder.mkdir(exist_ok=True)
    train.numpy().astype(np.uint16).tofile(folder / 'train.bin')
    test.numpy().astype(np.uint16).tofile(folder / 'val.bin')
    (folder / 'meta.pkl').write_bytes(pickle.dumps({'vocab_size': len(tokenizer)}))
    return test, characters


def nanogpt(nano: Path, rate: float, steps: int, test, characters: int, seed: int) -> dict:
    """One run of train.py: its tok/s, and bits/char over whole windows of the test tokens."""
    c = settings.CONTROLLED
    options = {'device': 'cuda' if torch.cuda.is_available() else 'cpu', 'compile': torch.cuda.is_available(),
               'dataset': 'ladder', 'out_dir': 'out-ladder', 'n_layer': c['N_LAYERS'], 'n_head': c['N_HEADS'],
               'n_embd': c['N_EMBED'], 'block_size': c['BLOCK_SIZE'], 'batch_size': c['BATCH_SIZE'], 'dropout': 0.0,
               'gradient_accumulation_steps': 1, 'max_iters': steps, 'lr_decay_iters': steps, 'warmup_iters': 150,
               'learning_rate': rate, 'min_lr': rate / 10, 'beta2': 0.95, 'eval_interval': steps, 'eval_iters': 1,
               'log_interval': 1, 'always_save_checkpoint': True}
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--nanogpt', type=Path, required=True)
    parser.add_argument('--lyrics', type=Path)
    parser.add_argument('--corpus', default='sample')
    parser.add_argument('--rounds', type=int, default=3)
    options = parser.parse_args()
    machine, name = describe(), re.sub('[^a-z0-9]+', '-', options.corpus.lower())
    rates = json.loads((RESULTS / f'{machine["name"]}-{name}.json').read_text(encoding='utf-8'))
    corpus, rounds = running.files_of(options.lyrics), []
    with tempfile.TemporaryDirectory() as data:
        test, characters = prepare(options.nanogpt, corpus, Path(data))
        found = {rate: nanogpt(options.nanogpt, rate, settings.STEPS, test, characters, 1)['bits_per_char']
                 for rate in settings.GRID}
        best = min(found, key=found.get)
        print('nanoGPT by rate:', found)
        for seed in range(1, options.rounds + 1):
            row = {'nanoGPT': nanogpt(options.nanogpt, best, settings.STEPS, test, characters, seed)}
            for rung in ('v6_wandb', 'v10_muon'):
                constants = settings.CONTROLLED | settings.rates_of(rates, rung)
                job = {'key': rung, 'rung': rung, 'constants': constants, 'patches': [], 'alone': True, 'processes': 1,
                       'files': None}
                result = running.run(running.edit(rung, constants), job, corpus, Path(data))
                row[rung] = {'tok_per_s': result['tok_per_s'], 'curve': result['curve'],
                             'bits_per_char': result['curve'][-1]['bits_per_char']}
            rounds.append(row)
            print({who: (row[who]['bits_per_char'], row[who]['tok_per_s']) for who in row}, flush=True)
    running.save(RESULTS / f'field-{machine["name"]}-{name}.json', {'machine': machine, 'corpus': options.corpus,
                                                                  'nanogpt_rates': found, 'rounds': rounds})


if __name__ == '__main__':
    main()
