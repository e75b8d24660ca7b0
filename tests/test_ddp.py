"""v10: several processes are one, a killed worker comes back, and the data stays on disk."""
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from conftest import environment, log_lines, run_script, write_songs
from test_checkpoint import assert_same, read

NAME = 'v10_ddp'
# Muon rounds to 16 bits, so that the last bit of a gradient soon shows in the losses: gentle steps keep it out of the first four decimals.
SAME = {'DROP_OUT': 0.0, 'N_EMBED': 64, 'BLOCK_SIZE': 64, 'BATCH_SIZE': 6, 'MICRO_BATCH_SIZE': 2, 'TRAIN_ITERS': 15, 'EVAL_INTERVAL': 3,
        'EVAL_ITERS': 3, 'LOG_INTERVAL': 3, 'WARMUP_ITERS': 10, 'MUON_LR': 2e-3, 'LEARNING_RATE': 5e-2, 'MIN_LR': 5e-2}
SONGS = [{'lyric': [f'第{i}首歌', '春风又绿江南岸', f'明月{i % 7}时照我还', '夜来风雨声' * (i % 5 + 1)]} for i in range(300)]


def torchrun(path, n, *options, env=None):
    """Start a script as torchrun's user does, on one machine."""
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={n}', *options, path.name]
    return subprocess.Popen(command, cwd=path.parent, env=environment(path.parent, env), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, encoding='utf-8', stdin=subprocess.DEVNULL)


def finished(process):
    out, err = process.communicate(timeout=280)
    return process.returncode, out, err


# ---------- several processes ----------
@pytest.fixture(scope='module')
def alone(tmp_path_factory, lyrics_dir):
    """The log lines and the logged losses and norms of one process, started without torchrun."""
    from conftest import TINY, edit
    path = edit(NAME, tmp_path_factory.mktemp('alone'), **(TINY | SAME | {'LYRICS_DIR': str(lyrics_dir)}))
    done = run_script(path)
    assert done.returncode == 0, done.stderr
    return log_lines(done.stdout), logged(path.parent)


