"""Which subjects train, tune and are held out: by a salted hash of the person, and by nothing else.

A subject's split never depends on who else is in the cohort, so adding patients moves nobody, and a person
with the same key in two cohorts (of equal salt) falls in the same split.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from meds import SubjectSplitSchema, held_out_split, train_split, tuning_split

from ehr_assets.cohorts.readers import read_table, require_table
from ehr_assets.cohorts.spec import CohortSpec
from ehr_assets.contracts import SPLITS
from ehr_assets.errors import DatasetError
from ehr_assets.meds.expressions import stripped, whole_number
from ehr_assets.progress import Progress, no_progress

SPLITS_FILE = "subject_splits.parquet"


def assign_splits(keys: Iterable[int | str], salt: str, held_out: float, tuning: float) -> list[str]:
    """The split of each person key.

    Args:
        keys: subject ids or person keys; an id counts by its decimal digits.
        salt: another salt deals all persons anew.
        held_out: fraction of all persons.
        tuning: fraction of the rest.
    """
    edge = held_out + (1 - held_out) * tuning
    out = []
    for key in keys:
        digest = hashlib.sha256(f"{salt}|{key}".encode()).digest()
        u = int.from_bytes(digest[:8], "big") / 2**64
        out.append(held_out_split if u < held_out else tuning_split if u < edge else train_split)
    return out


def write_splits(
    spec: CohortSpec, raw_root: Path, out_dir: Path, progress: Progress = no_progress
) -> dict[str, int]:
    """Reads the roster and writes `subject_splits.parquet` (MEDS SubjectSplitSchema, by subject_id).

    Rows whose id is no int64 are left out, of an id given twice the first row counts: the extraction
    quarantines the others.

    Returns:
        Subjects in all and per split.

    Raises:
        RawTableError: the roster cannot be read.
    """
    roster = roster_keys(spec, raw_root, progress)
    rule = spec.splits
    splits = assign_splits(roster["key"], rule.salt, rule.held_out, rule.tuning)
    frame = roster.select("subject_id").with_columns(pl.Series("split", splits, dtype=pl.String))
    write_split_table(frame, out_dir / SPLITS_FILE)
    counts = {split: splits.count(split) for split in SPLITS}
    return {"subjects": frame.height, **counts}


def roster_keys(spec: CohortSpec, raw_root: Path, progress: Progress = no_progress) -> pl.DataFrame:
    """subject_id (int64, unique, sorted) and key (string: the person key, or the id where there is none)."""
    table, column, person = spec.roster, spec.subjects.column, spec.subjects.person_key
    path = require_table(raw_root, table.file, key=f"table '{table.name}'")
    wanted = [column] if person is None else [column, person]
    parts = []
    watch = _phase(progress, f"read {table.name}")
    for batch in read_table(path, wanted, encoding=table.encoding, on_bytes=watch):
        texts = batch.frame.with_columns(stripped(wanted))
        ids = whole_number(pl.col(column)).alias("subject_id")
        parts.append(texts.select(ids, (pl.col(person) if person else pl.lit(None, pl.String)).alias("key")))
    frame = pl.concat(parts).drop_nulls("subject_id").unique("subject_id", keep="first", maintain_order=True)
    return frame.with_columns(pl.col("key").fill_null(pl.col("subject_id").cast(pl.String))).sort(
        "subject_id"
    )


def write_split_table(frame: pl.DataFrame, path: Path) -> None:
    """Writes subject_id, split as strict MEDS."""
    schema = pa.schema([("subject_id", pa.int64()), ("split", pa.string())])
    table = SubjectSplitSchema.align(frame.sort("subject_id").to_arrow().cast(schema))
    pq.write_table(table, path, compression="zstd")


def read_splits(splits: Path | pl.DataFrame) -> pl.DataFrame:
    """subject_id, split, sorted; from a frame, the file, or the directory that `write_splits` wrote to.

    Raises:
        DatasetError: a split that is none of train, tuning, held_out, or a subject given twice.
    """
    if isinstance(splits, Path):
        file = splits / SPLITS_FILE if splits.is_dir() else splits
        where = str(file)
        frame = pl.DataFrame(pl.from_arrow(pq.read_table(file)))
    else:
        where, frame = "the splits handed over", splits
    frame = frame.select(pl.col("subject_id").cast(pl.Int64), pl.col("split").cast(pl.String)).sort(
        "subject_id"
    )
    ids = frame["subject_id"]
    if (
        ids.has_nulls()
        or ids.is_duplicated().any()
        or not frame["split"].is_in(SPLITS).fill_null(False).all()
    ):
        raise DatasetError(
            f"Each subject must be in exactly one of {', '.join(SPLITS)}.",
            where=where,
            do="Re-materialize the cohort's subject_splits.",
        )
    return frame


def _phase(progress: Progress, phase: str):
    return lambda done, total: progress(phase, done, total)
