"""docs/: the committed pages are what site/build.py makes now, stand alone, and work in a real browser."""
import html
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser

import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT / 'site'))
import build
from ideas import CURRENCIES, IDEAS
from notes import NOTES

PAGES = ['index.html', 'compare.html', *(f'{name}.html' for name in build.PAGES), *(f'{name}.html' for name in build.SCRIPTS),
         *(f'{name}.source.html' for name in build.SCRIPTS)]
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
    done = subprocess.run([sys.executable, 'site/build.py', str(tmp_path)], cwd=ROOT, capture_output=True,
                          encoding='utf-8')
    assert done.returncode == 0, done.stderr
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {path.name for path in (ROOT / 'docs').iterdir()} and set(PAGES) <= made
    for name in made:
        same = (tmp_path / name).read_bytes() == (ROOT / 'docs' / name).read_bytes()
        assert same, f'{name}: run python site/build.py'


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
        if _ == 'a' and link.startswith('https:'):                  # to papers and tools; nothing is loaded from outside
            continue
        assert not re.match(r'\w+:|//|/', link), link
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


def hunks(name):
    """[(title, served ideas, HTML)] of a step page, in its order."""
    found = re.findall(r'<div class=hunk id="[^"]*" tabindex=-1 data-ideas="([\d ]*)"><h3><a href="[^"]*">(.*?)</a>.*?</h3>'
                       r'(<div class=rows.*?)(?=<div class=hunk|<details class=plumbing|<div class=bar)', text(f'{name}.html'), re.S)
    return [(title, [int(n) for n in ideas.split()], body) for ideas, title, body in found]


def lines(body, tag):
    return [html.unescape(re.sub('<.*?>', '', line)) for line in re.findall(rf'</i><{tag}>(.*?)</{tag}>', body)]


@pytest.mark.parametrize('name', build.BELOW)
def test_a_step_shows_exactly_the_difference(name):
    """What goes and what comes, each once, turns one script into the other: docstrings and empty lines aside."""
    old, new = ([line for line in re.sub(r'\A""".*?"""\n', '', build.SOURCE[script], flags=re.S).splitlines() if line.strip()]
                for script in (build.BELOW[name], name))
    shown = hunks(name)
    gone = [line for _, _, body in shown for line in lines(body, 'del') if line.strip()]
    come = [line for _, _, body in shown for line in lines(body, 'ins') if line.strip()]
    assert Counter(old) - Counter(gone) == Counter(new) - Counter(come)
    assert Counter(gone) <= Counter(old) and Counter(come) <= Counter(new)
    assert all(lines(body, 'del') or lines(body, 'ins') for _, _, body in shown)
    assert len({title for title, *_ in shown}) == len(shown)        # each can be told from the others


@pytest.mark.parametrize('name', build.BELOW)
def test_hunks_stand_in_the_order_of_the_ideas_and_plumbing_last(name):
    page, shown = text(f'{name}.html'), hunks(name)
    plumbing = page.find('<details class=plumbing>')
    before = [served for title, served, body in shown if plumbing < 0 or page.index(body) < plumbing]
    firsts = [min(served, default=99) for served in before]
    assert firsts == sorted(firsts) and before and before[0] == [] or before[0][0] == min(firsts)
    assert len(IDEAS[name][3]) == len(build.bullets(name)) and IDEAS[name][2] in CURRENCIES
    labels = {n for n, label in enumerate(IDEAS[name][3]) if label}
    assert labels == {n for served in before for n in served}       # every idea has a hunk
    assert plumbing < 0 or 'imports' in page[plumbing:]


