"""README.md, the lessons, the pages: links lead somewhere, and what they say about the scripts is what the scripts are."""
import re
import subprocess

import pytest
from conftest import ROOT, RUNGS, SONGWRITER, run_script

FILES = [ROOT / 'README.md', ROOT / 'README.en.md', *sorted(ROOT.glob('lessons/*.md')), *sorted(ROOT.glob('site/pages/*.md'))]
SCRIPTS = [*RUNGS, *SONGWRITER]


def read(path):
    return path.read_text(encoding='utf-8')


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r'[^\w\- ]', '', heading.strip().lower()).replace(' ', '-')


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    text = read(path)
    anchors = {slug(heading) for heading in re.findall(r'^#+ (.*)$', text, re.M)}
    for link in re.findall(r'\]\(([^)]+)\)', text):
        if not link.startswith('http'):
            assert link[1:] in anchors if link.startswith('#') else (path.parent / link).exists(), link


def test_the_readme_is_short_and_names_every_script():
    for name, suffix in (('README.md', ''), ('README.en.md', '.en')):
        text = read(ROOT / name)
        assert len(text.encode()) <= 12_000
        first = '\n'.join(text.splitlines()[:12])
        assert 'pip install -r requirements.txt && python v6_wandb.py' in first and 'pip install -r requirements-dev.txt && pytest' in first
        assert re.findall(r'^\| \[`(\w+)\.py`\]', text, re.M) == SCRIPTS
        assert all(f'(lessons/{script}{suffix}.md)' in text for script in SCRIPTS)


@pytest.mark.parametrize('name', SCRIPTS)
def test_every_lesson_has_its_parts_in_both_languages(name):
    parts = {'': ['运行', '它带来了什么', '试一试', '想多知道一点', '参考'],
             '.en': ['Run it', 'What it buys', 'Try it', 'Going further', 'References']}
    figures = []
    for suffix, (*headings, further, last) in parts.items():
        text = read(ROOT / 'lessons' / f'{name}{suffix}.md')
        assert text.startswith(f'# `{name}.py`') and re.findall('^## (.*)$', text, re.M) == [*headings, last]
        assert f'python {name}.py' in text and text.count('<details>') >= 2
        assert f'<!-- bench {"buys" if name in RUNGS else "songwriter"}{suffix.replace(".", "-")} {name} -->' in text
        # folded; a block of HTML, in which Markdown would stay as it is
        assert re.search(rf'\n\n<details><summary>{further}</summary><p>[^`]{{50,}}</p></details>\n\n## {last}\n', text)
        figures.append((text.count('<details>'), text.count('<!-- bench'), text.count('\n    '), text.count('\n|')))
    assert figures[0] == figures[1]


def test_every_constant_is_explained():
    for suffix in ('', '.en'):
        table = read(ROOT / 'site' / 'pages' / f'constants{suffix}.md')
        named = set(re.findall(r'`([A-Z_]+)`', '\n'.join(re.findall(r'^\| (`.*?) \|', table, re.M))))
        header = [read(ROOT / f'{name}.py').split('# ---------- 超参数')[1].split('\ndef fail')[0] for name in SCRIPTS]
        lines = re.findall(r'^([A-Z][A-Z_, ]+) = ', '\n'.join(header), re.M)
        assert {name for line in lines for name in line.split(', ')} - {'GPU'} == named


def test_the_patch_for_tensorboard_fits_and_writes_curves(rung, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    path = rung('v6_wandb')
    for suffix in ('', '.en'):
        patch = re.search(r'```diff\n(.*?)```', read(ROOT / 'lessons' / f'v6_wandb{suffix}.md'), re.S)[1]
        (tmp_path / 'tensorboard.diff').write_text(patch, encoding='utf-8')
        subprocess.run(['git', 'apply', *(['--check', '-R'] if suffix else []), 'tensorboard.diff'], cwd=tmp_path, check=True)
    done = run_script(path)
    assert done.returncode == 0, done.stderr
    curves = EventAccumulator(str(tmp_path / 'checkpoints/tensorboard')).Reload()
    assert [event.step for event in curves.Scalars('test/loss')] == [0, 10, 20]
    assert [event.step for event in curves.Scalars('train/loss')] == [0, 10]
