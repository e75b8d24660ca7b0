"""bench/: the runs, the tables and that they can be continued. Tiny runs on the sample; no timing is asserted."""
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, environment

sys.path.insert(0, str(ROOT / 'bench'))
import field  # noqa: E402
import ladder  # noqa: E402
import plots  # noqa: E402
import report  # noqa: E402
import running  # noqa: E402
import scaling  # noqa: E402
import sentences  # noqa: E402
import settings  # noqa: E402
from machine import describe  # noqa: E402

TINY = {'N_EMBED': 32, 'N_HEADS': 2, 'N_LAYERS': 1, 'BLOCK_SIZE': 32, 'BATCH_SIZE': 4, 'EVAL_ITERS': 2,
        'BPE_VOCAB_SIZE': 3000, 'WARMUP_ITERS': 2, 'USE_AMP': False}


KILLED = [(old, new.replace('step == 500', 'step == 3')) for old, new in settings.KILLED]


def imported(source, path):
    path.write_text(source, encoding='utf-8')
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fake(experiments=('rates', 'steps', 'characters')):
    """Results as if these experiments had been run: 2 bits less for every rung than for the one before it."""
    results = {'machine': describe(), 'corpus': 'poems', 'jobs': {}}
    extra = {'longer windows': ['longer 1 5.0', 'longer 2 6.0', 'longer 4 7.5'], 'saving': ['saving 0.1', 'saving 0.3'],
             'killed': ['从 checkpoints/latest.pt 的第 400 步继续']}
    for experiment in experiments:
        for job in settings.plan(experiment, results):
            bits = 20 - settings.RUNGS.index(job['rung']) + job['constants'].get('LEARNING_RATE', 0)
            curve = [{'step': step, 'train': 1.0, 'test': bits, 'bits_per_char': bits} for step in (0, 1200, 2400)]
            results['jobs'][job['key']] = {'curve': curve, 'tok_per_s': 1000, 'peak_memory': 2**30,
                                           'parameters': 1e6, 'compile_seconds': 9, 'mfu': 30.0,
                                           'extra': extra.get(job['key'].split('/')[-1], []), 'log': ['step 1'], 'song': '一行'}
    return results


@pytest.mark.parametrize(('rung', 'idea', 'edits'), [
    *((rung, idea, edits) for rung in settings.WITHOUT for idea, _, edits in settings.WITHOUT[rung]),
    *(('v4_flash_optim', idea, edits) for idea, (_, edits) in settings.FASTER.items())])
def test_every_idea_can_be_left_out(rung, idea, edits, tmp_path):
    """The edited script is another one, and its model still learns; an idea that only saves time changes no loss."""
    jobs = {job['key']: job for experiment in ('without', 'speed') for job in settings.plan(experiment, fake())}
    job = jobs[f'speed/{rung}/without {idea}/round 1' if idea in settings.FASTER else f'without/{rung}/{idea}/seed 1']
    changed = edits if isinstance(edits, dict) else {}

    def learns(name, constants, patches):
        source = running.edit(rung, TINY | {'DEVICE': 'cpu', 'DROP_OUT': 0.0, 'N_HEADS': 4, 'N_LAYERS': 2} | constants, patches)
        module = imported(source, tmp_path / name)
        torch.manual_seed(0)
        model, idx, losses = module.GPT(97), torch.randint(97, (4, 33)), []
        optimizer = module.make_optimizer(model)
        for _ in range(4):
            model.zero_grad()
            loss = model(idx[:, :-1], idx[:, 1:])[1]
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return source, losses, sum(p.numel() for p in model.parameters())

    source, whole, parameters = learns('whole.py', {}, [])
    edited, losses, left = learns('edited.py', changed, job['patches'])
    assert edited != source and losses[3] < losses[0]
    if idea in settings.FASTER:
        assert losses == pytest.approx(whole, abs=2e-6) and left == parameters
    if idea == 'tied embeddings':
        assert left == parameters + 97 * 32                         # the matrix of its own


