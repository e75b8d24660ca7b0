"""Shared helpers: the tests do what a user does: copy a rung, edit the constants at its top, run it."""
import gc
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
RUNGS = [name for name in ('v0_char_english', 'v0_char_chinese', 'v0_char_rope', 'v1_bpe_rope', 'v2_cosine_lr', 'v3_gpt2_amp',
                           'v4_flash_optim', 'v5_checkpoint', 'v6_wandb', 'v7_grad_accum', 'v8_mfu', 'v9_llama', 'v10_muon',
                           'v11_memmap', 'v12_ddp') if (ROOT / f'{name}.py').exists()]
CHINESE, ROPE, BPE, CHECKPOINT = RUNGS[1:], RUNGS[2:], RUNGS[3:], RUNGS[7:]
SONGWRITER = {'s1_control': 'v10_muon', 's2_rhyme_rl': 's1_control', 's3_finetune': 's1_control'}      # and what they follow
SAMPLE = json.loads((ROOT / 'ChineseLyrics' / 'sample.json').read_text(encoding='utf-8'))
SONGS = ['\n'.join(song['lyric']) for song in SAMPLE]
torch.set_num_threads(1)                                            # the models are tiny, and the tests run in parallel

# A model that a test trains in a second; a rung takes those of these constants that it has.
TINY = {'DEVICE': 'cpu', 'BATCH_SIZE': 4, 'MICRO_BATCH_SIZE': 4, 'BLOCK_SIZE': 32, 'N_EMBED': 32, 'N_HEADS': 2, 'N_LAYERS': 2,
        'DROP_OUT': 0.1, 'TRAIN_ITERS': 20, 'EVAL_INTERVAL': 10, 'EVAL_ITERS': 2, 'WARMUP_ITERS': 3, 'MAX_NEW_TOKENS': 20,
        'BPE_VOCAB_SIZE': 3000, 'MAX_SONGS': 600, 'USE_AMP': False}  # 16 bits would hide what must be equal
SIZE = ('N_EMBED', 'N_HEADS', 'N_LAYERS')                           # from v8 on they stand on one line: a row of MODEL_SIZES
SIZE_LINE = re.compile(r'^N_EMBED, N_HEADS, N_LAYERS = (.*)$', re.M)

LOG_LINE = re.compile(r'step +(?P<step>\d+)/(?P<iters>\d+) \| train (?P<train>\d+\.\d{4}) \| test (?P<test>\d+\.\d{4})'
                      r' \| (?P<bits>\d+\.\d{3}) bits/char \| (?:-|(?P<speed>[\d,]+)) tok/s \| 剩余 (?:--:--|(?P<left>\d\d+:[0-5]\d))'
                      r'(?: \| MFU (?:-|(?P<mfu>[\d.]+)%))?')


def level(name: str) -> int:
    """7 for 'v7_grad_accum'; the songwriter's scripts are built on v10."""
    return 10 if name in SONGWRITER else int(re.match(r'v(\d+)_', name)[1])


def has(name: str, constant: str) -> bool:
    source = (ROOT / f'{name}.py').read_text(encoding='utf-8')
    return bool(re.search(rf'^{constant} = ', source, re.M) or constant in SIZE and SIZE_LINE.search(source))


def change(path: Path, **constants) -> Path:
    """Edit the constants at the top of a script; asserts that each stands there exactly once."""
    source = path.read_text(encoding='utf-8')
    row = {key: constants.pop(key) for key in SIZE if key in constants} if SIZE_LINE.search(source) else {}
    if row:
        now = SIZE_LINE.search(source)[1].split('#')[0].strip()
        values = [repr(row[key]) if key in row else f'({now})[{i}]' for i, key in enumerate(SIZE)]
        source = SIZE_LINE.sub(f'N_EMBED, N_HEADS, N_LAYERS = {", ".join(values)}', source)
    for key, value in constants.items():
        source, found = re.subn(rf'^{key} = .*$', lambda _, k=key, v=value: f'{k} = {v!r}', source, flags=re.M)
        assert found == 1, f'{path.name} has {found} lines "{key} = ..."'
    path.write_text(source, encoding='utf-8')
    return path


def inject(path: Path, before: str, code: str) -> Path:
    """Put a line of code before the one line of a script that starts with `before`, at its indentation."""
    source = path.read_text(encoding='utf-8')
    source, found = re.subn(rf'^( *)(?={re.escape(before)})', lambda m: f'{m[1]}{code}\n{m[1]}', source, flags=re.M)
    assert found == 1, f'{path.name} has {found} lines that start with {before}'
    path.write_text(source, encoding='utf-8')
    return path


def edit(name: str, folder: Path, **constants) -> Path:
    """A copy of rung `name` in `folder` with `constants` edited."""
    path = folder / f'{name}.py'
    source = (ROOT / f'{name}.py').read_text(encoding='utf-8')
    small = source.replace('    n, best = 8192 if GPU else 2048, 0.0\n', '    n, best = 64, 0.0\n')     # takes a second otherwise
    assert level(name) < 8 or small != source
    path.write_text(small, encoding='utf-8')
    return change(path, **constants)


WANDB = {'WANDB_MODE': 'disabled'}                                  # sooner; a test that is about wandb takes the fixture `records`
os.environ |= WANDB                                                 # and for runs in this process


@pytest.fixture
def records(monkeypatch):
    """Scripts record with wandb as they do for a newcomer: without an account, offline."""
    monkeypatch.delitem(WANDB, 'WANDB_MODE')


