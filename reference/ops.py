"""One name for an operation on NumPy arrays, torch tensors and SymPy expressions.

The algorithms of this package are written once, over these names and Python's own operators. What they are fed
decides how they are read:

    float64 NumPy arrays    the oracle that `fast` is held to
    torch tensors           differentiable with respect to anything that entered (gradient, lr, beta1 ...)
    SymPy expressions       the formula that the proofs of `reference.theory` start from; a vector or a matrix of
                            symbols is a NumPy array with dtype=object
    z3 expressions          what `reference.theory.solver` asks the solver about. z3 has no sqrt, exp, atan2 ...: they stay
                            names there, and who asks says what they stand for
    python-flint's balls    bounds of the exact run, rounding included

The last two come as SymPy's expressions do, alone or in such an array. Every function returns a new value and leaves its arguments
as they were. Nothing but NumPy is imported before a tensor or an expression comes: whoever has only arrays needs no more.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = Any  # np.ndarray | torch.Tensor | sympy.Expr | float


class _Later:
    """A module that is imported when something of it is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


sp, torch, z3 = _Later("sympy"), _Later("torch"), _Later("z3")


def _is(x: Array, module: str, kind: str) -> bool:
    """Whether x is of this class: nothing is of a class of a module that nobody has imported."""
    return isinstance(x, getattr(sys.modules.get(module), kind, ()))


def is_tensor(x: Array) -> bool:
    """Whether x is a torch tensor."""
    return _is(x, "torch", "Tensor")


def _is_z3(x: Array) -> bool:
    return _is(x, "z3", "ExprRef")


def _is_ball(x: Array) -> bool:
    return _is(x, "flint", "arb")


def is_expression(x: Array) -> bool:
    """Whether x is a single expression (of SymPy or z3) or ball, not an array of them."""
    return _is(x, "sympy", "Basic") or _is_z3(x) or _is_ball(x)


def _is_symbolic(x: Array) -> bool:
    return is_expression(x) or (isinstance(x, np.ndarray) and x.dtype == object)


def _each(function: Callable[..., Any], *args: Array) -> Array:
    """`function` of each entry, as an array with dtype=object where an argument is one."""
    if not any(isinstance(x, np.ndarray) for x in args):
        return function(*args)
    return np.vectorize(function, otypes=[object])(*args)


def _z3_term(name: str, *args: Any) -> Any:
    x = args[0]
    if name == "sign":
        return z3.If(x > 0, z3.RealVal(1), z3.If(x < 0, z3.RealVal(-1), z3.RealVal(0)))
    if name == "abs":
        return z3.If(x >= 0, x, -x)
    return z3.Function(name, *[z3.RealSort()] * (len(args) + 1))(*args)


def _apply(x: Array, name: str, symbolic: str | None = None) -> Array:
    """`name` of torch or NumPy, or entry by entry z3's, a ball's or SymPy's (by another name: `symbolic`)."""
    if is_tensor(x):
        return getattr(torch, name)(x)
    if not _is_symbolic(x):
        return getattr(np, name)(x)

    def entry(e: Any) -> Any:
        if _is_z3(e):
            return _z3_term(name, e)
        if _is_ball(e):
            return getattr(e, {"abs": "__abs__", "sign": "sgn"}.get(name, name))()
        return getattr(sp, symbolic or name)(e)

    return _each(entry, x)


def sqrt(x: Array) -> Array:
    """Square root, entry by entry."""
    return _apply(x, "sqrt")


def sign(x: Array) -> Array:
    """-1, 0 or 1, entry by entry; sign(0) = 0, and sign(NaN) = NaN where there is one; a ball around 0 has [-1, 1]."""
    if is_tensor(x):  # torch.sign(NaN) is 0 for some types and versions: make the NaN explicit
        return torch.where(torch.isnan(x), x, torch.sign(x))
    return _apply(x, "sign")


def exp(x: Array) -> Array:
    """Exponential, entry by entry."""
    return _apply(x, "exp")


def log(x: Array) -> Array:
    """Natural logarithm, entry by entry."""
    return _apply(x, "log")


def sin(x: Array) -> Array:
    """Sine of radians, entry by entry."""
    return _apply(x, "sin")


def absolute(x: Array) -> Array:
    """Absolute value, entry by entry."""
    return _apply(x, "abs", "Abs")


def atan2(y: Array, x: Array) -> Array:
    """Angle of the point (x, y) in radians, in [-pi, pi]; atan2(0, 0) = 0 (SymPy itself says nan there)."""
    if is_tensor(y):
        return torch.atan2(y, torch.as_tensor(x, dtype=y.dtype))
    if not (_is_symbolic(y) or _is_symbolic(x)):
        return np.arctan2(y, x)

    def angle(b: Any, a: Any) -> Any:
        if _is_z3(b) or _is_z3(a):
            return _z3_term("atan2", b, a)
        if _is_ball(b):
            return type(b).atan2(b, a)
        return sp.Integer(0) if b == 0 and a == 0 else sp.atan2(b, a)

    return _each(angle, y, x)


def where(condition: Array, a: Array, b: Array) -> Array:
    """a where the condition holds, else b; symbolically a `Piecewise`, for z3 an `If`. A ball has no conditions."""
    if is_tensor(condition):
        return torch.where(condition, a, b)
    if not _is_symbolic(condition):
        return np.where(condition, a, b)

    def pick(c: Any, x: Any, y: Any) -> Any:
        return z3.If(c, x, y) if _is_z3(c) else sp.Piecewise((x, c), (y, True))

    return _each(pick, condition, a, b)


