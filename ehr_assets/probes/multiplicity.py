"""From paired resamples to p-values, and their correction for being many."""

import math
from collections.abc import Sequence

import numpy as np

from ehr_assets.probes.metrics.kernels import Floats
from ehr_assets.probes.resample import MIN_ESTIMABLE_FRACTION


def p_of_difference(draws: Floats) -> float:
    """Two-sided p that a difference is none, from its value and its resamples: (1 + replicates,).

    By the normal law with the standard error of the resamples, not by counting them: 1,000 resamples
    cannot tell p below 0.002, which no correction over 61 tasks would let pass. It is about these fits: that
    training again gives others is not in it. NaN without spread, or where most resamples have no value.
    """
    value, drawn = draws[0], draws[1:][~np.isnan(draws[1:])]
    if np.isnan(value) or len(drawn) < max(2, MIN_ESTIMABLE_FRACTION * (len(draws) - 1)):
        return math.nan
    error = float(drawn.std(ddof=1))
    return math.erfc(abs(value) / error / math.sqrt(2)) if error > 1e-12 else math.nan


def holm(p: Sequence[float]) -> list[float]:
    """Holm 1979: the chance of any false finding stays below the level. NaN stays NaN."""
    found = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    out, highest = [math.nan] * len(p), 0.0
    for rank, (value, i) in enumerate(found):
        highest = max(highest, min(1.0, value * (len(found) - rank)))
        out[i] = highest
    return out


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg 1995: the expected share of false findings stays below it. NaN stays NaN."""
    found = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    out, lowest = [math.nan] * len(p), 1.0
    for rank in range(len(found), 0, -1):
        value, i = found[rank - 1]
        lowest = min(lowest, value * len(found) / rank)
        out[i] = lowest
    return out
