"""Runs that survive: exact resume after any kill, signals, one run a folder, and which checkpoint fits which run."""
import itertools
import os
import random
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from conftest import inject, log_lines, losses, run_script, start_script, wait_for

OFTEN = {'TRAIN_ITERS': 40, 'EVAL_INTERVAL': 10, 'SAVE_INTERVAL': 7, 'PREVIEW_INTERVAL': 20, 'DROP_OUT': 0.1}
LOOPS = ['v5_checkpoint', 'v10_muon']                               # between them the loop changes only in what is in an update
NEVER = 10**6


def read(path) -> dict:
    return torch.load(path, map_location='cpu', weights_only=True)


def assert_same(a, b, where='checkpoint'):
    """Equal to the bit, all the way down; only runs of wandb have names of their own."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - {'wandb_id'}:
            assert_same(a[key], b[key], f'{where}[{key!r}]')
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f'{where}[{i}]')
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, where


def contents(folder: Path) -> dict:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.suffix == '.pt'}


# ---------- kill -9 ----------
LINES = ['x, y = next(batches)', 'scaler.step(optimizer)',              # in every step
         'train_loss = estimate_loss(', "checkpoint |= {'optimizer'", "save_checkpoint('latest.pt', checkpoint)",
         'torch.save(checkpoint, file)', 'file.flush()', 'os.fsync(file.fileno())']     # in those that save


@pytest.mark.parametrize(('name', 'kills'), [('v5_checkpoint', 4), ('v10_muon', 2)])
def test_a_run_killed_at_random_moments_ends_as_one_that_was_not(name, kills, rung, load, train, tmp_path):
    """kill -9 in all places of the loop, in the middle of saving too: the same weights to the bit, the same best.pt."""
    constants = OFTEN | {'NUM_WORKERS': 2 if name == 'v5_checkpoint' else 0, 'USE_AMP': name == 'v10_muon'}
    _, whole = train(load(name, **constants, CHECKPOINT_DIR=str(tmp_path / 'whole')))
    path = rung(name, **constants, CHECKPOINT_DIR=str(tmp_path / 'killed'))
    for line in LINES:
        step = "checkpoint['step']" if 'file' in line else 'step'
        inject(path, line, f'if os.environ.get("KILL") == f"{LINES.index(line)} {{{step}}}": os.kill(os.getpid(), signal.SIGKILL)')
    rng, at, saved = random.Random(name), 0, []
    for _ in range(kills):
        place, at = rng.randrange(len(LINES)), rng.randint(at + 1, at + 8)
        if place >= 2:                                              # the next step that the line is reached in
            at = next(step for step in range(at, 41) if step % 10 == 0 or place > 2 and step % 7 == 0)
        process = start_script(path, env={'KILL': f'{place} {at}'})
        assert process.wait(timeout=120) == -signal.SIGKILL, (place, at)
        process.stdout.close()                                      # its workers may still hold the other end
        for file in (tmp_path / 'killed').glob('*.pt'):
            saved += [read(file)['step']] if file.name == 'latest.pt' else []       # all of them are whole
    assert saved == sorted(saved) and len(saved) > 0
    _, last = train(load(name, **constants, CHECKPOINT_DIR=str(tmp_path / 'killed')))
    assert '步继续' in last and losses(last)[-1] == losses(whole)[-1]
    for file in ('latest.pt', 'best.pt', 'ckpt_35.pt'):
        a, b = read(tmp_path / 'killed' / file), read(tmp_path / 'whole' / file)
        a['config']['CHECKPOINT_DIR'] = b['config']['CHECKPOINT_DIR']
        assert_same(a, b, file)
    assert not list((tmp_path / 'killed').glob('*.tmp'))


# ---------- signals ----------
def everyone(process, number):
    """To all processes of a run, as a terminal sends Ctrl-C and SLURM a SIGTERM."""
    os.killpg(process.pid, number)


@pytest.mark.parametrize(('name', 'number'), [('v5_checkpoint', signal.SIGHUP), ('v6_wandb', signal.SIGTERM), ('v6_wandb', signal.SIGINT)])
def test_a_stopped_run_saves_first_and_ends_by_the_signal(name, number, rung, tmp_path, records):
    """The loader's workers and wandb's process get the signal too: not a word of theirs."""
    path = inject(rung(name, **OFTEN, NUM_WORKERS=2), 'x, y = next(batches)', 'while step == 11 and not received: pass')
    heard = {'preexec_fn': lambda: signal.signal(number, signal.SIG_DFL)}     # also where the tests run under nohup
    with start_script(path, start_new_session=True, **heard) as process:
        seen = wait_for(process, r'^step +10/')
        everyone(process, number)
        seen += process.stdout.read()
    assert process.returncode == -number and 'Traceback' not in seen, seen
    step = read(tmp_path / 'checkpoints/latest.pt')['step']
    assert 10 < step <= 12 and seen.splitlines()[-1].startswith(f'收到停止信号，停在第 {step} 步')


def test_the_same_signal_again_stops_at_once(rung, tmp_path):
    path = inject(rung('v5_checkpoint', **OFTEN), 'x, y = next(batches)', 'if step == 11: [signal.raise_signal(2) for _ in range(2)]')
    assert run_script(path).returncode == -signal.SIGINT and read(tmp_path / 'checkpoints/latest.pt')['step'] == 10


@pytest.fixture
def raised(monkeypatch):
    """The signals that a run in this process would end by."""
    numbers = []
    monkeypatch.setattr(signal, 'raise_signal', numbers.append)
    return numbers


@pytest.fixture
def stop(monkeypatch, train, raised):
    """stop(module, step): a run that a signal stops while it makes the windows of `step`: its model and output. Unfinished, saved."""
    def run(module, step, number=signal.SIGTERM):
        get_batch = module.get_batch

        def stopping(data, i):
            if i == step:
                os.kill(os.getpid(), number)
            return get_batch(data, i)
        with monkeypatch.context() as patch:
            patch.setattr(module, 'get_batch', stopping)
            result = train(module)
        assert raised.pop() == number and f'停在第 {step + 1} 步' in result[1]
        return result
    return run


@pytest.mark.parametrize('name', LOOPS)
@pytest.mark.parametrize('place', ['estimate_loss', 'write', 'save_checkpoint', 'get_batch', 'get_lr', 'forward', 'catch_signals'])
def test_a_signal_is_not_lost_wherever_it_comes(name, place, load, train, raised, tmp_path, monkeypatch):
    """It stops at the end of the step, saved; and the run, continued, ends as if nothing had been."""
    constants = OFTEN | {'TRAIN_ITERS': 20, 'EVAL_INTERVAL': 5}
    if not (tmp_path.parent / name).exists():                       # the run that is not stopped, once
        train(load(name, **constants, CHECKPOINT_DIR=str(tmp_path.parent / name)))
    module = load(name, **constants)
    owner, attribute = (module.GPT, 'forward') if place == 'forward' else (module, place)
    counter, original = itertools.count(1), getattr(owner, attribute)
    moment = {'estimate_loss': 3, 'write': 1, 'save_checkpoint': 2, 'catch_signals': 1}.get(place, 9)

    def stopping(*arguments):
        result = original(*arguments)
        if next(counter) == moment:
            os.kill(os.getpid(), signal.SIGINT)
        return result
    monkeypatch.setattr(owner, attribute, stopping)
    _, output = train(module)
    step = read(tmp_path / 'checkpoints/latest.pt')['step']
    assert raised == [signal.SIGINT] and f'停在第 {step} 步' in output and 0 < step < 20
    train(load(name, **constants))
    for file in ('latest.pt', 'best.pt'):
        a, b = read(tmp_path / 'checkpoints' / file), read(tmp_path.parent / name / file)
        a['config']['CHECKPOINT_DIR'] = b['config']['CHECKPOINT_DIR']
        assert_same(a, b, file)


def test_nohup(load, train, raised, monkeypatch):
    """Where SIGHUP is ignored already, it stays ignored, and the run goes on."""
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        module = load('v5_checkpoint')
        monkeypatch.setattr(module, 'get_lr', lambda step: os.kill(os.getpid(), signal.SIGHUP) or 1.0)
        _, output = train(module)
    finally:
        signal.signal(signal.SIGHUP, handler)
    assert not raised and log_lines(output)[-1]['step'] == 20


# ---------- one run a folder ----------
def test_one_run_holds_the_folder_and_kill_9_frees_it(rung, load):
    path, lock_folder = rung('v5_checkpoint', TRAIN_ITERS=NEVER), load('v5_checkpoint').lock_folder
    with start_script(path) as process:
        wait_for(process, r'^step +0/')
        with pytest.raises(SystemExit, match=f'正由进程 {process.pid} 使用'):
            lock_folder()                                           # as a second run in the same folder would
        process.kill()
    assert lock_folder() is not None


def test_a_folder_that_cannot_be_locked(load, train, tmp_path):
    """As on some network drives: the run goes on, with a line."""
    (tmp_path / 'checkpoints' / 'lock').mkdir(parents=True)
    _, output = train(load('v5_checkpoint'))
    assert re.search(r'checkpoints/ .*锁', output) and log_lines(output)[-1]['step'] == 20


# ---------- what is saved ----------
def test_files_and_their_contents(load, train, tmp_path):
    """Nothing at step 0; LYRICS_DIR as a Path; all of it readable with weights_only."""
    module = load('v5_checkpoint', **OFTEN)
    module.LYRICS_DIR = Path(module.LYRICS_DIR)
    model, _ = train(module)
    folder = tmp_path / 'checkpoints'
    assert set(contents(folder)) == {'best.pt', 'latest.pt', 'ckpt_7.pt', 'ckpt_14.pt', 'ckpt_21.pt', 'ckpt_28.pt', 'ckpt_35.pt'}
    latest, best = read(folder / 'latest.pt'), read(folder / 'best.pt')
    assert set(latest) == {'model', 'optimizer', 'scaler', 'step', 'best_test_loss', 'config', 'tokenizer'}
    assert set(best) == set(latest) - {'optimizer', 'scaler'}
    assert latest['step'] == 40 and latest['tokenizer'] == module.load_data()[0].serialized_model_proto()
    assert latest['model'].keys() == model.state_dict().keys() and not any('rope' in key for key in latest['model'])
    constants = re.findall(r'^([A-Z_]+) = ', Path(module.__file__).read_text(encoding='utf-8'), re.M)
    assert set(latest['config']) == {*constants, 'SCRIPT', 'SONGS'} and latest['config']['SCRIPT'] == 'v5_checkpoint.py'
    assert latest['config']['N_EMBED'] == 32 and latest['config']['LYRICS_DIR'] == str(module.LYRICS_DIR)
    assert len(latest['config']['SONGS']) >= 8                      # a fingerprint of the training songs


@pytest.mark.parametrize('name', LOOPS)
def test_best_is_judged_by_the_sample(name, load, train, monkeypatch):
    """Train and test, at steps 0 to 3; then the whole test split, which is printed, and lower. What is untrained does not count."""
    module, saves = load(name, TRAIN_ITERS=3, EVAL_INTERVAL=1), []
    figures = iter([9.0, 2.0, 1.0, 5.0, 1.0, 4.0, 1.0, 4.5, 3.0])
    monkeypatch.setattr(module, 'estimate_loss', lambda *arguments: next(figures))
    monkeypatch.setattr(module, 'save_checkpoint', lambda name, c: saves.append((name, c['step'], c['best_test_loss'])))
    _, output = train(module)
    assert saves == [('best.pt', 1, 5.0), ('latest.pt', 1, 5.0), ('best.pt', 2, 4.0), ('latest.pt', 2, 4.0), ('latest.pt', 3, 4.0)]
    assert log_lines(output)[-1]['test'] == 3.0


@pytest.mark.parametrize('occasion', ['evaluation', 'save', 'stop'])
def test_weights_that_are_not_finite_are_never_saved(occasion, load, train, tmp_path, monkeypatch):
    """The weights of a token that does not occur: no loss shows it."""
    module = load('v5_checkpoint', EVAL_INTERVAL=5 if occasion == 'evaluation' else NEVER, SAVE_INTERVAL=5 if occasion == 'save' else NEVER)
    get_lr = module.get_lr

    def spoiling(step):
        if step == 7:
            next(models[-1].parameters()).data[0, 0] = float('nan')
            if occasion == 'stop' and not module.received:
                os.kill(os.getpid(), signal.SIGTERM)
        return get_lr(step)
    models, make = [], module.GPT
    monkeypatch.setattr(module, 'GPT', lambda n: models.append(make(n)) or models[-1])
    monkeypatch.setattr(module, 'get_lr', spoiling)
    with pytest.raises(SystemExit, match='不是有限的数'):
        train(module)
    saved = list((tmp_path / 'checkpoints').glob('*.pt'))
    assert (occasion == 'stop') == (not saved) and all(p.isfinite().all() for file in saved for p in read(file)['model'].values())


def test_the_scaler_of_float16_goes_on(load, stop, train, tmp_path):
    constants = {'USE_AMP': True, 'AMP_DTYPE': 'float16', 'TRAIN_ITERS': 6, 'EVAL_INTERVAL': NEVER, 'EVAL_ITERS': 1, 'MAX_NEW_TOKENS': 2,
                 'MAX_SONGS': 60, 'BPE_VOCAB_SIZE': 900}
    stop(load('v5_checkpoint', **constants), 2)
    assert read(tmp_path / 'checkpoints/latest.pt')['scaler']['_growth_tracker'] == 3
    train(load('v5_checkpoint', **constants))
    assert read(tmp_path / 'checkpoints/latest.pt')['scaler']['_growth_tracker'] == 6


# ---------- which checkpoint fits which run ----------
@pytest.mark.parametrize('name', LOOPS)
def test_a_finished_run_says_so(name, load, train, tmp_path):
    train(load(name))
    before = contents(tmp_path / 'checkpoints')
    _, output = train(load(name))
    assert '训练已经完成（20 步）' in output and 'TRAIN_ITERS' in output and 'RESUME = False' in output and not log_lines(output)
    assert contents(tmp_path / 'checkpoints') == before


@pytest.mark.parametrize('constants', [{'LEARNING_RATE': 1e-3}, {'N_LAYERS': 1}, {'SEED': 2}, {'RESUME': False}])
def test_a_finished_run_makes_way_for_another(constants, load, train, tmp_path):
    train(load('v5_checkpoint'))
    before = contents(tmp_path / 'checkpoints')
    _, output = train(load('v5_checkpoint', **constants))
    [old] = (tmp_path / 'checkpoints').glob('old-*')
    assert contents(old) == before and [line['step'] for line in log_lines(output)] == [0, 10, 20]
    assert (f'{next(iter(constants))} ' in output) == ('RESUME' not in constants)      # what differs is said
    assert read(tmp_path / 'checkpoints/latest.pt')['step'] == 20


def test_a_finished_run_is_continued_by_more_steps(load, train, tmp_path):
    train(load('v5_checkpoint'))
    _, output = train(load('v5_checkpoint', TRAIN_ITERS=30))
    assert '第 20 步继续' in output and 'TRAIN_ITERS 20 → 30' in output and [line['step'] for line in log_lines(output)] == [30]
    assert not list((tmp_path / 'checkpoints').glob('old-*')) and read(tmp_path / 'checkpoints/latest.pt')['step'] == 30


def test_v6_after_v5(load, stop, train, tmp_path):
    """A finished run of v5's makes way; an unfinished one is continued. And the other way round."""
    train(load('v5_checkpoint'))
    assert '已经完成' in stop(load('v6_wandb'), 11)[1]
    _, output = train(load('v5_checkpoint'))
    assert '第 12 步继续' in output and 'SCRIPT v6_wandb.py → v5_checkpoint.py' in output and log_lines(output)[-1]['step'] == 20
    stop(load('v5_checkpoint', RESUME=False), 11)
    _, output = train(load('v6_wandb'))
    assert '第 12 步继续' in output and log_lines(output)[-1]['step'] == 20


