"""v12: several processes are one; whoever is stopped or killed, the run goes on and ends with the same weights."""
import multiprocessing
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from conftest import ROOT, RUNGS, change, environment, inject, log_lines, run_script, tiny, write_songs

NAME = 'v12_ddp'
# Five windows in micro-batches of two: two processes take 2 + 1 and 2, three take 2, 2 and 1. Everything is saved often.
SHARED = {'BATCH_SIZE': 5, 'MICRO_BATCH_SIZE': 2, 'DROP_OUT': 0.0, 'TRAIN_ITERS': 20, 'EVAL_INTERVAL': 8, 'EVAL_ITERS': 3,
          'SAVE_INTERVAL': 4, 'LOG_INTERVAL': 3, 'PREVIEW_INTERVAL': 100, 'CHECKPOINT_DIR': 'run'}
DROPOUT = SHARED | {'DROP_OUT': 0.2}
SONGS = [{'lyric': [f'第{i}首歌', '春风又绿江南岸', f'明月{i % 7}时照我还', '夜来风雨声' * (i % 5 + 1)]} for i in range(200)]
STEP = 'x, y = next(batches)'                                       # the line of the loop that the tests break in at

# What a process of a group wrote beside its output: `wrote` are the files that it opened for writing in its folder.
Done = namedtuple('Done', 'status out err wrote')


# ---------- to start processes ----------
forks = multiprocessing.get_context('forkserver') if hasattr(os, 'fork') else None
if forks:                                                           # what a rung imports is imported once, not in each process
    forks.set_forkserver_preload(['numpy', 'sentencepiece', 'sqlite3', 'torch', 'torch.distributed', 'torch._dynamo', 'wandb'])


def script(folder, name, env):
    """Run a script as `RANK=… python script` does; called in a process of its own."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    rank = env.get('RANK', '0')
    for stream, end in ((1, 'out'), (2, 'err')):
        os.dup2(os.open(f'{name}.{rank}.{end}', os.O_CREAT | os.O_WRONLY | os.O_TRUNC), stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, 'w', encoding='utf-8', closefd=False) for stream in (1, 2))
    log = os.open(f'{name}.{rank}.wrote', os.O_CREAT | os.O_WRONLY | os.O_TRUNC)

    def audit(event, arguments):
        writes = event == 'open' and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (writes or event in ('sqlite3.connect', 'os.rename')) and Path.cwd() in Path(os.fsdecode(arguments[0])).absolute().parents:
            os.write(log, f'{os.fsdecode(arguments[0])}\n'.encode())
    sys.addaudithook(audit)
    torch.set_num_threads(1)
    runpy.run_path(name, run_name='__main__')


def group(path, n, folders=None):
    """Run a script in n processes as torchrun would, but sooner; `folders`: as n machines that share nothing. [Done, …] by rank."""
    store = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    variables = {'WORLD_SIZE': n, 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': store.port, 'TORCHELASTIC_USE_AGENT_STORE': True}
    processes, done = [], []
    for rank in range(n):
        folder = folders[rank] if folders else path.parent
        mine = {key: str(value) for key, value in (variables | {'RANK': rank, 'LOCAL_RANK': 0 if folders else rank}).items()}
        processes.append(forks.Process(target=script, args=(str(folder), path.name, environment(folder, mine))))
        processes[-1].start()
    for process in processes:
        process.join(60)
    hanging = [rank for rank, process in enumerate(processes) if process.exitcode is None]
    for rank, process in enumerate(processes):
        process.kill()
        process.join()
        folder = folders[rank] if folders else path.parent
        texts = [(folder / f'{path.name}.{rank}.{end}').read_text(encoding='utf-8') for end in ('out', 'err', 'wrote')]
        done.append(Done(process.exitcode, *texts[:2], texts[2].splitlines()))
    assert not hanging, f'{hanging} hang: {done}'
    return done


def succeeded(done):
    """The output of a group that all ended well: that of its first process, the only one to say anything."""
    assert [one.status for one in done] == [0] * len(done), done
    assert ''.join(one.err for one in done) == ''.join(one.out for one in done[1:]) == '', done
    return done[0].out


def torchrun(path, n, *options, nohup=False, standalone=True):
    """Start a script as torchrun's user does."""
    command = ['nohup'] * nohup + [sys.executable, '-m', 'torch.distributed.run', *['--standalone'] * standalone, f'--nproc_per_node={n}']
    return subprocess.Popen([*command, *options, path.name], cwd=path.parent, env=environment(path.parent), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, encoding='utf-8', start_new_session=True)


