"""Combined regimens, confirmation, nodes every few hours, nodes that stand alone, subgroups, the flow."""

import hashlib
import shutil

import polars as pl
import pytest
from nodes_support import at, event, nodes_of, write_meds
from simulators_support import Simulated

from ehr_assets.nodes.flow import adds_up
from ehr_assets.nodes.frames import read_flow, read_nodes, read_subgroups, write_parquet
from ehr_assets.nodes.recompute import nodes_without_future
from ehr_assets.nodes.trigger_spec import NodesSpec
from ehr_assets.nodes.triggers import find_nodes

LINE = {"name": "line", "kind": "new_regimen", "codes": ["^DRUG/"], "gap_days": 60, "combine_days": 28}
CONFIRMED = {
    "name": "sure", "kind": "event", "codes": ["^PROGRESSION/"],
    "confirmed_by": {"codes": ["^PROGRESSION/", "^RESPONSE/PD$"], "within_days": 42},
}  # fmt: skip
TICK = {
    "name": "tick", "kind": "every", "hours": 12, "first_hours": 24, "most": 4,
    "codes": ["^IN$"], "until": ["^OUT$"],
}  # fmt: skip


def times(nodes: pl.DataFrame) -> list:
    return nodes["time"].to_list()


@pytest.mark.parametrize(
    ("doses", "starts"),
    [
        ([("X", 0), ("Y", 21), ("X", 21)], [0]),  # Y joins X
        ([("X", 0), ("Y", 28)], [0]),
        ([("X", 0), ("Y", 28.5)], [0, 28.5]),
        ([("X", 0), ("Y", 21), ("Z", 35)], [0, 35]),  # the days run from the line's first dose, not from Y's
        ([("X", 0), ("Y", 40), ("Z", 60)], [0, 40]),
        ([("X", 0), ("X", 61), ("Y", 70)], [0, 61]),  # Y joins the restart
    ],
)
def test_a_partner_begins_no_regimen_of_its_own(tmp_path, doses, starts):
    rows = [event(1, at(day), f"DRUG/{agent}") for agent, day in doses]
    assert times(nodes_of(tmp_path, [LINE], rows)) == [at(day) for day in starts]


def test_a_partner_reported_late_joins_the_line_it_belongs_to(tmp_path):
    rows = [
        event(1, at(0), "DRUG/X"),
        event(1, at(50), "DRUG/Y"),  # a line of its own
        event(1, at(10), "DRUG/Z", available=at(80)),
        event(2, at(10), "DRUG/Z"),
    ]
    nodes = nodes_of(tmp_path, [LINE], rows)
    assert nodes.select("subject_id", "time").rows() == [(1, at(0)), (1, at(50)), (2, at(10))]


@pytest.mark.parametrize(
    ("second", "node"),
    [
        (event(1, at(20), "PROGRESSION/B"), at(20)),
        (event(1, at(20), "RESPONSE/PD", available=at(23)), at(23)),  # when it is known
        (event(1, at(42), "RESPONSE/PD"), at(42)),
        (event(1, at(42, us=1), "RESPONSE/PD"), None),
        (event(1, at(0), "PROGRESSION/B"), None),  # the same moment is the same finding
        (event(1, at(20), "RESPONSE/SD"), None),
        (event(2, at(20), "RESPONSE/PD"), None),  # somebody else's
    ],
)
def test_a_confirmed_event_stands_where_the_second_is_known(tmp_path, second, node):
    rows = [event(1, at(0), "PROGRESSION/A"), second]
    assert times(nodes_of(tmp_path, [CONFIRMED], rows)) == ([node] if node else [])


def test_a_confirmation_may_have_to_wait(tmp_path):
    waits = {**CONFIRMED, "confirmed_by": {**CONFIRMED["confirmed_by"], "after_days": 28}}
    rows = [event(1, at(day), "PROGRESSION/A") for day in (0, 20, 35)]
    assert times(nodes_of(tmp_path, [waits], rows)) == [at(35)]


