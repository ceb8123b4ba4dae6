"""Each label rule at its boundaries, the files written, and agreement with a literal reading per node."""

import json
from datetime import timedelta

import meds
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nodes_support import ANCHOR, US, at, event, labels_of, random_records

from ehr_assets.nodes.frames import CENSORED, COMPETING, EVENT, REASONS

T = at(100)
TASK = {"name": "task", "horizon_days": 30, "outcome": {"codes": ["^OUTCOME$"]}}
LAST = event(1, at(400), "VISIT")  # follow-up far beyond every horizon


def label(folder, events, task=None, **kwargs) -> dict:
    """The one label of `task` at a node at T."""
    labels, _ = labels_of(folder, [{**TASK, **(task or {})}], [event(1, T, "ANCHOR"), *events], **kwargs)
    at_t = labels.filter(pl.col("prediction_time") == T)
    assert at_t.height == 1
    return at_t.row(0, named=True)


def answer(row: dict) -> object:
    return row["boolean_value"] if row["reason"] is None else row["reason"]


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (at(99), False),
        (T, False),  # at t: it belongs to the past
        (T + US, "outcome_in_buffer"),
        (at(101), "outcome_in_buffer"),  # exactly t + 24 h
        (at(101) + US, True),
        (at(130), True),  # exactly t + horizon
        (at(130) + US, False),
    ],
)
def test_the_window_is_open_at_the_buffer_and_closed_at_the_horizon(tmp_path, when, expected):
    row = label(tmp_path, [event(1, when, "OUTCOME"), LAST])
    assert answer(row) == expected
    assert (row["status"] == EVENT) == (expected is True)
    assert row["event_time"] == (when if expected is True else None)


def test_an_outcome_in_the_window_outweighs_one_in_the_buffer_and_the_first_counts(tmp_path):
    days = [T + US, at(110), at(105)]
    row = label(tmp_path, [*[event(1, d, "OUTCOME") for d in days], LAST])
    assert (row["boolean_value"], row["event_time"], row["duration_days"]) == (True, at(105), 5.0)


def test_who_falls_out_of_risk_in_the_buffer_is_not_at_risk_when_the_window_opens(tmp_path):
    later = [event(1, at(110), "OUTCOME"), LAST]
    first = {"at_risk": {"no_prior": {"codes": ["^OUTCOME$"]}}}
    rows = [event(1, T + US, "OUTCOME"), *later]
    assert answer(label(tmp_path / "first", rows, first)) == "outcome_in_buffer"
    other = {"at_risk": {"no_prior": {"codes": ["^HAD$"]}}}
    assert answer(label(tmp_path / "again", rows, other)) is True
    rows = [event(1, at(101), "HAD"), *later]
    assert answer(label(tmp_path / "lost", rows, other)) == "not_at_risk"
    rows = [event(1, at(101) + US, "HAD"), *later]
    assert answer(label(tmp_path / "kept", rows, other)) is True


def test_a_death_in_doubt_extends_no_follow_up(tmp_path):
    death = {"outcome": {"codes": ["^MEDS_DEATH$"]}}
    rows, known = [event(1, at(110), "VISIT")], {"death_extension_days": 365}
    assert answer(label(tmp_path / "known", rows, death, follow_up=known)) is False
    assert answer(label(tmp_path / "doubt", rows, death, follow_up=known, in_doubt=[1])) == "censored"
    seen_later = [*rows, event(1, at(131), "VISIT")]
    assert answer(label(tmp_path / "seen", seen_later, death, follow_up=known, in_doubt=[1])) is False


def test_outcomes_go_by_when_they_happened_not_by_when_they_were_known(tmp_path):
    row = label(tmp_path, [event(1, at(129), "OUTCOME", available=at(300)), LAST])
    assert row["boolean_value"] is True


def test_another_subjects_outcome_is_not_ones_own(tmp_path):
    assert label(tmp_path, [event(2, at(110), "OUTCOME"), LAST])["boolean_value"] is False


@pytest.mark.parametrize(
    ("last", "expected", "days"),
    [(at(130), False, 30.0), (at(130) - US, "censored", 30 - 1 / 86_400e6), (at(300), False, 30.0)],
)
def test_a_negative_needs_follow_up_to_the_horizon(tmp_path, last, expected, days):
    row = label(tmp_path, [event(1, last, "VISIT")])
    assert answer(row) == expected
    assert row["duration_days"] == pytest.approx(days, abs=1e-12)
    assert row["status"] == CENSORED


def test_static_rows_and_births_are_no_follow_up(tmp_path):
    row = label(tmp_path, [event(1, at(300), "MEDS_BIRTH"), event(1, None, "GENDER//F")])
    assert (answer(row), row["duration_days"]) == ("censored", 0.0)