def finished(process):
    try:
        out, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, err


# ---------- what they leave behind ----------
@pytest.fixture(scope='session')
def token_dir(tmp_path_factory):
    """The sample's tokens are built once."""
    return tmp_path_factory.mktemp('tokens')


@pytest.fixture
def ddp(tmp_path, lyrics_dir, token_dir):
    """ddp(**constants): a tiny copy of v12 in this test's folder."""
    def make(folder=tmp_path, **constants):
        folder.mkdir(exist_ok=True)
        return tiny(NAME, folder, lyrics_dir, **(DROPOUT | {'TOKEN_DIR': str(token_dir)} | constants))
    return make


def watch(path):
    """Every process writes down its losses and gradient norms, and in the end its weights."""
    inject(path, "try_to(run.log, {'step': step, 'train/loss'", "print(step, loss, grad_norm.item(), file=open(f'losses{rank}', 'a'))")
    return inject(path, 'try_to(run.finish)', "torch.save(model.state_dict(), f'end{rank}.pt')")


def losses(folder, rank):
    return [tuple(map(float, line.split())) for line in (folder / f'losses{rank}').read_text().splitlines()]


def read(path):
    return torch.load(path, map_location='cpu', weights_only=True)


def assert_same(a, b, where=''):
    """Equal to the bit, all the way down."""
    assert type(a) is type(b), where
    if isinstance(a, dict | list | tuple):
        assert len(a) == len(b), where
        for key in a if isinstance(a, dict) else range(len(a)):
            assert_same(a[key], b[key], f'{where}/{key}')
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, where


def assert_same_run(folder, reference, *but):
    """latest.pt is the same to the bit, wandb's name of the run and `but` aside."""
    a, b = (read(path / 'run' / 'latest.pt') for path in (folder, reference))
    for key in ('wandb_id', *but):
        a[key] = b[key] = None
    assert_same(a, b)
    assert not list((folder / 'run').glob('*.tmp'))


def own_errors(text):
    """What the script has to say, and the lines of its own tracebacks: not what torchrun says."""
    return re.findall('^错误：.*', text, re.M), re.findall(rf'File ".*{NAME}\.py", line.*', text)


@pytest.fixture(scope='module')
def alone(tmp_path_factory, lyrics_dir, token_dir):
    """The folder and the log lines of `python v12_ddp.py`."""
    path = watch(tiny(NAME, tmp_path_factory.mktemp('alone'), lyrics_dir, **(SHARED | {'TOKEN_DIR': str(token_dir)})))
    done = run_script(path)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return path.parent, log_lines(done.stdout)


@pytest.fixture(scope='module')
def calm(tmp_path_factory, lyrics_dir, token_dir):
    """The folder of a run of two processes, with dropout, that was never stopped."""
    path = tiny(NAME, tmp_path_factory.mktemp('calm'), lyrics_dir, **(DROPOUT | {'TOKEN_DIR': str(token_dir)}))
    succeeded(group(path, 2))
    return path.parent


def once(condition, code):
    """Code for `inject`: run once at a step, though the run begins again."""
    return f"if {condition} and not Path('once').exists(): Path('once').touch(); {code}"


