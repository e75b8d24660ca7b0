"""bench/: the runs, the tables and that they can be continued. Tiny runs on the sample; no timing is asserted."""
import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, environment

sys.path.insert(0, str(ROOT / 'bench'))
import ladder  # noqa: E402
from machine import describe  # noqa: E402

TINY = {'N_EMBED': 32, 'N_HEADS': 2, 'N_LAYERS': 1, 'BLOCK_SIZE': 32, 'BATCH_SIZE': 4, 'EVAL_ITERS': 2,
        'BPE_VOCAB_SIZE': 3000, 'WARMUP_ITERS': 2}
FEWER = ['v0_char_rope', 'v6_wandb', 'v7_grad_accum', 'v8_mfu', 'v9_llama', 'v12_ddp']


def imported(source, path):
    path.write_text(source, encoding='utf-8')
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def learns(source, path):
    """(losses of four steps on one batch, number of parameters) of a rung's source."""
    module = imported(source, path)
    torch.manual_seed(0)
    model, idx = module.GPT(97), torch.randint(97, (4, 33))
    optimizer = getattr(module, 'make_optimizer', lambda m: torch.optim.AdamW(m.parameters()))(model)
    losses = []
    for _ in range(4):
        model.zero_grad()
        loss = model(idx[:, :-1], idx[:, 1:])[1]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(('rung', 'name', '_', 'edits'), ladder.WITHOUT, ids=[w[1] for w in ladder.WITHOUT])
def test_every_idea_can_be_left_out(rung, name, _, edits, tmp_path):
    """The edited script is another one, and its model still learns; an idea that only saves time changes no loss."""
    constants, patches = ladder.left_out(edits, 'large')
    same = TINY | {'DEVICE': 'cpu', 'DROP_OUT': 0.0, 'N_LAYERS': 2}
    source, edited = ladder.edit(rung, same), ladder.edit(rung, same | constants, patches)
    assert edited != source
    whole, parameters = learns(source, tmp_path / 'whole.py')
    losses, left = learns(edited, tmp_path / 'edited.py')
    assert losses[3] < losses[0]
    if name in ('one QKV projection', 'flash attention', 'fused AdamW'):
        assert losses == pytest.approx(whole, abs=2e-6) and left == parameters
    if name == 'tied embeddings':
        assert left == parameters + 97 * 32                         # the matrix of its own


@pytest.mark.parametrize('setting', ladder.CONTROLLED)
def test_the_constants_are_fit_in_every_setting(setting, tmp_path):
    """No model is refused, and a smaller one that is widened has about the parameters of the rung below."""
    parameters = {}
    for number, (rung, name, _, edits) in enumerate(ladder.WITHOUT):
        constants, patches = ladder.left_out(edits, setting)
        source = ladder.edit(rung, ladder.CONTROLLED[setting] | {'DEVICE': 'cpu'} | constants, patches)
        with torch.device('meta'):
            model = imported(source, tmp_path / f'edited{number}.py').GPT(ladder.CONTROLLED[setting]['BPE_VOCAB_SIZE'])
        parameters[rung, name] = sum(p.numel() for p in model.parameters())
    below = parameters['v4_flash_optim', 'weight decay']            # v5 to v8 have the same model
    assert parameters['v9_llama', 'the smaller model'] == pytest.approx(below, rel=0.02)


def contrast(a, b):
    """WCAG 2: the ratio of the luminances of two colours, '#rrggbb'."""
    def luminance(colour):
        channels = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_curves_can_be_told_apart_on_light_and_dark_pages():
    assert len(set(ladder.COLOURS)) * 2 >= len(ladder.RUNGS) - 3    # two line styles; not v11, v12
    for colour in ladder.COLOURS:
        assert contrast(colour, '#ffffff') >= 3 and contrast(colour, '#15181c') >= 3, colour