@pytest.mark.parametrize(('name', 'constants', 'words'), [
    ('v5_checkpoint', {'N_EMBED': 64}, 'N_EMBED 32 → 64'), ('v5_checkpoint', {'N_LAYERS': 1}, 'N_LAYERS'),
    ('v5_checkpoint', {'N_HEADS': 4}, 'N_HEADS'), ('v5_checkpoint', {'BPE_VOCAB_SIZE': 2900}, 'BPE_VOCAB_SIZE'),
    ('v5_checkpoint', {'MAX_SONGS': 500}, 'SONGS'), ('v5_checkpoint', {'SEED': 2}, 'SEED'),
    ('v10_muon', {'N_KV_HEADS': 2}, 'N_KV_HEADS'), ('v10_muon', {'N_EMBED': 64}, 'N_EMBED')])
def test_an_unfinished_run_of_another_model_or_other_songs_is_refused(name, constants, words, load, stop, train, tmp_path):
    stop(load(name), 3)
    before = contents(tmp_path / 'checkpoints')
    with pytest.raises(SystemExit) as error:
        train(load(name, **constants))
    assert error.value.code.startswith('错误：') and words in error.value.code and 'RESUME = False' in error.value.code
    assert contents(tmp_path / 'checkpoints') == before


def test_other_constants_are_named_and_used(load, stop, train, tmp_path):
    stop(load('v5_checkpoint'), 11)
    changed = {'WEIGHT_DECAY': 0.3, 'BETAS': (0.8, 0.9), 'LEARNING_RATE': 1e-5, 'MIN_LR': 1e-6}
    _, output = train(load('v5_checkpoint', **changed))
    assert '第 12 步继续' in output and all(f'{name} ' in output for name in changed) and 'WEIGHT_DECAY 0.1 → 0.3' in output
    groups = read(tmp_path / 'checkpoints/latest.pt')['optimizer']['param_groups']     # not the saved values
    assert [group['weight_decay'] for group in groups] == [0.3, 0.0] and groups[0]['betas'] == (0.8, 0.9) and groups[0]['lr'] < 1e-5


