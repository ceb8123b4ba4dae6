"""When a candidate may be promoted: each criterion on its own, and the file that promotion reads."""

import json

import polars as pl
import pytest
from reports_support import add_audit, write_table

from ehr_assets.errors import DatasetError
from ehr_assets.leakage.findings import Finding
from ehr_assets.probes.schemas import DIFFERENCES_SCHEMA, MEANS_SCHEMA, METRICS_SCHEMA
from ehr_assets.reports.spec import ReportSpec
from ehr_assets.reports.verdict import CRITERIA, Accepted, read_verdict, write_verdict

VERSIONS = {f"c/{name}": f"{name}-1" for name in ("decision_nodes", "task_labels", "subject_splits")}
TASKS = {"death": 0.8, "stay": 0.7}


def spec(**promotion):
    data = {"name": "r", "title": "R", "recipes": ["old", "new"], "cohorts": ["c", "d"]}
    return ReportSpec.model_validate({**data, "promotion": promotion})


def compared(folder, low=0.01, ece=0.05, tasks=TASKS, turned=False):
    """A comparison of `new` with XGBoost on the cohort c; `turned`: as baseline less recipe."""
    row = {"recipe": "new", "cohort": "c", "probe": "logistic"}
    metrics = [
        {**row, "task": t, "metric": "auroc", "value": v, "split": "held_out"} for t, v in tasks.items()
    ]
    write_table(folder / "metrics.parquet", pl.DataFrame(metrics), METRICS_SCHEMA)
    means = [
        {**row, "metric": m, "by": "all", "value": v, "n_tasks": 2}
        for m, v in (("auroc", 0.75), ("ece", ece))
    ]
    write_table(folder / "means.parquet", pl.DataFrame(means), MEANS_SCHEMA)
    a, b = ("new", "logistic"), ("baseline", "xgboost")
    d = {"difference": 0.03, "ci_low": low, "ci_high": 0.09}
    if turned:
        a, b = b, a
        d = {"difference": -0.03, "ci_low": -0.09, "ci_high": -low}
    names = dict(zip(("recipe_a", "probe_a", "recipe_b", "probe_b"), (*a, *b), strict=True))
    more = {**names, "cohort": "c", "metric": "auroc", "p_adjusted": 0.02}
    rows = [
        {**more, **d, "task": None},
        {**more, "difference": -0.5, "ci_low": -0.6, "ci_high": -0.4, "task": "stay"},
    ]
    write_table(folder / "differences.parquet", pl.DataFrame(rows), DIFFERENCES_SCHEMA)
    return folder


def judged(
    tmp_path, what=None, audits=None, accepted=None, versions=VERSIONS, embedded=("c", "e"), **comparison
):
    comparison = compared(tmp_path / "comparison", **comparison)
    out = tmp_path / "out"
    out.mkdir(parents=True)
    if audits is None:
        audits = {"c": add_audit(tmp_path / "audit", "c")}
    stats = write_verdict(what or spec(), comparison, audits, versions, accepted, out, embedded=embedded)
    found = read_verdict(out)
    assert stats["may_be_promoted"] is found["may_be_promoted"]
    return found, {c["name"]: c["passed"] for c in found["criteria"]}


def test_a_candidate_that_meets_all_may_be_promoted(tmp_path):
    found, passed = judged(tmp_path)
    assert found["may_be_promoted"] is True
    assert found["reasons"] == []
    assert passed == dict.fromkeys(CRITERIA, True)
    assert (found["report"], found["recipe"]) == ("r", "new")  # the last of the report, where none is named
    numbers = found["numbers"]["cohorts"]
    assert list(numbers) == ["c"]  # d it does not embed, e is not in the report
    assert numbers["c"]["tasks"] == TASKS
    assert numbers["c"]["ci_low"] == 0.01
    assert found["versions"] == VERSIONS
    assert found["thresholds"]["baseline"]["method"] == "xgboost"


def test_a_difference_told_the_other_way_round_is_turned(tmp_path):
    found, passed = judged(tmp_path, turned=True)
    c = found["numbers"]["cohorts"]["c"]
    assert (c["difference"], c["ci_low"], c["ci_high"]) == (0.03, 0.01, 0.09)
    assert passed["beats_baseline"]


