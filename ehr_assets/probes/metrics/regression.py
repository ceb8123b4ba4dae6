"""Metrics of predicted numbers: coefficient of determination, mean absolute error, rank correlation."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ehr_assets.probes.metrics.binary import weighted_mean
from ehr_assets.probes.metrics.kernels import Floats, Kernel, ratio


def mean_absolute_error(value: NDArray, predicted: NDArray) -> Kernel:
    """In the unit of the value."""
    return weighted_mean(np.abs(np.asarray(value, np.float64) - np.asarray(predicted, np.float64)))


def r2(value: NDArray, predicted: NDArray) -> Kernel:
    """1 - squared errors / squared deviations from the resample's own mean; NaN where all values are equal.

    With weights of one, equal to `sklearn.metrics.r2_score`.
    """
    value = np.asarray(value, np.float64)
    errors = (value - np.asarray(predicted, np.float64)) ** 2
    centred = value - value.mean() if len(value) else value  # keeps the squares of the same size
    sums = np.stack([errors, centred, centred**2, np.ones(len(value))])

    def kernel(w: Floats) -> Floats:
        error, first, second, total = sums @ w
        spread = second - ratio(first**2, total)
        return 1 - ratio(error, np.where(spread > 1e-12 * np.abs(second), spread, 0))

    return kernel


def spearman(value: NDArray, predicted: NDArray) -> Kernel:
    """Correlation of mid-ranks, the ranks being those within the resample; NaN where either is constant.

    With weights of one, equal to `scipy.stats.spearmanr`.
    """
    by_value, by_predicted = _levels(value), _levels(predicted)
    n = len(value)

    def kernel(w: Floats) -> Floats:
        middle = (w.sum(axis=0) + 1) / 2  # the mean rank
        x, xx, xy, yy = np.empty((n, w.shape[1])), *(np.zeros(w.shape[1]) for _ in range(3))
        for rows, rank in _mid_ranks(by_value, w, middle):
            for row in rows:
                x[row] = rank
                xx += w[row] * rank**2
        for rows, rank in _mid_ranks(by_predicted, w, middle):
            for row in rows:
                weighted = w[row] * rank
                xy += weighted * x[row]
                yy += weighted * rank
        return ratio(xy, np.sqrt(xx * yy))

    return kernel


def _levels(of: NDArray) -> list[list[int]]:
    """The rows of each distinct value, lowest value first."""
    order = np.argsort(np.asarray(of), kind="stable")
    starts = np.flatnonzero(np.diff(np.asarray(of)[order])) + 1
    return [rows.tolist() for rows in np.split(order, starts)] if len(order) else []


def _mid_ranks(by_level: list[list[int]], w: Floats, middle: Floats) -> Iterator[tuple[list[int], Floats]]:
    """Rows of each level with the mean rank of their copies in each resample, less `middle`."""
    below = np.zeros(w.shape[1])
    for rows in by_level:
        mine = w[rows[0]].copy()
        for row in rows[1:]:
            mine += w[row]
        yield rows, below + (mine + 1) / 2 - middle
        below += mine