@pytest.mark.parametrize('name', build.BELOW)
def test_every_hunk_that_is_not_plumbing_has_a_note_below_its_line(name):
    page, shown = text(f'{name}.html'), hunks(name)
    plumbing = page.find('<details class=plumbing>')
    assert [title for title, _, body in shown if '<aside' not in body and not page.index(body) > plumbing >= 0] == []
    for key, chinese, english in NOTES[name]:
        bodies = [body for *_, body in shown if build.prose(chinese) in body]
        assert bodies and all(build.prose(english) in body for body in bodies)
        for body in bodies:
            before = body[:body.index(build.prose(chinese))].rsplit('<aside', 1)[0]
            assert key in html.unescape(re.sub('<.*?>', '', before.rsplit('<div class="w', 1)[-1])), key


def test_a_definition_that_is_replaced_goes_and_comes_as_a_whole():
    """v0_char_chinese takes load_songs for load_text: two blocks, no line of one among those of the other."""
    shown = {title: body for title, _, body in hunks('v0_char_chinese')}
    assert not lines(shown['load_text'], 'ins') and not lines(shown['load_text'], 'code') and lines(shown['load_text'], 'del')
    assert not lines(shown['load_songs'], 'del') and not lines(shown['load_songs'], 'code')


def test_lessons_are_on_the_pages_in_both_languages():
    for name in build.SCRIPTS:
        for suffix, heading in (('', '试一试'), ('.en', 'Try it')):
            lesson = (ROOT / 'lessons' / f'{name}{suffix}.md').read_text(encoding='utf-8')
            assert f'## {heading}' in lesson and lesson.count('<summary>') >= 1, name
            assert [line for line in lesson.splitlines() if line.startswith('## ')] != []
        page = text(f'{name}.html')
        assert '试一试' in page and 'Try it' in page and page.count('class="rung') == len(build.SCRIPTS)
        assert page.count(' lit"') == 1
    assert '<a class=term href="glossary.html#term-' in text('v4_flash_optim.html')


def test_colours_stand_out_in_light_and_dark():
    """At least 4.5 : 1 (WCAG AA) for every colour of text on every background that it stands on; marked words can be seen."""
    style = text('style.css')
    blocks = re.findall(r'^ *(:root|html\[data-theme=dark\]|html:not\(\[data-theme\]\)) \{(.*?)\}', style, re.M | re.S)
    light, dark, media = (dict(re.findall(r'--([\w-]+): (#\w{6})', block)) for _, block in blocks)
    assert dark == media and light.keys() == dark.keys()

    def contrast(one, two):
        def luminance(colour):
            parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
            parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
            return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
        a, b = sorted((luminance(one), luminance(two)))
        return (b + 0.05) / (a + 0.05)
    for colours in (light, dark):
        for front in ('text', 'c', 's', 'k', 'f', 'b', 'm'):
            for back in ('page', 'box', 'old', 'new', 'old-word', 'new-word'):
                assert contrast(colours[front], colours[back]) >= 4.5, (front, back)
        for front in ('quiet', 'link', *CURRENCIES):
            for back in ('page', 'box'):
                assert contrast(colours[front], colours[back]) >= 4.5, (front, back)
        assert contrast(colours['old'], colours['old-word']) > 1.25 and contrast(colours['new'], colours['new-word']) > 1.25


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
        cut = ('[...document.querySelectorAll(".diff .w > :not(i)")]'
               '.filter(cell => cell.scrollWidth > cell.clientWidth + 1).length')
        assert page.evaluate(cut) == 0, name                        # .hunk hides what overflows: no line may
        assert page.locator('h1').is_visible()


def test_unified_by_default_side_by_side_as_a_switch(visit):
    page = visit('v2_cosine_lr.html', 1400)
    sides = ['.hunk .d:has(mark) > del', '.hunk .a:has(mark) > ins']

    def boxes():
        return [page.locator(side).first.bounding_box() for side in sides]
    old, new = boxes()
    assert old['x'] == new['x'] and old['y'] < new['y']
    page.click('#layout')
    old, new = boxes()
    assert old['y'] == new['y'] and old['x'] < new['x']
    page.reload()                                                   # and stays so
    old, new = boxes()
    assert old['y'] == new['y']
    phone = visit('v2_cosine_lr.html', 390, 844)
    assert not phone.locator('#layout').is_visible()


