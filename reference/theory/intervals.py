"""Intervals for what random runs show. They cover what the samples are drawn over, each sample drawn anew, and no more.

mean_interval      of a mean, by Student's t: for sums of many small effects, such as a difference of accuracies
median_interval    of a median, by order statistics: for any distribution, such as a ratio of step counts
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from reference.extras import needs

with needs("theory", __name__):
    from scipy import stats


class Interval(NamedTuple):
    """An estimate, and the two ends between which the true value lies with the probability asked for."""

    middle: float
    low: float
    high: float


def mean_interval(samples: np.ndarray, level: float = 0.95) -> Interval:
    """The mean of samples (n,) that are drawn independently, n >= 2; for paired runs the samples are the differences."""
    x = _checked(samples, level, 2)
    middle, half = x.mean(), stats.t.ppf((1 + level) / 2, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size)
    return Interval(float(middle), float(middle - half), float(middle + half))


def median_interval(samples: np.ndarray, level: float = 0.95) -> Interval:
    """The median of samples (n,) that are drawn independently, from any distribution; inf may be among them.

    The median lies below the k-th smallest sample only if fewer than k samples lie below the median: a binomial chance. The
    ends are the k-th smallest and the k-th largest for the largest k that keeps the level, so 6 samples are the least for 95 %.
    """
    x = np.sort(_checked(samples, level, 1))
    k = int(stats.binom.ppf((1 - level) / 2, x.size, 0.5))
    if k < 1:
        raise ValueError(
            f"{x.size} samples are too few for the median at level {level}; 1 + log2(1 / (1 - level)) are enough"
        )
    return Interval(float(np.median(x)), float(x[k - 1]), float(x[-k]))


def _checked(samples: np.ndarray, level: float, least: int) -> np.ndarray:
    x = np.asarray(samples, dtype=np.float64)
    if x.ndim != 1 or x.size < least or np.isnan(x).any() or not 0 < level < 1:
        raise ValueError(
            f"an interval needs at least {least} samples (n,) without nan and a level between 0 and 1, "
            f"got {x.size} of shape {x.shape}, {np.isnan(x).sum()} of them nan, and level {level}"
        )
    return x
