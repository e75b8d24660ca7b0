"""s1_control, s2_rhyme_rl, s3_finetune: the codes in the text, writing as asked, practice by reward, fine-tuning."""
import argparse
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SAMPLE, imported, log_lines, run_script, start_script, tiny, wait_for, write_songs

SHORT = {'MAX_SONGS': 200, 'BPE_VOCAB_SIZE': 3000, 'BLOCK_SIZE': 128, 'N_HEADS': 4, 'N_KV_HEADS': 2, 'MUON_LR': 0.02}


@pytest.fixture
def s1(load):
    return load('s1_control', **SHORT)


@pytest.fixture(scope='module')
def trained(tmp_path_factory, lyrics_dir):
    """A folder in which a tiny s1_control has been trained, and what it printed."""
    folder = tmp_path_factory.mktemp('s1')
    done = run_script(tiny('s1_control', folder, lyrics_dir, **SHORT | {'TRAIN_ITERS': 60, 'EVAL_INTERVAL': 30, 'WARMUP_ITERS': 10,
                                                                      'SAVE_INTERVAL': 30, 'PREVIEW_INTERVAL': 60}))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


# ---------- the text with its codes ----------
@pytest.mark.parametrize(('line', 'rhyme'), [
    ('旧站台上', '江阳'), ('长大', '发花'), ('音乐', '乜斜'), ('快乐', '梭坡'), ('女儿', '一七'), ('红绿', '一七'), ('下雨', '一七'),
    ('知', '一七'), ('云', '人辰'), ('远', '言前'), ('穷', '中东'), ('翁', '中东'), ('流水', '灰堆'), ('喝酒！', '油求'), ('爱你😊', '一七'),
    ('银行', '江阳'), ('不行', '中东'), ('hello', '无'), ('第9', '无'), ('……', '无')])
def test_rhyme_of_a_line(line, rhyme, s1):
    assert re.search('<([^<>0-9]+)>', s1.mark_line(line))[1] == rhyme


def test_code_stands_before_the_last_character_and_length_at_the_start(s1):
    assert s1.mark_line('旧站台上') == '<4>旧站台<江阳>上' and s1.mark_line('（雨）') == '<3>（<一七>雨）'
    assert s1.mark_line('一' * 30).startswith('<20>')
    finals = [final for finals in s1.RHYMES.values() for final in finals.split()]
    assert len(s1.RHYMES) == 14 and len(finals) == len(set(finals))


def test_songs_with_codes_are_the_songs(s1):
    """Codes removed, nothing is left of them; through the tokenizer, nothing is lost."""
    songs = s1.load_songs()
    plain = {'\n'.join(song['lyric']) for song in SAMPLE}
    assert {s1.lyric_of(song) for song in songs} <= plain
    tokenizer = s1.train_tokenizer(songs)
    assert tokenizer.decode(tokenizer.encode(songs)) == songs
    assert [tokenizer.id_to_piece(i) for i in range(2, 2 + len(s1.CODES))] == s1.CODES
    assert [tokenizer.id_to_piece(i) for i in (tokenizer.eos_id(), s1.CONTINUED, s1.LYRIC)] == ['</s>', '<续>', '<歌词>']


def test_what_songs_without_fields_or_with_brackets_become(load, tmp_path):
    songs = [{'lyric': ['一行', '<江阳>两行<歌词>'], 'singer': 5, 'name': '晚\n<风>', 'mood': None}, {'lyric': '只有歌词'}]
    write_songs(tmp_path / 'own' / 'lyrics1.json', songs)
    s1 = load('s1_control', LYRICS_DIR=str(tmp_path / 'own'))
    read = list(s1.read_lyrics(tmp_path / 'own' / 'lyrics1.json'))
    assert read[0].startswith('<歌手>5<歌名>晚 〈风〉<歌词><2>一<') and read[1] == '<歌词><4>只有歌<一七>词'
    assert s1.lyric_of(read[0]) == '一行\n〈江阳〉两行〈歌词〉'