def test_a_confirmation_known_before_the_first_event_waits_for_it(tmp_path):
    rows = [event(1, at(0), "PROGRESSION/A", available=at(30)), event(1, at(20), "RESPONSE/PD")]
    assert times(nodes_of(tmp_path, [CONFIRMED], rows)) == [at(30)]


@pytest.mark.parametrize(
    ("rows", "hours"),
    [
        ([], [24, 36, 48, 60]),  # no end in the record: `most`
        ([event(1, at(hours=48), "OUT")], [24, 36]),  # known at the moment itself
        ([event(1, at(hours=48, us=1), "OUT")], [24, 36, 48]),
        ([event(1, at(hours=10), "OUT")], []),
        ([event(1, at(hours=30), "OUT", available=at(hours=50))], [24, 36, 48]),  # left, but nobody knows
        ([event(1, at(hours=-5), "OUT")], [24, 36, 48, 60]),  # the end of an earlier stay
        ([event(1, at(0), "OUT")], [24, 36, 48, 60]),  # also one at the same moment: a transfer
        ([event(1, at(hours=30), "IN")], [24, 54, 66, 78, 90]),  # another stay begins
        ([event(1, at(hours=30), "IN"), event(1, at(hours=60), "OUT")], [24, 54]),
    ],
)
def test_nodes_come_every_few_hours_until_the_stay_is_known_to_be_over(tmp_path, rows, hours):
    nodes = nodes_of(tmp_path, [TICK], [event(1, at(0), "IN"), *rows])
    assert times(nodes) == [at(hours=h) for h in hours]


def test_a_stay_that_was_over_when_it_became_known_has_no_nodes(tmp_path):
    both = [event(1, at(0), "IN", available=at(5)), event(1, at(1), "OUT", available=at(5))]
    assert times(nodes_of(tmp_path, [TICK], both)) == []


def test_a_stay_has_no_nodes_after_a_known_death(tmp_path):
    rows = [event(1, at(0), "IN"), event(1, at(hours=40), "MEDS_DEATH", available=at(hours=41))]
    assert times(nodes_of(tmp_path, [TICK], rows)) == [at(hours=24), at(hours=36)]


def test_first_hours_default_to_the_step(tmp_path):
    tick = {k: v for k, v in TICK.items() if k != "first_hours"}
    assert times(nodes_of(tmp_path, [tick], [event(1, at(0), "IN")]))[0] == at(hours=12)


OFF = {"name": "off", "kind": "event", "codes": ["^OUT$"]}
WAIT = {"name": "wait", "kind": "event", "codes": ["^IN$"], "offset_hours": 4}


def test_a_node_after_a_wait_is_not_moved_to_the_discharge_of_that_day(tmp_path):
    rows = [event(1, at(0), "IN"), event(1, at(hours=18), "OUT")]
    nodes = nodes_of(tmp_path, [WAIT, OFF], rows)
    assert nodes.select("time", "trigger").rows() == [(at(hours=4), ["wait"]), (at(hours=18), ["off"])]
    moved = nodes_of(tmp_path / "day", [{**WAIT, "merge": "day"}, OFF], rows)
    assert moved.select("time", "trigger").rows() == [(at(hours=18), ["off", "wait"])]


def test_nodes_at_the_same_microsecond_are_one(tmp_path):
    ends = [event(1, at(hours=4), "OUT"), event(2, at(hours=4, us=1), "OUT")]
    rows = [event(1, at(0), "IN"), event(2, at(0), "IN"), *ends]
    nodes = nodes_of(tmp_path, [WAIT, OFF], rows)
    assert nodes["trigger"].to_list() == [["off", "wait"], ["wait"], ["off"]]


