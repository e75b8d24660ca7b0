"""Every rung end to end, as a process, on the data that ships."""
import math
import re
import sys

import numpy as np
import pytest
import torch
from conftest import BPE, CHECKPOINT, CHINESE, RUNGS, level, log_lines, run_script, tokens, train_here, write_songs
from torch.optim.optimizer import register_optimizer_step_pre_hook

LEARN = {'N_EMBED': 64, 'BATCH_SIZE': 8, 'BLOCK_SIZE': 64, 'TRAIN_ITERS': 150, 'EVAL_INTERVAL': 50, 'LEARNING_RATE': 5e-3,
         'DROP_OUT': 0.0, 'EVAL_ITERS': 4, 'MAX_NEW_TOKENS': 60}


@pytest.mark.parametrize('name', RUNGS)
def test_learns(name, rung):
    done = run_script(rung(name, **LEARN))
    assert (done.returncode, done.stderr) == (0, '')
    lines = log_lines(done.stdout)
    assert [(line['step'], line['iters']) for line in lines] == [(50, 150), (100, 150), (150, 150)]

    initial, vocabulary, uniform = re.search(r'第 0 步的损失 (\S+)，瞎猜是 ln (\d+) = (\S+)', done.stdout).groups()
    assert float(uniform) == pytest.approx(math.log(int(vocabulary)), abs=1e-4)
    assert abs(float(initial) - float(uniform)) < 0.3
    assert lines[-1]['test'] < float(uniform) - 1.0                 # well below guessing
    assert lines[-1]['train'] < lines[0]['train'] < float(uniform)
    assert '设备 cpu' in done.stdout and '参数' in done.stdout and ('歌曲 576' in done.stdout) == (name in CHINESE)

    texts = re.findall(r'--- (.*?) ---\n(.*?)\n---\n', done.stdout, re.S)
    assert [title for title, _ in texts] == ['训练前写的', '第 150 步写的' if name in CHECKPOINT else '训练后写的']
    assert all(text.strip() for _, text in texts) and texts[0][1] != texts[1][1]
    assert '\n' in texts[1][1].strip()                              # it has learned that lines end


def folder(name: str, path) -> dict:
    """The constants that keep a run in this process out of the folder that pytest runs in."""
    return {'CHECKPOINT_DIR': str(path / 'checkpoints')} if name in CHECKPOINT else {}


@pytest.mark.parametrize('name', RUNGS)
def test_the_last_line_is_one_pass_over_the_whole_test_split(name, load, tmp_path, monkeypatch, capsys):
    """bits/char = test loss / ln 2 * test tokens / test characters, written out once more."""
    module = load(name, TRAIN_ITERS=3, EVAL_INTERVAL=100, **folder(name, tmp_path))
    if level(name) >= 7:
        monkeypatch.setattr(module, 'matrix_rate', lambda: 1e9)
    model, (_, _, data, chars) = train_here(module, name, monkeypatch).eval(), module.load_data()
    data = data if level(name) < 10 else torch.from_numpy(data.astype(np.int64))
    output = capsys.readouterr().out
    [line] = log_lines(output)
    total = 0.0
    with torch.no_grad():
        for i in range(0, len(data) - 1, 32):
            window = data[i:i + 33]
            total += model(window[None, :-1], window[None, 1:])[1].item() * (len(window) - 1)
    loss = total / (len(data) - 1)
    assert line['step'] == 3 and line['test'] == pytest.approx(loss, abs=2e-4)
    assert line['bits'] == pytest.approx(loss / math.log(2) * len(data) / chars, abs=2e-3)
    if level(name) >= 7:                                            # of a device that does 1e9 operations a second
        share = float(re.search(r'MFU ([\d.]+)%', output)[1])
        assert share == pytest.approx(line['speed'] * module.flops_per_token(model) / 1e9 * 100, rel=0.01, abs=0.1)


@pytest.mark.parametrize('name', RUNGS)
def test_the_optimizers_step_at_the_rate_of_the_schedule(name, load, tmp_path, monkeypatch):
    rates = []
    module = load(name, TRAIN_ITERS=6, EVAL_INTERVAL=100, **folder(name, tmp_path))
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append((type(optimizer).__name__, *{group['lr'] for group in optimizer.param_groups})))
    try:
        train_here(module, name, monkeypatch)
    finally:
        hook.remove()
    peaks = {'AdamW': module.LEARNING_RATE, **({'Muon': module.MUON_LR} if level(name) >= 9 else {})}
    expected = []
    for it in range(6):
        share = module.get_lr(it) / module.LEARNING_RATE if level(name) >= 2 else 1
        expected += [(kind, pytest.approx(peaks[kind] * share)) for kind in sorted(peaks, reverse=True)]     # Muon, AdamW
    assert rates == expected