@pytest.mark.parametrize(
    ("bar", "low", "passes"),
    [
        ({}, -0.001, False),
        ({"by": "difference"}, -0.001, True),
        ({"by": "difference", "min_difference": 0.04}, 0.01, False),
        ({"method": "random_forest"}, 0.01, False),  # nobody compared it with that
    ],
)
def test_the_baseline_must_be_beaten_as_the_spec_says(tmp_path, bar, low, passes):
    found, passed = judged(tmp_path, spec(baseline=bar), low=low)
    assert passed["beats_baseline"] is passes
    assert found["may_be_promoted"] is passes
    assert len(found["reasons"]) == (not passes)


def test_risks_must_be_right_in_size(tmp_path):
    found, passed = judged(tmp_path, ece=0.11)
    assert not passed["calibrated"]
    assert "0.110" in found["reasons"][0]


def test_a_candidate_without_scores_is_not_promoted(tmp_path):
    found, passed = judged(tmp_path, spec(candidate="old"))
    assert not passed["beats_baseline"]
    assert not passed["calibrated"]
    assert found["numbers"]["cohorts"]["c"]["tasks"] == {}
    found, passed = judged(tmp_path / "none", embedded=["e"])
    assert not passed["beats_baseline"]
    assert "embeds no cohort of the report" in found["reasons"][0]


def test_a_candidate_that_fails_on_a_cohort_is_not_promoted_for_the_others(tmp_path):
    """Its states of d may all be unusable: that is no score, and no excuse."""
    found, passed = judged(tmp_path, embedded=["c", "d"])
    assert not passed["beats_baseline"]
    assert not passed["calibrated"]
    assert "d: no difference to xgboost is known" in found["reasons"][0]
    assert "d: not known" in found["reasons"][1]


@pytest.mark.parametrize(
    ("guards", "more", "passes", "said"),
    [
        ("all", [], True, "2 leak guards looked"),
        ("all", [Finding("single_feature", "c", "warn", "x")], True, "3 leak guards"),
        ("all", [Finding("single_feature", "c", "fail", "x")], False, "single_feature (c)"),
        (["future_deleted"], [Finding("single_feature", "c", "fail", "x")], True, "1 leak guards"),
        (["future_deleted", "persons"], [], False, "have not looked: persons"),
    ],
)
def test_leak_guards_must_have_looked(tmp_path, guards, more, passes, said):
    audits = {"c": add_audit(tmp_path / "audit", "c", *more)}
    found, passed = judged(tmp_path, spec(guards=guards), audits)
    assert passed["no_guard_fails"] is passes
    assert said in found["criteria"][3]["said"]


def test_no_audit_is_no_pass(tmp_path):
    _, passed = judged(tmp_path, audits={})
    assert not passed["no_guard_fails"]


def accepted(tmp_path, tasks):
    (tmp_path / "before").mkdir()
    found, _ = judged(tmp_path / "before", tasks=tasks)
    return Accepted(found, "f00d")


@pytest.mark.parametrize(
    ("before", "passes"),
    [
        ({"death": 0.81, "stay": 0.70}, True),  # 0.005 lost, of 0.010
        ({"death": 0.83, "stay": 0.70}, False),
        ({"death": 0.81}, True),  # held against each other on what both scored
        ({"death": 0.80, "fall": 0.50}, False),  # a task that can no longer be scored is lost
        ({"fall": 0.5}, False),
    ],
)
def test_no_more_may_be_lost_than_is_allowed(tmp_path, before, passes):
    found, passed = judged(tmp_path, accepted=accepted(tmp_path, before))
    assert passed["not_worse_than_accepted"] is passes
    assert found["accepted"] == {"recipe": "new", "data_version": "f00d"}


def test_versions_scored_on_other_labels_are_not_compared(tmp_path):
    before = accepted(tmp_path, TASKS)
    found, passed = judged(tmp_path, accepted=before, versions={**VERSIONS, "c/task_labels": "2"})
    assert not passed["not_worse_than_accepted"]
    assert "c/task_labels are others" in found["criteria"][1]["said"]
    assert "Not compared" in found["criteria"][1]["said"]


def test_without_an_accepted_version_there_is_nothing_to_lose(tmp_path):
    found, passed = judged(tmp_path)
    assert passed["not_worse_than_accepted"]
    assert found["criteria"][1]["said"] == "There is no accepted version yet."
    assert found["accepted"] is None


def test_a_verdict_of_another_format_is_refused(tmp_path):
    judged(tmp_path)
    path = tmp_path / "out/verdict.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(DatasetError, match="another format"):
        read_verdict(tmp_path / "out")
    path.write_text("{")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_verdict(tmp_path / "out")