def test_notes_have_a_gutter_or_stand_below_their_line(visit):
    for width, beside in ((1400, True), (390, False)):
        page = visit('v10_muon.html', width)
        note = page.locator('.rows > aside').first
        line = page.locator('.w:has(+ aside) > :is(ins, del)').first
        a, b = note.bounding_box(), line.bounding_box()
        assert (a['x'] > b['x'] + b['width'] - 2 and abs(a['y'] - b['y']) < 3) if beside else a['y'] >= b['y'] + b['height'] - 2


def test_filter_by_idea(visit):
    page = visit('v4_flash_optim.html')
    whole = page.locator('.hunk:not(.away)').count()
    chip = page.locator('.tools [data-idea="1"]')
    chip.click()
    shown = page.evaluate('[...document.querySelectorAll(".hunk:not(.away)")].map(hunk => hunk.dataset.ideas)')
    assert 0 < len(shown) < whole and all('1' in ideas.split() for ideas in shown)
    assert chip.get_attribute('aria-pressed') == 'true' and not page.locator('.plumbing').is_visible()      # nothing in it is left
    chip.click()
    assert page.locator('.plumbing').is_visible()
    assert page.locator('.hunk:not(.away)').count() == whole


def test_the_bar_and_the_keyboard_go_from_change_to_change(visit):
    page = visit('v4_flash_optim.html')
    ids = page.evaluate('[...document.querySelectorAll(".hunk")].map(hunk => hunk.id)')
    assert page.locator('#previous').is_disabled() and page.locator('.bar').bounding_box()['y'] > 900       # not over the lesson
    page.locator('#following').evaluate('button => button.click()')
    assert page.url.endswith('#' + ids[0]) and page.locator('#position').inner_text() == f'1 / {len(ids)}'
    for expected in ids[1:3]:
        page.keyboard.press('j')
        assert page.evaluate('document.activeElement.id') == expected
    assert page.locator('#hunks').input_value() == ids[2]
    page.keyboard.press('k')
    assert page.evaluate('document.activeElement.id') == ids[1]
    page.select_option('#hunks', 'imports')                         # folded away until it is asked for
    assert page.locator('#imports').is_visible()
    page.select_option('#hunks', ids[-1])
    assert page.locator('#following').is_disabled()
    page.locator('#shortcuts').uncheck()
    page.locator('h1').click()
    page.keyboard.press('ArrowRight')
    assert 'v4_flash_optim' in page.url
    page.locator('#shortcuts').check()
    page.locator('h1').click()
    page.keyboard.press('ArrowRight')
    page.wait_for_url('**/v5_checkpoint.html')
    page.keyboard.press('ArrowLeft')
    page.wait_for_url('**/v4_flash_optim.html')
    page.keyboard.press('Tab')                                      # the first stop leads past the header
    assert page.evaluate('document.activeElement.className') == 'skip'


def test_terms_lead_to_the_glossary(visit):
    page = visit('v10_muon.html', 390, locale='zh-CN')
    term = page.locator('.text[lang=zh-CN] a.term').first
    word = term.inner_text()
    term.click()
    page.wait_for_url('**/glossary.html#term-*')
    assert word in page.locator('tr:target').inner_text()


def test_commands_can_be_copied(visit):
    page = visit('index.html')
    page.context.grant_permissions(['clipboard-read', 'clipboard-write'])
    page.locator('.copy').first.click()
    page.wait_for_function("document.querySelector('.copy').textContent.includes('已复制')")
    assert page.evaluate('navigator.clipboard.readText()') == 'pip install -r requirements.txt && python v6_wandb.py'


def test_served_by_github_it_links_to_its_repository(browser):
    context = browser.new_context()
    context.route('**/*', lambda route: route.fulfill(path=ROOT / 'docs' / route.request.url.rsplit('/', 1)[1]))
    page = context.new_page()
    page.goto('https://someone.github.io/ladder/index.html')
    assert page.locator('header a[href="https://github.com/someone/ladder"]').count() == 1
    context.close()