@pytest.mark.parametrize('name', ['v0_char_english', 'v2_cosine_lr', 'v6_wandb'])
def test_runs_are_repeatable_and_evaluation_leaves_training_untouched(name, rung, tmp_path):
    outputs = []
    for folder, interval in (('a', 10), ('b', 10), ('c', 4)):
        (tmp_path / folder).mkdir()
        done = run_script(rung(name, tmp_path / folder, EVAL_INTERVAL=interval))
        assert done.returncode == 0, done.stderr
        outputs.append(log_lines(done.stdout))
    assert [{**line, 'speed': 0} for line in outputs[0]] == [{**line, 'speed': 0} for line in outputs[1]]
    assert [line['step'] for line in outputs[2]] == [4, 8, 12, 16, 20]
    assert outputs[0][-1]['test'] == outputs[2][-1]['test']         # evaluated more often: the same weights


@pytest.mark.parametrize('name', ['v0_char_english', 'v4_flash_optim', 'v6_wandb'])
def test_a_run_of_one_step(name, rung):
    done = run_script(rung(name, TRAIN_ITERS=1, EVAL_INTERVAL=1000))
    assert done.returncode == 0, done.stderr
    assert [line['step'] for line in log_lines(done.stdout)] == [1]


@pytest.mark.parametrize('name', ['v0_char_chinese', 'v6_wandb'])
def test_full_data_set_is_used_where_there_is_one(name, rung, tmp_path):
    path = rung(name, LYRICS_DIR='ChineseLyrics', BPE_VOCAB_SIZE=400) if name in BPE else rung(name, LYRICS_DIR='ChineseLyrics')
    songs = [{'name': str(i), 'singer': '某', 'lyric': [f'第{i}首歌', '春风又绿江南岸', '明月何时照我还'] * 3} for i in range(60)]
    write_songs(tmp_path / 'ChineseLyrics' / 'data' / 'lyrics1.json', songs[:30])
    write_songs(tmp_path / 'ChineseLyrics' / 'data' / 'lyrics2.json', songs[30:])
    done = run_script(path)
    assert done.returncode == 0, done.stderr
    assert '歌曲 60 ' in done.stdout and 'sample.json' not in done.stdout


@pytest.mark.parametrize('name', RUNGS)
def test_warns_of_overfitting_only_where_it_threatens(name, load, monkeypatch, capsys):
    """Beyond some twenty passes over the training data, and before the model is made."""
    for iters, warned in ((10, False), (10 ** 6, True)):
        module = load(name, TRAIN_ITERS=iters)
        monkeypatch.setattr(module, 'GPT', lambda vocab_size: sys.exit('far enough'))
        if name in CHECKPOINT:
            monkeypatch.setattr(module, 'CHECKPOINT_DIR', 'unused')
            monkeypatch.setattr(module.Path, 'mkdir', lambda *arguments, **options: None)
        with pytest.raises(SystemExit, match='far enough'):
            module.main()
        assert ('过拟合' in capsys.readouterr().out) == warned


@pytest.mark.parametrize('name', ['v4_flash_optim', 'v6_wandb'])
def test_gradients_are_clipped(name, rung, tmp_path):
    """Clipped far below AdamW's epsilon, the gradient moves nothing; clipped at 1, it does."""
    falls = []
    for clip in (1.0, 1e-14):
        (tmp_path / str(clip)).mkdir()
        done = run_script(rung(name, tmp_path / str(clip), GRAD_CLIP=clip, TRAIN_ITERS=30, LEARNING_RATE=5e-3, WEIGHT_DECAY=0.0))
        uniform = float(re.search(r'瞎猜是 ln \d+ = (\S+)', done.stdout)[1])
        falls.append(uniform - log_lines(done.stdout)[-1]['train'])
    assert falls[0] > 0.5 and abs(falls[1]) < 0.1


@pytest.mark.parametrize('name', ['v4_flash_optim', 'v6_wandb'])
def test_workers_change_nothing(name, rung, tmp_path):
    results = []
    for workers in (0, 2):
        (tmp_path / str(workers)).mkdir()
        done = run_script(rung(name, tmp_path / str(workers), NUM_WORKERS=workers))
        assert (done.returncode, done.stderr) == (0, '')
        results.append([(line['train'], line['test']) for line in log_lines(done.stdout)])
    assert results[0] == results[1]


def test_two_optimizers_skip_an_overflow_together(rung, tmp_path):
    """A NaN in the word vectors' gradient spoils the norm: without a common skip the clipping would hand it to Muon."""
    path = rung('v9_muon', USE_AMP=True, AMP_DTYPE='float16', TRAIN_ITERS=4, EVAL_INTERVAL=4)
    source = path.read_text(encoding='utf-8').replace('n = 8192 if GPU else 2048', 'n = 64')     # a CPU takes minutes for it in float16
    line = '        for optimizer in optimizers:\n            scaler.unscale_(optimizer)'
    assert source.count(line) == 1
    spoiled = '        if it == 1: model.token_embedding.weight.grad[0, 0] = math.nan\n'
    path.write_text(source.replace(line, spoiled + line), encoding='utf-8')
    done = run_script(path)
    assert done.returncode == 0, done.stderr
    checkpoint = torch.load(tmp_path / 'checkpoints/v9_muon/latest.pt', weights_only=True)
    assert checkpoint['step'] == 4 and all(p.isfinite().all() for p in checkpoint['model'].values())