# ---------- several processes are one ----------
def assert_close(ours, theirs):
    assert [line['step'] for line in ours] == [line['step'] for line in theirs]
    for a, b in zip(ours, theirs):
        for key in ('train', 'test'):                               # printed with four decimals: at most one unit of the last
            assert a[key] == pytest.approx(b[key], abs=1.01e-4)


@pytest.mark.parametrize('n', [2, 3])
def test_n_processes_give_the_losses_of_one(n, ddp, alone, tmp_path):
    out = succeeded(group(watch(ddp(**SHARED)), n))
    folder, lines = alone
    assert_close(log_lines(out), lines)
    assert lines[0]['train'] - lines[-1]['train'] > 0.3             # and they did learn
    assert len(losses(folder, 0)) == 7
    for ours, theirs in zip(losses(tmp_path, 0), losses(folder, 0)):
        assert ours == pytest.approx(theirs, rel=1e-4)
    for rank in range(1, n):                                        # all of them know the same and end with the same weights
        assert losses(tmp_path, rank) == losses(tmp_path, 0)
        assert_same(read(tmp_path / f'end{rank}.pt'), read(tmp_path / 'end0.pt'))
    for name, weights in read(folder / 'end0.pt').items():
        torch.testing.assert_close(read(tmp_path / 'end0.pt')[name], weights, rtol=0, atol=2e-4)


def test_one_process_is_v11(rung, token_dir, alone):
    path = rung('v11_memmap', **(SHARED | {'TOKEN_DIR': str(token_dir)}))
    assert_close(log_lines(succeeded(group(path, 1))), alone[1])


def test_only_the_first_process_writes(ddp, tmp_path):
    done = group(ddp(), 2)
    assert '大矩阵乘法' in succeeded(done)
    assert 'run/lock' in done[0].wrote and 'run/unfinished.tmp' in done[0].wrote and done[1].wrote == []
    names = {'best.pt', 'latest.pt', 'lock', *(f'ckpt_{step}.pt' for step in range(4, 21, 4))}
    assert {path.name for path in (tmp_path / 'run').iterdir()} - {'lock-journal'} == names


def test_only_the_first_process_saves_and_moves(load, tmp_path):
    module, folder = load(NAME), tmp_path / 'checkpoints'
    folder.mkdir()
    (folder / 'latest.pt').write_bytes(b'')
    module.rank = 1
    module.move_old_checkpoints()
    module.save_checkpoint('best.pt', {})
    assert [path.name for path in folder.iterdir()] == ['latest.pt']


def test_only_the_first_process_records(load, monkeypatch):
    """The others ask wandb nothing."""
    module, modes = load(NAME), []
    monkeypatch.setattr(module.wandb, 'setup', lambda: SimpleNamespace(settings=SimpleNamespace(mode='offline')))
    monkeypatch.setattr(module.wandb, 'init', lambda mode, init=module.wandb.init, **_: modes.append(mode) or init(mode='disabled'))
    monkeypatch.setattr(module.wandb, 'login', None)
    for module.rank in range(3):
        module.start_wandb(None, {})
    assert modes == ['offline', 'disabled', 'disabled']


