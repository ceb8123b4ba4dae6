"""Scores one panel: every method by every metric, on all its nodes, by indication and by subgroup. No files.

What comes out are the values with their resamples, so that means and differences can be taken of them later
under the very same resamples; and the rows of the tables that need no other task.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehr_assets.probes.measures import MEASURES, PRIMARY, RAISED_BY_NOISE, measures, primary
from ehr_assets.probes.metrics.calibration import reliability
from ehr_assets.probes.metrics.kernels import Floats
from ehr_assets.probes.panels import Entry, Method, Panel
from ehr_assets.probes.resample import draws_of, interval, recentred, subject_weights

EVALUATED_SPLIT = "held_out"


@dataclass(frozen=True)
class Rules:
    """How panels are scored: resamples of subjects; fewer nodes or positives than these are listed only."""

    replicates: int = 1000
    min_samples: int = 20
    min_positives: int = 5


RULES = Rules()


@dataclass
class Scored:
    """One panel's numbers.

    draws: metric -> (methods, 1 + replicates), value first, mean over seeds; NaN: not scored. by_indication:
    the same of the primary metric. seeds: metric -> one {seed: value} per method. subjects: who took part.
    """

    cohort: str
    task: str
    category: str
    kind: str
    methods: tuple[Method, ...]
    n: int
    subjects: NDArray[np.int64]
    draws: dict[str, Floats] = field(default_factory=dict)
    by_indication: dict[str, Floats] = field(default_factory=dict)
    seeds: dict[str, list[dict[int, float]]] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    subgroups: list[dict[str, Any]] = field(default_factory=list)
    reliability: list[dict[str, Any]] = field(default_factory=list)


@lru_cache(maxsize=2)
def shared_weights(n_subjects: int, replicates: int) -> NDArray[np.int32]:
    """The one resampling of a cohort: the same in every process."""
    return subject_weights(n_subjects, replicates)


def score_panel(panel: Panel, rules: Rules) -> Scored:
    """All numbers of one panel; nulls where it is only listed."""
    return _Scoring(panel, rules).run()


class _Scoring:
    def __init__(self, panel: Panel, rules: Rules) -> None:
        self.panel, self.rules = panel, rules
        self.kind = panel.outcomes.kind
        self.weights = shared_weights(panel.n_subjects, rules.replicates)
        self._parts: dict[bytes, Floats] = {}
        self.out = Scored(
            panel.cohort,
            panel.task,
            panel.category,
            self.kind,
            panel.methods,
            len(panel.subject),
            np.unique(panel.subject),
        )

    def run(self) -> Scored:
        everywhere = np.arange(len(self.panel.subject))
        names = MEASURES[self.kind]
        scored = bool(self.panel.entries) and self._enough(everywhere)
        shape = (len(self.panel.methods), len(names), 1 + self.rules.replicates)
        draws, seeds = self._draws(everywhere, names) if scored else (np.full(shape, np.nan), [])
        for i, name in enumerate(names):
            self.out.draws[name] = draws[:, i]
            self.out.seeds[name] = [{seed: d[i, 0] for seed, d in own.items()} for own in seeds]
            for method in range(shape[0]):
                self._metric(method, name, draws[method, i], everywhere)
        if not self.panel.methods:
            self._metric(None, names[0], np.full(1, np.nan), everywhere)
        if scored:
            self._indications()
            self._subgroups()
            if self.kind == "binary":
                self._reliability()
        return self.out

    def _enough(self, rows: NDArray) -> bool:
        rules = self.rules
        return self.panel.outcomes.at(rows).enough(rules.min_samples, rules.min_positives)

    def _draws(self, rows: NDArray, names: tuple[str, ...]) -> tuple[Floats, list[dict[int, Floats]]]:
        """(methods, metrics, 1 + replicates), the mean over seeds; and each seed's own, by method."""
        outcomes, subject = self.panel.outcomes.at(rows), self.panel.subject[rows]
        kernels = []
        for e in self.panel.entries:
            score = e.score[rows]
            kernels += (
                measures(outcomes, score, e.threshold) if len(names) > 1 else [primary(outcomes, score)]
            )
        flat = draws_of(kernels, subject, self.weights)
        each = flat.reshape(len(self.panel.entries), len(names), -1)
        for metric in (i for i, name in enumerate(names) if name in RAISED_BY_NOISE):
            each[:, metric] = [recentred(draws) for draws in each[:, metric]]
        seeds: list[dict[int, Floats]] = [{} for _ in self.panel.methods]
        for entry, found in zip(self.panel.entries, each, strict=True):
            seeds[entry.method][entry.seed] = found
        missing = np.full(each.shape[1:], np.nan)
        return np.array([np.mean(list(own.values()), axis=0) if own else missing for own in seeds]), seeds

    def _part(self, rows: NDArray) -> Floats:
        """(methods, 1 + replicates) of the primary metric: kept, for indications are asked for again as
        subgroups, and the rest of one of two groups is the other one."""
        key = rows.tobytes()
        if key not in self._parts:
            self._parts[key] = self._draws(rows, MEASURES[self.kind][:1])[0][:, 0]
        return self._parts[key]

    def _indications(self) -> None:
        of, names = self.panel.groups["indication"], MEASURES[self.kind]
        for indication in sorted(set(of.tolist()) - {""}):
            rows = np.flatnonzero(of == indication)
            if self._enough(rows):
                draws = self._part(rows)
                self.out.by_indication[indication] = draws
                for method in range(len(self.panel.methods)):
                    self._metric(method, names[0], draws[method], rows, indication)

    def _subgroups(self) -> None:
        for name, of in self.panel.groups.items():
            known = of != ""
            for group in sorted(set(of[known].tolist())):
                rows, rest = np.flatnonzero(of == group), np.flatnonzero(known & (of != group))
                enough = self._enough(rows)
                nothing = np.full((len(self.panel.methods), 1 + self.rules.replicates), np.nan)
                own = self._part(rows) if enough else nothing
                gap = own - self._part(rest) if enough and self._enough(rest) else nothing
                for method in range(len(self.panel.methods)):
                    self._subgroup(method, name, group, own[method], gap[method], (rows, rest))

    def _reliability(self) -> None:
        for i, (recipe, probe) in enumerate(self.panel.methods):
            mine: list[Entry] = [e for e in self.panel.entries if e.method == i]
            if mine:
                y = np.tile(self.panel.outcomes.value, len(mine))
                for bin_, r in enumerate(reliability(y, np.concatenate([e.score for e in mine]))):
                    self.out.reliability.append(
                        {
                            "recipe": recipe,
                            "cohort": self.panel.cohort,
                            "probe": probe,
                            "task": self.panel.task,
                            "bin": bin_,
                            "predicted": r.predicted,
                            "observed": r.observed,
                            "n": r.n,
                        }
                    )

    def _counts(self, rows: NDArray) -> dict[str, Any]:
        return {
            "n": len(rows),
            "n_positive": int(self.panel.outcomes.positive[rows].sum()),
            "n_subjects": len(np.unique(self.panel.subject[rows])),
        }

    def _metric(
        self, method: int | None, name: str, draws: Floats, rows: NDArray, indication: str | None = None
    ) -> None:
        recipe, probe = (None, None) if method is None else self.panel.methods[method]
        seeds = sorted({e.seed for e in self.panel.entries if e.method == method})
        counts = self._counts(rows)
        found = interval(draws, counts["n_subjects"])
        self.out.metrics.append(
            {
                "recipe": recipe,
                "cohort": self.panel.cohort,
                "task": self.panel.task,
                "category": self.panel.category,
                "indication": indication,
                "horizon_days": self.panel.horizon_days,
                "probe": probe,
                "metric": name,
                "value": found.value,
                "ci_low": found.ci_low,
                "ci_high": found.ci_high,
                **counts,
                "split": EVALUATED_SPLIT,
                "subgroup": None,
                "seed": seeds[0] if len(seeds) == 1 else None,
            }
        )

    def _subgroup(
        self, method: int, name: str, group: str, own: Floats, gap: Floats, sides: tuple[NDArray, NDArray]
    ) -> None:
        recipe, probe = self.panel.methods[method]
        counts, others = (self._counts(rows) for rows in sides)
        found = interval(own, counts["n_subjects"])
        between = interval(gap, min(counts["n_subjects"], others["n_subjects"]))
        self.out.subgroups.append(
            {
                "recipe": recipe,
                "cohort": self.panel.cohort,
                "probe": probe,
                "task": self.panel.task,
                "metric": PRIMARY[self.kind],
                "name": name,
                "group": group,
                "value": found.value,
                "ci_low": found.ci_low,
                "ci_high": found.ci_high,
                "gap": between.value,
                "gap_low": between.ci_low,
                "gap_high": between.ci_high,
                **counts,
            }
        )
