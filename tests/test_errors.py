"""What a user can meet ends with one clear line in Chinese and exit status 1: no traceback, nothing half-written."""
import json
import re
import signal

import pytest
import torch
from conftest import inject, level, run_script, start_script, wait_for

SONGS = [{'lyric': [f'第{i}首歌', '春风又绿江南岸', '明月何时照我还'] * 3} for i in range(60)]


def one_line(message, *words):
    assert message.startswith('错误：') and len(message.strip().splitlines()) == 1, message
    for word in words:
        assert word in message, message


def refused(done, *words):
    """A process that ended as it should."""
    assert done.returncode == 1, done.stdout + done.stderr
    one_line(done.stderr, *words)


def refuses(function, *words):
    """The same in this process: faster."""
    with pytest.raises(SystemExit) as stop:
        function()
    one_line(stop.value.code, *words)


# ---------- data ----------
def test_no_data(rung, load):
    refused(run_script(rung('v0_char_english', INPUT_FILE='nowhere.txt')), 'nowhere.txt')
    refused(run_script(rung('v0_char_chinese', LYRICS_DIR='nowhere')), 'nowhere/sample.json')
    refuses(load('v10_muon', LYRICS_DIR='nowhere').main, 'nowhere/sample.json')


def test_text_in_another_encoding(load, tmp_path):
    (tmp_path / 'gbk.txt').write_bytes('床前明月光'.encode('gbk') * 100)
    refuses(load('v0_char_english', INPUT_FILE=str(tmp_path / 'gbk.txt')).main, 'gbk.txt', 'UTF-8')


def encode(songs):
    return json.dumps(songs, ensure_ascii=False, indent=0).encode()


BROKEN = {                                                          # what is in the file, what the message names beside the file
    'truncated': (encode(SONGS)[:-30], ['line 7']),
    'empty': (b'', ['line 1']),
    'JSON Lines': ('\n'.join(map(json.dumps, SONGS)).encode(), ['line 2']),
    'comma at the end': (encode(SONGS[:1])[:-1] + b',\n]', ['line 16']),
    'stray byte': (encode(SONGS)[:1000] + b'\xff' + encode(SONGS)[1000:], ['1000']),
    'GBK': (json.dumps(SONGS, ensure_ascii=False).encode('gbk'), ['UTF-8']),
    'not an array': (encode({'songs': SONGS}), ['第 1 首', 'ChineseLyrics/README.md']),
    'no song has lyrics': (encode([{'name': '无词'}, {'lyric': None}, {'lyric': []}]), ['没有一首', 'lyric']),
    'no song at all': (b'[]', ['没有一首']),
    'the fourth is a string': (encode([*SONGS[:3], '一首歌']), ['第 4 首']),
    'the fourth has numbers': (encode([*SONGS[:3], {'lyric': [1, 2]}]), ['第 4 首']),
}


@pytest.mark.parametrize('case', BROKEN)
def test_broken_lyrics(case, load, tmp_path):
    content, words = BROKEN[case]
    (tmp_path / 'lyrics1.json').write_bytes(encode(SONGS[:9]))
    (tmp_path / 'lyrics2.json').write_bytes(content)
    refuses(load('v0_char_chinese', LYRICS_DIR=str(tmp_path)).load_songs, 'lyrics2.json', *words)


@pytest.mark.parametrize('name', ['v0_char_chinese', 'v1_bpe_rope', 'v10_muon'])
@pytest.mark.parametrize('songs', [[{'lyric': ['短']}], [{'lyric': ['短']}, {'lyric': ['长']}], [{'lyric': ['作词：某人']}], SONGS[:3]])
def test_too_few_songs(name, songs, load, tmp_path):
    (tmp_path / 'lyrics.json').write_bytes(encode(songs))
    constants = {'BPE_VOCAB_SIZE': 300} if level(name) else {}
    refuses(load(name, LYRICS_DIR=str(tmp_path), BLOCK_SIZE=64, **constants).main, '太少')
    assert not list(tmp_path.rglob('*.pt'))


@pytest.mark.parametrize('name', ['v0_char_english', 'v0_char_chinese', 'v10_muon'])
def test_data_shorter_than_a_window(name, load):
    refuses(load(name, BLOCK_SIZE=500_000).main, '太少', 'BLOCK_SIZE = 500000')


# ---------- constants that would fail in a baffling way ----------
@pytest.mark.parametrize('name', ['v0_char_english', 'v0_char_rope', 'v4_flash_optim', 'v9_llama'])
def test_width_not_divisible_by_heads(name, load):
    constants = {'N_KV_HEADS': 3} if level(name) >= 9 else {}
    refuses(lambda: load(name, N_EMBED=32, N_HEADS=3, **constants).GPT(99), 'N_EMBED = 32', 'N_HEADS = 3')


