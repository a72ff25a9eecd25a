"""Inductor: the FX graph cache key lacks the CPU's vector width, so a shared cache gives wrong results

Written to be filed with pytorch/pytorch as it is; not filed from here.

What happens. Two processes share one `TORCHINDUCTOR_CACHE_DIR`. The first generates C++ for 512-bit vectors. The
second, whose vectors are 256 bits wide, finds the same entry of the FX graph cache and compiles that source for its
own instruction set. The loops step by 16 entries where a vector now holds 8, so half of the output is never written.
Nothing warns. With no vectors at all (`ATEN_CPU_CAPABILITY=default`) the same source does not compile (`'at::vec' has
not been declared`).

A cluster of mixed processors with its cache on a shared disk is in this situation, and so is a container image that
carries a warm cache.

To reproduce, on a processor with AVX-512: `python inductor_cache_vector_width.py`. It prints

    AVX512 max error 3.814697265625e-06
    AVX2 max error nan

Tried on an AMD EPYC (family 25) under Linux, with torch 2.6.0, 2.13.0 and 2.14.1: NaN (uninitialised memory) in the
second process with each. With a cache directory for each process the second error is the size of the first.

Cause, as far as we can tell. `FxGraphHashDetails` hashes the graph, the inputs and `torch._inductor.config`. The
width comes from `cpu_vec_isa.pick_vec_isa()`, which reads `/proc/cpuinfo` and `ATEN_CPU_CAPABILITY`; unless
`config.cpp.simdlen` is set, none of that enters the hash. The key of the C++ build does contain the flags, so the
wrong source is built anew and loads without complaint.

A way around it, which `fast` takes for its own kernels: set `cpp.simdlen` to `pick_vec_isa().bit_width()`. The option
changes nothing else, and it enters the hash.

A possible mend: add `str(pick_vec_isa())` to the hashed details of graphs with CPU kernels. The build flags contain
`-march=native`, which differs in meaning between processors with the same spelling; the name of the processor, or the
list of its features, in the key of the C++ build would cover that as well. We have not seen that second fault happen.
"""

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
