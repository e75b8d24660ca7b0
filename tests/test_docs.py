"""docs/: the committed pages are what build.py makes now, stand alone, and work in a real browser."""
import html
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from conftest import ROOT, RUNGS

sys.path.insert(0, str(ROOT / 'docs'))
import build
from notes import NOTES

PAGES = ['index.html', 'compare.html', *(f'{name}.html' for name in RUNGS),
         *(f'{name}.source.html' for name in RUNGS[1:])]
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')


def text(name):
    return (ROOT / 'docs' / name).read_text(encoding='utf-8')


class Reader(HTMLParser):
    """Collects tags, and checks that they nest."""
    VOID = {'meta', 'link', 'img', 'br', 'input'}

    def __init__(self):
        super().__init__()
        self.open, self.tags = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()


def read(name):
    reader = Reader()
    reader.feed(text(name))
    assert not reader.open
    return reader.tags


# ---------- without a browser ----------
def test_the_committed_pages_are_what_build_makes_now(tmp_path):
    done = subprocess.run([sys.executable, 'docs/build.py', str(tmp_path)], cwd=ROOT, capture_output=True,
                          encoding='utf-8')
    assert done.returncode == 0, done.stderr
    made = {path.name for path in tmp_path.iterdir()}
    committed = {path.name for path in (ROOT / 'docs').iterdir() if path.is_file() and path.suffix != '.py'}
    assert made == committed and set(PAGES) <= made
    for name in made:
        same = (tmp_path / name).read_bytes() == (ROOT / 'docs' / name).read_bytes()
        assert same, f'{name}: run python docs/build.py'