def logged(folder):
    """(loss, norm of the gradient) of the training steps that TensorBoard holds."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    [run] = (folder / 'checkpoints/v10_ddp/tensorboard').iterdir()
    events = EventAccumulator(str(run))
    events.Reload()
    return [[event.value for event in events.Scalars(name)] for name in ('train/loss', 'grad_norm')]


@pytest.mark.parametrize('n', [2, 4])
def test_n_processes_give_the_losses_of_one(n, records, rung, alone, tmp_path):
    """6 windows in micro-batches of 2: two processes take 3 and 3, four take 2, 2, 1 and 1."""
    status, out, err = finished(torchrun(rung(NAME, **SAME), n))
    assert status == 0 and 'Traceback' not in err, err
    alone, (losses, norms) = alone
    lines = log_lines(out)                                          # each line once: one process prints
    assert [line['step'] for line in lines] == [line['step'] for line in alone] == [3, 6, 9, 12, 15]
    for ours, theirs in zip(lines, alone, strict=True):
        for key in ('train', 'test'):                               # printed with four decimals: at most one unit of the last
            assert ours[key] == pytest.approx(theirs[key], abs=1.01e-4)
    assert alone[0]['train'] - alone[-1]['train'] > 0.03            # and they did learn
    our_losses, our_norms = logged(tmp_path)
    assert len(losses) == 5 and our_losses == pytest.approx(losses, abs=1e-3)
    assert our_norms == pytest.approx(norms, rel=0.01)              # both optimizers would learn from a gradient of any size
    assert f'进程 {n}' in out and len(re.findall('训练前写的', out)) == 1
    assert len(list((tmp_path / 'wandb').glob('offline-run-*'))) == 1


def test_a_killed_worker_comes_back(rung, tmp_path):
    """torchrun starts the group again; it goes on from latest.pt and ends, to the bit, as if nothing had happened (dropout on).

    So does a run that had been asked to start anew."""
    constants = SAME | {'DROP_OUT': 0.2, 'SAVE_INTERVAL': 2, 'RESUME': False}
    for folder in ('calm', 'killed'):
        (tmp_path / folder).mkdir()
        path = rung(NAME, tmp_path / folder, **constants)
        if folder == 'killed':
            source = path.read_text(encoding='utf-8')
            line = '        loss, micro_batch_size = accumulate_gradients('
            assert source.count(line) == 1
            kill = ("        if it == 7 and RANK == 1 and not Path('was_killed').exists():\n"
                    "            Path('was_killed').touch(); os.kill(os.getpid(), 9)\n")
            path.write_text(source.replace(line, kill + line), encoding='utf-8')
        status, out, err = finished(torchrun(path, 2, '--max-restarts=1'))
        assert status == 0, err
    assert (tmp_path / 'killed/was_killed').exists() and '的第 6 步继续' in out
    a, b = (read(tmp_path / folder / 'checkpoints/v10_ddp/latest.pt') for folder in ('calm', 'killed'))
    assert len(a['rng']) == 2 and not torch.equal(a['rng'][0]['cpu'], a['rng'][1]['cpu'])     # each process its own dropout
    for key in ('model', 'optimizer', 'rng', 'step', 'best_test_loss'):
        assert_same(a[key], b[key], key)


def test_a_stop_signal_to_one_process_stops_all_after_the_same_step(rung, tmp_path):
    path = rung(NAME, **SAME)
    source = path.read_text(encoding='utf-8')
    line = '        loss, micro_batch_size = accumulate_gradients('
    stop = '        if it == 4 and RANK == 1: [signal.raise_signal(signal.SIGTERM) for _ in range(2)]\n'     # its own, and torchrun's
    path.write_text(source.replace(line, stop + line), encoding='utf-8')
    status, out, err = finished(torchrun(path, 2))
    assert status and '第 5 步已存入' in out and read(tmp_path / 'checkpoints/v10_ddp/latest.pt')['step'] == 5
    assert '错误' not in err


def test_nobody_leaves_before_the_stop_is_saved(rung, tmp_path):
    """torchrun stops the others as soon as one has left: the first must be done with latest.pt by then."""
    path = rung(NAME, **(SAME | {'EVAL_INTERVAL': 100}))
    source = path.read_text(encoding='utf-8')
    for line, before in {
            '        loss, micro_batch_size = accumulate_gradients(': 'if it == 4 and RANK == 1: signal.raise_signal(signal.SIGTERM)',
            "            save_checkpoint('latest.pt', checkpoint)": 'if RANK == 0: [a @ a for a in [torch.ones(700, 700)] * 200]',
            '                sys.exit(128 +': "if RANK: Path('left').write_text(str(Path(CHECKPOINT_DIR, 'latest.pt').exists()))"}.items():
        assert source.count(line) == 1
        source = source.replace(line, line[:len(line) - len(line.lstrip())] + before + '\n' + line)
    path.write_text(source, encoding='utf-8')
    assert finished(torchrun(path, 2))[0]
    assert (tmp_path / 'left').read_text() == 'True' and read(tmp_path / 'checkpoints/v10_ddp/latest.pt')['step'] == 5


def test_ctrl_c_on_torchrun_saves(rung, tmp_path):
    process = torchrun(rung(NAME, **(SAME | {'TRAIN_ITERS': 100000})), 2, env={'PYTHONUNBUFFERED': '1'})
    for line in process.stdout:
        if line.startswith('step '):
            break
    process.send_signal(signal.SIGINT)
    status, out, err = finished(process)
    step = int(re.search(r'第 (\d+) 步已存入', out)[1])
    assert status and read(tmp_path / 'checkpoints/v10_ddp/latest.pt')['step'] == step


@pytest.mark.parametrize(('constants', 'words'), [({'BATCH_SIZE': 1}, 'BATCH_SIZE = 1'), ({'LYRICS_DIR': 'nowhere'}, 'nowhere/'),
                                                  ({'LYRICS_DIR': 'broken'}, 'lyrics1.json')])
def test_an_error_is_said_once_and_nobody_waits(constants, words, rung, tmp_path):
    (tmp_path / 'broken').mkdir()
    (tmp_path / 'broken/lyrics1.json').write_text('[{"lyric": ["断了', encoding='utf-8')
    status, out, err = finished(torchrun(rung(NAME, **constants), 2))
    assert status and len(re.findall('^错误：', err, re.M)) == 1 and words in err and 'v10_ddp.py", line' not in err


@pytest.mark.parametrize('error', ["torch.OutOfMemoryError('CUDA out of memory')",
                                   "dist.DistBackendError('NCCL error\\nCuda failure 2 \"out of memory\"')"])
def test_the_process_that_runs_out_of_memory_says_so(error, rung, tmp_path):
    path = rung(NAME, **SAME)
    source = path.read_text(encoding='utf-8')
    line = '        loss, micro_batch_size = accumulate_gradients('
    oom = f'        if it == 3 and RANK == 1: raise {error}\n'
    path.write_text(source.replace(line, oom + line), encoding='utf-8')
    status, out, err = finished(torchrun(path, 2))
    assert status and len(re.findall('^错误：', err, re.M)) == 1 and '错误：显存或内存不够' in err
    assert '提示：进程 0 与别的进程断了联系' in err
    assert 'v10_ddp.py", line' not in err                           # and the other one leaves without a traceback


@pytest.mark.parametrize('n', [2, 3, 4])
def test_the_gradients_of_the_shares_add_up_to_the_batch(n, load):
    """Unequal shares (7 windows) and unequal micro-batches included."""
    module = load(NAME, BATCH_SIZE=7, DROP_OUT=0.0)
    torch.manual_seed(0)
    model = module.GPT(400)
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    scaler, data = torch.amp.GradScaler('cpu', enabled=False), np.arange(9000, dtype=np.uint16) % 400

    def gradients(world_size):
        module.WORLD_SIZE, total, grads = world_size, 0.0, [torch.zeros_like(p) for p in model.parameters()]
        for module.RANK in range(world_size):
            loss, _ = module.accumulate_gradients(model, scaler, *module.get_batch(data, 5), 2)
            total += loss
            grads = [a + p.grad for a, p in zip(grads, model.parameters(), strict=True)]
        return total, grads

    (one, expected), (many, summed) = gradients(1), gradients(n)
    assert many == pytest.approx(one, abs=1e-5) and one > 1
    for a, b in zip(expected, summed, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_the_processes_share_each_batch(load):
    module = load(NAME, BATCH_SIZE=7)
    data = np.arange(5000, dtype=np.uint16)
    whole, _ = module.get_batch(data, 3)
    module.WORLD_SIZE, parts, passed = 3, [], []
    for module.RANK in range(3):
        x, y = module.get_batch(data, 3)
        assert torch.equal(x + 1, y) and x.is_contiguous() and y.is_contiguous()
        parts.append(x)
        passed += [y[y != -100].tolist() for _, y in module.all_batches(data[:32 * 9 + 6], 2)]
    assert [len(part) for part in parts] == [3, 2, 2]
    assert sorted(torch.cat(parts).tolist()) == sorted(whole.tolist())
    assert sorted(sum(passed, [])) == list(range(1, 32 * 9 + 6))    # one pass over the test split: every token once


# ---------- data on disk ----------
def build(module):
    module.load_data()
    [folder] = [path for path in module.Path(module.LYRICS_DIR).glob('tokens_*') if not path.name.endswith('.unfinished')]
    return folder


def test_split_and_tokens(load, capsys):
    """Each song is in one half alone, with the separator after it; characters count the separators."""
    module = load(NAME)
    tokenizer, train, test, chars = module.load_data()
    assert isinstance(train, np.memmap) and train.dtype == np.uint16
    halves = [tokenizer.decode(part.tolist()) for part in (train, test)]
    songs = list(module.documents(module.data_files()))
    assert len(songs) == 576 and (train == tokenizer.eos_id()).sum() + (test == tokenizer.eos_id()).sum() == 576
    assert 0.85 < (train == tokenizer.eos_id()).sum() / 576 < 0.95
    assert halves == [''.join(text for text, chance in songs if (chance >= 0.1) == train_half) for train_half in (True, False)]
    assert chars == sum(len(text) + 1 for text, chance in songs if chance < 0.1)
    assert '歌曲 576 ' in capsys.readouterr().out


def test_the_split_depends_on_the_text_and_the_seed_alone(load, tmp_path):
    write_songs(tmp_path / 'one/lyrics1.json', SONGS)
    write_songs(tmp_path / 'two/lyrics1.json', SONGS[150:] + SONGS[:20])      # another order, in two files, some of them twice
    write_songs(tmp_path / 'two/lyrics2.json', SONGS[:150])
    module = load(NAME)
    chances = []
    for module.LYRICS_DIR in (tmp_path / 'one', tmp_path / 'two'):
        chances.append(dict(module.documents(module.data_files())))
        assert len(chances[-1]) == len(list(module.documents(module.data_files()))) == 300
    module.SEED += 1
    assert chances[0] == chances[1] and chances[0] != dict(module.documents(module.data_files()))


def test_built_once_and_anew_when_the_data_change(load, tmp_path):
    module = load(NAME, LYRICS_DIR=str(tmp_path / 'data'), BPE_VOCAB_SIZE=400)
    write_songs(tmp_path / 'data/lyrics1.json', SONGS)
    folder = build(module)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert build(module) == folder and before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    size = len(module.load_data()[1])
    write_songs(tmp_path / 'data/lyrics2.json', [{'lyric': ['多了一首' * 30]}, {'lyric': ['又多了一首' * 30]}, {'lyric': ['还有' * 30]}])
    assert len(module.load_data()[1]) > size
    module.BPE_VOCAB_SIZE = 390
    assert len(module.load_data()[0]) == 390


def test_built_anew_when_the_cleaning_changes(rung, tmp_path):
    write_songs(tmp_path / 'data/lyrics1.json', SONGS)
    path = rung(NAME, LYRICS_DIR=str(tmp_path / 'data'), BPE_VOCAB_SIZE=400, TRAIN_ITERS=1, EVAL_INTERVAL=1)
    assert run_script(path).returncode == 0
    source = path.read_text(encoding='utf-8')
    line = '    seen = sqlite3.connect('                            # in documents()
    assert source.count(line) == 1
    path.write_text(source.replace(line, '    # changed\n' + line).replace('TRAIN_ITERS = 1\n', 'TRAIN_ITERS = 2\n'), encoding='utf-8')
    assert run_script(path).returncode == 0
    assert len(list((tmp_path / 'data').glob('tokens_*'))) == 2


def test_more_processes_than_gpus_are_refused(load, monkeypatch):
    module = load(NAME)
    monkeypatch.setattr(module.torch.cuda, 'device_count', lambda: 1)
    module.GPU, module.WORLD_SIZE, module.DEVICE = True, 2, 'cuda:0'
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    with pytest.raises(SystemExit, match='有 1 块 GPU'):
        module.check_constants()
    monkeypatch.setattr(module.torch.cuda, 'device_count', lambda: 2)
    module.DEVICE = 'cuda:1'                                        # all of them on one card; not every launcher sets the variable
    monkeypatch.delenv('LOCAL_WORLD_SIZE')
    with pytest.raises(SystemExit, match='请不要改 DEVICE'):
        module.check_constants()


def test_a_device_that_does_not_work_is_said_by_its_own_process(load):
    """The other processes may have a card that works, and the first one is not the one to say it."""
    module = load(NAME, DEVICE='cuda:7')
    module.LOCAL_RANK = 1
    with pytest.raises(SystemExit, match="^错误：DEVICE = 'cuda:7'.*CUDA_VISIBLE_DEVICES"):
        module.check_constants()


@pytest.mark.parametrize('how', ['error', 'full disk', 'kill'])
def test_an_interrupted_build_is_never_taken_for_a_finished_one(how, load, rung, tmp_path, monkeypatch):
    write_songs(tmp_path / 'data/lyrics1.json', SONGS)
    constants = {'LYRICS_DIR': str(tmp_path / 'data'), 'BPE_VOCAB_SIZE': 400}
    module = load(NAME, **constants)
    if how == 'error':                                              # while the last file is being written
        with monkeypatch.context() as patch:
            patch.setattr(module.json, 'dumps', lambda *arguments: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                module.load_data()
        assert not list((tmp_path / 'data').glob('tokens_*'))       # nothing is left behind
    elif how == 'full disk':                                        # for a moment: only the tokens do not fit
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        islice = module.itertools.islice

        def first_batch(*arguments):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
            return islice(*arguments)
        with monkeypatch.context() as patch:
            patch.setattr(module.itertools, 'islice', first_batch)
            patch.setattr(module.Path, 'write_bytes', lambda path, data, write=module.Path.write_bytes:
                          resource.setrlimit(resource.RLIMIT_FSIZE, limits) or write(path, data))
            try:
                with pytest.raises(OSError):
                    module.load_data()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not list((tmp_path / 'data').glob('tokens_*'))
    else:
        path = rung(NAME, **constants)
        source = path.read_text(encoding='utf-8')
        line = "        (temporary / 'bpe.model').write_bytes("
        assert source.count(line) == 1
        path.write_text(source.replace(line, '        os.kill(os.getpid(), 9)\n' + line), encoding='utf-8')
        assert run_script(path).returncode == -9
        assert [path.suffix for path in (tmp_path / 'data').glob('tokens_*')] == ['.unfinished']
    assert len(module.load_data()[1]) > 1000 and build(module).is_dir()


def test_two_runs_that_build_the_same_tokens_at_once(load, tmp_path, monkeypatch):
    """The other one is done first, at the last moment: its tokens are used, and nothing is left behind."""
    write_songs(tmp_path / 'lyrics1.json', SONGS)
    module = load(NAME, LYRICS_DIR=str(tmp_path), BPE_VOCAB_SIZE=400)

    def rename(source, target, rename=module.Path.rename):
        shutil.copytree(source, target)
        return rename(source, target)
    monkeypatch.setattr(module.Path, 'rename', rename)
    assert len(module.load_data()[1]) > 1000 and build(module).is_dir() and len(list(tmp_path.glob('tokens_*'))) == 1


def machines(path, folders):
    """One process on each of some "machines": folders of their own, nothing shared."""
    with socket.socket() as free:
        for port in range(20000 + os.getpid() % 10000, 32000):      # below the ports that outgoing connections take
            try:
                free.bind(('127.0.0.1', port))
                break
            except OSError:
                continue
    processes = []
    for rank, folder in enumerate(folders):
        shutil.copy(path, folder)
        variables = {'RANK': rank, 'LOCAL_RANK': 0, 'WORLD_SIZE': len(folders), 'LOCAL_WORLD_SIZE': 1, 'MASTER_ADDR': '127.0.0.1',
                     'MASTER_PORT': port}
        env = environment(folder, {name: str(value) for name, value in variables.items()})
        processes.append(subprocess.Popen([sys.executable, path.name], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                          text=True, encoding='utf-8', stdin=subprocess.DEVNULL))
    return [finished(process) for process in processes]


@pytest.mark.parametrize('same', [True, False])
def test_machines_without_a_shared_disk(same, rung, tmp_path):
    """Each builds its own tokens; if the data differ, all of them stop, and each says why."""
    folders = [tmp_path / 'one', tmp_path / 'two']
    for number, folder in enumerate(folders):
        write_songs(folder / 'data/lyrics1.json', SONGS if same or not number else SONGS[:-9])
    done = machines(rung(NAME, **(SAME | {'LYRICS_DIR': 'data', 'BPE_VOCAB_SIZE': 400, 'TRAIN_ITERS': 3})), folders)
    for (status, _, err), folder in zip(done, folders, strict=True):
        assert len(list((folder / 'data').glob('tokens_*'))) == 1
        assert (status == 0) == same and (same or '数据不同' in err and 'Traceback' not in err), err
    assert len(log_lines(done[0][1])) == (1 if same else 0) and not done[1][1]
    if same:                                                        # only the first has the checkpoint: going on would mix two runs
        path = rung(NAME, **(SAME | {'LYRICS_DIR': 'data', 'BPE_VOCAB_SIZE': 400, 'TRAIN_ITERS': 6}))
        for status, _, err in machines(path, folders):
            assert status == 1 and 'latest.pt 不同' in err and 'Traceback' not in err, err


def test_a_vocabulary_that_16_bits_cannot_hold_is_refused(rung):
    done = run_script(rung(NAME, BPE_VOCAB_SIZE=65536))
    assert done.returncode == 1 and '最多 65535' in done.stderr and len(done.stderr.splitlines()) == 1


def test_files_are_read_as_a_stream(load, tmp_path):
    """12 MB of songs: the same as json.loads gives, in a fraction of the memory."""
    rng = random.Random(0)
    lines = [''.join(chr(rng.randrange(0x4e00, 0x6000)) for _ in range(20)) for _ in range(9000)]
    songs = [{'name': '"[{,', 'lyric': rng.choices(lines, k=rng.randrange(1, 90))} for _ in range(4500)]
    songs[7]['lyric'] = ['很长' * 900_000]                           # a song larger than what is read at once
    path = write_songs(tmp_path / 'lyrics1.json', songs)
    assert path.stat().st_size > 12e6
    module = load(NAME)
    expected = [module.clean('\n'.join(song['lyric'])) for song in songs]
    assert list(module.read_lyrics(path)) == expected
    del songs[7], expected
    write_songs(path, songs)
    tracemalloc.start()
    assert sum(1 for _ in module.read_lyrics(path)) == 4499
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.2 * path.stat().st_size


BROKEN = {
    'truncated in a song': ('[{"lyric": ["一"]}, {"lyric": ["断', '第 2 首'),
    'truncated between songs': ('[{"lyric": ["一"]},', '第 2 首'),
    'empty': ('', 'JSON'),
    'not an array': ('{"lyric": ["一"]}', '数组'),
    'a song without lyric': ('[{"lyric": ["一"]}, {"name": "无词"}]', '第 2 首'),
    'entries are strings': ('["一"]', '第 1 首'),
    'lyric of numbers': ('[{"lyric": [1]}]', '第 1 首'),
    'garbage': ('[{"lyric": ["一"]} 乱码]', '第 2 首'),
    'two arrays': ('[{"lyric": ["一"]}]\n[{"lyric": ["二"]}]', '后面还有内容'),
    'nested too deep': ('[' + '[' * 200_000, 'lyrics1.json'),
    'no songs': ('[]', '0 首'),
    'only credits': ('[{"lyric": ["作词：某人"]}]', '0 首'),
}


@pytest.mark.parametrize('case', BROKEN)
def test_broken_data(case, load, tmp_path):
    text, word = BROKEN[case]
    (tmp_path / 'lyrics1.json').write_text(text, encoding='utf-8')
    module = load(NAME, LYRICS_DIR=str(tmp_path))
    with pytest.raises(SystemExit, match=word) as stop:
        module.load_data()
    assert stop.value.code.startswith('错误：') and not list(tmp_path.glob('tokens_*'))
    assert tmp_path.name in stop.value.code


def test_a_mistake_in_a_large_file_does_not_fill_the_memory(load, tmp_path):
    with open(tmp_path / 'lyrics1.json', 'w', encoding='utf-8') as file:
        file.write('[{"lyric": ["a"]}, {"lyric": [oops')
        file.writelines(['x' * 2**20] * 100)
    module = load(NAME, LYRICS_DIR=str(tmp_path))
    tracemalloc.start()
    with pytest.raises(SystemExit, match='第 2 首'):
        module.load_data()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6                                             # of a file of 105 MB, whose end would be read too


def test_another_encoding(load, tmp_path):
    for name in ('lyrics1.json', 'one.txt'):
        (tmp_path / name).write_bytes(json.dumps(SONGS, ensure_ascii=False).encode('gbk'))
        with pytest.raises(SystemExit, match=f'{name} 不是 UTF-8'):
            load(NAME, LYRICS_DIR=str(tmp_path)).load_data()
        (tmp_path / name).unlink()


def test_plain_text(load, tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a/one.txt').write_text('一篇，两行\n第二行\n', encoding='utf-8-sig')
    (tmp_path / 'b.txt').write_text('\n\n甲\n乙\n  \n\n丙\n', encoding='utf-8')
    (tmp_path / 'tiny.txt').write_text('Once upon\n\na time\n<|endoftext|>\nThe end\n<|endoftext|>\n', encoding='utf-8')
    (tmp_path / 'inline.txt').write_text('One.<|endoftext|>Two,\n\nand ' + 'long ' * 1000 + '<|endoftext|>\n', encoding='utf-8')
    (tmp_path / 'late.txt').write_text('x' * 70_000 + '<|endoftext|>' + 'late', encoding='utf-8')     # the first marker comes late
    (tmp_path / 'no_line_break.txt').write_text('长' * 2_000 + '短' * 3_000, encoding='utf-8')
    write_songs(tmp_path / 'lyrics1.json', [{'lyric': ['一首歌']}])
    module = load(NAME, LYRICS_DIR=str(tmp_path))
    texts = [text for text, _ in module.documents(module.data_files())]
    inline = ['One.', 'Two,\nand ' + ('long ' * 1000).strip()]
    late = ['x' * 20_000, 'x' * 10_000, 'late']                      # of equal pieces one is kept
    cut = ['长' * 2_000, '短' * 2_000, '短' * 1_000]
    assert texts == ['一篇，两行\n第二行', '甲\n乙', '丙', *inline, *late, '一首歌', *cut, 'Once upon\na time', 'The end']


def test_a_suffix_in_capitals(load, tmp_path):
    """Windows finds it with *.txt."""
    (tmp_path / 'NOVEL.TXT').write_text('一篇\n\n又一篇\n', encoding='utf-8')
    module = load(NAME, LYRICS_DIR=str(tmp_path))
    assert sorted(text for text, _ in module.documents([tmp_path / 'NOVEL.TXT'])) == ['一篇', '又一篇']


def test_trains_on_plain_text(rung, tmp_path):
    (tmp_path / 'data').mkdir()
    rng = random.Random(0)
    words = ['once', 'upon', 'a', 'time', 'the', 'cat', 'sat']
    stories = ['\n'.join(' '.join(rng.choices(words, k=9)) for _ in range(5)) for _ in range(200)]
    (tmp_path / 'data/stories.txt').write_text('\n\n'.join(stories), encoding='utf-8')
    done = run_script(rung(NAME, LYRICS_DIR='data', BPE_VOCAB_SIZE=300))
    assert done.returncode == 0 and '歌曲 200 ' in done.stdout and len(log_lines(done.stdout)) == 2, done.stderr


def test_the_tokenizer_learns_from_a_bounded_sample(load, tmp_path, monkeypatch):
    write_songs(tmp_path / 'lyrics1.json', SONGS)
    module = load(NAME, LYRICS_DIR=str(tmp_path), BPE_VOCAB_SIZE=400, TOKENIZER_BYTES=(tmp_path / 'lyrics1.json').stat().st_size // 4)
    seen = []
    monkeypatch.setattr(module, 'train_tokenizer', lambda songs, train=module.train_tokenizer: seen.extend(songs) or train(songs))
    module.load_data()
    chances = dict(module.documents(module.data_files()))
    training = sorted((text for text in chances if chances[text] >= 0.1), key=chances.get)
    assert sorted(seen, key=chances.get) == training[:len(seen)]    # those with the smallest numbers: a random sample
    size = sum(len(text.encode()) for text in seen)
    assert size <= module.TOKENIZER_BYTES < size + len(training[len(seen)].encode())


def test_a_few_songs_of_a_large_corpus_teach_the_tokenizer(load, tmp_path, monkeypatch):
    """MAX_SONGS, and songs that occur many times, count for what is left of them."""
    write_songs(tmp_path / 'lyrics1.json', SONGS[:40] * 50)
    for name, songs in (('MAX_SONGS', 20), ('repeated', None)):
        module, seen = load(NAME, LYRICS_DIR=str(tmp_path), BPE_VOCAB_SIZE=400, MAX_SONGS=songs, TOKENIZER_BYTES=6000), []
        monkeypatch.setattr(module, 'train_tokenizer', lambda songs, seen=seen: seen.extend(songs) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            module.load_data()
        training = [text for text, chance in module.documents(module.data_files()) if chance >= 0.1]
        assert sorted(seen) == sorted(training) and len(seen) > 15, name


def test_workers_get_the_path_and_not_the_tokens(load, tmp_path):
    module = load(NAME, TRAIN_ITERS=6)
    np.arange(60_000, dtype=np.uint16).tofile(tmp_path / 'train.bin')
    data = np.memmap(tmp_path / 'train.bin', dtype=np.uint16, mode='r')
    assert len(pickle.dumps(module.TrainBatches(data).__dict__)) < 1000
    plain = [x for x, _ in module.train_loader(data, 2)]
    assert len(plain) == 4 and all(torch.equal(x, module.get_batch(data, it)[0]) for it, x in enumerate(plain, 2))
    module.NUM_WORKERS = 2
    assert all(torch.equal(a, b) for a, (b, _) in zip(plain, module.train_loader(data, 2), strict=True))


def test_max_songs(load, tmp_path):
    write_songs(tmp_path / 'lyrics1.json', SONGS)
    for number in (50, 0):
        module = load(NAME, LYRICS_DIR=str(tmp_path), MAX_SONGS=number)
        assert len(list(module.documents(module.data_files()))) == number
