"""Predictions as tables: one row per method, task and evaluable node of tuning and held-out.

Train nodes are left out, since a method's answers at the nodes it was fitted on say nothing. Beside the one
table, a file per task and method as meds-evaluation reads them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ehr_assets.nodes.frames import write_parquet
from ehr_assets.probes.frames import CohortNodes, TaskLabels
from ehr_assets.probes.rows import Kind
from ehr_assets.probes.schemas import PREDICTIONS_SCHEMA
from ehr_assets.probes.scoring import EVALUATED_SPLIT, Method

MEDS_PREDICTION_SCHEMA = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("prediction_time", pa.timestamp("us")),
        ("boolean_value", pa.bool_()),
        ("predicted_boolean_value", pa.bool_()),
        ("predicted_boolean_probability", pa.float32()),
    ]
)
"""meds-evaluation's `PredictionSchema`; a test aligns with the package."""


@dataclass(frozen=True)
class Answers:
    """What a method says of one task. values: (n,) float32 at the cohort's nodes, NaN where it says nothing.

    They are probabilities, log hazards or numbers, by kind; `threshold`: of probabilities.
    """

    kind: Kind
    values: NDArray[np.float32]
    threshold: float | None = None


def predictions(nodes: CohortNodes, method: Method, task: TaskLabels, answers: Answers) -> pa.Table:
    """Answers at the evaluable nodes of tuning and held-out (PREDICTIONS_SCHEMA), by subject and time."""
    shown = nodes.rows("tuning") | nodes.rows(EVALUATED_SPLIT)
    at = np.flatnonzero(shown & task.evaluable(answers.kind) & ~np.isnan(answers.values))
    frame, n = nodes.frame[at], len(at)
    said = answers.values[at].astype(np.float32)
    columns = {
        "recipe": pa.repeat(pa.scalar(method.recipe), n),
        "cohort": pa.repeat(pa.scalar(nodes.cohort), n),
        "task": pa.repeat(pa.scalar(task.name), n),
        "kind": pa.repeat(pa.scalar(answers.kind), n),
        "probe": pa.repeat(pa.scalar(method.probe), n),
        "seed": pa.repeat(pa.scalar(method.seed), n),
        "node_id": frame["node_id"].to_arrow().cast(pa.string()),
        "split": pa.array(nodes.split[at].tolist(), pa.string()),
        "subject_id": pa.array(nodes.subject_id[at], pa.int64()),
        "prediction_time": frame["time"].to_arrow().cast(pa.timestamp("us")),
        "indication": frame["indication"].to_arrow().cast(pa.string()),
    }
    if answers.kind == "binary":
        threshold = 0.5 if answers.threshold is None else answers.threshold
        columns["boolean_value"] = pa.array(task.y[at] == 1, pa.bool_())
        columns["predicted_boolean_value"] = pa.array(said >= np.float32(threshold), pa.bool_())
        columns["predicted_boolean_probability"] = pa.array(said, pa.float32())
    elif answers.kind == "regression":
        columns["numeric_value"] = pa.array(task.y[at], pa.float64())
        columns["predicted_numeric_value"] = pa.array(said, pa.float32())
    else:
        columns["risk"] = pa.array(said, pa.float32())
    if answers.kind != "regression":
        duration, status = task.duration_days[at], task.status[at]
        columns["duration_days"] = pa.array(duration, pa.float64(), mask=np.isnan(duration))
        columns["status"] = pa.array(status, pa.int8(), mask=status < 0)
    for field in PREDICTIONS_SCHEMA:
        columns.setdefault(field.name, pa.nulls(n, field.type))
    return pa.table({f.name: columns[f.name] for f in PREDICTIONS_SCHEMA}, schema=PREDICTIONS_SCHEMA)


class PredictionsFile:
    """Writes `predictions.parquet`, a row group per task, and `meds/<cohort>/<task>/<method>.parquet` of the
    held-out rows. Tasks come in order; nothing but the one at hand is held in memory."""

    def __init__(self, out_dir: Path) -> None:
        self.out_dir = out_dir

    def __enter__(self) -> "PredictionsFile":
        path = self.out_dir / "predictions.parquet"
        self._writer = pq.ParquetWriter(path, PREDICTIONS_SCHEMA, compression="zstd")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def add(self, tables: Sequence[pa.Table]) -> None:
        """All methods' predictions of one task."""
        answered = [table for table in tables if table.num_rows]
        if answered:
            self._writer.write_table(pa.concat_tables(answered))
        for table in answered:
            self._export(table)

    def _export(self, table: pa.Table) -> None:
        held_out = table.filter(pa.array(np.asarray(table["split"]) == EVALUATED_SPLIT))
        # Of one class, meds-evaluation's metrics are not defined: it would stop there.
        if table["kind"][0].as_py() == "binary" and len(held_out["boolean_value"].unique()) == 2:
            cohort, task, probe = (table[name][0].as_py() for name in ("cohort", "task", "probe"))
            rows = held_out.select(MEDS_PREDICTION_SCHEMA.names).cast(MEDS_PREDICTION_SCHEMA)
            write_parquet(rows, self.out_dir / "meds" / cohort / task / f"{probe}.parquet")
