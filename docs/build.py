"""The reading room: a static page for every step of the ladder, from the scripts, bench/results/ and docs/notes.py.

    pip install -r requirements-dev.txt
    python docs/build.py                                    # writes docs/*.html
    python docs/build.py OUT/                               # writes them somewhere else

The pages are committed and need no server: any static host serves them, and they open from disk. A test checks that
they are what this script makes now.
"""
import ast
import difflib
import html
import itertools
import json
import re
import sys
from collections import Counter
from pathlib import Path

from notes import IDEAS, NOTES
from pygments import token as T
from pygments.lexers import PythonLexer

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT / 'bench'))
import report  # noqa: E402
from settings import RUNGS  # noqa: E402

CONTEXT = 3                                                         # unchanged lines shown around a change
# the first that fits; what is not here has the colour of plain text
CLASSES = [(T.Comment, 'c'), (T.String, 's'), (T.Keyword, 'k'), (T.Operator.Word, 'k'), (T.Name.Function, 'f'),
           (T.Name.Class, 'f'), (T.Name.Decorator, 'f'), (T.Name.Builtin, 'b'), (T.Number, 'm')]


# ---------- text ----------
def both(chinese: str, english: str, tag: str = 'span') -> str:
    """One text in both languages; the page shows one of them."""
    return f'<{tag} lang="zh-CN">{chinese}</{tag}><{tag} lang="en">{english}</{tag}>'


def prose(text: str) -> str:
    """`code` and plain text to HTML."""
    return re.sub('`([^`]+)`', r'<code>\1</code>', html.escape(text, quote=False))


def lines_of(source: str) -> list[list[tuple[str, str]]]:
    """The lines of a script, each a list of (class, text) by Pygments."""
    lines = [[]]
    for kind, text in PythonLexer(stripnl=False, ensurenl=False).get_tokens(source):
        name = next((name for family, name in CLASSES if kind in family), '')
        for number, part in enumerate(text.split('\n')):
            if number:
                lines.append([])
            if part:
                lines[-1].append((name, part))
    return lines if lines[-1] else lines[:-1]


def paint(line: list[tuple[str, str]], marked: set[int] = frozenset()) -> str:
    """One line as HTML; the characters whose positions are in `marked` stand in <mark>."""
    chars = [(name, char, number in marked) for number, (name, char) in
             enumerate((name, char) for name, text in line for char in text)]
    out = ''
    for (name, mark), group in itertools.groupby(chars, key=lambda c: (c[0], c[2])):
        text = html.escape(''.join(char for _, char, _ in group), quote=False)
        text = f'<b class={name}>{text}</b>' if name else text
        out += f'<mark>{text}</mark>' if mark else text
    return out


def plain(line) -> str:
    return ''.join(text for _, text in line)


# ---------- the difference ----------
def words(text: str) -> list[str]:
    return re.findall(r'\w+|\s+|.', text)


def changed_positions(a: str, b: str) -> tuple[set[int], set[int]]:
    """The characters of either line that belong to words which the other has not."""
    one, two = words(a), words(b)
    starts = [list(itertools.accumulate((len(word) for word in side), initial=0)) for side in (one, two)]
    marks = set(), set()
    for tag, i, j, k, m in difflib.SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
        if tag != 'equal':
            for side, start, end in ((0, i, j), (1, k, m)):
                for word in range(start, end):
                    if not (one, two)[side][word].isspace():        # a longer stretch of spaces is no news
                        marks[side].update(range(starts[side][word], starts[side][word + 1]))
    return marks