def test_a_node_that_stands_alone_ends_the_days_node_before_it(tmp_path):
    hit = {"name": "hit", "kind": "event", "codes": ["^HIT$"]}
    rows = [event(1, at(0), "IN"), *(event(1, at(hours=h), "HIT") for h in (1, 2, 4.5, 6))]
    assert times(nodes_of(tmp_path, [WAIT, hit], rows)) == [at(hours=h) for h in (2, 4, 6)]


SUBGROUPS = {
    "race": {"kind": "codes", "values": {"White": ["^RACE//WHITE"], "other": ["^RACE//(?!UNKNOWN)"]}},
    "age_band": {"kind": "age", "bounds": [50, 65]},
}
HIT = {"name": "hit", "kind": "event", "codes": ["^HIT$"]}


def groups_of(folder, rows) -> list[tuple]:
    nodes = nodes_of(folder, [HIT], rows, subgroups=SUBGROUPS)
    table = read_subgroups(folder / "nodes").join(nodes, on="node_id", maintain_order="left")
    return table.select("name", "subject_id", "value").rows()


def test_subgroups_are_what_was_known_at_the_node(tmp_path):
    rows = [
        *(event(s, at(10), "HIT") for s in (1, 2, 3, 4)),
        event(1, None, "RACE//WHITE"),  # static: known always
        event(1, at(11), "RACE//ASIAN"),  # told after the node
        event(2, at(1), "RACE//ASIAN"),
        event(2, at(2), "RACE//WHITE - RUSSIAN"),  # told last
        event(2, at(3), "RACE//UNKNOWN"),  # tells nothing
        event(3, at(9), "RACE//WHITE", available=at(11)),
    ]
    race = {1: "White", 2: "White", 3: "unknown", 4: "unknown"}
    assert [g for g in groups_of(tmp_path, rows) if g[0] == "race"] == [("race", *g) for g in race.items()]


def test_of_two_groups_told_at_once_the_specs_order_decides(tmp_path):
    at_once = [event(1, at(1), code) for code in ("RACE//ASIAN", "RACE//WHITE", "RACE//ZULU")]
    race, _ = groups_of(tmp_path, [event(1, at(2), "HIT"), *at_once])
    assert race == ("race", 1, "White")


def test_the_age_band_is_that_of_the_whole_years_at_the_node(tmp_path):
    born = {1: at().replace(year=1970), 2: at(1).replace(year=1970), 3: at().replace(year=1955), 4: at(5)}
    rows = [event(s, at(0, hours=5), "HIT") for s in (1, 2, 3, 4, 5)]
    rows += [event(s, day, "MEDS_BIRTH") for s, day in born.items()]
    bands = [(s, v) for name, s, v in groups_of(tmp_path, rows) if name == "age_band"]
    assert bands == [(1, "50-64"), (2, "<50"), (3, "65+"), (4, "unknown"), (5, "unknown")]


def test_an_age_may_be_recorded_instead_of_a_birth(tmp_path):
    ages = {"age": {"kind": "age", "bounds": [50, 65], "recorded_as": ["^AGE$"]}}
    rows = [event(s, at(5), "HIT") for s in (1, 2, 3, 4)]
    rows += [event(1, at(0), "AGE", 49.9), event(2, at(0), "AGE", 65), event(3, at(6), "AGE", 70)]
    nodes_of(tmp_path, [HIT], rows, subgroups=ages)
    assert read_subgroups(tmp_path / "nodes")["value"].to_list() == ["<50", "65+", "unknown", "unknown"]


