"""Reading a committed MEDS dataset (`meds_events`): lazily, by whole subjects in bounded chunks, by code.

Every room to the right reads events through this module; schemas and writing are `frames.py`.
Codes are matched as the house does it everywhere: the regexes run once over the few distinct codes of
`metadata/codes.parquet` (Python's `re.search`), and events are then selected by exact code.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ehr_assets.contracts import BIRTH, DEATH, SPLITS
from ehr_assets.errors import DatasetError

DEATHS_IN_DOUBT = Path("quarantine") / "deaths_in_doubt.parquet"
"""`subject_id` of those with a record that may have told their death, and made none: nobody knows how long
they lived beyond their last event."""
EVENT_SCHEMA = pl.Schema(
    {
        "subject_id": pl.Int64(),
        "time": pl.Datetime("us"),
        "code": pl.String(),
        "numeric_value": pl.Float32(),
        "text_value": pl.String(),
        "available_time": pl.Datetime("us"),
        "section": pl.String(),
    }
)
_CHUNK_BYTES = 12 << 20
"""Of events in memory: some 170,000 without texts. A constant, for what is made of chunks follows it."""
_READ_ROWS = 32_768


def scan_events(meds_dir: Path, split: str | None = None) -> pl.LazyFrame:
    """The events of one split, or of all splits, as a lazy frame with the columns of `EVENT_SCHEMA`.

    A split without files has no rows. Raises DatasetError when `meds_dir` holds no MEDS data at all.
    """
    data = Path(meds_dir) / "data"
    if not data.is_dir():
        raise DatasetError(
            "This is not a MEDS dataset: it has no data/ folder.",
            where=str(meds_dir),
            do="Materialize the cohort's meds_events again.",
        )
    files = sorted(data.glob(f"{split or '*'}/*.parquet"))
    if not files:
        return EVENT_SCHEMA.to_frame(eager=False)
    return pl.scan_parquet(files).select(EVENT_SCHEMA.names())


def split_files(meds_dir: Path, split: str) -> list[Path]:
    """The Parquet files of one split, by name."""
    return sorted((Path(meds_dir) / "data" / split).glob("*.parquet"))


def count_rows(meds_dir: Path, split: str) -> int:
    """Rows of one split, from the files' footers."""
    return sum(pq.ParquetFile(path).metadata.num_rows for path in split_files(meds_dir, split))


def iter_file(path: Path) -> Iterator[pl.DataFrame]:
    """Frames of whole subjects of one Parquet file, of about 12 MB: many rows, or few long texts.

    A subject lies in one file and its rows are adjacent (the MEDS contract), so a chunk may end wherever
    the subject changes; a subject that is larger makes its chunk larger. Chunks depend on the file alone.
    """
    file = pq.ParquetFile(path)
    batches = file.iter_batches(_rows_at_a_time(file.metadata), columns=EVENT_SCHEMA.names())
    yield from map(_frame, _whole_subjects(batches))


