"""What is measured: the experiments of ladder.py, each a list of runs. A run is a rung with some constants edited.

Every job is {'key', 'rung', 'constants', 'patches', 'alone', 'processes', 'files'}: `patches` replace code (each must
fit exactly once), a job that is `alone` has the machine to itself (its speed or its memory counts), the others run side
by side; `files` is how many of the corpus's files it reads, None: all.
"""
import math

RUNGS = ['v0_char_english', 'v0_char_chinese', 'v0_char_rope', 'v1_bpe_rope', 'v2_cosine_lr', 'v3_gpt2_amp',
         'v4_flash_optim', 'v5_checkpoint', 'v6_wandb', 'v7_grad_accum', 'v8_mfu', 'v9_llama', 'v10_muon', 'v11_memmap',
         'v12_ddp']
BRANCH, NEEDS = ['s1_control', 's2_rhyme_rl'], {'s2_rhyme_rl': 's1_control'}        # NEEDS: which begins with which
STEPS, EVERY, SEEDS = 1200, 200, (1, 2, 3)          # of the climb
BUDGETS = (300, 600, 1200, 2400, 4800)              # lengths of a run after which the rungs to v4 are compared
CONTROLLED = {'N_EMBED': 128, 'N_HEADS': 4, 'N_LAYERS': 4, 'BLOCK_SIZE': 128, 'BATCH_SIZE': 16, 'BPE_VOCAB_SIZE': 4000,
              'DROP_OUT': 0.0, 'WARMUP_ITERS': 200, 'EVAL_ITERS': 20, 'TRAIN_ITERS': STEPS, 'EVAL_INTERVAL': EVERY,
              'PREVIEW_INTERVAL': 10**6, 'MAX_NEW_TOKENS': 1}
SHORT = CONTROLLED | {'TRAIN_ITERS': 60, 'EVAL_INTERVAL': 60, 'EVAL_ITERS': 1}          # for its speed or its memory
LONG = {'BLOCK_SIZE': 1024, 'BATCH_SIZE': 2, 'TRAIN_ITERS': 20, 'EVAL_INTERVAL': 20}    # as many tokens a step
MANY = {'BLOCK_SIZE': 256, 'BATCH_SIZE': 64, 'TRAIN_ITERS': 4, 'EVAL_INTERVAL': 4}      # too many windows for once

# The rungs of a family share the peak learning rate that its first one had the lowest loss with, on the last tenth of
# the training songs; they never see the test songs for it. MIN_LR is a tenth of it.
FAMILIES = [['v0_char_rope', 'v0_char_chinese'], ['v1_bpe_rope'], ['v2_cosine_lr', 'v3_gpt2_amp'],
            ['v4_flash_optim', 'v5_checkpoint', 'v6_wandb', 'v7_grad_accum', 'v8_mfu'], ['v9_llama'],
            ['v10_muon', 'v11_memmap', 'v12_ddp']]
GRID = (2e-3, 4e-3, 8e-3)
MUON_GRID = (2e-2, 4e-2, 8e-2)                      # of the word vectors; the matrices have their own rate
VALIDATION = [('songs = load_songs()\n', 'songs = load_songs()\n    songs = songs[:int(0.9 * len(songs))]\n')]
SAME_TRAINING = {'v5_checkpoint', 'v6_wandb', 'v7_grad_accum', 'v8_mfu', 'v11_memmap', 'v12_ddp'}
SAME_SONGS = {'v5_checkpoint', 'v6_wandb', 'v8_mfu', 'v12_ddp'}     # bit for bit; v7 rounds otherwise, v11 reads others
PAY_LATER = ('v1_bpe_rope', 'v2_cosine_lr', 'v4_flash_optim')               # compared after all BUDGETS
NEAR = ('v1_bpe_rope', 'v2_cosine_lr', 'v3_gpt2_amp', 'v4_flash_optim')     # differences near their noise: three seeds
SIZES_OF_CORPUS = (1000, 4000, 16000, 64000)        # songs, for characters against BPE
MICRO, PROCESSES, FILES = (1, 4, 16, 64), (1, 2, 4), (1, 2, 3, 4, 5)        # FILES of a large corpus: the memory taken
SHORTER = (300, 600, 900)                            # runs of v10: the shortest that reaches v6's loss

