"""How fast this machine streams memory in place: the limit that `experiments.bench` holds the steps against.

A copy into a fresh buffer is no limit: its stores first read the lines that they overwrite, so that it moves 12 bytes where it
counts 8. An optimizer writes what it has read. So do these kernels, with next to no arithmetic; the last two have the
streams of Lion and of AdamW, and are compiled as the optimizers' own updates are. The first one only reads, as the first pass
of a Cautious variant does: where reads and writes have a limit each, it keeps within one of them. Vectors are as long as the
set that is measured, so that a set which fits into the cache has a limit that is the cache's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fast._kernels.cpu import updater
from fast._kernels.update import Kernel, Update


def _added(scalars: Sequence[Any], param: Tensor, grad: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
    return tuple(t + scalars[0] * grad for t in (param, *state))


TWO = Update(_added, "N N N", elementwise=True)
THREE = Update(_added, "N N N N", elementwise=True)


class Streams:
    """Kernels on four vectors of `count` float32; `names` has the bytes an entry that each moves."""

    def __init__(self, count: int) -> None:
        a, b, c, d = (torch.full((count,), 1.0 + i) for i in range(4))
        scalars, kernels = (1e-3,), {u: Kernel(u, False, a.device, (a.dtype,) * n) for u, n in ((TWO, 3), (THREE, 4))}
        two, three = (updater(kernels[u], None, scalars) for u in (TWO, THREE))
        self.count, self.vectors = count, (a, b, c, d)
        self._calls: dict[str, tuple[int, Callable[[], object]]] = {
            "a . b": (8, lambda: torch.dot(a, b)),
            "a *= x": (8, lambda: a.mul_(0.999)),
            "a += b": (12, lambda: a.add_(b, alpha=1e-3)),
            "a += b c": (16, lambda: a.addcmul_(b, c, value=1e-3)),
            "a, b += x c": (20, lambda: two([(a, c, b)])),
            "a, b, c += x d": (28, lambda: three([(a, d, b, c)])),
        }
        self.names = {name: moved for name, (moved, _) in self._calls.items()}

    def rate(self, name: str) -> float:
        """One run of a kernel: bytes a second."""
        moved, call = self._calls[name]
        begin = time.perf_counter()
        call()
        return moved * self.count / (time.perf_counter() - begin)
