"""From JSON files to tokens: cleaning, splitting by song, and a lossless tokenizer."""
import json
import os
import random
import subprocess
import sys

import pytest
import torch
from conftest import BPE, CHINESE, ROOT, environment, level, songs_of, write_songs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SAMPLE = json.loads((ROOT / 'ChineseLyrics' / 'sample.json').read_text(encoding='utf-8'))

CREDITS = ['作词：林夕', '作曲 : 黄家驹', '编曲:某人', '词：某人', '曲：某人', '词/曲：某人', '作词、作曲：某人',
           '制作人：某人', '制作人 Producer：某人', '鼓：某人', '吉他 Guitar：某人', '混音师：某人', '录音室：某地',
           '和声编写：某人', '监制/Executive Producer: 某人', 'OP：某公司', 'Lyrics by：Someone', 'Composer: Someone',
           '母带后期混音录音室：某地', '弦乐编写：某人', '【作词：某人】', '出品公司：某公司', '配唱制作人：某人']
SECTIONS = ['副歌', '主歌', '[副歌]', '（主歌）', '副歌：', '主歌1', '主歌 A', 'Verse', 'VERSE 2', '[Chorus]', 'Pre-Chorus:',
            'Bridge', '(Intro)', 'Outro', '间奏', '间奏~~', '尾奏', '前奏……', 'Hook', '【Verse 1】', '副歌二']
LYRICS = ['鼓声响起的时候', '制作一场好梦', '词穷了的夜', '曲终人散', '编曲的人走了', '她说：你好', '鼓掌', '录音带里的你',
          '和声悠扬，听：雨来了', '吉他', '副歌唱到一半我哭了', 'Verse by verse I love you', '主歌太长了',
          '制作人说：再来一遍', '鼓，咚咚：响', '男：我爱你', '12:30 的车', '曲曲折折的路：往北']


@pytest.fixture(scope='module')
def module(tmp_path_factory, lyrics_dir):
    """v1 as a user has it, its constants pointing at the sample."""
    sys.path.insert(0, str(ROOT))
    try:
        import v1_bpe_rope
    finally:
        sys.path.pop(0)
    v1_bpe_rope.LYRICS_DIR, v1_bpe_rope.BPE_VOCAB_SIZE = str(lyrics_dir), 3000
    return v1_bpe_rope


@pytest.mark.parametrize('line', CREDITS + SECTIONS)
def test_clean_drops_credits_and_section_labels(module, line):
    assert module.clean(f'第一行\n{line}\n第二行') == '第一行\n第二行'


@pytest.mark.parametrize('line', LYRICS)
def test_clean_keeps_lyrics(module, line):
    assert module.clean(f'第一行\n{line}\n第二行') == f'第一行\n{line}\n第二行'


def test_clean_drops_blank_lines_and_margins(module):
    assert module.clean('\n 第一行 \u3000\r\n\n\u3000\u3000\n第 二 行\n') == '第一行\n第 二 行'
    assert module.clean('作词：某人\n副歌\n\n') == ''


def test_clean_leaves_the_sample_alone(module):
    """Original texts, written without credits: whatever cleaning takes from them is a mistake."""
    for song in SAMPLE:
        assert module.clean('\n'.join(song['lyric'])) == '\n'.join(line.strip() for line in song['lyric'] if line.strip())


def test_songs_are_unique_and_not_empty(module, tmp_path, monkeypatch):
    songs = [{'lyric': ['甲', '乙']}, {'lyric': ['作词：丙', '甲', '乙']}, {'lyric': ['作词：丙']}, {'lyric': []}, {'lyric': '丁\n戊'},
             {'lyric': ['坏表情\ud83d']}]
    write_songs(tmp_path / 'a' / 'lyrics_x.json', songs[:3])
    write_songs(tmp_path / 'b' / 'c' / 'lyrics1.json', [])
    (tmp_path / 'lyrics2.json').write_text(json.dumps(songs[3:]), encoding='utf-8-sig')     # with a byte order mark
    monkeypatch.setattr(module, 'LYRICS_DIR', str(tmp_path))
    assert sorted(module.load_songs()) == sorted(['甲\n乙', '丁\n戊', '坏表情'])


def test_max_songs(module, monkeypatch):
    everything = module.load_songs()
    monkeypatch.setattr(module, 'MAX_SONGS', 50)
    assert module.load_songs() == everything[:50]


