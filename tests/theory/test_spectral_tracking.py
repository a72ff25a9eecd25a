"""A3 for every shape: one power iteration a step follows the top vector from below the repelling root, and not from above."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import sympy as sp

from reference import adams
from reference.problems import rotation
from reference.theory import spectral_tracking as tracking
from reference.theory.spectral_decay import drift_limit, steady_error, track, turning
from reference.theory.spectral_tracking import RHO, D, X

EIGHTYONE: Any = sp.Rational(81, 100)
S: Any = sp.Rational(5234, 100_000)  # tan of the 2.996 degrees that are missing to 90


@pytest.mark.claim("T3")
@pytest.mark.claim("A3")
@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (3, 2), (2, 3), (4, 4)])
def test_an_iteration_shrinks_every_part_beside_the_top_one_by_at_most_rho(rows, columns):
    sigma = [*sp.symbols(f"sigma1:{min(rows, columns) + 1}", positive=True), *[sp.Integer(0)] * rows]
    for i, factor in enumerate(tracking.one_iteration(rows, columns), start=1):
        assert sp.simplify(factor - sigma[i] ** 2 / sigma[0] ** 2) == 0


@pytest.mark.claim("T3")
@pytest.mark.claim("A3")
@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (3, 2), (3, 4)])
def test_the_estimate_lies_between_the_cosine_and_one(rows, columns):
    u = sp.symbols(f"u1:{rows + 1}", positive=True)
    s = [*sp.symbols(f"sigma1:{min(rows, columns) + 1}", positive=True), *[sp.Integer(0)] * rows][:rows]
    first, second = tracking.value_bound(rows, columns)
    squares = sum(
        (u[i] * u[j] * (s[i] ** 2 - s[j] ** 2)) ** 2 for i in range(rows) for j in range(i + 1, rows)
    )  # Cauchy and Schwarz, as Lagrange's identity
    assert sp.expand(first - squares) == 0
    assert sp.expand(second - sum((s[i] * u[i]) ** 2 for i in range(1, rows))) == 0


@pytest.mark.claim("T3")
@pytest.mark.claim("A3")
def test_the_error_falls_between_the_roots_and_rises_above_the_upper_one():
    low, high = tracking.roots()
    fall = X - tracking.error_map()
    assert sp.simplify(fall - D * (X - low) * (high - X) / (1 - D * X)) == 0
    assert sp.simplify(sp.diff(tracking.error_map(), X) - RHO * (1 + D**2) / (1 - D * X) ** 2) == 0  # F rises
    assert sp.simplify(low * high - RHO) == 0
    inside = (1 - RHO) ** 2 - 4 * RHO * D**2
    assert sp.simplify((1 - RHO) - D * high - ((1 - RHO) - sp.sqrt(inside)) / 2) == 0
    assert sp.expand((1 - RHO) ** 2 - inside).is_positive  # so the root is below 1 - rho, and d high < 1 - rho < 1


def wandering(rows, columns, rho, drift, steps, rng):
    """Random matrices with (sigma_2/sigma_1)^2 <= rho, their top left vector turned by at most `drift` to a random side."""
    top = np.eye(rows)[0]
    for _ in range(steps):
        side = rng.standard_normal(rows)
        for _ in range(2):  # once leaves some of top where side lay near it
            side -= (side @ top) * top
            side /= np.linalg.norm(side)
        angle = drift * rng.choice([1.0, rng.uniform()])
        top = math.cos(angle) * top + math.sin(angle) * side
        top /= np.linalg.norm(top)
        left = np.linalg.qr(np.column_stack([top, rng.standard_normal((rows, rows - 1))]))[0]
        s = np.sqrt(rho) * rng.choice([1.0, rng.uniform()], size=min(rows, columns))
        s[0] = 1.0
        right = rotation(columns, seed=int(rng.integers(2**31)))
        yield top, 10 ** rng.uniform(-2, 2) * (left[:, : s.size] * s) @ right[: s.size]


@pytest.mark.claim("A3")
@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (6, 3), (3, 8)])
@pytest.mark.parametrize(("rho", "part"), [(0.25, 0.99), (0.81, 0.9), (0.95, 0.5)])
def test_random_paths_of_every_shape_keep_within_the_bound(rows, columns, rho, part):
    rng = np.random.default_rng(rows)
    drift = part * drift_limit(rho)
    high = tracking.repelling_error(rho, drift)
    bound = 0.999 * high
    u = math.cos(bound) * np.eye(rows)[0] + math.sin(bound) * np.eye(rows)[1]
    error = bound
    for top, w in wandering(rows, columns, rho, drift, 800, rng):
        u, sigma, _ = adams.power_iteration_step(u, w)
        before, error = error, math.atan2(float(np.linalg.norm(u - (u @ top) * top)), abs(float(u @ top)))
        bound = math.atan(rho * math.tan(bound + drift))
        assert error <= math.atan(rho * math.tan(before + drift)) + 1e-9
        assert error <= bound + 1e-9 and bound < high
        assert math.cos(before + drift) - 1e-9 <= sigma / np.linalg.norm(w, 2) <= 1 + 1e-9
    assert bound == pytest.approx(steady_error(rho, drift), rel=1e-3)


@pytest.mark.claim("T3")
@pytest.mark.claim("A3")
@pytest.mark.claim("A2")
def test_below_the_floor_of_normalize_nothing_is_followed():
    """The ledger once asked for a W that is not zero: at 1e-13 u, which has found u_1, loses its length, and sigma with it."""
    core = np.diag([1.0, 0.5])
    for size, followed in ((1.0, True), (2e-12, True), (1e-13, False)):
        u, sigma = np.array([0.8, 0.6]), 0.0  # |W^T u| >= 0.8 sigma_1
        for _ in range(30):
            u, sigma, _ = adams.power_iteration_step(u, size * core)
        assert bool(sigma / size == pytest.approx(1)) is followed
        assert bool(np.linalg.norm(u) == pytest.approx(1)) is followed
        if not followed:
            w = size * core
            _, state = adams.step(w, 0 * w, adams.init(w)._replace(u=u), lr=0.1, weight_decay=0.0, reseed=True)
            assert np.linalg.norm(state.u) < 1e-9  # our mend waits for a u that is 0
            assert u[0] > 0 and abs(u[1]) < 1e-9 * u[0] and sigma < 1e-9 * size  # the right direction, of no length
    for _ in range(5):  # a W of size 1 brings it back, as long as u is not rounded to 0
        u, sigma, _ = adams.power_iteration_step(u, core)
    assert sigma == pytest.approx(1)


@pytest.mark.claim("T3")
@pytest.mark.claim("A3")
@pytest.mark.parametrize(("number", "size"), [(np.float32, 1e20), (np.float64, 1e160)])
def test_where_the_norm_overflows_nothing_is_followed_any_more(number, size):
    """In real numbers no W is too large. In float32 a row of 1e20 has the norm inf: u is 0 from then on. Reseeding mends it."""
    core = np.diag([1.0, 0.5]).astype(number)
    state = adams.init(core)._replace(u=np.array([0.8, 0.6], number))
    for reseed in (False, True):
        with np.errstate(over="ignore"):
            _, after = adams.step(core * number(size), 0 * core, state, lr=number(0.1), reseed=reseed)
        assert after.sigma == 0
        for _ in range(20):
            _, after = adams.step(core, 0 * core, after, lr=number(0.0), reseed=reseed)
        assert after.sigma == (pytest.approx(1) if reseed else 0)


@pytest.mark.claim("A3")
def test_where_the_first_product_overflows_too_the_matrix_itself_is_lost():
    """The ledger once said "never decayed" of every W whose norm overflows. Where W^T 1 does, W is NaN after the step."""
    for size, lost in ((1e20, False), (1e38, True)):
        w = np.full((4, 3), size, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            moved, after = adams.step(w, 0 * w, adams.init(w), lr=0.1, scalar_vector_weight_decay=0.0)
        assert np.isnan(moved).all() == lost == np.isnan(after.sigma) and (lost or (moved == w).all())


@pytest.mark.claim("A3")
def test_a_start_that_is_not_orthogonal_and_yet_lost_for_ever():
    """rho 0.81, turns of 5.423 degrees to and fro (the limit is 6.026), u_0 at 87.573 degrees: the error stays 87.004. Exact."""
    d, (core, turned), u = tracking.flipping(EIGHTYONE, S)
    turn = math.degrees(math.atan(d))
    assert turn == pytest.approx(5.423, abs=1e-3) and turn < math.degrees(drift_limit(0.81))
    first = math.degrees(math.atan2(float(u[1]), -float(u[0])))
    assert first == pytest.approx(87.573, abs=1e-3) and u[0] != 0
    start = u
    top = {0: np.array([1, 0], dtype=object), 1: turned[:, 0]}
    cosine = S / sp.sqrt(1 + S**2)  # of 87.004 degrees
    for k, w in enumerate((core, turned, core, turned)):
        u, sigma, _ = adams.power_iteration_step(u, w)
        u = np.array([sp.sqrtdenest(sp.radsimp(sp.simplify(x))) for x in u], dtype=object)
        assert sp.simplify(sp.Abs(u @ top[k % 2]) - cosine) == 0
        value = sp.simplify(sp.sympify(np.asarray(sigma).item()))
        assert (
            value > sp.Rational(9, 10) and float(value) < 0.902
        )  # of sigma_1 = 1: the estimate is about sigma_2 = 0.9
    again, _, _ = adams.power_iteration_step(u, core)
    once, _, _ = adams.power_iteration_step(start, core)
    assert all(sp.simplify(a**2 - b**2) == 0 for a, b in zip(again, once, strict=True))  # the same line again: for ever
    assert math.degrees(math.acos(float(cosine))) == pytest.approx(87.004, abs=1e-3)
    root = math.degrees(tracking.repelling_error(0.81, math.atan(d)))
    assert root < 60 < first  # far above the root, where nothing is promised


@pytest.mark.claim("A3")
def test_turned_away_each_step_it_is_lost_from_above_the_root_and_found_from_below():
    drift = math.radians(5.423)
    root = tracking.repelling_error(0.81, drift)
    assert math.degrees(root) == pytest.approx(55.2, abs=0.1)
    errors, values = tracking.turned_away(0.81, drift, math.radians(74.5), 2000)
    assert np.degrees(errors[20:]).min() > 83.3 and values[20:].max() < 0.9025  # sigma_2 = 0.9
    # 83.3 for ever: within 2 delta of the right angle a turn leads within delta of it, and the iteration to atan(tan(delta) / rho)
    assert math.degrees(math.atan(math.tan(drift) / 0.81)) < 6.7 < math.degrees(2 * drift)
    below, _ = tracking.turned_away(0.81, drift, root - 1e-3, 2000)
    assert below.max() < root and below[-1] == pytest.approx(steady_error(0.81, drift), rel=1e-6)
    above, _ = tracking.turned_away(0.81, drift, root + 1e-3, 2000)
    assert above[-1] > root + 0.3


@pytest.mark.slow
@pytest.mark.claim("A3")
def test_turned_away_for_twenty_thousand_steps():
    errors, _ = tracking.turned_away(0.81, math.radians(5.423), math.radians(74.5), 20_000)
    assert np.degrees(errors[20:]).min() > 83.3


@pytest.mark.claim("T3")
@pytest.mark.claim("A3")
def test_the_root_itself_is_held_by_a_steady_turn():
    """So the condition on the start cannot be weakened: exact, with tan e = 3/2 and the turn that has it for its root."""
    x, rho = sp.Rational(3, 2), EIGHTYONE
    d = (1 - rho) * x / (x**2 + rho)
    assert tracking.error_map().subs({X: x, D: d, RHO: rho}) == x
    assert tracking.roots()[1].subs({D: d, RHO: rho}) == x
    found = track(turning(0.81, math.atan(d), 12), np.array([math.cos(math.atan(1.5)), -math.sin(math.atan(1.5))]))
    assert np.tan(found.angle) == pytest.approx(1.5, rel=1e-6)


def test_the_limit_of_the_turn_and_of_the_start_meet():
    assert tracking.repelling_error(0.81, 0.0) == pytest.approx(math.pi / 2)
    assert tracking.repelling_error(0.81, drift_limit(0.81) * (1 - 1e-12)) == pytest.approx(math.atan(0.9), abs=1e-5)
    assert math.isnan(tracking.repelling_error(0.81, 1.01 * drift_limit(0.81)))
    with pytest.raises(ValueError, match="rho"):
        tracking.repelling_error(1.0, 0.1)
