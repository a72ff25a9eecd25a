"""The elementwise operations of reference.ops, and what each makes of X: for all readings, z3's among them."""

from __future__ import annotations

import numpy as np

from reference import ops

X = np.array([[-1.5, 0.25, 2.0], [3.0, -0.5, 1.0]])

ELEMENTWISE = {
    "sqrt": (lambda x: ops.sqrt(x * x + 1), np.sqrt(X**2 + 1)),
    "sign": (ops.sign, np.array([[-1, 1, 1], [1, -1, 1]])),
    "exp": (ops.exp, np.exp(X)),
    "log": (lambda x: ops.log(x * x), np.log(X**2)),
    "sin": (ops.sin, np.sin(X)),
    "absolute": (ops.absolute, np.array([[1.5, 0.25, 2], [3, 0.5, 1]])),
    "maximum": (lambda x: ops.maximum(x, 0.5), np.array([[0.5, 0.5, 2], [3, 0.5, 1]])),
    "positive": (lambda x: ops.where(ops.positive(x), x, 0 * x), np.array([[0, 0.25, 2], [3, 0, 1]])),
    "zeros_like": (ops.zeros_like, np.zeros((2, 3))),
    "ones_like": (ops.ones_like, np.ones((2, 3))),
    "transpose": (ops.transpose, X.T),
    "mean": (ops.mean, np.array([[4.25 / 6]])),
    "mean of rows": (lambda x: ops.mean(x, axis=1), np.array([[0.25], [3.5 / 3]])),
    "mean of both": (lambda x: ops.mean(x, axis=[0, 1]), np.array([[4.25 / 6]])),
    "total": (ops.total, np.array([[4.25]])),
    "total of columns": (lambda x: ops.total(x, axis=0), np.array([[1.5, -0.25, 3]])),
    "norm": (ops.norm, np.sqrt([[6.3125], [10.25]])),
    "normalize": (ops.normalize, X / np.sqrt([[6.3125], [10.25]])),
    "normalize of zero": (lambda x: ops.normalize(0 * x), np.zeros((2, 3))),
    "total_by": (lambda x: ops.total_by(x[0], np.array([0, 1, 1])), np.array([-1.5, 2.25])),
    "number": (lambda x: ops.sqrt(ops.number(4, x)) * x, 2 * X),
}
