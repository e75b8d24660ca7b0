"""generate.py: its logits are the training scripts', its songs depend on their seed alone, and no file is lost."""
import argparse
import ast
import io
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import torch
from conftest import CHECKPOINT, ROOT, environment, imported, write_songs
from hypothesis import given, settings
from hypothesis import strategies as st

SOURCE = (ROOT / 'generate.py').read_text(encoding='utf-8')
PLAIN = {'temperature': 0.8, 'top_k': 0, 'top_p': 1.0, 'repetition_penalty': 1.0, 'max_tokens': 50}
PROMPTS = ['雨落在旧站台', '', '风', '夜色很长很长\n我在旧站台上等一个人，等到灯都熄了']  # 1 to 26 tokens
SAMPLE = json.loads((ROOT / 'ChineseLyrics' / 'sample.json').read_text(encoding='utf-8'))
LYRICS = ['\n'.join(song['lyric']) for song in SAMPLE[:500]]


def make_checkpoint(script, tokenizer, path, eos=None):
    """A checkpoint of a script: random weights, norms and biases included, far from the first ones. Returns the model.

    eos: the logit of the end of the song, always the same (v5 to v8 only).
    """
    torch.manual_seed(1)
    model = script.GPT(len(tokenizer))
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.2
    if eos is not None:
        model.ln_f.weight.data[0], model.ln_f.bias.data[0], model.lm_head.weight.data[:, 0] = 0, 1, 0
        model.lm_head.weight.data[1] = 0
        model.lm_head.weight.data[1, 0] = eos
    torch.save({'model': model.state_dict(), 'config': script.config('0' * 12), 'step': 1, 'best_test_loss': 1.0,
                'tokenizer': tokenizer.serialized_model_proto()}, path)
    return model.eval()


@pytest.fixture(scope='module')
def generate():
    return imported('generate')


@pytest.fixture(scope='module')
def tokenizer(lyrics_dir):
    script = imported('v5_checkpoint')
    script.LYRICS_DIR, script.BPE_VOCAB_SIZE = str(lyrics_dir), 3000
    return script.train_tokenizer(LYRICS)


@pytest.fixture(scope='module')
def here(tmp_path_factory, tokenizer):
    """A folder with checkpoints of v5's structure: checkpoints/best.pt, whose songs end after some 20 tokens, and
    endless.pt, whose songs never end."""
    folder = tmp_path_factory.mktemp('here')
    script = imported('v5_checkpoint')
    script.N_EMBED, script.N_HEADS, script.N_LAYERS, script.BLOCK_SIZE = 32, 2, 2, 32
    (folder / 'checkpoints').mkdir()
    make_checkpoint(script, tokenizer, folder / 'checkpoints' / 'best.pt', eos=5.5)
    make_checkpoint(script, tokenizer, folder / 'endless.pt', eos=-100)
    shutil.copy(ROOT / 'generate.py', folder)
    return folder


@pytest.fixture(scope='module')
def model(generate, here):
    return generate.load(here / 'endless.pt', 'cpu')[0]


@pytest.fixture
def write(generate, model, tokenizer):
    """write(prompts, seeds, **settings): the finished songs, written together."""
    def make(prompts, seeds, **options):
        songs = [generate.Song(prompt, seed, tokenizer, 32) for prompt, seed in zip(prompts, seeds, strict=True)]
        for _ in generate.write_songs(model, songs, argparse.Namespace(**(PLAIN | options))):
            pass
        assert all(song.done for song in songs)
        return songs
    return make


@pytest.fixture
def run(generate, here, monkeypatch, capsys):
    """run(*arguments, stdin=b''): (status, stdout, stderr) of main() in this process: no start-up time."""
    def make(*arguments, stdin=b''):
        monkeypatch.chdir(here)
        monkeypatch.setattr(sys, 'argv', ['generate.py', '--device', 'cpu', *map(str, arguments)])
        monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(stdin), encoding='utf-8'))
        capsys.readouterr()
        try:
            generate.main()
            status = 0
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()
    return make


def call(folder, *arguments, env=None, text=True, code=None, **options):
    """Run generate.py as a user does. `code` runs before it, in the same process."""
    program = [sys.executable, 'generate.py']
    if code:
        program = [sys.executable, '-c', f'import runpy, sys\nsys.argv = ["generate.py", *sys.argv[1:]]\n{code}\n'
                   'runpy.run_path("generate.py", run_name="__main__")']
    return subprocess.run([*program, *map(str, arguments)], cwd=folder, env=environment(folder, env), text=text,
                          encoding='utf-8' if text else None, capture_output=True, timeout=120, **options)


