"""v7 on: a batch in parts gives the gradient of the whole, and the model never sees more than a part."""
import pytest
import torch
from conftest import TINY, level
from torch.optim.optimizer import register_optimizer_step_pre_hook

RUN = {'BATCH_SIZE': 8, 'DROP_OUT': 0.0, 'TRAIN_ITERS': 1, 'EVAL_INTERVAL': 100, 'GRAD_CLIP': 1e9}


@pytest.fixture
def logged(monkeypatch):
    """logged(module): what the runs of this module send to wandb from now on."""
    def watch(module):
        rows = []
        run = type('Run', (), {'id': 'x', 'log': lambda self, row: rows.append(row), 'finish': lambda self: None})()
        monkeypatch.setattr(module, 'start_wandb', lambda run_id, settings: run)
        return rows
    return watch


@pytest.mark.parametrize('name', ['v7_grad_accum', 'v10_muon', 's1_control'])
@pytest.mark.parametrize('micro', [4, 3, 16])
def test_the_gradient_and_the_loss_are_those_of_the_whole_batch(name, micro, load, train, logged):
    """Also where the last part is smaller, or the batch smaller than a part, or the parts (of s1) padded unequally."""
    module, gradients = load(name, **RUN, MICRO_BATCH_SIZE=micro), []
    rows = logged(module)
    torch.manual_seed(module.SEED)
    model = module.GPT(TINY['BPE_VOCAB_SIZE'])                      # as main makes it
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: gradients.append([p.grad.clone() for group in optimizer.param_groups for p in group['params']]))
    try:
        train(module)
    finally:
        hook.remove()
    x, y = module.get_batch(module.load_data()[1], 0)
    loss = model(x, y)[1]
    loss.backward()
    expected = [p.grad for group in module.make_optimizer(model).param_groups for p in group['params']]
    torch.testing.assert_close(gradients[0], expected, rtol=0, atol=1e-6)
    [row] = [row for row in rows if 'train/loss' in row]
    assert row['train/loss'] == pytest.approx(loss.item(), abs=1e-5)
    assert row['grad_norm'] == pytest.approx(torch.stack([g.norm() for g in expected]).norm().item(), rel=1e-5)


def test_parts_do_not_share_a_dropout_mask(load, train, monkeypatch):
    masks, dropout = [], torch.nn.functional.dropout

    def watched(x, p, training, inplace=False):
        out = dropout(x, p, training, inplace)
        if training and x.shape == (4, 32, 32):
            masks.append(out == 0)
        return out
    monkeypatch.setattr(torch.nn.functional, 'dropout', watched)
    train(load('v7_grad_accum', **(RUN | {'DROP_OUT': 0.5}), MICRO_BATCH_SIZE=4))
    assert len(masks) == 2 * 5                                      # two parts; after the embedding, and twice in each of two blocks
    assert not any(torch.equal(a, b) for a, b in zip(masks[:5], masks[5:]))


@pytest.mark.parametrize('name', ['v7_grad_accum', 'v10_muon'])
def test_the_model_never_sees_more_than_a_part(name, load, train, monkeypatch):
    """In training, evaluation, compilation: memory has to hold one part."""
    module, sizes = load(name, **RUN, MICRO_BATCH_SIZE=3, USE_COMPILE=True), []
    forward = module.GPT.forward

    def watched(model, idx, targets=None):
        sizes.append((torch.is_grad_enabled(), len(idx)))
        return forward(model, idx, targets)
    monkeypatch.setattr(module.GPT, 'forward', watched)
    monkeypatch.setattr(torch.nn.Module, 'compile', lambda block: None)
    train(module)
    assert sizes[0] == (True, 3) and {size for training, size in sizes if training} == {3, 2}
    assert {size for training, size in sizes if not training} <= {3, 2, 1}
    assert [size for training, size in sizes if training] == [3, 3, 3, 2] and level(name) >= 7
