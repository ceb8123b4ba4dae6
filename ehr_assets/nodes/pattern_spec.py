"""What triggers and tasks are both written in: codes, names, conditions on values.

Only pydantic models live here (light imports: cohort specs import this module when the definitions load).
"""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from ehr_assets.contracts import Section
from ehr_assets.specs import Spec


def _compiles(pattern: str) -> str:
    if not pattern:
        raise ValueError("an empty regular expression would match every code")
    try:
        re.compile(pattern)
    except re.error as e:
        raise ValueError(f"not a regular expression: {e}") from None
    return pattern


# Searched (not anchored) in the MEDS code with Python's `re`: write `^` and `$` where they are meant.
Regex = Annotated[str, AfterValidator(_compiles)]
Codes = Annotated[list[Regex], Field(min_length=1)]
# Names become columns, file names and asset metadata.
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]

A_LIFE = 36_525
"""Days. No span is longer: times that far from any event still are times."""
Days = Annotated[float, Field(gt=0, le=A_LIFE)]
NoOrSomeDays = Annotated[float, Field(ge=0, le=A_LIFE)]
NoOrSomeHours = Annotated[float, Field(ge=0, le=24 * A_LIFE)]
WholeDays = Annotated[int, Field(gt=0, le=A_LIFE)]


class ValueCondition(Spec):
    """Bounds on numeric_value, all of which must hold (compared in float32, as MEDS stores values)."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "ValueCondition":
        if all(bound is None for bound in (self.ge, self.gt, self.le, self.lt)):
            raise ValueError("give at least one of ge, gt, le, lt")
        return self


class EventPattern(Spec):
    """Events by code, and if given by section and value (without a value, a value condition fails)."""

    codes: Codes
    section: Section | None = None
    value: ValueCondition | None = None


def refuse_duplicates(what: str, names: list[str]) -> None:
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(f"{what} names must be unique; given twice: {', '.join(twice)}")