def test_windows_begin_with_the_header_and_hold_every_token(s1):
    songs, most = s1.load_songs()[:50], 0
    tokenizer = s1.train_tokenizer(songs)
    for song in songs:
        pieces = s1.encode_songs(tokenizer, [song])
        ids = tokenizer.encode(song, add_eos=True)
        header = ids[:ids.index(s1.LYRIC) + 1]
        assert [piece[0] for piece in pieces] == [tokenizer.eos_id()] + [s1.CONTINUED] * (len(pieces) - 1)
        assert all(piece[1:len(header) + 1] == header and len(piece) <= s1.BLOCK_SIZE + 1 for piece in pieces)
        assert sum((piece[len(header) + 1:] for piece in pieces), []) == ids[len(header):]
        x, y = s1.get_windows(pieces)
        counted = s1.lyric_only(x, y)
        assert tokenizer.decode(counted[counted >= 0].tolist()) == s1.lyric_of(song)
        assert (y >= 0).sum() == sum(len(piece) - 1 for piece in pieces)
        most = max(most, len(pieces))
    assert most > 1                                                 # some did not fit into a window


@pytest.mark.parametrize(('drop', 'fields'), [(0.0, 3), (1.0, 0)])
def test_fields_are_left_out_of_the_header_at_random(drop, fields, s1, monkeypatch):
    monkeypatch.setattr(s1, 'DROP_FIELD', drop)
    tokenizer, data, *_ = s1.load_data()
    x, y = s1.get_batch(data, 3)
    assert torch.equal(x, s1.get_batch(data, 3)[0]) and not torch.equal(x, s1.get_batch(data, 4)[0])
    names = range(s1.LYRIC + 1, s1.LYRIC + 1 + len(s1.FIELDS))
    for row in x.tolist():
        header = row[1:row.index(s1.LYRIC)]
        assert sum(token in names for token in header) == fields and (fields or not header)


def test_each_field_is_dropped_on_its_own(s1):
    tokenizer, data, *_ = s1.load_data()
    seen = set()
    for step in range(60):
        for row in s1.get_batch(data, step)[0].tolist():
            header = row[:row.index(s1.LYRIC)]
            seen.add(tuple(token for token in range(4, 7) if token in header))
    assert len(seen) == 8


def test_bits_per_char_are_of_the_lyric_alone(s1):
    """What the codes cost is not counted; a model that knows nothing pays for each token of the lyric log2 V."""
    tokenizer, _, test_data, tokens_per_char = s1.load_data()
    model = s1.GPT(len(tokenizer))
    for p in model.parameters():
        p.data.zero_()
    whole = s1.estimate_loss(model, test_data, 50)
    assert whole == pytest.approx(torch.tensor(len(tokenizer)).log().item(), rel=1e-5)
    songs = s1.load_songs()
    lyrics = [s1.lyric_of(song) for song in songs[int(0.9 * len(songs)):]]
    counted = sum(len(tokenizer.encode(piece)) for song in songs[int(0.9 * len(songs)):]
                  for piece in re.split('<[^<>]+>', song.split('<歌词>')[1])) + len(lyrics)
    assert tokens_per_char == pytest.approx(counted / sum(len(lyric) + 1 for lyric in lyrics), rel=0.01)


def test_training_helps_and_shows_no_codes(trained):
    folder, output = trained
    lines = log_lines(output)
    assert lines[-1]['test'] < lines[0]['test'] - 1
    written = output.split('--- 第 60 步写的 ---\n')[1].split('\n---')[0].split('\n', 1)[-1]
    assert written and not re.search('<[^<>]+>', written)
    config = torch.load(folder / 'checkpoints/s1_control/best.pt', weights_only=True)['config']
    assert set(config['KNOWN']['情绪']) <= {song['mood'] for song in SAMPLE} and config['KNOWN']['歌手']


