"""Exact resume: killed at any moment, a training ends with the bytes of one that was never interrupted."""

import errno
import itertools
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from forked_ranks import KillAtWrite, Ranks, empty, files_of, forked
from training_helpers import make_job

from ehr_assets.training import kept
from ehr_assets.training.history import HISTORY

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("on_the_cpu")]

SUBJECTS = {"train": 10, "tuning": 3}
BOTH = {
    "jepa": {"predictor": {"heads": 2}},
    "phases": [
        {"name": "sft", "objectives": {"sft": 1.0}, "steps": 3},
        {"name": "both", "objectives": {"sft": 1.0, "jepa": 1.0}, "steps": 5},
    ],
    "select": "best",
    "optimizer": {"lr": 3e-3},
}
ENGINE = {"micro_batch": 2, "keep": {"every": 2, "last": 2}}


def job_in(folder: Path, engine: dict | None = None, **changes) -> dict:
    job = make_job(folder, SUBJECTS, **{**BOTH, **changes}, engine=ENGINE | (engine or {}))
    return {**job, "work_dir": str(folder / "work")}


def uninterrupted(folder: Path, world: int = 1, **changes) -> dict[str, bytes]:
    job = job_in(folder, **changes)
    assert forked(job, world) == [0] * world
    return files_of(job)


def steps_kept(job: dict) -> list[int]:
    return [kept.step_of(folder) for folder in kept.promoted(Path(job["work_dir"]), kept.STEP)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    return uninterrupted(tmp_path_factory.mktemp("whole"))


class KillAtStep:
    """The process of one rank ends as if killed from outside, at the beginning of a step."""

    def __init__(self, step: int, rank: int = 0) -> None:
        self.step, self.rank = step, rank

    def __call__(self, rank: int) -> None:
        from ehr_assets.training import loop

        seed_step = loop.seed_step

        def seed_or_die(seed: int, step: int, micro: int, mine: int) -> None:
            if (step, rank) == (self.step, self.rank):
                self.happen()
            seed_step(seed, step, micro, mine)

        loop.seed_step = seed_or_die

    def happen(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class OutOfMemoryAtStep(KillAtStep):
    def happen(self) -> None:
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nand more")


class HangAtStep(KillAtStep):
    def happen(self) -> None:
        time.sleep(100)


class NaNAtStep(KillAtStep):
    """The third example of the step has a loss that is not finite."""

    def __call__(self, rank: int) -> None:
        from ehr_assets.training.engine import Engine

        micro_step, calls = Engine.micro_step, itertools.count()

        def micro_step_or_nan(engine, batch, target):
            losses = micro_step(engine, batch, target)
            step, micro = divmod(next(calls), engine.accumulate)
            if (step + 1, micro) == (self.step, 1):
                losses.by_example["sft"][0] = float("nan")
            return losses

        Engine.micro_step = micro_step_or_nan


class FullDiskAtState:
    """From the n-th file of tensors on, the disk is full; half of the file was written."""

    def __init__(self, n: int, error: Exception) -> None:
        self.n, self.error = n, error

    def __call__(self, rank: int) -> None:
        from ehr_assets.training import state

        save_file = state.save_file

        def save_or_fail(tensors, file):
            self.n -= 1
            if self.n <= 0:
                Path(file).write_bytes(b"half")
                raise self.error
            save_file(tensors, file)

        state.save_file = save_or_fail


class NoRoom:
    """A thousand bytes are free."""

    def __call__(self, rank: int) -> None:
        usage = shutil.disk_usage("/")._replace(free=1000)
        shutil.disk_usage = lambda path: usage


def test_killed_at_every_write_point(tmp_path):
    """One training, killed at its first write point, taken up and killed at the second, and so on.

    It is half as long as the others: two states, and a best one, have all kinds of write points.
    """
    short = [{**phase, "steps": 2} for phase in BOTH["phases"]]
    whole = uninterrupted(tmp_path / "whole", phases=short)
    job = job_in(tmp_path / "killed", phases=short)
    for n in itertools.count(1):
        if forked(job, 1, KillAtWrite(n)) == [0]:
            break
    assert n > 12, "one state has that many write points"
    assert files_of(job) == whole


def test_killed_at_random_moments(tmp_path, whole):
    """Some while after a random line of the history was written: in a step, a tuning pass, a state."""
    job, draw = job_in(tmp_path), random.Random(4)
    history = Path(job["work_dir"]) / HISTORY
    for line in sorted(draw.sample(range(2, 10), 4)):
        empty(job)
        ranks = Ranks(job)
        while not history.exists() or history.read_bytes().count(b"\n") < line:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.05))
        ranks.kill()
    assert 0 < max(steps_kept(job)) < 8
    assert forked(job) == [0]
    assert files_of(job) == whole


