"""v7: the sum over micro-batches is the batch, a micro-batch that does not fit is halved without a trace, sizes, MFU, TensorBoard."""
import itertools
import re
import shutil
import signal
import sys
import weakref

import pytest
import torch
from conftest import environment, log_lines, run_script
from test_checkpoint import read

NAME = 'v7_grad_accum'


@pytest.fixture
def ready(load):
    """ready(**constants): (module, model, optimizer, scaler, x, y), the same weights and the same batch each time."""
    def make(name=NAME, **constants):
        module = load(name, **({'BATCH_SIZE': 8, 'DROP_OUT': 0.0, 'LEARNING_RATE': 1e-2} | constants))
        torch.manual_seed(1)
        model = module.GPT(100)
        x, y = torch.randint(100, (2, module.BATCH_SIZE, module.BLOCK_SIZE))
        make_optimizers = getattr(module, 'make_optimizers', None) or module.make_optimizer      # v7 has one
        return module, model, make_optimizers(model), torch.amp.GradScaler('cpu', enabled=False), x, y
    return make


def gradients(model):
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize('micro', [1, 2, 3, 5, 8, 100])             # 3 and 5: the last one is smaller
def test_the_sum_over_micro_batches_is_the_full_batch(micro, ready):
    module, model, optimizer, scaler, x, y = ready()
    _, loss = model(x, y)
    loss.backward()
    expected = gradients(model)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
    optimizer.step()
    weights = [p.detach().clone() for p in model.parameters()]

    module, model, optimizer, scaler, x, y = ready()
    total, size = module.accumulate_gradients(model, scaler, x, y, micro)
    assert total == pytest.approx(loss.item(), abs=1e-5) and size == micro
    torch.testing.assert_close(gradients(model), expected, rtol=0, atol=1e-5)
    clipped = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
    assert clipped > 0.05 and clipped.item() == pytest.approx(norm.item(), abs=1e-5)
    optimizer.step()
    torch.testing.assert_close([p.detach() for p in model.parameters()], weights, rtol=0, atol=1e-4)


def too_small(model, limit, error=torch.OutOfMemoryError):
    """`model`, as on a card that holds no more than `limit` windows: it runs out of memory in the middle of a step, too."""
    calls = []

    def forward(x, y):
        calls.append(len(x))
        _, loss = model(x, y)                                       # the random numbers are drawn before the memory runs out
        if len(x) > limit:
            raise error('CUDA out of memory')
        return None, loss
    forward.zero_grad = model.zero_grad
    return forward, calls


@pytest.mark.parametrize(('name', 'limit', 'expected'), [
    (NAME, 3, [8, 4, 2, 2, 2, 2]), (NAME, 1, [8, 4, 2] + [1] * 8), (NAME, 4, [8, 4, 4]), ('v10_ddp', 3, [8, 4, 2, 2, 2, 2])])
def test_a_micro_batch_that_does_not_fit_is_halved_without_a_trace(name, limit, expected, ready, capfd):
    results = []
    for fits in (False, True):
        module, model, _, scaler, x, y = ready(name, DROP_OUT=0.3)
        forward, calls = too_small(model, limit)
        torch.manual_seed(2)
        total, size = module.accumulate_gradients(forward, scaler, x, y, expected[-1] if fits else 8)
        results.append((total, size, gradients(model), torch.get_rng_state()))
        assert fits or calls == expected
    assert results[0][:2] == results[1][:2]                         # as if it had been that small from the start, to the bit
    assert all(torch.equal(a, b) for a, b in zip(results[0][2], results[1][2], strict=True))
    assert torch.equal(results[0][3], results[1][3])
    assert f'减半为 {expected[-1]}' in capfd.readouterr().out


