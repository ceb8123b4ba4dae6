"""A task of ours asked of es-aces: three queries per task, since its windows are a conjunction.

A positive had the outcome in the window. A negative had none, and was seen at or after its end, or died in
it.
es-aces is installed without its dependencies: of `omegaconf` it needs one name.
"""

import sys
import types
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from ehr_assets.contracts import BIRTH, DEATH
from ehr_assets.meds.reading import deaths_in_doubt, event_codes, matching_codes, scan_events
from ehr_assets.nodes.frames import read_nodes
from ehr_assets.nodes.pattern_spec import EventPattern
from ehr_assets.nodes.task_spec import TaskSet, TaskSpec
from ehr_assets.nodes.trigger_spec import NodesSpec

NODE, SEEN_UNTIL = "NODE", "SEEN_UNTIL"
Answers = dict[tuple[int, datetime], bool]


def aces() -> Any:
    """The package with what it needs; imported here, so that nothing else pays for it."""
    sys.modules.setdefault("omegaconf", types.SimpleNamespace(DictConfig=types.SimpleNamespace))  # type: ignore[arg-type]
    import aces
    import aces.config
    import aces.predicates
    import aces.query

    return aces


def inexpressible(task: TaskSpec) -> str | None:
    """Why ACES's language cannot ask this; None if it can."""
    if task.kind == "regression" or task.outcome is None:
        return "it has no values to predict"
    if task.until:
        return "a window ends with an event or after a time, not with whichever is first"
    if task.outcome.new_episode_days:
        return "it has no episodes"
    risk = task.at_risk
    if risk and risk.judged_by == "known":
        return "it knows one time of an event"
    if risk and risk.still_in:
        return "it cannot say which of two events came last"
    if task.competing and task.competing.counts_as != "positive":
        return "it has no competing events"
    for part in task.outcome.parts:
        if part.derived:
            return "it has no derived events"
        if part.new_agent:
            return "it cannot tell a code's first event"
    for pattern in _patterns(task):
        value = pattern.value
        if value and (None not in (value.ge, value.gt) or None not in (value.le, value.lt)):
            return "a value has one bound on each side"
    return None


def _patterns(task: TaskSpec) -> list[EventPattern]:
    assert task.outcome
    found: list[EventPattern | None] = [part.pattern for part in task.outcome.parts]
    if task.at_risk:
        found += [task.at_risk.no_prior, task.at_risk.requires_prior]
    return [p for p in [*found, task.competing, *task.exclude] if p is not None]


