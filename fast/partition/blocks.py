"""Which entries of a parameter share one second moment: the data that `partition` makes and `AdamMini` uses.

A `Blocks` cuts one parameter along one axis into contiguous ranges. It is written run-length encoded, so that no list
grows with the parameter:

    runs = ((count, length), ...)    `count` blocks of `length` indices each, one after the other along `axis`
    repeat                           the whole of `runs` comes this many times along `axis`
    batch                            the first `batch` axes hold separate matrices: each index has blocks of its own

    kind       what one block is                                     example, shape, written as
    tensor     the whole tensor                                      norm (64,)                axis=None, runs=()
    rows       one index of the output axis of a (out, in) weight    nn.Linear (64, 32)        axis=0, runs=((64, 1),)
    columns    the same of a transposed (in, out) weight             Conv1D (32, 64)           axis=1, runs=((64, 1),)
    heads      the output neurons of one attention head              q_proj (64, 32), 4 heads  axis=0, runs=((4, 16),)
    groups     the output neurons of one group of a convolution      ConvTranspose2d (8, 3, 3, 3), 2 groups
                                                                                               axis=0, runs=((2, 4),)
    fused      a fused projection: heads of the query and the key, neurons of the value
                   [q|k|v], 4 heads                                  in_proj_weight (192, 64)
                                                                         axis=0, runs=((8, 16), (64, 1))
                   [head][q|k|v], 4 heads                            GPT-NeoX (192, 64)
                                                                         axis=0, runs=((2, 16), (16, 1)), repeat=4

A block's statistic is the mean over all its entries: `mean(g o g)` of Algorithm 1, line 8 (arXiv 2406.16793), over the
whole slab, all other axes included. It is one float32 number: its state costs 4 bytes a block.

`Blocks` holds strings, integers and tuples of integers alone. `to_plain()` gives them as one nested tuple that pickles,
loads with `torch.load(weights_only=True)` and fits into `param_groups`; `Blocks.from_plain` takes it back (lists in the
place of tuples too). Nothing in it depends on a process or a world size: it speaks of the whole parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

KINDS = ("tensor", "rows", "columns", "heads", "groups", "fused")
BYTES_PER_BLOCK = 4  # one float32

Runs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Blocks:
    """The blocks of one parameter; the head of this file says what the fields mean. ValueError if they do not fit."""

    shape: tuple[int, ...]
    kind: str = "tensor"
    axis: int | None = None
    runs: Runs = ()
    repeat: int = 1
    batch: int = 0

    def __post_init__(self) -> None:
        runs, repeat = _normal(self.runs, self.repeat)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "runs", runs)
        object.__setattr__(self, "repeat", repeat)
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r}: expected one of {', '.join(KINDS)}")
        if self.axis is None:
            if runs or repeat != 1 or self.batch or self.kind != "tensor":
                raise ValueError(f"kind {self.kind!r} needs an axis; only 'tensor', without runs, has none")
            return
        if self.kind == "tensor":
            raise ValueError(f"kind 'tensor' is one block: it takes no axis, got axis {self.axis}")
        if not 0 <= self.batch <= self.axis < len(self.shape):
            raise ValueError(
                f"axis {self.axis} after {self.batch} batch axes does not exist in a parameter of shape {self.shape}"
            )
        if repeat < 1 or any(count < 1 or length < 1 for count, length in runs):
            raise ValueError(f"runs {runs} repeated {repeat} times: every count and length must be at least 1")
        covered = repeat * sum(count * length for count, length in runs)
        if covered != self.shape[self.axis]:
            raise ValueError(
                f"the blocks cover {covered} indices of axis {self.axis}, which has {self.shape[self.axis]} "
                f"(shape {self.shape}, runs {runs}, repeated {repeat} times)"
            )

    @classmethod
    def along(cls, shape: Sequence[int], axis: int, kind: str = "rows", batch: int = 0) -> Blocks:
        """One block for each index of `axis` (which may count from the end)."""
        axis = axis + len(shape) if axis < 0 else axis
        if not 0 <= axis < len(shape):
            raise ValueError(
                f"kind {kind!r} needs axis {axis}, which a parameter of shape {tuple(shape)} does not have"
            )
        return cls(tuple(shape), kind, axis, ((shape[axis], 1),), batch=batch)

    @classmethod
    def heads(cls, shape: Sequence[int], count: int, axis: int = 0) -> Blocks:
        """`axis` cut into `count` equal ranges. ValueError if it does not divide."""
        if not 0 <= axis < len(shape):
            raise ValueError(f"{count} heads need axis {axis}, which a parameter of shape {tuple(shape)} does not have")
        if count < 1 or shape[axis] % count:
            raise ValueError(f"axis {axis} of shape {tuple(shape)} does not divide into {count} heads")
        return cls(tuple(shape), "heads", axis, ((count, shape[axis] // count),))

    @property
    def per_matrix(self) -> int:
        """Number of blocks along `axis`: those of one matrix, where there are batch axes."""
        return 1 if self.axis is None else self.repeat * sum(count for count, _ in self.runs)

    @property
    def count(self) -> int:
        """Number of blocks: numbers of state that replace the entries of Adam's v."""
        return prod(self.shape[: self.batch]) * self.per_matrix

    @property
    def state_bytes(self) -> int:
        return BYTES_PER_BLOCK * self.count

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of the second moment: () for a tensor, else the batch axes and then the blocks along `axis`."""
        return () if self.axis is None else (*self.shape[: self.batch], self.per_matrix)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes whose indices tell the block of an entry."""
        return () if self.axis is None else (*range(self.batch), self.axis)

    @property
    def uniform(self) -> tuple[int, int] | None:
        """(count, length) where all blocks have one length, so that one view serves them all; else None."""
        if self.axis is None:
            return None
        return self.runs[0] if len(self.runs) == 1 else None

    def mean_of_squares(self, x: Tensor) -> Tensor:
        """Mean of x*x over each block: x of `shape`, the result of `state_shape` (Algorithm 1, line 8)."""
        self._expect(tuple(x.shape), self.shape)
        square = x * x
        others = [axis for axis in range(x.ndim) if axis not in self.axes]
        # A mean of means is the mean, since all indices of the axis hold equally many entries.
        return self.mean_of_lines(square.mean(dim=others) if others else square)

    def mean_of_lines(self, lines: Tensor) -> Tensor:
        """Mean over each block of what has one number for each index of `axes`."""
        if self.axis is None:
            return lines
        if self.uniform is not None:
            return lines.unflatten(-1, self.uniform).mean(-1)
        lines = lines.unflatten(-1, (self.repeat, -1))
        parts, start = [], 0
        for count, length in self.runs:
            parts.append(lines.narrow(-1, start, count * length).unflatten(-1, (count, length)).mean(-1))
            start += count * length
        return torch.cat(parts, -1).flatten(-2)

    def spread(self, values: Tensor) -> Tensor:
        """`values` of `state_shape`, each repeated over its block: a tensor that broadcasts against the parameter."""
        self._expect(tuple(values.shape), self.state_shape)
        if self.axis is None:
            return values
        if self.uniform is not None:
            lines = values.repeat_interleave(self.uniform[1], -1)
        else:
            grouped, parts, start = values.unflatten(-1, (self.repeat, -1)), [], 0
            for count, length in self.runs:
                parts.append(grouped.narrow(-1, start, count).repeat_interleave(length, -1))
                start += count
            lines = torch.cat(parts, -1).flatten(-2)
        keep = [n if axis < self.batch or axis == self.axis else 1 for axis, n in enumerate(self.shape)]
        return lines.reshape(keep)

    def ids(self) -> Tensor:
        """The number of its block for each entry: int64 of `shape`, from 0 to count - 1."""
        numbers = torch.arange(self.count).reshape(self.state_shape)
        return self.spread(numbers).expand(self.shape)

    def to_plain(self) -> tuple[Any, ...]:
        """(kind, shape, axis, runs, repeat, batch): strings, integers, None and tuples of them."""
        return (self.kind, self.shape, self.axis, self.runs, self.repeat, self.batch)

    @classmethod
    def from_plain(cls, plain: Sequence[Any]) -> Blocks:
        if isinstance(plain, str) or len(plain) != 6:
            raise ValueError(
                f"expected (kind, shape, axis, runs, repeat, batch) as Blocks.to_plain gives, got {plain!r}"
            )
        kind, shape, axis, runs, repeat, batch = plain
        # torch.distributed.checkpoint gives an empty tuple of a full_state_dict back as None
        runs = tuple((count, length) for count, length in runs or ())
        return cls(tuple(shape or ()), kind, axis, runs, repeat, batch)

    def _expect(self, given: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        if given != wanted:
            raise ValueError(f"blocks made for shape {self.shape}: expected a tensor of shape {wanted}, got {given}")


def _normal(runs: Sequence[Sequence[int]], repeat: int) -> tuple[Runs, int]:
    """One spelling for one partition: neighbours of equal length merged, a single run never repeated."""
    merged: list[tuple[int, int]] = []
    for count, length in runs:
        if merged and merged[-1][1] == length:
            merged[-1] = (merged[-1][0] + int(count), int(length))
        else:
            merged.append((int(count), int(length)))
    if len(merged) == 1 and repeat > 1:
        merged, repeat = [(merged[0][0] * repeat, merged[0][1])], 1
    return tuple(merged), int(repeat)


Decision = tuple[Blocks, str]  # of a parameter, and why
