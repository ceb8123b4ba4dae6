"""Reading MEDS datasets for the corpora: whole subjects in bounded chunks, codes, splits."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ehr_assets.errors import DatasetError

SPLITS = ("train", "tuning", "held_out")
COLUMNS = ["subject_id", "time", "code", "numeric_value", "text_value", "available_time", "section"]
_CHUNK_ROWS = 1_000_000
_READ_ROWS = 262_144


def split_files(meds_dir: Path, split: str) -> list[Path]:
    """The Parquet files of one split, by name."""
    return sorted((Path(meds_dir) / "data" / split).glob("*.parquet"))


def count_rows(meds_dir: Path, split: str) -> int:
    """Rows of one split, from the files' footers."""
    return sum(pq.ParquetFile(path).metadata.num_rows for path in split_files(meds_dir, split))


def iter_subjects(meds_dir: Path, split: str, chunk_rows: int = _CHUNK_ROWS) -> Iterator[pl.DataFrame]:
    """Frames of whole subjects, at least `chunk_rows` long but for the last of each file.

    A subject lies in one file and its rows are adjacent (the MEDS contract), so a chunk may end wherever
    the subject changes.
    """
    for path in split_files(meds_dir, split):
        held: list[pa.Table] = []
        rows = 0
        for batch in pq.ParquetFile(path).iter_batches(_READ_ROWS, columns=COLUMNS):
            held.append(pa.Table.from_batches([batch]))
            rows += batch.num_rows
            if rows < chunk_rows:
                continue
            table = pa.concat_tables(held)
            end = _start_of_last_subject(table)
            if end:
                yield _frame(table.slice(0, end))
            held = [table.slice(end)]
            rows = table.num_rows - end
        if rows:
            yield _frame(pa.concat_tables(held))


def events_of(meds_dir: Path, subjects: pl.Series) -> pl.DataFrame:
    """All rows of some subjects, from every split, in file order (each subject's rows stay in theirs)."""
    wanted = pa.array(subjects.to_list(), pa.int64())
    parts = [
        _frame(pq.read_table(path, columns=COLUMNS, filters=pc.field("subject_id").isin(wanted)))
        for split in SPLITS
        for path in split_files(meds_dir, split)
    ]
    if not parts:
        raise DatasetError(
            "The MEDS dataset has no event files.",
            where=str(meds_dir),
            do="Materialize the cohort's meds_events again.",
        )
    return pl.concat(parts)


def read_codes(meds_dir: Path) -> pl.DataFrame:
    """`metadata/codes.parquet`."""
    path = Path(meds_dir) / "metadata" / "codes.parquet"
    if not path.is_file():
        raise DatasetError(
            "The MEDS dataset has no code metadata.",
            where=str(path),
            do="Materialize the cohort's meds_events again.",
        )
    return pl.from_arrow(pq.read_table(path))  # type: ignore[return-value]


def subjects_in(meds_dir: Path, split: str) -> set[int]:
    """The subjects found in one split's files."""
    found: set[int] = set()
    for path in split_files(meds_dir, split):
        found.update(pq.read_table(path, columns=["subject_id"])["subject_id"].unique().to_pylist())
    return found


def train_subjects(meds_dirs: Mapping[str, Path], splits_dirs: Mapping[str, Path]) -> set[int]:
    """Subjects with events, anywhere in the data, whom the cohorts' `subject_splits` put in train.

    This is the independent truth that `fitted_on.json` is compared with: it does not trust the folder in
    which a subject's events lie.
    """
    found: set[int] = set()
    for cohort, meds_dir in meds_dirs.items():
        splits = pq.read_table(Path(splits_dirs[cohort]) / "subject_splits.parquet")
        train = set(splits.filter(pc.field("split") == "train")["subject_id"].to_pylist())
        for split in SPLITS:
            found |= subjects_in(meds_dir, split) & train
    return found


def _start_of_last_subject(table: pa.Table) -> int:
    subject = table["subject_id"].to_numpy()
    # Rows are sorted by subject, so the last one's rows begin where its id first appears.
    return int(subject.searchsorted(subject[-1], side="left"))


def _frame(table: pa.Table) -> pl.DataFrame:
    return pl.from_arrow(table)  # type: ignore[return-value]
