"""The launcher: real ranks under a real Dagster run, their failures, and that none of them stays behind."""

import base64
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
from dagster._daemon.monitoring.concurrency import execute_concurrency_slots_iteration
from launcher_support import files, in_a_run, still_there, wait_until
from mlflow import MlflowClient
from training_helpers import make_job

from ehr_assets.errors import TrainingError
from ehr_assets.settings import Settings
from jobs.abandoned import close_dead_runs
from jobs.instance import prepare_home
from resources.hosts import Host, commands, read_hosts, spread
from resources.launcher import _failure
from resources.tracking import MlflowTracking

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
SUBJECTS = {"train": 12, "tuning": 3}


@pytest.fixture(autouse=True)
def rank_module_can_be_found(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)


def history(job: dict) -> list[dict]:
    return [json.loads(line) for line in (Path(job["out_dir"]) / "history.jsonl").read_text().splitlines()]


def by_hand(job: dict, folder: Path, threads: int) -> subprocess.Popen:
    (folder / "job.json").write_text(json.dumps(job))
    env = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "ehr_assets.training.process", str(folder / "job.json")]
    return subprocess.Popen(command, env=env)


def test_training_on_one_and_two_ranks(tmp_path):
    """Through the launcher with MLflow; once more by hand with equal seeds; and on two ranks."""
    tracking = MlflowTracking(uri=f"sqlite:///{tmp_path}/mlflow.db")
    run_id = tracking.start("made_up", {"dagster.run_id": "x"}, {"optimizer": {"lr": 0.01}})
    # Without dropout, which differs between ranks, the same batches on two ranks give the same losses.
    calm = {"adapter": {"r": 8, "dropout": 0.0, "trainable_tokens": "all"}, "optimizer": {"lr": 2e-3}}
    one = make_job(tmp_path / "one", SUBJECTS, **calm) | {"tracking": {"uri": tracking.uri, "run_id": run_id}}
    again = make_job(tmp_path / "again", SUBJECTS, **calm)
    alone = by_hand(again, tmp_path, threads=int(os.environ.get("OMP_NUM_THREADS") or 2))
    stats, lines = in_a_run(lambda context, launcher: launcher.train(context, one, 1))
    tracking.finish(run_id)

    steps = [row for row in history(one) if "loss" in row]
    assert stats["steps"] == len(steps) == 12
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert stats["last_loss"] == steps[-1]["loss"]
    assert any("step 10/12 (83%), loss" in line and "tokens/s" in line for line in lines)
    logged = MlflowClient(tracking.uri).get_metric_history(run_id, "train/loss")
    assert [m.value for m in logged] == [row["loss"] for row in steps]
    run = MlflowClient(tracking.uri).get_run(run_id)
    assert (run.info.status, run.data.params["optimizer.lr"]) == ("FINISHED", "0.01")
    assert {"train/sft", "train/lr", "tuning/loss", "speed/tokens_per_s", "memory/rss_mb"} <= set(
        run.data.metrics
    )

    assert alone.wait() == 0
    first, second = files(one), files(again)
    assert first.pop("timing.jsonl")
    assert second.pop("timing.jsonl")
    assert first == second, "equal inputs and seed give equal bytes, under Dagster or not"

    engine = {"micro_batch": 2, "num_processes": 2}
    two = make_job(tmp_path / "two", SUBJECTS, **calm, engine=engine)
    stats, _ = in_a_run(lambda context, launcher: launcher.train(context, two, 2))
    # Rounding differs, and grows with every step.
    for a, b in zip(history(one), history(two), strict=True):
        (key,) = {"loss", "tuning_loss"} & a.keys()
        assert b[key] == pytest.approx(a[key], rel=1e-5)
    assert files(two)["fitted_on.json"] == first["fitted_on.json"]
    assert stats["tokens"] == history(one)[-2]["tokens"]


def test_messages_come_back_and_ranks_are_told_their_share():
    report, lines = in_a_run(lambda c, launcher: launcher.launch(c, "rank_for_tests", {"do": "report"}, 2))
    assert report == {
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "-1,-1",
    }
    assert "a line from rank 0" in lines


