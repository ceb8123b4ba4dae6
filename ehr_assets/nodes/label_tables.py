"""One task's answers as the tables that are written: labels, and the export in the MEDS label schema."""

import functools
from pathlib import Path

import meds
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_assets.meds.reading import series
from ehr_assets.nodes.frames import LABEL_SCHEMA, MICROSECONDS_PER_DAY, REASONS
from ehr_assets.nodes.rules import EVALUABLE, NULL
from ehr_assets.nodes.strips import FIELDS, Laid

_NAMES = pl.Series(REASONS, dtype=pl.String).to_arrow().cast(pa.string())


@functools.lru_cache(1)
def _read_nodes(nodes_dir: Path, work: Path) -> pa.Table:
    """Kept for the tasks of one labelling, which `work` stands for."""
    return pq.ParquetFile(nodes_dir / "nodes.parquet").read(["node_id", "subject_id", "time"])


def label_table(nodes_dir: Path, work: Path, laid: Laid) -> pa.Table:
    """LABEL_SCHEMA."""
    nodes = _read_nodes(nodes_dir, work)
    if len(laid.asked) < nodes.num_rows:
        nodes = nodes.take(_array(laid.asked))
    t = series(nodes["time"]).to_physical().to_numpy()
    end, reason, value, status = (np.ascontiguousarray(laid.strip[name]) for name in FIELDS)
    timed = status != NULL
    # A positive, or the value of a regression: they have a moment of their own.
    evaluable = reason == EVALUABLE
    happened = evaluable & ((value == 1) | (laid.numbers is not None))
    waited = np.where(timed, end - t, 0)
    # Whole days apart from the rest: a horizon of 30 days gives 30.0 and nothing near it.
    days = waited // MICROSECONDS_PER_DAY + (waited % MICROSECONDS_PER_DAY) / MICROSECONDS_PER_DAY
    number = pa.nulls(len(t), pa.float64()) if laid.numbers is None else _array(laid.numbers, evaluable)
    columns = {
        "node_id": nodes["node_id"],
        "subject_id": nodes["subject_id"],
        "prediction_time": nodes["time"],
        "boolean_value": _array(value == 1, value != NULL),
        "numeric_value": number,
        "event_time": _array(end, happened).cast(pa.timestamp("us")),
        "duration_days": _array(days, timed),
        "status": _array(status, timed),
        "reason": pa.DictionaryArray.from_arrays(
            _array((np.maximum(reason, 1) - 1).view(np.int8), ~evaluable), _NAMES
        ),
    }
    return pa.table(columns).cast(LABEL_SCHEMA)


def _array(values: np.ndarray, where: np.ndarray | None = None) -> pa.Array:
    """The values, null where `where` is not set. (`pa.array` imports pandas: a second in every worker.)"""
    valid = None if where is None else _bits(where)
    data = _bits(values) if values.dtype == np.bool_ else pa.py_buffer(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [valid, data])


def _bits(mask: np.ndarray) -> pa.Buffer:
    return pa.py_buffer(np.packbits(mask, bitorder="little"))


def meds_labels(labels: pa.Table, laid: Laid) -> pa.Table:
    """The evaluable labels in the MEDS label schema, validated by the meds package."""
    columns = {name: labels[name] for name in ("subject_id", "prediction_time")}
    if laid.numbers is None:
        columns["boolean_value"] = labels["boolean_value"]
    else:
        columns["float_value"] = labels["numeric_value"].cast(pa.float32())
    evaluable = pa.table(columns).filter(_array(laid.strip["reason"] == EVALUABLE))
    return meds.LabelSchema.align(evaluable)
