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


def _table(findings: Iterable[Finding]) -> pa.Table:
    """In order of guard and what it is about."""
    rows = sorted((asdict(f) for f in findings), key=lambda r: (r["guard"], r["scope"], r["about"] or ""))
    return pa.Table.from_pylist(rows, FINDING_SCHEMA)


def write_findings(findings: Iterable[Finding], out_dir: Path) -> None:
    """Writes `findings.parquet`."""
    pq.write_table(_table(findings), out_dir / FINDINGS, compression="zstd")


def as_frame(findings: Iterable[Finding]) -> pl.DataFrame:
    """As `read_findings` would give them."""
    return pl.DataFrame(_table(findings))


def read_findings(folder: Path) -> pl.DataFrame:
    """The findings in a committed dataset (FINDING_SCHEMA)."""
    return pl.read_parquet(Path(folder) / FINDINGS)


MOST_TOLD = 5
"""Failures told in a sentence; all of them stand in the table."""


@dataclass(frozen=True)
class Verdict:
    """What a guard's findings come to. A guard of which nothing was found has not run, and has not passed."""

    passed: bool
    counts: dict[str, int]
    problem: str | None


def verdict(findings: pl.DataFrame, guard: str) -> Verdict:
    """Of one guard, over all that it looked at."""
    mine = findings.filter(pl.col("guard") == guard)
    failed = mine.filter(pl.col("verdict") == "fail")
    counts = {
        "findings": mine.height,
        "failed": failed.height,
        "warned": mine.filter(pl.col("verdict") == "warn").height,
    }
    if not mine.height:
        return Verdict(False, counts, "the guard has not run")
    rows = failed.select("scope", "about", "note").iter_rows()
    told = [f"{about or scope} ({note})" for scope, about, note in rows]
    more = f"; and {len(told) - MOST_TOLD} more" if len(told) > MOST_TOLD else ""
    return Verdict(not told, counts, "; ".join(told[:MOST_TOLD]) + more if told else None)


def findings_table(findings: pl.DataFrame) -> str:
    """Markdown: what failed and what is to be looked at, then a line for each guard."""
    lines = ["| guard | about | verdict | measured | limit | n | note |", "|---|---|---|---|---|---|---|"]
    order = {"fail": 0, "warn": 1, "ok": 2}
    for row in sorted(findings.iter_rows(named=True), key=lambda r: (order[r["verdict"]], r["guard"])):
        measured, limit = (f"{row[k]:.4g}" if row[k] is not None else "" for k in ("measured", "limit"))
        about = (row["about"] or "").replace("|", "\\|")
        note = row["note"].replace("|", "\\|")
        cells = (row["guard"], about, row["verdict"], measured, limit, row["n"], note)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)
