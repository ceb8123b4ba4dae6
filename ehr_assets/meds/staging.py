"""Events on disk between reading the tables and writing the shards, dealt so that no one need hold them all.

Files are Arrow streams one after the other, one file per process and part: they only ever grow, and nothing
must be closed in the end. A part is dealt further until what must be held at once, some whole subjects,
is small.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

STAGED = pl.Schema(
    {
        "subject": pl.Int64,  # position in the splits' subjects
        "time": pl.Datetime("us"),
        "code": pl.String,
        "numeric_value": pl.Float32,
        "text_value": pl.String,
        "available_time": pl.Datetime("us"),
        "section": pl.Int8,  # index in SECTIONS
        "by_day": pl.Boolean,  # time known to the day only
        "table": pl.Int16,  # index in the spec's tables
        "file": pl.Int32,  # index in the table's files
        "row": pl.Int64,
    }
)
RECORD = ["table", "file", "row"]
"""What identifies a raw record."""

_ARROW = pl.DataFrame(schema=STAGED).to_arrow().schema
_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")
_BATCH_ROWS = 1 << 17


class Stage:
    """Staged events in a folder, in numbered parts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def add(self, events: pl.DataFrame, parts: np.ndarray) -> None:
        """Appends `STAGED` events to the files of their parts (int, one per event)."""
        dealt = events.select(list(STAGED)).with_columns(pl.Series("__part__", parts, dtype=pl.Int64))
        for (part,), rows in dealt.partition_by("__part__", as_dict=True, include_key=False).items():
            path = self.folder / f"{part:05d}-{os.getpid()}.arrows"
            with path.open("ab") as sink, pa.ipc.new_stream(sink, _ARROW, options=_LZ4) as stream:
                stream.write_table(rows.to_arrow().cast(_ARROW), _BATCH_ROWS)

    def deal(self, part: int, folder: Path, to: np.ndarray) -> "Stage":
        """Moves a part's events to a stage in `folder`, by subject: int [subjects], its part there."""
        dealt = Stage(folder)
        for batch in self.batches(part):
            dealt.add(batch, to[batch["subject"].to_numpy()])
        self.drop(part)
        return dealt

    def files(self, part: int) -> list[Path]:
        return sorted(self.folder.glob(f"{part:05d}-*.arrows"))

    def batches(self, part: int, columns: list[str] | None = None) -> Iterator[pl.DataFrame]:
        """The part's events, some at a time."""
        for path in self.files(part):
            with pa.OSFile(str(path), "rb") as source:
                while source.tell() < path.stat().st_size:  # one stream after the other
                    with pa.ipc.open_stream(source) as stream:
                        for batch in stream:
                            chosen = batch.select(columns) if columns else batch
                            yield pl.DataFrame(pl.from_arrow(chosen))

    def read(self, part: int) -> pl.DataFrame:
        """All of the part's events."""
        return pl.concat([pl.DataFrame(schema=STAGED), *self.batches(part)])

    def drop(self, part: int) -> None:
        """Frees the disk."""
        for path in self.files(part):
            path.unlink()

    def rows(self, part: int, subjects: int) -> np.ndarray:
        """Events of each subject, by position: int64 [subjects]."""
        counts = np.zeros(subjects, np.int64)
        for batch in self.batches(part, ["subject"]):
            at, n = np.unique(batch["subject"].to_numpy(), return_counts=True)
            counts[at] += n
        return counts
