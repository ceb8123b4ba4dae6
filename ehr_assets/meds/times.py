"""When an event happened and when it was known: the times of the cohort spec language as polars expressions.

`Parse` says which columns are parsed, once each; `moments` puts them together. Unparsable text counts as null
here; `problems.py` says so of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from ehr_assets.cohorts.event_spec import EventSpec, TimeSpec, When
from ehr_assets.cohorts.time_formats import has_clock
from ehr_assets.contracts import BIRTH
from ehr_assets.meds.expressions import condition, number, parsed

TIME = pl.Datetime("us")
_MICROSECOND = pl.lit(timedelta(microseconds=1))
DAY_END = pl.lit(timedelta(days=1) - timedelta(microseconds=1))
# ISO 8601; a zone is understood only where the cohort declares its own.
# Not \d: that has the digits of all scripts.
_DAY, _TIME = "[0-9]{4}-[0-9]{2}-[0-9]{2}", r"[0-9]{2}:[0-9]{2}(?::[0-5][0-9](?:\.[0-9]{1,9})?)?"
_ISO = f"^{_DAY}(?:[ T]{_TIME})?$"
_ZONED = f"^({_DAY}[ T]{_TIME}) ?(Z|UTC|[+-](?:0[0-9]|1[0-4])(?::?[0-5][0-9])?)$"
_CLOCK = r"^([0-9]{1,4}):([0-5][0-9])(?::([0-5][0-9])(?:\.[0-9]+)?)?$"
_FIRST = pl.lit(datetime(1, 1, 1), dtype=TIME)  # there is no year 0
_NULL = pl.lit(None, dtype=TIME)
_SECONDS = {"days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1}
# No record is this far from what it is counted from; further would leave the range of the calendar.
_FAR_SECONDS = 400 * 366 * 86_400


@dataclass(frozen=True)
class Parse:
    """A column to parse for a time: `kind` is ``number``, ``clock``, or ``time`` with the format, if any."""

    column: str
    kind: str

    @property
    def name(self) -> str:
        return parsed(self.column, self.kind)

    def expression(self, zone: str | None) -> pl.Expr:
        text = pl.col(self.column)
        if self.kind == "number":
            return number(text).alias(self.name)
        if self.kind == "clock":
            return clock(text).alias(self.name)
        given = self.kind.partition(":")[2]
        return (formatted(text, given) if given else timestamp(text, zone)).alias(self.name)


def steps(event: EventSpec) -> Iterator[tuple[TimeSpec, tuple[When, ...]]]:
    """All ways to read the event's times, anchors included, each with what must hold for it to be read."""
    for way in [*(event.time or []), *(event.available or [])]:
        yield from _steps(way, ())


def _steps(step: TimeSpec, outer: tuple[When, ...]) -> Iterator[tuple[TimeSpec, tuple[When, ...]]]:
    under = outer if step.when == When() else (*outer, step.when)
    for since in step.since or []:
        yield from _steps(since, under)
    yield step, under


def parses(event: EventSpec) -> dict[Parse, list[tuple[When, ...]]]:
    """What must be parsed for the event's times → under which conditions: all of one of these groups."""
    found: dict[Parse, list[tuple[When, ...]]] = {}
    for step, under in steps(event):
        for parse in _parses(step):
            found.setdefault(parse, []).append(under)
    return found


def _parses(step: TimeSpec) -> list[Parse]:
    found = [Parse(c, "number") for c in sorted(step.years())]
    if step.column:
        found.append(Parse(step.column, _time_kind(step)))
    if step.clock:
        found.append(Parse(step.clock, "clock"))
    if step.elapsed:
        found.append(Parse(step.elapsed, "clock" if step.unit == "clock" else "number"))
    return found


def _time_kind(step: TimeSpec) -> str:
    return f"time:{step.format}" if step.format else "time"


