"""Running jobs: a rung is copied, edited, run as a process of its own; what it prints and what it took is kept."""
import glob
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import tokenize
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import settings
from lyrics import counts

ROOT = Path(__file__).resolve().parent.parent
processes = []                                                      # all that were started
PREVIEW = re.compile(r'^--- 第 (\d+) 步写的 ---\n(.*?)\n---$', re.M | re.S)
LOG_LINE = re.compile(r'step +(\d+)/\d+ \| train ([\d.]+) \| test ([\d.]+) \| ([\d.]+) bits/char \| ([\d,]+|-) tok/s')


def edit(rung: str, constants: dict, patches: list = ()) -> str:
    """The rung's source with the constants that it has replaced and each patch applied: it must fit exactly once."""
    source = (ROOT / f'{rung}.py').read_text(encoding='utf-8')
    source = re.sub(r'^(N_EMBED), (N_HEADS), (N_LAYERS) = (MODEL_SIZES\[.*?\]).*$',     # v8 on: a line for each
                    r'\1 = \4[0]\n\2 = \4[1]\n\3 = \4[2]', source, flags=re.M)
    for name, value in constants.items():
        source = re.sub(rf'^{name} = .*$', lambda _, n=name, v=value: f'{n} = {v!r}', source, flags=re.M)
    for old, new in patches:
        if source.count(old) != 1:
            sys.exit(f'{rung}.py holds {source.count(old)} times, not once: {old}')
        source = source.replace(old, new)
    return source


def fingerprint(source: str, corpus: list[Path], packages: dict) -> str:
    """A result counts as long as this is the same: the edited script (comments, docstrings aside), corpus, packages."""
    digest, new_line = hashlib.sha256(json.dumps(packages).encode()), True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (tokenize.COMMENT, tokenize.NL) and not (new_line and token.type == tokenize.STRING):
            digest.update(token.string.encode() + b'\n')
        new_line = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT, tokenize.NL)
    for file in corpus:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]


def files_of(lyrics: Path | None) -> list[Path]:
    """What a run reads: the shipped sample, or the lyrics*.json of a corpus."""
    found = sorted(map(Path, glob.glob(f'{lyrics}/**/lyrics*.json', recursive=True))) if lyrics else []
    return found or [ROOT / 'ChineseLyrics' / 'sample.json']


