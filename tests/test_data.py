"""From JSON files to windows: cleaning, reading, splitting by song, a lossless tokenizer, batches and evaluation windows."""
import json
import os
import random
import re

import pytest
import torch
from conftest import ROOT, SAMPLE, write_songs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LINES = [[re.sub(r'\\u(\w{4})', lambda m: chr(int(m[1], 16)), cell).replace('\\r', '\r') for cell in line.split('\t')]
         for line in (ROOT / 'tests' / 'lyric_lines.tsv').read_text(encoding='utf-8').splitlines()[1:]]

# Other lines of the same kinds as lyric_lines.tsv's.
DROP = '''詞：林小滿|編曲：阿北|錄音師：阿北|監製：老許|母帶處理：阿北|總策劃：老許|作詞、作曲：周遠|發行：零點|总监制：老许
总策划：老许|总制作人：老许|音乐总监：老许|音乐统筹：老许|音乐编辑：老许|吉他手：大刘|贝斯手：大刘|键盘手：大刘
人声编辑：阿北|人声录音师：阿北|和音编写：小满|混音助理：阿北|录音工程师：阿北|母带后期制作人：阿北|后期混音：阿北
配唱指导：老许|大提琴：小满|电贝斯：大刘|手风琴：大刘|宣传推广：零点|推广：零点|视觉：小满|发行人：老许|填词：林小满
谱曲：周远|翻唱：小满|作曲 ： 周远|作 曲：周远|编　曲：阿北|词曲：林小满|词&曲：林小满|词、曲：林小满
制作人 Producer：老许|混音工程师 Mixing Engineer：阿北|吉他 Guitar：大刘|贝斯 Bass：大刘|弦乐 Strings：青石
和声 Backing Vocals：小满|监制 Executive Producer：老许|作词 Lyrics：林小满|【作曲】周远|【混音】阿北|【演唱】小满
[编曲] 阿北|（作词：林小满）|【作词：林小满】|作曲—周远|编曲 – 阿北|制作人 - 老许|演唱 - 小满|编曲　阿北|制作人　老许
Lyric by Lin Xiaoman|Music By Zhou Yuan|Composed by Zhou Yuan|Produced by A Bei|Mixed by A Bei|Recording: A Bei
Recorded by A Bei|Vocals: Xiao Man|Bass: Da Liu|Guitar by Da Liu|Mastering Engineer: A Bei|Recording Engineer：阿北
S.P.：零点|OP & SP：零点|[00:00.00]作曲 : 周远|[00:01.00] 编曲：阿北|[00:12:34]作词：林小满|[00:12]作词：林小满
[ar:小满]|[offset:+500]|导歌|预副歌|主歌二|主歌B：|副歌 x2|副歌×2|副歌(x2)|C段|B段：|过门|桥段|前奏：|间奏...|~间奏~
——间奏——|Verse A|VERSE 1|(Verse 1)|【Verse 1】|Chorus 2|Chorus x 2|Pre-chorus:|Prechorus|Interlude|Outro:|[Hook]|RAP 1
～End～|-END-|♫|☆☆☆|◇|。。。|=====|---|>>>|【】|「」|男声：|(男)|【女】|（男女合）|男女：|Refrain|Post-Chorus:|Programming: Lin|歌名：旧站台|未经许可不得翻唱|未經許可不得錄用|小號：小满|獨白：|簫：小满|橋段|縮混：小满|總監：小满|鳴謝：小满
未經著作權人許可 不得翻唱或使用|純音樂，請欣賞|暫無歌詞|更多歌词请访问 某某网
作词 林小满|Written by：Lin|Words & Music by Lin|Piano: Xiao|Arrangement: Bei|[ve:1.0]|[au:xx]|Pre Chorus|副歌（重复）
琵琶：小满|长笛：小满|架子鼓：小满|小号：小满|未经授权不得翻唱|未經著作權人許可不得翻唱|纯音乐|执行制作人：老许
联合出品：零点|艺人统筹：老许|人声混音：阿北|母带工程师：阿北|和声演唱：小满|弦乐监制：小满|制作公司：零点
音乐发行：零点|OP: 零点|製作人：老許|混音：阿北|词曲：林|作词&作曲：林|吉他 - 大刘|【编曲】阿北
Composed & Arranged by: Zhou|Vocals: Zhou|Recorded by Zhou at Stone|Mix: Zhou|Bass: Zhou|Verse 2:|尾奏：|词：
封面：小满|鸣谢：老许|曲绘：小满|填词：林|文案：林|演奏：林|Repeat|和声编写/演唱：小满|电钢琴 / 合成器：阿北
Vocal Producer：Lao Xu|Recording Engineer: A Bei|制作人Producer：老许|作曲 Composer：周|人声录音棚：青石
联合制作：零点|童声：小满'''
KEEP = '''Music is my life: I sing|Op and down: we go|Solo|Hook the line and sink with me|Music makes the people come together
Bridge of sighs|Verse after verse|Chorus line is dancing|End of the road|Rap is all I know|Guitar solo all night long
Bass drop: go|Master of my fate: me|Mixed feelings: love and hate|Recorded by my heart|Produced by love
Lyrics in my head: you|Written by the moon|Composed by the rain|Stand by Me|Sing: la la la|One: two three four
Mama said: go home|I: you|3:00 a.m.|Oh|La la la|1 2 3 4|24/7|鼓声：咚咚咚|琴声：叮叮当当|笛声悠扬|吉他 贝斯 鼓 都停了
曲未终 人已散|唱 - 一首歌|作词作曲都为你|制作人说：再来一遍|录一段你的声音|混着雨 混着泪|监督我吃饭|策马奔腾
推广我的爱|版权是你的|封面女郎|乐队散了 鼓手走了|歌手走下台|唱歌的人：不要停|她唱：啦啦啦|一起唱：啦啦啦|弦断了：谁听
胡说：八道|音乐响起：跳舞|宣布：结束|系统：崩溃|胶带：一圈一圈|控制：不住|合同：作废|歌词：忘了|动词：爱
翻唱的人：是我|计划：泡汤|公司：加班|老师：下课了|手：牵着手|风：吹过|音响：坏了|我 - 你|夏天 - 秋天|爱人 - 不见
陌生人 - 你好|独唱 - 一首|一个人　走夜路|路人　擦肩|轻轻唱　慢慢走|未经世事 不得不走|纯净的音乐 欣欣向荣|暂无音讯
无歌可唱|A段时间|过门不入|桥段太老|副歌你来唱|前奏响起|间奏 我吻你|尾奏：再见|【爱】|「你好」|（轻声）再见|(Oh) 我爱你
男人：别哭|女儿：你好|合适：就好|老师：同学们好|第一：不许哭|12:30 的车|凌晨 3:00|99% 的爱|1999|❤️我爱你
Al: call me when you land|By the river: we sat down|未经许可的爱 不得善终|著作权归我|暂无歌声|口号：我们要赢
编号：89757|他：我走了|主人：请进|人：你是谁|导：好|音乐——停了|音乐　响起|歌词翻译了我的心事|Written by the stars
Music by moonlight|Drums and bass all night|Words fail me now|The end of the road|重复的日子|独白写给谁听
古琴一曲断人肠|演唱会：散场|手：放开|纯音乐里有雨|更多的歌|录：下这一刻|谢谢：你来过|出品人是风|钢琴 吉他 鼓 都睡了
曲 终 人 散|词 写完了|长笛吹断了夜|制作人生|鼓——咚咚|合成器的雨|特别的爱给特别的你|设计一个夜晚|写字：写你的名字
A段时间过去|End of time|Rap god on the corner|经理：你明天别来了|目录：第一章|快乐：是什么|工作：还没找到
电话：无人接听|Bass in my chest: boom|台词：我爱你|大家唱：啦啦啦|我唱：啦啦啦|宣言：我不走|插曲：那年夏天
琴声里你说：别走|关键词：爱|那首歌的词：我还记得|音乐响起：我就想起你|曲调 悠扬'''


