"""v6 and wandb: what an offline run holds, read back with wandb's own tool; and that wandb never asks nor stops a run."""
import functools
import json
import os
import re
import select
import subprocess
import sys

import pytest
from conftest import ROOT, TINY, WANDB, edit, environment, log_lines, run_script

RUN = {'TRAIN_ITERS': 40, 'EVAL_INTERVAL': 10, 'PREVIEW_INTERVAL': 20}


@functools.cache
def inspect(folder):
    """The records of one finished run's folder, as `wandb leet inspect` prints them."""
    done = subprocess.run([sys.executable, '-m', 'wandb', 'leet', 'inspect', '--json', str(folder)], text=True, encoding='utf-8',
                          capture_output=True, env=environment(folder), cwd=folder, timeout=120, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def history(folder):
    """The logged rows, as dicts, without wandb's own entries."""
    rows = [record['history']['item'] for record in inspect(folder) if record['type'] == 'history']
    return [{key: value for key, value in row.items() if not key.startswith('_')} for row in rows]


pytestmark = pytest.mark.usefixtures('records')


@pytest.fixture(scope='module')
def finished(tmp_path_factory, lyrics_dir):
    """A v6 run without an account: its output and its run folder."""
    path = edit('v6_wandb', tmp_path_factory.mktemp('finished'), **(TINY | RUN | {'LYRICS_DIR': str(lyrics_dir)}))
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(WANDB, 'WANDB_MODE')
        done = run_script(path)
    assert (done.returncode, done.stderr) == (0, '')
    [folder] = path.parent.glob('wandb/offline-run-*')
    return done.stdout, folder


def test_every_metric_is_recorded(finished):
    output, folder = finished
    rows = history(folder)
    assert {key.split('.')[0] for row in rows for key in row} == {'step', 'train/loss', 'lr', 'grad_norm', 'test/loss',
                                                                  'test/bits_per_char', 'tok_per_s', 'samples'}
    training = [row for row in rows if 'train/loss' in row]
    assert [row['step'] for row in training] == [10, 20, 30, 40]
    assert all(set(row) == {'step', 'train/loss', 'lr', 'grad_norm'} and row['grad_norm'] > 0 for row in training)
    evaluations = [row for row in rows if 'test/loss' in row]
    printed = log_lines(output)
    assert [row['step'] for row in evaluations] == [line['step'] for line in printed] == [10, 20, 30, 40]
    for row, line in zip(evaluations, printed, strict=True):
        assert row['test/loss'] == pytest.approx(line['test'], abs=1e-4) and row['tok_per_s'] == pytest.approx(line['speed'], abs=1)
        assert row['test/bits_per_char'] == pytest.approx(line['bits'], abs=1e-3)


def test_learning_rate_is_the_schedule(finished, load):
    module = load('v6_wandb', **RUN)
    for row in history(finished[1]):
        if 'lr' in row:
            assert row['lr'] == pytest.approx(module.get_lr(row['step'] - 1))


def test_samples_are_recorded(finished):
    output, folder = finished
    paths = [row['samples.path'] for row in history(folder) if 'samples.path' in row]
    tables = [json.loads((folder / 'files' / path).read_text(encoding='utf-8')) for path in paths]
    assert [table['columns'] for table in tables] == [['step', 'text']] * 2
    assert [table['data'][0][0] for table in tables] == [20, 40]
    for table in tables:
        step, text = table['data'][0]
        assert f'--- 第 {step} 步写的 ---\n{text}\n---' in output


def test_all_constants_are_recorded_and_step_is_the_axis(finished):
    records = inspect(finished[1])
    [config] = [record['run']['config']['update'] for record in records if record['type'] == 'run' and 'config' in record['run']]
    source = (ROOT / 'v6_wandb.py').read_text(encoding='utf-8')
    assert set(re.findall(r'^([A-Z][A-Z_]+) = ', source, re.M)) <= set(config)
    assert config['TRAIN_ITERS'] == 40 and config['LYRICS_DIR'].endswith('ChineseLyrics')
    metrics = [record['metric'] for record in records if record['type'] == 'metric']
    assert any(metric.get('glob_name') == '*' and metric['step_metric'] == 'step' for metric in metrics)


def test_says_how_to_look_and_how_to_upload(finished):
    output, folder = finished
    [line] = [line for line in output.splitlines() if line.startswith('wandb 离线')]
    assert f'wandb/{folder.name}' in line and 'wandb leet' in line and f'wandb sync wandb/{folder.name}' in line


def test_a_resumed_run_continues_the_same_run_id(rung, tmp_path):
    for iters in (20, 40):
        assert run_script(rung('v6_wandb', **(RUN | {'TRAIN_ITERS': iters}))).returncode == 0
    folders = sorted(tmp_path.glob('wandb/offline-run-*'), key=lambda folder: folder.stat().st_mtime_ns)
    assert len({folder.name.rsplit('-', 1)[1] for folder in folders}) == 1
    steps = [row['step'] for folder in folders for row in history(folder) if 'train/loss' in row]
    assert steps == [10, 20, 30, 40]


def test_a_resumed_run_that_v5_began_starts_a_run(rung, tmp_path):
    assert run_script(rung('v5_checkpoint', TRAIN_ITERS=10)).returncode == 0
    done = run_script(rung('v6_wandb', TRAIN_ITERS=20))
    assert done.returncode == 0 and len(list(tmp_path.glob('wandb/offline-run-*'))) == 1


def test_goes_offline_without_a_network(rung, tmp_path):
    """An account, and a server that nobody listens at."""
    env = {'WANDB_API_KEY': '0' * 40, 'WANDB_BASE_URL': 'http://127.0.0.1:9'}
    done = run_script(rung('v6_wandb'), env=env)
    assert done.returncode == 0, done.stderr
    assert '改为离线' in done.stdout and 'wandb 离线记录在' in done.stdout
    [folder] = tmp_path.glob('wandb/offline-run-*')
    assert len([row for row in history(folder) if 'test/loss' in row]) == 2


@pytest.mark.skipif(sys.platform == 'win32', reason='needs a pseudo-terminal')
def test_never_asks_at_a_terminal(rung, tmp_path):
    """Without an account, on a terminal that could be asked: no question, no waiting."""
    import pty
    path = rung('v6_wandb')
    parent, child = pty.openpty()
    process = subprocess.Popen([sys.executable, path.name], cwd=tmp_path, env=environment(tmp_path),
                               stdin=child, stdout=child, stderr=child)
    os.close(child)
    output = b''
    while True:
        if not select.select([parent], [], [], 120)[0]:             # it waits for an answer
            process.kill()
            pytest.fail(output.decode('utf-8', 'replace'))
        try:
            piece = os.read(parent, 65536)
        except OSError:                                             # Linux: the other end is closed
            break
        if not piece:
            break
        output += piece
    assert process.wait(timeout=60) == 0
    text = output.decode('utf-8')
    assert '离线' in text and 'Enter your choice' not in text and len(log_lines(text.replace('\r', ''))) == 2


@pytest.mark.parametrize('mode', ['offline', 'disabled'])
def test_the_users_mode_is_respected(mode, rung, tmp_path):
    done = run_script(rung('v6_wandb'), env={'WANDB_MODE': mode, 'WANDB_API_KEY': '0' * 40})
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob('wandb/offline-run-*'))) == (mode == 'offline')
    assert ('wandb' in done.stdout) == (mode == 'offline')


