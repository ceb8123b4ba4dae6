"""One resampling of a cohort's held-out subjects, shared by all tasks and methods; intervals from it.

Nodes of one subject are not independent, so the bootstrap resamples *subjects*. A resample of subjects is a
vector of whole-number weights; a weighted metric is then computed for all resamples at once instead of
copying rows in a loop. Because every method gets the same weights, differences between methods are paired.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ehr_assets.probes.metrics.kernels import Floats, Kernel, by_blocks

BOOTSTRAP_SEED = 20260101
"""One seed for every method: recipes and baselines see the same resamples of the same subjects."""

MIN_ESTIMABLE_FRACTION = 0.5
"""Fewer estimable resamples than this (too often one class was left): no interval is given."""

MIN_SUBJECTS = 10
"""Of fewer subjects than this no interval is given: they cannot stand for others."""

_HELD_CELLS = 16_000_000  # rows x resamples of weights held at once: 128 MB


@dataclass(frozen=True)
class Estimate:
    """A point estimate with its 95 % percentile interval; NaN where it cannot be estimated."""

    value: float
    ci_low: float
    ci_high: float


NOT_ESTIMABLE = Estimate(np.nan, np.nan, np.nan)


def subject_weights(n_subjects: int, replicates: int, seed: int = BOOTSTRAP_SEED) -> NDArray[np.int32]:
    """Multinomial resampling counts, shape (replicates, n_subjects); each row sums to n_subjects."""
    if n_subjects == 0:
        return np.zeros((replicates, 0), dtype=np.int32)
    rng = np.random.default_rng([seed, n_subjects])
    drawn = rng.integers(0, n_subjects, size=(replicates, n_subjects))
    flat = (drawn + np.arange(replicates)[:, None] * n_subjects).ravel()
    counts = np.bincount(flat, minlength=replicates * n_subjects)
    # Column-major: the weights of one subject lie together, which is how they are looked up.
    return counts.reshape(replicates, n_subjects).astype(np.int32, order="F")


def draws_of(kernels: list[Kernel], subject: NDArray, weights: NDArray) -> Floats:
    """(kernels, 1 + replicates): each metric on all rows, and then on every resample.

    subject: (n,) column of `weights` that each row belongs to. weights: (replicates, n_subjects).
    """
    out = np.full((len(kernels), 1 + len(weights)), np.nan)
    if len(subject) == 0:
        return out
    for i, kernel in enumerate(kernels):
        out[i, 0] = kernel(np.ones((len(subject), 1)))[0]
    step = max(1, _HELD_CELLS // len(subject))
    for start in range(0, len(weights), step):
        rows = weights[start : start + step].T[subject].astype(np.float64)
        for i, kernel in enumerate(kernels):
            out[i, 1 + start : 1 + start + rows.shape[1]] = by_blocks(kernel, rows)
    return out


def recentred(draws: Floats) -> Floats:
    """Draws (1 + replicates,) of a metric >= 0 that noise raises, moved so that their median is the value.

    The calibration error is one: the value holds the noise of the rows, a resample holds it twice. As they
    are, nearly all resamples may lie above the value, and the interval with them.
    """
    drawn = draws[1:]
    if np.isnan(draws[0]) or np.isnan(drawn).all():
        return draws
    return np.r_[draws[:1], np.maximum(drawn - np.nanmedian(drawn) + draws[0], 0.0)]


def interval(draws: Floats, n_subjects: int) -> Estimate:
    """Of one row of `draws_of`; resamples in which the metric cannot be estimated are left out of it."""
    value, drawn = float(draws[0]), draws[1:]
    found = drawn[~np.isnan(drawn)]
    too_few = n_subjects < MIN_SUBJECTS or len(found) < max(1, MIN_ESTIMABLE_FRACTION * len(drawn))
    if np.isnan(value) or too_few:
        return Estimate(value, np.nan, np.nan)
    low, high = np.percentile(found, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def with_interval(kernel: Kernel, subject: NDArray, weights: NDArray) -> Estimate:
    """The metric on all rows, with a 95 % percentile interval (arguments as in `draws_of`)."""
    return interval(draws_of([kernel], subject, weights)[0], len(np.unique(subject)))
