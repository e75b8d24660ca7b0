"""What the songwriter's three scripts do: obedience, practice, fine-tuning; the figures of their lessons.

    python bench/songwriter.py WORK                         # about an hour and a half on two CPU cores
    python bench/songwriter.py WORK --only control          # or practice, finetune

WORK is a folder for the trained models: stop it at will, the same command continues with the first that is not trained
to its end.
Everything runs on the shipped sample, which is ours. Writes bench/results/songwriter/<machine>.json, .md and .svg.
"""
import argparse
import importlib.util
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import lyrics
import numpy as np
import plots
import torch
from lyrics import rhyme
from machine import describe
from running import LOG_LINE, PREVIEW, ROOT, edit, fingerprint, save

sys.path.insert(0, str(ROOT))
import generate  # noqa: E402

SAMPLE = json.loads((ROOT / 'ChineseLyrics' / 'sample.json').read_text(encoding='utf-8'))
SEEDS, SONGS, OWN = (1, 2, 3), 200, 30
SINGERS = ('青石桥', '霓虹晚班', '小满合唱团')                        # each in turn is the one who comes later
CLASSES = list(lyrics.RHYMES)
LENGTHS = (5, 6, 7, 8, 9, 10)


# ---------- training, writing ----------
def train(folder: Path, script: str, songs: list[dict] | None = None, patches: list = (), **constants) -> dict:
    """Run a script in its folder, as a user would, if it has not ended there yet; {'checkpoint', 'log', 'seconds'}."""
    log, source = folder / f'{script}.log', edit(script, constants, patches)
    start = [Path(constants['INIT_FROM'])] if 'INIT_FROM' in constants else []
    mark = f'fingerprint {fingerprint(source, start, {"songs": songs})}'
    if not log.exists() or mark not in log.read_text(encoding='utf-8'):          # not ended, or of another script
        shutil.rmtree(folder / 'checkpoints' / script, ignore_errors=True)
        text = json.dumps(songs or SAMPLE, ensure_ascii=False)
        for name in ('ChineseLyrics', 'MySongs'):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / 'lyrics1.json').write_text(text, encoding='utf-8')
        (folder / f'{script}.py').write_text(source, encoding='utf-8')
        started = time.perf_counter()
        done = subprocess.run([sys.executable, f'{script}.py'], cwd=folder, capture_output=True, encoding='utf-8',
                              env=os.environ | {'WANDB_MODE': 'disabled', 'PYTHONUTF8': '1'})
        if done.returncode:
            sys.exit(f'{folder}/{script}.py failed:\n{done.stdout[-2000:]}{done.stderr}')
        log.write_text(f'{done.stdout}\nseconds {time.perf_counter() - started:.0f}\n{mark}\n', encoding='utf-8')
    text = log.read_text(encoding='utf-8')
    return {'checkpoint': folder / 'checkpoints' / script / 'best.pt', 'log': text,
            'seconds': int(re.search(r'seconds (\d+)', text)[1]),
            'bits': float(re.findall(r'([\d.]+) bits/char', text)[-1])}


def write(checkpoint: Path, number: int = SONGS, first: int = 0, redraw: bool = True, **wishes) -> list:
    """Songs as generate.py writes them by default; without `redraw`, a line that breaks a wish stays."""
    model, tokenizer = generate.load(checkpoint, 'cuda' if torch.cuda.is_available() else 'cpu')
    options = argparse.Namespace(**{name: row[1] for name, row in generate.SETTINGS.items()} | wishes)
    new_song = generate.song_maker(model, tokenizer, options)
    songs = [new_song('', first + seed) for seed in range(number)]
    for song in songs:
        song.tries = 0 if redraw else 10**9
    for start in range(0, number, 50):
        for _ in generate.write_songs(model, songs[start:start + 50], options):
            if not redraw:
                for song in songs:
                    song.tries = 10**9
    return songs


def lines(songs: list) -> list[str]:
    return [line for song in songs for line in song.text.splitlines() if line]


def raw(song) -> str:
    """The lyric with its codes."""
    return song.tokenizer.decode(song.ids[1:]).split('<歌词>')[-1]


