"""The model: causality, rotary positions, attention, initialisation, sampling, mixed precision, compilation.

A definition that no step changes is the same to the letter in every rung (test_ladder.py), so one rung for each variant is enough.
"""
import math

import pytest
import torch
from conftest import level, log_lines, losses

V = 97
VARIANTS = ['v0_char_english', 'v0_char_rope', 'v3_gpt2_amp', 'v4_flash_optim', 'v9_llama', 'v10_muon']
FOUR_HEADS = {'v9_llama': {'N_HEADS': 4, 'N_KV_HEADS': 2}, 'v10_muon': {'N_HEADS': 4, 'N_KV_HEADS': 2}}


def model_of(module, seed=0):
    """A model in eval mode, its weights far from the first ones."""
    torch.manual_seed(seed)
    model = module.GPT(V).eval()
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return model


@pytest.mark.parametrize('name', VARIANTS)
def test_causal(name, load):
    """A changed token leaves all earlier logits as they were, and changes its own and later ones."""
    model, idx = model_of(load(name, **FOUR_HEADS.get(name, {}))), torch.randint(V, (3, 32))
    before, _ = model(idx)
    for position in (0, 1, 17, 31):
        changed = idx.clone()
        changed[:, position] = (changed[:, position] + 1) % V
        after, _ = model(changed)
        assert torch.equal(before[:, :position], after[:, :position])
        assert (before[:, position:] != after[:, position:]).any(-1).all()


@pytest.mark.parametrize('name', VARIANTS)
def test_loss_is_the_cross_entropy_and_starts_near_guessing(name, load):
    torch.manual_seed(0)
    model, idx = load(name).GPT(V), torch.randint(V, (8, 33))
    logits, loss = model.eval()(idx[:, :-1], idx[:, 1:])
    picked = logits.log_softmax(-1).gather(-1, idx[:, 1:, None])
    assert loss.item() == pytest.approx(-picked.mean().item(), abs=1e-5)
    assert abs(loss.item() - math.log(V)) < 0.5
    assert model(idx[:, 1:])[1] is None