def test_the_gradients_are_one_buffer_that_is_added_up_once_a_step(ddp, tmp_path):
    """And that is all that the processes tell each other, but for single numbers."""
    path = inject(ddp(), 'all_reduce(flat)', 'assert {p.grad.untyped_storage().data_ptr() for p in model.parameters()} == '
                                             '{flat.untyped_storage().data_ptr()}, "not views"')
    inject(path, 'store, _, _ = next(', 'spy()')
    path.write_text(path.read_text(encoding='utf-8').replace('def main():', """
def spy():
    import pickle

    def wrap(owner, name, call):
        def wrapped(*arguments, **options):
            print(name, arguments[0].numel() if torch.is_tensor(arguments[0]) else 'objects', file=open(f'calls{rank}', 'a'))
            return call(*arguments, **options)
        setattr(owner, name, wrapped)
    for name in dir(dist):
        if re.match('[a-z_]*(reduce|gather|scatter|broadcast|barrier|all_to_all|send|recv)', name) and callable(getattr(dist, name)):
            wrap(dist, name, getattr(dist, name))
    wrap(pickle, 'dumps', pickle.dumps)


def main():""", 1), encoding='utf-8')
    succeeded(group(path, 2))
    parameters = sum(p.numel() for name, p in read(tmp_path / 'run' / 'latest.pt')['model'].items() if name != 'lm_head.weight')     # tied
    names, sizes = zip(*(line.split() for line in (tmp_path / 'calls0').read_text().splitlines()))
    assert set(names) == {'all_reduce'} and sizes.count(str(parameters + 2)) == 20
    assert sorted(map(int, sizes))[-21] < 9 and len(sizes) < 40     # an evaluation is one number; so is waiting
    assert (tmp_path / 'calls0').read_text() == (tmp_path / 'calls1').read_text()


def test_the_processes_share_each_batch(load):
    module, data = load(NAME, BATCH_SIZE=7), torch.arange(5000).numpy()
    whole, _ = module.get_batch(data, 3)
    module.world_size, parts, read, total = 3, [], [], 0.0
    module.all_reduce = lambda tensor: tensor

    def model(x, y):
        read.extend(x[:, 0].tolist())
        return None, y.double().mean()
    model.eval = model.train = lambda: None
    for module.rank in range(3):
        x, y = module.get_batch(data, 3)
        assert torch.equal(x + 1, y)
        parts.append(x)
        total += module.estimate_loss(model, data, 4)               # its share of the mean
    assert sorted(map(len, parts)) == [2, 2, 3] and sorted(torch.cat(parts).tolist()) == sorted(whole.tolist())
    starts = torch.linspace(0, 5000 - 33, 28, dtype=torch.float64).long()
    assert sorted(read) == starts.tolist() and total == pytest.approx((starts.double() + 16.5).mean().item())


def test_dropout_differs_between_the_processes_and_is_repeatable(ddp, tmp_path):
    seen = []
    for folder in ('one', 'two'):
        path = inject(ddp(tmp_path / folder), STEP, "print(model.dropout(torch.ones(99)).tolist(), file=open(f'dropped{rank}', 'a'))")
        succeeded(group(path, 2))
        seen.append([(path.parent / f'dropped{rank}').read_text().splitlines() for rank in range(2)])
    assert seen[0] == seen[1] and len({line for lines in seen[0] for line in lines}) == 40     # another at each step of each process


# ---------- stopped ----------
@pytest.mark.parametrize('how', ['SIGTERM', 'SIGINT', 'SIGHUP under nohup'])
def test_a_signal_to_torchrun_saves_once_and_the_run_goes_on(how, ddp, calm, tmp_path):
    """All stop after the same step: the next one at which losses are looked at."""
    number = getattr(signal, how.split()[0])
    wait = 'began_to_wait = time.monotonic()\n'
    path = ddp()
    inject(path, STEP, once('rank == 0 and step == 7', f'os.kill(os.getppid(), {int(number)}); stop_comes()'))
    path.write_text(path.read_text(encoding='utf-8').replace('def main():', f'''def stop_comes():
    {wait}    while not received and time.monotonic() < began_to_wait + 30:
        time.sleep(0.01)


def main():''', 1), encoding='utf-8')
    status, out, err = finished(torchrun(path, 2, nohup='nohup' in how))
    assert status and out.count('停在第 10 步，已存入 run/latest.pt') == 1 and own_errors(err) == ([], []), err
    assert read(tmp_path / 'run' / 'latest.pt')['step'] == 10
    assert '从 run/latest.pt 的第 10 步继续' in succeeded(group(path, 2))
    assert_same_run(tmp_path, calm)


