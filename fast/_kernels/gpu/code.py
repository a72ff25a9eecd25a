"""Writes an update as a kernel in Triton that takes any number of tensors: their addresses stand in a table.

A program of the GPU asks `work` which tensor is its own, and which part of it, and the table for the tensor's addresses and sizes.
So one launch steps a whole model, and what is compiled depends on the update and the dtypes, not on the tensors. Four kinds:

flat    entries have nothing to do with each other: a program takes BLOCK of them
lines   sums go along lines (rows, say): a program takes some whole lines, so that each entry is read once
loops   the same for longer lines, a part at a time, once for each sum and once more for the step
split   the same for few lines that are longer still: many programs share one, in a kernel for the sum and one for the step
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fast._kernels.gpu.values import COMPARISONS, Shape, Value, given, needed, number

TYPES = {
    torch.float64: "tl.float64", torch.float32: "tl.float32", torch.bfloat16: "tl.bfloat16", torch.float16: "tl.float16",
    torch.int64: "tl.int64", torch.int32: "tl.int32", torch.int16: "tl.int16", torch.bool: "tl.int1",
}  # fmt: skip
# after a tensor's addresses, a row of the table has these: lines and their length; how to find a place (`Text.places`); which row
# of numbers it takes; segments of a split line and their length; scratch for partial sums, and for what a line's state was; where
# in its batch it begins
SIZES = (
    "lines", "length", "inner", "outer", "across", "own_numbers", "segments", "segment", "partial", "before", "entry",
)  # fmt: skip
# how a line's entries lie: side by side; apart, with those of the neighbouring lines between them; or `inner` at a time
ROWS, COLUMNS, SLABS = range(3)
HEAD = """import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def {name}(
    table, numbers, work,
    BLOCK: tl.constexpr, LINES: tl.constexpr, SHARES: tl.constexpr, ALIGNED: tl.constexpr, LAYOUT: tl.constexpr,
):
    program = tl.program_id(0)
    item = tl.load(work + 2 * program).to(tl.int64)
    part = tl.load(work + 2 * program + 1)
    row = table + item * {width}