def link(files: list[Path], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for file in files:
        if not (folder / file.name).is_symlink():
            (folder / file.name).symlink_to(file.resolve())
    return folder


def run(source: str, job: dict, corpus: list[Path], data: Path) -> dict:
    """Run a script in a folder of its own: its curve, speed, parameters, peak memory (bytes), extra lines it printed.

    `data` is the folder that the jobs of a corpus share, so that a tokenizer is learned once. Raises RuntimeError with
    the end of the script's output when it fails.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if job['files']:                                            # a part of the corpus, for this run alone
            data = link(corpus[:job['files']], Path(folder) / 'data')
        (Path(folder) / 'ChineseLyrics').symlink_to(data)
        (Path(folder) / 'input.txt').symlink_to(ROOT / 'input.txt')
        (Path(folder) / f'{job["rung"]}.py').write_text(source, encoding='utf-8')
        environment = os.environ | {'PYTHONUTF8': '1', 'WANDB_MODE': 'disabled', 'HOME': folder,
                                    'TORCHINDUCTOR_CACHE_DIR': f'{folder}/inductor'}        # each compiles anew
        if not job['alone'] or job['processes']:                    # one thread for each process
            environment |= {'OMP_NUM_THREADS': '1', 'THP_MEM_ALLOC_ENABLE': '1'}
        if needed := settings.NEEDS.get(job['rung']):               # first the run whose checkpoint it begins with
            (Path(folder) / f'{needed}.py').write_text(edit(needed, {}), encoding='utf-8')
            subprocess.run([sys.executable, f'{needed}.py'], cwd=folder, env=environment, capture_output=True)
        launch = ['-m', 'torch.distributed.run', f'--nproc-per-node={job["processes"]}'] if job['processes'] > 1 else []
        again = 'SIGKILL' in source or job['files']                 # it kills itself; what it prepares is not counted
        for _ in range(2 if again else 1):
            process = subprocess.Popen([sys.executable, *launch, f'{job["rung"]}.py'], cwd=folder, env=environment,
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding='utf-8')
            processes.append(process)
            text = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
    lines = LOG_LINE.findall(text)
    if status or not lines:
        raise RuntimeError(text[-2000:])
    return {'constants': job['constants'], 'patches': job['patches'], 'fingerprint': '',
            'curve': [{'step': int(step), 'train': float(train), 'test': float(test), 'bits_per_char': float(bits)}
                      for step, train, test, bits, _ in lines],
            'tok_per_s': int(lines[-1][4].replace(',', '')),
            'peak_memory': usage.ru_maxrss * (1 if sys.platform == 'darwin' else 1024),
            'parameters': float(re.search(r'参数 ([\d.]+) M', text)[1]) * 1e6,
            'compile_seconds': int(found[1]) if (found := re.search(r'编译用了 (\d+) 秒', text)) else None,
            'mfu': float(found[-1]) if (found := re.findall(r'MFU ([\d.]+)%', text)) else None,
            'extra': re.findall(r'^(?:longer|saving|从 .* 的第) .*$', text, re.M),
            'rhyming': [counts(json.loads(song))[0] for song in re.findall(r'^song (.*)$', text, re.M)],
            'strip': json.loads((re.findall(r'^strip (.*)$', text, re.M) or ['[]'])[0]),
            'songs': [[int(step), song] for step, song in PREVIEW.findall(text)],
            'log': re.findall(r'^(?:step |第 \d+ 步：押).*', text, re.M)[-3:],
            'song': (PREVIEW.findall(text) or [('', '')])[-1][1]}


def save(path: Path, results: dict):
    temporary = path.with_suffix('.tmp')
    temporary.write_text(json.dumps(results, ensure_ascii=False, indent=1) + '\n', encoding='utf-8')
    temporary.replace(path)


def run_all(jobs: list[dict], results: dict, path: Path, lyrics: Path | None, data: Path) -> list[str]:
    """Run what has no result yet; the keys of the jobs that failed (their last lines go to stderr, others go on)."""
    corpus, todo, failed = files_of(lyrics), [], []
    link(corpus, data)
    for job in jobs:
        source = edit(job['rung'], job['constants'], job['patches'])
        needed = edit(settings.NEEDS[job['rung']], {}) if job['rung'] in settings.NEEDS else ''
        mark = fingerprint(source + needed, corpus, results['machine']['packages'])
        if results['jobs'].get(job['key'], {}).get('fingerprint') != mark:
            todo.append((job, source, mark))
            results['jobs'].pop(job['key'], None)                   # of another script or corpus: not shown any more
    print(f'{len(jobs)} runs, {len(jobs) - len(todo)} of them done already', flush=True)
    together = [entry for entry in todo if not entry[0]['alone']]
    alone = [entry for entry in todo if entry[0]['alone']]
    for part, workers in ((together, 1 if results['machine']['gpu'] else os.cpu_count()), (alone, 1)):
        with ThreadPoolExecutor(workers) as pool:
            running = {pool.submit(run, source, job, corpus, data): (job, mark) for job, source, mark in part}
            try:
                for number, future in enumerate(as_completed(running), 1):
                    job, mark = running[future]
                    try:
                        result = future.result() | {'fingerprint': mark}
                    except RuntimeError as error:
                        failed.append(job['key'])
                        print(f'{job["key"]} failed; its last lines:\n{error}', file=sys.stderr)
                        continue
                    results['jobs'][job['key']] = result
                    save(path, results)
                    print(f'[{number}/{len(part)}] {job["key"]} | {result["curve"][-1]["bits_per_char"]:.3f} bits/char,'
                          f' {result["tok_per_s"]:,} tok/s', flush=True)
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in processes:
                    process.kill()
                raise
    return failed

