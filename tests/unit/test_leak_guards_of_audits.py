"""The guards of the audits, one by one: what they refuse, what they must not refuse, and what they count."""

import json
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nodes_support import US, at, event, event_frame, write_meds
from pydantic import ValidationError

from ehr_assets.contracts import DEATH
from ehr_assets.leakage.availability import known_when_declared
from ehr_assets.leakage.availability_spec import AvailabilityRule
from ehr_assets.leakage.deletion import rows_that_differ, sampled_cuts, without_future
from ehr_assets.leakage.duplicates import FEWEST_ITEMS, near_duplicates
from ehr_assets.leakage.findings import Finding, as_frame, findings_table, verdict
from ehr_assets.leakage.in_window import (
    newest_known,
    newest_known_in_window,
    outcome_patterns,
    outcomes_known_at_nodes,
)
from ehr_assets.leakage.planting import PLANTED, with_planted_future

# --- Verdicts


def test_a_guard_that_found_nothing_has_not_passed():
    ok = Finding("a", "c", "ok")
    assert verdict(as_frame([ok]), "a").passed
    assert not verdict(as_frame([ok]), "b").passed
    assert verdict(as_frame([ok]), "b").problem == "the guard has not run"


def test_a_warning_passes_and_failures_are_told_but_not_without_end():
    some = [Finding("a", "c", "fail", f"task{i}", note="why") for i in range(8)]
    said = verdict(as_frame([Finding("a", "c", "warn"), *some]), "a")
    assert not said.passed
    assert said.counts == {"findings": 9, "failed": 8, "warned": 1}
    assert said.problem
    assert said.problem.startswith("task0 (why); task1 (why)")
    assert said.problem.endswith("and 3 more")
    assert verdict(as_frame([Finding("a", "c", "warn")]), "a").passed


def test_the_table_puts_failures_first_and_keeps_its_columns():
    table = findings_table(as_frame([Finding("a", "c", "ok"), Finding("b", "c", "fail", "x|y", 0.5, 0.1, 3)]))
    rows = table.split("\n")[2:]
    assert rows[0] == "| b | x\\|y | fail | 0.5 | 0.1 | 3 |  |"
    assert rows[1].startswith("| a |  | ok |")


# --- Availability


@pytest.mark.parametrize(
    "rule", [{"codes": ["^A"]}, {"codes": ["("], "timed": True}, {"codes": ["A"], "mostly": 0}]
)
def test_rules_that_say_nothing_are_refused(rule):
    with pytest.raises(ValidationError):
        AvailabilityRule.model_validate(rule)


def kept(tmp_path, rule, *events) -> tuple[str, float | None, int]:
    meds = write_meds(tmp_path / "meds", list(events))
    (_, finding) = known_when_declared([AvailabilityRule.model_validate(rule)], "c", meds)
    return finding.verdict, finding.measured, finding.n


STAY = {"start": ["^IN$"], "end": ["^OUT$"]}
IN_AND_OUT = (event(1, at(0), "IN"), event(1, at(5), "OUT"), event(1, at(20), "IN"), event(1, at(22), "OUT"))


@pytest.mark.parametrize(
    ("rule", "happened", "known", "verdict"),
    [
        ({"not_during": STAY}, at(1), at(5), "ok"),  # at the very end of the stay
        ({"not_during": STAY}, at(1), at(5) - US, "fail"),
        ({"not_during": STAY}, at(0), at(0), "fail"),  # at its very beginning
        ({"not_during": STAY}, at(10), at(10), "ok"),  # between two stays
        ({"not_during": STAY}, at(10), at(21), "ok"),  # of before the second, filed during it
        ({"not_during": STAY}, at(30), at(30), "ok"),  # after all
        ({"not_before": {"codes": ["^IN$"], "hours": 24}}, at(0, 3), at(1), "ok"),
        ({"not_before": {"codes": ["^IN$"], "hours": 24}}, at(0, 3), at(1) - US, "fail"),
        ({"not_before": {"codes": ["^IN$"], "hours": 24}}, at(20, 3), at(20, 20), "fail"),  # of the second
        ({"not_before": {"codes": ["^IN$"], "hours": 24}}, at(1), at(40), "ok"),  # of the first, filed late
        ({"not_before": {"codes": ["^NOWHERE$"]}}, at(1), at(40), "fail"),  # nothing it could come after
        ({"at_least_hours": 24}, at(1), at(2), "ok"),
        ({"at_least_hours": 24}, at(1), at(2) - US, "fail"),
        ({"known_later": True}, at(1), at(1) + US, "ok"),
        ({"known_later": True}, at(1), at(1), "fail"),
        ({"timed": True}, at(1), at(1), "ok"),
    ],
)
def test_each_promise_at_its_edge(tmp_path, rule, happened, known, verdict):
    mine = event(1, happened, "X", available=known)
    assert kept(tmp_path, {"codes": ["^X$"], **rule}, *IN_AND_OUT, mine)[0] == verdict