# ---------- the model ----------
def test_int8_is_close_to_float(generate, here, run):
    """Not equal: the products are of whole numbers. And only where PyTorch has them, on a CPU."""
    model, _ = generate.load(here / 'checkpoints/best.pt', 'cpu')
    idx = torch.tensor([[1, 20, 30, 40]])
    exact = model.forward(idx, model.new_cache(1, 4), 0)
    model.to_int8()
    rough = model.forward(idx, model.new_cache(1, 4), 0)
    assert 0 < (rough - exact).abs().max() < 0.1 * exact.abs().max()
    done = call(here, '--int8', '--device', 'cpu', '--prompt', '雨', '--max-tokens', 20)      # as a user sees it: no warning
    assert done.returncode == 0 and done.stdout.startswith('雨') and 'Warning' not in done.stderr
    assert run('--int8', '--device', 'cuda')[0] == 2


@pytest.mark.parametrize('name', CHECKPOINT)
def test_logits_equal_the_training_scripts(name, generate, load, tokenizer, tmp_path):
    script = load(name, DROP_OUT=0.3, N_EMBED=64, N_HEADS=4)
    trained = make_checkpoint(script, tokenizer, tmp_path / 'best.pt')
    model = generate.load(tmp_path / 'best.pt', 'cpu')[0]
    kv_heads = getattr(script, 'N_KV_HEADS', 4)
    assert model.new_cache(3, 9).shape == (2, 2, 3, kv_heads, 9, 16)        # (layers, k and v, B, heads, length, size)
    assert kv_heads == (2 if 'SwiGLU' in script.FeedForward.__doc__ else 4)     # v9 on: grouped queries are tested
    idx = torch.randint(len(tokenizer), (3, 32))
    with torch.no_grad():
        expected = trained(idx)[0]
        assert expected.std() > 1                                   # not a comparison of zeros
        for cuts in ([0, 32], range(33), [0, 1, 2, 9, 10, 31, 32]):     # the prompt at once, single steps, a mixture
            cache = model.new_cache(3, 32)
            for start, end in zip(cuts, cuts[1:], strict=False):
                logits = model.forward(idx[:, start:end], cache, start)
                torch.testing.assert_close(logits, expected[:, end - 1], rtol=1e-4, atol=1e-4)


def definition(source, name):
    return next(ast.get_source_segment(source, node) for node in ast.parse(source).body
                if getattr(node, 'name', '') == name)


@pytest.mark.parametrize('script', CHECKPOINT)
def test_shared_definitions_are_the_training_scripts(script):
    theirs = (ROOT / f'{script}.py').read_text(encoding='utf-8')
    assert definition(SOURCE, 'apply_rope') == definition(theirs, 'apply_rope')
    if script != 'v12_ddp':                                         # there only one process prints
        for file in ('generate.py', 'export_hf.py'):
            assert definition((ROOT / file).read_text(encoding='utf-8'), 'fail') == definition(theirs, 'fail')


def test_the_cache_makes_each_step_one_token(generate, model, tokenizer, monkeypatch):
    seen, forward = [], generate.GPT.forward
    monkeypatch.setattr(generate.GPT, 'forward', lambda self, idx, *rest: seen.append(idx.shape[1])
                        or forward(self, idx, *rest))
    monkeypatch.setattr(generate, 'choose', lambda logits, songs, options: [40] * len(songs))
    song = generate.Song('雨落在旧站台', 1, tokenizer, 32)
    start = len(song.ids)
    for _ in generate.write_songs(model, [song], argparse.Namespace(**(PLAIN | {'max_tokens': 60}))):
        pass
    full = [start] + [1] * (32 - start)                             # the steps until the window of 32 is full
    assert seen == (full + ([16] + [1] * 16) * 3)[:60]              # then anew, from the last half window


@pytest.mark.parametrize('name', ['v8_mfu', 'v10_muon'])
def test_songs_are_the_same_without_the_cache(name, generate, load, tokenizer, tmp_path):
    """The training script computes the whole window anew for each token."""
    trained = make_checkpoint(load(name, N_HEADS=4), tokenizer, tmp_path / 'best.pt')
    options = argparse.Namespace(**(PLAIN | {'max_tokens': 70}))
    written = [generate.Song(prompt, 5, tokenizer, 32) for prompt in PROMPTS]
    for _ in generate.write_songs(generate.load(tmp_path / 'best.pt', 'cpu')[0], written, options):
        pass
    for song in written:
        anew, begin = generate.Song(song.prompt, 5, tokenizer, 32), 0
        while not anew.done:
            begin = len(anew.ids) - 16 if len(anew.ids) - begin > 32 else begin
            with torch.no_grad():
                logits = trained(torch.tensor([anew.ids[begin:]]))[0][:, -1]
            anew.append(generate.choose(logits, [anew], options)[0], options.max_tokens)
        assert anew.ids == song.ids and len(song.ids) > 48


