"""From staged events to the MEDS files: one shard of subjects at a time, all tables together.

Here is what needs all of a subject's rows: nothing may happen before birth. A shard must fit into memory;
its size is the spec's `shard_subjects`.
"""

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
from meds import DataSchema, birth_code

from ehr_assets.contracts import DEATH, SECTIONS
from ehr_assets.meds.frames import MEDS_SCHEMA, SORT_BY, write_parquet
from ehr_assets.meds.rows import QUARANTINE, STAGED

BEFORE_BIRTH = "before birth"
_ROW = ["table", "row"]


class Staging:
    """Events on disk, by shard, until all tables are read. Arrow files, appended batch by batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writers: dict[int, pa.RecordBatchFileWriter] = {}
        folder.mkdir()

    def add(self, events: pl.DataFrame) -> None:
        """Appends `STAGED` events to the files of their shards."""
        for (shard,), part in events.group_by("shard", maintain_order=True):
            table = part.select(list(STAGED)).to_arrow()
            if shard not in self._writers:
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                self._writers[shard] = pa.ipc.new_file(self._file(shard), table.schema, options=options)
            self._writers[shard].write_table(table)

    def close(self) -> None:
        """Ends the files; to be called before `read`."""
        for writer in self._writers.values():
            writer.close()

    def read(self, shard: int) -> pl.DataFrame:
        """All events of a shard, in the order they were added."""
        if shard not in self._writers:
            return pl.DataFrame(schema=STAGED)
        with pa.memory_map(str(self._file(shard))) as source:
            return pl.DataFrame(pl.from_arrow(pa.ipc.open_file(source).read_all())).cast(STAGED)

    def _file(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.arrow"


@dataclass(frozen=True)
class ShardCounts:
    """What a shard adds to the accounts; `before_birth`: `QUARANTINE`; the frames are per table name."""

    events: pl.DataFrame
    before_birth: pl.DataFrame
    codes: set[str]
    deaths_in_doubt: set[int]


def write_shard(staged: pl.DataFrame, path: Path, tables: list[str]) -> ShardCounts:
    """Writes the events of a shard's subjects as one strict MEDS file, sorted, without rows before birth.

    Args:
        staged: `STAGED` events of the shard, complete for each of its subjects.
        path: the file to write; its folder exists.
        tables: the names that `table` is an index of.
    """
    bad = rows_before_birth(staged)
    births = _births(staged.join(bad, on=_ROW, how="anti"))
    kept = staged.join(bad, on=_ROW, how="anti").join(births, on="subject_id", how="left")
    # A date-only event on the day of birth stands at that day's midnight: lift it to the birth.
    events = kept.with_columns(
        pl.when(pl.col("time") < pl.col("birth")).then("birth").otherwise("time").alias("time")
    ).sort(SORT_BY, nulls_last=False)
    names = pl.Series(SECTIONS, dtype=pl.String)
    final = events.with_columns(pl.lit(names).gather(pl.col("section").cast(pl.UInt32)).alias("section"))
    write_parquet(DataSchema.align(final.select(MEDS_SCHEMA.names).to_arrow().cast(MEDS_SCHEMA)), path)
    named = pl.col("table").replace_strict(dict(enumerate(tables)), return_dtype=pl.String)
    counts = events.group_by("table").agg(pl.len().alias("events")).with_columns(named)
    before = bad.select(
        named,
        "row",
        pl.lit(None, pl.String).alias("column"),
        pl.lit(BEFORE_BIRTH).alias("reason"),
    ).cast(QUARANTINE)
    doubtful = staged.filter(pl.col("code") == DEATH).join(bad, on=_ROW, how="semi")["subject_id"]
    return ShardCounts(counts, before, set(final["code"].unique()), set(doubtful.to_list()))


def rows_before_birth(staged: pl.DataFrame) -> pl.DataFrame:
    """table, row of the records with an event before their subject's birth, unique and sorted.

    A record that gives the birth and an earlier event (a death, say) contradicts itself: it goes, and its
    birth judges no other record.
    """
    own = staged.filter(pl.col("code") == birth_code).select(*_ROW, pl.col("time").alias("birth"))
    contradictory = _before(staged.join(own, on=_ROW))
    rest = staged.join(contradictory, on=_ROW, how="anti")
    others = _before(rest.join(_births(rest), on="subject_id"))
    return pl.concat([contradictory, others]).unique().sort(_ROW)


def _births(staged: pl.DataFrame) -> pl.DataFrame:
    births = staged.filter(pl.col("code") == birth_code)
    return births.group_by("subject_id").agg(pl.col("time").min().alias("birth"))


def _before(events: pl.DataFrame) -> pl.DataFrame:
    birth = pl.when(pl.col("by_day")).then(pl.col("birth").dt.truncate("1d")).otherwise("birth")
    return events.filter(pl.col("time") < birth).select(_ROW).unique()
