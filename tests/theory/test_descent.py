"""Claims G1, G2: the first-order order of Grams, Cautious, Adam, and what the second order does to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import sympy as sp

from reference import adam, cautious, grams
from reference.descend import descend
from reference.problems import logistic_regression, quadratic, rosenbrock, sine_bowl
from reference.theory.descent import (
    ETA,
    OPTIONS,
    RULES,
    U,
    counterexample,
    direction,
    directions,
    duel,
    first_order_changes,
    quadratic_change,
    sign_cases,
    sufficient_formula,
    threshold_formula,
)
from reference.theory.descent import G as GRADIENT
from reference.theory.descent_runs import count_wins
from reference.theory.intervals import median_interval

ONE, SMALL = sp.Integer(1), sp.Rational(1, 10)


@pytest.mark.claim("G1")
def test_the_lines_are_the_three_directions():
    d = directions()
    assert d["Adam"] == U
    assert d["Grams"] == sp.sign(GRADIENT) * sp.Abs(U)
    assert d["Cautious"] == sp.Piecewise((U, GRADIENT * U > 0), (0, True))


@pytest.mark.claim("G1")
def test_first_order_decrease_is_ordered_in_every_sign_case():
    cases = sign_cases()
    assert {(c.sign_g, c.sign_u) for c in cases} == {(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)}
    for c in cases:
        assert c.cautious_minus_grams.is_nonnegative is True, c
        assert c.adam_minus_cautious.is_nonnegative is True, c
    strict = [(c.sign_g, c.sign_u) for c in cases if c.adam_minus_cautious.is_positive]
    assert strict == [(-1, 1), (1, -1)], "the three differ exactly where gradient and momentum disagree"


@pytest.mark.claim("G1")
def test_the_rescaling_of_cautious_breaks_the_order():
    one_disagrees = first_order_changes([ONE, ONE], [ONE, -SMALL])
    assert one_disagrees["Grams"] == -sp.Rational(11, 10)
    assert one_disagrees["Cautious, none"] == -1
    assert one_disagrees["Cautious, mean"] == -2 < one_disagrees["Grams"]  # dim / kept = 2 beats Grams
    all_agree = first_order_changes([ONE, ONE], [ONE, SMALL])
    assert all_agree["Cautious, count"] == sp.Rational(2, 3) * all_agree["Adam"] > all_agree["Adam"]


@pytest.mark.claim("G1")
@pytest.mark.parametrize("still", [(0, 1), (1, -1)], ids=["g = 0", "u = 0"])
def test_coordinates_that_neither_agree_nor_disagree_count_in_the_rescaling(still):
    """The ledger once said that Adam beats Cautious wherever all agree, not seeing products of 0."""
    how = {"lr": 1, "beta1": sp.Rational(1, 2), "beta2": sp.Rational(1, 2), "eps": 1}
    against_adam = []
    for more in range(3):
        g, m = (np.array([sp.Integer(x) for x in xs], dtype=object) for xs in zip((1, 1), *[still] * more, strict=True))
        decreases = [g @ rule.step(0 * g, g, rule.State(0, m, 0 * g), **how)[0] for rule in (cautious, adam, grams)]
        assert decreases[1] == decreases[2] < 0
        against_adam.append(decreases[0] / decreases[1])
    assert against_adam == [sp.Rational(1, 2), 1, sp.Rational(3, 2)]  # Adam wins, a tie, Cautious wins


def test_a_rule_with_another_average_is_refused():
    def swapped(w, g, state, *, lr, beta1, beta2, eps):
        return grams.step(w, g, state, lr=lr, beta1=beta2, beta2=beta1, eps=eps)

    with pytest.raises(ValueError, match="not Adam's"):
        direction(SimpleNamespace(__name__="swapped", State=grams.State, step=swapped))  # pyright: ignore[reportArgumentType]


@pytest.mark.claim("G2")
def test_quadratic_change_is_exact_and_gives_the_threshold():
    for dim in (1, 2, 3):
        left, right = quadratic_change(dim)
        assert sp.expand(left - right) == 0
    s, q, smooth, e, c = sp.symbols("S Q L E C", positive=True)
    assert threshold_formula() == 2 * s / q
    assert sp.simplify(sufficient_formula() - 2 * s / (smooth * e * sp.sqrt(e**2 + 4 * c**2))) == 0
    assert (-ETA * s + ETA**2 / 2 * q).subs(ETA, threshold_formula()) == 0


def spectrum(kappa):
    """Ten eigenvalues, evenly spread on a log scale, the largest 1."""
    return np.geomspace(1 / kappa, 1, 10).tolist()


def states(problem, path, lr, steps):
    """The states of a run at which Grams' and Cautious' step differ."""
    run = descend(RULES[path], problem, problem.start, steps=steps, lr=lr, **OPTIONS[path])
    for w, g, state in zip(run.w[:-1], run.g, run.states[:-1], strict=True):
        pair = duel(w, g, state)
        if pair.e_norm > 1e-6:
            yield w, pair


@pytest.mark.claim("G2")
@pytest.mark.parametrize("path", RULES)
def test_exact_threshold_on_real_states_of_a_quadratic(path):
    problem = quadratic(spectrum(100), seed=1)
    hessian = np.stack([problem.grad(e) for e in np.eye(problem.dim)])
    seen = 0
    for w, pair in states(problem, path, lr=0.1, steps=120):
        eta = pair.exact_threshold(hessian)
        assert pair.sufficient_threshold(1.0) <= eta * (1 + 1e-9)
        if not np.isfinite(eta):
            continue
        for factor, grams_better in ((0.9, True), (1.1, False)):
            gap = problem.f(w - factor * eta * pair.grams) - problem.f(w - factor * eta * pair.cautious)
            assert bool(gap < 0) is grams_better, (eta, gap)
        seen += 1
    assert seen > 20, "too few states at which the steps differ to have tested anything"


@pytest.mark.claim("G2")
@pytest.mark.parametrize("make", [logistic_regression, sine_bowl], ids=["convex", "not convex"])
def test_below_the_sufficient_step_size_grams_never_loses(make):
    problem, seen = make(), 0
    for w, pair in states(problem, "Adam", lr=0.1, steps=80):
        eta = pair.sufficient_threshold(problem.L)
        for factor in (0.1, 0.5, 1.0):
            gap = problem.f(w - factor * eta * pair.grams) - problem.f(w - factor * eta * pair.cautious)
            assert gap <= 1e-14 * (1 + abs(problem.f(w)))  # rounding of the loss
        seen += 1
    assert seen > 10


@pytest.mark.claim("G2")
def test_counterexample_one_grams_step_loses_to_the_cautious_step():
    out = counterexample()
    assert out["loss Cautious"] == out["loss"], "the cautious step stays"
    assert float(out["loss Grams"]) > 30 * float(out["loss Cautious"])
    assert abs(float(out["w Grams"])) > abs(float(out["w"])) and float(out["w Grams"]) * float(out["w"]) < 0


@pytest.mark.claim("G2")
def test_who_wins_along_real_runs_depends_on_the_step_size():
    problem = quadratic(spectrum(100), seed=1)
    shares = [count_wins(problem, "Grams", lr=lr, steps=200).grams_share for lr in (1e-3, 1e-1, 0.5)]
    assert shares[0] == 1.0 and shares[1] < 0.5 and shares[2] < 0.2
    assert all(
        count_wins(quadratic(spectrum(100), seed=k), "Grams", lr=0.5, steps=200).grams_share < 0.2 for k in (2, 3, 4)
    )
    along_axes = count_wins(quadratic(spectrum(100)), "Grams", lr=0.5, steps=200).grams_share
    assert 0.7 < along_axes < 0.8  # from (1, ..., 1) the order is turned by the rotation
    valley = count_wins(rosenbrock(), "Grams", lr=0.1, steps=200)
    assert valley.cautious > 10 * valley.grams
    with pytest.raises(ValueError, match="path must be one of"):
        count_wins(problem, "SGD", lr=0.1, steps=1)


@pytest.mark.claim("G2")
def test_turned_grams_loses_its_own_duels_from_every_start_and_along_the_axes_from_some():
    """Rotations and starts that chose nothing. The ledger once had one start along the axes: over 70 % was its luck."""

    def shares(turned, seeds: Iterable[int] = range(500, 540), steps=200):
        for seed in seeds:
            start = np.random.default_rng(seed).standard_normal(10)
            problem = replace(quadratic(spectrum(100), seed=seed if turned else None), start=start)
            yield count_wins(problem, "Grams", lr=0.5, steps=steps).grams_share

    turned, along = (np.array(list(shares(t))) for t in (True, False))
    assert turned.max() < 0.3 and 0.02 < median_interval(turned).low < median_interval(turned).high < 0.07
    assert 0.5 < median_interval(along).low < median_interval(along).high < 0.7
    assert along.min() < 0.5
    # other starts go beyond the 35 to 79 % that the ledger named next, and fewer steps halve the lead: both belong to the claim
    more = np.array(list(shares(False, seeds=[70007, 70094, 70002, 70015])))
    assert more.min() < 0.4 and more.max() > 0.8
    # "from a third" came of 700 runs; of 20,000 starts 1 in 400 lies below it
    few = np.array(list(shares(False, seeds=[4260, 6670, 18692, 11372])))
    assert few.max() < 0.3
    assert 0.4 < median_interval(np.array(list(shares(False, steps=50)))).low < 0.5
