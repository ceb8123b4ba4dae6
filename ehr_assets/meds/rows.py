"""From a batch of raw rows to staged events and quarantined rows: one table of a cohort spec, compiled.

Every record goes exactly one way: accepted (with or without events) or quarantined with one reason. What
needs more than the row itself (events before birth) is judged in `shards.py`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ehr_assets.cohorts.readers import ROW, RawBatch, find_table, read_table, require_table
from ehr_assets.cohorts.spec import EventSpec, JoinSpec, TableSpec, template_columns
from ehr_assets.contracts import DEATH, SECTIONS
from ehr_assets.errors import DatasetError
from ehr_assets.meds import expressions as ex

MISSING_SUBJECT = "missing subject id"
BAD_SUBJECT = "unparsable subject id"
UNKNOWN_SUBJECT = "unknown subject"
DUPLICATE_SUBJECT = "duplicate subject"
BAD_TIME = "unparsable time"
BAD_NUMBER = "unparsable number"
LARGE_NUMBER = "number out of range"
NUL = "NUL byte"
NO_CODE = "no code"
NO_TIME = "no time"

QUARANTINE = pl.Schema({"table": pl.String, "row": pl.Int64, "column": pl.String, "reason": pl.String})
SUBJECT, SHARD, KNOWN, TRAIN = "__subject__", "__shard__", "__known__", "__train__"
AT, BAD = "__at__", "__bad__"  # position in the splits' subjects; what is wrong with the row
STAGED = pl.Schema(
    {
        "subject_id": pl.Int64,
        "time": pl.Datetime("us"),
        "code": pl.String,
        "numeric_value": pl.Float32,
        "text_value": pl.String,
        "available_time": pl.Datetime("us"),
        "section": pl.Int8,  # index in SECTIONS
        "by_day": pl.Boolean,  # time known to the day only
        "table": pl.Int16,  # index in the spec's tables
        "row": pl.Int64,
        "shard": pl.Int32,
    }
)


@dataclass(frozen=True)
class Subjects:
    """The subjects of the cohort's splits: sorted ids (int64), the shard of each (int32), who is in train."""

    ids: np.ndarray
    shards: np.ndarray
    train: np.ndarray

    def find(self, ids: pl.Series) -> tuple[np.ndarray, np.ndarray]:
        """Position of each id (arbitrary where unknown or null), and whether it is known."""
        wanted = ids.fill_null(0).to_numpy()
        if not self.ids.size:
            return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
        at = np.minimum(np.searchsorted(self.ids, wanted), self.ids.size - 1)
        return at, (self.ids[at] == wanted) & ids.is_not_null().to_numpy()


