"""A task file of ACES as a trigger and a task of ours: the subset that fits, and why the rest does not.

What fits: a trigger by code; one index a fixed time after it; a label in the window (index + gap, end], with
a fixed end or one at the next event of some kind; windows at fixed times from the trigger in which something
must not occur, or (up to the index) must have. The rest is refused, with window or predicate and reason.

Where this house gives a label, it is the one that ACES gives at the same index. It gives fewer: a negative
needs follow-up to the end of its window, and an outcome in the gap makes the label null. The index stands
where the trigger became *known*: `known_later` in the stats of decision_nodes counts where this differs.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from ehr_assets.errors import SpecError
from ehr_assets.nodes.aces_predicates import Predicates, UnfitError
from ehr_assets.nodes.aces_spec import AcesFile, Counts, Predicate, Window
from ehr_assets.nodes.aces_windows import At, Next, Windows
from ehr_assets.nodes.task_spec import TaskSet, TaskSpec
from ehr_assets.nodes.trigger_spec import EventTrigger, NodesSpec
from ehr_assets.specs import SpecT, parse_spec, read_yaml

_DAY = timedelta(days=1)
_INSTANT = timedelta(microseconds=1)
_AT_ANY_TIME = 36_500  # days: ACES waits for the closing event to the end of the record
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class AcesTask:
    """What a task file of ACES says, in the words of this house; trigger and task have the file's name."""

    file: Path
    trigger: EventTrigger
    task: TaskSpec


def load_aces(file: Path) -> AcesTask:
    """Reads a task file of ACES.

    Raises:
        SpecError: it is no such file, or parts of it have no counterpart here; all of them are named.
    """
    return _Reading(parse_spec(AcesFile, read_yaml(file), str(file)), file).result()


def nodes_with(nodes: NodesSpec, found: Sequence[AcesTask]) -> NodesSpec:
    """`nodes` with the triggers of ACES files beside its own. Raises SpecError for a name given twice."""
    triggers = [*nodes.triggers, *(f.trigger for f in found)]
    return _again(NodesSpec, nodes, found, triggers=[t.model_dump() for t in triggers])


def tasks_with(tasks: TaskSet, found: Sequence[AcesTask]) -> TaskSet:
    """`tasks` with those of ACES files beside them. Raises SpecError for a name given twice."""
    both = [*tasks.tasks, *(f.task for f in found)]
    return _again(TaskSet, tasks, found, tasks=[t.model_dump() for t in both])


def _again(model: type[SpecT], spec: SpecT, found: Sequence[AcesTask], **changed: Any) -> SpecT:
    if not found:
        return spec
    return parse_spec(model, spec.model_dump() | changed, ", ".join(str(f.file) for f in found))