@pytest.mark.parametrize('name', RUNGS[5:])                         # v3 on
def test_mixed_precision_covers_every_forward_pass(name, load, tmp_path, monkeypatch):
    """Training, evaluation, the last pass and the songs: the logits are 16-bit, the weights stay float32."""
    passes = set()
    module = load(name, USE_AMP=True, AMP_DTYPE='bfloat16', TRAIN_ITERS=3, EVAL_INTERVAL=100, **folder(name, tmp_path))
    make = module.GPT

    def watched(vocab_size):
        model = make(vocab_size)
        model.lm_head.register_forward_hook(lambda _, inputs, out: passes.add((out.dtype, torch.is_grad_enabled(), len(out))) or None)
        return model
    monkeypatch.setattr(module, 'GPT', watched)
    model = train_here(module, name, monkeypatch)
    assert {dtype for dtype, _, _ in passes} == {torch.bfloat16}
    assert {(True, 4), (False, 4), (False, 1)} <= {(training, windows) for _, training, windows in passes}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_float16_with_a_scaler_learns(rung):
    done = run_script(rung('v4_flash_optim', USE_AMP=True, AMP_DTYPE='float16', TRAIN_ITERS=60, LEARNING_RATE=5e-3))
    assert done.returncode == 0, done.stderr
    assert log_lines(done.stdout)[-1]['test'] < 7.7


@pytest.mark.parametrize('name', ['v3_gpt2_amp', 'v5_checkpoint', 'v7_grad_accum', 'v9_muon', 'v10_ddp'])
def test_compiled_training_is_the_same(name, load, tmp_path, monkeypatch, capsys):
    """TorchDynamo traces the model and its backward pass; the backend that runs the graph as it is needs no C compiler."""
    compiler, lines, saved = torch.compile, [], {}
    monkeypatch.setattr(torch, 'compile', lambda model: compiler(model, backend='aot_eager'))
    for compiled in (False, True):
        torch._dynamo.reset()
        module = load(name, USE_COMPILE=compiled, DROP_OUT=0.0, TRAIN_ITERS=6, EVAL_INTERVAL=3, **folder(name, tmp_path))
        with monkeypatch.context() as patch:
            train_here(module, name, patch, saved)
            output = capsys.readouterr().out
            assert ('编译用了' in output) == compiled and '不编译' not in output
            lines.append(log_lines(output))
    assert not any('_orig_mod' in key for checkpoint in saved.values() for key in checkpoint['model'])
    for plain, traced in zip(*lines, strict=True):
        assert traced['train'] == pytest.approx(plain['train'], abs=2e-4) and traced['test'] == pytest.approx(plain['test'], abs=2e-4)


@pytest.mark.parametrize('name', ['v3_gpt2_amp', 'v6_wandb'])
def test_goes_on_uncompiled_where_torch_compile_cannot_work(name, rung, tmp_path):
    env = {'CXX': 'no-such-compiler', 'PATH': '', 'TORCHINDUCTOR_CACHE_DIR': str(tmp_path / 'cache')}
    done = run_script(rung(name, USE_COMPILE=True), env=env)
    assert done.returncode == 0, done.stderr
    assert '不编译，继续训练' in done.stdout and len(log_lines(done.stdout)) == 2


@pytest.mark.parametrize('name', ['v3_gpt2_amp', 'v7_grad_accum', 'v10_ddp'])
def test_out_of_memory_while_compiling_is_not_taken_for_the_compiler(name, load, monkeypatch, capsys):
    """Up to v6 it ends the run; from v7 on a smaller micro-batch is tried while training."""
    def compiled(x, y):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
    monkeypatch.setattr(torch, 'compile', lambda model: compiled)
    module = load(name, USE_COMPILE=True)
    arguments = (torch.nn.Linear(1, 1), tokens(name, 500)) + ((2,) if level(name) >= 7 else ())
    if level(name) < 7:
        with pytest.raises(RuntimeError, match='allocate'):
            module.compile_model(*arguments)
    else:
        assert module.compile_model(*arguments) is compiled
        assert '编译时显存或内存不够' in capsys.readouterr().out


@pytest.mark.parametrize('name', ['v3_gpt2_amp', 'v10_ddp'])
def test_goes_on_uncompiled_where_torch_compile_raises_at_once(name, load, tmp_path, monkeypatch, capsys):
    """As it does on a Python that it does not know yet."""
    def unsupported(model):
        raise RuntimeError('Python 3.99 is not yet supported for torch.compile')
    monkeypatch.setattr(torch, 'compile', unsupported)
    train_here(load(name, USE_COMPILE=True, **folder(name, tmp_path)), name, monkeypatch, {})
    output = capsys.readouterr().out
    assert '不编译，继续训练' in output and len(log_lines(output)) == 2
