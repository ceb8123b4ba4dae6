"""From predictions on disk to panels: one task of one cohort, every method's answers at the same nodes.

Reads predictions, nodes, splits and labels; scores nothing. A method that left out nodes costs the others
those nodes too, so that all are scored on the same ones; a check says when that were too many.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehr_assets.errors import DatasetError
from ehr_assets.nodes.frames import CENSORED, read_labels, tasks_of
from ehr_assets.probes.frames import CohortDirs
from ehr_assets.probes.measures import SPECIFICITY, Outcomes
from ehr_assets.probes.metrics.binary import threshold_at_specificity
from ehr_assets.probes.metrics.survival import CensoringCurve

ORACLE, BASELINE = "oracle", "baseline"
"""The `recipe` column of what no recipe has a part in."""

ANSWER = {
    "binary": "predicted_boolean_probability",
    "time_to_event": "risk",
    "regression": "predicted_numeric_value",
}

TRUTH = {
    "binary": ("boolean_value",),
    "time_to_event": ("duration_days", "status"),
    "regression": ("numeric_value",),
}
"""By kind: the columns that hold what came true."""

Method = tuple[str, str]
"""(recipe, probe)."""

Predictions = Mapping[str, Sequence[Path]]
"""Who answered (a recipe, "baseline", "oracle") -> the folders of their `predictions.parquet`: one, or one
for each seed. Which seed it was stands in the column."""


@dataclass(frozen=True)
class Entry:
    """One method's answers with one seed. score: (n,). threshold: NaN where tuning gives none."""

    method: int
    seed: int
    score: NDArray[np.float64]
    threshold: float


