"""Every rule of the task grammar at its boundaries. All at once: `test_nodes_grammar_literal.py`."""

import polars as pl
import pytest
from nodes_support import TOLD, US, at, event, labels_of

from ehr_assets.errors import SpecError
from ehr_assets.nodes.frames import CENSORED, COMPETING, EVENT
from ehr_assets.nodes.task_spec import TaskSet
from ehr_assets.specs import parse_spec

T = at(100)
LAST = event(1, at(400), "VISIT")  # follow-up far beyond every horizon
TASK = {"name": "task", "horizon_days": 30, "outcome": {"codes": ["^OUTCOME$"]}}


def label(folder, events, task, derived=None, **kwargs):
    """The one label of `task` at a node at T."""
    task = {k: v for k, v in {**TASK, **task}.items() if v is not None}
    labels, _ = labels_of(folder, [task], [event(1, T, "ANCHOR"), *events], derived=derived or {}, **kwargs)
    (row,) = labels.filter(pl.col("prediction_time") == T).to_dicts()
    return row


def answer(row):
    return row["boolean_value"] if row["reason"] is None else row["reason"]


# --- windows ---------------------------------------------------------------------------------------------

UNTIL = {"horizon_days": None, "until": {"codes": ["^DISCHARGE$"], "at_most_days": 30}}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([event(1, at(110), "OUTCOME"), event(1, at(110), "DISCHARGE")], True),  # at the very end
        ([event(1, at(110) + US, "OUTCOME"), event(1, at(110), "DISCHARGE")], False),
        ([event(1, at(110), "DISCHARGE")], False),  # seen to the end of the window, if no further
        ([event(1, at(131), "DISCHARGE"), event(1, at(130), "OUTCOME")], True),  # at most 30 days
        ([event(1, at(120), "VISIT")], "censored"),
        ([event(1, at(101), "DISCHARGE"), LAST], "closed_in_buffer"),
        ([event(1, T, "DISCHARGE"), event(1, at(110), "OUTCOME")], True),  # what is at t closed another one
    ],
)
def test_a_window_may_be_closed_by_an_event(tmp_path, events, expected):
    assert answer(label(tmp_path, events, UNTIL)) == expected


def test_a_task_may_have_its_own_buffer_and_end_of_life(tmp_path):
    own = {"buffer_hours": 1, "end_of_life_days": 2}
    rows = [event(1, at(100, hours=2), "OUTCOME"), event(1, at(103), "MEDS_DEATH")]
    assert answer(label(tmp_path / "own", rows, own)) is True
    assert answer(label(tmp_path / "file", rows, {})) == "end_of_life"


def test_an_outcome_in_the_buffer_can_leave_no_way_out(tmp_path):
    rows = [event(1, T + US, "OUTCOME"), event(1, at(110), "OUTCOME"), LAST]
    assert answer(label(tmp_path / "a", rows, {"in_buffer": "exclude"})) == "outcome_in_buffer"
    assert answer(label(tmp_path / "b", rows, {"in_buffer": "ignore_if_later"})) is True


# --- competing events ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts_as", "events", "expected", "status", "days"),
    [
        ("negative", [event(1, at(110), "MOVED")], False, COMPETING, 10.0),
        ("negative", [event(1, at(110), "MOVED"), event(1, at(120), "OUTCOME")], False, COMPETING, 10.0),
        ("negative", [event(1, at(110), "MOVED"), event(1, at(110), "OUTCOME")], True, EVENT, 10.0),
        ("negative", [event(1, at(131), "MOVED")], False, CENSORED, 30.0),
        ("censor", [event(1, at(110), "MOVED"), LAST], "censored", CENSORED, 10.0),
        ("censor", [event(1, at(130), "MOVED")], False, CENSORED, 30.0),
        ("censor", [event(1, at(110), "MOVED"), event(1, at(105), "MEDS_DEATH")], "end_of_life", None, None),
        ("censor", [event(1, at(110), "MOVED"), event(1, at(109), "MEDS_DEATH")], False, COMPETING, 9.0),
        ("positive", [event(1, at(110), "MOVED"), LAST], True, EVENT, 10.0),
        ("positive", [event(1, T + US, "MOVED"), LAST], "outcome_in_buffer", None, None),
    ],
)
def test_competing_events(tmp_path, counts_as, events, expected, status, days):
    row = label(tmp_path, events, {"competing": {"codes": ["^MOVED$"], "counts_as": counts_as}})
    assert (answer(row), row["status"], row["duration_days"]) == (expected, status, days)