def test_every_job_fits_its_script(tmp_path):
    """All constants and patches fit, no model is refused, and the widened v9 has about the parameters of v8."""
    results, parameters = fake(), {}
    for experiment in ('rates', 'steps', 'characters', 'without', 'corpus', 'speed', 'own'):
        jobs = settings.plan(experiment, results)
        assert len({job['key'] for job in jobs}) == len(jobs) > 0
        for job in jobs:
            source = running.edit(job['rung'], job['constants'] | {'DEVICE': 'cpu'}, job['patches'])
            constants = re.findall(r'^([A-Z_]+) = (.*)$', source, re.M)
            assert all(repr(value) == dict(constants)[name] for name, value in job['constants'].items() if name in dict(constants))
            if job['key'] in ('steps/v8_mfu/seed 1', 'without/v9_llama/the smaller model/seed 1'):
                with torch.device('meta'):
                    model = imported(source, tmp_path / f'{len(parameters)}.py').GPT(4000)
                parameters[job['rung']] = sum(p.numel() for p in model.parameters())
    assert parameters['v9_llama'] == pytest.approx(parameters['v8_mfu'], rel=0.02)


def test_rates_are_chosen_by_the_validation_songs_and_used():
    results = fake(['rates'])
    for job in results['jobs'].values():
        job['curve'][-1]['test'] = 5.0
    results['jobs'][f'rates/v4_flash_optim/{settings.STEPS} steps/rate 0.004']['curve'][-1]['test'] = 4.0
    jobs = {job['key']: job['constants'] for job in settings.plan('steps', results)}
    assert jobs['steps/v6_wandb/seed 1']['LEARNING_RATE'] == 0.004 and jobs['steps/v6_wandb/seed 1']['MIN_LR'] == 0.0004
    assert jobs['steps/v2_cosine_lr/seed 2']['LEARNING_RATE'] == settings.GRID[0] and 'steps/v6_wandb/seed 2' not in jobs
    [job] = [job for job in settings.plan('rates', results) if job['key'] == 'rates/v1_bpe_rope/300 steps/rate 0.002']
    source = running.edit(job['rung'], job['constants'], job['patches'])
    assert 'songs = songs[:int(0.9 * len(songs))]' in source        # the test songs are not in it


def test_the_grid_goes_on_where_its_end_is_best():
    results, key = fake(['rates']), f'rates/v4_flash_optim/{settings.STEPS} steps/rate '
    for best, peaks in ((0.004, [0.002, 0.004, 0.008]), (0.008, [0.002, 0.004, 0.008, 0.016]), (0.002, [0.001, 0.002, 0.004, 0.008])):
        for peak in settings.GRID:
            results['jobs'][f'{key}{peak}']['curve'][-1]['test'] = 4.0 if peak == best else 5.0
        assert settings.grid(results, 'v4_flash_optim', settings.STEPS) == peaks
    results['jobs'][f'{key}0.001'] = {'curve': [{'test': 4.5}]}     # tried, and worse: that is enough
    assert settings.grid(results, 'v4_flash_optim', settings.STEPS) == [0.001, 0.002, 0.004, 0.008]
    assert settings.grid({'jobs': {}}, 'v10_muon', settings.STEPS) == list(settings.MUON_GRID)


def test_every_rung_that_trains_differently_sings(tmp_path):
    """Each run of `rhymes` ends with songs; the share of rhyming stanzas is also that of the rungs that write the same songs."""
    jobs = settings.plan('rhymes', {'corpus': 'sample', 'jobs': {}})
    assert {job['rung'] for job in jobs} == {*settings.RUNGS[1:], *settings.BRANCH} - settings.SAME_SONGS
    for job in jobs:
        source = running.edit(job['rung'], job['constants'], job['patches'])
        assert source.index("print('song', ") < source.index("if __name__ == '__main__'") and compile(source, job['rung'], 'exec')
    results = {'jobs': {'rhymes/v4_flash_optim/40 songs': {'rhyming': [[3, 4], [0, 1]], 'curve': [{'bits_per_char': 7.0}]}}}
    assert report.rhyming(results, 'v6_wandb') == report.rhyming(results, 'v4_flash_optim') and report.rhyming(results, 'v8_mfu') is None
    share, low, high = report.rhyming(results, 'v4_flash_optim')
    assert share == pytest.approx(0.6) and low < share < high
    assert '| `v4_flash_optim` | 7.000 | 60% [' in report.tables(results)['rhymes']