# ---------- a song depends on its seed alone ----------
def test_same_seed_same_song(write):
    texts = [write(['雨'], [seed])[0].text for seed in (3, 3, 4, 10**30 + 4)]
    assert texts[0] == texts[1] and len(set(texts)) == 3


@pytest.mark.parametrize('options', [{}, {'top_k': 20, 'top_p': 0.9, 'repetition_penalty': 1.3}, {'temperature': 0}])
def test_a_batch_writes_the_songs_that_each_would_have_written_alone(write, options):
    together = write(PROMPTS, [5, 6, 7, 8], max_tokens=70, **options)       # past the window of 32, twice
    for song in together:
        alone = write([song.prompt], [song.seed], max_tokens=70, **options)[0]
        assert (alone.text, alone.ids) == (song.text, song.ids)


def test_songs_of_a_batch_end_at_different_times(generate, here, tokenizer):
    model, options = generate.load(here / 'checkpoints/best.pt', 'cpu')[0], argparse.Namespace(**PLAIN)
    together, alone = ([generate.Song('雨', seed, tokenizer, 32) for seed in range(6)] for _ in range(2))
    for songs in [together, *([song] for song in alone)]:
        for _ in generate.write_songs(model, songs, options):
            pass
    assert [song.ids for song in together] == [song.ids for song in alone]
    assert len({song.n_tokens for song in together}) > 3 and sum(song.ended for song in together) > 2


# ---------- sampling ----------
def chosen(generate, tokenizer, logits, n=2000, **options):
    """What n songs with seeds 0, 1, ... choose from the same logits."""
    songs = [generate.Song('', seed, tokenizer, 32) for seed in range(n)]
    return generate.choose(logits.repeat(n, 1), songs, argparse.Namespace(**(PLAIN | options)))


@pytest.mark.parametrize(('options', 'expected'), [
    ({'temperature': 1.0}, [0.5, 0.3, 0.15, 0.05]),
    ({'temperature': 0.5}, [0.25, 0.09, 0.0225, 0.0025]),
    ({'temperature': 1.0, 'top_k': 2}, [0.5, 0.3, 0, 0]),
    ({'temperature': 1.0, 'top_k': 10**6}, [0.5, 0.3, 0.15, 0.05]),
    ({'temperature': 1.0, 'top_p': 0.75}, [0.5, 0.3, 0, 0]),
    ({'temperature': 1.0, 'top_p': 0.81}, [0.5, 0.3, 0.15, 0]),
    ({'temperature': 1.0, 'top_p': 0.0}, [1, 0, 0, 0]),
    ({'temperature': 0.0}, [1, 0, 0, 0]),
])
def test_sampling_follows_the_distribution(generate, tokenizer, options, expected):
    logits = torch.full((1, len(tokenizer)), -1e9)
    where = [700, 11, 503, 40]                                      # not in the order of their probabilities
    logits[0, where] = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    numbers = torch.tensor(chosen(generate, tokenizer, logits, **options))
    counts = torch.bincount(numbers, minlength=len(tokenizer))[where]
    expected = torch.tensor(expected) / sum(expected)
    assert counts.sum() == 2000
    torch.testing.assert_close(counts / 2000, expected, rtol=0, atol=0.04)
    assert (counts[expected == 0] == 0).all()


def test_repetition_penalty_spares_the_line_break(generate, tokenizer):
    song = generate.Song('风吹\n', 1, tokenizer, 32)
    wind, newline = tokenizer.encode('风吹')[0], tokenizer.encode('\n')[0]
    options = argparse.Namespace(**(PLAIN | {'repetition_penalty': 2.0, 'temperature': 0}))
    for written, other in ((3.0, 1.6), (-1.0, -1.9)):               # divided where positive, multiplied where negative
        for token, expected in ((wind, 999), (newline, newline)):
            logits = torch.full((1, len(tokenizer)), -50.0)
            logits[0, token], logits[0, 999] = written, other
            assert generate.choose(logits, [song], options) == [expected]


def test_the_unknown_token_is_never_chosen(generate, tokenizer):
    logits = torch.zeros(1, len(tokenizer))
    logits[0, tokenizer.unk_id()] = 100.0
    assert tokenizer.unk_id() not in chosen(generate, tokenizer, logits, n=50)


def test_stops_at_the_end_of_the_song(generate, tokenizer, write, monkeypatch):
    tokens = iter([*tokenizer.encode('风\n雨'), tokenizer.eos_id(), 77])
    monkeypatch.setattr(generate, 'choose', lambda logits, songs, options: [next(tokens)])
    [song] = write(['夜'], [1])
    assert song.text == '夜风\n雨' and song.ended and next(tokens) == 77