def test_a_death_may_censor_and_what_is_filed_after_it_counts(tmp_path):
    rows = [event(1, at(110), "MEDS_DEATH"), event(1, at(110) + US, "OUTCOME")]
    censor = {"competing": {"codes": ["^MEDS_DEATH$"], "counts_as": "censor"}}
    row = label(tmp_path / "a", rows[:1], censor)
    assert (answer(row), row["status"], row["duration_days"]) == ("censored", CENSORED, 10.0)
    assert answer(label(tmp_path / "b", rows, {})) is True
    as_outcome = {"competing": {"codes": ["^MEDS_DEATH$"], "counts_as": "positive"}}
    assert answer(label(tmp_path / "c", rows[:1], as_outcome)) is True


# --- who is asked ----------------------------------------------------------------------------------------


def test_a_prior_event_may_be_required(tmp_path):
    needs = {"at_risk": {"requires_prior": {"codes": ["^HAD$"], "within_days": 2}}}
    assert answer(label(tmp_path / "a", [event(1, at(98), "HAD"), LAST], needs)) is False
    assert answer(label(tmp_path / "b", [event(1, at(98) - US, "HAD"), LAST], needs)) == "not_at_risk"
    assert answer(label(tmp_path / "c", [event(1, T + US, "HAD"), LAST], needs)) == "not_at_risk"


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([event(1, at(99), "IN")], False),
        ([event(1, T, "IN")], False),
        ([event(1, at(98), "IN"), event(1, T, "OUT")], "not_there"),
        ([event(1, at(98), "IN"), event(1, T + US, "OUT")], False),
        ([event(1, at(98), "IN"), event(1, at(99), "OUT"), event(1, at(99), "IN")], False),  # moved
        ([event(1, T + US, "IN")], "not_there"),
        ([], "not_there"),
    ],
)
def test_a_stay_may_have_to_last(tmp_path, events, expected):
    stay = {"at_risk": {"still_in": {"start": ["^IN$"], "end": ["^OUT$"]}}}
    assert answer(label(tmp_path, [*events, LAST], stay)) == expected


def test_who_is_asked_may_go_by_what_was_known(tmp_path):
    late = [event(1, at(50), "HAD", available=T + US), LAST]
    risk = {"no_prior": {"codes": ["^HAD$"], "within_days": 60}}
    known = {"at_risk": {**risk, "judged_by": "known"}}
    assert answer(label(tmp_path / "a", late, {"at_risk": risk})) == "not_at_risk"
    assert answer(label(tmp_path / "b", late, known)) is False
    # Known by t: it counts, by when it happened; the latest of those known, whatever their order of filing.
    both = [event(1, at(50), "HAD", available=at(99)), event(1, at(39), "HAD", available=T), LAST]
    assert answer(label(tmp_path / "c", both, known)) == "not_at_risk"
    assert answer(label(tmp_path / "d", both[1:], known)) is False  # more than 60 days ago
    # A bedside cannot know what will happen before the window opens.
    assert answer(label(tmp_path / "e", [event(1, T + US, "HAD"), LAST], known)) is False


@pytest.mark.parametrize(
    ("when", "expected"),
    [(at(98) - US, False), (at(98), "excluded"), (at(101), "excluded"), (at(101) + US, False)],
)
def test_exclusions(tmp_path, when, expected):
    rule = {"exclude": [{"codes": ["^NOT$"], "between_days": [-2, 1]}]}
    assert answer(label(tmp_path, [event(1, when, "NOT"), LAST], rule)) == expected


def test_an_exclusion_may_reach_back_for_ever(tmp_path):
    rule = {"exclude": [{"codes": ["^NOT$"], "between_days": [None, -2]}]}
    assert answer(label(tmp_path / "a", [event(1, at(1), "NOT"), LAST], rule)) == "excluded"
    assert answer(label(tmp_path / "b", [event(1, at(99), "NOT"), LAST], rule)) is False


def test_the_end_of_an_observation_ends_follow_up(tmp_path):
    rows = [event(1, at(120), "OBSERVATION_END"), event(1, at(140), "VISIT"), event(2, at(1), "OUTCOME")]
    assert answer(label(tmp_path / "a", rows, {})) is False
    period = {"until": ["^OBSERVATION_END$"]}
    row = label(tmp_path / "b", rows, {}, follow_up=period)
    assert (answer(row), row["duration_days"]) == ("censored", 20.0)
    assert answer(label(tmp_path / "c", rows[1:], {}, follow_up=period)) is False  # who has none
    further = [event(1, at(130), "OBSERVATION_END")]
    assert answer(label(tmp_path / "d", further, {}, follow_up=period)) is False


# --- outcomes --------------------------------------------------------------------------------------------