def test_a_plain_runtime_error_counts_if_it_says_so(ready):
    """As MPS and the CPU raise it. Another error is not hidden by a retry."""
    module, model, _, scaler, x, y = ready()
    for words in ('MPS backend out of memory', "DefaultCPUAllocator: can't allocate memory", 'not enough memory: you tried to allocate'):
        forward, _ = too_small(model, 4, lambda _, words=words: RuntimeError(words))
        assert module.accumulate_gradients(forward, scaler, x, y, 8)[1] == 4
    assert module.accumulate_gradients(too_small(model, 4, MemoryError)[0], scaler, x, y, 8)[1] == 4

    def broken(x, y):
        raise RuntimeError('shapes do not fit')
    broken.zero_grad = model.zero_grad
    with pytest.raises(RuntimeError, match='shapes'):
        module.accumulate_gradients(broken, scaler, x, y, 8)


@pytest.mark.parametrize('name', [NAME, 'v10_ddp'])
def test_what_did_not_fit_is_let_go_before_the_retry(name, ready):
    """The graph of the failed micro-batch, logits included, must not stay beside the smaller one."""
    module, model, _, scaler, x, y = ready(name)
    seen, alive = [], []

    def forward(x, y):
        alive.append([reference() is not None for reference in seen])
        logits, loss = model(x, y)
        seen.append(weakref.ref(logits))
        if len(seen) == 1:                                          # out of memory in the backward pass
            loss.register_hook(lambda gradient: (_ for _ in ()).throw(torch.OutOfMemoryError('CUDA out of memory')))
        return logits, loss
    forward.zero_grad = model.zero_grad
    assert module.accumulate_gradients(forward, scaler, x, y, 8)[1] == 4
    assert alive == [[], [False], [False, False]]


@pytest.mark.parametrize('name', [NAME, 'v10_ddp'])
def test_a_resumed_run_keeps_the_smaller_size(name, rung, tmp_path):
    """And compiles for it. It tries the whole one again once a constant has changed: RECOMPUTE, say, or MICRO_BATCH_SIZE itself."""
    path = rung(name, BATCH_SIZE=8, MICRO_BATCH_SIZE=8, USE_COMPILE=True)
    source = path.read_text(encoding='utf-8')
    line = '                    loss = model(micro_x.to'
    small = '                    if len(micro_x) > 2:\n                        raise torch.OutOfMemoryError(\'CUDA out of memory\')\n'
    compiling = '        compiled = torch.compile(model)\n'
    assert source.count(line) == source.count(compiling) == 1
    compiled = "        compiled = model\n        print(f'compiled for {micro_batch_size}')\n"
    source = source.replace(line, small + line).replace(compiling, compiled)
    line = '        step, grad_norm = it + 1, '
    assert source.count(line) == 1
    path.write_text(source.replace(line, '        if it == 11: signal.raise_signal(signal.SIGTERM)\n' + line), encoding='utf-8')
    done = run_script(path)
    assert done.returncode == 128 + signal.SIGTERM and done.stdout.count('减半') == 2 and '减半为 2' in done.stdout, done.stderr
    assert 'compiled for 8' in done.stdout and '上次减到' not in done.stdout and len(log_lines(done.stdout)) == 1
    latest = tmp_path / f'checkpoints/{name}/latest.pt'
    assert read(latest)['micro_batch_size'] == 2
    stopped = latest.read_bytes()
    path.write_text(source, encoding='utf-8')
    done = run_script(path)
    assert done.returncode == 0 and '减半' not in done.stdout and '上次减到了 2' in done.stdout, done.stderr
    assert 'compiled for 2' in done.stdout and len(log_lines(done.stdout)) == 1 and read(latest)['micro_batch_size'] == 2
    latest.write_bytes(stopped)
    path.write_text(source.replace('RECOMPUTE = False', 'RECOMPUTE = True'), encoding='utf-8')
    done = run_script(path)
    assert done.returncode == 0 and done.stdout.count('减半') == 2 and 'compiled for 8' in done.stdout, done.stderr


