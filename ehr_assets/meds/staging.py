"""Rows on disk, dealt into parts so that no one need hold them all: staged events, and joined tables.

Files are Arrow streams one after the other, one file per process and part: they only ever grow, and nothing
must be closed in the end. A part of staged events is dealt further until what must be held at once, some
whole subjects, is small.

On a cluster a worker may be lost in the middle of a task, which is then done again elsewhere. A stream says
which task it is of: of a task's streams in a part one is read, and what a lost worker began to write is not.
That none is missing in the end is for whoever staged them to count.
"""

import os
import socket
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

_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")
_BATCH_ROWS = 1 << 17
_TASK, _ROWS = b"task", b"rows"


def dealt(frame: pl.DataFrame, parts: np.ndarray) -> dict[int, pl.DataFrame]:
    """The rows of each part that has any, in their order; `parts`: int, one per row."""
    if parts.size and parts.min() == parts.max():
        return {int(parts[0]): frame}
    numbered = frame.with_columns(pl.Series("__part__", parts, dtype=pl.Int64))
    found = numbered.partition_by("__part__", as_dict=True, include_key=False)
    return {int(part): rows for (part,), rows in found.items()}


class Parts:
    """Rows of one schema in a folder, in numbered parts."""

    def __init__(self, folder: Path, schema: pl.Schema) -> None:
        self.folder, self.schema = folder, schema
        self._arrow = schema.to_frame().to_arrow().schema
        folder.mkdir(exist_ok=True)

    def add(self, rows: pl.DataFrame, parts: np.ndarray, task: int | None = None) -> None:
        """Appends rows to the files of their parts (int, one per row).

        task: its number, of one that may be done again: a task adds to a part once.
        """
        for part, members in dealt(rows.select(self.schema.names()), parts).items():
            about = None if task is None else {_TASK: str(task), _ROWS: str(members.height)}
            schema = self._arrow.with_metadata(about)
            path = self.folder / f"{part:05d}-{socket.gethostname()}-{os.getpid()}.arrows"
            with path.open("ab") as sink, pa.ipc.new_stream(sink, schema, options=_LZ4) as stream:
                stream.write_table(members.to_arrow().cast(schema), _BATCH_ROWS)

    def files(self, part: int) -> list[Path]:
        return sorted(self.folder.glob(f"{part:05d}-*.arrows"))

    def batches(self, part: int, columns: list[str] | None = None) -> Iterator[pl.DataFrame]:
        """The part's rows, some at a time; those that one process added, in the order in which it did."""
        held, rows = [], 0
        for batch in self._written(part, columns):
            held.append(batch)
            rows += batch.num_rows
            # Of a large table, each batch adds a few rows to each part: one by one they would cost most of
            # the time.
            if rows >= _BATCH_ROWS:
                yield _together(held)
                held, rows = [], 0
        if held:
            yield _together(held)

    def _written(self, part: int, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        wanted = [self._arrow.get_field_index(name) for name in columns] if columns else None
        options = pa.ipc.IpcReadOptions(included_fields=wanted)
        seen: set[bytes] = set()
        for path in self.files(part):
            size = path.stat().st_size
            with pa.OSFile(str(path), "rb") as source:
                while source.tell() < size:  # one stream after the other
                    try:
                        with pa.ipc.open_stream(source, options=options) as stream:
                            about = stream.schema.metadata or {}
                            found = list(stream)
                    except (pa.ArrowInvalid, OSError):
                        if source.tell() < size:
                            raise
                        break  # the end of what a lost worker wrote
                    if _TASK in about:
                        whole = sum(batch.num_rows for batch in found) == int(about[_ROWS])
                        if not whole or about[_TASK] in seen:
                            continue
                        seen.add(about[_TASK])
                    yield from found

    def read(self, part: int) -> pl.DataFrame:
        """All of the part's rows."""
        return pl.concat([self.schema.to_frame(), *self.batches(part)])

    def drop(self, part: int) -> None:
        """Frees the disk."""
        for path in self.files(part):
            path.unlink()


def _together(batches: list[pa.RecordBatch]) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(pa.Table.from_batches(batches)))


class Stage(Parts):
    """Staged events (`STAGED`) in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, STAGED)

    def deal(self, part: int, folder: Path, to: np.ndarray) -> "Stage":
        """A part's events in a stage in `folder`, by subject: int [subjects], its part there.

        They stay here too: whoever is lost in the middle has taken nothing away.
        """
        stage = Stage(folder)
        for batch in self.batches(part):
            stage.add(batch, to[batch["subject"].to_numpy()])
        return stage

    def rows(self, part: int, subjects: int) -> np.ndarray:
        """Events of each subject, by position: int64 [subjects]."""
        counts = np.zeros(subjects, np.int64)
        for batch in self.batches(part, ["subject"]):
            at, n = np.unique(batch["subject"].to_numpy(), return_counts=True)
            counts[at] += n
        return counts
