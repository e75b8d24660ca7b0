"""What the key/value cache and grouped queries buy: generate.py at GPT-2 Small size, v8's model and v9's.

    python bench/generate.py                # some minutes on two CPU cores

Random weights (the speed does not depend on them), songs without an end, float32. Without the cache every step computes
the whole context anew, as the training scripts' own `generate` does. Prints a table and writes
bench/results/generate/<machine>.json.
"""
import argparse
import json
import sys
import time

import torch
from machine import describe
from running import ROOT, edit

sys.path.insert(0, str(ROOT))
import generate  # noqa: E402

SIZE = {'N_EMBED': 768, 'N_HEADS': 12, 'N_LAYERS': 12, 'BLOCK_SIZE': 1024}
VOCAB_SIZE = 8000


class Tokenizer:
    """Just what a Song needs of a tokenizer. No song ends: eos is the last row of the embedding, but under a number
    that is never drawn."""
    unk_id, eos_id = staticmethod(lambda: 0), staticmethod(lambda: -1)
    encode, decode = staticmethod(lambda text: []), staticmethod(lambda ids: '字')


@torch.inference_mode()
def measure(model: generate.GPT, songs: int, tokens: int, use_cache: bool) -> float:
    """Seconds for so many songs at once, of `tokens` new tokens each."""
    options = argparse.Namespace(temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0, max_tokens=tokens)
    songs = [generate.Song('', seed, Tokenizer, model.block_size) for seed in range(songs)]
    started = time.perf_counter()
    if use_cache:
        for _ in generate.write_songs(model, songs, options):
            pass
    while not songs[0].done:
        idx = torch.tensor([song.ids for song in songs], device=model.rope.device)
        logits = model.forward(idx, model.new_cache(*idx.shape), 0)
        for song, token in zip(songs, generate.choose(logits, songs, options), strict=True):
            song.append(token, tokens)
    assert all(song.n_tokens == tokens for song in songs)
    return time.perf_counter() - started


def marked(result: dict) -> dict[str, str]:
    """What the results have to say, by the name of its mark in the Markdown files."""
    machine, made = result['machine'], {}
    rows = ''.join(f'\n| {row["model"]} | {row["songs"]} | {"✓" if row["cache"] else "—"} | {row["mib"]:.0f} | '
                   f'{row["tok_per_s"]:.1f} |' for row in result['rows'])
    where = machine['cpu'], machine['cores']
    for suffix, header, said in (
            ('', '| 模型 | 一起写几首 | 缓存 | 1024 个 token 的缓存，一首几 MiB | tok/s |', '（{}，{} 核）'),
            ('-en', '| model | songs at once | cache | cache of 1024 tokens, MiB a song | tok/s |', '({}, {} cores)')):
        made[f'generate{suffix}'] = f'{header}\n|---|---|---|---|---|{rows}\n\n{said.format(*where)}'
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tokens', type=int, default=500, help='new tokens of each song (default 500)')
    options = parser.parse_args()
    machine, rows = describe(), []
    print(f'GPT-2 Small size, {machine["gpu"] or machine["cpu"]}, songs of {options.tokens} tokens\n')
    print('| model | songs at once | cache | cache for 1024 tokens, MiB a song | tok/s |\n|---|---|---|---|---|')
    for rung, int8 in (('v8_mfu', False), ('v9_llama', False), ('v9_llama', True)):
        script = {'__name__': rung, '__file__': f'{rung}.py'}
        exec(compile(edit(rung, SIZE), f'{rung}.py', 'exec'), script)
        torch.manual_seed(1)
        model = generate.GPT(script['GPT'](VOCAB_SIZE).state_dict(), SIZE, machine['device'])
        if int8:
            model.to_int8()
        name = f'{rung}, int8' if int8 else rung
        measure(model, 1, 20, True)                                 # warm up
        for songs, use_cache in ([] if int8 else [(1, False)]) + [(1, True), (16, True)]:
            row = {'model': name, 'songs': songs, 'cache': use_cache,
                   'mib': 4 * model.new_cache(1, SIZE['BLOCK_SIZE']).numel() / 2**20 if use_cache else 0,
                   'tok_per_s': songs * options.tokens / measure(model, songs, options.tokens, use_cache)}
            rows.append(row)
            print(f'| {name} | {songs} | {use_cache} | {row["mib"]:.0f} | {row["tok_per_s"]:.1f} |', flush=True)
    path = ROOT / 'bench' / 'results' / 'generate' / f'{machine["name"]}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {'machine': machine, 'size': SIZE | {'vocab_size': VOCAB_SIZE}, 'tokens': options.tokens, 'rows': rows}
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
