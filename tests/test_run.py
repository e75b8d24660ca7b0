"""Every rung end to end, as a process, on the data that ships."""
import math
import re
import sys

import numpy as np
import pytest
import torch
from conftest import BPE, CHECKPOINT, CHINESE, RUNGS, level, log_lines, run_script, write_songs

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


@pytest.mark.parametrize('name', RUNGS)
def test_the_last_line_is_one_pass_over_the_whole_test_split(name, load, capsys):
    """bits/char = test loss / ln 2 * test tokens / test characters, written out once more."""
    module = load(name, TRAIN_ITERS=3, EVAL_INTERVAL=100, **({'CHECKPOINT_DIR': 'unused'} if name in CHECKPOINT else {}))
    kept = {}
    make = module.GPT
    module.GPT = lambda vocab_size: kept.setdefault('model', make(vocab_size))
    if name in CHECKPOINT:
        module.save_checkpoint = module.check_disk = lambda *arguments: None
    if level(name) >= 6:
        module.start_wandb, module.log_metrics = (lambda run_id: type('Run', (), {'id': 'x', 'finish': print})), print
        module.TENSORBOARD = False
    module.main()
    model, (_, _, data, chars) = kept['model'].eval(), module.load_data()
    data = data if level(name) < 10 else torch.from_numpy(data.astype(np.int64))
    [line] = log_lines(capsys.readouterr().out)
    total = 0.0
    with torch.no_grad():
        for i in range(0, len(data) - 1, 32):
            window = data[i:i + 33]
            total += model(window[None, :-1], window[None, 1:])[1].item() * (len(window) - 1)
    loss = total / (len(data) - 1)
    assert line['step'] == 3 and line['test'] == pytest.approx(loss, abs=2e-4)
    assert line['bits'] == pytest.approx(loss / math.log(2) * len(data) / chars, abs=2e-3)


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


@pytest.mark.parametrize(('name', 'dtype'), [('v3_gpt2_amp', 'bfloat16'), ('v6_wandb', 'bfloat16'), ('v4_flash_optim', 'float16')])
def test_mixed_precision_on_the_cpu(name, dtype, rung):
    done = run_script(rung(name, USE_AMP=True, AMP_DTYPE=dtype, TRAIN_ITERS=60, LEARNING_RATE=5e-3))
    assert done.returncode == 0, done.stderr
    assert log_lines(done.stdout)[-1]['test'] < 7.7


@pytest.mark.parametrize('name', ['v3_gpt2_amp', 'v6_wandb'])
def test_goes_on_uncompiled_where_torch_compile_cannot_work(name, rung, tmp_path):
    env = {'CXX': 'no-such-compiler', 'PATH': '', 'TORCHINDUCTOR_CACHE_DIR': str(tmp_path / 'cache')}
    done = run_script(rung(name, USE_COMPILE=True), env=env)
    assert done.returncode == 0, done.stderr
    assert '不编译，继续训练' in done.stdout and len(log_lines(done.stdout)) == 2