def test_any_of_several_and_episodes(tmp_path):
    parts = [{"codes": ["^A$"], "value": {"ge": 3}}, {"codes": ["^B$"], "new_agent": True}]
    any_of = {"outcome": {"any_of": parts}}
    assert answer(label(tmp_path / "a", [event(1, at(110), "A", 3.0), LAST], any_of)) is True
    assert answer(label(tmp_path / "b", [event(1, at(110), "B"), LAST], any_of)) is True
    again = [event(1, at(50), "B"), event(1, at(110), "B"), event(1, at(111), "A", 2.0), LAST]
    assert answer(label(tmp_path / "c", again, any_of)) is False
    # An echo of what happened before t is the same episode; each echo carries it on.
    episodes = {"outcome": {"any_of": parts, "new_episode_days": 10}}
    echo = [event(1, d, "A", 3.0) for d in (at(95), at(105), at(115))]
    assert answer(label(tmp_path / "d", [*echo, LAST], episodes)) is False
    assert answer(label(tmp_path / "e", [*echo, event(1, at(125) + US, "A", 3.0), LAST], episodes)) is True


MARKER = [event(1, at(10), "M", 8.0), event(1, at(50), "M", 2.0), event(1, at(99), "M", 4.0)]


@pytest.mark.parametrize(
    ("rule", "values", "expected"),
    [
        ({"kind": "ratio", "by": 2, "against": "lowest"}, [4.0], True),  # twice the lowest, 2
        ({"kind": "ratio", "by": 2, "against": "previous"}, [4.0], False),
        ({"kind": "ratio", "by": 2, "against": "previous"}, [8.0], True),
        ({"kind": "ratio", "by": 2, "against": "node"}, [6.0, 7.0], False),
        ({"kind": "ratio", "by": 2, "against": "node"}, [6.0, 8.0], True),
        ({"kind": "ratio", "by": 0.5, "against": "node"}, [2.0], True),
        ({"kind": "ratio", "by": 0.5, "against": "highest"}, [4.0], True),
        ({"kind": "ratio", "by": 0.25, "against": "highest"}, [4.0], False),
        ({"kind": "change", "by": 1, "against": "node"}, [5.0], True),
        ({"kind": "change", "by": 1, "against": "node"}, [4.9], False),
        ({"kind": "change", "by": 0.1, "against": "node"}, [4.1], True),  # in float32 a little less
        ({"kind": "change", "by": -2, "against": "previous"}, [3.0, 1.5], False),
        ({"kind": "change", "by": -2, "against": "node"}, [3.0, 1.5], True),
    ],
)
def test_changes_of_a_marker(tmp_path, rule, values, expected):
    derived = {"moved": {"codes": ["^M$"], **rule}}
    rows = [*MARKER, *[event(1, at(110 + i), "M", v) for i, v in enumerate(values)], LAST]
    row = label(tmp_path, rows, {"outcome": {"derived": "moved"}}, derived)
    assert answer(row) is expected


def test_a_marker_is_held_against_its_own_code_and_a_positive_value(tmp_path):
    derived = {"moved": {"codes": ["^M/"], "kind": "ratio", "by": 2, "against": "node"}}
    task = {"outcome": {"derived": "moved"}}
    other = [event(1, at(90), "M/A", 1.0), event(1, at(110), "M/B", 100.0), LAST]
    assert answer(label(tmp_path / "a", other, task, derived)) is False
    zero = [event(1, at(90), "M/A", 0.0), event(1, at(110), "M/A", 100.0), LAST]
    assert answer(label(tmp_path / "b", zero, task, derived)) is False
    nan = [event(1, at(90), "M/A", float("nan")), event(1, at(110), "M/A", 100.0), LAST]
    assert answer(label(tmp_path / "c", nan, task, derived)) is False


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([("X", 99), ("Y", 105)], False),  # Y joins the line that X began
        ([("X", 99), ("Y", 120)], True),  # 21 days are combined
        ([("X", 99), ("X", 120), ("Y", 121)], True),
        ([("X", 20), ("X", 110)], True),  # resumed after 60 days
        ([("X", 60), ("X", 110)], False),
        ([("X", 20), ("Y", 30), ("X", 60), ("Y", 115)], False),
    ],
)
def test_lines_of_therapy(tmp_path, events, expected):
    line = {"kind": "new_line", "codes": ["^[XY]$"], "gap_days": 60, "combine_days": 20}
    rows = [*[event(1, at(day), code) for code, day in events], LAST]
    assert answer(label(tmp_path, rows, {"outcome": {"derived": "line"}}, {"line": line})) is expected


def test_several_sites_at_a_time(tmp_path):
    sites = {"kind": "distinct", "codes": ["^S/"], "at_least": 2, "within_days": 10}
    task = {"outcome": {"derived": "sites"}}
    one = [event(1, at(105), "S/A"), event(1, at(106), "S/A"), LAST]
    assert answer(label(tmp_path / "a", one, task, {"sites": sites})) is False
    two = label(tmp_path / "b", [*one, event(1, at(115), "S/B")], task, {"sites": sites})
    assert (answer(two), two["event_time"]) == (True, at(115))
    assert answer(label(tmp_path / "c", [*one, event(1, at(116), "S/B")], task, {"sites": sites})) is False