# ---------- generate.py ----------
@pytest.fixture(scope='module')
def writer(trained):
    generate = imported('generate')
    model, tokenizer = generate.load(trained[0] / 'checkpoints/s1_control/best.pt', 'cpu')
    return generate, model, tokenizer


def write(writer, number=3, prompt='', **wishes):
    generate, model, tokenizer = writer
    defaults = {name: row[1] for name, row in generate.SETTINGS.items()}
    options = argparse.Namespace(**defaults | {'max_tokens': 100} | wishes)
    new_song = generate.song_maker(model, tokenizer, options)
    songs = [new_song(prompt, seed) for seed in range(number)]
    for _ in generate.write_songs(model, list(songs), options):
        pass
    return songs


def codes_of(song):
    return re.findall('<([^<>0-9]+)>', song.tokenizer.decode(song.ids[1:]).split('<歌词>')[1])


def test_only_the_rhyme_that_was_asked_for(writer):
    """Every code but one is masked; a line that does not rhyme is written again, some times."""
    asked = write(writer, 8, rhyme='江阳')
    assert {code for song in asked for code in codes_of(song)} == {'江阳'}
    form = asked[0].form

    def share(songs):
        lines = [line for song in songs for line in song.text.splitlines()]
        return sum(form.marked(line)[0] == '江阳' for line in lines if line) / len(lines)
    assert share(asked) > share(write(writer, 8)) + 0.3
    assert not any('<' in song.text for song in asked)


def test_scheme_lines_with_a_letter_share_its_rhyme_and_others_differ(writer):
    """What the first line of a letter rhymes with decides; the others announce it."""
    seen = 0
    for song in write(writer, 6, scheme='AABA', max_tokens=200):
        codes = codes_of(song)
        if rhyme := song.decided.get('A'):
            others = {*codes[1::4], *codes[3::4], *codes[4::4]}
            assert others <= {rhyme} and rhyme not in codes[2::4]
            seen += len(codes) > 4
    assert seen >= 3


def test_letters_never_run_out_of_rhymes(writer):
    """Two given lines of one rhyme under two letters; a given line that ends in no Chinese; more letters than rhymes."""
    for wishes in ({'prompt': '我在天上\n你在远方', 'scheme': 'AB'}, {'prompt': 'hello', 'scheme': 'A'}, {'scheme': 'ABCDEFGHIJKLMNOP'}):
        for song in write(writer, 2, max_tokens=400, **wishes):
            assert len(song.text.splitlines()) > 2 and max(map(len, song.text.splitlines())) < 70


def test_greedy_lines_are_written_again_with_another_last_character(writer):
    asked = write(writer, 1, rhyme='江阳', temperature=0.0)[0]
    lines = asked.text.splitlines()
    assert sum(asked.form.marked(line)[0] == '江阳' for line in lines) > len(lines) / 2


def test_acrostic_length_header_and_prompt(writer):
    for song in write(writer, 4, acrostic='生日快乐', max_tokens=400):
        assert [line[0] for line in song.text.splitlines()] == list('生日快乐') and song.ended
    for song in write(writer, 2, acrostic='龘龘', max_tokens=400):                     # a character of bytes
        assert [line[0] for line in song.text.splitlines()] == list('龘龘')
    song, *_ = write(writer, chars=7, mood='悲伤', singer='青石桥', title='晚风')
    text = song.tokenizer.decode(song.ids[1:])
    assert text.startswith('<情绪>悲伤<歌手>青石桥<歌名>晚风<歌词><7>') and set(re.findall(r'<(\d+)>', text)) == {'7'}
    for song in write(writer, 2, prompt='雨落在旧站台\n等', acrostic='生日', max_tokens=400):      # after the lines that are given
        assert [line[0] for line in song.text.splitlines()] == list('雨等生日')
    song, *_ = write(writer, prompt='雨<江阳>落', title='晚<歌词>风')
    assert song.text.startswith('雨〈江阳〉落\n') and song.form.header == '<歌名>晚〈歌词〉风<歌词>'
    song, *_ = write(writer, prompt='雨落在旧站台\n等', scheme='.A')
    assert song.text.startswith('雨落在旧站台\n等\n') and '<歌词><6>雨落在旧站<怀来>台\n<1><中东>等\n' in song.tokenizer.decode(song.ids)
    assert set(codes_of(song)[1::2]) == {'中东'}                     # the given line decides the rhyme of its letter


