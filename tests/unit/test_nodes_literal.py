"""Nodes and subgroups of arbitrary records against a reading of the rules event by event; the future deleted.

What each kind does in a case that can be told in words is tested in `test_nodes_triggers.py` and
`test_nodes_kinds.py`.
"""

from datetime import timedelta
from itertools import pairwise

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nodes_support import at, event, nodes_of

from ehr_assets.nodes.flow import adds_up
from ehr_assets.nodes.frames import read_flow, read_subgroups

ALL = [
    {"name": "hit", "kind": "event", "codes": ["^HIT$"]},
    {"name": "start", "kind": "new_regimen", "codes": ["^DRUG/"], "gap_days": 2},
    {"name": "line", "kind": "new_regimen", "codes": ["^DRUG/"], "gap_days": 2, "combine_days": 1.5},
    {"name": "worse", "kind": "increase", "codes": ["^ECOG$"], "by": 1},
    {
        "name": "icu", "kind": "event", "codes": ["^IN$"], "offset_hours": 24,
        "unless": ["^OUT$", "^MEDS_DEATH$"],
    },
    {"name": "first", "kind": "first", "codes": ["^C"]},
    {
        "name": "sure", "kind": "event", "codes": ["^HIT$"],
        "confirmed_by": {"codes": ["^HIT$", "^ECOG$"], "after_days": 0.25, "within_days": 3},
    },
    {
        "name": "tick", "kind": "every", "hours": 10, "first_hours": 4, "most": 3,
        "codes": ["^IN$"], "until": ["^OUT$"],
    },
    {"name": "alone", "kind": "event", "codes": ["^OUT$"], "merge": "never"},
]  # fmt: skip
ALONE = {"icu", "tick", "alone"}
MORE = {
    "indications": {"lung": ["^C34"], "bladder": ["^C67"]},
    "subgroups": {
        "side": {"kind": "codes", "values": {"x": ["X$"], "any": ["^DRUG/", "^ECOG$"]}},
        "age": {"kind": "age", "bounds": [50, 65]},
    },
}
RECORDS = st.lists(
    st.builds(
        lambda subject, hour, delay, code, value: event(
            subject, at(hours=hour), code, value, available=at(hours=hour + delay)
        ),
        st.integers(1, 3),
        st.integers(0, 24 * 12),
        st.sampled_from([0, 0, 1, 7, 24, 60]),
        st.sampled_from(
            ["HIT", "DRUG/X", "DRUG/Y", "DRUG/Z", "ECOG", "IN", "IN", "OUT", "C34", "C67", "MEDS_DEATH"]
        ),
        st.sampled_from([0.0, 1.0, 2.0, 4.0]),
    ),
    max_size=25,
)
MANY = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@MANY
@given(RECORDS)
def test_nodes_equal_the_literal_reading(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("n")
    nodes = nodes_of(folder, ALL, rows, **MORE)
    found = nodes.select("subject_id", "time", "trigger", "indication").rows()
    assert found == [n for s in sorted({r["subject_id"] for r in rows}) for n in literal_nodes(s, rows)]
    groups = read_subgroups(folder / "nodes").filter(pl.col("name") == "side")
    assert groups["value"].to_list() == [literal_side(s, t, rows) for s, t, _, _ in found]
    assert adds_up(read_flow(folder / "nodes"), nodes)


@MANY
@given(RECORDS)
def test_deleting_the_future_changes_no_node(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("f")
    nodes = nodes_of(folder, ALL, rows, **MORE)
    groups = read_subgroups(folder / "nodes")
    for i, (subject, t) in enumerate(nodes.select("subject_id", "time").sample(min(3, nodes.height)).rows()):
        up_to = (pl.col("subject_id") == subject) & (pl.col("time") <= t)
        cut = [r for r in rows if r["available_time"] <= t]
        seen = nodes_of(folder / str(i), ALL, cut, **MORE).filter(up_to)
        assert seen.equals(nodes.filter(up_to))
        theirs = read_subgroups(folder / str(i) / "nodes").join(seen, on="node_id", how="semi")
        assert theirs.equals(groups.join(seen, on="node_id", how="semi"))


def literal_nodes(subject: int, rows: list[dict]) -> list[tuple]:
    """One subject's nodes, read event by event: slow, and written from the rules alone."""
    mine = sorted(
        (r for r in rows if r["subject_id"] == subject),
        key=lambda r: (r["available_time"], r["time"], r["code"], r["numeric_value"]),
    )
    fired: list[tuple] = []
    drugs_known: list[dict] = []
    lines: list = []
    scores: list[tuple] = []
    for r in mine:
        t0, code = r["available_time"], r["code"]
        if code == "HIT":
            fired.append((t0, "hit"))
            for second in mine:
                wait = second["time"] - r["time"]
                if second["code"] in ("HIT", "ECOG") and timedelta(hours=6) < wait <= timedelta(days=3):
                    both = max(t0, second["available_time"])
                    if not any(
                        x["code"] in ("HIT", "ECOG")
                        and timedelta(hours=6) < x["time"] - r["time"] <= timedelta(days=3)
                        and max(t0, x["available_time"]) < both
                        for x in mine
                    ):
                        fired.append((both, "sure"))
        if code.startswith("C") and not any(f[1] == "first" for f in fired):
            fired.append((t0, "first"))
        if code.startswith("DRUG/"):
            new = all(d["code"] != code for d in drugs_known)
            gap = bool(drugs_known) and r["time"] - max(d["time"] for d in drugs_known) > timedelta(days=2)
            if new or gap:
                fired.append((t0, "start"))
                if all(abs(r["time"] - line) > timedelta(days=1.5) for line in lines):
                    fired.append((t0, "line"))
                    lines.append(r["time"])
            drugs_known.append(r)
        if code == "ECOG":
            moment = (t0, r["time"])
            if not scores or scores[-1][0] != moment:
                scores.append((moment, []))
            scores[-1][1].append(r["numeric_value"])
        if code == "IN":
            end = t0 + timedelta(hours=24)
            blocked = [
                x for x in mine if x["code"] in ("OUT", "MEDS_DEATH") and t0 < x["available_time"] <= end
            ]
            if not blocked:
                fired.append((end, "icu"))
    for t0 in {r["available_time"] for r in mine if r["code"] == "IN"}:
        fired += [(t, "tick") for t in literal_ticks(t0, mine)]
    fired += [(r["available_time"], "alone") for r in mine if r["code"] == "OUT"]
    means = [(moment, sum(v) / len(v)) for moment, v in scores]
    for (_, before), (moment, after) in pairwise(means):
        if after - before >= 1:
            fired.append((moment[0], "worse"))

    deaths = [r["available_time"] for r in mine if r["code"] == "MEDS_DEATH"]
    fired = sorted({f for f in fired if not deaths or f[0] < min(deaths)})
    return [(subject, t, sorted(names), literal_indication(t, mine)) for t, names in literal_merge(fired)]


def literal_ticks(t0, mine: list[dict]) -> list:
    """The moments of the stay whose start became known at t0."""
    started = max(r["time"] for r in mine if r["code"] == "IN" and r["available_time"] == t0)
    moments = []
    for k in range(3):
        t = t0 + timedelta(hours=4 + 10 * k)
        known = [r for r in mine if r["available_time"] <= t]
        over = any(r["code"] == "OUT" and (r["available_time"] > t0 or r["time"] > started) for r in known)
        another = any(r["code"] == "IN" and r["available_time"] > t0 for r in known)
        if not over and not another:
            moments.append(t)
    return moments


def literal_merge(fired: list[tuple]) -> list[tuple]:
    """Goes through the triggers in time; a day's node is closed by its end, or by one that stands alone."""
    nodes: dict = {}
    waiting: list[tuple] = []

    def close() -> None:
        for _, name in waiting:
            nodes.setdefault(waiting[-1][0], set()).add(name)
        waiting.clear()

    for t in sorted({t for t, _ in fired}):
        here = {name for moment, name in fired if moment == t}
        if waiting and waiting[-1][0].date() != t.date():
            close()
        waiting += [(t, name) for name in sorted(here - ALONE)]
        if here & ALONE:
            if waiting and waiting[-1][0] != t:
                close()
            close()
            nodes.setdefault(t, set()).update(here & ALONE)
    close()
    return sorted(nodes.items())


def literal_indication(t, mine: list[dict]) -> str | None:
    marks = sorted(
        (r["available_time"], r["time"], 0 if r["code"] == "C34" else 1)
        for r in mine
        if r["code"].startswith("C") and r["available_time"] <= t
    )
    return ["lung", "bladder"][marks[0][2]] if marks else None


def literal_side(subject: int, t, rows: list[dict]) -> str:
    """The group of the event known last: of two at once the later, of two at one time the first group."""
    known = [
        (r["available_time"], r["time"], r["code"] == "DRUG/X")
        for r in rows
        if r["subject_id"] == subject and r["available_time"] <= t and r["code"].startswith(("DRUG/", "ECOG"))
    ]
    return ("x" if max(known)[2] else "any") if known else "unknown"