def test_death_completes_follow_up_for_other_outcomes_and_competes_with_them(tmp_path):
    row = label(tmp_path, [event(1, at(120), "MEDS_DEATH")])
    assert (answer(row), row["duration_days"], row["status"]) == (False, 20.0, COMPETING)


@pytest.mark.parametrize(
    ("death", "expected"),
    [
        (at(107), "end_of_life"),  # exactly 7 days
        (at(107) + US, True),
        (at(130), True),
        (at(130) + US, False),
        (T + US, "end_of_life"),
        (T, "after_death"),
        (at(99), "after_death"),
    ],
)
def test_death_as_outcome_and_the_end_of_life_filter(tmp_path, death, expected):
    # The death is known late, so that the node exists.
    rows = [event(1, death, "MEDS_DEATH", available=at(200)), LAST]
    row = label(tmp_path, rows, {"outcome": {"codes": ["^MEDS_DEATH$"]}})
    assert answer(row) == expected
    assert (row["duration_days"] is None) == (expected in ("end_of_life", "after_death"))


def test_the_extension_is_for_deaths_only(tmp_path):
    death = {"outcome": {"codes": ["^MEDS_DEATH$"]}}
    other = [event(2, at(1), "MEDS_DEATH"), event(2, at(1), "OUTCOME")]
    extended = {"follow_up": {"death_extension_days": 30}}
    assert answer(label(tmp_path / "a", other, death, **extended)) is False
    assert answer(label(tmp_path / "b", other, **extended)) == "censored"
    assert answer(label(tmp_path / "c", other, death, follow_up={"death_extension_days": 29})) == "censored"
    # Whether any death was seen in the cohort makes no difference.
    assert answer(label(tmp_path / "e", [event(2, at(1), "VISIT")], death, **extended)) is False
    both = {"outcome": {"codes": ["^MEDS_DEATH$", "^OUTCOME$"]}}
    assert answer(label(tmp_path / "d", other, both, **extended)) == "censored"


@pytest.mark.parametrize(
    ("prior", "within", "expected"),
    [
        (at(3), None, "not_at_risk"),
        (T, None, "not_at_risk"),  # it has happened by t
        (T + US, None, "not_at_risk"),  # before the window opens
        (at(101) + US, None, False),
        (at(98), 2, "not_at_risk"),  # exactly 2 days before
        (at(98) - US, 2, False),
    ],
)
def test_at_risk(tmp_path, prior, within, expected):
    risk = {"at_risk": {"no_prior": {"codes": ["^HAD$"], "within_days": within}}}
    assert answer(label(tmp_path, [event(1, prior, "HAD"), LAST], risk)) == expected


def test_at_risk_may_ask_for_a_value(tmp_path):
    risk = {"at_risk": {"no_prior": {"codes": ["^LAB$"], "value": {"gt": 2}}}}
    assert answer(label(tmp_path / "a", [event(1, at(50), "LAB", 2.0), LAST], risk)) is False
    assert answer(label(tmp_path / "b", [event(1, at(50), "LAB", 2.1), LAST], risk)) == "not_at_risk"


@pytest.mark.parametrize(
    ("value", "condition", "expected"),
    [
        (3.0, {"ge": 3}, True),
        (2.9, {"ge": 3}, False),
        (3.0, {"gt": 3}, False),
        (6.1, {"ge": 6.1}, True),  # 6.1 in float32 is a little less than 6.1
        (6.1, {"le": 6.1}, True),
        (6.1, {"lt": 6.1}, False),
        (4.0, {"ge": 3, "lt": 4}, False),
        (None, {"lt": 100}, False),
        (float("nan"), {"gt": 1}, False),
    ],
)
def test_value_conditions(tmp_path, value, condition, expected):
    task = {"outcome": {"codes": ["^OUTCOME$"], "value": condition}}
    assert label(tmp_path, [event(1, at(110), "OUTCOME", value), LAST], task)["boolean_value"] is expected


def test_section_condition(tmp_path):
    task = {"outcome": {"codes": ["^OUTCOME$"], "section": "drugs"}}
    rows = [event(1, at(110), "OUTCOME", section="notes"), LAST]
    assert label(tmp_path / "a", rows, task)["boolean_value"] is False
    rows = [event(1, at(110), "OUTCOME", section="drugs"), LAST]
    assert label(tmp_path / "b", rows, task)["boolean_value"] is True