@dataclass
class Question:
    """One task on one cohort, in ACES's terms."""

    task: TaskSpec
    tasks: TaskSet
    codes: list[str]
    predicates: dict[str, Any] = field(default_factory=dict)
    windows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        task, outcome = self.task, self.task.outcome
        assert outcome
        self.predicates["node"] = {"code": NODE}
        self.predicates["death"] = {"code": DEATH}
        known = [code for code in self.codes if code != BIRTH]
        self.predicates["record"] = {"code": {"any": [*known, SEEN_UNTIL]}}
        parts = [p.pattern for p in outcome.parts] + ([task.competing] if task.competing else [])
        names = [self._plain(f"outcome_{i}", p) for i, p in enumerate(parts) if p]
        self.outcome = names[0]
        if len(names) > 1:
            self.outcome = "outcome"
            self.predicates["outcome"] = {"expr": f"or({', '.join(names)})"}
        hours, buffer = task.longest_days * 24, self.tasks.buffer_of(task)
        gap = {"start": "trigger", "end": f"start + {_span(buffer)}", "inclusive": (False, True), "has": {}}
        opens = "gap.end" if buffer else "trigger"
        if buffer:
            self.windows["gap"] = gap
        self.windows["target"] = {
            "start": opens, "end": f"start + {_span(hours - buffer)}", "inclusive": (False, True),
            "has": {}, "label": self.outcome,
        }  # fmt: skip
        self._past("alive", "death", None, (None, 0))
        if days := self.tasks.end_of_life_of(task):
            self._window(
                "end_of_life", "trigger", f"start + {_span(24 * days)}", (False, True), "death", (None, 0)
            )
        self._risk()
        if buffer and task.in_buffer == "exclude":
            gap["has"][self.outcome] = (None, 0)

    def _risk(self) -> None:
        risk = self.task.at_risk
        if risk and risk.no_prior:
            self._plain("prior", risk.no_prior)
            self._past("not_before", "prior", risk.no_prior.within_days, (None, 0))
            if "gap" in self.windows:
                self.windows["gap"]["has"]["prior"] = (None, 0)
        if risk and risk.requires_prior:
            self._plain("needed", risk.requires_prior)
            self._past("before", "needed", risk.requires_prior.within_days, (1, None))
        for i, rule in enumerate(self.task.exclude):
            first, last = rule.between_days
            assert first is not None
            self._plain(f"excluded_{i}", rule)
            start, length = _moved("trigger", 24 * first), _span(24 * (last - first))
            self._window(
                f"excluded_{i}", start, f"start + {length}", (True, True), f"excluded_{i}", (None, 0)
            )

    def _plain(self, name: str, pattern: EventPattern) -> str:
        codes = matching_codes(self.codes, pattern.codes) or ["no such code"]
        self.predicates[name] = {"code": {"any": codes}}
        if pattern.value:
            v = pattern.value
            low, high = (v.ge if v.ge is not None else v.gt), (v.le if v.le is not None else v.lt)
            self.predicates[name] |= {
                "value_min": low, "value_min_inclusive": v.ge is not None,
                "value_max": high, "value_max_inclusive": v.le is not None,
            }  # fmt: skip
        if pattern.section:
            self.predicates[name]["other_cols"] = {"section": pattern.section}
        return name

    def _window(
        self,
        name: str,
        start: str | None,
        end: str | None,
        inclusive: tuple[bool, bool],
        what: str,
        times: Any,
    ) -> None:
        self.windows[name] = {"start": start, "end": end, "inclusive": inclusive, "has": {what: times}}

    def _past(self, name: str, what: str, within_days: float | None, times: Any) -> None:
        start = None if within_days is None else f"end - {_span(24 * within_days)}"
        self._window(name, start, "trigger", (True, True), what, times)

    def ask(self, flat: Path, then: str | None = None) -> Answers:
        """Whether the outcome happened in the window, at the nodes that meet all windows.

        then: only at those who were "seen" at or after the window's end, or "died" in it or in the gap.
        """
        package = aces()
        config, windows = package.config, {k: {**w, "has": dict(w["has"])} for k, w in self.windows.items()}
        if then == "seen":
            end = {
                "start": "target.end",
                "end": None,
                "inclusive": (True, True),
                "has": {"record": (1, None)},
            }
            windows["afterwards"] = end
        if then == "died":
            last = {"start": "trigger", "end": f"start + {_span(24 * self.task.longest_days)}"}
            windows["until_death"] = {**last, "inclusive": (False, True), "has": {"death": (1, None)}}
        made = {
            name: config.WindowConfig(
                start=w["start"], end=w["end"],
                start_inclusive=w["inclusive"][0], end_inclusive=w["inclusive"][1],
                has={k: f"({a}, {b})" for k, (a, b) in w["has"].items()}, label=w.get("label"),
            )
            for name, w in windows.items()
        }  # fmt: skip
        predicates = {
            name: (config.DerivedPredicateConfig if "expr" in p else config.PlainPredicateConfig)(**p)
            for name, p in self.predicates.items()
        }
        task = config.TaskExtractorConfig(
            predicates=predicates, trigger=config.EventConfig("node"), windows=made
        )
        data = package.predicates.get_predicates_df(
            task, types.SimpleNamespace(path=str(flat), standard="meds")
        )
        found = package.query.query(task, data)
        if not found.height:
            return {}
        return {(s, t): n > 0 for s, t, n in found.select("subject_id", "trigger", "label").iter_rows()}

    def answer(self, flat: Path) -> Answers:
        """Positives and negatives; nodes that are not evaluable are not there."""
        everyone = self.ask(flat)
        answers = {node: True for node, happened in everyone.items() if happened}
        if "gap" in self.windows:
            self.windows["gap"]["has"][self.outcome] = (None, 0)
        for then in ("seen", "died"):
            answers |= {node: False for node, happened in self.ask(flat, then).items() if not happened}
        return answers


def _span(hours: float) -> str:
    seconds = round(hours * 3600)
    assert seconds == hours * 3600
    return f"{seconds} seconds"


def _moved(anchor: str, hours: float) -> str:
    return anchor if not hours else f"{anchor} {'+' if hours > 0 else '-'} {_span(abs(hours))}"


def write_flat(
    question: Question, nodes_spec: NodesSpec, nodes_dir: Path, meds_dir: Path, out: Path, whole: bool
) -> Path:
    """The record as one file, with an event at every node that the task is asked at.

    Where deaths are known for longer than the record, so says an event at the end of that time.

    Args:
        whole: all events; else only those that the task names, and each subject's last.
    """
    task = question.task
    nodes = read_nodes(nodes_dir)
    if task.triggers:
        nodes = nodes.filter(pl.col("trigger").list.eval(pl.element().is_in(task.triggers)).list.any())
    columns = ["subject_id", "time", "code", "numeric_value", "section"]
    events = scan_events(meds_dir).select(columns).collect()
    seen = events.filter(pl.col("time").is_not_null() & (pl.col("code") != BIRTH))
    last = seen.sort("time").unique("subject_id", keep="last")
    if not whole:
        named = {DEATH}
        for predicate in question.predicates.values():
            if "expr" not in predicate and predicate["code"] != NODE:
                codes = predicate["code"]
                named |= (
                    set(codes["any"]) if isinstance(codes, dict) and SEEN_UNTIL not in codes["any"] else set()
                )
        events = pl.concat([seen.filter(pl.col("code").is_in(sorted(named))), last])
    marks = [nodes.select("subject_id", "time").with_columns(code=pl.lit(NODE))]
    days = nodes_spec.follow_up.death_extension_days
    assert task.outcome
    deadly = all(matching_codes(question.codes, p.codes or []) == [DEATH] for p in task.outcome.parts)
    if days and deadly and not task.competing:
        known = last.filter(~pl.col("subject_id").is_in(deaths_in_doubt(meds_dir)))
        later = pl.col("time") + pl.duration(days=days, time_unit="us")
        marks.append(known.select("subject_id", later, code=pl.lit(SEEN_UNTIL)))
    flat = pl.concat([events, *marks], how="diagonal_relaxed").sort("subject_id", "time", maintain_order=True)
    pq.write_table(flat.to_arrow(), out)
    return out


def codes_of(meds_dir: Path) -> list[str]:
    return sorted({*event_codes(meds_dir), DEATH})
