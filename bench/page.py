"""The model in the page: how fast site/model.js writes, and how long a first song takes on a slow phone.

    python bench/page.py                    # half a minute; needs Chromium (playwright install chromium, or Debian's)

Node (playwright's own) and Chromium write with docs/song-model.js; the phone is a 390 pixels wide page whose CPU is
throttled to a quarter. Writes bench/results/page/<machine>.json.
"""
import json
import shutil
import statistics
import subprocess
import time

from machine import describe
from playwright._impl._driver import compute_driver_executable
from playwright.sync_api import sync_playwright
from running import ROOT

WRITE = '''(() => {
  const writer = new Writer(MODELS.songs), started = performance.now()
  let tokens = 0
  for (const _ of writer.write({ lines: ['雨落在旧站台'], rhyme: '江阳' })) if (++tokens === 200) break
  return 1000 * tokens / (performance.now() - started)
})()'''


def in_node() -> float:
    """Tokens a second, the median of five songs."""
    files = [(ROOT / 'docs' / name).read_text(encoding='utf-8') for name in ('model.js', 'song-model.js')]
    code = '\n'.join([*files, f'console.log(JSON.stringify([1, 2, 3, 4, 5].map(() => {WRITE})))'])
    node = compute_driver_executable()[0]
    done = subprocess.run([node, '-'], input=code, capture_output=True, encoding='utf-8', check=True)
    return statistics.median(json.loads(done.stdout))


def in_chromium() -> dict:
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which('chromium'), args=['--no-sandbox'])
        page = browser.new_page(viewport={'width': 390, 'height': 844})
        page.goto((ROOT / 'docs' / 'index.html').as_uri())
        page.click('#load')
        page.wait_for_selector('#strip button')
        speed = statistics.median(page.evaluate(f'[1, 2, 3, 4, 5].map(() => {WRITE})'))
        page.context.new_cdp_session(page).send('Emulation.setCPUThrottlingRate', {'rate': 4})
        page.reload()
        started = time.perf_counter()
        page.click('#load')
        page.wait_for_selector('#strip button')
        loaded = time.perf_counter() - started
        page.click('#playing button:not([type])')
        page.wait_for_function('document.querySelectorAll("#song .rhymed").length > 5')     # two of them were given
        four = time.perf_counter() - started
        browser.close()
    return {'tok_per_s': speed, 'phone_seconds_to_load': loaded, 'phone_seconds_to_four_lines': four}


def marked(result: dict) -> dict[str, str]:
    """What the results have to say, by the name of its mark in the Markdown files."""
    machine, found = result['machine'], result['chromium']
    speed, phone = round(found['tok_per_s']), f'{found["phone_seconds_to_four_lines"]:.1f}'
    node, where = round(result['node_tok_per_s']), f'{machine["cpu"]}, {machine["cores"]} cores'
    return {'page-short': f'Chromium 里每秒 {speed} 个 token，Node 里 {node} 个'
                          f'（{machine["cpu"]}，{machine["cores"]} 核）；'
                          f'手机大小的页面、CPU 减到四分之一，从点「载入」到写出四行 {phone} 秒',
            'page-short-en': f'{speed} tokens a second in Chromium, {node} in Node ({where}); on a page of phone size, '
                             f'with a quarter of the CPU, four lines stand {phone} seconds after the click that loads '
                             'the model'}


def main():
    machine = describe()
    names = ['index.html', 'style.css', 'page.js', 'model.js', 'play.js', 'song-model.js']
    sizes = [(ROOT / 'docs' / name).stat().st_size for name in names]
    result = {'machine': machine, 'bytes_with_the_model': sum(sizes), 'bytes_without_the_model': sum(sizes[:-1]),
              'node_tok_per_s': in_node(), 'chromium': in_chromium()}
    path = ROOT / 'bench' / 'results' / 'page' / f'{machine["name"]}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    print(json.dumps(result, indent=1))


if __name__ == '__main__':
    main()