def test_new_agent_is_the_subjects_first_event_of_that_code(tmp_path):
    task = {"outcome": {"codes": ["^DRUG/"], "new_agent": True}}
    had = [event(1, at(50), "DRUG/X"), event(1, at(110), "DRUG/X"), LAST]
    assert answer(label(tmp_path / "a", had, task)) is False
    assert answer(label(tmp_path / "b", [*had, event(1, at(112), "DRUG/Y")], task)) is True
    others = [*had, event(2, at(110), "DRUG/Y")]
    assert answer(label(tmp_path / "c", others, task)) is False
    begun = [*had, event(1, at(100, hours=2), "DRUG/Z"), event(1, at(120), "DRUG/Z")]
    assert answer(label(tmp_path / "d", begun, task)) == "outcome_in_buffer"


def test_settings_of_the_file_move_the_windows(tmp_path):
    rows = [event(1, at(100, hours=2), "OUTCOME"), event(1, at(103), "MEDS_DEATH")]
    assert answer(label(tmp_path, rows, buffer_hours=1, end_of_life_days=2)) is True


def test_a_task_is_asked_at_its_triggers_only(tmp_path):
    triggers = [ANCHOR, {"name": "other", "kind": "event", "codes": ["^OTHER$"]}]
    tasks = [{**TASK, "name": "everywhere"}, {**TASK, "name": "here", "triggers": ["other"]}]
    rows = [event(1, T, "ANCHOR"), event(1, at(102), "OTHER"), event(1, at(103), "OTHER"), LAST]
    labels, stats = labels_of(tmp_path, tasks, [*rows, event(1, at(103), "ANCHOR")], triggers)
    assert labels.filter(pl.col("task") == "here")["prediction_time"].to_list() == [at(102), at(103)]
    assert stats["tasks"]["everywhere"]["n"] == 3


def test_a_horizon_beyond_follow_up_is_told_by_those_whom_no_rule_leaves_out(tmp_path):
    left_out = [event(s, t, code) for s in range(1, 9) for t, code in [(at(50), "OUTCOME"), (T, "ANCHOR")]]
    rows = [*left_out, event(9, T, "ANCHOR"), event(9, at(101), "VISIT")]
    task = {**TASK, "at_risk": {"no_prior": {"codes": ["^OUTCOME$"]}}}
    _, stats = labels_of(tmp_path, [task], rows)
    assert stats["tasks"]["task"]["null"] | {"not_at_risk": 0, "censored": 0} == dict.fromkeys(REASONS, 0)
    assert stats["tasks"]["task"]["null"]["not_at_risk"] == 8
    assert stats["tasks"]["task"]["horizon_beyond_follow_up"]


def test_files_and_counts(tmp_path):
    rows = [
        event(1, T, "ANCHOR"), event(1, at(110), "OUTCOME"), LAST, event(2, T, "ANCHOR"),
        event(3, T, "ANCHOR"), event(3, at(101), "OUTCOME"), event(4, T, "ANCHOR"),
        event(4, at(300), "VISIT"),
    ]  # fmt: skip
    never = {**TASK, "name": "never", "outcome": {"codes": ["^NO_SUCH_CODE$"]}}
    labels, stats = labels_of(tmp_path, [TASK, never], rows)
    nulls = dict.fromkeys(REASONS, 0)
    assert stats["nodes"] == 4
    assert stats["tasks"]["task"] == {
        "n": 4, "positive": 1, "negative": 1, "codes_matched": 1, "outcome_events": 2,
        "null": {**nulls, "outcome_in_buffer": 1, "censored": 1},
        "never_occurs": False, "horizon_beyond_follow_up": False,
    }  # fmt: skip
    assert stats["tasks"]["never"]["never_occurs"]
    assert stats["tasks"]["never"]["codes_matched"] == stats["tasks"]["never"]["positive"] == 0
    assert labels["task"].to_list() == ["task"] * 4 + ["never"] * 4
    out = tmp_path / "labels"
    exported = pq.read_table(out / "meds/task.parquet")
    meds.LabelSchema.validate(exported)
    assert exported.to_pylist() == [
        {"subject_id": 1, "prediction_time": T, "boolean_value": True},
        {"subject_id": 4, "prediction_time": T, "boolean_value": False},
    ]
    assert json.loads((out / "tasks.json").read_text())[0] == {
        "name": "task", "category": "c", "description": "d", "kind": "binary", "horizon_days": 30,
        "closed_by_event": False, "competing": "negative", "buffer_hours": 24, "end_of_life_days": 7,
    }  # fmt: skip
    counts = pl.read_parquet(out / "counts.parquet").filter(
        (pl.col("task") == "task") & (pl.col("nodes") > 0)
    )
    assert counts.rows() == [
        ("task", "positive", 1, 1), ("task", "negative", 1, 1),
        ("task", "outcome_in_buffer", 1, 1), ("task", "censored", 1, 1),
    ]  # fmt: skip


