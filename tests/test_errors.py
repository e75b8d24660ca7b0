"""What a user can get wrong ends with one clear message in Chinese and exit status 1: no traceback, nothing half-written."""
import json
import shutil

import pytest
from conftest import BPE, CHINESE, ROOT, ROPE, RUNGS, level, log_lines, run_script

# The rungs whose training loop differs from that of the rung below; the others have it to the letter.
LOOPS = ['v0_char_english', 'v2_cosine_lr', 'v3_gpt2_amp', 'v4_flash_optim', 'v5_checkpoint', 'v6_wandb', 'v7_grad_accum', 'v9_muon',
         'v10_ddp']
SONGS = [{'name': str(i), 'singer': '某', 'lyric': [f'第{i}首歌', '春风又绿江南岸', '明月何时照我还'] * 3} for i in range(60)]


def refused(path, *words, env=None):
    """Run a script that must end with one message that holds all of `words`."""
    before = set(path.parent.rglob('*'))
    done = run_script(path, env=env)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith('错误：') and len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    written = {p.name for p in set(path.parent.rglob('*')) - before if p.is_file()}
    assert not [name for name in written if name.endswith(('.tmp', '.pt'))], written
    return done


@pytest.fixture
def refuses(rung, load):
    """refuses(name, *words, **constants): a few rungs as a process; the others, which share the code to the letter, in this one: faster."""
    def check(name, *words, **constants):
        if name in ('v0_char_english', 'v0_char_rope', 'v6_wandb'):
            return refused(rung(name, **constants), *words)
        with pytest.raises(SystemExit) as stop:
            load(name, **constants).main()
        assert stop.value.code.startswith('错误：') and '\n' not in stop.value.code
        for word in words:
            assert word in stop.value.code
    return check


def with_data(rung, name, tmp_path, content, file='lyrics1.json', **constants):
    folder = tmp_path / 'ChineseLyrics'
    folder.mkdir()
    if content is not None:
        (folder / file).write_bytes(content)
    if name in BPE:
        constants = {'BPE_VOCAB_SIZE': 400} | constants
    return rung(name, LYRICS_DIR='ChineseLyrics', **constants)


def encode(songs):
    return json.dumps(songs, ensure_ascii=False).encode()


@pytest.mark.parametrize('name', CHINESE)
def test_no_data_at_all(name, refuses):
    refuses(name, 'nowhere/', 'sample.json', 'README.md', LYRICS_DIR='nowhere')


def test_no_input_file(rung):
    refused(rung('v0_char_english', INPUT_FILE='nowhere.txt'), 'nowhere.txt', 'INPUT_FILE')


def test_input_file_in_another_encoding(rung, tmp_path):
    (tmp_path / 'gbk.txt').write_bytes('床前明月光' .encode('gbk') * 100)
    refused(rung('v0_char_english', INPUT_FILE='gbk.txt'), 'gbk.txt', 'UTF-8')


BROKEN = {
    'empty folder': (None, ['ChineseLyrics/', 'README.md']),
    'truncated': (encode(SONGS)[:-100], ['lyrics1.json', 'JSON', '重新下载']),
    'empty file': (b'', ['lyrics1.json', 'JSON']),
    'not an array': (encode({'songs': SONGS}), ['lyrics1.json', '数组']),
    'gbk': (json.dumps(SONGS, ensure_ascii=False).encode('gbk'), ['lyrics1.json', 'UTF-8', 'GBK']),
    'no lyric': (encode(SONGS[:3] + [{'name': '无词'}]), ['lyrics1.json', '第 4 首', '"lyric"']),
    'entries are strings': (encode(['一首歌']), ['lyrics1.json', '第 1 首', '"lyric"']),
    'lyric of numbers': (encode([{'lyric': [1, 2]}]), ['lyrics1.json', '第 1 首']),
    'lyric is null': (encode([{'lyric': None}]), ['lyrics1.json', '第 1 首']),
    'no songs': (b'[]', ['ChineseLyrics/', '0 首']),
    'only credits': (encode([{'lyric': ['作词：某人']}]), ['ChineseLyrics/', '0 首']),
    'one song': (encode([{'lyric': ['短']}]), ['ChineseLyrics/', '1 首']),
    'two short songs': (encode([{'lyric': ['短']}, {'lyric': ['长']}]), ['BLOCK_SIZE = 32']),
}


