"""bench/lyrics.py and bench/songwriter.py: the ear, and what is said about the songwriter's scripts."""
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, environment, write_songs

sys.path.insert(0, str(ROOT / 'bench'))
import lyrics  # noqa: E402
import songwriter  # noqa: E402

SONG = '天亮了\n我在路上\n风很大\n你在远方\n天亮了\n我在这里'


@pytest.mark.parametrize(('a', 'b', 'rhymes'), [
    ('我在路上', '你在远方', True), ('我在路上', '走在路上', False), ('我在路上', '你在这里', False), ('hello', 'hello', False),
    ('快乐', '唱歌', True), ('音乐', '唱歌', False), ('下雨', '你', True), ('路上！', '（远方）', True), ('', '', False)])
def test_two_lines_rhyme(a, b, rhymes):
    assert lyrics.rhymed(a, b) is rhymes


def test_the_rhyme_classes_are_those_of_the_scripts():
    s1 = songwriter.script()
    assert lyrics.RHYMES | {'无': ''} == s1.RHYMES
    for line in SONG.splitlines():
        assert lyrics.rhyme(line)[1] == re.search('<([^<>0-9]+)>', s1.mark_line(line))[1]


def test_a_song_is_counted():
    """One whole stanza, which rhymes; five pairs of neighbours; one line of six is repeated."""
    stanzas, neighbours, lengths, repeated, two = lyrics.counts(SONG)
    assert stanzas == (1, 1) and neighbours == (0, 5) and lengths == (0, 5) and repeated == (1, 6)
    text = SONG.replace('\n', '')
    assert two == (len({text[i:i + 2] for i in range(len(text) - 1)}), len(text) - 1)
    assert lyrics.counts('') == [(0, 0)] * 5


def test_shares_have_an_interval_that_narrows_with_more_songs():
    few, many = ([(1, 2)] * n + [(0, 2)] * n for n in (5, 500))
    (share, low, high), (share2, low2, high2) = (lyrics.shares(np.array([[one] for one in table]))[0] for table in (few, many))
    assert share == share2 == 0.25 and low <= share <= high and high - low > 5 * (high2 - low2) > 0


def test_shuffled_lines_are_the_same_lines_in_songs_of_the_same_lengths():
    songs = [SONG, '一\n二\n三', '四']
    dealt = lyrics.shuffled(songs)
    assert [song.count('\n') for song in dealt] == [song.count('\n') for song in songs] and dealt != songs
    assert sorted('\n'.join(dealt).split('\n')) == sorted('\n'.join(songs).split('\n'))


def test_the_sample_rhymes_and_its_shuffled_lines_do_not(tmp_path):
    done = subprocess.run([sys.executable, ROOT / 'bench/lyrics.py', ROOT / 'ChineseLyrics/sample.json'], cwd=tmp_path,
                          capture_output=True, encoding='utf-8', env=environment(tmp_path))
    assert done.returncode == 0, done.stderr
    real, shuffled = (float(share) for share in re.search(r'stanzas that rhyme \| ([\d.]+)% .*? \| ([\d.]+)%', done.stdout).groups())
    assert real > 80 and shuffled < 15


def ear(folder, name, text):
    (folder / name).write_text(text, encoding='utf-8')
    return subprocess.run([sys.executable, ROOT / 'bench/lyrics.py', name], cwd=folder, capture_output=True, encoding='utf-8', env=environment(folder))


def test_songs_are_read_from_whatever_holds_them(tmp_path):
    """A lyric in one string or in lines, without one, of two lines; what generate.py wrote; each counts alike."""
    lines = json.dumps([{'lyric': SONG.splitlines()}, {'lyric': None}, {}])
    tables = [ear(tmp_path, name, text).stdout for name, text in (
        ('lines.json', lines), ('text.json', json.dumps([{'lyric': SONG}])), ('songs.jsonl', json.dumps({'text': SONG})))]
    assert 'stanzas that rhyme | 100.0%' in tables[0] and tables[0] == tables[1] == tables[2]
    assert 'stanzas that rhyme | — | — |' in ear(tmp_path, 'short.json', '[{"lyric": "一"}]').stdout


@pytest.mark.parametrize('text', ['{', '[]', '[{"name": "x"}]', '[1]', '{"lyric": "x"}'])
def test_what_holds_no_songs_is_told_in_a_line(text, tmp_path):
    done = ear(tmp_path, 'songs.json', text)
    assert done.returncode == 1 and 'Traceback' not in done.stderr and 'songs.json' in done.stderr


def test_moods_are_told_apart_by_their_words():
    classify = songwriter.Classifier(['雨夜泪水', '雨中的泪', '太阳欢笑', '欢笑的太阳'], ['悲伤', '悲伤', '欢快', '欢快'])
    assert classify('泪水和雨') == '悲伤' and classify('太阳') == '欢快'


def test_obedience_is_compared_with_codes_dealt_anew():
    found = songwriter.obeyed([('江阳', '江阳')] * 50 + [('言前', '言前')] * 50)
    assert found['obeyed'] == 1.0 and found['lines'] == 100 and found['chance'] == 0.5 and 0.3 < found['shuffled'] < 0.7
    assert songwriter.obeyed([('江阳', '言前'), ('言前', '江阳')])['obeyed'] == 0.0


def test_the_same_character_is_seen():
    assert songwriter.same_character(['一\n路上\n二\n树上', '一\n路上\n二\n远方']) == 0.5


