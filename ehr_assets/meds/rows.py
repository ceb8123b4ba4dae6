"""From a batch of raw rows to staged events and quarantined rows: one table of a cohort spec, compiled.

Every record goes exactly one way: accepted (with or without events) or quarantined with one reason
(`problems.py`). What needs more than the row itself (events before birth) is judged in `shards.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from ehr_assets.cohorts.batches import FILE, ROW, RawBatch
from ehr_assets.cohorts.cleaning import cleaned, unrolled
from ehr_assets.cohorts.event_spec import EventSpec, SectionRules
from ehr_assets.cohorts.spec import TableSpec
from ehr_assets.contracts import SECTIONS
from ehr_assets.errors import DatasetError
from ehr_assets.meds import expressions as ex
from ehr_assets.meds import problems
from ehr_assets.meds.dimensions import Dimension
from ehr_assets.meds.problems import NO_PROBLEM
from ehr_assets.meds.staging import STAGED
from ehr_assets.meds.subjects import Subjects
from ehr_assets.meds.times import moments, parses
from ehr_assets.meds.values import number_and_text, with_conversions

QUARANTINE = pl.Schema(
    {"table": pl.Int16, "file": pl.Int32, "row": pl.Int64, "column": pl.String, "reason": pl.String}
)
"""`table` and `file` as in `STAGED`."""
UNITS = pl.Schema({"code": pl.String, "unit": pl.String, "split": pl.Int8, "rows": pl.Int64})
"""A null unit is none, and is counted where an event may be a measurement: others need not have one."""
SUBJECT, KNOWN, SPLIT = "__subject__", "__known__", "__split__"
AT, BAD = "__at__", "__bad__"  # position in the splits' subjects; what is wrong with the row
_PLACE = [FILE, ROW]


@dataclass(frozen=True)
class Made:
    """What became of a batch.

    Args:
        events: `STAGED`.
        quarantined: `QUARANTINE`, one row per quarantined record.
        read: records in the batch, counted apart from what became of them.
        accepted: records that were not quarantined.
        with_events: those of them that made an event.
        described: code, description (first seen first).
        units: `UNITS`.
        deaths_in_doubt: subjects with a record that may have told their death, and made none.
    """

    events: pl.DataFrame
    quarantined: pl.DataFrame
    read: int
    accepted: int
    with_events: int
    described: pl.DataFrame
    units: pl.DataFrame
    deaths_in_doubt: set[int]


class TablePlan:
    """One table of the spec, ready to turn batches into events.

    Args:
        table: the spec.
        index: its position in the spec's tables.
        dimensions: its joins, in order.
        subjects: of the cohort's splits.
        zone: the cohort's time zone.
        one_row_each: whether each subject may appear only once.
        covers: whether the splits must know every subject of the table (the roster's must).
    """

    def __init__(
        self,
        table: TableSpec,
        index: int,
        dimensions: list[Dimension],
        subjects: Subjects,
        zone: str | None = None,
        *,
        one_row_each: bool = False,
        covers: bool = False,
    ) -> None:
        self.table, self.index, self.dimensions, self.subjects = table, index, dimensions, subjects
        self.columns, self.zone, self.covers = table.raw_columns(), zone, covers
        self._seen = np.zeros(subjects.ids.size, bool) if one_row_each else None
        # A column may be read by several events: parse it once, under its own name.
        self._times = sorted({p for e in table.events for p in parses(e)}, key=lambda p: p.name)
        numbers = {c for e in table.events for c in (e.numeric_value, e.value) if c}
        conditions = [table.when, *(w for e in table.events for w in e.conditions())]
        numbers |= {c for w in conditions for c in w.numbers()}
        self._numbers = sorted(numbers - {p.column for p in self._times if p.kind == "number"})
        self._wanted = [ex.condition(table.when) & ex.condition(e.when) for e in table.events]
        self._read = [_read_by(table, e) for e in table.events]
        # A choice that no event reads has no columns to choose from: `raw_columns` leaves them unread.
        self._chosen = {c: among for c, among in table.first_of.items() if c in self._used()}

    def make(self, batch: RawBatch) -> Made:
        """Events and quarantine of one batch.

        Raises:
            DatasetError: the roster names a subject that the splits do not know.
        """
        raw = unrolled(batch.frame, self.table.lists)
        frame = raw.select(*_PLACE, *cleaned(self.columns, self.table))
        for dimension in self.dimensions:
            frame = dimension.add_to(frame)
        frame = frame.with_columns(pl.coalesce(among).alias(c) for c, among in self._chosen.items())
        parse = [p.expression(self.zone) for p in self._times]
        parse += [ex.number(pl.col(c)).alias(ex.parsed(c, "number")) for c in self._numbers]
        frame = self._with_subjects(frame.with_columns(parse))
        bad = self._of_record(pl.coalesce(*self._problems(), NO_PROBLEM))
        frame = self._without_repeats(frame.with_columns(bad.alias(BAD)))
        good = frame.filter(pl.col(BAD).is_null())
        made = [
            # A table may have a hundred columns and events; each event reads a few.
            self._events(good.select(read).filter(wanted), event)
            for event, wanted, read in zip(self.table.events, self._wanted, self._read, strict=True)
        ]
        events = pl.concat([m[0] for m in made])
        with_events = events.select("file", "row").unique().with_columns(pl.lit(True).alias("__made__"))
        frame = frame.join(
            with_events, left_on=_PLACE, right_on=["file", "row"], how="left", maintain_order="left"
        )
        # A row that was meant to make an event and made none has not been understood.
        silent = pl.col(BAD).is_null() & pl.col("__made__").is_null()
        pairs = zip(self.table.events, self._wanted, strict=True)
        unmet = self._of_record(pl.coalesce(*(problems.unmet(event, w) for event, w in pairs), NO_PROBLEM))
        frame = frame.with_columns(pl.when(silent).then(unmet).otherwise(BAD).alias(BAD))
        doubt = problems.death_in_doubt(self.table.events, self._wanted, pl.col(BAD).is_not_null())
        doubtful = [] if doubt is None else frame.filter(pl.col(KNOWN) & doubt)[SUBJECT].to_list()
        if self.table.lists:
            frame = frame.unique(_PLACE, keep="first", maintain_order=True)
        lost = frame.filter(pl.col(BAD).is_not_null())
        quarantined = lost.select(
            pl.lit(self.index).alias("table"),
            pl.col(FILE).alias("file"),
            pl.col(ROW).alias("row"),
            pl.col(BAD).struct.unnest(),
        ).cast(QUARANTINE)
        ragged = [(self.index, file, row, None, reason) for file, row, reason in batch.ragged]
        return Made(
            events,
            pl.concat([quarantined, pl.DataFrame(ragged, schema=QUARANTINE, orient="row")]),
            read=batch.records,
            accepted=frame.height - lost.height,
            with_events=with_events.height,
            described=pl.concat([m[1] for m in made]),
            units=pl.concat([m[2] for m in made]),
            deaths_in_doubt=set(doubtful),
        )

    def _used(self) -> set[str]:
        """The columns that the table's filter and its events read."""
        return {c for e in self.table.events for c in e.columns()} | self.table.when.columns()

    def _with_subjects(self, frame: pl.DataFrame) -> pl.DataFrame:
        ids = self.subjects.parse(frame[self.table.subject_id])
        at, known = self.subjects.find(ids)
        splits = self.subjects.splits[at] if self.subjects.ids.size else np.zeros(len(at), np.int8)
        if self.covers and (ids.is_not_null().to_numpy() & ~known).any():
            raise DatasetError(
                "The subject splits do not cover the roster.",
                where=f"table '{self.table.name}'",
                do="Re-materialize the cohort's subject_splits, then meds_events.",
            )
        return frame.with_columns(
            ids.alias(SUBJECT), pl.Series(KNOWN, known), pl.Series(SPLIT, splits), pl.Series(AT, at)
        )

    def _without_repeats(self, frame: pl.DataFrame) -> pl.DataFrame:
        """In the roster, the first sound row of a subject counts; further ones are quarantined."""
        if self._seen is None:
            return frame
        sound = frame[BAD].is_null().to_numpy()
        at = frame[AT].to_numpy()
        first = np.zeros(len(at), bool)
        first[np.flatnonzero(sound)[np.unique(at[sound], return_index=True)[1]]] = True
        first &= ~self._seen[at] if self._seen.size else True
        self._seen[at[first]] = True
        repeat = pl.Series(sound & ~first)
        column = self.table.subject_id
        return frame.with_columns(
            pl.coalesce(problems.problem(repeat, column, problems.DUPLICATE_SUBJECT), BAD).alias(BAD)
        )

    def _problems(self) -> Iterator[pl.Expr]:
        """What can be wrong with a row by itself, what comes first being told."""
        yield from problems.of_subject(self.table.subject_id, pl.col(SUBJECT), pl.col(KNOWN))
        yield from problems.of_texts(sorted(self._used()))
        for event, wanted in zip(self.table.events, self._wanted, strict=True):
            yield from problems.of_event(event, wanted, self.zone)

    def _of_record(self, problem: pl.Expr) -> pl.Expr:
        """What is wrong in one place of a record's lists is wrong with the record."""
        return problem.drop_nulls().first().over(_PLACE) if self.table.lists else problem

    def _events(
        self, rows: pl.DataFrame, event: EventSpec
    ) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
        """`STAGED` events of one definition, with the descriptions and units of their codes."""
        # Filters leave a chunk per thread, over which polars 1.44 may fail to share expressions (ShapeError).
        rows = with_conversions(rows.rechunk(), event)
        number, text = number_and_text(event)
        when = moments(event)
        section = event.section
        columns = {
            "subject": pl.col(AT),
            "time": when.time,
            "code": ex.template(event.code),
            "numeric_value": number,
            "text_value": text,
            "available_time": when.available,
            "section": ex.section_by(section, rows[section.column])
            if isinstance(section, SectionRules)
            else pl.lit(SECTIONS.index(section)),
            "by_day": when.by_day,
            "table": pl.lit(self.index),
            "file": pl.col(FILE),
            "row": pl.col(ROW),
        }
        staged = [_named(columns[name], name).cast(dtype) for name, dtype in STAGED.items()]
        describe = ex.template(event.description) if event.description else pl.lit(None, pl.String)
        unit = pl.col(event.unit) if event.unit else pl.lit(event.unit_text, pl.String)
        made = rows.lazy().select(*staged, describe.alias("description"), unit.alias("unit"), SPLIT)
        made = made.filter(
            pl.col("code").is_not_null() & (pl.lit(event.static) | pl.col("time").is_not_null())
        ).collect()  # lazy until here: what several columns are made from is made once
        described = (
            made.select("code", "description").drop_nulls().unique("code", keep="first", maintain_order=True)
        )
        by_unit = made.select("code", "unit", pl.col(SPLIT).alias("split"))
        if not _may_measure(event):
            by_unit = by_unit.drop_nulls("unit")
        units = by_unit.group_by("code", "unit", "split").agg(pl.len().alias("rows")).cast(UNITS)
        return made.select(list(STAGED)), described, units


def _read_by(table: TableSpec, event: EventSpec) -> list[str]:
    """The columns of a batch in the making that an event and its conditions read."""
    conditions = [table.when, *event.conditions()]
    numbers = {c for w in conditions for c in w.numbers()} | {event.numeric_value, event.value} - {None}
    names = {c for w in conditions for c in w.columns()} | event.columns() | {p.name for p in parses(event)}
    return sorted({FILE, ROW, AT, SPLIT} | names | {ex.parsed(c, "number") for c in numbers if c})


def _may_measure(event: EventSpec) -> bool:
    section = event.section
    sections = (section.default, *section.rules.values()) if isinstance(section, SectionRules) else (section,)
    return "measurements" in sections


def _named(column: pl.Expr | pl.Series, name: str) -> pl.Expr:
    return (pl.lit(column) if isinstance(column, pl.Series) else column).alias(name)
