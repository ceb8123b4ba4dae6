"""What a task file may say, and how it is loaded; how outcomes become labels is `labels.py`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from ehr_assets.errors import SpecError
from ehr_assets.nodes.pattern_spec import EventPattern, Name, refuse_duplicates
from ehr_assets.nodes.trigger_spec import NodesSpec
from ehr_assets.specs import Spec, closest, parse_spec, read_yaml

TASK_SETS = Path(__file__).parent / "tasks"


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
        refuse_duplicates("task", [t.name for t in self.tasks])
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
