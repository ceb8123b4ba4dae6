"""From staged events to the MEDS files: some whole subjects at a time, all tables together.

Here is what needs all of a subject's rows: nothing may happen before birth.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from meds import DataSchema, birth_code

from ehr_assets.contracts import DEATH, SECTIONS
from ehr_assets.meds.frames import MEDS_SCHEMA, SORT_BY
from ehr_assets.meds.rows import QUARANTINE
from ehr_assets.meds.staging import RECORD, Stage

BEFORE_BIRTH = "before birth"


@dataclass(frozen=True)
class ShardCounts:
    """What some subjects add to the accounts.

    Args:
        staged: rows that were read.
        events: table (position), events.
        before_birth: `QUARANTINE`.
        codes: that occur.
        deaths_in_doubt: subjects whose death was among the rows before birth.
    """

    staged: int
    events: pl.DataFrame
    before_birth: pl.DataFrame
    codes: set[str]
    deaths_in_doubt: set[int]


def write_shard(
    stage: Stage, part: int, ids: np.ndarray, path: Path, scratch: Path, group_rows: int
) -> list[ShardCounts]:
    """Writes the events of a shard's subjects as one strict MEDS file, sorted, without rows before birth.

    Args:
        stage, part: where the shard's events are, complete for each of its subjects.
        ids: subject id by position.
        path: the file to write; its folder exists.
        scratch: a folder, not there yet, to deal a large shard into; it is emptied.
        group_rows: events sorted at once, of whole subjects.
    """
    rows = stage.rows(part, len(ids))
    members = np.flatnonzero(rows)
    groups = _groups(rows[members], group_rows)
    found = []
    with pq.ParquetWriter(
        path, DataSchema.align(MEDS_SCHEMA.empty_table()).schema, compression="zstd"
    ) as out:
        if len(groups) <= 1:
            found.append(_write(stage.read(part), ids, out))
        else:
            group_of = np.zeros(len(ids), np.int64)
            for group, (start, end) in enumerate(groups):
                group_of[members[start:end]] = group
            dealt = stage.deal(part, scratch, group_of)
            for group in range(len(groups)):
                found.append(_write(dealt.read(group), ids, out))
                dealt.drop(group)
            scratch.rmdir()
    return found


def _groups(rows: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Ranges of subjects that together have at most `most` events (or are a single one)."""
    ranges, start, held = [], 0, 0
    for i, n in enumerate(rows.tolist()):
        if held and held + n > most:
            ranges.append((start, i))
            start, held = i, 0
        held += n
    return [*ranges, (start, len(rows))] if len(rows) else []


def _write(staged: pl.DataFrame, ids: np.ndarray, out: pq.ParquetWriter) -> ShardCounts:
    bad = rows_before_birth(staged)
    kept = staged.join(bad, on=RECORD, how="anti")
    kept = kept.join(_births(kept), on="subject", how="left")
    # A date-only event on the day of birth stands at that day's midnight: lift it to the birth. Nor was it
    # known before.
    events = (
        kept.with_columns(
            pl.when(pl.col(c) < pl.col("birth")).then("birth").otherwise(c).alias(c)
            for c in ("time", "available_time")
        )
        .rename({"subject": "subject_id"})
        .sort(SORT_BY, nulls_last=False)
    )
    names = pl.Series(SECTIONS, dtype=pl.String)
    final = events.with_columns(
        pl.lit(names).gather(pl.col("section").cast(pl.UInt32)).alias("section"),
        pl.Series("subject_id", ids[events["subject_id"].to_numpy()], dtype=pl.Int64),
    )
    table = DataSchema.align(final.select(MEDS_SCHEMA.names).to_arrow().cast(MEDS_SCHEMA))
    if table.num_rows:
        out.write_table(table)
    counts = events.group_by("table").agg(pl.len().cast(pl.Int64).alias("events")).sort("table")
    before = bad.select(
        *RECORD,
        pl.lit(None, pl.String).alias("column"),
        pl.lit(BEFORE_BIRTH).alias("reason"),
    ).cast(QUARANTINE)
    doubtful = staged.filter(pl.col("code") == DEATH).join(bad, on=RECORD, how="semi")["subject"].unique()
    codes = set(final["code"].unique())
    return ShardCounts(staged.height, counts, before, codes, {int(ids[at]) for at in doubtful.to_list()})


def rows_before_birth(staged: pl.DataFrame) -> pl.DataFrame:
    """The records (`RECORD`) with an event before their subject's birth, unique and sorted.

    A record that gives the birth and an earlier event (a death, say) contradicts itself: it goes, and its
    birth judges no other record.
    """
    own = staged.filter(pl.col("code") == birth_code).select(*RECORD, pl.col("time").alias("birth"))
    contradictory = _before(staged.join(own, on=RECORD))
    rest = staged.join(contradictory, on=RECORD, how="anti")
    others = _before(rest.join(_births(rest), on="subject"))
    return pl.concat([contradictory, others]).unique().sort(RECORD)


def _births(staged: pl.DataFrame) -> pl.DataFrame:
    births = staged.filter(pl.col("code") == birth_code)
    return births.group_by("subject").agg(pl.col("time").min().alias("birth"))


def _before(events: pl.DataFrame) -> pl.DataFrame:
    birth = pl.when(pl.col("by_day")).then(pl.col("birth").dt.truncate("1d")).otherwise("birth")
    return events.filter(pl.col("time") < birth).select(RECORD).unique()
