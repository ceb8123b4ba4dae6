"""What every probe reads: a cohort's nodes with their split, a task's labels, embeddings, and one-hot names.

A cohort's nodes are put in one fixed order (subject, time, node id) and everything else - labels, splits,
features - is aligned to that order by position. What is written is `predictions.py` and `results.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ehr_assets.errors import DatasetError
from ehr_assets.leakage.ledger import FitLedger
from ehr_assets.nodes.frames import EVENT, read_labels, tasks_of
from ehr_assets.probes.rows import Kind

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

    `y`: 1 or 0, or the number of a regression task; NaN = not evaluable, and everywhere in a time to event.
    `duration_days`, `observed`, `status` (-1 = none) describe the time to event; `followed` says where they
    can be used: where the label is known, and at nodes censored before the horizon.
    """

    name: str
    category: str
    horizon_days: int | None
    y: NDArray[np.float64]
    duration_days: NDArray[np.float64]
    observed: NDArray[np.bool_]
    followed: NDArray[np.bool_]
    kind: Kind
    status: NDArray[np.int8]

    def evaluable(self, kind: Kind) -> NDArray[np.bool_]:
        """(n,): where the task has an answer, asked as `kind`."""
        return self.followed if kind == "time_to_event" else ~np.isnan(self.y)


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

    @cached_property
    def indication(self) -> NDArray[np.str_]:
        """ "" where a node has none."""
        return np.array(self.frame["indication"].fill_null("").to_list(), dtype=np.str_)

    @property
    def indications(self) -> list[list[str]]:
        """The node's indication, as a list of one or none."""
        return [[i] if i else [] for i in self.frame["indication"]]

    @property
    def triggers(self) -> list[list[str]]:
        return self.frame["trigger"].to_list()

    def rows(self, split: str) -> NDArray[np.bool_]:
        """Mask of the nodes in `split`."""
        return self.split == split


def load_nodes(cohort: str, dirs: CohortDirs) -> CohortNodes:
    """Nodes, splits and all labels of one cohort, aligned. Raises as `read_nodes` and `read_task`."""
    nodes = read_nodes(cohort, dirs)
    return replace(nodes, tasks=[read_task(nodes, dirs, task) for task in tasks_of(dirs.labels)])


def read_nodes(cohort: str, dirs: CohortDirs) -> CohortNodes:
    """Nodes and splits of one cohort, without labels.

    Raises `DatasetError` when a node's subject has no split, or more than one.
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
    return CohortNodes(cohort=cohort, frame=frame, split=joined["split"].to_numpy().astype(np.str_))


def read_task(nodes: CohortNodes, dirs: CohortDirs, task: Mapping[str, Any]) -> TaskLabels:
    """One task's labels at `nodes`. task: its entry in `tasks.json`; without `kind` it is binary.

    Raises `DatasetError` when the labels name a node that does not exist.
    """
    labels = read_labels(dirs.labels, task["name"])
    if labels.join(nodes.frame, on="node_id", how="anti").height:
        raise DatasetError(
            "The labels name decision nodes that do not exist.",
            where=f"{nodes.cohort}/task_labels",
            do=f"Materialize {nodes.cohort}/task_labels again.",
        )
    rows = nodes.frame.select("node_id").join(
        labels.with_columns(asked=pl.lit(True)).select(
            "node_id", "asked", "boolean_value", "numeric_value", "duration_days", "status", "reason"
        ),
        on="node_id",
        how="left",
        maintain_order="left",
    )
    kind: Kind = task.get("kind") or "binary"
    values = {"binary": "boolean_value", "regression": "numeric_value"}
    y = rows[values[kind]] if kind in values else pl.Series([None] * rows.height, dtype=pl.Float64)
    usable = rows["asked"].fill_null(False) & (rows["reason"].is_null() | (rows["reason"] == "censored"))
    duration = rows["duration_days"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    status = rows["status"].cast(pl.Int8).fill_null(-1).to_numpy()
    return TaskLabels(
        name=task["name"],
        category=task["category"],
        horizon_days=task.get("horizon_days"),
        y=y.cast(pl.Float64).fill_null(np.nan).to_numpy(),
        duration_days=duration,
        observed=status == EVENT,
        followed=usable.to_numpy() & (duration > 0) & (status >= 0),
        kind=kind,
        status=status,
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


def names_at_train(nodes: CohortNodes, values: Sequence[Sequence[str]], ledger: FitLedger) -> list[str]:
    """The names found at train nodes, sorted. values: the names that each node holds."""
    train = nodes.rows("train")
    ledger.saw("vocabulary", nodes.cohort, None, nodes.subject_id[train])
    return sorted({name for held, fit in zip(values, train, strict=True) if fit for name in held})


def one_hot(values: Sequence[Sequence[str]], names: Sequence[str]) -> NDArray[np.float32]:
    """Indicators (n, k) of `names` in the names that each node holds."""
    flags = np.array([[name in held for name in names] for held in values], dtype=np.float32)
    return flags.reshape(len(values), len(names))
