"""Every number of a 16-bit format as a gradient: for which of them does a Grams step come out as NaN? (F1)

A format of 16 bits has so few numbers that all of them can be tried: 63,488 finite ones in float16, 65,280 in bfloat16.
What comes out, in torch's arithmetic on a CPU (NumPy's float16 rounds lr, the betas and eps as well: the same condition, other
counts), lr < 1, a weight decay >= 0 whose product with lr float32 holds, and a w from which lr times the format's largest
number does not lead out of it (at lr 0.1 in float16: up to 58,000):

    a step gives NaN exactly where u = mhat / (sqrt(vhat) + eps) is not finite (`unbounded`), that is
      |mhat| >= O d,  d = sqrt(vhat) + eps as the format rounds it, O the least number that it rounds to infinity; which
        holds for d = 0 too: eps 0, or rounded to 0, and v 0, or underflowed; or where mhat itself overflowed

since line 11 makes such a w infinite or NaN and line 12 multiplies it by lr * weight_decay, and 0 * inf = inf - inf = NaN.
In float16 v underflows below |g| = 0.0055 or so, and then u overflows from |g| = 65520 eps on, eps as it is stored: what is
rounded to 6e-8, up to 8.9e-8, leaves that window open, and what is rounded to 1.2e-7 closes it. Where g^2 overflows, from 256
on, v is infinite for ever and the coordinate never moves again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reference import grams

FORMATS = (torch.float16, torch.bfloat16)


def finite_values(dtype: torch.dtype) -> Tensor:
    """All finite numbers of float16 or bfloat16, both zeros included, by their bits."""
    if dtype not in FORMATS:
        raise ValueError(f"dtype must be torch.float16 or torch.bfloat16, formats of 16 bits, got {dtype}")
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    return values[torch.isfinite(values)]


def overflow(dtype: torch.dtype) -> float:
    """The least number that rounds to infinity: the format's largest and half the spacing there (65520 for float16)."""
    info = torch.finfo(dtype)
    return info.max + info.eps * 2.0 ** torch.tensor(info.max, dtype=torch.float64).log2().floor().item() / 2


def unbounded(state: grams.State, eps: float, *, beta1: float = 0.9, beta2: float = 0.999) -> Tensor:
    """Where u of line 9 is not finite, from the averages after their update, decided in float64.

    The product of O and a denominator has 23 bits, so float64 holds it; and no quotient of two such numbers is so near O that
    rounding it to float32 first, as torch does, could tell otherwise.
    """
    mhat = state.m / (1 - beta1**state.t)
    denominator = (state.v / (1 - beta2**state.t)).sqrt() + eps
    size = mhat.double().abs()
    beyond = size >= overflow(mhat.dtype) * denominator.double()
    return torch.isinf(size) | beyond
