"""Records of CSV files, plain or gzipped. One with the wrong number of fields is handed over for quarantine.

How bytes become CSV text is `sources.py`; which columns there are is `headers.py`.
"""

from bisect import bisect_left
from collections.abc import Iterator

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

from ehr_assets.cohorts.batches import FileColumns, RawBatch
from ehr_assets.cohorts.file_spec import FileSpec
from ehr_assets.cohorts.files import RawFile
from ehr_assets.cohorts.headers import labelled
from ehr_assets.cohorts.roots import unreachable
from ehr_assets.cohorts.sources import NUL_SIGN, CsvSource
from ehr_assets.errors import RawTableError

BLOCK_BYTES = 4 << 20  # of text per batch; also the longest possible record
RAGGED = "wrong number of fields"
RAGGED_LINES = (
    "wrong number of fields, over several lines"  # mostly a quote that is not closed where it should
)


def read_csv(file: RawFile, columns: FileColumns, how: FileSpec) -> Iterator[tuple[RawBatch, int]]:
    """Batches without `FILE`, with the bytes of the file read so far. Errors: see `readers.read_table`."""
    header, own = columns.header, labelled(columns.header)
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
                    include_columns=columns.present or own[:1],
                    column_types=dict.fromkeys(own, pa.string()),
                ),
            )
            for batch in stream:
                numbers, ahead = _numbers(first, batch.num_rows, [number for number, _ in ragged])
                frame = columns.framed(pl.DataFrame(pl.from_arrow(batch)), numbers)
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
        yield RawBatch(columns.nothing(), [(0, *r) for r in ragged]), file.bytes


def _numbers(first: int, count: int, ragged: list[int]) -> tuple[np.ndarray, int]:
    """`count` record numbers from `first` on without `ragged` (sorted), and how many of those lay between."""
    ahead = 0
    while (inside := bisect_left(ragged, first + count + ahead)) > ahead:
        ahead = inside
    numbers = np.arange(first, first + count + ahead, dtype=np.int64)
    return np.delete(numbers, np.asarray(ragged[:ahead], dtype=np.int64) - first), ahead


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
