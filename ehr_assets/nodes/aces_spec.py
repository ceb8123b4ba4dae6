"""What a task file of ACES may say (justin13601/ACES 0.7): predicates, a trigger, windows around it.

The grammar only, read strictly; which part of it has a counterpart here is decided in `aces.py`.
"""

import re
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ehr_assets.nodes.pattern_spec import A_LIFE
from ehr_assets.specs import Spec

_UNITS = {"w": 7 * 86400, "d": 86400, "h": 3600, "m": 60, "s": 1}
_UNIT = r"(weeks?|wks?|w|days?|d|hours?|hrs?|hr|h|minutes?|mins?|m|seconds?|secs?|s)"
_PART = rf"(\d+(?:\.\d+)?)\s*{_UNIT}\b"


def duration(text: str) -> timedelta:
    """ "24h", "30 days", "1 day 2 hours"; ValueError for anything else, and for more than a life."""
    if not re.fullmatch(rf"\s*(?:{_PART}[\s,]*)+", text):
        raise ValueError(f"'{text.strip()}' is no duration such as 24h or 30 days")
    seconds = sum(float(n) * _UNITS[unit[0]] for n, unit in re.findall(_PART, text))
    if seconds > A_LIFE * _UNITS["d"]:
        raise ValueError(f"'{text.strip()}' is longer than a life ({A_LIFE} days)")
    return timedelta(seconds=seconds)


class Predicate(BaseModel):
    """Events by code and value, or `expr`: or(…), and(…) of others. Further keys compare other columns."""

    model_config = ConfigDict(extra="allow", frozen=True)

    code: str | dict[Literal["regex", "any"], str | list[str]] | None = None
    value_min: float | None = None
    value_max: float | None = None
    value_min_inclusive: bool | None = None
    value_max_inclusive: bool | None = None
    expr: str | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> "Predicate":
        if (self.code is None) == (self.expr is None):
            raise ValueError("give one of code, expr")
        if isinstance(self.code, dict) and len(self.code) != 1:
            raise ValueError("code: give one of regex, any")
        return self


def _counts(value: Any) -> Any:
    """ACES writes "(1, None)", which YAML reads as text. At least 0 asks for nothing."""
    if not isinstance(value, str):
        return value
    parts = [part.strip() for part in value.strip().strip("()").split(",")]
    read = [None if part in ("None", "") else part for part in parts]
    return [None if read[0] == "0" else read[0], *read[1:]]


Counts = Annotated[tuple[int | None, int | None], BeforeValidator(_counts)]


class Window(Spec):
    """From `start` to `end`, one of which refers to the other; how often predicates occur in it (`has`)."""

    start: str | None
    end: str | None
    start_inclusive: bool
    end_inclusive: bool
    has: dict[str, Counts] = Field(default_factory=dict)
    label: str | None = None
    index_timestamp: Literal["start", "end"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_required(cls, value: Any) -> Any:
        """An empty `has:` says what no `has` does."""
        return {k: v for k, v in value.items() if k != "has" or v} if isinstance(value, dict) else value


class AcesFile(Spec):
    """A task file of ACES. `description` and `metadata` are for people, as in ACES."""

    predicates: dict[str, Predicate]
    trigger: str
    windows: dict[str, Window]
    patient_demographics: dict[str, Any] = Field(default_factory=dict)
    description: str = ""
    metadata: dict[str, Any] | None = None
