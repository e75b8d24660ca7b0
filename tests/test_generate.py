"""generate.py: its logits are the training script's, its songs depend on their seed alone, and bad input ends politely."""
import argparse
import ast
import importlib.util
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import unicodedata

import pytest
import torch
from conftest import CHECKPOINT, ROOT, environment, run_script, songs_of
from hypothesis import given, settings
from hypothesis import strategies as st

SOURCE = (ROOT / 'generate.py').read_text(encoding='utf-8')
DEFAULTS = {'temperature': 0.8, 'top_k': 0, 'top_p': 1.0, 'greedy': False, 'repetition_penalty': 1.0, 'max_tokens': 50, 'total': 1}
PROMPTS = ['雨落在旧站台', '', '风', '夜色很长很长\n我在旧站台上等一个人，等到灯都熄了']      # 1 to 26 tokens: within the window


@pytest.fixture(scope='module')
def generate():
    spec = importlib.util.spec_from_file_location('generate', ROOT / 'generate.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def trained(tmp_path_factory, lyrics_dir):
    """A folder in which v5 has trained for a second or two: checkpoints/, the data and generate.py."""
    from conftest import TINY, edit
    folder = tmp_path_factory.mktemp('trained')
    shutil.copytree(lyrics_dir, folder / 'ChineseLyrics')
    done = run_script(edit('v5_checkpoint', folder, **(TINY | {'TRAIN_ITERS': 60, 'LEARNING_RATE': 1e-2})))
    assert done.returncode == 0, done.stderr
    shutil.copy(ROOT / 'generate.py', folder)
    endless = torch.load(folder / 'checkpoints' / 'best.pt', weights_only=True)     # the same, but no song ever ends
    endless['model']['ln_f.weight'][0], endless['model']['ln_f.bias'][0], endless['model']['lm_head.weight'][:, 0] = 0, 100, 0
    endless['model']['lm_head.weight'][1, 0] = -100
    torch.save(endless, folder / 'endless.pt')
    return folder


@pytest.fixture(scope='module')
def model(generate, trained):
    """(model, tokenizer) of the trained checkpoint."""
    return generate.load(trained / 'checkpoints' / 'best.pt', 'cpu')[:2]


@pytest.fixture
def write(generate, model):
    """write(prompts, seeds, use_cache=True, **settings): the finished songs."""
    def make(prompts, seeds, use_cache=True, **options):
        options = argparse.Namespace(**(DEFAULTS | options))
        songs = [generate.Song(prompt, seed, model[1], model[0].block_size) for prompt, seed in zip(prompts, seeds, strict=True)]
        for _ in generate.write_songs(model[0], songs, options, use_cache):
            pass
        assert all(song.done for song in songs)
        return songs
    return make


def call(folder, *arguments, stdin='', env=None):
    """Run generate.py as a user does."""
    return subprocess.run([sys.executable, 'generate.py', *arguments], cwd=folder, env=environment(folder, env), text=True,
                          encoding='utf-8', input=stdin, capture_output=True, timeout=120)


# ---------- the model ----------
@pytest.mark.parametrize('name', CHECKPOINT)
def test_logits_equal_the_training_scripts(name, generate, load, tmp_path):
    script = load(name, DROP_OUT=0.3)
    tokenizer = script.train_tokenizer(songs_of(script)[:500])
    torch.manual_seed(1)
    trained = script.GPT(len(tokenizer))
    for parameter in trained.parameters():                          # far from the small initial values, biases and norms included
        parameter.data += torch.randn_like(parameter) * 0.2
    torch.save({'model': trained.state_dict(), 'config': script.config(), 'tokenizer': tokenizer.serialized_model_proto(), 'step': 1,
                'best_test_loss': 1.0}, tmp_path / 'best.pt')
    model = generate.load(tmp_path / 'best.pt', 'cpu')[0]
    idx = torch.randint(len(tokenizer), (3, script.BLOCK_SIZE))
    with torch.no_grad():
        expected = trained.eval()(idx)[0]
        assert expected.std() > 1                                   # not a comparison of zeros
        torch.testing.assert_close(model(idx), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model(idx, last_only=True), expected[:, -1:], rtol=1e-4, atol=1e-4)
        for cuts in ([0, 32], range(33), [0, 1, 2, 9, 10, 31, 32]):     # the prompt at once, single steps, a mixture
            cache = model.new_cache(3, 32)
            parts = [model(idx[:, a:b], cache, a) for a, b in zip(cuts, cuts[1:], strict=False)]
            torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=1e-4, atol=1e-4)


