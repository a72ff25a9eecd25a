"""Compiles Triton's kernels down to a GPU's machine code with Triton's own tools, which need no GPU, and reads what it needs."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Machine(NamedTuple):
    """Registers a thread, and bytes a thread spilled to memory."""

    registers: int
    spilled: int


def machine_code(function: Any, types: Mapping[str, str], options: Mapping[str, Any], arch: int) -> Machine:
    """A kernel for a GPU of this architecture; `types` of its tensors as Triton writes them, `options` with its constants."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    constants = {name: value for name, value in options.items() if name in function.arg_names}
    rest = {name: value for name, value in options.items() if name not in constants}
    whole = {(i,): [["tt.divisibility", 16]] for i in range(len(types))}
    source = ASTSource(function, {**types, **dict.fromkeys(constants, "constexpr")}, constants, whole)
    return used(compile(source, target=GPUTarget("cuda", arch, 32), options=rest).asm["ptx"])


def used(ptx: str) -> Machine:
    """What the assembler says of a text in PTX."""
    target = re.search(r"\.target (sm_\w+)", ptx)
    if target is None:
        raise RuntimeError("the PTX names no target")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        command = [_ptxas(), "-v", f"--gpu-name={target[1]}", str(source), "-o", str(source.with_suffix(".o"))]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = re.search(r"Used (\d+) registers", said)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
    if registers is None or spills is None:
        raise RuntimeError(f"ptxas said nothing about registers: {said!r}")
    return Machine(int(registers[1]), int(spills[1]) + int(spills[2]))


def _ptxas() -> str:
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas")