@pytest.mark.parametrize('name', [NAME, 'v10_ddp'])
def test_what_does_not_fit_after_some_that_did_is_not_counted_twice(name, ready):
    module, model, _, scaler, x, y = ready(name)
    module.accumulate_gradients(model, scaler, x, y, 4)
    expected = gradients(model)
    calls = []

    def forward(x, y):
        calls.append(len(x))
        if len(calls) == 2:                                         # the first half of the step had its gradients already
            raise torch.OutOfMemoryError('CUDA out of memory')
        return model(x, y)
    forward.zero_grad = model.zero_grad
    module.accumulate_gradients(forward, scaler, x, y, 4)
    assert calls == [4, 4, 2, 2, 2, 2]
    torch.testing.assert_close(gradients(model), expected, rtol=0, atol=1e-6)


def test_losses_are_those_of_v6(rung, tmp_path):
    lines = []
    for name, micro in (('v6_wandb', {}), (NAME, {'MICRO_BATCH_SIZE': 4}), (NAME, {'MICRO_BATCH_SIZE': 3})):
        folder = tmp_path / f'{name}{len(lines)}'
        folder.mkdir()
        done = run_script(rung(name, folder, DROP_OUT=0.0, **micro))
        assert done.returncode == 0, done.stderr
        lines.append([(line['train'], line['test']) for line in log_lines(done.stdout)])
    assert lines[0] == lines[1]
    assert lines[0] == [pytest.approx(pair, abs=2e-3) for pair in lines[2]]


# ---------- sizes ----------
@pytest.mark.parametrize('size', ['tiny', 'small', 'medium', 'large', 'gpt2', 'gpt2-medium', 'gpt2-large', 'gpt2-xl'])
def test_presets(size, load):
    module = load(NAME, MODEL_SIZE=size)
    width, layers, heads, block = module.MODEL_SIZES[size]
    assert (width, layers, heads, block) == (module.N_EMBED, module.N_LAYERS, module.N_HEADS, module.BLOCK_SIZE)
    module.check_constants()
    with torch.device('meta'):
        model = module.GPT(1000)
    per_layer = 12 * width**2 + 2 * width * 2 + width + 4 * width + width     # matrices; two norms; the biases of proj and ffwd
    assert sum(p.numel() for p in model.parameters()) == layers * per_layer + 2 * width + 2 * 1000 * width


def test_the_presets_are_those_that_were_promised(load):
    module = load(NAME)
    assert module.MODEL_SIZE is None and (module.N_EMBED, module.BLOCK_SIZE) == (32, 32)
    assert module.MODEL_SIZES['tiny'] == (256, 4, 4, 128) and module.MODEL_SIZES['small'] == (384, 6, 6, 256)
    assert module.MODEL_SIZES['medium'] == (768, 12, 12, 512) and module.MODEL_SIZES['large'] == (1024, 24, 16, 1024)
    assert module.MODEL_SIZES['gpt2'] == (768, 12, 12, 1024) and module.MODEL_SIZES['gpt2-xl'] == (1600, 48, 25, 1024)


@pytest.mark.parametrize('size', ['huge', 3, ''])
def test_an_unknown_size_is_refused(size, rung):
    done = run_script(rung(NAME, MODEL_SIZE=size))
    assert done.returncode == 1 and 'MODEL_SIZE' in done.stderr and 'gpt2-xl' in done.stderr and 'Traceback' not in done.stderr


def test_recomputing_changes_no_gradient(ready):
    results = []
    for recompute in (False, True):
        module, model, _, scaler, x, y = ready(RECOMPUTE=recompute, DROP_OUT=0.3)
        torch.manual_seed(2)
        module.accumulate_gradients(model, scaler, x, y, 4)
        results.append(gradients(model))
    torch.testing.assert_close(*results, rtol=0, atol=1e-6)


def test_recomputing_stores_less(ready):
    sizes = []
    for recompute in (False, True):
        module, model, _, _, x, y = ready(RECOMPUTE=recompute, N_LAYERS=4)
        stored = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=stored: s.append(t.numel()) or t, lambda t: t):
            model(x, y)
        sizes.append(sum(stored))
    assert sizes[1] < sizes[0] / 2


# ---------- what it shows ----------
def test_flops_per_token_by_hand(load):
    module = load(NAME, N_EMBED=32, N_LAYERS=2, BLOCK_SIZE=32)
    matrices = 2 * 12 * 32**2 + 32 * 100
    assert module.flops_per_token(module.GPT(100)) == 6 * matrices + 12 * 2 * 32 * 32


