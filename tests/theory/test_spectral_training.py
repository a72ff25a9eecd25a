"""Claim A6: spectral decay of 1.0 in training, over splits, wrong labels, starts and batches that every seed draws anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from reference.theory import spectral_training
from reference.theory.intervals import Interval, mean_interval
from reference.theory.spectral_training import VALIDATION, Sweep, digits, draw

AT: dict[str, Any] = {"lrs": (1e-2,), "steps": 500, "samples": 600}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small matrices: more threads cost more than they bring, the more so where other tests run beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def gain(run: Sweep, decay: float = 1.0, against: float = 0.0, seeds: slice = slice(None)) -> Interval:
    """How much test accuracy one decay has over another, run by run."""
    own, other = (run.test[0, run.decays.index(d), seeds] for d in (decay, against))
    return mean_interval(own - other)


def assert_usable(run: Sweep) -> None:
    """A decay of 1.0, the last of the run's, trains, and holds sigma_1 and the activations below every undecayed run's."""
    assert np.isfinite(run.train_loss).all()
    assert run.sigma[0, -1].max() < 0.7 * run.sigma[0, 0].min()
    assert run.activation[0, -1].max() < 0.8 * run.activation[0, 0].min()


@pytest.mark.claim("A6")
def test_a_weight_decay_of_one_is_usable_and_helps_where_labels_are_wrong() -> None:
    seeds = range(10)
    noisy, l2 = (
        spectral_training.train(arm, decays=(0.0, 1.0), seeds=seeds, wrong=0.3, **AT) for arm in ("Adams", "Adam-atan2")
    )
    clean = spectral_training.train("Adams", decays=(0.0, 1.0), seeds=seeds, **AT)
    assert gain(noisy).low > 0.03  # generalises better where the net would learn wrong labels by heart
    assert gain(clean).low > -0.03 and gain(clean).high < 0.03  # usable, but no better where labels are right
    assert mean_interval(l2.test[0, 1] - noisy.test[0, 1]).low > -0.02  # L2 decay of 1.0 is as usable and helps no less
    for run in (noisy, l2, clean):
        assert_usable(run)
    assert l2.activation[0, 1].max() < noisy.activation[0, 1].min()  # at one lambda L2 shrinks them more


@pytest.mark.slow
@pytest.mark.claim("A6")
def test_with_batches_of_ten_a_weight_decay_of_one_hurts() -> None:
    """The ledger once named no batch; with 50 digits a step the same decay gains eight points. The interval of 80 fresh seeds lies
    below 0, and meets the ledger's, 2.3 to 4.5 points lost."""
    small = spectral_training.train("Adams", decays=(0.0, 1.0), seeds=range(5000, 5080), wrong=0.3, batch=10, **AT)
    found = gain(small)
    assert -0.06 < found.low < found.high < 0
    assert found.low < -0.023 and found.high > -0.045


@pytest.mark.slow
@pytest.mark.claim("A6")
def test_where_labels_are_right_an_l2_decay_of_one_loses() -> None:
    """The ledger once called it as usable, and said "gains more" without saying where: with wrong labels. Over 80 fresh seeds."""
    seeds = range(13000, 13080)
    l2 = spectral_training.train("Adam-atan2", decays=(0.0, 1.0), seeds=seeds, **AT)
    spectral = spectral_training.train("Adams", decays=(1.0,), seeds=seeds, **AT)
    for lost in (gain(l2), mean_interval(l2.test[0, 1] - spectral.test[0, 0])):
        assert -0.025 < lost.low < lost.high < -0.002


@pytest.mark.claim("A6")
def test_the_gain_is_of_a_slow_second_moment(monkeypatch) -> None:
    """The ledger once named no betas. At beta2 = 0.5, not 0.95, the decay that gains eight points loses over ten."""
    monkeypatch.setitem(spectral_training.BETAS, "beta2", 0.5)
    quick = spectral_training.train("Adams", decays=(0.0, 1.0), seeds=range(7000, 7010), wrong=0.3, **AT)
    assert gain(quick).middle < -0.1 and gain(quick).high < 0


@pytest.mark.slow
@pytest.mark.claim("A6")
def test_ten_fresh_seed_sets_say_the_same() -> None:
    noisy, clean = (
        spectral_training.train("Adams", decays=(0.0, 1.0), seeds=range(3000, 3080), wrong=wrong, **AT)
        for wrong in (0.3, 0.0)
    )
    for run in (noisy, clean):
        assert_usable(run)
    sets = [slice(i, i + 8) for i in range(0, 80, 8)]
    assert all(gain(noisy, seeds=s).low > 0.02 for s in sets)
    assert 0.06 < gain(noisy).low < gain(noisy).high < 0.1  # all 80 together
    assert all(gain(clean, seeds=s).low < 0.01 for s in sets)
    assert -0.01 < gain(clean).low < gain(clean).high < 0.01


