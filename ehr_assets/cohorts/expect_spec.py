"""What a cohort file may promise of a raw table: the entries of `expect`; each becomes one or more checks.

Light imports only: this is read with the spec. How the promises are asked stands in `raw_suites.py`.
"""

from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from ehr_assets.cohorts.event_spec import Column, Pattern, RawText
from ehr_assets.specs import Spec

Kind = Literal["unique", "not_null", "one_of", "between", "matches", "row_count", "references"]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_LISTED = BeforeValidator(_listed, json_schema_input_type=str | list[str])


class RangeSpec(Spec):
    """Numbers or days, both inclusive; a value that is no such thing is outside."""

    min: float | date | None = None
    max: float | date | None = None

    @model_validator(mode="after")
    def _sound(self) -> "RangeSpec":
        given = [v for v in (self.min, self.max) if v is not None]
        if not given:
            raise ValueError("give `min`, `max` or both")
        if len({isinstance(v, date) for v in given}) > 1:
            raise ValueError("`min` and `max` must both be numbers or both be dates")
        if len(given) == 2 and given[0] > given[1]:  # type: ignore[operator]
            raise ValueError("`min` is greater than `max`")
        return self

    @property
    def of_dates(self) -> bool:
        return isinstance(self.max if self.min is None else self.min, date)


class RowCountSpec(Spec):
    """How many rows the table has, both inclusive."""

    min: int | None = Field(default=None, ge=0)
    max: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _sound(self) -> "RowCountSpec":
        if self.min is None and self.max is None:
            raise ValueError("give `min`, `max` or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("`min` is greater than `max`")
        return self


class ExpectSpec(Spec):
    """One promise: exactly one of the kinds. Values are text, stripped; empty is null, which only `not_null`
    and `unique` over several columns mind.

    `unique`: a column, or columns that are unique together. `not_null`: columns. `one_of`: column → allowed
    texts. `between`: column → range. `matches`: column → regular expression (RE2), found anywhere in the
    text. `row_count`. `references`: column → `table.column` of the same cohort. `mostly`: the share of rows
    that must keep it (not for `row_count`). `blocking`: stop what is downstream, rather than warn.
    """

    unique: Annotated[list[Column], _LISTED, Field(min_length=1)] | None = None
    not_null: Annotated[list[Column], _LISTED, Field(min_length=1)] | None = None
    one_of: (
        Annotated[dict[Column, Annotated[list[RawText], Field(min_length=1)]], Field(min_length=1)] | None
    ) = None
    between: Annotated[dict[Column, RangeSpec], Field(min_length=1)] | None = None
    matches: Annotated[dict[Column, Pattern], Field(min_length=1)] | None = None
    row_count: RowCountSpec | None = None
    references: (
        Annotated[dict[Column, Annotated[str, Field(pattern=r"^[^.]+\..+$")]], Field(min_length=1)] | None
    ) = None
    mostly: float = Field(default=1.0, gt=0, le=1)
    blocking: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> "ExpectSpec":
        kinds = get_args(Kind)
        if sum(getattr(self, kind) is not None for kind in kinds) != 1:
            raise ValueError(f"give exactly one of {', '.join(kinds)}")
        if self.row_count and self.mostly != 1:
            raise ValueError("`mostly` does not go with `row_count`")
        return self

    def promises(self) -> Iterator[tuple[Kind, tuple[str, ...], Any]]:
        """(kind, columns, argument) of each check that this entry makes."""
        if self.unique:
            yield "unique", tuple(self.unique), None
        for column in self.not_null or []:
            yield "not_null", (column,), None
        for kind in ("one_of", "between", "matches", "references"):
            for column, argument in (getattr(self, kind) or {}).items():
                yield kind, (column,), argument
        if self.row_count:
            yield "row_count", (), self.row_count
