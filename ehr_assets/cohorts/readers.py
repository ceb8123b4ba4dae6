"""Raw tables as streams of text columns with exact row numbers, from CSV (plain or gzipped) or Parquet.

A table that cannot be read as a whole is a RawTableError that says why; a row with the wrong number of
fields is handed over for quarantine. What the values mean is not decided here (`meds/` does). How bytes
become CSV text is `sources.py`, where they lie is `files.py`.
"""

import csv
import io
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ehr_assets.cohorts.file_spec import FileSpec
from ehr_assets.cohorts.files import RawFile, unreachable
from ehr_assets.cohorts.sources import CHUNK, NUL_SIGN, CsvSource
from ehr_assets.errors import RawTableError
from ehr_assets.specs import closest

FILE = "__file__"  # the column of positions in the table's files
ROW = "__row__"  # the column of 1-based data record numbers in the file
BLOCK_BYTES = 4 << 20  # of CSV text per batch; also the longest possible record
BATCH_ROWS = 1 << 16  # of Parquet per batch, and of small files taken together
RAGGED = "wrong number of fields"
RAGGED_LINES = (
    "wrong number of fields, over several lines"  # mostly a quote that is not closed where it should
)

_LISTED = 40  # columns in an error
_NAME = re.compile(r"(?!.*\d{4})\s*(?:[^\W\d][^\x00-\x1f]{0,80}|\d{1,2})$")  # what a record hardly looks like
_WILD = re.compile(r"\*$|\^.*\$$")  # polars takes such names for patterns

ByteProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class RawBatch:
    """Records of a table, of one file or of several small ones.

    Args:
        frame: `FILE` (int32), `ROW` (int64) and one string column per column asked for; empty text is null.
        ragged: (file, record number, reason) of the records that have no columns to put into `frame`.
    """

    frame: pl.DataFrame
    ragged: list[tuple[int, int, str]]

    @property
    def records(self) -> int:
        return self.frame.height + len(self.ragged)


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
    for index, (file, names) in enumerate(zip(files, _resolved(files, columns, how), strict=True)):
        read = _read_parquet if file.ending == ".parquet" else _read_csv
        for part, position in read(file, names, how):
            held.append(_placed(part, index, file, columns))
            records += part.records
            if records >= BATCH_ROWS or len(files) == 1:
                yield _together(held)
                held, records = [], 0
            if on_bytes:
                on_bytes(done + position, total)
        done += file.bytes
        if on_bytes:
            on_bytes(done, total)
    if held:
        yield _together(held)


def headers(file: RawFile, how: FileSpec) -> list[str]:
    """The column names of a file. RawTableError where there are none, or where the file is damaged."""
    if file.ending == ".parquet":
        with _opened_parquet(file) as parquet:
            return parquet.schema_arrow.names
    with CsvSource(file, how.encoding) as source:
        size, whole = CHUNK, False
        text = b""
        # Tables of tens of thousands of columns have headers of megabytes.
        while not whole and len(text) < BLOCK_BYTES:
            more = source.read(size)
            text, size = text + more, 2 * size
            names, whole = _header(text.decode("utf-8", errors="ignore"), how, final=not more)
    if any(NUL_SIGN in name for name in names):
        raise RawTableError(
            "The header of the raw table holds NUL characters: it seems to be UTF-16.",
            where=file.where,
            do="Set `encoding: utf-16-le` (or utf-16-be) at this table in the spec.",
        )
    if not any(names):
        raise RawTableError(
            "The raw table is empty: it has no header.",
            where=file.where,
            do="Export the table again, with header.",
        )
    return names


def _header(text: str, how: FileSpec, *, final: bool) -> tuple[list[str], bool]:
    """The names in the first line, and whether it ends within `text`."""
    lines = io.StringIO(text.lstrip("\r\n"), newline="")
    quoting = csv.QUOTE_MINIMAL if how.quote else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=how.delimiter, quotechar=how.quote or '"', quoting=quoting)
    try:
        names = next(reader, [])
    except csv.Error:
        return [], final
    return names, final or bool(lines.read(1))


# Column asked for → name in the file, or None where the file lacks it.
_Names = dict[str, str | None]