# v4's ideas that make it faster and leave the loss as it is: what stands in for each, by patches.
FASTER = {
    'one QKV projection': ('q、k、v 一次矩阵乘法（换成三次）', [
        ('self.qkv(x)', 'torch.cat([F.linear(x, w) for w in self.qkv.weight.chunk(3)], dim=-1)')]),
    'flash attention': ('flash attention（换成掩码 + softmax）', [
        ('F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)',
         'F.dropout((q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5'
         ' + torch.full((T, T), -torch.inf, device=x.device).triu(1)).softmax(dim=-1), dropout) @ v')]),
    'fused AdamW': ('fused AdamW', [('fused=True', 'fused=False')])}

# Leave one out: per rung the idea, its name in Chinese and what stands in for it, constants or patches.
WITHOUT = {
    'v4_flash_optim': [
        ('weight decay', '权重衰减', {'WEIGHT_DECAY': 0.0}),
        ('decay groups', '衰减分组（全都衰减）', [("rest, 'weight_decay': 0.0", "rest, 'weight_decay': WEIGHT_DECAY")]),
        ('gradient clipping', '梯度裁剪', {'GRAD_CLIP': 1e9}),
        ('betas', 'betas（换成 0.9, 0.999）', {'BETAS': (0.9, 0.999)}),
        ('init', 'GPT-2 的初始化（换成 PyTorch 的）', [('in self.named_parameters():', 'in ():')]),
        ('width in the init', '初始化随宽度变（都用 0.02）', [('0.02 * math.sqrt(768 / N_EMBED)', '0.02')]),
        ('residual scaling', '残差投影缩小', [('/ math.sqrt(2 * N_LAYERS) if residual', 'if residual')])],
    'v9_llama': [
        ('the smaller model', '补回参数（与 v8 差不多一样多）', {'N_EMBED': 160}),
        ('grouped queries', '分组查询（每个头有自己的 k、v）', {'N_KV_HEADS': 4}),
        ('tied embeddings', '词向量共用', [('self.lm_head.weight = self.token_embedding.weight', 'pass')]),
        ('SwiGLU', 'SwiGLU（换成 4 倍宽的 GELU）', [
            ('hidden = math.ceil(N_EMBED * 8 / 3 / 64) * 64', 'hidden = 4 * N_EMBED'),
            ('self.gate = nn.Linear(N_EMBED, hidden, bias=False)', 'pass'),
            ('F.silu(self.gate(x)) * self.up(x)', 'F.gelu(self.up(x))')]),
        ('RMSNorm', 'RMSNorm（换成 LayerNorm）', [
            (f'{name} = nn.RMSNorm(N_EMBED, eps=1e-5)', f'{name} = nn.LayerNorm(N_EMBED)')
            for name in ('ln1', 'ln2', 'ln_f')])],
    'v10_muon': [
        ('Muon', 'Muon（换成 AdamW）', [
            ('return Muon([', 'return torch.optim.AdamW(['),
            ("'peak': MUON_LR", "'peak': @V9"), ("'peak': LEARNING_RATE", "'peak': @V9")]),
        ('weight decay of 0.3', '权重衰减 0.3（换成 v9 的 0.1）', {'WEIGHT_DECAY': 0.1}),
        ('q and k normalised', 'q、k 归一', [('self.q_norm(q.float())', 'q'), ('self.k_norm(k.float())', 'k')])],
}

# Patches that make a rung do or print what it does not by itself.
LONGER = [('        if last:\n            break\n', '''        if last:
            for times in (1, 2, 4):
                globals()['BLOCK_SIZE'] = times * 128
                model.rope = rope_table().to(DEVICE)
                for head in (head for block in model.blocks for head in block.attention.heads):
                    head.tril = torch.ones(BLOCK_SIZE, BLOCK_SIZE, device=DEVICE).tril().bool()
                print('longer', times, estimate_loss(model, test_data))
            break
''')]
SAVING = [("            save_checkpoint('latest.pt', checkpoint)", '''            saving = time.perf_counter()
            save_checkpoint('latest.pt', checkpoint)
            print('saving', time.perf_counter() - saving)''')]
