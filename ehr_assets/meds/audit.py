"""Looking back at a committed meds_events directory: what its checks ask. Counts only come out."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from ehr_assets.meds.footers import subjects_of, validate_file

_RECORD = ["table", "file", "row"]
_BATCH_ROWS = 1 << 18


@dataclass(frozen=True)
class Accounting:
    """Rows over all tables.

    Args:
        tables_off: tables in which accepted + quarantined differs from read.
        quarantine_rows: different records that lie in quarantine.
        reasons: reason → rows in quarantine, by reason.
    """

    read: int
    accepted: int
    quarantined: int
    tables_off: int
    quarantine_rows: int
    reasons: dict[str, int]

    @property
    def balanced(self) -> bool:
        """Whether every row read is accepted or stands in quarantine.parquet."""
        return not self.tables_off and self.quarantined == self.quarantine_rows


def accounting(meds_dir: Path) -> Accounting:
    """The row accounting of an extraction, compared with the rows that really lie in quarantine."""
    table = pl.read_parquet(meds_dir / "accounting.parquet")
    rows, reasons = _quarantined(meds_dir / "quarantine" / "quarantine.parquet")
    off = table.filter(pl.col("accepted") + pl.col("quarantined") != pl.col("read")).height
    read, accepted, quarantined = (int(table[c].sum()) for c in ("read", "accepted", "quarantined"))
    return Accounting(read, accepted, quarantined, off, rows, dict(sorted(reasons.items())))


def _quarantined(path: Path) -> tuple[int, Counter[str]]:
    """Different records and rows per reason, in one pass: the file is sorted by table, file and row."""
    records, reasons, last = 0, Counter[str](), None
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH_ROWS, columns=[*_RECORD, "reason"]):
            rows = pl.DataFrame(pl.from_arrow(batch))
            if not rows.height:
                continue
            new = rows.select(pl.any_horizontal(pl.col(c).ne_missing(pl.col(c).shift()) for c in _RECORD))
            first = rows.row(0)[: len(_RECORD)]
            records += int(new.to_series()[1:].sum()) + (first != last)
            last = rows.row(-1)[: len(_RECORD)]
            reasons.update(dict(rows["reason"].value_counts().iter_rows()))
    return records, reasons


def schema_problems(meds_dir: Path) -> dict[str, str]:
    """File → the kind of error that the `meds` package raises on it; empty for a valid dataset."""
    from meds import CodeMetadataSchema, DataSchema, DatasetMetadataSchema, SubjectSplitSchema

    problems: dict[str, str] = {}

    def attempt(path: Path, validate) -> None:
        try:
            validate()
        except Exception as e:  # the schemas raise several unrelated types
            problems[path.relative_to(meds_dir).as_posix()] = type(e).__name__

    for path in sorted(meds_dir.glob("data/*/*.parquet")):
        attempt(path, lambda p=path: validate_file(p, DataSchema))
    metadata = meds_dir / "metadata"
    codes, splits, about = (metadata / n for n in ("codes.parquet", "subject_splits.parquet", "dataset.json"))
    attempt(codes, lambda: validate_file(codes, CodeMetadataSchema))
    attempt(splits, lambda: validate_file(splits, SubjectSplitSchema))
    attempt(about, lambda: DatasetMetadataSchema.validate(json.loads(about.read_text(encoding="utf-8"))))
    return problems


def subjects_by_folder(meds_dir: Path) -> pl.DataFrame:
    """subject_id and the split folder its events lie in."""
    found = [
        pl.DataFrame({"subject_id": pl.Series(subjects_of(path))}).with_columns(
            split=pl.lit(path.parent.name)
        )
        for path in sorted(meds_dir.glob("data/*/*.parquet"))
    ]
    return pl.concat(found) if found else pl.DataFrame(schema={"subject_id": pl.Int64, "split": pl.String})
