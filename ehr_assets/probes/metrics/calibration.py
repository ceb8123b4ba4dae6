"""Do probabilities come true: expected calibration error, and the reliability curve behind it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ehr_assets.probes.metrics.kernels import Floats, Kernel, ratio

BINS = 10


def equal_mass_bins(probability: NDArray, bins: int = BINS) -> NDArray[np.int64]:
    """(n,) the bin of each row, numbered from 0 upwards: at most `bins`, of about equally many rows.

    Equal probabilities share a bin, so there are fewer bins where values repeat. The bins are those of the
    rows at hand and do not move with a resample: otherwise its error would hold the error of its own edges.
    """
    probability = np.asarray(probability, dtype=np.float64)
    if len(probability) == 0:
        return np.zeros(0, np.int64)
    ordered = np.sort(probability)
    starts = np.unique(ordered[np.arange(bins) * len(ordered) // bins])
    return np.searchsorted(starts, probability, side="right") - 1


def ece(y: NDArray, probability: NDArray, bins: int = BINS) -> Kernel:
    """Expected calibration error: mean over rows of |share of positives - mean probability| of their bin.

    Guo et al. 2017, eq 5, with bins of equal mass (Nixon et al. 2019).
    """
    y, probability = np.asarray(y, np.float64), np.asarray(probability, np.float64)
    bin_of = equal_mass_bins(probability, bins)
    excess = np.zeros((bin_of.max(initial=0) + 1, len(y)))
    excess[bin_of, np.arange(len(y))] = y - probability

    def kernel(w: Floats) -> Floats:
        return ratio(np.abs(excess @ w).sum(axis=0), w.sum(axis=0))

    return kernel


@dataclass(frozen=True)
class Reliability:
    """One bin of a reliability curve: mean probability, share of positives, rows."""

    predicted: float
    observed: float
    n: int


def reliability(y: NDArray, probability: NDArray, bins: int = BINS) -> list[Reliability]:
    """The reliability curve, lowest probabilities first; empty without rows."""
    y, probability = np.asarray(y, np.float64), np.asarray(probability, np.float64)
    bin_of = equal_mass_bins(probability, bins)
    return [
        Reliability(
            float(probability[bin_of == b].mean()), float(y[bin_of == b].mean()), int((bin_of == b).sum())
        )
        for b in np.unique(bin_of)
    ]
