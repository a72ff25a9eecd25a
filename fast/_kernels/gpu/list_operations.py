"""One operation of an update for a list of tensors: by torch's own `foreach` operations, or for those of one shape at once."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fast._kernels.gpu.values import Value, needed

# what a value is while it runs: a list of tensors, one for each item; a vector with a number for each; or one number for all
Column = Any


def _maximum(a: Any, b: Any) -> Any:
    if isinstance(a, Tensor):
        return torch.maximum(a, b) if isinstance(b, Tensor) else a.clamp(min=b)
    return b.clamp(min=a) if isinstance(b, Tensor) else max(a, b)


# of a tensor or a number
ONE: dict[str, Callable[..., Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "neg": operator.neg, "abs": abs,
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    "sqrt": lambda x: x.sqrt() if isinstance(x, Tensor) else math.sqrt(x), "sign": torch.sign, "floor": torch.floor,
    "maximum": _maximum, "where": torch.where, "atan2": torch.atan2, "&": operator.and_,
    "lerp": lambda a, b, c: a + c * (b - a), "a + c b": lambda a, b, c: a + c * b, "a + c p q": lambda a, p, q, c: a + c * (p * q),
}  # fmt: skip
# of a list, by torch's name
LIST = {
    "+": "add", "-": "sub", "*": "mul", "/": "div", "neg": "neg", "abs": "abs", "sqrt": "sqrt", "sign": "sign", "floor": "floor",
    "lerp": "lerp", "maximum": "clamp_min", "a + c b": "add", "a + c p q": "addcmul",
}  # fmt: skip
NEEDED = [f"_foreach_{name}_" for name in (*LIST.values(), "copy", "clamp_max", "maximum")] + ["_foreach_norm"]
KEYWORD = {"a + c b": "alpha", "a + c p q": "value"}  # of the number c
OTHERS = {"given", "number", "size", "same", "to", "bits", "sum", "count", "sign or NaN", "is positive"}


def foreach(name: str, in_place: bool = False) -> Callable[..., Any]:
    return getattr(torch, f"_foreach_{name}{'_' * in_place}")


def is_number(x: Any) -> bool:
    return not isinstance(x, Value) or x.scalar


def varies(x: Any) -> bool:
    """Whether it is a number that each item has its own of."""
    if not isinstance(x, Value):
        return False
    return any(v.op == "size" for v in needed([x])) if x.scalar else not (x.long or x.lined)


def same_for_all(x: Any) -> bool:
    return is_number(x) and not varies(x)


class Alike(NamedTuple):
    """Items of the same shapes."""

    number: int
    start: int
    stop: int


class Call(NamedTuple):
    value: Value  # what it makes
    op: str
    args: tuple[Any, ...]
    together: bool  # one operation for the list
    in_place: bool  # of its first argument
    done: tuple[int, ...]  # ids of values that nobody reads any more


def listed(column: Column) -> Any:
    return column if isinstance(column, list) else column.unbind()


def spread(vector: Tensor, like: list[Tensor]) -> list[Tensor]:
    """A list of tensors, all entries of each the vector's number for it."""
    sizes = [t.numel() for t in like]
    spread = torch.repeat_interleave(vector, torch.tensor(sizes, device=vector.device), output_size=sum(sizes))
    return [part.view(t.shape) for part, t in zip(spread.split(sizes), like, strict=True)]


def together(call: Call, own: list[Column]) -> list[Tensor]:
    """An operation of lists."""
    first, *others = own
    if call.op == "sign or NaN":
        sign = list(foreach("sign")(first))
        # -1 or less: not above the sign, but where a NaN is, which goes through
        foreach("maximum", True)(sign, foreach("clamp_max")(first, -1.0))
        return sign
    if call.op == "is positive":
        sign = foreach("sign", call.in_place)(first)
        sign = first if call.in_place else list(sign)
        foreach("clamp_min", True)(sign, 0.0)
        return sign
    keyword = KEYWORD.get(call.op)
    named = {keyword: others.pop()} if keyword else {}
    result = foreach(LIST[call.op], call.in_place)(first, *others, **named)
    return first if call.in_place else list(result)


def apart(call: Call, own: list[Column], alike: Sequence[Alike], sizes: Sequence[dict[Any, int]]) -> Column:
    """An operation of numbers and vectors, or of those that are alike, one kind after another."""
    value, op = call.value, call.op
    if not any(isinstance(x, list) for x in own):
        if op in ("same", "to"):
            return own[0].to(value.dtype) if isinstance(own[0], Tensor) else own[0]
        return ONE[op](*own)
    if op == "to":
        new = [torch.empty_like(t, dtype=value.dtype) for t in own[0]]
        foreach("copy", True)(new, own[0])
        return new
    if op == "count":
        return torch.stack(foreach("norm")(own[0], 1, torch.float64)).to(value.dtype)  # the sum of what is 0 or 1
    if op == "same" and not isinstance(own[0], Stacked):
        shapes = [
            _shape(value, size)
            for which, size in zip(alike, sizes, strict=True)
            for _ in range(which.start, which.stop)
        ]
        return [x.reshape(shape) for x, shape in zip(own[0], shapes, strict=True)]
    # of those of one shape at once
    rank = max(len(arg.shape) for arg in call.args if isinstance(arg, Value))
    made = [
        _on_stack(call, [_stack(x, which, rank) for x in own], size) for which, size in zip(alike, sizes, strict=True)
    ]
    return torch.cat([t.view(-1) for t in made]) if varies(value) else Stacked(made)


class Stacked(list[Tensor]):
    """A list of tensors that lie one on another, those of each shape."""

    def __init__(self, stacks: list[Tensor]) -> None:
        super().__init__(t for stack in stacks for t in stack.unbind())
        self.stacks = stacks


def _stack(column: Column, which: Alike, rank: int) -> Any:
    """What an operation takes for tensors of one shape, whose values have so many axes at most."""
    if not isinstance(column, list | Tensor):
        return column
    if isinstance(column, Tensor):
        return column[which.start : which.stop].view(-1, *[1] * rank)
    if isinstance(column, Stacked):
        stack = column.stacks[which.number]
    else:
        tensors = column[which.start : which.stop]
        stack = torch.stack(tensors) if len(tensors) > 1 else tensors[0].unsqueeze(0)
    return stack.view(len(stack), *[1] * (rank + 1 - stack.ndim), *stack.shape[1:])


def _on_stack(call: Call, own: list[Any], size: dict[Any, int]) -> Tensor:
    """An operation of stacked tensors, which are of these sizes."""
    value, (first, *_) = call.value, own
    if call.op == "sum":
        places, shape = call.args[0].places, call.args[0].shape
        dims = [1 + i for i, letter in enumerate(shape) if letter in places]
        return first.sum(dims, dtype=value.dtype).reshape(len(first), *_shape(value, size))
    if call.op == "same":
        return first.reshape(len(first), *_shape(value, size))
    if call.op == "bits":
        return first.view(value.dtype)
    return ONE[call.op](*own)


def _shape(value: Value, size: dict[Any, int]) -> list[int]:
    return [size[letter] for letter in value.shape]
