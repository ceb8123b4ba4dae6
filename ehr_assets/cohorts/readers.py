"""Raw tables as streams of text columns with exact record numbers, whatever their files.

A table that cannot be read as a whole is a RawTableError that says why. What the values mean is not decided
here (`meds/` does).
"""

from collections.abc import Callable, Iterator, Sequence

import polars as pl

from ehr_assets.cohorts.batches import FILE, ROW, RawBatch
from ehr_assets.cohorts.csv_files import read_csv
from ehr_assets.cohorts.file_spec import FileSpec
from ehr_assets.cohorts.files import RawFile
from ehr_assets.cohorts.headers import resolved
from ehr_assets.cohorts.parquet_files import read_parquet

TOGETHER_ROWS = 1 << 16  # records of small files that make one batch

ByteProgress = Callable[[int, int], None]


def read_table(
    files: Sequence[RawFile],
    columns: Sequence[str],
    how: FileSpec,
    on_bytes: ByteProgress | None = None,
) -> Iterator[RawBatch]:
    """Streams the named columns of a table as text.

    Args:
        files: of the table, as found by `files.find_files`.
        columns: names in the files' headers, aliases of them, or names in the path.
        how: the files are to be read.
        on_bytes: told (bytes read so far, bytes of all files) after every batch.

    Yields:
        Batches that together hold every record exactly once, in the order of the files. A header without
        records yields empty batches.

    Raises:
        RawTableError: a column is missing or occurs twice; no header; a truncated or corrupt file; text in
            another encoding; a quote that is never closed.
    """
    columns = list(dict.fromkeys(columns))
    total, done = sum(f.bytes for f in files), 0
    held: list[RawBatch] = []
    records = 0
    for index, (file, there) in enumerate(zip(files, resolved(files, columns, how), strict=True)):
        parquet = file.ending == ".parquet"
        parts = read_parquet(file, there) if parquet else read_csv(file, there, how)
        for part, position in parts:
            held.append(_placed(part, index, file, columns))
            records += part.records
            if records >= TOGETHER_ROWS or len(files) == 1:
                yield _together(held)
                held, records = [], 0
            if on_bytes:
                on_bytes(done + position, total)
        done += file.bytes
        if on_bytes:
            on_bytes(done, total)
    if held:
        yield _together(held)


def _placed(batch: RawBatch, index: int, file: RawFile, columns: list[str]) -> RawBatch:
    """The batch with its file's position and what the path says, its columns in the order asked for."""
    given = [pl.lit(text, pl.String).alias(name) for name, text in file.columns.items() if name in columns]
    frame = batch.frame.with_columns(pl.lit(index, pl.Int32).alias(FILE), *given).select(FILE, ROW, *columns)
    return RawBatch(frame, [(index, row, reason) for _, row, reason in batch.ragged])


def _together(batches: list[RawBatch]) -> RawBatch:
    if len(batches) == 1:
        return batches[0]
    return RawBatch(pl.concat([b.frame for b in batches]), [r for b in batches for r in b.ragged])
