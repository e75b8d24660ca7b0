"""What the benches say about the machine they ran on."""
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

import torch


def cpu_name() -> str:
    """The processor's name as the system gives it, e.g. 'AMD EPYC 9B14'."""
    try:
        return re.search(r'model name\s*: (.+)', Path('/proc/cpuinfo').read_text()).group(1).strip()
    except (OSError, AttributeError):
        return platform.processor() or platform.machine()


def describe() -> dict:
    """Device, processor, cores and package versions; `name` is fit for a file name and says which device computed."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    cores = os.cpu_count()
    name = gpu or f'{cpu_name()} {cores} cores'
    return {'name': re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-'), 'device': 'cuda' if gpu else 'cpu', 'gpu': gpu,
            'cpu': cpu_name(), 'cores': cores, 'system': platform.system(), 'python': platform.python_version(),
            'packages': {package: version(package) for package in ('torch', 'sentencepiece', 'numpy')}}