@pytest.mark.parametrize('n', [1, 2, 45])
def test_stops_at_the_maximum(write, n):
    [song] = write([''], [1], max_tokens=n)
    assert song.n_tokens == n and not song.ended


def test_a_window_of_one_token(generate, load, tokenizer, tmp_path):
    make_checkpoint(load('v6_wandb', BLOCK_SIZE=1), tokenizer, tmp_path / 'best.pt')
    model = generate.load(tmp_path / 'best.pt', 'cpu')[0]
    song = generate.Song('', 1, tokenizer, 1)
    for _ in generate.write_songs(model, [song], argparse.Namespace(**PLAIN)):
        pass
    assert song.done


# ---------- text, as it comes ----------
def spelled(generate, tokenizer, ids, max_tokens=10**6):
    """What a song shows after each of `ids`."""
    song, seen = generate.Song('', 1, tokenizer, 32), []
    for token in ids:
        song.append(token, max_tokens)
        seen.append(song.text)
    return seen


def test_a_character_in_bytes_appears_whole(generate, tokenizer):
    seen = spelled(generate, tokenizer, tokenizer.encode('a𠮷b'))
    assert seen[-1] == 'a𠮷b' and set(seen) == {'a', 'a𠮷', 'a𠮷b'}     # no replacement character in between


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_token_by_token_gives_the_text(generate, tokenizer, text):
    seen = spelled(generate, tokenizer, [*tokenizer.encode(text), tokenizer.eos_id()])
    expected = text.replace('▁', ' ').replace('\ufffd', '')
    assert seen[-1] == ''.join(char for char in expected if char in '\n\t' or unicodedata.category(char) != 'Cc')


def test_bytes_that_make_no_character_are_left_out(generate, tokenizer):
    first = tokenizer.encode('𠮷')[0]
    for ids in ([first, *tokenizer.encode('雨'), first], [first, *tokenizer.encode('雨'), first, tokenizer.eos_id()]):
        assert spelled(generate, tokenizer, ids, len(ids))[-1] == '雨'


def test_a_long_prompt_is_used_from_its_end(tokenizer, write, capsys):
    long = '雨落在旧站台\n' * 20
    [song] = write([long], [1], max_tokens=5)
    assert song.ids[:32] == ([1] + tokenizer.encode(long))[-32:] and song.text.startswith(long)
    assert '只用末尾' in capsys.readouterr().err


# ---------- the command ----------
def test_a_trained_model_writes_songs(generate, load, train, run, tmp_path):
    """From a rung's main() to a song."""
    script = load('v10_muon', TRAIN_ITERS=2)
    train(script)
    status, out, err = run('--checkpoint', tmp_path / 'checkpoints/latest.pt', '--prompt', '雨落', '--max-tokens', 9)
    assert status == 0 and out.startswith('雨落') and '第 2 步' in err


def test_writes_one_song_from_best(here, run):
    done = call(here, '--prompt', '雨落在旧站台')
    seed = re.search(r'seed (\d+)', done.stderr).group(1)
    assert done.returncode == 0 and done.stdout.startswith('雨落在旧站台')
    assert 'checkpoints/best.pt' in done.stderr.replace('\\', '/')
    assert run('--prompt', '雨落在旧站台', '--seed', seed)[1] == done.stdout     # the seed that it shows repeats it


def test_several_songs_and_json_lines_are_the_same_songs(run, tmp_path):
    (tmp_path / 'prompts.txt').write_text('\ufeff雨落\n\n风吹过\n', encoding='utf-8')
    options = ['--prompts', tmp_path / 'prompts.txt', '--num', 3, '--seed', 10, '--max-tokens', 30, '--top-p', 0.95]
    shown = run(*options)
    status, out, err = run(*options, '--output', tmp_path / 'songs.jsonl', '--batch-size', 4)
    assert (shown[0], status, out) == (0, 0, '') and '6/6' in err
    records = [json.loads(line) for line in (tmp_path / 'songs.jsonl').read_text(encoding='utf-8').splitlines()]
    assert [(r['prompt'], r['seed']) for r in records] == list(zip(['雨落'] * 3 + ['风吹过'] * 3, range(10, 16)))
    assert all(r['text'].startswith(r['prompt']) and set(r) == {'prompt', 'text', 'settings', 'seed'} for r in records)
    assert records[0]['settings'] == PLAIN | {'top_p': 0.95, 'max_tokens': 30}
    assert shown[1] == ''.join(f'--- seed {r["seed"]} ---\n{r["text"]}\n' for r in records)