def timestamp(text: pl.Expr, zone: str | None = None) -> pl.Expr:
    """Datetime[us] of ISO text; a date alone is its midnight; null where the text is no time.

    Args:
        zone: text with an offset becomes the local time there; without, it is no time.
    """
    local = _iso(text)
    if zone is None:
        return local
    instant, offset = text.str.extract(_ZONED, 1), text.str.extract(_ZONED, 2)
    offset = pl.when(offset.is_in(["Z", "UTC"])).then(pl.lit("+00:00")).otherwise(offset)
    hours, rest = offset.str.slice(1, 2), offset.str.slice(3).str.strip_chars(":")
    minutes = hours.cast(pl.Int64, strict=False) * 60 + rest.cast(pl.Int64, strict=False).fill_null(0)
    east = pl.when(offset.str.starts_with("-")).then(-minutes).otherwise(minutes)
    utc = _iso(instant) - pl.duration(minutes=east)
    there = (
        utc.dt.replace_time_zone("UTC")
        .dt.convert_time_zone(zone)
        .dt.replace_time_zone(None, ambiguous="latest")
    )
    return pl.coalesce(local, pl.when(there >= _FIRST).then(there))


def has_zone(text: pl.Expr) -> pl.Expr:
    """Whether a text is a time with a zone."""
    return text.str.contains(_ZONED)


def _iso(text: pl.Expr) -> pl.Expr:
    length = text.str.len_bytes()
    rest = pl.when(length == 10).then(pl.lit(" 00:00:00")).when(length == 16).then(pl.lit(":00"))
    full = pl.concat_str(text.str.replace("T", " ", literal=True), rest.otherwise(pl.lit("")))
    iso = pl.when(text.str.contains(_ISO) & ~text.str.starts_with("0000")).then(full)
    return iso.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False)


def formatted(text: pl.Expr, form: str) -> pl.Expr:
    """Datetime[us] of text in a format that `time_formats.checked_format` lets through."""
    if has_clock(form):
        time = text.str.to_datetime(form, time_unit="us", strict=False)
    else:
        time = text.str.to_date(form, strict=False).cast(TIME)
    return pl.when(time >= _FIRST).then(time)


def clock(text: pl.Expr) -> pl.Expr:
    """Seconds (float64) of ``HH:MM`` or ``HH:MM:SS``; more than 24 hours are allowed."""
    hours, minutes, seconds = (text.str.extract(_CLOCK, i).cast(pl.Float64, strict=False) for i in (1, 2, 3))
    return hours * 3600 + minutes * 60 + seconds.fill_null(0)


@dataclass(frozen=True)
class Moments:
    """When an event happened and was known.

    Args:
        time: Datetime[us], null where no source column holds one.
        available: Datetime[us], ≥ time; null where time is.
        by_day: whether the time is known to the day only.
    """

    time: pl.Expr
    available: pl.Expr
    by_day: pl.Expr


def moments(event: EventSpec) -> Moments:
    """The times of a dynamic event."""
    when = _first(event.time or [], "start_of_day")
    default = when.available
    if event.code == BIRTH:
        default = when.time  # a year or day of birth is nothing one learns at its end
    known = default
    for way in reversed(event.available or []):
        told = moment(way, "end_of_day").time
        # What was known before it happened contradicts itself: as if this way had found nothing.
        known = pl.when((told >= when.time) & condition(way.when)).then(told).otherwise(known)
    return Moments(when.time, known, when.by_day)


def _first(sources: list[TimeSpec], day_as: str) -> Moments:
    """The first source that is not null, row by row."""
    time, available, by_day = _NULL, _NULL, pl.lit(False)
    for source in reversed(sources):
        found = moment(source, day_as)
        is_known = found.time.is_not_null() & condition(source.when)
        time = pl.when(is_known).then(found.time).otherwise(time)
        available = pl.when(is_known).then(found.available).otherwise(available)
        by_day = pl.when(is_known).then(found.by_day).otherwise(by_day)
    return Moments(time, available, by_day)


def moment(source: TimeSpec, day_as: str) -> Moments:
    """Reads the parsed columns. What is known to the day, month or year is available at its end."""
    if source.year:
        found = _calendar(source)
    elif source.elapsed:
        found = _elapsed(source, day_as)
    elif source.fixed:
        at = pl.lit(datetime.fromisoformat(source.fixed), dtype=TIME)
        found = Moments(at, at, pl.lit(False))
    else:
        found = _column(source, day_as)
    if not (source.plus_days or source.plus_hours):
        return found
    later = pl.lit(timedelta(days=source.plus_days, hours=source.plus_hours))
    return Moments(found.time + later, found.available + later, found.by_day)