def _resolved(files: Sequence[RawFile], columns: list[str], how: FileSpec) -> list[_Names]:
    """How each file calls the columns that its path does not give."""
    found, problems = _names(files, columns, how)
    if problems:
        raise problems[0]
    return found


def column_problems(files: Sequence[RawFile], columns: Sequence[str], how: FileSpec) -> list[RawTableError]:
    """Everything that is wrong with the columns asked for: missing, or there twice. Reads the headers only.

    Raises:
        RawTableError: a file has no header, or cannot be read.
    """
    return _names(files, list(dict.fromkeys(columns)), how)[1]


def _names(
    files: Sequence[RawFile], columns: list[str], how: FileSpec
) -> tuple[list[_Names], list[RawTableError]]:
    found: list[_Names] = []
    problems = [_unnamable(files, c) for c in columns if any(map(_WILD.match, [c, *how.aliases.get(c, [])]))]
    for file in files:
        there = _labelled(headers(file, how))
        names: _Names = {}
        for column in columns:
            if column in file.columns:
                continue
            candidates = [column, *how.aliases.get(column, [])]
            names[column] = _called(candidates, there)
            twice = next((c for c in candidates if f"{c}#1" in there), None)
            if names[column] is None and twice:
                problems.append(_twice(file, twice))
                names[column] = f"{twice}#1"  # not missing as well
        found.append(names)
    for column in _lacking(found, how):
        problems.append(_no_column(files[0], column, headers(files[0], how)))
    return found, problems


def lacking(files: Sequence[RawFile], columns: Sequence[str], how: FileSpec) -> list[str]:
    """The columns that `read_table` would miss. RawTableError where a file has no header."""
    return _lacking(_names(files, list(dict.fromkeys(columns)), how)[0], how)


def _unnamable(files: Sequence[RawFile], column: str) -> RawTableError:
    return RawTableError(
        f"The column '{column}' cannot be read: its name would stand for other columns too.",
        where=files[0].where if files else None,
        do="Rename it in the table.",
    )


def _twice(file: RawFile, column: str) -> RawTableError:
    return RawTableError(
        f"The raw table has the column '{column}' more than once.",
        where=file.where,
        do=f"Say which one is meant under `aliases` ({column}#1 or {column}#2), or mend the table.",
    )


def _lacking(found: list[_Names], how: FileSpec) -> list[str]:
    """Files of one table may differ in their columns; what none of them has is a mistake."""
    columns = dict.fromkeys(c for names in found for c in names)
    return [c for c in columns if c not in how.optional_columns and not any(n.get(c) for n in found)]


def _called(names: list[str], there: Sequence[str]) -> str | None:
    """The first of the names that a header has; whatever its case, where none is there as it is written."""
    exact = next((n for n in names if n in there), None)
    if exact is not None:
        return exact
    in_any_case = {n.lower(): n for n in reversed(there)}
    return next((in_any_case[n.lower()] for n in names if n.lower() in in_any_case), None)


def _labelled(header: Sequence[str]) -> list[str]:
    """Names of their own for all columns: those of an equal name are numbered, ``name#1``, ``name#2``."""
    total, seen = Counter(header), Counter[str]()
    labels = []
    for name in header:
        seen[name] += 1
        labels.append(f"{name}#{seen[name]}" if total[name] > 1 else name)
    return labels


def _no_column(file: RawFile, column: str, there: Sequence[str]) -> RawTableError:
    return RawTableError(
        f"The raw table has no column '{column}'.{closest(column, there)}",
        where=file.where,
        do=f"Correct the cohort spec or the table, or list it under `optional_columns`. {_shown(there)}",
    )


def _shown(header: Sequence[str]) -> str:
    """The columns of a header, for people; unless its line seems to hold data, which no error may quote."""
    if not all(_NAME.match(name) for name in header if name):
        return "Its first line does not look like a header."
    more = f" and {len(header) - _LISTED} more" if len(header) > _LISTED else ""
    return f"Its columns: {', '.join(header[:_LISTED])}{more}."


