"""G4 without momentum: the exact certificate of one step, the wider condition that follows, and both against runs."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import sympy as sp

from reference import grams
from reference.problems import quadratic, sine_bowl
from reference.theory import pl_certificate as pc
from reference.theory.pl_certificate import certify, ratio_to_bound, wider_condition
from reference.theory.pl_theorem import step_condition, sweep

LOWS = [Fraction(1, 100), Fraction(1, 5), Fraction(1, 2), Fraction(9, 10), Fraction(1)]
MUS = [Fraction(1, 1000), Fraction(1, 10), Fraction(1, 2), Fraction(1)]


@pytest.mark.claim("T5")
@pytest.mark.claim("G4")
def test_the_inequalities_add_up_exactly():
    assert pc.smoothness() == 0
    assert pc.identity() == 0
    b, t = sp.symbols("b t", positive=True)  # the second square: a = lo + t (2/L - 2 lo) for t in [0, 1], b = 1 - lo L
    inside = b**2 - (1 - ((1 - b) + t * (2 - 2 * (1 - b)))) ** 2
    assert sp.factor(inside - 4 * b**2 * t * (1 - t)) == 0


@pytest.mark.claim("T5")
@pytest.mark.claim("G4")
@pytest.mark.parametrize("mu", MUS, ids=str)
@pytest.mark.parametrize("low", LOWS, ids=str)
def test_a_rational_certificate_is_checked_by_sympy_alone(low, mu):
    """The sum of the three inequalities with these numbers, on two coordinates whose steps are the ends of the range."""
    found = certify(low, mu)
    p, lo, m, rate = (sp.Rational(x.numerator, x.denominator) for x in (found.p, found.low, found.mu, found.rate))
    at = {pc.L: sp.Integer(1), pc.LOW: lo, pc.P: p}
    x, y = (sp.sympify(k).subs(at) for k in pc.multipliers())
    assert x >= 0 and y >= 0 and p >= 1
    before, after = sp.symbols("D Dplus", nonnegative=True)
    steps, left = (lo, 2 - lo), before - after + x * (-2 * m * after) + y * (-2 * m * before)
    squares = sp.Integer(0)
    for i, a in enumerate(steps):
        g, h = sp.symbols(f"g{i} h{i}", real=True)
        left += x * h**2 + y * g**2 - ((g + h) * a * g / 2 - a**2 * g**2 / 4 + (g - h) ** 2 / 4)
        squares += (h - p * (1 - a) * g) ** 2 / (4 * p) + ((1 - lo) ** 2 - (1 - a) ** 2) * (1 + p) * g**2 / 4
    gap = sp.expand(left - ((1 - 2 * m * y) * before - (1 + 2 * m * x) * after - squares))
    assert gap == 0
    assert rate == (1 - 2 * m * y) / (1 + 2 * m * x) and 0 <= rate < 1
    assert found.rate <= 1 - mu * low * (2 - low)  # never worse than the descent lemma, which is p = 1
    assert certify(low, mu, p=Fraction(1)).rate == 1 - mu * low * (2 - low)


def test_a_certificate_with_a_negative_multiplier_is_refused():
    with pytest.raises(ValueError, match="negative"):
        certify(Fraction(1, 2), Fraction(1, 2), p=Fraction(8))
    with pytest.raises(ValueError, match="negative"):
        certify(Fraction(1, 2), Fraction(1, 2), p=Fraction(1, 2))
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        certify(Fraction(0), Fraction(1, 2))


@pytest.mark.claim("T5")
@pytest.mark.claim("G4")
def test_the_certificate_is_attained_where_smoothness_and_pl_agree():
    """mu = L: f = w^2 / 2 and a step of `low` leave exactly the rate; so no smaller rate is true."""
    for low in LOWS:
        assert certify(low, Fraction(1)).rate == (1 - low) ** 2


@pytest.mark.claim("G4")
def test_every_step_of_real_runs_keeps_the_certified_rate():
    for problem, mu in ((quadratic([0.1, 1.0], seed=1), Fraction(1, 10)), (sine_bowl(), Fraction(1755, 80000))):
        assert problem.L is not None
        for lr, eps in ((0.05, 0.5), (0.5, 4.0), (1.0, 1.0)):
            lr = lr / problem.L
            w, state, points = problem.start, grams.init(problem.start), []
            for _ in range(200):
                points.append(w)
                w, state = grams.step(w, problem.grad(w), state, lr=lr, eps=eps, beta1=0.0)
            G = max(np.abs(problem.grad(x)).max() for x in points)
            low = lr * problem.L / (eps + G)
            assert lr * problem.L / eps + low <= 2
            rate = float(certify(Fraction(low), mu).rate)
            gap = np.array([float(problem.f(x)) - problem.minimum for x in points])
            live = gap[:-1] > 1e-12
            assert (gap[1:][live] <= rate * gap[:-1][live] * (1 + 1e-9)).all() and live.sum() > 5


@pytest.mark.claim("G4")
def test_the_wider_condition_holds_the_simple_one_and_ends_where_the_bound_breaks():
    lr, eps = (x.ravel() for x in np.meshgrid(np.geomspace(1e-4, 20, 60), np.geomspace(1e-4, 30, 80)))
    inside = wider_condition(lr, eps, 1.0, 1.0)
    assert (
        inside[step_condition(lr, eps, 1.0, 1.0)].all() and inside.sum() > 1.1 * step_condition(lr, eps, 1.0, 1.0).sum()
    )
    assert wider_condition(1e-6, 8 * math.e - 1 - 1e-4, 1.0, 1.0) and not wider_condition(
        1e-6, 8 * math.e - 1, 1.0, 1.0
    )
    assert wider_condition(0.1, 20.6, 1.0, 1.0) and not wider_condition(0.1, 20.9, 1.0, 1.0)  # broken from 20.95 on
    chosen = inside & (lr > 3e-3)
    run = sweep(
        grams, quadratic([1.0]), lr[chosen], eps[chosen], steps=3000, beta1=0.0, loss=lambda w: (w**2).sum(axis=0) / 2
    )
    assert (run.G == 1).all() and (run.first_failure == 0).all()


@pytest.mark.claim("G4")
def test_the_worst_case_over_the_bound_as_a_curve():
    """At most 1 inside the condition, for every mu; near 1 at its edge for mu = L."""
    for lr in (Fraction(1, 100), Fraction(1, 10), Fraction(1), Fraction(5)):
        ratios = []
        for eps in (1, 3, 5, 9, 15, 20, 25):
            if lr / eps + lr / Fraction(eps + 1) > 2:
                continue
            worst = max(ratio_to_bound(lr, Fraction(eps), mu) for mu in MUS)
            ratios.append(worst)
            if wider_condition(float(lr), float(eps), 1.0, 1.0):
                assert worst <= 1, (lr, eps)
        assert ratios == sorted(ratios) and ratios[-1] > 1
    assert ratio_to_bound(Fraction(1, 10), Fraction(20), Fraction(1)) == pytest.approx(0.9634, abs=1e-4)
    assert ratio_to_bound(Fraction(1, 10), Fraction(20), Fraction(1, 1000)) == pytest.approx(0.967, abs=1e-3)
    with pytest.raises(ValueError, match="at most 2"):
        ratio_to_bound(Fraction(5), Fraction(1), Fraction(1))