@pytest.mark.parametrize('chars', [1, 3, 7, 20])
def test_lines_are_as_long_as_asked(chars, writer):
    """Where the model does not obey by itself, the last attempt counts."""
    lines = [line for song in write(writer, 3, chars=chars, rhyme='江阳', max_tokens=300) for line in song.text.splitlines()]
    assert len(lines) > 3 and {len(line) for line in lines} == {chars}


def test_a_song_does_not_depend_on_its_companions(writer):
    wishes = {'rhyme': '江阳', 'scheme': '-A', 'chars': 7}          # lines are written again at different times
    together = [song.text for song in write(writer, 5, **wishes)]
    generate, model, tokenizer = writer
    for seed, text in enumerate(together):
        options = argparse.Namespace(**{name: row[1] for name, row in generate.SETTINGS.items()} | wishes | {'max_tokens': 100})
        alone = generate.song_maker(model, tokenizer, options)('', seed)
        for _ in generate.write_songs(model, [alone], options):
            pass
        assert alone.text == text


@pytest.mark.parametrize(('wish', 'answer'), [
    ({'rhyme': '江洋', 'scheme': '-A'}, '江阳、'), ({'singer': '无名'}, '青石桥'), ({'mood': '开心'}, '悲伤'), ({'chars': 21}, '1 到 20')])
def test_unknown_values_are_answered_with_those_that_exist(wish, answer, writer):
    with pytest.raises(ValueError, match=answer):
        write(writer, **wish)


def test_songs_without_moods_say_so(writer):
    generate, model, tokenizer = writer
    config = model.config | {'KNOWN': {'情绪': [], '歌手': []}}
    options = argparse.Namespace(**{name: row[1] for name, row in generate.SETTINGS.items()} | {'mood': '悲伤'})
    with pytest.raises(ValueError, match='没有标'):
        generate.Form(config, tokenizer, options)


def test_interactive_takes_wishes_and_drops_them(trained):
    folder, _ = trained
    shutil.copy(ROOT / 'generate.py', folder)
    process = subprocess.run(
        [sys.executable, 'generate.py', '--interactive', '--checkpoint', 'checkpoints/s1_control/best.pt'], cwd=folder, text=True,
        input='/rhyme 江洋\n雨\n/rhyme 江阳\n雨\n/rhyme\n/quit\n', capture_output=True, encoding='utf-8', timeout=120)
    assert process.returncode == 0 and '没有「江洋」这个韵，有的是：' in process.stderr and process.stdout.count('\n') > 2
    assert 'rhyme 江阳' in process.stderr and 'rhyme' not in process.stderr.splitlines()[-2]


# ---------- s2: practice ----------
@pytest.fixture
def s2(load, trained):
    module = load('s2_rhyme_rl', INIT_FROM=str(trained[0] / 'checkpoints/s1_control/best.pt'), MAX_SONGS=200)
    module.weights, module.tokenizer = module.load_base()
    return module


def song(s2, *lines):
    return [s2.tokenizer.eos_id(), *s2.tokenizer.encode('<歌词>' + '\n'.join(map(s2.mark_line, lines)), add_eos=True)]