def _column(source: TimeSpec, day_as: str) -> Moments:
    assert source.column is not None
    time = pl.col(parsed(source.column, _time_kind(source)))
    if source.kind == "date":
        return _of_day(source, time.dt.truncate("1d"), day_as)
    if source.format:
        is_day = pl.lit(not has_clock(source.format))
    else:
        is_day = pl.col(source.column).str.len_bytes() == len("2020-12-31")
    if source.midnight_is_day:
        is_day = is_day | (time == time.dt.truncate("1d"))
    end = pl.when(is_day).then(time + DAY_END).otherwise(time)
    return Moments(end if (source.at or day_as) == "end_of_day" else time, end, is_day)


def _of_day(source: TimeSpec, day: pl.Expr, day_as: str) -> Moments:
    end = day + DAY_END
    stands_for = end if (source.at or day_as) == "end_of_day" else day
    if source.clock is None:
        return Moments(stands_for, end, pl.lit(True))
    seconds = pl.col(parsed(source.clock, "clock"))
    exact = day + (seconds * 1_000_000).cast(pl.Duration("us"))
    timed = seconds.is_not_null()
    return Moments(
        pl.when(timed).then(exact).otherwise(stands_for),
        pl.when(timed).then(exact).otherwise(end),
        ~timed,
    )


def _elapsed(source: TimeSpec, day_as: str) -> Moments:
    assert source.elapsed
    assert source.unit
    since = anchor(source)
    count = pl.col(parsed(source.elapsed, "clock" if source.unit == "clock" else "number"))
    seconds = count * _SECONDS.get(source.unit, 1)
    near = pl.when(seconds.abs() <= _FAR_SECONDS).then(seconds)
    passed = (near * 1_000_000).round(0).cast(pl.Duration("us"))
    time = since.time + passed
    time = pl.when(time.dt.year().is_between(1, 9998)).then(time)
    if source.unit == "days":
        return _of_day(source, time.dt.truncate("1d"), day_as)
    # Hours after some moment of a day: they may have passed as late as counted from the day's end.
    end = pl.when(since.by_day & time.is_not_null()).then(since.available + passed).otherwise(time)
    return Moments(end if day_as == "end_of_day" else time, end, since.by_day)


def anchor(source: TimeSpec) -> Moments:
    """What an elapsed time is counted from."""
    return _first(source.since or [], "start_of_day")


def _calendar(source: TimeSpec) -> Moments:
    """A year, a month or a day given in columns of its own."""
    assert source.year
    year = pl.col(parsed(source.year, "number"))
    if source.minus_years:
        year = year - pl.col(parsed(source.minus_years, "number"))
    valid = pl.when(year.is_between(1, 9998) & (year == year.floor())).then(year)
    start, end = _new_year(valid), _new_year(valid + 1) - _MICROSECOND
    by_day = pl.lit(False)
    if source.month:
        month = pl.col(parsed(source.month, "number"))
        first = _date(valid, month, pl.lit(1.0))
        start = pl.when(month.is_not_null()).then(first).otherwise(start)
        end = pl.when(month.is_not_null()).then(first.dt.offset_by("1mo") - _MICROSECOND).otherwise(end)
        if source.day:
            day = pl.col(parsed(source.day, "number"))
            exact = _date(valid, month, day)
            by_day = month.is_not_null() & day.is_not_null()
            start = pl.when(by_day).then(exact).otherwise(start)
            end = pl.when(by_day).then(exact + DAY_END).otherwise(end)
    return Moments(start, end, by_day)


def _date(year: pl.Expr, month: pl.Expr, day: pl.Expr) -> pl.Expr:
    # By text: building dates from columns would raise on a bad one.
    parts = [
        p.cast(pl.Int64, strict=False).cast(pl.String).str.zfill(n)
        for p, n in ((year, 4), (month, 2), (day, 2))
    ]
    return pl.concat_str(parts, separator="-").str.to_date("%Y-%m-%d", strict=False).cast(TIME)


def _new_year(year: pl.Expr) -> pl.Expr:
    # From days since 1970 (proleptic Gregorian): building dates from columns would raise on a bad year.
    y = year.cast(pl.Int64) - 1
    days = y * 365 + y // 4 - y // 100 + y // 400 - 719162
    return (days * 86_400_000_000).cast(TIME)
