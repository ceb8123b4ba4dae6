"""What a task file may say, and how it is loaded; how outcomes become labels is `labels.py`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ehr_assets.errors import SpecError
from ehr_assets.nodes.outcome_spec import Derived, Outcome, Target
from ehr_assets.nodes.pattern_spec import (
    A_LIFE,
    Codes,
    Days,
    EventPattern,
    Name,
    NoOrSomeDays,
    NoOrSomeHours,
    WholeDays,
    refuse_duplicates,
)
from ehr_assets.nodes.trigger_spec import NodesSpec
from ehr_assets.specs import Spec, closest, parse_spec, read_yaml

TASK_SETS = Path(__file__).parent / "tasks"


class PriorEvent(EventPattern):
    """An event at or before t, at most `within_days` before it (null = ever)."""

    within_days: Days | None = None


class StillIn(Spec):
    """A stay that lasts at t: the last `start` is not before the last `end`."""

    start: Codes
    end: Codes


class AtRisk(Spec):
    """Who is asked: those without `no_prior`, with `requires_prior`, `still_in` the stay; all that are given.

    `judged_by: happened` goes by the event's time, and leaves out whoever meets `no_prior` before the window
    opens. `known` goes by what had become known at t alone: the rule can then be applied at the bedside.
    """

    no_prior: PriorEvent | None = None
    requires_prior: PriorEvent | None = None
    still_in: StillIn | None = None
    judged_by: Literal["happened", "known"] = "happened"

    @model_validator(mode="after")
    def _says_something(self) -> "AtRisk":
        if not (self.no_prior or self.requires_prior or self.still_in):
            raise ValueError("give at least one of no_prior, requires_prior, still_in")
        return self


class Competing(EventPattern):
    """What makes the outcome impossible, or another matter, when it comes first.

    `negative`: the outcome did not happen, and needs no more follow-up. `censor`: follow-up ends there.
    `positive`: it counts as the outcome. Death is `negative` unless it is named here, or is the outcome. What
    is recorded after a death happened before it, and counts; what follows any other competing event does not.
    """

    counts_as: Literal["negative", "censor", "positive"] = "negative"


class Until(EventPattern):
    """The window closes with the first such event after t (itself included), `at_most_days` after t."""

    at_most_days: WholeDays


_FromNode = Annotated[float, Field(ge=-A_LIFE, le=A_LIFE)]


class Excluded(EventPattern):
    """Nodes with such an event between t + first and t + last days, both included (null = ever before)."""

    between_days: tuple[_FromNode | None, _FromNode]

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> "Excluded":
        first, last = self.between_days
        if first is not None and first > last:
            raise ValueError("between_days: the first must not be after the last")
        return self


class TaskSpec(Spec):
    """One question about (t + buffer, t + horizon]; `triggers`: asked at nodes with one of these only.

    `in_buffer`: an outcome in (t, t + buffer] makes the label null; with `ignore_if_later`, not if another
    one is in the window. buffer_hours, end_of_life_days: instead of the file's.
    """

    name: Name
    category: str = Field(min_length=1)
    description: str = Field(min_length=1)
    kind: Literal["binary", "time_to_event", "regression"] = "binary"
    outcome: Outcome | None = None
    target: Target | None = None
    horizon_days: WholeDays | None = None
    until: Until | None = None
    at_risk: AtRisk | None = None
    competing: Competing | None = None
    exclude: list[Excluded] = Field(default_factory=list)
    in_buffer: Literal["exclude", "ignore_if_later"] = "ignore_if_later"
    triggers: list[Name] | None = Field(default=None, min_length=1)
    buffer_hours: NoOrSomeHours | None = None
    end_of_life_days: NoOrSomeDays | None = None

    @property
    def longest_days(self) -> int:
        """The horizon in days; that of an `until` where nothing closes the window before."""
        days = self.until.at_most_days if self.until else self.horizon_days
        assert days
        return days

    @model_validator(mode="after")
    def _asks_one_question(self) -> "TaskSpec":
        wanted, other = ("target", "outcome") if self.kind == "regression" else ("outcome", "target")
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            raise ValueError(f"a {self.kind} task has `{wanted}`, and no `{other}`")
        if (self.horizon_days is None) == (self.until is None):
            raise ValueError("give one of horizon_days, until")
        if self.kind == "regression" and (self.competing or self.in_buffer == "exclude"):
            raise ValueError("competing and in_buffer are about an outcome: a regression has none")
        return self


class TaskSet(Spec):
    """A task file: the settings of SMB-Structure §4.2 (24 h buffer, 7 d end-of-life filter) and the tasks.

    `derived`: events that tasks name as outcomes, made of several recorded ones.
    """

    buffer_hours: NoOrSomeHours = 24.0
    end_of_life_days: NoOrSomeDays = 7.0
    derived: dict[Name, Derived] = Field(default_factory=dict)
    tasks: list[TaskSpec] = Field(min_length=1)

    def buffer_of(self, task: TaskSpec) -> float:
        """Hours after t in which no outcome counts."""
        return self.buffer_hours if task.buffer_hours is None else task.buffer_hours

    def end_of_life_of(self, task: TaskSpec) -> float:
        """Days before death in which the task is not asked."""
        return self.end_of_life_days if task.end_of_life_days is None else task.end_of_life_days

    def same_definitions(self) -> list[list[str]]:
        """Names of tasks that ask the same question, in groups; usually a slip."""
        groups: dict[str, list[str]] = {}
        for task in self.tasks:
            settings = {"buffer_hours": self.buffer_of(task), "end_of_life_days": self.end_of_life_of(task)}
            asked = task.model_copy(update=settings)
            question = asked.model_dump_json(exclude={"name", "category", "description"})
            groups.setdefault(question, []).append(task.name)
        return [names for names in groups.values() if len(names) > 1]

    @model_validator(mode="after")
    def _tasks_can_be_asked(self) -> "TaskSet":
        refuse_duplicates("task", [t.name for t in self.tasks])
        for task in self.tasks:
            buffer = self.buffer_of(task)
            if task.longest_days * 24 <= buffer:
                raise ValueError(f"task '{task.name}': its horizon ends inside the {buffer:g} h buffer")
            self._derived_events_exist(task)
        return self

    def _derived_events_exist(self, task: TaskSpec) -> None:
        for part in task.outcome.parts if task.outcome else []:
            if part.derived is None:
                continue
            if part.derived not in self.derived:
                raise ValueError(
                    f"task '{task.name}': there is no derived event '{part.derived}'."
                    f"{closest(part.derived, self.derived)}"
                )
            at_node = getattr(self.derived[part.derived], "against", None) == "node"
            if at_node and task.outcome and task.outcome.new_episode_days:
                raise ValueError(
                    f"task '{task.name}': '{part.derived}' is another event at each node, "
                    "which has no episodes: leave new_episode_days out"
                )

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