def environment(folder: Path, extra: dict | None = None) -> dict:
    """The environment without any other wandb setting and with an empty home folder."""
    env = {key: value for key, value in os.environ.items() if not key.startswith('WANDB')}
    one_thread = {'OMP_NUM_THREADS': '1'}
    return env | WANDB | {'HOME': str(folder), 'USERPROFILE': str(folder), 'PYTHONUTF8': '1'} | one_thread | (extra or {})


def run_script(path: Path, env: dict | None = None, **options) -> subprocess.CompletedProcess:
    """Run a script in its own folder as a newcomer would: no wandb account, output captured."""
    return subprocess.run([sys.executable, path.name], cwd=path.parent, env=environment(path.parent, env), text=True,
                          encoding='utf-8', capture_output=True, stdin=subprocess.DEVNULL, timeout=300, **options)


def start_script(path: Path, env: dict | None = None, **options) -> subprocess.Popen:
    """Start a script; what it writes comes through one pipe."""
    return subprocess.Popen([sys.executable, path.name], cwd=path.parent, env=environment(path.parent, env), stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, encoding='utf-8', **options)


def wait_for(process: subprocess.Popen, pattern: str) -> str:
    """Read what a process writes up to a line that matches; all that it wrote."""
    seen = ''
    for line in process.stdout:
        seen += line
        if re.search(pattern, line):
            return seen
    raise AssertionError(f'ended without {pattern}:\n{seen}')


def log_lines(output: str) -> list[dict]:
    """The log lines of a run, as dicts; a line that starts like one and does not parse is an error."""
    matches = [LOG_LINE.fullmatch(line) for line in output.splitlines() if line.startswith('step ')]
    assert all(matches), output
    return [{'step': int(m['step']), 'iters': int(m['iters']), 'train': float(m['train']), 'test': float(m['test']),
             'bits': float(m['bits']), 'speed': m['speed'] and int(m['speed'].replace(',', '')), 'mfu': m['mfu'] and float(m['mfu'])}
            for m in matches]


def losses(output: str) -> list[tuple]:
    return [(line['step'], line['train'], line['test']) for line in log_lines(output)]


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


def tiny(name: str, folder: Path, lyrics_dir: Path, **constants) -> Path:
    """A copy of rung `name` in `folder` that trains a tiny model on the sample."""
    data = {'INPUT_FILE': str(ROOT / 'input.txt')} if name == RUNGS[0] else {'LYRICS_DIR': str(lyrics_dir)}
    return edit(name, folder, **(data | {key: value for key, value in TINY.items() if has(name, key)} | constants))


@pytest.fixture
def rung(tmp_path, lyrics_dir):
    """rung(name, **constants): the path of a tiny copy in this test's folder."""
    def make(name, folder=tmp_path, **constants):
        folder.mkdir(exist_ok=True)
        return tiny(name, folder, lyrics_dir, **constants)
    return make


@pytest.fixture
def load(rung, tmp_path):
    """load(name, **constants): a tiny copy, imported as a module. What it writes stays in this test's folder."""
    def make(name, **constants):
        folders = {'CHECKPOINT_DIR': str(tmp_path / 'checkpoints'), 'TOKEN_DIR': str(tmp_path / 'tokens')}
        constants = {key: value for key, value in folders.items() if has(name, key)} | constants
        path = rung(name, **constants)
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    return make


@pytest.fixture
def train(monkeypatch, capsys):
    """train(module): its main() in this process, without a process's start-up time. Returns (model, what it printed)."""
    def run(module):
        models, make = [], module.GPT
        monkeypatch.setattr(module, 'GPT', lambda vocab_size: models.append(make(vocab_size)) or models[-1])
        stops = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP] if hasattr(signal, 'SIGHUP') else [signal.SIGINT, signal.SIGTERM]
        handlers, precision = [signal.getsignal(number) for number in stops], torch.get_float32_matmul_precision()
        capsys.readouterr()
        failed = None
        try:
            module.main()
        except SystemExit as stop:                                  # without its traceback, which would keep main's lock
            failed = SystemExit(stop.code)
        finally:
            for number, handler in zip(stops, handlers):
                signal.signal(number, handler)
            torch.set_float32_matmul_precision(precision)
            monkeypatch.setattr(module, 'GPT', make)
            gc.collect()                                            # what a process would let go of
        if failed:
            raise failed
        return models[-1], capsys.readouterr().out
    return run


def imported(name):
    """A script of the project as a module: 'generate', 'bench/novelty'."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_checkpoint(script, path):
    """A checkpoint of random weights, norms included, far from the first ones; returns (model, tokenizer)."""
    mark = '<歌词>' if hasattr(script, 'CODES') else ''
    tokenizer = script.train_tokenizer([mark + song for song in SONGS[:500]])
    torch.manual_seed(1)
    model = script.GPT(len(tokenizer))
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.2
    torch.save({'model': model.state_dict(), 'config': script.config('0' * 12), 'step': 1, 'best_test_loss': 1.0,
                'tokenizer': tokenizer.serialized_model_proto()}, path)
    return model.eval(), tokenizer


@pytest.fixture
def run_main(monkeypatch, capsys, tmp_path):
    """run_main(script)(*arguments): main() of a program in this process, in this test's folder: (status, stdout)."""
    def of(name):
        module = imported(name)

        def run(*arguments):
            monkeypatch.chdir(tmp_path)
            monkeypatch.setattr(sys, 'argv', [f'{name}.py', *map(str, arguments)])
            capsys.readouterr()
            try:
                module.main()
                status = 0
            except SystemExit as stop:
                status = stop.code
            return status, capsys.readouterr().out
        return run
    return of


def songs_of(module) -> list[str]:
    """The cleaned songs that a rung reads."""
    return module.load_songs() if hasattr(module, 'load_songs') else [
        text for text, _ in module.documents(module.data_files, Counter())]