def test_a_signal_to_one_process_stops_all_and_a_second_one_is_harmless(ddp, calm, tmp_path):
    """Its own, and torchrun's. Nobody leaves before the first is done with latest.pt: torchrun would stop it."""
    path = inject(ddp(), STEP, once('rank == 1 and step == 5', '[signal.raise_signal(signal.SIGTERM) for _ in range(2)]'))
    inject(path, "save_checkpoint('latest.pt', checkpoint)", 'rank or [a @ a for a in [torch.ones(300, 300)] * 200]')
    inject(path, 'sys.exit(128 +', "print(Path(CHECKPOINT_DIR, 'latest.pt').stat().st_mtime_ns, file=open(f'left{rank}', 'w'))")
    change(path, SAVE_INTERVAL=100)
    done = group(path, 2)
    assert [one.status for one in done] == [143, 143] and not done[0].err + done[1].err and '停在第 7 步' in done[0].out, done
    assert (tmp_path / 'left1').read_text().split() == [str((tmp_path / 'run' / 'latest.pt').stat().st_mtime_ns)]
    assert read(tmp_path / 'run' / 'latest.pt')['step'] == 7
    change(path, SAVE_INTERVAL=4)
    succeeded(group(path, 2))
    assert_same_run(tmp_path, calm)


# ---------- killed ----------
def test_a_killed_worker_comes_back(ddp, calm, tmp_path):
    """torchrun starts the group again: it goes on with its own run, though it had been asked to start anew.

    Its second process is late, so that the first could find the address that the dead one left behind."""
    path = ddp(TRAIN_ITERS=4)
    succeeded(group(path, 2))                                       # an older run of the same folder
    change(path, TRAIN_ITERS=20, RESUME=False)
    inject(path, STEP, once('rank == 1 and step == 11', 'os.kill(os.getpid(), 9)'))
    inject(path, 'store, _, _ = next(', "if rank and Path('once').exists(): [a @ a for a in [torch.ones(500, 500)] * 300]")
    status, out, err = finished(torchrun(path, 2, '--max-restarts=1'))
    assert status == 0 and (tmp_path / 'once').exists() and '从 run/latest.pt 的第 8 步继续' in out, err
    assert_same_run(tmp_path, calm, 'config')
    [old] = (tmp_path / 'run').glob('old-*')
    assert read(old / 'latest.pt')['step'] == 4


def test_all_are_killed(ddp, calm, tmp_path):
    path = inject(ddp(), STEP, "if step == 11 and not Path(f'once{rank}').exists(): Path(f'once{rank}').touch(); os.kill(os.getpid(), 9)")
    assert [one.status for one in group(path, 2)] == [-9, -9] and read(tmp_path / 'run' / 'latest.pt')['step'] == 8
    succeeded(group(path, 2))
    assert_same_run(tmp_path, calm)


# ---------- started again ----------
def test_a_finished_run(ddp, tmp_path):
    """Says that it is finished, trains longer, and makes room for another, once; not before the last process has read it."""
    path = ddp(TRAIN_ITERS=4, EVAL_INTERVAL=4)
    inject(path, 'checkpoint = torch.load(path', 'rank and [a @ a for a in [torch.ones(300, 300)] * 200]')
    succeeded(group(path, 2))
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / 'run').glob('*.pt')}
    for n in (2, 3):                                                # the number of processes is not a constant
        assert '训练已经完成（4 步）' in succeeded(group(path, n))
        assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / 'run').glob('*.pt')}
    change(path, TRAIN_ITERS=8)
    assert '从 run/latest.pt 的第 4 步继续（变了：TRAIN_ITERS 4 → 8）' in succeeded(group(path, 2))
    change(path, LEARNING_RATE=0.02)
    out = succeeded(group(path, 2))
    assert '旧的检查点移到 run/old-<时间>/' in out and [line['step'] for line in log_lines(out)] == [0, 4, 8]
    [old] = (tmp_path / 'run').glob('old-*')
    assert {file.name for file in old.iterdir()} == {'best.pt', 'latest.pt', 'ckpt_4.pt', 'ckpt_8.pt'}
    assert '训练已经完成（8 步）' in succeeded(group(path, 2))
    assert len(list((tmp_path / 'run').glob('old-*'))) == 1