@pytest.mark.slow
@pytest.mark.claim("A6")
def test_tuned_against_tuned_neither_decay_wins_by_a_point() -> None:
    """The ledger once had four tuning seeds: of ten such sets seven give the spectral decay another cell
    than lr 1e-3, decay 1.0, all at its grid's edge. Here 16 choose, and the verdict is on 40 others."""
    lrs, decays = (3e-4, 1e-3, 3e-3), (0.3, 1.0, 3.0, 10.0)
    how: dict[str, Any] = {"steps": 500, "samples": 600, "wrong": 0.3}
    best, others = {}, range(1100, 1140)
    for arm in ("AdamW", "Adams"):
        grid = spectral_training.train(arm, lrs=lrs, decays=decays, seeds=range(1000, 1016), **how)
        lr, decay = (values[i] for values, i in zip((lrs, decays), grid.chosen(), strict=True))
        assert decay in (1.0, 3.0) and (arm == "Adams" or (lr, decay) == (1e-3, 1.0)), (arm, lr, decay)
        best[arm] = spectral_training.train(arm, lrs=(1e-3,), decays=(0.0, 1.0), seeds=others, **how)
        found = gain(best[arm])
        assert 0 < found.low < found.high < 0.03, (arm, found)  # at this lr a decay is worth a point, not eight
    ahead = mean_interval(best["AdamW"].test[0, 1] - best["Adams"].test[0, 1])
    assert -0.005 < ahead.low < ahead.high < 0.01
    elsewhere = spectral_training.train("Adams", lrs=(3e-3,), decays=(3.0,), seeds=others, **how)
    assert mean_interval(best["AdamW"].test[0, 1] - elsewhere.test[0, 0]).low > 0


def test_every_seed_draws_its_own_split_and_its_own_wrong_labels() -> None:
    x, y = digits()
    first, again, other = draw(1, 600, 0.3), draw(1, 600, 0.3), draw(2, 600, 0.3)
    for part, size in zip(first, (600, VALIDATION, len(y) - 600 - VALIDATION), strict=True):
        assert part[0].shape == (size, 65) and part[1].shape == (size,)
    assert all(torch.equal(a, b) for p, q in zip(first, again, strict=True) for a, b in zip(p, q, strict=True))
    assert not torch.equal(first.test[0], other.test[0]) and not torch.equal(first.train[1][:180], other.train[1][:180])
    rows = torch.cat([part[0] for part in first])
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, x.tolist()))  # a split of all the digits
    clean = draw(1, 600, 0.0)
    assert torch.equal(clean.train[0], first.train[0]) and torch.equal(clean.train[1][180:], first.train[1][180:])
    changed = (clean.train[1][:180] != first.train[1][:180]).double().mean()
    assert 0.8 < changed < 0.98  # nine of ten draws among ten classes
    with pytest.raises(ValueError, match="samples must be"):
        draw(1, 1300, 0.0)


def test_the_draws_of_a_seed_do_not_depend_on_its_company() -> None:
    cells: dict[str, Any] = {"lrs": (1e-2,), "decays": (1.0,), "steps": 20, "wrong": 0.3}
    alone, among = (spectral_training.train("Adams", **cells, seeds=seeds) for seeds in ([7], [3, 7]))
    np.testing.assert_allclose(alone.train_loss[..., 0], among.train_loss[..., 1], rtol=1e-9)


def test_without_decay_the_arms_are_one_algorithm() -> None:
    cells: dict[str, Any] = {"lrs": (3e-3, 1e-2), "decays": (0.0,), "seeds": range(2), "steps": 25}
    angle, spectral_arm = (spectral_training.train(arm, **cells) for arm in ("Adam-atan2", "Adams"))
    np.testing.assert_allclose(angle.train_loss, spectral_arm.train_loss, rtol=1e-4)  # the head's L2 decay included
    assert (spectral_arm.train_loss < 2.0).all()


def test_a_run_that_diverges_is_reported_as_one() -> None:
    run = spectral_training.train("AdamW", lrs=(0.1,), decays=(1e3,), seeds=[0], steps=300)
    assert np.isinf(run.sigma).all() and not np.isfinite(run.train_loss).any()


def test_training_names_bad_input() -> None:
    with pytest.raises(ValueError, match="'SGD'"):
        spectral_training.train("SGD", lrs=(1e-3,), decays=(0.0,), seeds=[0])
    with pytest.raises(ValueError, match=r"got 1\.0"):
        spectral_training.train("Adams", lrs=(1e-3,), decays=(0.0,), seeds=[0], wrong=1.0)
