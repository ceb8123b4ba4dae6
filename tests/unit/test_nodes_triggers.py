"""Kinds of triggers, node time, merging by day, death, indication (more in test_nodes_kinds, _literal)."""

import hashlib

import polars as pl
import pytest
from nodes_support import US, at, event, nodes_of, write_meds

from ehr_assets.nodes.flow import adds_up
from ehr_assets.nodes.frames import read_flow, read_subgroups
from ehr_assets.nodes.trigger_spec import NodesSpec
from ehr_assets.nodes.triggers import find_nodes

EVENT = {"name": "hit", "kind": "event", "codes": ["^HIT$"]}
REGIMEN = {"name": "start", "kind": "new_regimen", "codes": ["^DRUG/"], "gap_days": 60}
WORSE = {"name": "worse", "kind": "increase", "codes": ["^ECOG$"], "by": 1}
ICU = {
    "name": "icu", "kind": "event", "codes": ["^IN$"], "offset_hours": 24,
    "unless": ["^OUT$", "^MEDS_DEATH$"],
}  # fmt: skip


def times(nodes: pl.DataFrame) -> list:
    return nodes["time"].to_list()


def test_a_node_stands_where_its_event_became_known(tmp_path):
    nodes = nodes_of(tmp_path, [EVENT], [event(7, at(1), "HIT", available=at(3, us=5))])
    assert times(nodes) == [at(3, us=5)]
    assert nodes["trigger"].to_list() == [["hit"]]
    iso = at(3, us=5).isoformat()
    assert nodes["node_id"].to_list() == [hashlib.sha256(f"c|7|{iso}".encode()).hexdigest()[:16]]
    assert nodes.columns == ["node_id", "subject_id", "time", "trigger", "indication", "cohort"]


def test_static_rows_make_no_node(tmp_path):
    assert nodes_of(tmp_path, [EVENT], [event(1, None, "HIT"), event(1, at(1), "OTHER")]).height == 0


def test_first_is_the_first_known_not_the_first_to_happen(tmp_path):
    first = {"name": "first", "kind": "first", "codes": ["^A$", "^B$"]}
    rows = [event(1, at(1), "A", available=at(9)), event(1, at(4), "B"), event(2, at(5), "A")]
    assert times(nodes_of(tmp_path, [first], rows)) == [at(4), at(5)]


@pytest.mark.parametrize(
    ("doses", "starts"),
    [
        ([("X", 0), ("X", 21), ("X", 42)], [0]),
        ([("X", 0), ("Y", 21)], [0, 21]),
        ([("X", 0), ("X", 60)], [0]),  # the gap must be more than 60 days
        ([("X", 0), ("X", 60.5)], [0, 60.5]),
        ([("X", 0), ("Y", 50), ("X", 100)], [0, 50]),  # no gap without any agent
    ],
)
def test_new_regimen_is_a_new_agent_or_a_restart_after_a_gap(tmp_path, doses, starts):
    rows = [event(1, at(day), f"DRUG/{agent}") for agent, day in doses]
    assert times(nodes_of(tmp_path, [REGIMEN], rows)) == [at(day) for day in starts]


def test_a_gap_counts_between_doses_as_given_and_known(tmp_path):
    # The dose of day 50 is known on day 55: on day 90 no gap. Were it known on day 95 only, there is one.
    early = [
        event(1, at(0), "DRUG/X"),
        event(1, at(50), "DRUG/X", available=at(55)),
        event(1, at(90), "DRUG/X"),
    ]
    late = [
        event(1, at(0), "DRUG/X"),
        event(1, at(50), "DRUG/X", available=at(95)),
        event(1, at(90), "DRUG/X"),
    ]
    assert times(nodes_of(tmp_path / "early", [REGIMEN], early)) == [at(0)]
    assert times(nodes_of(tmp_path / "late", [REGIMEN], late)) == [at(0), at(90)]


def test_a_late_report_of_an_old_dose_makes_no_gap(tmp_path):
    rows = [
        event(1, at(0), "DRUG/X"),
        event(1, at(80), "DRUG/X"),  # a restart
        event(1, at(10), "DRUG/X", available=at(85)),  # entered late: the last dose is still that of day 80
        event(1, at(90), "DRUG/X"),
    ]
    assert times(nodes_of(tmp_path, [REGIMEN], rows)) == [at(0), at(80)]


def test_increase_compares_with_the_value_known_before(tmp_path):
    rows = [
        event(1, at(0), "ECOG", 1),
        event(1, at(10), "ECOG", 3, available=at(30)),
        event(1, at(20), "ECOG", 2),  # known before the 3: up from 1
        event(2, at(0), "ECOG", 2),
        event(2, at(5), "ECOG", None),
        event(2, at(6), "ECOG", 2.5),
        event(2, at(7), "ECOG", 3),  # up by 0.5 from what is known
    ]
    nodes = nodes_of(tmp_path, [WORSE], rows)
    assert nodes.select("subject_id", "time").rows() == [(1, at(20)), (1, at(30))]


def test_decrease_is_for_scales_that_fall(tmp_path):
    worse = {"name": "worse", "kind": "decrease", "codes": ["^KPS$"], "by": 10}
    rows = [event(1, at(d), "KPS", v) for d, v in [(0, 90), (1, 100), (2, 90), (3, 85), (4, 70)]]
    assert times(nodes_of(tmp_path, [worse], rows)) == [at(2), at(4)]


