"""What a cohort file may say: where the raw tables are, and how their rows become MEDS events.

Only pydantic models and their loading live here (light imports: specs are read when the definitions load).
`readers.py` opens the tables, `meds/` makes the events.
"""

import codecs
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ehr_assets.cohorts.expect_spec import ExpectSpec
from ehr_assets.cohorts.templates import Template, template_columns
from ehr_assets.contracts import Section
from ehr_assets.meds.quality_spec import QualitySpec
from ehr_assets.nodes.spec import Name, NodesSpec
from ehr_assets.specs import Spec, parse_spec, read_yaml


def _encoding(name: str) -> str:
    try:
        codecs.lookup(name)
    except LookupError:
        raise ValueError(f"'{name}' is not an encoding; write e.g. utf-8, latin-1 or utf-16") from None
    return name


def _raw_text(value: Any) -> Any:
    """Raw tables are read as text: ``equals: {flag: 1}`` means the text "1"."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _on(value: Any) -> Any:
    return {key: key for key in value} if isinstance(value, list | tuple) else value


Column = Annotated[str, Field(min_length=1)]
RawText = Annotated[str, BeforeValidator(_raw_text)]
Encoding = Annotated[str, AfterValidator(_encoding)]
# Relative to the root; the ending (.csv, .csv.gz, .parquet) is found by itself.
TableFile = Annotated[str, Field(pattern=r"^[^/\\](?:[^\\]*[^/\\])?$")]


class TablesSource(Spec):
    """Raw tables that lie in a directory named by an environment variable."""

    kind: Literal["tables"]
    root_env: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]


class SyntheticSource(Spec):
    """Raw tables written by an embedded simulator."""

    kind: Literal["synthetic"]
    simulator: Name
    subjects: int = Field(ge=0)
    seed: int = Field(ge=0)


class SplitsSpec(Spec):
    """Fractions: `held_out` of all subjects, `tuning` of the rest (SMB §4.2: 85 % development)."""

    salt: str = Field(default="ehr-assets", min_length=1)
    held_out: float = Field(default=0.15, ge=0, lt=1)
    tuning: float = Field(default=0.15, ge=0, lt=1)


class SubjectsSpec(Spec):
    """The roster: the table with one row per subject. `person_key`: the same person in several cohorts."""

    table: str
    column: Column
    person_key: Column | None = None


class When(Spec):
    """Conditions on raw columns (text, stripped); all must hold, otherwise the row makes no such event."""

    not_null: list[Column] = Field(default=[])
    equals: dict[Column, RawText] = Field(default={})
    is_in: dict[Column, list[RawText]] = Field(default={}, alias="in")

    def columns(self) -> set[str]:
        return {*self.not_null, *self.equals, *self.is_in}


class TimeSpec(Spec):
    """Where a time is read from: a column (ISO date or date-time), or a year minus a number of years.

    `at` (kind date): the moment of the day that stands for the day; default: its start for `time`, its end
    for `available`. `plus_days` (in `available`): that much later, for records that tell only when something
    was begun.
    """

    column: Column | None = None
    kind: Literal["timestamp", "date"] = "timestamp"
    at: Literal["start_of_day", "end_of_day"] | None = None
    plus_days: int = Field(default=0, ge=0)
    year: Column | None = None
    minus_years: Column | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_way(self) -> "TimeSpec":
        if (self.column is None) == (self.year is None):
            raise ValueError("give either `column` or `year`")
        if self.minus_years and not self.year:
            raise ValueError("`minus_years` needs `year`")
        if self.at and (self.kind != "date" or not self.column):
            raise ValueError("`at` belongs to a `column` of `kind: date`")
        return self

    def columns(self) -> set[str]:
        return {c for c in (self.column, self.year, self.minus_years) if c}


# One way to read the time, or several: the first that is not null counts.
Times = Annotated[list[TimeSpec], BeforeValidator(_listed), Field(min_length=1)]


class EventSpec(Spec):
    """One event that a row can make.

    `value` reads a column that holds numbers and text: the number where it is one, the text otherwise.
    `numeric_value` promises numbers: another text there quarantines the row. `text_value` is kept only
    where there is no number.
    """

    code: Template
    section: Section
    static: bool = False
    time: Times | None = None
    available: Times | None = None
    value: Column | None = None
    numeric_value: Column | None = None
    text_value: Column | None = None
    unit: Column | None = None
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
        if any(t.plus_days for t in self.time or []):
            raise ValueError("`plus_days` belongs to `available`")
        if any(t.year for t in self.available or []):
            raise ValueError("`available` cannot be read from a year")
        return self

    def columns(self) -> set[str]:
        """The columns this event reads, joined ones included."""
        plain = {c for c in (self.value, self.numeric_value, self.text_value, self.unit) if c}
        times = {c for t in [*(self.time or []), *(self.available or [])] for c in t.columns()}
        described = template_columns(self.description) if self.description else set()
        return plain | times | template_columns(self.code) | described | self.when.columns()


class JoinSpec(Spec):
    """A left join to a dimension or visit table; where a key occurs twice there, its first row counts.

    `on`: column here → column there (or a list where the names are equal); `columns`: new name → column
    there; `when`: only these rows of that table; `optional`: an absent table gives nulls.
    """

    file: TableFile
    on: Annotated[dict[Column, Column], BeforeValidator(_on), Field(min_length=1)]
    columns: dict[Column, Column] = Field(min_length=1)
    when: When = When()
    encoding: Encoding = "utf-8"
    optional: bool = False

    @model_validator(mode="before")
    @classmethod
    def _on_is_a_key(cls, value: Any) -> Any:
        # YAML 1.1 reads an unquoted `on` as true (which overriding, through JSON, spells "true").
        if isinstance(value, Mapping):
            return {"on" if key in (True, "true") else key: v for key, v in value.items()}
        return value

    @model_validator(mode="after")
    def _new_names(self) -> "JoinSpec":
        if both := sorted(set(self.on) & set(self.columns)):
            raise ValueError(f"`columns` gives {both[0]} a second meaning; choose another new name")
        return self

    def columns_there(self) -> set[str]:
        return {*self.on.values(), *self.columns.values(), *self.when.columns()}


class TableSpec(Spec):
    """One raw table and the events its rows make."""

    name: Name
    file: TableFile
    subject_id: Column = "subject_id"
    encoding: Encoding = "utf-8"
    optional: bool = False
    joins: list[JoinSpec] = Field(default=[])
    events: list[EventSpec] = Field(min_length=1)
    # Not in dumps, and so not in code versions: promises shape no data.
    expect: list[ExpectSpec] = Field(default=[], exclude=True)

    @model_validator(mode="after")
    def _joined_once(self) -> "TableSpec":
        names = [name for join in self.joins for name in join.columns]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"two joins give the column '{twice[0]}'; choose another new name")
        read = {self.subject_id}
        for join in self.joins:
            if both := sorted(read & set(join.columns)):
                raise ValueError(f"a join gives the column '{both[0]}', which the table already has")
            read |= set(join.on)
        return self

    def raw_columns(self) -> list[str]:
        """The columns to read from the table's own file, sorted."""
        wanted, joined = {self.subject_id}, set()
        for join in self.joins:
            wanted |= set(join.on) - joined
            joined |= set(join.columns)
        for event in self.events:
            wanted |= event.columns() - joined
        return sorted(wanted)


