"""What leak guards found, as one table that checks judge and reports show. Names and counts, never values."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

FINDINGS = "findings.parquet"

FINDING_SCHEMA = pa.schema(
    [
        ("guard", pa.string()),
        ("scope", pa.string()),  # the cohort or recipe
        ("about", pa.string()),  # a task, code, feature or dataset; null = all of the scope
        ("verdict", pa.string()),  # ok, warn, fail
        ("measured", pa.float64()),
        ("limit", pa.float64()),
        ("n", pa.int64()),  # rows, nodes or subjects looked at
        ("note", pa.string()),
    ]
)


@dataclass(frozen=True)
class Finding:
    """One guard's word about one thing. `fail` stops whatever comes after; `warn` is shown."""

    guard: str
    scope: str
    verdict: Literal["ok", "warn", "fail"]
    about: str | None = None
    measured: float | None = None
    limit: float | None = None
    n: int = 0
    note: str = ""


def write_findings(findings: Iterable[Finding], out_dir: Path) -> None:
    """Writes `findings.parquet`, in order of guard and what it is about."""
    rows = sorted((asdict(f) for f in findings), key=lambda r: (r["guard"], r["scope"], r["about"] or ""))
    pq.write_table(pa.Table.from_pylist(rows, FINDING_SCHEMA), out_dir / FINDINGS, compression="zstd")


def read_findings(folder: Path) -> pl.DataFrame:
    """The findings in a committed dataset (FINDING_SCHEMA)."""
    return pl.read_parquet(Path(folder) / FINDINGS)
