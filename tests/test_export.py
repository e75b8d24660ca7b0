"""export_hf.py: what transformers loads is the model that v8 trained, and its tokenizer gives the same numbers."""
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, environment
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

SAMPLE = ['\n'.join(song['lyric']) for song in json.loads((ROOT / 'ChineseLyrics' / 'sample.json').read_text(encoding='utf-8'))]


def checkpoint_of(script, path):
    """A checkpoint of random weights, norms included, far from the first ones; returns the model."""
    tokenizer = script.train_tokenizer(script.load_songs()[:500])
    torch.manual_seed(1)
    model = script.GPT(len(tokenizer))
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.2
    torch.save({'model': model.state_dict(), 'config': script.config(), 'tokenizer': tokenizer.serialized_model_proto(), 'step': 1,
                'best_test_loss': 1.0}, path)
    return model.eval(), tokenizer


def call(folder, *arguments, env=None):
    """Run export_hf.py as a user does, in `folder`."""
    shutil.copy(ROOT / 'export_hf.py', folder)
    return subprocess.run([sys.executable, 'export_hf.py', *arguments], cwd=folder, env=environment(folder, env), text=True,
                          encoding='utf-8', capture_output=True, timeout=120)


@pytest.fixture
def exported(load, tmp_path):
    """(the trained model, its tokenizer, the exported folder)."""
    model, tokenizer = checkpoint_of(load('v8_llama', N_EMBED=48, N_HEADS=4, N_LAYERS=3, DROP_OUT=0.3), tmp_path / 'best.pt')
    done = call(tmp_path, 'best.pt', 'out/llama')
    assert done.returncode == 0 and 'M 参数的 Llama' in done.stdout, done.stderr
    return model, tokenizer, tmp_path / 'out' / 'llama'


def test_transformers_computes_the_same_logits(exported):
    model, tokenizer, folder = exported
    llama = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert type(llama) is LlamaForCausalLM and llama.dtype == torch.float32
    assert sum(p.numel() for p in llama.parameters()) == sum(p.numel() for p in model.parameters())
    idx = torch.tensor([tokenizer.encode(text)[:32] for text in SAMPLE[:8]])
    with torch.no_grad():
        expected = model(idx)[0]
        assert expected.std() > 1                                   # not a comparison of zeros
        torch.testing.assert_close(llama(idx).logits, expected, rtol=1e-4, atol=1e-4)


def test_the_tokenizer_gives_the_same_numbers(exported):
    _, tokenizer, folder = exported
    theirs = AutoTokenizer.from_pretrained(folder)
    odd = ['a b  c', ' 你好 ', '🎵𠮷Ünï', '\n\n雨\n', 'x\r\ny', '\u3000全角', '\t', '']
    for text in SAMPLE + odd:
        ids = tokenizer.encode(text)
        assert theirs(text)['input_ids'] == ids and theirs.decode(ids) == text
    assert theirs.eos_token_id == theirs.bos_token_id == tokenizer.eos_id() and len(theirs) == len(tokenizer)


def test_transformers_writes_as_our_model_does(exported):
    model, tokenizer, folder = exported
    llama = AutoModelForCausalLM.from_pretrained(folder).eval()
    idx = torch.tensor([[tokenizer.eos_id(), *tokenizer.encode('雨落')]])
    written = llama.generate(idx, attention_mask=torch.ones_like(idx), do_sample=False, max_new_tokens=20)[0].tolist()
    ours = idx
    with torch.no_grad():
        while ours.shape[1] < len(written):
            ours = torch.cat((ours, model(ours)[0][:, -1:].argmax(-1)), dim=1)
    assert ours[0].tolist() == written and len(written) > idx.shape[1]


def test_bad_input(load, tmp_path):
    model, _ = checkpoint_of(load('v8_llama'), tmp_path / 'best.pt')
    checkpoint_of(load('v7_grad_accum'), tmp_path / 'v7.pt')
    checkpoint_of(load('v9_muon'), tmp_path / 'v9.pt')
    (tmp_path / 'cut.pt').write_bytes((tmp_path / 'best.pt').read_bytes()[:5000])
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/mine.txt').write_text('keep')
    for arguments, word in [(['none.pt', 'out'], '没有检查点 none.pt'), (['cut.pt', 'out'], 'cut.pt'),
                            (['v7.pt', 'out'], '不是 v8_llama.py 的模型'), (['v9.pt', 'out'], '不是 v8_llama.py 的模型'),
                            (['best.pt', 'full'], 'full 已经有了'), (['best.pt'], 'OUT'), ([], 'OUT')]:
        done = call(tmp_path, *arguments)
        assert done.returncode == 1 and word in done.stderr and done.stderr.startswith('错误：'), (arguments, done.stderr)
        assert len(done.stderr.splitlines()) == 1 and not (tmp_path / 'out').exists()
    assert os.listdir(tmp_path / 'full') == ['mine.txt'] and not list(tmp_path.glob('*.tmp'))


def test_without_safetensors(load, tmp_path):
    checkpoint_of(load('v8_llama'), tmp_path / 'best.pt')
    (tmp_path / 'safetensors.py').write_text('raise ImportError')
    done = call(tmp_path, 'best.pt', 'out')
    assert done.returncode == 1 and 'pip install safetensors' in done.stderr and not (tmp_path / 'out').exists()


def test_a_full_disk_leaves_nothing_behind(load, tmp_path):
    checkpoint_of(load('v8_llama'), tmp_path / 'best.pt')
    code = 'import resource, runpy, signal; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); signal.signal(25, signal.SIG_IGN)'
    shutil.copy(ROOT / 'export_hf.py', tmp_path)
    run = "import sys; sys.argv = ['export_hf.py', 'best.pt', 'out']; runpy.run_path('export_hf.py', run_name='__main__')"
    done = subprocess.run([sys.executable, '-B', '-c', f'{code}; {run}'], cwd=tmp_path, env=environment(tmp_path), text=True,
                          encoding='utf-8', capture_output=True, timeout=120)
    assert done.returncode == 1 and done.stderr.startswith('错误：') and 'Traceback' not in done.stderr
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} <= {'__pycache__'}
