"""What a preview reads of the raw tables: the first records of each, the ids of the roster, joined tables.

Nothing is made of it here; that is `preview.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from ehr_assets.cohorts.batches import FILE, ROW, RawBatch
from ehr_assets.cohorts.cleaning import cleaned
from ehr_assets.cohorts.file_spec import FileSpec
from ehr_assets.cohorts.files import RawFile, RawRoot, find_files, require_files
from ehr_assets.cohorts.headers import column_problems
from ehr_assets.cohorts.readers import read_table
from ehr_assets.cohorts.spec import CohortSpec, JoinSpec, TableSpec
from ehr_assets.errors import EhrError
from ehr_assets.meds.dimensions import Dimension, build_dimension
from ehr_assets.meds.splits import raw_ids
from ehr_assets.meds.subjects import Subjects

FILES = 8  # of a table in many files, so many are looked at, spread over all
JOINED_ROWS = 1_000_000  # of a joined table
ROSTER_ROWS = 2_000_000  # of a roster with many rows per subject
_IDS_HELD = 1 << 16


@dataclass
class Sample:
    """The first records of a table: of several files the first of each.

    Args:
        files: all of the table; looked_at: how many of them the records are from.
        records: None where they cannot be read, for `problems`, or because the table is absent.
    """

    spec: TableSpec
    files: list[RawFile] = field(default_factory=list)
    looked_at: int = 0
    records: RawBatch | None = None
    problems: list[EhrError] = field(default_factory=list)


@dataclass(frozen=True)
class RosterPreview:
    """rows: read; subjects: different ids; no_id: rows without one; whole: every row was read."""

    rows: int
    subjects: int
    no_id: int
    whole: bool


@dataclass(frozen=True)
class JoinPreview:
    """asked: sampled rows with a key; found: those of them that got something. whole: all of it was read."""

    file: str
    asked: int
    found: int
    rows: int
    whole: bool
    absent: bool


def sample(spec: TableSpec, root: RawRoot, rows: int) -> Sample:
    """About `rows` records of a table; what is wrong with it is among the sample's problems."""
    taken = Sample(spec)
    try:
        _take(taken, root, rows)
    except EhrError as e:
        taken.problems.append(e)
    return taken


def _take(taken: Sample, root: RawRoot, rows: int) -> None:
    spec = taken.spec
    if spec.optional:
        taken.files = find_files(root, spec.file)
    else:
        taken.files = require_files(root, spec.file, key=f"table '{spec.name}'")
    chosen = _spread(len(taken.files))
    columns = spec.raw_columns()
    if column_problems([taken.files[i] for i in chosen], columns, spec):
        # A column that a few of many files have is missing nowhere: then all are asked.
        taken.problems += column_problems(taken.files, columns, spec)
    if taken.problems or not chosen:
        return
    # Each by itself, so that no file is skipped: columns that it lacks were looked for above.
    how = spec.model_copy(update={"optional_columns": columns})
    each = -(-rows // len(chosen))
    parts = [_first_rows(taken.files[i], i, columns, how, each) for i in chosen]
    taken.looked_at = len(chosen)
    taken.records = RawBatch(pl.concat([p.frame for p in parts]), [r for p in parts for r in p.ragged])


def _spread(count: int) -> list[int]:
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, FILES))}) if count else []


def _first_rows(file: RawFile, index: int, columns: list[str], how: FileSpec, rows: int) -> RawBatch:
    parts, ragged, have = [], [], 0
    for batch in read_table([file], columns, how):
        parts.append(batch.frame)
        ragged += [(index, row, reason) for _, row, reason in batch.ragged]
        have += batch.records
        if have >= rows:
            break
    frame = pl.concat(parts).with_columns(pl.lit(index, pl.Int32).alias(FILE)).filter(pl.col(ROW) <= rows)
    return RawBatch(frame, [r for r in ragged if r[1] <= rows])