@pytest.mark.parametrize('case', BROKEN)
def test_broken_data(case, rung, load, tmp_path):
    """v6, now and then as a process; v0, which reads songs with the same function."""
    content, words = BROKEN[case]
    path = with_data(rung, 'v6_wandb', tmp_path, content)
    if case in ('truncated', 'gbk', 'two short songs'):
        refused(path, *words)
    for name, constants in (('v0_char_chinese', {}), ('v6_wandb', {'BPE_VOCAB_SIZE': 400, 'CHECKPOINT_DIR': str(tmp_path / 'c')})):
        with pytest.raises(SystemExit) as stop:
            load(name, LYRICS_DIR=str(tmp_path / 'ChineseLyrics'), **constants).main()
        assert stop.value.code.startswith('错误：') and all(word in stop.value.code for word in words)
    assert not list(tmp_path.rglob('*.pt')) and not list(tmp_path.rglob('*.tmp'))


def test_a_string_for_lyric_is_taken_by_its_lines(rung, tmp_path):
    songs = [{'lyric': '\n'.join(song['lyric'])} for song in SONGS]
    done = run_script(with_data(rung, 'v2_cosine_lr', tmp_path, encode(songs)))
    assert done.returncode == 0 and '歌曲 60 ' in done.stdout


@pytest.mark.parametrize('name', RUNGS)
def test_corpus_shorter_than_a_window(name, refuses):
    refuses(name, 'BLOCK_SIZE = 50000', '测试部分', '改小', BLOCK_SIZE=50000)


@pytest.mark.parametrize('name', RUNGS)
def test_width_not_divisible_by_heads(name, refuses):
    refuses(name, 'N_EMBED = 32', 'N_HEADS = 3', N_EMBED=32, N_HEADS=3)


@pytest.mark.parametrize('name', ROPE)
def test_odd_head_size_with_rope(name, refuses):
    refuses(name, '15', 'RoPE', N_EMBED=30, N_HEADS=2)


def test_odd_head_size_is_fine_without_rope(rung):
    assert run_script(rung('v0_char_chinese', N_EMBED=30, N_HEADS=2)).returncode == 0


@pytest.mark.parametrize('constants', [{'BPE_VOCAB_SIZE': 100}, {'BPE_VOCAB_SIZE': -1}, {'BPE_VOCAB_SIZE': 4000.5}, {'TRAIN_ITERS': 0},
                                       {'BATCH_SIZE': -3}, {'EVAL_INTERVAL': 0}, {'SAVE_INTERVAL': 0}, {'N_HEADS': 0}, {'TEMPERATURE': 0},
                                       {'DEVICE': 'cuda:7'}, {'DEVICE': 'gpu'}, {'DROP_OUT': 1.0}, {'DROP_OUT': -0.1}, {'MAX_SONGS': 0},
                                       {'DROP_OUT': None}, {'MAX_SONGS': 1e4}, {'MAX_SONGS': '9'}, {'MIN_LR': 0.5}, {'MIN_LR': None},
                                       {'MIN_LR': -1e-4}, {'AMP_DTYPE': 'fp8'}, {'GRAD_CLIP': 0}, {'GRAD_CLIP': None}, {'NUM_WORKERS': -1},
                                       {'PREFETCH_FACTOR': 0}, {'WARMUP_ITERS': None}, {'WARMUP_ITERS': -1}, {'WEIGHT_DECAY': None},
                                       {'WEIGHT_DECAY': -0.1}, {'LEARNING_RATE': '3e-4'}, {'LEARNING_RATE': -1}, {'MAX_NEW_TOKENS': 1e3},
                                       {'TEMPERATURE': None}])
def test_useless_constants(constants, refuses):
    [(name, value)] = constants.items()
    refuses('v5_checkpoint', f'{name} = {value!r}', **constants)


def test_constants_at_their_limits(load):
    load('v4_flash_optim', DROP_OUT=0, MAX_SONGS=1, MIN_LR=3e-3, LEARNING_RATE=3e-3, GRAD_CLIP=1e9, AMP_DTYPE='float16').check_constants()
    load('v4_flash_optim', MAX_SONGS=None, MIN_LR=0, WARMUP_ITERS=0, WEIGHT_DECAY=0, NUM_WORKERS=0, DROP_OUT=0.99).check_constants()


@pytest.mark.parametrize('value', [None, -0.02, 0])
def test_muon_needs_a_rate(value, refuses):
    refuses('v9_muon', f'MUON_LR = {value}', MUON_LR=value)


