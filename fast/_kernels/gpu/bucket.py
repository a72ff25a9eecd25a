"""A group's parameters on a GPU that take their steps together: what does not change from step to step is kept.

A launch takes any number of tensors, so what a step costs is what Python does for each of them. Here it fetches the gradient and
its address, and checks that the addresses of parameter and state have not changed. A gradient may lie at an address that is no
multiple of 16, which the kernels must know. A parameter without a gradient stays in the bucket and takes no step. Its count of
steps is an entry of one vector, of which the state's `step` has the memory.

Where anything is not as it was, the parameters take their step one by one, and make up a new bucket afterwards.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import compress, islice, pairwise
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from fast._kernels.gpu.launch import Plan
from fast._kernels.gpu.unchanged import FEW, Few
from fast._kernels.rounding import COUNTED
from fast._kernels.tensors import CachedViews, State
from fast._kernels.update import Item, Kernel

try:
    import numpy as np
except ImportError:
    np: Any = None

LEAST = 4  # parameters that make another bucket
BUCKETS = 4  # of a group and device; then all make one
Numbers = Callable[..., tuple[float, ...]]  # of an update, and a `step`


def joins(cached: CachedViews, state: State) -> bool:
    """Whether a parameter that is cut so, with this state, may be in a bucket."""
    step = state.get("step")
    return (
        np is not None
        and isinstance(step, Tensor)
        and (step.dtype, step.device.type) == (torch.float32, "cpu")
        and bool(cached.calls)  # nothing steps an empty parameter but its count
        and all(alike.by_kernel for alike, *_ in cached.calls)
        and cached.is_of(state)
    )


class _Part(NamedTuple):
    """The pieces that take one update."""

    kernel: Kernel
    members: Any  # for each piece, which parameter
    places: Any  # in bytes, where its gradient begins
    addresses: Any  # with those of the gradients left open
    plan: Plan


class Bucket:
    """Some parameters of a group. `whole`: the optimizer's state; `cached_views`: how each is cut; `options`: what that depends on.

    `unaligned`: the ids of parameters whose gradients were seen at addresses that are no multiples of 16, in DDP's buckets, say.
    """

    def __init__(
        self,
        group: Sequence[Tensor],
        params: list[Tensor],
        whole: Mapping[Tensor, State],
        cached_views: list[CachedViews],
        kernel: Callable[[Any, Item], Kernel],
        numbers: Callable[[Any], tuple[float, ...]],
        options: Any,
        unaligned: set[int],
    ) -> None:
        names = [tuple(name for name, t in whole[p].items() if isinstance(t, Tensor)) for p in params]
        # those with states of the same names are asked together
        order = sorted(range(len(params)), key=names.__getitem__)
        params, cached_views, names = [params[i] for i in order], [cached_views[i] for i in order], sorted(names)
        states = [whole[p] for p in params]
        self.params, self.options, self.members = params, options, {id(p) for p in params}
        self._group = [*group]
        self.device = params[0].device
        self._steps = torch.stack([state["step"] for state in states])
        for state, step in zip(states, self._steps.unbind(), strict=True):
            state["step"] = torch.from_dlpack(step)  # with a storage of its own size, as fast/_kernels/packs.py does it
        self._counts = self._steps.numpy()
        memory = {t.untyped_storage().data_ptr() for state in states for t in state.values() if isinstance(t, Tensor)}
        grads = [p.grad for p in params]
        self.unaligned = unaligned | {
            id(p) for p, g in zip(params, grads, strict=True) if g is not None and g.data_ptr() % 16
        }
        self._unaligned = np.array([id(p) in self.unaligned for p in params])
        self._kept: list[Tensor] = []  # what is nobody's state
        self._parts = list(self._cut(cached_views, kernel, numbers, memory))
        places, indices = ({id(p): i for i, p in enumerate(some)} for some in (whole, group))
        self._indices, of_states = ([where[id(p)] for p in params] for where in (indices, places))
        # of the state, up to the last one that is asked for
        self._keys = list(map(id, islice(whole, max(of_states) + 1)))
        there = list(whole.values())
        first = [i for i, own in enumerate(names) if not i or own != names[i - 1]]
        self._few: list[tuple[slice, Few]] = []
        for start, end in pairwise([*first, len(params)]):
            for i in range(start, end, FEW):
                few = slice(i, min(i + FEW, end))
                self._few.append((few, Few(params[few], names[i], of_states[few], there)))
        self._gone = False  # so that another bucket takes its place
        # memory that a state has let go may be given to somebody else, at the same address
        self._watched = [
            weakref.ref(t, self._let_go) for state in states for t in state.values() if isinstance(t, Tensor)
        ]

    def _let_go(self, _: Any) -> None:
        self._gone = True

    @property
    def error(self) -> Exception | None:
        """Why some of its kernels are not there."""
        return next((part.plan.error for part in self._parts if part.plan.error), None)

    def _cut(
        self,
        cached_views: list[CachedViews],
        kernel: Callable[[Any, Item], Kernel],
        numbers: Callable[[Any], tuple[float, ...]],
        memory: set[int],
    ) -> Iterator[_Part]:
        parts: dict[Any, list[tuple[int, int, tuple[Tensor, ...]]]] = {}
        kernels: dict[Any, Kernel] = {}
        for i, (param, cached) in enumerate(zip(self.params, cached_views, strict=True)):
            work = param.detach()
            for alike, view, states in cached.calls:
                viewed = view(work)
                viewed = viewed.view(-1) if alike.update.of_vectors else viewed
                item = viewed, viewed, *states
                key = alike.update, tuple(t.dtype for t in item)
                kernels.setdefault(key, kernel(alike.update, item))
                place = viewed.storage_offset() - work.storage_offset()
                parts.setdefault(key, []).append((i, place * viewed.element_size(), item))
                self._kept += [t for t in states if t.untyped_storage().data_ptr() not in memory]
        for key, pieces in parts.items():
            members, places, items = (list(x) for x in zip(*pieces, strict=True))
            addresses = np.array([[t.data_ptr() for t in item] for item in items], dtype=np.int64)
            aligned = (addresses % 16 == 0).all(axis=1) & ~self._unaligned[members]
            plan = Plan(kernels[key], len(numbers(key[0])), items, aligned.tolist())
            yield _Part(kernels[key], np.array(members), np.array(places), addresses, plan)

    def as_it_was(self, group: Sequence[Tensor], states: Any) -> bool:
        """Whether the group has the same parameters, and these and their states are where they were."""
        there = self._there(group, states)
        return there is not None and all(few.are_as_they_were(there) for _, few in self._few)

    def _there(self, group: Sequence[Tensor], states: Any) -> list[State] | None:
        """All states, to look each of which up would call Python for its hash; None where not all have the places they had."""
        if self._gone or len(group) != len(self._group) or not all(map(is_, group, self._group)):
            return None
        return list(states.values()) if list(map(id, islice(states, len(self._keys)))) == self._keys else None

    def step(
        self, group: Sequence[Tensor], states: Any, options: Any, grads: Sequence[Any], numbers: Numbers
    ) -> Callable[[], None] | None:
        """The step of those that have one of `grads`, which are the group's; None where not all is as it was."""
        there = self._there(group, states)
        if there is None or self.options != options or self._counts.max() >= COUNTED:
            return None
        found: list[int] = []
        for which, few in self._few:
            own = few.addresses([grads[i] for i in self._indices[which]], there)
            if own is None:
                return None
            found += own
        addresses = np.array(found, dtype=np.int64)
        steps = addresses != 0
        if not steps.any():
            return None
        new = (addresses % 16 != 0) & ~self._unaligned
        if new.any():  # the next bucket is made for such addresses
            self.unaligned |= {id(p) for p in compress(self.params, new)}
            self._gone = True
            return None
        counts, own_rows = np.unique(self._counts[steps], return_inverse=True)
        rows = np.zeros(len(found), dtype=np.int64)
        rows[steps] = own_rows
        some = not steps.all()
        runs = []
        for part in self._parts:
            values = [numbers(part.kernel.update, step=float(count) + 1) for count in counts]
            part.addresses[:, 1] = addresses[part.members] + part.places
            own = None if len(counts) == 1 else rows[part.members]
            absent = ~steps[part.members] if some else None
            runs.append(partial(part.plan.run, self.device, part.addresses, values, own, absent))
        stepped = list(compress(self.params, steps)) if some else self.params

        def run() -> None:
            for one in runs:
                one()
            self._counts += steps
            increment_version(stepped)

        return run