def test_what_is_left_out_is_told_in_the_currency_of_the_idea():
    results = fake(['rates', 'steps'])
    for n in settings.SEEDS:
        results['jobs'][f'speed/v4_flash_optim/round {n}'] = {'tok_per_s': 1000}
        results['jobs'][f'speed/v4_flash_optim/without flash attention/round {n}'] = {'tok_per_s': 900 + n}
    bits = results['jobs']['steps/v4_flash_optim/seed 1']['curve'][-1]['bits_per_char']
    results['jobs']['without/v4_flash_optim/betas/seed 1'] = {'curve': [{'bits_per_char': bits + 0.25}]}
    found = {idea: change for idea, (_, change) in report.left_out(results, 'v4_flash_optim').items()}
    assert found == {'betas': '+0.250 bits/char', 'flash attention': '−10% tok/s'}
    assert report.left_out(results, 'v9_llama') == {}
    assert '\n| betas | +0.250 bits/char |' in ladder.marked(results)['without-en v4_flash_optim']


def test_a_stale_patch_is_refused():
    with pytest.raises(SystemExit, match='0 times, not once'):
        running.edit('v4_flash_optim', {}, [('no such line', '')])


def test_a_result_counts_for_its_code_corpus_and_packages(tmp_path):
    (tmp_path / 'a.json').write_text('[]', encoding='utf-8')
    source, corpus, packages = '"""doc"""\nA = 1  # comment\n\n\ndef f():\n    """doc"""\n    return "text"\n', [tmp_path / 'a.json'], {'torch': '2.13'}
    mark = running.fingerprint(source, corpus, packages)
    assert running.fingerprint(source.replace('doc', 'other').replace('# comment', '# another'), corpus, packages) == mark
    assert running.fingerprint(source.replace('"text"', '"other"'), corpus, packages) != mark
    assert running.fingerprint(source.replace('A = 1', 'A = 2'), corpus, packages) != mark
    assert running.fingerprint(source, corpus, {'torch': '2.14'}) != mark
    (tmp_path / 'a.json').write_text('[{}]', encoding='utf-8')
    assert running.fingerprint(source, corpus, packages) != mark


@pytest.fixture
def project(tmp_path, lyrics_dir):
    """A copy of the project whose size is tiny, so that an experiment runs in seconds."""
    for path in ROOT.glob('v*.py'):                                 # from v8 on with a small matrix product
        source = path.read_text(encoding='utf-8').replace('8192 if GPU else 2048', '64')
        (tmp_path / path.name).write_text(source, encoding='utf-8')
    shutil.copytree(ROOT / 'bench', tmp_path / 'bench', ignore=shutil.ignore_patterns('results', '__pycache__'))
    shutil.copytree(lyrics_dir, tmp_path / 'ChineseLyrics')
    path = tmp_path / 'bench' / 'settings.py'
    source = path.read_text(encoding='utf-8')
    start = source.index('SHORT = ')
    tiny = TINY | {'TRAIN_ITERS': 4, 'EVAL_INTERVAL': 2, 'MAX_NEW_TOKENS': 1}
    source = f'{source[:start]}CONTROLLED = {tiny}\n{source[start:]}'
    source = re.sub(r'^FAMILIES = .*?\]\]$', "FAMILIES = [['v1_bpe_rope'], ['v10_muon']]", source, flags=re.M | re.S)
    source = re.sub(r'^STEPS, EVERY, SEEDS = .*', 'STEPS, EVERY, SEEDS = 4, 2, (1, 2, 3)', source, flags=re.M)
    path.write_text(re.sub(r'^(GRID|MUON_GRID) = .*?\)', r'\1 = (1e-3, 2e-3)', source, flags=re.M), encoding='utf-8')
    return tmp_path


