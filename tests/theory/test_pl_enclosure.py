"""Theorem 4.15 between bounds: when it first breaks, where it breaks for a large eps, and the balls that say so (G4)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from flint import arb, ctx

from reference import adam, adams, grams
from reference.theory.balls import Undecided, ball, decide, less, path, precision
from reference.theory.pl_enclosure import first_failure, outlasts
from reference.theory.pl_theorem import step_condition, theorem_bound


@pytest.mark.claim("G4")
@pytest.mark.parametrize(
    ("lr", "T", "bits", "loss", "bound"),
    [("0.5", 2650, 4600, "0.0026067", "0.0015094"), ("0.1", 7356, 11000, "0.0059409", "0.0027189")],
)
def test_the_first_step_that_breaks_the_bound_is_certain(lr, T, bits, loss, bound):
    """float64 says 2648 and 7482: the balls decide at every T up to the failure, so they prove that it is wrong."""
    found = first_failure(grams, lr, "1e-8", steps=T, bits=bits)
    assert found is not None and found.T == T
    assert found.G == 1  # exactly: no gradient is larger than the first
    for value, text in ((found.loss, loss), (found.bound, bound)):
        assert abs(value - arb(text)) < arb("1e-7")


@pytest.mark.claim("G4")
def test_adam_breaks_the_bound_too():
    found = first_failure(adam, "0.5", "1e-8", steps=3353, bits=8000)
    assert found is not None and found.T == 3353


@pytest.mark.claim("G4")
def test_on_the_simplest_quadratic_the_bound_breaks_from_21_gradients_of_eps_on():
    """lr 0.1, beta1 = 0, and G = 1: at eps = 20.9 it holds for every T, at 20.95 and 21 it is broken."""
    assert outlasts("0.1", "20.9", steps=600)
    for eps, T in (("20.95", 102), ("21", 99), ("30", 59)):
        found = first_failure(grams, "0.1", eps, steps=600, bits=256, beta1="0")
        assert found is not None and found.T == T, eps
        assert not outlasts("0.1", eps, steps=600)
    with pytest.raises(ValueError, match="steps must be"):
        outlasts("0.1", "20.9", steps=50)


@pytest.mark.claim("G4")
def test_from_which_eps_on_it_breaks_depends_on_the_step_and_on_momentum():
    """The ledger once said "21 times the gradient or more" of every lr, beside betas at which lr 0.1 keeps the bound at 21."""
    assert outlasts("1", "21", steps=100) and not outlasts("1", "23", steps=100)
    assert first_failure(grams, "0.1", "21", steps=1000, bits=1500) is None  # beta1 = 0.9
    assert first_failure(grams, "0.1", "24", steps=1000, bits=1500) is not None


@pytest.mark.claim("G4")
def test_it_depends_on_beta2_and_on_the_start_too():
    """The ledger once named lr 0.1 alone. From another start w all is as with lr / w from 1."""
    assert outlasts("0.1", "20.95", steps=600, beta2="0.5")  # at 0.999 it is broken there
    found = first_failure(grams, "0.03", "20.9", steps=1000, bits=256, beta1="0")
    assert found is not None and found.T == 344  # at lr 0.1 it holds there for every T


@pytest.mark.claim("G4")
def test_with_momentum_the_added_condition_is_not_enough():
    """|w|^2 / 2 with one entry 1, which is G, and 300 of 0.17: at lr = eps = 9.8 these overshoot, and they are the loss."""
    assert step_condition(9.8, 9.8, 1.0, 1.0)
    counts, start = (1, 300), np.array([ball(1), ball("0.17")], dtype=object)

    def first_broken(eps, beta1):
        G, first = ball(0), sum(n * x**2 for n, x in zip(counts, start, strict=True)) / 2
        for t, w, g, _ in path(grams, lambda w: w, start, 40, lr=eps, beta1=beta1, beta2="0.999", eps=eps):
            G = max(G, *(abs(x) for x in g), key=lambda x: x.mid())
            loss = sum(n * x**2 for n, x in zip(counts, w, strict=True)) / 2
            if less(theorem_bound(G, ball(1), ball(eps), t, first), loss):
                return t, G == 1
        return None

    with precision(300):
        assert first_broken("9.8", "0.9") == (2, True)
        assert first_broken("9.8", "0") is None and first_broken("3", "0.9") is None


def test_a_run_of_balls_encloses_the_float_run():
    """The same lines on floats: while errors are still small, the balls hold what float64 comes out with, and are narrow."""
    w = np.array([1.0])
    state = grams.init(w)
    with precision(300):
        for t, x, _, after in path(grams, lambda w: w, ball(1), 60, lr="0.1", beta1="0.9", beta2="0.999", eps="1e-8"):
            w, state = grams.step(w, w, state, lr=0.1)
            assert abs(float(x) - w[0]) < 1e-9 and abs(float(after.v) - state.v[0]) < 1e-12
            assert x.rad() < arb("1e-40") and after.t == t


@pytest.mark.parametrize(("rule", "hyper"), [(adam, {"eps": "0"}), (adams, {"scalar_vector_weight_decay": 0})])
def test_arrays_of_balls_run_through_the_lines(rule, hyper):
    start = np.array([ball(1), ball("-0.5")], dtype=object)
    *_, (_, w, _, state) = path(rule, lambda w: 3 * w, start, 5, lr="0.01", beta1="0.9", beta2="0.95", **hyper)
    floats = np.array([1.0, -0.5])
    given = {k: float(v) for k, v in hyper.items()}
    old = rule.init(floats)
    for _ in range(5):
        floats, old = rule.step(floats, 3 * floats, old, lr=0.01, beta1=0.9, beta2=0.95, **given)
    assert all(isinstance(x, arb) for x in (*w, *state.m))
    np.testing.assert_allclose(np.array([float(x) for x in w]), floats, rtol=1e-12)


def test_what_overlaps_is_not_decided():
    wide = arb(1, 0.5)
    with pytest.raises(Undecided):
        less(wide, 1)
    assert less(wide, 2) and not less(4 * wide, 1)
    with pytest.raises(Undecided, match="overlap"):  # too few bits for 2650 steps, and for four times as many bits
        first_failure(grams, "0.5", "1e-8", steps=3000, bits=64)
    tried = []

    def question():
        tried.append(ctx.prec)
        if ctx.prec < 200:
            raise Undecided
        return "answer"

    before = ctx.prec
    assert decide(question, bits=60, most=1000) == "answer" and tried == [60, 120, 240]
    assert ctx.prec == before


def test_a_sign_that_is_not_known_is_a_ball_and_not_a_guess():
    moved, _ = grams.step(
        ball(0), arb(0, 1), grams.init(ball(0)), lr=ball(1), beta1=ball(0), beta2=ball(0), eps=ball(1)
    )
    assert moved.contains(arb(0.5)) and moved.contains(arb(-0.5))


@pytest.mark.parametrize("value", [0.9, True, None])
def test_a_float_is_refused_as_an_exact_number(value):
    with pytest.raises(TypeError, match="decimal as text"):
        ball(value)
    assert ball("0.9").contains(ball(Fraction(9, 10)))
