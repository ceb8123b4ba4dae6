"""What a cohort file may say of a table: its joins, and the events that its rows make.

Only pydantic models (light imports). How a file is read is `file_spec.py`, how a row becomes an event
`event_spec.py`; the cohort as a whole is `spec.py`.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from ehr_assets.cohorts.event_spec import Column, EventSpec, RawText, When
from ehr_assets.cohorts.expect_spec import ExpectSpec
from ehr_assets.cohorts.file_spec import FileSpec
from ehr_assets.nodes.pattern_spec import Name
from ehr_assets.specs import Spec


def _on(value: Any) -> Any:
    return {key: key for key in value} if isinstance(value, list | tuple) else value


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

    @model_validator(mode="after")
    def _words_are_read(self) -> "JoinSpec":
        self.check_words(self.columns_there())
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
