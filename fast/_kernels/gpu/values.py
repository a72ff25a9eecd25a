"""Traces an update: it runs on Values, which record each operation, and of which a kernel's code is made.

An update is written for torch's tensors. Here it gets Values in their place, which answer as tensors do, know what they were
made of, and have letters for sizes: rows "R" and columns "C" of a matrix, say. One letter is the axis that numbers the lines; the
others run along a line, and sums go over those.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Shape = tuple[Any, ...]  # of letters and 1
GPU = torch.device("cuda")
COMPARISONS = {"==", "!=", "<", "<=", ">", ">="}


@dataclass(frozen=True)
class Size:
    """A number of entries: a product of letters."""

    letters: tuple[str, ...]
    places: frozenset[str]
    dtype: torch.dtype  # of the numbers that are made of it

    def __floordiv__(self, other: Size) -> Size:
        rest = list(self.letters)
        for letter in other.letters:
            rest.remove(letter)
        return Size(tuple(rest), self.places, self.dtype)

    def __lt__(self, other: int) -> bool:
        return False  # nobody knows

    def value(self) -> Value:
        """As a number. It knows the sizes of a line and of all of a tensor's."""
        letters = set(self.letters)
        if letters & self.places not in (set(), self.places):
            raise NotImplementedError(f"a GPU's kernel does not know the size {self.letters} alone")
        lines = [letter for letter in self.letters if letter not in self.places]
        return Value(
            "size", ("length",) * bool(letters & self.places) + ("lines",) * len(lines), self.dtype, (), scalar=True
        )

    def __mul__(self, other: Any) -> Value:
        return self.value() * other

    def __rmul__(self, other: Any) -> Value:
        return other * self.value()

    def __truediv__(self, other: Any) -> Value:
        return self.value() / other

    def __rtruediv__(self, other: Any) -> Value:
        return other / self.value()


