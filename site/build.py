"""The reading room: static pages in docs/, from the scripts, lessons/, bench/results/ and this folder.

    pip install -r requirements-dev.txt
    python site/build.py                                    # writes docs/
    python site/build.py OUT/                               # writes somewhere else

The pages are committed and need no server: any static host serves them, and they open from disk. A test checks that
they are what this script makes now.
"""
import ast
import difflib
import html
import itertools
import json
import math
import re
import sys
from collections import Counter
from pathlib import Path

import markdown
import numpy as np
from ideas import CURRENCIES, IDEAS, LEFT_OUT
from notes import NOTES
from pygments import token as T
from pygments.lexers import PythonLexer

SITE = Path(__file__).resolve().parent
ROOT = SITE.parent
sys.path.insert(0, str(ROOT / 'bench'))
import lyrics  # noqa: E402
import report  # noqa: E402
from sentences import corpus, noise  # noqa: E402
from settings import RUNGS  # noqa: E402

BELOW = dict(zip(RUNGS[1:], RUNGS)) | {
    's1_control': 'v10_muon', 's2_rhyme_rl': 's1_control', 's3_finetune': 's1_control'}
SCRIPTS = [*RUNGS, *(name for name in BELOW if name not in RUNGS)]
PAGES = {'writing': ('命令行写歌', 'Writing songs'), 'constants': ('常量', 'Constants'),
         'data': ('数据和检查点', 'Data and checkpoints'), 'faq': ('常见问题和硬件', 'FAQ and hardware'),
         'glossary': ('词汇表', 'Glossary'), 'results': ('实测结果', 'Results')}
ASIDE = {'v12_ddp': ['s1_control'], 's2_rhyme_rl': ['s3_finetune']}       # where to go from the ends
SOURCE = {name: (ROOT / f'{name}.py').read_text(encoding='utf-8') for name in SCRIPTS}
CAPTIONS = {                                                        # of the plots, in this order
    'waterfall': ('每一级让 bits/char 变了多少', 'what each rung changes'),
    'budgets': ('训练多久，各级才值得', 'how long a run must be for a rung to pay'),
    'v1-corpus': ('歌越多，子词越值得吗？', 'do sub-words pay where there are more songs?'),
    'v7-memory': ('v7：每次算几个窗口，占多少内存', 'v7: windows at a time, and memory'),
    'v11-memory': ('v11：数据多了，占多少内存', 'v11: more data, and memory'),
    'v12-speed': ('v12：几个进程，多快', 'v12: processes, and speed')}
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


def link(target: str) -> str | None:
    """Where a link of a Markdown file leads on the site; None: nowhere."""
    if re.match('https?:|#', target):
        return target
    path, _, anchor = target.partition('#')
    name = re.sub(r'(\.en)?\.md$', '', path.split('/')[-1])
    name = {'ChineseLyrics/README.md': 'data'}.get(path.replace('../', ''), name)
    if path.endswith('bench/README.md'):
        return None
    if path.endswith('/model.js'):                                  # the engine, to be read
        return 'model.js'
    return f'{name}.html' + (f'#{anchor}' if anchor else '') if name in PAGES or name in SCRIPTS else None


def to_html(text: str) -> str:
    """Markdown to HTML; links lead to the pages, what is wide scrolls by itself."""
    made = markdown.markdown(text, extensions=['tables', 'fenced_code', 'toc', 'sane_lists'])
    made = made.replace('<table>', '<div class=scroll tabindex=0><table>').replace('</table>', '</table></div>')

    made = re.sub(r'<p>(?:<img alt="([^"]*)" src="(?:\.\./)+(bench/results/[^"]*)" ?/?>)</p>', lambda match: (
        f'<figure><div class=scroll tabindex=0>{svg_of(ROOT / match[2], match[1])}</div></figure>'), made)

    def lead(match):
        target = link(html.unescape(match[1]))
        return f'<a href="{target}">{match[2]}</a>' if target else match[2]
    # commands can be copied, drawings are never wrapped
    made = re.sub(r'<pre>(?=<code>(?:pip|python|git|torchrun) )', '<pre class=command tabindex=0>', made)
    made = re.sub(r'<pre>(?=[^<]*<code[^<]*(?:[│└┌┬─]|\+---))', '<pre class=drawn tabindex=0>', made)
    return re.sub(r'<a href="([^"]*)">(.*?)</a>', lead, made.replace('<pre>', '<pre tabindex=0>'), flags=re.S)


def glossary() -> dict[str, dict[str, tuple[str, str]]]:
    """language -> term -> (anchor of its row, what it means), from the tables of the glossary."""
    found = {}
    for language, suffix, before in (('zh-CN', '', ''), ('en', '.en', 'en-')):
        rows = re.findall(r'^\| (.+?) \| (.+?) \| (.+?) \|$', (SITE / 'pages' / f'glossary{suffix}.md').read_text(
            encoding='utf-8'), re.M)
        found[language] = {term: (f'{before}term-{n}', f'{other}: {meaning}') for n, (names, other, meaning)
                           in enumerate(rows[1:], 1)                # Chinese prose uses the English terms as well
                           for term in re.split(r'、|, | \(|\)', f'{names}、{other}' if before == '' else names)
                           if len(term) > 1}
    return found


def explain(made: str, terms: dict[str, tuple[str, str]]) -> str:
    """The first mention of each term of the glossary leads there and has a tooltip; code, links, headings do not."""
    if not terms:
        return made
    seen, longest = set(), '|'.join(map(re.escape, sorted(terms, key=len, reverse=True)))
    pattern = re.compile(rf'(?<![A-Za-z_])(?:{longest})(?![A-Za-z_])')

    def mark(match):
        if match[0] in seen:
            return match[0]
        seen.add(match[0])
        anchor, meaning = terms[match[0]]
        return f'<a class=term href="glossary.html#{anchor}" title="{html.escape(meaning)}">{match[0]}</a>'
    parts = re.split(r'(<(pre|code|a|h\d|summary|th)\b.*?</\2>|<[^>]*>)', made, flags=re.S)
    return ''.join(pattern.sub(mark, part) if n % 3 == 0 else part for n, part in enumerate(parts) if n % 3 < 2)


def render(path: Path) -> str:
    """A Markdown file as HTML, without its title and its comments."""
    text = re.sub(r'\A# .*\n', '', path.read_text(encoding='utf-8'))
    text = text.replace('<!-- toy -->', f'<div class=toy data-toy="{path.name.split(".")[0]}"></div>')
    return to_html(re.sub(r'<!--.*?-->', '', text, flags=re.S))


# ---------- the toys, without JavaScript ----------
def cells(rows: list) -> str:
    """A table, its first row the head."""
    made = ''
    for n, row in enumerate(rows):
        tag = 'td' if n else 'th'
        made += f'<tr>{"".join(f"<{tag}>{cell}</{tag}>" for cell in row)}</tr>'
    return f'<table>{made}</table>'