def pair(old: list[str], new: list[str]) -> list[tuple[int | None, int | None]]:
    """Which line of a replaced stretch became which: of the pairings that keep the order, the likeliest."""
    def likeness(a, b):
        ratio = difflib.SequenceMatcher(None, words(a), words(b), autojunk=False).ratio()
        return ratio if ratio > 0.5 and a.strip() and b.strip() else 0
    best = [[(0, None)] * (len(new) + 1) for _ in range(len(old) + 1)]
    for i in range(len(old) - 1, -1, -1):
        for j in range(len(new) - 1, -1, -1):
            like = likeness(old[i], new[j])
            best[i][j] = max((best[i + 1][j][0], 'old'), (best[i][j + 1][0], 'new'),
                             (best[i + 1][j + 1][0] + like, 'pair') if like else (-1, ''))
    pairs, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        step = best[i][j][1] if i < len(old) and j < len(new) else 'old' if i < len(old) else 'new'
        pairs.append((i if step != 'new' else None, j if step != 'old' else None))
        i, j = i + (step != 'new'), j + (step != 'old')
    return pairs


def rows_of(old: list[str], new: list[str]) -> list[tuple[int | None, int | None, bool]]:
    """(old line number, new line number, changed) from 0, in the order in which a reader meets them."""
    rows = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, old, new).get_opcodes():
        if tag == 'equal':
            rows += [(a + i, c + i, False) for i in range(b - a)]
        else:
            rows += [(None if i is None else a + i, None if j is None else c + j, True)
                     for i, j in pair(old[a:b], new[c:d])]
    return rows


def cell(side: str, number: int | None, line, marked) -> str:
    if number is None:
        return f'<i class={side}></i><code class="{side} no"></code>'
    tag = {'l': 'del', 'r': 'ins', 'e': 'code'}[side]
    return f'<i class={side}>{number + 1}</i><{tag} class={side}>{paint(line, marked)}</{tag}>'


def row(old, new, i, j, changed) -> str:
    """One row: number and text of the old line, number and text of the new one."""
    if not changed:
        text = paint(new[j])
        return (f'<div class="w eq"><i class=l>{i + 1}</i><code class=l aria-hidden=true>{text}</code>'
                f'<i>{j + 1}</i><code>{text}</code></div>')
    one, two = None if i is None else old[i], None if j is None else new[j]
    marks = changed_positions(plain(one), plain(two)) if one and two else (set(), set())
    return f'<div class=w>{cell("l", i, one, marks[0])}{cell("r", j, two, marks[1])}</div>'


def places(source: str) -> list[str]:
    """For each line, the definition or the section that it lies in."""
    lines = source.splitlines()
    names = ['imports'] * (len(lines) + 1)
    start = next((n for n, line in enumerate(lines) if line.startswith('# ---------- 超参数')), len(names))
    names[start:] = ['constants'] * (len(names) - start)
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
            names[first:] = [node.name] * (len(names) - first)
        elif isinstance(node, ast.If) and 'main' in ast.dump(node.test):
            names[node.lineno - 1:] = ['__main__'] * (len(names) - node.lineno + 1)
    return names


def split_docstring(source: str) -> tuple[int, str]:
    """(number of lines of the module's docstring, the docstring)."""
    first = ast.parse(source).body[0]
    return first.end_lineno, first.value.value


def fold(rows: list[str]) -> str:
    n = len(rows)
    summary = both(f'{n} 行没有变', f'{n} unchanged line' + 's' * (n > 1))
    return f'<details class=fold><summary>{summary}</summary><div lang=zh>{"".join(rows)}</div></details>'


def stretches(rows, near: list[bool], news: list[bool], where: list[str]):
    """(shown, row numbers) in order: what is folded, and the hunks. A definition has a hunk, and a link, of its own."""
    for shown, group in itertools.groupby(range(len(rows)), key=lambda number: near[number]):
        parts, place = [], ''
        for number in group:
            j = rows[number][1]
            if not parts or shown and j is not None and where[j] != place:
                parts.append([])
            place = place if j is None else where[j]                # a line that goes belongs to the new line above it
            parts[-1].append(number)
        merged = []
        for part in parts:                                          # a part without news is context of its neighbour
            if merged and not (any(news[n] for n in part) and any(news[n] for n in merged[-1])):
                merged[-1] += part
            else:
                merged.append(part)
        yield from ((shown, part) for part in merged)