def test_tables_of_results_are_in_the_language_of_the_page():
    tables = re.findall('<div lang="en">.*?</div></div>', text('results.html'), re.S)
    assert len(tables) > 3 and not re.search('[\u4e00-\u9fff]', ''.join(tables))


def test_the_front_page_says_what_every_script_buys():
    """With a figure, in both languages."""
    said = re.findall(r'<span class=buys><b>.*?</b> <span lang="zh-CN">(.*?)</span><span lang="en">(.*?)</span>', text('index.html'))
    assert len(said) == len(list(ROOT.glob('[vs][0-9]*_*.py'))) and all(re.search(r'\d', one) for pair in said for one in pair)


def test_the_front_page_writes_a_song(visit):
    """The model is loaded when asked for; the lines rhyme as asked; the strip follows what is typed, likely tokens, attention."""
    page = visit('index.html', 390, locale='zh-CN')
    assert page.evaluate('typeof MODELS.songs') == 'undefined' and not page.locator('#playing').is_visible()
    page.click('#load')
    page.wait_for_selector('#strip button')
    assert page.evaluate('document.activeElement.id') == 'opening'
    page.fill('#opening', '雨落在旧站台')
    assert page.locator('#strip button').all_inner_texts() and re.fullmatch(r'\d+\.\d\d bits/char', page.locator('#mean').inner_text())
    page.locator('#strip button').nth(1).hover()
    assert page.locator('#likely div').count() == 10
    page.locator('#strip button').last.hover()
    assert page.locator('#likely .right').inner_text().startswith('台') and '<' not in page.locator('#likely').inner_text()
    names = page.evaluate("['\\n', '</s>', '<江阳>', '<5>', '<0xE8>', '▁a<'].map(named)")
    assert [re.sub('<span lang="en">.*', '', name).removeprefix('<span lang="zh-CN">').removesuffix('</span>') for name in names] == [
        '〔换行〕', '〔完〕', '〔韵：江阳〕', '〔5 字〕', '〔字节 E8〕', '␣a&#60;']
    page.locator('#strip button').nth(1).click()
    heads = page.locator('#looks button')
    assert heads.count() == page.evaluate('MODELS.songs.config.N_LAYERS * MODELS.songs.config.N_HEADS')
    pressed = '[...document.querySelectorAll("#looks button")].findIndex(head => head.getAttribute("aria-pressed") === "true")'
    unseen = [int(re.search(r'(\d+)%', page.locator('#unseen').inner_text())[1])]
    best = page.evaluate(pressed)
    for n in range(heads.count()):
        heads.nth(n).click()
        assert page.evaluate(pressed) == n
        unseen.append(int(re.search(r'(\d+)%', page.locator('#unseen').inner_text())[1]))
    assert unseen[0] == unseen[best + 1] == min(unseen) and unseen[0] < max(unseen) <= 100      # it opens on the one that shows most
    looks = page.evaluate('[...document.querySelectorAll("#strip button")].map(token => token.style.getPropertyValue("--look"))')
    assert max(map(float, looks)) == 1 and set(looks[2:]) == {'0'}  # what comes later is not looked at
    page.select_option('#rhyme', '江阳')
    page.click('#playing button:not([type])')
    page.wait_for_function('document.querySelectorAll("#song .rhymed").length > 4')
    assert page.locator('#write').inner_text() == '写'
    page.click('#stop')
    assert page.locator('#write').inner_text() == '再写一首'
    names = page.evaluate('[...document.querySelectorAll("#song .rhymed")].map(char => char.title)')
    assert names[0] == '怀来' and set(names[1:]) == {'江阳'}
    assert page.locator('#song div').first.inner_text() == '雨落在旧站台' and '<' not in page.locator('#song').inner_text()
    assert page.evaluate('document.documentElement.scrollWidth') <= 390


