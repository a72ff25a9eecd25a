"""What `fast.Monitor` measures of one step: entries of the tensors before and after it, and sums over them.

Of a tensor of n entries, n > `sample`, every s-th is taken (s is about n / sample), from a random start; sums
times n / taken are estimates of the whole tensor's. s shares no divisor with the length of a row, so that all columns are
visited. Tensors of few entries are rows of one float64 matrix, in buffers that are kept: a step of a small model takes
milliseconds, and a call of torch for each tensor and sum would take as long.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fast._kernels.tensors import is_dtensor, local
from fast.adams import Adams
from fast.monitor.sums import Sums, angles, finished, row_sums

SMALL = 4096  # entries up to which tensors share a matrix
CHUNK = 65_536  # entries of a larger tensor to work on at a time
MOMENTA = ("exp_avg", "momentum_buffer")

Watched = tuple[
    int, str | None, Tensor
]  # a parameter with its group's number, and its name where it is to be told apart


class Entry:
    """One parameter, and which of its entries are taken: `count`, each `stride`-th, from `start` on."""

    def __init__(self, watched: Watched, sample: int | None) -> None:
        self.group, self.name, self.param = watched
        mine = local(self.param)
        self.plain = mine is self.param and not mine.is_complex()
        self.size = mine.numel() * (2 if mine.is_complex() else 1)
        self.start, self.stride = 0, self.size // min(sample or self.size, self.size)
        row = self.size // mine.shape[0] if mine.ndim else 1
        while math.gcd(self.stride, row) > 1:
            self.stride += 1
        self.count = max(1, self.size // self.stride)
        self.starts = self.size - self.stride * (self.count - 1)

    def of(self, tensor: Tensor) -> Tensor:
        """The entries of a tensor like the parameter, a view where that is possible."""
        if not self.plain:
            tensor = local(tensor)
            tensor = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
        if tensor.is_contiguous():
            return tensor.as_strided((self.count,), (self.stride,), tensor.storage_offset() + self.start)
        return torch.take(tensor, torch.arange(self.count, device=tensor.device) * self.stride + self.start)

    def gradient(self) -> Tensor | None:
        """The parameter's gradient, if dense. One of another placement is left out: to place it would take all processes."""
        grad: Any = self.param.grad
        if grad is None or grad.layout is not torch.strided:
            return None
        placed: Any = self.param
        return grad if not is_dtensor(placed) or (is_dtensor(grad) and grad.placements == placed.placements) else None

    def state(self, optimizer: Optimizer, names: Iterable[str]) -> Tensor | None:
        """The first of these states that is of the parameter's shape. Makes none: `optimizer.state` is a defaultdict."""
        state = optimizer.state.get(self.param) or {}
        for name in names:
            found = state.get(name)
            if isinstance(found, Tensor) and local(found).shape == local(self.param).shape:
                return found
        return None


