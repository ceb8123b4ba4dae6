"""Runs whose process was killed are closed by whoever comes next."""

import os
import socket
import subprocess
import sys

import dagster as dg
import pytest
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from mlflow import MlflowClient

from ehr_assets.lineage.datasets import DatasetStore
from ehr_assets.settings import Settings
from jobs import abandoned
from jobs.abandoned import PROCESS_TAG, close_dead_runs, is_gone, process_tags
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


def test_a_process_that_ended_and_was_not_waited_for_is_gone():
    with subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE) as process:
        assert process.stdout
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert abandoned._started(process.pid) is None


def test_what_a_dead_run_left_is_tidied(tmp_path):
    settings = Settings(home=tmp_path)
    staging = tmp_path / "staging"
    gone, torn = staging / "host-1-1f", staging / "host-2-1f"
    for folder in (gone, torn):
        folder.mkdir(parents=True)
    (staging / "host-1-1f.lock").touch()
    work = tmp_path / "work" / "r" / "checkpoint" / "1f" / "step-00000400"
    work.mkdir(parents=True)
    with DagsterInstance.ephemeral() as instance:
        tag = {PROCESS_TAG: f"{socket.gethostname()} {dead_process()} 1"}
        run = instance.create_run_for_job(nothing, tags=tag, status=DagsterRunStatus.STARTED)
        tracked = MlflowTracking(uri=settings.mlflow_uri).start("r", {"dagster.run_id": run.run_id}, {})
        with DatasetStore(tmp_path).staging() as ours:
            close_dead_runs(instance, settings)
            assert {p.name for p in staging.iterdir()} == {ours.name, f"{ours.name}.lock"}
    assert MlflowClient(settings.mlflow_uri).get_run(tracked).info.status == "KILLED"
    assert work.exists(), "how far it came is for the next run"


class Server:
    """A stand-in for a run's code server: what it says, and the processes that the system shows."""

    def __init__(self, monkeypatch, knows, processes):
        monkeypatch.setattr(abandoned, "_known", lambda server, run_id: knows)
        monkeypatch.setattr(abandoned, "_command", lambda pid: processes.get(pid, ""))


SPAWNED = "python -c from multiprocessing.spawn import spawn_main"
MINE, ANOTHERS = (
    "python -m dagster api grpc --socket /tmp/one",
    "python -m dagster api grpc --socket /tmp/two",
)


@pytest.mark.parametrize(
    ("knows", "process", "parent", "gone"),
    [
        (True, SPAWNED, MINE, False),
        (True, "", "", False),  # the server will see for itself
        (None, SPAWNED, "init", False),  # it outlived its server
        (None, SPAWNED, MINE, False),  # the server does not answer just now
        (None, SPAWNED, ANOTHERS, True),  # another run's, with the same id
        (None, "vim", "bash", True),
        (None, "", "", True),
        (False, "", "", True),
        (False, SPAWNED, "init", False),
    ],
)
def test_runs_of_a_code_server(monkeypatch, knows, process, parent, gone):
    tags = {GRPC_INFO_TAG: '{"host": "localhost", "socket": "/tmp/one"}'}
    Server(monkeypatch, knows, {os.getpid(): process, os.getppid(): parent})
    with DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(nothing, tags=tags, status=DagsterRunStatus.STARTED)
        instance.report_engine_event(f"Started process for run (pid: {os.getpid()}).", run)
        assert is_gone(instance, run) is gone


def test_a_run_that_is_about_to_start_is_not_gone(monkeypatch):
    tags = {GRPC_INFO_TAG: '{"host": "localhost", "socket": "/tmp/one"}'}
    Server(monkeypatch, False, {})
    with DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(nothing, tags=tags, status=DagsterRunStatus.STARTING)
        assert not is_gone(instance, run)


@pytest.mark.parametrize(("knows", "gone"), [(None, False), (False, True), (True, False)])
def test_only_its_server_can_say_of_another_machines_run(monkeypatch, knows, gone):
    tags = {GRPC_INFO_TAG: '{"host": "elsewhere", "port": 4000}'}
    Server(monkeypatch, knows, {})
    with DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(nothing, tags=tags, status=DagsterRunStatus.STARTED)
        instance.report_engine_event(f"Started process for run (pid: {os.getpid()}).", run)
        assert is_gone(instance, run) is gone


def test_a_server_that_is_not_there():
    assert abandoned._known({"host": "localhost", "socket": "/nowhere/at/all"}, "r") is None