@dataclass(frozen=True)
class Panel:
    """One task at its n held-out nodes, with all answers to it. Without entries it is listed, not scored.

    subject: (n,) column among the cohort's `n_subjects` held-out subjects with nodes. groups: name -> (n,)
    group of each node, "" where it is not known; `indication` is one of them. methods: the cohort's for this
    kind of task, whether or not they have answers here.
    """

    cohort: str
    task: str
    category: str
    horizon_days: int | None
    n_subjects: int
    subject: NDArray[np.int64]
    outcomes: Outcomes
    groups: Mapping[str, NDArray[np.str_]]
    methods: tuple[Method, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Evaluated:
    """A cohort's nodes with their split, and the held-out subjects in the order of resampling."""

    nodes: pl.DataFrame  # row, node_id, subject_id, indication, split
    subjects: NDArray[np.int64]
    groups: Mapping[str, NDArray[np.str_]]  # name -> (rows,)


def panels(cohort: str, dirs: CohortDirs, predictions: Predictions) -> Iterator[Panel]:
    """Task by task, in order; a task that is asked in two ways (death, and time to it) gives two.

    Raises:
        DatasetError: predictions at unknown nodes, in another split than the subject's, twice at one node, or
            made against other labels than another method's.
    """
    found = evaluated(cohort, dirs)
    methods = {kind: _methods(cohort, kind, predictions) for kind in ANSWER}
    for task in tasks_of(dirs.labels):
        name, own = task["name"], task.get("kind", "binary")
        answers = _answers(cohort, name, predictions, found.nodes)
        labels = found.nodes.join(read_labels(dirs.labels, name), on="node_id", how="inner").sort("row")
        for kind in ANSWER:
            rows = answers.filter(pl.col("kind") == kind)
            if rows.height or kind == own:
                yield _panel(cohort, task, kind, found, labels, rows, methods[kind])


def evaluated(cohort: str, dirs: CohortDirs) -> Evaluated:
    """The cohort's nodes by subject, time and id, with what groups they are in. Raises DatasetError."""
    nodes = pl.read_parquet(dirs.nodes / "nodes.parquet").sort("subject_id", "time", "node_id")
    splits = pl.read_parquet(dirs.splits / "subject_splits.parquet").select("subject_id", "split")
    nodes = (
        nodes.select("node_id", "subject_id", "indication")
        .join(splits, on="subject_id", how="left", maintain_order="left")
        .with_row_index("row")
    )
    if nodes["split"].null_count() or nodes.height != len(nodes["node_id"].unique()):
        raise _refused(cohort, "decision_nodes", "Decision nodes have no split, or an id of another node.")
    groups = {"indication": nodes["indication"].fill_null("").to_numpy().astype(np.str_)}
    if (path := dirs.nodes / "subgroups.parquet").is_file():
        told = pl.read_parquet(path)
        for (name,), rows in sorted(told.partition_by("name", as_dict=True).items()):
            mine = nodes.join(rows.unique("node_id"), on="node_id", how="left", maintain_order="left")
            groups[str(name)] = mine["value"].fill_null("").to_numpy().astype(np.str_)
    subjects = nodes.filter(pl.col("split") == "held_out")["subject_id"].unique().sort().to_numpy()
    return Evaluated(nodes, subjects, groups)


def _folders(predictions: Predictions) -> list[Path]:
    return [folder for folders in predictions.values() for folder in folders]


def _scan(folder: Path, cohort: str) -> pl.LazyFrame:
    """The cohort's predictions. Of the oracle, which model it was does not matter."""
    probe = pl.when(pl.col("recipe") == ORACLE).then(pl.lit(ORACLE)).otherwise("probe")
    found = pl.scan_parquet(folder / "predictions.parquet").filter(pl.col("cohort") == cohort)
    return found.with_columns(probe.alias("probe"))


def _methods(cohort: str, kind: str, predictions: Predictions) -> tuple[Method, ...]:
    """Those that answer this kind of task anywhere in the cohort, in the order in which they were given."""
    found: list[Method] = []
    for folder in _folders(predictions):
        mine = (
            _scan(folder, cohort).filter(pl.col("kind") == kind).select("recipe", "probe").unique().collect()
        )
        found += [method for method in sorted(mine.rows()) if method not in found]
    return tuple(found)


def _answers(cohort: str, task: str, predictions: Predictions, nodes: pl.DataFrame) -> pl.DataFrame:
    """All predictions of one task, nodes as rows."""
    columns = [*ANSWER.values(), *(column for truth in TRUTH.values() for column in truth)]
    keys = ["kind", "recipe", "probe", "seed"]
    answers = pl.concat(
        [
            _scan(folder, cohort)
            .filter(pl.col("task") == task)
            .select(*keys, "node_id", pl.col("split").alias("said"), *columns)
            .collect()
            for folder in _folders(predictions)
        ]
    ).join(nodes.select("row", "node_id", "split"), on="node_id", how="left")
    if answers["row"].null_count() or (answers["said"] != answers["split"]).any():
        problem = "There are predictions at unknown nodes, or in another split than the subject's."
        raise _refused(cohort, "predictions", problem)
    if answers.select(pl.struct(*keys, "row").is_duplicated().any()).item():
        raise _refused(cohort, "predictions", "A method answers twice at one node.")
    return answers.drop("said", "node_id").sort(*keys, "row")


def _panel(
    cohort: str,
    task: Mapping,
    kind: str,
    found: Evaluated,
    labels: pl.DataFrame,
    rows: pl.DataFrame,
    methods: tuple[Method, ...],
) -> Panel:
    horizon = task.get("horizon_days")
    held_out = rows.filter(pl.col("split") == "held_out", pl.col(ANSWER[kind]).is_finite())
    answered = held_out.partition_by("recipe", "probe", "seed", as_dict=True)
    if answered:
        at = _shared(list(answered.values()))
        truth = held_out.unique("row", keep="first").filter(pl.col("row").is_in(at)).sort("row")
    else:
        truth = labels.filter(pl.col("split") == "held_out", _evaluable(kind)).sort("row")
    at = truth["row"].to_numpy()
    entries = []
    for (recipe, probe, seed), own in sorted(answered.items(), key=lambda item: str(item[0])):
        own = own.filter(pl.col("row").is_in(at)).sort("row")
        if not own.select(TRUTH[kind]).equals(truth.select(TRUTH[kind])):
            raise _refused(
                cohort, "predictions", f"Methods were scored against different labels of '{task['name']}'."
            )
        mine = (pl.col("recipe") == recipe) & (pl.col("probe") == probe) & (pl.col("seed") == seed)
        entries.append(
            Entry(
                methods.index((str(recipe), str(probe))),
                int(seed),  # type: ignore[call-overload]
                own[ANSWER[kind]].cast(pl.Float64).to_numpy(),
                _threshold(rows.filter(mine, pl.col("split") == "tuning")) if kind == "binary" else np.nan,
            )
        )
    outcomes = Outcomes(
        kind,
        truth["numeric_value" if kind == "regression" else "boolean_value"]
        .cast(pl.Float64)
        .fill_null(np.nan)
        .to_numpy(),
        truth["duration_days"].fill_null(np.nan).to_numpy(),
        truth["status"].fill_null(-1).to_numpy(),
        horizon,
        _censoring(labels, horizon) if kind == "time_to_event" and horizon else None,
    )
    return Panel(
        cohort=cohort,
        task=task["name"],
        category=task["category"],
        horizon_days=horizon,
        n_subjects=len(found.subjects),
        subject=np.searchsorted(found.subjects, found.nodes["subject_id"].to_numpy()[at]),
        outcomes=outcomes,
        groups={name: group[at] for name, group in found.groups.items()},
        methods=methods,
        entries=tuple(entries),
    )


def _shared(answers: Sequence[pl.DataFrame]) -> pl.Series:
    """The nodes at which all of them answer."""
    rows = answers[0]["row"]
    for other in answers[1:]:
        rows = rows.filter(rows.is_in(other["row"].implode()))
    return rows


def _evaluable(kind: str) -> pl.Expr:
    return pl.all_horizontal(pl.col(TRUTH[kind]).is_not_null())


def _threshold(tuning: pl.DataFrame) -> float:
    y = tuning["boolean_value"].cast(pl.Int8).to_numpy()
    return threshold_at_specificity(y, tuning[ANSWER["binary"]].cast(pl.Float64).to_numpy(), SPECIFICITY)


def _censoring(labels: pl.DataFrame, horizon: float) -> CensoringCurve:
    """How train nodes are lost to follow-up before the horizon."""
    train = labels.filter(pl.col("split") == "train", _evaluable("time_to_event"))
    duration = train["duration_days"].to_numpy()
    return CensoringCurve.fitted(duration, (train["status"].to_numpy() == CENSORED) & (duration < horizon))


def _refused(cohort: str, what: str, problem: str) -> DatasetError:
    return DatasetError(
        problem,
        where=f"{cohort}, {what}",
        do=f"Materialize {cohort}/decision_nodes, {cohort}/task_labels and what is scored on them again.",
    )