def bench(project, *arguments):
    return subprocess.run([sys.executable, 'bench/ladder.py', *arguments], cwd=project, env=environment(project),
                          encoding='utf-8', capture_output=True, timeout=280)


def test_the_bench_runs_continues_and_reports(project):
    done = bench(project, '--only', 'rates')
    assert done.returncode == 0 and '4 runs, 0 of them done already' in done.stdout, done.stdout + done.stderr
    [path] = (project / 'bench/results').glob('*.json')
    results = json.loads(path.read_text(encoding='utf-8'))
    assert path.stem == f'{describe()["name"]}-sample' and str(project) not in path.read_text(encoding='utf-8')
    assert {f'rates/{rung}/4 steps/rate {rate}' for rung in ('v10_muon', 'v1_bpe_rope') for rate in (0.001, 0.002)} < results['jobs'].keys()
    for job in results['jobs'].values():
        assert [point['step'] for point in job['curve']] == [0, 2, 4] and 8 < job['curve'][-1]['bits_per_char'] < 20
        assert job['peak_memory'] > 10**8 and job['tok_per_s'] > 0
        assert 0.05e6 < job['parameters'] < 0.3e6
    best = settings.rate(results, 'v1_bpe_rope', 4)                 # two of the grid, and on beyond the better one
    text = path.with_suffix('.md').read_text(encoding='utf-8')
    assert re.search(rf'\| `v1_bpe_rope` \| 4 \| .*0.001: \S+ 0.002: \S+.* \| {best:g} \|', text)

    del results['jobs']['rates/v1_bpe_rope/4 steps/rate 0.001']             # as if it had been stopped there
    path.write_text(json.dumps(results), encoding='utf-8')
    rung = project / 'v10_muon.py'                                  # and a rung that changed since is measured anew
    rung.write_text(rung.read_text(encoding='utf-8') + '\nchanged = True\n', encoding='utf-8')
    done = bench(project, '--only', 'rates')
    jobs, finished = map(int, re.search(r'(\d+) runs, (\d+) of them done already', done.stdout).groups())
    assert finished == 1 and jobs >= 4                              # the other rate of v1


def test_a_rung_that_fails_is_shown_and_the_others_go_on(project):
    rung = project / 'v10_muon.py'
    source = rung.read_text(encoding='utf-8')
    rung.write_text(source.replace('def main():\n', "def main():\n    fail('broken on purpose')\n"), encoding='utf-8')
    done = bench(project, '--only', 'rates')
    assert done.returncode == 1 and 'broken on purpose' in done.stderr and 'Traceback' not in done.stderr
    assert '2 of the runs failed' in done.stderr
    [path] = (project / 'bench/results').glob('*.json')
    jobs = json.loads(path.read_text(encoding='utf-8'))['jobs']
    assert {f'rates/v1_bpe_rope/4 steps/rate {rate}' for rate in (0.001, 0.002)} < jobs.keys() and 'v10_muon' not in str(jobs.keys())


def test_a_stopped_bench_stops_its_rungs(project):
    rung, running = project / 'v1_bpe_rope.py', project / 'running'      # its files: one for each process, two run at once
    running.mkdir()
    source = rung.read_text(encoding='utf-8').replace('TRAIN_ITERS = ', 'TRAIN_ITERS = 10**9  # ')
    says_pid = f"    import os; Path({str(running)!r}, str(os.getpid())).touch(); time.sleep(1000)\n"
    rung.write_text(source.replace('def main():\n', f'def main():\n{says_pid}'), encoding='utf-8')
    process = subprocess.Popen([sys.executable, '-u', 'bench/ladder.py', '--only', 'rates'], cwd=project, env=environment(project),
                               encoding='utf-8', stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and not any(running.iterdir()):
        pass                                                        # a rung runs once it has said so
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and 'stopped; the same command continues' in err and 'Traceback' not in err
    for rung in running.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(rung.name), 0)


