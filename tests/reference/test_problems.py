"""reference.problems: each gradient is the function's, each minimum is one, L and mu hold where they are given."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
import torch

from reference.problems import Problem, logistic_regression, quadratic, rosenbrock, rotation, sine_bowl

PROBLEMS: dict[str, Problem] = {
    "diagonal": quadratic([1.0, 10.0, 100.0]),
    "turned": quadratic([0.5, 3.0, 40.0, 41.0], seed=3),
    "flat": quadratic([0.0, 2.0, 7.0], seed=1),
    "rosenbrock": rosenbrock(),
    "sine": sine_bowl(),
    "logistic": logistic_regression(),
}
each = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())


def points(problem: Problem, number: int = 40, seed: int = 0) -> np.ndarray:
    """Random points at several distances from the start."""
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.uniform(-2, 1, (number, 1))
    return problem.start + scales * rng.standard_normal((number, problem.dim))


def hessian(problem: Problem, w: np.ndarray) -> np.ndarray:
    h = torch.autograd.functional.hessian(problem.f, torch.tensor(w))
    assert isinstance(h, torch.Tensor)
    return h.numpy()


@each
def test_the_gradient_is_autograds(problem):
    for w in points(problem):
        x = torch.tensor(w, requires_grad=True)
        y = problem.f(x)
        (expected,) = torch.autograd.grad(y, x)
        assert y.ndim == 0 and float(problem.f(w)) == pytest.approx(y.item(), rel=1e-12, abs=1e-12)
        scale = max(1.0, float(expected.abs().max()))
        np.testing.assert_allclose(problem.grad(w), expected.numpy(), atol=1e-11 * scale)
        np.testing.assert_allclose(problem.grad(torch.tensor(w)).numpy(), expected.numpy(), atol=1e-11 * scale)


@pytest.mark.parametrize("name", ["diagonal", "turned", "flat", "rosenbrock", "sine"])
def test_the_gradient_is_the_derivative_symbolically(name):
    problem = PROBLEMS[name]
    w = np.array(sp.symbols(f"w:{problem.dim}", real=True), dtype=object)
    f, grad = problem.f(w), problem.grad(w)
    point = dict(zip(w, problem.start + 0.3, strict=True))
    for i, x in enumerate(w):
        assert float((sp.diff(f, x) - grad[i]).subs(point)) == pytest.approx(0, abs=1e-9)
    if name in ("rosenbrock", "sine"):  # no rounded numbers inside: the difference is zero for all w
        assert all(sp.simplify(sp.diff(f, x) - grad[i]) == 0 for i, x in enumerate(w))


@pytest.mark.slow  # 13 s: 569 rows, each a piecewise expression
def test_the_logistic_loss_takes_symbols():
    problem = PROBLEMS["logistic"]
    w = np.zeros(problem.dim, dtype=object)
    w[0] = sp.Symbol("a", real=True)
    f = problem.f(w)
    for a in (0.3, -2.0):
        assert float(f.subs(w[0], a)) == pytest.approx(float(problem.f(np.eye(problem.dim)[0] * a)), rel=1e-12)


def test_the_logistic_loss_takes_large_margins():
    problem = PROBLEMS["logistic"]
    far = 1e3 * np.ones(problem.dim)  # margins of thousands: exp of them would overflow
    assert np.isfinite(problem.f(far)) and np.isfinite(problem.grad(far)).all()


@each
def test_the_minimum_is_a_minimum(problem):
    assert problem.minimizer is not None
    assert problem.start.shape == problem.minimizer.shape == (problem.dim,)
    assert float(problem.f(problem.minimizer)) == pytest.approx(problem.minimum, abs=1e-13)
    assert np.abs(problem.grad(problem.minimizer)).max() < 1e-12
    assert np.linalg.eigvalsh(hessian(problem, problem.minimizer)).min() > -1e-12
    assert all(problem.f(w) >= problem.minimum - 1e-12 for w in points(problem, 200))


@each
def test_L_bounds_the_hessian_or_nothing_does(problem):
    norms = [np.linalg.norm(hessian(problem, w), 2) for w in points(problem)]
    if problem.L is None:  # Rosenbrock: it grows like 1200 x^2
        far = [np.linalg.norm(hessian(problem, s * np.ones(problem.dim)), 2) for s in (1e1, 1e2, 1e3)]
        assert far[1] > 50 * far[0] and far[2] > 50 * far[1]
    else:
        assert max(norms) <= problem.L * (1 + 1e-9)
        assert max(norms) > 0.2 * problem.L  # and it is no idle bound


@each
def test_mu_holds_at_random_points_or_nothing_does(problem):
    def ratio(w: np.ndarray) -> float:
        g = problem.grad(w)
        return float(g @ g / (2 * (problem.f(w) - problem.minimum)))

    ratios = [ratio(w) for w in points(problem, 300) if problem.f(w) > problem.minimum + 1e-12]
    if problem.mu is None:
        # Rosenbrock: at y = x^2 + (x - 1) / (200 x), beside the valley's floor, the first derivative is zero, the
        # second is (x - 1) / x, and f is more than (x - 1)^2: the ratio is less than 1 / (2 x^2)
        assert all(ratio(np.array([x, x**2 + (x - 1) / (200 * x)])) < 1 / (2 * x**2) for x in (1e1, 1e2, 1e3))
    else:
        assert min(ratios) >= problem.mu * (1 - 1e-9)


def test_mu_of_a_quadratic_is_reached_along_its_flattest_sloping_direction():
    a = [0.0, 2.0, 7.0]
    problem = quadratic(a, seed=1)
    direction = rotation(3, 1)[:, 1]
    g = problem.grad(direction)
    assert g @ g / (2 * problem.f(direction)) == pytest.approx(2.0, rel=1e-12)
    assert (problem.L, problem.mu) == (7.0, 2.0)


def test_the_sine_bowl_is_not_convex():
    assert hessian(PROBLEMS["sine"], np.array([np.pi / 2])).item() == pytest.approx(-4.0)  # 2 + 6 cos 2x
    assert hessian(PROBLEMS["sine"], np.array([0.0])).item() == pytest.approx(8.0)


def test_a_turned_quadratic_has_the_given_spectrum():
    q = rotation(5, 9)
    np.testing.assert_allclose(q @ q.T, np.eye(5), atol=1e-14)
    np.testing.assert_allclose(
        np.linalg.eigvalsh(hessian(PROBLEMS["turned"], np.zeros(4))), [0.5, 3, 40, 41], rtol=1e-12
    )
    assert np.abs(hessian(PROBLEMS["turned"], np.zeros(4)) - np.diag([0.5, 3, 40, 41])).max() > 1
    np.testing.assert_allclose(hessian(PROBLEMS["diagonal"], np.zeros(3)), np.diag([1, 10, 100]))


@pytest.mark.parametrize("spectrum", [[], [0.0], [0.0, 0.0], [1.0, -1.0], [[1.0]]], ids=str)
def test_a_bad_spectrum_is_refused(spectrum):
    with pytest.raises(ValueError, match="eigenvalues >= 0, not all zero, got"):
        quadratic(spectrum)


@pytest.mark.parametrize("l2", [0.0, -1.0, float("nan")])
def test_a_logistic_loss_without_regularisation_is_refused(l2):
    with pytest.raises(ValueError, match="l2 must be > 0"):
        logistic_regression(l2)
