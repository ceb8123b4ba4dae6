"""The decision-node table on disk, and the exact time arithmetic of windows.

Parquet is written through `write_parquet` (pyarrow: polars' own writer gives files that MEDS refuses).
"""

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_assets.errors import DatasetError

TIMESTAMP = pl.Datetime("us")
MICROSECONDS_PER_HOUR = 3_600_000_000
MICROSECONDS_PER_DAY = 24 * MICROSECONDS_PER_HOUR


def read_nodes(nodes_dir: Path) -> pl.DataFrame:
    """The decision nodes of a committed `decision_nodes` directory."""
    path = Path(nodes_dir) / "nodes.parquet"
    if not path.is_file():
        raise DatasetError(
            "The dataset has no nodes.parquet.",
            where=str(path),
            do="Materialize the cohort's decision_nodes again.",
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