def test_tables_and_sentences_are_put_where_they_are_shown(project, monkeypatch):
    """Markdown files between their marks, the docstrings before the diff command; a second time changes nothing more."""
    (project / 'lessons').mkdir()
    (project / 'lessons/v9_llama.en.md').write_text('<!-- bench buys-en v9_llama -->\n\n<!-- /bench -->\n', encoding='utf-8')
    (project / 'README.md').write_text('above\n\n<!-- bench poems song v9_llama -->\n\nold\n\n<!-- /bench -->\n\n| 内存<!-- bench buys-short v9_llama -->'
                                       ' <!-- /bench --> |\n', encoding='utf-8')
    (project / 'bench/results').mkdir()
    results = fake(['rates', 'steps', 'shipped'])
    (project / 'bench/results/here-poems.json').write_text(json.dumps(results), encoding='utf-8')
    monkeypatch.setattr(running, 'ROOT', project)
    monkeypatch.setattr(ladder, 'RESULTS', project / 'bench/results')
    said, english = (sentences.currencies(results, english)['v9_llama'] for english in (False, True))
    for _ in range(2):
        ladder.publish([ladder.write(project / 'bench/results/here-poems.json')])
        assert '## steps' in (project / 'bench/results/here-poems.md').read_text() and (project / 'bench/results/here-poems/waterfall.svg').exists()
        readme, v9, lesson = ((project / name).read_text(encoding='utf-8') for name in ('README.md', 'v9_llama.py', 'lessons/v9_llama.en.md'))
        assert readme == ('above\n\n<!-- bench poems song v9_llama -->\n\n```text\n一行\n```\n\n<!-- /bench -->\n\n| 内存<!-- bench '
                          f'buys-short v9_llama -->：{said}（poems）<!-- /bench --> |\n')
        assert f'\n\n{english} (' in lesson and lesson.count('<!--') == 2
        [line] = re.findall(r'\n\n(测得（.*?)\n\n看差异：', v9, re.S)
        assert said in line.replace('\n', '') and v9.replace(f'{line}\n\n', '') != v9
        assert running.fingerprint(v9, [], {}) == running.fingerprint(v9.replace(f'{line}\n\n', ''), [], {})
    marks = ladder.marked(results)
    assert marks['poems log v0_char_english'].startswith('```text\nstep 1\n\n一行\n```\n\nbits/char 0: ')
    assert marks['poems log-en v6_wandb'].startswith('```text\nstep 1\n```\n\nIts song is that of `v0_char_english`.\n\nbits/char 0: ')
    assert marks['poems song v6_wandb'] == '```text\n一行\n```'


@pytest.mark.parametrize('arguments', [['--lyrics', 'ChineseLyrics'], ['--lyrics', 'ChineseLyrics', '--corpus', 'mine']])
def test_a_corpus_has_lyrics_and_a_name(arguments, project):
    done = bench(project, *arguments)
    assert done.returncode == 2 and 'must hold lyrics*.json' in done.stderr


def test_differences_are_taken_seed_by_seed():
    def job(bits):
        return {'curve': [{'bits_per_char': bits}]}
    found = report.changes({'seed 1': job(7.0), 'seed 2': job(8.0), 'seed 3': job(1.0)}, {'seed 1': job(7.1), 'seed 2': job(8.1)})
    assert found == pytest.approx([-0.1, -0.1]) and report.signed(found) == '−0.100 ± 0.000'
    assert report.signed([]) == '—' and report.signed([0.25]) == '+0.250'


