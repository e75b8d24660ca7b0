"""README.md: its links lead somewhere, and what it says about the scripts is what the scripts are."""
import difflib
import re
import subprocess

import pytest
from conftest import ROOT, RUNGS, run_script

README = (ROOT / 'README.md').read_text(encoding='utf-8')
ENGLISH = (ROOT / 'README.en.md').read_text(encoding='utf-8')


def source(name):
    return (ROOT / f'{name}.py').read_text(encoding='utf-8')


def without_docstring(name):
    return re.sub(r'\A""".*?"""\n', '', source(name), flags=re.S).splitlines()


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r'[^\w\- ]', '', heading.strip().lower()).replace(' ', '-')


@pytest.mark.parametrize('text', [README, ENGLISH], ids=['zh', 'en'])
def test_links_lead_somewhere(text):
    anchors = {slug(heading) for heading in re.findall(r'^#+ (.*)$', text, re.M)}
    links = [link for link in re.findall(r'\]\(([^)]+)\)', text) if not link.startswith('http')]
    assert links
    for link in links:
        assert link[1:] in anchors if link.startswith('#') else (ROOT / link).exists(), link


def test_every_rung_has_a_section_with_something_to_try():
    sections = re.split(r'^### (v\d\w+)\.py$', README, flags=re.M)
    bodies = dict(zip(sections[1::2], sections[2::2], strict=True))
    assert list(bodies) == RUNGS
    for name, body in bodies.items():
        assert body.split('\n## ')[0].count('<details><summary>答案</summary>') >= 1, name


@pytest.mark.parametrize(('below', 'above'), list(zip(RUNGS, RUNGS[1:], strict=False)))
def test_the_table_counts_the_changed_lines(below, above):
    lines = difflib.unified_diff(without_docstring(below), without_docstring(above), n=0, lineterm='')
    diff = [line for line in lines if not line.startswith(('---', '+++', '@@'))]
    added = sum(line.startswith('+') for line in diff)
    row = next(line for line in README.splitlines() if line.startswith(f'| [`{above}.py`]'))
    assert f'| +{added} −{len(diff) - added} |' in row


def test_every_constant_is_explained():
    table = README.split('\n## 常量')[1].split('\n## ')[0]
    named = set(re.findall(r'`([A-Z_]+)`', '\n'.join(re.findall(r'^\| (`.*?) \|', table, re.M))))
    lines = re.findall(r'^([A-Z][A-Z_, ]+) = ', '\n'.join(map(source, RUNGS)), re.M)
    assert {name for line in lines for name in line.split(', ')} - {'GPU'} == named


def test_the_patch_for_tensorboard_fits_and_writes_curves(rung, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    path = rung('v6_wandb')
    (tmp_path / 'tensorboard.diff').write_text(re.search(r'```diff\n(.*?)```', README, re.S)[1], encoding='utf-8')
    subprocess.run(['git', 'apply', 'tensorboard.diff'], cwd=tmp_path, check=True)
    done = run_script(path)
    assert done.returncode == 0, done.stderr
    curves = EventAccumulator(str(tmp_path / 'checkpoints/tensorboard')).Reload()
    assert [event.step for event in curves.Scalars('test/loss')] == [0, 10, 20]
    assert [event.step for event in curves.Scalars('train/loss')] == [0, 10]