def test_matrix_rate(load, monkeypatch):
    module = load(NAME)
    before = torch.get_rng_state()
    ticks = itertools.count()
    monkeypatch.setattr(module.time, 'perf_counter', lambda: next(ticks))     # each product takes a second
    assert module.matrix_rate() == 2 * 64**3 and torch.equal(before, torch.get_rng_state())    # conftest.edit: n = 64


def test_the_log_line_ends_with_the_utilisation(rung):
    done = run_script(rung(NAME))
    assert done.returncode == 0, done.stderr
    shares = [float(share) for share in re.findall(r'\| MFU ([\d.]+)%$', done.stdout, re.M)]
    assert len(shares) == 2 and min(shares) > 0                     # its value: test_the_last_line…


def test_tensorboard_holds_the_same_curves(rung, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    path = rung(NAME, LOG_INTERVAL=5)
    done = run_script(path)
    assert done.returncode == 0, done.stderr
    path.write_text(path.read_text(encoding='utf-8').replace('TRAIN_ITERS = 20', 'TRAIN_ITERS = 40'), encoding='utf-8')
    again = run_script(path)
    assert again.returncode == 0, again.stderr
    [folder] = (tmp_path / 'checkpoints/v7_grad_accum/tensorboard').iterdir()    # the resumed run goes on in it
    events = EventAccumulator(str(folder))
    events.Reload()
    assert set(events.Tags()['scalars']) == {'train/loss', 'lr', 'grad_norm', 'test/loss', 'test/bits_per_char', 'tok_per_s', 'mfu'}
    assert [event.step for event in events.Scalars('train/loss')] == list(range(5, 41, 5))
    printed = log_lines(done.stdout + again.stdout)
    for event, line in zip(events.Scalars('test/loss'), printed, strict=True):
        assert (event.step, event.value) == (line['step'], pytest.approx(line['test'], abs=1e-4))


def test_without_the_package_a_line_says_how_to_get_it(rung, tmp_path):
    (tmp_path / 'tensorboard').mkdir()
    (tmp_path / 'tensorboard' / '__init__.py').write_text("raise ImportError('not here')\n", encoding='utf-8')
    done = run_script(rung(NAME), env={'PYTHONPATH': str(tmp_path)})
    assert done.returncode == 0 and 'pip install tensorboard' in done.stdout, done.stderr
    assert not (tmp_path / 'checkpoints/v7_grad_accum/tensorboard').exists()


def test_has_its_own_folder_and_generate_reads_it(rung, tmp_path):
    import shutil
    import subprocess

    from conftest import ROOT
    assert run_script(rung(NAME)).returncode == 0
    assert sorted(p.name for p in (tmp_path / 'checkpoints').iterdir()) == [NAME]
    shutil.copy(ROOT / 'generate.py', tmp_path)
    done = subprocess.run([sys.executable, 'generate.py', '--checkpoint', f'checkpoints/{NAME}/best.pt', '--max-tokens', '5'], cwd=tmp_path,
                          env=environment(tmp_path), text=True, encoding='utf-8', capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_run_of_v6_goes_on(rung, tmp_path):
    """The model is the same, and v6 knew no micro-batches: its checkpoint, copied here, is continued."""
    assert run_script(rung('v6_wandb')).returncode == 0
    (tmp_path / f'checkpoints/{NAME}').mkdir()
    shutil.copy(tmp_path / 'checkpoints/latest.pt', tmp_path / f'checkpoints/{NAME}')
    done = run_script(rung(NAME, TRAIN_ITERS=30))
    assert done.returncode == 0 and '第 20 步' in done.stdout, done.stderr


@pytest.mark.parametrize('name', ['v7_grad_accum', 'v10_ddp'])
def test_recomputed_dropout_that_would_differ_is_refused(name, load):
    module = load(name, RECOMPUTE=True, DROP_OUT=0.1, DEVICE='mps')
    with pytest.raises(SystemExit, match='DROP_OUT = 0'):
        module.check_constants()
