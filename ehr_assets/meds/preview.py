"""What a cohort file would make of its raw tables, seen from their first records, without running anything.

The machinery is the extraction's own (`rows.TablePlan`); only the ids of the roster are read whole. What in a
preview deserves a second look is said in `concerns.py`; printing it is the business of `jobs/cli`.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from ehr_assets.cohorts.batches import RawBatch
from ehr_assets.cohorts.event_spec import EventSpec
from ehr_assets.cohorts.file_spec import FileSpec
from ehr_assets.cohorts.files import RawFile, RawRoot, find_files, require_files
from ehr_assets.cohorts.headers import column_problems
from ehr_assets.cohorts.patterns import looks_like_table
from ehr_assets.cohorts.spec import CohortSpec, TableSpec
from ehr_assets.contracts import SECTIONS
from ehr_assets.errors import EhrError
from ehr_assets.meds.rows import Made, TablePlan
from ehr_assets.meds.samples import JoinPreview, Joins, RosterPreview, Sample, WatchedJoin, roster, sample
from ehr_assets.meds.subjects import Subjects

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
    samples = [sample(table, root, rows) for table in spec.tables]
    who, subjects = roster(spec, samples)
    with tempfile.TemporaryDirectory(prefix="ehr-check-") as scratch:
        joins = Joins(root, Path(scratch))
        tables = [_table_preview(i, taken, joins, subjects, spec) for i, taken in enumerate(samples)]
    return Preview(spec, root.uri, who, tables, _unused(spec, root), _further(spec, root))


def _table_preview(
    index: int, taken: Sample, joins: Joins, subjects: Subjects, spec: CohortSpec
) -> TablePreview:
    table = TablePreview(taken.spec, taken.files, taken.looked_at, problems=[*taken.problems])
    if not table.absent:
        watched, wrong = joins.of(table.spec)
        table.problems += wrong
        if taken.records is not None and not table.problems:
            _fill(table, index, taken.records, watched, subjects, spec)
    return table


def _fill(
    table: TablePreview,
    index: int,
    records: RawBatch,
    joins: list[WatchedJoin],
    subjects: Subjects,
    spec: CohortSpec,
) -> None:
    """What the sampled records become."""
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

    made = plan(table.spec.events).make(records)
    table.read, table.accepted = made.read, made.accepted
    reasons = made.quarantined.group_by("column", "reason", maintain_order=True).len()
    table.reasons = {(column or "", reason): n for column, reason, n in reasons.iter_rows()}
    table.joins = [j.preview() for j in joins]
    lost = made.quarantined.select("file", "row")
    table.events = [
        _event_preview(
            event,
            plan([event]).make(records),
            plan([_told(event)]).make(records) if event.available else None,
            lost,
        )
        for event in table.spec.events
    ]


def _told(event: EventSpec) -> EventSpec:
    """An event at the moment at which `available` says that it was known, whatever its time."""
    return event.model_copy(update={"time": event.available, "available": None, "code": "TOLD"})


def _event_preview(event: EventSpec, made: Made, told: Made | None, lost: pl.DataFrame) -> EventPreview:
    place = ["file", "row"]
    events = made.events.join(lost, on=place, how="anti", maintain_order="left")
    units = made.units.drop_nulls("unit").group_by("code").agg(pl.col("unit").unique().sort().str.join(" | "))
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
