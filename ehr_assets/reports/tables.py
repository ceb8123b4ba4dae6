"""The numbers of the report: counts per cohort, one result row per task, means by category and indication.

Reads the datasets; draws and writes nothing. Every figure and table of the page is made from these values,
so that picture, table and `summary.json` cannot disagree.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from ehr_assets.nodes.frames import read_labels, tasks_of

SPLITS = ("train", "tuning", "held_out")
REASONS = ("censored", "not_at_risk", "end_of_life", "outcome_in_buffer", "after_death")
BASELINE_PROBE = "xgboost"
"""The baseline that stands in the result table and the figures."""


@dataclass(frozen=True)
class CohortInputs:
    """Where a cohort's datasets lie. `oracle` only exists for simulated cohorts."""

    name: str
    title: str
    meds: Path
    nodes: Path
    labels: Path
    splits: Path
    baseline: Path
    oracle: Path | None = None


@dataclass(frozen=True)
class RecipeInputs:
    """Where a recipe's datasets lie, and its settings as plain data (shown as they are)."""

    name: str
    title: str
    checkpoint: Path
    metrics: Path
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Score:
    """One AUROC with its interval; None where it cannot be estimated."""

    value: float | None
    low: float | None
    high: float | None


UNSCORED = Score(None, None, None)


@dataclass(frozen=True)
class Method:
    """A column of the result table. kind: recipe | baseline | oracle."""

    key: str
    label: str
    kind: str


@dataclass(frozen=True)
class TaskRow:
    """One task on one cohort: label counts over all nodes, evaluated counts, and a score per method key."""

    cohort: str
    task: str
    category: str
    description: str
    horizon_days: int | None
    n: int
    n_positive: int
    n_subjects: int
    scores: Mapping[str, Score]
    c_index: Mapping[str, Score]
    labels: Mapping[str, int]  # positive, negative and each of REASONS, over all splits

    @property
    def title(self) -> str:
        horizon = f", {self.horizon_days}\N{NO-BREAK SPACE}d" if self.horizon_days else ""
        return (self.description.rstrip(".") or self.task) + horizon

    @property
    def best(self) -> set[str]:
        """Keys of the methods (the oracle aside) with the highest AUROC as printed."""
        found = {
            k: round(s.value, 3) for k, s in self.scores.items() if s.value is not None and k != "oracle"
        }
        return {k for k, v in found.items() if v == max(found.values())} if len(found) > 1 else set()


@dataclass(frozen=True)
class CohortCounts:
    """What there is, over all and per split."""

    subjects: Mapping[str, int]
    nodes: Mapping[str, int]
    events: Mapping[str, int]
    triggers: Sequence[tuple[str, int]]


@dataclass(frozen=True)
class Means:
    """Mean and standard deviation of AUROC over tasks, per group (columns) and method (rows).

    Over the tasks that every method could score, so that all methods are averaged over the same tasks.
    """

    groups: Sequence[str]
    n_tasks: Sequence[int]
    rows: Sequence[tuple[Method, Sequence[tuple[float, float | None] | None]]]


def methods_of(cohort: CohortInputs, recipes: Sequence[RecipeInputs]) -> list[Method]:
    """The methods scored on a cohort, in the order in which they are shown."""
    out = [
        Method(r.name, f"Probe on {r.name}", "recipe")
        for r in recipes
        if (_metrics(r.metrics)["cohort"] == cohort.name).any()
    ]
    out.append(Method("baseline", "XGBoost baseline", "baseline"))
    if cohort.oracle:
        out.append(Method("oracle", "Oracle ceiling", "oracle"))
    return out


def _label_counts(labels: pl.DataFrame) -> dict[str, int]:
    """How many labels are positive, negative, or null for each reason."""
    value = pl.col("boolean_value")
    kind = (
        pl.when(value).then(pl.lit("positive"))
        .when(~value).then(pl.lit("negative"))
        .otherwise(pl.col("reason").fill_null("other"))
    )  # fmt: skip
    return dict(labels.group_by(kind.alias("kind")).len().iter_rows())