def test_the_first_song_is_shown_while_it_is_written(generate, run, monkeypatch):
    printed = []
    monkeypatch.setattr('builtins.print', lambda *words, file=None, **_: file or printed.append(words[0]))
    run('--checkpoint', 'endless.pt', '--max-tokens', 5, '--seed', 1)
    assert len(printed) == 5 and all(printed)


def test_temperature_zero_is_greedy(run):
    songs = [run('--prompt', '雨', '--seed', seed, *options)[1] for seed, options in
             ((1, ['--temperature', 0]), (2, ['--temperature', 0.0]), (3, ['--greedy']), (4, []))]
    assert songs[0] == songs[1] == songs[2] != songs[3]


def test_control_characters_and_broken_bytes_of_a_prompt(run):
    status, out, err = run('--prompt', '\x1b[31m\x9b雨\udcff落\x07\r', '--max-tokens', 3, '--num', 2)
    assert status == 0 and out.count('[31m雨?落') == 2
    assert not re.search(r'[\x00-\x08\x0b-\x1f\x7f-\x9f]', out)


def test_a_terminal_that_cannot_show_a_character(here):
    done = call(here, '--prompt', '🎵雨', '--max-tokens', '3', text=False, env={'PYTHONIOENCODING': 'gbk'})
    assert done.returncode == 0 and done.stdout.decode('gbk').startswith('?雨')


# ---------- the output file ----------
def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_output_touches_no_other_file(run, tmp_path):
    for name in ('songs.jsonl', 'songs.jsonl.tmp', 'songs.jsonl.part'):
        (tmp_path / name).write_text('mine', encoding='utf-8')
    assert run('--output', tmp_path / 'songs.jsonl', '--num', 2, '--max-tokens', 3)[0] == 0
    assert names(tmp_path) == ['songs.jsonl', 'songs.jsonl.part', 'songs.jsonl.tmp']
    assert (tmp_path / 'songs.jsonl').read_text(encoding='utf-8').count('\n') == 2
    assert {(tmp_path / f'songs.jsonl.{end}').read_text(encoding='utf-8') for end in ('tmp', 'part')} == {'mine'}


def test_each_song_is_written_once_and_soon(generate, run, tmp_path, monkeypatch):
    """A run's time and memory grow with its songs, not with their square; the old file stands until the end."""
    output, dumps, sizes = tmp_path / 'songs.jsonl', [], []
    output.write_text('old', encoding='utf-8')
    choose, real = generate.choose, json.dumps

    def spy(*arguments):
        [part] = set(tmp_path.iterdir()) - {output}
        sizes.append((part.read_text(encoding='utf-8').count('\n'), output.read_text(encoding='utf-8')))
        return choose(*arguments)
    monkeypatch.setattr(generate, 'choose', spy)
    monkeypatch.setattr(generate.json, 'dumps', lambda *words, **options: dumps.append(1) or real(*words, **options))
    run('--checkpoint', 'endless.pt', '--output', output, '--num', 6, '--batch-size', 2, '--max-tokens', 2)
    assert sizes == [(n, 'old') for n in (0, 0, 2, 2, 4, 4)] and len(dumps) == 6


@pytest.mark.parametrize('error', [KeyboardInterrupt, torch.OutOfMemoryError('CUDA out of memory')])
def test_a_run_that_stops_keeps_the_finished_songs(error, generate, run, tmp_path, monkeypatch):
    output, link, choose, steps = tmp_path / 'songs.jsonl', tmp_path / 'link.jsonl', generate.choose, []
    output.write_text('old', encoding='utf-8')
    link.symlink_to(output)

    def stops(logits, songs, options):
        steps.append(1)
        if len(steps) == limit:
            raise error
        return [1 if song.seed == 3 and song.n_tokens == 1 else token     # the second song of the second batch is short
                for song, token in zip(songs, choose(logits, songs, options), strict=True)]
    monkeypatch.setattr(generate, 'choose', stops)
    options = ['--checkpoint', 'endless.pt', '--num', 6, '--batch-size', 2, '--max-tokens', 5, '--seed', 0]
    for limit, seeds in ((4, []), (8, [0, 1, 3])):                  # noqa: B007  # in the first batch, in the second
        steps.clear()
        with pytest.raises(type(error) if isinstance(error, Exception) else error):
            run(*options, '--output', link)
        lines = output.read_text(encoding='utf-8')
        assert lines == 'old' if not seeds else [json.loads(line)['seed'] for line in lines.splitlines()] == seeds
        assert names(tmp_path) == ['link.jsonl', 'songs.jsonl'] and link.is_symlink()


