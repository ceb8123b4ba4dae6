"""What can be wrong with a raw row: the reasons of the quarantine, and the expressions that find them.

Each expression gives a struct (column, reason) in the rows where something is wrong, and null in the others.
They read what `rows.TablePlan` has parsed; what needs several rows is judged there, and in `shards.py`.
"""

from collections.abc import Iterator, Sequence
from functools import reduce
from operator import and_, or_

import polars as pl

from ehr_assets.cohorts.event_spec import EventSpec, When
from ehr_assets.cohorts.templates import template_columns
from ehr_assets.contracts import DEATH
from ehr_assets.meds import expressions as ex
from ehr_assets.meds.times import anchor, has_zone, moment, moments, parses, steps
from ehr_assets.meds.values import number, overflows

MISSING_SUBJECT = "missing subject id"
BAD_SUBJECT = "unparsable subject id"
UNKNOWN_SUBJECT = "unknown subject"
DUPLICATE_SUBJECT = "duplicate subject"
BAD_TIME = "unparsable time"
ZONED_TIME = "time with a zone, but the cohort declares no time_zone"
BAD_NUMBER = "unparsable number"
LARGE_NUMBER = "number out of range"
NUL = "NUL byte"
NO_CODE = "no code"
LONG_CODE = "code too long"
NO_TIME = "no time"

MAX_CODE_BYTES = 1_000  # whoever writes more has put something else than a code there
NO_PROBLEM = pl.lit(None, pl.Struct({"column": pl.String, "reason": pl.String}))


def problem(holds: pl.Expr | pl.Series, column: str, reason: str) -> pl.Expr:
    return pl.when(holds).then(pl.struct(pl.lit(column).alias("column"), pl.lit(reason).alias("reason")))


def of_subject(column: str, subject: pl.Expr, known: pl.Expr) -> Iterator[pl.Expr]:
    """Args: `column` of raw ids; `subject`, the ids parsed; `known` among the splits."""
    yield problem(pl.col(column).is_null(), column, MISSING_SUBJECT)
    yield problem(subject.is_null(), column, BAD_SUBJECT)
    yield problem(~known, column, UNKNOWN_SUBJECT)


def of_texts(columns: Sequence[str]) -> Iterator[pl.Expr]:
    """Texts that no reader of the events could take."""
    for column in columns:
        yield problem(pl.col(column).str.contains("\0", literal=True), column, NUL)


def of_event(event: EventSpec, wanted: pl.Expr, zone: str | None) -> Iterator[pl.Expr]:
    """What an event cannot be made from, in the rows in which it is wanted."""
    for parse, conditions in parses(event).items():
        text = pl.col(parse.column)
        lost = wanted & _any_of(conditions) & text.is_not_null() & pl.col(parse.name).is_null()
        if parse.kind == "time" and zone is None:
            zoned = has_zone(pl.when(lost).then(text)).fill_null(False)
            yield problem(zoned, parse.column, ZONED_TIME)
        yield problem(lost, parse.column, BAD_TIME)
    for step, under in steps(event):
        # What parses may still be no date: the 30th of February, a year 0, an age of 5,000 years.
        if step.year:
            needed = [c for c in (step.year, step.minus_years) if c]
            given = pl.all_horizontal(pl.col(c).is_not_null() for c in needed)
        elif step.elapsed:
            given = pl.col(step.elapsed).is_not_null() & anchor(step).time.is_not_null()
        else:
            continue
        lost = wanted & _any_of([under]) & given & moment(step, "").time.is_null()
        yield problem(lost, step.year or step.elapsed or "", BAD_TIME)
    if column := event.numeric_value:
        name = ex.parsed(column, "number")
        lost = wanted & pl.col(column).is_not_null() & pl.col(name).is_null()
        yield problem(lost, column, BAD_NUMBER)
        yield problem(wanted & ~ex.fits_float32(number(event, column)), column, LARGE_NUMBER)
    elif event.value and event.convert:
        yield problem(wanted & overflows(event, event.value), event.value, LARGE_NUMBER)
    if read := sorted(template_columns(event.code)):
        yield problem(wanted & (ex.template_bytes(event.code) > MAX_CODE_BYTES), read[0], LONG_CODE)


def unmet(event: EventSpec, wanted: pl.Expr) -> pl.Expr:
    """Why this event was not made although it was wanted and nothing else is wrong: no code, or no time."""
    lacks_code = wanted & ex.template(event.code).is_null()
    found = [
        problem(lacks_code & pl.col(c).is_null(), c, NO_CODE) for c in sorted(template_columns(event.code))
    ]
    if not event.static:
        column = next((c for t in event.time or [] for c in sorted(t.columns())), "")
        found.append(problem(wanted & moments(event).time.is_null(), column, NO_TIME))
    return pl.coalesce(*found, NO_PROBLEM)


def death_in_doubt(events: Sequence[EventSpec], wanted: Sequence[pl.Expr], lost: pl.Expr) -> pl.Expr | None:
    """Whether a row may have told a death that was not made; None where no event of the table is a death.

    A row tells a death where it holds a day of death, readable or not, or where the event has a `when` of its
    own (a vital status, say) that holds.

    Args:
        wanted: of each event.
        lost: whether the row is quarantined.
    """
    told, made = [], []
    for event, wants in zip(events, wanted, strict=True):
        if event.code != DEATH:
            continue
        times = [c for t in event.time or [] for c in (t.column, t.elapsed, t.year) if c]
        given = pl.any_horizontal(pl.col(c).is_not_null() for c in times) if times else pl.lit(True)
        told.append(wants if event.when != When() else wants & given)
        made.append(wants & moments(event).time.is_not_null())
    return pl.any_horizontal(told) & (lost | ~pl.any_horizontal(made)) if told else None


def _any_of(conditions: Sequence[Sequence[When]]) -> pl.Expr:
    """Whether all conditions of one of the groups hold; a group without any always does."""
    if not all(conditions):
        return pl.lit(True)
    return reduce(or_, (reduce(and_, map(ex.condition, group)) for group in conditions))
