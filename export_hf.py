"""把 v8_llama.py 的检查点变成 transformers 能读的文件夹：它本来就是一个 Llama，只是参数的名字不同。

python export_hf.py checkpoints/v8_llama/best.pt OUT/

OUT/ 里有 config.json、generation_config.json、model.safetensors、tokenizer.model、tokenizer_config.json：

    from transformers import AutoModelForCausalLM, AutoTokenizer
    model, tokenizer = AutoModelForCausalLM.from_pretrained('OUT/'), AutoTokenizer.from_pretrained('OUT/')

要有 safetensors：pip install safetensors
"""
import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import sentencepiece as spm
import torch


def fail(message):
    """遇到用户能改正的错误：说清哪里不对、怎么办，以状态 1 退出。"""
    sys.exit(f'错误：{message}')


def out_of_memory(error):
    """这个错误说的是不是显存（或 CPU 的内存）不够：各种设备的说法不同。"""
    says = ('out of memory', "can't allocate memory", 'not enough memory', 'bad_alloc', 'ALLOC_FAILED', 'Invalid buffer size')
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in str(error) for words in says)


def load(path):
    """读检查点，返回 (参数, 常量, 分词器的字节)。不是 Llama 的，拒绝。"""
    if not os.path.isfile(path):
        fail(f'没有检查点 {path}：先训练一个（python v8_llama.py）')
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
        model, constants, tokenizer = checkpoint['model'], checkpoint['config'], checkpoint['tokenizer']
        expected = {name for name, _ in llama_names(constants['N_LAYERS'])}
        spm.SentencePieceProcessor(model_proto=tokenizer)
    except PermissionError as error:
        fail(f'{path} 读不了（{error.strerror}）')
    except Exception as error:
        if out_of_memory(error):
            raise
        fail(f'{path} 不是检查点，或者不完整（{type(error).__name__}）：换一份，或重新训练')
    if model.keys() != expected | {'lm_head.weight'}:
        fail(f'{path} 不是 v8_llama.py 的模型，变不成 Llama：请用 checkpoints/v8_llama/ 里的检查点')
    return model, constants, tokenizer


def llama_names(n_layers):
    """(我们的名字, transformers 的名字)，依次是全部参数；qkv 在那边是三个矩阵，{} 里填 q、k、v。"""
    names = [('token_embedding.weight', 'model.embed_tokens.weight'), ('ln_f.weight', 'model.norm.weight')]
    for i in range(n_layers):
        for ours, theirs in [('ln1', 'input_layernorm'), ('attention.qkv', 'self_attn.{}_proj'), ('attention.proj', 'self_attn.o_proj'),
                             ('ln2', 'post_attention_layernorm'), ('ffwd.gate', 'mlp.gate_proj'), ('ffwd.up', 'mlp.up_proj'),
                             ('ffwd.down', 'mlp.down_proj')]:
            names.append((f'blocks.{i}.{ours}.weight', f'model.layers.{i}.{theirs}.weight'))
    return names


def convert(model, constants, tokenizer):
    """返回 {文件名: 内容}：字节，或者要写成 JSON 的字典。"""
    try:
        from safetensors.torch import save as serialize
    except ImportError:
        fail('要有 safetensors 才能导出：pip install safetensors')
    weights = {}
    for ours, theirs in llama_names(constants['N_LAYERS']):
        if '{}' in theirs:
            weights |= {theirs.format(letter): part.contiguous() for letter, part in zip('qkv', model[ours].chunk(3))}
        else:
            weights[theirs] = model[ours]
    eos = spm.SentencePieceProcessor(model_proto=tokenizer).eos_id()
    special = {'bos_token_id': eos, 'eos_token_id': eos}            # 歌从分隔符写起，到分隔符为止
    config = {
        'architectures': ['LlamaForCausalLM'], 'model_type': 'llama', 'dtype': 'float32', 'vocab_size': len(model['lm_head.weight']),
        'hidden_size': constants['N_EMBED'], 'intermediate_size': len(model['blocks.0.ffwd.gate.weight']),
        'num_hidden_layers': constants['N_LAYERS'], 'num_attention_heads': constants['N_HEADS'],
        'num_key_value_heads': constants['N_HEADS'], 'head_dim': constants['N_EMBED'] // constants['N_HEADS'],
        'max_position_embeddings': constants['BLOCK_SIZE'], 'rope_theta': 10000.0, 'rms_norm_eps': 1e-5, 'hidden_act': 'silu',
        'attention_bias': False, 'mlp_bias': False, 'attention_dropout': 0.0, 'tie_word_embeddings': True, **special,
    }
    pieces = {                                                      # 不加空格，不加开头：编号与训练时的 SentencePiece 相同
        'tokenizer_class': 'LlamaTokenizer', 'unk_token': '<unk>', 'bos_token': '</s>', 'eos_token': '</s>', 'add_bos_token': False,
        'add_eos_token': False, 'add_prefix_space': False, 'legacy': False, 'clean_up_tokenization_spaces': False,
        'model_max_length': constants['BLOCK_SIZE'],
    }
    return {'config.json': config, 'generation_config.json': {'do_sample': True, 'temperature': 0.8, **special},
            'model.safetensors': serialize(weights, metadata={'format': 'pt'}), 'tokenizer.model': tokenizer,
            'tokenizer_config.json': pieces}


def save(files, folder):
    """全部写好了才改名成 folder：中途失败不会留下半个模型。"""
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        fail(f'{folder} 已经有了，里面的东西不会覆盖：换一个名字，或先移走它')
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f'{folder.name}.', suffix='.tmp', dir=folder.absolute().parent))
    try:
        for name, content in files.items():
            (temporary / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content, indent=2).encode() + b'\n')
        temporary.chmod(0o755)                                      # mkdtemp 建的只有自己能看
        if folder.is_dir():
            folder.rmdir()
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


class Parser(argparse.ArgumentParser):
    """用法有误时与别的错误一样：一句中文，状态 1。"""

    def error(self, message):
        fail(f'用法：python export_hf.py 检查点 OUT（{message}）')


def main():
    if hasattr(sys.stdout, 'reconfigure'):
        sys.stdout.reconfigure(errors='replace')
    parser = Parser(description=__doc__, usage='python export_hf.py 检查点 OUT', add_help=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_argument_group('参数')
    group.add_argument('checkpoint', metavar='检查点', help='v8_llama.py 存下的')
    group.add_argument('folder', type=Path, metavar='OUT', help='写到哪个文件夹（要是新的）')
    group.add_argument('-h', '--help', action='help', help='显示这份说明')
    options = parser.parse_args()
    model, constants, tokenizer = load(options.checkpoint)
    save(convert(model, constants, tokenizer), options.folder)
    print(f'{options.folder}/：{sum(p.numel() for name, p in model.items() if name != "lm_head.weight") / 1e6:.2f} M 参数的 Llama，'
          f'transformers 的 AutoModelForCausalLM、AutoTokenizer 能读')


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        fail('已中断')
    except OSError as error:                                        # 磁盘写满、没有权限……
        fail(f'读写文件出错：{error}')
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        fail('内存不够：请关掉别的程序再运行')
