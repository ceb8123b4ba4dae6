"""Decision nodes and labels on disk, and the exact time arithmetic of windows.

Parquet is written through `write_parquet` (pyarrow: polars' own writer gives files that MEDS refuses).
"""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_assets.errors import DatasetError

TIMESTAMP = pl.Datetime("us")
MICROSECONDS_PER_HOUR = 3_600_000_000
MICROSECONDS_PER_DAY = 24 * MICROSECONDS_PER_HOUR

REASONS = (
    "after_death",
    "end_of_life",
    "excluded",  # by one of the task's own rules
    "not_there",  # the stay that the task is about does not last at t
    "not_at_risk",
    "outcome_in_buffer",
    "closed_in_buffer",  # what closes the window came before it opened
    "not_measured",  # no value for a regression
    "censored",
)
"""Why a label is null, in the order in which they are asked."""

CENSORED, EVENT, COMPETING = 0, 1, 2
"""The `status` of a time to event."""

LABEL_SCHEMA = pa.schema(
    [
        ("node_id", pa.string()),
        ("subject_id", pa.int64()),
        ("prediction_time", pa.timestamp("us")),
        ("boolean_value", pa.bool_()),  # null = not evaluable
        ("numeric_value", pa.float64()),  # of regression tasks
        ("event_time", pa.timestamp("us")),  # of the outcome
        ("duration_days", pa.float64()),  # from t to the outcome, the competing event or the end of follow-up
        ("status", pa.int8()),  # how that time ended; null where duration_days is
        ("reason", pa.string()),  # one of REASONS; null = evaluable
    ]
)
"""Of `labels/<task>.parquet`: one row per node that the task is asked at, by subject and time.

Binary tasks and times to event are labelled alike: a censored row has no boolean_value, but a duration and a
status, which a model of the time can use. A regression has a numeric_value and its event_time (that of the
value, or of the last one that went into it), and neither duration nor status.
"""

COUNT_SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("label", pa.string()),  # positive, negative, measured, or the reason why there is none
        ("nodes", pa.int64()),
        ("subjects", pa.int64()),
    ]
)
"""Of `counts.parquet`, beside the labels: how many nodes of each task got which label."""

SUBGROUP_SCHEMA = pa.schema([("node_id", pa.string()), ("name", pa.string()), ("value", pa.string())])
"""Of `subgroups.parquet`, beside the nodes: what was known at the node of whom it is about."""

FLOW_SCHEMA = pa.schema(
    [("step", pa.string()), ("reason", pa.string()), ("subjects", pa.int64()), ("nodes", pa.int64())]
)
"""Of `flow.parquet`, beside the nodes: what is left after each step (no reason), and what it took away."""


def read_nodes(nodes_dir: Path) -> pl.DataFrame:
    """The decision nodes of a committed `decision_nodes` directory."""
    return _beside_the_nodes(nodes_dir, "nodes.parquet")


def _beside_the_nodes(nodes_dir: Path, file: str) -> pl.DataFrame:
    path = Path(nodes_dir) / file
    if not path.is_file():
        raise DatasetError(
            f"The dataset has no {file}.",
            where=str(path),
            do="Materialize the cohort's decision_nodes again.",
        )
    return pl.read_parquet(path)


def read_subgroups(nodes_dir: Path) -> pl.DataFrame:
    """To which subgroups each node of a committed `decision_nodes` directory belongs (SUBGROUP_SCHEMA)."""
    return _beside_the_nodes(nodes_dir, "subgroups.parquet")


def read_flow(nodes_dir: Path) -> pl.DataFrame:
    """How the nodes of a committed `decision_nodes` directory were arrived at (FLOW_SCHEMA)."""
    return _beside_the_nodes(nodes_dir, "flow.parquet")


def tasks_of(labels_dir: Path) -> list[dict[str, Any]]:
    """The tasks of a committed `task_labels` directory, in order: name, kind, category, horizon_days, …"""
    tasks: list[dict[str, Any]] = json.loads((Path(labels_dir) / "tasks.json").read_text(encoding="utf-8"))
    return tasks


def labels_path(labels_dir: Path, task: str) -> Path:
    return Path(labels_dir) / "labels" / f"{task}.parquet"


def read_labels(labels_dir: Path, task: str) -> pl.DataFrame:
    """One task's labels (LABEL_SCHEMA)."""
    path = labels_path(labels_dir, task)
    if not path.is_file():
        raise DatasetError(
            f"The dataset has no labels of the task '{task}'.",
            where=str(path),
            do="Materialize the cohort's task_labels again.",
        )
    return pl.read_parquet(path)


def microseconds(hours: float) -> int:
    """Whole microseconds in `hours`: window boundaries are exact integers, never floats."""
    return round(hours * MICROSECONDS_PER_HOUR)


def shifted(time: pl.Expr, by_microseconds: int) -> pl.Expr:
    """`time` moved by whole microseconds (negative: earlier)."""
    return time + pl.duration(microseconds=by_microseconds, time_unit="us")


def write_parquet(table: pa.Table, path: Path) -> None:
    """Writes with pyarrow and zstd: equal tables give byte-equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")
