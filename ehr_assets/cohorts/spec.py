"""What a cohort file may say: where the raw tables are, how they are read, and what makes a cohort of them.

Only pydantic models and their loading live here (light imports: specs are read when the definitions load).
How a row becomes events is `event_spec.py`; `readers.py` reads the tables, `meds/` makes the events.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from ehr_assets.cohorts.event_spec import ByRawText, Column, EventSpec, Pattern, RawText, When
from ehr_assets.cohorts.expect_spec import ExpectSpec
from ehr_assets.cohorts.file_spec import FileSpec, TableFile
from ehr_assets.cohorts.patterns import file_columns
from ehr_assets.contracts import Section
from ehr_assets.meds.quality_spec import QualitySpec
from ehr_assets.nodes.spec import Name, NodesSpec
from ehr_assets.specs import Spec, parse_spec, read_extended

COHORTS = Path(__file__).parent / "specs"


def _zone(name: str) -> str:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"'{name}' is not a time zone; write e.g. America/New_York or UTC") from None
    return name


def _on(value: Any) -> Any:
    return {key: key for key in value} if isinstance(value, list | tuple) else value


Env = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]


class TablesSource(Spec):
    """Raw tables in a directory, or under an ``s3://`` prefix, that an environment variable names."""

    kind: Literal["tables"]
    root_env: Env


class SyntheticSource(Spec):
    """Raw tables written by an embedded simulator."""

    kind: Literal["synthetic"]
    simulator: Name
    subjects: int = Field(ge=0)
    seed: int = Field(ge=0)


class MedsSource(Spec):
    """A MEDS dataset (0.3 or 0.4), made elsewhere, in a directory that an environment variable names.

    `sections`: pattern in a code → section, the first that is found counts; used where the dataset has no
    `section` of its own. Where it has no `available_time`, a record is known at its time, and one of exactly
    midnight at the end of that day (unless `midnight_is_day` is false): MEDS tells no days from instants.
    """

    kind: Literal["meds"]
    root_env: Env
    sections: dict[Pattern, Section] = Field(default={})
    default_section: Section = "observations"
    midnight_is_day: bool = True


class GivenSplits(Spec):
    """Splits dealt elsewhere: a table with a subject and its split per row.

    `names`: what that table calls train, tuning and held_out, where it calls them otherwise.
    """

    file: TableFile
    subject_id: Column = "subject_id"
    split: Column = "split"
    names: Annotated[dict[RawText, Literal["train", "tuning", "held_out"]], ByRawText] = Field(default={})


class SplitsSpec(Spec):
    """Fractions: `held_out` of all subjects, `tuning` of the rest (SMB §4.2: 85 % development).

    `given`: the splits of a published benchmark instead; who is not in them is dealt by the fractions.
    """

    salt: str = Field(default="ehr-assets", min_length=1)
    held_out: float = Field(default=0.15, ge=0, lt=1)
    tuning: float = Field(default=0.15, ge=0, lt=1)
    given: GivenSplits | None = None


class SubjectsSpec(Spec):
    """The roster: the table that says who the subjects are.

    `ids`: "integer" compares ids as whole numbers (0042 and 42 are the same subject) up to 64 bits; "text"
    takes them as they are (barcodes, UUIDs, longer numbers) and gives each the first 63 bits of its SHA-256.
    `person_key`: the same person in several cohorts. `one_row_each`: a second row of a subject is
    quarantined; otherwise whoever occurs in the table is a subject.
    """

    table: str
    column: Column
    ids: Literal["integer", "text"] = "integer"
    person_key: Column | None = None
    one_row_each: bool = True


class TableDefaults(Spec):
    """What holds for every table and join of the cohort that does not say otherwise itself."""

    encoding: str | list[str] | None = None
    delimiter: str | None = None
    quote: str | None = '"'
    skip_rows: int | None = None
    missing: list[RawText] | None = None
    optional: bool | None = None


class JoinSpec(FileSpec):
    """A left join to a dimension or visit table; where a key occurs twice there, its first row counts.

    `on`: column here → column there (or a list where the names are equal); `columns`: new name → column
    there; `when`: only these rows of that table; `optional`: an absent table gives nulls. Among a table's
    joins, ``{join: NAME, on: ..., prefix: x_}`` is the named one by another column, with other new names.
    """

    on: Annotated[
        dict[Column, Column],
        BeforeValidator(_on, json_schema_input_type=dict[str, str] | list[str]),
        Field(min_length=1),
    ]
    columns: dict[Column, Column] = Field(min_length=1)
    when: When = When()

    @model_validator(mode="after")
    def _new_names(self) -> "JoinSpec":
        if both := sorted(set(self.on) & set(self.columns)):
            raise ValueError(f"`columns` gives {both[0]} a second meaning; choose another new name")
        if len(set(self.on.values())) < len(self.on):
            raise ValueError("`on` names a column of the joined table twice")
        return self

    @model_validator(mode="after")
    def _one_row_per_key(self) -> "JoinSpec":
        if self.lists:
            raise ValueError("`lists` belong to a table, not to a join")
        return self

    def columns_there(self) -> set[str]:
        return {*self.on.values(), *self.columns.values(), *self.when.columns()}

    def as_stored(self) -> "JoinSpec":
        """The join by the names of that table alone: equal for all joins that can share one copy of it."""
        names = {c: c for c in sorted({*self.columns.values()})}
        return self.model_copy(update={"on": {c: c for c in sorted(self.on.values())}, "columns": names})

    def keys_here(self) -> list[str]:
        """The columns of the joining table, in the order of the keys of `as_stored`."""
        return sorted(self.on, key=lambda here: self.on[here])


