"""What a run leaves beside its predictions: metrics, how each model was chosen, and who it was fitted on."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_assets.leakage.fits import FITTED_ON, LEFT_OUT, fitted_on
from ehr_assets.probes.schemas import FITS_SCHEMA, METRICS_SCHEMA


def write_metrics(rows: Sequence[Mapping[str, Any]], out_dir: Path) -> None:
    """Writes `metrics.parquet`, sorted, NaN as null."""
    keys = ("recipe", "cohort", "probe", "task", "metric", "indication")
    _write(rows, keys, METRICS_SCHEMA, out_dir / "metrics.parquet")


def write_fits(rows: Sequence[Mapping[str, Any]], out_dir: Path) -> None:
    """Writes `fits.parquet`: every method and task, with the settings chosen or why there is no model."""
    _write(rows, ("recipe", "cohort", "probe", "task", "kind"), FITS_SCHEMA, out_dir / "fits.parquet")


def write_fitted_on(
    fitted: Mapping[str, Iterable[int]], steps: Sequence[Mapping[str, Any]], out_dir: Path
) -> None:
    """Writes `fitted_on.json`.

    Args:
        fitted: cohort → all subjects that anything was fitted on; their hash stands at the top.
        steps: every fit by itself, as `FitLedger.document` says it.
    """
    document = {**fitted_on(fitted), "steps": list(steps)}
    (out_dir / FITTED_ON).write_text(json.dumps(document, indent=1, sort_keys=True), encoding="utf-8")


def write_left_out(nodes: Mapping[str, Sequence[str]], out_dir: Path) -> None:
    """Writes `left_out.parquet`: cohort → ids of its nodes without features."""
    rows = [(cohort, node) for cohort, ids in sorted(nodes.items()) for node in sorted(ids)]
    columns = {name: [row[i] for row in rows] for i, name in enumerate(("cohort", "node_id"))}
    schema = pa.schema([(name, pa.string()) for name in columns])
    pq.write_table(pa.table(columns, schema), out_dir / LEFT_OUT, compression="zstd")


def _write(rows: Sequence[Mapping[str, Any]], keys: tuple[str, ...], schema: pa.Schema, path: Path) -> None:
    ordered = sorted(rows, key=lambda r: tuple(str(r.get(k) or "") for k in keys))
    clean = [
        {k: (None if isinstance(v, float) and np.isnan(v) else v) for k, v in r.items()} for r in ordered
    ]
    pq.write_table(pa.Table.from_pylist(clean, schema), path, compression="zstd")
