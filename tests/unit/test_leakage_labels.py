"""The guard of labels on every kind of task: what is spoiled in a committed dataset is named."""

import shutil
from datetime import timedelta

import polars as pl
import pytest
from nodes_support import ANCHOR, US, at, event, labels_of

from ehr_assets.nodes.frames import COMPETING, labels_path, read_labels, write_parquet
from ehr_assets.nodes.judge import judge_labels
from ehr_assets.nodes.task_spec import TaskSet
from ehr_assets.nodes.trigger_spec import NodesSpec

T = at(100)
OUTCOME = {"codes": ["^OUTCOME$"]}
TASKS = [
    {"name": "closed", "outcome": OUTCOME, "until": {"codes": ["^DISCHARGE$"], "at_most_days": 30}},
    {"name": "moved", "kind": "time_to_event", "outcome": OUTCOME, "horizon_days": 30, "competing":
        {"codes": ["^MOVED$"]}},
    {"name": "cut", "outcome": OUTCOME, "horizon_days": 30, "competing":
        {"codes": ["^MOVED$"], "counts_as": "censor"}},
    {"name": "open", "outcome": OUTCOME, "horizon_days": 60, "competing":
        {"codes": ["^MEDS_DEATH$"], "counts_as": "censor"}},
    {"name": "late", "outcome": OUTCOME, "horizon_days": 30, "buffer_hours": 48, "end_of_life_days": 60},
    {"name": "last", "kind": "regression", "target": {"codes": ["^HB$"], "take": "last"}, "horizon_days": 30},
    {"name": "first", "kind": "regression", "target": {"codes": ["^HB$"], "take": "first"},
     "horizon_days": 90},
]  # fmt: skip
SETTINGS = [{"category": "c", "description": "d", **task} for task in TASKS]
SPEC = NodesSpec.model_validate(
    {"task_set": "t", "triggers": [ANCHOR], "follow_up": {"until": ["^OBSERVED$"]}}
)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """1: the outcome at 104, discharge at 110. 2: moved at 120. 3: dies at 150. All seen to day 140."""
    folder = tmp_path_factory.mktemp("labelled") / "l"
    rows = [
        *[event(s, T, "ANCHOR") for s in (1, 2, 3)],
        *[event(s, at(140), "OBSERVED") for s in (1, 2, 3)],
        *[event(s, at(500), "VISIT") for s in (1, 2)],
        event(1, at(104), "OUTCOME"), event(1, at(110), "DISCHARGE"), event(1, at(103), "HB", 9.0),
        event(1, at(112), "HB", 8.0), event(2, at(120), "MOVED"), event(3, at(150), "MEDS_DEATH"),
        event(3, at(112), "HB", 7.0),
    ]  # fmt: skip
    labels_of(folder, TASKS, rows, follow_up={"until": ["^OBSERVED$"]})
    return folder


def judge(folder):
    return judge_labels(TaskSet.model_validate({"tasks": SETTINGS}), SPEC, folder / "labels", folder / "meds")


def test_honest_labels_of_every_kind_pass(labelled):
    finding = judge(labelled)
    assert finding.ok, finding
    assert finding.labels == 3 * len(TASKS)
    answers = {t["name"]: read_labels(labelled / "labels", t["name"]).to_dicts() for t in TASKS}
    assert [r["boolean_value"] for r in answers["closed"]] == [True, False, False]
    assert [r["status"] for r in answers["moved"]] == [1, COMPETING, 0]
    assert [r["reason"] for r in answers["cut"]] == [None, "censored", None]
    assert [r["reason"] for r in answers["open"]] == [None, "censored", "censored"]
    assert [r["reason"] for r in answers["late"]] == [None, None, "end_of_life"]
    assert [r["numeric_value"] for r in answers["last"]] == [8.0, None, 7.0]
    assert [r["numeric_value"] for r in answers["first"]] == [9.0, None, 7.0]


def _positive(when):
    return {"boolean_value": True, "event_time": when, "status": 1, "reason": None,
            "duration_days": (when - T) / timedelta(days=1)}  # fmt: skip


NO = {"boolean_value": False, "status": 0, "duration_days": 30.0, "reason": None}


@pytest.mark.parametrize(
    ("task", "subject", "change", "field"),
    [
        ("closed", 1, _positive(at(110) + US), "beyond_horizon"),  # after what closed the window
        ("closed", 2, _positive(at(130) + US), "beyond_horizon"),
        ("late", 1, _positive(at(102)), "inside_buffer"),  # the task's own buffer
        ("late", 3, NO, "near_death"),  # the task's own filter
        ("moved", 2, {"duration_days": 19.0}, "wrong_duration"),  # nothing competed then
        ("moved", 3, {"status": COMPETING, "duration_days": 20.0}, "wrong_duration"),
        ("moved", 1, {"duration_days": 5.0}, "wrong_duration"),
        ("moved", 3, {"duration_days": 31.0}, "wrong_duration"),
        ("moved", 3, {"numeric_value": 1.0}, "wrong_duration"),
        ("moved", 3, {"status": None}, "wrong_duration"),
        ("cut", 2, NO, "without_follow_up"),  # follow-up ended when the subject moved
        ("cut", 2, {"duration_days": 21.0}, "without_follow_up"),
        ("open", 3, {**NO, "duration_days": 50.0}, "without_follow_up"),  # a death leaves it open
        ("open", 2, {"duration_days": 41.0}, "without_follow_up"),  # seen after its observation ended
        ("last", 1, {"event_time": at(101)}, "inside_buffer"),
        ("last", 1, {"event_time": at(131)}, "beyond_horizon"),
        ("last", 1, {"event_time": None}, "without_event_time"),
        ("last", 1, {"prediction_time": at(111)}, "without_follow_up"),
        ("last", 1, {"numeric_value": float("nan")}, "wrong_duration"),
        ("last", 1, {"boolean_value": True}, "wrong_duration"),
        ("last", 2, {"event_time": at(110)}, "null_with_event"),
    ],
)
def test_each_is_caught(labelled, tmp_path, task, subject, change, field):
    folder = tmp_path / "copy"
    shutil.copytree(labelled, folder)
    labels = read_labels(folder / "labels", task)
    here = pl.col("subject_id") == subject
    spoiled = labels.with_columns(
        pl.when(here).then(pl.lit(value, dtype=labels.schema[name])).otherwise(name).alias(name)
        for name, value in change.items()
    )
    assert not spoiled.equals(labels)
    write_parquet(spoiled.to_arrow(), labels_path(folder / "labels", task))
    finding = judge(folder)
    assert getattr(finding, field) == 1, finding
    assert dict(finding.by_task) == {task: 1}