def roster(spec: CohortSpec, samples: Sequence[Sample]) -> tuple[RosterPreview | None, Subjects]:
    """Who the subjects are. Where that cannot be known, all ids of the samples count as subjects."""
    own = next(s for s in samples if s.spec.name == spec.subjects.table)
    ids, rows, no_id, whole = _Distinct(), 0, 0, True
    found = None
    try:
        if not own.problems:
            for batch in read_table(own.files, [spec.subjects.column], own.spec):
                read = _ids(batch, own.spec, spec)
                rows, no_id = rows + batch.records, no_id + batch.records - len(read)
                ids.add(read)
                if not spec.subjects.one_row_each and rows >= ROSTER_ROWS:
                    whole = False
                    break
            found = RosterPreview(rows, ids.values().size, no_id, whole)
    except EhrError as e:
        own.problems.append(e)
    if found is None or not found.whole:
        for other in samples:
            if other.records is not None:
                ids.add(_ids(other.records, other.spec, spec))
    known = ids.values()
    nothing = np.zeros(known.size, np.int32)
    return found, Subjects(known, nothing, nothing.astype(np.int8), spec.subjects.ids == "text")


def _ids(batch: RawBatch, table: TableSpec, spec: CohortSpec) -> np.ndarray:
    texts = batch.frame.select(cleaned([table.subject_id], table))[table.subject_id]
    return raw_ids(texts, spec).drop_nulls().to_numpy()


class _Distinct:
    """Different ids, sorted; merged whenever more are waiting than are held."""

    def __init__(self) -> None:
        self._held, self._waiting, self._count = np.empty(0, np.int64), [], 0

    def add(self, ids: np.ndarray) -> None:
        self._waiting.append(ids)
        self._count += ids.size
        if self._count > max(self._held.size, _IDS_HELD):
            self.values()

    def values(self) -> np.ndarray:
        self._held = np.unique(np.concatenate([self._held, *self._waiting]))
        self._waiting, self._count = [], 0
        return self._held


class WatchedJoin(Dimension):
    """A joined table that counts how often something was found in it. `counts`: rows and files read."""

    def __init__(self, join: JoinSpec, folder: Path, counts: Mapping[str, int]) -> None:
        super().__init__(join, folder)
        self.counts, self.asked, self.found = counts, 0, 0

    def add_to(self, frame: pl.DataFrame) -> pl.DataFrame:
        out = super().add_to(frame)
        keyed = pl.all_horizontal(pl.col(c).is_not_null() for c in self.join.on)
        hit = pl.any_horizontal(pl.col(c).is_not_null() for c in self.join.columns)
        asked, found = out.select(keyed.sum().alias("asked"), (keyed & hit).sum().alias("found")).row(0)
        self.asked, self.found = self.asked + asked, self.found + found
        return out

    def preview(self) -> JoinPreview:
        rows, files = self.counts["rows"], self.counts["files"]
        return JoinPreview(self.join.file, self.asked, self.found, rows, rows < JOINED_ROWS, not files)


class Joins:
    """The joined tables, written below `scratch`; equal ones are read once."""

    def __init__(self, root: RawRoot, scratch: Path) -> None:
        self.root, self.scratch = root, scratch
        self._built: dict[str, tuple[Path, dict[str, int]] | EhrError] = {}

    def of(self, table: TableSpec) -> tuple[list[WatchedJoin], list[EhrError]]:
        """The joins of a table, and what is wrong with others of them."""
        watched, problems = [], []
        for join in table.joins:
            built = self._build(join, f"a join of table '{table.name}'")
            if isinstance(built, EhrError):
                problems.append(built)
            else:
                watched.append(WatchedJoin(join, *built))
        return watched, problems

    def _build(self, join: JoinSpec, key: str) -> tuple[Path, dict[str, int]] | EhrError:
        join = join.as_stored()
        name = join.config_hash()
        if name not in self._built:
            try:
                files = find_files(self.root, join.file)
                for problem in column_problems(files, sorted(join.columns_there()), join):
                    raise problem
                folder = self.scratch / name[:32]
                counts = build_dimension(join, self.root, folder, key=key, limit=JOINED_ROWS)
                self._built[name] = folder, {**counts, "files": len(files)}
            except EhrError as e:
                self._built[name] = e
        return self._built[name]