def test_no_song_in_both_halves_and_the_same_on_every_run(tmp_path):
    """The split as v0, v1 and v6 make it, in processes with different hash seeds and locales."""
    code = '''if True:
        import hashlib, json, sys
        name = sys.argv[1]
        rung = __import__(name)
        songs = rung.load_songs()
        n = int(0.9 * len(songs))
        assert not set(songs[:n]) & set(songs[n:]) and len(set(songs)) == len(songs) == 576
        print(hashlib.sha256(json.dumps([songs[:n], songs[n:]]).encode()).hexdigest())
    '''
    digests = set()
    for name, seed, locale in (('v0_char_chinese', '1', 'C'), ('v1_bpe_rope', '2', 'C.UTF-8'), ('v6_wandb', '3', 'C')):
        env = environment(tmp_path, {'PYTHONHASHSEED': seed, 'LC_ALL': locale, 'PYTHONPATH': str(ROOT), 'PYTHONIOENCODING': 'utf-8'})
        done = subprocess.run([sys.executable, '-B', '-c', code, name], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
        digests.add(done.stdout.splitlines()[-1])
    # the digest is written down: it must not change with the platform, the Python version or the order of files on disk
    assert digests == {'47048a459d5b9cbf9353e9dc8f0587197f77bafd1114e5a0ba3ea40629650d71'}


def test_split_does_not_depend_on_the_order_on_disk(module, tmp_path, monkeypatch):
    names = [f'lyrics{i}.json' for i in range(9)]
    for folder, order in (('one', names), ('two', names[::-1])):
        for name in order:
            write_songs(tmp_path / folder / name, [{'lyric': [f'{name}的歌{i}']} for i in range(5)])
    monkeypatch.setattr(module, 'LYRICS_DIR', str(tmp_path / 'one'))
    one = module.load_songs()
    monkeypatch.setattr(module, 'LYRICS_DIR', str(tmp_path / 'two'))
    assert module.load_songs() == one


@pytest.mark.parametrize('name', [name for name in CHINESE if level(name) < 10])     # v10: test_ddp.py
def test_load_data(name, load):
    """90 % of the songs train; characters count the separators; the tokens decode to the songs."""
    module = load(name)
    tokenizer, train, test, chars = module.load_data()
    songs = module.load_songs()
    n = int(0.9 * 576)
    assert chars == sum(len(song) + 1 for song in songs[n:])
    if name in BPE:
        assert (train == tokenizer.eos_id()).sum() == n and (test == tokenizer.eos_id()).sum() == 576 - n
        first = train[:(train == tokenizer.eos_id()).nonzero()[0]].tolist()
        assert tokenizer.decode(first) == songs[0]
    else:
        assert tokenizer.decode(train.tolist()) == '\n\n'.join(songs[:n])
        assert tokenizer.decode(test.tolist()) == '\n\n'.join(songs[n:])


# ---------- the tokenizer ----------

@pytest.fixture(scope='module')
def tokenizer(module):
    return module.train_tokenizer(module.load_songs()[:518])


@pytest.fixture(scope='module')
def spaceless(module, tmp_path_factory):
    """A tokenizer that has never seen a space."""
    patch = pytest.MonkeyPatch()
    patch.setattr(module, 'LYRICS_DIR', str(tmp_path_factory.mktemp('spaceless')))
    yield module.train_tokenizer([''.join(''.join(song['lyric']).split()) for song in SAMPLE])
    patch.undo()


def test_round_trip_of_all_lyrics(module, tokenizer):
    songs = module.load_songs()
    assert all(tokenizer.decode(ids) == song for song, ids in zip(songs, tokenizer.encode(songs), strict=True))


def test_round_trip_of_spaces_never_seen(spaceless):
    for text in ('你 好', ' 你好  世界 ', '   ', 'a b\n c ', '一\n\n二\n'):
        assert spaceless.decode(spaceless.encode(text)) == text


def test_full_width_punctuation_is_not_normalised(tokenizer):
    text = '“好，”他说：ＡＢＣ１２３！…—～（①½ﬁ）'
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_line_break_is_one_token_of_its_own(tokenizer):
    [line_break] = tokenizer.encode('\n')
    assert tokenizer.encode('天\n地').count(line_break) == 1
    assert not any('\n' in tokenizer.id_to_piece(i) for i in range(len(tokenizer)) if i != line_break)


def test_unseen_characters_become_bytes(tokenizer):
    pieces = tokenizer.encode('𠮷😀', out_type=str)
    assert len(pieces) == 8 and all(piece.startswith('<0x') for piece in pieces)
    assert tokenizer.unk_id() not in tokenizer.encode('𠮷😀ñ\x00')


def test_text_cannot_forge_the_separator(tokenizer):
    assert tokenizer.eos_id() not in tokenizer.encode('</s><s><unk><0x41>')
    assert tokenizer.decode(tokenizer.encode('</s><s><unk><0x41>')) == '</s><s><unk><0x41>'


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=['Cs'], exclude_characters='▁')))
def test_round_trip_of_random_unicode(tokenizer, spaceless, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert spaceless.decode(spaceless.encode(text)) == text


def test_the_one_exception_is_documented(module, tokenizer):
    assert tokenizer.decode(tokenizer.encode('a▁b')) == 'a b'
    assert 'U+2581' in module.train_tokenizer.__doc__


def test_a_long_line_is_learned_from(module, tmp_path, monkeypatch):
    """SentencePiece skips lines of more than 4192 bytes unless told otherwise."""
    monkeypatch.setattr(module, 'LYRICS_DIR', str(tmp_path))
    monkeypatch.setattr(module, 'BPE_VOCAB_SIZE', 300)
    tokenizer = module.train_tokenizer(['海阔天空' * 5000])
    assert len(tokenizer.encode('海阔天空')) == 1


def test_training_songs_alone_make_the_vocabulary(module, tmp_path, monkeypatch, capsys):
    write_songs(tmp_path / 'lyrics.json', [{'lyric': [f'第{i}首' + '春风又绿江南岸' * 10]} for i in range(40)])
    monkeypatch.setattr(module, 'LYRICS_DIR', str(tmp_path))
    monkeypatch.setattr(module, 'BPE_VOCAB_SIZE', 320)
    monkeypatch.setattr(module, 'BLOCK_SIZE', 8)
    seen = []
    monkeypatch.setattr(module, 'train_tokenizer', lambda songs, train=module.train_tokenizer: seen.extend(songs) or train(songs))
    module.load_data()
    assert seen == module.load_songs()[:36]


def test_alphabet_larger_than_the_vocabulary(module, tmp_path, monkeypatch, capsys):
    """Coverage gives way first: rare characters become bytes, words still find a place, and a line says so."""
    rng = random.Random(0)
    common, rare = [chr(0x4e00 + i) for i in range(200)], [chr(0x6000 + i) for i in range(400)]
    songs = [''.join(rng.choice(common) for _ in range(200)) for _ in range(300)] + [''.join(rare)]
    monkeypatch.setattr(module, 'LYRICS_DIR', str(tmp_path))
    monkeypatch.setattr(module, 'BPE_VOCAB_SIZE', 600)
    tokenizer = module.train_tokenizer(songs)
    said = capsys.readouterr().out
    assert len(tokenizer) == 600 and '600 种字' in said and '拆成字节' in said and 'BPE_VOCAB_SIZE' not in said
    assert all(len(tokenizer.encode(char)) == 1 for char in common)
    assert sum(len(tokenizer.encode(char)) > 1 for char in rare) > 100
    assert tokenizer.decode(tokenizer.encode(songs[-1])) == songs[-1]


def test_size_gives_way_when_coverage_cannot(module, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, 'LYRICS_DIR', str(tmp_path))
    monkeypatch.setattr(module, 'BPE_VOCAB_SIZE', 300)
    tokenizer = module.train_tokenizer([''.join(chr(0x4e00 + (7 * i + j) % 900) for j in range(50)) for i in range(900)])
    said = capsys.readouterr().out
    assert 1100 < len(tokenizer) < 1300 and f'BPE_VOCAB_SIZE = 300 对这份语料不合适，实际用 {len(tokenizer)}' in said


def test_corpus_too_small_gets_the_largest_size_that_works(module, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, 'LYRICS_DIR', str(tmp_path))
    monkeypatch.setattr(module, 'BPE_VOCAB_SIZE', 8000)
    tokenizer = module.train_tokenizer(['一二三四五六七八', '一二三四'])
    said = capsys.readouterr().out
    assert 264 < len(tokenizer) < 300 and f'实际用 {len(tokenizer)}' in said


def test_the_trained_tokenizer_is_kept_under_a_name_that_never_goes_stale(module, tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'LYRICS_DIR', str(tmp_path))
    monkeypatch.setattr(module, 'BPE_VOCAB_SIZE', 320)
    songs = ['春风又绿江南岸' * 20, '明月何时照我还' * 20]
    first = module.train_tokenizer(songs).serialized_model_proto()
    [kept] = tmp_path.iterdir()
    assert kept.name.startswith('bpe_320_') and kept.suffix == '.model'
    before = os.stat(kept).st_mtime_ns
    assert module.train_tokenizer(songs).serialized_model_proto() == first and os.stat(kept).st_mtime_ns == before
    module.train_tokenizer(songs[:1])
    monkeypatch.setattr(module, 'BPE_VOCAB_SIZE', 310)
    module.train_tokenizer(songs)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize('name', BPE)
def test_what_is_written_loses_control_characters_alone(name, load):
    module = load(name)
    tokenizer = module.train_tokenizer(songs_of(module)[:500])

    class Model:
        def generate(self, idx, stop):
            return torch.tensor([[stop, *tokenizer.encode('雨\u3000落\x07 a\tb\x9f\n👨\u200d👩')]])
    assert module.write(Model(), tokenizer) == '雨\u3000落 a\tb\n👨\u200d👩'
