"""What every probe reads and writes: nodes with their split and labels, embeddings; metrics, predictions.

The one place in this room that touches files. A cohort's nodes are put in one fixed order (subject, time,
node id) and everything else - labels, splits, features - is aligned to that order by position.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ehr_assets.errors import DatasetError
from ehr_assets.leakage.fits import FITTED_ON, fitted_on
from ehr_assets.nodes.frames import EVENT, read_labels, tasks_of
from ehr_assets.probes.schemas import METRICS_SCHEMA, PREDICTIONS_SCHEMA

SPLITS = ("train", "tuning", "held_out")


@dataclass(frozen=True)
class CohortDirs:
    """Where a cohort's datasets lie: `decision_nodes`, `task_labels`, `subject_splits`."""

    nodes: Path
    labels: Path
    splits: Path


@dataclass(frozen=True)
class TaskLabels:
    """One task's labels, aligned to the cohort's nodes (n,).

    `y` is 1, 0 or NaN (not evaluable). `duration_days`/`observed` describe time to event; `followed` says
    where those two can be used: everywhere the label is known, and at nodes censored before the horizon.
    """

    name: str
    category: str
    horizon_days: int | None
    y: NDArray[np.float64]
    duration_days: NDArray[np.float64]
    observed: NDArray[np.bool_]
    followed: NDArray[np.bool_]


@dataclass(frozen=True)
class CohortNodes:
    """A cohort's decision nodes with their split and labels; all arrays are (n,) in one node order."""

    cohort: str
    frame: pl.DataFrame  # node_id, subject_id, time, trigger, indication
    split: NDArray[np.str_]
    tasks: list[TaskLabels] = field(default_factory=list)

    @property
    def subject_id(self) -> NDArray[np.int64]:
        return self.frame["subject_id"].to_numpy()

    def rows(self, split: str) -> NDArray[np.bool_]:
        """Mask of the nodes in `split`."""
        return self.split == split

    def labelled_subjects(self, split: str) -> NDArray[np.int64]:
        """Subjects of `split` with a usable label (known, or followed to a censoring) for any task, sorted.

        Of `train`, these are exactly the subjects that anything in this room is fitted on.
        """
        usable = np.zeros(self.frame.height, dtype=bool)
        for task in self.tasks:
            usable |= ~np.isnan(task.y) | task.followed
        return np.unique(self.subject_id[usable & self.rows(split)])


def load_nodes(cohort: str, dirs: CohortDirs) -> CohortNodes:
    """Reads nodes, splits and labels of one cohort and aligns them.

    Raises `DatasetError` when a node's subject has no split, or the labels name a node that does not exist.
    """
    nodes = pl.read_parquet(dirs.nodes / "nodes.parquet").sort("subject_id", "time", "node_id")
    splits = pl.read_parquet(dirs.splits / "subject_splits.parquet").select("subject_id", "split")
    if splits["subject_id"].n_unique() != splits.height:
        raise DatasetError(
            "A subject has more than one split.",
            where=f"{cohort}/subject_splits",
            do=f"Materialize {cohort}/subject_splits again.",
        )
    joined = nodes.join(splits, on="subject_id", how="left", maintain_order="left")
    missing = joined["split"].null_count()
    if missing:
        raise DatasetError(
            f"{missing} decision node(s) belong to subjects without a split.",
            where=f"{cohort}/subject_splits",
            do=f"Materialize {cohort}/subject_splits and {cohort}/decision_nodes again.",
        )
    frame = nodes.select("node_id", "subject_id", "time", "trigger", "indication")
    return CohortNodes(
        cohort=cohort,
        frame=frame,
        split=joined["split"].to_numpy().astype(np.str_),
        tasks=[_align(cohort, frame, dirs.labels, task) for task in tasks_of(dirs.labels)],
    )