def test_the_flow_says_who_was_left_out_where(tmp_path):
    rows = [
        event(1, at(0), "IN"),  # stays
        event(1, at(hours=4), "OUT"),
        event(2, at(0), "IN"),  # leaves within the wait
        event(2, at(hours=1), "LEFT"),
        event(3, at(0), "IN"),  # dies after the wait has begun
        event(3, at(hours=3), "MEDS_DEATH"),
        event(4, at(0), "OTHER"),  # has no trigger
        event(5, at(0), "PROGRESSION/A"),  # is not confirmed
    ]
    wait = {**WAIT, "unless": ["^LEFT$"]}
    nodes = nodes_of(tmp_path, [wait, OFF, CONFIRMED], rows)
    flow = read_flow(tmp_path / "nodes")
    assert flow.select("step", "subjects", "nodes").filter(flow["reason"].is_null()).rows() == [
        ("record", 5, 0), ("triggers", 4, 5), ("confirmation", 3, 4),
        ("wait", 2, 3), ("life", 1, 2), ("merging", 1, 1),
    ]  # fmt: skip
    taken = flow.filter(flow["reason"].is_not_null())
    assert taken.select("subjects", "nodes").rows() == [(1, 0), (1, 1), (1, 1), (1, 1), (0, 1)]
    assert adds_up(flow, nodes)
    assert not adds_up(flow, nodes.clear())
    assert not adds_up(flow.with_columns(pl.col("nodes") + 1), nodes)


@pytest.fixture
def committed(tmp_path):
    """Nodes with all files, the record they come from, and the spec."""
    rows = [event(s, at(day), "HIT") for s in (1, 2, 3) for day in (0, 5, 9)]
    rows += [event(s, at(3), "RACE//WHITE") for s in (1, 2, 3)]
    spec = NodesSpec.model_validate({"task_set": "t", "triggers": [HIT], "subgroups": SUBGROUPS})
    record, nodes = write_meds(tmp_path / "meds", rows), tmp_path / "nodes"
    nodes.mkdir()
    find_nodes(spec, "c", record, nodes)
    return spec, record, nodes


def test_the_recomputation_sees_nodes_subgroups_and_the_flow(committed, tmp_path):
    spec, record, nodes = committed
    assert nodes_without_future(spec, "c", nodes, record).ok
    groups, flow = read_subgroups(nodes), read_flow(nodes)
    # Race taken from the whole record: at day 0 nobody knew it.
    whole = groups.with_columns(value=pl.when(name="race").then(pl.lit("White")).otherwise("value"))
    ahead = replaced(nodes, tmp_path / "ahead", "subgroups.parquet", whole)
    finding = nodes_without_future(spec, "c", ahead, record)
    assert finding.subgroups_changed
    assert not finding.changed
    short = replaced(nodes, tmp_path / "short", "flow.parquet", flow.with_columns(pl.col("subjects") * 2))
    assert not nodes_without_future(spec, "c", short, record).flow_adds_up


def replaced(nodes, folder, file: str, table: pl.DataFrame):
    shutil.copytree(nodes, folder)
    write_parquet(table.to_arrow(), folder / file)
    return folder


@pytest.mark.parametrize(
    ("name", "triggers", "nodes", "ids", "listed"),
    [
        ("oncology", None, 511, "83daed4d30bd28bc", "489d59920da4d077"),
        ("pe", None, 99, "71fd363b8baad44e", "7800b3665177301e"),
        ("icu", ["icu_24h"], 96, "90f6682f206fb260", "0ab3dd6bee63824d"),
    ],
)
def test_node_ids_are_those_of_earlier_versions(hundred, tmp_path, name, triggers, nodes, ids, listed):
    """Embeddings are looked up by node id: a change here makes all that were ever written useless."""
    run = hundred(name)
    spec = run.spec.decision_nodes
    if triggers:
        spec = spec.model_copy(update={"triggers": [t for t in spec.triggers if t.name in triggers]})
    find_nodes(spec, run.spec.name, run.meds[0], tmp_path)
    found = read_nodes(tmp_path)

    def fingerprint(texts) -> str:
        return hashlib.sha256("|".join(texts).encode()).hexdigest()[:16]

    assert found.height == nodes
    assert fingerprint(found["node_id"]) == ids
    assert fingerprint(",".join(t) for t in found["trigger"]) == listed


@pytest.fixture
def hundred(tmp_path):
    return lambda name: Simulated.run(name, tmp_path / name, 100)
