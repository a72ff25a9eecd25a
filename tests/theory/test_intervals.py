"""The intervals that carry the verdicts on random runs: by hand, by how often they hold the truth, and bad input."""

from __future__ import annotations

import numpy as np
import pytest

from reference.theory.intervals import mean_interval, median_interval


def test_the_mean_by_hand():
    middle, low, high = mean_interval(np.array([1.0, 2.0, 3.0, 4.0]))
    half = (
        3.18244630528 * np.sqrt(5 / 3) / 2
    )  # the t of a table for 3 degrees of freedom and 97.5 %; variance 5/3, n = 4
    assert (middle, low, high) == pytest.approx((2.5, 2.5 - half, 2.5 + half))


@pytest.mark.parametrize(("n", "k"), [(6, 1), (8, 1), (9, 2), (10, 2), (20, 6), (25, 8)])
def test_the_ends_of_the_median_are_those_of_the_sign_tests_table(n, k):
    x = np.random.default_rng(0).permutation(n) + 1.0
    assert median_interval(x) == ((n + 1) / 2, k, n + 1 - k)


def test_a_run_that_never_arrives_counts_as_large():
    assert median_interval(np.array([3.0, 1.0, 2.0, 4.0, np.inf, 5.0])) == (3.5, 1, np.inf)


@pytest.mark.parametrize("n", [2, 8, 40])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_mean_is_inside_as_often_as_said(n, level):
    draws = np.random.default_rng(n).standard_normal((3000, n))
    held = np.mean([(i := mean_interval(x, level)).low <= 0 <= i.high for x in draws])
    assert abs(held - level) < 5 * np.sqrt(level * (1 - level) / 3000)  # five standard errors of the count


@pytest.mark.parametrize("n", [8, 41])
def test_the_median_is_inside_at_least_as_often_as_said_for_a_skewed_law(n):
    draws = np.random.default_rng(n).exponential(size=(3000, n))
    held = np.mean([(i := median_interval(x)).low <= np.log(2) <= i.high for x in draws])
    assert 0.95 - 5 * np.sqrt(0.05 * 0.95 / 3000) < held < 0.995


@pytest.mark.parametrize("interval", [mean_interval, median_interval])
@pytest.mark.parametrize("bad", [[], [[1.0, 2.0]], [1.0, np.nan, 3.0]])
def test_bad_samples_are_refused(interval, bad):
    with pytest.raises(ValueError, match="samples"):
        interval(np.array(bad))


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="5 samples are too few"):
        median_interval(np.arange(5.0))
    with pytest.raises(ValueError, match="at least 2"):
        mean_interval(np.array([1.0]))
    with pytest.raises(ValueError, match="level"):
        mean_interval(np.arange(5.0), level=1.0)
