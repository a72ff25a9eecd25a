"""Adams' u starts its power iteration anew where it has come to nothing, and where a weight was no number."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import fast


def test_a_matrix_that_was_zero_is_decayed() -> None:
    p = nn.Parameter(torch.zeros(3, 4))
    optimizer = fast.Adams([p], lr=0.1, weight_decay=0.5, compile=False)
    for value in (0.0, 1.0):  # LoRA's B, which starts at zero and has grown
        with torch.no_grad():
            p.fill_(value)
        for _ in range(5):
            p.grad = torch.zeros_like(p)
            optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full((3, 4), (1 - 0.05 * 3**0.5) ** 5))
    assert float(optimizer.state[p]["sigma"]) == pytest.approx(12**0.5 * (1 - 0.05 * 3**0.5) ** 4, rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("shape", [(4, 3), (2, 4, 3)])
def test_weights_that_were_no_numbers_and_are_restored_train_on(shape: tuple[int, ...], bad: float) -> None:
    """Of the step on bad weights nothing is left but its moments: u is seeded again, as AdamW would go on."""
    p = nn.Parameter(torch.ones(shape))
    optimizer = fast.Adams([p], lr=0.1, compile=False)
    for value in (1.0, bad, 1.0, None):
        if value is not None:
            p.data.fill_(value)
        p.grad = torch.ones_like(p)
        optimizer.step()
    state = optimizer.state[p]
    assert p.isfinite().all() and state["u"].isfinite().all()
    torch.testing.assert_close(torch.linalg.vector_norm(state["u"], dim=-1), torch.ones(shape[:-2]))
