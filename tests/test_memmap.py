"""v11: more data than memory. Token files are the songs, built once and whole; plain text is data too."""
import json
import os
import pickle
import random
import re
import shutil
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import change, inject, log_lines, run_script, tiny
from test_ddp import STEP, assert_same, group, once, read, succeeded

NAME = 'v11_memmap'
CHARS = [chr(0x4e00 + i) for i in range(60)]


def text(seed, lines=6):
    rng = random.Random(seed)
    return '\n'.join(''.join(rng.choices(CHARS, k=10)) + f' {seed}' for _ in range(lines))


SONGS = [text(i) for i in range(300)]


def lyrics(songs):
    return json.dumps([{'lyric': song.split('\n')} for song in songs], ensure_ascii=False)


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture
def corpus(load, tmp_path):
    """corpus(files): v11 imported, to read a folder of these files; its tokens are in this test's folder."""
    def make(files=None, **constants):
        write(tmp_path / 'data', files or {})
        folders = {'LYRICS_DIR': str(tmp_path / 'data'), 'TOKEN_DIR': str(tmp_path / 'tokens')}
        return load(NAME, **(folders | {'BPE_VOCAB_SIZE': 400, 'MAX_SONGS': None} | constants))
    return make


@pytest.fixture
def built(tmp_path):
    """The names in the folder of tokens."""
    return lambda: sorted(path.name for path in (tmp_path / 'tokens').glob('*'))


def halves(module):
    """The songs on either side, as the token files have them; nothing but songs and separators is in them."""
    tokenizer, *parts, chars = module.load_data()
    sides = []
    for data in parts:
        ends = np.flatnonzero(data == tokenizer.eos_id())
        assert ends[0] == 0 and ends[-1] == len(data) - 1           # a separator before the first and after each
        sides.append([tokenizer.decode(data[a + 1:b].tolist()) for a, b in zip(ends, ends[1:])])
    assert chars == sum(len(song) + 1 for song in sides[1])         # a separator counts as one character
    return sides


def refuses(function, *words):
    with pytest.raises(SystemExit) as stop:
        function()
    message = stop.value.code
    assert message.startswith('错误：') and len(message.splitlines()) == 1, message
    for word in words:
        assert word in message


# ---------- token files ----------
def test_token_files_are_the_songs_in_order(corpus, capsys):
    """Cleaned, without duplicates (spaces, punctuation and credits aside), one in ten in the test split."""
    songs = [*SONGS[:150], '作词：某人', '作曲：某人\n' + SONGS[3].replace('\n', ' ，\n'), *SONGS[150:], SONGS[9], '']
    module = corpus({'a/lyrics1.json': lyrics(songs[:200]), 'lyrics2.json': lyrics(songs[200:])})
    _, train, test, _ = module.load_data()
    for data in (train, test):
        assert isinstance(data, np.memmap) and data.dtype == np.uint16 and data.mode == 'r'
    said = capsys.readouterr().out
    assert '留下 300' in said and '重复 2' in said and '空 2' in said
    sides = halves(module)
    assert [song for song in SONGS if song in set(sides[0])] == sides[0]
    assert [song for song in SONGS if song not in set(sides[0])] == sides[1]
    assert 20 < len(sides[1]) < 40


def test_the_side_of_a_song_depends_on_its_words_and_the_seed_alone(corpus):
    one = halves(corpus({'lyrics1.json': lyrics(SONGS)}))
    other_way = ['编曲：某人\n' + song.replace(' ', '  ').replace('\n', '！\n') for song in reversed(SONGS)]
    files = {'lyrics1.json': lyrics(other_way[:70]), 'x/lyrics2.json': lyrics(other_way[70:] + SONGS), 'b.txt': 'new\n\nwords\n'}
    two = halves(corpus(files))
    assert [{re.sub(r'\W', '', song) for song in side} - {'new', 'words'} for side in two] == [
        {re.sub(r'\W', '', song) for song in side} for side in one]
    three = halves(corpus({'lyrics1.json': lyrics(SONGS), 'x/lyrics2.json': '[{"lyric": ["x"]}]'}, SEED=2))
    assert set(three[1]) != set(one[1]) and len(set(three[1]) & set(one[1])) < 15


def test_max_songs_counts_from_the_head(corpus, capsys):
    sides = halves(corpus({'lyrics1.json': lyrics([*SONGS[:30], *SONGS])}, MAX_SONGS=100))
    assert {*sides[0], *sides[1]} == {*SONGS[:100]} and sides[1]
    assert '留下 100' in capsys.readouterr().out


