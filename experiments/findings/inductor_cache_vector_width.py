"""Inductor's cache does not know how wide the vectors are: see inductor_cache_vector_width.md beside this file."""

import os
import subprocess
import sys
import tempfile

CODE = """
import torch
x = torch.arange(1000.0)
f = torch.compile(lambda x: torch.sqrt(x) + 1)
print(torch.backends.cpu.get_cpu_capability(), "max error", (f(x) - (torch.sqrt(x) + 1)).abs().max().item())
"""
with tempfile.TemporaryDirectory() as cache:
    for isa in ("avx512", "avx2"):
        env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache, "ATEN_CPU_CAPABILITY": isa}
        subprocess.run([sys.executable, "-c", CODE], env=env, check=True)
