"""Claim A7: what the released Adams does in several processes (of a CPU, by gloo), and under torch.compile."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import run_in_processes
from torch import Tensor, nn

adams = pytest.importorskip("adams", reason="the package adams-torch is not installed")


def network(seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).to(dtype)


def trained(
    model: nn.Module,
    rows: slice = slice(None),
    forward: Callable[[Tensor], Tensor] | None = None,
    compiled: bool = False,
) -> list[Tensor]:
    """Twenty steps on `rows` of a batch of eight: no broadcast, no all-reduce."""
    g = torch.Generator().manual_seed(0)
    dtype = next(model.parameters()).dtype
    x, y = (torch.randn(8, n, generator=g, dtype=torch.float64).to(dtype)[rows] for n in (6, 4))
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that there is one process
        optimizer: Any = adams.Adams_ZeRO(model.parameters(), master_dtype=dtype, lr=0.01)
    step = torch.compile(optimizer.step) if compiled else optimizer.step
    for _ in range(20):
        model.zero_grad()
        ((forward or model)(x) - y).square().mean().backward()
        step()
    return [p.detach() for p in model.parameters()]


def furthest(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def a_part_of_the_batch(out: str, count: int) -> None:
    """Each process begins from weights of its own: the first one's are taken."""
    rank, each = dist.get_rank(), 8 // count
    found = trained(network(1 + rank), slice(rank * each, (rank + 1) * each))
    torch.save(found, f"{out}/{rank}.pt")


@pytest.mark.claim("A7")
@pytest.mark.parametrize("count", [2, 4])
def test_processes_with_a_part_of_the_batch_each_are_one_with_the_whole(tmp_path: Path, count: int) -> None:
    run_in_processes(count, tmp_path, a_part_of_the_batch, str(tmp_path), count)
    whole = trained(network(1))
    for rank in range(count):
        assert furthest(whole, torch.load(tmp_path / f"{rank}.pt", weights_only=True)) < 1e-12


def an_odd_size() -> None:
    with pytest.raises(AssertionError, match="divisible by world size"):
        adams.Adams_ZeRO(nn.Linear(3, 5).parameters())


@pytest.mark.claim("A7")
def test_a_size_that_the_processes_do_not_divide_is_refused(tmp_path: Path) -> None:
    run_in_processes(2, tmp_path, an_odd_size)


@pytest.mark.compiler
@pytest.mark.claim("A7")
def test_the_model_can_be_compiled_and_the_step_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # torch keeps compiled loops under a name that does not say for which vectors: those of another width would be taken
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = network(1)
    assert furthest(trained(network(1)), trained(model, forward=torch.compile(model))) < 1e-12
    asked = torch.__version__.split("+")[0] == "2.13.0"  # whether its step compiles; of another torch nothing is said
    for dtype in (torch.float32, torch.bfloat16) if asked else ():
        torch.compiler.reset()
        with pytest.raises(RuntimeError), warnings.catch_warnings(action="ignore"):
            trained(network(1, dtype), compiled=True)
