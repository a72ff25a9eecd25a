"""The moving averages that the updates share, exact to float32 at any beta."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

Decay = tuple[float, float, float]


def decay_rate(beta: float) -> Decay:
    """beta in two parts, and 1 - beta.

    The first part has 24 bits and is exact in float32, the second is what is left. Rounded to float32, 0.999 would be
    0.99900001, and an average of g^2 would come out a hundred-thousandth too large.
    """
    scaled = (2.0**29 + 1) * beta  # Veltkamp's splitting: 53 - 29 = 24 bits
    high = scaled - (scaled - beta)
    return high, beta - high, 1 - beta


def decay_rates(betas: Sequence[float]) -> tuple[float, ...]:
    """The numbers of both of an optimizer's betas."""
    return *decay_rate(betas[0]), *decay_rate(betas[1])


def average(rate: Sequence[Any], old: Tensor, new: Tensor) -> Tensor:
    """beta old + (1 - beta) new."""
    high, rest, weight = rate
    return high * old + (rest * old + weight * new)
