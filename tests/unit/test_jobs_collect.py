"""Garbage collection: what is needed stays, whatever the policy; what a crash leaves is whole or swept."""

import json
import os
from datetime import timedelta

import dagster as dg
import pytest
from dagster import AssetKey, AssetMaterialization, DagsterInstance, DagsterRunStatus
from mlflow import MlflowClient

from ehr_assets.errors import StorageUnavailableError
from ehr_assets.lineage.audit_log import AuditLog
from ehr_assets.lineage.collection import Policy
from ehr_assets.lineage.manifest import MANIFEST_NAME, InputEntry, now
from ehr_assets.settings import Settings
from jobs.collect import collect
from resources.object_store import open_store
from resources.recorded import DATASET_KEY
from resources.tracking import MlflowTracking

LATER = now() + timedelta(days=100)
ONE = Policy(keep=1)


@dg.job
def nothing():
    pass


class House:
    """A home, local or on S3, with datasets that Dagster knows of."""

    def __init__(self, home, remote=""):
        self.settings = Settings(home=home, remote=remote)
        self.store = open_store(home, remote)
        self.instance = DagsterInstance.ephemeral()

    def make(self, asset, content, *inputs, known=True):
        with self.store.staging() as staged:
            (staged / "a.txt").write_text(content)
            entries = [
                InputEntry(
                    asset=i.manifest.asset, data_version=i.data_version, dataset=self.store.relative(i)
                )
                for i in inputs
            ]
            made = self.store.commit(staged, asset=asset, code_version="v", started_at=now(), inputs=entries)
        if known:
            self.instance.report_runless_asset_event(
                AssetMaterialization(
                    AssetKey(asset.split("/")),
                    metadata={DATASET_KEY: self.store.relative(made)},
                    tags={"dagster/data_version": made.data_version},
                )
            )
        return made

    def collect(self, policy=ONE, *, dry_run=False, at=LATER):
        return collect(self.instance, self.settings, policy, dry_run=dry_run, say=str, at=at)

    def left(self):
        return {self.store.manifest(p).asset + " " + self.text(p) for p in self.store.everything()}

    def text(self, place):
        return (self.store.home / place / "a.txt").read_text()


@pytest.fixture(params=["local", "s3"])
def house(request, tmp_path):
    if request.param == "local":
        return House(tmp_path / "home")
    request.getfixturevalue("s3")
    return House(tmp_path / "home", "s3://team/ehr")


def test_old_versions_go_and_inputs_of_the_kept_stay(house):
    raw = [house.make("c/raw", f"raw {i}") for i in range(4)]
    model = house.make("r/checkpoint", "model of raw 1", house.make("c/meds", "meds 1", raw[1]))
    house.make("c/meds", "meds 3", raw[3])
    done = house.collect()
    assert house.left() == {"c/raw raw 1", "c/raw raw 3", "c/meds meds 1", "c/meds meds 3"} | {
        "r/checkpoint model of raw 1"
    }
    assert len(done.plan.remove) == 2
    assert house.store.open("r/checkpoint", house.store.relative(model))
    assert not house.collect().plan.remove, "there is nothing more to do"


def test_a_dry_run_removes_nothing_and_says_the_same(house):
    for i in range(4):
        house.make("c/raw", f"raw {i}")
    told = house.collect(dry_run=True)
    assert len(house.left()) == 4
    assert not (house.settings.home / "audit").exists()
    assert list(house.collect().plan.remove) == list(told.plan.remove)
    assert house.left() == {"c/raw raw 3"}


def test_what_is_young_or_among_the_newest_stays(house):
    for i in range(4):
        house.make("c/raw", f"raw {i}")
    assert not house.collect(Policy(1, timedelta(0)), at=now()).plan.remove, "perhaps not reported yet"
    assert not house.collect(Policy(1, timedelta(days=200))).plan.remove
    assert len(house.collect(Policy(3, timedelta(0))).plan.remove) == 1


