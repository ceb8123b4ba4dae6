"""Exact resume: killed at any moment, a training ends with the bytes of one that was never interrupted."""

import itertools
import random
import time
from pathlib import Path

import pytest
from forked_ranks import KillAtWrite, Ranks, empty, files_of, forked
from training_helpers import make_job

pytestmark = pytest.mark.slow

SUBJECTS = {"train": 10, "tuning": 3}
BOTH = {
    "jepa": {"predictor": {"heads": 2}},
    "phases": [
        {"name": "sft", "objectives": {"sft": 1.0}, "steps": 3},
        {"name": "both", "objectives": {"sft": 1.0, "jepa": 1.0}, "steps": 5},
    ],
    "select": "best",
    "engine": {"micro_batch": 2, "keep": {"every": 2, "last": 2}},
}


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", "cpu")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def job_in(folder: Path, **changes) -> dict:
    job = make_job(folder, SUBJECTS, **{**BOTH, **changes})
    return {**job, "work_dir": str(folder / "work")}


def uninterrupted(folder: Path, world: int, **changes) -> dict[str, bytes]:
    job = job_in(folder, **changes)
    assert forked(job, world) == [0] * world
    return files_of(job)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    return uninterrupted(tmp_path_factory.mktemp("whole"), 1)


def test_killed_at_every_write_point(tmp_path, whole):
    """One training, killed at its first write point, taken up and killed at the second, and so on."""
    job = job_in(tmp_path)
    for n in itertools.count(1):
        if forked(job, 1, KillAtWrite(n)) == [0]:
            break
    assert n > 12, "one state has that many write points"
    assert files_of(job) == whole


def test_killed_at_random_moments(tmp_path, whole):
    job, draw = job_in(tmp_path), random.Random(4)
    for _ in range(4):
        empty(job)
        ranks = Ranks(job)
        time.sleep(draw.uniform(0.3, 2.0))
        ranks.kill()
    assert forked(job) == [0]
    assert files_of(job) == whole