# --- values ----------------------------------------------------------------------------------------------

VALUES = [
    event(1, at(day), "HB", value)
    for day, value in [(90, 9.0), (101, 1.0), (105, 8.0), (110, 12.0), (110, 10.0), (131, 1.0)]
]


@pytest.mark.parametrize(
    ("take", "number", "when"),
    [
        ("first", 8.0, at(105)), ("last", 11.0, at(110)), ("min", 8.0, at(110)), ("max", 11.0, at(110)),
        ("mean", 9.5, at(110)), ("change", 2.0, at(110)),
    ],
)  # fmt: skip
def test_regressions(tmp_path, take, number, when):
    task = {"kind": "regression", "outcome": None, "target": {"codes": ["^HB$"], "take": take}}
    row = label(tmp_path / "a", VALUES, task)
    assert (row["numeric_value"], row["event_time"], row["reason"]) == (number, when, None)
    assert row["boolean_value"] is row["status"] is row["duration_days"] is None
    short = label(tmp_path / "b", VALUES[:-1], task)
    assert short["reason"] == (None if take == "first" else "censored")
    assert label(tmp_path / "c", [VALUES[0], LAST], task)["reason"] == "not_measured"
    first_ever = label(tmp_path / "d", [*VALUES[1:], LAST], task)
    expected = 11.0 - 1.0 if take == "change" else number
    # The value at day 101 lies in the buffer, and at or before t there is none.
    assert first_ever["reason"] == ("not_measured" if take == "change" else None), expected


# --- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"outcome": {}}, "exactly one of codes, derived, any_of"),
        ({"outcome": {"codes": ["x"], "derived": "y"}}, "exactly one of codes, derived, any_of"),
        ({"outcome": {"any_of": [{"section": "drugs"}]}}, "exactly one of codes, derived"),
        ({"outcome": {"derived": "doubld"}}, "Did you mean 'doubled'"),
        ({"outcome": {"derived": "doubled", "value": {"ge": 1}}}, "go with `codes`"),
        ({"outcome": {"derived": "doubled", "new_episode_days": 3}}, "another event at each node"),
        ({"kind": "regression"}, "has `target`"),
        ({"target": {"codes": ["x"], "take": "last"}}, "no `target`"),
        ({"horizon_days": None}, "one of horizon_days, until"),
        ({"until": {"codes": ["x"], "at_most_days": 3}}, "one of horizon_days, until"),
        ({"at_risk": {}}, "at least one of no_prior, requires_prior, still_in"),
        ({"exclude": [{"codes": ["x"], "between_days": [2, 1]}]}, "must not be after"),
        ({"buffer_hours": 24 * 30}, "inside the 720 h buffer"),
        ({"competing": {"codes": ["x"], "counts_as": "maybe"}}, "counts_as"),
    ],
)  # fmt: skip
def test_tasks_that_ask_nothing_are_refused(change, says):
    doubled = {"kind": "ratio", "codes": ["x"], "by": 2, "against": "node"}
    task = {k: v for k, v in {**TASK, **TOLD, **change}.items() if v is not None}
    with pytest.raises(SpecError) as e:
        parse_spec(TaskSet, {"derived": {"doubled": doubled}, "tasks": [task]}, where="tasks.yaml")
    assert says in str(e.value)


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"kind": "ratio", "codes": ["x"], "by": 1, "against": "node"}, "no change"),
        ({"kind": "change", "codes": ["x"], "by": 0, "against": "node"}, "no change"),
        ({"kind": "ratio", "codes": ["x"], "by": 2, "against": "highest"}, "against the highest"),
        ({"kind": "change", "codes": ["x"], "by": -1, "against": "lowest"}, "against the lowest"),
        ({"kind": "new_line", "codes": ["x"], "gap_days": 5, "combine_days": 6}, "no partner"),
        ({"kind": "distinct", "codes": ["x"], "at_least": 1, "within_days": 6}, "at_least"),
    ],
)
def test_derived_events_that_say_nothing_are_refused(rule, says):
    with pytest.raises(SpecError) as e:
        parse_spec(TaskSet, {"derived": {"d": rule}, "tasks": [{**TASK, **TOLD}]}, where="tasks.yaml")
    assert says in str(e.value)


def test_tasks_that_ask_the_same_are_named(tmp_path):
    other = {**TASK, "name": "other", "buffer_hours": 24}  # as the file has it
    _, stats = labels_of(tmp_path, [TASK, other, {**TASK, "name": "third", "horizon_days": 31}], [LAST])
    assert stats["same_definitions"] == [["task", "other"]]
