"""Recognises flattened parameters: parts of one vector that several parameters share, whose own shapes are lost.

An elementwise step does not care. One that asks for the whole tensor (a block's mean, a mask's share, a singular value) would be
another algorithm without a word.

FSDP1             marks what it has flattened; under NO_SHARD, where `use_orig_params=True`, parameters keep their shapes
DeepSpeed ZeRO-3  numbers its parameters (`ds_id`), also before it has cut them
ZeRO-1 and 2,     mark nothing, but the optimizer's groups hold new vectors in the place of what it was given
Megatron

A vector that was made by hand, and that an optimizer was given as its parameter, cannot be told from any other.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from torch import Tensor, nn

_WHAT_TO_DO = (
    "shard with FSDP2 (torch.distributed.fsdp.fully_shard), which keeps each parameter's shape, or do not shard (DDP); Grams and"
    " Lion, whose steps are elementwise, are right with such vectors"
)


class Originals:
    """The parameters that an optimizer was given, remembered without keeping them alive."""

    def __init__(self, params: Sequence[Tensor] = ()) -> None:
        self._refs: dict[int, weakref.ref[Tensor]] = {}
        self._whole: set[int] = set()  # those of FSDP1 that are not cut
        self._matrices = False
        self.add(params)

    def add(self, params: Sequence[Tensor]) -> None:
        self._refs.update((id(p), weakref.ref(p)) for p in params)
        self._matrices |= any(p.ndim > 1 for p in params)

    def __contains__(self, param: Tensor) -> bool:
        ref = self._refs.get(id(param))
        return ref is not None and ref() is param

    def check_whole(self, name: str, groups: Sequence[Mapping[str, Any]], whole: Callable[[Any, Any], bool]) -> None:
        """ValueError where a parameter that is to be `whole(group, param)` is a part of a flat vector."""
        for group in groups:
            if not any(map(vars, group["params"])):  # only what has attributes may have a mark
                continue
            for param in group["params"]:
                if id(param) not in self._whole:
                    if getattr(param, "_fsdp_flattened", False) and whole(group, param) and self._cut(param):
                        raise _refusal(name, param, "FSDP1 (FullyShardedDataParallel) has made a part of a flat vector")
                    if hasattr(param, "ds_id") and whole(group, param):
                        raise _refusal(name, param, "DeepSpeed ZeRO-3 has made, or will make, a part of a flat vector")
        if self._replaced(chain.from_iterable(group["params"] for group in groups)):
            for group in groups:
                for param in group["params"]:
                    if whole(group, param):
                        raise _refusal(name, param, "somebody (DeepSpeed ZeRO, Megatron) has put a flat vector for")

    def _replaced(self, params: Iterable[Tensor]) -> bool:
        """Whether all of these are new, and vectors, and not one for one what became of vectors."""
        count = 0
        for param in params:
            if param.ndim != 1 or param in self:
                return False
            count += 1
        return count > 0 and (self._matrices or count != len(self._refs))

    def _cut(self, param: Tensor) -> bool:
        """Whether what FSDP1 has marked is a part of a vector, or is a vector of several."""
        if not hasattr(param, "_is_flat_param"):
            self._whole.update(map(id, _uncut()))
        return id(param) not in self._whole


def _uncut() -> list[Tensor]:
    """The parameters that FSDP1 has left whole. They do not say so, only the flat one does that is made of them."""
    found: list[Tensor] = []
    for flat in gc.get_objects():
        if type(flat) is nn.Parameter and hasattr(flat, "_is_flat_param"):
            size = getattr(flat, "_sharded_size", None)
            if size is not None and size == getattr(flat, "_unpadded_unsharded_size", None):
                found += [*(getattr(flat, "_params", None) or ()), *(getattr(flat, "_shared_params", None) or ())]
    return found


def _refusal(name: str, param: Tensor, what: str) -> ValueError:
    shape = tuple(param.shape)
    return ValueError(f"{name} needs parameters that are whole, of which {what}, now of shape {shape}: {_WHAT_TO_DO}")