@pytest.mark.parametrize('name', ['v0_char_rope', 'v9_llama'])
def test_an_odd_head_size_with_rope(name, load):
    refuses(lambda: load(name, N_EMBED=30, N_HEADS=2).GPT(99), '15', '奇数')


def test_an_odd_head_size_is_fine_without_rope(load):
    load('v0_char_english', N_EMBED=30, N_HEADS=2).GPT(99)(torch.zeros(1, 5, dtype=torch.long))


def test_heads_not_divisible_by_kv_heads(load):
    refuses(lambda: load('v9_llama', N_EMBED=64, N_HEADS=4, N_KV_HEADS=3).GPT(99), 'N_HEADS = 4', 'N_KV_HEADS = 3')


@pytest.mark.parametrize('size', [100, 259, 260])
def test_a_vocabulary_that_is_too_small(size, load, tmp_path):
    (tmp_path / 'lyrics.json').write_bytes(encode(SONGS))
    refuses(load('v1_bpe_rope', LYRICS_DIR=str(tmp_path), BPE_VOCAB_SIZE=size).main, f'BPE_VOCAB_SIZE = {size}')


# ---------- training ----------
@pytest.mark.parametrize('name', ['v0_char_english', 'v3_gpt2_amp', 'v7_grad_accum', 'v10_muon'])
def test_a_run_that_diverges(name, load):
    constants = {'MUON_LR': 1e30} if level(name) >= 10 else {}
    refuses(load(name, LEARNING_RATE=1e30, TRAIN_ITERS=30, **constants).main, '不是有限的数', '学习率')


@pytest.mark.parametrize(('name', 'constant'), [('v0_char_english', 'BATCH_SIZE'), ('v6_wandb', 'BATCH_SIZE'),
                                                ('v10_muon', 'MICRO_BATCH_SIZE')])
def test_out_of_memory(name, constant, rung):
    """In the middle of training: with the loader's workers, and with wandb."""
    workers = {'NUM_WORKERS': 2} if level(name) else {}
    path = inject(rung(name, **workers), 'logits = self.lm_head(', "if self.training: raise torch.OutOfMemoryError('CUDA out of memory')")
    refused(run_script(path), '显存', f' {constant}（现在是 4）')


@pytest.mark.parametrize('name', ['v0_char_english', 'v5_checkpoint'])
def test_ctrl_c_where_nothing_can_be_saved(name, rung):
    """In v0 at any time; from v5 on before training begins."""
    path = rung(name, TRAIN_ITERS=10**6)
    if name == 'v5_checkpoint':
        path = inject(path, 'tokenizer, train_data, test_data', "print('step waits'); time.sleep(100)")
    with start_script(path) as process:
        seen = wait_for(process, r'^step ')
        process.send_signal(signal.SIGINT)
        seen += process.stdout.read()
    assert process.returncode == 1 and 'Traceback' not in seen and re.search(r'^错误：已中断$', seen, re.M)


def test_what_a_terminal_cannot_show(rung):
    done = run_script(rung('v0_char_chinese'), env={'PYTHONUTF8': '0', 'PYTHONIOENCODING': 'ascii', 'LC_ALL': 'C'})
    assert (done.returncode, done.stderr) == (0, '') and '?' in done.stdout


# ---------- saving ----------
@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), RuntimeError('PytorchStreamWriter failed writing file')])
@pytest.mark.parametrize('half', [b'', b'half'])
def test_a_full_disk_leaves_the_old_files_whole(error, half, load, tmp_path, monkeypatch):
    module = load('v5_checkpoint')
    (tmp_path / 'checkpoints').mkdir()
    (tmp_path / 'checkpoints' / 'latest.pt').write_bytes(b'old')

    def save(checkpoint, file):
        file.write(half)
        raise error
    monkeypatch.setattr(torch, 'save', save)
    refuses(lambda: module.save_checkpoint('latest.pt', {}), 'checkpoints/latest.pt', str(error), '磁盘')
    assert (tmp_path / 'checkpoints' / 'latest.pt').read_bytes() == b'old'
    monkeypatch.undo()
    module.save_checkpoint('latest.pt', {'step': 1})                # what was left behind is in nobody's way
    assert torch.load(tmp_path / 'checkpoints' / 'latest.pt') == {'step': 1}
    assert [path.name for path in (tmp_path / 'checkpoints').iterdir()] == ['latest.pt']


def test_a_disk_that_fills_up_during_a_run(rung, tmp_path):
    """As a limit on the size of files, so that the write really fails."""
    path = rung('v6_wandb', EVAL_INTERVAL=5, NUM_WORKERS=2)
    limit = 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)'
    inject(path, 'x, y = next(batches)', f'if step == 8: {limit}')
    refused(run_script(path), 'checkpoints/', 'latest.pt')
    assert torch.load(tmp_path / 'checkpoints' / 'latest.pt')['step'] == 5