def task_rows(cohort: CohortInputs, recipes: Sequence[RecipeInputs]) -> list[TaskRow]:
    """One row per task of the cohort, in the order of the task file."""
    metrics = _all_metrics(cohort, recipes).filter(pl.col("indication").is_null())
    rows = []
    for task in tasks_of(cohort.labels):
        counted = _label_counts(read_labels(cohort.labels, task["name"]))
        mine = metrics.filter(pl.col("task") == task["name"])
        auroc = mine.filter(pl.col("metric") == "auroc")
        first = auroc.row(0, named=True) if auroc.height else {"n": 0, "n_positive": 0, "n_subjects": 0}
        rows.append(
            TaskRow(
                cohort=cohort.name,
                task=task["name"],
                category=task["category"],
                description=task.get("description") or task["name"],
                horizon_days=task.get("horizon_days"),
                n=first["n"],
                n_positive=first["n_positive"],
                n_subjects=first["n_subjects"],
                scores=_scores(auroc),
                c_index=_scores(mine.filter(pl.col("metric") == "c_index")),
                labels={k: counted.get(k, 0) for k in ("positive", "negative", *REASONS, "other")},
            )
        )
    return rows


def means_by(
    group: str, cohort: CohortInputs, recipes: Sequence[RecipeInputs], methods: Sequence[Method]
) -> Means | None:
    """Means of AUROC over tasks by "category" or "indication"; None when nothing can be averaged."""
    metrics = _all_metrics(cohort, recipes).filter(
        (pl.col("metric") == "auroc") & pl.col("value").is_not_null()
    )
    wanted = pl.col("indication").is_not_null() if group == "indication" else pl.col("indication").is_null()
    metrics = metrics.filter(wanted)
    complete = (
        metrics.group_by(group, "task")
        .agg(pl.col("key").n_unique().alias("scored"))
        .filter(pl.col("scored") == len(methods))
    )
    if not complete.height:
        return None
    found = (
        metrics.join(complete, on=[group, "task"], how="semi")
        .group_by(group, "key")
        .agg(pl.col("value").sort().mean().alias("mean"), pl.col("value").sort().std().alias("sd"), pl.len())
    )
    cells = {(g, k): (mean, sd) for g, k, mean, sd, _ in found.iter_rows()}
    order = metrics[group].unique(maintain_order=True).to_list()
    if group == "category":
        tasks = json.loads((cohort.labels / "tasks.json").read_text(encoding="utf-8"))
        order = list(dict.fromkeys(task["category"] for task in tasks))
    else:
        order = sorted(order)
    counts = dict(complete.group_by(group).len().iter_rows())
    groups = [g for g in order if g in counts]
    return Means(
        groups=groups,
        n_tasks=[counts[g] for g in groups],
        rows=[(m, [cells.get((g, m.key)) for g in groups]) for m in methods],
    )


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


def _scores(rows: pl.DataFrame) -> dict[str, Score]:
    return {r["key"]: Score(r["value"], r["ci_low"], r["ci_high"]) for r in rows.iter_rows(named=True)}


def _all_metrics(cohort: CohortInputs, recipes: Sequence[RecipeInputs]) -> pl.DataFrame:
    """The metrics of one cohort that the page shows, with the `key` of the method they belong to."""
    parts = [_metrics(r.metrics).with_columns(pl.lit(r.name).alias("key")) for r in recipes]
    baseline = _metrics(cohort.baseline).filter(pl.col("probe") == BASELINE_PROBE)
    parts.append(baseline.with_columns(pl.lit("baseline").alias("key")))
    if cohort.oracle:
        parts.append(_metrics(cohort.oracle).with_columns(pl.lit("oracle").alias("key")))
    return pl.concat(parts).filter(pl.col("cohort") == cohort.name)


def _metrics(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "metrics.parquet").filter(pl.col("subgroup").is_null())