def test_output_does_not_overwrite_what_is_read(run, here, tmp_path):
    shutil.copy(here / 'endless.pt', tmp_path / 'model.pt')
    (tmp_path / 'prompts.txt').write_text('雨\n', encoding='utf-8')
    os.link(tmp_path / 'prompts.txt', tmp_path / 'hard.txt')
    (tmp_path / 'soft.pt').symlink_to('model.pt')
    (tmp_path / 'folder').mkdir()
    os.mkfifo(tmp_path / 'pipe')
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for output in ('model.pt', 'soft.pt', 'prompts.txt', 'hard.txt', 'folder', 'pipe', 'folder/../model.pt'):
        status = run('--checkpoint', tmp_path / 'model.pt', '--prompts', tmp_path / 'prompts.txt', '--output',
                     tmp_path / output)[0]
        assert str(status).startswith('错误：') and output in status
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_full_disk(here, tmp_path):
    """As a limit on the size of files; standard output on a full device."""
    (tmp_path / 'songs.jsonl').write_text('old', encoding='utf-8')
    limit = ('import resource, signal\nresource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n'
             'signal.signal(signal.SIGXFSZ, signal.SIG_IGN)')
    done = call(here, '--checkpoint', 'endless.pt', '--num', 40, '--max-tokens', 40, '--batch-size', 10, '--output',
                tmp_path / 'songs.jsonl', code=limit)
    assert done.returncode == 1 and 'Traceback' not in done.stderr and '读写文件出错' in done.stderr.splitlines()[-1]
    assert (tmp_path / 'songs.jsonl').read_text(encoding='utf-8') == 'old'
    if Path('/dev/full').exists():
        with open('/dev/full', 'w') as full:
            done = subprocess.run([sys.executable, 'generate.py'], cwd=here, env=environment(here), stdout=full,
                                  stderr=subprocess.PIPE, text=True, encoding='utf-8', timeout=120)
        assert done.returncode != 0 and 'Traceback' not in done.stderr and '错误：' in done.stderr