@dataclass
class Dimension:
    """A joined table in memory, unique by key, and what was found wrong in it (counts)."""

    join: JoinSpec
    frame: pl.DataFrame
    rows: int = 0
    ragged: int = 0
    duplicate_keys: int = 0

    def add_to(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Adds its columns to `frame`; rows and their order stay."""
        return frame.join(self.frame, on=list(self.join.on), how="left", maintain_order="left")


@dataclass(frozen=True)
class Made:
    """What became of a batch.

    Args:
        events: `STAGED`.
        quarantined: `QUARANTINE`, one row per quarantined record.
        accepted: records that were not quarantined.
        with_events: those of them that made an event.
        described: code, description (first seen first).
        units: code, unit, len; of train subjects only, since the text that models read shows units.
        deaths_in_doubt: subjects with a quarantined record that may have told their death.
    """

    events: pl.DataFrame
    quarantined: pl.DataFrame
    accepted: int
    with_events: int
    described: pl.DataFrame
    units: pl.DataFrame
    deaths_in_doubt: set[int]


def load_dimension(join: JoinSpec, root: Path, table: TableSpec) -> Dimension:
    """Reads a joined table, only the columns and rows the join uses.

    Raises:
        RawTableError: it cannot be read, or is missing and not optional.
    """
    schema = dict.fromkeys([*join.on, *join.columns], pl.String)
    path = find_table(root, join.file)
    if path is None:
        if not join.optional:
            require_table(root, join.file, key=f"a join of table '{table.name}'")
        return Dimension(join, pl.DataFrame(schema=schema))
    wanted = sorted(join.columns_there())
    keep = [pl.col(there).alias(here) for here, there in {**join.on, **join.columns}.items()]
    parts, rows, ragged = [pl.DataFrame(schema=schema)], 0, 0
    for batch in read_table(path, wanted, encoding=join.encoding):
        rows += batch.frame.height + len(batch.ragged)
        ragged += len(batch.ragged)
        parts.append(
            batch.frame.select(ex.stripped(wanted))
            .filter(ex.condition(join.when))
            .select(keep)
            .drop_nulls([*join.on])
        )
    frame = pl.concat(parts)
    unique = frame.unique([*join.on], keep="first", maintain_order=True)
    return Dimension(join, unique, rows, ragged, frame.height - unique.height)


class TablePlan:
    """One table of the spec, ready to turn batches into events.

    Args:
        table: the spec.
        index: its position in the cohort's tables.
        dimensions: its joins, loaded, in order.
        subjects: of the cohort's splits.
        is_roster: whether each subject may appear only once.
    """

    def __init__(
        self, table: TableSpec, index: int, dimensions: list[Dimension], subjects: Subjects, is_roster: bool
    ) -> None:
        self.table, self.index, self.dimensions, self.subjects = table, index, dimensions, subjects
        self.columns = table.raw_columns()
        self._seen = np.zeros(subjects.ids.size, bool) if is_roster else None
        # A column may be read by several events: parse it once, under its own name.
        self._times = sorted({t.column for e in table.events for t in _times(e) if t.column})
        years = {c for e in table.events for t in _times(e) for c in (t.year, t.minus_years) if c}
        numbers = {c for e in table.events for c in (e.numeric_value, e.value) if c}
        self._numbers = sorted(years | numbers)

    def make(self, batch: RawBatch) -> Made:
        """Events and quarantine of one batch.

        Raises:
            DatasetError: the roster names a subject that the splits do not know.
        """
        frame = batch.frame.with_columns(ex.stripped(self.columns))
        for dimension in self.dimensions:
            frame = dimension.add_to(frame)
        parse = [ex.timestamp(pl.col(c)).alias(ex.parsed(c, "time")) for c in self._times]
        parse += [ex.number(pl.col(c)).alias(ex.parsed(c, "number")) for c in self._numbers]
        frame = self._with_subjects(frame.with_columns(parse))
        bad = pl.coalesce(*self._problems(), _NO_PROBLEM)
        frame = self._without_repeats(frame.with_columns(bad.alias(BAD)))
        made = [self._events(frame.filter(pl.col(BAD).is_null()), event) for event in self.table.events]
        events = pl.concat([m[0] for m in made])
        # A row that was meant to make an event and made none has not been understood.
        silent = pl.col(BAD).is_null() & ~pl.col(ROW).is_in(events["row"].unique().implode())
        unmet = pl.coalesce(*(_unmet(event) for event in self.table.events), _NO_PROBLEM)
        frame = frame.with_columns(pl.when(silent).then(unmet).otherwise(BAD).alias(BAD))
        lost = frame.filter(pl.col(BAD).is_not_null())
        problems = lost.select(
            pl.lit(self.table.name).alias("table"), pl.col(ROW).alias("row"), pl.col(BAD).struct.unnest()
        )
        ragged = [(self.table.name, row, None, reason) for row, reason in batch.ragged]
        return Made(
            events,
            pl.concat([problems, pl.DataFrame(ragged, schema=QUARANTINE, orient="row")]),
            accepted=frame.height - lost.height,
            with_events=events["row"].n_unique(),
            described=pl.concat([m[1] for m in made]),
            units=pl.concat([m[2] for m in made]),
            deaths_in_doubt=set(lost.filter(pl.col(KNOWN) & self._may_tell_death())[SUBJECT].to_list()),
        )

    def _may_tell_death(self) -> pl.Expr:
        told = [
            ex.condition(event.when) & pl.any_horizontal(pl.col(c).is_not_null() for c in times)
            for event in self.table.events
            if event.code == DEATH and (times := [t.column for t in event.time or [] if t.column])
        ]
        return pl.any_horizontal(told) if told else pl.lit(False)

    def _with_subjects(self, frame: pl.DataFrame) -> pl.DataFrame:
        frame = frame.with_columns(ex.whole_number(pl.col(self.table.subject_id)).alias(SUBJECT))
        at, known = self.subjects.find(frame[SUBJECT])
        shards = self.subjects.shards[at] if self.subjects.ids.size else np.zeros(len(at), np.int32)
        train = self.subjects.train[at] if self.subjects.ids.size else np.zeros(len(at), bool)
        if self._seen is not None and (frame[SUBJECT].is_not_null().to_numpy() & ~known).any():
            raise DatasetError(
                "The subject splits do not cover the roster.",
                where=f"table '{self.table.name}'",
                do="Re-materialize the cohort's subject_splits, then meds_events.",
            )
        return frame.with_columns(
            pl.Series(SHARD, shards, pl.Int32),
            pl.Series(KNOWN, known),
            pl.Series(TRAIN, train & known),
            pl.Series(AT, at),
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
        return frame.with_columns(pl.coalesce(_problem(repeat, column, DUPLICATE_SUBJECT), BAD).alias(BAD))

    def _problems(self) -> list[pl.Expr]:
        """One struct (column, reason) per thing that can be wrong with a row, null where it is not."""
        id_column, subject = self.table.subject_id, pl.col(SUBJECT)
        found = [
            _problem(pl.col(id_column).is_null(), id_column, MISSING_SUBJECT),
            _problem(subject.is_null(), id_column, BAD_SUBJECT),
            _problem(~pl.col(KNOWN), id_column, UNKNOWN_SUBJECT),
        ]
        used = sorted({c for e in self.table.events for c in e.columns()})
        found += [_problem(pl.col(c).str.contains("\0", literal=True), c, NUL) for c in used]
        for event in self.table.events:
            wanted = ex.condition(event.when)
            for column in dict.fromkeys(t.column for t in _times(event) if t.column):
                found.append(_problem(wanted & self._unparsed(column, "time"), column, BAD_TIME))
            for source in _times(event):
                years = [c for c in (source.year, source.minus_years) if c]
                found += [_problem(wanted & self._unparsed(c, "number"), c, BAD_TIME) for c in years]
                if source.year:
                    given = pl.all_horizontal(pl.col(c).is_not_null() for c in years)
                    no_year = ex.moments(event.model_copy(update={"time": [source]})).time.is_null()
                    found.append(_problem(wanted & given & no_year, source.year, BAD_TIME))
            if column := event.numeric_value:
                value = pl.col(ex.parsed(column, "number"))
                found.append(_problem(wanted & self._unparsed(column, "number"), column, BAD_NUMBER))
                found.append(_problem(wanted & ~ex.fits_float32(value), column, LARGE_NUMBER))
        return found

    def _unparsed(self, column: str, kind: str) -> pl.Expr:
        return pl.col(column).is_not_null() & pl.col(ex.parsed(column, kind)).is_null()

    def _events(
        self, good: pl.DataFrame, event: EventSpec
    ) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
        """`STAGED` events of one definition, with the descriptions and units of their codes."""
        number, text = _values(event)
        when = ex.moments(event)
        columns = {
            "subject_id": pl.col(SUBJECT),
            "time": when.time,
            "code": ex.template(event.code),
            "numeric_value": number,
            "text_value": text,
            "available_time": when.available,
            "section": pl.lit(SECTIONS.index(event.section)),
            "by_day": when.by_day,
            "table": pl.lit(self.index),
            "row": pl.col(ROW),
            "shard": pl.col(SHARD),
        }
        staged = [columns[name].cast(dtype).alias(name) for name, dtype in STAGED.items()]
        describe = ex.template(event.description) if event.description else pl.lit(None, pl.String)
        unit = pl.col(event.unit) if event.unit else pl.lit(None, pl.String)
        rows = good.filter(ex.condition(event.when)).select(
            *staged, describe.alias("description"), unit.alias("unit"), TRAIN
        )
        rows = rows.filter(
            pl.col("code").is_not_null() & (pl.lit(event.static) | pl.col("time").is_not_null())
        )
        described = (
            rows.select("code", "description").drop_nulls().unique("code", keep="first", maintain_order=True)
        )
        units = rows.filter(TRAIN).select("code", "unit").drop_nulls().group_by("code", "unit").len()
        return rows.select(list(STAGED)), described, units


def _times(event: EventSpec):
    return [*(event.time or []), *(event.available or [])]


def _values(event: EventSpec) -> tuple[pl.Expr, pl.Expr]:
    """The number and the text of an event; a text only where there is no number."""
    if event.value:
        value = pl.col(ex.parsed(event.value, "number")).cast(pl.Float32)
        number = pl.when(value.is_finite()).then(value)
        return number, pl.when(number.is_null()).then(pl.col(event.value))
    number = pl.lit(None, pl.Float32)
    if event.numeric_value:
        number = pl.col(ex.parsed(event.numeric_value, "number")).cast(pl.Float32)
    text = pl.col(event.text_value) if event.text_value else pl.lit(None, pl.String)
    return number, pl.when(number.is_null()).then(text)


_NO_PROBLEM = pl.lit(None, pl.Struct({"column": pl.String, "reason": pl.String}))


def _unmet(event: EventSpec) -> pl.Expr:
    """Why this event was not made although its `when` holds: a null column in its code, or no time."""
    wanted = ex.condition(event.when)
    found = [
        _problem(wanted & ex.template(event.code).is_null() & pl.col(c).is_null(), c, NO_CODE)
        for c in sorted(template_columns(event.code))
    ]
    if not event.static:
        column = next(c for t in event.time or [] for c in sorted(t.columns()))
        found.append(_problem(wanted & ex.moments(event).time.is_null(), column, NO_TIME))
    return pl.coalesce(*found)


def _problem(holds: pl.Expr | pl.Series, column: str, reason: str) -> pl.Expr:
    return pl.when(holds).then(pl.struct(pl.lit(column).alias("column"), pl.lit(reason).alias("reason")))