class Value:
    """What an operation gives. `scalar`: one number for all tensors, which has no say in a result's dtype."""

    __slots__ = ("args", "dtype", "level", "op", "places", "scalar", "shape")
    device = GPU

    def __init__(
        self,
        op: str,
        args: tuple[Any, ...],
        dtype: torch.dtype,
        shape: Shape,
        scalar: bool = False,
        places: frozenset[str] = frozenset(),
    ) -> None:
        self.op, self.args, self.dtype, self.shape, self.scalar = op, args, dtype, shape, scalar
        self.places = places.union(*(arg.places for arg in args if isinstance(arg, Value)))
        levels = [arg.level for arg in args if isinstance(arg, Value)]
        # how many sums along a line have to be known before this can be
        self.level: int = max(levels, default=0) + (op == "sum")

    def __bool__(self) -> bool:
        raise NotImplementedError("a GPU's kernel takes no other way for another number: torch.where chooses")

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def long(self) -> bool:
        """Whether it has an entry for each place of a line."""
        return not self.places.isdisjoint(self.shape)

    @property
    def lined(self) -> bool:
        """Whether it has an entry for each line."""
        return any(n != 1 and n not in self.places for n in self.shape)

    def numel(self) -> Size:
        wide = self.dtype if self.dtype in (torch.float32, torch.float64) else torch.float32
        return Size(tuple(n for n in self.shape if n != 1), self.places, wide)

    def is_complex(self) -> bool:
        return False

    def to(self, dtype: torch.dtype) -> Value:
        return self if dtype == self.dtype else Value("to", (self,), dtype, self.shape, self.scalar)

    def view(self, *given: Any) -> Value:
        """Of another dtype of its width, or of another shape with the same letters in their order."""
        (first, *_) = given
        if isinstance(first, torch.dtype):
            return Value("bits", (self,), first, self.shape)
        shape = tuple(first) if isinstance(first, tuple) else given
        if [n for n in shape if n != 1] != [n for n in self.shape if n != 1]:
            raise NotImplementedError(f"a GPU's kernel cannot view {self.shape} as {shape}")
        return Value("same", (self,), self.dtype, shape)

    def unsqueeze(self, dim: int) -> Value:
        at = dim % (self.ndim + 1)
        return Value("same", (self,), self.dtype, (*self.shape[:at], 1, *self.shape[at:]))

    def __getitem__(self, index: int) -> Value:
        return Value("entry", (self, index), self.dtype, (), scalar=True)

    def __len__(self) -> int:
        return 2  # of a rounding key

    def entry_index(self) -> Value:
        """The index of each entry in its tensor, modulo 2^32."""
        return Value("index", (), torch.int32, self.shape, places=self.places)

    def sum(self, dim: Any = None, keepdim: bool = False, dtype: torch.dtype | None = None) -> Value:
        """Along lines: over all of their places, at once or one letter after another."""
        dims = range(self.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
        gone = {d % max(1, self.ndim) for d in dims}
        letters = {self.shape[d] for d in gone} - {1}
        shape = tuple(1 if d in gone else n for d, n in enumerate(self.shape) if keepdim or d not in gone)
        if not letters or not letters <= self.places:
            raise NotImplementedError(f"a GPU's kernel sums along lines alone, not {self.shape} over {tuple(gone)}")
        if dtype is None:
            dtype = self.dtype if self.dtype.is_floating_point else torch.int64
        operand = self.args[0] if self.op == "part" else self
        return Value("sum" if self.places.isdisjoint(shape) else "part", (operand,), dtype, shape)

    def _one(self, op: str) -> Value:
        return Value(op, (self,), self.dtype, self.shape, self.scalar)

    def abs(self) -> Value:
        return self._one("abs")

    def sqrt(self) -> Value:
        return self._one("sqrt")

    def floor(self) -> Value:
        return self._one("floor")

    def sign(self) -> Value:
        return self._one("sign")

    def square(self) -> Value:
        return self * self

    def __neg__(self) -> Value:
        return self._one("neg")

    def clamp(self, min: Any) -> Value:
        return binary("maximum", self, min)

    def __add__(self, other: Any) -> Value:
        return binary("+", self, other)

    def __radd__(self, other: Any) -> Value:
        return binary("+", other, self)

    def __sub__(self, other: Any) -> Value:
        return binary("-", self, other)

    def __rsub__(self, other: Any) -> Value:
        return binary("-", other, self)

    def __mul__(self, other: Any) -> Value:
        return binary("*", self, other)

    def __rmul__(self, other: Any) -> Value:
        return binary("*", other, self)

    def __truediv__(self, other: Any) -> Value:
        return binary("/", self, other)

    def __rtruediv__(self, other: Any) -> Value:
        return binary("/", other, self)

    def __and__(self, other: Any) -> Value:
        return binary("&", self, other)

    def __xor__(self, other: Any) -> Value:
        return binary("^", self, other)

    def __rshift__(self, other: Any) -> Value:
        return binary(">>", self, other)

    def __gt__(self, other: Any) -> Value:
        return binary(">", self, other)

    def __ge__(self, other: Any) -> Value:
        return binary(">=", self, other)

    def __lt__(self, other: Any) -> Value:
        return binary("<", self, other)

    def __le__(self, other: Any) -> Value:
        return binary("<=", self, other)

    def __eq__(self, other: Any) -> Any:
        return binary("==", self, other)

    def __ne__(self, other: Any) -> Any:
        return binary("!=", self, other)

    __hash__ = object.__hash__

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in FUNCTIONS:
            raise NotImplementedError(f"a GPU's kernel has no {getattr(func, '__name__', func)}")
        return FUNCTIONS[func](*args, **(kwargs or {}))


def binary(op: str, a: Any, b: Any) -> Value:
    """An operation of two, in the dtype that torch gives it."""
    a, b = (x.value() if isinstance(x, Size) else x for x in (a, b))
    dtype = result_type(a, b)
    a, b = (x.to(dtype) if isinstance(x, Value) else x for x in (a, b))
    made = torch.bool if op in COMPARISONS else dtype
    return Value(op, (a, b), made, broadcast(a, b), all(not isinstance(x, Value) or x.scalar for x in (a, b)))


def result_type(*operands: Any) -> torch.dtype:
    values = [x for x in operands if isinstance(x, Value)]
    dtypes = [x.dtype for x in values if not x.scalar] or [x.dtype for x in values]
    common = dtypes[0]
    for dtype in dtypes[1:]:
        common = torch.promote_types(common, dtype)
    inexact = any((x.dtype.is_floating_point if isinstance(x, Value) else isinstance(x, float)) for x in operands)
    return torch.float32 if inexact and not common.is_floating_point else common


def broadcast(*operands: Any) -> Shape:
    shapes = [x.shape for x in operands if isinstance(x, Value)]
    ndim = max(map(len, shapes))
    padded = [(1,) * (ndim - len(shape)) + shape for shape in shapes]
    return tuple(next((n for n in column if n != 1), 1) for column in zip(*padded, strict=True))


def _where(condition: Value, a: Any, b: Any) -> Value:
    dtype = result_type(a, b)
    a, b = (x.to(dtype) if isinstance(x, Value) else x for x in (a, b))
    return Value("where", (condition, a, b), dtype, broadcast(condition, a, b))


def _norm(x: Value, *, dim: int = -1, keepdim: bool = False) -> Value:
    return x.square().sum(dim, keepdim).sqrt()


def _atan2(y: Value, x: Value) -> Value:
    return binary("atan2", y, x)


def _clamp(x: Value, *, min: Any) -> Value:
    return x.clamp(min)


FUNCTIONS: dict[Any, Callable[..., Value]] = {
    torch.where: _where,
    torch.atan2: _atan2,
    torch.clamp: _clamp,
    torch.floor: Value.floor,
    torch.linalg.vector_norm: _norm,
}


def given(name: str, dtype: torch.dtype, shape: Shape, places: frozenset[str]) -> Value:
    """A tensor that the kernel reads."""
    return Value("given", (name,), dtype, shape, places=places)


def number(index: int, dtype: torch.dtype) -> Value:
    """One of an update's numbers."""
    return Value("number", (index,), dtype, (), scalar=True)


def needed(values: Sequence[Value], known: Container[int] = ()) -> list[Value]:
    """These and all that they are made of, each after its own; without those that are known, by their ids."""
    order: dict[int, Value] = {}

    def visit(value: Value) -> None:
        if id(value) not in order and id(value) not in known:
            for arg in value.args:
                if isinstance(arg, Value):
                    visit(arg)
            order[id(value)] = value

    for value in values:
        visit(value)
    return list(order.values())