def test_windows_are_those_of_the_plain_array(corpus, tmp_path):
    plain = np.random.default_rng(0).integers(0, 65536, 200_000, dtype=np.uint16)
    plain.tofile(tmp_path / 'tokens.bin')
    module, data = corpus(), np.memmap(tmp_path / 'tokens.bin', dtype=np.uint16, mode='r')
    starts = torch.tensor([0, 5, 65_530, 65_536, 131_072, 200_000 - 33])
    x, y = module.get_windows(data, starts)
    assert x.dtype == y.dtype == torch.int64 and x.is_contiguous() and x.shape == (6, 32)
    for window, target, start in zip(x.tolist(), y.tolist(), starts.tolist()):
        assert window == plain[start:start + 32].tolist() and target == plain[start + 1:start + 33].tolist()
    assert all(torch.equal(a, b) for a, b in zip(module.get_batch(data, 7), module.get_batch(plain, 7)))


def test_workers_get_the_path_and_not_the_tokens(corpus, tmp_path, monkeypatch):
    module = corpus(TRAIN_ITERS=6)
    np.arange(60_000, dtype=np.uint16).tofile(tmp_path / 'tokens.bin')
    monkeypatch.chdir(tmp_path)
    data = np.memmap('tokens.bin', dtype=np.uint16, mode='r')
    assert len(pickle.dumps(vars(module.TrainBatches(data)))) < 1000
    plain = [x for x, _ in module.train_loader(data, 2)]
    assert len(plain) == 4 and all(torch.equal(x, module.get_batch(data, step)[0]) for step, x in enumerate(plain, 2))
    module.NUM_WORKERS = 1
    assert all(torch.equal(a, b) for a, (b, _) in zip(plain, module.train_loader(data, 2), strict=True))


