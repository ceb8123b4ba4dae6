"""All metrics of three methods with patient-level intervals: all resamples at once against a plain loop.

The loop takes the packages' own functions, once per resample, method and metric, and whichever of their ways
is faster: weights of rows where they take any, rows copied where not (lifelines, scipy).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lifelines.utils import concordance_index
from numpy.typing import NDArray
from rich.console import Console
from scipy.stats import spearmanr
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)

from ehr_assets.probes.metrics import binary, calibration, regression, survival
from ehr_assets.probes.resample import draws_of, interval, subject_weights
from tests.benchmarks.measure import Row, interleaved, show

SIZES = (500, 2_000, 8_000)
REPLICATES = 1_000
LOOPED = 20
"""Resamples that the loop is timed on; its time is in proportion to their number, all rows being one more."""

METHODS = 3
HORIZON = 365.0
THRESHOLD = 0.3


@dataclass(frozen=True)
class Panel:
    """One task of each kind on the same nodes: outcomes (n,), scores (methods, n), subjects (n,)."""

    y: NDArray
    duration: NDArray
    status: NDArray
    value: NDArray
    subject: NDArray
    score: NDArray
    censoring: survival.CensoringCurve

    @property
    def probability(self) -> NDArray:
        return 1 / (1 + np.exp(-self.score))


def made_up(n: int) -> Panel:
    rng = np.random.default_rng(n)
    hidden = rng.normal(size=n)
    time, ends = rng.exponential(300 * np.exp(-hidden)), rng.uniform(50, 800, n)
    duration = np.minimum(np.minimum(time, ends), HORIZON)
    censored = (ends < time) & (ends < HORIZON)
    return Panel(
        y=(rng.random(n) < 1 / (1 + np.exp(1.5 - hidden))).astype(np.int8),
        duration=duration,
        status=np.where((time <= ends) & (time <= HORIZON), 1, 0),
        value=hidden + rng.normal(size=n),
        subject=rng.integers(0, n // 5, n),
        score=hidden + rng.normal(size=(METHODS, n)),
        censoring=survival.CensoringCurve.fitted(duration, censored),
    )


def at_once(p: Panel, weights: NDArray) -> NDArray:
    """(methods x metrics, 1 + replicates)."""
    kernels = [
        kernel
        for score, probability in zip(p.score, p.probability, strict=True)
        for kernel in (
            binary.auroc(p.y, score),
            binary.auprc(p.y, score),
            binary.brier(p.y, probability),
            calibration.ece(p.y, probability),
            binary.sensitivity(p.y, probability, THRESHOLD),
            binary.specificity(p.y, probability, THRESHOLD),
            survival.c_index(p.duration, p.status == 1, score),
            survival.time_dependent_auroc(p.duration, p.status, score, HORIZON, p.censoring),
            regression.r2(p.value, score),
            regression.mean_absolute_error(p.value, score),
            regression.spearman(p.value, score),
        )
    ]
    draws = draws_of(kernels, p.subject, weights)
    for row in draws:
        interval(row, weights.shape[1])
    return draws


def loop(p: Panel, weights: NDArray) -> NDArray:
    """As `at_once`, one resample after another."""
    rows: list[Callable[[NDArray, NDArray], list]] = []
    for score, probability in zip(p.score, p.probability, strict=True):
        rows.append(_one_method(p, score, probability))
    everybody = np.ones(len(p.y), dtype=np.int32)
    columns = []
    for w in (everybody, *(drawn[p.subject] for drawn in weights)):
        copies = np.repeat(np.arange(len(p.y)), w)
        columns.append([value for method in rows for value in method(w, copies)])
    return np.array(columns).T


def _one_method(p: Panel, score: NDArray, probability: NDArray) -> Callable[[NDArray, NDArray], list]:
    bin_of, called = calibration.equal_mass_bins(probability), probability >= THRESHOLD
    case = p.status == 1
    asked = case | (p.duration >= HORIZON)
    inverse = np.where(case, 1 / p.censoring.before(p.duration), 1.0)

    def ece(w: NDArray) -> float:
        return float(np.abs(np.bincount(bin_of, w * (p.y - probability))).sum() / w.sum())

    def method(w: NDArray, copies: NDArray) -> list[float]:
        y = p.y
        return [
            roc_auc_score(y, score, sample_weight=w),
            average_precision_score(y, score, sample_weight=w),
            brier_score_loss(y, probability, sample_weight=w),
            ece(w),
            float(np.average(called[y == 1], weights=w[y == 1])),
            float(np.average(~called[y == 0], weights=w[y == 0])),
            concordance_index(p.duration[copies], -score[copies], case[copies]),
            roc_auc_score(case[asked], score[asked], sample_weight=(w * inverse)[asked]),
            r2_score(p.value, score, sample_weight=w),
            mean_absolute_error(p.value, score, sample_weight=w),
            spearmanr(p.value[copies], score[copies])[0],
        ]

    return method


def main(console: Console, folder: Path) -> None:
    rows = []
    for n in SIZES:
        p, weights = made_up(n), subject_weights(n // 5, REPLICATES)
        np.testing.assert_allclose(
            at_once(p, weights)[:, : 1 + LOOPED], loop(p, weights[:LOOPED]), rtol=1e-7, atol=1e-9
        )

        def ours(p=p, weights=weights) -> NDArray:
            return at_once(p, weights)

        def reference(p=p, weights=weights) -> NDArray:
            return loop(p, weights[:LOOPED])

        mine, other = interleaved(ours, reference, repeats=3)
        rows.append(Row(f"{n} nodes", n, mine, other * (1 + REPLICATES) / (1 + LOOPED)))
    show(
        console,
        f"Bootstrap: 11 metrics of {METHODS} methods, intervals from {REPLICATES:,} resamples of subjects",
        f"scikit-learn, lifelines and scipy once per resample, method and metric; the same numbers. Timed on "
        f"{LOOPED} of the {REPLICATES:,} resamples",
        "nodes",
        rows,
    )