def split(lines):
    return [line for row in lines.splitlines() for line in row.split('|')]


@pytest.fixture
def songs_in(load, tmp_path, capsys):
    """songs_in(files): (the songs that v0_char_chinese reads from a folder of these files, what it says)."""
    def read(files=None, **constants):
        for name, songs in (files or {}).items():
            path = tmp_path / 'songs' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            content = songs if isinstance(songs, bytes) else json.dumps(songs, ensure_ascii=False).encode()
            path.write_bytes(content)
        module = load('v0_char_chinese', LYRICS_DIR=str(tmp_path / 'songs'), **({'MAX_SONGS': None} | constants))
        capsys.readouterr()
        return module.load_songs(), capsys.readouterr().out
    return read


# ---------- cleaning ----------
@pytest.mark.parametrize('kind', ['keep', 'drop', 'turn'])
def test_clean_on_real_lines(kind, load):
    clean = load('v0_char_chinese').clean
    rows = [(row[1], {'keep': row[1].strip(), 'drop': '', 'turn': row[-1]}[kind]) for row in LINES if row[0] == kind]
    assert len(rows) > 10 and {line: clean(line) for line, _ in rows} == dict(rows)


def test_clean_on_other_lines_of_the_same_kinds(load):
    clean = load('v0_char_chinese').clean
    assert [line for line in split(DROP) if clean(line)] == []
    assert [line for line in split(KEEP) if clean(line) != line] == []