def test_a_rung_is_compared_with_the_last_that_changes_the_training():
    assert report.below('v9_llama') == 'v4_flash_optim' and report.below('v0_char_chinese') is None


def test_sentences_and_plots_appear_as_their_experiments_are_run():
    """The report can be written after any of the experiments; after all of them each rung has its sentence."""
    done = []
    for experiment in ('rates', 'steps', 'characters', 'without', 'corpus', 'speed', 'own', 'shipped'):
        done.append(experiment)
        found, drawn = report.tables(fake(done)), plots.figures(fake(done))
    said, english = (sentences.currencies(fake(done), english) for english in (False, True))
    assert list(said) == list(english) and not re.search('[\u4e00-\u9fff]', ''.join(english.values()))
    assert list(said) == settings.RUNGS
    assert '5.00 升到 6.00、7.50' in said['v0_char_rope'] and '丢了 205 秒' in said['v5_checkpoint'] and '存一次 0.20' in said['v5_checkpoint']
    assert '300 步 −1.000，' in said['v2_cosine_lr'] and '4.0 MB' in said['v12_ddp'] and '只训练 300 步（614 秒）到 8.020，v6 训练 1200 步（2458 秒）才到 12.002' in said['v10_muon']
    assert set(found) == {'shipped', 'steps', 'rates', 'without', 'corpus'}
    assert set(drawn) == {'waterfall', 'budgets', 'v1-corpus', 'v7-memory', 'v11-memory', 'v12-speed', 'v0_char_rope', 'v1_bpe_rope',
                          'v2_cosine_lr', 'v3_gpt2_amp', 'v4_flash_optim', 'v9_llama', 'v10_muon', 'v0_char_english', 'v0_char_chinese', 'v6_wandb'}


@pytest.mark.parametrize(('rung', 'patches', 'lines'), [('v0_char_rope', settings.LONGER, 3), ('v5_checkpoint', settings.SAVING, 2),
                                                       ('v5_checkpoint', KILLED, 1)])
def test_what_a_rung_does_not_print_by_itself(rung, patches, lines, lyrics_dir, tmp_path):
    constants = TINY | {'TRAIN_ITERS': 4, 'EVAL_INTERVAL': 2, 'MAX_NEW_TOKENS': 1}
    job = {'rung': rung, 'constants': constants, 'patches': patches, 'alone': True, 'processes': 0, 'files': None}
    data = running.link([lyrics_dir / 'sample.json'], tmp_path / 'data')
    result = running.run(running.edit(rung, constants, patches), job, [lyrics_dir / 'sample.json'], data)
    assert len(result['extra']) == lines and result['curve'][-1]['step'] == 4
    assert len(result['log']) in (1, 3) and 'bits/char' in result['log'][-1] and 'step' not in result['song']


def test_steps_to_a_loss():
    curve = [{'step': step, 'bits_per_char': bits} for step, bits in [(0, 12.0), (50, 8.0), (100, 7.0), (150, 6.0)]]
    assert field.reached({'curve': curve}, 7.0) == 100


def contrast(a, b):
    """WCAG 2: the ratio of the luminances of two colours, '#rrggbb'."""
    def luminance(colour):
        channels = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_plots_can_be_read_on_light_and_dark_pages():
    assert all(contrast(colour, page) >= 3 for colour in plots.COLOURS for page in ('#ffffff', '#15181c'))
    svg = plots.lines({'below': ([1, 2], [8.0, 7.0]), 'above': ([1, 2], [8.0, 7.01])}, 'steps', 'bits/char')
    assert 'prefers-color-scheme: dark' in svg and '#000000' not in svg
    below, above = (float(re.search(rf'<text [^>]*y="([\d.]+)"[^>]*>{label}<', svg)[1]) for label in ('below', 'above'))
    assert below - above > 12                                       # the labels do not overlap
    assert plots.waterfall({'v1': [-0.1, -0.2], 'v5': []}).count('same training') == 1


