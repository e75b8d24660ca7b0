"""The model in the page: site/model.js computes what the scripts do, and the front page writes with it."""
import base64
import importlib.util
import json
import math
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SONGS, TINY, make_checkpoint

driver = pytest.importorskip('playwright._impl._driver', reason='playwright is not installed')
SIZE = {'N_EMBED': 64, 'N_HEADS': 4, 'N_LAYERS': 3, 'BLOCK_SIZE': 48, 'DROP_OUT': 0.0}
# character or BPE tokenizer, learned positions, RoPE; ReLU, GELU, SwiGLU; heads apart, QKV in one, grouped queries, q/k norm
EVERY_KIND = ['v0_char_english', 'v0_char_rope', 'v1_bpe_rope', 'v3_gpt2_amp', 'v5_checkpoint', 'v9_llama', 'v10_muon', 's1_control']
ODD = ['', ' a', '  雨 落 ', 'a𠮷b🎵', '\t\r\n\n雨', "don't , stop !", 'aaaaaaaaaa', '<0x41><unk', '雨雨雨', '　']


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


export = module(ROOT / 'site' / 'export_model.py')


def node(file, code, data):
    """What `code` returns: JavaScript that sees model.js, the exported file, and `data`. Node comes with playwright."""
    source = (f'{(ROOT / "site/model.js").read_text(encoding="utf-8")}\n{file}\nconst data = {json.dumps(data)}\n'
              f'console.log(JSON.stringify((() => {{ {code} }})()))')
    done = subprocess.run([driver.compute_driver_executable()[0], '-'], input=source, capture_output=True, encoding='utf-8', timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def made(load, tmp_path):
    """made(script): (the script's model, its pieces, SentencePiece or None, constants) with random weights."""
    def make(name):
        script = load(name, **SIZE)
        if not hasattr(script, 'train_tokenizer'):                  # characters
            torch.manual_seed(1)
            pieces = sorted(set(''.join(SONGS[:200])))
            model = script.GPT(len(pieces))
            for parameter in model.parameters():
                parameter.data += torch.randn_like(parameter) * 0.2
            return model.eval(), pieces, None, SIZE | {'SCRIPT': f'{name}.py'}
        if not hasattr(script, 'config'):
            script.config = lambda songs: SIZE | {'SCRIPT': f'{name}.py'}
        model, tokenizer = make_checkpoint(script, tmp_path / 'best.pt')
        checkpoint = torch.load(tmp_path / 'best.pt', weights_only=True)
        pieces = [tokenizer.id_to_piece(i) for i in range(len(tokenizer))]
        return model, pieces, tokenizer, checkpoint['config']
    return make


@pytest.mark.parametrize('name', EVERY_KIND)
def test_logits_are_those_of_the_script(name, made):
    """Whole windows, one token at a time; after a step back as well: what is forgotten is read again."""
    model, pieces, _, config = made(name)
    ids = torch.randint(4, len(pieces), (48,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(ids[None])[0][0]                           # (T, vocab_size)
    assert expected.std() > 1
    other = ids.clone()
    other[30:] = ids[30:].flip(0)
    with torch.no_grad():
        changed = model(other[None])[0][0, -1]
    found = node(export.export('m', model.state_dict(), config, pieces, exact=True), '''
        const model = new GPT(MODELS.m), [ids, other] = data
        model.after(ids)
        return [model.scores.map(row => [...row]), [...model.after(other)]]''', [ids.tolist(), other.tolist()])
    torch.testing.assert_close(torch.tensor(found[0]), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.tensor(found[1]), changed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', ['v5_checkpoint', 's1_control'])
def test_text_becomes_the_same_tokens_and_comes_back(name, made):
    _, pieces, tokenizer, config = made(name)
    texts = ODD + SONGS[500:600] + (['<情绪>悲伤<歌词><4>旧站台<江阳>上\n'] if name == 's1_control' else [])
    file = export.export('m', {'lm_head.weight': torch.zeros(1, 1), 'token_embedding.weight': torch.zeros(1, 1)}, config, pieces)
    ids, back = node(file, '''const tokenizer = new Tokenizer(MODELS.m), ids = data.map(text => tokenizer.encode(text))
                              return [ids, ids.map(one => tokenizer.decode(one))]''', texts)
    assert ids == tokenizer.encode(texts)
    assert back == [re.sub('<(?:情绪|歌词|4|江阳)>', '', text) for text in texts]


def test_int8_loses_little(load, tmp_path, lyrics_dir):
    """bits of the test songs with int8 matrices, for a model that has learned something: within 0.02 of float32's."""
    script = load('v10_muon', **TINY | {'LYRICS_DIR': str(lyrics_dir), 'BLOCK_SIZE': 48, 'MAX_SONGS': 200})
    tokenizer, train, test, _ = script.load_data()
    torch.manual_seed(0)
    model = script.GPT(len(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(60):
        x, y = script.get_batch(train, step)
        optimizer.zero_grad()
        model(x, y)[1].backward()
        optimizer.step()
    model.eval()
    pieces = [tokenizer.id_to_piece(i) for i in range(len(tokenizer))]
    ids = test[:len(test) // 48 * 48].tolist()
    losses = [node(export.export('m', model.state_dict(), script.config('0'), pieces, exact), '''
        const model = new GPT(MODELS.m)
        let bits = 0
        for (let i = 0; i < data.length; i += 48) {
          model.after(data.slice(i, i + 48))
          bits += model.bits.reduce((a, b) => a + b)
        }
        return bits / data.length''', ids) for exact in (True, False)]
    with torch.no_grad():
        windows = torch.tensor(ids).view(-1, 48)
        expected = model(windows[:, :-1], windows[:, 1:])[1].item() / math.log(2) * 47 / 48
    assert losses[0] == pytest.approx(expected, abs=1e-4) and expected < math.log2(len(tokenizer)) - 1
    assert losses[0] != losses[1] and abs(losses[0] - losses[1]) < 0.02


def test_the_model_that_ships_writes_as_it_is_asked():
    """It begins with the given lines; every line of its own rhymes as asked, and none shows a mark."""
    file = (ROOT / 'site/song-model.js').read_text(encoding='utf-8')
    assert len(file.encode()) < 3e6
    lines = node(file, '''
        const writer = new Writer(MODELS.songs), found = []
        let state = 1
        const random = () => (state = state * 16807 % 2147483647) / 2147483647
        for (const { text, complete } of writer.write({ lines: ['雨落在旧站台'], mood: '悲伤', rhyme: '江阳', random }))
          if (complete) found.push([text, writer.rhyme(text)])
        return found''', None)
    assert len(lines) >= 4 and {rhyme for text, rhyme in lines[:-1]} == {'江阳'}
    assert all(not re.search('[<>]', text) and 1 < len(text) < 30 for text, _ in lines[:-1])


def test_the_mean_of_the_strip_is_bits_per_char():
    """Of the given lines: the same sum that PyTorch gets from the same weights, marks left out."""
    file = (ROOT / 'site/song-model.js').read_text(encoding='utf-8')
    text = '雨落在旧站台\n我还在等你🎵'
    tokens, likely, ids = node(file, '''const writer = new Writer(MODELS.songs), tokens = writer.surprises(data)
        return [tokens, tokens.map(({ places }) => writer.likely(places[0])), writer.begin(data)]''', text.split('\n'))
    assert ''.join(token['text'] for token in tokens) == text
    model = json.loads(file.split(' = ', 1)[1])
    weights, raw = {}, base64.b64decode(model['data'])
    for name, t in model['tensors'].items():
        if t['int8']:
            n = t['rows'] * t['cols']
            rows = torch.frombuffer(bytearray(raw[t['at']:t['at'] + n]), dtype=torch.int8).view(t['rows'], t['cols'])
            at = t['at'] + -(-n // 4) * 4
            scale = torch.frombuffer(bytearray(raw[at:at + 4 * t['rows']]), dtype=torch.float32)
            weights[name] = rows * scale[:, None]
        else:
            weights[name] = torch.frombuffer(bytearray(raw[t['at']:t['at'] + 4 * t['cols']]), dtype=torch.float32)
    weights['lm_head.weight'] = weights['token_embedding.weight']
    sys.path.insert(0, str(ROOT))
    import generate
    theirs = generate.GPT(weights, model['config'])
    bits, first = 0.0, ids.index(model['pieces'].index('<歌词>')) + 1
    with torch.no_grad():
        for i in range(first, len(ids) - 1):                        # the last is a line break that nobody typed
            scores = theirs.forward(torch.tensor([ids[:i]]), theirs.new_cache(1, i), 0)[0]
            bits -= scores.log_softmax(-1)[ids[i]].item() / math.log(2) * (ids[i] not in model['codes'])
    assert sum(token['bits'] for token in tokens) == pytest.approx(bits, rel=1e-3)
    for token, (best, *others) in zip(tokens, likely, strict=True):
        assert len(others) == 9 and best[1] >= others[8][1] > 0
        assert token['places'][1:] or token['bits'] > -math.log2(best[1]) - 1e-6        # nothing is likelier


def test_what_is_known_is_not_computed_again():
    """One more character: the tokens before it keep their bits, and a softmax over the vocabulary is taken for the new ones."""
    file = (ROOT / 'site/song-model.js').read_text(encoding='utf-8')
    bits, calls = node(file, '''
        const writer = new Writer(MODELS.songs), before = writer.surprises(['雨落在旧站台', '我还在']), steps = []
        writer.model.step = token => { steps.push(token); GPT.prototype.step.call(writer.model, token) }
        const after = writer.surprises(['雨落在旧站台', '我还在', '等'])
        return [[before, after].map(tokens => tokens.slice(0, 8).map(token => token.bits)), steps.length]''', None)
    assert bits[0] == bits[1] and calls <= 5


def test_of_a_long_opening_the_last_lines_are_kept():
    """As generate.py does: half the window stays for the song, which then begins in the middle."""
    file = (ROOT / 'site/song-model.js').read_text(encoding='utf-8')
    lines = [f'第{n}行雨落在旧站台' for n in range(60)]
    kept, ids, song, read = node(file, '''
        const writer = new Writer(MODELS.songs), { pieces } = MODELS.songs
        const song = [...writer.write({ lines: data })], tokens = writer.surprises(data)
        return [writer.fitting(data), writer.begin(data).map(id => pieces[id]), song, tokens.map(token => token.text).join('')]''', lines)
    model = json.loads(file.split(' = ', 1)[1])
    assert 5 < len(kept) < 60 and kept == lines[-len(kept):] and read == '\n'.join(kept)
    assert ids[:2] == ['<续>', '<歌词>'] and ''.join(ids[2:]).count('\n') == len(kept)
    assert len(ids) - 2 <= model['config']['BLOCK_SIZE'] // 2 and song


def test_bad_input_ends_with_one_clear_line(tmp_path, monkeypatch):
    (tmp_path / 'cut.pt').write_bytes(b'PK')
    torch.save({'model': {}}, tmp_path / 'other.pt')
    for name, words in (('none.pt', '没有检查点'), ('cut.pt', '读不出来'), ('other.pt', '读不出来')):
        monkeypatch.setattr(sys, 'argv', ['export_model.py', str(tmp_path / name), str(tmp_path / 'out.js')])
        with pytest.raises(SystemExit, match=f'^错误：.*{words}') as stop:
            export.main()
        assert name in stop.value.code and '\n' not in stop.value.code and not (tmp_path / 'out.js').exists()


def test_tiny_pieces_of_the_file_are_aligned():
    tensors, data = export.packed({'a': torch.randn(3, 5), 'b': torch.randn(7), 'c': torch.randn(1, 1)}, exact=False)
    assert all(t['at'] % 4 == 0 for t in tensors.values()) and len(data) % 4 == 0
    assert tensors['a']['int8'] and not tensors['b']['int8']
