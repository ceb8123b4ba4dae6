"""Promotion and rollback: what is required, what is recorded, and what a failure in the middle leaves."""

import json
import re
import shutil

import pytest
from promotion_support import BROKEN, MODEL, ONCE, House, promotion_key, said

from ehr_assets.errors import PromotionError, TrackingError
from ehr_assets.lineage.audit_log import AuditLog
from ehr_assets.reports.promotion.acts import Act, accepted, version_before, versions_in_use
from ehr_assets.reports.promotion.checks import promotion_checks
from resources import retries
from resources.storage import ONLY_IF_CHANGED_TAG
from resources.tracking import CANDIDATE


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """An empty registry, copied by every test: to make one takes seconds."""
    from resources.tracking import MlflowTracking

    home = tmp_path_factory.mktemp("registry")
    MlflowTracking(uri=f"sqlite:///{home / 'mlflow.db'}").start("empty", {}, {})
    return home / "mlflow.db"


@pytest.fixture
def house(tmp_path, database, monkeypatch):
    monkeypatch.delenv("EHR_ALLOW_FAILED_CHECKS", raising=False)
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0)
    shutil.copy(database, tmp_path / "mlflow.db")
    BROKEN.clear()
    yield House(tmp_path)
    BROKEN.clear()


def logged(house):
    """The acts in the audit log."""
    acts = ("promoted", "rolled_back")
    return [(e.action, e.facts) for e in AuditLog(house.home).entries() if e.action in acts]


def test_a_candidate_is_promoted_and_it_is_told_by_whom_and_why(house):
    house.ready("one")
    assert house.champion is None
    result = house.promote(asked_by="ada", reason="the first")
    assert result.success, said(result)
    assert house.champion == "1"
    dataset = house.newest(promotion_key("r"))
    inputs = {i.asset: i.data_version for i in dataset.manifest.inputs}
    assert set(inputs) == {"r/verdict", "r/report", "model/checkpoint"}
    record = json.loads((dataset.path / "record.json").read_text())
    assert record["asked_by"] == "ada"
    assert record["checkpoint"] == inputs["model/checkpoint"]
    assert json.loads((dataset.path / "verdict.json").read_text())["may_be_promoted"] is True
    ((action, facts),) = logged(house)
    assert action == "promoted"
    assert facts["reason"] == "the first"
    assert (facts["model"], facts["version"], facts["run_id"]) == (MODEL, "1", result.run_id)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("not_allowed", "may not be promoted: It is worse"),
        ("check_failed", "checks have not passed: .*calibrated: failed"),
        ("newer_checkpoint", "do not belong together"),
        ("not_registered", "is not in the registry"),
        ("other_candidate", "about version 2, but the registry's candidate is 1"),
        ("no_reason", "'reason' is empty"),
    ],
)
def test_what_is_refused(house, what, expected):
    asked = {"reason": "  "} if what == "no_reason" else {}
    if what == "other_candidate":
        house.train("zero")
    house.allowed, house.registers = what != "not_allowed", what != "not_registered"
    house.ready("one")
    if what == "check_failed":
        house.criteria = False
        _, _, *checks = house.verdict("r")
        house.run(*checks)
    elif what == "newer_checkpoint":
        house.train("two")
    elif what == "other_candidate":
        house.tracking.move_alias(MODEL, CANDIDATE, "1")
    result = house.promote(**asked)
    assert not result.success
    message = said(result)
    assert re.search(expected, message), message
    assert house.champion is None
    assert house.acts == []
    assert logged(house) == []


def test_no_override_opens_this_door(house, monkeypatch):
    monkeypatch.setenv("EHR_ALLOW_FAILED_CHECKS", "in a hurry")
    house.criteria = False
    house.ready("one")
    assert not house.promote().success
    assert house.champion is None
    house.criteria = True
    house.gate(**{"model/checkpoint": ["never_run"]})
    house.judge()  # its checks pass now; yet what it was made from was passed over
    assert "Failed checks were passed over" in said(house.promote())


def test_rolling_back_goes_to_the_version_before_and_keeps_all(house):
    for number, weights in enumerate(("one", "two", "three"), 1):
        house.ready(weights)
        assert house.promote().success
        assert house.champion == str(number)
    assert house.roll_back(reason="drift").success
    assert house.champion == "2"
    assert house.roll_back().success
    assert house.champion == "1", "and not the third again"
    result = house.roll_back()
    assert "no version of 'model' to go back to" in said(result)
    assert house.champion == "1"
    assert house.roll_back(to="3").success
    assert house.champion == "3"
    assert house.roll_back(to="none").success
    assert house.champion is None
    assert set(house.tracking.versions(MODEL)) == {"1", "2", "3"}
    assert [a.action for a in house.acts] == ["promoted"] * 3 + ["rolled_back"] * 4
    assert all((house.record(a) / "record.json").is_file() for a in house.acts)
    assert [action for action, _ in logged(house)] == [a.action for a in house.acts]


