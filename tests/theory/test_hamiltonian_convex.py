"""G3 for every convex kinetic energy: Theorem 4.6's conditions out of monotone gradients, on several K, and without them."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

from reference.theory.hamiltonian import rate_cases
from reference.theory.hamiltonian_convex import KINETIC, S, condition_gaps, monotone_by_convexity, rates

GOOD = [name for name, k in KINETIC.items() if k.convex and k.rest == (0, 0)]


@pytest.mark.claim("T6")
@pytest.mark.claim("G3")
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_both_conditions_are_the_monotonicity_of_the_gradient(dim):
    assert monotone_by_convexity(dim) == 0  # M is a sum of two slacks that convexity keeps >= 0
    assert condition_gaps(dim) == (0, 0)
    for flow in ("cautious", "grams"):  # and what is left is <= 0 coordinate by coordinate
        assert all(c.loss.is_nonpositive and c.energy.is_nonpositive for c in rate_cases(flow))


@pytest.mark.claim("G3")
@pytest.mark.parametrize("name", KINETIC)
def test_the_kinetic_energies_are_what_they_are_said_to_be(name):
    kinetic = KINETIC[name]
    assert [k.subs(dict(zip(S, kinetic.rest, strict=True))) for k in kinetic.gradient] == [0, 0]
    first, determinant = (sp.lambdify(S, x, "numpy") for x in kinetic.minors())
    x, y = np.random.default_rng(0).uniform(-3, 3, (2, 4000))
    smallest = min(np.min(first(x, y)), np.min(determinant(x, y)))
    assert bool(smallest >= -1e-12) is kinetic.convex


def points(n=20_000):
    rng = np.random.default_rng(1)
    return rng.standard_normal((2, 2, n)) * 10 ** rng.uniform(-2, 1, (2, 1, n))


@pytest.mark.claim("G3")
@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("flow", ["cautious", "grams"])
def test_loss_and_energy_fall_for_every_convex_kinetic_energy(name, flow):
    s, g = points()
    for c, gamma in ((0.1, 0.5), (3.0, 0.01)):
        found = rates(KINETIC[name], flow, s, g, c=c, gamma=gamma)
        slack = 1e-12 * (1 + np.abs(found.loss) + np.abs(found.energy) + np.abs(found.push) + np.abs(found.friction))
        for part in (
            -found.push,
            -found.friction,
            found.loss,
            found.energy,
            found.energy + found.push + found.friction,
        ):
            assert (part <= 1e3 * slack).all()
        plain = rates(KINETIC[name], "plain", s, g, c=c, gamma=gamma)
        assert (found.loss <= plain.loss + 1e3 * slack).all()
        assert plain.loss.max() > 0  # along the plain flow the loss rises somewhere


@pytest.mark.claim("G3")
def test_without_convexity_the_loss_can_rise_and_with_another_rest_the_energy():
    s, g = points()
    bent = rates(KINETIC["not convex"], "grams", s, g, c=3.0, gamma=0.5)
    assert bent.push.min() < -0.1 and bent.loss.max() > 0.1
    shifted = rates(KINETIC["rest at 1"], "grams", s, g, c=0.1, gamma=0.5)
    assert shifted.friction.min() < 0 and shifted.push.min() >= 0
    still = np.array([[0.5], [0.0]])
    rising = rates(KINETIC["rest at 1"], "grams", still, 0 * still, c=0.1, gamma=0.5)
    assert rising.energy[0] == pytest.approx(0.125) and rising.loss[0] == 0  # g = 0: H rises by -<k, Psi> = 1/8


@pytest.mark.claim("G3")
def test_without_convexity_the_loss_need_not_rise():
    """The ledger once said that L rises with every K that is not convex. Here k falls, by less than a twentieth of |k|."""
    slope = sp.diff(KINETIC["nearly convex"].gradient[0], S[0])
    turns = [sp.acos(sp.Rational(-5, 6)), 2 * sp.pi - sp.acos(sp.Rational(-5, 6))]  # k falls between these, mod 2 pi
    assert all(sp.simplify(slope.subs(S[0], x)) == 0 for x in turns) and slope.subs(S[0], sp.pi) < 0
    high, low = (float(KINETIC["nearly convex"].gradient[0].subs(S[0], x)) for x in turns)
    assert 0 < high - low < low / 19  # the first fall from 0 on; later ones are as deep, and there k is larger
    s, g = points()
    for c in (0.1, 3.0):
        bent = rates(KINETIC["nearly convex"], "grams", s, g, c=c, gamma=0.5)
        assert bent.push.min() < -1e-3 and bent.loss.max() <= 0


@pytest.mark.claim("G3")
def test_lions_own_kinetic_energy_is_monotone_with_any_slope_at_zero():
    """K = |s|: (k(s + c g) - k(s)) g >= 0 in every sign case, with every choice of the slopes where an argument is 0."""
    slopes = {-1: (-1,), 0: (-1, sp.Rational(-1, 3), 0, sp.Rational(1, 2), 1), 1: (1,)}
    for s in (-2, -1, 0, 1, 2):
        for cg in (-3, -2, -1, 1, 2, 3):
            for before in slopes[int(np.sign(s))]:
                for after in slopes[int(np.sign(s + cg))]:
                    assert (after - before) * cg >= 0 and before * s >= 0
