"""Metrics of predictions, with patient-level bootstrap intervals: AUROC, AUPRC, Brier score, C-index.

Pure numpy: scores and outcomes in, numbers out. No files, no models, no knowledge of tasks.

Nodes of one subject are not independent, so the bootstrap resamples *subjects*. A resample of subjects
is a vector of whole-number weights; a weighted metric is then computed for all resamples at once instead
of copying rows in a loop. The weights are drawn once and shared by every task and every method, so that
differences between methods evaluated on the same subjects are paired.

What cannot be estimated (one class, no rows) is NaN here and null on disk: never 0.5.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ehr_assets.probes.threads import blas_threads_for

Floats = NDArray[np.float64]

BOOTSTRAP_SEED = 20260101
"""One seed for every method: recipes and baselines see the same resamples of the same subjects."""

MIN_ESTIMABLE_FRACTION = 0.5
"""Fewer estimable resamples than this (too often one class was left): no interval is given."""

_CHUNK_CELLS = 8_000_000  # resamples x rows held at once: about 64 MB per temporary


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


def weighted_auroc(y: NDArray, score: NDArray, weights: NDArray) -> Floats:
    """Area under the ROC curve for each row of `weights`, ties counted as one half.

    y: (n,) 0/1. score: (n,) finite. weights: (replicates, n) >= 0. Returns (replicates,), NaN where a
    resample holds one class only. With weights of one, equal to `sklearn.metrics.roc_auc_score`.
    """
    y, score = np.asarray(y), np.asarray(score)
    order = np.argsort(score, kind="stable")
    negatives, positives = order[y[order] == 0], order[y[order] == 1]
    below = np.searchsorted(score[negatives], score[positives], side="left")
    not_above = np.searchsorted(score[negatives], score[positives], side="right")

    def block(w: NDArray) -> Floats:
        beaten = np.zeros((len(negatives) + 1, w.shape[1]))  # weight of the k lowest negatives
        np.cumsum(w[negatives], axis=0, out=beaten[1:])
        w_pos = w[positives].astype(np.float64)
        wins = np.einsum("ib,ib->b", w_pos, beaten[below])
        wins += np.einsum("ib,ib->b", w_pos, beaten[not_above])
        return _ratio(wins / 2, w_pos.sum(axis=0) * beaten[-1])

    return _in_blocks(block, weights)


def weighted_auprc(y: NDArray, score: NDArray, weights: NDArray) -> Floats:
    """Average precision for each row of `weights` (shapes as in `weighted_auroc`).

    The step-wise sum of sklearn's `average_precision_score`: no interpolation between thresholds.
    """
    order = np.argsort(-np.asarray(score, dtype=np.float64), kind="stable")
    ordered, positive = np.asarray(score)[order], np.asarray(y)[order] == 1
    last = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])  # of each group of equal scores

    def block(w: NDArray) -> Floats:
        taken = w[order].astype(np.float64)
        above = np.cumsum(taken, axis=0)[last]
        taken[~positive] = 0
        found = np.cumsum(taken, axis=0)[last]
        gained = np.diff(found, axis=0, prepend=0)
        area = _ratio(np.einsum("gb,gb->b", gained, _ratio(found, above, 0.0)), found[-1])
        return np.where(above[-1] > found[-1], area, np.nan)  # one class only: not estimable

    return _in_blocks(block, weights)


def weighted_brier(y: NDArray, probability: NDArray, weights: NDArray) -> Floats:
    """Mean squared error of the probability for each row of `weights` (shapes as in `weighted_auroc`)."""
    squared = (np.asarray(probability, dtype=np.float64) - np.asarray(y, dtype=np.float64)) ** 2
    return _ratio(weights @ squared, weights.sum(axis=1).astype(np.float64))


def weighted_c_index(duration: NDArray, observed: NDArray, risk: NDArray, weights: NDArray) -> Floats:
    """Harrell's concordance for each row of `weights`: does the higher risk have its event earlier?

    duration: (n,) > 0, any unit. observed: (n,) bool. risk: (n,), higher is worse. weights: (replicates,
    n). A pair counts when the earlier of the two times is an event (an event and a censoring at the same
    time count, the event being first); equal risks count one half, as in lifelines. Cost is O(n^2), in
    blocks of rows; with weights of one, it equals lifelines' `concordance_index(duration, -risk, observed)`.
    """
    duration, risk = np.asarray(duration, dtype=np.float64), np.asarray(risk, dtype=np.float64)
    observed = np.asarray(observed, dtype=bool)
    w = np.asarray(weights, dtype=np.float64)
    wins, pairs = np.zeros(len(w)), np.zeros(len(w))
    events = np.flatnonzero(observed)
    step = max(1, _CHUNK_CELLS // max(1, len(duration)))
    with blas_threads_for(len(events) * len(duration)):
        for start in range(0, len(events), step):
            rows = events[start : start + step]
            later = (duration[None, :] > duration[rows, None]) | (
                (duration[None, :] == duration[rows, None]) & ~observed[None, :]
            )
            better = (risk[rows, None] > risk[None, :]) + 0.5 * (risk[rows, None] == risk[None, :])
            pairs += np.einsum("bi,bi->b", w[:, rows], w @ later.T.astype(np.float64))
            wins += np.einsum("bi,bi->b", w[:, rows], w @ (better * later).T)
    return _ratio(wins, pairs)


def with_interval(metric: Callable[[NDArray], Floats], subject: NDArray, weights: NDArray) -> Estimate:
    """The metric on all rows, with a 95 % percentile interval over resampled subjects.

    metric: weights (replicates, n) -> values (replicates,), e.g. a partial of `weighted_auroc`.
    subject: (n,) column of `weights` that each row belongs to. weights: (replicates, n_subjects), from
    `subject_weights`. Resamples in which the metric cannot be estimated are left out of the interval;
    when they are more than half of all, there is no interval.
    """
    if len(subject) == 0:
        return NOT_ESTIMABLE
    value = float(metric(np.ones((1, len(subject)), dtype=np.int32))[0])
    if np.isnan(value) or len(weights) == 0:
        return Estimate(value, np.nan, np.nan)
    drawn = metric(weights.T[subject].T)  # laid out so that the weights of one row lie together
    drawn = drawn[~np.isnan(drawn)]
    if len(drawn) < MIN_ESTIMABLE_FRACTION * len(weights):
        return Estimate(value, np.nan, np.nan)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def _in_blocks(block: Callable[[NDArray], Floats], weights: NDArray) -> Floats:
    """`block` maps weights (n, replicates) to values (replicates,); memory is bounded by `_CHUNK_CELLS`."""
    replicates, n = weights.shape
    if n == 0:
        return np.full(replicates, np.nan)
    step = max(1, _CHUNK_CELLS // n)
    return np.concatenate([block(weights[i : i + step].T) for i in range(0, max(1, replicates), step)])


def _ratio(top: NDArray, bottom: NDArray, otherwise: float = np.nan) -> Floats:
    return np.divide(top, bottom, out=np.full(np.shape(bottom), otherwise), where=bottom > 0)
