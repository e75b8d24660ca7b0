"""export_hf.py: what transformers loads is the model that was trained, and writes the songs that generate.py writes."""
import argparse
import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import CHECKPOINT, ROOT, SONGS, environment, imported, level, make_checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

ODD = ['', ' a', '  雨 落 ', 'a𠮷b🎵', '\t\r\n\n雨', "don't , stop !", '▁', 'aaaaaaaaaa', '<0x41><unk', '雨雨雨', '　']
EXPORTED = [*(name for name in CHECKPOINT if level(name) >= 9), 's1_control']


@pytest.fixture
def export(run_main):
    return run_main('export_hf')


@pytest.fixture
def exported(load, export, tmp_path):
    """exported(rung): (the trained model, its tokenizer, the exported folder)."""
    def make(name):
        script = load(name, N_EMBED=64, N_HEADS=4, N_LAYERS=3, DROP_OUT=0.3, BLOCK_SIZE=48)
        model, tokenizer = make_checkpoint(script, tmp_path / 'best.pt')
        status, out = export('best.pt', 'out')
        assert status == 0 and ('Llama' if name == 'v9_llama' else 'Qwen3') in out
        return model, tokenizer, tmp_path / 'out'
    return make


@pytest.mark.parametrize('name', EXPORTED)
def test_transformers_computes_what_the_script_does(name, exported):
    model, tokenizer, folder = exported(name)
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert type(theirs).__name__ == ('LlamaForCausalLM' if name == 'v9_llama' else 'Qwen3ForCausalLM')
    assert theirs.config.num_key_value_heads == 2 and theirs.config.max_position_embeddings == 48
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in model.parameters())
    idx = torch.randint(len(tokenizer), (3, 48))
    with torch.no_grad():
        expected = model(idx)[0]
        assert expected.std() > 1                                   # not a comparison of zeros
        torch.testing.assert_close(theirs(idx).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(('name', 'use_fast'), [('v9_llama', True), ('v10_muon', True), ('v10_muon', False), ('s1_control', True)])
def test_the_tokenizer_gives_the_same_numbers(name, use_fast, exported):
    _, tokenizer, folder = exported(name)
    theirs = AutoTokenizer.from_pretrained(folder, use_fast=use_fast)
    texts = ODD + SONGS[500:600] + [line for song in SONGS[::4] for line in song.split('\n')]
    expected = [[tokenizer.eos_id(), *ids] for ids in tokenizer.encode(texts)]  # a song begins with the separator
    assert theirs(texts)['input_ids'] == expected
    assert theirs.batch_decode(expected, skip_special_tokens=True) == [text.replace('▁', ' ') for text in texts]
    if name == 's1_control':                                        # a mark is one token, and not shown
        ids = tokenizer.encode('<歌词><3>雨落<姑苏>处')
        assert theirs('<歌词><3>雨落<姑苏>处')['input_ids'][1:] == ids and theirs.decode(ids, skip_special_tokens=True) == '雨落处'
    assert len(theirs) == len(tokenizer) and theirs.eos_token_id == theirs.bos_token_id == tokenizer.eos_id()


@pytest.mark.parametrize('name', ['v9_llama', 'v10_muon'])
def test_transformers_writes_the_songs_of_generate(name, exported, tmp_path):
    _, tokenizer, folder = exported(name)
    generate = imported('generate')
    ours = generate.load(tmp_path / 'best.pt', 'cpu')[0]
    theirs, encode = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompts = ['雨落在旧站台', '风', '夜色很长\n我在等你', '']
    songs = [generate.Song(prompt, 1, tokenizer, 48) for prompt in prompts]
    options = argparse.Namespace(temperature=0, top_k=0, top_p=1, repetition_penalty=1, max_tokens=20)
    for _ in generate.write_songs(ours, songs, options):
        pass
    expected = [song.ids for song in songs]
    batch = encode(prompts, return_tensors='pt', padding=True)      # of different lengths
    written = theirs.generate(**batch, do_sample=False, max_new_tokens=20)
    for ids, mask, song in zip(written.tolist(), batch['attention_mask'], expected, strict=True):
        assert ids[len(mask) - mask.sum():][:len(song)] == song
    for prompt, song in zip(prompts, expected, strict=True):
        alone = theirs.generate(**encode(prompt, return_tensors='pt'), do_sample=False, max_new_tokens=20)
        assert alone[0].tolist() == song
    write = pipeline('text-generation', model=str(folder), do_sample=False, max_new_tokens=20)
    assert write(prompts[0])[0]['generated_text'] == encode.decode(expected[0], skip_special_tokens=True)


@pytest.mark.parametrize('name', ['v9_llama', 'v10_muon'])
def test_generation_ends_with_the_song_and_with_the_window(name, exported):
    _, tokenizer, folder = exported(name)
    model, encode = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.generate(**encode('雨', return_tensors='pt')).shape[1] <= 48
    model.lm_head = head = torch.nn.Linear(64, len(tokenizer))
    head.weight.data.zero_()
    for favourite, length in ((tokenizer.eos_id(), 3), (300, 48)):
        head.bias.data.zero_()[[favourite, tokenizer.unk_id()]] = torch.tensor([50.0, 100.0])   # never the unknown one
        written = model.generate(**encode('雨', return_tensors='pt'), do_sample=False)[0].tolist()
        assert written[2:] == [favourite] * (length - 2)


def test_the_defaults_are_those_of_generate(load, export, tmp_path):
    make_checkpoint(load('v10_muon'), tmp_path / 'best.pt')
    export('best.pt', 'out')
    config = json.loads((tmp_path / 'out/generation_config.json').read_text())
    generate = imported('generate')
    for name, (_, default, _, _) in generate.SETTINGS.items():
        assert name in ('max_tokens', 'seed', *generate.WISHES) or config[name] == default


def test_the_card_says_where_the_model_comes_from(load, export, tmp_path):
    make_checkpoint(load('v10_muon', LYRICS_DIR='MyLyrics'), tmp_path / 'best.pt')
    export('best.pt', 'out')
    text = (tmp_path / 'out/README.md').read_text(encoding='utf-8')
    assert text.startswith('---\nlanguage: zh\n') and all(word in text for word in ('v10_muon.py', 'MyLyrics/', '1 步', '1.0000'))


def test_the_card_of_s1_says_its_format(load, export, tmp_path):
    script = load('s1_control')
    make_checkpoint(script, tmp_path / 'best.pt')
    export('best.pt', 'out')
    text = (tmp_path / 'out/README.md').read_text(encoding='utf-8')
    example = re.search(r'例如 `(.*?)`', text)[1]
    ids = AutoTokenizer.from_pretrained(tmp_path / 'out')(example)['input_ids']
    assert all(f'<{mark}>' in example for mark in ('情绪', '歌词', '6', '怀来')) and '歌词自己的 token' in text
    assert max(ids[1], ids[-2]) < 2 + len(script.CODES)                 # marks


def test_without_safetensors_it_says_what_to_install():
    code = 'import sys; sys.modules["safetensors"] = None; import export_hf'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, encoding='utf-8', timeout=120)
    assert (done.returncode, done.stderr) == (1, '错误：要先 pip install safetensors\n')


