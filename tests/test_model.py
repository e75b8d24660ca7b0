"""The model: causality, rotary positions, flash attention, initialisation, and the optimizer's recipe."""
import math

import pytest
import torch
from conftest import ROPE, RUNGS, level, tokens

V = 97


def model_of(module, seed=0):
    torch.manual_seed(seed)
    return module.GPT(V).eval()


def trained(model):
    """Weights far from the first ones: v9's residual projections begin at zero, and say nothing there."""
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return model


@pytest.mark.parametrize('name', RUNGS)
def test_causal(name, load):
    """A changed token leaves all earlier logits as they were, and changes its own and later ones."""
    model = trained(model_of(load(name)))
    idx = torch.randint(V, (3, 32))
    before, _ = model(idx)
    for position in (0, 1, 17, 31):
        changed = idx.clone()
        changed[:, position] = (changed[:, position] + 1) % V
        after, _ = model(changed)
        assert torch.equal(before[:, :position], after[:, :position])
        assert (before[:, position:] != after[:, position:]).any(-1).all()


@pytest.mark.parametrize('name', RUNGS)
def test_initial_loss_is_near_ln_vocabulary(name, load):
    model = model_of(load(name))
    idx = torch.randint(V, (8, 33))
    _, loss = model(idx[:, :-1], idx[:, 1:])
    assert abs(loss.item() - math.log(V)) < (0.5 if level(name) < 4 else 0.05)


@pytest.mark.parametrize('name', RUNGS)
def test_loss_is_the_cross_entropy_of_the_next_token(name, load):
    model = model_of(load(name))
    idx = torch.randint(V, (2, 9))
    logits, loss = model(idx[:, :-1], idx[:, 1:])
    picked = logits.log_softmax(-1).gather(-1, idx[:, 1:, None])
    assert loss.item() == pytest.approx(-picked.mean().item(), abs=1e-5)


@pytest.mark.parametrize('name', RUNGS)
def test_parameter_count(name, load):
    module = load(name, N_EMBED=48, N_HEADS=4, N_LAYERS=3)
    C = 48
    block = 3 * C * C + (C * C + C) + (4 * C * C + 4 * C) + (4 * C * C + C) + 4 * C
    positions = 32 * C if name not in ROPE else 0
    expected = 2 * V * C + positions + 3 * block + 2 * C
    if level(name) >= 8:                                            # no biases; 8/3 * 48 rounded up to 128; one table of word vectors
        block = 4 * C * C + 3 * C * 128 + 2 * C + (2 * 12 if level(name) >= 9 else 0)
        expected = V * C + 3 * block + C
    assert sum(p.numel() for p in module.GPT(V).parameters()) == expected


@pytest.mark.parametrize('name', ROPE)
def test_rope_depends_on_distances_only(name, load):
    module = load(name, BLOCK_SIZE=64)
    table = module.rope_table()
    assert table.dtype == torch.float32 and table.shape == (2, 64, 16)
    q, k = torch.randn(2, 16, dtype=torch.float64)
    q = module.apply_rope(q.expand(64, 16), table.double())
    k = module.apply_rope(k.expand(64, 16), table.double())
    scores = q @ k.T                                                # the same q and k at every pair of positions
    for distance in range(-63, 64):
        diagonal = scores.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-4)
    assert scores.std() > 0.1                                       # and it does depend on them
    assert torch.allclose(q.norm(dim=-1), q[0].norm().expand(64), atol=1e-5)


@pytest.mark.parametrize('name', ROPE)
def test_rope_pairs_channel_i_with_i_plus_half(name, load):
    module = load(name)
    x = torch.zeros(32, 16)
    x[:, 3] = 1
    y = module.apply_rope(x, module.rope_table())
    angle = 5 * 10000 ** (-2 * 3 / 16)
    assert y[5].nonzero().flatten().tolist() == [3, 11]
    assert y[5, [3, 11]].tolist() == pytest.approx([math.cos(angle), math.sin(angle)], abs=1e-6)


