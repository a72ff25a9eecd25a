"""The first two steps of each algorithm, worked out by hand.

One coordinate, w = 1, lr = 1/10, beta1 = 2/3, beta2 = 1/4, eps = 1, weight decay 1/2 (so lr times the decay is 1/20),
gradients 4 and then -1, chosen so that every root is whole and momentum and gradient disagree in step 2. No beta is
1/2: that would hide a beta in the place of 1 - beta.

    t = 1, g =  4:  m = 4/3                   mhat = (4/3) / (1/3)    = 4
                    v = 3/4 * 16 = 12         vhat = 12 / (3/4)       = 16    u = 4 / (4 + 1) = 4/5
    t = 2, g = -1:  m = 8/9 - 1/3 = 5/9       mhat = (5/9) / (5/9)    = 1
                    v = 3 + 3/4 = 15/4        vhat = (15/4) / (15/16) = 4     u = 1 / (2 + 1) = 1/3
"""

from __future__ import annotations

from math import atan, pi, sqrt
from typing import Any

import numpy as np
import pytest
from shelf import RULES

from reference import (
    adam,
    adam_atan2,
    adam_mini,
    adams,
    adamw,
    cautious,
    cautious_lion,
    cautious_weight_decay,
    grams,
    lion,
)

KW: dict[str, Any] = {"lr": 0.1, "beta1": 2 / 3, "beta2": 0.25}
EPS = {"eps": 1.0}
DECAY = {"weight_decay": 0.5}
EXACT: dict[str, Any] = {"rel": 1e-14, "abs": 1e-14}  # float64 rounding of a few operations


def two_steps(rule, w, g1, g2, **kwargs):
    """The parameters after step 1 and step 2, and the state after step 2."""
    w = np.array(w, dtype=float)
    w1, state = rule.step(w, np.array(g1, dtype=float), rule.init(w), **kwargs)
    w2, state = rule.step(w1, np.array(g2, dtype=float), state, **kwargs)
    return w1, w2, state


def test_every_algorithm_has_a_test_here():
    assert {name for name in RULES if f"test_{name}" in globals()} == set(RULES)


def test_adam():
    w1, w2, state = two_steps(adam, 1, 4, -1, **KW, **EPS)
    assert w1 == pytest.approx(1 - 0.08, **EXACT)  # lr 4/5
    assert w2 == pytest.approx(1 - 0.08 - 1 / 30, **EXACT)  # lr / 3, along the momentum
    assert tuple(state) == (2, pytest.approx(5 / 9, **EXACT), pytest.approx(3.75, **EXACT))
    # the decay of Adam is a part of the gradient: 3.5 + w/2 is the first gradient of 4
    w1, _, _ = two_steps(adam, 1, 3.5, 0, **KW, **EPS, **DECAY)
    assert w1 == pytest.approx(1 - 0.08, **EXACT)


def test_adamw():
    w1, w2, state = two_steps(adamw, 1, 4, -1, **KW, **EPS, **DECAY)
    assert w1 == pytest.approx(0.95 - 0.08, **EXACT)
    assert w2 == pytest.approx(0.87 * 0.95 - 1 / 30, **EXACT)
    assert tuple(state) == (2, pytest.approx(5 / 9, **EXACT), pytest.approx(3.75, **EXACT))


def test_grams():
    w1, w2, state = two_steps(grams, 1, 4, -1, **KW, **EPS, **DECAY)
    assert w1 == pytest.approx((1 - 0.08) * 0.95, **EXACT)
    assert w2 == pytest.approx((0.874 + 1 / 30) * 0.95, **EXACT)  # against the gradient, where Adam goes on along m
    assert tuple(state) == (2, pytest.approx(5 / 9, **EXACT), pytest.approx(3.75, **EXACT))
    _, w2, _ = two_steps(grams, 1, 4, 0, **KW, **EPS)
    assert w2 == pytest.approx(1 - 0.08, **EXACT)  # sign(0) = 0: no gradient, no step, though m = 8/9


def test_adam_atan2():
    w1, w2, state = two_steps(adam_atan2, 1, 4, -1, **KW, **DECAY)
    assert w1 == pytest.approx(0.95 - 0.1 * pi / 4, **EXACT)  # atan2(4, 4)
    assert w2 == pytest.approx((0.95 - 0.1 * pi / 4) * 0.95 - 0.1 * atan(1 / 2), **EXACT)  # atan2(1, 2)
    assert tuple(state) == (2, pytest.approx(5 / 9, **EXACT), pytest.approx(3.75, **EXACT))
    w1, _, _ = two_steps(adam_atan2, 1, 4, -1, **KW, a=2, b=3)
    assert w1 == pytest.approx(1 - 0.2 * atan(1 / 3), **EXACT)
    w1, _, _ = two_steps(adam_atan2, 1, 4, -1, **KW, a=4 / pi)
    assert w1 == pytest.approx(0.9, **EXACT)


