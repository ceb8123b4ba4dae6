"""Validating Parquet files with the `meds` package's schemas without reading them: footers tell almost all.

A schema asks for columns, their types, and whether there are nulls (or nothing but nulls). So it is handed an
outline of the file: a table of two rows that is null where the file is, as far as the schema can tell.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_BATCH_ROWS = 1 << 18


def validate_file(path: Path, schema: Any) -> None:
    """Raises whatever `schema.validate` raises on the file's table.

    Columns are read only where the footer has no null counts, and then in batches.
    """
    schema.validate(outline(path))


def outline(path: Path) -> pa.Table:
    """Two rows (none if the file has none): both null where all are, one where some are, none where none are.

    Columns whose type has no simple value (lists) are null: only simple ones are ever required.
    """
    with pq.ParquetFile(path) as file:
        rows, names = file.metadata.num_rows, file.schema_arrow
        if not rows:
            return names.empty_table()
        columns = []
        for field in names:
            nulls = _null_count(file, field.name)
            columns.append(
                pa.concat_arrays(
                    [
                        pa.nulls(1, field.type) if nulls == rows else _one_value(field.type),
                        pa.nulls(1, field.type) if nulls else _one_value(field.type),
                    ]
                )
            )
        return pa.table(columns, schema=names)


def subjects_of(path: Path) -> pa.Array:
    """The distinct subjects of an event file, read in batches."""
    with pq.ParquetFile(path) as file:
        parts = [b.column(0).unique() for b in file.iter_batches(_BATCH_ROWS, columns=["subject_id"])]
    return pa.concat_arrays(parts).unique() if parts else pa.array([], pa.int64())


def _null_count(file: pq.ParquetFile, name: str) -> int:
    total = 0
    for i in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(i)
        chunks = (group.column(j) for j in range(group.num_columns))
        statistics = next((c.statistics for c in chunks if c.path_in_schema == name), None)
        if statistics is None or not statistics.has_null_count:
            return sum(b.column(0).null_count for b in file.iter_batches(_BATCH_ROWS, columns=[name]))
        total += statistics.null_count
    return total


def _one_value(kind: pa.DataType) -> pa.Array:
    try:
        return pa.array([0]).cast(kind)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return pa.nulls(1, kind)
