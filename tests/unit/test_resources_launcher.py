"""The launcher: real ranks under a real Dagster run, their failures, and that none of them stays behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from mlflow import MlflowClient
from training_helpers import make_job

from ehr_assets.errors import TrainingError
from resources.launcher import DeepSpeedLauncher, _failure
from resources.tracking import MlflowTracking

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
SUBJECTS = {"train": 12, "tuning": 3}


@pytest.fixture(autouse=True)
def rank_module_can_be_found(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))


def in_a_run(body) -> tuple[Any, list[str]]:
    """What `body(context, launcher)` returned inside an asset of a Dagster run, and the run's log lines."""
    got = []

    @dg.asset
    def trained(context: dg.AssetExecutionContext, launcher: DeepSpeedLauncher) -> dg.MaterializeResult:
        got.append(body(context, launcher))
        return dg.MaterializeResult()

    with dg.DagsterInstance.ephemeral() as instance:
        launcher = DeepSpeedLauncher(cores=2, grace_seconds=1.0)
        run = dg.materialize([trained], instance=instance, resources={"launcher": launcher})
        return got[0], [entry.user_message for entry in instance.all_logs(run.run_id)]


def history(job: dict) -> list[dict]:
    return [json.loads(line) for line in (Path(job["out_dir"]) / "history.jsonl").read_text().splitlines()]


def files(job: dict) -> dict[str, bytes]:
    out = Path(job["out_dir"])
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


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
    adapter = {"r": 8, "dropout": 0.0, "trainable_tokens": "all"}
    one = make_job(tmp_path / "one", SUBJECTS, adapter=adapter) | {
        "tracking": {"uri": tracking.uri, "run_id": run_id}
    }
    again = make_job(tmp_path / "again", SUBJECTS, adapter=adapter)
    alone = by_hand(again, tmp_path, threads=2)
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
    two = make_job(tmp_path / "two", SUBJECTS, adapter=adapter, engine=engine)
    stats, _ = in_a_run(lambda context, launcher: launcher.train(context, two, 2))
    # Rounding differs and grows with every step of this tiny, fast-moving model.
    for a, b in zip(history(one)[:5], history(two)[:5], strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
    assert files(two)["fitted_on.json"] == first["fitted_on.json"]
    assert stats["tokens"] == history(one)[-2]["tokens"]


def test_messages_come_back_and_ranks_are_told_their_share():
    report, lines = in_a_run(lambda c, launcher: launcher.launch(c, "rank_for_tests", {"do": "report"}, 2))
    assert report == {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    assert "a line from rank 0" in lines


def test_a_rank_that_crashes_ends_all_and_its_last_words_are_told(tmp_path):
    job = {"do": "crash", "pids": str(tmp_path)}
    with pytest.raises(TrainingError, match=r"ended with exit code 1[\s\S]*RuntimeError: the reason in full"):
        in_a_run(lambda context, launcher: launcher.launch(context, "rank_for_tests", job, 2))
    assert not still_there(tmp_path)


def test_a_ranks_own_error_is_told_as_it_is(tmp_path):
    error_file = tmp_path / "job.error.json"
    error_file.write_text(json.dumps({"what": "What went wrong.", "where": "here", "do": "Do this."}))
    error = _failure("module", 1, error_file, deque(["noise"]))
    assert (error.what, error.where, error.do) == ("What went wrong.", "here", "Do this.")
    assert "killed by SIGKILL" in str(_failure("module", -9, tmp_path / "none", deque()))


def test_no_process_outlives_a_cancelled_or_a_killed_run(tmp_path):
    """SIGTERM is how Dagster cancels a run; SIGKILL leaves the run no chance to tidy up."""
    runs = {}
    for signum in (signal.SIGTERM, signal.SIGKILL):
        pids = tmp_path / signum.name
        pids.mkdir()
        runs[signum] = subprocess.Popen([sys.executable, str(HERE / "drive_launcher.py"), str(pids)]), pids
    for _, pids in runs.values():
        wait_until(lambda pids=pids: (pids / "0").exists() and (pids / "1").exists(), seconds=90)
        assert len(still_there(pids)) == 5  # the launcher, two ranks, their two children
    for signum, (run, _) in runs.items():
        run.send_signal(signum)
    for run, pids in runs.values():
        wait_until(lambda pids=pids: not still_there(pids), seconds=15)
        run.wait(timeout=15)


def still_there(pids: Path) -> set[int]:
    """Which of the processes that noted their ids in the folder are alive."""
    noted = {int(pid) for file in pids.iterdir() if not file.suffix for pid in file.read_text().split()}
    return {p for p in noted if psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE}


def wait_until(condition, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)
