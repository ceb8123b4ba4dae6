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

from ehr_assets.cohorts.cleaning import cleaned
from ehr_assets.cohorts.file_spec import FileSpec
from ehr_assets.cohorts.files import RawRoot, require_files
from ehr_assets.cohorts.readers import read_table
from ehr_assets.cohorts.spec import CohortSpec, GivenSplits
from ehr_assets.contracts import SPLITS
from ehr_assets.errors import DatasetError
from ehr_assets.meds.expressions import text_ids, whole_number
from ehr_assets.progress import Progress, no_progress

SPLITS_FILE = "subject_splits.parquet"
PERSONS_FILE = "persons.parquet"
IDS_FILE = "subject_ids.parquet"
_PARTS_HELD = 64


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
    spec: CohortSpec, raw_root: RawRoot | Path, out_dir: Path, progress: Progress = no_progress
) -> dict[str, int]:
    """Reads the roster and writes `subject_splits.parquet` (MEDS SubjectSplitSchema, by subject_id).

    Rows whose id is none are left out, of an id given twice the first row counts: the extraction
    quarantines the others. Where ids are text, `subject_ids.parquet` says which id each got.
    `persons.parquet` names the person of each subject (`person_hashes`).

    Returns:
        Subjects in all and per split.

    Raises:
        RawTableError: the roster, or the given splits, cannot be read.
        DatasetError: two text ids got the same number.
    """
    root = RawRoot.of(raw_root)
    roster = roster_keys(spec, root, progress)
    rule = spec.splits
    splits = assign_splits(roster["key"], rule.salt, rule.held_out, rule.tuning)
    frame = roster.select("subject_id").with_columns(pl.Series("split", splits, dtype=pl.String))
    if rule.given:
        frame = _as_given(frame, rule.given, spec, root)
    write_split_table(frame, out_dir / SPLITS_FILE)
    persons = roster.select("subject_id", person_hashes(roster, spec.name))
    pq.write_table(persons.to_arrow(compat_level=pl.CompatLevel.oldest()), out_dir / PERSONS_FILE)
    if spec.subjects.ids == "text":
        ids = roster.select("subject_id", "raw_id").to_arrow(compat_level=pl.CompatLevel.oldest())
        pq.write_table(ids, out_dir / IDS_FILE, compression="zstd")
    counts = dict(frame["split"].value_counts().iter_rows())
    return {"subjects": frame.height, **{split: counts.get(split, 0) for split in SPLITS}}


def roster_keys(spec: CohortSpec, raw_root: RawRoot | Path, progress: Progress = no_progress) -> pl.DataFrame:
    """subject_id (int64, unique, sorted), raw_id, key: the first person key in its rows, or its id.

    `declared`: whether the key is a person key.
    """
    root = RawRoot.of(raw_root)
    table, column, person = spec.roster, spec.subjects.column, spec.subjects.person_key
    files = require_files(root, table.file, key=f"table '{table.name}'")
    wanted = list(dict.fromkeys(c for c in (column, person) if c))
    parts = []
    watch = _phase(progress, f"read {table.name}")
    for batch in read_table(files, wanted, table, watch):
        texts = batch.frame.select(cleaned(wanted, table))
        raw = texts[column]
        ids = raw_ids(raw, spec)
        key = texts[person] if person else pl.Series("key", [None] * len(raw), dtype=pl.String)
        part = pl.DataFrame({"subject_id": ids, "raw_id": raw, "key": key}).drop_nulls("subject_id")
        # Of a table with many rows per subject, what is held grows with the subjects only.
        parts.append(_first_keys(part, spec))
        if len(parts) >= _PARTS_HELD:
            parts = [_first_keys(pl.concat(parts), spec)]
    frame = _first_keys(pl.concat(parts), spec)
    if spec.subjects.ids == "text" and frame["subject_id"].is_duplicated().any():
        raise DatasetError(
            "Two different text ids got the same subject id (a collision of 63-bit hashes).",
            where=f"table '{table.name}', column '{column}'",
            do="Number the subjects in the raw tables, and use integer ids.",
        )
    own = pl.col("raw_id") if spec.subjects.ids == "text" else pl.col("subject_id").cast(pl.String)
    declared = pl.col("key").is_not_null().alias("declared")
    return frame.with_columns(pl.col("key").fill_null(own), declared).sort("subject_id")


def person_hashes(roster: pl.DataFrame, cohort: str) -> pl.Series:
    """`person` of each row of `roster_keys`: half a SHA-256 in hex.

    A person key means the same person in every cohort, so it is hashed alike everywhere, whatever the salt
    of the splits. An id without one means somebody in its own cohort only.
    """
    names = (
        f"person|{key}" if declared else f"subject|{cohort}|{key}"
        for key, declared in zip(roster["key"], roster["declared"], strict=True)
    )
    hashes = [hashlib.sha256(name.encode()).hexdigest()[:32] for name in names]
    return pl.Series("person", hashes, dtype=pl.String)


def raw_ids(raw: pl.Series, spec: CohortSpec) -> pl.Series:
    """int64 subject ids of raw ones."""
    if spec.subjects.ids == "text":
        return text_ids(raw)
    return pl.DataFrame({"raw": raw}).select(whole_number(pl.col("raw"))).to_series()


def _first_keys(rows: pl.DataFrame, spec: CohortSpec) -> pl.DataFrame:
    """A row per subject, with the first key that any of its rows has: a null says nothing of who it is."""
    ids = ["subject_id", "raw_id"] if spec.subjects.ids == "text" else ["subject_id"]
    first = (pl.col(c).drop_nulls().first() for c in ("raw_id", "key") if c not in ids)
    return rows.group_by(ids, maintain_order=True).agg(first).select("subject_id", "raw_id", "key")


def _as_given(dealt: pl.DataFrame, given: GivenSplits, spec: CohortSpec, root: RawRoot) -> pl.DataFrame:
    """The splits of a table, where it names the subject."""
    files = require_files(root, given.file, key="splits.given")
    how = FileSpec(file=given.file, recode={given.split: dict(given.names)} if given.names else {})
    parts = []
    for batch in read_table(files, [given.subject_id, given.split], how):
        texts = batch.frame.select(cleaned([given.subject_id, given.split], how))
        parts.append(
            pl.DataFrame({"subject_id": raw_ids(texts[given.subject_id], spec), "given": texts[given.split]})
        )
    table = pl.concat(parts).drop_nulls("subject_id").unique()
    if table["subject_id"].is_duplicated().any() or not table["given"].is_in(SPLITS).fill_null(False).all():
        raise DatasetError(
            f"The given splits must put each subject into exactly one of {', '.join(SPLITS)}.",
            where=files[0].where,
            do="Mend that table, translate its names (`splits.given.names`), or leave `splits.given` out.",
        )
    joined = dealt.join(table, on="subject_id", how="left", maintain_order="left")
    return joined.select("subject_id", pl.coalesce("given", "split").alias("split"))


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