"""


@dataclass(frozen=True, eq=False)
class Form:
    """What a kernel is written for: the update as traced, with the tensors that it reads and what it makes of some."""

    dtypes: tuple[torch.dtype, ...]
    tensors: tuple[Value, ...]
    outputs: tuple[tuple[int, Value], ...]  # which tensor gets which value

    @functools.cached_property
    def sums(self) -> list[Value]:
        return [value for value in needed([value for _, value in self.outputs]) if value.op == "sum"]

    @functools.cached_property
    def levels(self) -> int:
        """How many sums follow from each other."""
        return max((value.level for value in self.sums), default=0)

    @functools.cached_property
    def long(self) -> int:
        """How many tensors have an entry for each place."""
        return sum(t.long for t in self.tensors)

    @functools.cached_property
    def lined(self) -> bool:
        """Whether a tensor has a number for each line."""
        return any(t.lined for t in self.tensors)

    @property
    def width(self) -> int:
        return len(self.dtypes) + len(SIZES)


def traced(
    function: Callable[..., Any],
    dtypes: Sequence[torch.dtype],
    shapes: Sequence[Shape],
    places: frozenset[str],
    writes: Sequence[int],
    numbers: int,
    number_dtype: torch.dtype,
) -> Form:
    """`function(scalars, *tensors)`, read for tensors of these dtypes and shapes; `writes`: which of them get what it gives."""
    tensors = [
        given(f"p{i}", dtype, shape, places) for i, (dtype, shape) in enumerate(zip(dtypes, shapes, strict=True))
    ]
    new = function([number(i, number_dtype) for i in range(numbers)], *tensors)
    outputs = tuple((i, v.to(dtypes[i])) for i, v in zip(writes[: len(new)], new, strict=True))
    return Form(tuple(dtypes), tuple(tensors), outputs)


class Text:
    """A kernel's text, and the names of what it has worked out so far."""

    def __init__(self, form: Form, name: str) -> None:
        self.form, self.indent = form, 1
        self.lines = [HEAD.format(name=name, width=form.width)]
        self.names: dict[int, str] = {}
        self.count = 0
        self.masked = True
        self.old: dict[str, str] = {}  # where a line's state is read instead of in its place
        count = len(form.dtypes)
        for i, dtype in enumerate(form.dtypes):
            self.add(f"p{i} = tl.load(row + {i}).to(tl.pointer_type({TYPES[dtype]}))")
        # bytes, of as many entries for each dtype: of another number they would have to change their places among the threads
        entries = 16 // max(dtype.itemsize for dtype in form.dtypes if dtype.is_floating_point)
        self.add("if ALIGNED:")
        for i, dtype in enumerate(form.dtypes):
            self.add(f"    p{i} = tl.multiple_of(p{i}, {entries * dtype.itemsize})")
        for i, size in enumerate(SIZES):
            self.add(f"{size} = tl.load(row + {count + i})")
        self.add("numbers += own_numbers")

    def add(self, line: str) -> None:
        self.lines.append("    " * self.indent + line)

    def __str__(self) -> str:
        return "\n".join(self.lines) + "\n"

    def places(self, start: str, end: str) -> None:
        """Names the places of a part of a line, and where their entries are."""
        self.add(f"place = {start} + tl.arange(0, BLOCK)[None, :]")
        self.add(f"there = place < {end}")
        self.add("ok = there & here")
        self.add(f"if LAYOUT == {COLUMNS}:")
        self.add("    at = place.to(tl.int64) * outer + line")
        self.add(f"elif LAYOUT == {SLABS}:")
        self.add("    at = (place // inner).to(tl.int64) * outer + line.to(tl.int64) * across + place % inner")
        self.add("else:")
        self.add("    at = line.to(tl.int64) * across + place")
        if any(value.op == "index" for value in needed([value for _, value in self.form.outputs])):
            self.add(f"if LAYOUT == {ROWS}:")
            self.add("    index = entry.to(tl.int32) + line * length + place")
            self.add("else:")
            self.add("    index = entry.to(tl.int32) + place // inner * lines * inner + line * inner + place % inner")

    def block_of_lines(self) -> None:
        self.add(f"if ALIGNED and LAYOUT == {COLUMNS}:")
        self.add("    lines = tl.multiple_of(lines, 16)")
        self.add("    outer = tl.multiple_of(outer, 16)")
        self.add("elif ALIGNED:")
        self.add("    length = tl.multiple_of(length, 16)")
        self.add("    across = tl.multiple_of(across, 16)")
        self.add("    inner = tl.multiple_of(inner, 16)")
        self.add("    outer = tl.multiple_of(outer, 16)")
        self.add("lines = lines.to(tl.int32)")
        self.add("length = length.to(tl.int32)")
        self.add("inner = inner.to(tl.int32)")
        self.add("line = first + tl.arange(0, LINES)[:, None]")
        self.add("here = line < lines")

    def value(self, value: Value) -> str:
        for one in needed([value], self.names):
            self.count += 1
            self.names[id(one)] = name = f"x{self.count}"
            self.add(f"{name} = {self.expression(one)}")
        return self.names[id(value)]

    def forget_places(self) -> None:
        """What belongs to a part of a line has to be worked out anew for the next part."""
        for value in needed([value for _, value in self.form.outputs]):
            if value.long:
                self.names.pop(id(value), None)

    def address(self, name: str, like: Value) -> tuple[str, str]:
        """Where a tensor's entries are, and which of them are there."""
        if like.long and like.lined:
            return f"{name} + at", "ok"
        if like.long:
            return f"{name} + place", "there"
        return (f"{name} + line", "here") if like.lined else (name, "")

    def expression(self, value: Value) -> str:
        op, args = value.op, value.args
        if op == "given":
            name: str = args[0]
            address, mask = self.address(self.old.get(name, name), value)
            return f"tl.load({address}, mask={mask}, other=0.0)" if mask and self.masked else f"tl.load({address})"
        if op == "number":
            return f"tl.load(numbers + {args[0]})"
        if op == "entry":
            return f"tl.load({args[0].args[0]} + {args[1]})"
        if op == "size":
            return f"({' * '.join(args)}).to({TYPES[value.dtype]})"
        if op == "index":
            return "index"
        if op == "sum":
            (operand,) = args
            kind = TYPES[partial_dtype(value)]
            mask = self.address("", operand)[1]
            found = f"tl.sum(tl.where({mask}, {self.names[id(operand)]}.to({kind}), 0), 1, keep_dims=True)"
            return f"{found}.to({TYPES[value.dtype]})"
        operands = [self.names[id(arg)] if isinstance(arg, Value) else self.literal(arg, args) for arg in args]
        if op in ("+", "-", "*", "&", "^", ">>", *COMPARISONS):
            return f"{operands[0]} {op} {operands[1]}"
        dtype = value.dtype
        if op == "/":
            return (
                f"tl.div_rn({operands[0]}, {operands[1]})"
                if dtype == torch.float32
                else f"{operands[0]} / {operands[1]}"
            )
        if op == "sqrt":
            return f"tl.sqrt_rn({operands[0]})" if dtype == torch.float32 else f"tl.sqrt({operands[0]})"
        if op == "sign":
            return f"({operands[0]} > 0).to({TYPES[dtype]}) - ({operands[0]} < 0).to({TYPES[dtype]})"
        if op == "maximum":  # a number that is none stays none
            return f"tl.maximum({operands[0]}, {operands[1]}, propagate_nan=tl.PropagateNan.ALL)"
        if op == "neg" and dtype in (torch.bfloat16, torch.float16):  # Triton's interpreter knows no sign of theirs
            return f"(-{operands[0]}.to(tl.float32)).to({TYPES[dtype]})"
        return {
            "to": f"{operands[0]}.to({TYPES[dtype]})",
            "bits": f"{operands[0]}.to({TYPES[dtype]}, bitcast=True)",
            "same": operands[0],
            "abs": f"tl.abs({operands[0]})",
            "neg": f"-{operands[0]}",
            "floor": f"tl.floor({operands[0]})",
            "where": f"tl.where({', '.join(operands)})",
            "atan2": f"libdevice.atan2({', '.join(operands)})",
        }[op]

    def literal(self, x: Any, beside: tuple[Any, ...]) -> str:
        """A number, in the dtype of what it meets."""
        dtype = next((arg.dtype for arg in reversed(beside) if isinstance(arg, Value)), torch.float32)
        if dtype.is_floating_point:
            text = {float("inf"): "float('inf')"}.get(float(x), repr(float(x)))
            return f"tl.full((1, 1), {text}, {TYPES[dtype]})"
        return repr(int(x))

    def store(self, outputs: Iterable[tuple[int, Value]]) -> None:
        outputs = list(outputs)
        for one in needed([value for _, value in outputs], self.names):
            if one.op == "given" and one.long:  # all at once, so that nobody waits for one after another
                self.value(one)
        for i, value in outputs:
            name, like = self.value(value), self.form.tensors[i]
            if like.long or like.lined:
                address, mask = self.address(f"p{i}", like)
            else:
                address, mask = f"p{i} + tl.zeros((1, 1), tl.int32)", "tl.full((1, 1), 0, tl.int64) < length"
            if not (value.long or value.lined):
                name = f"{name} + tl.zeros((1, 1), {TYPES[self.form.dtypes[i]]})"
            self.add(f"tl.store({address}, {name}{f', mask={mask}' if self.masked else ''})")


