"""Claim G11: is Grams faster than Adam on a quadratic? By condition number, rotation, noise, and how far the loss must fall.

The seeds are none that the claim was made with, and differ from test to test. Each draws its own rotation and its own starts.
"""

from __future__ import annotations

import numpy as np
import pytest

from reference import adam, grams
from reference.descend import descend
from reference.problems import quadratic
from reference.theory import descent_runs
from reference.theory.descent_runs import HOLD, LRS, race, speedups
from reference.theory.intervals import Interval, median_interval


def intervals(kappa, tols, seeds, **how) -> list[Interval]:
    """The median of Adam's steps over Grams' for each tolerance, over rotations and starts."""
    return [median_interval(x) for x in speedups(kappa, np.array(tols), seeds, **how).T]


@pytest.mark.claim("G11")
def test_race_counts_the_steps_that_a_run_takes():
    problem, tols = quadratic([1.0, 0.1]), (1e-2, 1e-4)  # axis-aligned: turned, the last bit of a product decides signs
    result = race(problem, [0.05, 0.1], budget=600, tol=tols, starts=1, seed=7)
    start = np.random.default_rng(7).standard_normal(2)
    for name, rule in (("Adam", adam), ("Grams", grams)):
        for j, lr in enumerate(result.lrs):
            loss = descend(rule, problem, start, steps=600, lr=float(lr)).loss
            for tol, steps in zip(tols, result.steps[name][:, j], strict=True):
                inside = loss <= tol * loss[0]
                assert next(t for t in range(600) if inside[t : t + HOLD].all()) == steps
    alone = race(problem, [0.05, 0.1], budget=600, tol=1e-4, starts=1, seed=7)
    assert alone.best("Grams") == result.best("Grams")[1] and alone.best_lr("Adam") == result.best_lr("Adam")[1]


def test_a_race_that_ends_too_early_is_refused():
    with pytest.raises(ValueError, match="within the budget of 60"):
        speedups(10, [1e-6], [1], turned=True, budget=60)


@pytest.mark.claim("G11")
@pytest.mark.parametrize("kappa", [1, 10, 1000])
def test_grams_is_faster_on_an_axis_aligned_quadratic_without_noise(kappa):
    found = intervals(kappa, (0.1, 1e-2, 1e-4, 1e-8), range(30, 38), turned=False, budget=600)
    assert all(i.low > 1.7 for i in found), found


@pytest.mark.claim("G11")
def test_grams_is_faster_on_a_turned_well_conditioned_quadratic():
    found = intervals(10, (0.1, 1e-2, 1e-4, 1e-8), range(40, 48), turned=True, budget=600)
    assert all(i.low > 1.5 for i in found), found


@pytest.mark.claim("G11")
def test_the_leads_are_those_that_the_ledger_names():
    """Each interval meets the range: 2.5 to 5 along the axes, 1.4 to 5 turned; that once ended at 4.2, which leaves out kappa 1."""
    tols = (0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-6, 1e-8)
    for turned, least, kappas in ((False, 2.5, (30, 1000)), (True, 1.4, (1, 3, 30))):
        for kappa in kappas:
            found = intervals(kappa, tols, range(70, 82), turned=turned, budget=900)
            assert all(i.high >= least and i.low <= 5 for i in found), (turned, kappa, found)
            assert kappa != 1 or found[1].low > 4.2


@pytest.mark.claim("G11")
def test_the_tolerance_turns_the_order_on_a_turned_ill_conditioned_quadratic():
    """Slower to a part in 10,000 and less; and to a tenth or a thirtieth of the loss, faster on the same runs."""
    early, little, late, deep = intervals(1000, (0.1, 0.03, 1e-4, 1e-6), range(50, 60), turned=True, budget=2500)
    assert early.low > 1.5 and little.low > 1.2 and late.high < 0.85 and deep.high < 0.85


