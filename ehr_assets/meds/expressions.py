"""Text columns to times, numbers, ids and codes: the polars expressions of the cohort spec language.

One expression per idea; what is done with rows that do not parse is decided in `rows.py`.
"""

from dataclasses import dataclass

import polars as pl

from ehr_assets.cohorts.spec import EventSpec, TimeSpec, When
from ehr_assets.cohorts.templates import parse_template
from ehr_assets.contracts import BIRTH

TIME = pl.Datetime("us")
DAY_END = pl.duration(days=1) - pl.duration(microseconds=1)
# ISO 8601 without a zone; a zone would have to be converted to the cohort's local time, and is refused.
_ISO = r"^\d{4}-\d{2}-\d{2}(?:[ T]\d{2}:\d{2}(?::[0-5]\d(?:\.\d{1,9})?)?)?$"
_NUMBER = r"^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$"
_WHOLE = r"^-?\d+$"
_NULL_TIME = pl.lit(None, dtype=TIME)


def stripped(columns: list[str]) -> list[pl.Expr]:
    """The text columns without surrounding white space; what is then empty is null."""
    texts = [pl.col(c).str.strip_chars() for c in columns]
    return [pl.when(t != "").then(t).alias(c) for t, c in zip(texts, columns, strict=True)]


def whole_number(text: pl.Expr) -> pl.Expr:
    """int64, null where the text is none."""
    return pl.when(text.str.contains(_WHOLE)).then(text).cast(pl.Int64, strict=False)


def number(text: pl.Expr) -> pl.Expr:
    """float64, null where the text is no decimal number (``nan``, ``inf`` and ``1,000`` are none)."""
    return pl.when(text.str.contains(_NUMBER)).then(text).cast(pl.Float64, strict=False)


def fits_float32(value: pl.Expr) -> pl.Expr:
    """Whether a number stays finite as float32, the type MEDS stores."""
    return value.cast(pl.Float32).is_finite()


def timestamp(text: pl.Expr) -> pl.Expr:
    """Datetime[us] of ISO text; a date alone is its midnight; null where the text is no time."""
    length = text.str.len_bytes()
    rest = pl.when(length == 10).then(pl.lit(" 00:00:00")).when(length == 16).then(pl.lit(":00"))
    full = pl.concat_str(text.str.replace("T", " ", literal=True), rest.otherwise(pl.lit("")))
    iso = pl.when(text.str.contains(_ISO) & ~text.str.starts_with("0000")).then(full)
    return iso.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False)


def template(text: str) -> pl.Expr:
    """The code (or description) of each row; null where a column without default is null."""
    parts = []
    for part in parse_template(text):
        if part.column is None:
            parts.append(pl.lit(part.text))
        elif part.text is None:
            parts.append(pl.col(part.column))
        else:
            parts.append(pl.col(part.column).fill_null(part.text))
    return pl.concat_str(parts)


def condition(when: When) -> pl.Expr:
    """Whether each row fulfils `when`; never null."""
    tests = [pl.col(c).is_not_null() for c in when.not_null]
    tests += [pl.col(c).eq_missing(v) for c, v in when.equals.items()]
    tests += [pl.col(c).is_in(vs).fill_null(False) for c, vs in when.is_in.items()]
    return pl.all_horizontal(tests) if tests else pl.lit(True)


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
    """The times of a dynamic event; unparsable text counts as null here (`rows.py` quarantines it)."""
    time, default, by_day = _NULL_TIME, _NULL_TIME, pl.lit(False)
    for source in reversed(event.time or []):  # the first that is not null counts
        moment = _moment(source, "start_of_day")
        is_known = moment.time.is_not_null()
        time = pl.when(is_known).then(moment.time).otherwise(time)
        default = pl.when(is_known).then(moment.available).otherwise(default)
        by_day = pl.when(is_known).then(moment.by_day).otherwise(by_day)
    if event.code == BIRTH:
        default = time  # a year or day of birth is nothing one learns at its end
    given = [_moment(source, "end_of_day").time for source in event.available or []]
    known = pl.coalesce(*given, default)
    # A record known before it happened contradicts itself: then as if nothing had been given.
    return Moments(time, pl.when(known >= time).then(known).otherwise(default), by_day)


def _moment(source: TimeSpec, day_as: str) -> Moments:
    """Reads the parsed columns (`parsed`). What is known to the day or year is available at its end."""
    if source.year:
        year = pl.col(parsed(source.year, "number"))
        if source.minus_years:
            year = year - pl.col(parsed(source.minus_years, "number"))
        valid = pl.when(year.is_between(1, 9998)).then(year)
        start, after = _new_year(valid), _new_year(valid + 1)
        return Moments(start, after - pl.duration(microseconds=1), pl.lit(False))
    assert source.column is not None
    time = pl.col(parsed(source.column, "time")) + pl.duration(days=source.plus_days)
    if source.kind == "date":
        day = time.dt.truncate("1d")
        end = day + DAY_END
        return Moments(end if (source.at or day_as) == "end_of_day" else day, end, pl.lit(True))
    is_day = pl.col(source.column).str.len_bytes() == 10
    return Moments(time, pl.when(is_day).then(time + DAY_END).otherwise(time), is_day)


def _new_year(year: pl.Expr) -> pl.Expr:
    # From days since 1970 (proleptic Gregorian): building dates from columns would raise on a bad year.
    y = year.cast(pl.Int64) - 1
    days = y * 365 + y // 4 - y // 100 + y // 400 - 719162
    return (days * 86_400_000_000).cast(TIME)


def parsed(column: str, kind: str) -> str:
    """The name under which `rows.py` keeps a column's parsed form; kind: ``time`` or ``number``."""
    return f"__{kind}__{column}"