def test_a_partition_keeps_its_own_newest(house):
    with house.store.staging() as staged:
        (staged / "a.txt").write_text("of p")
        house.store.commit(staged, asset="g/checkpoint[p]", code_version="v", started_at=now())
    house.make("g/checkpoint", "unpartitioned")
    house.collect()
    assert house.left() == {"g/checkpoint[p] of p", "g/checkpoint unpartitioned"}


def test_what_this_instance_knows_nothing_of_is_left_alone(house):
    """Another machine's instance, with a database of its own, may share the store."""
    for i in range(4):
        house.make("c/raw", f"raw {i}", known=False)
    assert not house.collect().plan.remove
    assert len(house.left()) == 4


def test_what_a_damaged_manifest_may_name_stays_until_it_is_mended(tmp_path):
    house = House(tmp_path / "home")
    raw = [house.make("c/raw", f"raw {i}") for i in range(3)]
    model = house.make("r/checkpoint", "model", raw[0])
    manifest = model.path / MANIFEST_NAME
    whole = manifest.read_text()
    manifest.write_text("{")
    found = house.collect().plan
    assert found.unreadable == [house.store.relative(model)]
    assert not found.remove
    manifest.write_text(whole)
    assert list(house.collect().plan.remove) == [house.store.relative(raw[1])]


def test_records_of_decisions_stay(house):
    for i in range(4):
        house.make("report/promotion", f"decision {i}", house.make("r/verdict", f"verdict {i}"))
    house.collect()
    assert len(house.left()) == 8


def test_the_checkpoint_behind_an_alias_stays_with_what_it_was_made_from(tmp_path):
    house = House(tmp_path / "home")
    old = house.make("r/checkpoint", "champion", house.make("c/raw", "raw 0"))
    for i in range(1, 4):
        house.make("r/checkpoint", f"model {i}", house.make("c/raw", f"raw {i}"))
    tracking = MlflowTracking(uri=house.settings.mlflow_uri)
    run_id = tracking.start("r", {}, {})
    tags = {"dataset": house.store.relative(old), "data_version": old.data_version}
    version = tracking.register("r", run_id, old.path, tags)
    MlflowClient(house.settings.mlflow_uri).set_registered_model_alias("r", "champion", version)
    done = house.collect()
    assert done.plan.kept[house.store.relative(old)] in ("champion of r", "candidate of r")
    assert house.left() == {"r/checkpoint champion", "c/raw raw 0", "r/checkpoint model 3", "c/raw raw 3"}


def test_what_a_run_in_progress_may_read_stays(house):
    for i in range(3):
        house.make("c/raw", f"raw {i}")
    running = house.instance.create_run_for_job(nothing, status=DagsterRunStatus.STARTED)
    house.make("c/raw", "raw 3")
    house.collect()
    assert house.left() == {"c/raw raw 2", "c/raw raw 3"}, "raw 2 was the newest when the run began"
    house.instance.report_run_failed(running)
    house.collect()
    assert house.left() == {"c/raw raw 3"}


def test_each_removal_is_in_the_audit_log(house):
    for i in range(3):
        house.make("c/raw", f"raw {i}")
    removed = house.collect().plan.remove
    lines = (house.settings.home / "audit" / "log.jsonl").read_text().splitlines()
    facts = [json.loads(line)["facts"] for line in lines]
    assert [f["dataset"] for f in facts] == list(removed)
    assert all(f["asset"] == "c/raw" and f["data_version"] for f in facts)
    assert AuditLog(house.settings.home).verify().fault is None