class Pack:
    """Tensors of which about as many entries are taken, as rows of matrices that are kept; or one large tensor."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries, self.large = entries, entries[0].count > SMALL
        self.width = max(e.count for e in entries)
        self.device = local(entries[0].param).device
        self._kept: dict[str, tuple[Tensor, list[Tensor]]] = {}
        self._before: Tensor | None = None

    def look(self) -> None:
        """Keeps the entries of the weights, as they are before the step."""
        params = [e.param for e in self.entries]
        self._before = self.entries[0].of(params[0]).clone() if self.large else self._rows("before", params)

    def sums(self, optimizer: Optimizer) -> tuple[list[Entry], Tensor]:
        """After the step: the entries that had a gradient, and for each a row of what `finished` takes."""
        grads = [e.gradient() for e in self.entries]
        momenta = [e.state(optimizer, MOMENTA) for e in self.entries]
        used = [i for i, grad in enumerate(grads) if grad is not None]
        entries = [self.entries[i] for i in used]
        if not used:
            return [], torch.empty(0)
        lists: list[list[Any]] = [[e.param for e in self.entries], grads, momenta]
        if isinstance(optimizer, Adams):
            lists.append([e.state(optimizer, ("exp_avg_sq",)) for e in self.entries])
        parts = [self._sums(optimizer, matrices) for matrices in self._matrices(lists)]
        table = torch.stack(parts).sum(0)[used]
        sizes = [
            (e.size / e.count, e.size, 0.0 if momenta[i] is None else e.size)
            for i, e in zip(used, entries, strict=True)
        ]
        weight, *counts = table.new_tensor(sizes).T
        return entries, torch.cat([table * weight.unsqueeze(1), torch.stack(counts, 1)], 1)

    def _sums(self, optimizer: Optimizer, matrices: list[Tensor]) -> Tensor:
        before, after, grad, momentum, *second = matrices
        groups = optimizer.param_groups
        if any(groups[e.group].get("maximize") for e in self.entries):  # momentum then is one of -g
            signs = [-1.0 if groups[e.group].get("maximize") else 1.0 for e in self.entries]
            grad = grad * grad.new_tensor(signs).unsqueeze(1)
        u = None
        if isinstance(optimizer, Adams):
            u = angles(optimizer, [(e.group, e.param) for e in self.entries], momentum, *second)
        return row_sums(before, after, grad, momentum, u)

    def _matrices(self, lists: list[list[Any]]) -> Iterator[list[Tensor]]:
        """The weights from before and the tensors of these lists, a row for each; of a large tensor, part after part."""
        assert self._before is not None
        if not self.large:
            yield [self._before, *(self._rows(str(i), tensors) for i, tensors in enumerate(lists))]
            return
        one = self.entries[0]
        vectors = [self._before] + [self._before.new_zeros(1) if t is None else one.of(t) for (t,) in lists]
        self._before = None
        for at in range(0, one.count, CHUNK):
            yield [(v[at : at + CHUNK] if len(v) > 1 else v).to(self._dtype).unsqueeze(0) for v in vectors]

    def _rows(self, name: str, tensors: list[Any]) -> Tensor:
        """The tensors' entries, a row for each, filled up with zeros; zeros alone for None."""
        if name not in self._kept:
            rows = torch.zeros(len(self.entries), self.width, dtype=self._dtype, device=self.device)
            self._kept[name] = rows, [row[: e.count] for row, e in zip(rows.unbind(), self.entries, strict=True)]
        rows, into = self._kept[name]
        found = [e.of(t) for e, t in zip(self.entries, tensors, strict=True) if t is not None]
        if len(found) < len(into):
            rows.zero_()
            into = [row for row, t in zip(into, tensors, strict=True) if t is not None]
        if found:
            torch._foreach_copy_(into, found)  # pyright: ignore[reportPrivateImportUsage]
        return rows

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float32 if self.device.type == "mps" else torch.float64  # which that device lacks


class Sampler:
    """`before` a step and `after` it; in between nothing is held but entries of the weights."""

    def __init__(self, sample: int | None) -> None:
        self._sample = sample
        self._key: list[Any] = []
        self._packs: list[Pack] = []

    def before(self, watched: list[Watched], random: Random) -> None:
        """Takes the entries of these parameters' weights."""
        key = [(id(p), p.data_ptr(), p.shape, p.dtype, group, name) for group, name, p in watched]
        if key != self._key:
            packs: dict[Any, list[Entry]] = {}
            for one in watched:
                mine = local(one[2])
                if mine.layout is torch.strided and mine.numel():
                    entry = Entry(one, self._sample)
                    width = 1 << (entry.count - 1).bit_length()
                    place = id(one[2]) if entry.count > SMALL else width
                    packs.setdefault((mine.device, place), []).append(entry)
            self._key, self._packs = key, [Pack(entries) for entries in packs.values()]
        for pack in self._packs:
            for entry in pack.entries:
                entry.start = int(random.random() * entry.starts)
            pack.look()

    def after(self, optimizer: Optimizer) -> tuple[list[Sums], dict[str, Sums]]:
        """Sums of each group, and of each parameter with a name, over those that had a gradient in this step."""
        groups, named = [Sums() for _ in optimizer.param_groups], {}
        for pack in self._packs:
            rows, table = pack.sums(optimizer)
            if not rows:
                continue
            for row, numbers in zip(rows, table.tolist() if any(e.name for e in rows) else (), strict=False):
                if row.name is not None:
                    named[row.name] = finished(optimizer, row.group, numbers)
                    named[row.name].add(Sums(sigma=_sigma(optimizer, [row])))
            numbers = [row.group for row in rows]
            places = torch.tensor(numbers, device=table.device)
            totals = table.new_zeros(len(groups), table.shape[1]).index_add_(0, places, table).tolist()
            for index in set(numbers):
                groups[index].add(finished(optimizer, index, totals[index]))
        if isinstance(optimizer, Adams):
            entries = [e for pack in self._packs for e in pack.entries]
            for index, sums in enumerate(groups):
                sums.add(Sums(sigma=_sigma(optimizer, [e for e in entries if e.group == index])))
        return groups, named


def _sigma(optimizer: Optimizer, entries: list[Entry]) -> float:
    states = [optimizer.state.get(e.param) or {} for e in entries]
    found = [local(state["sigma"]).reshape(-1) for state in states if "sigma" in state]
    return float(torch.cat(found).max()) if found else -math.inf
