"""The quick table of one asset: a method's metrics on held-out nodes, for Dagster's pages and the ablation.

Every probe, baseline and oracle is scored here with the same rules and the same bootstrap resamples. What a
report prints is scored again by `compare.py`, all methods at once. No fitting and no files.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehr_assets.probes.frames import CohortNodes, TaskLabels
from ehr_assets.probes.measures import MEASURES, Outcomes, measures
from ehr_assets.probes.resample import draws_of, interval, subject_weights
from ehr_assets.probes.rows import Kind

EVALUATED_SPLIT = "held_out"

SHOWN = {"binary": 3, "time_to_event": 1, "regression": 2}
"""How many of the kind's metrics (measures.py), the primary one first."""


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
        min_samples, min_positives: with fewer held-out nodes, or fewer of the rarer class (or events), a task
            is listed with its counts but not scored.
    """

    def __init__(self, nodes: CohortNodes, bootstrap: int, min_samples: int, min_positives: int) -> None:
        self.nodes, self.least = nodes, (min_samples, min_positives)
        held_out = nodes.rows(EVALUATED_SPLIT)
        subjects, column = np.unique(nodes.subject_id[held_out], return_inverse=True)
        self._column = np.full(len(held_out), -1)
        self._column[held_out] = column
        self._weights = subject_weights(len(subjects), bootstrap)

    def rows(
        self, method: Method, task: TaskLabels, kind: Kind, answers: NDArray | None, usable: NDArray[np.bool_]
    ) -> list[dict[str, Any]]:
        """Metrics of the kind on all held-out nodes; the primary one per indication where there are enough.

        answers: (n,) probability, log hazard or number; None when the task could not be fitted: rows with
        null values and the counts are returned, so that no task is dropped silently. usable: (n,) nodes with
        features.
        """
        asked = usable & self.nodes.rows(EVALUATED_SPLIT) & task.evaluable(kind)
        out = self._scored(method, task, kind, answers, asked, SHOWN[kind])
        if np.isfinite(out[0]["value"]):
            for indication in sorted(set(self.nodes.indication[asked].tolist()) - {""}):
                inside = asked & (self.nodes.indication == indication)
                own = self._scored(method, task, kind, answers, inside, 1, indication)
                out += [row for row in own if np.isfinite(row["value"])]
        return out

    def _scored(
        self,
        method: Method,
        task: TaskLabels,
        kind: Kind,
        answers: NDArray | None,
        at: NDArray[np.bool_],
        shown: int,
        indication: str | None = None,
    ) -> list[dict[str, Any]]:
        outcomes = Outcomes(kind, task.y[at], task.duration_days[at], task.status[at])
        draws = np.full((shown, 1), np.nan)
        if answers is not None and outcomes.enough(*self.least):
            kernels = measures(outcomes, answers[at].astype(np.float64), np.nan)[:shown]
            draws = draws_of(kernels, self._column[at], self._weights)
        n_subjects = len(np.unique(self.nodes.subject_id[at]))
        rows = []
        for name, drawn in zip(MEASURES[kind][:shown], draws, strict=True):
            found = interval(drawn, n_subjects)
            rows.append(
                {
                    "recipe": method.recipe,
                    "cohort": self.nodes.cohort,
                    "task": task.name,
                    "category": task.category,
                    "indication": indication,
                    "horizon_days": task.horizon_days,
                    "probe": method.probe,
                    "metric": name,
                    "value": found.value,
                    "ci_low": found.ci_low,
                    "ci_high": found.ci_high,
                    "n": len(outcomes),
                    "n_positive": int(outcomes.positive.sum()),
                    "n_subjects": n_subjects,
                    "split": EVALUATED_SPLIT,
                    "subgroup": None,
                    "seed": method.seed,
                }
            )
        return rows