def test_bad_input_ends_with_one_clear_line(load, export, tmp_path):
    make_checkpoint(load('v9_llama'), tmp_path / 'best.pt')
    refused = [name for name in CHECKPOINT if level(name) < 9]
    for name in refused:
        make_checkpoint(load(name), tmp_path / f'{name}.pt')
    (tmp_path / 'cut.pt').write_bytes((tmp_path / 'best.pt').read_bytes()[:5000])
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/mine.txt').write_text('keep')
    for arguments, words in [(['none.pt', 'out'], '没有检查点 none.pt'), (['cut.pt', 'out'], 'cut.pt 读不出来'),
                             (['best.pt', 'full'], 'full 里已经有东西'),
                             *(([f'{name}.pt', 'out'], f'是 {name}.py 的模型') for name in refused)]:
        status, out = export(*arguments)
        assert status.startswith('错误：') and words in status and '\n' not in status
        assert out == '' and not (tmp_path / 'out').exists()
    assert [path.name for path in (tmp_path / 'full').iterdir()] == ['mine.txt']
    (tmp_path / 'empty').mkdir()
    assert export('best.pt', 'empty')[0] == 0


def test_a_full_disk_leaves_nothing_behind(load, tmp_path):
    """As a user runs it; the disk is a limit on the size of files."""
    make_checkpoint(load('v9_llama'), tmp_path / 'best.pt')
    shutil.copy(ROOT / 'export_hf.py', tmp_path)
    code = ('import resource, runpy, signal, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n'
            'signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nsys.argv = ["export_hf.py", "best.pt", "out"]\n'
            'runpy.run_path("export_hf.py", run_name="__main__")')
    done = subprocess.run([sys.executable, '-B', '-c', code], cwd=tmp_path, env=environment(tmp_path), text=True,
                          encoding='utf-8', capture_output=True, timeout=120)
    assert done.returncode == 1 and done.stderr.startswith('错误：') and 'Traceback' not in done.stderr
    assert not (tmp_path / 'out').exists()