# ---------- what the tokenizer learns from ----------
@pytest.fixture
def learned(monkeypatch):
    """learned(module): the songs that its tokenizer learns from."""
    def songs(module):
        seen = []
        monkeypatch.setattr(module, 'train_tokenizer', lambda songs: seen.extend(songs) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            module.load_data()
        return seen
    return songs


def test_the_tokenizer_learns_from_the_training_songs_alone(corpus, learned):
    module = corpus({'lyrics1.json': lyrics(SONGS)})
    train, _ = halves(module)
    module.FORMAT += 1
    assert learned(module) == train


def test_the_tokenizer_learns_from_a_bounded_sample(corpus, learned):
    """From all over the data."""
    module = corpus({'a.txt': '\n\n'.join(text(i) for i in range(3000))}, TOKENIZER_BYTES=60_000)
    seen = learned(module)
    assert 40_000 < sum(len(song.encode()) for song in seen) < 70_000
    places = [int(song.rsplit(' ')[-1]) for song in seen]
    assert min(places) < 200 and max(places) > 2800 and sum(place < 1500 for place in places) == pytest.approx(len(places) / 2, rel=0.25)
    assert all(chance >= 0.1 for song, chance in module.documents(module.data_files, Counter()) if song in set(seen))


def test_a_few_songs_of_a_large_corpus_teach_the_tokenizer(corpus, learned):
    module = corpus({'a.txt': '\n\n'.join(text(i, 30) for i in range(3000))}, TOKENIZER_BYTES=150_000, MAX_SONGS=100)
    assert len(learned(module)) > 45


# ---------- built once, and anew when something changed ----------
def test_built_once_and_recognised(corpus, tmp_path, built, monkeypatch):
    """By content: copied, touched, in another folder."""
    files = {'lyrics1.json': lyrics(SONGS), 'x/novel.txt': '一篇\n\n又一篇\n'}
    module = corpus(files)
    module.load_data()
    [name] = built()
    assert re.fullmatch(r'[0-9a-f]{12}', name) and {path.name for path in (tmp_path / 'tokens' / name).iterdir()} == {
        'train.bin', 'test.bin', 'meta.pt'}
    shutil.copytree(tmp_path / 'data', tmp_path / 'elsewhere' / 'copy')     # as cp -r: with new times
    for file in (tmp_path / 'elsewhere').rglob('*.*'):
        os.utime(file)
    monkeypatch.chdir(tmp_path / 'elsewhere')
    for again in (module, corpus(), corpus(LYRICS_DIR=str(tmp_path / 'elsewhere' / 'copy')), corpus(LYRICS_DIR='copy')):
        monkeypatch.setattr(again, 'build_tokens', None)
        assert len(again.load_data()[1]) > 1000


CHANGES = {
    'a file more': lambda folder, module: write(folder, {'lyrics0.json': '[{"lyric": ["x"]}]'}),
    'a file less': lambda folder, module: (folder / 'b.txt').unlink(),
    'same size': lambda folder, module: write(folder, {'b.txt': '又一篇\n\n一篇\n'}),
    'longer': lambda folder, module: write(folder, {'b.txt': '一篇\n\n又一篇又\n'}),
    'head': lambda folder, module: poke(folder / 'large.txt', 0),
    'middle': lambda folder, module: poke(folder / 'large.txt', 2_500_100),
    'tail': lambda folder, module: poke(folder / 'large.txt', 4_999_999),
    **{name: lambda folder, module, name=name: setattr(module, name, (getattr(module, name) or 100) + 1)
       for name in ('BPE_VOCAB_SIZE', 'FORMAT', 'SEED', 'MAX_SONGS', 'TOKENIZER_BYTES')},
}


def poke(path, position):
    with open(path, 'r+b') as file:
        file.seek(position)
        file.write(b'!')


def test_another_name_after_any_change(corpus, tmp_path):
    files = {'lyrics1.json': lyrics(SONGS), 'b.txt': '一篇\n\n又一篇\n', 'large.txt': 'x' * 5_000_000}
    seen = {}
    for change_it in (None, *CHANGES.values()):
        shutil.rmtree(tmp_path / 'data', ignore_errors=True)
        module = corpus(files)
        if change_it:
            change_it(tmp_path / 'data', module)
            module.data_files = corpus().data_files
        seen[module.fingerprint(module.data_files)] = change_it
    assert len(seen) == len(CHANGES) + 1


def test_built_anew_and_old_folders_are_named(corpus, built, capsys):
    before = halves(corpus({'lyrics1.json': lyrics(SONGS)}))
    [old] = built()
    assert '[]' in capsys.readouterr().out
    other = SONGS[:-1] + [SONGS[-1][::-1]]                           # the same size
    after = halves(corpus({'lyrics1.json': lyrics(other)}))
    assert sorted(after[0] + after[1]) == sorted(other) and before != after
    said = capsys.readouterr().out
    assert f"['{old}']" in said and len(built()) == 2 and 'token 文件' in said
    assert corpus(BPE_VOCAB_SIZE=390).load_data()[0].get_piece_size() == 390


# ---------- interrupted ----------
@pytest.fixture
def whole(corpus, built):
    """whole(): builds them now, and they are all there."""
    def check():
        assert not [name for name in built() if '.' not in name]    # nothing counts as built
        sides = halves(corpus())
        assert sorted(sides[0] + sides[1]) == sorted(SONGS)
    return check


@pytest.fixture
def build_in_a_process(rung, tmp_path):
    """build_in_a_process(line, code): the script, with code before a line, in a process of its own that reads SONGS."""
    def run(line, code):
        write(tmp_path / 'data', {'lyrics1.json': lyrics(SONGS)})
        path = rung(NAME, LYRICS_DIR=str(tmp_path / 'data'), TOKEN_DIR=str(tmp_path / 'tokens'), BPE_VOCAB_SIZE=400, MAX_SONGS=None)
        [done] = group(inject(path, line, code), 1)
        return done
    return run


@pytest.mark.parametrize('line', ['part.write(np.array(tokenizer.encode(text', 'torch.save(meta', 'temporary.rename(folder)'])
def test_killed_while_building(line, build_in_a_process, whole, built, monkeypatch):
    """Also where the next process has the number of the killed one, as in a container."""
    done = build_in_a_process(line, f'if {line[0] == "t"} or train.tell() > 1000: os.kill(os.getpid(), 9)')
    assert done.status == -9
    [left] = built()
    monkeypatch.setattr(os, 'getpid', lambda: int(left.split('.')[1]))
    whole()


LIMIT = 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300)); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)'


@pytest.mark.parametrize('line', ['for text, chance in documents(files, Counter()):', 'torch.save(meta'])
def test_a_disk_that_is_full(line, build_in_a_process, whole):
    """As a limit on the size of files, so that the writes really fail: of tokens, of what is saved with them."""
    done = build_in_a_process(line, LIMIT)
    assert done.status == 1 and re.fullmatch(r'错误：建不了 token 文件.*\n', done.err), done.err
    whole()


