"""One label, read event by event from the rules as task files are documented: slow, and sharing no code.

Times are datetimes, sets are lists, every rule is a loop.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from ehr_assets.nodes.task_spec import TaskSet, TaskSpec

FAR = datetime.max
Row = dict[str, Any]


@dataclass
class Label:
    value: bool | None = None
    number: float | None = None
    event_time: datetime | None = None
    days: float | None = None
    status: int | None = None
    reason: str | None = None


class Record:
    """One subject's events, in order, and how long they were followed."""

    def __init__(self, rows: Sequence[Row], extension_days: int, until: Sequence[str]) -> None:
        self.rows = sorted((r for r in rows if r["time"]), key=lambda r: r["time"])
        deaths = [r["time"] for r in self.rows if r["code"] == "MEDS_DEATH"]
        self.death = deaths[0] if deaths else None
        seen = [r["time"] for r in self.rows if r["code"] != "MEDS_BIRTH"]
        ends = [r["time"] for r in self.rows if any(re.search(p, r["code"]) for p in until)]
        self.last = (ends or seen or [None])[-1]
        self.extension = timedelta(days=extension_days)

    def of(self, pattern: Any) -> list[Row]:
        return [r for r in self.rows if is_meant(pattern, r)]


def asks_for_death(task: TaskSpec, codes: set[str]) -> bool:
    """Whether death is all that the task's outcome means among these codes of a cohort."""
    if task.outcome is None or any(part.derived for part in task.outcome.parts):
        return False
    patterns = [p for part in task.outcome.parts for p in part.codes or []]
    if task.competing and task.competing.counts_as == "positive":
        patterns += task.competing.codes
    meant = [{c for c in {*codes, "MEDS_DEATH"} if re.search(p, c)} for p in patterns]
    return set().union(*meant) == {"MEDS_DEATH"}


def is_meant(pattern: Any, row: Row) -> bool:
    if not any(re.search(p, row["code"]) for p in pattern.codes):
        return False
    if pattern.section and row["section"] != pattern.section:
        return False
    bounds, x = getattr(pattern, "value", None), row["numeric_value"]
    if bounds is None:
        return True
    if x is None or math.isnan(x):
        return False
    x = np.float32(x)
    return all(
        (
            bounds.ge is None or x >= np.float32(bounds.ge),
            bounds.gt is None or x > np.float32(bounds.gt),
            bounds.le is None or x <= np.float32(bounds.le),
            bounds.lt is None or x < np.float32(bounds.lt),
        )
    )


def values_of(rows: Sequence[Row]) -> list[tuple[datetime, float]]:
    """Time and value, those of one moment averaged."""
    finite = [r for r in rows if r["numeric_value"] is not None and math.isfinite(r["numeric_value"])]
    return [
        (at, float(np.mean([r["numeric_value"] for r in finite if r["time"] == at])))
        for at in sorted({r["time"] for r in finite})
    ]


def changed(rule: Any, value: float, before: float) -> bool:
    if rule.kind == "ratio":
        if before <= 0:
            return False
        return value >= rule.by * before - 1e-6 if rule.by > 1 else value <= rule.by * before + 1e-6
    return value >= before + rule.by - 1e-6 if rule.by > 0 else value <= before + rule.by + 1e-6


def derived_times(rule: Any, record: Record, t: datetime) -> list[datetime]:
    rows = record.of(rule)
    found: list[datetime] = []
    if rule.kind == "new_line":
        seen: set[str] = set()
        begun, last = None, None
        for r in rows:
            resumed = last is None or r["time"] - last > timedelta(days=rule.gap_days)
            late = begun is None or r["time"] - begun > timedelta(days=rule.combine_days)
            if resumed or (r["code"] not in seen and late):
                begun = r["time"]
                found.append(begun)
            seen.add(r["code"])
            last = r["time"]
        return found
    if rule.kind == "distinct":
        for r in rows:
            since = r["time"] - timedelta(days=rule.within_days)
            recent = {x["code"] for x in rows if since < x["time"] <= r["time"]}
            found += [r["time"]] if len(recent) >= rule.at_least else []
        return found
    for code in sorted({r["code"] for r in rows}):
        values = values_of([r for r in rows if r["code"] == code])
        for i, (when, value) in enumerate(values):
            earlier = [v for _, v in values[:i]]
            at_node = [v for w, v in values if w <= t]
            choices = {"previous": earlier[-1:], "lowest": [min(earlier)] if earlier else []}
            choices |= {"highest": [max(earlier)] if earlier else [], "node": at_node[-1:]}
            if any(changed(rule, value, before) for before in choices[rule.against]):
                found.append(when)
    return sorted(found)


def outcome_times(tasks: TaskSet, task: TaskSpec, record: Record, t: datetime) -> list[datetime]:
    assert task.outcome
    times: list[datetime] = []
    for part in task.outcome.parts:
        if part.derived:
            times += derived_times(tasks.derived[part.derived], record, t)
            continue
        rows = record.of(part.pattern)
        if part.new_agent:
            rows = [r for i, r in enumerate(rows) if r["code"] not in {x["code"] for x in rows[:i]}]
        times += [r["time"] for r in rows]
    if task.competing and task.competing.counts_as == "positive":
        times += [r["time"] for r in record.of(task.competing)]
    times = sorted(set(times))
    if days := task.outcome.new_episode_days:
        gap = timedelta(days=days)
        times = [x for i, x in enumerate(times) if i == 0 or x - times[i - 1] > gap]
    return times


