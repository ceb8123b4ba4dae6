"""Raw tables as streams of text columns with exact row numbers, from .csv, .csv.gz or .parquet.

A table that cannot be read as a whole is a RawTableError that says why; a row with the wrong number of
fields is handed over for quarantine. What the values mean is not decided here (`meds/` does). How bytes
become CSV text is `sources.py`.
"""

import csv
import io
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ehr_assets.cohorts.sources import CHUNK, NUL_SIGN, CsvSource
from ehr_assets.errors import RawTableError
from ehr_assets.specs import closest

ENDINGS = (".csv", ".csv.gz", ".parquet")
ROW = "__row__"  # the column of 1-based data record numbers
BLOCK_BYTES = 8 << 20  # of CSV text per batch; also the longest possible record
BATCH_ROWS = 1 << 16  # of Parquet per batch
RAGGED = "wrong number of fields"
RAGGED_LINES = (
    "wrong number of fields, over several lines"  # mostly a quote that is not closed where it should
)

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
        raise RawTableError(
            "The directory of raw tables does not exist.", where=str(root), do="Check the path."
        )
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
        yields empty batches.

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
    ends: list[int] = []

    def on_ragged(row: pa_csv.InvalidRow) -> str:
        number = row.number - 1  # pyarrow counts the header
        if row.text == end:
            ends.append(number)
        else:
            ragged.append((number, RAGGED_LINES if "\n" in row.text.strip() else RAGGED))
        return "skip"

    first = 1
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
                ),
            )
            for batch in stream:
                numbers, ahead = _numbers(first, batch.num_rows, [number for number, _ in ragged])
                frame = _framed(batch, numbers)
                if source.with_nuls:
                    frame = frame.with_columns(pl.col(columns).str.replace_all(NUL_SIGN, "\0", literal=True))
                yield RawBatch(frame, ragged[:ahead])
                del ragged[:ahead]
                first += batch.num_rows + ahead
                on_bytes(source.position, source.size)
        except (pa.ArrowException, OSError, RawTableError) as e:
            raise source.failure or _unparsable(path, e, first) from None
    if not ends:
        raise _open_quote(path, first - 1)
    yield RawBatch(_framed(pa.record_batch([pa.array([], pa.string())] * len(columns), columns), []), ragged)


def _numbers(first: int, count: int, ragged: list[int]) -> tuple[np.ndarray, int]:
    """`count` record numbers from `first` on without `ragged` (sorted), and how many of those lay between."""
    ahead = 0
    while (inside := bisect_left(ragged, first + count + ahead)) > ahead:
        ahead = inside
    numbers = np.arange(first, first + count + ahead, dtype=np.int64)
    return np.delete(numbers, np.asarray(ragged[:ahead], dtype=np.int64) - first), ahead


def _framed(batch: pa.RecordBatch, numbers: Sequence[int] | np.ndarray) -> pl.DataFrame:
    frame = pl.DataFrame(pl.from_arrow(batch))
    frame = frame.with_columns(pl.when(pl.all() != "").then(pl.all()))  # Parquet's empty texts are null too
    return frame.insert_column(0, pl.Series(ROW, numbers, dtype=pl.Int64))


def _header(path: Path, encoding: str) -> list[str]:
    """The column names in the first record."""
    with CsvSource(path, encoding) as source:
        text = source.read(CHUNK).decode("utf-8", errors="ignore")
    names = next(csv.reader(io.StringIO(text.lstrip("\r\n"), newline="")), [])
    if not any(names):
        raise RawTableError(
            "The raw table is empty: it has no header.",
            where=str(path),
            do="Export the table again, with header.",
        )
    return names


def _require_columns(path: Path, columns: Sequence[str], names: Sequence[str]) -> None:
    for column in columns:
        if column not in names:
            raise RawTableError(
                f"The raw table has no column '{column}'.{closest(column, names)}",
                where=str(path),
                do=f"Correct the cohort spec or the table. Its columns: {', '.join(names)}.",
            )
        if list(names).count(column) > 1:
            raise RawTableError(
                f"The raw table has the column '{column}' more than once.",
                where=str(path),
                do="Rename or drop the others in the table.",
            )


def _unparsable(path: Path, error: Exception, first: int) -> RawTableError:
    if isinstance(error, RawTableError):
        return error
    if "straddling" in str(error):
        return _open_quote(path, first - 1, f"a record is longer than {BLOCK_BYTES >> 20} MB")
    if isinstance(error, OSError):
        return RawTableError(
            f"The raw table cannot be read ({error.strerror or type(error).__name__}).",
            where=f"{path}, after data record {first - 1}",
            do="Check the file, its permissions and the disk.",
        )
    return RawTableError(
        "The raw table is not CSV as RFC 4180 has it.",
        where=f"{path}, after data record {first - 1}",
        do="Check delimiters, quotes and line ends there.",
    )


def _open_quote(path: Path, after: int, sign: str = "the file ends inside a quoted value") -> RawTableError:
    return RawTableError(
        f"A quote in the raw table is never closed: {sign}.",
        where=f"{path}, near or after data record {after}",
        do="Close or double the quote there.",
    )


def _read_parquet(
    path: Path, columns: list[str], encoding: str, on_bytes: ByteProgress
) -> Iterator[RawBatch]:
    try:
        with pq.ParquetFile(path) as file:
            _require_columns(path, columns, file.schema_arrow.names)
            first, total = 1, file.metadata.num_rows
            for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                texts = [_texts(path, name, batch.column(name)) for name in columns]
                frame = _framed(
                    pa.record_batch(texts, columns), np.arange(first, first + batch.num_rows, dtype=np.int64)
                )
                first += batch.num_rows
                yield RawBatch(frame, [])
                on_bytes(path.stat().st_size * (first - 1) // total, path.stat().st_size)
    except (pa.ArrowException, OSError) as e:
        if isinstance(e, OSError) and e.errno:
            raise
        raise RawTableError(
            "The raw table is not a sound Parquet file.",
            where=str(path),
            do="Copy or export it again; compare checksums.",
        ) from None


def _texts(path: Path, name: str, values: pa.Array) -> pa.Array:
    try:
        return pc.cast(values, pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise RawTableError(
            f"The column '{name}' holds {values.type}, which has no text form.",
            where=str(path),
            do="Export the column as text, number, date or timestamp.",
        ) from None