def test_a_run_gives_its_curve_and_what_it_printed(lyrics_dir):
    constants = {'LYRICS_DIR': str(lyrics_dir), 'TRAIN_ITERS': 4, 'EVAL_INTERVAL': 2, 'MAX_NEW_TOKENS': 5}
    result = ladder.run(ladder.edit('v10_muon', TINY | constants), 'v10_muon')
    assert [point['step'] for point in result['curve']] == [2, 4] and 8 < result['curve'][0]['bits_per_char'] < 20
    assert [point['tokens'] for point in result['curve']] == [2 * 4 * 32, 4 * 4 * 32]
    assert result['vocabulary'] == 3000 and result['parameters'] == pytest.approx(0.11e6, abs=0.02e6)
    assert result['tok_per_s'] > 0


def test_a_stale_patch_is_refused():
    with pytest.raises(SystemExit, match='0 times, not once'):
        ladder.edit('v4_flash_optim', {}, [('no such line', '')])


@pytest.fixture
def project(tmp_path, lyrics_dir):
    """A copy of the project whose controlled size is tiny, so that a whole bench runs in seconds."""
    for path in ROOT.glob('v*.py'):                                 # from v8 on with a small matrix product
        source = path.read_text(encoding='utf-8').replace('8192 if GPU else 2048', '64')
        (tmp_path / path.name).write_text(source, encoding='utf-8')
    shutil.copytree(ROOT / 'bench', tmp_path / 'bench', ignore=shutil.ignore_patterns('results', '__pycache__'))
    shutil.copytree(lyrics_dir, tmp_path / 'ChineseLyrics')
    shutil.copy(ROOT / 'input.txt', tmp_path)
    (tmp_path / 'README.md').write_text('a\n<!-- bench controlled -->\nold\n<!-- /bench -->\nb\n', encoding='utf-8')
    path = tmp_path / 'bench' / 'ladder.py'
    source = path.read_text(encoding='utf-8')
    for rung in FEWER:                                              # the others say enough, and sooner
        source = re.sub(rf",\s+'{rung}'", '', source, count=1)
    start, end = source.index("    'small': CPU |"), source.index("    'gpu': {'N_EMBED'")
    tiny = TINY | {'DROP_OUT': 0.0, 'LEARNING_RATE': 1.5e-3, 'MIN_LR': 1.5e-4}
    settings = f"    'small': {tiny},\n    'large': {tiny | {'LEARNING_RATE': 3e-3}},\n"
    path.write_text(source[:start] + settings + source[end:], encoding='utf-8')
    path = tmp_path / 'bench' / 'measured.py'
    source = path.read_text(encoding='utf-8')
    assert source.count('perf_counter() + 2') == source.count(' else 2048') == 1
    source = source.replace('perf_counter() + 2', 'perf_counter() + 0.1').replace(' else 2048', ' else 256')
    path.write_text(source, encoding='utf-8')
    return tmp_path


def bench(project, *arguments):
    return subprocess.run([sys.executable, 'bench/ladder.py', *arguments], cwd=project, env=environment(project),
                          encoding='utf-8', capture_output=True, timeout=280)