def test_clean_keeps_a_song_and_its_lines(load):
    clean = load('v0_char_chinese').clean
    assert clean('作词：某人\n第一行 　\r\n\n　　\n副歌：\n第 二 行\n') == '第一行\n第 二 行'
    assert clean('[00:01.00]作曲：某人\n[00:12.34][01:20.00]男：雨\n<00:13.00>落') == '雨\n落'
    for song in SAMPLE:                                             # written without credits: what goes is a mistake
        assert clean('\n'.join(song['lyric'])) == '\n'.join(line.strip() for line in song['lyric'] if line.strip())


# ---------- reading ----------
def test_what_is_read_and_counted(songs_in):
    """Sub-folders, a byte order mark, songs in one string, nulls, LRC files, duplicates but for credits, spaces and punctuation."""
    songs, said = songs_in({
        'a/lyrics_x.json': [{'lyric': ['甲甲', '乙乙']}, {'lyric': ['作词：丙', '甲甲，', '乙 乙']}, {'lyric': ['作词：丙']}],
        'a/b/lyrics1.json': b'\xef\xbb\xbf' + json.dumps([{'lyric': '丁丁\n戊戊'}, {'lyric': None}, {}, {'lyric': []}]).encode(),
        'lyrics2.json': [{'lyric': ['[00:01.00]編曲：己', '[00:02.00]甲甲', '[00:03.00]乙乙']}, {'lyric': '作词：甲 我在等你'}],
        'notes.json': [{'lyric': ['不读']}], 'sample.json': [{'lyric': ['也不读']}]})
    assert sorted(re.sub(r'\W', '', song) for song in songs) == ['丁丁戊戊', '甲甲乙乙'] and '丁丁\n戊戊' in songs
    assert re.search(r'2 首.*空 5.*重复 2\b', said)


def test_the_sample_twice_with_other_credits_is_the_sample(songs_in):
    once, _ = songs_in({'lyrics.json': SAMPLE})
    twice, said = songs_in({'lyrics.json': [{'lyric': [credit, *song['lyric']]} for credit in ('作词：甲', '編曲：乙') for song in SAMPLE]})
    assert sorted(once) == sorted(twice) and f'重复 {2 * len(SAMPLE) - len(once)}' in said


