"""The leak guards: each finds the leak planted for it, and is silent on a clean chain."""

import dataclasses
import json
from hashlib import sha256

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nodes_support import US, at, event, event_frame, labels_of

from ehr_assets.leakage.fits import fitted_on, fitted_on_subjects, read_fitted_on
from ehr_assets.leakage.labels import labels_keep_window
from ehr_assets.leakage.subjects import cohorts_hash, splits_agree, splits_disjoint, subjects_hash
from ehr_assets.leakage.windows import events_known_at, future_in_windows
from ehr_assets.meds.reading import follow_up, scan_events

SPLITS = pl.DataFrame({"subject_id": [1, 2, 3, 4], "split": ["train", "train", "tuning", "held_out"]})


def test_subjects_hash_ignores_order_and_repeats_and_sorts_as_numbers():
    assert subjects_hash([10, 9, 10]) == subjects_hash(pl.Series([9, 10]))
    assert subjects_hash([9, 10]) == sha256(b"9\n10").hexdigest()
    assert subjects_hash([9, 10]) != subjects_hash([9, 100])
    assert subjects_hash([1, 23]) != subjects_hash([12, 3])


def test_splits():
    clean = splits_disjoint(SPLITS)
    assert clean.ok
    assert clean.per_split == {"held_out": 1, "train": 2, "tuning": 1}
    twice = pl.concat([SPLITS, pl.DataFrame({"subject_id": [4], "split": ["train"]})])
    assert splits_disjoint(twice).in_several_splits == 1
    again = splits_disjoint(pl.concat([SPLITS, SPLITS.head(1)]))
    assert (again.listed_again, again.in_several_splits, again.ok) == (1, 0, False)
    found = pl.DataFrame({"subject_id": [1, 1, 4, 9], "split": ["train", "train", "train", "train"]})
    finding = splits_agree(found, SPLITS)
    assert (finding.in_another_split, finding.without_split, finding.in_several_splits) == (1, 1, 0)
    assert not finding.ok
    nameless = pl.DataFrame({"subject_id": [1], "split": [None]}, schema=SPLITS.schema)
    assert not splits_disjoint(nameless).ok


def test_fits(tmp_path):
    train = {"c": [1, 2]}
    (tmp_path / "fitted_on.json").write_text(json.dumps(fitted_on(train)))
    claim = read_fitted_on(tmp_path)
    assert fitted_on_subjects(claim, {"c": [2, 1, 1]}).ok
    assert fitted_on_subjects(claim, {"c": [1, 3]}).problem == "the fit has seen other subjects"
    assert (
        fitted_on_subjects(claim, {"c": [1, 2, 3]}).problem == "the fit has seen another number of subjects"
    )
    assert not fitted_on_subjects({**claim, "split": "held_out"}, train).ok
    assert not fitted_on_subjects(read_fitted_on(tmp_path / "nowhere"), train).ok


def test_equal_ids_of_two_cohorts_are_two_subjects():
    claim = fitted_on({"a": [1, 2], "b": [2]})
    assert claim["n_subjects"] == 3
    assert fitted_on_subjects(claim, {"b": [2], "a": [2, 1]}).ok
    assert not fitted_on_subjects(claim, {"a": [1], "b": [1, 2]}).ok
    assert not fitted_on_subjects(claim, {"a": [2], "b": [1, 2]}).ok
    assert cohorts_hash({"a": [1, 2]}) == subjects_hash([1, 2])


def _nodes(rows: list[tuple]) -> pl.DataFrame:
    schema = {"node_id": pl.String, "subject_id": pl.Int64, "time": pl.Datetime("us")}
    return pl.DataFrame(rows, schema=schema, orient="row")


NODES = _nodes([("a", 1, at(10)), ("b", 1, at(20)), ("c", 2, at(10)), ("d", 3, at(1))])
RECORD = event_frame([
    event(1, None, "GENDER//F"), event(1, at(10), "X"), event(1, at(9), "LATE", available=at(10) + US),
    event(1, at(15), "Y"), event(2, at(10) + US, "Z"),
])  # fmt: skip


def test_known_at_goes_by_availability_with_static_rows():
    known = events_known_at(RECORD, NODES).select("node_id", "code").collect()
    assert sorted(known.rows()) == [
        ("a", "GENDER//F"), ("a", "X"), ("b", "GENDER//F"), ("b", "LATE"), ("b", "X"), ("b", "Y"),
    ]  # fmt: skip