def test_no_nodes_give_empty_files_that_validate(tmp_path):
    labels, stats = labels_of(tmp_path, [TASK], [event(1, at(1), "OUTCOME")])
    assert labels.height == stats["nodes"] == stats["tasks"]["task"]["n"] == 0
    meds.LabelSchema.validate(pq.read_table(tmp_path / "labels/meds/task.parquet"))


CODES = ["ANCHOR", "ANCHOR", "OUTCOME", "OUTCOME", "VISIT", "MEDS_DEATH", "MEDS_BIRTH"]
RECORDS = random_records(st.integers(0, 24 * 20), CODES, [0.0, 1.0, 2.0], most=25)
TASKS = [
    {**TASK, "name": "plain", "horizon_days": 5},
    {**TASK, "name": "death", "horizon_days": 9, "outcome": {"codes": ["^MEDS_DEATH$"]}},
    {
        "name": "risky", "horizon_days": 3,
        "outcome": {"codes": ["^OUTCOME$"], "value": {"ge": 1}, "section": "drugs"},
        "at_risk": {"no_prior": {"codes": ["^OUTCOME$"], "value": {"lt": 1}, "within_days": 4}},
    },
    {"name": "new", "horizon_days": 12, "outcome": {"codes": ["^VISIT$", "^OUTCOME$"], "new_agent": True}},
]  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(RECORDS)
def test_labels_equal_the_literal_reading(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("l")
    labels, _ = labels_of(folder, TASKS, rows, follow_up={"death_extension_days": 3}, end_of_life_days=2)
    nodes = pl.read_parquet(folder / "nodes/nodes.parquet").select("subject_id", "time").rows()
    expected = [literal_label(task, s, t, rows) for task in TASKS for s, t in nodes]
    columns = ["subject_id", "prediction_time", "task", "boolean_value", "event_time", "reason"]
    assert labels.select(columns).rows() == [row[:-1] for row in expected]
    assert labels["duration_days"].to_list() == [pytest.approx(row[-1], abs=1e-11) for row in expected]
    assert (labels["status"] == EVENT).fill_null(False).to_list() == [
        value is True for _, _, _, value, *_ in expected
    ]


def literal_label(task: dict, subject: int, t, rows: list[dict]) -> tuple:
    """One label, read event by event: slow, and written from the rules alone."""
    mine = sorted((r for r in rows if r["subject_id"] == subject), key=lambda r: r["time"])
    buffer_end, end = t + timedelta(hours=24), t + timedelta(days=task["horizon_days"])
    deaths = [r["time"] for r in mine if r["code"] == "MEDS_DEATH"]
    death = min(deaths) if deaths else None

    outcomes = []
    seen = set()
    for r in mine:
        if (task["name"], r["code"]) in (("plain", "OUTCOME"), ("death", "MEDS_DEATH")):
            outcomes.append(r["time"])
        elif task["name"] == "risky" and r["code"] == "OUTCOME" and r["numeric_value"] >= 1:
            outcomes += [r["time"]] if r["section"] == "drugs" else []
        elif task["name"] == "new" and r["code"] in ("VISIT", "OUTCOME") and r["code"] not in seen:
            seen.add(r["code"])
            outcomes.append(r["time"])
    inside = [o for o in outcomes if buffer_end < o <= end]
    in_buffer = [o for o in outcomes if t < o <= buffer_end]
    safe = not any(
        r["code"] == "OUTCOME" and r["numeric_value"] < 1 and t - timedelta(days=4) <= r["time"] <= t
        for r in mine
    )
    lost = task["name"] == "risky" and any(
        r["code"] == "OUTCOME" and r["numeric_value"] < 1 and t < r["time"] <= buffer_end for r in mine
    )
    last = max(r["time"] for r in mine if r["code"] != "MEDS_BIRTH")
    if task["name"] == "death":
        last += timedelta(days=3)
    until = death or last

    value, event_time, stop, reason = None, None, min(until, end), None
    if death and death <= t:
        reason = "after_death"
    elif death and death - t <= timedelta(days=2):
        reason = "end_of_life"
    elif task["name"] == "risky" and not safe:
        reason = "not_at_risk"
    elif lost:
        reason = "outcome_in_buffer" if in_buffer else "not_at_risk"
    elif inside:
        value, event_time, stop = True, min(inside), min(inside)
    elif in_buffer:
        reason = "outcome_in_buffer"
    elif (death and death <= end) or until >= end:
        value = False
    else:
        reason = "censored"
    days = None if reason not in (None, "censored") else max(stop - t, timedelta(0)) / timedelta(days=1)
    return subject, t, task["name"], value, event_time, reason, days