@pytest.mark.parametrize('constants', [{'BLOCK_SIZE': 16}, {'BATCH_SIZE': 2}, {'EVAL_ITERS': 1}, {}])
def test_other_windows_begin_a_new_best(constants, load, stop, train, tmp_path):
    """The old best was of other windows. A very low one shows whether it counts."""
    stop(load('v5_checkpoint'), 11)
    latest = read(tmp_path / 'checkpoints/latest.pt')
    torch.save(latest | {'best_test_loss': 0.5}, tmp_path / 'checkpoints/latest.pt')
    _, output = train(load('v5_checkpoint', **constants))
    assert bool(re.search(r'第 12 步继续.*best\.pt', output)) == bool(constants)
    assert (read(tmp_path / 'checkpoints/best.pt')['step'] == 20) == bool(constants)


@pytest.mark.parametrize('name', LOOPS)
@pytest.mark.parametrize('at', [9, 13])
def test_a_resumed_run_does_nothing_twice(name, at, load, stop, train, monkeypatch):
    """No evaluation, no song, no save at the step that it starts from: neither at 10, an evaluation's, nor at 14, a save's."""
    _, first = stop(load(name, **OFTEN), at)
    module, saves = load(name, **OFTEN), []
    save = module.save_checkpoint
    monkeypatch.setattr(module, 'save_checkpoint', lambda name, c: saves.append(c['step']) or save(name, c))
    _, second = train(module)
    assert [line['step'] for line in log_lines(first) + log_lines(second)] == [0, 10, 20, 30, 40]
    assert re.findall(r'第 (\d+) 步写的', first + second) == ['0', '20', '40'] and min(saves) > at + 1