def difference(below: str, above: str) -> tuple[str, list[tuple[str, str]], int, int]:
    """(HTML of the difference, docstrings aside, [(anchor, title)] of its hunks, lines added, lines taken away)."""
    sources = [(ROOT / f'{name}.py').read_text(encoding='utf-8') for name in (below, above)]
    skip = [split_docstring(source)[0] for source in sources]
    old, new = (lines_of(source) for source in sources)
    where_old, where_new = map(places, sources)
    shifted = rows_of([plain(line) for line in old[skip[0]:]], [plain(line) for line in new[skip[1]:]])
    rows = [(None if i is None else i + skip[0], None if j is None else j + skip[1], changed)
            for i, j, changed in shifted]

    near = [False] * len(rows)                                      # shown without unfolding
    for number, (_, _, changed) in enumerate(rows):
        if changed:
            around = slice(max(0, number - CONTEXT), number + CONTEXT + 1)
            near[around] = [True] * len(near[around])
    texts = ['' if i is None else plain(old[i]) for i, _, _ in rows]
    texts = [f'{text}\n' + ('' if j is None else plain(new[j])) for text, (_, j, _) in zip(texts, rows)]
    news = [changed and bool(text.strip()) for (_, _, changed), text in zip(rows, texts)]     # empty lines are none
    notes, out, hunks, used = list(NOTES[above]), [], [], Counter()
    for shown, group in stretches(rows, near, news, where_new):
        made = [row(old, new, *rows[number]) for number in group]
        if not shown:
            out.append(fold(made) if len(made) > 2 else ''.join(made))
            continue
        changes = [number for number in group if news[number]]
        titles = list(dict.fromkeys(where_old[i] if j is None else where_new[j]
                                    for i, j, _ in (rows[number] for number in changes)))
        used[titles[0]] += 1
        again = used[titles[0]] > 1
        anchor = f'{titles[0]}-{used[titles[0]]}' if again else titles[0]
        at = {note: next(number for number in changes if note[0] in texts[number])
              for note in notes if any(note[0] in texts[number] for number in changes)}
        mine = sorted(at, key=at.get)                               # in the order of the lines that they explain
        notes = [note for note in notes if note not in mine]
        aside = ''.join(f'<p>{both(prose(chinese), prose(english))}</p>' for _, chinese, english in mine)
        hunks.append((anchor, '、'.join(titles) + (f'（{used[titles[0]]}）' if again else '')))
        title = html.escape(hunks[-1][1])
        out.append(f'<section class=hunk id="{anchor}" tabindex=-1 aria-label="{title}">'
                   f'<h3><a href="#{anchor}">{title}</a></h3>'
                   f'<div class="pair{" noted" if aside else ""}"><div class=rows lang=zh>{"".join(made)}</div>'
                   + (f'<aside>{aside}</aside>' if aside else '') + '</div></section>')
    if notes:
        sys.exit(f'{above}: these notes fit no change: {[note[0] for note in notes]}')
    changed = [(i, j) for i, j, different in rows if different]
    added, removed = sum(j is not None for _, j in changed), sum(i is not None for i, _ in changed)
    return ''.join(out), hunks, added, removed


# ---------- pages ----------
SITE = '写歌词的 GPT：一架阶梯', 'A GPT that writes lyrics: the ladder'


def page(title: tuple[str, str], body: str, script: str = '') -> str:
    """A whole page. Without JavaScript it shows Chinese."""
    return f'''<!doctype html>
<html lang="zh-CN">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title[0]}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="style.css">
<script>
try {{  // before anything is drawn, so that no page shows the other language or brightness first
  document.documentElement.dataset.lang = localStorage.getItem('lang') || 'zh'
  document.documentElement.style.colorScheme = localStorage.getItem('theme') || ''
}} catch {{}}
</script>
</head>
<body data-title="{html.escape(title[0])}" data-title-en="{html.escape(title[1])}">
<a class=skip href="#text">{both('跳到正文', 'Skip to the text')}</a>
<header><nav aria-label="全站 / site"><a href="index.html">{both(*SITE)}</a>
<a href="compare.html">{both('任意比较', 'Compare any two')}</a></nav>
<div class=switches><button type=button id=language lang=en>English</button>
<button type=button id=theme>{both('深色／浅色', 'Dark / light')}</button></div></header>
<main id=text>
{body}
</main>
<script src="page.js"></script>{script}
</body>
</html>
'''


