"""A checkpoint as a file that site/model.js reads.

    python site/export_model.py CHECKPOINT OUT.js [--name NAME] [--float]

A classic script that puts the model into MODELS (opened from disk, a page may load nothing else): the tokenizer, and
the weights in base64: matrices in int8 with a float32 scale for each row, or, with --float, as they are.
"""
import argparse
import base64
import json
import re
import sys
from pathlib import Path

import sentencepiece as spm
import torch

NAMES = ('N_EMBED', 'N_HEADS', 'N_LAYERS', 'BLOCK_SIZE')


def fail(message):
    sys.exit(f'错误：{message}')


def unified(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of any rung under the names of v9: one matrix each for q, k and v, all heads together."""
    made = {}
    for name, weight in weights.items():
        if '.qkv.' in name:                                         # v4 to v8
            made |= {name.replace('qkv', part): rows for part, rows in zip('qkv', weight.chunk(3), strict=True)}
        elif found := re.fullmatch(r'(.*)\.heads\.\d+\.([qkv])\w+\.weight', name):     # v0 to v3: head by head
            name = f'{found[1]}.{found[2]}.weight'
            made[name] = torch.cat((made[name], weight)) if name in made else weight
        elif not name.endswith('.tril'):
            made[name] = weight
    if torch.equal(made['lm_head.weight'], made['token_embedding.weight']):
        del made['lm_head.weight']                                  # tied
    return made


def packed(weights: dict[str, torch.Tensor], exact: bool) -> tuple[dict, bytes]:
    """({name: its shape and where it begins}, all numbers one after another, every part at a multiple of 4 bytes)."""
    tensors, data = {}, b''
    for name, weight in weights.items():
        rows, cols = weight.shape if weight.dim() == 2 else (1, len(weight))
        int8 = weight.dim() == 2 and not exact
        tensors[name] = {'rows': rows, 'cols': cols, 'int8': int8, 'at': len(data)}
        if int8:
            scale = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
            numbers = (weight / scale[:, None]).round().to(torch.int8).numpy().tobytes()
            data += numbers + bytes(-len(numbers) % 4) + scale.float().numpy().tobytes()
        else:
            data += weight.float().contiguous().numpy().tobytes()
    return tensors, data


def rhymes_of(pieces: list[str], config: dict) -> dict[str, str]:
    """Rhyme class -> the characters of the vocabulary that belong to it, read alone."""
    from pypinyin import Style, lazy_pinyin
    classes = {final: name for name, finals in config['RHYMES'].items() for final in finals.split()}
    found = dict.fromkeys(config['RHYMES'], '')
    for piece in pieces:
        if len(piece) == 1 and '\u4e00' <= piece <= '\u9fff':
            found[classes.get(lazy_pinyin(piece, Style.FINALS)[0], '无')] += piece
    return found


def export(name: str, weights: dict, config: dict, pieces: list[str], exact: bool = False) -> str:
    """The script's text. `config` are a checkpoint's constants; pieces of a character rung: its characters."""
    tensors, data = packed(unified(weights), exact)
    codes = [pieces.index(code) for code in config.get('CODES', [])]
    relu = config['SCRIPT'].startswith(('v0', 'v1', 'v2'))
    constants = {key: config[key] for key in NAMES} | {'activation': 'relu' if relu else 'gelu'}
    made = {'config': constants, 'pieces': pieces, 'codes': codes, 'tensors': tensors,
            'data': base64.b64encode(data).decode()}
    if codes:
        made |= {'moods': config['KNOWN']['情绪'], 'rhymes': rhymes_of(pieces, config)}
    return f'MODELS[{json.dumps(name)}] = {json.dumps(made, ensure_ascii=False, separators=(",", ":"))}\n'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('out', type=Path)
    parser.add_argument('--name', default='model', help='its name in MODELS')
    parser.add_argument('--float', action='store_true', help='float32 weights, four times as large')
    options = parser.parse_args()
    try:
        checkpoint = torch.load(options.checkpoint, map_location='cpu', weights_only=True)
        tokenizer = spm.SentencePieceProcessor(model_proto=checkpoint['tokenizer'])
        pieces = [tokenizer.id_to_piece(i) for i in range(len(tokenizer))]
        text = export(options.name, checkpoint['model'], checkpoint['config'], pieces, options.float)
    except FileNotFoundError:
        fail(f'没有检查点 {options.checkpoint}：先训练一个（python s1_control.py）')
    except Exception as error:
        fail(f'{options.checkpoint} 读不出来（{type(error).__name__}）：要 v5 起各级存下的、完整的检查点')
    options.out.write_text(text, encoding='utf-8', newline='\n')
    print(f'{options.out}: {len(text.encode()) / 1e6:.2f} MB')


if __name__ == '__main__':
    try:
        main()
    except OSError as error:                                        # no such folder, a full disk ...
        fail(f'读写文件出错：{error}')
