"""Training, from the first line that a run prints to the last: every rung as a process, and what its loop promises."""
import math
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import CHECKPOINT, RUNGS, TINY, has, level, log_lines, losses, run_script
from torch.optim.optimizer import register_optimizer_step_pre_hook

# The rungs whose main is more than a line away from that of the rung below.
LOOPS = ['v0_char_english', 'v0_char_chinese', 'v2_cosine_lr', 'v4_flash_optim', 'v5_checkpoint', 'v7_grad_accum', 'v10_muon']
NEVER = 10**6


def having(name, **constants):
    """Those of the constants that a rung has."""
    return {key: value for key, value in constants.items() if has(name, key)}


def apart(module, folder):
    """Other checkpoints than those of the last run in this test."""
    if hasattr(module, 'CHECKPOINT_DIR'):
        module.CHECKPOINT_DIR += str(folder)
    return module


@pytest.mark.parametrize(('name', 'amp'), [(name, False) for name in RUNGS] + [('v9_llama', True)])
def test_a_run_from_end_to_end(name, amp, rung):
    """As shipped but for its size: exit status 0, nothing on stderr, the log, two songs, and it learns."""
    done = run_script(rung(name, **having(name, BATCH_SIZE=8, TRAIN_ITERS=60, EVAL_INTERVAL=30, PREVIEW_INTERVAL=60, LEARNING_RATE=1e-2,
                                          DROP_OUT=0.0, USE_AMP=amp, MAX_NEW_TOKENS=60)))
    assert (done.returncode, done.stderr) == (0, '')
    lines = log_lines(done.stdout)
    assert [(line['step'], line['iters']) for line in lines] == [(0, 60), (30, 60), (60, 60)]
    assert [line['speed'] is None for line in lines] == [True, False, False]
    assert [line['mfu'] is None for line in lines] == ([True, False, False] if level(name) >= 8 else [True] * 3)

    guess = float(re.search(r'瞎猜的损失 (\S+)', done.stdout)[1])
    vocabulary = int(re.search(r'词表 ([\d,]+)', done.stdout)[1].replace(',', ''))
    assert guess == pytest.approx(math.log(vocabulary), abs=1e-4) and abs(lines[0]['test'] - guess) < 0.3
    assert lines[-1]['test'] < min(lines[0]['test'] - 0.7, lines[1]['test'] + 0.1)     # the last is of all test songs
    assert '设备 cpu' in done.stdout and re.search(r'参数 \d+\.\d+ M', done.stdout) and '过拟合' not in done.stdout

    songs = re.findall(r'--- 第 (\d+) 步写的 ---\n(.*?)\n---\n', done.stdout, re.S)
    assert [step for step, _ in songs] == ['0', '60'] and songs[0][1] != songs[1][1]
    assert done.stdout.index('step     0/') < done.stdout.index('--- 第 0 步') < done.stdout.index('step    30/')


@pytest.mark.parametrize('name', LOOPS)
def test_a_run_of_one_step(name, load, train):
    """Evaluations, saves and previews beyond its end, and a warm-up longer than it."""
    module = load(name, **having(name, TRAIN_ITERS=1, EVAL_INTERVAL=1000, SAVE_INTERVAL=1000, PREVIEW_INTERVAL=1000, WARMUP_ITERS=50))
    _, output = train(module)
    assert [line['step'] for line in log_lines(output)] == [0, 1] and output.count('步写的') == 2