def _align(cohort: str, frame: pl.DataFrame, labels_dir: Path, task: Mapping[str, Any]) -> TaskLabels:
    labels = read_labels(labels_dir, task["name"])
    if labels.join(frame, on="node_id", how="anti").height:
        raise DatasetError(
            "The labels name decision nodes that do not exist.",
            where=f"{cohort}/task_labels",
            do=f"Materialize {cohort}/task_labels again.",
        )
    rows = frame.select("node_id").join(
        labels.select("node_id", "boolean_value", "duration_days", "status", "reason"),
        on="node_id",
        how="left",
        maintain_order="left",
    )
    usable = rows["boolean_value"].is_not_null() | (rows["reason"] == "censored").fill_null(False)
    duration = rows["duration_days"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    return TaskLabels(
        name=task["name"],
        category=task["category"],
        horizon_days=task.get("horizon_days"),
        y=rows["boolean_value"].cast(pl.Float64).fill_null(np.nan).to_numpy(),
        duration_days=duration,
        observed=(rows["status"] == EVENT).fill_null(False).to_numpy(),
        followed=usable.to_numpy() & (duration > 0),
    )


def load_embeddings(embeddings_dir: Path, nodes: CohortNodes) -> NDArray[np.float32]:
    """S(t) per node, (n, d), in the order of `nodes`; NaN rows where a node has none."""
    table = pq.read_table(
        embeddings_dir / "embeddings.parquet",
        columns=["node_id", "embedding"],
        filters=[("cohort", "=", nodes.cohort)],
    )
    width = table.schema.field("embedding").type.list_size
    flat = table["embedding"].combine_chunks()
    flat = flat.chunk(0) if isinstance(flat, pa.ChunkedArray) else flat
    vectors = np.asarray(flat.flatten(), dtype=np.float32).reshape(-1, width)
    position = {node: i for i, node in enumerate(table["node_id"].to_pylist())}
    X = np.full((nodes.frame.height, width), np.nan, dtype=np.float32)
    for row, node in enumerate(nodes.frame["node_id"].to_list()):
        if node in position:
            X[row] = vectors[position[node]]
    return X


def one_hot(nodes: CohortNodes, values: Sequence[Sequence[str]]) -> tuple[NDArray[np.float32], list[str]]:
    """Indicators (n, k) of the names found at train nodes. values: the names that each node holds."""
    train = nodes.rows("train")
    names = sorted({name for held, fit in zip(values, train, strict=True) if fit for name in held})
    flags = np.array([[name in held for name in names] for held in values], dtype=np.float32)
    return flags.reshape(len(values), len(names)), names


def write_metrics(rows: Sequence[Mapping[str, Any]], out_dir: Path) -> None:
    """Writes `metrics.parquet`, sorted, NaN as null."""
    keys = ("recipe", "cohort", "probe", "task", "metric", "indication")
    ordered = sorted(rows, key=lambda r: tuple(str(r.get(k) or "") for k in keys))
    clean = [
        {k: (None if isinstance(v, float) and np.isnan(v) else v) for k, v in r.items()} for r in ordered
    ]
    pq.write_table(
        pa.Table.from_pylist(clean, METRICS_SCHEMA), out_dir / "metrics.parquet", compression="zstd"
    )


def write_predictions(tables: Sequence[pa.Table], out_dir: Path) -> None:
    """Writes `predictions.parquet` (columns of the meds-evaluation prediction schema, and ours)."""
    table = pa.concat_tables(tables) if tables else PREDICTIONS_SCHEMA.empty_table()
    keys = ["recipe", "cohort", "probe", "task", "subject_id", "prediction_time", "node_id"]
    table = table.sort_by([(key, "ascending") for key in keys])
    pq.write_table(table, out_dir / "predictions.parquet", compression="zstd")


def write_fitted_on(cohorts: Sequence[CohortNodes], out_dir: Path) -> None:
    """Writes `fitted_on.json`: hashes of the subjects fitted on (train) and chosen on (tuning).

    At the top, the train subjects of all cohorts together, as in the tokenizer's; below, cohort by cohort.
    """
    train, tuning = (
        {c.cohort: c.labelled_subjects(split).tolist() for c in cohorts} for split in ("train", "tuning")
    )
    document = {
        **fitted_on(train),
        "cohorts": {cohort: fitted_on({cohort: ids}) for cohort, ids in train.items()},
        "selected_on": {
            "split": "tuning",
            "cohorts": {cohort: fitted_on({cohort: ids}, "tuning") for cohort, ids in tuning.items()},
        },
    }
    (out_dir / FITTED_ON).write_text(json.dumps(document, indent=1, sort_keys=True), encoding="utf-8")