def test_hidden_files_are_not_data_and_links_are_followed(songs_in, tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    write_songs(tmp_path / 'elsewhere' / 'lyrics9.json', [{'lyric': ['别处']}])
    (tmp_path / 'songs').mkdir()
    (tmp_path / 'songs' / 'link').symlink_to(tmp_path / 'elsewhere', target_is_directory=True)
    hidden = [{'lyric': ['隐藏']}]
    songs, _ = songs_in({'lyrics1.json': [{'lyric': ['此处']}], '.ipynb_checkpoints/lyrics1-checkpoint.json': hidden,
                         '.lyrics2.json': hidden, '._lyrics1.json': b'\x00\x05\x16\x07'})
    assert sorted(songs) == ['别处', '此处']


def test_the_order_depends_on_seed_and_songs_alone(songs_in, tmp_path):
    names = [f'lyrics{i}.json' for i in range(9)]
    files = {name: [{'lyric': [f'{name}的歌{i}']} for i in range(5)] for name in names}
    one, _ = songs_in(files)
    for name in names:
        (tmp_path / 'songs' / name).unlink()
    assert songs_in({name: files[name] for name in reversed(names)})[0] == one     # another order on the disk
    assert len(one) == 45 and songs_in(MAX_SONGS=7)[0] == one[:7]
    other, _ = songs_in(SEED=2)
    assert other != one and sorted(other) == sorted(one)


@pytest.mark.parametrize('name', ['v0_char_chinese', 'v1_bpe_rope'])
def test_nine_songs_of_ten_train_and_none_is_on_both_sides(name, load):
    """Characters count a separator as one, whatever number of tokens it is."""
    module = load(name)
    tokenizer, train, test, chars = module.load_data()
    songs = module.load_songs()
    n = int(0.9 * len(songs))
    assert not set(songs[:n]) & set(songs[n:]) and len(songs) > 500
    assert chars == sum(len(song) + 1 for song in songs[n:])
    if name == 'v0_char_chinese':
        assert [tokenizer.decode(data.tolist()).split('\n\n') for data in (train, test)] == [songs[:n], songs[n:]]
    else:
        eos = tokenizer.eos_id()
        for data, part in ((train, songs[:n]), (test, songs[n:])):
            assert data[-1] == eos and (data == eos).sum() == len(part)
            assert tokenizer.decode(data[:data.tolist().index(eos)].tolist()) == part[0]


# ---------- the tokenizer ----------
@pytest.fixture
def learn(load, tmp_path):
    """learn(songs, vocabulary): v1's tokenizer of them."""
    def make(songs, vocabulary=400):
        (tmp_path / 'tokenizer').mkdir(exist_ok=True)
        return load('v1_bpe_rope', LYRICS_DIR=str(tmp_path / 'tokenizer'), BPE_VOCAB_SIZE=vocabulary).train_tokenizer(songs)
    return make


@pytest.fixture(scope='module')
def tokenizers(lyrics_dir, tmp_path_factory):
    """Of the sample, and of the sample without a single space."""
    import importlib.util

    from conftest import tiny
    spec = importlib.util.spec_from_file_location('v1', tiny('v1_bpe_rope', tmp_path_factory.mktemp('v1'), lyrics_dir))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.BPE_VOCAB_SIZE = 2000
    return [module.train_tokenizer(songs) for songs in (['\n'.join(song['lyric']) for song in SAMPLE[:300]],
                                                        [''.join(''.join(song['lyric']).split()) for song in SAMPLE[:300]])]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=['Cs'], exclude_characters='▁')))
def test_round_trip_of_any_text(tokenizers, text):
    assert all(tokenizer.decode(tokenizer.encode(text)) == text for tokenizer in tokenizers)


