"""Runs that survive: exact resume, kill -9 at any moment, full disks, and checkpoints that do not fit."""
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import CHECKPOINT, environment, level, log_lines, run_script, train_here

ITERS = 40
OFTEN = {'TRAIN_ITERS': ITERS, 'EVAL_INTERVAL': 10, 'SAVE_INTERVAL': 7, 'PREVIEW_INTERVAL': 20, 'DROP_OUT': 0.2}


def read(path: Path) -> dict:
    return torch.load(path, map_location='cpu', weights_only=True)


def assert_same(a, b, where='checkpoint'):
    """Equal to the bit, all the way down."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f'{where}[{key!r}]')
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f'{where}[{i}]')
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def assert_same_end(folder: Path, reference: Path):
    for name in ('latest.pt', 'best.pt', 'ckpt_35.pt'):
        a, b = read(folder / 'checkpoints' / name), read(reference / 'checkpoints' / name)
        a.pop('wandb_id', None)
        b.pop('wandb_id', None)
        assert_same(a, b, name)
    assert not list((folder / 'checkpoints').glob('*.tmp'))


def start(path: Path, **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, '-u', path.name], cwd=path.parent, env=environment(path.parent), stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, encoding='utf-8', **options)


def wait_for(process, pattern):
    """Read the process's output up to a line that matches."""
    for line in process.stdout:
        if re.search(pattern, line):
            return line
    raise AssertionError(f'ended without {pattern}')


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory, lyrics_dir):
    """The folder of a v5 run that was never stopped."""
    from conftest import TINY, edit
    folder = tmp_path_factory.mktemp('uninterrupted')
    path = edit('v5_checkpoint', folder, **(TINY | OFTEN | {'LYRICS_DIR': str(lyrics_dir)}))
    done = run_script(path)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def edit_again(path: Path, **constants):
    source = path.read_text(encoding='utf-8')
    for key, value in constants.items():
        source, found = re.subn(rf'^{key} = .*$', f'{key} = {value!r}', source, flags=re.M)
        assert found == 1
    path.write_text(source, encoding='utf-8')
    return path


def test_files_and_their_contents(uninterrupted):
    folder, output = uninterrupted
    files = {path.name for path in (folder / 'checkpoints').iterdir()}
    assert files == {'best.pt', 'latest.pt', 'ckpt_7.pt', 'ckpt_14.pt', 'ckpt_21.pt', 'ckpt_28.pt', 'ckpt_35.pt'}
    latest, best = read(folder / 'checkpoints/latest.pt'), read(folder / 'checkpoints/best.pt')
    assert set(latest) == {'model', 'optimizer', 'scaler', 'step', 'best_test_loss', 'rng', 'config', 'tokenizer'}
    assert set(best) == set(latest) - {'optimizer', 'scaler', 'rng'}
    assert latest['step'] == ITERS and isinstance(latest['tokenizer'], bytes)
    assert latest['config']['N_EMBED'] == 32 and latest['config']['BETAS'] == (0.9, 0.95)
    constants = re.findall(r'^([A-Z][A-Z_]+) = ', (folder / 'v5_checkpoint.py').read_text(encoding='utf-8'), re.M)
    assert set(latest['config']) == set(constants)
    assert not any('_orig_mod' in key or 'rope' in key for key in latest['model'])
    # the loss that chose best.pt is one of the evaluations' (the last line is over the whole split, so it may differ)
    assert best['best_test_loss'] == latest['best_test_loss'] <= min(line['test'] for line in log_lines(output)[:-1]) + 1e-4
    assert [int(n) for n in re.findall(r'第 (\d+) 步写的', output)] == [20, 40]