@pytest.mark.parametrize('n', [1, 3])
def test_another_number_of_processes_goes_on(n, ddp, alone, tmp_path):
    path = inject(ddp(**SHARED), STEP, 'if step == 11 and world_size == 2: os.kill(os.getpid(), 9)')
    assert [one.status for one in group(path, 2)] == [-9, -9]
    out = succeeded(group(path, n))
    assert '的第 8 步继续' in out
    assert_close(log_lines(out), alone[1][-2:])


def test_two_runs_in_one_folder(ddp, load, tmp_path):
    (tmp_path / 'run').mkdir()
    lock = load(NAME, CHECKPOINT_DIR=str(tmp_path / 'run')).lock_folder()
    path = ddp()
    fails(group(path, 2), f'run/ 正由进程 {os.getpid()} 使用')
    lock.close()
    succeeded(group(path, 2))


# ---------- errors ----------
def fails(done, *words):
    """All end with status 1; one says why, in one line."""
    said, _ = own_errors(''.join(one.err for one in done))
    assert [one.status for one in done] == [1] * len(done) and len(said) == 1, done
    for word in words:
        assert word in said[0]


@pytest.mark.parametrize(('constants', 'word'), [({'LYRICS_DIR': 'nowhere'}, 'nowhere/'),
                                                 ({'LYRICS_DIR': 'broken'}, 'lyrics1.json'), ({'N_EMBED': 33}, 'N_EMBED = 33'),
                                                 ({'BLOCK_SIZE': 10**6}, '太少'), ({'MUON_LR': 1e30, 'LEARNING_RATE': 1e30}, '发散')])
def test_an_error_is_said_once_and_nobody_waits(constants, word, ddp, tmp_path):
    (tmp_path / 'broken').mkdir()
    (tmp_path / 'broken' / 'lyrics1.json').write_text('[{"lyric": ["断了', encoding='utf-8')
    fails(group(ddp(**constants), 2), word)


def test_a_checkpoint_that_cannot_be_read_or_does_not_fit(ddp, calm, tmp_path):
    path = ddp(N_EMBED=64, TRAIN_ITERS=30)
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'latest.pt').write_bytes(b'half')
    fails(group(path, 2), 'latest.pt', '读')
    checkpoint = read(calm / 'run' / 'latest.pt')
    checkpoint['config']['TRAIN_ITERS'] = 30
    torch.save(checkpoint, tmp_path / 'run' / 'latest.pt')
    fails(group(path, 2), 'latest.pt', 'N_EMBED 32 → 64')
    assert read(tmp_path / 'run' / 'latest.pt')['step'] == 20


def test_the_first_process_cannot_save(ddp):
    path = inject(ddp(), "with open(temporary, 'wb') as file:", "if step == 8: raise OSError(28, 'No space left on device')")
    path.write_text(path.read_text(encoding='utf-8').replace('if step == 8: raise', "if checkpoint['step'] == 8: raise"), encoding='utf-8')
    fails(group(path, 2), '写不了 run/', 'No space left')


def test_the_process_that_runs_out_of_memory_says_so(ddp):
    fails(group(inject(ddp(), STEP, "if step == 3 and rank == 1: raise torch.OutOfMemoryError('CUDA out of memory')"), 2), '显存不够')


def test_torchrun_ends_with_the_error(ddp):
    status, _, err = finished(torchrun(ddp(LYRICS_DIR='nowhere'), 2))
    said, _ = own_errors(err)
    assert status == 1 and len(said) == 1 and 'nowhere/' in said[0], err