def test_committed_results_are_shown_as_they_are():
    shown, found = [], []
    for path in [*ROOT.glob('README*.md'), *ROOT.glob('lessons/*.md'), *ROOT.glob('site/pages/*.md')]:
        shown += re.findall(r'<!-- bench (.+?) -->(.*?)<!-- /bench -->', path.read_text(encoding='utf-8'), re.S)
    for path in sorted((ROOT / 'bench/results').glob('*.json')):
        results = json.loads(path.read_text(encoding='utf-8'))
        for key, job in results['jobs'].items():
            running.edit(key.split('/')[1], job['constants'], job['patches'])
        text = path.with_suffix('.md').read_text(encoding='utf-8')
        assert all(markdown in text for markdown in report.tables(results, english=True).values())
        found.append(results)
    marks = ladder.everything(found)
    assert len(shown) > 50 and all(text.strip() == marks.get(name, '').strip() for name, text in shown)


def test_the_scaling_law_is_found_and_counts_the_parameters():
    truth = [2.0, np.log(300), 0.35, np.log(4000), 0.5]
    runs = np.array([(n, d, scaling.predict(truth, n, d)) for n in (3e5, 6e5, 1.3e6, 2.8e6) for d in (8e5, 1.6e6, 3.2e6)])
    fit = scaling.fitted(runs)
    assert fit == pytest.approx(truth, rel=1e-3) and scaling.predict(fit, 6e6, 6e6) < runs[:, 2].min()
    for width, layers in [*scaling.SIZES, scaling.LARGE[:2]]:
        constants = scaling.job(width, layers, 400, {})['constants']
        module = {'__name__': 'v10', '__file__': 'v10_muon.py'}
        exec(compile(running.edit('v10_muon', constants), 'v10_muon.py', 'exec'), module)
        with torch.device('meta'):
            parameters = sum(p.numel() for p in module['GPT'](4000).parameters())
        assert scaling.size(constants) == (parameters, 400 * 2048)
    jobs = {f'{n}': {'constants': scaling.job(*size, 400, {})['constants'], 'curve': [{'test': 5.0}]} for n, size in enumerate(scaling.SIZES)}
    results = {'machine': describe(), 'corpus': 'poems', 'large': '3', 'fit': truth, 'prediction': 5.25, 'jobs': jobs}
    said = scaling.marked(results)
    assert 'Measured: 5.0000; the prediction misses by +0.2500.' in said['scaling-en'] and '实测 5.0000，预测差 +0.2500。' in said['scaling']
    assert said['scaling-en'].count(' M | 0.82 M | 5.0000 |') == 3        # the large one is not fitted


def test_nanogpt_is_measured_on_the_tokens_of_v6(tmp_path, lyrics_dir, monkeypatch):
    """A stand-in for a checkout, whose model knows nothing: every token costs ln of the vocabulary."""
    monkeypatch.setattr(settings, 'CONTROLLED', settings.CONTROLLED | TINY)
    monkeypatch.setattr(sys, 'path', [*sys.path])
    nano = tmp_path / 'nano'
    (nano / 'data').mkdir(parents=True)
    (nano / 'out-ladder').mkdir()
    (nano / 'model.py').write_text("""import math, torch
class GPTConfig:
    def __init__(self, vocab_size): self.vocab_size = vocab_size
class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
    def forward(self, x, y): return None, torch.tensor(math.log(self.config.vocab_size))
""", encoding='utf-8')
    (nano / 'train.py').write_text("""import pickle, sys, torch
torch.manual_seed(1337)
assert '--n_embd=32' in sys.argv and '--learning_rate=0.002' in sys.argv and torch.initial_seed() == 2
size = pickle.load(open('data/ladder/meta.pkl', 'rb'))['vocab_size']
torch.save({'model_args': {'vocab_size': size}, 'model': {}}, 'out-ladder/ckpt.pt')
print(*[f'iter {i}: loss 8.0, time {500 if i == 20 else 8:.2f}ms, mfu 1%' for i in range(40)], sep='\\n')
""", encoding='utf-8')
    data = running.link([lyrics_dir / 'sample.json'], tmp_path / 'data')
    found = field.nanogpt(nano, data, 2e-3, 2, [])
    test, characters = field.prepare(nano, data, 2, [])
    tokens = np.fromfile(nano / 'data/ladder/val.bin', dtype=np.uint16)
    assert found['tok_per_s'] == 4 * 32 / 0.008 and (tokens == test.numpy()).all()
    assert found['bits_per_char'] == pytest.approx(np.log2(3000) * len(test) / characters, rel=1e-4)


