"""Claim G2: the step size up to which Grams beats Cautious on every L-smooth loss, and the quadratic that needs it."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

from reference import claims, grams
from reference.theory.descent import ETA, OPTIONS, RULES, P, Q, U, attaining_quadratic, directions, duel
from reference.theory.descent import G as GRADIENT

EXACT = {"beta1": 0.5, "beta2": 0.5, "eps": 0.0}  # the betas of attaining_quadratic's state


@pytest.mark.claim("T2")
@pytest.mark.claim("G2")
def test_grams_extra_step_is_orthogonal_to_the_cautious_one():
    d = directions()
    for a in (-1, 0, 1):
        for b in (-1, 0, 1):
            extra = (d["Grams"] - d["Cautious"]) * d["Cautious"]
            assert sp.simplify(extra.subs({GRADIENT: a * P, U: b * Q})) == 0


@pytest.mark.claim("G1")
@pytest.mark.claim("G2")
@pytest.mark.claim("T2")
def test_the_claims_of_one_step_are_of_steps_without_weight_decay():
    """No row once said so, and the rules take one: Adam's goes into the gradient, that of the others shrinks the point."""
    assert claims.NO_DECAY in claims.render_full(claims.load())
    w, g, how = sp.Integer(-10), sp.Integer(1), {"lr": sp.Rational(1, 10), "eps": 0, "weight_decay": 1}
    change = {name: rule.step(w, g, rule.init(w), **how, **OPTIONS[name])[0] - w for name, rule in RULES.items()}
    assert change["Grams"] > change["Adam"], change  # g is 1: these are the first-order changes of the loss
    w, g = np.array([11.0]), np.array([1.0])  # (w - 10)^2 / 2: the decay carries the point past the minimum at 10
    state = grams.State(1, np.array([-1.0]), np.array([1.0]))
    assert duel(w, g, state).sufficient_threshold(1.0) > 0.1
    for decay, wins in ((0.0, True), (2.0, False)):
        far = {
            name: abs(float(RULES[name].step(w, g, state, lr=0.1, weight_decay=decay, **OPTIONS[name])[0][0]) - 10)
            for name in ("Grams", "Cautious")
        }
        assert (far["Grams"] < far["Cautious"]) is wins, far


@pytest.mark.claim("T2")
@pytest.mark.claim("G2")
def test_the_geometry_of_the_sufficient_step_size():
    """The two identities of the proof: from any z to p and q, and how far the middle of p and q lies from w."""
    z, w, c, e = (sp.Matrix(sp.symbols(f"{n}0:3", real=True)) for n in "zwce")
    p, q = w - ETA * c, w - ETA * (c + e)
    m = (p + q) / 2
    sides = (q - z).dot(q - z) + (p - z).dot(p - z)
    assert sp.expand(sides - 2 * (z - m).dot(z - m) - ETA**2 * e.dot(e) / 2) == 0
    assert sp.expand((m - w).dot(m - w) - ETA**2 * (c.dot(c) + e.dot(e) / 4 + c.dot(e))) == 0  # c . e = 0


@pytest.mark.claim("T2")
@pytest.mark.claim("G2")
@pytest.mark.parametrize(("e", "c", "root"), [(3, 2, 5), (4, "3/2", 5), (5, 6, 13), ("20/29", "21/58", 1)])
def test_no_larger_step_size_is_enough_for_every_smooth_loss(e, c, root):
    """Exactly: on this quadratic Grams and Cautious tie at the sufficient step size, Grams wins below it and loses above."""
    e, c, smooth, g = sp.Rational(e), sp.Rational(c), sp.Integer(7), [sp.Integer(2), sp.Rational(1, 3)]
    assert e**2 + 4 * c**2 == sp.Integer(root) ** 2
    tie = attaining_quadratic(e, c, g, smooth)
    assert set(tie.hessian.eigenvals()) == {smooth, -smooth}  # so the loss is L-smooth with L = 7
    assert list(tie.hessian * sp.Matrix(tie.w)) == g
    pair = duel(np.array(tie.w, float), np.array(g, float), (0, *(np.array(x, float) for x in tie.state[1:])), EXACT)
    assert (pair.e_norm, pair.c_norm) == (pytest.approx(float(e)), pytest.approx(float(c)))
    assert pair.sufficient_threshold(7.0) == pytest.approx(float(tie.eta), rel=1e-12)
    for factor, order in ((sp.Rational(999, 1000), -1), (sp.Integer(1), 0), (sp.Rational(1001, 1000), 1)):
        after = tie.losses(factor * tie.eta)
        assert sp.sign(after["Grams"] - after["Cautious"]) == order, factor
    old = 2 * g[1] * e / (smooth * e * (e + 2 * c))  # what the triangle inequality gives: too small
    assert old < tie.eta < old * sp.sqrt(2)
