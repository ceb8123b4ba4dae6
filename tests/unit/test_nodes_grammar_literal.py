"""All rules of the task grammar at once: random records against a literal reading of them, and the guard."""

import dataclasses
import shutil

import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from literal_labels import Label, Record, asks_for_death, literal_label
from nodes_support import ANCHOR, TOLD, all_labels, at, event, labels_of, random_records

from ehr_assets.nodes.judge import judge_labels
from ehr_assets.nodes.task_spec import TaskSet
from ehr_assets.nodes.trigger_spec import NodesSpec

CODES = ["ANCHOR", "ANCHOR", "OUTCOME", "OUTCOME", "OTHER", "LAB", "LAB", "IN", "OUT", "END", "MEDS_DEATH"]
HOURS = st.one_of(st.integers(0, 24 * 20), st.sampled_from([0, 24, 48, 120]))
RECORDS = random_records(HOURS, CODES, [0.0, 1.0, 2.0, 4.0], most=30)
DERIVED = {
    **{f"up_{a}": {"kind": "ratio", "codes": ["^LAB$"], "by": 2, "against": a}
       for a in ("previous", "lowest", "node")},
    **{f"down_{a}": {"kind": "change", "codes": ["^(LAB|OTHER)$"], "by": -1, "against": a}
       for a in ("previous", "highest", "node")},
    "line": {"kind": "new_line", "codes": ["^(OUTCOME|OTHER|LAB)$"], "gap_days": 4, "combine_days": 2},
    "both": {"kind": "distinct", "codes": ["^(OUTCOME|OTHER|LAB)$"], "at_least": 2, "within_days": 1.5},
}  # fmt: skip
BY_CODE = {"codes": ["^OUTCOME$"]}
GRAMMAR = [
    *[{"name": f"derived_{d}", "horizon_days": 5, "outcome": {"derived": d}} for d in DERIVED],
    {"name": "episodes", "horizon_days": 6,
     "outcome": {"codes": ["^OUTCOME$", "^OTHER$"], "new_episode_days": 2}},
    {"name": "any", "horizon_days": 6, "in_buffer": "exclude", "outcome": {"any_of": [
        {"codes": ["^OUTCOME$"], "value": {"ge": 1}}, {"derived": "up_node"}, {"derived": "line"},
        {"codes": ["^OTHER$"], "new_agent": True}]}},
    {"name": "stay", "kind": "time_to_event", "outcome": {"codes": ["^OUTCOME$", "^MEDS_DEATH$"]},
     "until": {"codes": ["^OUT$"], "at_most_days": 9},
     "at_risk": {"still_in": {"start": ["^IN$"], "end": ["^OUT$"]}}},
    {"name": "stay_known", "outcome": BY_CODE, "horizon_days": 4, "buffer_hours": 0, "at_risk": {
        "still_in": {"start": ["^IN$"], "end": ["^OUT$"]}, "judged_by": "known"}},
    *[{"name": f"competing_{c}_{i}", "horizon_days": 7, "outcome": BY_CODE,
       "competing": {"codes": codes, "counts_as": c}}
      for c in ("negative", "censor", "positive")
      for i, codes in enumerate((["^OTHER$"], ["^MEDS_DEATH$"], ["^(OTHER|MEDS_DEATH)$"]))],
    {"name": "risk", "horizon_days": 5, "outcome": BY_CODE, "end_of_life_days": 0, "at_risk": {
        "no_prior": {"codes": ["^LAB$"], "value": {"ge": 2}, "within_days": 3},
        "requires_prior": {"codes": ["^OTHER$"], "within_days": 8}}},
    {"name": "risk_known", "horizon_days": 5, "outcome": BY_CODE, "at_risk": {
        "no_prior": {"codes": ["^LAB$"], "within_days": 3}, "judged_by": "known",
        "requires_prior": {"codes": ["^(OTHER|ANCHOR)$"]}}},
    {"name": "exclude", "horizon_days": 5, "outcome": BY_CODE, "exclude": [
        {"codes": ["^OTHER$"], "between_days": [-1, 0.5]}, {"codes": ["^LAB$"], "section": "drugs",
                                                           "between_days": [None, -4]}]},
    *[{"name": f"number_{take}", "kind": "regression", "horizon_days": 6,
       "target": {"codes": ["^LAB$", "^OTHER$"], "take": take}, "at_risk": {"no_prior": BY_CODE}}
      for take in ("first", "last", "min", "max", "mean", "change")],
    {"name": "death", "horizon_days": 5, "outcome": {"any_of": [{"codes": ["^MEDS_DEATH$"]}]}},
    {"name": "number_until", "kind": "regression", "target": {"codes": ["^LAB$"], "take": "last"},
     "until": {"codes": ["^OUT$"], "at_most_days": 6}},
]  # fmt: skip


@pytest.mark.parametrize("until", [[], ["^END$"]])
# Without shrinking, which takes minutes here: what differs is named anyway.
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@example(
    rows=[  # of one subject, alive: columns of times are constant
        event(3, at(5), "ANCHOR", 4.0, available=at(6, hours=6), section="drugs"),
        event(3, at(2), "OTHER", 2.0, section="drugs"),
        event(3, at(2), "ANCHOR", 2.0, section="drugs"),
    ]
)
@given(rows=RECORDS)
def test_every_rule_equals_its_literal_reading_and_passes_the_guard(tmp_path_factory, until, rows):
    folder = tmp_path_factory.mktemp("g")
    follow_up = {"death_extension_days": 3, "until": until}
    told = {"derived": DERIVED, "end_of_life_days": 1}
    labels, _ = labels_of(folder, GRAMMAR, rows, follow_up=follow_up, **told)
    tasks = TaskSet.model_validate({**told, "tasks": [{**TOLD, **t} for t in GRAMMAR]})
    for task in tasks.tasks:
        days = 3 if asks_for_death(task, {r["code"] for r in rows}) else 0
        records = {s: Record([r for r in rows if r["subject_id"] == s], days, until) for s in (1, 2, 3)}
        for row in labels.filter(pl.col("task") == task.name).to_dicts():
            expected = literal_label(tasks, task, records[row["subject_id"]], row["prediction_time"])
            found = Label(
                row["boolean_value"], row["numeric_value"], row["event_time"], row["duration_days"],
                row["status"], row["reason"],
            )  # fmt: skip
            for field in dataclasses.fields(Label):
                ours, theirs = getattr(found, field.name), getattr(expected, field.name)
                close = pytest.approx(theirs, abs=1e-9) if isinstance(theirs, float) else theirs
                assert ours == close, (task.name, field.name, expected)
    spec = NodesSpec.model_validate({"task_set": "t", "triggers": [ANCHOR], "follow_up": follow_up})
    finding = judge_labels(tasks, spec, folder / "labels", folder / "meds")
    assert finding.ok, finding
    assert finding.labels == labels.height == all_labels(folder / "labels").height
    shutil.rmtree(folder)