@pytest.fixture
def player(visit):
    """player(**options): the front page, its model loaded, the strip shown."""
    def make(**options):
        page = visit('index.html', **options)
        page.click('#load')
        page.wait_for_selector('#strip button')
        return page
    return make


def test_pinyin_that_is_being_typed_is_not_read(player):
    page = player(locale='zh-CN')
    before = page.locator('#strip').inner_text()

    def happen(event):
        page.evaluate(f"opening.value = '雨ni'; opening.dispatchEvent({event})")
    happen("new InputEvent('input', { isComposing: true })")
    assert page.locator('#strip').inner_text() == before
    happen("new CompositionEvent('compositionend')")
    assert page.locator('#strip').inner_text().replace('\n', '').startswith('雨') and '落' not in page.locator('#strip').inner_text()


def test_a_long_opening_says_which_lines_are_used(player):
    page = player(locale='zh-CN')
    assert page.locator('#cut').inner_text() == ''
    page.fill('#opening', '雨\n' * 60 + '我还在等你')
    kept = int(re.fullmatch('开头有 61 行，只用得上最后 (\\d+) 行。', page.locator('#cut').inner_text())[1])
    assert 10 < kept < 61 and page.locator('#strip').inner_text().count('⏎') == kept - 1


def test_a_song_is_announced_when_it_is_complete(player):
    """Once, not token by token; the half line at the window's end is gone."""
    page = player(locale='en-US')
    moods = '[...mood.options].map(option => option.label)'
    assert page.evaluate(moods)[1:] == ['calm', 'sad', 'cheerful', 'rousing']
    page.click('#language')
    assert page.evaluate(moods)[1:] == ['平静', '悲伤', '欢快', '激昂']
    page.evaluate('MODELS.songs.config.BLOCK_SIZE = 70')
    assert not page.evaluate("[...writer.write({ lines: lines(), rhyme: '江阳', temperature: 0 })].at(-1).complete")
    page.locator('#temperature').press('Home')
    page.evaluate("document.querySelector('#finished').setAttribute('data-said', 0); new MutationObserver(() => finished.dataset.said++)"
                  ".observe(finished, { childList: true })")
    page.select_option('#rhyme', '江阳')
    page.click('#write')
    page.wait_for_function('finished.textContent')
    assert page.locator('#finished').get_attribute('data-said') == '1' and page.locator('[aria-live]').count() == 1
    lines = page.evaluate('[...song.children].map(line => [line.textContent, line.querySelector("b")?.title])')
    assert [rhyme for _, rhyme in lines[:2]] == ['怀来', '一七'] and {rhyme for _, rhyme in lines[2:]} == {'江阳'}
    assert page.locator('#finished').inner_text().split() == ' '.join(line for line, _ in lines).split()


def test_the_songs_of_one_run(visit):
    """The slider shows each, coloured as build.py coloured the last."""
    page = visit('index.html')
    song = page.locator('#song-then')
    last = song.evaluate('song => [song.textContent.trim(), ...[...song.querySelectorAll("b")].map(end => end.title)]')
    assert len(last) > 10 and not last[0].endswith('桥要')          # the half line that the window cut off
    page.locator('#growth').press('Home')
    assert page.locator('#grown').inner_text() == '0' and not re.search(r'[\x00-\x09\x0b-\x1f\x7f-\x9f]', song.evaluate('song => song.textContent'))
    page.locator('#growth').press('End')
    assert last == song.evaluate('song => [song.textContent.trim(), ...[...song.querySelectorAll("b")].map(end => end.title)]')


TOYS = [path.stem for path in (ROOT / 'lessons').glob('*.md') if '<!-- toy -->' in path.read_text(encoding='utf-8') and '.' not in path.stem]