def test_round_trip(tokenizers):
    for text in ('你 好', ' 你好  世界 ', '   ', '\n', '一\n\n二\n', 'a b\n c ', '　雨　', 'ＡＢＣ“好，”！…—～（①½ﬁ）', '𠮷😀👨‍👩‍👧',
                 '</s><s><unk><0x41>', '\x00\t\r\n', 'e\u0301 é'):
        for tokenizer in tokenizers:
            ids = tokenizer.encode(text)
            assert tokenizer.decode(ids) == text
            assert tokenizer.eos_id() not in ids and tokenizer.unk_id() not in ids      # the text cannot forge the separator


def test_lines_and_unseen_characters(tokenizers):
    tokenizer = tokenizers[0]
    [line_break] = tokenizer.encode('\n')
    assert tokenizer.encode('天\n地').count(line_break) == 1         # a token of its own
    assert not any('\n' in tokenizer.id_to_piece(i) for i in range(len(tokenizer)) if i != line_break)
    pieces = tokenizer.encode('𠮷😀', out_type=str)
    assert len(pieces) == 8 and all(piece.startswith('<0x') for piece in pieces)


def test_the_vocabulary_has_the_size_that_was_asked_for(load, tokenizers):
    assert len(tokenizers[0]) == 2000 and len(load('v1_bpe_rope').load_data()[0]) == 3000


def test_an_alphabet_larger_than_the_vocabulary(learn):
    """Rare characters become bytes, words still find a place, and nothing is lost."""
    rng = random.Random(0)
    common, rare = [chr(0x4e00 + i) for i in range(150)], [chr(0x6000 + i) for i in range(400)]
    songs = [''.join(rng.choice(common) for _ in range(200)) for _ in range(200)] + [''.join(rare)]
    tokenizer = learn(songs, 600)
    assert len(tokenizer) == 600 and all(len(tokenizer.encode(char)) == 1 for char in common)
    assert sum(len(tokenizer.encode(char)) > 1 for char in rare) > 100
    assert tokenizer.decode(tokenizer.encode(songs[-1])) == songs[-1]
    assert sum(len(tokenizer.id_to_piece(i)) > 1 for i in range(260, 600)) > 50


def test_the_tokenizer_is_learned_on_the_training_songs_alone(load, monkeypatch):
    module, seen = load('v1_bpe_rope'), []
    monkeypatch.setattr(module, 'train_tokenizer', lambda songs, make=module.train_tokenizer: seen.extend(songs) or make(songs))
    module.load_data()
    songs = module.load_songs()
    assert seen == songs[:int(0.9 * len(songs))]


SONGS = ['春风又绿江南岸' * 20, '明月何时照我还' * 20]


def test_it_is_kept_and_never_stale(learn, tmp_path, monkeypatch):
    first = learn(SONGS, 320).serialized_model_proto()
    [kept] = (tmp_path / 'tokenizer').iterdir()
    assert re.fullmatch(r'bpe_320_\w+\.model', kept.name)
    learn(SONGS[:1], 320)
    learn(SONGS, 310)
    assert len(list((tmp_path / 'tokenizer').iterdir())) == 3       # other songs, another size: another name
    monkeypatch.setattr('sentencepiece.SentencePieceTrainer.train', None)
    assert learn(SONGS, 320).serialized_model_proto() == first      # not learned again


