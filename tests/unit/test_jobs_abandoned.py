"""Runs whose process was killed are closed by whoever comes next."""

import socket
import subprocess
import sys

import dagster as dg
import pytest
from dagster import DagsterInstance, DagsterRunStatus
from mlflow import MlflowClient

from ehr_assets.settings import Settings
from jobs.abandoned import PROCESS_TAG, close_dead_runs, process_tags
from resources.tracking import MlflowTracking


@dg.job
def nothing():
    pass


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("tag", "closed"),
    [
        (f"{socket.gethostname()} {dead_process()} 123", True),
        (process_tags()[PROCESS_TAG], False),  # alive
        (f"{process_tags()[PROCESS_TAG]}9", True),  # another process has its id by now
        ("elsewhere 1 123", False),  # not ours to judge
        (None, False),
    ],
    ids=["dead", "alive", "another with its id", "elsewhere", "untagged"],
)
def test_only_runs_of_dead_processes_here_are_closed(tmp_path, tag, closed):
    with DagsterInstance.ephemeral() as instance:
        tags = {PROCESS_TAG: tag} if tag else {}
        run = instance.create_run_for_job(nothing, tags=tags, status=DagsterRunStatus.STARTED)
        found = close_dead_runs(instance, Settings(home=tmp_path))
        assert found == ([run.run_id] if closed else [])
        status = instance.get_run_by_id(run.run_id).status
        assert status is (DagsterRunStatus.FAILURE if closed else DagsterRunStatus.STARTED)


def test_what_a_dead_run_left_is_tidied(tmp_path):
    settings = Settings(home=tmp_path)
    staging = tmp_path / "staging"
    ours = socket.gethostname()
    gone, here = (staging / f"{host}-{dead_process()}-1f" for host in (ours, f"{ours}-2"))
    for folder in (gone, here):
        folder.mkdir(parents=True)
    work = tmp_path / "work" / "r" / "checkpoint" / "1f" / "step-00000400"
    work.mkdir(parents=True)
    with DagsterInstance.ephemeral() as instance:
        tag = {PROCESS_TAG: f"{socket.gethostname()} {dead_process()} 1"}
        run = instance.create_run_for_job(nothing, tags=tag, status=DagsterRunStatus.STARTED)
        tracked = MlflowTracking(uri=settings.mlflow_uri).start("r", {"dagster.run_id": run.run_id}, {})
        close_dead_runs(instance, settings)
    assert MlflowClient(settings.mlflow_uri).get_run(tracked).info.status == "KILLED"
    assert [p.name for p in staging.iterdir()] == [here.name], (
        "another host's whose name begins like this one's"
    )
    assert work.exists(), "how far it came is for the next run"
