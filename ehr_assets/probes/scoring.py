"""From probabilities to the tidy rows of `metrics.parquet`.

Every method - embedding probe, baseline, oracle - is scored here and only here, on the same nodes, with
the same rules and the same bootstrap resamples. No fitting and no files.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehr_assets.probes.frames import CohortNodes, TaskLabels
from ehr_assets.probes.metrics.binary import auprc, auroc, brier
from ehr_assets.probes.metrics.kernels import Kernel
from ehr_assets.probes.metrics.survival import c_index
from ehr_assets.probes.resample import NOT_ESTIMABLE, Estimate, subject_weights, with_interval

EVALUATED_SPLIT = "held_out"

METRICS: dict[str, Callable[..., Kernel]] = {"auroc": auroc, "auprc": auprc, "brier": brier}

MIN_SAMPLES = 20
"""Fewer nodes with a known label than this, in train or in held-out: listed, not scored."""


@dataclass(frozen=True)
class Method:
    """Who is being scored: the columns that are the same in every row of its results."""

    recipe: str
    probe: str
    seed: int


class Scorer:
    """Scores methods on the held-out nodes of one cohort.

    Args:
        nodes: the cohort's nodes and labels.
        bootstrap: number of subject resamples.
        min_positives: fewer positives or negatives than this, in train or in held-out, and a task is
            listed with its counts but not scored.
    """

    def __init__(self, nodes: CohortNodes, bootstrap: int, min_positives: int) -> None:
        self.nodes, self.min_positives = nodes, min_positives
        held_out = nodes.rows(EVALUATED_SPLIT)
        subjects, column = np.unique(nodes.subject_id[held_out], return_inverse=True)
        self._column = np.full(len(held_out), -1)
        self._column[held_out] = column
        self._weights = subject_weights(len(subjects), bootstrap)
        self._indication = np.array(nodes.frame["indication"].fill_null("").to_list(), dtype=object)

    def fittable(self, task: TaskLabels, usable: NDArray[np.bool_]) -> bool:
        """Whether train holds enough of both classes. usable: (n,) nodes that have features."""
        return self._enough(task.y[usable & self.nodes.rows("train")])

    def binary_rows(
        self, method: Method, task: TaskLabels, probability: NDArray | None, usable: NDArray[np.bool_]
    ) -> list[dict[str, Any]]:
        """AUROC, AUPRC and Brier on all held-out nodes; AUROC per indication where it can be estimated.

        probability: (n,) of a positive, or None when the task could not be fitted (rows with null values
        and the counts are returned, so that no task is dropped silently).
        """
        rows = usable & self.nodes.rows(EVALUATED_SPLIT) & ~np.isnan(task.y)
        y = task.y[rows]
        if probability is None or not self._enough(y):
            return [self._row(method, task, name, NOT_ESTIMABLE, rows, y == 1) for name in METRICS]
        out = []
        for name, metric in METRICS.items():
            estimate = self._estimate(metric(y, probability[rows]), rows)
            out.append(self._row(method, task, name, estimate, rows, y == 1))
        for indication in sorted({i for i in self._indication[rows] if i}):
            inside = rows & (self._indication == indication)
            y = task.y[inside]
            if self._enough(y):
                estimate = self._estimate(auroc(y, probability[inside]), inside)
                out.append(self._row(method, task, "auroc", estimate, inside, y == 1, indication))
        return out

    def survival_row(
        self, method: Method, task: TaskLabels, risk: NDArray | None, usable: NDArray[np.bool_]
    ) -> dict[str, Any]:
        """Harrell's C on held-out nodes that were followed; `n_positive` counts observed events.

        risk: (n,), higher is worse, or None when the task could not be fitted.
        """
        rows = usable & self.nodes.rows(EVALUATED_SPLIT) & task.followed
        estimate = NOT_ESTIMABLE
        events = task.observed[rows].sum()
        if risk is not None and events >= self.min_positives and rows.sum() >= MIN_SAMPLES:
            concordance = c_index(task.duration_days[rows], task.observed[rows], risk[rows])
            estimate = self._estimate(concordance, rows)
        return self._row(method, task, "c_index", estimate, rows, task.observed[rows])

    def _enough(self, y: NDArray) -> bool:
        positives, negatives = (y == 1).sum(), (y == 0).sum()
        return min(positives, negatives) >= self.min_positives and positives + negatives >= MIN_SAMPLES

    def _estimate(self, metric: Kernel, rows: NDArray[np.bool_]) -> Estimate:
        return with_interval(metric, self._column[rows], self._weights)

    def _row(
        self,
        method: Method,
        task: TaskLabels,
        metric: str,
        estimate: Estimate,
        rows: NDArray[np.bool_],
        positive: NDArray[np.bool_],
        indication: str | None = None,
    ) -> dict[str, Any]:
        return {
            "recipe": method.recipe,
            "cohort": self.nodes.cohort,
            "task": task.name,
            "category": task.category,
            "indication": indication,
            "horizon_days": task.horizon_days,
            "probe": method.probe,
            "metric": metric,
            "value": estimate.value,
            "ci_low": estimate.ci_low,
            "ci_high": estimate.ci_high,
            "n": int(rows.sum()),
            "n_positive": int(positive.sum()),
            "n_subjects": len(np.unique(self.nodes.subject_id[rows])),
            "split": EVALUATED_SPLIT,
            "subgroup": None,
            "seed": method.seed,
        }