def test_a_step_stored_in_float32_still_counts(tmp_path):
    rows = [event(1, at(0), "ECOG", 1.0), event(1, at(1), "ECOG", 1.3)]
    assert times(nodes_of(tmp_path, [{**WORSE, "by": 0.3}], rows)) == [at(1)]


def test_simultaneous_values_are_no_change_and_codes_are_not_compared(tmp_path):
    both = {**WORSE, "codes": ["^ECOG$", "^KPS$"]}
    rows = [event(1, at(1), "ECOG", 1), event(1, at(1), "ECOG", 2), event(1, at(2), "KPS", 90)]
    assert nodes_of(tmp_path, [both], rows).height == 0


@pytest.mark.parametrize(
    ("out_at", "found"),
    [
        (at(1), True),  # at t0 itself: an earlier stay's end
        (at(1, us=1), False),
        (at(2), False),  # exactly at t0 + 24 h
        (at(2, us=1), True),
    ],
)
def test_unless_cancels_within_the_wait(tmp_path, out_at, found):
    nodes = nodes_of(
        tmp_path, [ICU], [event(1, at(1), "IN"), event(1, out_at, "OUT"), event(2, at(1), "OUT")]
    )
    assert times(nodes) == ([at(2)] if found else [])


def test_unless_counts_when_it_is_known(tmp_path):
    rows = [event(1, at(1), "IN"), event(1, at(1, hours=5), "OUT", available=at(3))]
    assert times(nodes_of(tmp_path, [ICU], rows)) == [at(2)]


def test_a_day_has_one_node_at_its_last_trigger(tmp_path):
    again = {"name": "also", "kind": "event", "codes": ["^ALSO$"]}
    rows = [
        event(1, at(1, hours=20), "HIT"),
        event(1, at(1, hours=3), "ALSO"),
        event(1, at(1), "HIT"),
        event(1, at(2), "ALSO"),  # midnight belongs to the next day
    ]
    nodes = nodes_of(tmp_path, [EVENT, again], rows)
    assert nodes.select("time", "trigger").rows() == [(at(1, hours=20), ["also", "hit"]), (at(2), ["also"])]


def test_no_node_once_the_death_is_known(tmp_path):
    rows = [
        event(1, at(1), "HIT"),
        event(1, at(5, hours=10), "HIT"),  # the death has happened, but is known at the end of its day
        event(1, at(6) - US, "HIT"),
        event(1, at(8), "HIT"),
        event(1, at(5), "MEDS_DEATH", available=at(6) - US, section="death"),
    ]
    assert times(nodes_of(tmp_path, [EVENT], rows)) == [at(1), at(5, hours=10)]


def test_indication_is_the_first_one_known(tmp_path):
    rows = [
        event(1, at(1), "HIT"),
        event(1, at(1), "C34.9", available=at(2)),
        event(1, at(2), "HIT"),
        event(1, at(3), "C67.9"),
        event(1, at(4), "HIT"),
        event(2, at(1), "C34.9"),
        event(2, at(1), "C67.1"),  # both at once: the spec's order decides
        event(2, at(2), "HIT"),
        event(3, at(1), "C34.9", available=at(5)),  # the earlier diagnosis became known later
        event(3, at(2), "C67.1"),
        event(3, at(6), "HIT"),
    ]
    nodes = nodes_of(tmp_path, [EVENT], rows, indications={"bladder": ["^C67"], "lung": ["^C34"]})
    assert nodes["indication"].to_list() == [None, "lung", "lung", "bladder", "bladder"]


def test_an_empty_cohort_has_no_nodes(tmp_path):
    age = {"kind": "age", "bounds": [50]}
    sex = {"kind": "codes", "values": {"female": ["^GENDER//F"]}}
    every = {"name": "tick", "kind": "every", "hours": 2, "most": 9, "codes": ["^IN$"], "until": ["^OUT$"]}
    sure = {**EVENT, "name": "sure", "confirmed_by": {"codes": ["^HIT$"], "within_days": 9}}
    triggers = [EVENT, {**REGIMEN, "combine_days": 9}, WORSE, ICU, every, sure]
    said = {"indications": {"lung": ["^C34"]}, "subgroups": {"sex": sex, "age": age}}
    nodes = nodes_of(tmp_path, triggers, [], **said)
    assert nodes.height == 0
    assert read_subgroups(tmp_path / "nodes").height == 0
    assert adds_up(read_flow(tmp_path / "nodes"), nodes)
    assert nodes.schema["trigger"] == pl.List(pl.String)


def test_counts_and_equal_bytes(tmp_path):
    rows = [
        event(1, at(1), "HIT"),
        event(1, at(9), "HIT"),
        event(2, at(1), "HIT"),
        event(2, at(0), "MEDS_DEATH"),
    ]
    meds_dir = write_meds(tmp_path / "meds", rows)
    spec = NodesSpec.model_validate(
        {"task_set": "t", "triggers": [EVENT, WORSE], "indications": {"a": ["^C"]}}
    )
    stats = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        stats.append(find_nodes(spec, "c", meds_dir, tmp_path / name))
    assert stats[0] == stats[1] == {
        "nodes": 2, "subjects": 1, "triggers_found": 3, "triggers_after_death": 1,
        "by_trigger": {"hit": 2, "worse": 0}, "by_indication": {"a": 0, "none": 2},
        "by_subgroup": {},
        "codes_matched": {"hit": 1, "worse": 0},
        "known_later": {"hit": 0, "worse": 0},
    }  # fmt: skip
    assert (tmp_path / "one/nodes.parquet").read_bytes() == (tmp_path / "two/nodes.parquet").read_bytes()