def test_a_model_of_another_script_or_start_is_trained_again(tmp_path, monkeypatch):
    runs = []

    def run(command, cwd, **options):
        runs.append(command[1])
        (cwd / 'checkpoints' / command[1].removesuffix('.py')).mkdir(parents=True)
        return subprocess.CompletedProcess(command, 0, 'step 1/1 | 6.000 bits/char', '')
    monkeypatch.setattr(songwriter.subprocess, 'run', run)
    start = tmp_path / 'best.pt'
    for text, constants, trained in (('a', {'SEED': 1}, 1), ('a', {'SEED': 1}, 1), ('a', {'SEED': 2}, 2), ('b', {'SEED': 2}, 3)):
        start.write_text(text)
        assert songwriter.train(tmp_path / 'work', 's2_rhyme_rl', INIT_FROM=str(start), **constants)['bits'] == 6.0
        assert len(runs) == trained


def test_songs_are_read_as_s1_reads_them(tmp_path):
    texts = songwriter.texts_of([{'lyric': ['一行', '两行'], 'singer': '某人', 'mood': '平静'}, {'lyric': []}, {'lyric': ['三']}], tmp_path)
    assert len(texts) == 2 and texts[0].startswith('<情绪>平静<歌手>某人<歌词><2>')


def test_what_is_said_comes_from_the_results(tmp_path):
    """Every figure of the tables and sentences stands in the results; both languages say the same."""
    measures = {name: [0.5, 0.4, 0.6] for name in lyrics.NAMES[:5]}
    kind = {'obeyed': 0.9, 'lines': 10, 'shuffled': 0.1, 'chance': 0.08}
    mood = {'real songs': 0.8, 'asked': 0.6, 'chance': 0.25}
    one = {'bits_per_char': 6.0, 'seconds': 200, 'free': measures, 'mood': mood, 'singer': mood,
           'headers': {'true': 6.0, 'missing': 6.1, 'wrong': 6.2}, **{name: kind for name, _ in songwriter.KINDS}}
    run = measures | {'bits_per_char': 6.1, 'seconds': 240, 'same character': 0.02, 'steps': [['50', '0.7', '0.01'], ['60', '0.7', '0.02']]}
    loss = {'their songs': 6.5, 'the five': 6.0}
    results = {'control': {f'seed {seed}': one for seed in songwriter.SEEDS} | {'training songs': measures, 'shuffled lines': measures},
               'practice': {'seed 1': {'before': run, 'leash': run, 'best of 9': run}},
               'finetune': {'青石桥': {'before': loss, 'after': loss, 'from scratch': loss, 'seconds': 9, 'test songs': 300,
                                    'log': ['step 5'], 'song': '一行', 'curve': [[0, 6.5], [5, 6.4]]}}, 'machine': {'name': 'here', 'cpu': 'CPU', 'cores': 2}}
    marks = songwriter.marked(results)
    for name in ('s1_control', 's2_rhyme_rl', 's3_finetune'):
        chinese, english = marks[f'songwriter {name}'], marks[f'songwriter-en {name}']
        assert re.findall(r'\d+\.\d+', chinese) == re.findall(r'\d+\.\d+', english) != []
        assert not re.search('[\u4e00-\u9fff]', english.replace('青石桥', ''))
        assert re.findall(r'[\d.]+%', marks[f'songwriter-short {name}']) == re.findall(r'[\d.]+%', marks[f'songwriter-short-en {name}'])
    assert songwriter.marked({}) == {}


def test_committed_figures_of_the_songwriter_are_shown_as_they_are():
    shown, marks = [], {}
    for path in [*ROOT.glob('README*.md'), *ROOT.glob('lessons/*.md')]:
        shown += re.findall(r'<!-- bench (songwriter.+?) -->(.*?)<!-- /bench -->', path.read_text(encoding='utf-8'), re.S)
    for path in (ROOT / 'bench/results/songwriter').glob('*.json'):
        marks |= songwriter.marked(json.loads(path.read_text(encoding='utf-8')))
    assert len(shown) == 14 and all(text.strip() == marks.get(name, '').strip() for name, text in shown)


def test_a_model_is_heard_beside_the_songs_that_it_was_trained_on(tmp_path, load):
    """A checkpoint of s1: its songs without codes, and what they copy."""
    import torch
    songs = [{'lyric': [f'我在路上{c}', f'你在远方{c}', f'风在云里{c}', f'雨在天上{c}'], 'singer': c} for c in '甲乙丙丁戊己庚辛壬癸']
    write_songs(tmp_path / 'songs' / 'lyrics1.json', songs)
    s1 = load('s1_control', LYRICS_DIR=str(tmp_path / 'songs'), BPE_VOCAB_SIZE=400, BLOCK_SIZE=64)
    tokenizer, data, *_ = s1.load_data()
    import hashlib
    digest = hashlib.sha256(str(data).encode()).hexdigest()[:12]
    torch.save({'model': s1.GPT(len(tokenizer)).state_dict(), 'config': s1.config(digest), 'step': 1, 'best_test_loss': 1.0,
                'tokenizer': tokenizer.serialized_model_proto()}, tmp_path / 'best.pt')
    done = subprocess.run([sys.executable, ROOT / 'bench/lyrics.py', 'best.pt', '--number', '3'], cwd=tmp_path, capture_output=True,
                          encoding='utf-8', env=environment(tmp_path))
    assert done.returncode == 0, done.stderr
    assert '| model |' in done.stdout and 'copied 8-grams' in done.stdout and 'are not those' not in done.stderr
