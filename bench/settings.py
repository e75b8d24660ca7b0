"""What is measured: the experiments of ladder.py, each a list of runs. A run is a rung with some constants edited.

Every job is {'key', 'rung', 'constants', 'patches', 'alone', 'processes', 'files'}: `patches` replace code (each must
fit exactly once), a job that is `alone` has the machine to itself (its speed or its memory counts), the others run side
by side; `files` is how many of the corpus's files it reads, None: all.
"""
RUNGS = ['v0_char_english', 'v0_char_chinese', 'v0_char_rope', 'v1_bpe_rope', 'v2_cosine_lr', 'v3_gpt2_amp',
         'v4_flash_optim', 'v5_checkpoint', 'v6_wandb', 'v7_grad_accum', 'v8_mfu', 'v9_llama', 'v10_muon', 'v11_memmap',
         'v12_ddp']
STEPS, EVERY, SEEDS = 600, 50, (1, 2, 3)
CONTROLLED = {'N_EMBED': 128, 'N_HEADS': 4, 'N_LAYERS': 4, 'BLOCK_SIZE': 128, 'BATCH_SIZE': 16, 'BPE_VOCAB_SIZE': 4000,
              'DROP_OUT': 0.0, 'WARMUP_ITERS': 150, 'EVAL_ITERS': 20, 'TRAIN_ITERS': STEPS, 'EVAL_INTERVAL': EVERY,
              'PREVIEW_INTERVAL': 10**6, 'MAX_NEW_TOKENS': 1}
SHORT = CONTROLLED | {'TRAIN_ITERS': 60, 'EVAL_INTERVAL': 60, 'EVAL_ITERS': 1}          # for its speed or its memory

# The rungs of a family share the peak learning rate that its first one had the lowest loss with, on the last tenth of
# the training songs; they never see the test songs for it. MIN_LR is a tenth of it.
FAMILIES = [['v0_char_rope', 'v0_char_chinese'], ['v1_bpe_rope'], ['v2_cosine_lr', 'v3_gpt2_amp'],
            ['v4_flash_optim', 'v5_checkpoint', 'v6_wandb', 'v7_grad_accum', 'v8_mfu'], ['v9_llama'],
            ['v10_muon', 'v11_memmap', 'v12_ddp']]
GRID = (1e-3, 2e-3, 4e-3, 8e-3)
MUON_GRID = (1e-2, 2e-2, 4e-2, 8e-2)                # of the word vectors; the matrices have their own rate
VALIDATION = [('songs = load_songs()\n', 'songs = load_songs()\n    songs = songs[:int(0.9 * len(songs))]\n')]
SAME_TRAINING = {'v5_checkpoint', 'v6_wandb', 'v7_grad_accum', 'v8_mfu', 'v11_memmap', 'v12_ddp'}     # one seed
SIZES_OF_CORPUS = (1000, 4000, 16000, None)         # songs, for characters against BPE
MICRO, PROCESSES = (1, 2, 4, 8, 16), (1, 2, 4)
FILES = (1, 2, 3, 4, 5)                             # of a large corpus, for the memory that it takes