def test_data_on_a_disk_that_cannot_be_written(corpus, tmp_path, monkeypatch, built):
    """A Kaggle input: tokens go beside the checkpoints, the tokenizer into them."""
    def refuse(path, *arguments, **options):
        raise OSError(30, 'Read-only file system')
    module = corpus({'lyrics1.json': lyrics(SONGS)})
    monkeypatch.setattr(Path, 'write_bytes', refuse)
    module.load_data()
    assert [path.name for path in (tmp_path / 'data').iterdir()] == ['lyrics1.json'] and len(built()) == 1
    monkeypatch.setattr(module, 'build_tokens', None)
    assert len(module.load_data()[0]) == 400


def test_a_killed_run_goes_on_though_the_data_were_copied(lyrics_dir, tmp_path):
    """To the bit; and the printed bits/char are those of the whole test split."""
    often = {'TRAIN_ITERS': 12, 'EVAL_INTERVAL': 6, 'SAVE_INTERVAL': 4, 'DROP_OUT': 0.2, 'CHECKPOINT_DIR': 'run', 'TOKEN_DIR': '../tokens'}
    ends = []
    for folder in ('calm', 'killed'):
        (tmp_path / folder).mkdir()
        path = tiny(NAME, tmp_path / folder, lyrics_dir, **often)
        if folder == 'killed':
            inject(path, STEP, once('step == 9', 'os.kill(os.getpid(), 9)'))
            assert group(path, 1)[0].status == -9
            shutil.copytree(lyrics_dir, tmp_path / 'copy')
            change(path, LYRICS_DIR=str(tmp_path / 'copy'))
        out = succeeded(group(path, 1))
        ends.append(read(tmp_path / folder / 'run' / 'latest.pt'))
        ends[-1] = {key: value for key, value in ends[-1].items() if key not in ('config', 'wandb_id')}
    assert '的第 8 步继续' in out and '建 token' not in out and len(list((tmp_path / 'tokens').iterdir())) == 1
    assert_same(*ends)
    [folder] = (tmp_path / 'tokens').iterdir()
    tokens, chars = (folder / 'test.bin').stat().st_size / 2, torch.load(folder / 'meta.pt')['test_chars']
    last = log_lines(out)[-1]
    assert last['bits'] == pytest.approx(last['test'] / np.log(2) * tokens / chars, abs=2e-3)


# ---------- plain text ----------
STORY = 'Once upon\n\na time\n\n\nthere was.'
END = '<|endoftext|>'
TEXTS = {
    'blank lines': ('\n\n甲\n乙\n\n丙\n  \n \t\n\n丁 \n', ['甲\n乙', '丙', '丁']),
    'one text': ('一篇，\n第二行', ['一篇，\n第二行']),
    'nothing': (' \n\n', []),
    'byte order mark': (b'\xef\xbb\xbf' + '一篇\n\n又一篇'.encode(), ['一篇', '又一篇']),
    'byte order mark, markers': (b'\xef\xbb\xbf' + f'{STORY}{END}The end'.encode(), [STORY, 'The end']),
    'Windows': ('甲\r\n乙\r\n\r\n丙\r\n', ['甲\n乙', '丙']),
    'no line breaks': ('长' * 2000 + '短' * 3000, ['长' * 2000, '短' * 2000, '短' * 1000]),
    'just long enough': ('长' * 1999 + '\n\n' + '短' * 5, ['长' * 1999, '短' * 5]),
    'stories': (f'{STORY}\n{END}\nThe end\n{END}\n', [STORY, 'The end']),
    'stories on one line': (f'One.{END}Two,\n\nand {"long " * 3000}long{END}{END}3', ['One.', f'Two,\n\nand {"long " * 3000}long', '3']),
    'a late marker': ('x' * 70_000 + END + 'late', ['x' * 20_000] * 3 + ['x' * 10_000, 'late']),
}


@pytest.mark.parametrize('case', TEXTS)
def test_plain_text(case, corpus):
    content, expected = TEXTS[case]
    module = corpus({'a.txt': content})
    assert [text for text in module.read_texts(module.data_files[0]) if text] == expected


@pytest.mark.parametrize(('before', 'limit'), [('', 2_000), (f'short{END}\n', 20_000)])
def test_long_texts_are_cut_where_a_line_ends(before, limit, corpus):
    lines = [f'{i} ' + '行' * (i % 150) for i in range(900)]
    module = corpus({'a.txt': before + '\n'.join(lines)})
    texts = list(module.read_texts(module.data_files[0]))[bool(before):]
    assert '\n'.join(texts) == '\n'.join(lines) and len(texts) > 3
    assert all(limit - 200 < len(text) < limit + 200 for text in texts[:-1])


