"""What the key/value cache buys: generate.py at GPT-2 Small size, with the cache and without.

    python bench/generate.py                # a few minutes on two CPU cores

Random weights (the speed does not depend on them), one song without an end, float32. Without the cache every step
computes the whole context anew, as the training scripts' own `generate` does. Prints a table and writes
bench/results/generate/<machine>.json.
"""
import argparse
import json
import sys
import time
from pathlib import Path

import torch
from machine import describe

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import generate  # noqa: E402

SIZE = {'N_EMBED': 768, 'N_HEADS': 12, 'N_LAYERS': 12, 'BLOCK_SIZE': 1024}
VOCAB_SIZE = 8000


class Tokenizer:
    """Just what a Song needs of a tokenizer. No song ends: eos is the last row of the embedding, but under a number
    that is never drawn."""
    unk_id, eos_id = staticmethod(lambda: 0), staticmethod(lambda: -1)
    encode, decode = staticmethod(lambda text: []), staticmethod(lambda ids: '字')


def random_weights(n_embed: int, n_layers: int, device: str) -> dict:
    """A state dict with the names and shapes of v5's to v8's."""
    shapes = {'token_embedding.weight': (VOCAB_SIZE, n_embed), 'lm_head.weight': (VOCAB_SIZE, n_embed)}
    norms = ['ln_f']
    for block in (f'blocks.{i}' for i in range(n_layers)):
        norms += [f'{block}.ln1', f'{block}.ln2']
        shapes |= {f'{block}.attention.qkv.weight': (3 * n_embed, n_embed),
                   f'{block}.attention.proj.weight': (n_embed, n_embed), f'{block}.attention.proj.bias': (n_embed,),
                   f'{block}.ffwd.net.0.weight': (4 * n_embed, n_embed), f'{block}.ffwd.net.0.bias': (4 * n_embed,),
                   f'{block}.ffwd.net.2.weight': (n_embed, 4 * n_embed), f'{block}.ffwd.net.2.bias': (n_embed,)}
    shapes |= {f'{norm}.{part}': (n_embed,) for norm in norms for part in ('weight', 'bias')}
    return {name: 0.02 * torch.randn(shape, device=device) for name, shape in shapes.items()}


@torch.inference_mode()
def measure(model: generate.GPT, tokens: int, use_cache: bool) -> float:
    """Seconds for one song of `tokens` new tokens."""
    options = argparse.Namespace(temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0, max_tokens=tokens)
    song = generate.Song('', 1, Tokenizer, model.block_size)
    started = time.perf_counter()
    if use_cache:
        for _ in generate.write_songs(model, [song], options):
            pass
    while not song.done:
        idx = torch.tensor([song.ids], device=model.rope.device)
        logits = model.forward(idx, model.new_cache(*idx.shape), 0)
        song.append(generate.choose(logits, [song], options)[0], tokens)
    assert song.n_tokens == tokens
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tokens', type=int, default=500, help='new tokens (default 500)')
    options = parser.parse_args()
    machine = describe()
    torch.manual_seed(1)
    weights = random_weights(SIZE['N_EMBED'], SIZE['N_LAYERS'], machine['device'])
    model = generate.GPT(weights, SIZE, machine['device'])
    measure(model, 20, True)                                        # warm up
    seconds = {name: measure(model, options.tokens, name == 'cache') for name in ('cache', 'no cache')}
    speeds = {name: options.tokens / value for name, value in seconds.items()}
    print(f'| {options.tokens} new tokens, GPT-2 Small size, {machine["gpu"] or machine["cpu"]} | tok/s | seconds |')
    print('|---|---|---|')
    for name in seconds:
        print(f'| {name} | {speeds[name]:.1f} | {seconds[name]:.1f} |')
    print(f'The cache makes it {seconds["no cache"] / seconds["cache"]:.1f} times as fast.')
    path = ROOT / 'bench' / 'results' / 'generate' / f'{machine["name"]}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {'machine': machine, 'model': SIZE | {'vocab_size': VOCAB_SIZE}, 'tokens': options.tokens,
              'seconds': seconds, 'tok_per_s': speeds}
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