class _Reading:
    def __init__(self, spec: AcesFile, file: Path) -> None:
        self.spec, self.file = spec, file
        self.windows = Windows(spec.windows)
        self.predicates = Predicates(spec.predicates, spec.patient_demographics)
        self.problems: list[str] = []
        name = re.sub(r"[^a-z0-9]+", "_", file.stem.lower()).strip("_0123456789")
        self.name = f"aces_{name}" if name else "aces_task"

    def result(self) -> AcesTask:
        trigger, index = self._try(self._trigger), self._try(self._index)
        label = self._try(self._label)
        task: dict[str, Any] = {}
        if index is not None:
            task = (self._try(self._question, index, *label) if label else None) or {}
            task |= self._conditions(index)
        if self.problems or trigger is None or index is None:
            raise SpecError(
                f"{len(self.problems)} part(s) of this ACES file have no counterpart here:\n    "
                + "\n    ".join(self.problems),
                where=str(self.file),
                do="Change them as said, or write the task in a task file (nodes/tasks).",
            )
        about = {
            "name": self.name,
            "category": str((self.spec.metadata or {}).get("category", "ACES")),
            "description": self.spec.description or f"ACES task '{self.file.stem}'",
            "triggers": [self.name],
            "end_of_life_days": 0,
        }
        wait = index / timedelta(hours=1)
        found = {"name": self.name, "kind": "event", "codes": trigger, "offset_hours": wait, "merge": "never"}
        where = f"{self.file}, as a task of ours"
        return AcesTask(
            self.file, parse_spec(EventTrigger, found, where), parse_spec(TaskSpec, about | task, where)
        )

    def _try(self, part: Callable[..., _Found], *args: Any) -> _Found | None:
        """What the part returns; None, and the problem noted, where it has no counterpart."""
        try:
            return part(*args)
        except UnfitError as e:
            if str(e) not in self.problems:
                self.problems.append(str(e))
            return None

    def _trigger(self) -> list[str]:
        patterns = self.predicates.patterns(self.spec.trigger, "trigger")
        if len(patterns) > 1 or "value" in patterns[0]:
            raise UnfitError("trigger", "a trigger goes by code alone, not by value")
        return patterns[0]["codes"]

    def _index(self) -> timedelta:
        name, window = self.windows.only_one_with("index_timestamp", "index_timestamp")
        at = self.windows.moment(name, str(window.index_timestamp))
        key = f"windows.{name}.{window.index_timestamp}"
        if not isinstance(at, At) or at.after is None:
            raise UnfitError(
                key, "the index must stand a fixed time after the trigger; make that event the trigger"
            )
        if at.after < timedelta(0):
            raise UnfitError(key, "the index lies before the trigger, when nobody knew of it")
        return at.after

    def _label(self) -> tuple[str, Window]:
        return self.windows.only_one_with("label", "a label")

    def _question(self, index: timedelta, name: str, window: Window) -> dict[str, Any]:
        """Outcome, buffer and end of the window of the label."""
        key = f"windows.{name}"
        parts = self.predicates.patterns(str(window.label), f"{key}.label")
        outcome = parts[0] if len(parts) == 1 else {"any_of": parts}
        start, end = self.windows.moment(name, "start"), self.windows.moment(name, "end")
        if not isinstance(start, At) or start.after is None or start.after < index:
            raise UnfitError(
                f"{key}.start", "the label must be looked for from a fixed time at or after the index"
            )
        if window.start_inclusive:
            raise UnfitError(
                f"{key}.start_inclusive", "an outcome at the start counts as known: it must be False"
            )
        if not window.end_inclusive:
            raise UnfitError(f"{key}.end_inclusive", "the end belongs to the window here: it must be True")
        asked: dict[str, Any] = {
            "outcome": outcome,
            "buffer_hours": (start.after - index) / timedelta(hours=1),
        }
        if isinstance(end, Next):
            return asked | {"until": self._closing(end, index, start.after, f"{key}.end")}
        if end.after is None:
            raise UnfitError(f"{key}.end", "the label must be looked for up to a fixed time after the index")
        days = (end.after - index) / _DAY
        if days != int(days) or days < 1:
            raise UnfitError(f"{key}.end", f"the horizon must be whole days after the index, not {days:g}")
        return asked | {"horizon_days": int(days)}

    def _closing(self, end: Next, index: timedelta, opens: timedelta, key: str) -> dict[str, Any]:
        patterns = self.predicates.patterns(end.predicate, key)
        if len(patterns) > 1:
            raise UnfitError(key, "events that close the window must be told by code alone, or by one value")
        # Here the window closes with the first such event after the index, there after the gap: the same only
        # where none lies in between.
        if end.since != At(opens) or not (opens == index or self._absent(end.predicate, index, opens)):
            raise UnfitError(
                key, f"'{end.predicate}' in the gap must be ruled out (has: (None, 0)) to close the window"
            )
        return {**patterns[0], "at_most_days": _AT_ANY_TIME}

    def _absent(self, predicate: str, first: timedelta, last: timedelta) -> bool:
        """Whether every part of the predicate is ruled out in (first, last]."""
        ruled_out: list[Predicate] = []
        for name, window, wanted, counts in self._constraints():
            start, end = self.windows.moment(name, "start"), self.windows.moment(name, "end")
            if counts != (None, 0) or not (isinstance(start, At) and isinstance(end, At)):
                continue
            covers = (start.after is None or start.after <= first) and end.after is not None
            if covers and (end.after > last or (end.after == last and window.end_inclusive)):  # type: ignore[operator]
                ruled_out += self.predicates.leaves(wanted, f"windows.{name}.has.{wanted}")
        return all(leaf in ruled_out for leaf in self.predicates.leaves(predicate, "windows"))

    # ---- what must and must not be

    def _constraints(self) -> Iterator[tuple[str, Window, str, Counts]]:
        for name, window in self.spec.windows.items():
            for predicate, counts in window.has.items():
                yield name, window, predicate, counts

    def _conditions(self, index: timedelta) -> dict[str, Any]:
        """What must not have happened, and what must have."""
        exclude: list[dict[str, Any]] = []
        required: list[dict[str, Any]] = []
        for name, window, predicate, counts in self._constraints():
            key = f"windows.{name}.has.{predicate}"
            if counts == (None, None) or (predicate == "_ANY_EVENT" and self._always(name, window, counts)):
                continue
            part = self._excluded if counts == (None, 0) else self._required
            found = self._try(part, name, window, predicate, key, index, counts) or []
            (exclude if counts == (None, 0) else required).extend(found)
        if len(required) > 1:
            self.problems.append("windows: only one event can be required before the index")
        asked: dict[str, Any] = {"exclude": exclude} if exclude else {}
        return asked | ({"at_risk": {"requires_prior": required[0]}} if required else {})

    def _always(self, name: str, window: Window, counts: Counts) -> bool:
        """Whether the window holds the trigger itself, which is an event."""
        start, end = (
            self._try(self.windows.moment, name, "start"),
            self._try(self.windows.moment, name, "end"),
        )
        if counts != (1, None) or not (isinstance(start, At) and isinstance(end, At)) or end.after is None:
            return False
        zero = timedelta(0)
        begins = start.after is None or start.after < zero or (start.after == zero and window.start_inclusive)
        return begins and (end.after > zero or (end.after == zero and window.end_inclusive))

    def _excluded(
        self, name: str, window: Window, predicate: str, key: str, index: timedelta, _: Counts
    ) -> list[dict[str, Any]]:
        first, last = self.windows.span(name, key)
        last -= index if window.end_inclusive else index + _INSTANT
        if first is not None:
            first -= index if window.start_inclusive else index - _INSTANT
        between = [None if first is None else first / _DAY, last / _DAY]
        return [{**pattern, "between_days": between} for pattern in self.predicates.patterns(predicate, key)]

    def _required(
        self, name: str, window: Window, predicate: str, key: str, index: timedelta, counts: Counts
    ) -> list[dict[str, Any]]:
        if counts != (1, None):
            raise UnfitError(key, "counts other than (None, 0) and (1, None) cannot be asked")
        first, last = self.windows.span(name, key)
        if last != index or not window.end_inclusive:
            raise UnfitError(key, "what is required must be looked for up to the index, which belongs to it")
        patterns = self.predicates.patterns(predicate, key)
        if len(patterns) > 1:
            raise UnfitError(key, "what is required must be told by code alone, or by one value")
        if first is None:
            return [patterns[0]]
        within = index - first - (timedelta(0) if window.start_inclusive else _INSTANT)
        return [{**patterns[0], "within_days": within / _DAY}]