def test_clean_windows_pass_and_each_leak_is_counted():
    clean = events_known_at(RECORD, NODES)
    assert future_in_windows(NODES, clean).ok
    assert future_in_windows(NODES, clean).rows == 6
    columns = {
        "node_id": pl.String,
        "subject_id": pl.Int64,
        "time": pl.Datetime("us"),
        "available_time": pl.Datetime("us"),
    }
    leaks = pl.DataFrame(
        [
            ("a", 1, at(9), at(10) + US),  # happened before t, known after it
            ("a", 1, at(30), at(30)),
            ("b", 1, at(3), None),
            ("b", 2, at(3), at(3)),
            ("zz", 1, at(3), at(3)),
            ("b", 1, None, None),
        ],
        schema=columns,
        orient="row",
    )
    finding = future_in_windows(NODES, leaks)
    assert dataclasses.asdict(finding) == {
        "nodes": 3, "rows": 6, "late_rows": 2, "late_nodes": 1,
        "undated_rows": 1, "unknown_node_rows": 1, "foreign_rows": 1,
    }  # fmt: skip
    assert not finding.ok
    assert future_in_windows(NODES, leaks.select("node_id", "available_time")).late_rows == 2


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9), st.integers(0, 4), st.booleans()), max_size=20),
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 12)), max_size=6, unique=True),
)
def test_known_at_equals_the_literal_reading(events, nodes):
    rows = [
        event(s, None if static else at(day), f"E{i}", available=None if static else at(day + late))
        for i, (s, day, late, static) in enumerate(events)
    ]
    table = _nodes([(f"n{i}", s, at(day)) for i, (s, day) in enumerate(nodes)])
    known = events_known_at(event_frame(rows).lazy(), table)
    expected = [
        (f"n{i}", r["code"])
        for i, (s, day) in enumerate(nodes)
        for r in rows
        if r["subject_id"] == s and (r["time"] is None or r["available_time"] <= at(day))
    ]
    assert sorted(known.select("node_id", "code").collect().rows()) == sorted(expected)
    assert future_in_windows(table, known).ok


TASKS = [
    {"name": "task", "horizon_days": 30, "outcome": {"codes": ["^OUTCOME$"]}},
    {"name": "death", "horizon_days": 60, "outcome": {"codes": ["^MEDS_DEATH$"]}},
]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Two subjects' labels (1: positive; 2: negative for `task`), and the follow-up of their record."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = [
        event(1, at(100), "ANCHOR"), event(1, at(110), "OUTCOME"), event(1, at(140), "MEDS_DEATH"),
        event(2, at(100), "ANCHOR"), event(2, at(130), "VISIT"),
    ]  # fmt: skip
    labels, _ = labels_of(folder, TASKS, rows, follow_up={"death_extension_days": 30})
    return labels, follow_up(scan_events(folder / "meds"))


def _check(labels, follow):
    horizons = {"task": 30, "death": 60}
    return labels_keep_window(_by_task(labels), horizons, follow, 24, 7, extension_days={"death": 30})


def _by_task(labels):
    return {task: frame for (task,), frame in labels.partition_by("task", as_dict=True).items()}


def test_clean_labels_pass(labelled):
    finding = _check(*labelled)
    assert finding.ok
    assert finding.labels == 4
    labels, follow = labelled
    # The window's edges: the first microsecond after the buffer, and the horizon itself.
    assert _check(_set(labels, "event_time", at(101) + US), follow).ok
    assert _check(_set(labels, "event_time", at(130)), follow).ok


def _set(labels, column, value, subject=1, task="task"):
    here = (pl.col("subject_id") == subject) & (pl.col("task") == task)
    dtype = labels.schema[column]
    if column == "event_time" and value is not None:  # so that nothing but the window is wrong
        days = (pl.lit(value) - pl.col("prediction_time")).dt.total_microseconds() / 86_400e6
        labels = labels.with_columns(
            pl.when(here).then(days).otherwise("duration_days").alias("duration_days")
        )
    return labels.with_columns(pl.when(here).then(pl.lit(value, dtype=dtype)).otherwise(column).alias(column))


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (lambda x: _set(x, "event_time", at(101)), "inside_buffer"),  # exactly t + 24 h
        (lambda x: _set(x, "event_time", at(100)), "inside_buffer"),  # the prediction time itself
        (lambda x: _set(x, "event_time", at(130) + US), "beyond_horizon"),
        (lambda x: _set(x, "event_time", None), "without_event_time"),
        (lambda x: _set(x, "prediction_time", at(100) + US, subject=2), "without_follow_up"),
        (lambda x: _set(x, "boolean_value", None), "null_with_event"),
        (lambda x: _set(x, "prediction_time", at(133), subject=1, task="death"), "near_death"),
        (lambda x: _set(x, "prediction_time", at(150), subject=1, task="death"), "near_death"),
        (lambda x: _set(x, "task", "other"), "unknown_task"),
        (lambda x: pl.concat([x, x.head(1)]), "repeated"),
    ],
)
def test_each_label_leak_is_caught(labelled, spoil, field):
    labels, follow = labelled
    finding = _check(spoil(labels), follow)
    assert getattr(finding, field) == 1
    assert sum(finding.by_task.values()) == 1
    assert not finding.ok


def test_a_negative_without_the_extension_is_caught(labelled):
    labels, follow = labelled
    finding = labels_keep_window(_by_task(labels), {"task": 30, "death": 60}, follow, 24, 7)
    assert finding.without_follow_up == 1
    assert dict(finding.by_task) == {"death": 1}
