"""What a cohort's `decision_nodes:` section may say; how triggers are found is `triggers.py`."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from ehr_assets.nodes.pattern_spec import (
    A_LIFE,
    Codes,
    Days,
    Name,
    NoOrSomeDays,
    NoOrSomeHours,
    Regex,
    refuse_duplicates,
)
from ehr_assets.paths import relative_file
from ehr_assets.specs import Spec

_A_YEAR = 8766  # hours


class _Trigger(Spec):
    """What all triggers share: a name, the codes, when the node stands, and whether it stands alone.

    `merge`: ``day`` makes one node of the triggers of a calendar day, at the last of them; ``never`` lets
    the node stand at its own time. Where it is not said, a node that waits (or comes every few hours) stands
    alone: moved to a later junction of the day, it would be asked what that junction has answered.
    """

    name: Name
    codes: Codes
    merge: Literal["day", "never"] | None = None

    @property
    def stands_alone(self) -> bool:
        """Whether its nodes are kept apart from others of the same day."""
        return self.merge == "never"

    @property
    def patterns(self) -> list[Regex]:
        """The codes of every event that it looks at."""
        return self.codes


class _Waiting(_Trigger):
    """A trigger whose node may stand some time after its event.

    The node's time is the trigger event's available_time + `offset_hours`. With an offset, an `unless`
    event that becomes known in (t0, t0 + offset] (t0 = the trigger event's available_time) cancels it.
    """

    offset_hours: NoOrSomeHours = 0.0
    unless: list[Regex] = Field(default_factory=list)

    @model_validator(mode="after")
    def _unless_needs_an_offset(self) -> "_Waiting":
        if self.unless and not self.offset_hours:
            raise ValueError("`unless` needs `offset_hours` > 0: without a wait nothing can come between")
        return self

    @property
    def stands_alone(self) -> bool:
        return self.merge == "never" or (self.merge is None and self.offset_hours > 0)

    @property
    def patterns(self) -> list[Regex]:
        return [*self.codes, *self.unless]


class Confirmation(Spec):
    """A second event that confirms the first, which happened at e.

    `after_days`, `within_days`: it happened in (e + after_days, e + within_days].
    """

    codes: Codes
    after_days: NoOrSomeDays = 0.0
    within_days: Days

    @model_validator(mode="after")
    def _has_a_window(self) -> "Confirmation":
        if self.after_days >= self.within_days:
            raise ValueError("`after_days` must be less than `within_days`")
        return self


class EventTrigger(_Waiting):
    """Every event with one of the codes; with `confirmed_by`, when it and its confirmation are both known."""

    kind: Literal["event"]
    confirmed_by: Confirmation | None = None

    @property
    def patterns(self) -> list[Regex]:
        return [*super().patterns, *(self.confirmed_by.codes if self.confirmed_by else [])]


class FirstTrigger(_Waiting):
    """The first event with any of the codes that became known for the subject."""

    kind: Literal["first"]


class NewRegimenTrigger(_Waiting):
    """An agent (= code) not known before for the subject, or any agent after `gap_days` without any.

    `combine_days`: an agent given at most so many days from the first dose of a regimen already known is
    that regimen's partner and begins none of its own.
    """

    kind: Literal["new_regimen"]
    gap_days: Days
    combine_days: Days | None = None

    @model_validator(mode="after")
    def _combines_within_the_gap(self) -> "NewRegimenTrigger":
        if self.combine_days is not None and self.combine_days > self.gap_days:
            raise ValueError("`combine_days` must not be more than `gap_days`: a restart is no partner")
        return self


class IncreaseTrigger(_Waiting):
    """A value at least `by` above the value of the same code that was known just before."""

    kind: Literal["increase"]
    by: float = Field(gt=0, allow_inf_nan=False)


class DecreaseTrigger(_Waiting):
    """A value at least `by` below the value of the same code that was known just before."""

    kind: Literal["decrease"]
    by: float = Field(gt=0, allow_inf_nan=False)


class EveryTrigger(_Trigger):
    """Every `hours` of a stay, `first_hours` (null = `hours`) after its start was known at first.

    `codes` start a stay. It is over for good as soon as an `until` event is known that became known after the
    start did, or that happened after it; the next start begins another stay. The length of a stay thus
    decides nothing before it is known, and one whose end nobody records gives `most` nodes and no more.
    """

    kind: Literal["every"]
    hours: float = Field(ge=0.01, le=_A_YEAR)
    first_hours: float | None = Field(default=None, ge=0, le=_A_YEAR)
    most: int = Field(ge=1, le=1000)
    until: Codes

    @property
    def stands_alone(self) -> bool:
        return self.merge != "day"

    @property
    def patterns(self) -> list[Regex]:
        return [*self.codes, *self.until]


Trigger = Annotated[
    EventTrigger | FirstTrigger | NewRegimenTrigger | IncreaseTrigger | DecreaseTrigger | EveryTrigger,
    Field(discriminator="kind"),
]


class CodeSubgroup(Spec):
    """Groups by code; a node is in the one that was known last by t.

    `values`: group → codes; of two that became known at once, the later event decides, then this order.
    """

    kind: Literal["codes"]
    values: dict[Annotated[str, Field(min_length=1, max_length=40)], Codes] = Field(min_length=1)


class AgeSubgroup(Spec):
    """Bands of the age at t.

    `bounds`: whole years at which a band begins; below the first there is one more. `recorded_as`: codes
    whose value is the age in years, for records without MEDS_BIRTH; the one known last by t, as it is.
    """

    kind: Literal["age"]
    recorded_as: Codes | None = None
    bounds: list[Annotated[int, Field(gt=0, lt=130)]] = Field(min_length=1)

    @model_validator(mode="after")
    def _bounds_rise(self) -> "AgeSubgroup":
        if any(a >= b for a, b in pairwise(self.bounds)):
            raise ValueError("`bounds` must rise")
        return self


Subgroup = Annotated[CodeSubgroup | AgeSubgroup, Field(discriminator="kind")]


class FollowUp(Spec):
    """Until when a subject was observed.

    `until`: the last of these events ends it (an observation period); without, or in subjects who have none,
    the last event of any kind. `death_extension_days`: for how long past that a death would still be known.
    """

    until: list[Regex] = Field(default_factory=list)
    death_extension_days: int = Field(default=0, ge=0, le=A_LIFE)


class NodesSpec(Spec):
    """The `decision_nodes:` section of a cohort spec (Table 4 of SMB-Structure, as data).

    `subgroups`: whom results are shown for apart; they shape neither nodes nor labels. `aces`: task files of
    ACES beside the cohort file; each adds its trigger and its task (`aces.py` says what of them fits).
    """

    task_set: Name
    aces: list[Annotated[str, AfterValidator(relative_file)]] = Field(default_factory=list)
    follow_up: FollowUp = FollowUp()
    indications: dict[Name, Codes] = Field(default_factory=dict)
    subgroups: dict[Name, Subgroup] = Field(default_factory=dict)
    triggers: list[Trigger] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> "NodesSpec":
        refuse_duplicates("trigger", [t.name for t in self.triggers])
        return self
