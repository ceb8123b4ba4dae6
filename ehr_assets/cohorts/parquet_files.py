"""Records of Parquet files, every value as the text that a CSV file would have."""

from collections.abc import Iterator

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ehr_assets.cohorts.batches import FileColumns, RawBatch
from ehr_assets.cohorts.files import RawFile
from ehr_assets.cohorts.roots import unreachable
from ehr_assets.errors import RawTableError

BATCH_ROWS = 1 << 16


def read_parquet(file: RawFile, columns: FileColumns) -> Iterator[tuple[RawBatch, int]]:
    """Batches without `FILE`, with the bytes of the file read so far. Errors: see `readers.read_table`."""
    with opened(file) as parquet:
        first, total = 1, parquet.metadata.num_rows
        try:
            for batch in parquet.iter_batches(BATCH_ROWS, columns=columns.present):
                texts = pl.DataFrame([_texts(file, n, batch.column(n)) for n in columns.present])
                numbers = np.arange(first, first + batch.num_rows, dtype=np.int64)
                first += batch.num_rows
                frame = columns.framed(texts, numbers)
                yield RawBatch(frame, []), file.bytes * (first - 1) // total
        except (pa.ArrowException, OSError) as e:
            raise _bad_parquet(file, e) from None
    yield RawBatch(columns.nothing(), []), file.bytes


def opened(file: RawFile) -> pq.ParquetFile:
    """The file, its footer read. RawTableError where it is none, or is not to be had."""
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