@pytest.mark.parametrize('name', PAGES)
def test_pages_are_small_stand_alone_and_link_to_what_exists(name):
    assert len(text(name).encode()) < 600_000
    tags = read(name)
    ids = [attributes['id'] for _, attributes in tags if 'id' in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in tags:
        link = attributes.get('href') or attributes.get('src')
        if not link or link == 'data:,':
            continue
        assert not re.match(r'\w+:|//|/', link), link               # nothing from outside, nothing absolute
        file, _, anchor = link.partition('#')
        assert (ROOT / 'docs' / (file or name)).exists(), link
        if anchor:
            assert f'id="{anchor}"' in text(file or name) or f'id={anchor}' in text(file or name), link


@pytest.mark.parametrize('name', PAGES)
def test_pages_are_accessible(name):
    tags = read(name)
    headings = [int(tag[1]) for tag, _ in tags if re.fullmatch('h[1-6]', tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(headings, headings[1:], strict=False))
    assert all(attributes.get('alt') for tag, attributes in tags if tag == 'img')
    assert ('html', {'lang': 'zh-CN'}) in tags
    assert [tag for tag, _ in tags if tag in ('header', 'main')] == ['header', 'main']


def test_every_step_has_its_idea_and_notes_beside_its_changes():
    for name in RUNGS[1:]:
        page = text(f'{name}.html')
        assert page.count('<section class=hunk') >= 3 and page.count('<aside>') >= 3 and 'class=idea' in page, name
        assert '<mark>' in page or name == 'v5_checkpoint'
        chinese, english = page.count('<span lang="zh-CN">'), page.count('<span lang="en">')
        assert chinese == english > 10


def test_a_step_shows_exactly_the_difference():
    """The changed lines of the page, put together again, turn one script into the other."""
    for below, above in zip(RUNGS, RUNGS[1:], strict=False):
        rows = re.findall(r'<div class="w eq">.*?<i>\d+</i><code>(.*?)</code></div>|<div class=w>(.*?)</div>',
                          text(f'{above}.html'))
        old, new = [], []
        for equal, changed in rows:
            old += re.findall(r'<del class=l>(.*?)</del>', changed) if changed else [equal]
            new += re.findall(r'<ins class=r>(.*?)</ins>', changed) if changed else [equal]
        for lines, name in ((old, below), (new, above)):
            source = (ROOT / f'{name}.py').read_text(encoding='utf-8')
            plain = html.unescape('\n'.join(re.sub('<.*?>', '', line) for line in lines))
            assert plain == re.sub(r'\A""".*?"""\n', '', source, flags=re.S).rstrip('\n'), (below, above)


def test_every_change_changes_something_and_has_its_notes_in_order():
    for above in RUNGS[1:]:
        titles = []
        for hunk in re.findall('<section class=hunk.*?</section>', text(f'{above}.html'), re.S):
            lines = re.findall('<(?:del|ins) class=.>(.*?)</(?:del|ins)>', hunk)
            lines = [html.unescape(re.sub('<.*?>', '', line)) for line in lines]
            assert any(line.strip() for line in lines), (above, hunk[:200])
            titles.append(re.search('<h3>(.*?)</h3>', hunk)[1])
            shown = {hunk.index(build.prose(chinese)): key for key, chinese, _ in NOTES[above]
                     if build.prose(chinese) in hunk}
            notes = [shown[place] for place in sorted(shown)]       # as they stand on the page
            places = [next(n for n, line in enumerate(lines) if key in line) for key in notes]
            assert places == sorted(places), (above, notes)
        assert len(set(titles)) == len(titles), above               # each can be told from the others


def test_colours_stand_out_in_light_and_dark():
    """At least 4.5 : 1 (WCAG AA) for every colour of text on every background that it stands on."""
    style = text('style.css')
    pairs = dict(re.findall(r'--([\w-]+): light-dark\((#\w{6}, #\w{6})\)', style))

    def luminance(colour):
        parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    for front in ('text', 'quiet', 'link', 'c', 's', 'k', 'f', 'b', 'm'):
        for back in ('page', 'box', 'old', 'new', 'old-word', 'new-word'):
            if front in ('quiet', 'link') and back.endswith('-word'):
                continue
            for one, two in zip(pairs[front].split(', '), pairs[back].split(', '), strict=True):
                a, b = sorted((luminance(one), luminance(two)))
                assert (b + 0.05) / (a + 0.05) >= 4.5, (front, back, one, two)


# ---------- in a browser ----------
@pytest.fixture(scope='module')
def browser():
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine: install Debian's package `chromium`")
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """visit(page, width, height): the open page; at the end no error and no outside request may have happened."""
    trouble, contexts = [], []

    def make(name, width=1300, height=900, **options):
        contexts.append(browser.new_context(viewport={'width': width, 'height': height}, **options))
        page = contexts[-1].new_page()
        page.on('console', lambda message: message.type in ('error', 'warning') and trouble.append(message.text))
        page.on('pageerror', lambda error: trouble.append(str(error)))
        page.on('request', lambda request: request.url.startswith(('file:', 'data:')) or trouble.append(request.url))
        page.on('requestfailed', lambda request: trouble.append(request.url))
        page.goto((ROOT / 'docs' / name.split('#')[0]).as_uri() + name[len(name.split('#')[0]):])
        return page
    yield make
    for context in contexts:
        context.close()
    assert not trouble


def test_every_page_loads_and_fits_a_phone(visit):
    for name in PAGES:
        page = visit(name, 360, 740)
        assert page.evaluate('document.documentElement.scrollWidth') <= 360, name
        page.evaluate('document.querySelectorAll("details").forEach(fold => fold.open = true)')
        assert page.evaluate('document.documentElement.scrollWidth') <= 360, name
        cut = ('[...document.querySelectorAll(".diff .w > *")]'
               '.filter(cell => cell.scrollWidth > cell.clientWidth + 1).length')
        assert page.evaluate(cut) == 0, name                        # .diff hides what overflows: no line may
        assert page.locator('h1').is_visible()


def test_side_by_side_becomes_stacked(visit):
    wide, phone = visit('v2_cosine_lr.html'), visit('v2_cosine_lr.html', 360, 740)
    sides = ('div.w:has(del):has(ins) > del', 'div.w:has(del):has(ins) > ins')
    boxes = [[page.locator(side).first.bounding_box() for side in sides] for page in (wide, phone)]
    assert boxes[0][0]['y'] == boxes[0][1]['y'] and boxes[0][0]['x'] < boxes[0][1]['x']
    assert boxes[1][0]['y'] < boxes[1][1]['y'] and boxes[1][0]['x'] == boxes[1][1]['x']


def test_folding(visit):
    page = visit('v4_flash_optim.html')
    fold = page.locator('details.fold').first
    assert not fold.locator('div.w').first.is_visible()
    fold.locator('summary').click()
    assert fold.locator('div.w').first.is_visible()
    page.keyboard.press('o')                                        # everything, and back
    assert page.evaluate('[...document.querySelectorAll("details.fold")].every(fold => fold.open)')
    page.keyboard.press('o')
    assert not page.evaluate('[...document.querySelectorAll("details.fold")].some(fold => fold.open)')


def test_keyboard(visit):
    page = visit('v4_flash_optim.html')
    hunks = page.evaluate('[...document.querySelectorAll(".hunk")].map(hunk => hunk.id)')
    seen = []
    for _ in range(3):
        page.keyboard.press('j')
        seen.append(page.evaluate('document.activeElement.id'))
    assert seen == hunks[:3] and page.url.endswith('#' + hunks[2])
    assert 0 <= page.evaluate('document.activeElement.getBoundingClientRect().top') < 200
    page.keyboard.press('k')
    assert page.evaluate('document.activeElement.id') == hunks[1]
    page.keyboard.press('ArrowRight')
    page.wait_for_url('**/v5_checkpoint.html')
    page.keyboard.press('ArrowLeft')
    page.wait_for_url('**/v4_flash_optim.html')
    page.keyboard.press('Tab')                                      # the first stop leads past the header
    assert page.evaluate('document.activeElement.className') == 'skip'
    assert page.evaluate('document.activeElement.getBoundingClientRect().left') >= 0


def test_deep_links(visit):
    page = visit('v4_flash_optim.html#make_optimizer')
    assert page.evaluate('document.activeElement.id') == 'make_optimizer'
    assert -1 <= page.locator('#make_optimizer').bounding_box()['y'] < 200
    page.evaluate('scrollTo(0, 0)')                                 # scrolled away by hand: on from what is in sight
    page.keyboard.press('j')
    assert page.evaluate('document.activeElement === document.querySelector(".hunk")')


def test_language(visit):
    page = visit('v4_flash_optim.html')
    assert page.locator('h1 [lang=zh-CN]').is_visible() and not page.locator('h1 [lang=en]').is_visible()
    page.click('#language')
    assert page.locator('h1 [lang=en]').is_visible() and not page.locator('h1 [lang=zh-CN]').is_visible()
    assert page.title().startswith('v4_flash_optim: flash') and page.evaluate('document.documentElement.lang') == 'en'
    page.goto((ROOT / 'docs' / 'index.html').as_uri())              # and stays so
    assert page.locator('h1 [lang=en]').is_visible()
    page.click('#language')
    assert page.locator('h1 [lang=zh-CN]').is_visible()


def test_dark_and_light(visit):
    def background(page):
        return page.evaluate('getComputedStyle(document.body).backgroundColor')
    light, dark = visit('index.html', color_scheme='light'), visit('index.html', color_scheme='dark')
    assert (background(light), background(dark)) == ('rgb(255, 255, 255)', 'rgb(21, 24, 28)')
    light.click('#theme')
    assert background(light) == 'rgb(21, 24, 28)'
    light.emulate_media(media='print')                              # on paper it is light again, and without switches
    assert background(light) == 'rgb(255, 255, 255)' and not light.locator('#theme').is_visible()


def test_old_and_new_differ_by_more_than_colour(visit):
    page = visit('v2_cosine_lr.html', 360, 740)
    signs = page.evaluate('''[['l', 'del'], ['r', 'ins']].map(([side, tag]) =>
        getComputedStyle(document.querySelector(`i.${side}:has(+ ${tag})`), '::before').content)''')
    assert signs == ['"−"', '"+"']


def test_without_javascript(visit):
    page = visit('v4_flash_optim.html', java_script_enabled=False)
    assert page.locator('h1 [lang=zh-CN]').is_visible() and not page.locator('h1 [lang=en]').is_visible()
    page.locator('details.fold summary').first.click()
    assert page.locator('details.fold div.w').first.is_visible()
    assert not page.locator('#theme').is_visible() and not page.locator('.keys').is_visible()
    page = visit('compare.html', java_script_enabled=False)
    assert page.locator('noscript').count() and '要 JavaScript' in page.content()


def test_compare(visit):
    """Any two rungs, either way round: the page's columns are the two scripts."""
    def columns(page):
        return page.evaluate('''[['l', 'del'], ['r', 'ins']].map(([side, tag]) =>
            [...document.querySelectorAll('#diff .w')].filter(row => row.matches('.eq') || row.querySelector(tag))
                .map(row => (row.matches('.eq') ? row.lastElementChild : row.querySelector(tag)).textContent)
                .join('\\n'))''')

    def sources(*names):
        return [(ROOT / f'{name}.py').read_text(encoding='utf-8').rstrip('\n') for name in names]
    page = visit('compare.html#v1_bpe_rope...v6_wandb')
    assert columns(page) == sources('v1_bpe_rope', 'v6_wandb')
    added, removed = (int(n) for n in re.findall(r'\d+', page.locator('#counts').inner_text()))
    page.select_option('#a', 'v6_wandb')
    page.select_option('#b', 'v1_bpe_rope')
    assert columns(page) == sources('v6_wandb', 'v1_bpe_rope') and page.url.endswith('#v6_wandb...v1_bpe_rope')
    assert [int(n) for n in re.findall(r'\d+', page.locator('#counts').inner_text())] == [removed, added]
    page.select_option('#b', 'v6_wandb')                            # with itself: nothing
    assert page.locator('#diff .hunk').count() == 0 and columns(page) == sources('v6_wandb', 'v6_wandb')
    page.select_option('#a', 'v0_char_english')
    page.select_option('#b', 'v12_ddp')
    assert columns(page) == sources('v0_char_english', 'v12_ddp')
    page.locator('body').press('j')
    assert page.evaluate('document.activeElement.id') == 'v0_char_english...v12_ddp.1'
    page = visit('compare.html#v1_bpe_rope...v6_wandb.3')           # a link to a change, as `j` leaves it
    assert columns(page) == sources('v1_bpe_rope', 'v6_wandb')
    assert page.evaluate('document.activeElement.id') == 'v1_bpe_rope...v6_wandb.3'