def test_a_quarter_run_has_a_quarter_of_the_steps_and_of_the_warm_up(monkeypatch):
    seen = []
    monkeypatch.setattr(running, 'run', lambda source, job, corpus, data: seen.append(job['constants']) or {
        'tok_per_s': 1, 'curve': [{'bits_per_char': 1.0}]})
    for part in (1, 4):
        field.ours('v10_muon', ROOT, 4e-2, 1, [], part)
    assert [(one['TRAIN_ITERS'], one['WARMUP_ITERS']) for one in seen] == [(600, 200), (150, 50)]


def test_the_field_goes_on_where_it_stopped(tmp_path, monkeypatch):
    runs = []

    def ours(rung, data, rate, seed, patches, part=1):
        if len(runs) == 12:
            raise KeyboardInterrupt
        runs.append((rung, rate, seed, part, bool(patches)))       # patched: on validation songs
        return {'tok_per_s': 1, 'bits_per_char': rate, 'curve': []}
    monkeypatch.setattr(field, 'nanogpt', ours)
    monkeypatch.setattr(field, 'ours', ours)
    monkeypatch.setattr(field, 'RESULTS', tmp_path)
    monkeypatch.setattr(sys, 'argv', ['field.py', '--nanogpt', 'nano'])
    with pytest.raises(KeyboardInterrupt):
        field.main()
    runs.append('stopped')
    field.main()
    runs.remove('stopped')
    assert len(runs) == len(set(runs)) == 9 + 12                    # three rates of three models; four runs of three seeds
    assert ('v10_muon', 0.02, 3, 4, False) in runs                         # at the best rate, here the lowest


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
    cached = [1] * 12                                               # of each model: warm-up, without the cache, with it
    assert lengths == 2 * ([1] * 20 + [1, 2, 3, 4, 5, 6] + cached) + [1] * 20 + cached
    [path] = (tmp_path / 'bench/results/generate').iterdir()
    table = capsys.readouterr().out
    for row in json.loads(path.read_text(encoding='utf-8'))['rows']:
        assert f'| {row["model"]} | {row["songs"]} | {row["cache"]} | {row["mib"]:.0f} | {row["tok_per_s"]:.1f} |' in table


def test_what_the_other_benches_say_comes_from_their_results():
    curve = [{'step': step, 'bits_per_char': 9 - step / 100} for step in (0, 100, 200)]
    rounds = [{name: {'bits_per_char': 8.0, 'tok_per_s': 12345, 'curve': curve} for name in (*field.MODELS, field.QUARTER)}] * 3
    found = field.marked({'machine': describe(), 'corpus': 'poems', 'steps': 600, 'rounds': rounds, 'rates': {
        'nanoGPT': {'0.002': 8.5, '0.004': 8.0}, 'v6_wandb': {'0.002': 8.0}, 'v10_muon': {'0.02': 8.0}}})
    assert '| nanoGPT | 0.004 | 8.000, 8.000, 8.000 | 12,345, 12,345, 12,345 |' in found['field-en']
    assert '| v10_muon, 150 steps | 0.02 | 8.000' in found['field-en']
    assert 'after 100, 100, 100 steps' in found['field-en'] and '训练 600 步' in found['field'] and '核，poems）' in found['field']
