"""What a task may predict: events by pattern, events derived from several of them, values in a window.

How these become times is `derived.py` and `stream.py`. Light imports only, as in `pattern_spec.py`.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from ehr_assets.contracts import Section
from ehr_assets.nodes.pattern_spec import Codes, Days, EventPattern, Name, NoOrSomeDays, ValueCondition
from ehr_assets.specs import Spec


class _Against(Spec):
    """A value held against an earlier one of the same code (values at one time are averaged).

    `against`: the value before it, the lowest or highest before it, or the last one at the node (time <= t).
    """

    codes: Codes
    section: Section | None = None
    against: Literal["previous", "lowest", "highest", "node"]

    @property
    def rises(self) -> bool:
        raise NotImplementedError

    @model_validator(mode="after")
    def _is_held_against_its_other_end(self) -> "_Against":
        wrong = "highest" if self.rises else "lowest"
        if self.against == wrong:
            way = "rise" if self.rises else "fall"
            raise ValueError(f"`by` asks for a {way}, which is not measured against the {wrong} value")
        return self


class Ratio(_Against):
    """A value at least `by` times the earlier one (by > 1), or at most (by < 1); the earlier one is > 0."""

    kind: Literal["ratio"]
    by: float = Field(gt=0, allow_inf_nan=False)

    @property
    def rises(self) -> bool:
        return self.by > 1

    @model_validator(mode="after")
    def _is_a_change(self) -> "Ratio":
        if self.by == 1:
            raise ValueError("`by: 1` is no change; give the factor, e.g. 2 or 0.5")
        return self


class Change(_Against):
    """A value at least `by` above the earlier one (by > 0), or at least -`by` below it (by < 0)."""

    kind: Literal["change"]
    by: float = Field(allow_inf_nan=False)

    @property
    def rises(self) -> bool:
        return self.by > 0

    @model_validator(mode="after")
    def _is_a_change(self) -> "Change":
        if self.by == 0:
            raise ValueError("`by: 0` is no change")
        return self


class NewLine(EventPattern):
    """The start of a line of therapy: the first agent (= code) ever, or a new one, or any after a gap.

    A line takes in the agents that begin within `combine_days` of its start; an agent that comes later and
    was in no line before starts the next one, and so does any agent more than `gap_days` after the last dose.
    """

    kind: Literal["new_line"]
    gap_days: Days
    combine_days: NoOrSomeDays = 0.0

    @model_validator(mode="after")
    def _combines_within_the_gap(self) -> "NewLine":
        if self.combine_days > self.gap_days:
            raise ValueError("`combine_days` must not be more than `gap_days`: a restart is no partner")
        return self


class Distinct(EventPattern):
    """An event by which at least `at_least` different codes were seen in (time - within_days, time]."""

    kind: Literal["distinct"]
    at_least: int = Field(ge=2)
    within_days: Days


Derived = Annotated[Ratio | Change | NewLine | Distinct, Field(discriminator="kind")]


class OutcomePart(Spec):
    """Events by `codes` (by section, value, or only the subject's first of each code), or `derived` ones."""

    codes: Codes | None = None
    section: Section | None = None
    value: ValueCondition | None = None
    new_agent: bool = False
    derived: Name | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> "OutcomePart":
        if self._ways() != 1:
            raise ValueError(f"give exactly one of {self._choices}")
        if self.codes is None and (self.section or self.value or self.new_agent):
            raise ValueError("section, value and new_agent go with `codes`")
        return self

    _choices: ClassVar[str] = "codes, derived"

    def _ways(self) -> int:
        return (self.codes is not None) + (self.derived is not None)

    @property
    def pattern(self) -> EventPattern | None:
        """The events by code; None of a derived part."""
        if self.codes is None:
            return None
        return EventPattern(codes=self.codes, section=self.section, value=self.value)


class Outcome(OutcomePart):
    """The event a task predicts: one part, or `any_of` several.

    `new_episode_days`: an event within that many days after another one of this outcome belongs to the same
    episode and does not count; null = every event counts.
    """

    any_of: list[OutcomePart] | None = Field(default=None, min_length=1)
    new_episode_days: Days | None = None

    _choices: ClassVar[str] = "codes, derived, any_of"

    def _ways(self) -> int:
        return super()._ways() + (self.any_of is not None)

    @property
    def parts(self) -> list[OutcomePart]:
        return self.any_of if self.any_of is not None else [self]


class Target(EventPattern):
    """The value a regression predicts, of the measurements in (t + buffer, t + horizon].

    `change`: the last one less the last one at or before t. `first` needs no follow-up beyond itself; for all
    others the subject is followed to the horizon, or to death.
    """

    take: Literal["first", "last", "min", "max", "mean", "change"]
