"""README.md: its links lead somewhere, and what it says about the scripts is what the scripts are."""
import difflib
import re

import pytest
from conftest import ROOT, RUNGS
from test_ladder import SOURCES, constants

README = (ROOT / 'README.md').read_text(encoding='utf-8')
ENGLISH = (ROOT / 'README.en.md').read_text(encoding='utf-8')


def without_docstring(name):
    return re.sub(r'\A""".*?"""\n', '', SOURCES[name], flags=re.S).splitlines()


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


def test_every_rung_has_a_section_with_a_log_a_sample_and_two_tries():
    sections = re.split(r'^### (v\d\w+)\.py$', README, flags=re.M)
    bodies = dict(zip(sections[1::2], sections[2::2], strict=True))
    assert list(bodies) == RUNGS
    for name, body in bodies.items():
        assert re.search(r'^step +\d+/\d+ \|', body, re.M) and '写的 ---' in body, name
        assert body.split('\n## ')[0].count('<details><summary>答案</summary>') >= 2, name


@pytest.mark.parametrize(('below', 'above'), list(zip(RUNGS, RUNGS[1:], strict=False)))
def test_the_table_counts_the_changed_lines(below, above):
    diff = [line for line in difflib.unified_diff(without_docstring(below), without_docstring(above), n=0, lineterm='')
            if not line.startswith(('---', '+++', '@@'))]
    added = sum(line.startswith('+') for line in diff)
    row = next(line for line in README.splitlines() if line.startswith(f'| [`{above}.py`]'))
    assert f'| +{added} −{len(diff) - added} |' in row


def test_every_constant_is_explained():
    table = README.split('\n## 常量')[1].split('\n## ')[0]
    named = set(re.findall(r'`([A-Z_]+)`', '\n'.join(line.split('|')[1] for line in table.splitlines() if line.startswith('| `'))))
    assert set().union(*(constants(source) for source in SOURCES.values())) - {'GPU'} <= named
