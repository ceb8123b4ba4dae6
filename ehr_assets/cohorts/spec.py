"""What a cohort file may say: where the raw tables are, who the subjects are, what makes a cohort of them.

Only pydantic models and their loading live here (light imports: specs are read when the definitions load).
The tables are `table_spec.py`; `readers.py` reads them, `meds/` makes the events.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from ehr_assets.cohorts.event_spec import ByRawText, Column, Pattern, RawText
from ehr_assets.cohorts.file_spec import TableFile
from ehr_assets.cohorts.table_spec import JoinSpec, TableDefaults, TableSpec
from ehr_assets.contracts import Section
from ehr_assets.leakage.accepted_spec import AcceptedFeature
from ehr_assets.leakage.availability_spec import AvailabilityRule
from ehr_assets.meds.quality_spec import QualitySpec
from ehr_assets.nodes.pattern_spec import Name
from ehr_assets.nodes.trigger_spec import NodesSpec
from ehr_assets.probes.spec import BaselineSpec
from ehr_assets.specs import Spec, parse_spec, read_extended

COHORTS = Path(__file__).parent / "specs"


def _zone(name: str) -> str:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"'{name}' is not a time zone; write e.g. America/New_York or UTC") from None
    return name


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


class CohortSpec(Spec):
    """A cohort: from its raw tables to its decision nodes, as data.

    `joins` are joins under a name, for tables to refer to. `time_zone`: where the hospital is; times that
    are written with a zone are converted to it (without it they are quarantined). A cohort without
    `decision_nodes` has MEDS frames and can be part of a corpus, but no recipe is evaluated on it.
    `availability`: what must hold of the finished events about when they were known. A file may
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
    availability: list[AvailabilityRule] = Field(default=[])
    accepted_features: list[AcceptedFeature] = Field(default=[])
    decision_nodes: NodesSpec | None = None
    baselines: BaselineSpec = BaselineSpec()

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

    @model_validator(mode="after")
    def _words_are_read(self) -> "CohortSpec":
        read = {table.name: set(table.raw_columns()) for table in self.tables}
        if self.subjects.person_key:
            read[self.subjects.table].add(self.subjects.person_key)
        for table in self.tables:
            for kind, columns, argument in (p for entry in table.expect for p in entry.promises()):
                read[table.name].update(columns)
                if kind == "references":
                    other, _, column = argument.partition(".")
                    read.get(other, set()).add(column)
        for table in self.tables:
            table.check_words(read[table.name], where=f"table '{table.name}': ")
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