@pytest.mark.parametrize(('name', 'stop'), [(name, stop) for name in CHECKPOINT for stop in (1, 10, 23) if level(name) == 5 or stop == 23])
def test_resume_is_bit_for_bit(name, stop, rung, uninterrupted, tmp_path):
    """A run stopped after `stop` steps, which had `stop` as its TRAIN_ITERS' place in the same schedule."""
    reference = uninterrupted[0]
    if level(name) >= 8:                                            # other models: each has its own
        reference = tmp_path / 'reference'
        reference.mkdir()
        assert run_script(rung(name, reference, **OFTEN, CHECKPOINT_DIR='checkpoints')).returncode == 0
    path = rung(name, **OFTEN, CHECKPOINT_DIR='checkpoints')
    source = path.read_text(encoding='utf-8')
    where = r'^        step, \w+ = it \+ 1, ' if level(name) < 10 else r'^        sum_gradients\(model\)'     # v10: before they agree
    [line] = re.findall(where, source, re.M)
    path.write_text(source.replace(line, f'        if it + 1 == {stop}: signal.raise_signal(signal.SIGTERM)\n' + line), encoding='utf-8')
    done = run_script(path)
    assert done.returncode == 128 + signal.SIGTERM and f'第 {stop} 步已存入' in done.stdout and done.stderr == ''
    assert read(tmp_path / 'checkpoints/latest.pt')['step'] == stop
    path.write_text(source, encoding='utf-8')
    done = run_script(path)
    assert done.returncode == 0, done.stderr
    assert f'从 checkpoints/latest.pt 的第 {stop} 步继续' in done.stdout and '常量变了' not in done.stdout
    assert_same_checkpoints_but_config(tmp_path, reference, name)


def assert_same_checkpoints_but_config(folder, reference, name):
    if name == 'v5_checkpoint':
        assert_same_end(folder, reference)
    for file in ('latest.pt', 'best.pt'):
        a, b = read(folder / 'checkpoints' / file), read(reference / 'checkpoints' / file)
        for key in ('model', 'optimizer', 'rng', 'step', 'best_test_loss'):
            if key in b:
                assert_same(a[key], b[key], f'{file}[{key}]')


def test_kill_9_at_random_moments(rung, uninterrupted, tmp_path):
    """A run that saves at every step, killed again and again, most often while it saves."""
    path = rung('v5_checkpoint', **(OFTEN | {'SAVE_INTERVAL': 1}))
    rng, killed, steps = random.Random(), 0, []
    for _ in range(8):
        with start(path) as process:
            wait_for(process, '瞎猜是|训练已经完成')
            try:
                process.wait(timeout=rng.uniform(0.0, 0.4))
            except subprocess.TimeoutExpired:
                process.kill()
                killed += 1
        for file in (tmp_path / 'checkpoints').glob('*.pt'):
            checkpoint = read(file)                                 # whole, whatever the moment
            if file.name == 'latest.pt':
                steps.append(checkpoint['step'])
    assert killed >= 3 and steps == sorted(steps), steps
    done = run_script(path)
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / 'checkpoints').glob('*.tmp'))
    assert_same_checkpoints_but_config(tmp_path, uninterrupted[0], 'v6')


def test_kill_9_in_the_middle_of_a_save(rung, uninterrupted, tmp_path):
    """Half of the file written; all of it, but not yet in its place; best.pt in its place, but not yet latest.pt."""
    path = rung('v5_checkpoint', **OFTEN)
    source = path.read_text(encoding='utf-8')
    kill = 'os.kill(os.getpid(), signal.SIGKILL)'
    for line, step, condition, before in (
            ('            torch.save(checkpoint, file)\n', 10, "name == 'latest.pt'", "file.write(b'half'), file.flush(), "),
            ('        temporary.replace(path)\n', 20, "name == 'latest.pt'", ''),
            ("            checkpoint |= {'optimizer'", 30, 'True', '')):
        assert source.count(line) == 1
        indent = line[:len(line) - len(line.lstrip())]
        edited = source.replace(line, f"{indent}if {condition} and checkpoint['step'] == {step}: {before}{kill}\n{line}")
        path.write_text(edited, encoding='utf-8')
        done = run_script(path)
        assert done.returncode == -signal.SIGKILL, done.stderr
        steps = {file.name: read(file)['step'] for file in (tmp_path / 'checkpoints').glob('*.pt')}
        assert steps['latest.pt'] == {10: 7, 20: 14, 30: 28}[step] and steps['best.pt'] <= step
    path.write_text(source, encoding='utf-8')
    done = run_script(path)
    assert done.returncode == 0 and '的第 28 步继续' in done.stdout, done.stderr
    assert_same_end(tmp_path, uninterrupted[0])


class Saves(list):
    def __setitem__(self, name, checkpoint):
        self.append((name, checkpoint['step'], checkpoint['best_test_loss']))


