"""Metrics of probabilities against yes and no: AUROC, AUPRC, Brier score, sensitivity and specificity."""

import numpy as np
from numpy.typing import NDArray

from ehr_assets.probes.metrics.kernels import Floats, Kernel, evaluate, ratio, steps_to_win, walk

_TINY = np.finfo(np.float64).tiny


def auroc(y: NDArray, score: NDArray) -> Kernel:
    """Area under the ROC curve, ties counted as one half; NaN where a resample holds one class only.

    y: (n,) 0/1. score: (n,) finite. With weights of one, equal to `sklearn.metrics.roc_auc_score`.
    """
    y = np.asarray(y)
    won = walk(steps_to_win(np.asarray(score), y == 1))
    both = np.column_stack([y == 1, y == 0]).astype(np.float64)

    def kernel(w: Floats) -> Floats:
        positives, negatives = both.T @ w
        return ratio(won(w), positives * negatives)

    return kernel


def auprc(y: NDArray, score: NDArray) -> Kernel:
    """Average precision (arguments as in `auroc`): step-wise, as sklearn's `average_precision_score`."""
    order = np.argsort(-np.asarray(score, np.float64), kind="stable")
    ordered, hit = np.asarray(score)[order], np.asarray(y)[order] == 1
    last = np.r_[ordered[1:] != ordered[:-1], True] if len(order) else hit  # of equal scores
    found = np.cumsum(hit)[last]
    closes = last.copy()
    closes[last] = np.diff(found, prepend=0) > 0  # the curve rises only where there are hits
    steps = list(zip(order.tolist(), hit.tolist(), closes.tolist(), strict=True))

    def kernel(w: Floats) -> Floats:
        above, hits, gained, area, precision = (np.zeros(w.shape[1]) for _ in range(5))
        for row, is_hit, closing in steps:
            np.add(above, w[row], out=above)
            if is_hit:
                np.add(gained, w[row], out=gained)
            if closing:
                np.add(hits, gained, out=hits)
                np.divide(hits, np.maximum(above, _TINY, out=precision), out=precision)
                np.multiply(gained, precision, out=precision)
                np.add(area, precision, out=area)
                gained.fill(0)
        return np.where(above > hits, ratio(area, hits), np.nan)  # one class only: not estimable

    return kernel


def brier(y: NDArray, probability: NDArray) -> Kernel:
    """Mean squared error of the probability."""
    return weighted_mean((np.asarray(probability, np.float64) - np.asarray(y, np.float64)) ** 2)


def sensitivity(y: NDArray, probability: NDArray, threshold: float) -> Kernel:
    """Share of the positives at or above `threshold`, which must come from elsewhere: other subjects."""
    return _share(np.asarray(y) == 1, np.asarray(probability) >= threshold)


def specificity(y: NDArray, probability: NDArray, threshold: float) -> Kernel:
    """Share of the negatives below `threshold`."""
    return _share(np.asarray(y) == 0, np.asarray(probability) < threshold)


def threshold_at_specificity(y: NDArray, probability: NDArray, wanted: float) -> float:
    """The lowest threshold that leaves at least `wanted` of the negatives below it.

    Infinite where none of the probabilities does (then nobody is called positive); NaN without negatives.
    """
    negatives = np.sort(np.asarray(probability)[np.asarray(y) == 0])
    if len(negatives) == 0:
        return float("nan")
    cuts = np.unique(probability)
    enough = np.searchsorted(negatives, cuts, side="left") >= wanted * len(negatives)
    return float(cuts[enough][0]) if enough.any() else float("inf")


def weighted_mean(of: NDArray) -> Kernel:
    """The mean of a number per row (n,)."""

    def kernel(w: Floats) -> Floats:
        return ratio(of @ w, w.sum(axis=0))

    return kernel


def _share(among: NDArray, counted: NDArray) -> Kernel:
    both = np.column_stack([among & counted, among]).astype(np.float64)

    def kernel(w: Floats) -> Floats:
        found, all_of_them = both.T @ w
        return ratio(found, all_of_them)

    return kernel


def weighted_auroc(y: NDArray, score: NDArray, weights: NDArray) -> Floats:
    """`auroc` for each row of `weights` (replicates, n)."""
    return evaluate(auroc(y, score), weights)