def test_lion():
    # with g = -4 second: c = 4/3, then 2 - 4/3 > 0; m = 3, then 3/4 - 3. The decay reads the w of before the step.
    w1, w2, state = two_steps(lion, 1, 4, -4, **KW, **DECAY)
    assert w1 == pytest.approx(1 - 0.1 * (1 + 0.5), **EXACT)
    assert w2 == pytest.approx(0.85 - 0.1 * (1 + 0.425), **EXACT)
    assert tuple(state) == (pytest.approx(-2.25, **EXACT),)


# The second coordinate has gradients 4 and 4: u = 4/5 twice (m = 20/9, mhat = 4; v = 15, vhat = 16), and always agrees.
# So phi = (1, 1), then (0, 1), and line 11 is 2/(2+1), 2/(1+1); with "mean" 1, 2; with "none" 1, 1.
RESCALED = {"count": (2 / 3, 1.0), "mean": (1.0, 2.0), "none": (1.0, 1.0)}


@pytest.mark.parametrize("rescale", RESCALED)
def test_cautious(rescale):
    alpha1, alpha2 = RESCALED[rescale]
    w1, w2, state = two_steps(cautious, [1, 1], [4, 4], [-1, 4], **KW, **EPS, **DECAY, rescale=rescale)
    first = (1 - 0.08 * alpha1) * 0.95
    assert w1 == pytest.approx([first, first], **EXACT)
    assert w2 == pytest.approx([first * 0.95, (first - 0.08 * alpha2) * 0.95], **EXACT)
    assert state.m == pytest.approx([5 / 9, 20 / 9], **EXACT)
    assert state.v == pytest.approx([3.75, 15], **EXACT)


def test_cautious_weight_decay():
    """Three coordinates, 1, -1 and 1, of which the last has no gradient. The update 4/5 and then 1/3 brings the first nearer to 0
    and takes the second away from it, which so does not decay; where there is no update, there is decay."""
    w1, w2, state = two_steps(cautious_weight_decay, [1, -1, 1], [4, 4, 0], [-1, -1, 0], **KW, **EPS, **DECAY)
    assert w1 == pytest.approx([1 - 0.08 - 0.05, -1 - 0.08, 0.95], **EXACT)
    assert w2 == pytest.approx([0.87 - 1 / 30 - 0.05 * 0.87, -1.08 - 1 / 30, 0.95 * 0.95], **EXACT)
    assert state.m == pytest.approx([5 / 9, 5 / 9, 0], **EXACT)
    assert state.v == pytest.approx([3.75, 3.75, 0], **EXACT)


@pytest.mark.parametrize("rescale", RESCALED)
def test_cautious_lion(rescale):
    alpha1, alpha2 = RESCALED[rescale]
    w1, w2, state = two_steps(cautious_lion, [1, 1], [4, 4], [-4, 4], **KW, **DECAY, rescale=rescale)
    first = (1 - 0.1 * alpha1) * 0.95
    assert w1 == pytest.approx([first, first], **EXACT)
    assert w2 == pytest.approx([first * 0.95, (first - 0.1 * alpha2) * 0.95], **EXACT)
    assert state.m == pytest.approx([0.75 - 3, 0.75 + 3], **EXACT)


@pytest.mark.parametrize("rule", [cautious, cautious_lion])
def test_the_rescaling_of_a_mask_that_is_almost_empty(rule):
    """2000 entries, one agrees: "count" 2000 / (1 + 1), with xi = 3 2000 / 4, "mean" 1 / (1/1000) and not 2000."""
    w, g = np.zeros(2000), np.zeros(2000)
    g[7] = 4.0
    cases: list[tuple[dict[str, Any], float]] = [({}, 1000), ({"xi": 3}, 500), ({"rescale": "mean"}, 1000)]
    for options, alpha in cases:
        out, _ = rule.step(w, g, rule.init(w), **KW, **(EPS if rule is cautious else {}), **options)
        assert out[7] == pytest.approx(-alpha * (0.08 if rule is cautious else 0.1), **EXACT)
        assert not out[:7].any()
    empty, _ = rule.step(w, 0 * g, rule.init(w), **KW, rescale="mean")
    assert np.array_equal(empty, w)