def results() -> list[dict]:
    """The results to show, the shipped sample's first; of one machine, a GPU where there is one."""
    found = [json.loads(path.read_text(encoding='utf-8')) | {'plots': path.with_suffix('')}
             for path in sorted((ROOT / 'bench' / 'results').glob('*.json'))]
    found.sort(key=lambda result: (result['machine']['device'] != 'cuda', result['corpus'] != 'sample'))
    return [result for result in found if result['machine']['name'] == found[0]['machine']['name']]


def bought(rung: str, measured: list[dict]) -> str:
    """What the rung reaches as it is shipped, and what it buys."""
    rows = ''
    for result in measured:
        if shipped := result['jobs'].get(f'shipped/{rung}/whole run'):
            for name, value in (('bits/char', f'{report.final(shipped):.3f}'), ('tok/s', f'{shipped["tok_per_s"]:,}'),
                                (both('内存', 'memory'), f'{shipped["peak_memory"] / 2**30:.1f} GiB')):
                rows += f'<div><dt>{name}</dt><dd>{value}</dd></div>'
        if said := report.currencies(result).get(rung):
            rows += f'<div><dt>{both("买到", "it buys")}</dt><dd>{said}</dd></div>'
    return f'<dl>{rows}</dl>' if rows else ''


def curves(measured: list[dict]) -> str:
    """The waterfall, drawn into the page so that it follows its light and dark; nothing where the bench made none."""
    caption = ('每一级让测试 bits/char 变了多少', 'What each rung changes in test bits/char')
    for result in measured:
        if (plot := result['plots'] / 'waterfall.svg').exists():
            svg = plot.read_text(encoding='utf-8')
            svg = re.sub(r'<style>.*?</style>|<metadata>.*?</metadata>', '', svg, flags=re.S)
            svg = svg.replace('<svg ', '<svg role=img aria-labelledby="caption" ', 1)
            return (f'<div class=figures><figure><div class=plot tabindex=0>{svg}</div>'
                    f'<figcaption id="caption">{both(*caption)} ({result["corpus"]})</figcaption></figure></div>')
    return ''


def neighbours(rung: str) -> str:
    """Links to the step before and after, and to the whole script."""
    at = RUNGS.index(rung)
    links = [f'<a rel=prev href="{RUNGS[at - 1]}.html">← {RUNGS[at - 1]}</a>' if at else '<span></span>',
             f'<a href="{rung}.source.html">{both("读整个脚本", "The whole script")}</a>' if at else '<span></span>']
    following = RUNGS[at + 1:at + 2] or ['']
    links += [f'<a rel=next href="{name}.html">{name} →</a>' if name else '<span></span>' for name in following]
    return f'<nav class=steps aria-label="上一级、下一级 / steps">{"".join(links)}</nav>'


def keys(steps: bool = True) -> str:
    """What the keyboard does here; only a page of a step has neighbours."""
    pair = '<kbd>←</kbd> <kbd>→</kbd>'
    arrows = (f'{pair} 上一级、下一级，', f'{pair} previous and next step, ') if steps else ('', '')
    return '<p class=keys>' + both(
        f'键盘：<kbd>j</kbd> <kbd>k</kbd> 下一处、上一处改动，{arrows[0]}<kbd>o</kbd> 展开或折叠全部',
        f'Keyboard: <kbd>j</kbd> <kbd>k</kbd> next and previous change, {arrows[1]}'
        '<kbd>o</kbd> unfold or fold everything') + '</p>'


def idea(rung: str) -> str:
    """The idea in a few sentences, and its figure."""
    _, _, chinese, english, figure = IDEAS[rung]
    text = ''.join(f'<p>{both(prose(a), prose(b))}</p>' for a, b in zip(chinese, english))
    chinese_figure, english_figure = (figure, figure) if isinstance(figure, str) else figure
    for lang, label, drawing in (('zh-CN', '示意图', chinese_figure), ('en', 'figure', english_figure)):
        text += (f'<pre class=figure lang="{lang}" tabindex=0 role=group aria-label="{label}">'
                 f'{html.escape(drawing.strip(chr(10)), quote=False)}</pre>')
    return f'<div class=idea>{text}</div>'


