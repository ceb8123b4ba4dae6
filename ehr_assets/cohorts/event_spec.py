"""How a raw row becomes events: conditions, times, values, sections, as a cohort file says it.

Only pydantic models (light imports: specs are read when the definitions load). The tables and the cohort as a
whole are `spec.py`; what the words do is `meds/expressions.py`.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import SchemaError, SchemaValidator, core_schema

from ehr_assets.cohorts.templates import Template, template_columns
from ehr_assets.cohorts.time_formats import checked_format
from ehr_assets.contracts import Section
from ehr_assets.specs import Spec


def _raw_text(value: Any) -> Any:
    """Raw tables are read as text: ``equals: {flag: 1}`` means the text "1"; 4.10 might be "4.1" as well."""
    if isinstance(value, float):
        raise ValueError(f"put {value} in quotes, as it is written there: raw tables are compared as text")
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _distinct(value: Any) -> Any:
    """``{0: A, "0": B}`` would be one key."""
    texts = [_raw_text(key) for key in value] if isinstance(value, Mapping) else []
    if twice := [text for text in texts if texts.count(text) > 1]:
        raise ValueError(f"the key {twice[0]} is given twice, as a number and as a text")
    return value


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as e:
        raise ValueError(f"'{pattern}' is not a regular expression: {e}") from None
    if re.search(r"\(\?<?[=!]|\\[1-9]", pattern):
        raise ValueError(f"'{pattern}': look-around and back references are not supported here")
    try:
        # The tables are searched by Rust's regex (polars), which pydantic has, too.
        SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError as e:
        reason = str(e).strip().splitlines()[-1].removeprefix("error: ")
        end = ": the end of a text is $, not \\Z" if "\\Z" in pattern else ""
        raise ValueError(f"'{pattern}' is not understood where tables are searched ({reason}){end}") from None
    return pattern


def _in_calendar(text: str) -> str:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"'{text}' is no date of the calendar") from None
    return text


Column = Annotated[str, Field(min_length=1)]
RawText = Annotated[str, BeforeValidator(_raw_text, json_schema_input_type=str | int)]
ByRawText = BeforeValidator(_distinct)  # of mappings whose keys are raw texts
Pattern = Annotated[str, AfterValidator(_pattern)]


FixedTime = Annotated[
    str,
    Field(pattern=r"^\d{4}-\d{2}-\d{2}(?:[ T]\d{2}:\d{2}(?::\d{2})?)?$"),
    AfterValidator(_in_calendar),
]


class When(Spec):
    """Conditions on raw columns (text, stripped); all must hold. Numbers with a point stand in quotes.

    `at_least` and `at_most` hold only where the column is a number; `matches` looks for the pattern anywhere.
    """

    not_null: list[Column] = Field(default=[])
    is_null: list[Column] = Field(default=[])
    equals: dict[Column, RawText] = Field(default={})
    is_in: dict[Column, list[RawText]] = Field(default={}, alias="in")
    not_in: dict[Column, list[RawText]] = Field(default={})
    matches: dict[Column, Pattern] = Field(default={})
    at_least: dict[Column, float] = Field(default={})
    at_most: dict[Column, float] = Field(default={})

    def columns(self) -> set[str]:
        listed = {*self.not_null, *self.is_null}
        return listed.union(self.equals, self.is_in, self.not_in, self.matches, self.numbers())

    def numbers(self) -> set[str]:
        """The columns that are compared as numbers."""
        return {*self.at_least, *self.at_most}


class TimeSpec(Spec):
    """One way to read a time. Exactly one of `column`, `year`, `elapsed` and `fixed`.

    `column`: an ISO 8601 date or date-time, or what `format` (strptime, without zones; it must tell the day)
    says. `kind: date` where the column, or its meaning, goes to the day only; `clock` names a column with the
    time of day beside it.
    `year` (with `month` and `day` as far as they are there), minus a number of years.
    `elapsed`: a number of `unit` since another time (which may be given in several ways); negative: before.
    `fixed`: the same moment for all rows, for records that tell only times since an unknown beginning.

    `at`: the moment of the day that stands for a day (of `kind: date`, of `elapsed` days, or with
    `midnight_is_day`); default: its start for `time`, its end for `available`. `midnight_is_day`: a date-time
    of exactly 00:00 is a date. `plus_days`, `plus_hours` (in `available`): that much later (than the end, of
    a day), for records that tell only when something was begun. `when`: only in these rows; in the others it
    is as if this way found nothing.
    """

    column: Column | None = None
    kind: Literal["timestamp", "date"] = "timestamp"
    format: Annotated[str, Field(pattern="%"), AfterValidator(checked_format)] | None = None
    clock: Column | None = None
    at: Literal["start_of_day", "end_of_day"] | None = None
    midnight_is_day: bool = False
    year: Column | None = None
    month: Column | None = None
    day: Column | None = None
    minus_years: Column | None = None
    elapsed: Column | None = None
    unit: Literal["days", "hours", "minutes", "seconds", "clock"] | None = None
    since: "Times | None" = None
    fixed: FixedTime | None = None
    plus_days: int = Field(default=0, ge=0)
    plus_hours: int = Field(default=0, ge=0)
    when: When = When()

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_way(self) -> "TimeSpec":
        ways = [w for w in ("column", "year", "elapsed", "fixed") if getattr(self, w)]
        if len(ways) != 1:
            raise ValueError("give exactly one of `column`, `year`, `elapsed` and `fixed`")
        belongs = {
            "column": ("format", "clock", "midnight_is_day"),
            "year": ("month", "day", "minus_years"),
            "elapsed": ("unit", "since"),
        }
        for way, keys in belongs.items():
            if lost := [k for k in keys if getattr(self, k) and way != ways[0]]:
                raise ValueError(f"`{lost[0]}` belongs to `{way}`")
        if self.elapsed and not (self.unit and self.since):
            raise ValueError("`elapsed` needs `unit` and `since`")
        if self.day and not self.month:
            raise ValueError("`day` needs `month`")
        if self.clock and self.kind != "date":
            raise ValueError("`clock` belongs to a `column` of `kind: date`")
        if self.at and not (self.kind == "date" or self.unit == "days" or self.midnight_is_day):
            raise ValueError("`at` belongs to a `column` of `kind: date`, elapsed days, or `midnight_is_day`")
        if self.at and self.clock:
            raise ValueError("give either `at` or `clock`")
        return self

    def columns(self) -> set[str]:
        """The raw columns it reads the time from, those of its anchors included."""
        return {c for c in (self.column, self.clock, self.elapsed) if c} | self.years() | self._anchors()

    def conditions(self) -> list[When]:
        """What decides whether it is read, and its anchors."""
        return [self.when, *(when for anchor in self.since or [] for when in anchor.conditions())]

    def years(self) -> set[str]:
        """The columns of whole numbers that make a calendar date."""
        return {c for c in (self.year, self.month, self.day, self.minus_years) if c}

    def steps(self) -> "Iterator[TimeSpec]":
        """Everything it is counted from, and itself."""
        for anchor in self.since or []:
            yield from anchor.steps()
        yield self

    def _anchors(self) -> set[str]:
        return {c for anchor in self.since or [] for c in anchor.columns()}


# One way to read the time, or several: the first that is not null counts.
Times = Annotated[
    list[TimeSpec],
    BeforeValidator(_listed, json_schema_input_type=str | TimeSpec | list[str | TimeSpec]),
    Field(min_length=1),
]
TimeSpec.model_rebuild()


class Conversion(Spec):
    """What a number in some unit becomes: ``number * factor + offset``, in unit `to`."""

    to: str = Field(min_length=1)
    factor: float = 1.0
    offset: float = 0.0


class SectionRules(Spec):
    """A section read off a column: the first pattern that is found in it decides, else the default."""

    column: Column
    rules: dict[Pattern, Section]
    default: Section


class EventSpec(Spec):
    """One event that a row can make.

    `value` reads a column that holds numbers and text: the number where it is one, the text otherwise.
    `numeric_value` promises numbers: another text there quarantines the row. `text_value` is kept only
    where there is no number, unless `text_beside_number`. `unit` names the column of the unit, `unit_text`
    is the unit of all of them; `convert` turns numbers of some units into others.
    """

    code: Template
    section: Section | SectionRules
    static: bool = False
    time: Times | None = None
    available: Times | None = None
    value: Column | None = None
    numeric_value: Column | None = None
    text_value: Column | None = None
    text_beside_number: bool = False
    unit: Column | None = None
    unit_text: str | None = None
    convert: Annotated[dict[RawText, Conversion], ByRawText] = Field(default={})
    description: Template | None = None
    when: When = When()

    @model_validator(mode="after")
    def _fits_together(self) -> "EventSpec":
        if self.static and (self.time or self.available):
            raise ValueError("a static event has neither `time` nor `available`")
        if not self.static and not self.time:
            raise ValueError("give `time`, or `static: true`")
        if self.value and (self.numeric_value or self.text_value):
            raise ValueError("give either `value`, or `numeric_value` and `text_value`")
        if self.unit and self.unit_text:
            raise ValueError("give either `unit` or `unit_text`")
        if self.convert and not (self.unit and (self.value or self.numeric_value)):
            raise ValueError("`convert` needs `unit`, and `value` or `numeric_value`")
        if any(t.plus_days or t.plus_hours for t in self.time or []):
            raise ValueError("`plus_days` and `plus_hours` belong to `available`")
        if any(t.year or t.fixed for t in self.available or []):
            raise ValueError("`available` can be read neither from a year nor from `fixed`")
        return self

    def times(self) -> list[TimeSpec]:
        """All times it reads, anchors included."""
        return [step for t in [*(self.time or []), *(self.available or [])] for step in t.steps()]

    def columns(self) -> set[str]:
        """The columns this event reads, joined ones included."""
        plain = {c for c in (self.value, self.numeric_value, self.text_value, self.unit) if c}
        if isinstance(self.section, SectionRules):
            plain.add(self.section.column)
        times = {c for t in self.times() for c in t.columns()}
        conditions = {c for when in self.conditions() for c in when.columns()}
        described = template_columns(self.description) if self.description else set()
        return plain | times | conditions | template_columns(self.code) | described

    def conditions(self) -> list[When]:
        """Everything that decides whether, and from what, it is made."""
        times = [*(self.time or []), *(self.available or [])]
        return [self.when, *(when for t in times for when in t.conditions())]