DAMAGE = {'truncated': lambda path: path.write_bytes(path.read_bytes()[:9999]), 'empty': lambda path: path.write_bytes(b''),
          'text': lambda path: path.write_text('not a checkpoint'), 'weights alone': lambda path: torch.save(read(path)['model'], path),
          'best.pt': lambda path: shutil.copy(path.with_name('best.pt'), path),
          'code': lambda path: torch.save({'model': re.compile('x')}, path)}


@pytest.mark.parametrize('damage', DAMAGE)
def test_a_damaged_checkpoint_is_refused_and_the_remedy_works(damage, load, stop, train, tmp_path):
    folder = tmp_path / 'checkpoints'
    stop(load('v5_checkpoint', **OFTEN), 15)
    DAMAGE[damage](folder / 'latest.pt')
    before = contents(folder)
    with pytest.raises(SystemExit) as error:
        train(load('v5_checkpoint', **OFTEN))
    assert error.value.code.startswith('错误：') and 'latest.pt' in error.value.code and 'ckpt_' in error.value.code
    assert contents(folder) == before
    if damage == 'truncated':
        shutil.copy(folder / 'ckpt_14.pt', folder / 'latest.pt')    # as the message says
        assert '第 14 步继续' in train(load('v5_checkpoint', **OFTEN))[1]
