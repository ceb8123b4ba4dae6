"""A full disk, a clock that jumps, two launches at once: in runs without a daemon."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import faults_location
import pytest
from dagster import AssetKey, DagsterEventType, DagsterInstance
from dagster._core.test_utils import freeze_time
from faults_run import run
from invariants import broken_promises

from ehr_assets.lineage import datasets as lineage_datasets
from ehr_assets.settings import Settings
from jobs.abandoned import close_dead_runs
from jobs.instance import INSTANCE_CONFIG, storage_problem
from jobs.status import Graph, State, asset_statuses
from resources.storage import Datasets

HERE = Path(__file__).parent
KEYS = [key for definition in faults_location.ASSETS for key in definition.keys]


class Place:
    """A storage root with its own Dagster instance on disk, and runs in it."""

    def __init__(self, home, faults):
        self.home, self.faults = home, faults
        self.faults.mkdir(exist_ok=True)
        self.dagster = home / "dagster"
        self.dagster.mkdir(parents=True)
        shutil.copy(INSTANCE_CONFIG, self.dagster / "dagster.yaml")
        self.datasets = Datasets(home=str(home), gates=faults_location.GATES)
        self.instance = DagsterInstance.from_config(str(self.dagster))

    def run(self, *names):
        return run(self.instance, self.datasets, *names)

    def start(self, names, *more):
        env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("EHR_", "DAGSTER_", "MLFLOW_"))},
            "EHR_HOME": str(self.home),
            "EHR_FAULTS": str(self.faults),
            "DAGSTER_HOME": str(self.dagster),
            "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)]),
        }
        return subprocess.Popen([sys.executable, str(HERE / "faults_run.py"), names, *more], env=env)

    def held(self, number):
        until = time.monotonic() + faults_location.PATIENCE
        while len(list(self.faults.glob("worker-*"))) < number:
            assert time.monotonic() < until, "the run never came so far"
            time.sleep(0.05)

    def broken(self):
        close_dead_runs(self.instance, Settings(home=self.home))
        return broken_promises(self.home, self.instance, KEYS)

    def latest(self, name):
        return self.datasets.latest(self.instance, AssetKey(["faults", name]))

    def versions_of(self, name):
        folder = self.home / "datasets" / "faults" / name
        return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("EHR_FAULTS", str(tmp_path / "faults"))
    made = Place(tmp_path / "home", tmp_path / "faults")
    yield made
    made.instance.dispose()


def why(result):
    """What the failed steps of a run said."""
    events = result.get_step_failure_events() if hasattr(result, "get_step_failure_events") else []
    events = events or [e for e in result.all_events if e.event_type is DagsterEventType.STEP_FAILURE]
    told = (e.step_failure_data.user_failure_data or e.step_failure_data.error for e in events)
    return " ".join(getattr(t, "description", None) or str(t) for t in told)


def test_of_two_launches_at_once_one_is_refused_and_nothing_is_lost(place):
    assert place.run("source").success
    with place.start("crewed") as first:
        place.held(1)
        second = place.run("crewed")
        assert not second.success
        assert "Another run is making the same dataset right now" in why(second)
        (going,) = (r.run_id for r in place.instance.get_runs() if not r.is_finished)
        assert f"run {going} in process {first.pid}" in why(second), "which one"
        (place.faults / "go").touch()
        assert first.wait(faults_location.PATIENCE) == 0
    made = place.latest("crewed")
    assert len(place.versions_of("crewed")) == 1
    assert place.run("crewed").success
    assert place.latest("crewed").data_version == made.data_version
    assert place.broken() == []


def test_two_machines_without_a_lock_in_common_both_commit(place):
    assert place.run("source").success
    with place.start("crewed", "without-locks") as one, place.start("crewed", "without-locks") as other:
        place.held(2)
        (place.faults / "go").touch()
        assert (one.wait(faults_location.PATIENCE), other.wait(faults_location.PATIENCE)) == (0, 0)
    assert len(place.versions_of("crewed")) == 2
    assert len({name.rpartition("-")[2] for name in place.versions_of("crewed")}) == 1, "the same content"
    assert place.latest("crewed").path.name in place.versions_of("crewed")
    assert place.broken() == []


@pytest.mark.parametrize("jump", [timedelta(days=-400), timedelta(days=400)], ids=["back", "forth"])
def test_the_newest_is_what_dagster_recorded_last_whatever_the_clock_says(place, monkeypatch, jump):
    (place.faults / "go").touch()
    real, graph = time.time, Graph(faults_location.defs)
    contents, clock = ["one", "two", "three"], [timedelta(), jump, timedelta()]
    made = []
    for content, offset in zip(contents, clock, strict=True):
        at = datetime.now(UTC) + offset
        monkeypatch.setattr(time, "time", lambda by=offset: real() + by.total_seconds())
        monkeypatch.setattr(lineage_datasets, "now", lambda at=at: at)
        monkeypatch.setenv("EHR_FAULTS_CONTENT", content)
        with freeze_time(at):
            assert place.run("source", "held", "end").success
        newest = place.latest("source")
        assert (newest.path / "source.txt").read_text() == content
        if made:
            assert place.datasets.store.previous(newest) == made[-1].path
        made.append(newest)
        statuses = asset_statuses(
            place.instance, graph, place.datasets.store, faults_location.GATES, thorough=graph.order
        )
        fresh = {key.path[-1] for key, status in statuses.items() if status.state is State.FRESH}
        assert fresh == {"source", "held", "end"}
    assert place.broken() == []


def test_a_slot_is_given_back_although_the_clock_was_set_back(place, monkeypatch):
    """Run monitoring would wait until the clock has caught up with the end of the run."""
    assert place.run("source").success
    with place.start("held") as killed:
        until = time.monotonic() + faults_location.PATIENCE
        while not list(place.faults.glob("held-*")) and time.monotonic() < until:
            time.sleep(0.05)
        killed.kill()
    (run_left,) = (r for r in place.instance.get_runs() if not r.is_finished)
    place.instance.report_run_failed(run_left)
    assert place.instance.event_log_storage.get_concurrency_run_ids() == {run_left.run_id}
    assert place.broken() == []
    (place.faults / "go").touch()
    assert place.run("held").success


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """A storage root, Dagster's database included, on a disk of 32 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a disk of a given size cannot be mounted here (it needs root and the permission to)")
    monkeypatch.setenv("EHR_FAULTS", str(tmp_path / "faults"))
    made = Place(disk / "home", tmp_path / "faults")
    yield made
    made.instance.dispose()
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def free(place):
    return shutil.disk_usage(place.home).free


