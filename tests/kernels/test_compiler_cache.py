"""One compiler cache for processors with vectors of different widths, as a cluster's shared disk is: experiments/audit/findings has
the report of what Inductor does there by itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).resolve().parents[1]

AGREES = """
import sys, warnings
sys.path[:0] = [{tests!r}, {root!r}]
warnings.simplefilter("error")
warnings.filterwarnings("ignore", ".torch.jit.script_method. is deprecated")
import torch
from fast._kernels import shortcuts
from optimizers import OPTIMIZERS
from twin import train

shortcuts.DIRECT = {direct}
for row in OPTIMIZERS[:{rows}]:
    both = []
    for compile in (True, False):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(30, 50)), torch.nn.Parameter(torch.randn(20_000))]
        train(row.make(params, lr=0.01, compile=compile), params, range(3))
        both.append(params)
    for one, other in zip(*both):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
print("width", torch._inductor.cpu_vec_isa.pick_vec_isa().bit_width())
"""


def widths() -> list[str]:
    """What this processor can pretend to be, widest first; none where it has vectors of one kind only."""
    kinds = ["default", "avx2", "avx512"]
    found = torch.backends.cpu.get_cpu_capability().lower()
    return kinds[kinds.index(found) :: -1] if found in kinds[1:] else []


@pytest.mark.compiler
@pytest.mark.parametrize(("rows", "direct"), [(1, True), (1, False), pytest.param(99, True, marks=pytest.mark.slow)])
def test_processors_with_other_vectors_share_a_cache(tmp_path: Path, rows: int, direct: bool) -> None:
    kinds = widths()
    if not kinds:
        pytest.skip("this processor cannot pretend to have other vectors")
    code = AGREES.format(tests=str(TESTS / "common"), root=str(TESTS.parent), rows=rows, direct=direct)
    said = []
    for kind in kinds:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "ATEN_CPU_CAPABILITY": kind}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert run.returncode == 0, f"{kind} after {said}: {run.stderr[-2000:]}"
        said += [run.stdout.split()[-1]]
    assert len(set(said)) == len(kinds), f"the processes were to differ in their vectors, and had {said}"


@pytest.mark.compiler
def test_the_width_without_inductors_own_word(monkeypatch: pytest.MonkeyPatch) -> None:
    from fast._kernels import direct

    usual = direct.vector_width()
    monkeypatch.setitem(sys.modules, "torch._inductor.cpu_vec_isa", None)
    found = torch.backends.cpu.get_cpu_capability()
    if found in ("AVX2", "AVX512", "DEFAULT") and "cpp.simdlen" in usual:
        assert direct.vector_width() == usual or found == "DEFAULT"