# ---------- it ends politely ----------
def test_ctrl_c_while_the_song_streams(here):
    command = [sys.executable, '-u', 'generate.py', '--checkpoint', 'endless.pt', '--max-tokens', '1000000']
    process = subprocess.Popen(command, cwd=here, env=environment(here), stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.read(process.stdout.fileno(), 1)                             # the song has begun
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130 and '已停止' in err and 'Traceback' not in err


def test_a_reader_that_leaves_is_no_error(here):
    command = f'"{sys.executable}" -u generate.py --checkpoint endless.pt --max-tokens 3000 | head -1'
    done = subprocess.run(command, shell=True, cwd=here, env=environment(here), text=True, encoding='utf-8',
                          capture_output=True, timeout=120)
    assert not re.search('Traceback|Exception ignored|错误', done.stderr) and len(done.stdout.splitlines()) == 1


def test_out_of_memory(here):
    lacking = ('import torch\ndef lacking(*arguments, **options):\n    raise torch.OutOfMemoryError("tried to")\n'
               'torch.nn.functional.softmax = lacking')
    done = call(here, code=lacking)
    assert done.returncode == 1 and '显存不够：请改小 --batch-size' in done.stderr and 'Traceback' not in done.stderr


# ---------- interactive ----------
PROMPT = re.compile('第一行> |接着写> ')


def test_interactive_goes_on_and_starts_anew(run):
    status, out, err = run('--interactive', '--checkpoint', 'endless.pt', '--seed', 5, '--max-tokens', 12,
                           stdin='雨落在旧站台\n后来\n\n/new\n雨落在旧站台\n/quit\n没有\n'.encode())
    assert PROMPT.findall(out) == ['第一行> ', '接着写> ', '接着写> ', '接着写> ', '第一行> ', '接着写> ']
    parts = PROMPT.split(out)
    assert parts[1].startswith('雨落在旧站台') and parts[2].startswith('后来') and parts[5].startswith('雨落在旧站台')
    assert parts[5] != parts[1]                                     # another seed, another song
    assert status == 0 and parts[6] == '' and err.endswith('再见\n')


def test_interactive_writes_on_from_all_that_is_there(generate, run, monkeypatch):
    prompts, make = [], generate.Song
    monkeypatch.setattr(generate, 'Song', lambda *arguments: prompts.append(make(*arguments)) or prompts[-1])
    run('--interactive', '--checkpoint', 'endless.pt', '--max-tokens', 6, '--greedy', stdin='雨\n\n风\n'.encode())
    first, second, third = prompts
    assert second.prompt == first.text and third.prompt == second.text.rstrip('\n') + '\n风'


def test_interactive_seed_repeats_a_song(run):
    _, out, _ = run('--interactive', stdin='/seed 9\n雨\n/new\n/seed 9\n雨\n'.encode())    # ends with the input
    songs = [part for part in PROMPT.split(out) if part.startswith('雨')]
    assert len(songs) == 2 and songs[0] == songs[1] == run('--seed', 9, '--prompt', '雨')[1]


def test_interactive_settings(run):
    lines = '/temp 0.5|/topp 0.8|/topk 7|/penalty 1.5|/max 33|/temp|/max x|/nonsense 1|/greedy'.replace('|', '\n')
    status, out, err = run('--interactive', '--seed', 1, stdin=lines.encode())
    said = 'temperature {}，top_k 7，top_p 0.8，repetition_penalty 1.5，max_tokens 33，seed 1\n'
    assert status == 0 and said.format(0.5) in err and said.format(0.0) in err
    for command in ('/temp', '/topp', '/topk', '/greedy', '/penalty', '/max', '/seed', '/new', '/quit'):
        assert len(re.findall(rf'^{command} .*\S', err, re.M)) == 3     # the help, for what it did not understand


def test_interactive_bad_bytes_and_control_characters(run):
    status, out, err = run('--interactive', '--max-tokens', 3, stdin=b'\xff\x1b[2J\xe9\x9b\xa8\n')
    assert status == 0 and '�[2J雨' in out and '\x1b' not in out + err


def test_interactive_without_an_input(here):
    done = call(here, '--interactive', preexec_fn=lambda: os.close(0))      # as the shell's 0<&-
    assert done.returncode == 0 and done.stdout == '' and 'Traceback' not in done.stderr


@pytest.mark.skipif(sys.platform == 'win32', reason='needs a pseudo-terminal')
def test_interactive_line_editing_history_and_ctrl_c(here):
    import pty
    pytest.importorskip('readline')
    main, side = pty.openpty()
    env = environment(here) | {'TERM': 'xterm', 'LC_ALL': 'C.UTF-8'}
    command = [sys.executable, 'generate.py', '--interactive', '--max-tokens', '4', '--checkpoint', 'endless.pt']
    process = subprocess.Popen(command, cwd=here, env=env, stdin=side, stdout=side, stderr=side, start_new_session=True)
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
    os.write(main, b'/max 1000000\n')
    until('max_tokens 1000000')
    until('接着写> ')
    os.write(main, '夜\n'.encode())
    until('\n夜')
    os.kill(process.pid, signal.SIGINT)                             # while it writes: back to the prompt
    until('接着写> ')
    os.write(main, b'/quit\n')
    until('再见')
    assert process.wait(timeout=60) == 0
    os.close(main)


# ---------- what a user meets ----------
class Code:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--checkpoint', 'none.pt'], '没有检查点 none.pt：先训练一个'),
    (['--checkpoint', 'checkpoints'], '没有检查点 checkpoints'),
    (['--checkpoint', 'empty.txt'], 'empty.txt 读不出来'),
    (['--checkpoint', 'truncated.pt'], 'truncated.pt 读不出来'),
    (['--checkpoint', 'other.pt'], 'other.pt 读不出来'),
    (['--checkpoint', 'lacking.pt'], 'lacking.pt 读不出来'),
    (['--checkpoint', 'code.pt'], 'code.pt 读不出来'),
    (['--prompts', 'empty.txt'], 'empty.txt 里一个开头也没有'),
    (['--prompts', 'gbk.txt'], 'gbk.txt 读不了'),
    (['--prompts', 'none.txt'], 'none.txt 读不了'),
])
def test_bad_input_ends_with_one_clear_line(run, here, arguments, message):
    (here / 'empty.txt').write_text('\n \n', encoding='utf-8')
    (here / 'gbk.txt').write_bytes('雨落'.encode('gbk'))
    (here / 'truncated.pt').write_bytes((here / 'endless.pt').read_bytes()[:5000])
    torch.save({'weight': torch.zeros(3)}, here / 'other.pt')
    checkpoint = torch.load(here / 'endless.pt', weights_only=True)
    del checkpoint['model']['blocks.1.ffwd.net.2.weight']
    torch.save(checkpoint, here / 'lacking.pt')
    torch.save(Code(here / 'executed'), here / 'code.pt')
    status, out, err = run(*arguments)
    assert status.startswith('错误：') and message in status and '\n' not in status and (out, err) == ('', '')
    assert not (here / 'executed').exists()


@pytest.mark.parametrize('arguments', [['--output', 'nowhere/x.jsonl'], ['--output', 'generate.py/x.jsonl'],
                                       ['--output', 'x' * 250]])
def test_an_output_that_cannot_be_written(run, arguments):
    with pytest.raises(OSError):                                    # main's guard says it; see test_a_full_disk
        run(*arguments)


@pytest.mark.parametrize('arguments', [['--prompt', '雨', '--prompts', 'x'], ['--interactive', '--output', 'x.jsonl'],
                                       ['--interactive', '--num', '2'], ['--top-k', '2.5'], ['--frobnicate']])