class CohortSpec(Spec):
    """A cohort: from its raw tables to its decision nodes, as data."""

    name: Name
    title: str = Field(min_length=1)
    description: str = ""
    source: Annotated[TablesSource | SyntheticSource, Field(discriminator="kind")]
    quarantine_threshold: float = Field(default=0.01, ge=0, le=1)
    shard_subjects: int = Field(default=2000, ge=1)
    splits: SplitsSpec = SplitsSpec()
    quality: QualitySpec = QualitySpec()
    subjects: SubjectsSpec
    tables: list[TableSpec] = Field(min_length=1)
    decision_nodes: NodesSpec

    @model_validator(mode="after")
    def _tables_fit(self) -> "CohortSpec":
        names = [t.name for t in self.tables]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"table names must be unique; given twice: {', '.join(twice)}")
        if self.subjects.table not in names:
            raise ValueError(
                f"subjects.table '{self.subjects.table}' is not one of the tables: {', '.join(names)}"
            )
        roster = self.roster
        if roster.optional:
            raise ValueError(f"subjects.table '{roster.name}' cannot be optional")
        if roster.subject_id != self.subjects.column:
            raise ValueError(
                f"subjects.column is '{self.subjects.column}' but the table '{roster.name}' has "
                f"subject_id: {roster.subject_id}"
            )
        return self

    @property
    def roster(self) -> TableSpec:
        """The table with one row per subject."""
        return next(t for t in self.tables if t.name == self.subjects.table)


def load_cohort(path: Path, overrides: Mapping[str, Any] = {}) -> CohortSpec:
    """The cohort file at `path`, dotted overrides applied. Raises SpecError naming file, key and reason."""
    return parse_spec(CohortSpec, read_yaml(path), str(path), overrides)