def shares(texts: list[str]) -> dict:
    """name -> (share, low, high) of the measures of lyrics.py."""
    found = lyrics.shares(np.array([lyrics.counts(text) for text in texts]))
    return dict(zip(lyrics.NAMES, [[round(float(x), 4) for x in one] for one in found], strict=False))


def script(**constants):
    """s1_control.py as a module, with those of these constants that it has."""
    spec = importlib.util.spec_from_file_location('s1_control', ROOT / 's1_control.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in constants.keys() & {'N_EMBED', 'N_HEADS', 'N_KV_HEADS', 'N_LAYERS', 'BLOCK_SIZE', 'SEED', 'LYRICS_DIR'}:
        setattr(module, name, constants[name])
    return module


@torch.no_grad()
def bits(path: Path, songs: list[str]) -> float:
    """bits/char of songs with their headers and codes (the texts that s1 reads), over the lyric's own tokens."""
    checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    s1 = script(**checkpoint['config'])
    tokenizer = generate.spm.SentencePieceProcessor(model_proto=checkpoint['tokenizer'])
    model = s1.GPT(len(tokenizer)).to(s1.DEVICE)
    model.load_state_dict(checkpoint['model'])
    pieces = s1.encode_songs(tokenizer, songs)
    tokens = (s1.lyric_only(*s1.get_windows(pieces)) >= 0).sum().item()
    loss = s1.estimate_loss(model, pieces, math.ceil(len(pieces) / s1.BATCH_SIZE))
    return loss / math.log(2) * tokens / sum(len(s1.lyric_of(song)) + 1 for song in songs)


def texts_of(entries: list[dict], folder: Path) -> list[str]:
    """The entries as s1 reads them, with headers and codes."""
    path = folder / 'entries.json'
    path.write_text(json.dumps(entries, ensure_ascii=False), encoding='utf-8')
    return [text for text in script().read_lyrics(path) if text]


def songs_of(folder: Path, checkpoint: Path) -> tuple[list[str], list[str]]:
    """(training songs, test songs) of a run of s1, with headers and codes."""
    config = torch.load(checkpoint, map_location='cpu', weights_only=True)['config']
    songs = script(**config | {'LYRICS_DIR': str(folder / 'ChineseLyrics')}).load_songs()
    n = int(0.9 * len(songs))
    return songs[:n], songs[n:]


# ---------- control ----------
class Classifier:
    """Naive Bayes over characters and pairs of characters, add-one smoothed: the mood or the singer of a lyric."""

    def __init__(self, texts: list[str], labels: list[str]):
        self.counts, self.labels = defaultdict(Counter), Counter(labels)
        for text, label in zip(texts, labels, strict=True):
            self.counts[label].update(self.features(text))
        self.size = len(set().union(*self.counts.values()))
        self.totals = {label: sum(counter.values()) + self.size for label, counter in self.counts.items()}

    @staticmethod
    def features(text: str) -> list[str]:
        text = re.sub(r'\W', '', text)
        return [*text, *(text[i:i + 2] for i in range(len(text) - 1))]

    def __call__(self, text: str) -> str:
        features = self.features(text)
        return max(self.labels, key=lambda label: math.log(self.labels[label]) + sum(
            math.log((self.counts[label][feature] + 1) / self.totals[label]) for feature in features))


def obeyed(pairs: list[tuple]) -> dict:
    """(asked, written) pairs: how often they agree, as they are and with what was asked dealt out anew."""
    asked, written = [one for one, _ in pairs], [other for _, other in pairs]
    dealt = random.Random(1).sample(asked, len(asked))
    return {'obeyed': sum(a == b for a, b in pairs) / len(pairs), 'lines': len(pairs),
            'shuffled': sum(a == b for a, b in zip(dealt, written, strict=True)) / len(pairs),
            'chance': sum(Counter(asked)[x] * n for x, n in Counter(written).items()) / len(pairs) ** 2}


def rhyme_class(line: str) -> str | None:
    found = rhyme(line)
    return found and found[1]


def fields_of(header: str) -> dict[str, str]:
    return dict(re.findall('<([^<>]*)>([^<]*)', header))


def recognised(path: Path, training: list[str], test: list[str], field: str, wish: str) -> dict:
    """How often a classifier finds the mood (the singer) of held-out songs, and of songs written as asked."""
    s1, label = script(), (lambda song: fields_of(song)[field])
    classify = Classifier(list(map(s1.lyric_of, training)), list(map(label, training)))
    real = [classify(s1.lyric_of(song)) == label(song) for song in test]
    asked = [classify(song.text) == value for i, value in enumerate(sorted(classify.labels))
             for song in write(path, SONGS // len(classify.labels), 1000 * i, **{wish: value})]
    return {'real songs': sum(real) / len(real), 'asked': sum(asked) / len(asked),
            'chance': max(classify.labels.values()) / sum(classify.labels.values())}


def control(work: Path) -> dict:
    found = {}
    for seed in SEEDS:
        run = train(work / f'control-{seed}', 's1_control', SEED=seed)
        path = run['checkpoint']
        training, test = songs_of(work / f'control-{seed}', path)
        free = write(path)
        announced = [(code, rhyme_class(line)) for song in free for code, line in
                     zip(re.findall('<([^<>0-9]+)>', raw(song)), song.text.splitlines()) if code != '无']
        asked = {kind: [(name, rhyme_class(line)) for i, name in enumerate(CLASSES)
                        for line in lines(write(path, 10, 1000 * i, redraw, rhyme=name))]
                 for kind, redraw in (('asked rhyme', False), ('asked rhyme, redrawn', True))}
        asked['asked length'] = [(n, len(line)) for n in LENGTHS
                                 for line in lines(write(path, 20, 1000 * n, False, chars=n))]
        headers, bodies = zip(*(song.split('<歌词>') for song in test))
        others = [[other for other in headers if not fields_of(other).items() & fields_of(header).items()]
                  for header in headers]
        wrong = list(map(random.Random(1).choice, others))          # of another mood, singer and title
        found[f'seed {seed}'] = {
            'bits_per_char': run['bits'], 'seconds': run['seconds'], 'free': shares([song.text for song in free]),
            'announced rhyme': obeyed(announced), **{kind: obeyed(pairs) for kind, pairs in asked.items()},
            'mood': recognised(path, training, test, '情绪', 'mood'),
            'singer': recognised(path, training, test, '歌手', 'singer'),
            'headers': {name: bits(path, [f'{header}<歌词>{body}' for header, body in zip(some, bodies, strict=True)])
                        for name, some in (('true', headers), ('missing', [''] * len(headers)), ('wrong', wrong))}}
        print(f'seed {seed}', json.dumps(found[f'seed {seed}'], ensure_ascii=False), flush=True)
    some = random.Random(1).sample(['\n'.join(song['lyric']) for song in SAMPLE], SONGS)
    return found | {'training songs': shares(some), 'shuffled lines': shares(lyrics.shuffled(some))}


# ---------- practice ----------
HACK = [('chars[1] != chars[3] and ', '')]                            # the same character counts as a rhyme
LARGE = {'MUON_LR': 0.005, 'LEARNING_RATE': 2.5e-3, 'MIN_LR': 2.5e-4}       # steps five times as large as s2's


def rhyming(text: str) -> float:
    hits, of = lyrics.counts(text)[0]
    return hits / of if of else 0.0


def practice(work: Path) -> dict:
    """The leash, no leash, a reward that can be cheated; and the best of as many songs as practice has cost."""
    found = {}
    for seed in SEEDS:
        base = train(work / f'control-{seed}', 's1_control', SEED=seed)
        start = str((work / f'control-{seed}').resolve() / 'checkpoints' / 's1_control' / 'best.pt')
        before = write(base['checkpoint'])
        runs = {'before': (base, [song.text for song in before])}
        kinds = [('leash', {}, []), ('no leash', {'KL_WEIGHT': 0.0}, []), ('leash, large steps', LARGE, []),
                 ('no leash, large steps', LARGE | {'KL_WEIGHT': 0.0}, []),
                 ('same character counts', LARGE | {'KL_WEIGHT': 0.0}, HACK)]
        for name, constants, patches in kinds if seed == 1 else kinds[:1]:
            run = train(work / f'practice-{seed}-{name.replace(" ", "-")}', 's2_rhyme_rl', None, patches,
                        SEED=seed, INIT_FROM=start, **constants)
            runs[name] = run, [song.text for song in write(run['checkpoint'])]
        started = time.perf_counter()
        many = [[song.text for song in write(base['checkpoint'], SONGS, 10_000)]]
        each = time.perf_counter() - started
        n = max(2, round(runs['leash'][0]['seconds'] / each))       # as many rounds of songs as practice took
        many += [[song.text for song in write(base['checkpoint'], SONGS, 10_000 * i)] for i in range(2, n + 1)]
        runs[f'best of {n}'] = base, [max(some, key=rhyming) for some in zip(*many, strict=True)]
        found[f'seed {seed}'] = {name: shares(texts) | {
            'bits_per_char': run['bits'], 'seconds': run['seconds'], 'same character': same_character(texts),
            'steps': re.findall(r'押韵的节 (\d+)% .*? distinct-2 ([\d.]+) \| KL ([\d.]+)', run['log'])}
            for name, (run, texts) in runs.items()}
        print(f'seed {seed}', json.dumps(found[f'seed {seed}'], ensure_ascii=False), flush=True)
    return found


def same_character(texts: list[str]) -> float:
    """Share of the stanzas whose lines 2 and 4 end in the same character."""
    pairs = [(stanza[1], stanza[3]) for text in texts for rows in [text.splitlines()]
             for stanza in (rows[i:i + 4] for i in range(0, len(rows) - 3, 4))]
    ends = [(rhyme(a), rhyme(b)) for a, b in pairs]
    return sum(bool(a and b) and a[0] == b[0] for a, b in ends) / max(1, len(ends))


# ---------- fine-tuning ----------
SCRATCH = [('    model.load_state_dict(weights)\n', '')]            # the base's tokenizer and shape, new weights


def finetune(work: Path) -> dict:
    found, steps = {}, {'TRAIN_ITERS': 300, 'WARMUP_ITERS': 30, 'MUON_LR': 0.02, 'LEARNING_RATE': 1e-2, 'MIN_LR': 1e-3}
    for singer in SINGERS:
        theirs = [song for song in SAMPLE if song['singer'] == singer]
        random.Random(1).shuffle(theirs)
        folder = work / f'finetune-{singer}'
        base = train(folder / 'base', 's1_control', [song for song in SAMPLE if song['singer'] != singer])
        start = str(base['checkpoint'].resolve())
        tuned = train(folder / 'tuned', 's3_finetune', theirs[:OWN], INIT_FROM=start)
        scratch = train(folder / 'scratch', 's3_finetune', theirs[:OWN], SCRATCH, INIT_FROM=start, **steps)
        new, old = texts_of(theirs[OWN:], folder), songs_of(folder / 'base', base['checkpoint'])[1]
        found[singer] = {
            'seconds': tuned['seconds'], 'test songs': len(new), 'song': PREVIEW.findall(tuned['log'])[-1][1],
            'log': re.findall('^step .*', tuned['log'], re.M)[-3:],
            'curve': [(int(step), float(bits)) for step, _, _, bits, _ in LOG_LINE.findall(tuned['log'])]} | {
            name: {'their songs': bits(run['checkpoint'], new), 'the five': bits(run['checkpoint'], old)}
            for name, run in (('before', base), ('after', tuned), ('from scratch', scratch))}
        print(singer, json.dumps(found[singer], ensure_ascii=False), flush=True)
    return found


# ---------- what is said about it ----------
MEASURES = list(zip(lyrics.NAMES, ('押韵的节', '相邻两行押韵', '相邻两行一样长', '重复的行', 'distinct-2（一首之内）')))
KINDS = [('announced rhyme', '自己标的韵，照做'), ('asked rhyme', '要求的韵，照做'),
         ('asked rhyme, redrawn', '要求的韵，不合就重写'), ('asked length', '要求的字数，照做')]
RUNS = {'before': '练习之前', 'leash': '有缰绳', 'no leash': '没有缰绳', 'leash, large steps': '有缰绳，五倍的步子',
        'no leash, large steps': '没有缰绳，五倍的步子', 'same character counts': '没有缰绳，五倍的步子，同字也算'}


def percent(value: float) -> str:
    return f'{value:.1%}'


def table(header, rows) -> str:
    return '\n'.join(f'| {" | ".join(map(str, row))} |' for row in [header, ['---'] * len(header), *rows])


def tables(results: dict, english: bool) -> dict[str, str]:
    """script -> Markdown; no figure is typed by hand."""
    def say(chinese, other):
        return other if english else chinese
    made = {}
    if found := results.get('control'):
        seeds = [found[f'seed {seed}'] for seed in SEEDS]
        rows = [(say(chinese, kind), *(percent(seed[kind]['obeyed']) for seed in seeds),
                 say('打乱 {}，碰运气 {}', 'shuffled {}, chance {}').format(
                     percent(seeds[0][kind]['shuffled']), percent(seeds[0][kind]['chance'])))
                for kind, chinese in KINDS]
        rows += [(say(f'要求的{chinese}，分类器认得出', f'asked {kind}, says the classifier'),
                  *(percent(seed[kind]['asked']) for seed in seeds),
                  say('真的歌 {}，碰运气 {}', 'real songs {}, chance {}').format(
                      percent(seeds[0][kind]['real songs']), percent(seeds[0][kind]['chance'])))
                 for kind, chinese in (('mood', '情绪'), ('singer', '歌手'))]
        rows += [(f'bits/char, {say(chinese, f"{key} header")}', *(f'{seed["headers"][key]:.3f}' for seed in seeds), '')
                 for key, chinese in (('true', '歌头正确'), ('missing', '没有歌头'), ('wrong', '别的歌的歌头'))]
        rows += [(say(f'不作要求：{chinese}', f'nothing asked: {name}'),
                  *(percent(seed['free'][name][0]) for seed in seeds),
                  say('训练歌曲 {}，行打乱 {}', 'training songs {}, lines shuffled {}').format(
                      *(percent(found[songs][name][0]) for songs in ('training songs', 'shuffled lines'))))
                 for name, chinese in MEASURES]
        header = ['', *(say(f'种子 {n}', f'seed {n}') for n in SEEDS), say('比一比', 'beside it')]
        made['s1_control'] = table(header, rows)
    if found := results.get('practice'):
        names = [pair[not english] for pair in MEASURES]
        rows = [(seed.removeprefix('seed '), say(RUNS.get(name, f'{name.removeprefix("best of ")} 遍里挑最好的'), name),
                 percent(run[lyrics.NAMES[0]][0]), f'{run[lyrics.NAMES[4]][0]:.3f}', percent(run[lyrics.NAMES[3]][0]),
                 percent(run['same character']), f'{run["bits_per_char"]:.3f}',
                 '' if name.startswith(('before', 'best')) else run['seconds'])
                for seed, runs in found.items() for name, run in runs.items()]
        made['s2_rhyme_rl'] = table([say('种子', 'seed'), '', names[0], names[4], names[3],
                                     say('同字', 'same character'), 'bits/char', say('秒', 'seconds')], rows)
    if found := results.get('finetune'):
        kinds = ('before', 'after', 'from scratch')
        rows = [(singer, *(f'{one[kind]["their songs"]:.3f}' for kind in kinds),
                 *(f'{one[kind]["the five"]:.3f}' for kind in kinds[:2]), one['seconds'])
                for singer, one in found.items()]
        made['s3_finetune'] = table(
            say(['第六位歌手', '微调之前', '之后', '从头训练', '另外五位：之前', '之后', '秒'],
                ['the sixth singer', 'before', 'after', 'from scratch', 'the five: before', 'after', 'seconds']), rows)
    return made


def sentences(results: dict, english: bool) -> dict[str, str]:
    """script -> what it buys, with its figures (of the first seed)."""
    made = {}
    if found := results.get('control'):
        one, free = found['seed 1'], percent(found['seed 1']['free'][lyrics.NAMES[0]][0])
        rhyme, length = (percent(one[kind]['obeyed']) for kind in ('asked rhyme', 'asked length'))
        made['s1_control'] = (f'{rhyme} of the lines rhyme as asked at once, {length} have the length asked for; '
                              f'{free} of the stanzas rhyme unasked' if english else
                              f'{rhyme} 的行一次就押上要求的韵，{length} 的行是要求的字数；不作要求，{free} 的节押韵')
    if found := results.get('practice'):
        best = next(name for name in found['seed 1'] if name.startswith('best'))
        before, after, best = (percent(found['seed 1'][name][lyrics.NAMES[0]][0]) for name in ('before', 'leash', best))
        made['s2_rhyme_rl'] = (f'rhyming stanzas from {before} to {after}; the best of several songs, for the same '
                               f'time: {best}' if english else
                               f'押韵的节从 {before} 到 {after}；不练习，同样的时间多写几遍挑最好的：{best}')
    if found := results.get('finetune'):
        gains = [f'{one["before"]["their songs"]:.2f} → {one["after"]["their songs"]:.2f}' for one in found.values()]
        made['s3_finetune'] = (f'bits/char of a new singer, from thirty songs: {", ".join(gains)}' if english else
                               f'新歌手，三十首歌，bits/char {"，".join(gains)}')
    return made


def figures(results: dict) -> dict[str, str]:
    """script -> SVG: how practice and fine-tuning go."""
    made = {}
    if found := results.get('practice'):
        runs = {name: [int(share) for share, _, _ in run['steps']] for name, run in found['seed 1'].items()}
        made['s2_rhyme_rl'] = plots.lines({name: (list(range(len(shares))), shares) for name, shares in runs.items()
                                           if name in ('leash', 'no leash, large steps', 'same character counts')},
                                          'step', '% of stanzas rewarded')
    if found := results.get('finetune'):
        made['s3_finetune'] = plots.lines({f'singer {n}': tuple(zip(*one['curve'], strict=True))
                                           for n, one in enumerate(found.values(), 1)}, 'step', 'bits/char')
    return made


def marked(results: dict) -> dict[str, str]:
    """What the results have to say, by the name of its mark in the Markdown files."""
    made = {}
    for language, dash, place in (('', '：', '（自带的样本）'), ('-en', ': ', ' (the shipped sample)')):
        made |= {f'songwriter{language} {name}': text for name, text in tables(results, language == '-en').items()}
        for name, text in sentences(results, language == '-en').items():
            made[f'songwriter-short{language} {name}'] = f'{dash}{text}{place}'
            where = f'{results["machine"]["cpu"]}，{results["machine"]["cores"]} 核，自带的样本'
            made.setdefault(f'measured {name}', f'测得（{where}）：{text}。')
    for name in figures(results):
        for language in ('', '-en'):
            made[f'songwriter{language} {name}'] += (
                f'\n\n![{name}](../bench/results/songwriter/{results["machine"]["name"]}-{name}.svg)')
    if found := results.get('finetune'):
        one = next(iter(found.values()))
        printed = [*one['log'], '', *one['song'].splitlines()[:12]]
        made['songwriter log s3_finetune'] = '\n'.join(['```text', *printed, '```'])
    if found := results.get('control'):                             # what to compare the rungs' songs with
        made |= {f'rhymes-short {name}': f'{found[key][lyrics.NAMES[0]][0]:.0%}'
                 for name, key in (('songs', 'training songs'), ('shuffled', 'shuffled lines'))}
    return made


def main():
    experiments = {'control': control, 'practice': practice, 'finetune': finetune}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work', type=Path, help='a folder for the trained models')
    parser.add_argument('--only', nargs='+', choices=experiments, default=list(experiments))
    options = parser.parse_args()
    machine = describe()
    path = ROOT / 'bench' / 'results' / 'songwriter' / f'{machine["name"]}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
    for name in options.only:
        results |= {'machine': machine, name: experiments[name](options.work)}
        save(path, results)
    text = '\n\n'.join(f'## {name}\n\n{made}' for name, made in tables(results, True).items())
    path.with_suffix('.md').write_text(text + '\n', encoding='utf-8')
    for name, svg in figures(results).items():
        path.with_name(f'{path.stem}-{name}.svg').write_text(svg, encoding='utf-8')


if __name__ == '__main__':
    main()
