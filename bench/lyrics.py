"""The ear: how songs rhyme, repeat themselves and copy, beside the training songs and their lines shuffled.

    python bench/lyrics.py lyrics1.json                         # the songs of a data set; or generate.py's songs.jsonl
    python bench/lyrics.py checkpoints/best.pt                  # 200 songs that a checkpoint writes
    python bench/lyrics.py checkpoints/best.pt songs.jsonl      # songs that generate.py wrote with it

A stanza is four lines; its second and fourth should rhyme. Two characters rhyme that differ and belong to one of the
thirteen rhyme classes of northern opera and song. Shares are over all songs together, with a 95 % bootstrap interval
over songs. Started where the training script was: it reads the training songs as the script did.
"""
import argparse
import json
import random
import re
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from novelty import ROOT, novelty, training_songs
from pypinyin import Style, lazy_pinyin

# The thirteen classes (十三辙) and their finals, as pypinyin spells them; Zhang Xunru, Beiping yinxi shisan zhe (1937)
RHYMES = {'发花': 'a ia ua', '梭坡': 'o e uo io', '乜斜': 'ie ve', '一七': 'i v er', '姑苏': 'u', '怀来': 'ai uai',
          '灰堆': 'ei uei', '遥条': 'ao iao', '油求': 'ou iou', '言前': 'an ian uan van', '人辰': 'en in uen vn',
          '江阳': 'ang iang uang', '中东': 'eng ing ueng ong iong'}
CLASSES = {final: name for name, finals in RHYMES.items() for final in finals.split()}


def rhyme(line: str) -> tuple[str, str] | None:
    """(the character that a line ends in, its rhyme class); None where it does not end in Chinese."""
    found = re.search(r'[\u4e00-\u9fff](?=\W*$)', line)
    if not found:
        return None
    before = line[max(0, found.start() - 3):found.end()]            # characters with several readings need their word
    name = CLASSES.get(lazy_pinyin(before, Style.FINALS)[-1])
    return (found[0], name) if name else None


def rhymed(a: str, b: str) -> bool:
    one, other = rhyme(a), rhyme(b)
    return bool(one and other and one[1] == other[1] and one[0] != other[0])


def counts(song: str) -> list[tuple[int, int]]:
    """(hits, of how many) of a song, in the order of NAMES."""
    lines = [line.strip() for line in song.splitlines() if line.strip()]
    stanzas = [lines[i:i + 4] for i in range(0, len(lines) - 3, 4)]
    pairs, text = list(pairwise(lines)), re.sub(r'\W', '', song)
    two = [text[i:i + 2] for i in range(len(text) - 1)]
    return [(sum(rhymed(stanza[1], stanza[3]) for stanza in stanzas), len(stanzas)),
            (sum(rhymed(*pair) for pair in pairs), len(pairs)),
            (sum(len(a) == len(b) for a, b in pairs), len(pairs)),
            (len(lines) - len(set(lines)), len(lines)),
            (len(set(two)), len(two))]


NAMES = ['stanzas that rhyme', 'neighbouring lines that rhyme', 'neighbouring lines equally long', 'repeated lines',
         'distinct-2 within a song', 'copied 8-grams']


def shares(table: np.ndarray, draws: int = 1000) -> list[tuple[float, float, float]]:
    """(songs, measures, 2) -> (share, low, high) of each measure: resampled over songs, seeded; nan: none counts."""
    chosen = np.random.default_rng(1).integers(len(table), size=(draws, len(table)))
    total, drawn = table.sum(0), table[chosen].sum(1)               # (measures, 2), (draws, measures, 2)
    low, high = np.percentile(drawn[..., 0] / np.maximum(1, drawn[..., 1]), (2.5, 97.5), axis=0)
    share = np.where(total[:, 1] > 0, total[:, 0] / np.maximum(1, total[:, 1]), np.nan)
    return list(zip(share, low, high, strict=True))


def shuffled(songs: list[str]) -> list[str]:
    """The same lines, dealt out at random to songs as long as before."""
    lines = [line for song in songs for line in song.splitlines()]
    random.Random(1).shuffle(lines)
    dealt = iter(lines)
    return ['\n'.join(next(dealt) for _ in song.splitlines()) for song in songs]


def songs_of(path: Path) -> list[str]:
    """The songs of a JSON file with "lyric" (a string, or a list of lines), or of a .jsonl by generate.py."""
    try:
        text = path.read_text(encoding='utf-8-sig')
        found = ([json.loads(line)['text'] for line in text.splitlines()] if path.suffix == '.jsonl'
                 else [entry.get('lyric') or '' for entry in json.loads(text)])
        found = [song if isinstance(song, str) else '\n'.join(song) for song in found]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        sys.exit(f'{path} does not hold songs ({type(error).__name__}: {error})')
    return [song for song in found if song.strip()] or sys.exit(f'{path} holds no song')


def sampled(path: Path, number: int) -> list[str]:
    """Songs that the checkpoint writes, with the settings that generate.py has by default."""
    sys.path.insert(0, str(ROOT))
    import generate  # of the project, not the bench of this name

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model, tokenizer = generate.load(path, device)
    options = argparse.Namespace(**{name: row[1] for name, row in generate.SETTINGS.items()})
    new_song = generate.song_maker(model, tokenizer, options)
    songs = [new_song('', seed) for seed in range(number)]
    for first in range(0, number, 50):
        for _ in generate.write_songs(model, songs[first:first + 50], options):
            pass
    return [song.text for song in songs]


def measure(songs: dict[str, list[str]], training: list[str]) -> dict[str, list]:
    """name -> (share, low, high) of every measure; what is copied is not asked of the training songs."""
    found = {}
    for name, texts in songs.items():
        table = np.array([counts(text) for text in texts])
        if training and name == 'model':
            copied = [(round(share * max(1, len(text) - 7)), max(1, len(text) - 7))
                      for text, (share, _) in zip(texts, novelty(texts, training), strict=True)]
            table = np.concatenate((table, np.array(copied)[:, None]), axis=1)
        found[name] = shares(table)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', type=Path, help='a checkpoint, or a file of songs: JSON with "lyric", or JSON lines')
    parser.add_argument('songs', type=Path, nargs='?', help='written by generate.py --output with that checkpoint')
    parser.add_argument('--number', type=int, default=200, help='how many songs of each (default 200)')
    options = parser.parse_args()
    if options.source.suffix in ('.json', '.jsonl'):
        training, written = songs_of(options.source), []
    else:
        training = training_songs(torch.load(options.source, map_location='cpu', weights_only=True))
        written = songs_of(options.songs) if options.songs else sampled(options.source, options.number)
    some = random.Random(1).sample(training, min(options.number, len(training)))
    songs = {'training songs': some, 'their lines shuffled': shuffled(some)} | ({'model': written} if written else {})
    found = measure(songs, training)
    print(f'| {" | ".join(["", *found])} |\n|{"---|" * (len(found) + 1)}')
    for row, name in enumerate(NAMES):
        cells = ['' if row >= len(v) else '—' if np.isnan(v[row][0]) else
                 f'{v[row][0]:.1%} [{v[row][1]:.1%}, {v[row][2]:.1%}]' for v in found.values()]
        print(f'| {name} | {" | ".join(cells)} |')
    if written:
        longest = max((run for _, run in novelty(written, training)), key=len)
        print(f'\nLongest copied run: {len(longest)} characters, {longest!r}')


if __name__ == '__main__':
    main()
