"""The numbers of the report: counts per cohort, one row per task with every method's score.

Reads the datasets; draws and writes nothing. Every figure and table of the page is made from these values,
so that picture, table and `summary.json` cannot disagree.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow.parquet as pq

from ehr_assets.contracts import SPLITS
from ehr_assets.nodes.frames import REASONS, read_labels, tasks_of
from ehr_assets.reports.inputs import CohortInputs, Inputs
from ehr_assets.reports.methods import Method, methods_of


@dataclass(frozen=True)
class Score:
    """One score with its interval; None where it cannot be estimated."""

    value: float | None
    low: float | None
    high: float | None


UNSCORED = Score(None, None, None)

KNOWN = ("positive", "negative", "measured")
"""Labels that are an answer; a regression has the last alone, other tasks the first two."""


@dataclass(frozen=True)
class TaskRow:
    """One task on one cohort: label counts over all nodes, evaluated counts, and a score per method key."""

    cohort: str
    task: str
    kind: str
    category: str
    description: str
    horizon_days: int | None
    n: int
    n_positive: int
    by_metric: Mapping[str, Mapping[str, Score]]  # metric → method key → score
    labels: Mapping[str, int]  # positive, negative, measured and each of REASONS, over all splits

    @property
    def title(self) -> str:
        horizon = f", {self.horizon_days}\N{NO-BREAK SPACE}d" if self.horizon_days else ""
        return (self.description.rstrip(".") or self.task) + horizon

    def score(self, method: Method, metric: str = "auroc") -> Score:
        return self.by_metric.get(metric, {}).get(method.key, UNSCORED)

    def has(self, metric: str) -> bool:
        """Whether any method has a value of this metric."""
        return any(s.value is not None for s in self.by_metric.get(metric, {}).values())

    @property
    def scored(self) -> bool:
        return any(self.has(metric) for metric in self.by_metric)

    def asked(self) -> int:
        return sum(self.labels.values())

    def known(self) -> int:
        """Nodes with an answer."""
        return sum(self.labels[name] for name in KNOWN)


@dataclass(frozen=True)
class CohortCounts:
    """What there is, over all and per split."""

    subjects: Mapping[str, int]
    nodes: Mapping[str, int]
    events: Mapping[str, int]
    triggers: Sequence[tuple[str, int]]


@dataclass(frozen=True)
class Results:
    """All of one cohort that several sections need: its tasks, its methods, the scores as a table."""

    cohort: CohortInputs
    rows: Sequence[TaskRow]
    methods: Sequence[Method]
    scores: pl.DataFrame

    @property
    def categories(self) -> list[tuple[str, list[TaskRow]]]:
        """Tasks by category, in the order of the task file."""
        names = dict.fromkeys(row.category for row in self.rows)
        return [(name, [row for row in self.rows if row.category == name]) for name in names]

    def scored_with(self, metric: str) -> list[Method]:
        """The methods that have a value of this metric."""
        keys = set(self.scores.filter(pl.col("metric") == metric).drop_nulls("value")["key"])
        return [m for m in self.methods if m.key in keys]


def results_of(inputs: Inputs, cohort: CohortInputs) -> Results:
    scores = inputs.scores(cohort)
    keys = sorted(set(scores["key"].drop_nulls()))
    return Results(cohort, task_rows(cohort, scores), methods_of(inputs, keys), scores)


def task_rows(cohort: CohortInputs, scores: pl.DataFrame) -> list[TaskRow]:
    """One row per task of the cohort, in the order of the task file. scores: as `Inputs.scores` gives
    them.
    """
    scores = scores.filter(pl.col("indication").is_null())
    rows = []
    for task in tasks_of(cohort.labels):
        labels = read_labels(cohort.labels, task["name"])
        mine = scores.filter(pl.col("task") == task["name"])
        auroc = mine.filter(pl.col("metric") == "auroc")
        counts = (auroc if auroc.height else mine).sort("n", descending=True)
        first = counts.row(0, named=True) if counts.height else {"n": 0, "n_positive": 0}
        rows.append(
            TaskRow(
                cohort=cohort.name,
                task=task["name"],
                kind=task.get("kind") or "binary",
                category=task["category"],
                description=task.get("description") or task["name"],
                horizon_days=task.get("horizon_days"),
                n=first["n"],
                n_positive=first["n_positive"],
                by_metric={
                    str(metric): _scores(mine.filter(pl.col("metric") == metric))
                    for metric in sorted(set(mine["metric"]))
                },
                labels=_label_counts(labels),
            )
        )
    return rows


def common_tasks(rows: Iterable[TaskRow], methods: Sequence[Method]) -> list[TaskRow]:
    """The tasks that all of these methods could score."""
    return [r for r in rows if all(r.score(m).value is not None for m in methods)]


def _label_counts(labels: pl.DataFrame) -> dict[str, int]:
    """How many labels are positive, negative or (of a regression) measured, or null for each reason."""
    value = pl.col("boolean_value")
    kind = (
        pl.when(value).then(pl.lit("positive"))
        .when(~value).then(pl.lit("negative"))
        .when(pl.col("numeric_value").is_not_null()).then(pl.lit("measured"))
        .otherwise(pl.col("reason"))
    )  # fmt: skip
    counted = dict(labels.group_by(kind.alias("kind")).len().iter_rows())
    names = dict.fromkeys((*KNOWN, *REASONS, *sorted(counted)))
    return {name: counted.get(name, 0) for name in names}


def _scores(rows: pl.DataFrame) -> dict[str, Score]:
    rows = rows.drop_nulls("key")  # a task that no method could be fitted to is counted under none
    return {r["key"]: Score(r["value"], r["ci_low"], r["ci_high"]) for r in rows.iter_rows(named=True)}


def cohort_counts(cohort: CohortInputs) -> CohortCounts:
    """Subjects, nodes and events, in all ("all") and per split; nodes by trigger."""
    splits = pl.read_parquet(cohort.splits / "subject_splits.parquet")
    nodes = pl.read_parquet(cohort.nodes / "nodes.parquet", columns=["subject_id", "trigger"])
    of_split = dict(splits.group_by("split").len().iter_rows())
    nodes_of = dict(nodes.join(splits, on="subject_id").group_by("split").len().iter_rows())
    events = {
        split: sum(
            pq.read_metadata(f).num_rows for f in sorted((cohort.meds / "data" / split).glob("*.parquet"))
        )
        for split in SPLITS
    }
    triggers = (
        nodes.explode("trigger").group_by("trigger").len().sort("len", "trigger", descending=[True, False])
    )

    def with_all(counts: Mapping[str, int]) -> dict[str, int]:
        return {"all": sum(counts.get(s, 0) for s in SPLITS), **{s: counts.get(s, 0) for s in SPLITS}}

    return CohortCounts(
        with_all(of_split),
        with_all(nodes_of),
        with_all(events),
        [(str(t), n) for t, n in triggers.iter_rows()],
    )