def asked(task: TaskSpec, record: Record, t: datetime, opens: datetime) -> tuple[str | None, bool]:
    """Why not, if not; and whether the subject falls out of risk before the window opens."""
    for rule in task.exclude:
        first, last = rule.between_days
        since = datetime.min if first is None else t + timedelta(days=first)
        if any(since <= r["time"] <= t + timedelta(days=last) for r in record.of(rule)):
            return "excluded", False
    risk = task.at_risk
    if risk is None:
        return None, False
    clock = "available_time" if risk.judged_by == "known" else "time"

    def had(prior: Any) -> bool:
        rows = [r for r in record.of(prior) if r[clock] and r[clock] <= t]
        within = timedelta(days=prior.within_days) if prior.within_days else None
        return any(within is None or r["time"] >= t - within for r in rows)

    if risk.still_in:
        moments = []
        for patterns in (risk.still_in.start, risk.still_in.end):
            rows = [r for r in record.rows if any(re.search(p, r["code"]) for p in patterns)]
            moments.append(max((r["time"] for r in rows if r[clock] and r[clock] <= t), default=None))
        start, end = moments
        if start is None or (end is not None and end > start):
            return "not_there", False
    if risk.requires_prior and not had(risk.requires_prior):
        return "not_at_risk", False
    if risk.no_prior and had(risk.no_prior):
        return "not_at_risk", False
    falls = risk.no_prior is not None and clock == "time"
    return None, falls and any(t < r["time"] <= opens for r in record.of(risk.no_prior))


def literal_label(tasks: TaskSet, task: TaskSpec, record: Record, t: datetime) -> Label:
    opens = t + timedelta(hours=tasks.buffer_of(task))
    closes = latest = t + timedelta(days=task.longest_days)
    closed = None
    if task.until:
        closing = [r["time"] for r in record.of(task.until) if t < r["time"] <= latest]
        if closing:
            closes = closed = closing[0]
    near = timedelta(days=tasks.end_of_life_of(task))
    if record.death and record.death <= t:
        return Label(reason="after_death")
    if record.death and record.death <= t + near:
        return Label(reason="end_of_life")
    reason, lost = asked(task, record, t, opens)
    if reason:
        return Label(reason=reason)

    # How the wait for the outcome ends when the outcome does not come.
    mode = task.competing.counts_as if task.competing else "negative"
    others = [] if task.competing is None or mode == "positive" else record.of(task.competing)
    other = min((r["time"] for r in others if r["code"] != "MEDS_DEATH" and r["time"] > t), default=FAR)
    named = any(r["code"] == "MEDS_DEATH" for r in others)
    no_at = [other] if mode == "negative" else []
    cut_at = [other] if mode == "censor" else []
    (cut_at if mode == "censor" and named else no_at).append(record.death or FAR)
    no, cut = min(no_at, default=FAR), min(cut_at, default=FAR)
    seen = record.last + record.extension if record.last else t
    followed = record.death or max(seen, closed or seen)
    answered = no <= closes and no <= cut
    complete = answered or min(followed, cut) >= closes

    if task.target:
        return _number(task, record, t, opens, closes, complete, lost)
    times = [x for x in outcome_times(tasks, task, record, t) if x <= other]
    inside = [x for x in times if opens < x <= closes]
    early = [x for x in times if t < x <= opens]
    if lost:
        return Label(reason="outcome_in_buffer" if early else "not_at_risk")
    if early and (task.in_buffer == "exclude" or not inside):
        return Label(reason="outcome_in_buffer")
    if inside:
        return Label(True, None, inside[0], _days(inside[0] - t), 1)
    if closes <= opens:
        return Label(reason="closed_in_buffer")
    if answered:
        return Label(False, days=_days(no - t), status=2)
    stop = max(t, min(followed, cut, closes))
    return Label(
        False if complete else None, None, None, _days(stop - t), 0, None if complete else "censored"
    )


def _number(
    task: TaskSpec, record: Record, t: datetime, opens: datetime, closes: datetime, complete: bool, lost: bool
) -> Label:
    assert task.target
    values = values_of(record.of(task.target))
    inside = [(w, v) for w, v in values if opens < w <= closes]
    before = [v for w, v in values if w <= t]
    take = task.target.take
    if lost:
        return Label(reason="not_at_risk")
    if closes <= opens:
        return Label(reason="closed_in_buffer")
    if not inside or (take == "change" and not before):
        return Label(reason="not_measured")
    if not complete and take != "first":
        return Label(reason="censored")
    numbers = [v for _, v in inside]
    number = {
        "first": numbers[0], "last": numbers[-1], "min": min(numbers), "max": max(numbers),
        "mean": float(np.mean(numbers)), "change": numbers[-1] - (before or [0])[-1],
    }[take]  # fmt: skip
    return Label(number=number, event_time=inside[0 if take == "first" else -1][0])


def _days(span: timedelta) -> float:
    return span / timedelta(days=1)