def test_a_disk_that_fills_up_under_an_asset_costs_only_that_asset(small_disk):
    place = small_disk
    assert place.run("source").success
    before, room = place.latest("source"), free(place)
    failed = place.run("large")
    assert not failed.success
    assert "The disk is full" in why(failed)
    assert place.versions_of("large") == []
    assert free(place) > room - (4 << 20), "what was written is gone, but for Dagster's words about it"
    assert place.latest("source").data_version == before.data_version
    assert place.broken() == []
    enlarge(place)
    assert place.run("large").success
    assert place.broken() == []


def test_a_disk_without_room_for_a_word_is_one_clear_error(small_disk):
    """Dagster's own database notices first."""
    place = small_disk
    (place.faults / "go").touch()
    assert place.run("source").success
    before = place.latest("source")
    fill(place.home / "ballast")
    try:
        result = place.run("source", "held")
    except Exception as e:
        problem = storage_problem(e, place.home)
        assert problem is not None
        assert "Free space" in str(problem)
    else:
        assert not result.success
    (place.home / "ballast").unlink()
    assert place.latest("source").data_version == before.data_version
    assert place.broken() == []
    assert place.run("source", "held").success
    assert place.broken() == []


def fill(file):
    """Takes the last byte of a disk."""
    with file.open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(4096))


def enlarge(place):
    subprocess.run(["mount", "-o", "remount,size=256m", str(place.home.parent)], check=True)