def test_a_share_may_break_a_promise_and_codes_may_be_absent(tmp_path):
    rows = [event(s, at(1), "X", available=at(2) if s > 1 else at(1)) for s in range(1, 11)]
    rule = {"codes": ["^X$"], "known_later": True}
    assert kept(tmp_path / "a", {**rule, "mostly": 0.9}, *rows) == ("ok", 0.9, 10)
    assert kept(tmp_path / "b", {**rule, "mostly": 0.91}, *rows) == ("fail", 0.9, 10)
    assert kept(tmp_path / "c", {**rule, "codes": ["^ABSENT$"]}, *rows) == ("ok", 1.0, 0)


# --- Deletion and planting


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9), st.integers(0, 4), st.booleans()), max_size=20),
    st.dictionaries(st.integers(1, 4), st.integers(0, 12), max_size=4),
)
def test_deletion_equals_the_literal_reading(events, cuts):
    rows = [
        event(s, None if static else at(day), f"E{i}", available=None if static else at(day + late))
        for i, (s, day, late, static) in enumerate(events)
    ]
    table = pl.DataFrame(
        {"subject_id": list(cuts), "cut": [at(d) for d in cuts.values()]},
        schema={"subject_id": pl.Int64, "cut": pl.Datetime("us")},
    )
    found = without_future(event_frame(rows), table)["code"].to_list()
    expected = [
        r["code"]
        for r in rows
        if r["subject_id"] in cuts and (r["time"] is None or r["available_time"] <= at(cuts[r["subject_id"]]))
    ]
    assert sorted(found) == sorted(expected)


def test_cuts_are_one_per_subject_and_the_same_again():
    frame = pl.DataFrame(
        {"node_id": list("abcdef"), "subject_id": [1, 1, 2, 2, 3, 3], "time": [at(i) for i in range(6)]}
    )
    first = sampled_cuts(frame, 2, 0)
    assert first["subject_id"].n_unique() == first.height == 2
    assert first.equals(sampled_cuts(frame, 2, 0))


def test_features_differ_by_value_by_name_and_not_by_order():
    X = np.array([[1, np.nan], [2, 3]], dtype=np.float32)
    assert rows_that_differ((X, ["a", "b"]), (X[:, ::-1], ["b", "a"])) == 0
    assert rows_that_differ((X, ["a", "b"]), (X + np.array([[0, 0], [0, 1]]), ["a", "b"])) == 1
    assert rows_that_differ((X, ["a", "b"]), (np.nan_to_num(X), ["a", "b"])) == 1
    assert rows_that_differ((X, ["a", "b"]), (X, ["a", "c"])) == 2


def test_what_is_planted_became_known_after_the_cut_in_the_order_of_meds():
    record = event_frame(
        [event(1, None, "G"), event(1, at(1), "A"), event(1, at(9), "B"), event(2, at(3), "A")]
    )
    cuts = pl.DataFrame(
        {"subject_id": [1, 2], "cut": [at(5), at(5)]}, schema_overrides={"cut": pl.Datetime("us")}
    )
    planted = with_planted_future(record, cuts, ["A", DEATH])
    more = planted.filter(pl.col("text_value") == "planted")
    assert more.height == 2 * 2 * 3
    assert (more["available_time"] > at(5)).all()
    assert (more["time"] < at(5)).sum() == (more["time"] > at(5)).sum() == 6
    assert PLANTED in planted["code"]
    assert without_future(planted, cuts).equals(without_future(record, cuts))
    for _, own in planted.group_by("subject_id"):
        assert own["time"].is_sorted(nulls_last=False)


# --- Near duplicates


def subject(s: int, seed: int, n: int = 60, shift: float = 0, kinds: int = 40) -> list:
    rng = np.random.default_rng(seed)
    codes, days, values = rng.integers(0, kinds, n), np.sort(rng.integers(0, 400, n)), rng.normal(10, 3, n)
    return [
        event(s, at(float(d) + shift), f"C{c}", float(v)) for c, d, v in zip(codes, days, values, strict=True)
    ]


def duplicates(tmp_path, *records, splits=("train", "held_out")):
    meds = write_meds(tmp_path / "meds", [e for record in records for e in record])
    ids = [record[0]["subject_id"] for record in records]
    frame = pl.DataFrame({"subject_id": ids, "split": [splits[i % 2] for i in range(len(ids))]})
    return near_duplicates("r", {"c": meds}, {"c": frame})


def test_a_moved_and_renumbered_record_is_found(tmp_path):
    found = duplicates(tmp_path, subject(1, 7), subject(2, 7, shift=365), subject(3, 8), subject(4, 9))
    assert (found.verdict, found.measured, found.n) == ("fail", 1, 4)


