"""Reading a committed `meds_events` directory: lazily, by split, and by code.

Codes are matched as the house does it everywhere: the regexes run once over the few distinct codes of
`metadata/codes.parquet` (Python's `re.search`), and events are then selected by exact code. Parquet is
written through `write_parquet` (pyarrow: polars' own writer gives files that MEDS refuses).
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_assets.errors import DatasetError

BIRTH = "MEDS_BIRTH"
DEATH = "MEDS_DEATH"
TIMESTAMP = pl.Datetime("us")
MICROSECONDS_PER_HOUR = 3_600_000_000
MICROSECONDS_PER_DAY = 24 * MICROSECONDS_PER_HOUR

EVENT_SCHEMA = pl.Schema(
    {
        "subject_id": pl.Int64(),
        "time": TIMESTAMP,
        "code": pl.String(),
        "numeric_value": pl.Float32(),
        "text_value": pl.String(),
        "available_time": TIMESTAMP,
        "section": pl.String(),
    }
)


def scan_events(meds_dir: Path, split: str | None = None) -> pl.LazyFrame:
    """The events of one split, or of all splits, as a lazy frame with the columns of `EVENT_SCHEMA`.

    A split without files has no rows. Raises DatasetError when `meds_dir` holds no MEDS data at all.
    """
    data = Path(meds_dir) / "data"
    if not data.is_dir():
        raise DatasetError(
            "This is not a MEDS dataset: it has no data/ folder.",
            where=str(meds_dir),
            do="Materialize the cohort's meds_events again.",
        )
    files = sorted(data.glob(f"{split or '*'}/*.parquet"))
    if not files:
        return EVENT_SCHEMA.to_frame(eager=False)
    return pl.scan_parquet(files).select(EVENT_SCHEMA.names())


def event_codes(meds_dir: Path) -> list[str]:
    """The distinct codes of the dataset, sorted, as metadata/codes.parquet lists them."""
    path = Path(meds_dir) / "metadata" / "codes.parquet"
    if not path.is_file():
        raise DatasetError(
            "The MEDS dataset has no code metadata.",
            where=str(path),
            do="Materialize the cohort's meds_events again.",
        )
    return sorted(set(pq.read_table(path, columns=["code"])["code"].to_pylist()))


def matching_codes(codes: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The codes in which at least one of the regexes is found, in their given order."""
    compiled = [re.compile(p) for p in patterns]
    return [code for code in codes if any(p.search(code) for p in compiled)]


def select_events(events: pl.LazyFrame, codes: Iterable[str], columns: Sequence[str]) -> pl.DataFrame:
    """The timed events with one of the codes, collected, with `columns` only, in the order of the files."""
    wanted = sorted(set(codes))
    return (
        events.filter(pl.col("code").is_in(wanted) & pl.col("time").is_not_null())
        .select(columns)
        .collect(engine="streaming")
    )


def follow_up(events: pl.LazyFrame) -> pl.DataFrame:
    """Per subject: last_time (of any timed event but birth), death_time, death_available_time; null if none.

    Sorted by subject_id; subjects with only static rows are included.
    """
    timed = pl.col("time").is_not_null() & (pl.col("code") != BIRTH)
    dead = pl.col("code") == DEATH
    return (
        events.group_by("subject_id")
        .agg(
            pl.col("time").filter(timed).max().alias("last_time"),
            pl.col("time").filter(dead).min().alias("death_time"),
            pl.col("available_time").filter(dead).min().alias("death_available_time"),
        )
        .sort("subject_id")
        .collect(engine="streaming")
    )


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
