"""Stochastic rounding in compiled kernels: each optimizer rounds as its eager step does."""

from __future__ import annotations

import pytest
import torch
from optimizers import IDS, OPTIMIZERS, Row
from torch import Tensor
from twin import parameters, train

BF16 = torch.bfloat16
SHAPES = [(300, 250), (7_001,), (5,)]


def stored(row: Row, compile: bool, exp_avg_dtype: torch.dtype | None) -> list[Tensor]:
    params = parameters(SHAPES, BF16)
    optimizer = row.make(params, lr=1e-3, stochastic_rounding=True, exp_avg_dtype=exp_avg_dtype, compile=compile)
    train(optimizer, params, range(2))
    return [*params, *(optimizer.state[p]["exp_avg"] for p in params)]


@pytest.mark.compiler
@pytest.mark.parametrize("exp_avg_dtype", [None, BF16], ids=str)
@pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
def test_compiled_is_eager(row: Row, exp_avg_dtype: torch.dtype | None) -> None:
    """The bits are the same; a number may differ in its last place, so that one in thousands is rounded otherwise."""
    for eager, compiled in zip(stored(row, False, exp_avg_dtype), stored(row, True, exp_avg_dtype), strict=True):
        assert eager.dtype == compiled.dtype and bool(compiled.isfinite().all())
        off = (eager != compiled).float().mean()
        assert float(off) < 1e-3, f"{float(off):.2%} of {tuple(eager.shape)} differ"
        torch.testing.assert_close(eager, compiled, rtol=2.0**-7, atol=1e-6)