def partial_dtype(value: Value) -> torch.dtype:
    """Of the sum over a part of a line: what is counted has less than 2^31 entries there."""
    return value.dtype if value.dtype.is_floating_point else torch.int32


def flat(form: Form, name: str) -> str:
    text = Text(form, name)
    text.add("start = part.to(tl.int64) * BLOCK")
    text.add("at = start + tl.arange(0, BLOCK)[None, :]")
    text.add("place = at")
    text.add("index = at.to(tl.int32)")
    text.add("if start + BLOCK <= length:")
    before = dict(text.names)
    for masked in (False, True):
        if masked:
            text.add("else:")
        text.indent, text.masked, text.names = 2, masked, dict(before)
        if masked:
            text.add("ok = at < length")
            text.add("there = ok")
        text.store(text.form.outputs)
        text.indent = 1
    return str(text)


def lines(form: Form, name: str) -> str:
    text = Text(form, name)
    text.add("first = part * LINES")
    text.block_of_lines()
    text.places("0", "length")
    text.store(form.outputs)
    return str(text)


def loops(form: Form, name: str) -> str:
    text = Text(form, name)
    text.add("first = part * LINES")
    text.block_of_lines()
    for level in range(1, form.levels + 1):
        _summed(text, [value for value in form.sums if value.level == level], "0", "length")
    text.store(_stepped(text, "0", "length"))
    return str(text)