@pytest.mark.parametrize(
    ("world", "engine"),
    [
        (2, {}),
        (1, {"precision": "bf16"}),
        (2, {"zero_stage": 2, "precision": "bf16"}),
        (2, {"zero_stage": 3}),
    ],
)
def test_a_rank_that_dies_under_any_engine(tmp_path, world, engine):
    """The other ones end too, and say so; the re-run has the bytes of an uninterrupted one."""
    whole = uninterrupted(tmp_path / "whole", world, engine=engine)
    job = job_in(tmp_path / "killed", engine=engine)
    ranks = Ranks(job, world, KillAtStep(6, rank=world - 1))
    codes = ranks.wait()
    assert codes[-1] == -signal.SIGKILL
    if world > 1:
        assert ranks.error["lost"]
        assert "Run again: it goes on from step 4." in ranks.error["do"]
    assert steps_kept(job) == [4, 2]
    assert forked(job, world) == [0] * world
    assert files_of(job) == whole


def test_another_number_of_processes_is_noted_and_goes_on(tmp_path, whole):
    job = job_in(tmp_path)
    assert forked(job, 1, KillAtStep(5)) == [-signal.SIGKILL]
    assert forked(job, 2, KillAtStep(7)) != [0, 0]
    assert forked(job, 1) == [0]
    found = files_of(job)
    state = json.loads(found["resume/state.json"])
    assert state["resumed_on"] == ["step 4: processes 1 → 2", "step 6: processes 2 → 1"]
    before, after = (
        [json.loads(line) for line in files["history.jsonl"].splitlines()] for files in (whole, found)
    )
    assert before[:5] == after[:5], "four steps and a tuning pass were made under the same conditions"
    for a, b in zip(before, after, strict=True):
        assert a.keys() == b.keys()
        # Dropout differs between processes.
        assert b.get("loss", 0) == pytest.approx(a.get("loss", 0), rel=0.05)
    assert found["fitted_on.json"] == whole["fitted_on.json"]


@pytest.mark.parametrize("damage", ["torn", "altered", "unreadable"])
def test_a_damaged_state_is_not_trusted(tmp_path, whole, damage):
    job = job_in(tmp_path)
    assert forked(job, 1, KillAtStep(7)) == [-signal.SIGKILL]
    newest = Path(job["work_dir"]) / kept.folder_name(kept.STEP, 6)
    if damage == "torn":
        newest.rename(newest.with_name(newest.name + kept.PART))
    elif damage == "altered":
        file = next(newest.glob("*.safetensors"))
        file.write_bytes(file.read_bytes()[:-1] + b"!")
    else:
        (newest / kept.STATE).write_text("{")
    said: list[str] = []
    copy = shutil.copytree(job["work_dir"], tmp_path / "copy")
    folder, _ = kept.newest(Path(copy), said.append, best=False)
    assert kept.step_of(folder) == 4
    assert "removed" in said[0]
    assert forked(job) == [0]
    assert files_of(job) == whole


