"""Small parameters on the CPU, updated many at a time: a call costs some microseconds, as much as a thousand entries.

The state of a pack's parameters lies side by side, in one vector for each name; each parameter's state tensors are slices of
that vector, so that checkpoints, copies and pickles hold the same as ever. In a step parameters and gradients are laid
side by side too, a segment at a time, so that they stay in the cache and take no memory to speak of.

A pack is good as long as all of its parameters have gradients and the same count of steps, and nobody has put other tensors
into their state. Where that ends, they take their steps one by one, and those that still go together make up a new pack. A
parameter that was missing stays alone from then on, so that a mixture of experts does not pack its state anew in each step.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import is_, itemgetter
from typing import Any

import torch
from torch import Tensor, _utils

from fast._kernels import shortcuts
from fast._kernels.tensors import PLAIN_TYPES, State, plain, resolved
from fast._kernels.update import Item, Update

SMALL = 8_192  # entries up to which a parameter counts as small
LEAST = 4  # parameters that make a pack
# a segment has a 250th of the packed entries, within these bounds
LEAST_SEGMENT, SEGMENT = 8_192, 32_768

States = Mapping[Tensor, State]


class Pack:
    """Parameters of one dtype that take the same elementwise update, and their state in the order in which it takes it."""

    def __init__(self, update: Update, names: tuple[str, ...], params: list[Tensor], states: States) -> None:
        self.update, self.params = update, params
        self._names = ("step", *names)
        self._own = itemgetter(*self._names)
        self._kind, self._shapes, self._sizes = params[0].dtype, [p.shape for p in params], [p.numel() for p in params]
        self._segments = list(_segments(self._sizes))
        self._vectors = all(len(shape) == 1 for shape in self._shapes)
        self._flatten()
        own_states = [states[p] for p in params]
        self._steps = torch.stack([state["step"] for state in own_states])
        vectors = [torch.cat([state[name].reshape(-1) for state in own_states]) for name in names]
        self._parts = [[vector[start:stop] for vector in vectors] for *_, start, stop in self._segments]
        # all views before the states, which then lie side by side: what is read in each step is found sooner
        views = [[*map(Tensor.view, vector.split(self._sizes), self._shapes)] for vector in vectors]
        for state, *values in zip(own_states, self._steps.unbind(), *views, strict=True):
            # through DLPack: a tensor with a storage of its own size, where a view's is the whole vector, also for pickle
            state.update(zip(self._names, map(torch.from_dlpack, values), strict=True))
        self._pointers = self._addresses(states)
        # whoever lets go of the state lets go of the memory
        self._watched = [weakref.ref(state[name], self._let_go) for state in own_states for name in self._names]

    def _let_go(self, _: Any) -> None:
        self._parts.clear()

    def ready(self, states: States, complete: bool) -> Ready | None:
        """Itself, how many steps its parameters have taken, and their gradients; None where they no longer go together."""
        try:
            if not self._parts or self._pointers != self._addresses(states):
                return None
        except KeyError:  # somebody has cleared the state, or a part of it
            return None
        if self._shapes != [p.shape for p in self.params] or any(map(Tensor.is_neg, self.params)):
            return None
        if self._places != [p.data_ptr() for p in self.params]:  # somebody has given them other memory
            if not all(_small(p) and p.dtype == self._kind for p in self.params):
                return None
            self._flatten()
        low, high = torch.aminmax(self._steps)
        grads = _gradients(self.params)
        together = low == high and (complete or all(grad is not None for grad in grads))
        return (self, low.item(), grads) if together else None

    def _flatten(self) -> None:
        self._places = [p.data_ptr() for p in self.params]
        self._flat = [p.detach().view(-1) for p in self.params]

    def _addresses(self, states: States) -> list[int]:
        return [t.data_ptr() for param in self.params for t in self._own(states[param])]

    def dtypes(self, grads: list[Any]) -> tuple[torch.dtype, ...]:
        """Of parameters, gradients and state."""
        return self._kind, grads[0].dtype, *(part.dtype for part in self._parts[0])

    def step(self, update: Callable[[Iterable[Item]], None], grads: list[Any]) -> None:
        """A step of all, by what updates items (param, grad, *state)."""
        update(self._items(grads))
        self._steps += 1

    def _items(self, grads: list[Any]) -> Iterator[Item]:
        """A segment at a time, whose parameters get what has been made of them when the next one is asked for."""
        side_by_side = torch.cat if self._vectors else _flattened
        for (first, last, *_), state in zip(self._segments, self._parts, strict=True):
            flat = self._flat[first:last]
            param = torch.cat(flat)
            yield param, _undeferred(side_by_side(grads[first:last])), *state
            _copy_parts(param, self._sizes[first:last], out=flat)


def _undeferred(grad: Tensor) -> Tensor:
    # of a single one a view was made, which defers what that does; zeros that are not written out have no address
    return grad if grad.data_ptr() and not grad.is_neg() else resolved(grad)


def _cat_of_any_shape(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def _copy_one_by_one(vector: Tensor, sizes: list[int], *, out: list[Tensor]) -> None:
    for target, part in zip(out, vector.split(sizes), strict=True):
        target.copy_(part)


# torch's own take less time, and are no part of what it documents
_flattened: Callable[..., Tensor] = getattr(_utils, "_flatten_dense_tensors", _cat_of_any_shape)
_copy_parts: Callable[..., Any] = getattr(torch, "split_with_sizes_copy", _copy_one_by_one)


def _segments(sizes: list[int]) -> Iterator[tuple[int, int, int, int]]:
    """Parameters first to last, and their entries start to stop, of as many as make a segment."""
    most = max(LEAST_SEGMENT, min(SEGMENT, sum(sizes) // 250))
    first = start = stop = 0
    for i, size in enumerate(sizes):
        if stop > start and stop + size - start > most:
            yield first, i, start, stop
            first, start = i, stop
        stop += size
    yield first, len(sizes), start, stop


Ready = tuple[Pack, float, list[Any]]  # with its count of steps, and its gradients


class Packs:
    """The packs of one parameter group."""

    def __init__(self) -> None:
        self._members: list[Tensor] = []
        self._packs: list[Pack] = []
        self._rest: list[Tensor] = []
        self._open: list[Tensor] = []  # of the rest, those of which it is not known yet whether they go into a pack

    def sort(
        self,
        members: list[Tensor],
        states: States,
        update: Callable[[Tensor], Update | None],
        fresh: Callable[[Tensor], State],
        names: tuple[str, ...],
        complete: bool,
    ) -> tuple[list[Ready], list[Tensor]]:
        """The packs that can take a step, with their counts and gradients, and the parameters with gradients that take it alone.

        `complete`: all of them have gradients.
        """
        if len(members) != len(self._members) or not all(map(is_, members, self._members)):
            self._members, self._packs, self._rest, self._open = [*members], [], [*members], [*members]
        good: list[Ready] = []
        for pack in self._packs:
            same = shortcuts.PACKS and update(pack.params[0]) is pack.update
            ready = pack.ready(states, complete) if same else None
            if ready is not None:
                good.append(ready)
            else:
                self._rest += pack.params
                self._open += [p for p in pack.params if p.grad is not None]
        if self._open and shortcuts.PACKS:
            waiting: dict[Any, list[Tensor]] = defaultdict(list)
            for param in self._open:
                if param.grad is not None and _small(param) and (kind := update(param)) is not None:
                    state = states.get(param) or fresh(param)
                    tensors = [state[name] for name in names]
                    # whoever shares memory wants it to stay where it is
                    if all((t.shape, t.device) == (param.shape, param.device) and not t.is_shared() for t in tensors):
                        waiting[kind, param.dtype, param.grad.dtype, state["step"].item()].append(param)
            self._open = [p for p in self._open if p.grad is None and p not in states]
            made = [
                (Pack(kind, names, params, states), count, _gradients(params))
                for (kind, _, _, count), params in waiting.items()
                if len(params) >= LEAST
            ]
            good += made
            packed = {id(p) for pack, *_ in made for p in pack.params}
            self._rest = [p for p in self._rest if id(p) not in packed]
        self._packs = [pack for pack, *_ in good]
        return good, [p for p in self._rest if p.grad is not None]


def _gradients(params: list[Tensor]) -> list[Any]:
    grads = [p.grad for p in params]
    if set(map(type, grads)).issubset(PLAIN_TYPES):  # torch's own operations see to what such a tensor defers
        return grads
    return [grad if grad is None else resolved(grad) for grad in grads]


def _small(param: Tensor) -> bool:
    """Whether a parameter may lie in a pack: small, real, and as a plain tensor on the CPU."""
    return (
        0 < param.numel() <= SMALL
        and plain(param)
        and param.device.type == "cpu"
        and not param.is_complex()
        and param.is_contiguous()
    )