def step_page(rung: str, measured) -> str:
    at = RUNGS.index(rung)
    short = IDEAS[rung]
    source = (ROOT / f'{rung}.py').read_text(encoding='utf-8')
    head = f'<h1>{rung}.py <span class=sub>{both(html.escape(short[0]), html.escape(short[1]))}</span></h1>'
    docstring = (f'<details class=doc><summary>{both("文件开头的说明", "The docstring (Chinese)")}</summary>'
                 f'<pre lang=zh>{html.escape(split_docstring(source)[1].strip())}</pre></details>')
    if not at:
        whole = whole_script(rung)
        return page((f'{rung}：{short[0]}', f'{rung}: {short[1]}'), f'{neighbours(rung)}{head}{idea(rung)}{docstring}'
                    f'<h2>{both("整个脚本", "The whole script")}</h2>{whole}{neighbours(rung)}')
    below = RUNGS[at - 1]
    diff, hunks, added, removed = difference(below, rung)
    contents = ''.join(f'<li><a href="#{anchor}">{html.escape(text)}</a></li>' for anchor, text in hunks)
    lines = f'<ins>+{added}</ins> <del>−{removed}</del>'
    counts = both(f'{len(hunks)} 处改动，{lines} 行', f'{len(hunks)} changes, {lines} lines')
    body = (f'{neighbours(rung)}{head}{idea(rung)}{bought(rung, measured)}{docstring}'
            f'<h2>{both(f"与 {below} 的差异", f"What changes from {below}")}</h2><p class=counts>{counts}</p>{keys()}'
            f'{table_of_contents(contents)}<div class=diff>{diff}</div>{neighbours(rung)}')
    return page((f'{rung}：{short[0]}', f'{rung}: {short[1]}'), body)


def table_of_contents(items: str) -> str:
    return f'<details class=contents><summary>{both("目录", "Contents")}</summary><ol>{items}</ol></details>'


def whole_script(rung: str) -> str:
    source = (ROOT / f'{rung}.py').read_text(encoding='utf-8')
    rows = ''.join(f'<div class="w one" id=L{n}><i>{n}</i><code>{paint(line)}</code></div>'
                   for n, line in enumerate(lines_of(source), 1))
    return f'<div class=diff><div class=rows lang=zh>{rows}</div></div>'