def test_every_toy_draws_and_answers(visit):
    def toy(name):
        box = visit(f'{name}.html', locale='zh-CN').locator('.toy:visible')
        assert box.count() == 1 and box.inner_text().strip(), name
        return box
    assert len(TOYS) >= 11
    for name in TOYS:
        box = toy(name)
        before = box.inner_html()
        control = box.locator('input[type=range]')
        control.first.press('ArrowRight') if control.count() else box.locator('button').first.click()
        assert box.inner_html() != before, name
    rope = toy('v0_char_rope')
    before = rope.locator('p').inner_text()
    rope.locator('input').first.press('ArrowRight')                 # both hands turn: the dot product stays
    assert rope.locator('p').inner_text() == before
    rope.locator('input').nth(1).press('ArrowRight')
    assert rope.locator('p').inner_text() != before
    numbers = toy('v3_gpt2_amp')
    for number, expected in (('1e-8', ['9.99999994e-9', '1.00117177e-8', '0']), ('65536', ['65536', '65536', 'Infinity']),
                             ('1.001', ['1.00100005', '1', '1.00097656'])):
        numbers.locator('input').fill(number)
        assert numbers.locator('td:last-child').all_inner_texts() == expected
        kinds = (torch.float32, torch.bfloat16, torch.float16)
        bits = [torch.tensor(float(number)).to(kind).view(size).item() for kind, size in zip(kinds, (torch.int32, torch.int16, torch.int16), strict=True)]
        assert [int(text.replace(' ', ''), 2) for text in numbers.locator('code').all_inner_texts()] == bits
        assert [one.replace(' ', '') for _, one in build.bits_of(float(number))] == [f'{one:0{wide}b}' for one, wide in zip(bits, (32, 16, 16), strict=True)]
        assert [torch.tensor(float(number)).to(kind).item() for kind in kinds] == pytest.approx([float(text) for text in expected], rel=1e-8)
    schedule = toy('v2_cosine_lr')                                  # at step 4, like the script: (4 + 1) / (WARMUP_ITERS + 1)
    assert float(re.search('points="[^ ]* [^,]*,([^ ]*)', schedule.inner_html())[1]) == pytest.approx(130 - 110 * 5 / 201)
    marks = toy('s1_control')
    for expected in ('<4>旧站台上', '<4>旧站台<江阳>上'):
        marks.locator('button').click()
        assert marks.locator('code').inner_text() == expected
    marks.locator('select').select_option('江阳')
    assert marks.locator('.gone').count() == 12
    table = re.search('const RHYMES = ({.*?})', text('toys.js'), re.S)[1]
    for name, chars in re.findall("([^ ,{]+): '(.*?)'", table):
        assert {build.lyrics.rhyme(char)[1] for char in chars} == {name}
    merges = toy('v1_bpe_rope')
    merges.locator('textarea').fill('等你等你等雨')
    merges.locator('button').first.click()
    assert merges.locator('code').all_inner_texts() == ['等你', '等你', '等', '雨']
    ellipse = toy('v10_muon')
    for _ in range(5):
        ellipse.locator('input').first.press('ArrowRight')
    assert all(0.6 < float(value) < 1.3 for value in re.findall(r'\d\.\d\d', ellipse.locator('p').inner_text()))


def test_a_checkpoint_is_whole_at_every_moment(visit):
    """The toy of v5: a second save goes on from the first; killed while it writes, latest.pt is the old one."""
    page = visit('v5_checkpoint.html', locale='zh-CN')
    page.clock.install()
    toy = page.locator('.toy:visible')
    toy.get_by_text('保存一次').click()
    page.clock.run_for(5000)
    assert 'latest.pt: 600' in toy.inner_text() and 'unfinished' not in toy.inner_text()
    toy.get_by_text('保存一次').click()
    page.clock.run_for(1000)
    assert 'latest.pt: 600' in toy.inner_text() and 'unfinished.tmp' in toy.inner_text()
    toy.get_by_text('kill -9').click()
    page.clock.run_for(5000)
    assert '从第 600 步继续' in toy.inner_text()


