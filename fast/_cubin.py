"""Compiles Inductor's Triton kernels down to the GPU's machine code with Triton's own tools, and reads what it needs.

Needs no GPU and no CUDA toolkit: Triton carries ptxas. Call `pretend_gpu.pretend` first.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fast._traffic import KernelCode


@dataclass(frozen=True)
class Machine:
    """The worst kernel of a graph: registers a thread, and bytes a thread spilled to memory."""

    registers: int
    spilled: int


def machine_code(kernels: list[KernelCode]) -> Machine:
    """Compiles each kernel in the first of the configurations that Inductor would try, for the GPU that is pretended."""
    found = [_compiled(kernel) for kernel in kernels]
    return Machine(max((f.registers for f in found), default=0), sum(f.spilled for f in found))


def _compiled(kernel: KernelCode) -> Machine:
    from torch._inductor.codecache import PyCodeCache

    module: Any = PyCodeCache.load(kernel.source)
    tuned = getattr(module, kernel.name, None) or next(
        v for v in vars(module).values() if hasattr(v, "_precompile_config")
    )
    made = tuned._precompile_config(tuned.configs[0])
    ptx = made.kernel.asm["ptx"]
    target = re.search(r"\.target (sm_\w+)", ptx)
    if target is None:
        raise RuntimeError(f"kernel {kernel.name}: the PTX names no target")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        said = subprocess.run(
            [_ptxas(), "-v", f"--gpu-name={target[1]}", str(source), "-o", str(source.with_suffix(".o"))],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
    registers = re.search(r"Used (\d+) registers", said)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
    if registers is None or spills is None:
        raise RuntimeError(f"ptxas said nothing about registers: {said!r}")
    return Machine(int(registers[1]), int(spills[1]) + int(spills[2]))


def _ptxas() -> str:
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas")
