"""export_gguf.py: what transformers (and llama.cpp, where it is installed) reads is the model that was trained."""
import subprocess
import sys

import gguf
import numpy as np
import pytest
import torch
from conftest import CHECKPOINT, ROOT, SONGS, imported, level, make_checkpoint
from transformers import AutoModelForCausalLM

PROMPTS = ['', '雨', '风', '夜色很长', '雨落在旧站台', 'a b', '夜色很长\n我在等你', '谁', '天亮以后', '🎵']
SIZE = {'N_EMBED': 64, 'N_HEADS': 4, 'N_LAYERS': 3, 'BLOCK_SIZE': 48, 'DROP_OUT': 0.0}
EXPORTED = ['v9_llama', 'v10_muon', 's1_control']


@pytest.fixture
def export(run_main):
    return run_main('export_gguf')


@pytest.fixture
def exported(load, export, tmp_path):
    """exported(script): (our model, its tokenizer); the file is out.gguf."""
    def make(name):
        _, tokenizer = make_checkpoint(load(name, **SIZE), tmp_path / 'best.pt')
        status, out = export('best.pt', 'out.gguf')
        assert status == 0 and ('Llama' if name == 'v9_llama' else 'Qwen3') in out
        return imported('generate').load(tmp_path / 'best.pt', 'cpu')[0], tokenizer
    return make


def greedy(model, ids, steps=12):
    ids = list(ids)
    for _ in range(steps):
        ids.append(model.forward(torch.tensor([ids]), model.new_cache(1, len(ids)), 0).argmax().item())
    return ids


@pytest.mark.parametrize('name', EXPORTED)
def test_tensors_and_vocabulary_are_read_back(name, exported, tmp_path):
    model, tokenizer = exported(name)
    reader = gguf.GGUFReader(tmp_path / 'out.gguf')
    fields = {key: field.contents() for key, field in reader.fields.items()}
    kind = 'llama' if name == 'v9_llama' else 'qwen3'
    assert fields['general.architecture'] == kind and fields[f'{kind}.attention.head_count_kv'] == 2
    assert fields[f'{kind}.context_length'] == 48 and fields['tokenizer.ggml.eos_token_id'] == tokenizer.eos_id() == 1
    assert fields['tokenizer.ggml.tokens'] == [tokenizer.id_to_piece(i) for i in range(len(tokenizer))]
    kinds = fields['tokenizer.ggml.token_type']
    codes = model.config.get('CODES', [])
    assert [tokenizer.id_to_piece(i) for i, kind in enumerate(kinds) if kind == gguf.TokenType.USER_DEFINED] == list(codes)
    assert kinds.count(gguf.TokenType.BYTE) == 256
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert 'output.weight' not in tensors and len(tensors) == len(model.weights) - 1        # tied
    np.testing.assert_array_equal(tensors['blk.2.ffn_down.weight'], model.weights['blocks.2.ffwd.down.weight'])
    q = model.weights['blocks.1.attention.q.weight'].numpy()
    if name == 'v9_llama':                                          # the first two rows of a head are a pair that rotates
        np.testing.assert_array_equal(tensors['blk.1.attn_q.weight'][:4], q[[0, 8, 1, 9]])
    else:
        np.testing.assert_array_equal(tensors['blk.1.attn_q.weight'], q)


@pytest.mark.parametrize('name', EXPORTED)
def test_transformers_writes_the_same(name, exported, tmp_path):
    model, tokenizer = exported(name)
    head = {} if name == 'v9_llama' else {'head_dim': 16}           # transformers does not read it from a Qwen3's GGUF
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file='out.gguf', **head).eval()
    for prompt in PROMPTS:
        ids = [1, *tokenizer.encode(prompt)]
        with torch.no_grad():
            written = list(ids)
            for _ in range(12):
                written.append(theirs(torch.tensor([written])).logits[0, -1].argmax().item())
        assert written == greedy(model, ids)


@pytest.mark.parametrize('name', EXPORTED)
def test_llama_cpp_reads_the_text_and_writes_the_same(name, exported, tmp_path):
    llama_cpp = pytest.importorskip('llama_cpp', reason='llama-cpp-python is not installed')
    model, tokenizer = exported(name)
    exact = llama_cpp.GGML_TYPE_F32                                 # by default it keeps k and v in 16 bits
    theirs = llama_cpp.Llama(str(tmp_path / 'out.gguf'), n_ctx=48, verbose=False, logits_all=True, type_k=exact, type_v=exact)
    for text in PROMPTS + SONGS[:20]:
        assert theirs.tokenize(text.encode(), add_bos=True, special=True) == [1, *tokenizer.encode(text)]
    for prompt in PROMPTS:
        ids = [1, *tokenizer.encode(prompt)]
        theirs.reset()
        written = list(ids)
        theirs.eval(ids)
        for _ in range(12):
            written.append(int(np.argmax(theirs.scores[theirs.n_tokens - 1])))
            theirs.eval(written[-1:])
        assert written == greedy(model, ids)


def test_without_gguf_it_says_what_to_install():
    code = 'import sys; sys.modules["gguf"] = None; import export_gguf'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, encoding='utf-8', timeout=120)
    assert (done.returncode, done.stderr) == (1, '错误：要先 pip install gguf\n')


def test_bad_input_ends_with_one_clear_line(load, export, tmp_path):
    make_checkpoint(load('v9_llama'), tmp_path / 'best.pt')
    old = next(name for name in CHECKPOINT if level(name) < 9)
    make_checkpoint(load(old), tmp_path / 'old.pt')
    (tmp_path / 'cut.pt').write_bytes((tmp_path / 'best.pt').read_bytes()[:5000])
    (tmp_path / 'there.gguf').write_text('keep')
    for arguments, words in [(['none.pt', 'out'], '没有检查点 none.pt'), (['cut.pt', 'out'], 'cut.pt 读不出来'),
                             (['best.pt', 'there.gguf'], 'there.gguf 已经有了'), (['old.pt', 'out'], f'是 {old}.py 的模型')]:
        status, out = export(*arguments)
        assert status.startswith('错误：') and words in status and '\n' not in status and out == ''
    assert {path.name for path in tmp_path.iterdir()} >= {'there.gguf'} and not list(tmp_path.glob('*.part'))
    assert (tmp_path / 'there.gguf').read_text() == 'keep'
