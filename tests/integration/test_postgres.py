"""Dagster's instance and MLflow in a real Postgres, and what becomes of a run whose database goes away."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dagster import DagsterRunStatus, RunsFilter
from mlflow import MlflowClient

from ehr_assets.errors import StorageUnavailableError
from ehr_assets.lineage.datasets import DatasetStore
from ehr_assets.settings import Settings
from jobs.abandoned import OPEN
from jobs.instance import open_instance
from resources.recorded import recorded
from resources.tracking import MlflowTracking

REPOSITORY = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("a_run_on_postgres.py")


@pytest.fixture
def home(postgres, tmp_path, monkeypatch):
    """A home of its own, whose instance lies in the server that all tests of this file share."""
    for name in ("DAGSTER_HOME", "MLFLOW_TRACKING_URI", "EHR_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EHR_HOME", str(tmp_path))
    monkeypatch.setenv("EHR_POSTGRES_URL", postgres.url("dagster"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("DAGSTER_HOME", "")
    return tmp_path


class Run:
    """A run in a process of its own, which waits in the middle of its step."""

    def __init__(self, content: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), content],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        self.said: list[str] = []
        while "working\n" not in self.said:
            line = self.process.stdout.readline()
            assert line, "".join(self.said)
            self.said.append(line)

    def go_on(self) -> tuple[int, str]:
        """Its exit status and last line."""
        rest, _ = self.process.communicate("\n", timeout=300)
        self.said.append(rest)
        assert os.environ["EHR_POSTGRES_URL"] not in "".join(self.said)
        return self.process.returncode, rest.splitlines()[-1]


def known(home):
    """The newest dataset that the instance records, verified."""
    with open_instance(Settings.from_env()) as instance:
        entry = recorded(instance, "c/thing")
    assert entry is not None
    return DatasetStore(home).open("c/thing", entry.dataset, data_version=entry.data_version)


@pytest.mark.parametrize("fault", ["connections dropped", "server restarted"])
def test_a_run_survives_a_database_that_comes_back(home, postgres, fault):
    run = Run(f"made while {fault}")
    if fault == "connections dropped":
        postgres.drop_connections("dagster")
    else:
        postgres.stop("immediate")
        postgres.start()
    status, version = run.go_on()
    assert status == 0, run.said
    assert known(home).data_version == version
    assert (known(home).path / "a.txt").read_text() == f"made while {fault}"


def test_a_run_whose_database_stays_away_is_closed_and_made_again_by_the_next(home, postgres):
    status, before = Run("before").go_on()
    assert status == 0
    run = Run("after")
    postgres.stop("immediate")
    try:
        assert run.go_on()[0] != 0
    finally:
        postgres.start()
    with open_instance(Settings.from_env()) as instance:
        assert len(instance.get_runs(RunsFilter(statuses=OPEN))) == 1, "nobody could write how it ended"
    assert known(home).data_version == before, "nothing committed is lost"
    status, after = Run("after").go_on()
    assert status == 0
    assert after != before
    assert known(home).data_version == after
    with open_instance(Settings.from_env()) as instance:
        assert not instance.get_runs(RunsFilter(statuses=OPEN))
        (failed,) = instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.FAILURE]))
        assert failed.run_id
    assert not list((home / "staging").iterdir())


def test_no_password_is_on_the_disk(home, postgres):
    with open_instance(Settings.from_env()) as instance:
        assert "Postgres" in type(instance.event_log_storage).__name__
    assert not list(home.rglob("*.db"))
    for path in (p for p in home.rglob("*") if p.is_file()):
        assert postgres.PASSWORD not in path.read_text(errors="replace")
        assert postgres.url("dagster") not in path.read_text(errors="replace")


def test_a_wrong_password_is_one_clear_error_that_does_not_show_it(home, postgres, monkeypatch):
    monkeypatch.setenv("EHR_POSTGRES_URL", f"postgresql://dagster:not-it@127.0.0.1:{postgres.port}/dagster")
    with pytest.raises(StorageUnavailableError, match="database") as e:
        open_instance(Settings.from_env())
    assert "not-it" not in str(e.value)
    assert e.value.__cause__ is None


def test_the_databases_can_be_made_again_and_are_each_others_no_reading(postgres):
    postgres.make_databases()
    query = "select has_database_privilege('{}', '{}', 'connect')"
    assert postgres.ask(query.format("mlflow", "dagster")) == [(False,)]
    assert postgres.ask(query.format("dagster", "dagster")) == [(True,)]


def test_mlflow_tracks_and_registers_there_and_bears_a_dropped_connection(postgres, tmp_path):
    tracking = MlflowTracking(uri=postgres.url("mlflow"))
    run_id = tracking.start("a training", {"dagster.run_id": "1"}, {"lr": 0.1})
    postgres.drop_connections("mlflow")
    tags = {"dataset": "datasets/r/checkpoint/x", "data_version": "1"}
    version = tracking.register("r", run_id, tmp_path, tags, "s3://team/ehr/datasets/r/checkpoint/x")
    tracking.finish(run_id)
    client = MlflowClient(postgres.url("mlflow"))
    assert client.get_run(run_id).info.status == "FINISHED"
    assert client.get_model_version("r", version).source == "s3://team/ehr/datasets/r/checkpoint/x"
    assert tracking.in_use() == {"datasets/r/checkpoint/x": "candidate of r"}