def split(form: Form, name: str) -> tuple[str, str]:
    """The kernel of the partial sums, and that of the step."""
    (total,) = form.sums
    kind = TYPES[partial_dtype(total)]
    read = {id(value) for value in needed([value for _, value in form.outputs])}
    states = [i for i, _ in form.outputs if not form.tensors[i].long and id(form.tensors[i]) in read]

    def begun(name: str) -> Text:
        text = Text(form, name)
        text.add("segments = segments.to(tl.int32)")
        text.add("first = part // segments * LINES")
        text.add("own = part % segments")
        text.block_of_lines()
        text.add("begin = own * segment.to(tl.int32)")
        text.add("end = tl.minimum(begin + segment.to(tl.int32), length)")
        text.add(f"if ALIGNED and LAYOUT != {COLUMNS}:")
        text.add("    begin = tl.multiple_of(begin, 16)")
        text.add("    end = tl.multiple_of(end, 16)")
        text.add(f"partial = partial.to(tl.pointer_type({kind})) + line.to(tl.int64) * segments")
        return text

    def old(text: Text, i: int) -> str:
        return text.address(f"before.to(tl.pointer_type({TYPES[form.dtypes[i]]}))", form.tensors[i])[0]

    sums = begun(f"{name}_sums")
    _summed(sums, [total], "begin", "end")
    sums.add(f"tl.store(partial + own, {sums.names[id(total)]}.to({kind}), mask=here)")
    for i in states:  # one program will write it while others have yet to read it
        address, mask = sums.address(f"p{i}", form.tensors[i])
        sums.add("if own == 0:")
        sums.add(
            f"    tl.store({old(sums, i)}, tl.load({address}{', mask=here' if mask else ''}){', mask=here' if mask else ''})"
        )
    step = begun(f"{name}_step")
    step.add("share = tl.arange(0, SHARES)[None, :]")
    step.add("shares = tl.load(partial + share, mask=here & (share < segments), other=0)")
    step.add(f"total = tl.sum(shares.to({TYPES[total.dtype]}), 1, keep_dims=True)")
    step.names[id(total)] = "total"
    for i in states:
        step.old[f"p{i}"] = f"before.to(tl.pointer_type({TYPES[form.dtypes[i]]}))"
    rest = _stepped(step, "begin", "end")
    if rest:
        step.add("if own == 0:")
        step.indent += 1
        step.store(rest)
    return str(sums), str(step)


def _stepped(text: Text, begin: str, end: str) -> list[tuple[int, Value]]:
    """Writes what has an entry for each place, a part at a time; returns the other outputs."""
    long = [(i, value) for i, value in text.form.outputs if value.long]
    if long:
        _ready(text, [value for _, value in long])
        text.add(f"for start in range({begin}, {end}, BLOCK):")
        text.indent += 1
        text.places("start", end)
        text.store(long)
        text.indent -= 1
        text.forget_places()
    return [(i, value) for i, value in text.form.outputs if not value.long]


def _ready(text: Text, targets: list[Value]) -> None:
    """Works out before a loop what is the same for all parts of a line."""
    for value in needed(targets):
        if not value.long and _known(text, value):
            text.value(value)


def _known(text: Text, value: Value) -> bool:
    """Whether it can be worked out now: outside of the loops, with the sums that there are."""
    return not any(one.long or one.op == "sum" for one in needed([value], text.names))


def _summed(text: Text, sums: list[Value], begin: str, end: str) -> None:
    """Adds up sums along the lines, a part at a time."""
    operands = [value.args[0] for value in sums]
    _ready(text, operands)
    names = [f"sum{value.level}_{i}" for i, value in enumerate(sums)]
    for name, value, operand in zip(names, sums, operands, strict=True):
        shape = "(LINES, BLOCK)" if operand.lined else "(1, BLOCK)"
        text.add(f"{name} = tl.zeros({shape}, {TYPES[partial_dtype(value)]})")
    text.add(f"for start in range({begin}, {end}, BLOCK):")
    text.indent += 1
    text.places("start", end)
    for name, value, operand in zip(names, sums, operands, strict=True):
        mask = text.address("", operand)[1]
        own = text.value(operand)
        text.add(f"{name} += tl.where({mask}, {own}.to({TYPES[partial_dtype(value)]}), 0)")
    text.indent -= 1
    text.forget_places()
    for name, value in zip(names, sums, strict=True):
        text.add(f"{name} = tl.sum({name}, 1, keep_dims=True).to({TYPES[value.dtype]})")
        text.names[id(value)] = name
