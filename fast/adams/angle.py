"""The arctangent of Adams' step, written so that a CPU's compiler vectorises it."""

from __future__ import annotations

import torch
from torch import Tensor

from fast._kernels.direct import for_a_cpu, single


def angle(y: Tensor, x: Tensor) -> Tensor:
    """atan2(y, x) for x >= 0; compiled for a CPU in float32 by a polynomial, since C++'s function is not vectorised.

    Where both are infinite it is NaN there and pi/4 in torch: an infinite gradient shows at once. A GPU has a function of its
    own.
    """
    if y.dtype != torch.float32 or not for_a_cpu(y):
        return torch.atan2(y, x)
    # Numbers are literals, since the compiler would take those of a name for inputs; the smallest normal float32 makes the angle
    # of (0, 0) zero. atan(s / x) = pi/2 - atan(x / s) brings the ratio into [0, 1].
    size = y.abs()
    steep = size > x
    ratio = single(torch.where(steep, x, size) / (torch.where(steep, size, x) + 1.1754944e-38))
    value = ratio * _arctangent(ratio * ratio)
    value = torch.where(steep, 1.5707963267948966 - value, value)
    # copysign would be a call for each vector on the CPU, over which no register is kept
    return torch.where(y < 0, -value, value)


def _arctangent(q: Tensor) -> Tensor:
    """atan(r) / r at q = r^2 in [0, 1]: a relative minimax fit, off by 1.5e-8, and by 1.6e-7 in float32 arithmetic.

    In pairs, and pairs of pairs, which a processor works on side by side.
    """
    q2 = q * q
    low = (0.999999985 - 0.333330733 * q) + (0.199926194 - 0.142036444 * q) * q2
    high = (0.106409337 - 0.0750429394 * q) + (0.0426915122 - 0.0160686246 * q) * q2
    q4 = q2 * q2
    return low + (high + 0.00284988853 * q4) * q4