def iter_columns(path: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Like `iter_file`, of some columns only; strings (codes, sections) are dictionaries."""
    texts = [c for c in columns if EVENT_SCHEMA[c] == pl.String]
    file = pq.ParquetFile(path, read_dictionary=texts)
    yield from _whole_subjects(file.iter_batches(_READ_ROWS, columns=["subject_id", *columns]))


def _whole_subjects(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    held: list[pa.Table] = []
    size = 0
    for batch in batches:
        held.append(pa.Table.from_batches([batch]))
        size += batch.nbytes
        if size < _CHUNK_BYTES:
            continue
        table = pa.concat_tables(held)
        end = _start_of_last_subject(table)
        if end:
            yield table.slice(0, end)
        held = [table.slice(end)]
        size = held[0].nbytes
    if any(part.num_rows for part in held):
        yield pa.concat_tables(held)


def _rows_at_a_time(file: pq.FileMetaData) -> int:
    """So few rows that long texts do not fill the memory before they are counted."""
    size = sum(file.row_group(i).total_byte_size for i in range(file.num_row_groups))
    return max(1, min(_READ_ROWS, _CHUNK_BYTES * file.num_rows // max(size, 1)))


def events_of(meds_dir: Path, subjects: pl.Series) -> pl.DataFrame:
    """All rows of some subjects, from every split, in file order (each subject's rows stay in theirs)."""
    wanted = pa.array(subjects.to_list(), pa.int64())
    parts = [
        _frame(pq.read_table(path, columns=EVENT_SCHEMA.names(), filters=pc.field("subject_id").isin(wanted)))
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
    return _frame(_read_small(path))


def event_codes(meds_dir: Path) -> list[str]:
    """The distinct codes of the dataset, sorted, as metadata/codes.parquet lists them."""
    return read_codes(meds_dir)["code"].unique().sort().to_list()


def matching_codes(codes: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The codes in which at least one of the regexes is found, in their given order."""
    compiled = [re.compile(p) for p in patterns]
    return [code for code in codes if any(p.search(code) for p in compiled)]


def select_events(events: pl.LazyFrame, codes: Iterable[str], columns: Sequence[str]) -> pl.DataFrame:
    """The timed events with one of the codes, collected, with `columns` only, in the order of the files."""
    wanted = sorted(set(codes))
    return (
        events.filter(pl.col("code").is_in(wanted) & pl.col("time").is_not_null())
        .select(columns)
        .collect(engine="streaming")
    )


def follow_up(events: pl.LazyFrame, until: Sequence[str] = ()) -> pl.DataFrame:
    """Per subject: last_time (of any timed event but birth), death_time, death_available_time; null if none.

    Sorted by subject_id; subjects with only static rows are included.

    Args:
        until: codes that end a subject's observation: last_time is that of the last of them, if there is one.
    """
    timed = pl.col("time").is_not_null() & (pl.col("code") != BIRTH)
    dead = pl.col("code") == DEATH
    return (
        events.group_by("subject_id")
        .agg(
            pl.coalesce(
                pl.col("time").filter(timed & pl.col("code").is_in(list(until))).max(),
                pl.col("time").filter(timed).max(),
            ).alias("last_time"),
            pl.col("time").filter(dead).min().alias("death_time"),
            pl.col("available_time").filter(dead).min().alias("death_available_time"),
        )
        .sort("subject_id")
        .collect(engine="streaming")
    )


def deaths_in_doubt(meds_dir: Path) -> list[int]:
    """The subjects of `DEATHS_IN_DOUBT`; none for a MEDS dataset that comes without it."""
    path = Path(meds_dir) / DEATHS_IN_DOUBT
    return _read_small(path)["subject_id"].to_pylist() if path.is_file() else []


def subjects_in(meds_dir: Path, split: str) -> set[int]:
    """The subjects found in one split's files."""
    found: set[int] = set()
    for path in split_files(meds_dir, split):
        found.update(pq.read_table(path, columns=["subject_id"])["subject_id"].unique().to_pylist())
    return found


def train_subjects(meds_dirs: Mapping[str, Path], splits_dirs: Mapping[str, Path]) -> dict[str, set[int]]:
    """Cohort → subjects with events, anywhere in the data, whom its `subject_splits` put in train.

    This is the independent truth that `fitted_on.json` is compared with: it does not trust the folder in
    which a subject's events lie.
    """
    found: dict[str, set[int]] = {}
    for cohort, meds_dir in meds_dirs.items():
        splits = pq.read_table(Path(splits_dirs[cohort]) / "subject_splits.parquet")
        train = set(splits.filter(pc.field("split") == "train")["subject_id"].to_pylist())
        found[cohort] = train & set().union(*(subjects_in(meds_dir, split) for split in SPLITS))
    return found


def _start_of_last_subject(table: pa.Table) -> int:
    subject = series(table["subject_id"]).to_numpy()
    # Rows are sorted by subject, so the last one's rows begin where its id first appears.
    return int(subject.searchsorted(subject[-1], side="left"))


def series(column: pa.ChunkedArray | pa.Array) -> pl.Series:
    """The same memory as polars sees it. (What pyarrow does with numpy imports pandas: a second each time
    a worker starts.)"""
    return pl.from_arrow(column)  # type: ignore[return-value]


def _read_small(path: Path) -> pa.Table:
    """Not by `pq.read_table`, which imports pandas, too."""
    return pq.ParquetFile(path).read()


def _frame(table: pa.Table) -> pl.DataFrame:
    return pl.from_arrow(table)  # type: ignore[return-value]