def _placed(batch: RawBatch, index: int, file: RawFile, columns: list[str]) -> RawBatch:
    """The batch with its file's position and what the path says, its columns in the order asked for."""
    given = [pl.lit(text, pl.String).alias(name) for name, text in file.columns.items() if name in columns]
    frame = batch.frame.with_columns(pl.lit(index, pl.Int32).alias(FILE), *given).select(FILE, ROW, *columns)
    return RawBatch(frame, [(index, row, reason) for _, row, reason in batch.ragged])


def _together(batches: list[RawBatch]) -> RawBatch:
    if len(batches) == 1:
        return batches[0]
    return RawBatch(pl.concat([b.frame for b in batches]), [r for b in batches for r in b.ragged])


def _read_csv(file: RawFile, names: _Names, how: FileSpec) -> Iterator[tuple[RawBatch, int]]:
    header = headers(file, how)
    own = _labelled(header)
    # A last record with one field too many, which the file does not have: if it does not come back as
    # ragged, an open quote has swallowed the end of the file, and nothing else would tell.
    end = "end-of-table" + how.delimiter * len(header)
    ragged: list[tuple[int, str]] = []
    ends: list[int] = []

    def on_ragged(row: pa_csv.InvalidRow) -> str:
        number = row.number - 1 - how.skip_rows  # pyarrow counts the header, and what it skips
        if row.text == end:
            ends.append(number)
        else:
            ragged.append((number, RAGGED_LINES if "\n" in row.text.strip() else RAGGED))
        return "skip"

    present = [n for n in names.values() if n is not None]
    first = 1
    with CsvSource(file, how.encoding, tail=f"\n{end}\n".encode()) as source:
        try:
            stream = pa_csv.open_csv(
                source,
                # Single-threaded: only then does pyarrow know the numbers of ragged rows.
                read_options=pa_csv.ReadOptions(
                    block_size=BLOCK_BYTES,
                    use_threads=False,
                    # Columns of equal names: pyarrow could not tell them apart by the header.
                    column_names=None if own == header else own,
                    skip_rows_after_names=how.skip_rows + (own != header),
                ),
                parse_options=pa_csv.ParseOptions(
                    delimiter=how.delimiter,
                    quote_char=how.quote or False,
                    newlines_in_values=how.quote is not None,
                    invalid_row_handler=on_ragged,
                ),
                convert_options=pa_csv.ConvertOptions(
                    # No column at all would mean all of them.
                    include_columns=list(dict.fromkeys(present)) or own[:1],
                    column_types=dict.fromkeys(own, pa.string()),
                ),
            )
            for batch in stream:
                numbers, ahead = _numbers(first, batch.num_rows, [number for number, _ in ragged])
                frame = _framed(pl.DataFrame(pl.from_arrow(batch)), names, numbers)
                if source.with_nuls:
                    frame = frame.with_columns(
                        pl.col(pl.String).str.replace_all(NUL_SIGN, "\0", literal=True)
                    )
                yield RawBatch(frame, [(0, *r) for r in ragged[:ahead]]), source.position
                del ragged[:ahead]
                first += batch.num_rows + ahead
        except (pa.ArrowException, OSError, RawTableError) as e:
            raise source.failure or _unparsable(file, e, first) from None
    if not ends:
        raise _open_quote(file, first - 1)
    if first == 1 or ragged:
        yield RawBatch(_nothing(names), [(0, *r) for r in ragged]), file.bytes


def _numbers(first: int, count: int, ragged: list[int]) -> tuple[np.ndarray, int]:
    """`count` record numbers from `first` on without `ragged` (sorted), and how many of those lay between."""
    ahead = 0
    while (inside := bisect_left(ragged, first + count + ahead)) > ahead:
        ahead = inside
    numbers = np.arange(first, first + count + ahead, dtype=np.int64)
    return np.delete(numbers, np.asarray(ragged[:ahead], dtype=np.int64) - first), ahead


def _framed(raw: pl.DataFrame, names: _Names, numbers: np.ndarray) -> pl.DataFrame:
    """Record numbers and the columns under the names asked for; null where the file lacks one."""
    texts = [
        (pl.when(pl.col(there) != "").then(there) if there else pl.lit(None, pl.String)).alias(column)
        for column, there in names.items()
    ]
    numbered = (
        raw.with_columns(pl.Series(ROW, numbers, dtype=pl.Int64))
        if raw.width
        else pl.DataFrame({ROW: numbers})
    )
    return numbered.select(ROW, *texts)


