"""What a task is scored by: which metrics for which kind of task, how much it takes to be scored at all."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ehr_assets.probes.metrics import binary, calibration, regression, survival
from ehr_assets.probes.metrics.kernels import Kernel

SPECIFICITY = 0.9
"""At which sensitivity is told; the threshold comes from tuning."""

PRIMARY = {"binary": "auroc", "time_to_event": "c_index", "regression": "spearman"}
"""By kind of task: the metric of subgroups, of indications and of the corrected comparison."""

MEASURES = {
    "binary": ("auroc", "auprc", "brier", "ece", "sensitivity_at_spec90", "specificity_at_spec90"),
    "time_to_event": ("c_index", "td_auroc"),
    "regression": ("spearman", "r2", "mae"),
}
"""All metrics by kind of task, the primary one first. `specificity_at_spec90` is the one that was reached."""

RAISED_BY_NOISE = ("ece",)
"""Those whose resamples are moved onto the value (`resample.recentred`)."""

COMPARED = ("auroc", "auprc", "brier", "c_index", "spearman", "r2")
"""Those of which differences between methods are told."""


@dataclass(frozen=True)
class Outcomes:
    """What came true at n nodes, and how it is asked; NaN or -1 where that is not of the kind.

    kind: binary, time_to_event or regression. value: (n,) 0/1, or the number. duration_days: (n,).
    status: (n,) as in nodes/frames.py. horizon_days, censoring (fitted on train): of time-dependent AUROC.
    """

    kind: str
    value: NDArray[np.float64]
    duration_days: NDArray[np.float64]
    status: NDArray[np.int8]
    horizon_days: float | None = None
    censoring: survival.CensoringCurve | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.value)

    def at(self, rows: NDArray) -> "Outcomes":
        """Of a mask or positions."""
        return Outcomes(
            self.kind,
            self.value[rows],
            self.duration_days[rows],
            self.status[rows],
            self.horizon_days,
            self.censoring,
        )

    @property
    def positive(self) -> NDArray[np.bool_]:
        """(n,) those with the outcome; none of a number."""
        if self.kind == "regression":
            return np.zeros(len(self), dtype=bool)
        return self.value == 1 if self.kind == "binary" else self.status == 1

    def enough(self, min_samples: int, min_positives: int) -> bool:
        """Whether there is enough to score: nodes; positives and negatives, or events."""
        positives = int(self.positive.sum())
        rarer = {
            "binary": min(positives, len(self) - positives),
            "time_to_event": positives,
            "regression": min_positives,
        }
        return len(self) >= min_samples and rarer[self.kind] >= min_positives


def primary(outcomes: Outcomes, score: NDArray) -> Kernel:
    """The primary metric of the kind. score: (n,) probability, log hazard or number."""
    if outcomes.kind == "binary":
        return binary.auroc(outcomes.value, score)
    if outcomes.kind == "time_to_event":
        return survival.c_index(outcomes.duration_days, outcomes.status == 1, score)
    return regression.spearman(outcomes.value, score)


def measures(outcomes: Outcomes, score: NDArray, threshold: float) -> list[Kernel]:
    """All metrics of the kind, in the order of `MEASURES`. threshold: from tuning, of probabilities."""
    first, y = primary(outcomes, score), outcomes.value
    if outcomes.kind == "binary":
        fixed = [f(y, score, threshold) for f in (binary.sensitivity, binary.specificity)]
        known = [not_estimable, not_estimable] if np.isnan(threshold) else fixed
        return [first, binary.auprc(y, score), binary.brier(y, score), calibration.ece(y, score), *known]
    if outcomes.kind == "regression":
        return [first, regression.r2(y, score), regression.mean_absolute_error(y, score)]
    if outcomes.horizon_days is None or outcomes.censoring is None:
        return [first, not_estimable]
    at_horizon = survival.time_dependent_auroc(
        outcomes.duration_days, outcomes.status, score, outcomes.horizon_days, outcomes.censoring
    )
    return [first, at_horizon]


def not_estimable(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """A metric that has no value here."""
    return np.full(weights.shape[1], np.nan)