@pytest.mark.parametrize("dies_at", range(4))
def test_a_collection_cut_off_anywhere_leaves_no_dataset_without_its_inputs(house, dies_at):
    raw = [house.make("c/raw", f"raw {i}") for i in range(3)]
    for r in raw:
        house.make("r/checkpoint", f"model of {r.path.name}", house.make("c/meds", r.path.name, r))
    calls, remove = [], type(house.store).remove

    def dying(store, place):
        calls.append(place)
        if len(calls) - 1 == dies_at:
            raise KeyboardInterrupt
        remove(store, place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(house.store), "remove", dying)
        with pytest.raises(KeyboardInterrupt):
            house.collect()
    whole = {p for p, is_whole in house.store.everything().items() if is_whole}
    for place in whole:
        assert {i.dataset for i in house.store.manifest(place).inputs} <= whole
    house.collect()
    assert len(house.left()) == 3


def test_a_removal_cut_off_in_its_middle_is_finished_by_the_next(tmp_path):
    house = House(tmp_path / "home")
    for i in range(2):
        made = house.make("c/raw", f"raw {i}")
    half = house.store.home / min(house.store.everything())
    (half / MANIFEST_NAME).unlink()
    assert house.store.problem("c/raw", house.store.relative(made), None, thorough=True) is None
    assert not house.collect(at=now()).plan.remnants, "an upload in progress looks the same"
    running = house.instance.create_run_for_job(nothing, status=DagsterRunStatus.STARTED)
    house.make("c/raw", "raw 2")
    (house.store.home / max(house.store.everything()) / MANIFEST_NAME).unlink()
    remnants = house.collect(dry_run=True).plan.remnants
    assert remnants == [house.store.relative(made).replace(made.path.name, half.name)], (
        "the other: its upload"
    )
    house.instance.report_run_failed(running)
    assert len(house.collect().plan.remnants) == 2
    assert not half.exists()


def test_another_machines_cache_follows(s3, tmp_path):
    house = House(tmp_path / "one", "s3://team/ehr")
    made = [house.make("c/raw", f"raw {i}") for i in range(2)]
    other = House(tmp_path / "two", "s3://team/ehr")
    for dataset in made:
        other.store.open("c/raw", house.store.relative(dataset))
    house.collect()
    assert len(list(other.store.directory("c/raw").iterdir())) == 2
    other.collect()
    assert [p.name for p in other.store.directory("c/raw").iterdir()] == [made[1].path.name]


def test_a_store_that_breaks_off_is_told_and_the_next_time_finishes(s3, tmp_path):
    house = House(tmp_path / "home", "s3://team/ehr")
    for i in range(5):
        house.make("c/raw", f"raw {i}")
    s3.fault = lambda method, path: "503" if method == "POST" else ""
    with pytest.raises(StorageUnavailableError):
        house.collect()
    assert sum(house.store.everything().values()) == 5
    s3.fault = lambda method, path: ""
    house.collect()
    assert house.left() == {"c/raw raw 4"}


def test_idle_work_folders_and_staging_go_unless_somebody_has_them(tmp_path):
    house = House(tmp_path / "home")
    house.make("c/raw", "raw")
    store, old = house.store, (now() - timedelta(days=300)).timestamp()
    folders = {}
    for name in ("idle", "held", "young"):
        with store.workspace("r/checkpoint", [name], str) as work:
            (work.open() / "step-1").mkdir()
            (work.path / "step-1" / "state").write_text("x")
            folders[name] = work.path
    staging = store.home / "staging" / "elsewhere-1-ab"
    staging.mkdir(parents=True)
    for name, folder in (*folders.items(), ("staging", staging)):
        for path in (*folder.rglob("*"), folder):
            if name != "young":
                os.utime(path, (old, old))
    with store.workspace("r/checkpoint", ["held"], str) as work:
        work.open()
        for path in (*work.path.rglob("*"), work.path):
            os.utime(path, (old, old))
        done = house.collect(Policy(1, timedelta(days=7)), at=now())
    assert {f.name for f in done.work} == {folders["idle"].name, folders["held"].name}
    assert [name for name, f in folders.items() if f.exists()] == ["held", "young"]
    assert not staging.exists()
