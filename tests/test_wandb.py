"""v6 and wandb: what an offline run holds, read back with wandb's own tool; and that wandb never asks nor stops a run."""
import json
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import environment, inject, log_lines, run_script

RUN = {'TRAIN_ITERS': 40, 'EVAL_INTERVAL': 10, 'PREVIEW_INTERVAL': 20, 'LOG_INTERVAL': 5, 'WARMUP_ITERS': 4}


def inspect(folder):
    """The records of one run's folder, as `wandb leet inspect` prints them."""
    done = subprocess.run([sys.executable, '-m', 'wandb', 'leet', 'inspect', '--json', str(folder)], text=True, encoding='utf-8',
                          capture_output=True, env=environment(folder), cwd=folder, timeout=120, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def history(records):
    """The logged rows, without wandb's own entries."""
    rows = [record['history']['item'] for record in records if record['type'] == 'history']
    return [{key: value for key, value in row.items() if not key.startswith('_')} for row in rows]


def test_what_a_run_records(rung, load, records, tmp_path):
    """A run without an account, stopped after 23 steps and continued: one run for wandb, in two folders."""
    path = inject(rung('v6_wandb', **RUN), 'x, y = next(batches)', 'if step == 22: signal.raise_signal(signal.SIGTERM)')
    done = [run_script(path), run_script(path)]
    assert [(d.returncode, d.stderr) for d in done] == [(-signal.SIGTERM, ''), (0, '')]
    output, latest = done[0].stdout + done[1].stdout, torch.load(tmp_path / 'checkpoints/latest.pt')
    folders = sorted(tmp_path.glob('wandb/offline-run-*'), key=lambda path: path.stat().st_ctime_ns)
    recorded = [inspect(folder) for folder in folders]
    rows = [row for records in recorded for row in history(records)]
    assert [folder.name.rsplit('-', 1)[1] for folder in folders] == [latest['wandb_id']] * 2

    # every LOG_INTERVAL steps, once: the loss, the gradient's norm, and the rate, which is the schedule's
    training = [row for row in rows if 'train/loss' in row]
    assert [row['step'] for row in training] == list(range(0, 40, 5))
    assert all(set(row) == {'step', 'train/loss', 'lr', 'grad_norm'} and row['grad_norm'] > 0 and row['train/loss'] > 0 for row in training)
    module = load('v6_wandb', **RUN)
    assert [row['lr'] for row in training] == pytest.approx([module.LEARNING_RATE * module.get_lr(row['step']) for row in training])

    # with every evaluation, what is printed
    evaluations, printed = [row for row in rows if 'test/loss' in row], log_lines(output)
    assert [row['step'] for row in evaluations] == [line['step'] for line in printed] == [0, 10, 20, 30, 40]
    for row, line in zip(evaluations, printed):
        assert row['test/loss'] == pytest.approx(line['test'], abs=1e-4) and row['tok_per_s'] == pytest.approx(line['speed'] or 0, abs=1)
        assert row['test/bits_per_char'] == pytest.approx(line['bits'], abs=1e-3)

    # with every preview, the song
    tables = [json.loads((folder / 'files' / row['samples.path']).read_text(encoding='utf-8'))
              for folder, records in zip(folders, recorded) for row in history(records) if 'samples.path' in row]
    assert [(table['columns'], table['data'][0][0]) for table in tables] == [(['step', 'text'], step) for step in (0, 20, 40)]
    assert all('--- 第 {} 步写的 ---\n{}\n---'.format(*table['data'][0]) in output for table in tables)

    # all constants; the axis is the step; how to look and how to upload
    for records, folder in zip(recorded, folders):
        [config] = [record['run']['config']['update'] for record in records if record['type'] == 'run' and 'config' in record['run']]
        assert set(latest['config']) <= set(config) and config['TRAIN_ITERS'] == 40 and config['SCRIPT'] == 'v6_wandb.py'
        metrics = [record['metric'] for record in records if record['type'] == 'metric']
        assert any(metric.get('glob_name') == '*' and metric['step_metric'] == 'step' for metric in metrics)
        assert re.search(rf'离线.*wandb leet.*wandb sync \S*{folder.name}', output)


@pytest.mark.skipif(sys.platform == 'win32', reason='needs a pseudo-terminal')
def test_it_never_asks_at_a_terminal(rung, records, tmp_path):
    """Without an account, on a terminal that could be asked: no question, no waiting."""
    import pty
    path = rung('v6_wandb', TRAIN_ITERS=1)
    parent, child = pty.openpty()
    terminal = {'stdin': child, 'stdout': child, 'stderr': child}
    process = subprocess.Popen([sys.executable, path.name], cwd=tmp_path, env=environment(tmp_path), **terminal)
    os.close(child)
    output = b''
    while select.select([parent], [], [], 120)[0]:                  # otherwise it waits for an answer
        try:
            output += os.read(parent, 65536)
        except OSError:                                             # the other end is closed
            break
    else:
        process.kill()
    text = output.decode('utf-8', 'replace').replace('\r', '')
    assert process.wait(timeout=60) == 0, text
    assert '离线' in text and 'Enter your choice' not in text and len(log_lines(text)) == 2


class Failing:
    """A run of wandb's whose process is gone."""
    id, dir, offline, url = 'abc', '/nowhere/files', True, None

    def define_metric(self, *arguments, **options):
        pass

    def log(self, row):
        raise BrokenPipeError

    def finish(self):
        raise BrokenPipeError


@pytest.mark.parametrize(('mode', 'key'), [('online', True), ('online', False), ('offline', True)])
def test_what_fails_once_goes_offline(mode, key, load, monkeypatch, capsys):
    """No network, a bad key: one level of fallback. Nobody who is not logged in is sent online, nor who has chosen offline."""
    module, asked = load('v6_wandb'), []

    def init(mode, **options):
        asked.append((mode, options['id'], options['resume']))
        if mode == 'online':
            raise TimeoutError
        return Failing()
    monkeypatch.setattr(module, 'wandb', SimpleNamespace(
        init=init, login=lambda prompt: key if not prompt else pytest.fail('asks'), Settings=lambda **options: options,
        setup=lambda: SimpleNamespace(settings=SimpleNamespace(mode=mode))))
    assert isinstance(module.start_wandb('abc', {}), Failing) and '离线' in capsys.readouterr().out
    assert [mode for mode, *_ in asked] == (['online', 'offline'] if mode == 'online' and key else ['offline'])
    assert {(run_id, resume) for _, run_id, resume in asked} == {('abc', 'allow')}


@pytest.mark.parametrize('name', ['v6_wandb', 'v10_muon'])
def test_a_run_goes_on_without_wandb(name, load, train, tmp_path, monkeypatch):
    """wandb's process is killed, its disk is full: LADDER.md, "never stops a run"."""
    module = load(name)
    monkeypatch.setattr(module, 'start_wandb', lambda run_id, settings: Failing())
    _, output = train(module)
    assert log_lines(output)[-1]['step'] == 20 and Path(tmp_path, 'checkpoints', 'latest.pt').exists()


def test_the_users_mode_is_respected(rung, records, tmp_path):
    done = run_script(rung('v6_wandb', TRAIN_ITERS=1), env={'WANDB_MODE': 'disabled', 'WANDB_API_KEY': '0' * 40})
    assert done.returncode == 0 and not (tmp_path / 'wandb').exists() and not re.search('wandb.*离线', done.stdout)
