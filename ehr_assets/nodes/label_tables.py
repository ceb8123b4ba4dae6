"""One task's answers as the tables that are written: labels, and the export in the MEDS label schema."""

import functools
from pathlib import Path

import meds
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_assets.nodes.frames import LABEL_SCHEMA, MICROSECONDS_PER_DAY, REASONS
from ehr_assets.nodes.rules import EVALUABLE, NULL
from ehr_assets.nodes.strips import Laid


@functools.lru_cache(1)
def _read_nodes(nodes_dir: Path) -> pa.Table:
    return pq.read_table(nodes_dir / "nodes.parquet", columns=["node_id", "subject_id", "time"])


def label_table(nodes_dir: Path, laid: Laid) -> pa.Table:
    """LABEL_SCHEMA."""
    nodes = _read_nodes(nodes_dir)
    if len(laid.asked) < nodes.num_rows:
        nodes = nodes.take(pa.array(laid.asked))
    strip, t = laid.strip, nodes["time"].cast(pa.int64()).to_numpy()
    timed = strip["status"] != NULL
    # A positive, or the value of a regression: they have a moment of their own.
    evaluable = strip["reason"] == EVALUABLE
    happened = evaluable & ((strip["value"] == 1) | (laid.numbers is not None))
    waited = np.where(timed, strip["end"] - t, 0)
    # Whole days apart from the rest: a horizon of 30 days gives 30.0 and nothing near it.
    days = waited // MICROSECONDS_PER_DAY + (waited % MICROSECONDS_PER_DAY) / MICROSECONDS_PER_DAY
    n = len(strip)
    number = pa.nulls(n, pa.float64()) if laid.numbers is None else _present(laid.numbers, evaluable)
    columns = {
        "node_id": nodes["node_id"],
        "subject_id": nodes["subject_id"],
        "prediction_time": nodes["time"],
        "boolean_value": _present(strip["value"] == 1, strip["value"] != NULL),
        "numeric_value": number,
        "event_time": _present(strip["end"], happened).cast(pa.timestamp("us")),
        "duration_days": _present(days, timed),
        "status": _present(strip["status"], timed),
        "reason": pa.DictionaryArray.from_arrays(
            pa.array(np.maximum(strip["reason"], 1) - 1, mask=evaluable), pa.array(REASONS)
        ),
    }
    return pa.table(columns).cast(LABEL_SCHEMA)


def _present(values: np.ndarray, where: np.ndarray) -> pa.Array:
    return pa.array(np.ascontiguousarray(values), mask=~where)


def meds_labels(labels: pa.Table, laid: Laid) -> pa.Table:
    """The evaluable labels in the MEDS label schema, validated by the meds package."""
    evaluable = labels.filter(pa.array(laid.strip["reason"] == EVALUABLE))
    columns = {name: evaluable[name] for name in ("subject_id", "prediction_time")}
    if laid.numbers is None:
        columns["boolean_value"] = evaluable["boolean_value"]
    else:
        columns["float_value"] = evaluable["numeric_value"].cast(pa.float32())
    aligned = meds.LabelSchema.align(pa.table(columns))
    meds.LabelSchema.validate(aligned)
    return aligned