@pytest.mark.parametrize('name', CHECKPOINT)
def test_best_is_the_lowest_of_the_evaluations(name, load, tmp_path, monkeypatch):
    module = load(name, TRAIN_ITERS=3, EVAL_INTERVAL=1, CHECKPOINT_DIR=str(tmp_path / 'checkpoints'))
    losses = iter([8.0, 1.0, 5.0, 1.0, 4.0, 1.0, 6.0, 3.0])         # before; train and test, three times; the whole test split at the end
    monkeypatch.setattr(module, 'estimate_loss', lambda model, batches: next(losses))
    saves = Saves()
    train_here(module, name, monkeypatch, saves)
    assert saves == [('best.pt', 1, 5.0), ('latest.pt', 1, 5.0), ('best.pt', 2, 4.0), ('latest.pt', 2, 4.0), ('latest.pt', 3, 4.0)]


def test_ctrl_c_saves_first(rung, uninterrupted, tmp_path):
    path = rung('v5_checkpoint', **(OFTEN | {'NUM_WORKERS': 2}))
    source = path.read_text(encoding='utf-8')
    line = '        for group in optimizer.param_groups:'
    assert source.count(line) == 1
    waits = '        while it == 11 and not received: pass\n'         # it cannot end before
    path.write_text(source.replace(line, waits + line), encoding='utf-8')
    with start(path) as process:
        wait_for(process, r'^step +10/')
        process.send_signal(signal.SIGINT)
        output = process.stdout.read()
    assert process.returncode == 128 + signal.SIGINT, output
    assert 'Traceback' not in output and '已存入' in output
    step = read(tmp_path / 'checkpoints/latest.pt')['step']
    assert 10 <= step <= 12 and f'第 {step} 步已存入' in output
    path.write_text(source, encoding='utf-8')
    assert run_script(path).returncode == 0
    assert_same_checkpoints_but_config(tmp_path, uninterrupted[0], 'v6')


@pytest.mark.skipif(sys.platform == 'win32', reason='process groups')
def test_sigterm_to_the_whole_group_saves_first(rung, tmp_path):
    """As systemd and SLURM stop a job: the DataLoader's workers get the signal too."""
    path = rung('v5_checkpoint', TRAIN_ITERS=100000, EVAL_INTERVAL=5, NUM_WORKERS=2)
    process = start(path, start_new_session=True)
    wait_for(process, r'step +5/')
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, output
    step = int(re.search(r'第 (\d+) 步已存入', output).group(1))
    assert 'Traceback' not in output and read(tmp_path / 'checkpoints/latest.pt')['step'] == step


def test_ctrl_c_before_training_is_no_traceback(rung):
    path = rung('v5_checkpoint', TRAIN_ITERS=100000, EVAL_INTERVAL=100000, SAVE_INTERVAL=100000)    # it cannot end by itself
    with start(path) as process:
        wait_for(process, '歌曲')                                    # the model is made next, and writes its first song
        process.send_signal(signal.SIGINT)
        output = process.stdout.read()
    assert process.returncode in (1, 130) and 'Traceback' not in output


def test_a_finished_run_says_so(records, rung, tmp_path):
    path = rung('v6_wandb')
    assert run_script(path).returncode == 0
    before = (tmp_path / 'checkpoints/latest.pt').read_bytes()
    done = run_script(path)
    assert done.returncode == 0 and '训练已经完成（20 步）' in done.stdout
    assert 'TRAIN_ITERS' in done.stdout and 'RESUME = False' in done.stdout and not log_lines(done.stdout)
    assert (tmp_path / 'checkpoints/latest.pt').read_bytes() == before and len(list(tmp_path.glob('wandb/offline-run-*'))) == 1


def test_v6_continues_a_run_that_v5_began(rung, uninterrupted, tmp_path):
    (tmp_path / 'checkpoints').mkdir()
    for file, of_v5 in (('latest.pt', 'ckpt_14.pt'), ('best.pt', 'best.pt')):
        shutil.copy(uninterrupted[0] / 'checkpoints' / of_v5, tmp_path / 'checkpoints' / file)
    done = run_script(rung('v6_wandb', **OFTEN))
    assert done.returncode == 0 and '从 checkpoints/latest.pt 的第 14 步继续' in done.stdout, done.stdout + done.stderr
    assert '常量变了' not in done.stdout
    assert_same_checkpoints_but_config(tmp_path, uninterrupted[0], 'v6')