def test_deep_links(visit):
    page = visit('v4_flash_optim.html#make_optimizer')
    assert page.evaluate('document.activeElement.id') == 'make_optimizer'
    assert -1 <= page.locator('#make_optimizer').bounding_box()['y'] < 200
    page = visit('v4_flash_optim.html#imports')
    assert page.locator('#imports').is_visible()


def test_language(visit):
    """The browser's at the first visit, the reader's from then on."""
    page = visit('v4_flash_optim.html', locale='zh-CN')
    assert page.locator('h1 [lang=zh-CN]').is_visible() and not page.locator('h1 [lang=en]').is_visible()
    assert page.locator('.text[lang=zh-CN]').is_visible() and not page.locator('.text[lang=en]').is_visible()
    page.click('#language')
    assert page.locator('h1 [lang=en]').is_visible() and not page.locator('h1 [lang=zh-CN]').is_visible()
    assert page.title().startswith('v4_flash_optim: flash') and page.evaluate('document.documentElement.lang') == 'en'
    page.goto((ROOT / 'docs' / 'index.html').as_uri())              # and stays so
    assert page.locator('h1 [lang=en]').is_visible()
    english = visit('index.html', locale='de-DE')
    assert english.locator('h1 [lang=en]').is_visible()


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
    for width, sides in ((1400, ('.d > .o', '.a > .n')), (390, ('.d > .n', '.a > .n'))):
        page = visit('v2_cosine_lr.html', width)
        signs = [page.evaluate('side => getComputedStyle(document.querySelector(side), "::before").content', side)
                 for side in sides]
        assert signs == ['"−"', '"+"']


def test_without_javascript(visit):
    page = visit('v4_flash_optim.html', java_script_enabled=False)
    assert page.locator('h1 [lang=zh-CN]').is_visible() and not page.locator('h1 [lang=en]').is_visible()
    assert page.locator('.hunk ins').first.is_visible()
    for hidden in ('#theme', '.keys', '.tools', '.bar'):
        assert not page.locator(hidden).first.is_visible()
    page = visit('index.html', java_script_enabled=False)
    assert not page.locator('#load').is_visible() and not page.locator('#growth').is_visible()
    assert page.locator('#song-then .rhymed').count() > 5
    for name in TOYS:                                               # a toy stands still
        figure = visit(f'{name}.html', java_script_enabled=False).locator('.toy:visible')
        assert figure.count() == 1 and figure.locator('svg, table, .bars').count() == 1 and figure.locator('input, button').count() == 0
    page = visit('compare.html', java_script_enabled=False)
    assert page.locator('noscript').count() and '要 JavaScript' in page.content()


def test_compare(visit):
    """Any two scripts, either way round, by definition: what goes and comes turns one into the other."""
    def check(page, one, two):
        gone, come = (page.evaluate('tag => [...document.querySelectorAll(`#diff ${tag}`)].map(line => line.textContent)', tag)
                      for tag in ('del', 'ins'))
        old, new = (re.sub(r'\A""".*?"""\n', '', build.SOURCE[name], flags=re.S).splitlines() for name in (one, two))
        assert Counter(old) - Counter(gone) == Counter(new) - Counter(come), (one, two)
        assert [int(n) for n in re.findall(r'\d+', page.locator('#counts').inner_text())] == [len(come), len(gone)]
    page = visit('compare.html')
    check(page, 'v1_bpe_rope', 'v6_wandb')                          # the example
    page.select_option('#a', 'v6_wandb')
    page.select_option('#b', 'v1_bpe_rope')
    check(page, 'v6_wandb', 'v1_bpe_rope')
    assert page.url.endswith('#v6_wandb...v1_bpe_rope')
    page.select_option('#b', 'v6_wandb')                            # with itself: nothing
    assert page.locator('#diff').inner_text() in ('两边相同。', 'No difference.')
    for one, two in (('v0_char_english', 'v12_ddp'), ('v9_llama', 's3_finetune')):
        check(visit(f'compare.html#{one}...{two}'), one, two)