def test_options_that_do_not_go(run, arguments):
    assert run(*arguments)[0] == 2


def test_help_documents_every_option(generate, run):
    status, text, _ = run('--help')
    for name, (_, default, _, _) in generate.SETTINGS.items():
        assert status == 0 and re.search(rf'--{name.replace("_", "-")} X\s.*\n?.*[一-鿿]', text)
        assert default is None or f'默认 {default}' in text
    for name in ('checkpoint', 'prompt ', 'prompts', 'num', 'interactive', 'output', 'greedy', 'device', 'batch-size'):
        assert f'--{name}' in text


def test_stands_alone():
    for node in ast.walk(ast.parse(SOURCE)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert {name.split('.')[0] for name in modules} <= {'torch', 'sentencepiece', 'pypinyin'} | sys.stdlib_module_names


# ---------- bench/novelty.py ----------
@pytest.fixture(scope='module')
def novelty():
    return imported('bench/novelty')


def test_novelty_counts_what_was_copied(novelty):
    songs = ['雨落在旧站台\n我在等一个人', '风吹过山岗']
    written = ['他说：雨落在旧站台\n我在等一辆车', songs[0], ''.join(songs), '我在等一个人风吹过山岗', '风吹过山岗', '']
    expected = [(4 / 9, '雨落在旧站台\n我在等一'), (1.0, songs[0]), (6 / 11, songs[0]), (0.0, ''), (0.0, ''), (0.0, '')]
    assert novelty.novelty(written, songs) == expected              # not from one song into the next


@given(st.lists(st.text('ab', max_size=40), max_size=3), st.lists(st.text('ab', max_size=60), max_size=3))
@settings(max_examples=200, deadline=None)
def test_novelty_equals_the_definition(novelty, texts, songs):
    for text, (share, longest) in zip(texts, novelty.novelty(texts, songs), strict=True):
        runs = [text[i:j] for i in range(len(text)) for j in range(i + 8, len(text) + 1)
                if any(text[i:j] in song for song in songs)]
        assert len(longest) == max(map(len, runs), default=0) and (longest in runs or not runs)
        windows = [text[i:i + 8] for i in range(len(text) - 7)]
        assert share == sum(any(window in song for song in songs) for window in windows) / max(1, len(windows))


@pytest.mark.parametrize('name', [name for name in ('v5_checkpoint', 'v10_muon', 'v11_memmap') if name in CHECKPOINT])
def test_novelty_knows_the_songs_that_the_model_saw(name, novelty, load, train, monkeypatch, capsys, tmp_path):
    write_songs(tmp_path / 'data' / 'lyrics1.json', SAMPLE[:300])
    tokens = {'TOKEN_DIR': str(tmp_path / 'tokens')} if name == 'v11_memmap' else {}
    script = load(name, LYRICS_DIR=str(tmp_path / 'data'), TRAIN_ITERS=1, BPE_VOCAB_SIZE=2000, SEED=7, **tokens)
    train(script)
    texts = [script.clean('\n'.join(song['lyric'])) for song in SAMPLE[:300]] + ['天地玄黄' * 5]
    records = [{'prompt': '一', 'text': '一' + text, 'settings': {}, 'seed': i} for i, text in enumerate(texts)]
    songs = tmp_path / 'songs.jsonl'
    songs.write_text('\n'.join(json.dumps(record) for record in records), encoding='utf-8')
    monkeypatch.setattr(sys, 'argv', ['novelty.py', str(tmp_path / 'checkpoints/latest.pt'), str(songs)])

    def copied():
        capsys.readouterr()
        novelty.main()
        out, err = capsys.readouterr()
        found = re.findall(r'seed (\d+): +([\d.]+)% copied, longest +(\d+) ', out)
        assert len(found) == 301 and found[-1] == ('300', '0.0', '0') and out.splitlines()[-1].startswith('301 songs: ')
        for number, share, longest in found:
            assert (share == '100.0') == (int(longest) == len(texts[int(number)]))
        return [number for number, share, _ in found if share == '100.0'], 'not those that the model was' in err

    seen, other = copied()
    assert 250 < len(seen) < 290 and not other                      # nine tenths of the songs
    checkpoint = torch.load(tmp_path / 'checkpoints/latest.pt', weights_only=True)
    assert set(filter(None, novelty.training_songs(checkpoint))) == {texts[int(number)] for number in seen}
    write_songs(tmp_path / 'data' / 'lyrics2.json', SAMPLE[300:400])
    if tokens:                                                      # the tokens that it saw are still there
        assert copied() == (seen, False)
    else:
        now, other = copied()
        assert now != seen and other