def test_longer_training_and_other_constants(rung, tmp_path):
    path = rung('v5_checkpoint', TRAIN_ITERS=10)
    assert run_script(path).returncode == 0
    edit_again(path, TRAIN_ITERS=12, WEIGHT_DECAY=0.3, BETAS=(0.8, 0.9), BATCH_SIZE=2)
    done = run_script(path)
    assert done.returncode == 0, done.stderr
    for change in ('TRAIN_ITERS：10 → 12', 'WEIGHT_DECAY：0.1 → 0.3', 'BETAS：(0.9, 0.95) → (0.8, 0.9)', 'BATCH_SIZE：4 → 2'):
        assert change in done.stdout
    latest = read(tmp_path / 'checkpoints/latest.pt')
    assert latest['step'] == 12
    groups = latest['optimizer']['param_groups']                    # what is edited is what runs: not the saved values
    assert [group['weight_decay'] for group in groups] == [0.3, 0.0] and tuple(groups[0]['betas']) == (0.8, 0.9)


@pytest.mark.parametrize(('constants', 'words'), [
    ({'N_EMBED': 64}, ['N_EMBED 原来是 32，现在是 64']), ({'N_LAYERS': 1}, ['N_LAYERS']), ({'N_HEADS': 4}, ['N_HEADS']),
    ({'BPE_VOCAB_SIZE': 2900}, ['分词器']), ({'MAX_SONGS': 500}, ['分词器'])])
def test_another_model_or_tokenizer_is_refused(constants, words, rung, uninterrupted, tmp_path):
    shutil.copytree(uninterrupted[0] / 'checkpoints', tmp_path / 'checkpoints')
    before = {file: file.read_bytes() for file in (tmp_path / 'checkpoints').iterdir()}
    path = rung('v5_checkpoint', **(OFTEN | {'TRAIN_ITERS': ITERS + 1} | constants))
    done = run_script(path)
    assert done.returncode == 1 and done.stderr.startswith('错误：') and 'Traceback' not in done.stderr
    for word in ['latest.pt', 'RESUME = False', *words]:
        assert word in done.stderr
    assert {file: file.read_bytes() for file in (tmp_path / 'checkpoints').iterdir()} == before
    if 'N_EMBED' not in constants:
        return
    done = run_script(edit_again(path, RESUME=False, TRAIN_ITERS=4))
    assert done.returncode == 0, done.stderr
    [old] = (tmp_path / 'checkpoints').glob('old-*')
    assert {file.name: file.read_bytes() for file in old.iterdir()} == {file.name: data for file, data in before.items()}
    assert read(tmp_path / 'checkpoints/latest.pt')['step'] == 4


def test_a_checkpoint_of_another_rung_is_refused(rung, tmp_path):
    """Same sizes, another architecture, another optimizer, other random states: each names the remedy, and loses nothing."""
    files = {}
    for name in ('v7_grad_accum', 'v8_llama', 'v9_muon', 'v10_ddp'):
        assert run_script(rung(name, TRAIN_ITERS=2, EVAL_INTERVAL=2, CHECKPOINT_DIR=name)).returncode == 0
        files[name] = (tmp_path / name / 'latest.pt').read_bytes()
    for ours, theirs in (('v8_llama', 'v7_grad_accum'), ('v9_muon', 'v8_llama'), ('v10_ddp', 'v9_muon'), ('v9_muon', 'v10_ddp')):
        done = run_script(rung(ours, TRAIN_ITERS=4, CHECKPOINT_DIR=theirs))
        assert done.returncode == 1 and done.stderr.startswith('错误：') and len(done.stderr.splitlines()) == 1, (ours, theirs, done.stderr)
        assert f'{theirs}/latest.pt' in done.stderr and 'RESUME = False' in done.stderr
        assert (tmp_path / theirs / 'latest.pt').read_bytes() == files[theirs]