@pytest.mark.parametrize('name', ROPE)
def test_rope_table_is_built_once_and_not_saved(name, load):
    model = model_of(load(name))
    tables = [buffer for key, buffer in model.named_buffers() if 'rope' in key]
    assert len(tables) == 1 and not any('rope' in key for key in model.state_dict())


@pytest.mark.parametrize('name', RUNGS[:6])
def test_masks_are_small(name, load):
    masks = [buffer for key, buffer in model_of(load(name)).named_buffers() if 'tril' in key]
    assert masks and all(mask.dtype == torch.bool for mask in masks)


def test_flash_attention_equals_per_head_attention(load):
    """v3's heads and v4's batched flash attention, given the same weights."""
    v3, v4 = load('v3_gpt2_amp', N_HEADS=4), load('v4_flash_optim', N_HEADS=4)
    old, new = model_of(v3), model_of(v4)
    weights = {}
    for key, value in old.state_dict().items():
        if '.heads.' not in key:
            weights[key] = value
    for layer in range(2):
        heads = old.blocks[layer].attention.heads
        parts = [torch.cat([getattr(head, part).weight for head in heads]) for part in ('query', 'key', 'value')]
        weights[f'blocks.{layer}.attention.qkv.weight'] = torch.cat(parts)
    new.load_state_dict(weights)
    idx = torch.randint(V, (4, 32))
    assert torch.allclose(old(idx)[0], new(idx)[0], atol=1e-5)
    assert not torch.allclose(old(idx)[0], model_of(v4, seed=1)(idx)[0], atol=1e-5)