def test_the_bench_runs_continues_and_reports(project):
    arguments = ['--only', 'controlled', '--seeds', '1', '--budget', '1500', '--readme']
    done = bench(project, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    rungs = [rung for rung in ladder.RUNGS[1:] if rung not in FEWER]     # all but the English one
    n = len(rungs)
    assert f'{n} runs, 0 of them done already' in done.stdout and 'about' in done.stdout
    [path] = (project / 'bench/results').glob('*.json')
    results = json.loads(path.read_text(encoding='utf-8'))
    assert path.stem == describe()['name'] and results['machine']['packages']['torch']
    assert str(project) not in path.read_text(encoding='utf-8')     # no path of this machine
    jobs = results['jobs']
    assert list(jobs) == [f'controlled/{rung}/seed 1' for rung in rungs]
    for job in jobs.values():
        assert job['curve'][-1]['step'] == job['curve'][-1]['tokens'] / 128
        assert job['peak_ram'] > 10**8 and job['matrix_flops'] > 10**8
    tokens = {rung: jobs[f'controlled/{rung}/seed 1']['curve'][-1]['tokens'] for rung in rungs}
    assert tokens['v0_char_chinese'] == round(1500 / 128) * 128 > tokens['v1_bpe_rope']     # fewer BPE tokens
    v4, v5 = (jobs[f'controlled/{rung}/seed 1']['curve'][-1]['test'] for rung in ('v4_flash_optim', 'v5_checkpoint'))
    assert v4 == v5

    text = (project / 'README.md').read_text(encoding='utf-8')
    assert text.startswith('a\n<!-- bench controlled -->\n') and text.endswith('<!-- /bench -->\nb\n')
    assert 'old' not in text
    final = jobs['controlled/v2_cosine_lr/seed 1']['curve'][-1]['bits_per_char']
    assert re.search(rf'\| `v2_cosine_lr` \| {final:.3f} \|', text)
    svg = path.with_name(f'{path.stem}-tokens.svg').read_text(encoding='utf-8')
    assert svg.startswith('<?xml') and 'v10_muon' in svg and 'prefers-color-scheme: dark' in svg
    assert '#000000' not in svg and 'v11_memmap' not in svg         # v11's test songs are others: not in the plot

    speeds = ['--only', 'speed', '--rungs', 'v3_gpt2_amp', '--rounds', '1', '--steps', '3']
    done = bench(project, *speeds)                                  # the rung and its one idea that needs no GPU
    assert done.returncode == 0 and '2 runs, 0 of them done already' in done.stdout, done.stdout + done.stderr
    results = json.loads(path.read_text(encoding='utf-8'))
    jobs = results['jobs']
    assert list(jobs)[n:] == ['speed/v3_gpt2_amp/round 1', 'speed/v3_gpt2_amp/GELU/round 1']
    svg = path.with_name(f'{path.stem}-seconds.svg').read_text(encoding='utf-8')
    assert 'v3_gpt2_amp' in svg and 'v4_flash_optim' not in svg     # seconds only where the speed is known

    del jobs['controlled/v3_gpt2_amp/seed 1']                       # as if it had been stopped there
    path.write_text(json.dumps(results), encoding='utf-8')
    rung = project / 'v2_cosine_lr.py'                              # and a rung that changed since is measured anew
    rung.write_text(rung.read_text(encoding='utf-8') + '\nchanged = True\n', encoding='utf-8')
    done = bench(project, *arguments)
    assert f'{n} runs, {n - 2} of them done already' in done.stdout, done.stdout + done.stderr
    assert len(json.loads(path.read_text(encoding='utf-8'))['jobs']) == n + 2


def test_a_rung_that_fails_is_shown_and_the_others_go_on(project):
    rung = project / 'v0_char_chinese.py'
    source = rung.read_text(encoding='utf-8')
    rung.write_text(source.replace('def main():\n', "def main():\n    fail('broken on purpose')\n"), encoding='utf-8')
    done = bench(project, '--only', 'controlled', '--seeds', '1', '--budget', '1500',
                 '--rungs', 'v0_char_chinese', 'v1_bpe_rope')
    assert done.returncode == 1 and 'broken on purpose' in done.stderr and 'Traceback' not in done.stderr
    assert '1 of the runs failed (controlled/v0_char_chinese/seed 1)' in done.stderr
    [path] = (project / 'bench/results').glob('*.json')
    assert list(json.loads(path.read_text(encoding='utf-8'))['jobs']) == ['controlled/v1_bpe_rope/seed 1']


def test_a_stopped_bench_stops_the_rung(project):
    rung, pid = project / 'v1_bpe_rope.py', project / 'pid'
    source = rung.read_text(encoding='utf-8')
    says_pid = f"    import os; Path({str(pid)!r}).write_text(str(os.getpid()) + ' ')\n"
    rung.write_text(source.replace('def main():\n', f'def main():\n{says_pid}'), encoding='utf-8')
    command = [sys.executable, '-u', 'bench/ladder.py', '--only', 'controlled', '--rungs', 'v1_bpe_rope',
               '--budget', '10000000']
    process = subprocess.Popen(command, cwd=project, env=environment(project), encoding='utf-8',
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and not (pid.exists() and pid.read_text().endswith(' ')):
        pass                                                        # the rung runs once it has said so
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and 'stopped; the same command continues' in err and 'Traceback' not in err
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.mark.parametrize('arguments', [[], ['--lyrics', 'ChineseLyrics']])
def test_the_large_setting_needs_a_large_corpus(arguments, project):
    done = bench(project, '--setting', 'large', *arguments)
    assert done.returncode == 2 and 'needs a large corpus' in done.stderr


def test_a_result_counts_for_its_corpus_and_packages(tmp_path):
    (tmp_path / 'sample.json').write_text('[]', encoding='utf-8')
    job, machine = {'constants': {'LYRICS_DIR': str(tmp_path)}}, {'python': '3.11.1', 'packages': {'torch': '2.13.0'}}
    source = f'"""doc"""\nLYRICS_DIR = {str(tmp_path)!r}  # comment\ndef f():\n    """doc"""'
    first = ladder.fingerprint(job, source, machine)
    other = tmp_path / 'other'
    other.mkdir()
    shutil.copy(tmp_path / 'sample.json', other)
    moved = {'constants': {'LYRICS_DIR': str(other)}}
    source = source.replace(str(tmp_path), str(other)).replace('doc', 'other words').replace('# comment', '')
    assert ladder.fingerprint(moved, source, machine) == first
    assert ladder.fingerprint(moved, source + '\n    return 1', machine) != first
    assert ladder.fingerprint(moved, source, machine | {'packages': {'torch': '2.14.0'}}) != first
    (other / 'data').mkdir()
    (other / 'data/lyrics1.json').write_text('[{}]', encoding='utf-8')      # as a clone lies below ChineseLyrics/
    ladder.corpus_hash.cache_clear()
    assert ladder.fingerprint(moved, source, machine) != first


def test_differences_are_taken_seed_by_seed():
    def job(bits):
        return {'curve': [{'bits_per_char': bits}]}
    assert ladder.difference({1: job(7.0), 2: job(8.0), 3: job(1.0)}, {1: job(7.1), 2: job(8.1)}) == '−0.100 ± 0.000'
    assert ladder.difference({1: job(7.0)}, {1: job(6.0)}) == '+1.000'
    assert ladder.difference({1: job(7.0)}, {2: job(6.0)}) == '—'


def test_speeds_are_medians_and_ideas_are_compared_round_by_round():
    def job(tok_per_s):
        return {'tok_per_s': tok_per_s, 'peak_ram': 2**30, 'budget': 300, 'parameters': 1e6, 'vocabulary': 100,
                'matrix_flops': 1e9, 'compile_seconds': None, 'size': {'N_EMBED': 8, 'N_LAYERS': 1, 'BLOCK_SIZE': 4},
                'curve': [{'tokens': 200, 'bits_per_char': 8.0}]}
    rung = 'v3_gpt2_amp'
    jobs = {f'controlled/{rung}/seed 1': job(1), f'without/{rung}/GELU/seed 1': job(1)}     # these speeds do not count
    for number, (with_it, without) in enumerate([(1000, 900), (500, 550), (2000, 1900)], start=1):
        jobs |= {f'speed/{rung}/round {number}': job(with_it), f'speed/{rung}/GELU/round {number}': job(without),
                 f'as-shipped/{rung}/round {number}': job(with_it)}
    jobs[f'as-shipped/{rung}/round 2']['matrix_flops'] = 1e8         # utilisation is of each run, then its median
    jobs[f'controlled/{rung}/seed 2'] = job(1) | {'curve': [{'tokens': 200, 'bits_per_char': 9.0}], 'peak_gpu': 2**31}
    tables = ladder.report({'machine': {'device': 'cuda'}, 'setting': 'gpu', 'jobs': {
        key: {'peak_gpu': 2**30} | value for key, value in jobs.items()}})
    assert f'| `{rung}` | 8.000 |' in tables['controlled']          # of the first seed
    assert '| 2.0 GiB |' in tables['controlled']                    # the largest peak
    assert '| 1,000 (500 … 2,000) | 1,500 |' in tables['controlled']     # tok/s, and 1.5 characters per token
    assert '| −5% (−10% … +10%) |' in tables['leave-one-out']                     # of −10%, +10% and −5%
    assert '| 1.00 M | 1,000 (500 … 2,000) |' in tables['as-shipped']
    utilisation = ladder.model_flops(job(1)) * 2000 / 1e9     # of 1000, 5000 and 2000 tok/s at 1e9
    assert f'| {utilisation:.1%} |' in tables['as-shipped']


def test_rounds_go_over_all_rungs_and_ideas():
    options = argparse.Namespace(only=['speed'], setting='small', lyrics=ROOT, steps=None, budget=None, seeds=1,
                                 rounds=2, rungs=['v0_char_english', 'v3_gpt2_amp', 'v4_flash_optim'])
    jobs = ladder.plan({'device': 'cpu'}, options)
    keys = [job['key'] for job in jobs]
    half = len(keys) // 2
    assert keys[:4] == ['speed/v3_gpt2_amp/round 1', 'speed/v3_gpt2_amp/GELU/round 1', 'speed/v4_flash_optim/round 1',
                        'speed/v4_flash_optim/one QKV projection/round 1']
    assert [key.replace('round 1', 'round 2') for key in keys[:half]] == keys[half:]
    assert len({job['together'] for job in jobs}) == 4              # a rung and its ideas, in each round


def test_the_steps_of_a_run_do_not_depend_on_what_else_is_planned(monkeypatch):
    """v11 has a tokenizer and test songs of its own: alone or after others, it trains on as many characters."""
    monkeypatch.setattr(ladder, 'chars_per_token',
                        lambda rung, constants: 1.13 if rung == 'v11_memmap' else 1.0 if 'char' in rung else 1.2)
    options = argparse.Namespace(only=['controlled'], setting='small', lyrics=ROOT, steps=None, budget=None, seeds=1,
                                 rounds=1, rungs=ladder.RUNGS[:14])
    jobs, shared = ladder.plan({'device': 'cpu'}, options), {}
    together = {job['rung']: ladder.complete(job, shared) for job in jobs}
    assert together == {job['rung']: ladder.complete(job, {}) for job in jobs}
    steps = {rung: ladder.constants_of(source, 'TRAIN_ITERS')['TRAIN_ITERS'] for rung, source in together.items()}
    assert len({steps['v0_char_rope'], steps['v10_muon'], steps['v11_memmap']}) == 3
    assert len(shared) == 3                                         # each tokenizer is learned once, not once a rung


def test_a_missing_run_brings_back_its_round(monkeypatch, tmp_path):
    ran = []
    source = 'TRAIN_ITERS = BATCH_SIZE = BLOCK_SIZE = 1\ndef fail(): pass'
    monkeypatch.setattr(ladder, 'complete', lambda job, ratios: source)
    monkeypatch.setattr(ladder, 'fingerprint', lambda *_: 'same')
    result = {'curve': [{'bits_per_char': 8.0}], 'tok_per_s': 1}
    monkeypatch.setattr(ladder, 'run', lambda source, rung, report: ran.append(rung) or result)
    jobs = [{'key': name, 'rung': name, 'constants': {}, 'patches': [], 'budget': None, 'together': together}
            for name, together in [('a', 'x'), ('b', 'x'), ('c', 'y'), ('d', None), ('e', None)]]
    results = {'machine': {}, 'jobs': {name: {'fingerprint': 'same'} for name in 'acd'}}
    assert ladder.run_all(jobs, results, tmp_path / 'results.json') == []
    assert ran == ['a', 'b', 'e']                                   # b and e are missing, and a is of b's round


def test_the_cache_is_measured_on_songs_of_the_same_length(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / 'bench'))
    spec = importlib.util.spec_from_file_location('bench_generate', ROOT / 'bench' / 'generate.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lengths, forward = [], module.generate.GPT.forward
    monkeypatch.setattr(module.generate.GPT, 'forward', lambda self, idx, *rest, **options:
                        lengths.append(idx.shape[1]) or forward(self, idx, *rest, **options))
    monkeypatch.setattr(module, 'SIZE', {'N_EMBED': 32, 'N_HEADS': 2, 'N_LAYERS': 1, 'BLOCK_SIZE': 32})
    monkeypatch.setattr(module, 'ROOT', tmp_path)
    monkeypatch.setattr(sys, 'argv', ['generate.py', '--tokens', '6'])
    module.main()
    assert lengths[20:] == [1] * 6 + [1, 2, 3, 4, 5, 6]             # after the warm-up: with the cache, and without
    [path] = (tmp_path / 'bench/results/generate').iterdir()
    result = json.loads(path.read_text(encoding='utf-8'))
    table = capsys.readouterr().out
    for name, seconds in result['seconds'].items():
        assert result['tok_per_s'][name] == pytest.approx(6 / seconds)
        assert f'| {name} | {6 / seconds:.1f} | {seconds:.1f} |' in table


def test_model_flops_by_hand():
    job = {'size': {'N_EMBED': 768, 'N_LAYERS': 12, 'BLOCK_SIZE': 1024}, 'vocabulary': 8000}
    matrices = 12 * (4 + 8) * 768**2 + 768 * 8000
    assert ladder.model_flops(job) == 6 * matrices + 12 * 12 * 768 * 1024
    llama = {'N_EMBED': 128, 'N_HEADS': 4, 'N_KV_HEADS': 2, 'N_LAYERS': 4, 'BLOCK_SIZE': 128}
    matrices = 4 * (3 * 128**2 + 3 * 128 * 384) + 128 * 4000        # hidden: 8/3 x 128, up to 64s
    assert ladder.model_flops({'size': llama, 'vocabulary': 4000}) == 6 * matrices + 12 * 4 * 128 * 128


def test_committed_results_are_of_the_present_ideas_and_shown_as_they_are():
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    shown, tables = re.findall(r'<!-- bench (.+?) -->\n\n(.*?)\n\n<!-- /bench -->', readme, re.S), []
    for path in (ROOT / 'bench/results').glob('*.json'):
        results = json.loads(path.read_text(encoding='utf-8'))
        for key, job in results['jobs'].items():
            ladder.edit(key.split('/')[1], job['constants'], job['patches'])
        tables.append(ladder.report(results))
        text = path.with_suffix('.md').read_text(encoding='utf-8')
        assert all(ladder.in_english(markdown) in text for markdown in tables[-1].values())
        assert path.stem == ladder.stem(results) and not re.search('[一-鿿]', text)
    for name, markdown in shown:
        assert markdown in [table.get(name) for table in tables], name


def test_the_rung_below_lends_its_seeds():
    """v5 to v8 repeat v4: v9 is compared with all of v4's seeds. v11's test songs are others, and v12's are v11's."""
    results = {'jobs': {f'controlled/{rung}/seed {seed}': (rung, seed) for rung, seed in [
        ('v3_gpt2_amp', 1), ('v4_flash_optim', 1), ('v4_flash_optim', 2), ('v8_mfu', 1), ('v9_llama', 1),
        ('v10_muon', 1), ('v11_memmap', 1), ('v12_ddp', 1)]}}
    assert ladder.reference(results, 'v9_llama') == {1: ('v8_mfu', 1), 2: ('v4_flash_optim', 2)}
    assert ladder.reference(results, 'v4_flash_optim') == {1: ('v3_gpt2_amp', 1)}
    assert ladder.reference(results, 'v0_char_chinese') == {} == ladder.reference(results, 'v11_memmap')
    assert ladder.reference(results, 'v12_ddp') == {1: ('v11_memmap', 1)}
