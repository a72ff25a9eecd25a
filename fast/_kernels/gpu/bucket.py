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
from itertools import chain, compress, islice
from operator import attrgetter, is_, itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from fast._kernels.gpu.launch import Plan
from fast._kernels.rounding import COUNTED
from fast._kernels.tensors import PLAIN_TYPES, CachedViews, State
from fast._kernels.update import Item, Kernel

try:
    import numpy as np
except ImportError:
    np: Any = None

LEAST = 4  # parameters that make another bucket
BUCKETS = 4  # of a group and device; then all make one
Numbers = Callable[[Any, float], tuple[float, ...]]  # of an update, and a count of steps


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
        states = [whole[p] for p in params]
        self.params, self.options, self.members = params, options, {id(p) for p in params}
        self._group = [*group]
        self.device = params[0].device
        self._shapes, self._dtypes = [p.shape for p in params], [p.dtype for p in params]
        self._names = [
            ("step", *(n for n, t in state.items() if isinstance(t, Tensor) and n != "step")) for state in states
        ]
        self._own = [itemgetter(*names) for names in self._names]
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
        tensors = [t for get, state in zip(self._own, states, strict=True) for t in get(state)]
        self._addresses, self._ids = list(map(Tensor.data_ptr, chain(params, tensors))), list(map(id, tensors))
        places = {id(param): place for place, param in enumerate(whole)}
        self._places = [places[id(p)] for p in params]
        # of the state, up to the last one that is asked for
        self._keys = list(map(id, islice(whole, max(self._places) + 1)))
        self._gone = False  # so that another bucket takes its place
        # memory that a state has let go may be given to somebody else, at the same address
        self._watched = [weakref.ref(t, self._let_go) for t in tensors]

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
        if self._gone or len(group) != len(self._group) or not all(map(is_, group, self._group)):
            return False
        try:  # in loops of C: there may be thousands
            if list(map(id, islice(states, len(self._keys)))) != self._keys:
                return False
            there = list(states.values())  # to look each up would call Python for its hash
            tensors = [t for get, place in zip(self._own, self._places, strict=True) for t in get(there[place])]
            if list(map(id, tensors)) != self._ids:
                return False
            if list(map(Tensor.data_ptr, chain(self.params, tensors))) != self._addresses:
                return False
        except (KeyError, TypeError, RuntimeError):  # somebody has cleared a state, or a tensor has no memory
            return False
        return self._shapes == list(map(attrgetter("shape"), self.params)) and self._dtypes == list(
            map(attrgetter("dtype"), self.params)
        )

    def ready(self, group: Sequence[Tensor], states: Any, options: Any) -> list[Any] | None:
        """The parameters' gradients, or None where not all is as it was."""
        if self.options != options or not self.as_it_was(group, states):
            return None
        grads = list(map(attrgetter("grad"), self.params))
        there, kinds = grads, set(map(type, grads))
        shapes, dtypes = self._shapes, self._dtypes
        if type(None) in kinds:
            present = [grad is not None for grad in grads]
            there, shapes, dtypes = (
                list(compress(grads, present)),
                list(compress(shapes, present)),
                list(compress(dtypes, present)),
            )
            kinds.remove(type(None))
        if not there or not kinds.issubset(PLAIN_TYPES) or self._counts.max() >= COUNTED:
            return None
        if shapes != list(map(attrgetter("shape"), there)) or dtypes != list(map(attrgetter("dtype"), there)):
            return None  # which is an error on the other way
        if not (all(map(Tensor.is_contiguous, there)) and all(map(Tensor.is_contiguous, self.params))):
            return None
        if any(map(Tensor.is_neg, there)):
            return None
        return grads

    def step(self, grads: list[Any], numbers: Numbers) -> Callable[[], None] | None:
        """A step, for which all is ready; None where a gradient's memory is not laid out as the others' are."""
        absent = np.array([grad is None for grad in grads])
        some = bool(absent.any())
        there = [grad for grad in grads if grad is not None] if some else grads
        own_addresses = np.array(list(map(Tensor.data_ptr, there)), dtype=np.int64)
        if not own_addresses.all():  # zeros that are not written out have no address
            return None
        addresses = np.zeros(len(grads), dtype=np.int64)
        addresses[~absent] = own_addresses
        new = (addresses % 16 != 0) & ~self._unaligned
        if new.any():  # the next bucket is made for such addresses
            self.unaligned |= {id(p) for p in compress(self.params, new)}
            self._gone = True
            return None
        counts, rows = np.unique(self._counts, return_inverse=True)
        if some:  # only the counts of those that take the step
            counts, own = np.unique(self._counts[~absent], return_inverse=True)
            rows = np.zeros(len(absent), dtype=np.int64)
            rows[~absent] = own
        runs = []
        for part in self._parts:
            values = [numbers(part.kernel.update, float(count) + 1) for count in counts]
            part.addresses[:, 1] = addresses[part.members] + part.places
            own = None if len(counts) == 1 else rows[part.members]
            gone = absent[part.members] if some else None
            runs.append(partial(part.plan.run, self.device, part.addresses, values, own, gone))
        stepped = list(compress(self.params, ~absent)) if some else self.params

        def run() -> None:
            for one in runs:
                one()
            self._counts += ~absent
            increment_version(stepped)

        return run
