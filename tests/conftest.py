"""Shared helpers: the tests do what a user does: copy a rung, edit the constants at its top, run it as a process."""
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(1)                                            # the models are tiny, and the tests run in parallel
RUNGS = ['v0_char_english', 'v0_char_chinese', 'v0_char_rope', 'v1_bpe_rope', 'v2_cosine_lr', 'v3_gpt2_amp',
         'v4_flash_optim', 'v5_checkpoint', 'v6_wandb', 'v7_grad_accum', 'v8_llama', 'v9_muon', 'v10_ddp']
CHINESE, ROPE, BPE, CHECKPOINT = RUNGS[1:], RUNGS[2:], RUNGS[3:], RUNGS[7:]

# A model that a test trains in a second; a rung takes those of these constants that it has.
TINY = {'DEVICE': 'cpu', 'BATCH_SIZE': 4, 'BLOCK_SIZE': 32, 'N_EMBED': 32, 'N_HEADS': 2, 'N_LAYERS': 2, 'DROP_OUT': 0.1,
        'TRAIN_ITERS': 20, 'EVAL_INTERVAL': 10, 'EVAL_ITERS': 2, 'WARMUP_ITERS': 3, 'MAX_NEW_TOKENS': 20, 'BPE_VOCAB_SIZE': 3000}

LOG_LINE = re.compile(r'step +(?P<step>\d+)/(?P<iters>\d+) \| train (?P<train>\d+\.\d{4}) \| test (?P<test>\d+\.\d{4})'
                      r' \| (?P<bits>\d+\.\d{3}) bits/char \| (?P<speed>[\d,]+) tok/s \| 剩余 (?P<left>\d\d+:\d\d)'
                      r'(?: \| MFU [\d.]+%)?')                     # v7 on


def level(name: str) -> int:
    """7 for 'v7_grad_accum'."""
    return int(re.match(r'v(\d+)_', name)[1])


def tokens(name: str, n: int):
    """The tokens 0, 1, ..., n - 1 as the rung holds its data: (n,), a tensor, from v10 on a uint16 array."""
    return torch.arange(n) if level(name) < 10 else np.arange(n, dtype=np.uint16)


def songs_of(module) -> list[str]:
    """The cleaned songs that a rung reads."""
    return module.load_songs() if hasattr(module, 'load_songs') else [text for text, _ in module.documents(module.data_files())]


def edit(name: str, folder: Path, **constants) -> Path:
    """Copy rung `name` into `folder` with `constants` edited; asserts that each stands at its top exactly once."""
    source = (ROOT / f'{name}.py').read_text(encoding='utf-8')
    for key, value in constants.items():
        source, found = re.subn(rf'^{key} = .*$', lambda _, k=key, v=value: f'{k} = {v!r}', source, flags=re.M)
        assert found == 1, f'{name}.py has {found} lines "{key} = ..."'
    source = source.replace('    n = 8192 if GPU else 2048\n', '    n = 64\n')       # v7 on: matrix_rate takes a second otherwise
    path = folder / f'{name}.py'
    path.write_text(source, encoding='utf-8')
    return path


def run_script(path: Path, env: dict | None = None, **options) -> subprocess.CompletedProcess:
    """Run a script in its own folder as a newcomer would: no wandb account, output captured."""
    return subprocess.run([sys.executable, path.name], cwd=path.parent, env=environment(path.parent, env), text=True,
                          encoding='utf-8', capture_output=True, stdin=subprocess.DEVNULL, timeout=300, **options)


WANDB = {'WANDB_MODE': 'disabled'}                                  # sooner; a test that is about wandb takes the fixture `records`


@pytest.fixture
def records(monkeypatch):
    """Runs record with wandb as they do for a newcomer: without an account, offline."""
    monkeypatch.delitem(WANDB, 'WANDB_MODE')


def environment(folder: Path, extra: dict | None = None) -> dict:
    """The environment without any other wandb setting and with an empty home folder."""
    env = {key: value for key, value in os.environ.items() if not key.startswith('WANDB')}
    one_thread = {'OMP_NUM_THREADS': '1'}
    return env | WANDB | {'HOME': str(folder), 'USERPROFILE': str(folder), 'PYTHONUTF8': '1'} | one_thread | (extra or {})


def log_lines(output: str) -> list[dict]:
    """The log lines of a run, as dicts; a line that starts like one and does not parse is an error."""
    matches = [LOG_LINE.fullmatch(line) for line in output.splitlines() if line.startswith('step ')]
    assert all(matches), output
    return [{'step': int(m['step']), 'iters': int(m['iters']), 'train': float(m['train']), 'test': float(m['test']),
             'bits': float(m['bits']), 'speed': int(m['speed'].replace(',', ''))} for m in matches]


def write_songs(path: Path, songs: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(songs, ensure_ascii=False), encoding='utf-8')
    return path


@pytest.fixture(scope='session')
def lyrics_dir(tmp_path_factory) -> Path:
    """A data folder with the sample, shared by all tests so that each tokenizer is learned once."""
    folder = tmp_path_factory.mktemp('data') / 'ChineseLyrics'
    folder.mkdir()
    shutil.copy(ROOT / 'ChineseLyrics' / 'sample.json', folder)
    return folder


@pytest.fixture
def rung(tmp_path, lyrics_dir):
    """rung(name, **constants): the path of a tiny copy in this test's folder."""
    def make(name, folder=tmp_path, **constants):
        source = (ROOT / f'{name}.py').read_text(encoding='utf-8')
        data = {'INPUT_FILE': str(ROOT / 'input.txt')} if name == RUNGS[0] else {'LYRICS_DIR': str(lyrics_dir)}
        tiny = {key: value for key, value in TINY.items() if re.search(rf'^{key} = ', source, re.M)}
        return edit(name, folder, **(data | tiny | constants))
    return make


def train_here(module, name: str, monkeypatch, saved: dict | None = None) -> torch.nn.Module:
    """main() of a loaded rung in this process, writing nothing but its log: no wandb; checkpoints into `saved`. Its model."""
    saved = {} if saved is None else saved
    kept, make = [], module.GPT
    monkeypatch.setattr(module, 'GPT', lambda vocab_size: kept.append(make(vocab_size)) or kept[0])
    if level(name) >= 5:
        monkeypatch.setattr(module, 'save_checkpoint', saved.__setitem__)
    if level(name) >= 6:
        monkeypatch.setattr(module, 'start_wandb', lambda run_id: type('Run', (), {'id': 'x', 'finish': print}))
        monkeypatch.setattr(module, 'log_metrics', lambda *arguments: None)
        monkeypatch.setattr(module, 'TENSORBOARD', False, raising=False)
    module.main()
    return kept[0]


@pytest.fixture
def load(rung):
    """load(name, **constants): a tiny copy, imported as a module."""
    def make(name, **constants):
        path = rung(name, **constants)
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    return make