@pytest.mark.parametrize(
    ("env", "first", "second"),
    [
        ({}, [0, 1], [0]),
        ({"CUDA_VISIBLE_DEVICES": "4,5,6"}, ["4", "5"], [0]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b"}, ["GPU-a", "GPU-b"], [0]),
        ({"DS_ACCELERATOR": "cpu"}, [-1, -1], [-1]),
        ({"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}, [-1, -1], [-1]),
    ],
)
def test_devices_are_those_that_the_user_lets_be_seen(tmp_path, env, first, second):
    for command in commands([Host("a", 2), Host("b", 1)], "module", tmp_path / "job.json", env, ["ssh"]):
        encoded = re.search(r"--world_info=([\w=-]+)", " ".join(command))
        assert encoded
        assert json.loads(base64.urlsafe_b64decode(encoded[1])) == {"a": first, "b": second}


def test_more_processes_than_devices_are_refused(tmp_path):
    with pytest.raises(TrainingError, match="2 processes are to run here, but 1 GPUs can be seen"):
        commands([Host("a", 2)], "module", tmp_path / "job.json", {"CUDA_VISIBLE_DEVICES": "3"}, ["ssh"])


OTHER_HOST = {
    "hosts": ["localhost slots=1", "elsewhere slots=1"],
    "remote_shell": [sys.executable, str(HERE / "shell_for_tests.py")],
}


def test_two_hosts_are_one_training():
    """The other host is this machine behind a stand-in for ssh, with an environment of its own."""
    job = {"do": "meet"}
    report, _ = in_a_run(lambda c, launcher: launcher.launch(c, "rank_for_tests", job, 2), **OTHER_HOST)
    assert report == {"ranks": ["0 of host 0", "1 of host 1"], "passed_on": ["", "nothing else"]}


def test_a_host_that_fails_ends_all(tmp_path):
    job = {"do": "crash", "pids": str(tmp_path)}
    with pytest.raises(TrainingError, match="RuntimeError: the reason in full"):
        in_a_run(lambda c, launcher: launcher.launch(c, "rank_for_tests", job, 2), **OTHER_HOST)
    wait_until(lambda: not still_there(tmp_path), seconds=10)


def test_hosts_are_filled_one_after_the_other():
    hosts = read_hosts(["# ours", "a slots=4", "", "b.cluster slots=2  # slow"], "hostfile")
    assert hosts == [Host("a", 4), Host("b.cluster", 2)]
    assert spread(hosts, 5) == [Host("a", 4), Host("b.cluster", 1)]
    assert spread(hosts, 3) == [Host("a", 3)]
    assert spread([], 3) == [Host("localhost", 3)]
    with pytest.raises(TrainingError, match="take 6 processes, the recipe asks for 7"):
        spread(hosts, 7)
    for bad in ("a", "a slots=0", "a; rm -rf / slots=1", "a slots=1\na slots=2"):
        with pytest.raises(TrainingError, match="no host"):
            read_hosts(bad.splitlines(), "hostfile")


def test_a_rank_that_crashes_ends_all_and_its_last_words_are_told(tmp_path):
    job = {"do": "crash", "pids": str(tmp_path)}
    with pytest.raises(TrainingError, match=r"ended with exit code 1[\s\S]*RuntimeError: the reason in full"):
        in_a_run(lambda context, launcher: launcher.launch(context, "rank_for_tests", job, 2))
    assert not still_there(tmp_path)


def test_a_rank_that_is_killed_ends_all(tmp_path):
    job = {"do": "be killed", "pids": str(tmp_path)}
    with pytest.raises(TrainingError, match=r"was killed by SIGKILL[\s\S]*ran out of memory"):
        in_a_run(lambda context, launcher: launcher.launch(context, "rank_for_tests", job, 2))
    assert not still_there(tmp_path)


def test_a_ranks_own_error_is_told_as_it_is(tmp_path):
    error_file = tmp_path / "job.error.json"
    error_file.write_text(json.dumps({"what": "What went wrong.", "where": "here", "do": "Do this."}))
    error = _failure("module", 1, error_file, deque(["noise"]))
    assert (error.what, error.where, error.do) == ("What went wrong.", "here", "Do this.")
    assert "killed by SIGKILL" in str(_failure("module", -9, tmp_path / "none", deque()))
    lost = _failure("module", 255, tmp_path / "none", deque(["ssh: connect to host b: No route to host"]))
    assert ("could not be reached" in lost.what, lost.where) == (True, "launcher.hosts")


@pytest.mark.parametrize("hosts", [1, 2])
def test_no_process_outlives_a_cancelled_or_a_killed_run(tmp_path, hosts):
    """SIGTERM is how Dagster cancels a run; SIGKILL leaves the run no chance to tidy up."""
    runs = {}
    for signum in (signal.SIGTERM, signal.SIGKILL):
        pids = tmp_path / signum.name
        pids.mkdir()
        command = [sys.executable, str(HERE / "drive_launcher.py"), str(pids), str(hosts)]
        runs[signum] = subprocess.Popen(command, env={**os.environ, "DAGSTER_HOME": ""}), pids
    for _, pids in runs.values():
        wait_until(lambda pids=pids: (pids / "0").exists() and (pids / "1").exists(), seconds=90)
        # Per host the launcher, and two ranks with a child each.
        assert len(still_there(pids)) == 4 + hosts
    for signum, (run, _) in runs.items():
        run.send_signal(signum)
    for run, pids in runs.values():
        wait_until(lambda pids=pids: not still_there(pids), seconds=15)
        run.wait(timeout=15)


def test_no_slot_outlives_a_cancelled_or_a_killed_run(tmp_path):
    """Of the pool: given back by the run itself, by the daemon, and by the next `ehr` command."""
    runs = {}
    for name in ("cancelled", "killed, daemon", "killed, ehr"):
        home, pids = tmp_path / name / "home", tmp_path / name / "pids"
        pids.mkdir(parents=True)
        settings = Settings(home=home)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EHR_HOME", "")
            patch.setenv("DAGSTER_HOME", "")
            prepare_home(settings)
            env = {**os.environ}
        command = [sys.executable, str(HERE / "drive_launcher.py"), str(pids), "1"]
        runs[name] = subprocess.Popen(command, env=env), pids, settings
    for name, (run, pids, settings) in runs.items():
        wait_until(lambda pids=pids: (pids / "0").exists() and (pids / "1").exists(), seconds=120)
        with dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance:
            assert slots(instance) == 1
            run.send_signal(signal.SIGTERM if name == "cancelled" else signal.SIGKILL)
            run.wait(timeout=15)
            ended = time.monotonic()
            if name == "killed, ehr":
                assert close_dead_runs(instance, settings)
            if name == "killed, daemon":
                (record,) = instance.get_run_records()
                instance.report_run_failed(record.dagster_run, "as the code server finds out at once")
            daemon = SimpleNamespace(instance=instance)
            assert not (name == "killed, ehr" and slots(instance))
            while slots(instance) or still_there(pids):
                list(execute_concurrency_slots_iteration(daemon, logging.getLogger("daemon")))
                assert time.monotonic() - ended < 15
                time.sleep(instance.run_monitoring_poll_interval_seconds)


def slots(instance: dg.DagsterInstance) -> int:
    return instance.event_log_storage.get_concurrency_info("gpu").active_slot_count
