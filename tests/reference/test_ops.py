"""reference.ops: one name, three readings, and the places where the libraries disagree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp
import torch
from operations import ELEMENTWISE, X

from reference import ops

Y = np.array([[0.5, 2.0, -1.0], [-2.0, 1.5, 4.0]])


def symbolic(x: np.ndarray) -> np.ndarray:
    """Exact numbers as SymPy expressions: what an operation makes of them must be a SymPy expression too."""
    return np.vectorize(lambda e: sp.Rational(str(e)), otypes=[object])(x)


def numbers(x: Any) -> np.ndarray:
    if isinstance(x, torch.Tensor):
        return x.numpy()
    return np.vectorize(float, otypes=[float])(x)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_three_readings_of_an_operation(name):
    operation, expected = ELEMENTWISE[name]
    for make in (np.array, torch.tensor, symbolic):
        out = operation(make(X))
        np.testing.assert_allclose(numbers(out), expected, rtol=1e-14, atol=1e-15, err_msg=make.__name__)
        assert isinstance(out, torch.Tensor) == (make is torch.tensor)
        if make is symbolic:
            assert all(isinstance(e, sp.Basic) for e in np.ravel(out))


@pytest.mark.parametrize("name", ["sqrt", "sign", "exp", "sin", "absolute", "maximum", "zeros_like", "mean", "total"])
def test_a_single_expression_is_read_too(name):
    operation, _ = ELEMENTWISE[name]
    x = sp.Symbol("x", real=True)
    out = operation(x)
    assert isinstance(out, sp.Expr)
    expected = {"zeros_like": 0.0}.get(name, float(operation(np.array(0.7))))
    assert float(out.subs(x, 0.7)) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("make", [np.array, torch.tensor, symbolic], ids=lambda f: f.__name__)
def test_atan2_in_all_four_quadrants_and_at_the_origin(make):
    np.testing.assert_allclose(numbers(ops.atan2(make(Y), make(X))), np.arctan2(Y, X), rtol=1e-15)
    zero = make(np.array([0.0]))
    assert numbers(ops.atan2(zero, zero)).item() == 0  # SymPy's own atan2(0, 0) is nan


def test_atan2_of_expressions():
    x, y = sp.symbols("x y", positive=True)
    assert ops.atan2(y, x) == sp.atan2(y, x) and ops.atan2(y, sp.Integer(0)) == sp.pi / 2
    assert ops.atan2(sp.Integer(0), sp.Integer(0)) == 0
    assert list(ops.atan2(np.array([y, sp.Integer(0)]), np.array([x, sp.Integer(0)]))) == [sp.atan2(y, x), 0]


def test_the_sign_of_zero_is_zero_and_of_nan_is_nan():
    for make in (np.array, torch.tensor):
        np.testing.assert_array_equal(numbers(ops.sign(make([0.0, -0.0, np.nan, -np.inf]))), [0, 0, np.nan, -1])
    assert ops.sign(sp.Integer(0)) == 0 and ops.sign(sp.nan) is sp.nan


def test_where_with_symbols_is_a_piecewise():
    x = sp.Symbol("x", real=True)
    out = ops.where(ops.positive(x), 2 * x, 0 * x)
    assert isinstance(out, sp.Piecewise) and out.subs(x, 3) == 6 and out.subs(x, -3) == 0 and out.subs(x, 0) == 0
    vector = np.array([x, -x], dtype=object)
    left, right = ops.where(ops.positive(vector), vector, 0 * vector)
    assert (left.subs(x, 3), right.subs(x, 3)) == (3, 0)


def test_normalize_is_torchs_with_its_floor():
    rng = np.random.default_rng(0)
    for scale in (1.0, 1e-10, 1e-13, 1e-20):
        x = scale * rng.standard_normal((2, 4, 5))
        expected = torch.nn.functional.normalize(torch.tensor(x), dim=-1)
        np.testing.assert_allclose(ops.normalize(x), expected.numpy(), rtol=1e-13)
        np.testing.assert_allclose(ops.normalize(torch.tensor(x)).numpy(), expected.numpy(), rtol=1e-13)


def test_the_norm_at_zero_has_a_finite_gradient_in_torch():
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    ops.norm(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 0, 0]


def test_total_by_is_differentiable_and_symbolic():
    labels = np.array([0, 0, 1, 2, 2])
    x = torch.arange(5.0, dtype=torch.float64, requires_grad=True)
    (ops.total_by(x, labels) * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1, 1, 10, 100, 100]
    a = np.array(sp.symbols("a:5"), dtype=object)
    assert list(ops.total_by(a, labels)) == [a[0] + a[1], a[2], a[3] + a[4]]


def test_numbers_and_constants_take_the_type_of_their_company():
    t = torch.zeros(2, dtype=torch.float32)
    assert ops.number(3, t).dtype == ops.constant([1, 2], t).dtype == torch.float32
    assert ops.number(3, np.zeros(2)) == 3 and isinstance(ops.number(3, np.zeros(2)), np.float64)
    assert ops.sqrt(ops.number(2, sp.Symbol("x"))) == sp.sqrt(2)  # exact beside symbols
    assert ops.sqrt(ops.number(2, symbolic(X))) == sp.sqrt(2)
    assert (ops.constant([1.0, 2.0], np.zeros(2)) == [1, 2]).all()


def test_shapes_and_sizes():
    assert ops.shape_of(sp.Symbol("x")) == ops.shape_of(1.0) == () and ops.size_of(sp.Symbol("x")) == 1
    for make in (np.array, torch.tensor, symbolic):
        assert ops.shape_of(make(X)) == (2, 3) and ops.size_of(make(X)) == 6
        assert ops.shape_of(ops.total(make(X), axis=-1)) == (2, 1)
        assert ops.shape_of(ops.mean(make(X))) == (1, 1)


def test_zeros_like_leaves_autograds_history_behind():
    x = torch.ones(2, requires_grad=True)
    assert not ops.zeros_like(2 * x).requires_grad and not ops.ones_like(2 * x).requires_grad


def test_arguments_stay_as_they_were():
    for make in (np.array, torch.tensor, symbolic):
        for operation, _ in ELEMENTWISE.values():
            x = make(X)
            operation(x)
            np.testing.assert_array_equal(numbers(x), X)