# Leave one out: (rung, idea, its name in Chinese and what stands in for it, constants or patches).
WITHOUT = [
    ('v4_flash_optim', 'one QKV projection', 'q、k、v 一次矩阵乘法（换成三次）', [
        ('self.qkv(x)', 'torch.cat([F.linear(x, w) for w in self.qkv.weight.chunk(3)], dim=-1)')]),
    ('v4_flash_optim', 'flash attention', 'flash attention（换成遮罩 + softmax）', [
        ('F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)',
         'F.dropout((q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5'
         ' + torch.full((T, T), -torch.inf, device=x.device).triu(1)).softmax(dim=-1), dropout) @ v')]),
    ('v4_flash_optim', 'weight decay', '权重衰减', {'WEIGHT_DECAY': 0.0}),
    ('v4_flash_optim', 'decay groups', '衰减分组（全都衰减）', [
        ("{'params': rest, 'weight_decay': 0.0}", "{'params': rest, 'weight_decay': WEIGHT_DECAY}")]),
    ('v4_flash_optim', 'gradient clipping', '梯度裁剪', {'GRAD_CLIP': 1e9}),
    ('v4_flash_optim', 'betas', 'betas（换成 0.9, 0.999）', {'BETAS': (0.9, 0.999)}),
    ('v4_flash_optim', 'init', 'GPT-2 的初始化（换成 PyTorch 的）', [
        ('for name, p in self.named_parameters():', 'for name, p in ():')]),
    ('v4_flash_optim', 'residual scaling', '残差投影缩小', [
        ('0.02 / math.sqrt(2 * N_LAYERS) if residual else 0.02', '0.02')]),
    ('v4_flash_optim', 'fused AdamW', 'fused AdamW', [('fused=True', 'fused=False')]),
    ('v9_llama', 'the smaller model', '模型变小（补到与 v8 差不多一样多的参数）', {'N_EMBED': 160}),
    ('v9_llama', 'grouped queries', '分组查询（每个头有自己的 k、v）', [
        ('N_KV_HEADS = N_HEADS // 5 if N_HEADS % 2 else N_HEADS // 2', 'N_KV_HEADS = N_HEADS')]),
    ('v9_llama', 'tied embeddings', '词向量共用', [('self.lm_head.weight = self.token_embedding.weight', 'pass')]),
    ('v9_llama', 'SwiGLU', 'SwiGLU（换成 4 倍宽的 GELU）', [
        ('hidden = math.ceil(N_EMBED * 8 / 3 / 64) * 64', 'hidden = 4 * N_EMBED'),
        ('self.gate = nn.Linear(N_EMBED, hidden, bias=False)', 'pass'),
        ('F.silu(self.gate(x)) * self.up(x)', 'F.gelu(self.up(x))')]),
    ('v9_llama', 'RMSNorm', 'RMSNorm（换成 LayerNorm）', [
        (f'self.{name} = nn.RMSNorm(N_EMBED, eps=1e-5)', f'self.{name} = nn.LayerNorm(N_EMBED)')
        for name in ('ln1', 'ln2', 'ln_f')]),
    ('v10_muon', 'Muon', 'Muon（换成 AdamW）', [
        ('return Muon([', 'return torch.optim.AdamW(['), ("'peak': MUON_LR", "'peak': @V9"),
        ("'peak': LEARNING_RATE", "'peak': @V9")]),
    ('v10_muon', 'q and k normalised', 'q、k 归一', [
        ('self.q_norm(q.float())', 'q'), ('self.k_norm(k.float())', 'k')]),
]

# Patches that make a rung print what it does not print by itself.
LONGER = [('        if last:\n            break\n', '''        if last:
            for times in (1, 2, 4):
                globals()['BLOCK_SIZE'] = times * 128
                model.rope = rope_table().to(DEVICE)
                for block in model.blocks:
                    for head in block.attention.heads:
                        head.tril = torch.ones(BLOCK_SIZE, BLOCK_SIZE, device=DEVICE).tril().bool()
                print('longer', times, estimate_loss(model, test_data))
            break
''')]
SAVING = [("            save_checkpoint('latest.pt', checkpoint)", '''            saving = time.perf_counter()
            save_checkpoint('latest.pt', checkpoint)
            print('saving', time.perf_counter() - saving)''')]


def rate(results: dict, rung: str) -> float:
    """The best peak learning rate of the rung's family, on the validation songs."""
    family = next(family for family in FAMILIES if rung in family)[0]
    tried = {float(key.rsplit(' ', 1)[1]): job['curve'][-1]['test'] for key, job in results['jobs'].items()
             if key.startswith(f'rates/{family}/')}
    return min(tried, key=tried.get)


def rates_of(results: dict, rung: str) -> dict:
    return {'LEARNING_RATE': (peak := rate(results, rung)), 'MIN_LR': peak / 10}


