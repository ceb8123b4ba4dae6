"""What a cohort's `decision_nodes:` section may say; how triggers are found is `triggers.py`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ehr_assets.nodes.pattern_spec import Codes, Name, Regex, refuse_duplicates
from ehr_assets.specs import Spec


class _Trigger(Spec):
    """What all triggers share: a name, the codes, and when the node stands.

    The node's time is the trigger event's available_time + `offset_hours`. With an offset, an `unless`
    event that becomes known in (t0, t0 + offset] (t0 = the trigger event's available_time) cancels it.
    """

    name: Name
    codes: Codes
    offset_hours: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    unless: list[Regex] = Field(default_factory=list)

    @model_validator(mode="after")
    def _unless_needs_an_offset(self) -> "_Trigger":
        if self.unless and not self.offset_hours:
            raise ValueError("`unless` needs `offset_hours` > 0: without a wait nothing can come between")
        return self


class EventTrigger(_Trigger):
    """Every event with one of the codes."""

    kind: Literal["event"]


class FirstTrigger(_Trigger):
    """The first event with any of the codes that became known for the subject."""

    kind: Literal["first"]


class NewRegimenTrigger(_Trigger):
    """An agent (= code) not known before for the subject, or any agent after `gap_days` without any."""

    kind: Literal["new_regimen"]
    gap_days: float = Field(gt=0, allow_inf_nan=False)


class IncreaseTrigger(_Trigger):
    """A value at least `by` above the value of the same code that was known just before."""

    kind: Literal["increase"]
    by: float = Field(gt=0, allow_inf_nan=False)


class DecreaseTrigger(_Trigger):
    """A value at least `by` below the value of the same code that was known just before."""

    kind: Literal["decrease"]
    by: float = Field(gt=0, allow_inf_nan=False)


Trigger = Annotated[
    EventTrigger | FirstTrigger | NewRegimenTrigger | IncreaseTrigger | DecreaseTrigger,
    Field(discriminator="kind"),
]


class FollowUp(Spec):
    """Until when a subject was observed.

    `until`: the last of these events ends it (an observation period); without, or in subjects who have none,
    the last event of any kind. `death_extension_days`: for how long past that a death would still be known.
    """

    until: list[Regex] = Field(default_factory=list)
    death_extension_days: int = Field(default=0, ge=0)


class NodesSpec(Spec):
    """The `decision_nodes:` section of a cohort spec (Table 4 of SMB-Structure, as data)."""

    task_set: Name
    follow_up: FollowUp = FollowUp()
    indications: dict[Name, Codes] = Field(default_factory=dict)
    triggers: list[Trigger] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> "NodesSpec":
        refuse_duplicates("trigger", [t.name for t in self.triggers])
        return self
