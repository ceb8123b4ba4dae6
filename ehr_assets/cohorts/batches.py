"""What readers of raw files are asked for, and what they yield: text columns with exact record numbers."""

from dataclasses import dataclass

import numpy as np
import polars as pl

FILE = "__file__"  # the column of positions in the table's files
ROW = "__row__"  # the column of 1-based data record numbers in the file


@dataclass(frozen=True)
class FileColumns:
    """What one file of a table calls its columns.

    Args:
        header: its columns as they are written there.
        names: column asked for → its label in this file (see `headers.labelled`), or None where it has none.
            Columns that the file's path gives are not among them.
    """

    header: list[str]
    names: dict[str, str | None]

    @property
    def present(self) -> list[str]:
        """The labels of the columns asked for that are there, each once."""
        return list(dict.fromkeys(name for name in self.names.values() if name is not None))

    def framed(self, raw: pl.DataFrame, numbers: np.ndarray) -> pl.DataFrame:
        """Record numbers and the columns under the names asked for; null where there is nothing."""
        texts = [
            (pl.when(pl.col(there) != "").then(there) if there else pl.lit(None, pl.String)).alias(column)
            for column, there in self.names.items()
        ]
        rows = pl.Series(ROW, numbers, dtype=pl.Int64)
        return (raw.with_columns(rows) if raw.width else rows.to_frame()).select(ROW, *texts)

    def nothing(self) -> pl.DataFrame:
        """Columns without records. Not made by pyarrow, which would import pandas for it."""
        return pl.DataFrame(schema={ROW: pl.Int64, **dict.fromkeys(self.names, pl.String)})


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
