"""The ladder itself: the diff between two rungs is the product, so it must hold one idea and no noise."""
import ast
import re
import subprocess
import sys

import pytest
from conftest import ROOT, RUNGS

SOURCES = {name: (ROOT / f'{name}.py').read_text(encoding='utf-8') for name in RUNGS}
STEPS = list(zip(RUNGS, RUNGS[1:], strict=False))
SECTIONS = ['超参数', '数据', '模型', '训练']


def definitions(source):
    return {node.name: ast.get_source_segment(source, node) for node in ast.parse(source).body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def constants(source):
    """name -> the right-hand side, comment included: a comment that changes alone is noise too."""
    return dict(re.findall(r'^([A-Z][A-Z_]+) = (.*)$', source, re.M))


def announced(source):
    """The part of the docstring that lists what this rung changes."""
    doc = ast.get_docstring(ast.parse(source))
    return re.search(r'^相对 .*?的改动.*?\n(.*?)\n\n', doc + '\n\n', re.M | re.S).group(1)


def test_every_rung_is_tested():
    assert {path.stem for path in ROOT.glob('v[0-9]*.py')} == set(RUNGS)


@pytest.mark.parametrize(('below', 'above'), STEPS)
def test_unchanged_definitions_are_identical_and_in_the_same_order(below, above):
    old, new = definitions(SOURCES[below]), definitions(SOURCES[above])
    assert [name for name in old if name in new] == [name for name in new if name in old]
    for name in old.keys() & new.keys():
        if ast.dump(ast.parse(old[name])) == ast.dump(ast.parse(new[name])):
            assert old[name] == new[name], f'{name}: only comments or layout differ'


@pytest.mark.parametrize(('below', 'above'), STEPS)
def test_docstring_announces_exactly_what_the_step_changes(below, above):
    old, new = SOURCES[below], SOURCES[above]
    old_names, new_names = definitions(old) | constants(old), definitions(new) | constants(new)
    changed = {name for name in old_names.keys() | new_names.keys() if old_names.get(name) != new_names.get(name)}
    changed -= {'main'}                                             # what main does is said in words
    named = set(re.findall(r'`(\w+)`', announced(new)))
    assert changed - named == set(), 'changed, but not announced'
    assert named - changed - set(re.findall(r'\w+', new)) == set(), 'announced, but not in the script'
    assert {name for name in named if name in new_names} <= changed, 'announced, but unchanged'


@pytest.mark.parametrize(('below', 'above'), STEPS)
def test_docstring_gives_the_diff_command(below, above):
    assert f'git diff --no-index {below}.py {above}.py' in ast.get_docstring(ast.parse(SOURCES[above]))
    assert f'相对 {below}.py 的改动' in ast.get_docstring(ast.parse(SOURCES[above]))


@pytest.mark.parametrize('name', RUNGS)
def test_sections_stand_in_the_same_order(name):
    assert re.findall(r'^# -+ (\w+)', SOURCES[name], re.M) == SECTIONS
    body = [type(node).__name__ for node in ast.parse(SOURCES[name]).body]
    assert body[-1] == 'If' and list(definitions(SOURCES[name]))[-1] == 'main'
    assert re.findall(r'^([A-Z]+) = ', SOURCES[name], re.M)[:2] == ['DEVICE', 'GPU']


@pytest.mark.parametrize('name', RUNGS)
def test_no_rung_imports_another_or_takes_options(name):
    allowed = {'torch', 'sentencepiece', 'wandb', 'numpy'} | sys.stdlib_module_names
    for node in ast.walk(ast.parse(SOURCES[name])):
        if isinstance(node, ast.Import):
            assert {alias.name.split('.')[0] for alias in node.names} <= allowed - {'argparse'}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module.split('.')[0] in allowed
    assert 'sys.argv' not in SOURCES[name]


def test_importing_prints_and_reads_nothing(tmp_path):
    """All rungs, one after another in one process, after the packages that they use."""
    code = f'''if True:
        import importlib, sys
        import sentencepiece, sqlite3, torch, torch.distributed, torch.utils.checkpoint, torch.utils.data, wandb
        seen = []
        sys.addaudithook(lambda event, args: seen.append(str(args[0])) if event == 'open' else None)
        sys.path.insert(0, {str(ROOT)!r})
        before = torch.get_rng_state()
        for name in {RUNGS!r}:
            importlib.import_module(name)
            assert torch.equal(before, torch.get_rng_state()), name
            bad = [f for f in seen if f.startswith({str(ROOT)!r}) and not f.endswith(('.py', '.pyc')) and '__pycache__' not in f]
            assert not bad, (name, bad)
            bad = [f for f in seen if f.endswith(('.json', '.txt', '.pt', '.model'))]
            assert not bad, (name, bad)
        assert any(f.endswith('v10_ddp.py') for f in seen)          # the hook does see what is opened
    '''
    done = subprocess.run([sys.executable, '-B', '-c', code], cwd=tmp_path, text=True, capture_output=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name', RUNGS)
def test_constants_have_one_line_and_a_comment(name):
    block = SOURCES[name].split('# ---------- 超参数')[1].split('def fail')[0]
    lines = [line for line in block.splitlines()[1:] if re.match(r'[A-Z_]+ = ', line)]
    assert len(lines) >= 16
    for line in lines:
        if not line.startswith(('DEVICE', 'GPU', 'AMP_DTYPE')):
            assert re.fullmatch(r'[A-Z_0-9]+ = [^#]+# .+', line), line