def positive(x: Array) -> Array:
    """The condition x > 0, entry by entry, for `where`."""
    return np.greater(x, 0, dtype=object) if isinstance(x, np.ndarray) and x.dtype == object else x > 0


def maximum(x: Array, floor: float) -> Array:
    """The larger of x and the number `floor`, entry by entry; symbolically a `Max`."""
    if is_tensor(x):
        return x.clamp(min=floor)
    if not _is_symbolic(x):
        return np.maximum(x, floor)
    return _each(lambda e: where(e >= floor, e, floor) if _is_z3(e) else sp.Max(e, floor), x)


def zeros_like(x: Array) -> Array:
    """Zeros of x's shape and type; for torch without x's autograd history."""
    if is_tensor(x):
        return torch.zeros_like(x)
    if not _is_symbolic(x):
        return np.zeros_like(x)

    def zero(e: Any) -> Any:
        if _is_z3(e):
            return z3.RealVal(0)
        return type(e)(0) if _is_ball(e) else sp.Integer(0)

    return _each(zero, x)


def ones_like(x: Array) -> Array:
    """Ones of x's shape and type; for torch without x's autograd history."""
    return zeros_like(x) + 1


def mean(x: Array, axis: int | Sequence[int] | None = None) -> Array:
    """Mean over `axis` (None: over all), the axes kept with length 1."""
    if is_expression(x):
        return x
    if is_tensor(x):
        axes = tuple(range(x.ndim)) if axis is None else _axes(axis)
        return torch.mean(x, dim=axes, keepdim=True) if x.ndim else x
    if _is_symbolic(x):
        total = np.sum(x, axis=_axes(axis), keepdims=True)
        return total / number(x.size // total.size, x)
    return np.mean(x, axis=_axes(axis), keepdims=True)


def total(x: Array, axis: int | Sequence[int] | None = None) -> Array:
    """Sum over `axis` (None: over all), the axes kept with length 1."""
    if is_expression(x):
        return x
    if is_tensor(x):
        axes = tuple(range(x.ndim)) if axis is None else _axes(axis)
        return torch.sum(x, dim=axes, keepdim=True) if x.ndim else x
    return np.sum(x, axis=_axes(axis), keepdims=True)


def constant(c: Any, like: Array) -> Array:
    """The numbers c in the type of `like`: a tensor beside tensors, an array beside arrays and symbols."""
    if is_tensor(like):
        return torch.as_tensor(c, dtype=like.dtype, device=like.device)
    return np.asarray(c)


def number(c: Any, like: Array) -> Array:
    """The one number c in the type of `like`: exact beside symbols, a float64 beside arrays."""
    if is_tensor(like):
        return torch.as_tensor(c, dtype=like.dtype, device=like.device)
    if not _is_symbolic(like):
        return np.float64(c)
    for entry in like.flat if isinstance(like, np.ndarray) else [like]:
        if _is_z3(entry):
            return z3.RealVal(c)
        if _is_ball(entry):
            return type(entry)(c)
    return sp.sympify(c)


def shape_of(x: Array) -> tuple[int, ...]:
    """The shape; () for a number or a SymPy expression."""
    return tuple(getattr(x, "shape", ()))


def require_same_shape(w: Array, g: Array, m: Array) -> None:
    """ValueError unless parameter, gradient and first moment have one shape; broadcasting would hide a mistake."""
    shapes = shape_of(w), shape_of(g), shape_of(m)
    if len(set(shapes)) != 1:
        raise ValueError(
            "the parameter, its gradient and its state must have one shape, got w {}, g {}, m {}; "
            "make the state with init(w)".format(*shapes)
        )


def size_of(x: Array) -> int:
    """The number of entries."""
    return math.prod(shape_of(x))


def norm(x: Array) -> Array:
    """Euclidean norm along the last axis, which is kept with length 1; torch's has the gradient 0 at 0."""
    if is_tensor(x):
        return torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return sqrt(total(x**2, axis=-1))


def normalize(x: Array) -> Array:
    """x / max(||x||, 1e-12) along the last axis, as torch.nn.functional does; for symbols x / ||x||, and 0 for 0."""
    length = norm(x)
    if _is_symbolic(x):
        return x / where(np.equal(length, 0, dtype=object), ones_like(length), length)
    return x / maximum(length, 1e-12)


def total_by(x: Array, labels: np.ndarray) -> Array:
    """Sums of the vector x over runs of equal labels; labels (len(x),) count 0, 1, 2 ... upwards without a gap."""
    if is_tensor(x):
        index = torch.as_tensor(labels, device=x.device)
        return x.new_zeros(int(labels[-1]) + 1).index_add(0, index, x)
    return np.add.reduceat(x, np.flatnonzero(np.diff(labels, prepend=-1)))


def transpose(x: Array) -> Array:
    """The last two axes exchanged."""
    return x.transpose(-1, -2) if is_tensor(x) else np.swapaxes(x, -1, -2)


def _axes(axis: int | Sequence[int] | None) -> int | tuple[int, ...] | None:
    return axis if axis is None or isinstance(axis, int) else tuple(axis)
