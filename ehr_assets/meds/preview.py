"""What a cohort file would make of its raw tables, seen from their first records, without running anything.

The machinery is the extraction's own (`rows.TablePlan`); only the ids of the roster are read whole. What in a
preview deserves a second look is said in `concerns.py`; printing it is the business of `jobs/cli`.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from ehr_assets.cohorts.batches import FILE, ROW, RawBatch
from ehr_assets.cohorts.cleaning import cleaned
from ehr_assets.cohorts.event_spec import EventSpec
from ehr_assets.cohorts.file_spec import FileSpec
from ehr_assets.cohorts.files import RawFile, RawRoot, find_files, require_files
from ehr_assets.cohorts.headers import column_problems
from ehr_assets.cohorts.patterns import looks_like_table
from ehr_assets.cohorts.readers import read_table
from ehr_assets.cohorts.spec import CohortSpec, JoinSpec, TableSpec
from ehr_assets.contracts import SECTIONS
from ehr_assets.errors import EhrError
from ehr_assets.meds.dimensions import Dimension, build_dimension
from ehr_assets.meds.rows import Made, TablePlan
from ehr_assets.meds.splits import raw_ids
from ehr_assets.meds.subjects import Subjects

FILES = 8  # of a table in many files, so many are looked at, spread over all
JOINED_ROWS = 1_000_000  # of a joined table
ROSTER_ROWS = 2_000_000  # of a roster with many rows per subject
_SHOWN = ("time", "available_time", "code", "numeric_value", "text_value", "unit", "section")


@dataclass(frozen=True)
class EventPreview:
    """What one event definition made of the sample.

    Args:
        events: time, available_time, code, numeric_value, text_value, unit, section; in the rows' order.
        timed: how many of them have a time that is not known to the day only.
        told: rows with an event that say when it was known; `early`: those that say so before its time.
    """

    spec: EventSpec
    events: pl.DataFrame
    timed: int = 0
    told: int = 0
    early: int = 0


@dataclass(frozen=True)
class JoinPreview:
    """asked: sampled rows with a key; found: those of them that got something. whole: all of it was read."""

    file: str
    asked: int
    found: int
    rows: int
    whole: bool
    absent: bool


@dataclass
class TablePreview:
    """One table: its files, its sample and what became of it. `problems` make it unusable."""

    spec: TableSpec
    files: list[RawFile] = field(default_factory=list)
    looked_at: int = 0
    read: int = 0
    accepted: int = 0
    reasons: dict[tuple[str, str], int] = field(default_factory=dict)
    joins: list[JoinPreview] = field(default_factory=list)
    events: list[EventPreview] = field(default_factory=list)
    problems: list[EhrError] = field(default_factory=list)

    @property
    def absent(self) -> bool:
        """Optional, and not there."""
        return not self.files and not self.problems

    @property
    def quarantined(self) -> int:
        return sum(self.reasons.values())


@dataclass(frozen=True)
class RosterPreview:
    """rows: read; subjects: different ids; no_id: rows without one; whole: every row was read."""

    rows: int
    subjects: int
    no_id: int
    whole: bool


@dataclass(frozen=True)
class Preview:
    """A cohort file against its raw tables. `unused`: tables under the root that it does not read."""

    spec: CohortSpec
    root: str
    roster: RosterPreview | None
    tables: list[TablePreview]
    unused: list[str]
    further: list[EhrError]

    @property
    def problems(self) -> list[EhrError]:
        """What makes the spec or a table unusable, each once."""
        found = [*self.further, *(p for t in self.tables for p in t.problems)]
        return list({str(p): p for p in found}.values())


def preview_cohort(spec: CohortSpec, root: RawRoot | Path, rows: int = 1000) -> Preview:
    """Looks at the first `rows` records of every table.

    What is wrong with one table does not keep the others from being looked at.

    Raises:
        RawTableError: the root cannot be reached at all.
    """
    root = RawRoot.of(root)
    tables = [TablePreview(table) for table in spec.tables]
    samples = [_sample(table, root, rows) for table in tables]
    with tempfile.TemporaryDirectory(prefix="ehr-check-") as scratch:
        roster, subjects = _roster(spec, tables, samples)
        dimensions = _Dimensions(root, Path(scratch))
        for index, (table, sample) in enumerate(zip(tables, samples, strict=True)):
            joins = dimensions.of(table)
            if sample is not None and not table.problems:
                _fill(table, index, sample, joins, subjects, spec)
    return Preview(spec, root.uri, roster, tables, _unused(spec, root), _further(spec, root))


def _sample(table: TablePreview, root: RawRoot, rows: int) -> RawBatch | None:
    """The first records, of several files the first of each; None where that cannot be."""
    spec = table.spec
    try:
        if spec.optional:
            table.files = find_files(root, spec.file)
        else:
            table.files = require_files(root, spec.file, key=f"table '{spec.name}'")
        chosen = _spread(len(table.files))
        columns = spec.raw_columns()
        if column_problems([table.files[i] for i in chosen], columns, spec):
            # A column that a few of many files have is missing nowhere: then all are asked.
            table.problems += column_problems(table.files, columns, spec)
        if table.problems or not chosen:
            return None
        # Each by itself, so that no file is skipped: columns that it lacks were looked for above.
        how = spec.model_copy(update={"optional_columns": columns})
        each = -(-rows // len(chosen))
        parts = [_first_rows(table.files[i], i, columns, how, each) for i in chosen]
    except EhrError as e:
        table.problems.append(e)
        return None
    table.looked_at = len(chosen)
    return RawBatch(pl.concat([p.frame for p in parts]), [r for p in parts for r in p.ragged])


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


def _roster(
    spec: CohortSpec, tables: Sequence[TablePreview], samples: Sequence[RawBatch | None]
) -> tuple[RosterPreview | None, Subjects]:
    """Who the subjects are. Where that cannot be known, all ids of the samples count as subjects."""
    table = next(t for t in tables if t.spec.name == spec.subjects.table)
    ids, rows, no_id, whole = [np.empty(0, np.int64)], 0, 0, True
    roster = None
    try:
        if not table.problems:
            for batch in read_table(table.files, [spec.subjects.column], table.spec):
                found = _ids(batch, table.spec, spec)
                rows, no_id = rows + batch.records, no_id + batch.records - len(found)
                ids = [np.unique(np.concatenate([*ids, found]))]
                if not spec.subjects.one_row_each and rows >= ROSTER_ROWS:
                    whole = False
                    break
            roster = RosterPreview(rows, ids[0].size, no_id, whole)
    except EhrError as e:
        table.problems.append(e)
    if roster is None or not roster.whole:
        pairs = zip(tables, samples, strict=True)
        ids += [_ids(sample, t.spec, spec) for t, sample in pairs if sample is not None]
    known = np.unique(np.concatenate(ids))
    nothing = np.zeros(known.size, np.int32)
    return roster, Subjects(known, nothing, nothing.astype(np.int8), spec.subjects.ids == "text")


def _ids(batch: RawBatch, table: TableSpec, spec: CohortSpec) -> np.ndarray:
    texts = batch.frame.select(cleaned([table.subject_id], table))[table.subject_id]
    return raw_ids(texts, spec).drop_nulls().to_numpy()


class _Watched(Dimension):
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


class _Dimensions:
    """The joined tables; equal ones are read once."""

    def __init__(self, root: RawRoot, scratch: Path) -> None:
        self.root, self.scratch = root, scratch
        self._built: dict[str, tuple[Path, dict[str, int]] | EhrError] = {}

    def of(self, table: TablePreview) -> list[_Watched]:
        """The joins of a table; what is wrong with them is added to its problems."""
        if table.absent:
            return []
        watched = []
        for join in table.spec.joins:
            built = self._build(join, f"a join of table '{table.spec.name}'")
            if isinstance(built, EhrError):
                table.problems.append(built)
                continue
            watched.append(_Watched(join, *built))
        return watched

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


def _fill(
    table: TablePreview,
    index: int,
    sample: RawBatch,
    joins: list[_Watched],
    subjects: Subjects,
    spec: CohortSpec,
) -> None:
    """What the sample becomes."""
    is_roster = table.spec.name == spec.subjects.table

    def plan(events: list[EventSpec]) -> TablePlan:
        return TablePlan(
            table.spec.model_copy(update={"events": events}),
            index,
            [*joins],
            subjects,
            spec.time_zone,
            one_row_each=is_roster and spec.subjects.one_row_each,
        )

    made = plan(table.spec.events).make(sample)
    table.read, table.accepted = made.read, made.accepted
    reasons = made.quarantined.group_by("column", "reason", maintain_order=True).len()
    table.reasons = {(column or "", reason): n for column, reason, n in reasons.iter_rows()}
    table.joins = [_join_preview(j) for j in joins]
    lost = made.quarantined.select("file", "row")
    table.events = [
        _event_preview(
            event,
            plan([event]).make(sample),
            plan([_told(event)]).make(sample) if event.available else None,
            lost,
        )
        for event in table.spec.events
    ]


def _join_preview(join: _Watched) -> JoinPreview:
    rows, files = join.counts["rows"], join.counts["files"]
    return JoinPreview(join.join.file, join.asked, join.found, rows, rows < JOINED_ROWS, not files)


def _told(event: EventSpec) -> EventSpec:
    """An event at the moment at which `available` says that it was known, whatever its time."""
    return event.model_copy(update={"time": event.available, "available": None, "code": "TOLD"})


def _event_preview(event: EventSpec, made: Made, told: Made | None, lost: pl.DataFrame) -> EventPreview:
    place = ["file", "row"]
    events = made.events.join(lost, on=place, how="anti", maintain_order="left")
    units = made.units.group_by("code").agg(pl.col("unit").unique().sort().str.join(" | "))
    sections = dict(enumerate(SECTIONS))
    shown = events.join(units, on="code", how="left", maintain_order="left").with_columns(
        pl.col("section").replace_strict(sections, return_dtype=pl.String)
    )
    counts = {"timed": events.filter(pl.col("time").is_not_null() & ~pl.col("by_day")).height}
    if told is not None:
        known = told.events.select(*place, pl.col("available_time").alias("told"))
        both = events.join(known, on=place)
        counts |= {"told": both.height, "early": both.filter(pl.col("told") < pl.col("time")).height}
    return EventPreview(event, shown.select(_SHOWN), **counts)


def _unused(spec: CohortSpec, root: RawRoot) -> list[str]:
    used = {file.path for name in _files_named(spec) for file in find_files(root, name)}
    there = root.sizes("", recursive=True)
    return [p for p in there if looks_like_table(p) and p not in used]


def _files_named(spec: CohortSpec) -> Iterable[str]:
    for table in spec.tables:
        yield table.file
        yield from (join.file for join in table.joins)
    if spec.splits.given:
        yield spec.splits.given.file


def _further(spec: CohortSpec, root: RawRoot) -> list[EhrError]:
    """What is wrong with the tables that make no events."""
    given = spec.splits.given
    if given is None:
        return []
    try:
        files = require_files(root, given.file, key="splits.given")
        return [*column_problems(files, [given.subject_id, given.split], FileSpec(file=given.file))]
    except EhrError as e:
        return [e]