def test_adam_mini():
    """Rows (1, 7) c and (2, 14) c: mean squares 25 c^2 and 100 c^2, and 62.5 c^2 for the whole tensor.

    With c = 4/5, then -1/5 the first row's v is the one of this file's head, and the second row's is four times that.
    Entries are 1/5, 7/5 ... of that gradient, and so are m and mhat: 4 and 1 become 4/5 and 1/5 of (1, 7).
    """
    g = np.array([[1, 7], [2, 14]])
    w1, w2, state = two_steps(adam_mini, np.ones((2, 2)), 0.8 * g, -0.2 * g, **KW, **EPS, **DECAY, blocks="rows")
    u1 = np.array([[0.8 / 5, 5.6 / 5], [1.6 / 9, 11.2 / 9]])  # roots 4 and 8, and eps = 1
    u2 = np.array([[0.2 / 3, 1.4 / 3], [0.4 / 5, 2.8 / 5]])  # roots 2 and 4
    np.testing.assert_allclose(w1, 0.95 - 0.1 * u1, rtol=1e-14)
    np.testing.assert_allclose(w2, (0.95 - 0.1 * u1) * 0.95 - 0.1 * u2, rtol=1e-14)
    np.testing.assert_allclose(state.v, [3.75, 15], rtol=1e-14)
    np.testing.assert_allclose(state.m, g / 9, rtol=1e-14)

    _, _, state = two_steps(adam_mini, np.ones((2, 2)), 0.8 * g, -0.2 * g, **KW)
    np.testing.assert_allclose(state.v, [3.75 * 2.5], rtol=1e-14)  # 62.5 = 2.5 * 25
    _, _, state = two_steps(adam_mini, np.ones((2, 2)), 0.8 * g.T, -0.2 * g.T, **KW, blocks="columns")
    np.testing.assert_allclose(state.v, [3.75, 15], rtol=1e-14)


def test_adams():
    """W = [[2, 3, 6], [0, 0, 0]], u = (1, 1): W^T u = (2, 3, 6), v = (2, 3, 6) / 7, W v = (7, 0), u' = (1, 0), sigma 7.

    So u' sigma v^T = W, and lines 6-7 take lr (1/2) sqrt(2) W from W. All gradients are those of this file's head:
    atan2(4, 4) = pi / 4, then atan2(1, 2) = atan(1/2). Step 2 starts from u = (1, 0), which picks W's first row.
    """
    w = np.array([[2.0, 3, 6], [0, 0, 0]])
    w1, w2, state = two_steps(adams, w, np.full((2, 3), 4), np.full((2, 3), -1), **KW, **DECAY)
    np.testing.assert_allclose(w1, (1 - 0.05 * sqrt(2)) * w - 0.1 * pi / 4, rtol=1e-14)
    first, second = w1  # u = (1, 0): v = first / |first|, W v = (|first|, <second, first> / |first|)
    wv = np.array([first @ first, second @ first]) / sqrt(first @ first)
    sigma = sqrt(wv @ wv)
    rank_one = np.outer(wv, first) / sqrt(first @ first)
    np.testing.assert_allclose(w2, w1 - 0.05 * sqrt(2) * rank_one - 0.1 * atan(1 / 2), rtol=1e-13)
    np.testing.assert_allclose(state.u, wv / sigma, rtol=1e-13)
    assert state.sigma == pytest.approx(sigma, rel=1e-13)
    assert (state.t, state.m.max(), state.v.max()) == (2, pytest.approx(5 / 9), pytest.approx(3.75))


def test_adams_for_a_vector_and_for_a_matrix_without_spectral_decay():
    for w, options in ((np.ones(3), {}), (np.ones((3, 2)), {"use_spectral_decay": False})):
        w1, w2, _ = two_steps(adams, w, 4 * w, -w, **KW, weight_decay=9, scalar_vector_weight_decay=0.5, **options)
        np.testing.assert_allclose(w1, 0.95 - 0.1 * pi / 4, rtol=1e-14)
        np.testing.assert_allclose(w2, (0.95 - 0.1 * pi / 4) * 0.95 - 0.1 * atan(1 / 2), rtol=1e-14)


def test_adams_as_released():
    """lr / (1 - beta1^t) before atan2: lr / (1/3) atan2(4/3, 4), then lr / (5/9) atan2(5/9, 2)."""
    w1, w2, _ = two_steps(adams, 1, 4, -1, **KW, scalar_vector_weight_decay=0.5, as_released=True)
    assert w1 == pytest.approx(0.95 - 0.3 * atan(1 / 3), **EXACT)
    assert w2 == pytest.approx(float(w1) * 0.95 - 0.18 * atan(5 / 18), **EXACT)
