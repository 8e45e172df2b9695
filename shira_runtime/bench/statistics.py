# SPDX-License-Identifier: Apache-2.0
"""The statistics of measurements: medians, percentiles, intervals, and the test of a change.

Times of runs are skewed and have outliers, so nothing here assumes a normal distribution: medians,
ranks and resampling only.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shira_runtime.bench.record import BenchmarkError

__all__ = ["Interval", "holm", "mann_whitney", "median", "percentile", "ratio_of_medians"]

RESAMPLES = 4000
SEED = 1


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval."""

    estimate: float
    low: float
    high: float


def median(samples: ArrayLike) -> float:
    """Of at least one sample."""
    return float(np.median(np.asarray(samples)))


def percentile(samples: ArrayLike, percent: float) -> float:
    """The least sample that `percent` of all samples do not exceed: always one that was taken."""
    return float(np.percentile(np.asarray(samples), percent, method="inverted_cdf"))


def ratio_of_medians(samples: ArrayLike, others: ArrayLike, confidence: float = 0.95) -> Interval:
    """median(samples) / median(others), with a percentile bootstrap interval.

    Both sides are resampled independently, `RESAMPLES` times, from a fixed seed.

    Args:
        samples: of the numerator.
        others: of the denominator, larger than 0.
        confidence: that the interval covers the ratio.
    """
    generator = np.random.default_rng(SEED)
    ratios = _resampled_medians(generator, samples) / _resampled_medians(generator, others)
    outside = (1.0 - confidence) / 2.0
    low, high = np.quantile(ratios, [outside, 1.0 - outside])
    return Interval(median(samples) / median(others), float(low), float(high))


def _resampled_medians(generator: np.random.Generator, samples: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(samples, np.float64)
    drawn = generator.integers(0, values.size, (RESAMPLES, values.size))
    medians: NDArray[np.float64] = np.median(values[drawn], axis=1)
    return medians


def mann_whitney(samples: ArrayLike, others: ArrayLike) -> float:
    """Two-sided p-value of the Mann-Whitney U test, that neither side tends to be larger.

    Raises:
        BenchmarkError: scipy is not installed.
    """
    try:
        scipy_stats = importlib.import_module("scipy.stats")
    except ModuleNotFoundError:
        raise BenchmarkError("comparing runs needs scipy: pip install scipy") from None
    test = scipy_stats.mannwhitneyu(np.asarray(samples), np.asarray(others))
    return float(test.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for being several (Holm's step-down), in the order given.

    Flagging what is below alpha then flags anything wrongly with probability alpha at most.
    """
    adjusted = [0.0] * len(p_values)
    greatest = 0.0
    ranked = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for rank, index in enumerate(ranked):
        greatest = max(greatest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = greatest
    return adjusted