def test_a_damaged_file_is_learned_again(learn, tmp_path):
    first = learn(SONGS, 320).serialized_model_proto()
    [kept] = (tmp_path / 'tokenizer').iterdir()
    for damaged in (b'', b'not a model', first[:1000], first[:len(first) // 2], first[:-1]):
        kept.write_bytes(damaged)
        assert learn(SONGS, 320).serialized_model_proto() == first == kept.read_bytes()


def test_a_folder_that_cannot_be_written(learn, tmp_path, monkeypatch):
    """A Kaggle input, a full disk: it is simply not kept. As root, permissions do not bind: so a file in the folder's place."""
    def refuse(*arguments, **options):
        raise OSError(30, 'Read-only file system')
    monkeypatch.setattr('pathlib.Path.write_bytes', refuse)
    assert len(learn(SONGS, 320)) > 300 and list((tmp_path / 'tokenizer').iterdir()) == []
    monkeypatch.undo()
    os.rmdir(tmp_path / 'tokenizer')
    (tmp_path / 'tokenizer').write_text('')
    monkeypatch.setattr('pathlib.Path.mkdir', lambda *arguments, **options: None)
    assert len(learn(SONGS, 320)) > 300


# ---------- windows ----------
def test_batches_depend_on_seed_and_step_alone(load):
    module, data = load('v0_char_english'), torch.arange(1000)
    (x, y), (again, _), (other, _) = (module.get_batch(data, step) for step in (5, 5, 6))
    assert x.shape == y.shape == (4, 32) and torch.equal(x + 1, y)
    assert torch.equal(x, again) and not torch.equal(x, other)
    torch.manual_seed(9)
    assert torch.equal(x, module.get_batch(data, 5)[0])
    module.SEED += 1                                                # and not on their sum
    assert not any(torch.equal(x, module.get_batch(data, step)[0]) for step in (4, 5))


def test_batches_cover_all_positions(load):
    module, data = load('v0_char_english', BATCH_SIZE=64), torch.arange(40)
    x, y = map(torch.cat, zip(*(module.get_batch(data, step) for step in range(10))))
    assert set(x[:, 0].tolist()) == set(range(8)) and y.max() == 39     # the last window ends with the last token


@pytest.mark.parametrize(('name', 'start'), [('v4_flash_optim', ()), ('v5_checkpoint', (3,))])
def test_the_loader_gives_the_steps_in_order(name, start, load):
    """From the step that a run starts at, and the same from workers as from the process itself."""
    data = torch.arange(5000)
    for workers in (0, 2):
        module = load(name, TRAIN_ITERS=8, NUM_WORKERS=workers)
        got = list(module.train_loader(data, *start))
        expected = [module.get_batch(data, step) for step in range(*start or (0,), 8)]
        assert len(got) == len(expected) and all(torch.equal(a, b) for pair in zip(got, expected) for a, b in zip(*pair))


class Watched(torch.nn.Module):
    """Its loss is the mean position of the targets; it keeps what it sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x, y):
        assert not self.training and not torch.is_grad_enabled() and torch.equal(x + 1, y)
        self.seen.append(x)
        return None, y.double().mean()


@pytest.mark.parametrize(('name', 'constants'), [('v0_char_english', {}), ('v7_grad_accum', {'MICRO_BATCH_SIZE': 3})])
def test_evaluation_windows_reach_from_the_first_token_to_the_last(name, constants, load):
    """At equal distances, the same each time, whole; averaged by tokens, though the last batch is smaller."""
    module, data, model = load(name, **constants), torch.arange(7001), Watched()
    loss = module.estimate_loss(model, data, 5)
    starts = torch.cat(model.seen)[:, 0]
    assert len(starts) == 20 and starts[0] == 0 and starts[-1] == 7001 - 33
    assert set(starts.diff().tolist()) <= {366, 367} and model.training
    assert loss == pytest.approx((torch.cat(model.seen) + 1).double().mean().item())
    assert max(map(len, model.seen)) <= constants.get('MICRO_BATCH_SIZE', 4)
    module.estimate_loss(model, data)
    assert sum(map(len, model.seen)) == 20 + 2 * 4                  # EVAL_ITERS batches


def test_the_whole_split_is_read_to_the_last_target(load):
    """As main asks for it at the end: no target is left out, whatever the length."""
    module = load('v0_char_english')
    for size in (34, 64, 65, 127, 128, 129, 1000, 7001):
        model = Watched()
        module.estimate_loss(model, torch.arange(size), -(-size // (module.BATCH_SIZE * module.BLOCK_SIZE)))
        assert set((torch.cat(model.seen) + 1).flatten().tolist()) == set(range(1, size))
