"""What a cohort file may declare of when its records were known; whether they keep it is `availability.py`.

`available_time` is made by the cohort's own spec. If that is wrong, everything that goes by it is wrong alike
and no recomputation can notice. So the spec says a second time, in other words and about the finished events,
what a clinician knows: diagnosis codes are written at discharge, a first-day score takes a day.
"""

from pydantic import Field, model_validator

from ehr_assets.nodes.pattern_spec import Codes
from ehr_assets.specs import Spec

PROMISES = ("timed", "known_later", "at_least_hours", "not_before", "not_during")


class Stay(Spec):
    """From an event of `start` to the subject's next one of `end`."""

    start: Codes
    end: Codes


class Anchor(Spec):
    """`hours` after the subject's last event with one of the codes, at or before the record's own time."""

    codes: Codes
    hours: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class AvailabilityRule(Spec):
    """When records with these codes can have been known. `mostly`: the share of them that must keep it.

    `timed`: they have a time, so that they are not known from birth on. `known_later`: later than they
    happened. `at_least_hours`: so much later. `not_before`: an anchor. `not_during`: not before the end of
    the stay that they belong to. `because` is shown with what is found.
    """

    codes: Codes
    timed: bool = False
    known_later: bool = False
    at_least_hours: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    not_before: Anchor | None = None
    not_during: Stay | None = None
    mostly: float = Field(default=1.0, gt=0, le=1)
    because: str = ""

    @model_validator(mode="after")
    def _says_something(self) -> "AvailabilityRule":
        if not self.promises():
            raise ValueError(f"give at least one of {', '.join(PROMISES)}")
        return self

    def promises(self) -> list[str]:
        """The keys of `PROMISES` that this rule sets."""
        return [name for name in PROMISES if getattr(self, name)]