@pytest.mark.parametrize('before', ['', f'first{END}'])
def test_a_marker_is_seen_wherever_the_reader_stops(before, corpus, tmp_path):
    """It reads long lines in parts, and a marker may lie across two of them."""
    module = corpus()
    for length in (*range(19_970, 20_005), 39_990):
        write(tmp_path / 'data', {'a.txt': before + 'x' * (length - len(before)) + f'{END}late'})
        texts = [text for text in module.read_texts(str(tmp_path / 'data' / 'a.txt')) if text]
        assert texts[-1] == 'late' and len(texts) < 6, length
        assert ''.join(texts[:-1]) == before[:5] + 'x' * (length - len(before)) and (not before or texts[0] == 'first'), length
    write(tmp_path / 'data', {'a.txt': f'x{END}' * 150_000})
    assert [text for text in module.read_texts(str(tmp_path / 'data' / 'a.txt')) if text] == ['x'] * 150_000


def test_what_is_read_from_a_mixed_folder(corpus, tmp_path, capsys):
    """Hidden files are not data; nor is what lies between two texts."""
    module = corpus({'a/one.txt': '\n\n一篇\n\n\n\n\n又一篇\n\n', 'b.txt': '一篇！\n', 'lyrics1.json': lyrics(['作词：某人\n歌', '又一篇']),
                     '.hidden.txt': '隐', '._b.txt': b'\x00\xff', '.ipynb_checkpoints/b-checkpoint.txt': '藏', 'notes.md': '不读'})
    counts = Counter()
    assert [text for text, _ in module.documents(module.data_files, counts)] == ['一篇', '又一篇', '歌']
    assert counts == {'留下': 3, '重复': 2}


def test_files_without_line_breaks_are_a_stream(corpus):
    module = corpus({'a.txt': '长' * 8_000_000})                     # 24 MB
    tracemalloc.start()
    assert sum(map(len, module.read_texts(module.data_files[0]))) == 8_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6


def test_another_encoding_is_refused_with_the_name_of_the_file(corpus):
    module = corpus({'lyrics1.json': lyrics(SONGS), 'novel.txt': ('床前明月光\n' * 9).encode('gbk')})
    refuses(module.load_data, 'novel.txt', 'UTF-8')
    (Path(module.LYRICS_DIR) / 'novel.txt').unlink()
    refuses(corpus({'lyrics2.json': lyrics(SONGS).encode('gbk')}).load_data, 'lyrics2.json', 'UTF-8')


@pytest.mark.parametrize('files', [{'a.txt': ''}, {'a.txt': '\n \n'}, {'a.txt': '短'}, {'a.txt': '一篇\n\n又一篇\n\n再一篇'},
                                   {'a.txt': '\n\n'.join(SONGS[:6])}, {'lyrics1.json': lyrics(['作词：某人'])}])
def test_too_little_data(files, corpus, tmp_path):
    refuses(corpus(files, BPE_VOCAB_SIZE=300, BLOCK_SIZE=1000).load_data, '太少')


def test_no_data(corpus, tmp_path, built):
    (tmp_path / 'data').mkdir()
    refuses(corpus().load_data, 'data/sample.json', 'ChineseLyrics/README.md')
    assert built() == []


# ---------- memory ----------
def test_memory_stays_far_below_the_size_of_the_data(rung, tmp_path):
    """30 MB of text; measured from where the imports leave off."""
    rng = random.Random(0)
    lines = [''.join(rng.choices(CHARS, k=60)) for _ in range(1000)]
    (tmp_path / 'data').mkdir()
    with open(tmp_path / 'data' / 'a.txt', 'w', encoding='utf-8') as file:
        for i in range(7000):
            file.write(f'{i}\n' + '\n'.join(rng.choices(lines, k=24)) + '\n\n')
    assert (tmp_path / 'data' / 'a.txt').stat().st_size > 30e6
    path = rung(NAME, LYRICS_DIR='data', TOKEN_DIR='tokens', BPE_VOCAB_SIZE=400, TOKENIZER_BYTES=300_000, MAX_SONGS=None)
    path.write_text(path.read_text(encoding='utf-8').split("if __name__ == '__main__':")[0] + '''
import resource
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
_, train_data, test_data, chars = load_data()
assert len(train_data) > 1e6 and 0.8e6 < chars < 1.3e6
print('rose by', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
''', encoding='utf-8')
    done = run_script(path)
    assert done.returncode == 0, done.stderr
    assert int(re.search(r'rose by (\d+)', done.stdout)[1]) < 12_000      # KiB