def held(function) -> tuple[int, torch.Tensor]:
    """(bytes that are allocated while the function's result is alive and were not before, the result)."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = function()
    events = profiled.profiler.kineto_results.events()
    return sum(event.nbytes() for event in events if event.name() == '[memory]'), result


@pytest.mark.parametrize('name', RUNGS[6:])
def test_the_widest_activations_are_not_kept_for_backward(name, load, monkeypatch):
    """The feed-forward keeps what goes into its non-linearity, not what comes out; the gradients are the same to the bit."""
    module = load(name, DROP_OUT=0.0)
    feed_forward, x = trained(model_of(module)).blocks[0].ffwd, torch.randn(8, 32, 32)
    results = []
    for _ in range(2):
        size, out = held(lambda: feed_forward(x))
        feed_forward.zero_grad()
        out.square().sum().backward()
        results.append((size, [p.grad.clone() for p in feed_forward.parameters()]))
        monkeypatch.setattr(module, 'recompute', lambda function, *arguments, use_reentrant: function(*arguments))
    (size, gradients), (larger, expected) = results
    wide = 8 * 32 * 128 * 4                                         # bytes of (B, T, 4C), and of SwiGLU's hidden width here
    assert larger - size == pytest.approx(wide * (1 if level(name) < 8 else 2), abs=10_000)     # GELU's result; silu's and the product
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))


@pytest.mark.parametrize('name', RUNGS[6:11])                       # from v9 on the backward pass of the norms needs it
def test_the_joint_qkv_is_not_kept_for_backward(name, load):
    model, sizes = model_of(load(name)), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.untyped_storage().nbytes()) or t, lambda t: t):
        model.blocks[0].attention(torch.randn(8, 32, 32), model.rope)
    assert 8 * 32 * 32 * 4 in sizes and max(sizes) < 8 * 32 * 96 * 4    # q, k and v each, not all three in one


@pytest.mark.parametrize('name', RUNGS)
def test_attention_scores_are_scaled_by_the_head_size(name, load):
    """Softmax of q·k / sqrt(head_size), written out once more from the weights."""
    module = load(name, N_LAYERS=1)
    model = model_of(module)
    attention, x = trained(model).blocks[0].attention, torch.randn(2, 32, 32)
    if level(name) < 4:
        q, k, v = (torch.stack([getattr(h, part)(x) for h in attention.heads], 1) for part in ('query', 'key', 'value'))
    else:
        q, k, v = (y.view(2, 32, 2, 16).transpose(1, 2) for y in attention.qkv(x).chunk(3, -1))
    if level(name) >= 9:                                            # RMSNorm over each head's channels, before the rotation
        q, k = (y * (y.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * norm.weight
                for y, norm in ((q, attention.q_norm), (k, attention.k_norm)))
    rope = ()
    if name in ROPE:
        rope = (model.rope,)
        q, k = module.apply_rope(q, model.rope), module.apply_rope(k, model.rope)
    scores = (q @ k.transpose(-2, -1) / math.sqrt(16)).masked_fill(torch.ones(32, 32).triu(1).bool(), -math.inf)
    expected = attention.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(2, 32, 32))
    assert torch.allclose(attention(x, *rope), expected, atol=1e-5)


@pytest.mark.parametrize('name', RUNGS)
def test_dropout_acts_in_training_only(name, load):
    module = load(name, DROP_OUT=0.5)
    model = model_of(module)
    idx = torch.randint(V, (2, 32))
    assert torch.equal(model(idx)[0], model(idx)[0])
    model.train()
    assert not torch.equal(model(idx)[0], model(idx)[0])
    if level(name) >= 4:                                            # the attention's own: a GPU has it, no nn.Dropout switches it off
        module.DEVICE = 'cuda'
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        for p in model.parameters():                                # from v9 on, what the attention adds starts at zero
            p.data += 0.1 * torch.randn_like(p)
        assert not torch.equal(model(idx)[0], model(idx)[0])
        model.eval()
        assert torch.equal(model(idx)[0], model(idx)[0])


@pytest.mark.parametrize('name', RUNGS)
def test_generate_crops_restores_and_is_repeatable(name, load):
    module = load(name, BLOCK_SIZE=8, MAX_NEW_TOKENS=20)
    model = model_of(module).train()
    arguments = (torch.zeros(1, 1, dtype=torch.long),) + ((-1,) if level(name) else ())
    state = torch.get_rng_state()
    first, second = model.generate(*arguments), model.generate(*arguments)
    assert first.shape == (1, 21) and torch.equal(first, second)
    assert model.training and torch.equal(state, torch.get_rng_state())     # sampling leaves training untouched


@pytest.mark.parametrize('name', RUNGS[3:])
def test_generate_stops_at_the_separator(name, load):
    model = model_of(load(name, MAX_NEW_TOKENS=50))
    start = torch.zeros(1, 1, dtype=torch.long)
    free = model.generate(start, -1)[0].tolist()
    stop = free[7]
    assert model.generate(start, stop)[0].tolist() == free[:free.index(stop, 1)]


@pytest.mark.parametrize('name', RUNGS[6:])
def test_gpt2_initialisation(name, load):
    model = load(name, N_EMBED=128, N_LAYERS=8).GPT(2000)
    for key, p in model.named_parameters():
        if key.endswith('bias'):
            assert (p == 0).all()
        elif 'ln' in key or 'norm' in key:
            assert (p == 1).all()
        else:
            residual = key.endswith(('attention.proj.weight', 'ffwd.net.2.weight', 'ffwd.down.weight'))
            if residual and level(name) >= 9:
                assert (p == 0).all()
                continue
            assert p.std().item() == pytest.approx(0.02 / math.sqrt(16) if residual else 0.02, rel=0.05), key
            assert abs(p.mean().item()) < 1e-3


@pytest.mark.parametrize('name', [name for name in RUNGS if 4 <= level(name) < 9])
def test_decay_groups(name, load):
    module = load(name)
    model = module.GPT(V)
    names = {p: key for key, p in model.named_parameters()}
    decay, rest = module.make_optimizer(model).param_groups
    assert (decay['weight_decay'], rest['weight_decay']) == (0.1, 0.0) and decay['betas'] == (0.9, 0.95)
    decayed, kept = {names[p] for p in decay['params']}, {names[p] for p in rest['params']}
    assert decayed | kept == set(names.values()) and not decayed & kept
    assert kept == {key for key in names.values() if 'embedding' in key or 'ln' in key or key.endswith('bias')}


@pytest.mark.parametrize('name', [name for name in RUNGS if level(name) >= 9])
def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest(name, load):
    module = load(name)
    model = module.GPT(V)
    names = {p: key for key, p in model.named_parameters()}
    muon, adamw = module.make_optimizers(model)
    assert (type(muon), type(adamw)) == (torch.optim.Muon, torch.optim.AdamW)
    by_muon, by_adamw = ({names[p] for group in optimizer.param_groups for p in group['params']} for optimizer in (muon, adamw))
    assert by_muon == {f'blocks.{i}.{part}.weight' for i in range(2)
                       for part in ('attention.qkv', 'attention.proj', 'ffwd.gate', 'ffwd.up', 'ffwd.down')}
    assert by_muon | by_adamw == set(names.values()) and not by_muon & by_adamw
    assert muon.param_groups[0]['weight_decay'] == module.WEIGHT_DECAY > 0 and adamw.param_groups[0]['weight_decay'] == 0.0


@pytest.mark.parametrize('name', RUNGS[4:])
def test_schedule(name, load):
    module = load(name, LEARNING_RATE=1e-3, MIN_LR=1e-4, WARMUP_ITERS=10, TRAIN_ITERS=110)
    rates = [module.get_lr(it) for it in range(110)]
    assert 0 < rates[0] <= 1e-4 and rates[10] == 1e-3 == max(rates)
    assert all(a < b for a, b in zip(rates[:10], rates[1:11], strict=True))
    assert all(a > b for a, b in zip(rates[10:-1], rates[11:], strict=True))
    assert module.get_lr(60) == pytest.approx(5.5e-4)               # half way: the mean of both ends
    assert rates[-1] == pytest.approx(1e-4, rel=0.01)


@pytest.mark.parametrize(('warmup', 'iters'), [(100, 10), (0, 1), (1, 1), (10, 10)])
def test_schedule_at_the_edges(warmup, iters, load):
    module = load('v2_cosine_lr', LEARNING_RATE=1e-3, MIN_LR=1e-4, WARMUP_ITERS=warmup, TRAIN_ITERS=iters)
    assert all(0 < module.get_lr(it) <= 1e-3 for it in range(iters))


@pytest.mark.parametrize('name', RUNGS)
def test_batches_depend_on_seed_and_iteration_alone(name, load):
    module = load(name)
    data = tokens(name, 1000)
    (x, y), (again, _), (other, _) = (module.get_batch(data, it) for it in (5, 5, 6))
    assert x.shape == y.shape == (4, 32) and torch.equal(x + 1, y)
    assert torch.equal(x, again) and not torch.equal(x, other)
    module.SEED += 1                                                # (seed + 1, it - 1) must differ: not their sum
    assert not torch.equal(x, module.get_batch(data, 4)[0])


@pytest.mark.parametrize('name', RUNGS)
def test_a_pass_over_the_test_split_counts_every_token_once(name, load):
    module = load(name)
    data = tokens(name, 32 * 9 + 6)
    batches = list(module.all_batches(data, *([4] if level(name) >= 7 else [])))
    targets = torch.cat([y.flatten() for _, y in batches])
    assert targets[targets != -100].tolist() == list(range(1, len(data)))
    inputs = torch.cat([x.flatten() for x, _ in batches])
    assert inputs[targets != -100].tolist() == list(range(len(data) - 1))


def test_workers_give_the_same_batches_as_the_main_process(load):
    data = torch.arange(5000)
    for name, arguments in (('v4_flash_optim', ()), ('v5_checkpoint', (3,))):
        module = load(name, TRAIN_ITERS=8)
        plain = [x for x, _ in module.train_loader(data, *arguments)]
        first = arguments[0] if arguments else 0
        assert len(plain) == 8 - first
        assert all(torch.equal(x, module.get_batch(data, it)[0]) for it, x in enumerate(plain, first))
        state = torch.get_rng_state()
        module.NUM_WORKERS = 2
        workers = [x for x, _ in module.train_loader(data, *arguments)]
        assert all(torch.equal(a, b) for a, b in zip(plain, workers, strict=True))
        assert torch.equal(state, torch.get_rng_state())
