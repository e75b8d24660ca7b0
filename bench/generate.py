"""What the key/value cache buys: generate.py at GPT-2 Small size, with the cache and without.

    python bench/generate.py                # a few minutes on two CPU cores

Random weights (the speed does not depend on them), one song without an end, float32. Without the cache every step computes the
whole context anew, as the training scripts' own `generate` does. Prints a table and writes bench/results/generate/<machine>.json.
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
    """Just what a Song needs of a tokenizer; no song ends (eos is never drawn, because no id is it)."""
    unk_id, eos_id = staticmethod(lambda: 0), staticmethod(lambda: 1)
    encode = staticmethod(lambda text: [])
    is_byte = staticmethod(lambda token: False)
    id_to_piece = staticmethod(lambda token: '字')


def measure(model: torch.nn.Module, tokens: int, use_cache: bool) -> float:
    """Seconds for one song of `tokens` new tokens."""
    options = argparse.Namespace(temperature=1.0, top_k=0, top_p=1.0, greedy=False, repetition_penalty=1.0, max_tokens=tokens)
    song = generate.Song('', 1, Tokenizer, model.block_size)
    started = time.perf_counter()
    for _ in generate.write_songs(model, [song], options, use_cache):
        pass
    assert song.n_tokens == tokens
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tokens', type=int, default=500, help='new tokens (default 500)')
    options = parser.parse_args()
    machine = describe()
    torch.manual_seed(1)
    model = generate.GPT(VOCAB_SIZE, SIZE, {}).to(machine['device']).eval()
    with torch.no_grad():                                           # eos out of reach: its logit is far below the others
        model.ln_f.weight[0], model.ln_f.bias[0], model.lm_head.weight[:, 0], model.lm_head.weight[1, 0] = 0, 100, 0, -100
    measure(model, 20, True)                                        # warm up
    seconds = {name: measure(model, options.tokens, use_cache) for name, use_cache in (('cache', True), ('no cache', False))}
    speeds = {name: options.tokens / value for name, value in seconds.items()}
    print(f'| {options.tokens} new tokens, GPT-2 Small size, {machine["gpu"] or machine["cpu"]} | tok/s | seconds |\n|---|---|---|')
    for name in seconds:
        print(f'| {name} | {speeds[name]:.1f} | {seconds[name]:.1f} |')
    print(f'The cache makes it {seconds["no cache"] / seconds["cache"]:.1f} times as fast.')
    path = ROOT / 'bench' / 'results' / 'generate' / f'{machine["name"]}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {'machine': machine, 'model': SIZE | {'vocab_size': VOCAB_SIZE}, 'tokens': options.tokens, 'seconds': seconds,
              'tok_per_s': speeds}
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