def chars_per_token(job: dict) -> float:
    """Characters that a token stands for, over the test songs: from the last line, bits = loss / ln 2 / this."""
    last = job['curve'][-1]
    return last['test'] / last['bits_per_char'] / 0.6931471805599453


def plan(experiment: str, results: dict) -> list[dict]:
    """The jobs of an experiment. Those that follow from others' results (rates, budgets) need these first."""
    jobs = []

    def add(key, rung, constants, patches=(), alone=False, processes=1, files=None):
        jobs.append({'key': f'{experiment}/{key}', 'rung': rung, 'constants': constants, 'patches': list(patches),
                     'alone': alone, 'processes': processes, 'files': files})

    if experiment == 'shipped':
        for rung in RUNGS:
            add(f'{rung}/whole run', rung, {}, alone=True)
    elif experiment == 'rates':
        for rung, *_ in FAMILIES:
            for peak in MUON_GRID if rung == 'v10_muon' else GRID:
                add(f'{rung}/rate {peak}', rung, CONTROLLED | {'LEARNING_RATE': peak, 'MIN_LR': peak / 10}, VALIDATION)
    elif experiment == 'steps':
        for rung in RUNGS[1:]:
            for seed in SEEDS[:1] if rung in SAME_TRAINING else SEEDS:
                add(f'{rung}/seed {seed}', rung, CONTROLLED | rates_of(results, rung) | {'SEED': seed})
    elif experiment == 'characters':
        for rung in ('v1_bpe_rope', 'v2_cosine_lr', 'v3_gpt2_amp', 'v4_flash_optim', 'v9_llama', 'v10_muon'):
            steps = round(STEPS / chars_per_token(results['jobs'][f'steps/{rung}/seed 1']))
            add(f'{rung}/seed 1', rung, CONTROLLED | rates_of(results, rung) | {'SEED': 1, 'TRAIN_ITERS': steps})
    elif experiment == 'without':
        for rung, idea, _, edits in WITHOUT:
            constants = edits if isinstance(edits, dict) else {}
            patches = [] if isinstance(edits, dict) else edits
            if any('@V9' in new for _, new in patches):
                patches = [(old, new.replace('@V9', str(rate(results, 'v9_llama')))) for old, new in patches]
            add(f'{rung}/{idea}/seed 1', rung, CONTROLLED | rates_of(results, rung) | {'SEED': 1} | constants, patches)
    elif experiment == 'corpus' and results['corpus'] != 'sample':     # too few songs
        for songs in SIZES_OF_CORPUS:
            for rung in ('v0_char_rope', 'v1_bpe_rope'):
                add(f'{rung}/{songs or "all"} songs', rung, CONTROLLED | rates_of(results, rung) | {'MAX_SONGS': songs})
    elif experiment == 'speed':
        for number in (1, 2, 3):
            for rung in RUNGS[1:]:
                add(f'{rung}/round {number}', rung, SHORT, alone=True)
            for amp in (False, True):
                for compiled in (False, True):
                    add(f'v3_gpt2_amp/autocast {amp}, compile {compiled}/round {number}', 'v3_gpt2_amp',
                        SHORT | {'USE_AMP': amp, 'USE_COMPILE': compiled}, alone=True)
    elif experiment == 'own':
        add('v0_char_rope/longer windows', 'v0_char_rope', CONTROLLED | rates_of(results, 'v0_char_rope'), LONGER)
        add('v5_checkpoint/saving', 'v5_checkpoint', SHORT | {'SAVE_INTERVAL': 20}, SAVING, alone=True)
        for micro in MICRO:
            add(f'v7_grad_accum/micro {micro}', 'v7_grad_accum', SHORT | {'MICRO_BATCH_SIZE': micro}, alone=True)
        for files in FILES if results['corpus'] != 'sample' else ():
            for rung in ('v10_muon', 'v11_memmap'):
                add(f'{rung}/{files} files', rung, SHORT | {'TRAIN_ITERS': 1}, alone=True, files=files)
        for processes in PROCESSES:
            add(f'v12_ddp/{processes} processes', 'v12_ddp', SHORT, alone=True, processes=processes)
    return jobs
