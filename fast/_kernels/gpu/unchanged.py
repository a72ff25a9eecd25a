"""Asks thousands of parameters, their states and their gradients whether they are as they were.

Python takes longer for it than for all the rest of a step. So it asks in loops of C, and some hundred tensors at a time, which
stay in the processor's cache until all is asked of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import compress
from operator import attrgetter, call, itemgetter
from typing import Any

import torch
from torch import Tensor

from fast._kernels.tensors import PLAIN_TYPES, State

FEW = 256  # parameters that are asked at a time

# Dynamo's own question to many tensors in one call, of which torch's documentation says nothing
_guards: Any = getattr(getattr(torch._C, "_dynamo", None), "guards", None)
_Guards: Any = getattr(_guards, "TensorGuards", None)


_call: Any = call  # whose type is too general for pyright


def _others_like(tensors: Sequence[Tensor]) -> Callable[..., bool]:
    """What tells of as many others whether all have the class, device, dtype, shape, strides and dispatch keys of these."""
    with suppress(TypeError):  # there is no such question, or it is put another way
        return _Guards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check
    return lambda *_: False


class Forms:
    """What tensors are: contiguous and plain, and each of its shape and dtype. Where the quick question says no, all is asked."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._device, self._forms = tensors[0].device, [(t.shape, t.dtype) for t in tensors]
        self._like = _others_like(tensors)
        singly = {form: _others_like([t]) for form, t in zip(self._forms, tensors, strict=True)}
        self._each = [singly[form] for form in self._forms]

    def fit(self, tensors: Sequence[Tensor], present: Sequence[bool] | None = None) -> bool:
        """Whether these are so; `present`: which they are, where they are not all."""
        if self._like(*tensors) if present is None else all(map(_call, compress(self._each, present), tensors)):
            return True
        forms = self._forms if present is None else list(compress(self._forms, present))
        found = (
            set(map(type, tensors)).issubset(PLAIN_TYPES)
            and set(map(attrgetter("device"), tensors)) == {self._device}
            and list(map(attrgetter("shape", "dtype"), tensors)) == forms
            and all(map(Tensor.is_contiguous, tensors))
            and not any(map(Tensor.is_neg, tensors))
        )
        if found and present is None:  # one that is frozen, say, and stays so
            self._like = _others_like(tensors)
        return found


class Few:
    """Some parameters, with states of the same names; `places`: theirs in the optimizer's state."""

    def __init__(
        self, params: Sequence[Tensor], names: Sequence[str], places: Sequence[int], states: Sequence[State]
    ) -> None:
        self._params, self._places, self._addresses = params, places, list(map(Tensor.data_ptr, params))
        self._forms, self._forms_of_grads = Forms(params), Forms([p.detach() for p in params])
        own = [[states[place][name] for place in places] for name in names]
        self._own = [
            (itemgetter(n), list(map(id, x)), list(map(Tensor.data_ptr, x))) for n, x in zip(names, own, strict=True)
        ]

    def addresses(self, grads: Sequence[Any], states: Sequence[State]) -> list[int] | None:
        """Where gradients lie, 0 where there is none; None where one, or a parameter or state of one, is not as it was."""
        present = [grad is not None for grad in grads]
        if not any(present):
            return [0] * len(present)
        some = not all(present)
        there = list(compress(grads, present)) if some else grads
        if not self._forms_of_grads.fit(there, present if some else None):
            return None
        found = list(map(Tensor.data_ptr, there))
        # zeros that are not written out have none
        if not all(found) or not self.are_as_they_were(states, present if some else None):
            return None
        rest = iter(found)
        return [next(rest) if one else 0 for one in present] if some else found

    def are_as_they_were(self, states: Sequence[State], present: Sequence[bool] | None = None) -> bool:
        """Whether the parameters are, and the states of those `present`."""
        own = [states[place] for place in self._places]
        own = own if present is None else list(compress(own, present))
        try:
            if list(map(Tensor.data_ptr, self._params)) != self._addresses or not self._forms.fit(self._params):
                return False
            for get, ids, addresses in self._own:
                tensors = list(map(get, own))
                if present is not None:
                    ids, addresses = list(compress(ids, present)), list(compress(addresses, present))
                if list(map(id, tensors)) != ids or list(map(Tensor.data_ptr, tensors)) != addresses:
                    return False
        except (KeyError, TypeError, RuntimeError):  # somebody has cleared a state, or a tensor has no memory
            return False
        return True
