"""The arctangent of Adams' step, written so that a compiler vectorises it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SMALLEST = 1.1754944e-38  # the smallest normal float32: 0 / SMALLEST = 0 makes the angle of (0, 0) zero


def angle(y: Tensor, x: Tensor) -> Tensor:
    """atan2(y, x) for x >= 0; compiled in float32 by a polynomial, which the CPU vectorises, and which the GPU hides.

    Where both are infinite it is NaN there and pi/4 in torch: an infinite gradient shows at once.
    """
    if y.dtype != torch.float32 or not torch.compiler.is_compiling():
        return torch.atan2(y, x)
    size = y.abs()
    # atan(s / x) = pi/2 - atan(x / s) brings the ratio into [0, 1]
    ratio = torch.minimum(size, x) / torch.clamp(torch.maximum(size, x), min=SMALLEST)
    value = ratio * _arctangent(ratio * ratio)
    return torch.copysign(torch.where(size > x, math.pi / 2 - value, value), y)


def _arctangent(q: Tensor) -> Tensor:
    """atan(r) / r at q = r^2 in [0, 1]: a relative minimax fit, off by 1.5e-8, and by 1.6e-7 in float32 arithmetic.

    Its coefficients are literals, since the compiler would take those of a list for inputs.
    """
    p = q * 0.00284988853 - 0.0160686246
    p = p * q + 0.0426915122
    p = p * q - 0.0750429394
    p = p * q + 0.106409337
    p = p * q - 0.142036444
    p = p * q + 0.199926194
    p = p * q - 0.333330733
    return p * q + 0.999999985
