"""把检查点变成 transformers 能读的文件夹：v9_llama 的就是一个 Llama，v10_muon 起的（s1_control 也是）就是一个 Qwen3，
只是参数的名字不同。

python export_hf.py checkpoints/v10_muon/best.pt OUT/

    from transformers import AutoModelForCausalLM, AutoTokenizer
    model, tokenizer = AutoModelForCausalLM.from_pretrained('OUT/'), AutoTokenizer.from_pretrained('OUT/')
    song = model.generate(**tokenizer('雨落在旧站台', return_tensors='pt'))
    print(tokenizer.decode(song[0], skip_special_tokens=True))

要有 safetensors：pip install safetensors
"""
import argparse
import json
import shutil
import sys
from pathlib import Path

import sentencepiece as spm
import torch

try:
    from safetensors.torch import save
except ImportError:
    sys.exit('错误：要先 pip install safetensors')

NAMES = {                                                           # 我们的名字：transformers 的名字
    'token_embedding': 'model.embed_tokens', 'blocks': 'model.layers', 'ln_f': 'model.norm',
    'ln1': 'input_layernorm', 'ln2': 'post_attention_layernorm', 'ffwd': 'mlp', 'attention': 'self_attn',
    **{name: f'{name}_proj' for name in ('q', 'k', 'v', 'gate', 'up', 'down')}, 'proj': 'o_proj',
}
SPECIAL = {'bos_token_id': 1, 'eos_token_id': 1, 'pad_token_id': 0}     # 歌从分隔符写起，到分隔符为止

FORMAT = '''- **格式**（s1_control.py 的标记，各一个 token）：歌头可以有情绪、歌手、歌名，也可以没有；接着是 `<歌词>`；
  每行开头是字数，末字之前是它的韵（十三辙）。开头照样写，例如 `<情绪>悲伤<歌词><6>雨落在旧站<怀来>台`。
'''


def fail(message):
    """遇到用户能改正的错误：说清哪里不对、怎么办，以状态 1 退出。"""
    sys.exit(f'错误：{message}')


def model_config(weights, constants):
    """config.json 的内容。"""
    qwen = 'blocks.0.attention.q_norm.weight' in weights            # q、k 先归一：Qwen3；否则是 Llama
    head_size = constants['N_EMBED'] // constants['N_HEADS']
    return {
        'architectures': ['Qwen3ForCausalLM' if qwen else 'LlamaForCausalLM'],
        'model_type': 'qwen3' if qwen else 'llama', 'dtype': 'float32',
        'vocab_size': len(weights['lm_head.weight']), 'hidden_size': constants['N_EMBED'],
        'intermediate_size': len(weights['blocks.0.ffwd.gate.weight']), 'num_hidden_layers': constants['N_LAYERS'],
        'num_attention_heads': constants['N_HEADS'], 'head_dim': head_size,
        'num_key_value_heads': len(weights['blocks.0.attention.k.weight']) // head_size,
        'max_position_embeddings': constants['BLOCK_SIZE'], 'rope_theta': 10000.0, 'rms_norm_eps': 1e-5,
        'hidden_act': 'silu', 'attention_bias': False, 'mlp_bias': False, 'tie_word_embeddings': True, **SPECIAL,
    }


def tokenizer_json(tokenizer, codes):
    """tokenizer.json：与 SentencePiece 同样的 BPE。它不列出合并，这里要：哪两段接成一个词，先学到的先合并。"""
    pieces = {tokenizer.id_to_piece(i): i for i in range(len(tokenizer))}
    special = [tokenizer.id_to_piece(0), tokenizer.id_to_piece(1), *codes]      # 不显示；codes 是 s1_control.py 的标记
    merges = [(piece[:cut], piece[cut:]) for piece, i in pieces.items() if not tokenizer.is_byte(i) and i > 1
              for cut in range(1, len(piece)) if piece[:cut] in pieces and piece[cut:] in pieces]
    plain = dict.fromkeys(('single_word', 'lstrip', 'rstrip', 'normalized'), False)
    start = {'SpecialToken': {'id': '</s>', 'type_id': 0}}          # 歌从分隔符写起
    return {
        'version': '1.0',
        'added_tokens': [{'id': pieces[piece], 'content': piece, 'special': True, **plain} for piece in special],
        'normalizer': {'type': 'Replace', 'pattern': {'String': ' '}, 'content': '▁'},
        'model': {'type': 'BPE', 'vocab': pieces, 'merges': merges, 'unk_token': '<unk>', 'byte_fallback': True},
        'post_processor': {
            'type': 'TemplateProcessing', 'single': [start, {'Sequence': {'id': 'A', 'type_id': 0}}], 'pair': [],
            'special_tokens': {'</s>': {'id': '</s>', 'ids': [1], 'tokens': ['</s>']}}},
        'decoder': {'type': 'Sequence', 'decoders': [{'type': 'Replace', 'pattern': {'String': '▁'}, 'content': ' '},
                                                     {'type': 'ByteFallback'}, {'type': 'Fuse'}]},
    }