class TableSpec(FileSpec):
    """One raw table and the events its rows make. `when`: only these rows make events.

    `first_of`: new name → columns, joined ones included, of which the first that is not null counts.
    """

    name: Name
    subject_id: Column = "subject_id"
    joins: list[JoinSpec] = Field(default=[])
    first_of: dict[Column, Annotated[list[Column], Field(min_length=1)]] = Field(default={})
    when: When = When()
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
        if both := sorted(set(self.first_of) & (read | set(names))):
            raise ValueError(f"`first_of` gives the column '{both[0]}' a second meaning; choose another name")
        among = {c for columns in self.first_of.values() for c in columns}
        if inside := sorted(among & set(self.first_of)):
            raise ValueError(f"`first_of` cannot choose '{inside[0]}', which it gives itself")
        return self

    @model_validator(mode="after")
    def _lists_are_read(self) -> "TableSpec":
        unread = sorted(set(self.lists.columns) - set(self.raw_columns())) if self.lists else []
        if unread:
            raise ValueError(f"`lists` names the column '{unread[0]}', which no event reads")
        return self

    def raw_columns(self) -> list[str]:
        """The columns to read from the table's own file, sorted; those of the file's path included."""
        wanted, joined = {self.subject_id}, set()
        for join in self.joins:
            wanted |= set(join.on) - joined
            joined |= set(join.columns)
        for reader in [self.when, *self.events]:
            for column in reader.columns():
                wanted |= self.sources(column) - joined
        return sorted(wanted)

    def sources(self, column: str) -> set[str]:
        """The columns, of the table or of its joins, that a column which an event reads comes from."""
        return set(self.first_of.get(column, [column]))

    def columns_in_path(self) -> set[str]:
        return file_columns(self.file)


class CohortSpec(Spec):
    """A cohort: from its raw tables to its decision nodes, as data.

    `joins` are joins under a name, for tables to refer to. `time_zone`: where the hospital is; times that
    are written with a zone are converted to it (without it they are quarantined). A cohort without
    `decision_nodes` has MEDS frames and can be part of a corpus, but no recipe is evaluated on it. A file may
    say ``extends: NAME`` of another cohort: it then says only what differs (a table by its `name`).
    """

    name: Name
    title: str = Field(min_length=1)
    description: str = ""
    source: Annotated[TablesSource | SyntheticSource | MedsSource, Field(discriminator="kind")]
    time_zone: Annotated[str, AfterValidator(_zone)] | None = None
    quarantine_threshold: float = Field(default=0.01, ge=0, le=1)
    shard_subjects: int = Field(default=2000, ge=1)
    splits: SplitsSpec = SplitsSpec()
    quality: QualitySpec = QualitySpec()
    subjects: SubjectsSpec
    table_defaults: TableDefaults | None = None
    joins: dict[Name, JoinSpec] = Field(default={})
    tables: list[TableSpec] = Field(min_length=1)
    decision_nodes: NodesSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _expanded(cls, value: Any) -> Any:
        from ehr_assets.cohorts.expand import expanded

        return expanded(value) if isinstance(value, Mapping) else value

    @field_validator("tables")
    @classmethod
    def _named_once(cls, tables: list[TableSpec]) -> list[TableSpec]:
        names = [t.name for t in tables]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"table names must be unique; given twice: {', '.join(twice)}")
        return tables

    @model_validator(mode="after")
    def _tables_fit(self) -> "CohortSpec":
        names = [t.name for t in self.tables]
        if self.subjects.table not in names:
            raise ValueError(
                f"subjects.table '{self.subjects.table}' is not one of the tables: {', '.join(names)}"
            )
        roster = self.roster
        if roster.optional:
            raise ValueError(f"subjects.table '{roster.name}' cannot be optional")
        if roster.lists:
            raise ValueError(f"subjects.table '{roster.name}' cannot have `lists`: a row is a subject there")
        if roster.subject_id != self.subjects.column:
            raise ValueError(
                f"subjects.column is '{self.subjects.column}' but the table '{roster.name}' has "
                f"subject_id: {roster.subject_id}"
            )
        return self

    @property
    def roster(self) -> TableSpec:
        """The table that says who the subjects are."""
        return next(t for t in self.tables if t.name == self.subjects.table)


def load_cohort(
    path: Path, overrides: Mapping[str, Any] = {}, search: Iterable[Path] = (COHORTS,)
) -> CohortSpec:
    """The cohort file at `path`, laid over the one it `extends`, dotted overrides applied.

    Args:
        search: folders in which the name given in `extends` is looked up, after the file's own folder.

    Raises:
        SpecError: naming file, key and reason.
    """
    from ehr_assets.cohorts.expand import laid_over

    data = read_extended(path, search, what="cohort", layer=laid_over)
    return parse_spec(CohortSpec, data, str(path), overrides)