def _nothing(names: _Names) -> pl.DataFrame:
    """Columns without records. Not made by pyarrow, which would import pandas for it."""
    return pl.DataFrame(schema={ROW: pl.Int64, **dict.fromkeys(names, pl.String)})


def _unparsable(file: RawFile, error: Exception, first: int) -> RawTableError:
    if isinstance(error, RawTableError):
        return error
    if "straddling" in str(error):
        return _open_quote(file, first - 1, f"a record is longer than {BLOCK_BYTES >> 20} MB")
    if isinstance(error, OSError):
        return unreachable(f"{file.where}, after data record {first - 1}", error)
    return RawTableError(
        "The raw table is not CSV as RFC 4180 has it.",
        where=f"{file.where}, after data record {first - 1}",
        do="Check delimiters, quotes and line ends there; `delimiter` and `quote` in the cohort spec.",
    )


def _open_quote(
    file: RawFile, after: int, sign: str = "the file ends inside a quoted value"
) -> RawTableError:
    return RawTableError(
        f"A quote in the raw table is never closed: {sign}.",
        where=f"{file.where}, near or after data record {after}",
        do="Close or double the quote there; if quotes have no meaning in this table, say `quote: null`.",
    )


def _read_parquet(file: RawFile, names: _Names, how: FileSpec) -> Iterator[tuple[RawBatch, int]]:
    present = list(dict.fromkeys(n for n in names.values() if n is not None))
    with _opened_parquet(file) as parquet:
        first, total = 1, parquet.metadata.num_rows
        try:
            for batch in parquet.iter_batches(BATCH_ROWS, columns=present):
                texts = pl.DataFrame([_texts(file, n, batch.column(n)) for n in present])
                numbers = np.arange(first, first + batch.num_rows, dtype=np.int64)
                first += batch.num_rows
                frame = _framed(texts, names, numbers)
                yield RawBatch(frame, []), file.bytes * (first - 1) // total
        except (pa.ArrowException, OSError) as e:
            raise _bad_parquet(file, e) from None
    yield RawBatch(_nothing(names), []), file.bytes


def _opened_parquet(file: RawFile) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file.open())
    except (pa.ArrowException, OSError) as e:
        raise _bad_parquet(file, e) from None


def _bad_parquet(file: RawFile, error: Exception) -> RawTableError:
    if isinstance(error, OSError) and (error.errno or "AWS Error" in str(error)):
        return unreachable(file.where, error)
    return RawTableError(
        "The raw table is not a sound Parquet file.",
        where=file.where,
        do="Copy or export it again; compare checksums.",
    )


def _texts(file: RawFile, name: str, values: pa.Array) -> pl.Series:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_duration(values.type):  # as seconds: a number without its unit would be none
        microseconds = pc.cast(pc.cast(values, pa.duration("us"), safe=False), pa.int64())
        values = pc.call_function("divide", [pc.cast(microseconds, pa.float64()), pa.scalar(1e6)])
    try:
        floating = pa.types.is_floating(values.type)
        text = _floats(values) if floating else pc.cast(values, pa.string())
        return pl.Series(name, pl.from_arrow(text))
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise RawTableError(
            f"The column '{name}' holds {values.type}, which has no text form.",
            where=file.where,
            do="Export the column as text, number, date or timestamp.",
        ) from None


def _floats(values: pa.Array) -> pa.Array:
    """Whole numbers as such: pandas keeps ids with nulls as floats, and Arrow would write 1.23e+11."""
    number, text = pl.col("number"), pl.col("text")
    frame = pl.DataFrame(
        {"number": pl.from_arrow(values), "text": pl.from_arrow(pc.cast(values, pa.string()))}
    ).cast({"number": pl.Float64})
    whole = (number == number.floor()) & (number.abs() < 1 << 53)
    written = pl.when(whole).then(number.cast(pl.Int64, strict=False).cast(pl.String)).otherwise(text)
    return frame.select(written.alias("text"))["text"].to_arrow().cast(pa.string())
