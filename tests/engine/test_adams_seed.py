"""Adams' u starts its power iteration anew where it has come to nothing, and where a weight was no number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from twin import array, parameters, train

import fast
from reference import adams


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


def test_a_product_too_long_for_a_number_seeds_again() -> None:
    """u = W v / infinity would be zero."""
    p = nn.Parameter(torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    optimizer = fast.Adams([p], lr=0.1, compile=False)
    for corner, expected in ((0.0, [0.0, 1.0]), (1e25, [1.0, 1.0])):
        p.data[0, 1], p.grad = corner, torch.zeros(2, 2)
        optimizer.step()
        assert optimizer.state[p]["u"].tolist() == expected


@pytest.mark.parametrize("size", [1e-14, 1e-9])
def test_a_matrix_that_is_almost_zero_has_the_sigma_of_the_rule(size: float) -> None:
    """u is shorter than 1 there, and sigma = <u, W v> than |W v|."""
    (p,) = parameters([(3, 4)], torch.float64)
    p.data.mul_(size)
    _, sigma, _ = adams.power_iteration_step(np.ones(3), array(p))
    optimizer = fast.Adams([p], lr=0.1, compile=False)
    train(optimizer, [p], range(1))
    assert float(optimizer.state[p]["sigma"]) == pytest.approx(sigma, rel=1e-12, abs=0)
