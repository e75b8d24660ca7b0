"""Run a rung as a process and write what it does not print: its peak memory and the rate of a large matrix product.

    python measured.py SCRIPT RESULT.json

The rung runs unchanged, as `__main__`; the matrix product is timed just before it, on the same device.
"""
import json
import resource
import runpy
import sys
import time

import torch


def matrix_rate(device: str) -> float:
    """FLOP/s of a large bf16 matrix product on `device`: the best of two seconds, the first one aside."""
    n = 8192 if device == 'cuda' else 2048
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    a @ b                                                           # warms up
    deadline = time.perf_counter() + 2
    while time.perf_counter() < deadline:
        started = time.perf_counter()
        a @ b
        if device == 'cuda':
            torch.cuda.synchronize()
        best = max(best, 2 * n ** 3 / (time.perf_counter() - started))
    return best


def main():
    script, path = sys.argv[1:]
    torch.backends.mps.is_available = lambda: False                 # CUDA or the CPU: machine.py knows no third
    cuda = torch.cuda.is_available()
    result = {'matrix_flops': matrix_rate('cuda' if cuda else 'cpu')}
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    sys.argv = [script]
    try:
        runpy.run_path(script, run_name='__main__')
    finally:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss   # kB, on a Mac bytes
        result['peak_ram'] = peak * (1 if sys.platform == 'darwin' else 1024)
        if cuda:
            result['peak_gpu'] = torch.cuda.max_memory_reserved()
        with open(path, 'w', encoding='utf-8') as file:
            json.dump(result, file)


if __name__ == '__main__':
    main()
