"""One name for an operation on NumPy arrays, torch tensors and SymPy expressions.

The algorithms of this package are written once, over these names and Python's own operators. What they are fed
decides how they are read:

    float64 NumPy arrays    the oracle that `fast` is held to
    torch tensors           differentiable with respect to anything that entered (gradient, lr, beta1 ...)
    SymPy expressions       the formula that the proofs of `reference.theory` start from; a vector or a matrix of
                            symbols is a NumPy array with dtype=object
    z3 expressions          what `reference.theory.solver` asks the solver about; alone or in such an array. z3 has no
                            sqrt, exp, atan2 ...: they stay names there, and who asks says what they stand for

Every function returns a new value and leaves its arguments as they were.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy as sp
import torch

Array = Any  # np.ndarray | torch.Tensor | sympy.Expr | float


def _is_z3(x: Array) -> bool:
    z3 = sys.modules.get("z3")  # there is no expression of a module that nobody has imported
    return z3 is not None and isinstance(x, z3.ExprRef)


def _is_symbolic(x: Array) -> bool:
    return isinstance(x, sp.Basic) or (isinstance(x, np.ndarray) and x.dtype == object) or _is_z3(x)


def _z3_term(name: str, *args: Any) -> Any:
    z3 = sys.modules["z3"]
    x = args[0]
    if name == "sign":
        return z3.If(x > 0, z3.RealVal(1), z3.If(x < 0, z3.RealVal(-1), z3.RealVal(0)))
    if name == "abs":
        return z3.If(x >= 0, x, -x)
    return z3.Function(name, *[z3.RealSort()] * (len(args) + 1))(*args)


def _apply(x: Array, name: str, symbolic: Callable[[Any], Any]) -> Array:
    """`name` of torch or NumPy, or `symbolic` entry by entry."""
    if isinstance(x, torch.Tensor):
        return getattr(torch, name)(x)
    if _is_symbolic(x):

        def entry(e: Any) -> Any:
            return _z3_term(name, e) if _is_z3(e) else symbolic(e)

        return np.vectorize(entry, otypes=[object])(x) if isinstance(x, np.ndarray) else entry(x)
    return getattr(np, name)(x)


def sqrt(x: Array) -> Array:
    """Square root, entry by entry."""
    return _apply(x, "sqrt", sp.sqrt)


def sign(x: Array) -> Array:
    """-1, 0 or 1, entry by entry; sign(0) = 0 and sign(NaN) = NaN in every reading that has one."""
    if isinstance(x, torch.Tensor):  # torch.sign(NaN) is 0 for some types and versions: make the NaN explicit
        return torch.where(torch.isnan(x), x, torch.sign(x))
    return _apply(x, "sign", sp.sign)


def exp(x: Array) -> Array:
    """Exponential, entry by entry."""
    return _apply(x, "exp", sp.exp)


def log(x: Array) -> Array:
    """Natural logarithm, entry by entry."""
    return _apply(x, "log", sp.log)


def sin(x: Array) -> Array:
    """Sine of radians, entry by entry."""
    return _apply(x, "sin", sp.sin)


def absolute(x: Array) -> Array:
    """Absolute value, entry by entry."""
    return _apply(x, "abs", sp.Abs)


def atan2(y: Array, x: Array) -> Array:
    """Angle of the point (x, y) in radians, in [-pi, pi]; atan2(0, 0) = 0 (SymPy itself says nan there)."""
    if isinstance(y, torch.Tensor):
        return torch.atan2(y, torch.as_tensor(x, dtype=y.dtype))
    if _is_symbolic(y) or _is_symbolic(x):

        def angle(b: Any, a: Any) -> Any:
            if _is_z3(b) or _is_z3(a):
                return _z3_term("atan2", b, a)
            return sp.Integer(0) if b == 0 and a == 0 else sp.atan2(b, a)

        both = np.vectorize(angle, otypes=[object])(y, x)
        return both if isinstance(y, np.ndarray) else both.item()
    return np.arctan2(y, x)


def where(condition: Array, a: Array, b: Array) -> Array:
    """a where the condition holds, else b; symbolically a `Piecewise`, for z3 an `If`."""
    if isinstance(condition, torch.Tensor):
        return torch.where(condition, a, b)
    if _is_symbolic(condition):

        def pick(c: Any, x: Any, y: Any) -> Any:
            return sys.modules["z3"].If(c, x, y) if _is_z3(c) else sp.Piecewise((x, c), (y, True))

        several = isinstance(condition, np.ndarray)
        return np.vectorize(pick, otypes=[object])(condition, a, b) if several else pick(condition, a, b)
    return np.where(condition, a, b)


def positive(x: Array) -> Array:
    """The condition x > 0, entry by entry, for `where`."""
    return np.greater(x, 0, dtype=object) if isinstance(x, np.ndarray) and x.dtype == object else x > 0


def maximum(x: Array, floor: float) -> Array:
    """The larger of x and the number `floor`, entry by entry; symbolically a `Max`."""
    if isinstance(x, torch.Tensor):
        return x.clamp(min=floor)
    if _is_symbolic(x):

        def larger(e: Any) -> Any:
            return where(e >= floor, e, floor) if _is_z3(e) else sp.Max(e, floor)

        return np.vectorize(larger, otypes=[object])(x) if isinstance(x, np.ndarray) else larger(x)
    return np.maximum(x, floor)


def zeros_like(x: Array) -> Array:
    """Zeros of x's shape and type; for torch without x's autograd history."""
    if isinstance(x, torch.Tensor):
        return torch.zeros_like(x)
    if _is_symbolic(x):

        def zero(e: Any) -> Any:
            return sys.modules["z3"].RealVal(0) if _is_z3(e) else sp.Integer(0)

        return np.vectorize(zero, otypes=[object])(x) if isinstance(x, np.ndarray) else zero(x)
    return np.zeros_like(x)


def ones_like(x: Array) -> Array:
    """Ones of x's shape and type; for torch without x's autograd history."""
    return zeros_like(x) + 1


def mean(x: Array, axis: int | Sequence[int] | None = None) -> Array:
    """Mean over `axis` (None: over all), the axes kept with length 1."""
    if isinstance(x, sp.Basic) or _is_z3(x):
        return x
    if isinstance(x, torch.Tensor):
        axes = tuple(range(x.ndim)) if axis is None else _axes(axis)
        return torch.mean(x, dim=axes, keepdim=True) if x.ndim else x
    if _is_symbolic(x):
        total = np.sum(x, axis=_axes(axis), keepdims=True)
        return total / number(x.size // total.size, x)
    return np.mean(x, axis=_axes(axis), keepdims=True)


def total(x: Array, axis: int | Sequence[int] | None = None) -> Array:
    """Sum over `axis` (None: over all), the axes kept with length 1."""
    if isinstance(x, sp.Basic) or _is_z3(x):
        return x
    if isinstance(x, torch.Tensor):
        axes = tuple(range(x.ndim)) if axis is None else _axes(axis)
        return torch.sum(x, dim=axes, keepdim=True) if x.ndim else x
    return np.sum(x, axis=_axes(axis), keepdims=True)


def constant(c: Any, like: Array) -> Array:
    """The numbers c in the type of `like`: a tensor beside tensors, an array beside arrays and symbols."""
    if isinstance(like, torch.Tensor):
        return torch.as_tensor(c, dtype=like.dtype, device=like.device)
    return np.asarray(c)


def number(c: Any, like: Array) -> Array:
    """The one number c in the type of `like`: exact beside symbols, a float64 beside arrays."""
    if isinstance(like, torch.Tensor):
        return torch.as_tensor(c, dtype=like.dtype, device=like.device)
    if any(map(_is_z3, like.flat if isinstance(like, np.ndarray) and like.dtype == object else [like])):
        return sys.modules["z3"].RealVal(c)
    return sp.sympify(c) if _is_symbolic(like) else np.float64(c)


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
    if isinstance(x, torch.Tensor):
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
    if isinstance(x, torch.Tensor):
        index = torch.as_tensor(labels, device=x.device)
        return x.new_zeros(int(labels[-1]) + 1).index_add(0, index, x)
    return np.add.reduceat(x, np.flatnonzero(np.diff(labels, prepend=-1)))


def transpose(x: Array) -> Array:
    """The last two axes exchanged."""
    return x.transpose(-1, -2) if isinstance(x, torch.Tensor) else np.swapaxes(x, -1, -2)


def _axes(axis: int | Sequence[int] | None) -> int | tuple[int, ...] | None:
    return axis if axis is None or isinstance(axis, int) else tuple(axis)