@pytest.mark.parametrize('name', LOOPS)
def test_the_last_line_is_one_pass_over_the_whole_test_split(name, load, train):
    """bits/char = test loss / ln 2 * test tokens / test characters, computed once more."""
    module = load(name, TRAIN_ITERS=3, EVAL_INTERVAL=100)
    model, output = train(module)
    _, _, data, chars = (*module.load_data(), None)[:4]
    chars = chars or len(data)                                      # in v0_char_english a token is a character
    line = log_lines(output)[-1]

    def loss(starts):
        windows = torch.stack([data[i:i + 33] for i in starts])
        with torch.no_grad():
            return sum(model(x, y)[1].item() * len(x) for x, y in zip(windows[:, :-1].split(64), windows[:, 1:].split(64))) / len(windows)
    model.eval()
    n = math.ceil(len(data) / 4 / 32) * 4
    whole = loss([i * (len(data) - 33) // (n - 1) for i in range(n)])
    assert line['test'] == pytest.approx(whole, abs=2e-4)
    assert line['bits'] == pytest.approx(whole / math.log(2) * len(data) / chars, abs=2e-3)
    assert whole == pytest.approx(loss(range(0, len(data) - 33, 32)), abs=0.02)     # windows side by side, without an overlap


@pytest.mark.parametrize('name', LOOPS)
def test_the_same_again_however_often_it_is_evaluated(name, load, train):
    """Dropout included: evaluations, songs and the loader draw from no random state that training uses."""
    results = []
    for i, often in enumerate((10, 10, 4)):
        module = apart(load(name, **having(name, EVAL_INTERVAL=often, PREVIEW_INTERVAL=often, SAVE_INTERVAL=often)), i)
        model, output = train(module)
        results.append((losses(output), torch.cat([p.flatten() for p in model.parameters()])))
    assert results[0][0] == results[1][0] and torch.equal(results[0][1], results[1][1])
    assert [step for step, _, _ in results[2][0]] == [0, 4, 8, 12, 16, 20]
    assert results[0][0][-1] == results[2][0][-1] and torch.equal(results[0][1], results[2][1])


@pytest.mark.parametrize('name', ['v4_flash_optim', 'v7_grad_accum'])
def test_workers_change_nothing(name, load, train):
    results = [losses(train(apart(load(name, NUM_WORKERS=workers), workers))[1]) for workers in (0, 2)]
    assert results[0] == results[1]


@pytest.mark.parametrize('name', LOOPS)
def test_the_speed_counts_training_alone(name, load, train, monkeypatch):
    """By a clock that goes on by a second with every step, and by 1000 with everything else that the model does."""
    module, clock = load(name, **having(name, TRAIN_ITERS=20, PREVIEW_INTERVAL=10)), [0.0]
    forward = module.GPT.forward

    def timed(model, *arguments):
        clock[0] += 1 if torch.is_grad_enabled() else 1000
        return forward(model, *arguments)
    monkeypatch.setattr(module.GPT, 'forward', timed)
    def now():
        clock[0] += 1e-9
        return clock[0]
    monkeypatch.setattr(module, 'time', SimpleNamespace(perf_counter=now, strftime=module.time.strftime))
    if level(name) >= 8:
        monkeypatch.setattr(module, 'matrix_rate', lambda: 1e9)
    _, output = train(module)
    assert [line['speed'] for line in log_lines(output)] == [None, 128, 128]     # 4 windows of 32 tokens
    assert re.findall(r'剩余 (\S+)', output) == ['--:--', '00:10', '00:00']


@pytest.mark.parametrize('name', LOOPS)
def test_no_step_waits_for_the_gpu(name, load, train, monkeypatch):
    """Twice as many steps read no more values from tensors, as .item() and its like do."""
    counts = []
    monkeypatch.setattr(sys.modules['torch.optim.adam'], '_get_value', lambda x: x.numpy().item())     # AdamW's counter: on the CPU

    def counting(read):
        def counted(*arguments):
            counts[-1] += 1
            return read(*arguments)
        return counted
    for method in ('item', 'tolist', 'cpu', '__bool__', '__float__', '__int__', '__index__'):
        monkeypatch.setattr(torch.Tensor, method, counting(getattr(torch.Tensor, method)))
    for steps in (6, 12):
        counts.append(0)
        train(apart(load(name, **having(name, TRAIN_ITERS=steps, EVAL_INTERVAL=NEVER, SAVE_INTERVAL=NEVER, PREVIEW_INTERVAL=NEVER,
                                        LOG_INTERVAL=NEVER)), steps))
    assert counts[0] == counts[1] > 0


@pytest.fixture
def steps(load, train):
    """steps(name, **constants): for each update of a run, what look(optimizer) says of the optimizer just before it."""
    def run(name, look, **constants):
        seen = []
        hook = register_optimizer_step_pre_hook(lambda optimizer, *_: seen.append((len(optimizer.param_groups), look(optimizer))))
        try:
            module = load(name, **constants)
            train(module)
        finally:
            hook.remove()
        groups = max(n for n, _ in seen)                            # Muon calls AdamW's step with its own groups alone
        return module, [found for n, found in seen if n == groups]
    return run


@pytest.mark.parametrize('name', LOOPS)
def test_each_step_follows_the_gradient_of_its_batch_alone(name, steps):
    """At the weights of the moment; nothing is left of the step before."""
    def look(optimizer):
        parameters = [p for group in optimizer.param_groups for p in group['params']]
        return [p.detach().clone() for p in parameters], [p.grad.clone() for p in parameters]
    module, seen = steps(name, look, **having(name, TRAIN_ITERS=3, DROP_OUT=0.0, GRAD_CLIP=1e9, MICRO_BATCH_SIZE=3))
    tokenizer, data, *_ = module.load_data()
    model = module.GPT(len(tokenizer))
    groups = module.make_optimizer(model).param_groups if level(name) >= 4 else [{'params': list(model.parameters())}]
    parameters = [p for group in groups for p in group['params']]
    assert len(seen) == 3
    for step, (weights, gradients) in enumerate(seen):
        for p, weight in zip(parameters, weights):
            p.data, p.grad = weight, None
        model(*module.get_batch(data, step))[1].backward()
        torch.testing.assert_close(gradients, [p.grad for p in parameters], rtol=0, atol=1e-6)


@pytest.mark.parametrize('name', LOOPS)
def test_the_optimizer_steps_at_the_rate_of_the_schedule(name, steps):
    module, rates = steps(name, lambda optimizer: [group['lr'] for group in optimizer.param_groups], TRAIN_ITERS=8, EVAL_INTERVAL=NEVER)
    peaks = [module.MUON_LR, module.LEARNING_RATE] if level(name) >= 10 else [module.LEARNING_RATE]
    peaks = peaks if level(name) != 4 and len(rates[0]) == len(peaks) else peaks * len(rates[0])
    shares = [module.get_lr(step) if level(name) >= 2 else 1.0 for step in range(8)]
    assert rates == [[pytest.approx(peak * share) for peak in peaks] for share in shares]


def test_schedule(load):
    """A factor from 0 to 1: up in a straight line, down along a cosine to MIN_LR / LEARNING_RATE."""
    module = load('v2_cosine_lr', LEARNING_RATE=1e-3, MIN_LR=1e-4, WARMUP_ITERS=10, TRAIN_ITERS=110)
    rates = [module.get_lr(step) for step in range(110)]
    assert rates[:10] == pytest.approx([(i + 1) / 11 for i in range(10)]) and rates[10] == 1.0 == max(rates)
    assert all(a > b for a, b in zip(rates[10:-1], rates[11:]))
    assert rates[60] == pytest.approx(0.55) and rates[-1] == pytest.approx(0.1, rel=0.01)      # half way: the mean of both ends


@pytest.mark.parametrize(('warmup', 'iters'), [(100, 10), (0, 1), (1, 1), (10, 10)])
def test_schedule_at_the_edges(warmup, iters, load):
    module = load('v2_cosine_lr', LEARNING_RATE=1e-3, MIN_LR=1e-4, WARMUP_ITERS=warmup, TRAIN_ITERS=iters)
    assert all(0 < module.get_lr(step) <= 1 for step in range(iters))


@pytest.mark.parametrize('name', ['v4_flash_optim', 'v10_muon'])
def test_gradients_are_clipped(name, steps):
    def norm(optimizer):
        return torch.stack([p.grad.norm() for group in optimizer.param_groups for p in group['params']]).norm().item()
    _, free = steps(name, norm, GRAD_CLIP=1e9, TRAIN_ITERS=3)
    limit = min(free) / 2
    _, clipped = steps(name, norm, GRAD_CLIP=limit, **having(name, TRAIN_ITERS=3, RESUME=False))
    assert clipped == pytest.approx([limit] * 3, rel=1e-3)


@pytest.mark.parametrize('name', ['v4_flash_optim', 'v9_llama'])
def test_weights_decay_where_they_are_matrices(name, load):
    """But not the word vectors."""
    module = load(name)
    model = module.GPT(99)
    names = {p: key for key, p in model.named_parameters()}
    decayed, rest = module.make_optimizer(model).param_groups
    assert (decayed['weight_decay'], rest['weight_decay']) == (module.WEIGHT_DECAY, 0.0) and module.WEIGHT_DECAY > 0
    assert decayed['betas'] == rest['betas'] == module.BETAS and decayed['fused']
    kept = {names[p] for p in rest['params']}
    assert kept == {key for key in names.values() if 'embedding' in key or 'ln' in key or key.endswith('bias')}
    assert kept | {names[p] for p in decayed['params']} == set(names.values())


@pytest.mark.parametrize('name', ['v0_char_english', 'v0_char_chinese', CHECKPOINT[0]])
@pytest.mark.parametrize(('passes', 'warned'), [(15, False), (30, True)])
def test_it_says_that_it_will_overfit(name, passes, warned, load, monkeypatch, capsys):
    """Beyond some twenty passes over the training data, before the model is made."""
    module = load(name)
    n = len(module.load_data()[1]) // (TINY['BATCH_SIZE'] * TINY['BLOCK_SIZE'])
    monkeypatch.setattr(module, 'TRAIN_ITERS', n * passes)
    monkeypatch.setattr(module, 'GPT', lambda vocab_size: (_ for _ in ()).throw(InterruptedError))
    with pytest.raises(InterruptedError):
        module.main()
    assert ('过拟合' in capsys.readouterr().out) == warned