@pytest.mark.parametrize(
    "records",
    [
        (subject(1, 7), subject(2, 8)),  # others
        (subject(1, 7, n=FEWEST_ITEMS - 1), subject(2, 7, n=FEWEST_ITEMS - 1)),  # too short to be told apart
        (subject(1, 7), subject(2, 6), subject(3, 7)),  # in the same split
    ],
)
def test_what_is_no_copy_passes(tmp_path, records):
    assert duplicates(tmp_path, *records).verdict == "ok"


def test_records_of_what_many_have_are_no_copies(tmp_path):
    """Thirty subjects with the same schedule and the same results: alike by nature."""
    assert duplicates(tmp_path, *(subject(s, 7) for s in range(1, 31))).verdict == "ok"


def test_a_copy_in_another_cohort_is_found(tmp_path):
    parts = {"a": [subject(1, 7), subject(2, 5)], "b": [subject(1, 7, shift=9), subject(2, 6)]}
    meds = {c: write_meds(tmp_path / c, [e for r in rows for e in r]) for c, rows in parts.items()}
    splits = {
        "a": pl.DataFrame({"subject_id": [1, 2], "split": ["train", "train"]}),
        "b": pl.DataFrame({"subject_id": [1, 2], "split": ["held_out", "train"]}),
    }
    assert near_duplicates("r", meds, splits).measured == 1
    assert near_duplicates("r", meds, {**splits, "b": splits["a"]}).measured == 0


# --- What stands in the windows


def test_outcomes_are_found_in_every_grammar():
    assert outcome_patterns({"outcome": {"codes": ["^A"]}}, {}) == ["^A"]
    several = {"outcome": {"any_of": [{"codes": ["^A"], "value": {"ge": 3}}, {"derived": "line"}]}}
    assert outcome_patterns(several, {"line": {"kind": "new", "codes": ["^B"]}}) == ["^A", "^B"]
    assert outcome_patterns({"target": {"codes": ["^LAB"], "take": "last"}, "outcome": None}, {}) == ["^LAB"]


def node_frame(*rows) -> pl.DataFrame:
    schema = {"node_id": pl.String, "subject_id": pl.Int64, "time": pl.Datetime("us")}
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_outcome_codes_count_when_they_are_known(tmp_path):
    rows = [event(1, at(1), "OUT", available=at(3)), event(2, at(9), "OUT"), event(2, at(1), "X")]
    meds = write_meds(tmp_path / "meds", rows)
    nodes = node_frame(("a", 1, at(2)), ("b", 1, at(3)), ("c", 2, at(3)), ("d", 3, at(3)))
    found = outcomes_known_at_nodes("c", {"t": ["^OUT$"], "never": ["^NO$"]}, nodes, meds)
    assert [(f.about, f.verdict, f.measured) for f in found] == [("t", "ok", 0.25), ("never", "warn", 0.0)]


def test_the_newest_known_is_that_of_a_literal_reading(tmp_path):
    rng = np.random.default_rng(3)
    rows = [
        event(int(s), at(float(d)), "A", available=at(float(d + late)))
        for s, d, late in zip(
            rng.integers(1, 6, 80), rng.integers(0, 50, 80), rng.integers(0, 9, 80), strict=True
        )
    ]
    meds = write_meds(tmp_path / "meds", [*rows, event(1, None, "STATIC"), event(1, at(-9000), "MEDS_BIRTH")])
    nodes = node_frame(
        *((f"n{i}", int(s), at(float(t))) for i, (s, t) in enumerate(rng.integers(1, 60, (40, 2)) % [7, 60]))
    )
    found = dict(newest_known(meds, nodes).iter_rows())
    for node, s, t in nodes.iter_rows():
        known = [r["available_time"] for r in rows if r["subject_id"] == s and r["available_time"] <= t]
        assert found[node] == max(known, default=None)
    windows = newest_known(meds, nodes).rename({"known": "available_time"})
    assert newest_known_in_window("r", newest_known(meds, nodes), windows).verdict == "ok"
    older = windows.with_columns(pl.col("available_time") - timedelta(hours=1))
    assert newest_known_in_window("r", newest_known(meds, nodes), older).verdict == "fail"


def test_findings_hold_no_subject(tmp_path):
    """What a finding says goes to reports: no id of a subject is in it."""
    secret = 71_234_567
    meds = write_meds(tmp_path / "meds", [event(secret, at(1), "X", available=at(1)), *subject(secret, 3)])
    rule = AvailabilityRule.model_validate({"codes": ["^X$"], "known_later": True})
    found = known_when_declared([rule], "c", meds)
    assert any(f.verdict == "fail" for f in found)
    assert str(secret) not in json.dumps([f.__dict__ for f in found])
