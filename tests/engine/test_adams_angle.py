"""The arctangent of Adams' compiled steps: a polynomial, held to torch's own in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fast.adams.angle import _arctangent, angle


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a compiler would be given runs as it is written."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)


def exact(y: Tensor, x: Tensor) -> Tensor:
    return torch.atan2(y.double(), x.double())


def test_the_polynomial_is_off_by_what_it_says() -> None:
    r = torch.linspace(0, 1, 20_001, dtype=torch.float64)[1:]
    off = (_arctangent(r * r) * r / r.atan() - 1).abs().max().item()
    assert 1.4e-8 < off < 1.6e-8


def test_angles_of_all_sizes_and_both_signs(compiling: None) -> None:
    """To 2.5e-7 of themselves, from those that are hardly more than zero to those next to a right angle."""
    turns = torch.linspace(-math.pi / 2, math.pi / 2, 4001, dtype=torch.float64)
    for scale in (1e-20, 1.0, 1e20):
        y, x = (scale * turns.sin()).float(), (scale * turns.cos()).float().clamp(min=0)
        torch.testing.assert_close(angle(y, x).double(), exact(y, x), rtol=2.5e-7, atol=0)
    y = torch.logspace(-30, 30, 601)
    torch.testing.assert_close(angle(y, torch.ones(601)).double(), exact(y, torch.ones(601)), rtol=2.5e-7, atol=0)


def test_angles_where_a_quotient_is_none(compiling: None) -> None:
    y = torch.tensor([0.0, 0.0, 2.0, -2.0, math.inf, 1.0, math.inf, math.nan, 1.0])
    x = torch.tensor([0.0, 3.0, 0.0, 0.0, 1.0, math.inf, math.inf, 1.0, math.nan])
    right = math.pi / 2
    expected = torch.tensor([0.0, 0.0, right, -right, right, 0.0, math.nan, math.nan, math.nan])
    torch.testing.assert_close(angle(y, x), expected, rtol=1e-7, atol=0, equal_nan=True)
