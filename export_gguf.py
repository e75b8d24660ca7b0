"""把检查点变成 GGUF 文件，llama.cpp（ollama 里的也是它）能用。

v9_llama 的是一个 Llama，v10_muon 起的（s1_control 也是）是一个 Qwen3。

python export_gguf.py checkpoints/v10_muon/best.pt lyrics.gguf
llama-completion -m lyrics.gguf -no-cnv -p 雨落在旧站台 --temp 0.8 --top-p 0.9

要有 gguf：pip install gguf
"""
import argparse
import sys
from pathlib import Path

import sentencepiece as spm
import torch

try:
    import gguf
except ImportError:
    sys.exit('错误：要先 pip install gguf')

NAMES = {                                                           # 我们的名字：GGUF 的名字
    'token_embedding': 'token_embd', 'blocks': 'blk', 'ln_f': 'output_norm', 'ln1': 'attn_norm', 'ln2': 'ffn_norm',
    'attention.q': 'attn_q', 'attention.k': 'attn_k', 'attention.v': 'attn_v', 'attention.proj': 'attn_output',
    'attention.q_norm': 'attn_q_norm', 'attention.k_norm': 'attn_k_norm',
    'ffwd.gate': 'ffn_gate', 'ffwd.up': 'ffn_up', 'ffwd.down': 'ffn_down',
}


def fail(message):
    """遇到用户能改正的错误：说清哪里不对、怎么办，以状态 1 退出。"""
    sys.exit(f'错误：{message}')


def rename(name):
    """blocks.0.attention.q.weight -> blk.0.attn_q.weight"""
    block, number, rest = name.split('.', 2) if name.startswith('blocks.') else ('', '', name)
    rest, kind = rest.rsplit('.', 1)
    return '.'.join(filter(None, (NAMES.get(block), number, NAMES[rest], kind)))


def interleave(weight, n_heads):
    """q、k 各行的次序：旋转时，我们把一个头的前半、后半两两配对，llama 的 GGUF 把相邻的配对（Qwen3 的与我们一样）。"""
    rows, cols = weight.shape
    return weight.view(n_heads, 2, rows // n_heads // 2, cols).transpose(1, 2).reshape(rows, cols)


def add_tokenizer(writer, tokenizer, codes):
    """SentencePiece 的词表，连同各自的分数（先学到的先合并）和种类。"""
    kinds = gguf.TokenType
    pieces = [tokenizer.id_to_piece(i) for i in range(len(tokenizer))]
    writer.add_tokenizer_model('llama')
    writer.add_token_list(pieces)
    writer.add_token_scores([tokenizer.get_score(i) for i in range(len(tokenizer))])
    writer.add_token_types([
        kinds.UNKNOWN if i == 0 else kinds.CONTROL if i == 1 else kinds.USER_DEFINED if piece in codes
        else kinds.BYTE if tokenizer.is_byte(i) else kinds.NORMAL for i, piece in enumerate(pieces)])
    writer.add_bos_token_id(1)                                      # 歌从分隔符写起，到分隔符为止
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)


def convert(path, out):
    """写出 GGUF 文件；返回结构的名字。"""
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
        weights, constants = checkpoint['model'], checkpoint['config']
        tokenizer = spm.SentencePieceProcessor(model_proto=checkpoint['tokenizer'])
    except FileNotFoundError:
        fail(f'没有检查点 {path}：先训练一个（python v10_muon.py）')
    except Exception as error:
        fail(f'{path} 读不出来（{type(error).__name__}）：要 v9 起各级存下的、完整的检查点')
    if 'blocks.0.attention.k.weight' not in weights:
        fail(f'{path} 是 {constants["SCRIPT"]} 的模型，llama.cpp 里没有同样的：请用 v9_llama.py 起各级的检查点')
    qwen = 'blocks.0.attention.q_norm.weight' in weights            # q、k 先归一：Qwen3；否则是 Llama
    n_heads, head_size = constants['N_HEADS'], constants['N_EMBED'] // constants['N_HEADS']
    n_kv_heads = len(weights['blocks.0.attention.k.weight']) // head_size
    writer = gguf.GGUFWriter(out, 'qwen3' if qwen else 'llama')
    writer.add_name(f'{constants["SCRIPT"].removesuffix(".py")}, step {checkpoint["step"]}')
    writer.add_vocab_size(len(tokenizer))
    writer.add_context_length(constants['BLOCK_SIZE'])
    writer.add_embedding_length(constants['N_EMBED'])
    writer.add_block_count(constants['N_LAYERS'])
    writer.add_feed_forward_length(len(weights['blocks.0.ffwd.gate.weight']))
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(n_kv_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    add_tokenizer(writer, tokenizer, constants.get('CODES', []))
    for name, weight in weights.items():
        if name == 'lm_head.weight':                                # 与词向量共用
            continue
        for part, heads in (('.attention.q.', n_heads), ('.attention.k.', n_kv_heads)):
            if part in name and not qwen:
                weight = interleave(weight, heads)
        writer.add_tensor(rename(name), weight.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return 'Qwen3' if qwen else 'Llama'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', type=Path, metavar='检查点', help='v9_llama.py 起各级存下的')
    parser.add_argument('out', type=Path, metavar='OUT.gguf', help='写成哪个文件（要是新的）')
    options = parser.parse_args()
    if options.out.exists():
        fail(f'{options.out} 已经有了，不会覆盖：换一个名字，或先移走它')
    unfinished = options.out.with_name(f'{options.out.name}.part')
    try:
        kind = convert(options.checkpoint, unfinished)
        unfinished.replace(options.out)
    finally:                                                        # 磁盘写满、按了 Ctrl-C：不留下半个文件
        unfinished.unlink(missing_ok=True)
    print(f'{options.out}：{kind}，{options.out.stat().st_size / 1e6:.1f} MB')


if __name__ == '__main__':
    sys.stdout.reconfigure(errors='replace')
    try:
        main()
    except KeyboardInterrupt:
        fail('已中断')
    except OSError as error:                                        # 没有权限、磁盘写满……
        fail(f'读写文件出错：{error}')