def test_a_state_whose_best_weights_are_damaged_is_not_trusted_either(tmp_path, whole):
    job = job_in(tmp_path)
    assert forked(job, 1, KillAtStep(8)) == [-signal.SIGKILL]
    work = Path(job["work_dir"])
    newest = max(steps_kept(job))
    told = json.loads((work / kept.folder_name(kept.STEP, newest) / kept.STATE).read_text())["best"][0]
    file = next((work / kept.folder_name(kept.BEST, told)).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert forked(job) == [0]
    assert files_of(job) == whole


def test_a_loss_that_is_not_finite_names_its_examples_and_keeps_the_last_state(tmp_path, whole):
    job = job_in(tmp_path)
    empty(job)
    ranks = Ranks(job, 1, NaNAtStep(5))
    assert ranks.wait() == [1]
    assert "not finite at step 5. Its examples: train record" in ranks.error["what"]
    assert ranks.error["what"].count("record") == 1
    assert ranks.error["do"].endswith("Run again: it goes on from step 4.")
    assert forked(job) == [0]
    assert files_of(job) == whole


def test_a_device_out_of_memory_says_what_to_change(tmp_path):
    job = job_in(tmp_path)
    ranks = Ranks(job, 1, OutOfMemoryAtStep(3))
    assert ranks.wait() == [1]
    assert ranks.error["what"].endswith("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert "Halve engine.micro_batch" in ranks.error["do"]
    assert ranks.error["do"].endswith("Run again: it goes on from step 2.")


def test_a_rank_that_hangs_is_not_waited_for_longer_than_the_recipe_says(tmp_path):
    job = job_in(tmp_path, engine={"timeout_minutes": 0.1})
    began = time.monotonic()
    ranks = Ranks(job, 2, HangAtStep(3, rank=1))
    codes = ranks.wait()
    assert codes[0] == 1
    assert "did not answer within 0.1 minutes" in ranks.error["what"]
    assert time.monotonic() - began < 60, "the other one sleeps longer"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_error_and_the_last_state_stays(tmp_path, whole, error):
    job = job_in(tmp_path)
    ranks = Ranks(job, 1, FullDiskAtState(3, error))
    assert ranks.wait() == [1]
    assert "The disk is full" in ranks.error["what"]
    assert "it goes on from step 4." in ranks.error["do"]
    assert not list(Path(job["work_dir"]).glob(f"*{kept.PART}"))
    assert forked(job) == [0]
    assert files_of(job) == whole


def test_a_disk_without_room_for_states_is_found_before_the_first_step(tmp_path):
    job = job_in(tmp_path)
    ranks = Ranks(job, 1, NoRoom())
    assert ranks.wait() == [1]
    assert "has no room" in ranks.error["what"]
    assert not (Path(job["work_dir"]) / "history.jsonl").exists()


def test_only_the_last_states_are_kept_and_the_best_weights_they_tell_of(tmp_path):
    job = job_in(tmp_path, phases=[{"name": "sft", "objectives": {"sft": 1.0}, "steps": 9}], jepa=None)
    assert forked(job) == [0]
    assert steps_kept(job) == [9, 8]
    states = [
        json.loads((folder / kept.STATE).read_text())
        for folder in kept.promoted(Path(job["work_dir"]), kept.STEP)
    ]
    best = {kept.step_of(folder) for folder in kept.promoted(Path(job["work_dir"]), kept.BEST)}
    assert best == {state["best"][0] for state in states}


def test_the_work_folder_of_another_training_is_refused(tmp_path):
    first = job_in(tmp_path / "first")
    assert forked(first, 1, KillAtStep(3)) == [-signal.SIGKILL]
    second = job_in(tmp_path / "second", optimizer={"lr": 1e-4}) | {"work_dir": first["work_dir"]}
    ranks = Ranks(second)
    assert ranks.wait() == [1]
    assert "another training" in ranks.error["what"]
