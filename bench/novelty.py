"""How much of the songs that generate.py wrote is copied from the training songs.

    python generate.py --num 100 --output songs.jsonl
    python bench/novelty.py checkpoints/best.pt songs.jsonl

For each song, its prompt aside: the share of its pieces of 8 characters that stand in a training song, and its longest
run of 8 or more. The training songs are read as the training script reads them, from where it read them (start this in
the same folder); if they are no longer the songs that the model saw, a line says so.
"""
import argparse
import contextlib
import hashlib
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import sentencepiece as spm
import torch

ROOT = Path(__file__).resolve().parent.parent
PIECE = 8                                                           # characters


def training_songs(checkpoint: dict) -> list[str]:
    """The songs that the model was trained on."""
    config, tokenizer = checkpoint['config'], spm.SentencePieceProcessor(model_proto=checkpoint['tokenizer'])
    if 'TOKEN_DIR' in config:                                       # v11 on: a file, in a folder with its fingerprint
        tokens = np.fromfile(Path(config['TOKEN_DIR']) / config['SONGS'] / 'train.bin', dtype=np.uint16)
        songs = np.split(tokens, np.flatnonzero(tokens == tokenizer.eos_id()))
        return tokenizer.decode([song.tolist() for song in songs])
    spec = importlib.util.spec_from_file_location('script', ROOT / Path(config['SCRIPT']).name)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)                                 # importing a script does nothing
    for name in ('LYRICS_DIR', 'MAX_SONGS', 'SEED', 'BLOCK_SIZE'):
        setattr(script, name, config[name])
    with contextlib.redirect_stdout(sys.stderr):
        songs = script.load_songs()
    songs = songs[:int(0.9 * len(songs))]                           # as in load_data()
    data = script.encode_songs(tokenizer, songs)
    raw = str(data).encode() if isinstance(data, list) else data.numpy()
    fingerprint = hashlib.sha256(raw).hexdigest()[:12]
    if fingerprint != config['SONGS']:
        print(f'The songs in {config["LYRICS_DIR"]} are not those that the model was trained on '
              f'({fingerprint}, not {config["SONGS"]}): the figures are about other songs', file=sys.stderr)
    return list(map(script.lyric_of, songs)) if hasattr(script, 'lyric_of') else songs       # s1: without its codes


def pieces(text: str) -> list[str]:
    return [text[i:i + PIECE] for i in range(len(text) - PIECE + 1)]


def novelty(texts: list[str], songs: list[str]) -> list[tuple[float, str]]:
    """(the share of copied pieces, the longest copied run of at least PIECE characters or '') of each text."""
    wanted = {piece for text in texts for piece in pieces(text)}
    copied = {piece for song in songs for piece in pieces(song) if piece in wanted}
    corpus = '\0'.join(songs)                                       # a run does not go on from one song into the next
    results = []
    for text in texts:
        where, longest = [i for i, piece in enumerate(pieces(text)) if piece in copied], ''
        for start in where:
            while start + (size := max(PIECE, len(longest) + 1)) <= len(text) and text[start:start + size] in corpus:
                longest = text[start:start + size]
        results.append((len(where) / max(1, len(text) - PIECE + 1), longest))
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('songs', type=Path, help='written by generate.py --output')
    options = parser.parse_args()
    written = [json.loads(line) for line in options.songs.open(encoding='utf-8')]
    songs = training_songs(torch.load(options.checkpoint, map_location='cpu', weights_only=True))
    results = novelty([song['text'].removeprefix(song['prompt']) for song in written], songs)
    for song, (share, longest) in zip(written, results):
        print(f'seed {song["seed"]}: {share:6.1%} copied, longest {len(longest):3d} {longest!r}')
    print(f'{len(results)} songs: {sum(share for share, _ in results) / max(1, len(results)):.1%} copied on average')


if __name__ == '__main__':
    main()
