"""Runs an update without a compiler: each of its operations once for a list of tensors, by torch's own `_foreach` operations.

An update is read as for the kernels (values.py). A launch of a `_foreach` operation takes some dozens of tensors, so that a step
costs about as many launches as one of torch's AdamW(foreach=True). Values with one number for each tensor, such as
a count, are kept in one vector. Where torch has no operation on lists, one tensor follows another: an arctangent, a sum, whatever
has a number for each line.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fast._kernels.gpu.code import Form
from fast._kernels.gpu.values import Value, binary, needed

# entries that go together: those of four full launches; each value in between takes as much memory
SEGMENT = 4 * 320 * 65_536
SMALL, MANY = 8_192, 100  # what is laid side by side: so many tensors, of at most so many entries on the average

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
    "maximum": _maximum, "where": torch.where, "atan2": torch.atan2,
    "lerp": lambda a, b, c: a + c * (b - a), "a + c b": lambda a, b, c: a + c * b, "a + c p q": lambda a, p, q, c: a + c * (p * q),
}  # fmt: skip
# of a list, by torch's name
LIST = {
    "+": "add", "-": "sub", "*": "mul", "/": "div", "neg": "neg", "abs": "abs", "sqrt": "sqrt", "sign": "sign", "floor": "floor",
    "lerp": "lerp", "maximum": "clamp_min", "a + c b": "add", "a + c p q": "addcmul",
}  # fmt: skip
NEEDED = [f"_foreach_{name}_" for name in (*LIST.values(), "copy", "clamp_max", "maximum")] + ["_foreach_norm"]
KEYWORD = {"a + c b": "alpha", "a + c p q": "value"}  # of the number c
OTHERS = {"given", "number", "size", "same", "to", "sum", "count", "sign or NaN", "is positive"}


def _foreach(name: str, in_place: bool = False) -> Callable[..., Any]:
    return getattr(torch, f"_foreach_{name}{'_' * in_place}")


def _is_number(x: Any) -> bool:
    return not isinstance(x, Value) or x.scalar


def _varies(x: Any) -> bool:
    """Whether it is a number that each item has its own of."""
    if not isinstance(x, Value):
        return False
    return any(v.op == "size" for v in needed([x])) if x.scalar else not (x.long or x.lined)


def _same_for_all(x: Any) -> bool:
    return _is_number(x) and not _varies(x)


class _Call(NamedTuple):
    value: Value  # what it makes
    op: str
    args: tuple[Any, ...]
    together: bool  # one operation for the list
    in_place: bool  # of its first argument
    done: tuple[int, ...]  # ids of values that nobody reads any more


class Lists:
    """A form's operations in their order. NotImplementedError where a list of tensors cannot do one of them."""

    def __init__(self, form: Form) -> None:
        if missing := [name for name in NEEDED if not hasattr(torch, name)]:
            raise NotImplementedError(f"this torch has no {missing[0]}")
        self.form = form
        # to copy converts by itself
        self._outputs = [(i, v.args[0] if v.op == "to" and not _is_number(v.args[0]) else v) for i, v in form.outputs]
        self._targets = {id(form.tensors[i]): i for i, _ in form.outputs}
        self._uses = Counter(id(value) for _, value in self._outputs)
        self._count([value for _, value in self._outputs])
        self._kept: list[Value] = []  # values of this reading: an id is good as long as they live
        found: dict[int, tuple[Value, str, tuple[Any, ...]]] = {}
        for _, value in self._outputs:
            self._order(value, found)
        self._places: dict[int, int] = {}  # which of the form's tensors a value lies in
        self._calls = self._planned(list(found.values()))
        self._in_place = {i for i, value in self._outputs if self._places.get(id(value)) == i}
        if any(self._places.get(id(value), i) != i for i, value in self._outputs):
            raise NotImplementedError("a result lies where another one belongs")
        self._sized = any(call.op in ("same", "size", "sum") for call in self._calls)
        self._of_entries = all(len(t.shape) == 1 and t.long for t in form.tensors) and not form.sums

    def _count(self, values: Iterable[Value]) -> None:
        seen, stack = set[int](), [*values]
        while stack:
            value = stack.pop()
            if id(value) not in seen:
                seen.add(id(value))
                own = [arg for arg in value.args if isinstance(arg, Value)]
                self._uses.update(map(id, own))
                stack += own

    def _order(self, value: Value, found: dict[int, tuple[Value, str, tuple[Any, ...]]]) -> None:
        if id(value) in found:
            return
        op, args = self._fused(value)
        if op not in ONE and op not in OTHERS:
            raise NotImplementedError(f"no operation of lists for {op}")
        for arg in args:
            if isinstance(arg, Value):
                self._order(arg, found)
        found[id(value)] = value, op, args

    def _new(self, value: Value) -> Value:
        self._kept.append(value)
        return value

    def _single(self, value: Any, op: str) -> bool:
        """Whether it is this operation, and used once."""
        return not _is_number(value) and value.op == op and self._uses[id(value)] == 1

    def _scaled(self, value: Any) -> tuple[Any, Any]:
        """A tensor, and the number that it is multiplied by or None."""
        if self._single(value, "*"):
            for number, tensor in (value.args, reversed(value.args)):
                if _same_for_all(number) and not _is_number(tensor):
                    return tensor, number
        return value, None

    def _fused(self, value: Value) -> tuple[str, tuple[Any, ...]]:
        """What makes it: torch has one operation for some that follow each other."""
        op, args = value.op, value.args
        if _is_number(value):
            return op, args
        if op == "where" and not any(map(_is_number, args)):
            condition, a, b = args
            if condition.op == "!=" and condition.args[0] is condition.args[1] is a is b.args[0] and b.op == "sign":
                return "sign or NaN", (a,)
        if op == "to" and self._single(args[0], ">"):
            a, b = args[0].args
            if not isinstance(b, Value) and b == 0 and a.dtype == value.dtype:
                return "is positive", (a,)
        if op == "sum" and _varies(value) and self._single(args[0], ">"):
            a, b = args[0].args
            if not isinstance(b, Value) and b == 0:
                return "count", (a,)
        if op not in ("+", "-") or any(map(_is_number, args)):
            return op, args
        a, b = args
        if op == "-" and self._single(b, "+"):
            for decay, rest in (b.args, reversed(b.args)):
                if self._scaled(decay)[0] is a and self._scaled(decay)[1] is not None:
                    # w - (d w + x) = (w - d w) - x, both in the place of w
                    decayed = self._new(binary("-", a, decay))
                    self._uses[id(decayed)] = 1
                    return self._fused(self._new(binary("-", decayed, rest)))
        for a, b in (args, reversed(args)) if op == "+" else (args,):
            tensor, number = self._scaled(b)
            if op == "+" and number is not None and self._single(tensor, "-") and tensor.args[1] is a:
                end = tensor.args[0]  # a + c (end - a) = end + (1 - c) (a - end)
                if id(end) in self._targets and id(a) not in self._targets:
                    return "lerp", (end, a, self._new(binary("-", 1, number)))
                return "lerp", (a, end, number)
            product = self._single(tensor, "*") and not any(map(_is_number, tensor.args))
            if number is None and not product:
                continue
            number = 1.0 if number is None else number
            if op == "-":
                number = self._new(binary("*", -1, number)) if isinstance(number, Value) else -number
            return ("a + c p q", (a, *tensor.args, number)) if product else ("a + c b", (a, tensor, number))
        return op, args

    def _planned(self, found: Sequence[tuple[Value, str, tuple[Any, ...]]]) -> list[_Call]:
        """Says of each operation whether it is one of a list, where its result lies, and what is done with after it."""
        last = {id(arg): at for at, (_, _, args) in enumerate(found) for arg in args if isinstance(arg, Value)}
        results = {id(value) for _, value in self._outputs}
        viewed = {id(x) for value, op, args in found if op == "same" for x in (value, args[0])}
        calls: list[_Call] = []
        for at, (value, op, args) in enumerate(found):
            own = [arg for arg in args if isinstance(arg, Value)]
            if op in ("+", "*") and _varies(args[0]):
                args = args[::-1]
            together = op in (*LIST, "is positive", "sign or NaN") and not (
                _is_number(value)
                or _varies(value)
                or _is_number(args[0])
                or any(not (_is_number(arg) or _varies(arg) or arg.shape == value.shape) for arg in own)
                or (op == "maximum" and not _same_for_all(args[1]))
            )
            in_place = False
            if together and op != "sign or NaN" and args[0].dtype == value.dtype and not _varies(args[0]):
                first = id(args[0])
                free = last[first] == at and first not in viewed and first not in results
                place = self._places.get(first, self._targets.get(first))
                in_place = free and (place is not None or args[0].op != "given")
                if in_place and place is not None:
                    self._places[id(value)] = place
            done = {id(arg) for arg in own if last[id(arg)] == at} - results
            calls.append(_Call(value, op, args, together, in_place, tuple(done)))
        return calls

    def run(self, numbers: Sequence[float], items: Sequence[Sequence[Tensor]]) -> None:
        """A step of items, each with the form's tensors."""
        if self._of_entries and len(items) >= MANY and sum(item[0].numel() for item in items) <= SMALL * len(items):
            return self._side_by_side(numbers, items)
        start = entries = 0
        for end, item in enumerate(items):
            if end > start and entries + item[0].numel() > SEGMENT:
                self._run(numbers, items[start:end])
                start, entries = end, 0
            entries += item[0].numel()
        self._run(numbers, items[start:])
        return None

    def _side_by_side(self, numbers: Sequence[float], items: Sequence[Sequence[Tensor]]) -> None:
        columns = [list(column) for column in zip(*items, strict=True)]
        sizes = [item[0].numel() for item in items]
        vectors = [torch.cat(column) for column in columns]
        self._run(numbers, [vectors])
        for i, _ in self._outputs:
            _foreach("copy", True)(columns[i], list(vectors[i].split(sizes)))

    def _run(self, numbers: Sequence[float], items: Sequence[Sequence[Tensor]]) -> None:
        columns = [list(column) for column in zip(*items, strict=True)]
        sizes = list(map(self._sizes, items)) if self._sized else []
        made: dict[int, Column] = {}
        for call in self._calls:
            own = [made[id(arg)] if isinstance(arg, Value) else arg for arg in call.args]
            for one in call.done:
                del made[one]
            if call.op == "given":
                column = columns[int(own[0][1:])]
                result: Column = torch.cat(column) if _varies(call.value) else column
            elif call.op == "number":
                result = numbers[own[0]]
            elif call.op == "size":
                of_each = [float(math.prod(size[name] for name in own)) for size in sizes]
                result = torch.tensor(of_each, dtype=call.value.dtype, device=columns[0][0].device)
            elif call.together:
                result = _together(
                    call, [_spread(x, own[0]) if _varies(arg) else x for x, arg in zip(own, call.args, strict=True)]
                )
            else:
                result = _apart(call, own, sizes)
            made[id(call.value)] = result
        for i, value in self._outputs:
            if i not in self._in_place:
                new = made[id(value)]
                _foreach("copy", True)(
                    columns[i], [n.expand_as(t) for n, t in zip(_listed(new), columns[i], strict=True)]
                )

    def _sizes(self, item: Sequence[Tensor]) -> dict[Any, int]:
        """The size of each letter of an item, of a line, and how many lines there are."""
        sizes: dict[Any, int] = {1: 1}
        for given, tensor in zip(self.form.tensors, item, strict=True):
            sizes.update(zip(given.shape, tensor.shape, strict=False))  # "1" has no letter
        places = self.form.tensors[0].places
        length = math.prod(n for letter, n in sizes.items() if letter in places)
        return sizes | {"length": length, "lines": math.prod(sizes.values()) // length}


def _listed(column: Column) -> Any:
    return column if isinstance(column, list) else column.unbind()


def _spread(vector: Tensor, like: list[Tensor]) -> list[Tensor]:
    """A list of tensors, all entries of each the vector's number for it."""
    sizes = [t.numel() for t in like]
    spread = torch.repeat_interleave(vector, torch.tensor(sizes, device=vector.device), output_size=sum(sizes))
    return [part.view(t.shape) for part, t in zip(spread.split(sizes), like, strict=True)]


def _together(call: _Call, own: list[Column]) -> list[Tensor]:
    """An operation of lists."""
    first, *others = own
    if call.op == "sign or NaN":
        sign = list(_foreach("sign")(first))
        # -1 or less: not above the sign, but where a NaN is, which goes through
        _foreach("maximum", True)(sign, _foreach("clamp_max")(first, -1.0))
        return sign
    if call.op == "is positive":
        sign = _foreach("sign", call.in_place)(first)
        sign = first if call.in_place else list(sign)
        _foreach("clamp_min", True)(sign, 0.0)
        return sign
    keyword = KEYWORD.get(call.op)
    named = {keyword: others.pop()} if keyword else {}
    result = _foreach(LIST[call.op], call.in_place)(first, *others, **named)
    return first if call.in_place else list(result)


def _apart(call: _Call, own: list[Column], sizes: Sequence[dict[Any, int]]) -> Column:
    """An operation of numbers and vectors, or of one item's tensors after another's."""
    value, op = call.value, call.op
    if not any(isinstance(x, list) for x in own):
        if op in ("same", "to"):
            return own[0].to(value.dtype) if isinstance(own[0], Tensor) else own[0]
        return ONE[op](*own)
    if op == "to":
        new = [torch.empty_like(t, dtype=value.dtype) for t in own[0]]
        _foreach("copy", True)(new, own[0])
        return new
    if op == "count":
        signs = _foreach("sign")(own[0])
        _foreach("clamp_min", True)(signs, 0.0)
        return torch.stack(_foreach("norm")(signs, 1, torch.float64)).to(value.dtype)  # the sum of what is 0 or 1
    if op == "sum":
        places, shape = call.args[0].places, call.args[0].shape
        dims = [i for i, letter in enumerate(shape) if letter in places]
        sums = [x.sum(dims, dtype=value.dtype) for x in own[0]]
        if _varies(value):
            return torch.stack([x.view(()) for x in sums])
        return [x.reshape([size[letter] for letter in value.shape]) for x, size in zip(sums, sizes, strict=True)]
    if op == "same":
        return [x.reshape([size[letter] for letter in value.shape]) for x, size in zip(own[0], sizes, strict=True)]
    # the lists end the loop
    return [
        ONE[op](*each)
        for each in zip(*(repeat(x) if isinstance(x, float | int) else _listed(x) for x in own), strict=False)
    ]