def test_a_failing_log_does_not_stop_the_run(rung):
    path = rung('v6_wandb')
    source = path.read_text(encoding='utf-8')
    path.write_text(source.replace('        run.log(metrics)', "        raise BrokenPipeError('gone')"), encoding='utf-8')
    done = run_script(path)
    assert done.returncode == 0 and 'wandb 没有记上（BrokenPipeError）' in done.stdout


@pytest.mark.parametrize('line', ['        run = wandb.init(mode=', '        run.finish()'])
def test_a_wandb_that_does_not_work_at_all_does_not_stop_the_run(line, rung, tmp_path):
    path = rung('v6_wandb')
    source = path.read_text(encoding='utf-8')
    broken = source.replace(line, line.replace('run = wandb.init(', 'run = broken('))
    broken = broken.replace('        run.finish()', '        broken()') if 'finish' in line else broken
    broken = broken.replace('def start_wandb', """def broken(mode=None, **arguments):
    if mode == 'disabled':
        return wandb.init(mode=mode, **arguments)
    raise OSError('no service')


def start_wandb""")
    path.write_text(broken, encoding='utf-8')
    done = run_script(path)
    assert done.returncode == 0 and 'OSError' in done.stdout, done.stderr
    assert len(log_lines(done.stdout)) == 2 and (tmp_path / 'checkpoints/latest.pt').exists()
