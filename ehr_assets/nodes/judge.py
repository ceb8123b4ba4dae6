"""A cohort's labels before the guard of `leakage/labels.py`: what it is told of the task file and the record.

Codes are matched and events selected here anew; nothing comes from the labeller but its files.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import polars as pl

from ehr_assets.contracts import DEATH
from ehr_assets.leakage.labels import LabelFinding, LabelRules, labels_keep_window
from ehr_assets.meds.reading import event_codes, follow_up, matching_codes, scan_events, select_events
from ehr_assets.nodes.frames import read_labels
from ehr_assets.nodes.pattern_spec import EventPattern, ValueCondition
from ehr_assets.nodes.task_spec import Competing, Outcome, TaskSet, TaskSpec
from ehr_assets.nodes.trigger_spec import NodesSpec

T = TypeVar("T")


def judge_labels(tasks: TaskSet, nodes_spec: NodesSpec, labels_dir: Path, meds_dir: Path) -> LabelFinding:
    """Holds every label of a committed `task_labels` directory against the record, one task at a time."""
    codes = sorted({*event_codes(meds_dir), DEATH})
    by_name = {task.name: task for task in tasks.tasks}
    days = nodes_spec.follow_up.death_extension_days
    return labels_keep_window(
        _OneByOne(by_name, lambda name: read_labels(labels_dir, name)),
        {name: task.longest_days for name, task in by_name.items()},
        follow_up(scan_events(meds_dir), matching_codes(codes, nodes_spec.follow_up.until)),
        tasks.buffer_hours,
        tasks.end_of_life_days,
        {n: days for n, t in by_name.items() if t.outcome and is_death(t.outcome, t.competing, codes)},
        _OneByOne(by_name, lambda name: _rules(by_name[name], codes, meds_dir)),
    )


def is_death(outcome: Outcome, competing: Competing | None, codes: Sequence[str]) -> bool:
    """Whether the outcome's codes match MEDS_DEATH and no other of `codes`."""
    if any(part.derived for part in outcome.parts):
        return False
    patterns = [pattern for part in outcome.parts for pattern in part.codes or []]
    patterns += competing.codes if competing and competing.counts_as == "positive" else []
    return matching_codes(codes, patterns) == [DEATH]


class _OneByOne(Mapping[str, T]):
    """Values that are made when they are asked for, and not kept."""

    def __init__(self, names: Mapping[str, object], make: Callable[[str], T]) -> None:
        self._names, self._make = list(names), make

    def __getitem__(self, name: str) -> T:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _rules(task: TaskSpec, codes: Sequence[str], meds_dir: Path) -> LabelRules:
    def events(pattern: EventPattern | None, without: Sequence[str] = ()) -> pl.DataFrame | None:
        if pattern is None:
            return None
        wanted = [code for code in matching_codes(codes, pattern.codes) if code not in without]
        found = select_events(
            scan_events(meds_dir), wanted, ["subject_id", "time", "numeric_value", "section"]
        )
        if pattern.section is not None:
            found = found.filter(pl.col("section") == pattern.section)
        if pattern.value is not None:
            found = found.filter(_holds(pattern.value))
        return found.select("subject_id", "time")

    competing = task.competing
    mode = competing.counts_as if competing else None
    # Death is told by the follow-up; as the outcome itself it is no competing event.
    others = events(competing, without=[DEATH]) if mode in ("negative", "censor") else None
    names_death = competing is not None and DEATH in matching_codes(codes, competing.codes)
    return LabelRules(
        buffer_hours=task.buffer_hours,
        end_of_life_days=task.end_of_life_days,
        regression=task.kind == "regression",
        closing=events(task.until),
        ending=others if mode == "negative" else None,
        cutting=others if mode == "censor" else None,
        death_ends=not (mode == "censor" and names_death),
        needs_follow_up=task.target is None or task.target.take != "first",
    )


def _holds(value: ValueCondition) -> pl.Expr:
    number = pl.col("numeric_value")
    bounds = {"ge": number.__ge__, "gt": number.__gt__, "le": number.__le__, "lt": number.__lt__}
    parts = [
        compare(pl.lit(bound, dtype=pl.Float32))
        for name, compare in bounds.items()
        if (bound := getattr(value, name)) is not None
    ]
    # polars orders NaN above every number; a missing value never meets a condition.
    return pl.all_horizontal(number.is_not_null(), number.is_not_nan(), *parts)