def garbage(kind, path):
    data = path.read_bytes()
    if kind == 'truncated':
        path.write_bytes(data[:len(data) // 2])
    elif kind == 'empty':
        path.write_bytes(b'')
    elif kind == 'text':
        path.write_text('not a checkpoint', encoding='utf-8')
    elif kind == 'weights only':
        torch.save(read(path)['model'], path)
    elif kind == 'best.pt':
        path.write_bytes((path.parent / 'best.pt').read_bytes())
    elif kind == 'code':
        torch.save({'model': re.compile('x')}, path)


@pytest.mark.parametrize('name', ['v5_checkpoint', 'v10_ddp'])
def test_out_of_memory_does_not_blame_the_checkpoint(name, load, tmp_path, monkeypatch):
    """It is a good one: whoever believed that it is not would begin anew."""
    def lacking(*arguments, **options):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
    module = load(name, CHECKPOINT_DIR=str(tmp_path))
    (tmp_path / 'latest.pt').write_bytes(b'x')
    monkeypatch.setattr(module.torch, 'load', lacking)
    with pytest.raises(RuntimeError, match='allocate'):
        module.load_checkpoint(None)
    with pytest.raises(RuntimeError, match='allocate'):
        module.restore({'model': {}}, type('Model', (), {'load_state_dict': lacking})(), None, None)


@pytest.mark.parametrize('kind', ['truncated', 'empty', 'text', 'weights only', 'best.pt', 'code'])
def test_a_broken_checkpoint_is_refused(kind, rung, uninterrupted, tmp_path):
    path = rung('v5_checkpoint', **(OFTEN | {'TRAIN_ITERS': 10, 'EVAL_INTERVAL': 5}))
    (tmp_path / 'checkpoints').mkdir()
    for name in ('latest.pt', 'best.pt', 'ckpt_7.pt'):
        (tmp_path / 'checkpoints' / name).write_bytes((uninterrupted[0] / 'checkpoints' / name).read_bytes())
    garbage(kind, tmp_path / 'checkpoints/latest.pt')
    before = {file: file.read_bytes() for file in (tmp_path / 'checkpoints').iterdir()}
    done = run_script(path)
    assert done.returncode == 1 and done.stderr.startswith('错误：') and len(done.stderr.splitlines()) == 1, done.stderr
    assert 'checkpoints/latest.pt' in done.stderr and 'ckpt_' in done.stderr and 'RESUME = False' in done.stderr
    assert {file: file.read_bytes() for file in (tmp_path / 'checkpoints').iterdir()} == before
    if kind != 'truncated':
        return
    # the remedy that the message names works
    (tmp_path / 'checkpoints/latest.pt').write_bytes((tmp_path / 'checkpoints/ckpt_7.pt').read_bytes())
    done = run_script(path)
    assert done.returncode == 0 and '的第 7 步继续' in done.stdout, done.stderr


def test_a_failing_write_leaves_the_old_file_whole(rung, uninterrupted, tmp_path):
    """The disk fills up in the middle of a write: as a limit on the size of files, so that the write really fails."""
    path = rung('v5_checkpoint', **OFTEN)
    (tmp_path / 'checkpoints').mkdir()
    for name in ('ckpt_14.pt', 'best.pt'):
        (tmp_path / 'checkpoints' / name).write_bytes((uninterrupted[0] / 'checkpoints' / name).read_bytes())
    (tmp_path / 'checkpoints/ckpt_14.pt').rename(tmp_path / 'checkpoints/latest.pt')
    size = (tmp_path / 'checkpoints/best.pt').stat().st_size
    source = path.read_text(encoding='utf-8')
    limit = f'        import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 2}, resource.RLIM_INFINITY))\n'
    path.write_text(source.replace("    try:\n        main()", limit.replace('        import', '    import') + "    try:\n        main()"),
                    encoding='utf-8')
    before = {file: file.read_bytes() for file in (tmp_path / 'checkpoints').iterdir()}
    done = run_script(path)
    assert done.returncode == 1 and done.stderr.startswith('错误：写不了 checkpoints/'), done.stderr
    assert 'Traceback' not in done.stderr and '原来的检查点完好' in done.stderr
    assert {file: file.read_bytes() for file in (tmp_path / 'checkpoints').iterdir()} == before
    path.write_text(source, encoding='utf-8')
    assert run_script(path).returncode == 0
    assert_same_checkpoints_but_config(tmp_path, uninterrupted[0], 'v6')


@pytest.mark.parametrize('error', ['OSError(28, "No space left on device")', 'RuntimeError("PytorchStreamWriter failed writing")'])
def test_both_errors_of_a_full_disk(error, rung, tmp_path):
    path = rung('v5_checkpoint')
    source = path.read_text(encoding='utf-8')
    path.write_text(source.replace('            torch.save(checkpoint, file)\n', f'            file.write(b"half"); raise {error}\n'),
                    encoding='utf-8')
    done = run_script(path)
    assert done.returncode == 1 and done.stderr.startswith('错误：写不了') and list((tmp_path / 'checkpoints').iterdir()) == []


def test_disk_space_is_checked_before_training(rung, tmp_path):
    path = rung('v5_checkpoint')
    source = path.read_text(encoding='utf-8')
    assert source.count('shutil.disk_usage(CHECKPOINT_DIR).free') == 1
    path.write_text(source.replace('shutil.disk_usage(CHECKPOINT_DIR).free', '1000'), encoding='utf-8')
    done = run_script(path)
    assert done.returncode == 1 and '磁盘' in done.stderr and 'SAVE_INTERVAL' in done.stderr and not log_lines(done.stdout)


def test_disk_estimate_covers_what_a_run_writes(load, uninterrupted, tmp_path, monkeypatch):
    """The estimate is not below what a finished run occupies, nor twice as much; files that are there already count as written."""
    module = load('v5_checkpoint', **OFTEN, CHECKPOINT_DIR=str(tmp_path / 'empty'))
    (tmp_path / 'empty').mkdir()
    checkpoint = read(uninterrupted[0] / 'checkpoints/latest.pt')
    model = module.GPT(checkpoint['model']['token_embedding.weight'].shape[0])
    overhead = len(checkpoint['tokenizer']) * 10                    # the tokenizer matters only in a model this tiny
    used = sum(file.stat().st_size for file in (uninterrupted[0] / 'checkpoints').iterdir())

    def refuses(free):
        monkeypatch.setattr(module.shutil, 'disk_usage', lambda path: SimpleNamespace(free=free))
        try:
            module.check_disk(model)
        except SystemExit as stop:
            assert '磁盘' in stop.code
            return True
    assert refuses(used - overhead) and not refuses(2 * used)
    shutil.copytree(uninterrupted[0] / 'checkpoints', tmp_path / 'empty', dirs_exist_ok=True)
    assert not refuses(used)                                        # a run that goes on in its own files
    (tmp_path / 'empty/latest.pt').write_bytes(bytes(2 * used))
    assert not refuses(0)


@pytest.mark.parametrize('rate', [1e30, 3e38])                     # breaks at the next loss; breaks the weights before any loss shows it
def test_a_loss_that_is_not_finite_leaves_the_checkpoints_as_they_were(rate, rung, tmp_path):
    path = rung('v5_checkpoint', TRAIN_ITERS=10, EVAL_INTERVAL=5)
    assert run_script(path).returncode == 0
    before = {file: file.read_bytes() for file in (tmp_path / 'checkpoints').iterdir()}
    edit_again(path, TRAIN_ITERS=200, LEARNING_RATE=rate, MIN_LR=rate, SAVE_INTERVAL=1, EVAL_INTERVAL=100)
    done = run_script(path)
    assert done.returncode == 1 and '不是有限的数' in done.stderr and 'LEARNING_RATE' in done.stderr
    after = {file: file.read_bytes() for file in (tmp_path / 'checkpoints').iterdir()}
    changed = [file for file in after if before.get(file) != after[file]]
    for file in changed:                                            # steps before the one that broke may have been saved
        assert all(value.isfinite().all() for value in read(file)['model'].values())


def test_gpu_checkpoints_go_on_on_a_cpu(rung, uninterrupted, tmp_path):
    """As a GPU with float16 would have written it: a scaler, a CUDA random state, another DEVICE."""
    path = rung('v5_checkpoint', **OFTEN)
    checkpoint = read(uninterrupted[0] / 'checkpoints/ckpt_14.pt')
    checkpoint['rng']['cuda'] = torch.zeros(16, dtype=torch.uint8)
    checkpoint['config'] |= {'DEVICE': 'cuda', 'GPU': True, 'USE_AMP': True, 'AMP_DTYPE': 'float16'}
    checkpoint['scaler'] = {'scale': 65536.0, 'growth_factor': 2.0, 'backoff_factor': 0.5, 'growth_interval': 2000, '_growth_tracker': 3}
    (tmp_path / 'checkpoints').mkdir()
    torch.save(checkpoint, tmp_path / 'checkpoints/latest.pt')
    done = run_script(path)
    assert done.returncode == 0, done.stderr
    assert 'DEVICE：cuda → cpu' in done.stdout and '的第 14 步继续' in done.stdout
    assert_same(read(tmp_path / 'checkpoints/latest.pt')['model'], read(uninterrupted[0] / 'checkpoints/latest.pt')['model'])