def test_the_cache_makes_each_step_one_token(generate, model, monkeypatch):
    seen = []
    forward = generate.GPT.forward

    def spy(self, idx, *rest, **options):
        seen.append(idx.shape[1])
        return forward(self, idx, *rest, **options)
    monkeypatch.setattr(generate.GPT, 'forward', spy)
    monkeypatch.setattr(generate, 'choose', lambda logits, songs, options: [40] * len(songs))
    song = generate.Song('雨落在旧站台', 1, model[1], 32)
    start = len(song.ids)
    for _ in generate.write_songs(model[0], [song], argparse.Namespace(**(DEFAULTS | {'max_tokens': 60}))):
        pass
    full = [start] + [1] * (32 - start)                             # the steps until the window of 32 is full
    assert seen == (full + ([16] + [1] * 16) * 3)[:60]              # then anew, from the last half window


# ---------- a song depends on its seed alone ----------
def test_same_seed_same_song(write):
    texts = [write(['雨'], [seed])[0].text for seed in (3, 3, 4)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize('options', [{}, {'top_k': 20, 'top_p': 0.9, 'repetition_penalty': 1.3}, {'greedy': True}])
def test_a_batch_writes_the_songs_that_each_would_have_written_alone(write, options):
    together = write(PROMPTS, [5, 6, 7, 8], max_tokens=70, **options)       # past the window of 32, twice
    assert max(song.n_tokens for song in together) > 32
    for song in together:
        alone = write([song.prompt], [song.seed], max_tokens=70, **options)[0]
        assert (alone.text, alone.ids) == (song.text, song.ids)


def test_songs_are_the_same_without_the_cache(write):
    songs = [write(PROMPTS, [5, 6, 7, 8], use_cache, max_tokens=70) for use_cache in (True, False)]
    assert [song.ids for song in songs[0]] == [song.ids for song in songs[1]]


# ---------- sampling ----------
def chosen(generate, model, logits, n=4000, **options):
    """What n songs with seeds 0, 1, ... choose from the same logits."""
    songs = [generate.Song('', seed, model[1], 32) for seed in range(n)]
    return generate.choose(logits.repeat(n, 1), songs, argparse.Namespace(**(DEFAULTS | options)))


@pytest.mark.parametrize(('options', 'expected'), [
    ({'temperature': 1.0}, [0.5, 0.3, 0.15, 0.05]),
    ({'temperature': 0.5}, [0.25, 0.09, 0.0225, 0.0025]),
    ({'temperature': 1.0, 'top_k': 2}, [0.5, 0.3, 0, 0]),
    ({'temperature': 1.0, 'top_k': 10**6}, [0.5, 0.3, 0.15, 0.05]),
    ({'temperature': 1.0, 'top_p': 0.75}, [0.5, 0.3, 0, 0]),
    ({'temperature': 1.0, 'top_p': 0.81}, [0.5, 0.3, 0.15, 0]),
    ({'temperature': 1.0, 'top_p': 0.01}, [1, 0, 0, 0]),
    ({'temperature': 1.0, 'greedy': True}, [1, 0, 0, 0]),
])
def test_sampling_follows_the_distribution(generate, model, options, expected):
    logits = torch.full((1, len(model[1])), -1e9)
    where = [700, 11, 503, 40]                                      # not in the order of their probabilities
    logits[0, where] = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    counts = torch.bincount(torch.tensor(chosen(generate, model, logits, **options)), minlength=len(model[1]))[where]
    expected = torch.tensor(expected) / sum(expected)
    assert counts.sum() == 4000
    torch.testing.assert_close(counts / 4000, expected, rtol=0, atol=0.03)
    assert (counts[expected == 0] == 0).all()


def test_repetition_penalty_spares_the_line_break(generate, model):
    tokenizer = model[1]
    song = generate.Song('风吹\n', 1, tokenizer, 32)
    wind, newline = tokenizer.encode('风吹')[0], tokenizer.encode('\n')[0]
    options = argparse.Namespace(**(DEFAULTS | {'repetition_penalty': 2.0, 'greedy': True}))
    for written, other in ((3.0, 1.6), (-1.0, -1.9)):               # divided where positive, multiplied where negative
        logits = torch.full((1, len(tokenizer)), -50.0)
        logits[0, wind], logits[0, 999] = written, other
        assert generate.choose(logits.clone(), [song], options) == [999]
        logits[0, newline] = written + 1
        assert generate.choose(logits, [song], options) == [newline]


def test_the_unknown_token_is_never_chosen(generate, model):
    logits = torch.zeros(1, len(model[1]))
    logits[0, model[1].unk_id()] = 100.0
    assert model[1].unk_id() not in chosen(generate, model, logits, n=50)


def test_stops_at_the_end_of_the_song(generate, model, write, monkeypatch):
    tokens = iter([*model[1].encode('风\n雨'), model[1].eos_id(), 77])
    monkeypatch.setattr(generate, 'choose', lambda logits, songs, options: [next(tokens)])
    [song] = write(['夜'], [1])
    assert song.text == '夜风\n雨' and song.ended and next(tokens) == 77


@pytest.mark.parametrize('n', [1, 2, 45])
def test_stops_at_the_maximum(write, n):
    assert write([''], [1], max_tokens=n, repetition_penalty=9.0)[0].n_tokens <= n


def test_a_window_of_one_token(generate, model, monkeypatch):
    monkeypatch.setattr(model[0], 'block_size', 1)
    song = generate.Song('', 1, model[1], 1)
    for _ in generate.write_songs(model[0], [song], argparse.Namespace(**DEFAULTS)):
        pass
    assert song.done


# ---------- text, as it comes ----------
def test_a_character_in_bytes_appears_whole(generate, model):
    song = generate.Song('', 1, model[1], 32)
    seen = []
    for token in model[1].encode('a𠮷b'):
        song.append(token, 100)
        seen.append(song.written)
    assert seen[-1] == 'a𠮷b' and set(seen) == {'a', 'a𠮷', 'a𠮷b'}     # no replacement character in between


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_token_by_token_gives_the_text(generate, model, text):
    song = generate.Song('', 1, model[1], 32)
    for token in model[1].encode(text):
        song.append(token, 10**6)
    song.append(model[1].eos_id(), 10**6)
    assert song.written == ''.join(char for char in text.replace('▁', ' ') if char in '\n\t' or unicodedata.category(char) != 'Cc')


def test_broken_bytes_do_not_break_the_song(generate, model):
    song = generate.Song('', 1, model[1], 32)
    first = model[1].encode('𠮷')[0]
    for token in (first, *model[1].encode('雨'), first):
        song.append(token, 3)
    assert song.written == '�雨'                                    # the tail that the limit cut off is left out


def test_a_long_prompt_is_used_from_its_end(generate, model, write, capsys):
    long = '雨落在旧站台\n' * 20
    [song] = write([long], [1], max_tokens=5)
    assert len(model[1].encode(long)) > 32 and song.ids[:32] == ([1] + model[1].encode(long))[-32:] and song.text.startswith(long)
    assert '只用末尾' in capsys.readouterr().err


# ---------- the command ----------
def test_writes_one_song_from_best(trained):
    done = call(trained, '--prompt', '雨落在旧站台', '--seed', '7')
    assert done.returncode == 0 and done.stdout.startswith('雨落在旧站台') and len(done.stdout) > 20
    assert 'checkpoints/best.pt' in done.stderr.replace('\\', '/') and 'seed 7' in done.stderr
    assert done.stdout == call(trained, '--prompt', '雨落在旧站台', '--seed', '7').stdout


def test_the_seed_it_shows_repeats_the_song(trained):
    first = call(trained)
    seed = re.search(r'seed (\d+)', first.stderr).group(1)
    assert call(trained, '--seed', seed).stdout == first.stdout


@pytest.mark.parametrize('name', ['latest.pt', 'best.pt'])
def test_reads_every_kind_of_checkpoint(trained, name):
    assert call(trained, '--checkpoint', f'checkpoints/{name}').returncode == 0


def test_several_songs_and_json_lines_are_the_same_songs(trained, tmp_path):
    (tmp_path / 'prompts.txt').write_text('雨落\n\n风吹过\n', encoding='utf-8')
    options = ['--prompts', str(tmp_path / 'prompts.txt'), '--num', '2', '--seed', '10', '--max-tokens', '30', '--top-p', '0.9']
    shown = call(trained, *options)
    done = call(trained, *options, '--output', str(tmp_path / 'songs.jsonl'), '--batch-size', '3')
    assert (shown.returncode, done.returncode, done.stdout) == (0, 0, '')
    assert '4/4' in done.stderr
    records = [json.loads(line) for line in (tmp_path / 'songs.jsonl').read_text(encoding='utf-8').splitlines()]
    assert [(r['prompt'], r['seed']) for r in records] == [('雨落', 10), ('雨落', 11), ('风吹过', 12), ('风吹过', 13)]
    assert all(r['text'].startswith(r['prompt']) and set(r) == {'prompt', 'text', 'settings', 'seed'} for r in records)
    assert records[0]['settings'] == {'temperature': 0.8, 'top_k': 0, 'top_p': 0.9, 'greedy': False, 'repetition_penalty': 1.0,
                                      'max_tokens': 30}
    assert shown.stdout == ''.join(f'--- seed {r["seed"]} ---\n{r["text"]}\n' for r in records)


def test_a_failing_write_leaves_the_old_file(generate, model, tmp_path, monkeypatch):
    path = tmp_path / 'songs.jsonl'
    path.write_text('old', encoding='utf-8')
    song = generate.Song('雨', 1, model[1], 32)

    def full(_):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(SystemExit, match='No space left'):
        generate.save(path, [song], argparse.Namespace(**DEFAULTS), None)
    assert [file.name for file in tmp_path.iterdir()] == ['songs.jsonl'] and path.read_text(encoding='utf-8') == 'old'


def interrupt(folder, *arguments, until):
    """Start generate.py, send Ctrl-C as soon as `until` characters of the song are there, return (exit status, stdout, stderr)."""
    process = subprocess.Popen([sys.executable, '-u', 'generate.py', *arguments], cwd=folder, env=environment(folder),
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    head = os.read(process.stdout.fileno(), until)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, (head + out).decode('utf-8', 'replace'), err.decode()


def test_ctrl_c_ends_politely_while_the_song_streams(trained):
    status, out, err = interrupt(trained, '--checkpoint', 'endless.pt', '--max-tokens', '1000000', '--num', '50', '--prompt', '雨', until=1)
    assert status == 130 and '已停止' in err and 'Traceback' not in err and 0 < len(out) < 10**6


def test_a_reader_that_leaves_is_no_error(trained):
    command = f'"{sys.executable}" -u generate.py --checkpoint endless.pt --max-tokens 3000 | head -1'
    done = subprocess.run(command, shell=True, cwd=trained, env=environment(trained), text=True, encoding='utf-8', capture_output=True,
                          timeout=120)
    assert 'Traceback' not in done.stderr and 'Exception ignored' not in done.stderr and len(done.stdout.splitlines()) == 1


def test_ctrl_c_keeps_the_finished_songs(generate, trained, tmp_path, monkeypatch):
    output = tmp_path / 'songs.jsonl'
    calls = []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return choose(*arguments)
    choose = generate.choose
    monkeypatch.setattr(generate, 'choose', interrupted)
    monkeypatch.chdir(trained)
    monkeypatch.setattr(sys, 'argv', ['generate.py', '--checkpoint', 'endless.pt', '--num', '3', '--batch-size', '1', '--max-tokens', '5',
                                      '--output', str(output), '--device', 'cpu'])
    with pytest.raises(SystemExit) as stop:
        generate.main()
    assert stop.value.code == 130 and len(output.read_text(encoding='utf-8').splitlines()) == 2


# ---------- interactive ----------
def test_interactive_goes_on_and_starts_anew(trained):
    done = call(trained, '--interactive', '--seed', '5', '--max-tokens', '12', stdin='雨落在旧站台\n后来\n\n/new\n雨落在旧站台\n/quit\n')
    assert done.returncode == 0 and 'Traceback' not in done.stderr
    parts = re.split('第一行> |接着写> ', done.stdout)
    assert [len(re.findall(p, done.stdout)) for p in ('第一行> ', '接着写> ')] == [2, 4]
    assert parts[1].startswith('雨落在旧站台') and parts[2].startswith('后来') and parts[5].startswith('雨落在旧站台')
    assert parts[5] != parts[1]                                     # another seed, another song


def test_interactive_seed_repeats_a_song(trained):
    done = call(trained, '--interactive', stdin='/seed 9\n雨\n/new\n/seed 9\n雨\n')      # ends with the input
    songs = [part for part in re.split('第一行> |接着写> ', done.stdout) if part.startswith('雨')]
    assert done.returncode == 0 and len(songs) == 2 and songs[0].strip() == songs[1].strip()
    assert songs[0].strip() == call(trained, '--seed', '9', '--prompt', '雨').stdout.strip()


def test_interactive_settings(trained):
    lines = ['/temp 0.5', '/topp 0.9', '/topk 7', '/penalty 1.5', '/max 33', '/greedy', '/temp 99', '/temp', '/nonsense', '/help', '/quit']
    done = call(trained, '--interactive', '--seed', '1', stdin='\n'.join(lines) + '\n')
    assert done.returncode == 0
    assert 'temperature 0.5，top_k 7，top_p 0.9，greedy True，repetition_penalty 1.5，max_tokens 33，seed 1' in done.stderr
    assert '99 不行，要 0.01～10.0' in done.stderr and '没有这样的命令：/nonsense' in done.stderr and '/temp 后面要有一个数' in done.stderr
    for name in ('/temp', '/topp', '/topk', '/greedy', '/penalty', '/max', '/seed', '/new', '/help', '/quit'):
        assert re.search(rf'^{name} .*\S', done.stderr, re.M), name


@pytest.mark.skipif(sys.platform == 'win32', reason='needs a pseudo-terminal')
def test_interactive_line_editing_history_and_ctrl_c(trained):
    import pty
    readline = pytest.importorskip('readline')
    assert readline
    main, side = pty.openpty()
    env = environment(trained) | {'TERM': 'xterm', 'LC_ALL': 'C.UTF-8'}
    command = [sys.executable, 'generate.py', '--interactive', '--max-tokens', '4', '--checkpoint', 'endless.pt']
    process = subprocess.Popen(command, cwd=trained, env=env, stdin=side, stdout=side, stderr=side, start_new_session=True)
    os.close(side)
    seen = b''

    def until(text):
        nonlocal seen
        while text.encode() not in seen:
            assert select.select([main], [], [], 60)[0], f'no {text!r} in {seen.decode("utf-8", "replace")!r}'
            seen += os.read(main, 4096)
        before, seen = seen.split(text.encode(), 1)
        return before.decode().replace('\r', '')

    until('第一行> ')
    os.write(main, '雨雪\x7f落\n'.encode())                          # backspace takes a whole character away
    assert re.search(r'\n雨落', until('接着写> '))
    os.write(main, b'/new\n')
    until('第一行> ')
    os.write(main, b'\x1b[A\x1b[A\n')                               # up, up: the first line again
    assert re.search(r'\n雨落', until('接着写> '))
    os.write(main, b'/max 1000000\n/penalty 3\n')
    until('max_tokens 1000000')
    until('repetition_penalty 3')
    until('接着写> ')
    os.write(main, '夜\n'.encode())
    until('\n夜')
    os.kill(process.pid, signal.SIGINT)                             # while it writes: back to the prompt
    until('> ')
    os.write(main, b'/quit\n')
    until('再见')
    assert process.wait(timeout=60) == 0
    os.close(main)


# ---------- novelty ----------
def test_novelty_counts_what_was_copied(generate):
    corpus = '雨落在旧站台\n我在等一个人\n\n风吹过山岗'
    assert generate.novelty('他说：旧站台\n我在等一辆车', corpus) == ('旧站台\n我在等一', 1 / 6)
    assert generate.novelty('雨落在旧站台\n我在等一个人', corpus) == ('雨落在旧站台\n我在等一个人', 1.0)
    assert generate.novelty('xyz', corpus) == ('', None)
    assert generate.novelty('', corpus) == ('', None)


@given(st.text('ab', max_size=30), st.text('ab', max_size=60))
@settings(max_examples=200, deadline=None)
def test_novelty_equals_the_definition(generate, written, corpus):
    longest, share = generate.novelty(written, corpus)
    runs = [written[i:j] for i in range(len(written)) for j in range(i, len(written) + 1) if written[i:j] in corpus]
    assert len(longest) == max(map(len, runs), default=0) and longest in written and longest in corpus
    windows = [written[i:i + 8] for i in range(len(written) - 7)]
    assert share == (sum(w in corpus for w in windows) / len(windows) if windows else None)


@pytest.mark.parametrize('max_songs', [None, 100])
def test_training_songs_are_those_of_the_training_script(generate, load, max_songs):
    script = load('v6_wandb', MAX_SONGS=max_songs)
    songs = script.load_songs()
    assert generate.training_songs(script.config()) == '\n\n'.join(songs[:int(0.9 * len(songs))])


@pytest.mark.parametrize('max_songs', [None, 100])
def test_training_songs_of_v10_are_those_on_its_side_of_the_split(generate, load, tmp_path, lyrics_dir, max_songs):
    shutil.copy(lyrics_dir / 'sample.json', tmp_path / 'lyrics1.json')
    (tmp_path / 'mine.txt').write_text('甲\n乙\n\n丙\n\n' + '丁\n\n' * 3 + '\n\n'.join(map(str, range(50))), encoding='utf-8')
    script = load('v10_ddp', MAX_SONGS=max_songs, LYRICS_DIR=str(tmp_path))
    training = [text for text, chance in script.documents(script.data_files()) if chance >= 0.1]
    assert generate.training_songs(script.config()) == '\n\n'.join(training) and len(training) > (80 if max_songs else 500)


def definition(source, name):
    return next(ast.get_source_segment(source, node) for node in ast.parse(source).body if getattr(node, 'name', '') == name)


@pytest.mark.parametrize('name', ['fail', 'out_of_memory', 'clean', 'apply_rope'])
def test_shared_definitions_are_the_training_scripts(name):
    assert definition(SOURCE, name) == definition((ROOT / 'v6_wandb.py').read_text(encoding='utf-8'), name)


@pytest.mark.parametrize('name', ['fail', 'out_of_memory'])
def test_shared_definitions_of_the_export(name):
    assert definition((ROOT / 'export_hf.py').read_text(encoding='utf-8'), name) == definition(SOURCE, name)


def test_read_texts_is_that_of_v10():
    assert definition(SOURCE, 'read_texts') == definition((ROOT / 'v10_ddp.py').read_text(encoding='utf-8'), 'read_texts')


def test_novelty_on_the_command_line(trained, tmp_path):
    done = call(trained, '--novelty', '--seed', '3', '--max-tokens', '60')
    assert done.returncode == 0 and re.search(r'最长的照抄 \d+ 字「.*」；8 字片段有 [\d.]+% 在训练歌词里', done.stdout)
    done = call(trained, '--novelty', '--seed', '3', '--max-tokens', '60', '--output', str(tmp_path / 's.jsonl'))
    record = json.loads((tmp_path / 's.jsonl').read_text(encoding='utf-8'))
    assert done.returncode == 0 and record['novelty']['longest_copy'] in record['text'] and 0 <= record['novelty']['copied_share'] <= 1


# ---------- bad input ----------
@pytest.mark.parametrize(('arguments', 'message'), [
    (['--checkpoint', 'none.pt'], '没有检查点 none.pt：先训练一个'),
    (['--checkpoint', 'prompts.txt'], 'prompts.txt 不是 v5 起各级存下的检查点'),
    (['--checkpoint', 'truncated.pt'], 'truncated.pt 不是 v5 起各级存下的检查点'),
    (['--checkpoint', 'other.pt'], 'other.pt 不是 v5 起各级存下的检查点'),
    (['--checkpoint', 'code.pt'], 'code.pt 不是 v5 起各级存下的检查点'),
    (['--temperature', '0'], '0 不行，要 0.01～10.0 的数'),
    (['--temperature', 'nan'], 'nan 不行'),
    (['--top-p', '1.5'], '1.5 不行，要 0.01～1.0 的数'),
    (['--top-k', '-1'], '-1 不行'),
    (['--top-k', '2.5'], '2.5 不行，要 0～1000000 的整数'),
    (['--repetition-penalty', '0.5'], '0.5 不行'),
    (['--max-tokens', '0'], '0 不行'),
    (['--num', '0'], '0 不行'),
    (['--seed', '-3'], '-3 不行'),
    (['--device', 'warp9'], '--device warp9 在这台机器上用不了'),
    (['--prompts', 'empty.txt'], 'empty.txt 里一个开头也没有'),
    (['--prompts', 'gbk.txt'], 'gbk.txt 不是 UTF-8'),
    (['--prompts', 'none.txt'], 'none.txt 读不了'),
    (['--prompt', '雨', '--prompts', 'prompts.txt'], '不能同时用'),
    (['--interactive', '--output', 'x.jsonl'], '不能与 --output'),
    (['--output', 'nowhere/x.jsonl'], '存不了 nowhere/x.jsonl'),
    (['--output', 'checkpoints'], '存不了 checkpoints'),
    (['--output', 'prompts.txt/x.jsonl'], '存不了 prompts.txt/x.jsonl'),
    (['--output', 'x' * 253], '存不了 xxx'),
    (['--output', 'pipe'], '不是普通文件'),
    (['--checkpoint', 'x' * 300], '没有检查点'),
    (['--checkpoint', 'checkpoints'], '没有检查点 checkpoints'),
    (['--device', 'meta'], '--device meta 在这台机器上用不了'),
    (['--greedy=1'], '不带值'),
    (['--prompt', '-a'], '--prompt=-'),
    (['--frobnicate'], '没有这样的选项'),
    (['--seed'], '后面要有一个值'),
])
def test_bad_input_ends_with_one_clear_message(trained, arguments, message, generate, monkeypatch, capsys):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(trained / 'executed'),)
    (trained / 'empty.txt').write_text('\n \n', encoding='utf-8')
    (trained / 'gbk.txt').write_bytes('雨落'.encode('gbk'))
    (trained / 'prompts.txt').write_text('雨落\n', encoding='utf-8')
    (trained / 'truncated.pt').write_bytes((trained / 'checkpoints' / 'best.pt').read_bytes()[:5000])
    torch.save({'weight': torch.zeros(3)}, trained / 'other.pt')
    if not (trained / 'pipe').exists():
        os.mkfifo(trained / 'pipe')
    torch.save(Code(), trained / 'code.pt')
    if arguments in (['--checkpoint', 'code.pt'], ['--output', 'pipe'], ['--frobnicate']):     # as a user does; the others here: sooner
        done = call(trained, *arguments)
        assert done.returncode == 1 and done.stdout == ''
        text = done.stderr.rstrip('\n')
    else:
        monkeypatch.chdir(trained)
        monkeypatch.setattr(sys, 'argv', ['generate.py', *arguments])
        with pytest.raises(SystemExit) as stop:
            generate.main()
        text = stop.value.code
        assert capsys.readouterr() == ('', '')
    assert text.startswith('错误：') and message in text and '\n' not in text
    assert not (trained / 'executed').exists() and not (trained / 'x.jsonl').exists()


def test_novelty_without_the_dataset(trained, tmp_path):
    shutil.copy(trained / 'generate.py', tmp_path)
    checkpoint = torch.load(trained / 'checkpoints' / 'best.pt', weights_only=True)
    checkpoint['config']['LYRICS_DIR'] = 'ChineseLyrics'
    torch.save(checkpoint, tmp_path / 'best.pt')
    done = call(tmp_path, '--checkpoint', 'best.pt', '--novelty')
    assert done.returncode == 1 and '--novelty 要对照训练歌词，ChineseLyrics/ 里却没有' in done.stderr and 'Traceback' not in done.stderr
    assert call(tmp_path, '--checkpoint', 'best.pt', '--max-tokens', '5').returncode == 0       # nothing else reads the dataset


@pytest.mark.parametrize(('name', 'content'), [('lyrics0.json', '[]'), ('lyrics0.json', None), ('lyrics0.json', '{')])
def test_novelty_with_a_broken_dataset(name, content, trained, tmp_path):
    checkpoint = torch.load(trained / 'checkpoints' / 'best.pt', weights_only=True)
    checkpoint['config']['LYRICS_DIR'] = 'data'
    torch.save(checkpoint, tmp_path / 'best.pt')
    shutil.copy(trained / 'generate.py', tmp_path)
    (tmp_path / 'data').mkdir()
    if content is None:
        (tmp_path / 'data' / name).mkdir()
    else:
        (tmp_path / 'data' / name).write_text(content, encoding='utf-8')
    done = call(tmp_path, '--checkpoint', 'best.pt', '--novelty')
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith('错误：') and 'Traceback' not in done.stderr


def test_broken_bytes_in_a_prompt(trained):
    done = call(trained, '--prompt', '\udcff雨', '--max-tokens', '3')
    assert done.returncode == 0 and done.stdout.startswith('?雨')
    done = subprocess.run([sys.executable, 'generate.py', '--interactive', '--max-tokens', '3'], cwd=trained, env=environment(trained),
                          input=b'\xff\n/quit\n', capture_output=True, timeout=120)
    assert done.returncode == 0 and b'Traceback' not in done.stderr


def test_output_follows_a_link_and_keeps_each_batch(generate, trained, tmp_path, monkeypatch):
    target, link = tmp_path / 'target.jsonl', tmp_path / 'link.jsonl'
    link.symlink_to(target)
    calls = []

    def fails_late(*arguments):
        calls.append(1)
        if len(calls) == 12:                                        # in the third song
            raise RuntimeError('CUDA out of memory')
        return choose(*arguments)
    choose = generate.choose
    monkeypatch.setattr(generate, 'choose', fails_late)
    monkeypatch.chdir(trained)
    monkeypatch.setattr(sys, 'argv', ['generate.py', '--num', '3', '--batch-size', '1', '--max-tokens', '5', '--output', str(link),
                                      '--checkpoint', 'endless.pt', '--device', 'cpu'])
    with pytest.raises(RuntimeError):
        generate.main()
    assert link.is_symlink() and len(target.read_text(encoding='utf-8').splitlines()) == 2


def test_a_full_disk_behind_the_output(trained):
    if not os.path.exists('/dev/full'):
        pytest.skip('no /dev/full')
    with open('/dev/full', 'w') as full:
        done = subprocess.run([sys.executable, 'generate.py'], cwd=trained, env=environment(trained), stdout=full, stderr=subprocess.PIPE,
                              text=True, encoding='utf-8', timeout=120)
    assert done.returncode != 0 and 'Traceback' not in done.stderr and '错误' in done.stderr


def test_a_prompt_with_unseen_characters(trained):
    done = call(trained, '--prompt', '🎵𠮷Ünï', '--seed', '1')
    assert done.returncode == 0 and done.stdout.startswith('🎵𠮷Ünï')


def test_help_documents_every_option_in_chinese(generate, trained):
    text = call(trained, '--help').stdout
    for name, (_, default, _, _) in generate.SETTINGS.items():
        line = re.search(rf'--{name.replace("_", "-")}\b.*\n?.*', text).group()
        assert re.search('[一-鿿]', line)
        if not isinstance(default, bool):
            assert f'默认 {default}' in line and '～' in line
    assert not re.search(r'\b(usage|options|optional|show this)\b', text)
    for name in ('checkpoint', 'prompt ', 'prompts', 'num', 'interactive', 'output', 'novelty', 'seed', 'device', 'batch-size'):
        assert f'--{name}' in text


def test_stands_alone():
    for node in ast.walk(ast.parse(SOURCE)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert {name.split('.')[0] for name in names} <= {'torch', 'sentencepiece'} | sys.stdlib_module_names