def source_page(rung: str) -> str:
    source = (ROOT / f'{rung}.py').read_text(encoding='utf-8')
    names = [(node.name, node.lineno) for node in ast.parse(source).body
             if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    contents = ''.join(f'<li><a href="#L{line}"><code>{name}</code></a></li>' for name, line in names)
    back = f'<p><a href="{rung}.html">{both(f"{rung} 改了什么", f"What {rung} changes")}</a></p>'
    body = f'<h1>{rung}.py</h1>{back}{table_of_contents(contents)}{whole_script(rung)}'
    return page((f'{rung}.py 全文', f'{rung}.py, whole'), body)


def index_page(measured) -> str:
    steps, below = [], None
    for rung in RUNGS:
        changes = ''
        if below:
            _, _, added, removed = difference(below, rung)
            changes = f' <span class=changes><ins>+{added}</ins> <del>−{removed}</del> {both("行", "lines")}</span>'
        short = both(html.escape(IDEAS[rung][0]), html.escape(IDEAS[rung][1]))
        steps.append(f'<li><a class=rung href="{rung}.html">{rung}</a> {short}{changes}{bought(rung, measured)}</li>')
        below = rung
    figures = ''
    if measured:
        machine = measured[0]['machine']
        name = machine['gpu'] or machine['cpu']
        packages = ', '.join(f'{package} {version}' for package, version in machine['packages'].items())
        where = both(f'{name}，{machine["cores"]} 核，{packages}，自带的样本，常量不改，跑完的结果。bits/char 越低越好'
                     '；v0_char_english 读英文，v11、v12 的测试歌曲不同，不能与别的级比。怎么测的：bench/README.md。',
                     f'{name}, {machine["cores"]} cores, {packages}; the shipped sample, constants as they stand, '
                     'whole runs. Lower bits/char is better; v0_char_english reads English, v11 and v12 have other '
                     'test songs: not to be compared with the others. How it was measured: bench/README.md.')
        figures = f'<h2>{both("测出来的", "Measured")}</h2><p class=where>{where}</p>{curves(measured)}'
    head = both('从零训练一个写歌词的 GPT：一架阶梯', 'A GPT that writes song lyrics, from scratch: a ladder')
    text = both('每个脚本都是完整的，每一级只加一个想法。相邻两级的差异，就是一课。从最下面一级开始往上读。',
                'Every script is complete, and each step adds one idea. The difference between two neighbours is the '
                'lesson. Begin at the bottom.')
    body = (f'<h1>{head}</h1><p>{text}</p><h2>{both("阶梯", "The ladder")}</h2>'
            f'<ol class=ladder reversed>{"".join(reversed(steps))}</ol>{figures}')
    return page(SITE, body)


def compare_page() -> str:
    """Any rung against any other: all lines once, and for each pair what difflib says; compare.js shows them."""
    table, scripts = {}, {}
    for rung in RUNGS:
        lines = lines_of((ROOT / f'{rung}.py').read_text(encoding='utf-8'))
        scripts[rung] = [table.setdefault(paint(line), len(table)) for line in lines]
    pairs = {}
    for (a, one), (b, two) in itertools.combinations(scripts.items(), 2):
        flat, previous = [], 0
        for tag, i, j, k, m in difflib.SequenceMatcher(None, one, two).get_opcodes():
            if tag != 'equal':                                      # lines that are equal, that go, that come
                flat += [i - previous, j - i, m - k]
                previous = j
        pairs[f'{a} {b}'] = flat
    everything = {'lines': list(table), 'scripts': scripts, 'pairs': pairs}
    data = json.dumps(everything, ensure_ascii=False, separators=(',', ':')).replace('</', '<\\/')
    options = ''.join(f'<option>{rung}</option>' for rung in RUNGS)
    links = ''.join(f'<li><a href="{rung}.html">{rung}</a></li>' for rung in RUNGS[1:])
    body = (f'<h1>{both("任意两级的差异", "Any rung against any other")}</h1>'
            f'<form id=compare><label>{both("从", "from")} <select id=a>{options}</select></label> '
            f'<label>{both("到", "to")} <select id=b>{options}</select></label></form>'
            f'<p class=counts id=counts role=status></p>{keys(steps=False)}'
            f'<noscript><p>{both("这一页要 JavaScript。这些不要：", "This page needs JavaScript. These do not:")}</p>'
            f'<ul>{links}</ul></noscript><div class=diff id=diff lang=zh></div>')
    scripts = f'<script type="application/json" id=data>{data}</script><script src="compare.js"></script>'
    return page(('任意两级的差异', 'Any rung against any other'), body, scripts)


def build(folder: Path):
    """Write all pages into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    measured = results()
    pages = {'index.html': index_page(measured), 'compare.html': compare_page()}
    for number, rung in enumerate(RUNGS):
        pages[f'{rung}.html'] = step_page(rung, measured)
        if number:
            pages[f'{rung}.source.html'] = source_page(rung)
    for name in ('style.css', 'page.js', 'compare.js'):
        pages[name] = (DOCS / 'static' / name).read_text(encoding='utf-8')
    pages['.nojekyll'] = ''
    for name, text in pages.items():
        (folder / name).write_text(text, encoding='utf-8', newline='\n')
    return pages


if __name__ == '__main__':
    made = build(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS)
    largest = max(made, key=lambda name: len(made[name].encode()))
    print(f'{len(made)} files; the largest is {largest}, {len(made[largest].encode()) / 1000:.0f} kB')
