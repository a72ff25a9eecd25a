"""Claim A4: when Adam spikes, on the smallest problem that shows it, and what atan2 changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sympy as sp

from reference import adam, adam_atan2, adams
from reference.descend import descend
from reference.problems import quadratic
from reference.theory import adaptive_spikes as spikes


@pytest.mark.claim("A4")
def test_a_small_second_moment_makes_the_minimum_repel_with_and_without_atan2() -> None:
    points = [spikes.rest_point(adam, eps=0), spikes.rest_point(adam_atan2), spikes.rest_point(adams)]
    b, lr, h, s = spikes.BETA1, spikes.LR, spikes.H, spikes.S
    for point in points:
        assert sp.simplify(point.matrix - points[0].matrix) == sp.zeros(2, 2)
        assert sp.simplify(point.matrix.det() - b) == 0  # < 1: no complex pair can leave the unit circle
        assert sp.simplify(point.at_one - lr * h * (1 - b) / s) == 0  # > 0: nor z = 1
        assert sp.simplify(point.smallest_s - lr * h * (1 - b) / (2 * (1 + b))) == 0
        assert sp.simplify(sp.diff(point.at_minus_one, s) - lr * h * (1 - b) / s**2) == 0  # falls as s shrinks


@pytest.mark.claim("A4")
def test_an_epsilon_above_the_threshold_is_a_guard_that_atan2_gives_up() -> None:
    b, lr, h = spikes.BETA1, spikes.LR, spikes.H
    with_eps = spikes.rest_point(adam, eps=spikes.EPS)
    assert sp.simplify(with_eps.smallest_s + spikes.EPS - lr * h * (1 - b) / (2 * (1 + b))) == 0
    guarded = spikes.run_quadratic(adam, eps=1e-3, steps=6000, beta2=0.99)  # the threshold is 1e-2 / 38 = 2.6e-4
    assert guarded.crossing is None and guarded.quiet < 1e-9
    for rule, eps in ((adam, 1e-4), (adams, None)):
        free = spikes.run_quadratic(rule, eps=eps, steps=6000, beta2=0.99)
        assert free.crossing is not None and free.quiet < 1e-9 and free.height > 0.2


@pytest.mark.claim("A4")
@pytest.mark.parametrize("beta2", [0.95, 0.99])
def test_adams_spikes_too_on_the_one_dimensional_quadratic(beta2: float) -> None:
    for rule, eps in ((adam, 1e-8), (adam_atan2, None), (adams, None)):
        run = spikes.run_quadratic(rule, eps=eps, beta2=beta2, steps=4000)
        assert run.crossing is not None
        assert run.quiet < 1e-3 and run.height > 0.1  # |w| in units of lr: at least a hundredfold, on a noiseless bowl
        loss = run.trajectory.loss
        assert loss[run.crossing :].max() > 1e4 * loss[run.crossing - 1]


@pytest.mark.claim("A4")
def test_atan2_halves_the_spike_at_beta2_0999_and_not_at_099() -> None:
    plain, angle = (spikes.run_quadratic(r, steps=16_000, eps=e).height for r, e in ((adam, 1e-8), (adams, None)))
    assert plain == pytest.approx(1.08, abs=0.1) and angle == pytest.approx(0.53, abs=0.05)
    plain, angle = (
        spikes.run_quadratic(r, steps=6000, eps=e, beta2=0.99).height for r, e in ((adam, 1e-8), (adams, None))
    )
    assert angle == pytest.approx(plain, rel=0.1)


def test_the_lines_of_a_run_follow_the_linear_map_near_rest() -> None:
    beta1, beta2, lr, s = 0.9, 0.999, 1e-2, 1e-4
    values = {spikes.BETA1: beta1, spikes.BETA2: beta2, spikes.LR: lr, spikes.H: 1, spikes.S: s}
    matrix = np.array(spikes.rest_point(adams).matrix.subs(values), dtype=float)
    w, m, t = 1e-12, 3e-12, 100_000
    state = adams.init(np.zeros(1))._replace(t=t, m=np.array([m]), v=np.array([s**2 / beta2]))
    new, after = adams.step(
        np.array([w]), np.array([w]), state, lr=lr, beta1=beta1, beta2=beta2, scalar_vector_weight_decay=0.0
    )
    np.testing.assert_allclose([new[0], after.m[0]], matrix @ [w, m], rtol=1e-9)


@pytest.mark.claim("A4")
@pytest.mark.parametrize("rule", [adam, adams], ids=["adam", "adams"])
def test_one_step_is_bounded_even_without_atan2(rule) -> None:
    left, right = spikes.ratio_step_remainder(rule)
    assert sp.simplify(left - right) == 0  # the induction m^2 <= C v, for every gradient
    # the closed form is the limit of the recursion C' = b1^2 C / b2 + (1 - b1)^2 / (1 - b2)
    c = 0.0
    for _ in range(3000):
        c = 0.81 * c / 0.95 + 0.01 / 0.05
    assert math.sqrt(c) == pytest.approx(spikes.ratio_bound(0.9, 0.95), rel=1e-12)


@pytest.mark.parametrize(("beta2", "t"), [(0.95, 1), (0.95, 7), (0.999, 40), (0.999, 400)])
def test_the_bound_is_attained_and_never_passed(beta2: float, t: int) -> None:
    def longest(gradients: np.ndarray) -> float:
        w, state = np.zeros(gradients.shape[1:]), adam.init(np.zeros(gradients.shape[1:]))
        before = w
        for g in gradients:
            before = w
            w, state = adam.step(w, g, state, lr=1.0, beta2=beta2, eps=0.0)
        return float(np.abs(w - before).max())

    bound = spikes.ratio_bound(0.9, beta2, t)
    assert longest(spikes.worst_gradients(0.9, beta2, t)[:, None]) == pytest.approx(bound, rel=1e-9)
    noise = np.random.default_rng(0).standard_cauchy((t, 2000))
    assert longest(noise) <= bound * (1 + 1e-9)


@pytest.mark.claim("A1")
def test_bounds_of_both_customary_betas() -> None:
    # what the ledger once said is never exceeded, 7.27, is: `worst_gradients` attains the bound of every t
    assert 7.27 < spikes.ratio_bound(0.9, 0.999, t=12_000) < spikes.ratio_bound(0.9, 0.999) < 7.271
    assert spikes.ratio_bound(0.9, 0.95) == pytest.approx(1.165, abs=1e-3)
    assert spikes.ratio_bound(0.95, 0.9) == math.inf


@pytest.mark.claim("A4")
@pytest.mark.parametrize(
    ("beta2", "plain", "angle", "once", "twice"),
    [(0.95, 5.84, 5.71, (0.69, 1.92), (1.85, 3.00)), (0.999, 31.8, 20.9, (0.53, 1.48), (1.53, 2.47))],
)
def test_an_outlier_still_carries_adams_far_and_clipping_still_helps(
    beta2: float, plain: float, angle: float, once: tuple[float, float], twice: tuple[float, float]
) -> None:
    """Clipped, it matters whether it comes in its sign's turn: the ledger once said "below 1", which is of that alone."""
    for rule, way in ((adam, plain), (adams, angle)):
        step, whole = spikes.outlier_travel(rule, 1e6, beta2=beta2)
        assert whole == pytest.approx(way, rel=0.01)
        assert whole == pytest.approx(spikes.outlier_limit(0.9, beta2, angle=rule is adams), rel=1e-3)
        assert step <= (math.pi / 2 if rule is adams else spikes.ratio_bound(0.9, beta2))
        for sign, at_once, at_twice in zip((1, -1), once, twice, strict=True):
            assert spikes.outlier_travel(rule, sign * 1e6, beta2=beta2)[1] == pytest.approx(whole, rel=1e-3)
            for clip, expected in ((1.0, at_once), (2.0, at_twice)):  # to the size of the others, and to twice that
                found = spikes.outlier_travel(rule, sign * 1e6, beta2=beta2, clip=clip)[1]
                assert found == pytest.approx(expected, abs=0.02)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"beta2=1\.0"):
        spikes.run_quadratic(adam, beta2=1.0)
    with pytest.raises(ValueError, match="t must be"):
        spikes.ratio_bound(0.9, 0.99, 0)


def test_run_quadratic_is_descend_on_the_same_bowl() -> None:
    run = spikes.run_quadratic(adam, lr=0.1, h=3.0, steps=50)
    again = descend(adam, quadratic([3.0]), [1.0], steps=50, lr=0.1)
    np.testing.assert_array_equal(run.trajectory.w, again.w)
    assert run.root[0] == pytest.approx(3.0)  # sqrt(vhat) at t = 1 is |g| = h
