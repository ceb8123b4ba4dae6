"""A task file made ready for a cohort: which of its codes each task means, in microseconds and positions.

Nothing here has seen an event: a plan is made once, and goes to every worker.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ehr_assets.contracts import BIRTH, DEATH
from ehr_assets.meds.reading import matching_codes
from ehr_assets.nodes.derived import Part
from ehr_assets.nodes.frames import MICROSECONDS_PER_DAY, microseconds
from ehr_assets.nodes.outcome_spec import OutcomePart
from ehr_assets.nodes.pattern_spec import EventPattern, ValueCondition
from ehr_assets.nodes.stream import Events
from ehr_assets.nodes.task_spec import PriorEvent, TaskSet, TaskSpec
from ehr_assets.nodes.trigger_spec import NodesSpec


@dataclass(frozen=True)
class Prior:
    """Events at or before t, at most `within` microseconds before it."""

    events: Events
    within: int | None


@dataclass(frozen=True)
class TaskPlan:
    """One task. Times are microseconds.

    Attributes:
        asked: positions, among the cohort's triggers, of those that the task is asked at; None = all.
        parts: the outcome; of a regression none.
        target: the measurements of a regression.
        until: what closes the window.
        competing: what ends the wait for the outcome but is no death.
        death_counts_as: negative, or censor. (Where it counts as the outcome, it is one of `parts`.)
        extension: how long past the last event the outcome would still be known.
        codes_matched: outcome codes of this cohort.
    """

    spec: TaskSpec
    asked: tuple[int, ...] | None
    buffer: int
    end_of_life: int
    longest: int
    parts: tuple[Part, ...]
    target: Events | None
    until: Events | None
    competing: Events | None
    death_counts_as: str
    no_prior: Prior | None
    requires_prior: Prior | None
    stay: tuple[Events, Events] | None
    excluded: tuple[tuple[Events, int | None, int], ...]
    extension: int
    codes_matched: int

    @property
    def judged_as_known(self) -> bool:
        return self.spec.at_risk is not None and self.spec.at_risk.judged_by == "known"


@dataclass(frozen=True)
class Plan:
    """All tasks. `codes`: what chunks are read with; Events name positions in it."""

    codes: tuple[str, ...]
    observed_until: tuple[int, ...]
    extra_columns: tuple[str, ...]
    tasks: tuple[TaskPlan, ...]


def plan_tasks(tasks: TaskSet, nodes_spec: NodesSpec, cohort_codes: Sequence[str]) -> Plan:
    """cohort_codes: the distinct codes of the cohort's events."""
    return _Planner(tasks, nodes_spec, cohort_codes).plan()


class _Planner:
    def __init__(self, tasks: TaskSet, nodes_spec: NodesSpec, cohort_codes: Sequence[str]) -> None:
        self.tasks, self.nodes_spec = tasks, nodes_spec
        # A death counts as such even where none was recorded.
        self.known = sorted({*cohort_codes, DEATH, BIRTH})
        self.used: dict[str, int] = {DEATH: 0, BIRTH: 1}
        self.found: dict[tuple[str, ...], list[str]] = {}
        self.sections = False

    def plan(self) -> Plan:
        planned = tuple(self._task(task) for task in self.tasks.tasks)
        until = self._matching(self.nodes_spec.follow_up.until)
        ends = tuple(self._position(code) for code in until)
        extra = ["section"] if self.sections else []
        extra += ["available_time"] if any(p.judged_as_known for p in planned) else []
        return Plan(tuple(self.used), ends, tuple(extra), planned)

    def _task(self, task: TaskSpec) -> TaskPlan:
        triggers = [t.name for t in self.nodes_spec.triggers]
        parts = tuple(self._part(part) for part in task.outcome.parts) if task.outcome else ()
        competing, death_counts_as = self._competing(task)
        if competing and task.competing and task.competing.counts_as == "positive":
            parts, competing = (*parts, Part(competing)), None
        # Death is the outcome when its codes match MEDS_DEATH and no other code of the cohort.
        deadly = not any(p.derived for p in parts) and {c for p in parts for c in p.events.codes} == {0}
        days = self.nodes_spec.follow_up.death_extension_days if deadly else 0
        risk = task.at_risk
        target = self._events(task.target) if task.target else None
        return TaskPlan(
            spec=task,
            asked=None if task.triggers is None else tuple(triggers.index(t) for t in task.triggers),
            buffer=microseconds(self.tasks.buffer_of(task)),
            end_of_life=_microseconds_of(self.tasks.end_of_life_of(task)),
            longest=task.longest_days * MICROSECONDS_PER_DAY,
            parts=parts,
            target=target,
            until=self._events(task.until) if task.until else None,
            competing=competing,
            death_counts_as=death_counts_as,
            no_prior=self._prior(risk.no_prior) if risk else None,
            requires_prior=self._prior(risk.requires_prior) if risk else None,
            stay=(
                (self._codes(risk.still_in.start), self._codes(risk.still_in.end))
                if risk and risk.still_in
                else None
            ),
            excluded=tuple(
                (
                    self._events(e),
                    None if e.between_days[0] is None else _microseconds_of(e.between_days[0]),
                    _microseconds_of(e.between_days[1]),
                )
                for e in task.exclude
            ),
            extension=days * MICROSECONDS_PER_DAY,
            codes_matched=len(set().union(*(e.codes for e in [*(p.events for p in parts), target] if e))),
        )

    def _competing(self, task: TaskSpec) -> tuple[Events | None, str]:
        """What competes beside death, and what a death is."""
        if task.competing is None:
            return None, "negative"
        events, counts_as = self._events(task.competing), task.competing.counts_as
        if counts_as == "positive":
            return events, "negative"
        others = Events(tuple(c for c in events.codes if c != 0), events.section, events.value)
        return (others if others.codes else None), counts_as if 0 in events.codes else "negative"

    def _part(self, part: OutcomePart) -> Part:
        if part.derived is None:
            assert part.pattern
            return Part(self._events(part.pattern), part.new_agent)
        rule = self.tasks.derived[part.derived]
        value = getattr(rule, "value", None)
        return Part(self._codes(rule.codes, rule.section, value), derived=rule)

    def _prior(self, prior: PriorEvent | None) -> Prior | None:
        if prior is None:
            return None
        within = None if prior.within_days is None else _microseconds_of(prior.within_days)
        return Prior(self._events(prior), within)

    def _events(self, pattern: EventPattern) -> Events:
        return self._codes(pattern.codes, pattern.section, pattern.value)

    def _codes(
        self, patterns: Sequence[str], section: str | None = None, value: ValueCondition | None = None
    ) -> Events:
        self.sections |= section is not None
        return Events(tuple(sorted(self._position(c) for c in self._matching(patterns))), section, value)

    def _matching(self, patterns: Sequence[str]) -> list[str]:
        key = tuple(patterns)
        if key not in self.found:
            self.found[key] = matching_codes(self.known, patterns)
        return self.found[key]

    def _position(self, code: str) -> int:
        return self.used.setdefault(code, len(self.used))


def _microseconds_of(days: float) -> int:
    return round(days * MICROSECONDS_PER_DAY)
