"""Ranks on a real Ray cluster of two nodes: their meeting, their failures, and that none stays behind."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from launcher_support import files, in_a_run, still_there, wait_until
from ray_support import HERE, NODE, ray_cluster
from training_helpers import make_job

from ehr_assets.errors import LostNodeError, TrainingError
from resources import ray_hosts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes():
    with ray_cluster(2) as cluster:
        yield cluster


def placed(nodes, **more) -> dict:
    return {"ray_address": nodes.address, "slots": 1, **more}


def test_two_nodes_are_one_training(nodes):
    """Rank 0 alone speaks with Dagster."""
    job = {"do": "meet"}
    report, lines = in_a_run(
        lambda c, launcher: launcher.launch(c, "rank_for_tests", job, 2), **placed(nodes)
    )
    assert report == {"ranks": ["0 of host 0", "1 of host 1"], "passed_on": ["", "nothing else"]}
    assert any("on the Ray cluster" in line for line in lines)


def test_a_checkpoint_is_the_same_as_from_one_machine(nodes, tmp_path):
    settings = {"engine": {"micro_batch": 2, "num_processes": 2}, "optimizer": {"lr": 2e-3}}
    jobs = [make_job(tmp_path / name, {"train": 4, "tuning": 2}, **settings) for name in ("here", "there")]
    in_a_run(lambda c, launcher: launcher.train(c, jobs[0], 2))
    # One thread each, as here: how a sum is divided decides its last bits.
    in_a_run(lambda c, launcher: launcher.train(c, jobs[1], 2), **placed(nodes, cores=1))
    here, there = map(files, jobs)
    assert here.pop("timing.jsonl")
    assert there.pop("timing.jsonl")
    assert "predictor.safetensors" in here or "adapter_model.safetensors" in str(here.keys())
    assert here == there


def test_a_rank_that_fails_ends_all_and_its_last_words_are_told(nodes, tmp_path):
    job = {"do": "crash", "pids": str(tmp_path)}
    with pytest.raises(TrainingError, match=r"ended with exit code 1[\s\S]*RuntimeError: the reason in full"):
        in_a_run(lambda c, launcher: launcher.launch(c, "rank_for_tests", job, 2), **placed(nodes))
    wait_until(lambda: not still_there(tmp_path), seconds=120)


def test_a_lost_node_ends_all(nodes, tmp_path):
    """It is the newest: it has room for the two ranks that the others cannot both take."""
    lost = nodes.add_node(**{**NODE, "num_cpus": 3})
    ended = []

    def train():
        job = {"do": "hang", "pids": str(tmp_path)}
        with pytest.raises(LostNodeError, match="node of the cluster was lost") as e:
            in_a_run(
                lambda c, launcher: launcher.launch(c, "rank_for_tests", job, 4), **placed(nodes, slots=3)
            )
        ended.append(e.value)

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    wait_until(lambda: all((tmp_path / str(rank)).exists() for rank in range(4)), seconds=120)
    nodes.remove_node(lost, allow_graceful=False)
    thread.join(timeout=120)
    assert ended
    wait_until(lambda: not still_there(tmp_path), seconds=120)


def test_no_room_is_an_error(nodes, monkeypatch):
    monkeypatch.setattr(ray_hosts, "PLACE_SECONDS", 1.0)
    with pytest.raises(TrainingError, match="no 3 nodes with room for 2"):
        in_a_run(lambda c, launcher: launcher.launch(c, "rank_for_tests", {}, 6), **placed(nodes, slots=2))


def test_no_process_outlives_a_cancelled_or_a_killed_run(nodes, tmp_path):
    """SIGTERM is how Dagster cancels a run; SIGKILL leaves the run no chance to tidy up."""
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    runs = {}
    for signum in (signal.SIGTERM, signal.SIGKILL):
        pids = tmp_path / signum.name
        pids.mkdir()
        command = [sys.executable, str(HERE / "drive_launcher.py"), str(pids), nodes.address]
        env = {**os.environ, "DAGSTER_HOME": "", "PYTHONPATH": path}
        runs[signum] = subprocess.Popen(command, env=env), pids
    for _, pids in runs.values():
        wait_until(lambda pids=pids: (pids / "0").exists() and (pids / "1").exists(), seconds=120)
        # Per node the launcher, and a rank with a child.
        assert len(still_there(pids)) == 6
    for signum, (run, _) in runs.items():
        run.send_signal(signum)
    for run, pids in runs.values():
        wait_until(lambda pids=pids: not still_there(pids), seconds=120)
        run.wait(timeout=120)