def drawing(width: int, height: int, content: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" aria-hidden=true style="max-width:{width}px">{content}</svg>'


def lengths(rows: list[tuple[str, float, str]]) -> str:
    """Bars: (label, value, how it is written)."""
    most = max(value for _, value, _ in rows)
    return '<div class=bars>' + ''.join(f'<span>{label}</span><i style="width:{100 * value / most:.0f}%"></i>'
                                        f'<span>{text}</span>' for label, value, text in rows) + '</div>'


def bits_of(x: float) -> list[tuple[str, str]]:
    """(format, sign and exponent and fraction) of a number in float32, bfloat16, float16."""
    with np.errstate(over='ignore'):
        single, half = int(np.float32(x).view(np.uint32)), int(np.float16(x).view(np.uint16))
    brain = (single + 0x7fff + (single >> 16 & 1)) >> 16            # the nearest; halfway, the even one
    made = (('float32', f'{single:032b}', 8), ('bfloat16', f'{brain:016b}', 8), ('float16', f'{half:016b}', 5))
    return [(kind, f'{bits[0]} {bits[1:1 + wide]} {bits[1 + wide:]}') for kind, bits, wide in made]


def figure(name: str, english: bool) -> str:
    """A toy in one of its states; where there is JavaScript, toys.js puts the toy in its place."""
    def say(chinese, other):
        return other if english else chinese
    match name:
        case 'v0_char_rope':
            hands = ''
            for label, position, colour in (('q', 10, 'quality'), ('k', 8, 'rhyme')):
                x, y = math.sin(0.3 * position), -math.cos(0.3 * position)
                hands += (f'<line x1=110 y1=100 x2={110 + 80 * x:.0f} y2={100 + 80 * y:.0f} stroke="var(--{colour})" '
                          f'stroke-width=5 /><text x={110 + 95 * x:.0f} y={104 + 92 * y:.0f}>{label}</text>')
            return (drawing(220, 205, f'<circle cx=110 cy=100 r=82 fill=none stroke="var(--line)" />{hands}')
                    + say('<p>q 在 10，k 在 8：点积 = cos(0.3 × 2)', '<p>q at 10, k at 8: dot product = cos(0.3 × 2)')
                    + f' = {math.cos(0.6):.4f}</p>')
        case 'v1_bpe_rope':
            lines = [list('我在旧站台上等你'), list('雨在站台上等我们')]
            rows = [say(('合并', '几次', ''), ('merge', 'times', ''))]
            for _ in range(3):
                (a, b), times = Counter(pair for line in lines for pair in itertools.pairwise(line)).most_common(1)[0]
                lines = [' '.join(line).replace(f'{a} {b}', a + b).split() for line in lines]
                rows.append((f'{a} + {b}', times, ' / '.join(map(' '.join, lines))))
            return cells(rows)
        case 'v2_cosine_lr':
            warm, cosine = [(n + 1) / 201 for n in range(200)], [n * math.pi / 600 for n in range(601)]
            rates = warm + [0.1 + 0.9 * (1 + math.cos(angle)) / 2 for angle in cosine]
            line = ' '.join(f'{20 + n / 2:g},{130 - 110 * rates[n]:.0f}' for n in range(0, 801, 20))
            return drawing(440, 160, '<path d="M20 10V130H425" fill=none stroke="var(--quiet)" />'
                           f'<polyline points="{line}" fill=none stroke="var(--quality)" stroke-width=3 />'
                           '<text x=20 y=150>0</text><text x=110 y=150>200</text><text x=400 y=150>800</text>')
        case 'v3_gpt2_amp':
            rows = [(x, kind, f'<code>{bits}</code>') for x in ('1e-8', '65536', '1.001')
                    for kind, bits in bits_of(float(x))]
            return cells([('', '', say('符号 指数 尾数', 'sign exponent fraction')), *rows])
        case 'v4_flash_optim':
            return f'<p>T = 1024</p>{lengths([(say("分数矩阵", "scores"), 24, "24 MiB"), ("flash", 1.5, "1.5 MiB")])}'
        case 'v5_checkpoint':
            return cells([say(('', 'latest.pt', 'unfinished.tmp', 'kill -9 之后从'),
                              ('', 'latest.pt', 'unfinished.tmp', 'after kill -9, from')),
                          (say('写之前', 'before'), 400, '', 400), (say('写到一半', 'half written'), 400, '▓▓░░', 400),
                          (say('写完，落盘', 'on the disk'), 400, '▓▓▓▓', 400),
                          (say('改名之后', 'renamed'), 600, '', 600)])
        case 'v7_grad_accum':
            boxes = ''.join(f'<rect x={10 + n * 6.5:g} y=12 width=5 height=36 '
                            f'fill="var(--{("memory", "speed")[n // 16 % 2]})" />' for n in range(64))
            return drawing(440, 60, boxes) + say('<p>4 份，梯度各乘 16/64，加起来</p>',
                                                 '<p>4 parts, gradients times 16/64, added up</p>')
        case 'v10_muon':
            before = after = np.array([1, 0.1]) / math.hypot(1, 0.1)
            for _ in range(5):
                after = 3.4445 * after - 4.775 * after**3 + 2.0315 * after**5
            shapes = ''.join(f'<ellipse cx=110 cy=110 rx={85 * s[0]:.0f} ry={85 * s[1]:.0f} fill=none stroke-width=4 '
                             f'stroke="var(--{colour})" />' for s, colour in ((before, 'line'), (after, 'quality')))
            values = [', '.join(f'{value:.2f}' for value in s) for s in (before, after)]
            return drawing(220, 220, shapes) + f'<p>{say("奇异值", "singular values")} {values[0]} → {values[1]}</p>'
        case 'v12_ddp':
            mine = [sum(n * 7 % 5 - 1 for n in (rank, rank + 4)) for rank in range(4)]
            head = say(('进程', '它的窗口', '自己的梯度', '总和'), ('process', 'windows', 'its gradient', 'the sum'))
            return cells([head, *((rank, f'{rank}, {rank + 4}', mine[rank], sum(mine)) for rank in range(4))])
        case 's1_control':
            head = say(('一行', '怎么来的'), ('the line', 'how'))
            steps = [('旧站台上', say('一行歌词', 'a line')),
                     ('<4>旧站台上', say('数一数：4 个字', 'it has 4 characters')),
                     ('<4>旧站台<江阳>上', say('末字「上」押江阳', 'it ends in 上, of the rhyme 江阳 (ang)'))]
            return cells([head, *((f'<code>{html.escape(line)}</code>', note) for line, note in steps)])
        case 's2_rhyme_rl':
            ends = [(say('台（同一个字）', '台 (the same)'), 30), ('来', 10), ('海', 10), ('白', 5),
                    (say('山（不押）', '山 (no rhyme)'), 45)]
            ask = say('第 2 行以「台」收尾。第 4 行的末字，各有多大机会？',
                      'Line 2 ends in 台. How likely is each end of line 4?')
            return f'<p>{ask}</p>' + lengths([(label, value, f'{value} %') for label, value in ends])
    sys.exit(f'{name} has a toy, but no figure for pages without JavaScript')


def drawn(made: str, english: bool) -> str:
    """The toys of a lesson get their figures."""
    return re.sub('<div class=toy data-toy="(.*?)">', lambda toy: toy[0] + figure(toy[1], english), made)


def numbered(made: str) -> str:
    """The rows of a table get anchors, so that they can be linked to."""
    rows = itertools.count()
    return re.sub('<tr>', lambda _: f'<tr id="term-{next(rows)}">', made)


def article(folder: Path, name: str) -> str:
    """Both languages of a Markdown file; headings of the English half have other anchors."""
    chinese, english = (render(folder / f'{name}{suffix}.md') for suffix in ('', '.en'))
    if name == 'glossary':
        chinese, english = numbered(chinese), numbered(english)
    if folder.name == 'lessons':
        terms = glossary()
        chinese, english = explain(chinese, terms['zh-CN']), explain(english, terms['en'])
    english = re.sub(r' id="([^"]*)"', r' id="en-\1"', english)
    return (f'<div class=text lang="zh-CN">{drawn(chinese, False)}</div>'
            f'<div class=text lang="en">{drawn(english, True)}</div>')


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


def pair(old: list[str], new: list[str]) -> list[tuple[int, int]]:
    """Which line of a replaced stretch became which: of the pairings that keep the order, the likeliest."""
    def likeness(a, b):
        ratio = difflib.SequenceMatcher(None, words(a), words(b), autojunk=False).ratio()
        return ratio if ratio > 0.5 and a.strip() and b.strip() else 0
    best = [[(0, ())] * (len(new) + 1) for _ in range(len(old) + 1)]
    for i in range(len(old) - 1, -1, -1):
        for j in range(len(new) - 1, -1, -1):
            like = likeness(old[i], new[j])
            total, chain = best[i + 1][j + 1]
            best[i][j] = max(best[i + 1][j], best[i][j + 1], (total + like, ((i, j), chain)) if like else (-1, ()),
                             key=lambda found: found[0])
    pairs, chain = [], best[0][0][1]
    while chain:
        pairs.append(chain[0])
        chain = chain[1]
    return pairs


def segments(source: str) -> list[tuple[str, int, int]]:
    """(name, first line, line after the last), from 0, without the docstring: imports, constants, each definition.

    What stands above a definition (comments, the head of a section) belongs to it. A method is a segment of its own.
    """
    tree, starts = ast.parse(source), []

    def first(node):
        return min([node.lineno, *(d.lineno for d in getattr(node, 'decorator_list', []))]) - 1
    previous, header, defined = tree.body[0].end_lineno, '# ---------- 超参数', False
    for node in tree.body[1:]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            name = 'imports'
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            name, defined = node.name, True
        elif isinstance(node, ast.If):
            name = '__main__'
        else:
            name = re.match(r'\(?(\w+)', ast.unparse(node))[1] if defined else 'constants'
        if not starts or name not in ('imports', 'constants') or starts[-1][0] != name:
            starts.append((name, previous))
        if isinstance(node, ast.ClassDef):
            inside = None
            for part in node.body:
                if isinstance(part, ast.FunctionDef):
                    if inside is not None:
                        starts.append((f'{node.name}.{part.name}', inside))
                    inside = part.end_lineno
        previous = node.end_lineno
    assert header in source
    ends = [start for _, start in starts[1:]] + [len(source.splitlines())]
    return [(name, start, end) for (name, start), end in zip(starts, ends, strict=True)]


def changes(below: str, above: str) -> list[tuple[str, list[tuple[str, int | None, int | None]]]]:
    """[(definition, rows)] of what changes: rows are ('same' or 'old' or 'new', old line, new line), from 0.

    A definition or method that is only in one of the scripts goes or comes as a whole; those in both go by line.
    """
    old, new = (SOURCE[name].splitlines() for name in (below, above))
    one, two = segments(SOURCE[below]), segments(SOURCE[above])
    found = []                                                      # of every segment, also of those that stay

    def add(name, rows):                                            # the methods of a class stand together
        name = name.split('.')[0]
        if found and found[-1][0] == name:
            found[-1][1].extend(rows)
        else:
            found.append((name, rows))
    for tag, i, j, k, m in difflib.SequenceMatcher(None, [s[0] for s in one], [s[0] for s in two], False).get_opcodes():
        if tag != 'equal':
            for name, start, end in one[i:j]:
                add(name, [('old', n, None) for n in range(start, end)])
            for name, start, end in two[k:m]:
                add(name, [('new', None, n) for n in range(start, end)])
            continue
        for (name, a, b), (_, c, d) in zip(one[i:j], two[k:m], strict=True):
            for kind, p, q, r, s in difflib.SequenceMatcher(None, old[a:b], new[c:d], False).get_opcodes():
                if kind == 'equal':
                    add(name, [('same', a + p + n, c + r + n) for n in range(q - p)])
                else:
                    add(name, [('old', a + n, None) for n in range(p, q)] + [('new', None, c + n) for n in range(r, s)])
    return [(name, rows) for name, rows in found if any(kind != 'same' for kind, *_ in rows)]


def hunks(below: str, above: str) -> list[tuple[str, list]]:
    """The changes, those of a long definition apart where more than 2 CONTEXT lines between them are the same."""
    made = []
    old, new = (SOURCE[name].splitlines() for name in (below, above))

    def blank(row):
        return not (old[row[1]] if row[2] is None else new[row[2]]).strip()
    for name, rows in changes(below, above):
        groups = []
        for n, row in enumerate(rows):
            if row[0] == 'same' or blank(row):                      # empty lines are no news
                continue
            if groups and n - groups[-1][-1] <= 2 * CONTEXT + 1:
                groups[-1].append(n)
            else:
                groups.append([n])
        for group in groups:
            part = rows[max(0, group[0] - CONTEXT):group[-1] + 1 + CONTEXT]
            while blank(part[0]):
                part = part[1:]
            while blank(part[-1]):
                part = part[:-1]
            made.append((name, part))
    return made


def bullets(name: str) -> list[str]:
    """What the docstring announces, bullet by bullet."""
    docstring = ast.get_docstring(ast.parse(SOURCE[name]))
    announced = re.search(r'^相对 .*?的改动.*?\n(.*?)\n\n', docstring, re.M | re.S)
    return re.findall(r'^- (.*?)(?=\n- |\Z)', announced[1], re.M | re.S) if announced else []


def ideas_of(above: str, name: str, text: str) -> list[int]:
    """The bullets that a hunk serves: those that name its definition, or, in constants and main, what it changes."""
    named = [set(re.findall(r'`(\w+)`', bullet)) for bullet in bullets(above)]
    wanted = {name}
    if name in ('imports', 'constants', 'main', '__main__') or not any(wanted & names for names in named):
        wanted |= set(re.findall(r'\w+', text))
    return [n for n, names in enumerate(named) if names & wanted and IDEAS[above][3][n]]


def hunk_html(above: str, painted: tuple, title: str, anchor: str, rows: list, served: list[int], notes: list) -> str:
    """One hunk: in either layout a line has a row of its own grid (--u unified, --s side by side)."""
    old, new = painted
    marks, side, place = {}, {}, 0
    for changed, group in itertools.groupby(rows, key=lambda row: row[0] != 'same'):
        group = list(group)
        if not changed:
            for row in group:
                place += 1
                side[row] = place
            continue
        gone, come = [row for row in group if row[0] == 'old'], [row for row in group if row[0] == 'new']
        pairs = pair([plain(old[i]) for _, i, _ in gone], [plain(new[j]) for _, _, j in come]) if gone and come else []
        left = right = 0
        for p, q in [*pairs, (len(gone), len(come))]:
            for n in range(max(p - left, q - right)):               # what stands between two pairs
                place += 1
                if left + n < p:
                    side[gone[left + n]] = place
                if right + n < q:
                    side[come[right + n]] = place
            if p < len(gone) or q < len(come):
                place += 1
                side[gone[p]] = side[come[q]] = place
                marks[gone[p]], marks[come[q]] = changed_positions(plain(old[gone[p][1]]), plain(new[come[q][2]]))
            left, right = p + 1, q + 1
    out, where = '', notes_at(rows, old, new, notes)
    at = [n for n, row in enumerate(rows) if row in where]
    spans = {n: following - n for n, following in zip(at, [*at[1:], len(rows) + 1])}       # the last: the spare row too
    for n, row in enumerate(rows):
        kind, i, j = row
        tag, css = {'same': ('code', 'e'), 'old': ('del', 'd'), 'new': ('ins', 'a')}[kind]
        line = old[i] if kind == 'old' else new[j]
        numbers = f'<i class=o>{"" if i is None else i + 1}</i><i class=n>{"" if j is None else j + 1}</i>'
        out += (f'<div class="w {css}" style="--u:{n + 1};--s:{side[row]};--i:{indent(line)}">{numbers}'
                f'<{tag}>{paint(line, marks.get(row, frozenset()))}</{tag}></div>')
        if row in where:
            text = ''.join(f'<p>{both(prose(chinese), prose(english))}</p>' for _, chinese, english in where[row])
            out += f'<aside style="--u:{n + 1};--s:{side[row]};--n:{spans[n]}">{text}</aside>'
    labels = IDEAS[above][3]
    chips = ''.join(f'<span class="chip c{n}">{both(*map(html.escape, labels[n]))}</span>' for n in served)
    return (f'<div class=hunk id="{anchor}" tabindex=-1 data-ideas="{" ".join(map(str, served))}">'
            f'<h3><a href="#{anchor}">{title}</a> {chips}</h3>'
            f'<div class=rows lang=zh style="--r:{len(rows)};--q:{place}">{out}</div></div>')


def plain(line) -> str:
    return ''.join(text for _, text in line)


def indent(line) -> int:
    return len(plain(line)) - len(plain(line).lstrip())


def notes_at(rows: list, old: list, new: list, notes: list) -> dict:
    """row -> the notes beside it."""
    found = {}
    for note in notes:
        for row in rows:
            kind, i, j = row
            if kind != 'same' and note[0] in plain(old[i] if kind == 'old' else new[j]):
                found.setdefault(row, []).append(note)
                break
    return found


def difference(above: str) -> dict:
    """{'html', 'plumbing', 'contents', 'added', 'removed'}: the hunks in the order of the ideas, plumbing apart."""
    below = BELOW[above]
    painted = tuple(lines_of(SOURCE[name]) for name in (below, above))
    placed, used, made = {}, Counter(), []                          # note -> the definition that it explains
    for name, rows in hunks(below, above):
        text = '\n'.join(plain(painted[0][i] if j is None else painted[1][j]) for kind, i, j in rows if kind != 'same')
        served = ideas_of(above, name, text)
        mine = [note for note in NOTES[above] if note[0] in text and placed.setdefault(note, name) == name]
        used[name] += 1
        title = name if used[name] == 1 else f'{name}（{used[name]}）'
        anchor = name if used[name] == 1 else f'{name}-{used[name]}'
        only_headings = all(line.startswith('# -') for line in text.splitlines() if line.strip())
        plumbing = name == 'imports' or only_headings or not served and (not mine or name == 'constants')
        new = all(kind == 'new' for kind, *_ in rows)               # a definition of its own: the idea itself
        first = (max if name == 'main' else min)(served, default=99)    # main after all that it uses
        made.append((plumbing, (first, name == 'constants', not new), anchor, title, hunk_html(
            above, painted, html.escape(title), anchor, rows, served, mine)))
    if unplaced := [note[0] for note in NOTES[above] if note not in placed]:
        sys.exit(f'{above}: these notes fit no change: {unplaced}')
    rows = [row for _, part in changes(below, above) for row in part]
    ordered = sorted(made, key=lambda hunk: hunk[:2])               # stable: within an idea, as in the file
    return {'html': ''.join(h[4] for h in ordered if not h[0]), 'plumbing': ''.join(h[4] for h in ordered if h[0]),
            'contents': [(h[2], h[3]) for h in ordered], 'n': len(made),
            'added': sum(kind == 'new' for kind, *_ in rows), 'removed': sum(kind == 'old' for kind, *_ in rows)}


# ---------- pages ----------
NAME = '写歌词的 GPT：十五级阶梯', 'A GPT that writes lyrics: the ladder'


def page(title: tuple[str, str], body: str, script: str = '', css: str = '') -> str:
    """A whole page. Without JavaScript it shows Chinese."""
    pages = ''.join(f'<a href="{name}.html">{both(*names)}</a>' for name, names in PAGES.items())
    return f'''<!doctype html>
<html lang="zh-CN">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(title[0])}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="style.css">
<script>
try {{  // before anything is drawn, so that no page shows the other language or brightness first
  const kept = name => {{ try {{ return localStorage.getItem(name) }} catch {{ }} }}
  const html = document.documentElement
  html.dataset.lang = kept('lang') || (/^zh/i.test(navigator.language) ? 'zh' : 'en')
  if (kept('theme')) html.dataset.theme = kept('theme')
  html.dataset.layout = kept('layout') || 'unified'
}} catch {{ }}
</script>
</head>
<body data-title="{html.escape(title[0])}" data-title-en="{html.escape(title[1])}" class="{css}">
<a class=skip href="#text">{both('跳到正文', 'Skip to the text')}</a>
<header><nav aria-label="全站 / site"><a href="index.html"><b>{both(*NAME)}</b></a>{pages}
<a href="compare.html">{both('任选两级对比', 'Compare')}</a></nav>
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


def rhyming(name: str, measured: list[dict]) -> str:
    """How many of its stanzas rhyme, where it has been measured."""
    for result in measured:
        if found := report.rhyming(result, name):
            return f'<span class=rhymes>{both(f"押韵的节 {found[0]:.0%}", f"rhyming stanzas {found[0]:.0%}")}</span>'
    return ''


def bought(name: str, measured: list[dict]) -> str:
    """What the script buys: the sentence that the bench wrote into the README's table, and how its songs rhyme."""
    mark = rf'<!-- bench (?:buys|songwriter)-short\S* {name} -->[：:]?(.*?)<!-- /bench -->'
    said = [re.search(mark, (ROOT / file).read_text(encoding='utf-8'))[1] for file in ('README.md', 'README.en.md')]
    return f'{both(*(html.escape(sentence.strip()) for sentence in said))} {rhyming(name, measured)}'


def svg_of(path: Path, label: str) -> str:
    """A plot drawn into the page, so that it follows its light and dark."""
    text = path.read_text(encoding='utf-8')
    text = re.sub(r'<style>.*?</style>|<metadata>.*?</metadata>|<\?xml.*?\?>|<!DOCTYPE.*?>', '', text, flags=re.S)
    text = re.sub(r'( id="|url\(#|href="#)', rf'\1{path.stem}-', text)       # several plots on a page
    return text.replace('<svg ', f'<svg role=img aria-label="{html.escape(label)}" ', 1)


# script, its row in the picture from the bottom, its left edge and its width
PLACES = [*((name, row, 10, 156) for row, name in enumerate(RUNGS)),
          *((name, row, 194, 110) for row, name in enumerate(SCRIPTS[len(RUNGS):], len(RUNGS) - 2))]


def ladder(lit: str | None) -> str:
    """The ladder as a picture: v0 at the bottom, each rung a link, in the colour of what it buys; its branch beside."""
    step, height, rows = 30, 30 * (len(RUNGS) + 1) + 20, ''
    for name, row, left, wide in PLACES:
        y = height - step * (row + 1)
        css = f'rung {IDEAS[name][2]}' + (' lit' if name == lit else '')
        here = ' aria-current=page' if name == lit else ''
        rows += (f'<a href="{name}.html"{here}><g class="{css}">'
                 f'<rect x={left} y={y} width={wide} height={step - 6} rx=4></rect>'
                 f'<text x={left + wide / 2} y={y + 17} text-anchor=middle>{name}</text></g></a>')
    label = '阶梯：从下往上，一级一个脚本 / the ladder, from the bottom up'
    fork, branch = height - step * (RUNGS.index('v10_muon') + 1) + 12, height - step * (len(RUNGS) - 1) + 30
    return (f'<svg class=ladder viewBox="0 0 312 {height}" role=group aria-label="{label}">'
            f'<path d="M10 {step + 6}V{height - 2}M166 {step + 6}V{height - 2}M194 8V{branch}M304 8V{branch}"></path>'
            f'<path class=fork d="M166 {fork}H249V{branch}"></path>{rows}</svg>')


def picture(english: bool) -> str:
    """The ladder as a file of its own, for the README: each rung, its idea, and what it buys."""
    step, width = 30, 720
    height, rows = step * len(SCRIPTS) + 16, ''
    style = (SITE / 'style.css').read_text(encoding='utf-8')
    light, dark = (dict(re.findall(r'--(\w+): (#\w+)', block)) for block in re.findall(
        r'^(?::root|html\[data-theme=dark\]) \{(.*?)\n\}', style, re.M | re.S))
    for number, name in enumerate(SCRIPTS):
        y, (idea, currency) = height - step * (number + 1), (IDEAS[name][english], IDEAS[name][2])
        left, wide = (14, 190) if name in RUNGS else (84, 120)      # the branch is narrower
        rows += (f'<rect class="{currency}" x="{left}" y="{y}" width="{wide}" height="24" rx="4"/>'
                 f'<text x="{left + wide / 2:g}" y="{y + 17}" text-anchor="middle" class="name">{name}</text>'
                 f'<text x="238" y="{y + 17}">{html.escape(idea)}</text>'
                 f'<text x="{width - 8}" y="{y + 17}" text-anchor="end" class="t-{currency}">'
                 f'{CURRENCIES[currency][english]}</text>')

    top, fork = (height - step * (number + 1) for number in (len(RUNGS) - 1, RUNGS.index('v10_muon') - 0.4))

    def colours(values):
        return (f'text{{fill:{values["text"]}}}rect{{fill:{values["box"]}}}path{{stroke:{values["quiet"]}}}' + ''.join(
            f'.{name}{{stroke:{values[name]}}}.t-{name}{{fill:{values[name]}}}' for name in CURRENCIES))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"><style>'
            'text{font:14px system-ui,sans-serif}.name{font:13px monospace}rect{stroke-width:2}'
            'path{stroke-width:6;fill:none}.fork{stroke-width:2}'
            f'{colours(light)}@media (prefers-color-scheme:dark){{{colours(dark)}}}</style>'
            f'<path d="M14 {top + 4}V{height - 2}M204 {top + 4}V{height - 2}M84 4V{top - 6}M204 4V{top - 6}"/>'
            f'<path class="fork" d="M204 {fork}H220V{top - 18}H204"/>{rows}</svg>\n')


def neighbours(name: str) -> str:
    """Links to the script below and those above, and to the whole script."""
    above = [other for other, below in BELOW.items() if below == name] or ASIDE.get(name, [])
    links = [f'<a rel=prev href="{BELOW[name]}.html">← {BELOW[name]}</a>'] if name in BELOW else []
    links.append(f'<a href="{name}.source.html">{both("读整个脚本", "The whole script")}</a>')
    links += [f'<a {"rel=next" if n == 0 else ""} href="{other}.html">{other} →</a>' for n, other in enumerate(above)]
    return f'<nav class=steps aria-label="上一级、下一级 / steps">{"".join(links)}</nav>'


def worth(name: str, n: int, measured: list[dict]) -> tuple[str, str]:
    """(on the chip, its tooltip): what changes without the idea, the largest of its parts; all of them."""
    for result in reversed(measured):
        parts = report.left_out(result, name)
        parts = {idea: parts[idea] for idea in LEFT_OUT.get(name, {}).get(n, []) if idea in parts}
        if parts:
            listed = '; '.join(f'{idea}: {change}' for idea, (_, change) in parts.items())
            idea, (chinese, change) = max(parts.items(), key=lambda part: (part[1][1].endswith('char'), abs(float(
                re.search(r'[\d.]+', part[1][1])[0]))))
            if change.endswith('char') and float(re.search(r'[\d.]+', change)[0]) < noise(result):
                label = both('去掉它，差别测不出', 'without it: no measurable difference')
            else:
                label = both(f'不用 {chinese.split("（")[0]} {change}', f'without {idea} {change}')
            return f' <small>{label}</small>', f' title="{html.escape(listed)}"'
    return '', ''


def diff_tools(name: str, found: dict, measured: list[dict]) -> str:
    """Layout, filter by idea, the bar that says where one is."""
    chips = ''
    for n, label in enumerate(IDEAS[name][3]):
        if label:
            change, listed = worth(name, n, measured)
            chips += (f'<button type=button class="chip c{n}" data-idea={n} aria-pressed=false{listed}>'
                      f'{both(*map(html.escape, label))}{change}</button>')
    count = f'<ins>+{found["added"]}</ins> <del>−{found["removed"]}</del>'
    keys = both('键盘：<kbd>j</kbd> <kbd>k</kbd> 下一处、上一处，<kbd>←</kbd> <kbd>→</kbd> 上一级、下一级',
                'Keyboard: <kbd>j</kbd> <kbd>k</kbd> next and previous change, <kbd>←</kbd> <kbd>→</kbd> steps')
    n = found['n']
    return (f'<p class=counts>{both(f"{n} 处改动，{count} 行", f"{n} changes, {count} lines")}</p>'
            f'<div class=tools><span>{both("只看：", "Show only:")}</span>{chips}'
            f'<button type=button id=layout aria-pressed=false>{both("左右并排", "Side by side")}</button></div>'
            f'<p class=keys>{keys} <label><input type=checkbox id=shortcuts checked>{both("开", "on")}</label></p>')


def bar(found: dict) -> str:
    options = ''.join(f'<option value="{anchor}">{html.escape(title)}</option>' for anchor, title in found['contents'])
    return (f'<div class=bar role=toolbar aria-label="改动 / changes">'
            f'<button type=button id=previous>{both("上一处", "Previous")}</button>'
            f'<label><span class=hidden>{both("改动", "Change")}</span><select id=hunks>{options}</select></label>'
            f'<output id=position></output><button type=button id=following>{both("下一处", "Next")}</button></div>')


def step_page(name: str, measured: list[dict]) -> str:
    chinese, english, currency, _ = IDEAS[name]
    head = (f'<h1>{name}.py <span class=sub>{both(html.escape(chinese), html.escape(english))}</span></h1>'
            f'<p class="buys {currency}"><b>{both(*CURRENCIES[currency])}</b> {bought(name, measured)}</p>')
    lesson = article(ROOT / 'lessons', name)
    top = f'{neighbours(name)}{head}<div class=lesson>{lesson}{ladder(name)}</div>'
    if name not in BELOW:
        head = f'<h2 id=script>{both("整个脚本", "The whole script")}</h2>{contents(name)}'
        body = f'{top}{head}{whole_script(name, True)}{neighbours(name)}'
        return page((f'{name}：{chinese}', f'{name}: {english}'), body)
    found = difference(name)
    summary = both('杂项：import、文件夹……', 'Plumbing: imports, folders …')
    plumbing = found['plumbing'] and (f'<details class=plumbing><summary>{summary}</summary>'
                                      f'{found["plumbing"]}</details>')
    head = both(f'与 {BELOW[name]} 的差异', f'What changes from {BELOW[name]}')
    body = (f'{top}<div><h2 id=diff-head>{head}</h2>{diff_tools(name, found, measured)}'
            f'<div class=diff id=diff>{found["html"]}{plumbing}</div>{bar(found)}</div>{neighbours(name)}')
    scripts = '<script src="toys.js"></script>' * ('class=toy' in lesson) + '<script src="diff.js"></script>'
    return page((f'{name}：{chinese}', f'{name}: {english}'), body, scripts, 'step')


def whole_script(name: str, noted: bool = False) -> str:
    """All lines of a script; v0_char_english with its notes beside them."""
    lines, notes, rows = lines_of(SOURCE[name]), list(NOTES[name]) if noted else [], ''
    at = {}
    for note in notes:
        n = next((n for n, line in enumerate(lines) if note[0] in plain(line)), None)
        if n is None:
            sys.exit(f'{name}: this note fits no line: {note[0]}')
        at.setdefault(n, []).append(note)
    order = sorted(at)
    for n, line in enumerate(lines):
        rows += (f'<div class="w e" id=L{n + 1} '
                 f'style="--u:{n + 1};--s:{n + 1};--i:{indent(line)}"><i class=o></i>'
                 f'<i class=n>{n + 1}</i>'
                 f'<code>{paint(line)}</code></div>')
        if n in at:
            following = next((other for other in order if other > n), len(lines))
            text = ''.join(f'<p>{both(prose(chinese), prose(english))}</p>' for _, chinese, english in at[n])
            rows += f'<aside style="--u:{n + 1};--s:{n + 1};--n:{following - n}">{text}</aside>'
    return f'<div class="diff whole{" noted" if noted else ""}"><div class=rows lang=zh>{rows}</div></div>'


def contents(name: str) -> str:
    """Links to the definitions of a whole script."""
    names = [(node.name, node.lineno) for node in ast.parse(SOURCE[name]).body
             if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    items = ''.join(f'<li><a href="#L{line}"><code>{found}</code></a></li>' for found, line in names)
    return f'<details class=contents open><summary>{both("目录", "Contents")}</summary><ol>{items}</ol></details>'


def source_page(name: str) -> str:
    back = f'<p><a href="{name}.html">{both(f"{name} 这一课", f"The lesson of {name}")}</a></p>'
    body = f'<h1>{name}.py</h1>{back}{contents(name)}{whole_script(name)}'
    return page((f'{name}.py 全文', f'{name}.py, whole'), body)


def playground() -> str:
    """The model in the page: a form for a song, the surprise strip. play.js brings it to life."""
    size = (SITE / 'song-model.js').stat().st_size / 1e6
    load = both(f'载入模型（{size:.1f} MB）', f'Load the model ({size:.1f} MB)')
    fields = (f'<label>{both("开头", "It begins with")}<textarea id=opening rows=3 maxlength=300 lang=zh>雨落在旧站台\n'
              f'我还在等你</textarea></label>'
              f'<label>{both("情绪", "Mood")} <select id=mood><option value="">—</option></select></label>'
              f'<label>{both("韵", "Rhyme")} <select id=rhyme><option value="">—</option></select></label>'
              f'<label>{both("温度", "Temperature")} <input type=range id=temperature min=0 max=1.5 step=0.1 value=0.8>'
              f'<output id=degrees>0.8</output></label>'
              f'<span><button id=write>{both("写", "Write")}</button> '
              f'<button type=button id=stop disabled>{both("停", "Stop")}</button> '
              f'<button type=button id=copy>{both("复制", "Copy")}</button></span>')
    strip = both('<b>它有多意外。</b>你写的每个字，颜色越浓，模型越没料到（−log<sub>2</sub> p）；平均就是 bits/char。'
                 '模型在这里还看得见每行的字数和韵，所以这个数低了一点。'
                 '点一个字：它当时最看好的十个，和这个字的注意力看向哪里（蓝色下划线）。',
                 '<b>How surprised it is.</b> The stronger the colour of a character, the less the model expected it '
                 '(−log<sub>2</sub> p); the mean is bits/char. Here the model is told the length and the rhyme of '
                 'each line, so the number flatters it a little. Choose one: the ten that it expected, and where '
                 "that character's attention looks (underlined in blue).")
    return (f'<h2 id=play>{both("写一首歌", "Write a song")}</h2>{article(SITE / "pages", "model")}'
            f'<noscript><p>{both("这里要 JavaScript。", "This needs JavaScript.")}</p></noscript>'
            f'<button type=button id=load>{load}</button><form id=playing hidden><div><div class=fields>{fields}</div>'
            f'<div id=song lang=zh></div><p id=finished class=hidden lang=zh aria-live=polite></p></div>'
            f'<div><p>{strip} <output id=mean></output></p><p id=cut></p><div id=strip lang=zh></div>'
            f'<div id=likely lang=zh></div><div id=looks></div><p id=unseen></p></div></form>')


def written(measured: list[dict]) -> dict[str, dict]:
    """rung -> its run of the bench's experiment `rhymes`: songs on the way, and its surprise at one verse."""
    found = {}
    for result in measured:
        for key, job in result['jobs'].items():
            if key.startswith('rhymes/'):
                found[key.split('/')[1]] = job
    return found


def strips(runs: dict[str, dict]) -> str:
    """The same verse under every rung, each token tinted by the bits that it cost."""
    rows = ''
    for name in (name for name in SCRIPTS if name in runs):
        tokens = [(text, bits) for text, bits in runs[name]['strip'] if text and not text.startswith('<')]
        mean = sum(bits for _, bits in tokens) / sum(len(text) for text, _ in tokens)
        spans = ''.join(f'<span style="--heat:{min(1, bits / len(text) / 16):.2f}" title="{bits:.1f} bit">'
                        f'{html.escape(text).replace(chr(10), "⏎")}</span>' for text, bits in tokens)
        rows += (f'<tr><td><a href="{name}.html">{name}</a></td><td><div class=strip lang=zh>{spans}</div></td>'
                 f'<td>{mean:.2f}</td></tr>')
    head = both('同一段词，各级有多意外', 'The same verse, and how it surprises each rung')
    about = both('各级按默认设置训练之后读这一段；颜色越浓，越没料到。只是一段词，名次不算数；'
                 's1、s2 还看得见每行的字数和韵。',
                 'Read by each rung after training as shipped; the stronger the colour, the less expected. '
                 'It is one verse, so the order says little; s1 and s2 are told the length and rhyme of each line.')
    return (f'<h2>{head}</h2><p>{about}</p><div class=scroll tabindex=0><table><tr><th></th><th></th>'
            f'<th>bits/char</th></tr>{rows}</table></div>') if rows else ''


def coloured(line: str, name: str) -> str:
    """A line of a song, the character that rhymes in the colour of its class, as play.js shows it."""
    if name == '无':
        return html.escape(line)
    end = re.search(r'[\u4e00-\u9fff](?=\W*$)', line)
    hue = list(lyrics.RHYMES).index(name) * 360 / len(lyrics.RHYMES)
    return (f'{html.escape(line[:end.start()])}<b class=rhymed style="--hue:{hue:.0f}" title={name}>{end[0]}</b>'
            f'{html.escape(line[end.end():])}')


def growth(runs: dict[str, dict]) -> str:
    """What one run wrote on its way, from noise to rhymes; play.js moves through it, without it the last stands."""
    songs = []
    for step, song in runs.get('s1_control', {}).get('songs', []):
        lines = [re.sub(r'[\x00-\x1f\x7f-\x9f]', '', line) for line in song.split('\n')[1:-1]]  # the last may be cut
        songs.append([step, [[line, (lyrics.rhyme(line) or ('', '无'))[1]] for line in lines]])
    if not songs:
        return ''
    data = json.dumps(songs, ensure_ascii=False, separators=(',', ':')).replace('</', '<\\/')
    head = both('同一次训练，越写越像', 'One run, and how its songs grow')
    step = both('步', 'steps')
    last = '\n'.join(coloured(*line) for line in songs[-1][1])
    return (f'<h2>{head}</h2><label>s1_control <input type=range id=growth min=0 max={len(songs) - 1} '
            f'value={len(songs) - 1}></label> <output id=grown>{songs[-1][0]}</output> {step}'
            f'<pre class=song id=song-then lang=zh tabindex=0>{last}</pre>'
            f'<script type="application/json" id=growth-data>{data}</script>')


def front_page(measured: list[dict]) -> str:
    rungs = ''
    for name in SCRIPTS:
        chinese, english, currency, _ = IDEAS[name]
        rungs += (f'<li class="{currency}"><a class=name href="{name}.html">{name}</a> '
                  f'<span>{both(html.escape(chinese), html.escape(english))}</span> '
                  f'<a href="{name}.source.html">{both("脚本", "script")}</a>'
                  f'<span class=buys><b>{both(*CURRENCIES[currency])}</b> {bought(name, measured)}</span></li>')
    song = next((job['song'] for result in measured for key, job in result['jobs'].items()
                 if key == 'shipped/v10_muon/whole run' and job.get('song')), '')
    song = '\n'.join(song.splitlines()[:6])
    intro = both(
        '十五个脚本，一级一级往上：从不到 300 行的字符级 GPT，到当今开源模型的架构、更好的优化器、比内存还大的数据、'
        '多块 GPU。每个脚本都是完整的，每一级只加一个想法；<b>相邻两级的差异，就是一课</b>。'
        '另有三个支线脚本：押韵，练习，写自己的歌。',
        'Fifteen scripts, rung by rung: from a character-level GPT in less than 300 lines to the architecture of '
        "today's open models, a better optimizer, more data than memory holds, several GPUs. Each is complete, each "
        'adds one idea; <b>the difference between two neighbours is the lesson</b>. And three more to the side: rhyme, '
        'practice, songs of your own.')
    how = both('从最下面一级开始：', 'Begin at the bottom: ')
    run = both('或者马上训练一个（没有 GPU 也行，两分钟左右）：',
               'Or train one at once (no GPU needed, some two minutes): ')
    bits = both('下面常说到 <b>bits/char</b>：模型平均每个字要用多少比特编码，越低越好；不同的词表也能比。',
                'A word that follows often: <b>bits/char</b>, how many bits the model needs to encode a character, on '
                'average; lower is better, whatever the tokenizer.')
    where = both('句子末尾写着在哪里测的：自带的样本有 2,516 首歌，默认设置；'
                 '古诗有 680 万字，除了这一级的想法和各自最好的学习率，别的都一样。'
                 '押韵的节：写 40 首，第 2、4 行押韵的占多少。',
                 'Each sentence ends with where it was measured: the shipped sample has 2,516 songs, and the constants '
                 'are as they stand; the classical poems have 6.8 million characters, and everything but the idea of '
                 'the rung and its best learning rate is alike. Rhyming stanzas: of 40 songs, those whose lines 2 and '
                 '4 rhyme.')
    wrote = both('v10 训练 800 步之后写的：', 'Written by v10 after 800 steps:')
    song = f'<p>{wrote}</p><pre class=song lang=zh tabindex=0>{html.escape(song)}</pre>' if song else ''
    play, runs = playground(), written(measured)
    title = both('从零训练一个写歌词的 GPT', 'A GPT that writes song lyrics, from scratch')
    below = both('每一级带来了什么', 'Every rung, and what it buys')
    body = (f'<div class=hero><div><h1>{title}</h1><p>{intro}</p>'
            f'<p>{how}<a class=start href="v0_char_english.html">v0_char_english →</a></p>'
            f'<p>{run}</p><pre class=command tabindex=0>pip install -r requirements.txt &amp;&amp; '
            f'python v6_wandb.py</pre>'
            f'{song}</div>'
            f'{ladder(None)}</div><p>{bits}</p>{play}<h2>{below}</h2><p>{where}</p><ol class=rungs>{rungs}</ol>'
            f'{growth(runs)}{strips(runs)}')
    return page(NAME, body, '<script src="model.js"></script><script src="play.js"></script>')


def results_page(measured: list[dict]) -> str:
    """Every table and plot of the bench."""
    names = {'shipped': ('默认设置', 'As shipped'), 'rhymes': ('押韵', 'Rhymes'),
             'corpus': ('多少歌', 'How many songs'),
             'steps': ('同样多的步', 'Equal steps'), 'rates': ('学习率', 'Learning rates'),
             'without': ('逐个去掉', 'Leave one out')}
    body = f'<h1>{both("实测结果", "Results")}</h1>' + article(SITE / 'pages', 'results')
    for result in measured:
        machine = result['machine']
        packages = ', '.join(f'{package} {version}' for package, version in machine['packages'].items())
        body += (f'<h2>{both(*corpus(result))}</h2>'
                 f'<p class=where>{machine["gpu"] or machine["cpu"]}, {machine["cores"]} cores, {packages}</p>')
        tables = zip(report.tables(result).items(), report.tables(result, english=True).values(), strict=True)
        body += ''.join(f'<h3>{both(*names[name])}</h3>{both(to_html(chinese), to_html(english), "div")}'
                        for (name, chinese), english in tables)
        captions = CAPTIONS | {name: (f'{name} 与下面一级', f'{name} and the rung below') for name in SCRIPTS}
        found = {name: result['plots'] / f'{name}.svg' for name in captions}
        plots = ''.join(f'<figure><div class=scroll tabindex=0>{svg_of(plot, name)}</div>'
                        f'<figcaption>{both(*captions[name])}</figcaption></figure>'
                        for name, plot in found.items() if plot.exists())
        body += f'<div class=figures>{plots}</div>' if plots else ''
    return page(('实测结果', 'Results'), body)


def compare_page() -> str:
    """Any script against any other, by definition; compare.js finds the lines that differ."""
    table, definitions, scripts = {}, {}, {}
    for name in SCRIPTS:
        lines = [table.setdefault(paint(line), len(table)) for line in lines_of(SOURCE[name])]
        classes = [list(parts) for _, parts in itertools.groupby(       # with their methods
            segments(SOURCE[name]), lambda part: part[0].split('.')[0])]
        scripts[name] = [[parts[0][0], definitions.setdefault(tuple(lines[parts[0][1]:parts[-1][2]]), len(definitions)),
                          parts[0][1]] for parts in classes]
    everything = {'lines': list(table), 'definitions': list(definitions), 'scripts': scripts}
    data = json.dumps(everything, ensure_ascii=False, separators=(',', ':')).replace('</', '<\\/')
    options = ''.join(f'<option>{name}</option>' for name in SCRIPTS)
    links = ''.join(f'<li><a href="{name}.html">{name}</a></li>' for name in BELOW)
    body = (f'<h1>{both("任选两级对比", "Any script against any other")}</h1>'
            f'<p>{both("按函数、类逐个对比，忽略文件开头的说明。", "By definition, without the docstrings.")}</p>'
            f'<form id=compare><label>{both("从", "from")} <select id=a>{options}</select></label> '
            f'<label>{both("到", "to")} <select id=b>{options}</select></label> '
            f'<button type=button id=layout aria-pressed=false>{both("左右并排", "Side by side")}</button></form>'
            f'<p class=counts id=counts role=status></p>'
            f'<noscript><p>{both("这一页要 JavaScript。这些不要：", "This page needs JavaScript. These do not:")}</p>'
            f'<ul>{links}</ul></noscript><div class=diff id=diff lang=zh></div>')
    scripts = f'<script type="application/json" id=data>{data}</script><script src="compare.js"></script>'
    return page(('任选两级对比', 'Any script against any other'), body, scripts)


def build(folder: Path) -> dict[str, str]:
    """Write all pages into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    measured = results()
    pages = {'index.html': front_page(measured), 'compare.html': compare_page(), 'results.html': results_page(measured)}
    for name, title in PAGES.items():
        pages.setdefault(f'{name}.html', page(title, f'<h1>{both(*title)}</h1>' + article(SITE / 'pages', name)))
    for name in SCRIPTS:
        pages[f'{name}.html'] = step_page(name, measured)
        pages[f'{name}.source.html'] = source_page(name)
    for name in ('style.css', 'page.js', 'diff.js', 'compare.js', 'toys.js', 'model.js', 'play.js',
                 'song-model.js'):
        pages[name] = (SITE / name).read_text(encoding='utf-8')
    pages |= {'ladder.svg': picture(False), 'ladder.en.svg': picture(True), '.nojekyll': ''}
    for name, text in pages.items():
        (folder / name).write_text(text, encoding='utf-8', newline='\n')
    return pages


if __name__ == '__main__':
    made = build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / 'docs')
    largest = max(made, key=lambda name: len(made[name].encode()))
    print(f'{len(made)} files; the largest is {largest}, {len(made[largest].encode()) / 1000:.0f} kB')
