"""Claims A1-A3, A5, A8: what the arctangent and the spectral decay of Adams do, from the lines that run.

Past 250 lines because five claims about one update are read side by side, and each verdict needs its counterexample beside it.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import sympy as sp
import torch

from reference import adam, adams
from reference.theory import adaptive_spikes, spectral_cost
from reference.theory import spectral_decay as spectral

FORMS = pytest.mark.parametrize("as_released", [False, True], ids=["picture", "package"])


def run_adams(gradients: np.ndarray, **hyper: Any) -> np.ndarray:
    """(T, ...) steps taken, in units of lr, from zero and without decay."""
    w = np.zeros(gradients.shape[1:], dtype=gradients.dtype)
    state, steps = adams.init(w), []
    for g in gradients:
        new, state = adams.step(w, g, state, lr=1.0, scalar_vector_weight_decay=0.0, use_spectral_decay=False, **hyper)
        steps.append(w - new)
        w = new
    return np.array(steps)


# A1


@pytest.mark.claim("A1")
@FORMS
def test_the_update_does_not_see_the_gradients_scale(as_released: bool) -> None:
    plain = spectral.arctan_update(as_released=as_released)
    c = spectral.C
    for sign in (1, -1):
        scaled = spectral.arctan_update(sign * c, as_released=as_released)
        assert sp.simplify(scaled.factor - plain.factor) == 0
        assert sp.simplify(scaled.x / plain.x) == c  # the point (x, y) moves along its ray, or to the mirrored ray:
        assert sp.simplify(scaled.y / plain.y) == sign * c  # same angle for c > 0, opposite angle for -c
        assert sp.simplify(scaled.m - sign * c * plain.m) == 0  # and the states stay scaled: the induction
        assert sp.simplify(scaled.n - c**2 * plain.n) == 0


@pytest.mark.claim("A1")
@FORMS
def test_the_step_is_bounded(as_released: bool) -> None:
    values, edge = spectral.angle_range()
    assert values == sp.Interval.open(-sp.pi / 2, sp.pi / 2) and edge == sp.pi / 2
    update = spectral.arctan_update(as_released=as_released)
    expected = 1 / (1 - spectral.BETA1 ** (spectral.T + 1)) if as_released else sp.Integer(1)
    assert sp.simplify(update.factor - expected) == 0  # bound: lr pi / 2, or lr (pi / 2) / (1 - beta1^t)
    # the second argument is the root of a mean of squares: n, g^2 and the weights are >= 0
    b2, t = spectral.BETA2, spectral.T
    nhat = (b2 * spectral.N_ + (1 - b2) * spectral.G**2) / (1 - b2 ** (t + 1))
    assert sp.simplify(update.x**2 - nhat) == 0


@pytest.mark.claim("A1")
def test_the_two_published_forms_differ_at_the_first_step() -> None:
    assert spectral.first_step() == sp.pi / 4
    released = spectral.first_step(as_released=True)
    b1 = spectral.BETA1
    assert sp.simplify(released - sp.atan(1 - b1) / (1 - b1)) == 0
    assert float(sp.N(sp.sympify(released).subs(b1, sp.Rational(9, 10)))) == pytest.approx(0.997, abs=5e-4)
    assert run_adams(np.array([[1e-3]]))[0, 0] == pytest.approx(math.pi / 4)
    assert run_adams(np.array([[1e-3]]), as_released=True)[0, 0] == pytest.approx(0.99669, abs=1e-5)


@pytest.mark.claim("A1")
@FORMS
def test_bound_and_scale_on_wild_gradients(as_released: bool) -> None:
    gradients = np.random.default_rng(0).standard_cauchy((300, 500))
    steps = run_adams(gradients, as_released=as_released)
    t = np.arange(1, 301)[:, None]
    factor = 1 / (1 - 0.9**t) if as_released else np.ones_like(t)
    assert (np.abs(steps) <= factor * math.pi / 2).all()
    np.testing.assert_allclose(run_adams(2.0**40 * gradients, as_released=as_released), steps, rtol=0, atol=0)
    # what binds first is Cauchy and Schwarz: |step| <= atan(1.165) for (0.9, 0.95), far from pi / 2
    if not as_released:
        assert np.abs(steps).max() <= math.atan(adaptive_spikes.ratio_bound(0.9, 0.95)) < 0.862


@pytest.mark.claim("A1")
def test_no_epsilon_is_needed_where_adam_without_one_fails() -> None:
    zero = np.zeros((3, 1))
    assert (run_adams(zero) == 0).all()  # atan2(0, 0) = 0
    with np.errstate(invalid="ignore"):
        moved, _ = adam.step(np.ones(1), np.zeros(1), adam.init(np.ones(1)), lr=1.0, eps=0.0)
    assert np.isnan(moved).all()


@pytest.mark.claim("A1")
def test_floating_point_ends_the_scale_invariance() -> None:
    def first(g: float) -> float:
        return float(run_adams(np.array([[g]], dtype=np.float32))[0, 0])

    with np.errstate(over="ignore", under="ignore"):
        for g in (1e-18, 1e-6, 1.0, 1e18):
            assert first(g) == pytest.approx(math.pi / 4, rel=1e-4)
        assert first(1e-24) == pytest.approx(math.pi / 2, rel=1e-6)  # g^2 rounds to 0, m does not: twice the step
        assert first(1e25) == 0  # g^2 overflows, and nhat = inf from then on


@pytest.mark.claim("A1")
def test_gradients_that_are_not_numbers() -> None:
    for g, expected in ((math.inf, math.pi / 4), (-math.inf, -math.pi / 4)):
        assert run_adams(np.array([[g]]))[0, 0] == pytest.approx(expected)  # finite and wrong, where Adam says NaN
        assert run_adams(np.array([[g]]), as_released=True)[0, 0] == pytest.approx(10 * expected)
    assert np.isnan(run_adams(np.array([[math.nan]]))).all()
    with np.errstate(invalid="ignore"):
        assert np.isnan(run_adams(np.array([[math.inf], [-math.inf]]))[1]).all()


# A2


@pytest.mark.claim("A2")
@pytest.mark.parametrize("shape", [(2, 2), (2, 3), (3, 2), (3, 4)])
def test_the_gradient_of_half_sigma_squared(shape: tuple[int, int]) -> None:
    left, right = spectral.gradient_of_half_sigma_squared(*shape)
    assert right != 0 and sp.expand(left - right) == 0


@pytest.mark.claim("A2")
def test_line_seven_is_that_gradient_times_the_factor() -> None:
    change, expected = spectral.line_seven()
    assert all(sp.simplify(a - b) == 0 for a, b in zip(change.ravel(), expected.ravel(), strict=True))


@pytest.mark.parametrize("shape", [(2, 2), (7, 4), (5, 30)])
def test_the_gradient_against_autograd(shape: tuple[int, int]) -> None:
    w = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    (gradient,) = torch.autograd.grad(torch.linalg.svdvals(w)[0] ** 2 / 2, w)
    state = adams.init(w.detach())
    for _ in range(3000):
        state = state._replace(u=adams.power_iteration_step(state.u, w.detach())[0])
    u, sigma, v = adams.power_iteration_step(state.u, w.detach())
    torch.testing.assert_close(sigma * u[:, None] * v[None, :], gradient, rtol=1e-9, atol=1e-9)
    moved, _ = adams.step(w.detach(), torch.zeros_like(w), state, lr=0.01, weight_decay=0.3)
    torch.testing.assert_close(moved, w.detach() - 0.003 * math.sqrt(shape[0]) * gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.claim("A2")
def test_the_factor_matches_the_rms_of_orthogonal_rows_alone() -> None:
    rng = np.random.default_rng(0)
    for rows, columns in ((32, 32), (16, 64), (64, 16), (128, 32)):
        gaussian = rng.standard_normal((rows, columns))
        ratio, formula = spectral.rms_ratio(gaussian)
        assert ratio == pytest.approx(formula, rel=1e-9)
        assert ratio == pytest.approx(1 + math.sqrt(rows / columns), rel=0.1)  # 2 for a square, not 1
        flat = np.linalg.qr(gaussian if rows >= columns else gaussian.T)[0]
        flat = 3.0 * (flat if rows >= columns else flat.T)
        assert spectral.rms_ratio(flat)[0] == pytest.approx(max(1.0, math.sqrt(rows / columns)), rel=1e-9)
        rank_one = np.outer(rng.standard_normal(rows), rng.standard_normal(columns))
        assert spectral.rms_ratio(rank_one)[0] == pytest.approx(math.sqrt(rows), rel=1e-9)
    tall = rng.standard_normal((1024, 64))
    assert spectral.rms_ratio(tall)[0] > 4.5 and spectral.rms_ratio(tall.T)[0] < 1.5  # not the same for W and W^T


@pytest.mark.claim("A2")
def test_small_gaussian_matrices_single_rows_and_the_most_that_the_factor_can_miss_by() -> None:
    """The ledger once said 2 of every Gaussian square, and line 7 of every shape."""
    rng = np.random.default_rng(5)
    for side, mean, draws in ((2, 4 / 3, 1000), (8, 1.75, 1500), (64, 1.95, 20)):
        ratios = np.array([spectral.rms_ratio(rng.standard_normal((side, side)))[0] for _ in range(draws)])
        error = ratios.std(ddof=1) / len(ratios) ** 0.5
        assert abs(ratios.mean() - mean) < 0.01 + 4 * error and ratios.max() <= math.sqrt(side)
        assert side != 8 or ratios.mean() + 4 * error < 1.8  # as the ledger had it after 300 draws
    for shape in ((1, 5), (5, 1)):  # a row, a column: as a vector, without lines 6 and 7
        w = rng.standard_normal(shape)
        moved, state = adams.step(w, 0 * w, adams.init(w), lr=0.1, weight_decay=1.0, scalar_vector_weight_decay=0.0)
        assert state.u is None and (moved == w).all()


# A3


@pytest.mark.claim("A3")
def test_one_iteration_multiplies_the_tangent_by_rho() -> None:
    factor, value = spectral.contraction()
    x = sp.Symbol("x", positive=True)
    rho = (spectral.S2 / spectral.S1) ** 2
    assert sp.simplify(factor - rho) == 0
    assert sp.simplify(1 - value - rho * (1 - rho) * x**2 / (1 + rho * x**2)) == 0  # the value's error is second order


@pytest.mark.claim("A3")
@pytest.mark.parametrize(("rho", "part"), list(itertools.product([0.25, 0.81, 0.95], [0.2, 0.9])))
def test_it_follows_a_matrix_that_turns_slowly_enough(rho: float, part: float) -> None:
    drift = part * spectral.drift_limit(rho)
    found = spectral.track(spectral.turning(rho, drift, 400), np.array([1.0, 1.0]))
    assert found.angle[-50:].max() == pytest.approx(spectral.steady_error(rho, drift), rel=1e-3)
    assert found.angle[-50:].max() <= math.atan(math.sqrt(rho)) < math.pi / 4  # the error at the limit itself


@pytest.mark.claim("A3")
@pytest.mark.parametrize("rho", [0.25, 0.81, 0.95])
def test_it_loses_a_matrix_that_turns_faster(rho: float) -> None:
    drift = 1.1 * spectral.drift_limit(rho)
    assert math.isnan(spectral.steady_error(rho, drift))
    found = spectral.track(spectral.turning(rho, drift, 600), np.array([1.0, 1.0]))
    assert found.angle[-300:].max() > 1.2  # radians, of pi / 2
    assert found.value.min() >= math.sqrt(rho) - 1e-9  # the value is never worse than sigma_2


@pytest.mark.claim("A3")
def test_crossing_singular_values_and_orthogonal_starts_are_lost() -> None:
    stuck = spectral.track(spectral.crossing(400), np.array([1.0, 0.0]))
    assert stuck.angle[0] == 0 and stuck.angle[-1] == pytest.approx(math.pi / 2) and stuck.value[-1] == 0.5
    late = spectral.track(spectral.crossing(400, mixing=0.1), np.array([1.0, 0.0]))
    assert late.value.min() < 0.7
    w = np.array([[2.0, -1.0], [-1.0, 2.0]])  # sigma = 3, 1; u_1 = (1, -1) / sqrt(2) is orthogonal to the start, ones
    found = spectral.track([w] * 1000, np.ones(2))
    assert found.value[-1] == pytest.approx(1 / 3) and found.angle[-1] == pytest.approx(math.pi / 2)


def test_steady_error_names_bad_input() -> None:
    with pytest.raises(ValueError, match=r"rho=1\.0"):
        spectral.steady_error(1.0, 0.1)


# The decay that never starts, and the one that diverges


@pytest.mark.claim("A3")
def test_a_matrix_that_is_zero_once_is_never_decayed_unless_reseeded() -> None:
    w = np.array(sp.symbols("w:6", real=True), dtype=object).reshape(2, 3)
    zero = np.full(2, sp.Integer(0), dtype=object)
    u, sigma, _ = adams.power_iteration_step(zero, w)
    assert list(u) == [0, 0] and sigma == 0  # u = 0 stays for every later W
    u, sigma, _ = adams.power_iteration_step(adams.init(w).u, 0 * w)
    assert list(u) == [0, 0] and sigma == 0  # and W = 0 makes it so
    later = np.random.default_rng(0).standard_normal((8, 5))
    for reseed in (False, True):
        _, state = adams.step(0 * later, 0 * later, adams.init(later), lr=0.1, reseed=reseed)
        moved, _ = adams.step(later, 0 * later, state, lr=0.1, weight_decay=1.0, reseed=reseed)
        assert np.array_equal(moved, later) is not reseed


@pytest.mark.claim("A3")
def test_reseeding_with_ones_does_not_mend_columns_that_sum_to_zero() -> None:
    centred = np.array([[3.0, 1.0], [-3.0, -1.0]])  # exact in floating point: W^T 1 = 0
    for reseed in (False, True):
        spectra, estimates = spectral.decay_alone(centred, share=0.1, steps=20, reseed=reseed)
        assert (estimates == 0).all() and (spectra == spectra[0]).all()
        _, state = adams.step(centred, 0 * centred, adams.init(centred), lr=0.1, reseed=reseed)
        later = centred + np.array([[1.0, 0.0], [0.0, 0.0]])  # a gradient has moved it: the mend works from here on
        moved, _ = adams.step(later, 0 * later, state, lr=0.1, weight_decay=1.0, reseed=reseed)
        assert np.array_equal(moved, later) is not reseed


@pytest.mark.claim("A6")
@pytest.mark.parametrize("rows", [2, 3])
def test_the_decay_diverges_above_two(rows: int) -> None:
    factor, x, grows = spectral.top_factor(rows)
    assert sp.simplify(factor - (1 - x)) == 0 and grows == sp.Interval.open(2, sp.oo)
    missed = np.array([[3.0, 1.0], [-3.0, -1.0]])  # W^T 1 = 0: u never comes to u_1
    spectra, _ = spectral.decay_alone(missed, share=2.5, steps=20)
    assert (spectra == spectra[0]).all()


def test_the_threshold_of_divergence_on_a_gaussian_matrix() -> None:
    w = np.random.default_rng(0).standard_normal((32, 20))
    for share, grows in ((0.1, False), (1.0, False), (1.9, False), (2.1, True)):
        spectra, estimates = spectral.decay_alone(w, share=share, steps=200)
        assert bool(spectra[-1, 0] > spectra[0, 0]) is grows
        if grows:
            np.testing.assert_allclose(spectra[-1, 0] / spectra[-2, 0], share - 1, rtol=1e-6)
            assert estimates[-1] == pytest.approx(spectra[-2, 0])


# A5


@pytest.mark.claim("A5")
def test_the_spectral_step_moves_a_handful_of_elementwise_operations_worth_of_bytes() -> None:
    extra = spectral_cost.eager_bytes(24, 40, spectral=True) - spectral_cost.eager_bytes(24, 40, spectral=False)
    # two products read W (8), the outer product is written (4) and scaled (8, unless the vectors are scaled), read with
    # W and subtracted (12): 24 or 32, that is two to three operations of two matrices
    assert extra in (24, 32)
    assert spectral_cost.elementwise_bytes(24, 40) == 12
    assert spectral_cost.eager_bytes(24, 40, spectral=False) > 100  # lines 8-12, unfused


@pytest.mark.claim("A5")
def test_fused_it_is_36_bytes_naively_and_28_in_one_pass() -> None:
    rng = np.random.default_rng(0)
    w, gs = rng.standard_normal((12, 7)), rng.standard_normal((9, 12, 7))
    expected, state = w, adams.init(w)
    for g in gs:
        expected, state = adams.step(expected, g, state, lr=0.05, weight_decay=0.8)
    for one_pass, share in ((False, 9), (True, 7)):
        found, moved = spectral_cost.rows_moved(w, gs, one_pass=one_pass, lr=0.05, weight_decay=0.8)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        assert 4 * moved == 4 * share  # 36 and 28 bytes; AdamW reads w, g, m, v and writes w, m, v: 28


@pytest.mark.claim("A5")
def test_the_one_pass_is_the_same_but_for_rounding_while_w_is_not_tiny() -> None:
    """The ledger once said "to 1e-12" of every run and every W, then "1e-9 over 300 steps", which was one seed's, and float64's.
    The spectral step itself multiplies rounding: three passes part from the lines as far as one does."""

    def gap(w: np.ndarray, gs: np.ndarray, *, one_pass: bool) -> float:
        expected, state = torch.from_numpy(w), adams.init(torch.from_numpy(w))
        for g in torch.from_numpy(gs):
            expected, state = adams.step(expected, g, state, lr=0.05, weight_decay=0.8)
        found, _ = spectral_cost.rows_moved(w, gs, one_pass=one_pass, lr=0.05, weight_decay=0.8)
        return float(np.abs(found - expected.numpy()).max() / np.abs(w).max())

    def gaps(dtype: Any, steps: int, one_pass: bool) -> list[float]:
        draws = (np.random.default_rng(seed) for seed in (106, 108))
        return [
            gap(*(rng.standard_normal(s).astype(dtype) for s in ((12, 7), (steps, 12, 7))), one_pass=one_pass)
            for rng in draws
        ]

    for one_pass in (False, True):
        assert max(gaps(np.float64, 9, one_pass)) < 1e-13 and 1e-9 < max(gaps(np.float32, 9, one_pass)) < 1e-5
        much, little = gaps(np.float64, 300, one_pass)
        assert little < 1e-11 and 1e-9 < much < 1e-3
        assert max(gaps(np.float32, 300, one_pass)) > 1e-3
    w, gs = np.random.default_rng(1).standard_normal((12, 7)), np.zeros((9, 12, 7))
    for size, same in ((1e-5, True), (1e-7, False)):
        assert gap(size * w, gs, one_pass=False) < 1e-12
        assert (gap(size * w, gs, one_pass=True) < 1e-12) is same


# A8


@pytest.mark.claim("A8")
def test_a_stack_of_matrices_is_its_matrices() -> None:
    together, alone = spectral.batch_against_loop(2, 2, 2)
    assert together.shape == (2, 2, 2) and (together == alone).all()  # the same formulas, symbol for symbol
    assert not together[0, 0, 0].has(*[sp.Symbol(f"w{i}", real=True) for i in range(4, 8)])


@pytest.mark.claim("A8")
@FORMS
@pytest.mark.parametrize("reseed", [False, True])
def test_a_broken_matrix_touches_no_other_of_its_stack(as_released: bool, reseed: bool) -> None:
    rng = np.random.default_rng(2)
    w, gs = rng.standard_normal((7, 5, 4)), rng.standard_normal((5, 7, 5, 4))
    w[1], w[2], w[3] = 0, 1e-14 * w[2], 1e200 * w[3]
    w[4, 0, 0], w[5, 1, 1] = np.nan, np.inf
    gs[:, 1:3], gs[:, 6, 2, 2] = 0, np.inf
    how: dict[str, Any] = {"lr": 0.02, "weight_decay": 1.0, "as_released": as_released, "reseed": reseed}
    alone = [(x, adams.init(x)) for x in w]
    state = adams.init(w)
    with np.errstate(all="ignore"):
        for g in gs:
            w, state = adams.step(w, g, state, **how)
            alone = [adams.step(x, g[i], s, **how) for i, (x, s) in enumerate(alone)]
    for i, (x, s) in enumerate(alone):
        for stacked, own in ((w, x), (state.u, s.u), (state.sigma, s.sigma), (state.m, s.m), (state.v, s.v)):
            np.testing.assert_allclose(stacked[i], own, rtol=1e-9)
    assert np.isfinite(w[:3]).all()


@pytest.mark.claim("A8")
def test_a_long_run_of_a_stack_and_what_reading_it_as_one_matrix_would_do() -> None:
    rng = np.random.default_rng(0)
    w, gs = (
        rng.standard_normal((3, 6, 4)) * np.array([1.0, 5.0, 25.0])[:, None, None],
        rng.standard_normal((40, 3, 6, 4)),
    )

    def run(w: np.ndarray, gs: np.ndarray) -> tuple[np.ndarray, Any]:
        state = adams.init(w)
        for g in gs:
            w, state = adams.step(w, g, state, lr=0.02, weight_decay=1.0)
        return w, state

    together, state = run(w, gs)
    for b in range(3):
        alone, single = run(w[b], gs[:, b])
        np.testing.assert_allclose(together[b], alone, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(state.u[b], single.u, rtol=1e-12, atol=1e-12)
        assert state.sigma[b] == pytest.approx(single.sigma, rel=1e-12)
    flat, _ = run(w.reshape(18, 4), 0 * gs.reshape(40, 18, 4))
    together, _ = run(w, 0 * gs)
    assert np.linalg.norm(flat[:6] - together[0]) > 0.1 * np.linalg.norm(
        together[0]
    )  # one matrix of 18 rows: not the same