@pytest.mark.parametrize('name', VARIANTS)
def test_attention_is_the_formula(name, load):
    """Softmax of q·k / sqrt(head_size) over what came before, written out once more from the weights."""
    module = load(name, N_LAYERS=1, **FOUR_HEADS.get(name, {}))
    model, x = model_of(module), torch.randn(2, 32, 32)
    attention, size = model.blocks[0].attention, 32 // module.N_HEADS
    if level(name) < 4:
        q, k, v = (torch.stack([getattr(h, part)(x) for h in attention.heads], 1) for part in ('query', 'key', 'value'))
    elif level(name) < 9:
        q, k, v = (y.view(2, 32, -1, size).transpose(1, 2) for y in attention.qkv(x).chunk(3, -1))
    else:
        q, k, v = (part(x).view(2, 32, -1, size).transpose(1, 2) for part in (attention.q, attention.k, attention.v))
        assert k.shape[1] == module.N_KV_HEADS < q.shape[1]
        k, v = (torch.stack([y[:, head // (q.shape[1] // y.shape[1])] for head in range(q.shape[1])], 1) for y in (k, v))
    if level(name) >= 10:                                           # RMSNorm over each head's channels, before the rotation
        q, k = (y * (y.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * norm.weight
                for y, norm in ((q, attention.q_norm), (k, attention.k_norm)))
    rope = () if name == 'v0_char_english' else (model.rope,)
    if rope:
        q, k = module.apply_rope(q, model.rope), module.apply_rope(k, model.rope)
    scores = (q @ k.transpose(-2, -1) / math.sqrt(size)).masked_fill(torch.ones(32, 32).triu(1).bool(), -math.inf)
    expected = attention.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(2, 32, 32))
    assert torch.allclose(attention(x, *rope), expected, atol=1e-5)


def test_flash_attention_equals_per_head_attention(load):
    """v3's heads and v4's one projection, given the same weights: the same logits."""
    old, new = model_of(load('v3_gpt2_amp', N_HEADS=4)), model_of(load('v4_flash_optim', N_HEADS=4), seed=1)
    weights = {key: value for key, value in old.state_dict().items() if '.heads.' not in key}
    for layer, block in enumerate(old.blocks):
        parts = [torch.cat([getattr(head, part).weight for head in block.attention.heads]) for part in ('query', 'key', 'value')]
        weights[f'blocks.{layer}.attention.qkv.weight'] = torch.cat(parts)
    idx = torch.randint(V, (4, 32))
    assert not torch.allclose(old(idx)[0], new(idx)[0], atol=1e-2)
    new.load_state_dict(weights)
    assert torch.allclose(old(idx)[0], new(idx)[0], atol=1e-5)


def test_grouped_queries_equal_full_attention_with_repeated_weights(load):
    grouped, full = (model_of(load('v9_llama', N_HEADS=4, N_KV_HEADS=n), seed=n) for n in (2, 4))
    weights = {key: value.view(-1, 8, 32).repeat_interleave(2, 0).flatten(0, 1) if key.endswith(('k.weight', 'v.weight')) else value
               for key, value in grouped.state_dict().items()}
    full.load_state_dict(weights)
    idx = torch.randint(V, (4, 32))
    assert torch.allclose(grouped(idx)[0], full(idx)[0], atol=1e-5)


# ---------- RoPE ----------
def test_rope_depends_on_distances_only(load):
    module = load('v0_char_rope', BLOCK_SIZE=64)
    table = module.rope_table()
    assert table.dtype == torch.float32 and table.shape == (2, 64, 8)
    q, k = (module.apply_rope(x.expand(64, 16), table.double()) for x in torch.randn(2, 16, dtype=torch.float64))
    scores = q @ k.T                                                # the same q and k at every pair of positions
    for distance in range(-63, 64):
        diagonal = scores.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-4)
    assert scores.std() > 0.1                                       # and it does depend on them
    assert torch.allclose(q.norm(dim=-1), q[0].norm().expand(64), atol=1e-5)


def test_rope_pairs_channel_i_with_i_plus_half(load):
    module = load('v0_char_rope')
    x = torch.zeros(32, 16)
    x[:, 3] = 1
    y = module.apply_rope(x, module.rope_table())
    angle = 5 * 10000 ** (-2 * 3 / 16)
    assert y[5].nonzero().flatten().tolist() == [3, 11]
    assert y[5, [3, 11]].tolist() == pytest.approx([math.cos(angle), math.sin(angle)], abs=1e-6)


@pytest.mark.parametrize('name', ['v3_gpt2_amp', 'v10_muon'])
def test_rope_is_one_table_not_saved_and_float32_under_autocast(name, load, monkeypatch):
    module, dtypes = load(name, USE_AMP=True, AMP_DTYPE='bfloat16'), []
    rotate = module.apply_rope
    monkeypatch.setattr(module, 'apply_rope', lambda x, rope: dtypes.append((rope.dtype, rotate(x, rope).dtype)) or rotate(x, rope))
    model = model_of(module)
    model(torch.zeros(1, 9, dtype=torch.long))
    assert set(dtypes) == {(torch.float32, torch.float32)}
    assert len([key for key, _ in model.named_buffers() if 'rope' in key]) == 1 and not any('rope' in key for key in model.state_dict())


# ---------- initialisation, dropout ----------
@pytest.mark.parametrize('name', ['v4_flash_optim', 'v9_llama', 'v10_muon'])
def test_gpt2_initialisation(name, load):
    """0.02 at GPT-2's width of 768; twice that at a quarter of the width."""
    for key, p in load(name, N_EMBED=192, N_LAYERS=8).GPT(2000).named_parameters():
        if p.ndim == 1:
            assert (p == (0 if key.endswith('bias') else 1)).all(), key
        else:
            residual = key.endswith(('attention.proj.weight', 'ffwd.net.2.weight', 'ffwd.down.weight'))
            assert p.std().item() == pytest.approx(0.04 / math.sqrt(16) if residual else 0.04, rel=0.05), key
            assert abs(p.mean().item()) < 1e-3


def test_what_a_llama_has(load):
    """No biases; one matrix of word vectors, read at both ends; the feed-forward as large as before."""
    model, x = load('v9_llama', N_EMBED=192, N_HEADS=4).GPT(V), torch.randn(2, 192)
    assert model.lm_head.weight is model.token_embedding.weight
    assert not [key for key, _ in model.named_parameters() if key.endswith('bias') or 'lm_head' in key]
    ffwd = model.eval().blocks[0].ffwd
    assert sum(p.numel() for p in ffwd.parameters()) == 8 * 192 * 192
    gate, up = ffwd.gate(x), ffwd.up(x)
    assert torch.allclose(ffwd(x), ffwd.down(gate * gate.sigmoid() * up), atol=1e-6)
    assert [type(m).__name__ for m in (model.ln_f, model.blocks[0].ln1, model.blocks[0].ln2)] == ['RMSNorm'] * 3


@pytest.mark.parametrize('name', ['v0_char_english', 'v3_gpt2_amp', 'v4_flash_optim', 'v9_llama'])
def test_dropout_acts_in_training_only(name, load):
    module = load(name, DROP_OUT=0.5)
    model, idx = model_of(module), torch.randint(V, (2, 32))
    assert torch.equal(model(idx)[0], model(idx)[0])
    assert not torch.equal(model.train()(idx)[0], model(idx)[0])
    if level(name) >= 4:                                            # the attention's own is an argument: eval() does not switch it off
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        assert not torch.equal(model(idx)[0], model(idx)[0])
        assert torch.equal(model.eval()(idx)[0], model(idx)[0])


# ---------- sampling ----------
@pytest.mark.parametrize('name', ['v0_char_english', 'v1_bpe_rope', 'v3_gpt2_amp'])
def test_generate_goes_beyond_the_window_and_leaves_training_untouched(name, load):
    module = load(name, BLOCK_SIZE=8, MAX_NEW_TOKENS=20)
    model = model_of(module).train()
    arguments = (torch.zeros(1, 1, dtype=torch.long),) + ((-1,) if level(name) else ())
    state = torch.get_rng_state()
    first, second = model.generate(*arguments), model.generate(*arguments)
    assert first.shape == (1, 21) and torch.equal(first, second)
    assert model.training and torch.equal(state, torch.get_rng_state())
    module.TEMPERATURE = 1e-4                                       # nearly greedy: the likeliest token, each time
    greedy = model.generate(*arguments)[0].tolist()
    model.eval()
    assert all(greedy[i] == model(torch.tensor([greedy[max(0, i - 8):i]]))[0][0, -1].argmax() for i in range(1, 21))


@pytest.mark.parametrize('name', ['v1_bpe_rope', 'v3_gpt2_amp'])
def test_generate_stops_at_the_separator(name, load):
    model, start = model_of(load(name, MAX_NEW_TOKENS=50)), torch.zeros(1, 1, dtype=torch.long)
    free = model.generate(start, -1)[0].tolist()
    stop = free[7]
    assert model.generate(start, stop)[0].tolist() == free[:free.index(stop, 1)]


# ---------- mixed precision, compilation ----------
@pytest.mark.parametrize('name', ['v3_gpt2_amp', 'v10_muon'])
def test_mixed_precision_covers_training_evaluation_and_songs(name, load, train, monkeypatch):
    """The matrices are multiplied in 16 bits; the weights and the loss stay float32."""
    passes, dtypes = set(), set()
    module = load(name, USE_AMP=True, AMP_DTYPE='bfloat16', TRAIN_ITERS=3)
    forward = module.GPT.forward

    def watched(model, idx, targets=None):
        logits, loss = forward(model, idx, targets)
        passes.add((logits.dtype, torch.is_grad_enabled(), len(idx)))
        dtypes.add(None if loss is None else loss.dtype)
        return logits, loss
    monkeypatch.setattr(module.GPT, 'forward', watched)
    model, _ = train(module)
    assert {dtype for dtype, _, _ in passes} == {torch.bfloat16} and dtypes == {torch.float32, None}
    assert {(True, 4), (False, 4), (False, 1)} <= {(training, windows) for _, training, windows in passes}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_float16_with_a_scaler_learns(load, train, monkeypatch):
    """Small gradients survive: without the scaler most would be 0 in float16."""
    scales = []
    scale = torch.amp.GradScaler.scale
    monkeypatch.setattr(torch.amp.GradScaler, 'scale', lambda scaler, loss: scales.append(scaler.get_scale()) or scale(scaler, loss))
    module = load('v4_flash_optim', USE_AMP=True, AMP_DTYPE='float16', TRAIN_ITERS=40, EVAL_INTERVAL=40, LEARNING_RATE=5e-3)
    _, output = train(module)
    assert log_lines(output)[-1]['test'] < log_lines(output)[0]['test'] - 0.5 and min(scales) >= 1024


@pytest.mark.parametrize('name', ['v3_gpt2_amp', 'v10_muon'])
def test_compiled_training_is_the_same_and_compiles_one_block(name, load, train, monkeypatch):
    """The backend runs the traced graphs as they are: no C compiler is needed, and the losses must be equal."""
    from torch._dynamo.utils import counters
    graphs, results, names, sampling = {}, {}, {}, []

    def compile_block(block):
        block._compiled_call_impl = torch.compile(block._call_impl, backend='aot_eager')
    monkeypatch.setattr(torch.nn.Module, 'compile', compile_block)
    for layers, compiled in ((2, False), (2, True), (4, True)):
        torch._dynamo.reset()
        counters.clear()
        module = load(name, USE_COMPILE=compiled, N_LAYERS=layers, DROP_OUT=0.0, TRAIN_ITERS=4, EVAL_INTERVAL=2)

        def write(model, tokenizer, write=module.write):
            before = counters['stats']['unique_graphs']
            text = write(model, tokenizer)
            sampling.append(counters['stats']['unique_graphs'] - before)
            return text
        monkeypatch.setattr(module, 'write', write)
        if level(name) >= 5:
            module.CHECKPOINT_DIR += f'{layers}{compiled}'
        model, output = train(module)
        assert ('编译用了' in output) == compiled
        graphs[layers, compiled] = counters['stats']['unique_graphs']
        results[layers, compiled], names[layers, compiled] = losses(output), list(model.state_dict())
    assert graphs[2, False] == 0 < graphs[2, True] == graphs[4, True] <= 3
    assert sum(sampling) == 0 and len(sampling) >= 6                # lengths that vary do not compile anew
    for plain, traced in zip(results[2, False], results[2, True], strict=True):
        assert traced == pytest.approx(plain, abs=2e-4)
    assert names[2, False] == names[2, True]
