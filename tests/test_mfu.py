"""v8 on: how many operations a token takes, how fast the device multiplies, and the table of sizes."""
import itertools
import re
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, RUNGS, level, log_lines
from test_grad_accum import logged  # noqa: F401

SIZES = ['cpu', 'tiny', 'small', 'medium', 'gpt2', 'gpt2-medium', 'gpt2-large', 'gpt2-xl']


def table(name):
    source = (ROOT / f'{name}.py').read_text(encoding='utf-8')
    return eval(re.search(r'^MODEL_SIZES = (\{.*?\n\})', source, re.M | re.S)[1])


def test_flops_per_token_by_hand(load):
    """Six for each weight of a matrix, and the attention's two products, forwards and twice backwards."""
    module = load('v8_mfu')
    matrices = 2 * (3 + 1 + 4 + 4) * 32 * 32 + 100 * 32             # qkv, proj, up, down; lm_head
    assert module.flops_per_token(module.GPT(100)) == 6 * matrices + 12 * 2 * 32 * 32
    module = load('v9_llama', N_HEADS=4, N_KV_HEADS=2)
    matrices = 2 * (32 * 32 + 2 * 16 * 32 + 32 * 32 + 3 * 32 * 128) + 100 * 32     # q, k and v, proj, gate, up, down; lm_head, shared
    assert module.flops_per_token(module.GPT(100)) == 6 * matrices + 12 * 2 * 32 * 32


def test_matrix_rate(load, monkeypatch):
    """The fastest of ten products, in operations a second."""
    module = load('v8_mfu')                                         # conftest makes the matrices 64 wide
    ticks = itertools.chain.from_iterable((10 * i, 10 * i + seconds) for i, seconds in enumerate([4, 2, 5, 5, 5, 5, 5, 5, 5, 5]))
    sums = []
    monkeypatch.setattr(module, 'time', SimpleNamespace(perf_counter=lambda: next(ticks)))
    product = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, '__matmul__', lambda a, b: sums.append(a.abs().sum().item()) or product(a, b))
    assert module.matrix_rate() == 2 * 64**3 / 2 and len(sums) == 10 and min(sums) > 0


@pytest.mark.parametrize('name', ['v8_mfu', 'v10_muon'])
def test_the_utilisation_is_the_share_of_what_the_products_allow(name, load, train, logged, monkeypatch):  # noqa: F811
    """128 tokens a second by the test's clock, on a device that does a billion operations a second."""
    module, seconds, ticks = load(name), [], itertools.count()
    rows, forward = logged(module), module.GPT.forward

    def timed(model, *arguments):
        seconds.extend([1] * torch.is_grad_enabled())               # a second for each step, nothing for an evaluation
        return forward(model, *arguments)
    clock = SimpleNamespace(perf_counter=lambda: len(seconds) + 1e-9 * next(ticks), strftime=module.time.strftime)
    monkeypatch.setattr(module.GPT, 'forward', timed)
    monkeypatch.setattr(module, 'time', clock)
    monkeypatch.setattr(module, 'matrix_rate', lambda: 1e9)
    model, output = train(module)
    share = 128 * module.flops_per_token(model) / 1e9
    assert [line['mfu'] for line in log_lines(output)] == [None] + [pytest.approx(100 * share, abs=0.06)] * 2 and 0.01 < share < 1
    assert [row['mfu'] for row in rows if 'mfu' in row][1:] == [pytest.approx(share, rel=1e-3)] * 2
    assert all('gpu_memory_gib' in row for row in rows if 'mfu' in row) and '显存' not in output
    assert f'{1e9 / module.flops_per_token(model):,.0f} tok/s' in output


@pytest.mark.parametrize('name', [name for name in RUNGS if level(name) >= 8])
def test_sizes_are_apart(name):
    rows = table(name)
    assert list(rows) == SIZES and len(set(rows.values())) == len(rows)
    parameters = [width**2 * layers for width, _, layers in rows.values()]
    assert parameters == sorted(parameters)
    assert all(width % heads == 0 and width // heads % 2 == 0 for width, heads, _ in rows.values())


@pytest.mark.parametrize('name', ['v8_mfu', 'v9_llama', 'v10_muon'])
@pytest.mark.parametrize('size', SIZES)
def test_every_size_makes_a_model(name, size, load):
    """N_KV_HEADS, which is worked out from the heads, divides them."""
    module = load(name, **dict(zip(('N_EMBED', 'N_HEADS', 'N_LAYERS'), table(name)[size])))
    with torch.device('meta'):
        model = module.GPT(99)
    assert model(torch.zeros(1, 8, dtype=torch.long, device='meta'))[0].shape == (1, 8, 99)


@pytest.mark.parametrize('name', ['v9_llama', 's1_control'])
@pytest.mark.parametrize('heads', [1, 3, 6])
def test_few_heads_share_at_least_one_k_and_v(name, heads, load):
    module = load(name, N_EMBED=24, N_HEADS=heads)
    assert module.GPT(99)(torch.zeros(1, 8, dtype=torch.long))[0].shape == (1, 8, 99) and heads % module.N_KV_HEADS == 0
