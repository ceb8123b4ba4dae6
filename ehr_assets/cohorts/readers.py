"""Raw tables as streams of text columns with exact row numbers, from .csv, .csv.gz or .parquet.

A table that cannot be read as a whole is a RawTableError that says why; a row with the wrong number of
fields is handed over for quarantine. What the values mean is not decided here (`meds/` does). How bytes
become CSV text is `sources.py`.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ehr_assets.cohorts.sources import CsvSource
from ehr_assets.errors import RawTableError
from ehr_assets.specs import closest

ENDINGS = (".csv", ".csv.gz", ".parquet")
ROW = "__row__"  # the column of 1-based data record numbers
BLOCK_BYTES = 8 << 20  # of CSV text per batch; also the longest possible record
BATCH_ROWS = 1 << 16  # of Parquet per batch
RAGGED = "wrong number of fields"
RAGGED_LINES = "wrong number of fields, over several lines"  # mostly a quote that is not closed where it should

ByteProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class RawBatch:
    """Consecutive records of a table.

    Args:
        frame: `ROW` (int64) and one string column per column asked for; empty text is null.
        ragged: (record number, reason) of the records that have no columns to put into `frame`.
    """

    frame: pl.DataFrame
    ragged: list[tuple[int, str]]


def find_table(root: Path, file: str) -> Path | None:
    """The file of a table under `root` (`ENDINGS` tried in order), or None. `file` may carry its ending."""
    for path in _candidates(root, file):
        if path.is_file():
            return path
    return None


def require_table(root: Path, file: str, *, key: str) -> Path:
    """As `find_table`; RawTableError naming the files tried. `key`: what in the spec asks for it."""
    if not root.is_dir():
        raise RawTableError("The directory of raw tables does not exist.", where=str(root), do="Check the path.")
    path = find_table(root, file)
    if path is None:
        tried = ", ".join(p.name for p in _candidates(root, file))
        folder = root / Path(file).parent
        near = closest(Path(file).name, {p.name.split(".")[0] for p in folder.glob("*")})
        raise RawTableError(
            f"A raw table is missing: {file} ({key}).{near}",
            where=f"{folder} (tried {tried})",
            do="Put the file there, correct `file:` in the cohort spec, or mark it `optional: true`.",
        )
    return path


def read_table(
    path: Path, columns: Sequence[str], *, encoding: str = "utf-8", on_bytes: ByteProgress | None = None
) -> Iterator[RawBatch]:
    """Streams the named columns of a table as text.

    Args:
        path: as found by `find_table`.
        columns: names in the file's header.
        encoding: of CSV text (Parquet has none).
        on_bytes: told (bytes of the file read, its size) after every batch.

    Yields:
        Batches that together hold every record exactly once, in the file's order. A header without records
        yields nothing or empty batches.

    Raises:
        RawTableError: a column is missing or occurs twice; no header; a truncated or corrupt file; text in
            another encoding; a quote that is never closed.
    """
    read = _read_parquet if path.suffix == ".parquet" else _read_csv
    return read(path, list(dict.fromkeys(columns)), encoding, on_bytes or _silent)


def _candidates(root: Path, file: str) -> list[Path]:
    named = file.endswith(ENDINGS)
    return [root / file] if named else [root / f"{file}{ending}" for ending in ENDINGS]


def _silent(done: int, total: int) -> None:
    """Nobody watches."""


def _read_csv(path: Path, columns: list[str], encoding: str, on_bytes: ByteProgress) -> Iterator[RawBatch]:
    names = _header(path, encoding)
    _require_columns(path, columns, names)
    # A last record with one field too many, which the file does not have: if it does not come back as
    # ragged, an open quote has swallowed the end of the file, and nothing else would tell.
    end = "end-of-table" + "," * len(names)
    ragged: list[tuple[int, str]] = []
    total: list[int] = []

    def on_ragged(row: pa_csv.InvalidRow) -> str:
        number = row.number - 1  # pyarrow counts the header
        if row.text == end:
            total.append(number - 1)
        else:
            ragged.append((number, RAGGED_LINES if "\n" in row.text.strip() else RAGGED))
        return "skip"

    done = taken = 0
    with CsvSource(path, encoding, tail=f"\n{end}\n".encode()) as source:
        try:
            stream = pa_csv.open_csv(
                source,
                # Single-threaded: only then does pyarrow know the numbers of ragged rows.
                read_options=pa_csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
                parse_options=pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=on_ragged),
                convert_options=pa_csv.ConvertOptions(
                    include_columns=columns,
                    column_types=dict.fromkeys(columns, pa.string()),
                    strings_can_be_null=True,
                    null_values=[""],
                ),
            )
            for batch in stream:
                rows, done, taken = _number(batch.num_rows, done, ragged, taken)
                fresh = [r for r in ragged[taken - len(rows.skipped) : taken]]
                yield RawBatch(_framed(batch, rows.numbers), fresh)
                on_bytes(source.position, source.size)
        except (pa.ArrowException, OSError, UnicodeError, EOFError) as e:
            raise _csv_error(path, e, source, done) from e
    if not total:
        raise _unclosed(path, done)
    if taken < len(ragged):
        empty = pl.DataFrame(schema={ROW: pl.Int64, **dict.fromkeys(columns, pl.String)})
        yield RawBatch(empty, ragged[taken:])