def card(checkpoint):
    """README.md：模型卡，说它是怎么来的。"""
    constants = checkpoint['config']
    only = '，只算歌词自己的 token' if 'CODES' in constants else ''
    asked = FORMAT if 'CODES' in constants else ''
    size = sum(weight.numel() for name, weight in checkpoint['model'].items() if name != 'lm_head.weight') / 1e6
    return f"""---
language: zh
library_name: transformers
pipeline_tag: text-generation
---
# 写中文歌词的 GPT

{constants['SCRIPT']} 训练的，{size:.2f} M 参数，窗口 {constants['BLOCK_SIZE']} 个 token，{checkpoint['step']} 步，
存下的 `best_test_loss` 是 {checkpoint['best_test_loss']:.4f}（nat / token，用一部分测试歌曲估计{only}）。

- **训练数据**：{constants['LYRICS_DIR']}/ 里的歌词，九成用来训练，一成用来测试。它们的版权归各自的作者；
  公开这个模型之前，先确认它们可以这样用。
- **用法**：`AutoModelForCausalLM`、`AutoTokenizer`。歌从分隔符写起，写到分隔符为止，`generate()` 会自己停。
{asked}- **不会的**：它只见过歌词，不会问答，也不知道什么是真的；写出来的可能与训练歌曲的句子相同。
"""


def convert(path):
    """返回 {文件名: 内容}：字节，或者要写成 JSON 的字典。"""
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
        weights, constants, proto = checkpoint['model'], checkpoint['config'], checkpoint['tokenizer']
        tokenizer = spm.SentencePieceProcessor(model_proto=proto)
    except FileNotFoundError:
        fail(f'没有检查点 {path}：先训练一个（python v10_muon.py）')
    except Exception as error:
        fail(f'{path} 读不出来（{type(error).__name__}）：要 v9 起各级存下的、完整的检查点')
    if 'blocks.0.attention.k.weight' not in weights:
        fail(f'{path} 是 {constants["SCRIPT"]} 的模型，transformers 里没有同样的：请用 v9_llama.py 起各级的检查点')
    renamed = {'.'.join(NAMES.get(part, part) for part in name.split('.')): weight for name, weight in weights.items()}
    del renamed['lm_head.weight']                                   # 与词向量共用
    return {
        'model.safetensors': save(renamed, metadata={'format': 'pt'}),
        'tokenizer.model': proto,
        'tokenizer.json': tokenizer_json(tokenizer, constants.get('CODES', [])),
        'README.md': card(checkpoint).encode(),
        'tokenizer_config.json': {
            'tokenizer_class': 'PreTrainedTokenizerFast', 'bos_token': '</s>', 'eos_token': '</s>',
            'unk_token': '<unk>', 'pad_token': '<unk>', 'padding_side': 'left',
            'model_max_length': constants['BLOCK_SIZE'], 'clean_up_tokenization_spaces': False},
        'generation_config.json': {                                 # 与 generate.py 一样；只是窗口满了就停
            'do_sample': True, 'temperature': 0.8, 'top_k': 0, 'top_p': 0.9, 'repetition_penalty': 1.0,
            'suppress_tokens': [0], 'max_length': constants['BLOCK_SIZE'], **SPECIAL},
        'config.json': model_config(weights, constants),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', type=Path, metavar='检查点', help='v9_llama.py 起各级存下的')
    parser.add_argument('folder', type=Path, metavar='OUT', help='写到哪个文件夹（要是新的，或者空的）')
    options = parser.parse_args()
    files = convert(options.checkpoint)
    options.folder.mkdir(parents=True, exist_ok=True)
    if any(options.folder.iterdir()):
        fail(f'{options.folder} 里已经有东西，不会覆盖：换一个名字，或先移走它')
    try:
        for name, content in files.items():
            (options.folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    except BaseException:                                           # 磁盘写满、按了 Ctrl-C：不留下半个模型
        shutil.rmtree(options.folder)
        raise
    print(f'{options.folder}/：{files["config.json"]["architectures"][0]}，'
          'transformers 的 AutoModelForCausalLM、AutoTokenizer 能读')


if __name__ == '__main__':
    sys.stdout.reconfigure(errors='replace')
    try:
        main()
    except KeyboardInterrupt:
        fail('已中断')
    except OSError as error:                                        # 没有权限、磁盘写满……
        fail(f'读写文件出错：{error}')