@pytest.mark.parametrize(('lines', 'points'), [
    (['天亮了', '我在路上', '风很大', '你在远方'], [1.0]), (['天亮了', '我在远方', '风很大', '你在远方'], [0.0]),
    (['天亮了', '我在路上', '天亮了', '你在远方'], [0.0]), (['天亮了', '我在路上', '风很大', '你在那里'], [0.0]),
    (['天', '路上', '风', '远方', '雨', '路上', '雪', '天堂', '还有', '两行'], [1.0, 0.0]), (['天', '路上'], []), ([], [])])
def test_score_of_stanzas(lines, points, s2):
    scored = s2.score(s2.tokenizer, song(s2, *lines) if lines else [1, 50, 60, 1])
    assert [one for one, _ in scored] == points


def test_score_looks_at_the_characters_and_credits_what_decided_them(s2):
    """Codes that lie, and codes where they do not belong, earn nothing."""
    ids = song(s2, '天亮了', '我在路上', '风很大', '你在远方')
    [(points, positions)] = s2.score(s2.tokenizer, ids)
    assert [s2.tokenizer.id_to_piece(ids[i]) for i in positions] == ['<江阳>', '上', '<江阳>', '方']
    code = s2.tokenizer.piece_to_id('<江阳>')
    lying = s2.tokenizer.encode('<歌词><3>天亮<梭坡>了\n<4>我在路<江阳>上\n<3>风很<发花>大\n<4>你在那<江阳>里', add_eos=True)
    [(points, positions)] = s2.score(s2.tokenizer, lying)
    assert points == 0.0 and [lying[i] for i in positions].count(code) == 2
    stray = s2.tokenizer.encode('<歌词><3>天亮<梭坡>了\n<4><续>我在路<江阳>上\n<3>风很<发花>大\n<4><续>你在那<江阳>里', add_eos=True)
    assert [one for one, _ in s2.score(s2.tokenizer, stray)] == [0.0]


def test_only_credited_tokens_are_moved_and_towards_the_reward(s2):
    torch.manual_seed(0)
    logits, y = torch.randn(1, 4, 9, requires_grad=True), torch.tensor([[3, 5, 7, -100]])
    loss, kl = s2.policy_loss(logits, logits.detach(), y, torch.tensor([[0.0, 0.5, -0.5, 0.0]]))
    assert kl.item() == pytest.approx(0.0, abs=1e-6)                # the leash is slack at the start
    (loss + kl).backward()
    assert (logits.grad[0, [0, 3]].abs() < 1e-6).all()
    assert logits.grad[0, 1, 5] < 0 < logits.grad[0, 2, 7]          # the first becomes likelier, the second less so


def test_a_stanza_is_compared_with_the_mean_of_the_batch(s2):
    """Two stanzas in three rhyme: their tokens get +1/3, those of the other −2/3, all the rest nothing."""
    good, bad = (song(s2, '天亮了', '我在路上', '风很大', last) for last in ('你在远方', '你在那里'))

    class Model:
        def generate(self, idx, stop, seed):
            rows = [torch.tensor(ids) for ids in (good, bad, good)]
            return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
    x, y, advantage, measures = s2.practice(Model(), s2.tokenizer, 0)
    assert measures['reward'] == pytest.approx(2 / 3) and measures['stanzas'] == 1
    for row, ids, expected in ((0, good, 1 / 3), (1, bad, -2 / 3)):
        moved = {y[row, t].item(): advantage[row, t].item() for t in advantage[row].nonzero()[:, 0]}
        [(_, positions)] = s2.score(s2.tokenizer, ids)
        assert set(moved) == {ids[i] for i in positions} and list(moved.values()) == pytest.approx([expected] * len(moved))
    assert len(x) == 3 and advantage.sum().item() == pytest.approx(0, abs=1e-6)


