"""Runs in the audit log: none makes a dataset unrecorded, every end is told, and who opened a gate."""

import pytest
from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetExecutionContext,
    AssetKey,
    DagsterInstance,
    DagsterRunStatus,
    SkipReason,
    asset,
    asset_check,
    build_sensor_context,
    materialize,
)

from ehr_assets.lineage.audit_log import AuditLog
from ehr_assets.lineage.manifest import MANIFEST_NAME
from ehr_assets.lineage.provenance import read_packages, read_run
from ehr_assets.lineage.subjects import TRAINED, SubjectLists
from ehr_assets.lineage.verifying import sealed_manifests
from jobs.audit import audit_sensors
from resources.audit import run_begins, runs_ended
from resources.storage import ONLY_IF_CHANGED_TAG, Datasets

UP, DOWN = AssetKey(["c", "up"]), AssetKey(["c", "down"])


class Chain:
    """up → down, with a check on up; all in the home of a test."""

    def __init__(self, home):
        self.home, self.instance = home, DagsterInstance.ephemeral()
        self.log = AuditLog(home)
        self.good = True

    def run(self, *names, fails=False, **tags):
        chain = self

        @asset(key=UP, code_version="1")
        def up(context: AssetExecutionContext, datasets: Datasets):
            return datasets.materialize(context, chain.body)

        @asset(key=DOWN, deps=[UP], code_version="1")
        def down(context: AssetExecutionContext, datasets: Datasets):
            return datasets.materialize(
                context, chain.body, subjects=lambda made, inputs: {TRAINED: {"c": [7]}}
            )

        @asset_check(asset=UP, name="good", blocking=True)
        def good(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
            return datasets.judge(datasets.judged(context, UP), chain.good)

        done = materialize(
            [up, down, good],
            instance=self.instance,
            resources={"datasets": Datasets(home=str(self.home), gates={"c/up": ["good"]})},
            selection=[AssetKey(["c", n]) for n in names],
            raise_on_error=False,
            tags=tags,
        )
        assert done.success is not fails
        return done

    def body(self, step):
        (step.out / "file.txt").write_text("content")
        return {}

    def acts(self, *wanted):
        return [(e.action, e.facts) for e in self.log.entries() if not wanted or e.action in wanted]


@pytest.fixture
def chain(tmp_path, monkeypatch):
    for name in ("EHR_ALLOW_FAILED_CHECKS", "EHR_SPECS", "EHR_OVERRIDES", "EHR_HOME"):
        monkeypatch.delenv(name, raising=False)
    return Chain(tmp_path / "home")


def test_a_run_is_recorded_once_however_many_steps_it_has_and_its_end_by_whoever_comes_next(chain):
    done = chain.run("up", "down")
    assert [a for a, _ in chain.acts()] == ["run_started"]
    assert chain.acts()[0][1]["run"] == done.run_id
    again = chain.run("down", **{ONLY_IF_CHANGED_TAG: "true"})
    assert [a for a, _ in chain.acts()] == ["run_started", "run_finished", "run_started"]
    ended = chain.acts("run_finished")[0][1]
    assert (ended["run"], ended["status"]) == (done.run_id, "SUCCESS")
    assert [line.split(" @ ")[0] for line in ended["made"]] == ["c/up", "c/down"]
    assert runs_ended(chain.home, chain.instance) == [again.run_id]
    assert runs_ended(chain.home, chain.instance) == []
    assert chain.log.verify().fault is None


def test_the_manifests_of_a_run_are_sealed_when_it_ends(chain):
    chain.run("up")
    runs_ended(chain.home, chain.instance)
    sealed = sealed_manifests(chain.log.entries())
    (manifest,) = (chain.home / "datasets").rglob(MANIFEST_NAME)
    assert list(sealed) == [manifest.parent.relative_to(chain.home).as_posix()]


def test_a_failed_check_and_an_opened_gate_are_recorded(chain, monkeypatch):
    chain.good = False
    chain.run("up", fails=True)
    (failed,) = chain.acts("check_failed")
    assert (failed[1]["asset"], failed[1]["check"], failed[1]["severity"]) == ("c/up", "good", "error")
    chain.run("down", fails=True)
    assert not chain.acts("check_overridden")
    monkeypatch.setenv("EHR_ALLOW_FAILED_CHECKS", "to look at it")
    chain.run("down")
    (opened,) = chain.acts("check_overridden")
    assert opened[1]["asset"] == "c/down"
    assert "to look at it" in opened[1]["override"]
    runs_ended(chain.home, chain.instance)
    assert [f["status"] for _, f in chain.acts("run_finished")] == ["FAILURE", "FAILURE", "SUCCESS"]


def test_a_run_that_was_killed_is_ended_once_dagster_knows(chain):
    run = chain.instance.create_run_for_job(_job())
    chain.instance.report_run_canceling(run)
    run_begins(chain.home, chain.instance, run.run_id)
    assert runs_ended(chain.home, chain.instance) == []
    chain.instance.report_run_failed(chain.instance.get_run_by_id(run.run_id), "killed")
    (sensor,) = audit_sensors(chain.home)
    said = sensor(build_sensor_context(instance=chain.instance))
    assert isinstance(said, SkipReason)
    assert said.skip_message == "1 runs ended."
    assert chain.acts("run_finished")[0][1]["status"] == DagsterRunStatus.FAILURE.value


def test_a_run_that_was_wiped_from_dagster_is_told(chain):
    done = chain.run("up")
    chain.instance.delete_run(done.run_id)
    runs_ended(chain.home, chain.instance)
    assert "no such run" in chain.acts("run_finished")[0][1]["status"]


def test_nothing_is_made_where_it_cannot_be_recorded(chain):
    chain.home.mkdir()
    (chain.home / "audit").write_text("in the way")
    chain.run("up", fails=True)
    assert not (chain.home / "datasets").exists()


def test_what_a_run_was_set_to_is_kept(chain, tmp_path, monkeypatch):
    specs = tmp_path / "specs" / "recipes"
    specs.mkdir(parents=True)
    (specs / "mine.yaml").write_text("name: mine\n")
    monkeypatch.setenv("EHR_SPECS", str(tmp_path / "specs"))
    monkeypatch.setenv("EHR_OVERRIDES", '{"recipes/mine": {"lr": 0.5}}')
    done = chain.run("up")
    record = read_run(chain.home, done.run_id)
    assert record is not None
    assert record.overrides == {"recipes/mine": {"lr": 0.5}}
    assert record.specs == [{"recipes/mine.yaml": "name: mine\n"}]
    assert any(line.startswith("dagster==") for line in read_packages(chain.home, record.lock_hash) or [])
    assert read_run(chain.home, "another") is None


def test_lists_of_subjects_are_kept_with_the_dataset_and_made_up_for_where_they_lack(chain):
    chain.run("up", "down")
    lists = SubjectLists(chain.home)
    (dataset,) = lists.datasets()
    assert lists.roles_of(dataset, "c", 7) == [TRAINED]
    assert lists.roles_of(dataset, "c", 8) == []
    (file,) = (chain.home / "provenance" / "subjects").rglob("*.parquet")
    file.unlink()
    chain.run("down", **{ONLY_IF_CHANGED_TAG: "true"})
    assert lists.roles_of(dataset, "c", 7) == [TRAINED]


def _job():
    from dagster import job, op

    @op
    def nothing():
        pass

    @job
    def killed():
        nothing()

    return killed