# Forty songs, and the surprise at each token of a verse that no corpus has: [[text, bits], ...]
VERSE = '雨落在旧站台\n我还在等你来\n风把信吹到海边\n没有人知道我在'
SINGING = '''            for song in range(40):
                globals()['SEED'], globals()['MAX_NEW_TOKENS'] = song, 400
                text = write(model, tokenizer)
                print('song', json.dumps(text.split('\\n', 1)[-1] if 'CODES' in globals() else text))
            start = [tokenizer.eos_id()] if hasattr(tokenizer, 'eos_id') else tokenizer.encode('\\n')
            marked = '\\n'.join(map(mark_line, VERSE.split('\\n'))) if 'CODES' in globals() else VERSE
            ids = tokenizer.encode('<歌词>' * ('CODES' in globals()) + marked)
            model.eval()
            logits = model(torch.tensor([start + ids[:-1]], device=DEVICE))[0][0].detach().float().cpu()
            bits = -logits.log_softmax(-1)[range(len(ids)), ids] / math.log(2)
            print('strip', json.dumps([[tokenizer.decode([i]), b] for i, b in zip(ids, bits.tolist())]))
            break
'''.replace('VERSE', repr(VERSE))
KILLED = [('        x, y = next(batches)\n', '''        x, y = next(batches)
        if step == 500 and not start:
            os.kill(os.getpid(), signal.SIGKILL)
''')]


def tried(results: dict, rung: str, steps: int) -> dict[float, float]:
    """Peak learning rate -> loss on the validation songs, of the rung's family."""
    family = next(family for family in FAMILIES if rung in family)[0]
    return {float(key.rsplit(' ', 1)[1]): job['curve'][-1]['test'] for key, job in results['jobs'].items()
            if key.startswith(f'rates/{family}/{steps} steps/')}


def rate(results: dict, rung: str, steps: int = STEPS) -> float:
    """The best peak learning rate of the rung's family, on the validation songs."""
    losses = tried(results, rung, steps)
    return min(losses, key=losses.get)


def grid(results: dict, rung: str, steps: int) -> list[float]:
    """The peaks to try; where the best so far is the first or the last of them, one beyond it.

    Runs that are longer than the climb take the best of the climb's.
    """
    if steps > STEPS:
        return [rate(results, rung)] if tried(results, rung, STEPS) else []
    peaks, losses = MUON_GRID if rung == 'v10_muon' else GRID, tried(results, rung, steps)
    if losses.keys() >= set(peaks):
        best = min(losses, key=losses.get)
        peaks = sorted({*losses, *([best * 2] if best == max(losses) else [best / 2] if best == min(losses) else [])})
    return list(peaks)


def chars_per_token(job: dict) -> float:
    """Characters that a token stands for, over the test songs: from the last line, bits = loss / ln 2 / this."""
    return job['curve'][-1]['test'] / job['curve'][-1]['bits_per_char'] / math.log(2)