@pytest.mark.claim("G11")
def test_how_long_the_loss_stays_is_part_of_the_race(monkeypatch):
    """The ledger once said "stays below" alone: where it need only come there, 3.1 to a tenth, turned, at 1000, is 2.0."""
    (held,) = intervals(1000, (0.1,), range(6000, 6060), turned=True, budget=400)
    monkeypatch.setattr(descent_runs, "HOLD", 1)
    (touched,) = intervals(1000, (0.1,), range(6000, 6060), turned=True, budget=400)
    assert touched.high < 2.5 < held.low, (touched, held)


@pytest.mark.claim("G11")
def test_the_spread_of_the_eigenvalues_turns_the_order():
    """The ledger once gave the condition number alone: its 0.49 to 1e-4, turned, at 1000, is of a log scale."""
    found = []
    for seed in range(80, 85):
        problem = quadratic(np.linspace(1e-3, 1, 10).tolist(), seed=seed)
        run = race(problem, LRS, budget=1500, tol=1e-4, starts=4, seed=seed)
        found.append(run.best("Adam") / run.best("Grams"))
    assert np.median(found) > 1.2 and min(found) > 0.65


@pytest.mark.claim("G11")
def test_strong_noise_takes_the_lead_away_even_axis_aligned():
    strong, weak = (
        intervals(10, (0.1,), range(60, 84), turned=False, budget=600, noise=noise, starts=32)[0]
        for noise in (1.0, 0.1)
    )
    assert strong.high < 1.2 and weak.low > 1.6


@pytest.mark.slow
@pytest.mark.claim("G11")
def test_ten_fresh_seed_sets_turn_the_order_at_the_same_tolerances():
    """At 1e-3, near the crossing, single sets reach 1; all together do not."""
    found = speedups(1000, [0.1, 0.03, 1e-3, 1e-4, 1e-6, 1e-8], range(1300, 1400), turned=True, budget=2500)
    for one in found.reshape(10, 10, -1):
        early, little, _, *late = (median_interval(x) for x in one.T)
        assert early.low > 1.5 and little.low > 1.2 and all(i.high < 0.95 for i in late)
    assert median_interval(found[:, 2]).high < 0.9


@pytest.mark.slow
@pytest.mark.claim("G11")
def test_ten_fresh_seed_sets_of_condition_numbers():
    """Faster up to kappa = 30 at every tolerance from a tenth on; at 100 no longer by a tenth; slower at 300 from 1e-6 on."""
    tols = (0.1, 1e-2, 1e-4, 1e-6, 1e-8)
    for seeds in (range(k, k + 10) for k in range(1100, 1200, 10)):
        for kappa in (3, 10, 30):
            assert all(i.low > 1.15 for i in intervals(kappa, tols, seeds, turned=True, budget=900)), (kappa, seeds)
        assert all(i.low < 1.1 for i in intervals(100, tols[2:], seeds, turned=True, budget=1500)), seeds
        assert all(i.high < 0.95 for i in intervals(300, tols[3:], seeds, turned=True, budget=2500)), seeds


@pytest.mark.slow
@pytest.mark.claim("G11")
def test_at_condition_number_100_a_few_per_cent_are_left():
    """The ledger once said that the lead is gone from 1e-4 on."""
    (late,) = intervals(100, (1e-8,), range(1700, 1780), turned=True, budget=1500)
    assert 1 < late.middle < late.high < 1.1, late


@pytest.mark.slow
@pytest.mark.claim("G11")
def test_ten_fresh_seed_sets_with_strong_noise():
    """At kappa = 1000 no set of ten shows Grams faster, and all together show it slower, by less than the ledger's once 0.84."""
    seeds = range(1200, 1300)
    found = speedups(1000, [0.1], seeds, turned=False, budget=1500, noise=1.0, starts=32).reshape(10, 10)
    assert all(median_interval(one).low < 1 for one in found)
    assert 0.84 < median_interval(found.ravel()).low < median_interval(found.ravel()).high < 1
