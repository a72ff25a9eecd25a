"""Runs an update without a compiler: each of its operations once for a list of tensors, by torch's own `foreach` operations.

An update is read as for the kernels (values.py). A launch of a `foreach` operation takes some dozens of tensors, so that a step
costs about as many launches as one of torch's AdamW(foreach=True). Values with one number for each tensor, such as
a count, are kept in one vector. Where torch has no operation on lists (an arctangent, a sum, whatever has a number for each line),
tensors of one shape are laid one on another and take a launch together. Such a stack lasts as long as the operation, its result as
long as it is used.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fast._kernels.gpu.code import Form
from fast._kernels.gpu.list_operations import (
    LIST,
    NEEDED,
    ONE,
    OTHERS,
    Alike,
    Call,
    Column,
    apart,
    foreach,
    is_number,
    listed,
    same_for_all,
    spread,
    together,
    varies,
)
from fast._kernels.gpu.values import Value, binary, needed

# entries that go together: those of four full launches; each value in between takes as much memory
SEGMENT = 4 * 320 * 65_536
SMALL, MANY = 8_192, 100  # what is laid side by side: so many tensors, of at most so many entries on the average


def _dtype(value: Value) -> torch.dtype:
    """In which a list has it; a comparison with 0 is one of 0 and 1, in that of what was compared."""
    return value.args[0].dtype if value.op == ">" else value.dtype


def _each_once(values: Sequence[Value]) -> list[Value]:
    """The same values, of which equal ones are one: an update and its statistic may compute the same.

    Not so what an operation of torch's takes in with others: a difference, and what is multiplied by a number.
    """
    kinds: dict[Any, int] = {}
    kind_of: dict[int, int] = {}
    for value in needed(values):
        args = tuple((kind_of[id(x)],) if isinstance(x, Value) else (type(x), x) for x in value.args)
        key = value.op, value.dtype, value.shape, value.scalar, args
        kind_of[id(value)] = kinds.setdefault(key, len(kinds))
    made: dict[int, Value] = {}

    def once(value: Any) -> Any:
        if not isinstance(value, Value) or not any(isinstance(x, Value) for x in value.args):
            return value
        if (kind := kind_of[id(value)]) in made:
            return made[kind]
        new = Value(value.op, tuple(map(once, value.args)), value.dtype, value.shape, value.scalar, value.places)
        if value.op != "-" and not (value.op == "*" and any(map(is_number, value.args))):
            made[kind] = new
        return new

    return list(map(once, values))


class Lists:
    """A form's operations in their order. NotImplementedError where a list of tensors cannot do one of them."""

    def __init__(self, form: Form) -> None:
        if missing := [name for name in NEEDED if not hasattr(torch, name)]:
            raise NotImplementedError(f"this torch has no {missing[0]}")
        self.form = form
        outputs = zip([i for i, _ in form.outputs], _each_once([v for _, v in form.outputs]), strict=True)
        # to copy converts by itself
        self._outputs = [(i, v.args[0] if v.op == "to" and not is_number(v.args[0]) else v) for i, v in outputs]
        self._targets = {id(form.tensors[i]): i for i, _ in form.outputs}
        self._uses = Counter(id(value) for _, value in self._outputs)
        everything = needed([value for _, value in self._outputs])
        self._uses.update(id(arg) for value in everything for arg in value.args if isinstance(arg, Value))
        # comparisons that are only counted, or multiplied by: 0 or 1 for each entry
        self._masks = {id(value) for value in everything if value.op == ">" and value.long and value.args[1:] == (0,)}
        for value in everything:
            counted = value.op == "sum" and varies(value)
            self._masks -= {
                id(arg)
                for arg in value.args
                if isinstance(arg, Value) and not counted and (value.op, value.dtype) != ("to", _dtype(arg))
            }
        self._kept: list[Value] = []  # values of this reading: an id is good as long as they live
        found: dict[int, tuple[Value, str, tuple[Any, ...]]] = {}
        for _, value in self._outputs:
            self._order(value, found)
        self._places: dict[int, int] = {}  # which of the form's tensors a value lies in
        self._calls = self._planned(list(found.values()))
        self._in_place = {i for i, value in self._outputs if self._places.get(id(value)) == i}
        if any(self._places.get(id(value), i) != i for i, value in self._outputs):
            raise NotImplementedError("a result lies where another one belongs")
        plainly = ("given", "number")  # which ask nobody for his shape
        self._stacks = any(not (call.together or call.op in plainly) for call in self._calls)
        self._of_entries = all(len(t.shape) == 1 and t.long for t in form.tensors) and not form.sums

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
        return not is_number(value) and value.op == op and self._uses[id(value)] == 1

    def _scaled(self, value: Any) -> tuple[Any, Any]:
        """A tensor, and the number that it is multiplied by or None."""
        if self._single(value, "*"):
            for number, tensor in (value.args, reversed(value.args)):
                if same_for_all(number) and not is_number(tensor):
                    return tensor, number
        return value, None

    def _fused(self, value: Value) -> tuple[str, tuple[Any, ...]]:
        """What makes it: torch has one operation for some that follow each other."""
        op, args = value.op, value.args
        if is_number(value):
            return op, args
        if op == "where" and not any(map(is_number, args)):
            condition, a, b = args
            if condition.op == "!=" and condition.args[0] is condition.args[1] is a is b.args[0] and b.op == "sign":
                return "sign or NaN", (a,)
        if id(value) in self._masks:
            return "is positive", args[:1]
        if op in ("sum", "to") and id(args[0]) in self._masks:
            return {"sum": "count", "to": "same"}[op], args
        if op not in ("+", "-") or any(map(is_number, args)):
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
            product = self._single(tensor, "*") and not any(map(is_number, tensor.args))
            if number is None and not product:
                continue
            number = 1.0 if number is None else number
            if op == "-":
                number = self._new(binary("*", -1, number)) if isinstance(number, Value) else -number
            return ("a + c p q", (a, *tensor.args, number)) if product else ("a + c b", (a, tensor, number))
        return op, args

    def _planned(self, found: Sequence[tuple[Value, str, tuple[Any, ...]]]) -> list[Call]:
        """Says of each operation whether it is one of a list, where its result lies, and what is done with after it."""
        last = {id(arg): at for at, (_, _, args) in enumerate(found) for arg in args if isinstance(arg, Value)}
        results = {id(value) for _, value in self._outputs}
        viewed = {id(x) for value, op, args in found if op == "same" for x in (value, args[0])}
        calls: list[Call] = []
        for at, (value, op, args) in enumerate(found):
            own = [arg for arg in args if isinstance(arg, Value)]
            if op in ("+", "*") and varies(args[0]):
                args = args[::-1]
            together = op in (*LIST, "is positive", "sign or NaN") and not (
                is_number(value)
                or varies(value)
                or is_number(args[0])
                or any(not (is_number(arg) or varies(arg) or arg.shape == value.shape) for arg in own)
                or (op == "maximum" and not same_for_all(args[1]))
            )
            in_place = False
            if together and op != "sign or NaN" and args[0].dtype == _dtype(value) and not varies(args[0]):
                first = id(args[0])
                free = last[first] == at and first not in viewed and first not in results
                place = self._places.get(first, self._targets.get(first))
                in_place = free and (place is not None or args[0].op != "given")
                if in_place and place is not None:
                    self._places[id(value)] = place
            done = {id(arg) for arg in own if last[id(arg)] == at} - results
            calls.append(Call(value, op, args, together, in_place, tuple(done)))
        return calls

    def run(self, numbers: Sequence[float], items: Sequence[Sequence[Tensor]]) -> None:
        """A step of items, each with the form's tensors."""
        if self._of_entries and len(items) >= MANY and sum(item[0].numel() for item in items) <= SMALL * len(items):
            return self._side_by_side(numbers, items)
        if self._stacks:
            kinds: dict[Any, list[Sequence[Tensor]]] = defaultdict(list)
            for item in items:
                kinds[_shapes(item)].append(item)
            items = [item for kind in kinds.values() for item in kind]
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
            foreach("copy", True)(columns[i], list(vectors[i].split(sizes)))

    def _run(self, numbers: Sequence[float], items: Sequence[Sequence[Tensor]]) -> None:
        columns = [list(column) for column in zip(*items, strict=True)]
        shapes = list(map(_shapes, items)) if self._stacks else []
        firsts = [i for i in range(1, len(shapes)) if shapes[i] != shapes[i - 1]]
        alike = [Alike(number, *ends) for number, ends in enumerate(pairwise([0, *firsts, len(items)]))]
        sizes = [self._sizes(items[which.start]) for which in alike]
        made: dict[int, Column] = {}
        for call in self._calls:
            own = [made[id(arg)] if isinstance(arg, Value) else arg for arg in call.args]
            for one in call.done:
                del made[one]
            if call.op == "given":
                column = columns[int(own[0][1:])]
                result: Column = torch.cat(column) if varies(call.value) else column
            elif call.op == "number":
                result = numbers[own[0]]
            elif call.op == "size":
                of_each = [
                    float(math.prod(size[name] for name in own))
                    for which, size in zip(alike, sizes, strict=True)
                    for _ in range(which.start, which.stop)
                ]
                result = torch.tensor(of_each, dtype=call.value.dtype, device=columns[0][0].device)
            elif call.together:
                result = together(
                    call, [spread(x, own[0]) if varies(arg) else x for x, arg in zip(own, call.args, strict=True)]
                )
            else:
                result = apart(call, own, alike, sizes)
            made[id(call.value)] = result
        for i, value in self._outputs:
            if i not in self._in_place:
                new = made[id(value)]
                foreach("copy", True)(
                    columns[i], [n.expand_as(t) for n, t in zip(listed(new), columns[i], strict=True)]
                )

    def _sizes(self, item: Sequence[Tensor]) -> dict[Any, int]:
        """The size of each letter of an item, of a line, and how many lines there are."""
        sizes: dict[Any, int] = {1: 1}
        for given, tensor in zip(self.form.tensors, item, strict=True):
            sizes.update(zip(given.shape, tensor.shape, strict=False))  # "1" has no letter
        places = self.form.tensors[0].places
        length = math.prod(n for letter, n in sizes.items() if letter in places)
        return sizes | {"length": length, "lines": math.prod(sizes.values()) // length}


def _shapes(item: Sequence[Tensor]) -> tuple[torch.Size, ...]:
    return tuple(t.shape for t in item)