def test_the_leash_pulls_back(s2):
    """KL is what torch says; its gradient goes to the base; padding does not count."""
    torch.manual_seed(0)
    base, logits = torch.randn(2, 1, 3, 9).unbind(0)
    logits.requires_grad_()
    y = torch.tensor([[1, 2, -100]])
    _, kl = s2.policy_loss(logits, base, y, torch.zeros(1, 3))
    p, q = ((part / s2.TEMPERATURE).log_softmax(-1)[:, :2] for part in (logits, base))
    assert kl.item() == pytest.approx(torch.nn.functional.kl_div(q, p, log_target=True, reduction='sum').item(), rel=1e-4)
    kl.backward()
    nearer = s2.policy_loss(logits - logits.grad, base, y, torch.zeros(1, 3))[1]
    assert nearer < kl and (logits.grad[0, 2] == 0).all()


def test_cache_writes_what_the_whole_context_would(s2):
    model = s2.GPT(len(s2.tokenizer)).eval()
    model.load_state_dict(s2.weights)
    ids, cache = torch.tensor([song(s2, '天亮了', '我在路上'), song(s2, '风很大了', '在天上')][0])[None].repeat(2, 1), {}
    steps = [model(ids[:, t:t + 1], start=t, cache=cache)[0] for t in range(ids.shape[1])]
    torch.testing.assert_close(torch.cat(steps, dim=1), model(ids)[0], rtol=1e-4, atol=1e-4)
    eos = s2.tokenizer.eos_id()
    start = torch.full((5, 1), eos)
    songs = model.generate(start, eos, 7)
    assert torch.equal(songs, model.generate(start, eos, 7)) and not torch.equal(songs[0], songs[1])
    for row in songs.tolist():
        ended = row.index(eos, 1) if eos in row[1:] else len(row)
        assert -100 not in row[:ended] and set(row[ended + 1:]) <= {-100}


PRACTICE = {'MAX_SONGS': 200, 'BATCH_SIZE': 32, 'MICRO_BATCH_SIZE': 16, 'MAX_NEW_TOKENS': 90, 'TRAIN_ITERS': 6, 'EVAL_INTERVAL': 3,
            'EVAL_ITERS': 1, 'SAVE_INTERVAL': 3, 'PREVIEW_INTERVAL': 6, 'WARMUP_ITERS': 1, 'KL_WEIGHT': 0.0, 'DEVICE': 'cpu',
            'USE_AMP': False}


def practising(folder, trained, lyrics_dir, **constants):
    (folder / 'checkpoints').mkdir(parents=True, exist_ok=True)
    shutil.copytree(trained[0] / 'checkpoints/s1_control', folder / 'checkpoints/s1_control', dirs_exist_ok=True)
    return tiny('s2_rhyme_rl', folder, lyrics_dir, **PRACTICE | constants)


def test_practice_raises_the_reward_and_goes_on_after_a_kill_bit_for_bit(trained, lyrics_dir, tmp_path):
    """The reward here is 江阳 announced in the fourth line: even a model of this size learns that in a few steps."""
    def run(folder, **constants):
        path = practising(folder, trained, lyrics_dir, TRAIN_ITERS=12, MUON_LR=0.004, LEARNING_RATE=0.004, MIN_LR=0.002, **constants)
        source = path.read_text(encoding='utf-8')
        reward = "good = bool(decided[3]) and song[decided[3][0]] == tokenizer.piece_to_id('<江阳>')"
        assert source.count('good = rhymes[1]') == 1
        path.write_text(re.sub(r'good = rhymes.*', reward, source), encoding='utf-8')
        return path
    whole = run_script(run(tmp_path / 'whole'))
    assert whole.returncode == 0, whole.stderr
    rewards = [int(share) for share in re.findall(r'押韵的节 (\d+)%', whole.stdout)]
    assert len(rewards) == 12 and sum(rewards[-3:]) > sum(rewards[:3]) + 30, str(rewards)
    process = start_script(run(tmp_path / 'killed'))
    wait_for(process, '第 7 步')
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    again = run_script(run(tmp_path / 'killed'))
    assert again.returncode == 0 and '的第 6 步继续' in again.stdout
    one, other = (torch.load(tmp_path / name / 'checkpoints/s2_rhyme_rl/latest.pt', weights_only=True)['model'] for name in ('whole', 'killed'))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_tight_leash_keeps_the_model_where_it_was(trained, lyrics_dir, tmp_path):
    def last_kl(weight):
        done = run_script(practising(tmp_path / str(weight), trained, lyrics_dir, TRAIN_ITERS=5, MUON_LR=0.01, LEARNING_RATE=0.01,
                                     MIN_LR=0.01, KL_WEIGHT=weight))
        assert done.returncode == 0, done.stderr
        return float(re.findall(r'KL ([\d.]+)', done.stdout)[-1])
    assert last_kl(100.0) < last_kl(0.0) / 2