def plan(experiment: str, results: dict) -> list[dict]:
    """The jobs of an experiment. Those that follow from others' results (rates, budgets) need these first."""
    large = results['corpus'] != 'sample'

    def job(key, rung, constants=None, patches=(), alone=False, processes=0, files=None):
        return {'key': f'{experiment}/{rung}/{key}', 'rung': rung, 'constants': constants or {},
                'patches': list(patches), 'alone': alone, 'processes': processes, 'files': files}

    def tuned(rung, **constants):
        peak = rate(results, rung)
        return CONTROLLED | {'LEARNING_RATE': peak, 'MIN_LR': peak / 10, 'SEED': 1} | constants

    def left_out(rung, idea, edits):
        if isinstance(edits, dict):
            return job(f'{idea}/seed 1', rung, tuned(rung, **edits))
        return job(f'{idea}/seed 1', rung, tuned(rung), [
            (old, new.replace('@V9', str(rate(results, 'v9_llama'))) if '@V9' in new else new) for old, new in edits])

    match experiment:
        case 'shipped':
            return [job('whole run', rung, alone=True) for rung in RUNGS + BRANCH * (not large)]
        case 'rhymes' if not large:                                 # as shipped, but with a preview every 50 steps
            singing = [rung for rung in RUNGS[1:] + BRANCH if rung not in SAME_SONGS]
            ends = {rung: f'        if {"last" if rung in RUNGS[:7] else "last or stop"}:\n' for rung in singing}
            return [job('40 songs', rung, {'PREVIEW_INTERVAL': 50}, [
                (ends[rung] + '            break\n', ends[rung] + SINGING),
                *([('DEVICE), eos)[0, 1:]', 'DEVICE), eos, SEED)[0, 1:]')] if rung == 's2_rhyme_rl' else [])])
                    for rung in singing]
        case 'rates':
            return [job(f'{steps} steps/rate {peak}', rung, CONTROLLED | {
                        'LEARNING_RATE': peak, 'MIN_LR': peak / 10, 'TRAIN_ITERS': steps}, VALIDATION)
                    for steps in sorted({STEPS, *BUDGETS}) for rung, *_ in FAMILIES
                    if steps == STEPS or rung in PAY_LATER and large
                    for peak in grid(results, rung, steps)]
        case 'steps':
            return [job(f'seed {seed}', rung, tuned(rung, SEED=seed))
                    for rung in RUNGS[1:] for seed in (SEEDS if rung in NEAR else SEEDS[:1])]
        case 'characters':
            return [job('seed 1', rung, tuned(rung, TRAIN_ITERS=round(
                        STEPS / chars_per_token(results['jobs'][f'steps/{rung}/seed 1']))))
                    for rung in RUNGS[3:] if rung not in SAME_TRAINING]
        case 'without':
            return [left_out(rung, idea, edits) for rung in WITHOUT for idea, _, edits in WITHOUT[rung]]
        case 'corpus':
            return [job(f'{songs} songs', rung, tuned(rung, MAX_SONGS=songs))
                    for songs in SIZES_OF_CORPUS for rung in ('v0_char_rope', 'v1_bpe_rope') if large]
        case 'speed':                                               # round by round, what is compared side by side
            return [one for number in SEEDS for one in [
                *(job(f'round {number}', rung, SHORT, alone=True)
                  for rung in ('v4_flash_optim', 'v6_wandb', 'v8_mfu', 'v10_muon')),
                *(job(f'without {idea}/round {number}', 'v4_flash_optim', SHORT, edits, alone=True)
                  for idea, (_, edits) in FASTER.items()),
                *(job(f'windows of 1024, {how}/round {number}', 'v4_flash_optim', SHORT | LONG, edits, alone=True)
                  for how, edits in (('flash', []), ('plain', FASTER['flash attention'][1]))),
                *(job(f'autocast {amp}, compile {compiled}/round {number}', 'v3_gpt2_amp',
                      SHORT | {'USE_AMP': amp, 'USE_COMPILE': compiled}, alone=True)
                  for amp in (False, True) for compiled in (False, True))]]
        case 'own':
            return [job('longer windows', 'v0_char_rope', tuned('v0_char_rope'), LONGER),
                    job('saving', 'v5_checkpoint', SHORT | {'SAVE_INTERVAL': 20}, SAVING, alone=True),
                    job('killed', 'v5_checkpoint', {}, KILLED, alone=True),
                    *(job(f'micro {n}', 'v7_grad_accum', SHORT | {'MICRO_BATCH_SIZE': n} | MANY, alone=True)
                      for n in MICRO),
                    *(job(f'{n} steps', 'v10_muon', tuned('v10_muon', TRAIN_ITERS=n)) for n in SHORTER),
                    *(job(f'{files} files', rung, SHORT | {'TRAIN_ITERS': 1, 'RESUME': False}, alone=True, files=files)
                      for rung in ('v10_muon', 'v11_memmap') for files in FILES if large),
                    *(job(f'{n} processes', 'v12_ddp', SHORT, alone=True, processes=n) for n in PROCESSES)]
    return []
