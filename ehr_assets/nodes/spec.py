"""What a cohort's `decision_nodes:` section and a task file may say.

Only pydantic models and their loading live here (light imports: cohort specs import this module when the
definitions load). How triggers are found is `triggers.py`; how outcomes become labels is `labels.py`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from ehr_assets.contracts import Section
from ehr_assets.errors import SpecError
from ehr_assets.specs import Spec, closest, parse_spec, read_yaml

TASK_SETS = Path(__file__).parent / "tasks"


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
    """`death_extension_days`: for how long past a subject's last event a death would still be known."""

    death_extension_days: int = Field(default=0, ge=0)


class NodesSpec(Spec):
    """The `decision_nodes:` section of a cohort spec (Table 4 of SMB-Structure, as data)."""

    task_set: Name
    follow_up: FollowUp = FollowUp()
    indications: dict[Name, Codes] = Field(default_factory=dict)
    triggers: list[Trigger] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> "NodesSpec":
        _refuse_duplicates("trigger", [t.name for t in self.triggers])
        return self


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


class Outcome(EventPattern):
    """The event a task predicts. `new_agent`: only the subject's first event of each code counts."""

    new_agent: bool = False


class PriorEvent(EventPattern):
    """An event that happened at or before t, at most `within_days` before it (null = ever)."""

    within_days: float | None = Field(default=None, gt=0, allow_inf_nan=False)


class AtRisk(Spec):
    """Who can still have the outcome: those without the prior event."""

    no_prior: PriorEvent


class TaskSpec(Spec):
    """One binary outcome in (t + buffer, t + horizon]; `triggers`: asked at nodes with one of these only."""

    name: Name
    category: str = Field(min_length=1)
    description: str = Field(min_length=1)
    horizon_days: int = Field(gt=0)
    outcome: Outcome
    at_risk: AtRisk | None = None
    triggers: list[Name] | None = Field(default=None, min_length=1)


class TaskSet(Spec):
    """A task file: the settings of SMB-Structure §4.2 (24 h buffer, 7 d end-of-life filter) and the tasks."""

    buffer_hours: float = Field(default=24.0, ge=0, allow_inf_nan=False)
    end_of_life_days: float = Field(default=7.0, ge=0, allow_inf_nan=False)
    tasks: list[TaskSpec] = Field(min_length=1)

    @model_validator(mode="after")
    def _tasks_can_be_asked(self) -> "TaskSet":
        _refuse_duplicates("task", [t.name for t in self.tasks])
        for task in self.tasks:
            if task.horizon_days * 24 <= self.buffer_hours:
                raise ValueError(
                    f"task '{task.name}': its horizon ends inside the {self.buffer_hours:g} h buffer"
                )
        return self

    def require_triggers_of(self, nodes: NodesSpec, where: str | None = None) -> None:
        """Raises SpecError when a task asks for a trigger that the cohort does not define."""
        known = [t.name for t in nodes.triggers]
        for task in self.tasks:
            for name in task.triggers or []:
                if name not in known:
                    raise SpecError(
                        f"Task '{task.name}' asks for the trigger '{name}', which this cohort does not "
                        f"define.{closest(name, known)}",
                        where=where or f"task set '{nodes.task_set}'",
                        do=f"Use one of: {', '.join(known)}.",
                    )


def load_task_set(path: Path, overrides: Mapping[str, Any] = {}) -> TaskSet:
    """The task file at `path`, with dotted overrides. Raises SpecError naming file, key and reason."""
    return parse_spec(TaskSet, read_yaml(path), str(path), overrides)


def task_set_path(name: str, folder: Path = TASK_SETS) -> Path:
    """The file of the task set `name`. Raises SpecError with the known names when there is none."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.yaml"))
        raise SpecError(
            f"There is no task set '{name}'.{closest(name, known)}",
            where=str(folder),
            do=f"Use one of: {', '.join(known)}; or add {name}.yaml there.",
        )
    return path


def _refuse_duplicates(what: str, names: list[str]) -> None:
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(f"{what} names must be unique; given twice: {', '.join(twice)}")
