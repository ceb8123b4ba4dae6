"""What a cohort may say about the quality of its MEDS frame: `quality` in the cohort file.

Light imports only: this is read with the spec. What is asked with it stands in `suites.py`.
"""

from datetime import date

from pydantic import Field, model_validator

from ehr_assets.specs import Spec


class WindowSpec(Spec):
    """First and last day (inclusive) from which the extract can hold events; births may be earlier."""

    first: date | None = None
    last: date | None = None

    @model_validator(mode="after")
    def _in_order(self) -> "WindowSpec":
        if not (self.first or self.last):
            raise ValueError("give `first`, `last` or both")
        if self.first and self.last and self.last < self.first:
            raise ValueError("`last` is before `first`")
        return self


class ValueRangesSpec(Spec):
    """The range of a code's numbers, from train subjects: q10 and q90, widened on both sides.

    A code has a range when train has `min_values` numbers of it; `spread` is the widening in multiples of
    q90 - q10. A code is out of range when more than `tolerance` of its numbers, of all splits, are outside;
    the check warns when more than `codes_tolerance` of the codes with a range are. Codes that are mostly zero
    have no scale, and no range. The defaults let skewed laboratory values pass, and find mistaken units.
    """

    min_values: int = Field(default=100, ge=10)
    spread: float = Field(default=10.0, ge=0)
    tolerance: float = Field(default=0.02, ge=0, lt=1)
    codes_tolerance: float = Field(default=0.02, ge=0, lt=1)


class VolumeSpec(Spec):
    """Events (but births) per month against the last materialization: a month of at least `min_events` in one
    of the two may not change by more than `factor`, let alone vanish. Compared are the months from the first
    there is now to the last but one there was: the last was still growing."""

    factor: float = Field(default=2.0, gt=1)
    min_events: int = Field(default=100, ge=1)


class QualitySpec(Spec):
    """Windows and tolerances of the MEDS suite.

    `death_grace_days`: how long after a death its subject's record may go on (autopsies, billing).
    Tolerances are shares: `after_death_tolerance` of the subjects who died, `window_tolerance` of the events,
    `duplicate_tolerance` of the events, `unit_tolerance` of a code's events with a unit that are not in its
    most frequent one.
    """

    window: WindowSpec | None = None
    window_tolerance: float = Field(default=0.0, ge=0, lt=1)
    death_grace_days: int = Field(default=30, ge=0)
    after_death_tolerance: float = Field(default=0.01, ge=0, lt=1)
    duplicate_tolerance: float = Field(default=0.01, ge=0, lt=1)
    unit_tolerance: float = Field(default=0.01, ge=0, lt=1)
    values: ValueRangesSpec = ValueRangesSpec()
    volume: VolumeSpec = VolumeSpec()