def test_the_others_do_not_bury_an_error_under_tracebacks(ddp, tmp_path):
    write_songs(tmp_path / 'data' / 'lyrics1.json', ['no song'])
    done = group(ddp(LYRICS_DIR='data'), 2)
    assert own_errors(done[0].err + done[1].err)[1] == [], done


# ---------- data, machines ----------
def test_one_process_builds_the_tokens_and_the_others_wait(ddp, tmp_path):
    path = inject(ddp(TOKEN_DIR='tokens', LYRICS_DIR='data', BPE_VOCAB_SIZE=400, TRAIN_ITERS=1), 'tokenizer = train_tokenizer(',
                  "print(rank, file=open('built', 'a'))")
    write_songs(tmp_path / 'data' / 'lyrics1.json', SONGS)
    out = succeeded(group(path, 2))
    assert (tmp_path / 'built').read_text() == '0\n' and out.count('建 token 文件') == 1 and len(list((tmp_path / 'tokens').iterdir())) == 1
    assert '建 token 文件' not in succeeded(group(path, 2))


@pytest.fixture
def machines(ddp, tmp_path):
    """A script in two folders that share nothing."""
    path = ddp(TOKEN_DIR='tokens', LYRICS_DIR='data', BPE_VOCAB_SIZE=400, TRAIN_ITERS=4, EVAL_INTERVAL=4)
    for name in ('one', 'two'):
        write_songs(tmp_path / name / 'data' / 'lyrics1.json', SONGS)
        shutil.copy(path, tmp_path / name)
    return [tmp_path / name / path.name for name in ('one', 'two')]


def test_two_machines_without_a_shared_disk(machines):
    """Each builds its tokens; only the first has the checkpoints, and going on with them would mix two runs."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    options = ['--nnodes=2', '--rdzv-backend=c10d', f'--rdzv-endpoint=127.0.0.1:{port}']
    agents = [torchrun(path, 1, *options, standalone=False) for path in machines]
    done = [finished(agent) for agent in agents]
    assert [status for status, _, _ in done] == [0, 0], done
    first = 0 if done[0][1] else 1                                  # which of them it is, chance decides
    assert [line['step'] for line in log_lines(done[first][1])] == [0, 4] and not done[1 - first][1]
    assert all(len(list((path.parent / 'tokens').iterdir())) == 1 for path in machines)
    assert [(path.parent / 'run' / 'latest.pt').exists() for path in machines] == [first == 0, first == 1]


@pytest.mark.parametrize('here', [0, 1])
def test_latest_pt_on_one_machine_alone(here, machines):
    folders = [path.parent for path in machines]
    succeeded(group(machines[0], 2, folders=folders))
    (folders[0] / 'run' / 'latest.pt').rename(folders[here] / 'run' / 'latest.pt')
    for path in machines:
        change(path, TRAIN_ITERS=8)
    done = group(machines[0], 2, folders=folders)
    assert [one.status for one in done] == [1, 1], done
    for one in done:                                                # each machine's user reads it
        said, traceback = own_errors(one.err)
        assert len(said) == 1 and 'latest.pt 不同' in said[0] and not traceback, done
    assert read(folders[here] / 'run' / 'latest.pt')['step'] == 4 and not list(folders[here].glob('run/old-*'))


def test_other_data_on_one_machine(machines):
    """Would train on two things at once: other tokens have the same numbers."""
    folders = [path.parent for path in machines]
    write_songs(folders[1] / 'data' / 'lyrics1.json', SONGS[:-9])
    done = group(machines[0], 2, folders=folders)
    assert [one.status for one in done] == [1, 1] and all('不同' in one.err for one in done), done


def test_a_folder_of_its_own():
    folders = [re.search(r"^CHECKPOINT_DIR = '(.*?)'", (ROOT / f'{name}.py').read_text(encoding='utf-8'), re.M)[1] for name in RUNGS[-3:]]
    assert folders == ['checkpoints/v10_muon', 'checkpoints/v11_memmap', 'checkpoints/v12_ddp']