@pytest.mark.parametrize('name', LOOPS)
def test_out_of_memory_names_the_batch_size(name, rung):
    """As a GPU says it, as Python does, or as PyTorch does on a CPU."""
    path = rung(name)
    source = path.read_text(encoding='utf-8')
    line = '        logits = self.lm_head('
    assert source.count(line) == 1
    errors = ("torch.OutOfMemoryError('CUDA out of memory. Tried')", 'MemoryError',
              """RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")""")
    lacking = f'        if self.training: raise {errors[(LOOPS.index(name) + 2) % 3]}\n'
    path.write_text(source.replace(line, lacking + line), encoding='utf-8')
    done = refused(path, *(['MODEL_SIZE', 'RECOMPUTE'] if level(name) >= 7 else ['BATCH_SIZE = 4']), '显存')
    assert ('减半为 1' in done.stdout) == (level(name) >= 7)        # down to a single window, and then the end


@pytest.mark.parametrize('arguments', [['generate.py', '--checkpoint', 'x.pt'], ['export_hf.py', 'x.pt', 'OUT']])
def test_out_of_memory_while_reading_a_checkpoint_does_not_blame_it(arguments, tmp_path):
    (tmp_path / 'x.pt').write_bytes(b'x')
    code = ('import runpy, sys, torch\ndef lacking(*arguments, **options):\n    raise MemoryError\n'
            f'torch.load, sys.argv = lacking, {arguments!r}\nrunpy.run_path({str(ROOT / arguments[0])!r}, run_name="__main__")\n')
    (tmp_path / 'run.py').write_text(code, encoding='utf-8')
    refused(tmp_path / 'run.py', '内存不够')


@pytest.mark.parametrize('name', LOOPS)
def test_loss_not_finite(name, rung):
    named = 'MUON_LR 或 LEARNING_RATE' if level(name) >= 9 else '改小 LEARNING_RATE'
    refused(rung(name, LEARNING_RATE=1e30, TRAIN_ITERS=100), '不是有限的数', named)


def test_tokenizer_cannot_be_written(rung, tmp_path):
    """A full disk, as a limit on the size of files."""
    shutil.copytree(ROOT / 'ChineseLyrics', tmp_path / 'ChineseLyrics', ignore=shutil.ignore_patterns('*.model', 'lyrics*'))
    path = rung('v2_cosine_lr', LYRICS_DIR='ChineseLyrics')
    source = path.read_text(encoding='utf-8')
    limit = 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n'
    path.write_text(source.replace("if __name__ == '__main__':", limit + "if __name__ == '__main__':"), encoding='utf-8')
    done = run_script(path)
    assert done.returncode == 1 and done.stderr.startswith('错误：') and 'Traceback' not in done.stderr
    assert not list((tmp_path / 'ChineseLyrics').glob('*.model'))


@pytest.mark.parametrize('name', ['v1_bpe_rope', 'v9_muon'])           # the function is the same to the letter
def test_a_broken_tokenizer_names_the_remedy(name, load, tmp_path):
    (tmp_path / 'data').mkdir()
    shutil.copy(ROOT / 'ChineseLyrics/sample.json', tmp_path / 'data')
    constants = {'LYRICS_DIR': str(tmp_path / 'data'), **({'CHECKPOINT_DIR': str(tmp_path / 'c')} if level(name) >= 5 else {})}
    load(name, **constants).load_data()
    [path] = (tmp_path / 'data').glob('bpe_*.model')
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SystemExit) as stop:
        load(name, **constants).load_data()
    assert stop.value.code.startswith('错误：') and '坏了' in stop.value.code and path.name in stop.value.code
    path.unlink()                                                   # as the message says
    load(name, **constants).load_data()


@pytest.mark.parametrize('name', ['v0_char_english', 'v6_wandb', 'v10_ddp'])
def test_runs_where_the_output_is_no_text_file(name, rung):
    """As in IDLE and Jupyter, whose stdout has no reconfigure."""
    path = rung(name)
    shell = ('import runpy, sys\nclass Shell:\n    write, flush = sys.stdout.write, sys.stdout.flush\n    encoding = "utf-8"\n'
             f'sys.stdout = Shell()\nrunpy.run_path({path.name!r}, run_name="__main__")\n')
    (path.parent / 'shell.py').write_text(shell, encoding='utf-8')
    done = run_script(path.parent / 'shell.py')
    assert done.returncode == 0 and len(log_lines(done.stdout)) == 2, done.stderr


def test_output_that_the_terminal_cannot_show(rung):
    done = run_script(rung('v0_char_chinese'), env={'PYTHONUTF8': '0', 'PYTHONIOENCODING': 'ascii', 'LC_ALL': 'C'})
    assert done.returncode == 0 and '?' in done.stdout