# ---------- s3: fine-tuning; what s2 and s3 start from ----------
def test_finetuning_learns_ones_own_songs_and_a_singer_never_seen(trained, tmp_path):
    lines = [line for song in SAMPLE[:40] for line in song['lyric'][:4]]
    own = [{'name': f'我的歌{i}', 'singer': '我自己', 'lyric': [f'咚咚锵{lines[4 * i + j]}' for j in range(4)]} for i in range(40)]
    write_songs(tmp_path / 'MySongs' / 'lyrics1.json', own)
    shutil.copytree(trained[0] / 'checkpoints', tmp_path / 'checkpoints')
    path = tiny('s3_finetune', tmp_path, tmp_path / 'MySongs', TRAIN_ITERS=40, EVAL_INTERVAL=10, MUON_LR=0.01)
    done = run_script(path)
    assert done.returncode == 0, done.stderr
    lines = log_lines(done.stdout)
    assert lines[0]['test'] < float(re.search(r'瞎猜的损失 ([\d.]+)', done.stdout)[1]) - 0.1      # it does not begin at nothing
    assert lines[-1]['test'] < lines[0]['test'] - 0.5
    best, base = (torch.load(tmp_path / f'checkpoints/{name}/best.pt', weights_only=True) for name in ('s3_finetune', 's1_control'))
    assert best['tokenizer'] == base['tokenizer'] and best['config']['BLOCK_SIZE'] == base['config']['BLOCK_SIZE'] == 128
    assert '我自己' in best['config']['KNOWN']['歌手'] and set(base['config']['KNOWN']['情绪']) == set(best['config']['KNOWN']['情绪'])


def test_finetuning_without_songs_says_what_is_missing(trained, rung, tmp_path):
    """Not the sample's: it cannot stand in for one's own."""
    (tmp_path / 'MySongs').mkdir()
    shutil.copy(ROOT / 'ChineseLyrics/sample.json', tmp_path / 'MySongs')
    done = run_script(rung('s3_finetune', LYRICS_DIR='MySongs', INIT_FROM=str(trained[0] / 'checkpoints/s1_control/best.pt')))
    assert done.returncode == 1 and done.stderr == '错误：缺 MySongs/lyrics*.json\n'


@pytest.mark.parametrize('name', ['s2_rhyme_rl', 's3_finetune'])
@pytest.mark.parametrize('what', ['none', 'broken', 'another'])
def test_a_start_that_cannot_be_used_is_one_message(name, what, rung, tmp_path):
    start = tmp_path / 'start.pt'
    if what == 'broken':
        start.write_bytes(b'PK\x03\x04')
    if what == 'another':                                           # of v10: its tokens mean other things
        torch.save({'model': {}, 'tokenizer': b'x', 'config': {'N_EMBED': 32, 'N_HEADS': 2, 'N_KV_HEADS': 2, 'N_LAYERS': 2,
                                                              'BLOCK_SIZE': 32}}, start)
    done = run_script(rung(name, INIT_FROM=str(start)))
    assert done.returncode == 1 and done.stderr.startswith(f'错误：{start} 不能用') and done.stderr.count('\n') == 1
