"""What is particular to reference.adams: power iteration, batches, which decay a tensor gets, the zero matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from reference import adams

STILL: dict[str, Any] = {"lr": 0.1, "beta1": 0.9, "beta2": 0.95}


def decayed(w: np.ndarray, **kwargs: Any) -> np.ndarray:
    """One step with no gradient: the decay alone."""
    return adams.step(w, 0 * w, adams.init(w), **(STILL | kwargs))[0]


def test_the_power_iteration_finds_the_top_singular_triplet():
    w = np.random.default_rng(0).standard_normal((5, 3, 7))
    assert adams.init(w).u.shape == (5, 3)
    u, sigma, v = adams.power_iteration_step(adams.init(w).u, w)
    for _ in range(300):
        u, sigma, v = adams.power_iteration_step(u, w)
    left, values, right = np.linalg.svd(w)
    np.testing.assert_allclose(sigma, values[:, 0], rtol=1e-12)
    np.testing.assert_allclose(np.abs(np.sum(u * left[:, :, 0], -1)), 1, rtol=1e-9)
    np.testing.assert_allclose(np.abs(np.sum(v * right[:, 0], -1)), 1, rtol=1e-9)
    np.testing.assert_allclose(np.sign(np.sum(u * left[:, :, 0], -1)), np.sign(np.sum(v * right[:, 0], -1)))


def test_a_batch_of_matrices_is_each_matrix_on_its_own():
    rng = np.random.default_rng(1)
    w = rng.standard_normal((2, 3, 4, 5))
    gs = [rng.standard_normal(w.shape) for _ in range(4)]

    def run(w, gs):
        state = adams.init(w)
        for g in gs:
            w, state = adams.step(w, g, state, lr=0.05)
        return w, state

    whole, state = run(w, gs)
    assert state.u.shape == (2, 3, 4) and state.sigma.shape == (2, 3)
    for i in np.ndindex(2, 3):
        alone, own = run(w[i], [g[i] for g in gs])
        np.testing.assert_allclose(alone, whole[i], rtol=1e-13)
        np.testing.assert_allclose(own.u, state.u[i], rtol=1e-12)
        np.testing.assert_allclose(own.sigma, state.sigma[i], rtol=1e-13)


def test_a_convolution_is_a_stack_of_its_h_x_w_matrices():
    w = np.random.default_rng(2).standard_normal((4, 2, 3, 5))
    state = adams.init(w)
    assert state.u.shape == (4, 2, 3) and state.sigma.shape == (4, 2)


@pytest.mark.parametrize("shape", [(), (6,), (6, 1), (1, 6), (2, 6, 1), (2, 1, 1)], ids=str)
def test_scalars_vectors_and_matrices_with_a_side_of_one_get_the_plain_decay(shape):
    w = np.random.default_rng(3).standard_normal(shape)
    state = adams.init(w)
    assert not adams.is_matrix(w) and state.u is None and state.sigma is None
    np.testing.assert_allclose(decayed(w, weight_decay=9.0, scalar_vector_weight_decay=0.2), 0.98 * w, rtol=1e-14)
    assert np.array_equal(decayed(w, weight_decay=9.0, scalar_vector_weight_decay=0.0), w)


def test_the_two_decays_do_not_touch_each_other():
    w = np.random.default_rng(4).standard_normal((3, 4))
    assert np.array_equal(decayed(w, weight_decay=0.0, scalar_vector_weight_decay=9.0), w)
    assert not np.array_equal(decayed(w, weight_decay=0.2, scalar_vector_weight_decay=0.0), w)
    off = {"use_spectral_decay": False}
    assert np.array_equal(decayed(w, weight_decay=9.0, scalar_vector_weight_decay=0.0, **off), w)
    np.testing.assert_allclose(
        decayed(w, weight_decay=9.0, scalar_vector_weight_decay=0.2, **off), 0.98 * w, rtol=1e-14
    )


def test_the_spectral_decay_takes_a_share_of_the_top_direction_and_nothing_else():
    """Once u has converged: lr lambda sqrt(M) = 0.1 of it here, M the number of rows and not of columns."""
    w = np.random.default_rng(5).standard_normal((4, 9))
    state = adams.init(w)
    for _ in range(300):
        _, state = adams.step(w, 0 * w, state, lr=0.0)
    out, _ = adams.step(w, 0 * w, state, lr=0.1, weight_decay=0.5)
    before, after = np.linalg.svd(w)[1], np.linalg.svd(out)[1]
    np.testing.assert_allclose(after, before * [1 - 0.1 * 0.5 * 2, 1, 1, 1], rtol=1e-9)


@pytest.mark.parametrize("array", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_reseeding_where_the_product_vanished(array):
    """Three matrices: one is zero, one has W^T u = 0 without being zero, one is neither and keeps its own u."""
    w = array([[[0.0, 0], [0, 0]], [[1, 2], [-1, -2]], [[3, 4], [0, 0]]])
    _, plain = adams.step(w, 0 * w, adams.init(w), lr=0.0)
    _, mended = adams.step(w, 0 * w, adams.init(w), lr=0.0, reseed=True)
    assert plain.u.tolist() == [[0, 0], [0, 0], [1, 0]]
    assert mended.u.tolist() == [[1, 1], [1, 1], [1, 0]]
    assert mended.sigma.tolist() == plain.sigma.tolist() == [0, 0, 5]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_reseeding_where_the_weight_is_no_number(bad):
    w = np.array([[1.0, bad], [3, 4]])
    with np.errstate(invalid="ignore"):
        _, state = adams.step(w, 0 * np.ones_like(w), adams.init(w), lr=0.0, reseed=True)
    assert state.u.tolist() == [1, 1]


def test_reseeding_changes_nothing_where_nothing_vanishes():
    rng = np.random.default_rng(6)
    w = rng.standard_normal((3, 4, 5))
    gs = [rng.standard_normal(w.shape) for _ in range(10)]
    ends = []
    for reseed in (False, True):
        x, state = w, adams.init(w)
        for g in gs:
            x, state = adams.step(x, g, state, lr=0.1, reseed=reseed)
        ends.append((x, state.u))
    np.testing.assert_array_equal(ends[0][0], ends[1][0])
    np.testing.assert_array_equal(ends[0][1], ends[1][1])


def test_the_update_does_not_see_the_gradients_scale():
    """Powers of two scale without rounding: the step is the same to the last bit."""
    rng = np.random.default_rng(7)
    w, gs = rng.standard_normal((3, 4)), [rng.standard_normal((3, 4)) for _ in range(6)]
    ends = []
    for c in (1.0, 2.0**-40, 2.0**40):
        x, state = w, adams.init(w)
        for g in gs:
            x, state = adams.step(x, c * g, state, lr=0.1)
        ends.append(x)
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_array_equal(ends[0], ends[2])