@pytest.mark.parametrize("again", ["the step", "a run"])
def test_a_rollback_that_is_tried_again_goes_back_no_further(house, monkeypatch, again):
    """It died after the alias had moved."""
    for weights in ("one", "two", "three"):
        house.ready(weights)
        assert house.promote().success
    errors = [TimeoutError() if again == "the step" else RuntimeError()]
    append = AuditLog.append

    def dies_once(log, action, facts):
        if action == "rolled_back" and errors:
            raise errors.pop()
        append(log, action, facts)

    monkeypatch.setattr(AuditLog, "append", dies_once)
    result = house.roll_back()
    assert house.champion == "2"
    if again == "a run":
        assert not result.success
        result = house.roll_back()
    assert result.success, said(result)
    assert house.champion == "2"
    assert [(f["version"], f["previous"]) for a, f in logged(house) if a == "rolled_back"] == [("2", "3")]
    assert house.roll_back().success
    assert house.champion == "1", "another asks anew"


def test_a_damaged_record_does_not_stop_a_rollback(house):
    for weights in ("one", "two"):
        house.ready(weights)
        assert house.promote().success
    (house.record(house.acts[-1]) / "record.json").write_text("{")
    shutil.rmtree(house.record(house.acts[0]))
    assert house.roll_back().success
    assert house.champion == "1"


def test_nothing_is_rolled_back_to_a_damaged_checkpoint(house):
    for weights in ("one", "two"):
        house.ready(weights)
        assert house.promote().success
    first = house.tracking.versions(MODEL)["1"]["dataset"]
    (house.home / first / "weights").write_text("others")
    result = house.roll_back()
    assert "altered after it was committed" in said(result)
    assert house.champion == "2"


def test_a_registry_that_fails_in_the_middle_is_repaired_by_asking_again(house):
    house.ready("one")
    assert house.promote().success
    house.ready("two")
    BROKEN.append(TrackingError("No registry today."))
    result = house.promote()
    assert "No registry today" in said(result)
    assert house.champion == "1"
    assert house.acts[-1].version == "2", "the record comes first"
    assert len(logged(house)) == 1, "and the log says what was done"
    BROKEN.clear()
    assert house.beaten("r") == "1", "what is in use is what the alias is on"
    result = house.promote()
    assert result.success, said(result)
    assert house.champion == "2"
    assert house.roll_back().success
    assert house.champion == "1"


@pytest.mark.parametrize("tags", [{}, {ONLY_IF_CHANGED_TAG: "true"}])
def test_a_registry_that_answers_at_the_second_try(house, tags):
    house.ready("one")
    BROKEN.append(ONCE)
    result = house.promote(tags=tags)
    assert result.success, said(result)
    assert house.champion == "1"
    assert [f["version"] for _, f in logged(house)] == ["1"]


def test_a_verdict_held_against_what_is_no_longer_in_use_does_not_do(house):
    for weights in ("one", "two"):
        house.ready(weights)
        assert house.promote().success
    house.ready("three")  # held against the second
    assert house.roll_back().success
    result = house.promote()
    assert "held against another version" in said(result)
    house.judge()
    assert house.promote().success
    assert house.champion == "3"


def test_two_reports_with_one_candidate_share_its_history(house):
    house.ready("one", "r", "s")
    assert house.promote("r").success
    assert house.promote("s").success
    house.ready("two", "r")
    assert house.promote("r").success
    assert house.beaten("r") == "2"
    assert house.beaten("s") == "1", "the last that it judged itself"
    assert house.roll_back().success
    assert house.champion == "1"


def test_an_alias_moved_by_hand_is_found(house):
    for weights in ("one", "two"):
        house.ready(weights)
        assert house.promote().success
    house.tracking.move_alias(MODEL, "champion", "1")
    result = house.run(*promotion_checks("r"))
    (found,) = result.get_asset_check_evaluations()
    assert not found.passed
    assert {k: found.metadata[k].value for k in ("champion", "recorded")} == {
        "champion": "1",
        "recorded": "2",
    }


def act(action, version, previous, model="m", report="r"):
    return Act(action, model, version, previous, "a", "b", report if action == "promoted" else None)


def test_what_is_in_use_is_what_the_alias_is_on():
    acts = [act("promoted", "1", None), act("promoted", "2", "1"), act("promoted", "9", None, model="other")]
    assert versions_in_use(acts, "m", "2") == ["1", "2"]
    assert versions_in_use(acts, "m", "1") == ["1"], "the second never took effect"
    assert versions_in_use(acts, "m", None) == []
    assert versions_in_use([acts[0]], "m", "2") == ["1", "2"], "a record is lost"
    assert versions_in_use([act("promoted", "3", "2")], "m", "3") == ["2", "3"], "the one before it"
    back = [*acts, act("rolled_back", "1", "2"), act("promoted", "3", "1")]
    assert versions_in_use(back, "m", "3") == ["1", "3"]
    assert version_before(back, "m", "3") == "1"
    assert version_before(back, "m", "3", "2") == "2"
    with pytest.raises(PromotionError, match="never in use"):
        version_before(back, "m", "3", "7")


def test_a_report_whose_candidate_is_another_recipe_now_goes_on_from_the_one_in_use():
    acts = [act("promoted", "1", None), act("promoted", "5", None, model="n")]
    on = {"m": "1", "n": "5"}
    assert accepted(acts, "r", on.get) is acts[1]
    assert accepted(acts, "r", {"m": "1"}.get) is acts[0]
    assert accepted(acts, "r", {}.get) is None
    assert accepted(acts, "another", on.get) is None
