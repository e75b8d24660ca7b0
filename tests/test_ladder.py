"""The ladder itself: the diff between two rungs is the product, so it must hold one idea and no noise."""
import ast
import functools
import re
import subprocess
import sys
import unicodedata

import pytest
from conftest import CHECKPOINT, CHINESE, ROOT, RUNGS, SONGWRITER, level

SCRIPTS = [*RUNGS, *SONGWRITER]
SOURCES = {name: (ROOT / f'{name}.py').read_text(encoding='utf-8') for name in SCRIPTS}
STEPS = [*zip(RUNGS, RUNGS[1:]), *((below, name) for name, below in SONGWRITER.items())]
SECTIONS = ['超参数', '数据', '模型', '训练']
BUDGETS = {'v0_char_english': 190, 'v6_wandb': 450, 'v10_muon': 550, 'v12_ddp': 660}     # code lines in all


@functools.cache
def definitions(source, inside=None):
    """name -> source text of the functions and classes, and of the methods as Class.method."""
    found = {}
    for node in (inside or ast.parse(source)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found[node.name] = '\n'.join(source.splitlines()[start - 1:node.end_lineno])
            if isinstance(node, ast.ClassDef):
                found |= {f'{node.name}.{name}': text for name, text in definitions(source, node).items()}
    return found


def variables(source):
    """name -> the line that sets it at the top level, comment included: a comment that changes alone is noise too."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign):
            lines = '\n'.join(source.splitlines()[node.lineno - 1:node.end_lineno])
            found |= {name.id: lines for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return found


def announced(source):
    """The part of the docstring that lists what this rung changes."""
    doc = ast.get_docstring(ast.parse(source))
    return re.search(r'^相对 .*?的改动.*?\n(.*?)\n\n', doc, re.M | re.S)[1]


def meaning(text):
    """The code without its layout and comments."""
    return ast.dump(ast.parse(re.sub(r'^    ', '', text, flags=re.M) if text.startswith(' ') else text))


def test_every_rung_is_tested():
    assert {path.stem for path in ROOT.glob('[vs][0-9]*.py')} == set(SCRIPTS)


@pytest.mark.parametrize(('below', 'above'), STEPS)
def test_what_a_step_does_not_change_is_identical_and_in_the_same_place(below, above):
    old, new = definitions(SOURCES[below]), definitions(SOURCES[above])
    for name in old.keys() & new.keys():
        if meaning(old[name]) == meaning(new[name]):
            assert old[name] == new[name], f'{name}: only comments or layout differ'

    def orders(source):
        imports = [ast.unparse(node) for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
        return imports, list(variables(source)), list(definitions(source))
    for a, b in zip(orders(SOURCES[below]), orders(SOURCES[above])):
        assert [name for name in a if name in b] == [name for name in b if name in a]


@pytest.mark.parametrize(('below', 'above'), STEPS)
def test_docstring_announces_exactly_what_the_step_changes(below, above):
    old, new = ({name: text for name, text in (definitions(s) | variables(s)).items() if '.' not in name and name != 'main'}
                for s in (SOURCES[below], SOURCES[above]))
    changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    named = set(re.findall(r'`(\w+)`', announced(SOURCES[above])))
    assert changed - named == set(), 'changed, but not announced'
    assert {name for name in named if name in old or name in new} - changed == set(), 'announced, but unchanged'
    assert named - changed - set(re.findall(r'\w+', SOURCES[above])) == set(), 'announced, but not in the script'
    doc = ast.get_docstring(ast.parse(SOURCES[above]))
    assert f'git diff --no-index {below}.py {above}.py' in doc and f'相对 {below}.py 的改动' in doc


@pytest.mark.parametrize('name', SCRIPTS)
def test_one_skeleton(name):
    """The same sections in the same order; main last; DEVICE and GPU first; what is at the top is set nowhere else."""
    source = SOURCES[name]
    tree = ast.parse(source)
    assert re.findall(r'^# -+ (\w+)', source, re.M) == SECTIONS
    assert isinstance(tree.body[-1], ast.If) and ast.unparse(tree.body[-1].test) == "__name__ == '__main__'"
    assert isinstance(tree.body[-2], ast.FunctionDef) and tree.body[-2].name == 'main'
    assert list(variables(source))[:2] == ['DEVICE', 'GPU']
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)] and 'sys.argv' not in source
    allowed = {'torch', 'sentencepiece', 'wandb', 'numpy', 'pypinyin'} | sys.stdlib_module_names - {'argparse'}     # no other rung, no options
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert {module.split('.')[0] for module in names} <= allowed


@pytest.mark.parametrize('name', SCRIPTS)
def test_every_constant_has_a_comment_and_lines_are_short_and_few(name):
    """At most 120 columns, where a Chinese character takes two; one statement a line; the script within its budget."""
    source = SOURCES[name]
    lines = source.split('# ---------- 超参数')[1].split('\ndef fail')[0].splitlines()[1:]
    for line in filter(None, lines):
        documented = ' # ' in line or line.startswith('BIG = ') and lines[lines.index(line) - 1].startswith('# ')
        in_table = re.fullmatch(r"    '[\w-]+': \(\d+, \d+, \d+\),|}", line)
        assert documented or in_table or line.startswith(('#', 'DEVICE = ', 'GPU = ', 'AMP_DTYPE = ', 'data_files = ')), line

    assert not [line for line in source.splitlines() if sum(1 + (unicodedata.east_asian_width(c) in 'WF') for c in line) > 120]
    tree = ast.parse(source)
    statements = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    assert len(statements) == len(set(statements))
    documented = {line for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                  and ast.get_docstring(node) for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)}
    code = [line for i, line in enumerate(source.splitlines(), 1) if i not in documented and re.match(r'\s*[^\s#]', line)]
    assert len(code) <= BUDGETS.get(name, 10**9)


def test_importing_prints_opens_and_writes_nothing(tmp_path):
    """On a CPU, and where there seems to be a GPU: then BIG looks at the sizes of the files, and at nothing else.

    All but s3_finetune.py, whose songs are others.
    """
    for file, size in (('input.txt', 2e6), ('ChineseLyrics/lyrics1.json', 11e6), ('ChineseLyrics/.hidden/lyrics.json', 11e6)):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        with open(tmp_path / file, 'wb') as stream:
            stream.truncate(int(size))
    code = f'''if True:
        import importlib, sys
        import pypinyin, sentencepiece, sqlite3, torch, torch._dynamo, torch.distributed, torch.utils.data, wandb
        seen = []
        sys.addaudithook(lambda event, args: seen.append(str(args[0])) if event == 'open' else None)
        sys.path.insert(0, {str(ROOT)!r})
        state = torch.get_rng_state()
        for big in (False, True):
            for name in {SCRIPTS[:-1]!r}:
                sys.modules.pop(name, None)
                rung = importlib.import_module(name)
                assert torch.equal(state, torch.get_rng_state()), name
                assert rung.BIG is big and (rung.N_EMBED >= 384) is big, name
                bad = [file for file in seen if not file.endswith(('.py', '.pyc')) and '.pyc.' not in file]
                assert not bad, (name, bad)
            torch.cuda.is_available = lambda: True
            torch.cuda.is_bf16_supported = lambda including_emulation=True: True
        assert any(file.endswith(SCRIPTS[-2] + '.py') for file in seen)    # the hook does see what is opened
    '''.replace('SCRIPTS[-2]', repr(SCRIPTS[-2]))
    files = sorted(tmp_path.rglob('*'))
    done = subprocess.run([sys.executable, '-B', '-c', code], cwd=tmp_path, text=True, capture_output=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
    assert sorted(tmp_path.rglob('*')) == files


@pytest.mark.parametrize('name', [name for name in CHINESE if level(name) < 11])      # test_memmap.py
def test_lyrics_are_searched_for_as_big_counts_them(name):
    """What makes the values big is what is then read."""
    assert SOURCES[name].count("glob.glob(f'{LYRICS_DIR}/**/lyrics*.json', recursive=True)") == 2


def test_from_v7_on_each_rung_has_its_own_checkpoints():
    """v6 goes on with what v5 began; later models are not those of the rung below."""
    folders = [re.search(r"^CHECKPOINT_DIR = '(.*?)'", SOURCES[name], re.M)[1] for name in CHECKPOINT]
    assert folders == ['checkpoints' if level(name) < 7 else f'checkpoints/{name}' for name in CHECKPOINT]
