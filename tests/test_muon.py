"""v10's optimizer: orthogonal updates for the matrices of the blocks, AdamW for the rest."""
import sys

import pytest
import torch

SHAPES = [(32, 32), (32, 32), (16, 32), (128, 32), (128, 32), (32, 128)]


@pytest.fixture
def module(load):
    return load('v10_muon')


@pytest.mark.parametrize('shape', [(32, 32), (16, 32), (128, 32)])
def test_orthogonalize(module, shape):
    """Singular values near 1, tall or wide; the same directions; a stack is done as its matrices one by one."""
    torch.manual_seed(0)
    stack = torch.randn(3, *shape) * torch.tensor([1e-3, 1.0, 100.0])[:, None, None]
    together = module.orthogonalize(stack)
    torch.testing.assert_close(together, torch.stack([module.orthogonalize(m) for m in stack]), rtol=0, atol=1e-6)
    values = torch.linalg.svdvals(together)
    assert together.shape == stack.shape and values.min() > 0.3 and values.max() < 1.3 and abs(values.mean() - 0.9) < 0.15
    u, _, v = torch.linalg.svd(stack[1], full_matrices=False)
    assert (u.T @ together[1] @ v.T).diagonal().min() > 0.3         # along the singular vectors of the matrix
    assert module.orthogonalize(torch.zeros(1, *shape)).abs().max() == 0


def walk(optimizer, parameters, steps=5):
    """Some steps along the same gradients whatever the optimizer."""
    torch.manual_seed(1)
    for _ in range(steps):
        for p in parameters:
            p.grad = torch.randn_like(p)
        optimizer.step()
    return [p.detach() for p in parameters]


def parameters(shapes):
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(*shape) * 0.1) for shape in shapes]


@pytest.mark.parametrize('same', [True, False])
def test_it_steps_as_pytorch_does(same, module, monkeypatch):
    """To the bit but one, given one way to orthogonalize; PyTorch's own way rounds to bfloat16."""
    if same:
        monkeypatch.setattr(sys.modules['torch.optim._muon'], '_zeropower_via_newtonschulz', lambda m, *options: module.orthogonalize(m))
    ours, theirs = parameters(SHAPES), parameters(SHAPES)
    groups = [{'params': ours, 'lr': 0.02, 'weight_decay': 0.1}, {'params': parameters([(5,)]), 'lr': 0.1, 'weight_decay': 0.0}]
    muon = module.Muon(groups, betas=(0.9, 0.95))
    for p in groups[1]['params']:
        p.grad = torch.zeros_like(p)
    results = walk(muon, ours), walk(torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95), theirs)
    torch.testing.assert_close(*results, rtol=0, atol=1e-6 if same else 2e-3)
    assert (results[0][0] - parameters(SHAPES)[0]).abs().max() > 0.01


def test_the_rest_steps_as_adamw_does(module):
    shapes = [(100, 32), (32,), (16,)]
    ours, theirs, matrix = parameters(shapes), parameters(shapes), parameters([(4, 4)])
    matrix[0].grad = torch.zeros(4, 4)
    groups = [{'params': matrix, 'lr': 0.02, 'weight_decay': 0.1}, {'params': ours, 'lr': 0.01, 'weight_decay': 0.0}]
    muon = module.Muon(groups, betas=(0.9, 0.95))
    results = walk(muon, ours), walk(torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.0, betas=(0.9, 0.95)), theirs)
    assert all(torch.equal(a, b) for a, b in zip(*results))
    assert muon.param_groups[0]['params'][0] is matrix[0] and muon.param_groups[1]['params'][0] is ours[0]     # both are back


def test_who_is_updated_by_whom(module):
    model = module.GPT(99)
    names = {p: key for key, p in model.named_parameters()}
    muon, adamw = module.make_optimizer(model).param_groups
    by_muon, by_adamw = ({names[p] for p in group['params']} for group in (muon, adamw))
    assert by_muon == {f'blocks.{i}.{part}.weight' for i in range(2) for part in (
        'attention.q', 'attention.k', 'attention.v', 'attention.proj', 'ffwd.gate', 'ffwd.up', 'ffwd.down')}
    assert by_muon | by_adamw == set(names.values()) and not by_muon & by_adamw and 'token_embedding.weight' in by_adamw
    assert (muon['peak'], adamw['peak']) == (module.MUON_LR, module.LEARNING_RATE)
    assert (muon['weight_decay'], adamw['weight_decay']) == (module.WEIGHT_DECAY, 0.0)


def test_both_states_are_saved(module, train, tmp_path):
    train(module)
    states = torch.load(tmp_path / 'checkpoints/latest.pt')['optimizer']['state'].values()
    by_muon = [state for state in states if 'momentum' in state and 'exp_avg' not in state]
    by_adamw = [state for state in states if {'step', 'exp_avg', 'exp_avg_sq'} <= state.keys() and 'momentum' not in state]
    assert len(by_muon) == 2 * 7 and len(by_muon) + len(by_adamw) == len(states) == len(list(module.GPT(99).parameters()))


def test_an_overflow_in_float16_skips_the_whole_step(load, train, monkeypatch):
    """One infinite gradient of AdamW's part: Muon's part must not take the clipped, spoiled gradients either."""
    unscale, weights = torch.amp.GradScaler.unscale_, []

    def unscale_and_spoil(scaler, optimizer):
        weights.append([p.detach().clone() for group in optimizer.param_groups for p in group['params']])
        if len(weights) == 2:
            optimizer.param_groups[1]['params'][0].grad[0, 0] = float('inf')
        unscale(scaler, optimizer)
    monkeypatch.setattr(torch.amp.GradScaler, 'unscale_', unscale_and_spoil)
    module = load('v10_muon', USE_AMP=True, AMP_DTYPE='float16', TRAIN_ITERS=4, EVAL_INTERVAL=100, EVAL_ITERS=1, MAX_NEW_TOKENS=2,
                  MAX_SONGS=100, BPE_VOCAB_SIZE=1200)
    model, _ = train(module)
    unchanged = [torch.equal(a, b) for a, b in zip(weights[1], weights[2])]
    assert all(unchanged) and not any(torch.equal(a, b) for a, b in zip(weights[2], weights[3]))
    assert all(p.isfinite().all() for p in model.parameters())
