"""Exact resume: all that later steps depend on, kept every so many steps, and taken up again.

That is the trained parameters, their moments, the target encoder's average, and how far the training is.
Nothing of it depends on the number of processes or on how DeepSpeed lays things out: tensors are kept whole,
by name. No random state is among it, since examples and dropout are functions of the step's number.

On a CPU and under the same conditions (`_conditions`), a training that was taken up ends with the same bytes
as one that was not interrupted. Under others sums are rounded in another order: it is taken up with a note.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch import distributed as dist

from ehr_assets.errors import TrainingError
from ehr_assets.lineage.hashing import file_sha256
from ehr_assets.models.target import TargetEncoder
from ehr_assets.training import kept
from ehr_assets.training.engine import AVERAGE, Engine
from ehr_assets.training.history import HISTORY, TIMING
from ehr_assets.training.hooks import Hooks
from ehr_assets.training.loop import Progress, Training

SCALARS = ("step", "tokens", "first_loss", "last_loss", "tuning", "tuning_loss", "best", "resumed_on")
FILE_BYTES = 1 << 30
"""Tensors are gathered up to about this size before they go into a file: it bounds a process's memory."""


class States(Hooks):
    """The states of one training in its work folder; a hook of the loop. Every process has one.

    Args:
        work: the work folder, on storage that all processes share.
        say: where notes go.

    Raises:
        TrainingError: the folder is another training's, or has no room for this one's states.
    """

    def __init__(self, work: Path, training: Training, say: Callable[[str], None]) -> None:
        self.work, self._training, self._say = work, training, say
        self._steps = sum(training.lengths())
        if training.rank == 0:
            self._has_room()

    def on_state(self, progress: Progress, engine: Engine, *, best: bool) -> None:
        """Keeps the state when its step has come, and the weights where the recipe wants the best."""
        recipe = self._training.recipe
        due = progress.step % recipe.engine.keep.every == 0 or progress.step == self._steps
        best = best and recipe.select == "best"
        if best:  # before the state that tells of it
            self._keep(kept.BEST, progress, engine)
        if due:
            self._keep(kept.STEP, progress, engine)
        if (best or due) and self._training.rank == 0:
            kept.prune(self.work, recipe.engine.keep.last, progress.best[0] if progress.best else None)

    def resume(self) -> Progress:
        """Puts the newest whole state into the model and says how far the training is; at its start without
        one. The history is cut to what the state knows."""
        found: list[Any] = [None]
        if self._training.rank == 0:
            found = [kept.newest(self.work, self._say, best=self._training.recipe.select == "best")]
            length = found[0][1]["history_bytes"] if found[0] else 0
            kept.cut_to(self.work / HISTORY, length)
            kept.end_with_a_line(self.work / TIMING)
        dist.broadcast_object_list(found)
        if found[0] is None:
            return Progress()
        folder, facts = found[0]
        return self._taken_up(folder, facts)

    def select(self, progress: Progress) -> None:
        """At the end of a training: the best weights into the model, where the recipe wants them."""
        if self._training.recipe.select != "best" or progress.best is None:
            return
        folder = self.work / kept.folder_name(kept.BEST, progress.best[0])
        facts: list[Any] = [kept.facts_of(folder) if self._training.rank == 0 else None]
        dist.broadcast_object_list(facts)
        if facts[0] is None:
            raise TrainingError(
                "The weights of the best tuning loss were damaged after they were kept.",
                where=str(folder),
                do="Remove the work folder above and run again: the training starts anew.",
            )
        self._put(_Kept(folder, facts[0]["files"]), progress)

    def hand_over(self, out_dir: Path, largest: float) -> None:
        """The history, and the last state if it has at most `largest` bytes, into the checkpoint folder."""
        for name in (HISTORY, TIMING):
            shutil.copyfile(self.work / name, out_dir / name)
        last = kept.promoted(self.work, kept.STEP)[0]
        size = sum(f.stat().st_size for f in last.iterdir())
        if size <= largest:
            shutil.copytree(last, out_dir / "resume", copy_function=_linked)
        else:
            self._say(f"The last state ({size / 1e9:,.1f} GB) is not put into the checkpoint (engine.keep).")

    def _taken_up(self, folder: Path, facts: dict[str, Any]) -> Progress:
        training = self._training
        if facts["training"] != training.recipe.training_hash():
            raise TrainingError(
                "The work folder holds the states of another training.",
                where=str(folder),
                do="Give this training a folder of its own, or remove that one.",
            )
        progress = Progress(**{name: facts[name] for name in SCALARS})
        progress.best = tuple(facts["best"]) if facts["best"] else None
        tensors = _Kept(folder, facts["files"])
        self._put(tensors, progress)
        ends = [sum(training.lengths()[: n + 1]) for n in range(len(training.recipe.phases))]
        if progress.step not in ends:
            progress.moments = tensors
        self._say(f"Taken up after step {progress.step} of {self._steps}.")
        then, now = facts["conditions"], _conditions(training)
        other = [f"{name} {then.get(name)} → {now[name]}" for name in now if then.get(name) != now[name]]
        if other:
            note = f"step {progress.step}: {', '.join(other)}"
            progress.resumed_on.append(note)
            self._say(
                f"Other conditions than before ({note}): examples and steps stay the same, but the result "
                "may differ in rounding from that of an uninterrupted training."
            )
        return progress

    def _put(self, tensors: Mapping[str, Tensor], progress: Progress) -> None:
        """Kept values into the model and the target encoder. There is no engine yet, or no more."""
        model, jepa = self._training.model, self._training.recipe.jepa
        with torch.no_grad():
            for name, p in model.trainable().items():
                p.copy_(tensors[name])
        averages = {name: f"{AVERAGE}/{name}" for name in model.trained_encoder()}
        if jepa and all(key in tensors for key in averages.values()):
            progress.target = TargetEncoder(model.backbone, model.trained_encoder(), jepa.momentum)
            progress.target.load({name: tensors[key] for name, key in averages.items()})

    def _keep(self, kind: str, progress: Progress, engine: Engine) -> None:
        name = kept.folder_name(kind, progress.step)
        try:
            self._write(name, progress, engine, moments=kind == kept.STEP)
        except Exception as e:
            if not kept.disk_full(e):
                raise
            shutil.rmtree(self.work / (name + kept.PART), ignore_errors=True)
            raise kept.disk_is_full(self.work, f"the state of step {progress.step}") from e

    def _write(self, name: str, progress: Progress, engine: Engine, *, moments: bool) -> None:
        training = self._training
        part = self.work / (name + kept.PART)
        if training.rank == 0:
            kept.begin(self.work, name)
        dist.barrier()
        # Every process gathers each tensor and writes its share of them.
        files: dict[str, str] = {}
        waiting: dict[str, Tensor] = {}
        for n, (key, tensor) in enumerate(engine.tensors(progress.target, moments=moments)):
            if n % training.world == training.rank:
                waiting[key] = tensor.detach().to("cpu", copy=True).contiguous()
            if sum(t.nbytes for t in waiting.values()) > FILE_BYTES:
                files |= _saved(part, training.rank, len(files), waiting)
                waiting = {}
        if waiting:
            files |= _saved(part, training.rank, len(files), waiting)
        gathered: list[Any] = [None] * training.world
        dist.all_gather_object(gathered, files)
        if training.rank == 0:
            facts = {scalar: getattr(progress, scalar) for scalar in SCALARS}
            facts |= {"training": training.recipe.training_hash(), "conditions": _conditions(training)}
            facts |= {"history_bytes": _synced_size(self.work / HISTORY)}
            kept.promote(part, {**facts, "files": {k: v for some in gathered for k, v in some.items()}})
        dist.barrier()

    def _has_room(self) -> None:
        """Refuses early what a full disk would end after hours."""
        recipe, trained = self._training.recipe, self._training.model.trainable().values()
        numbers = 4 * sum(p.numel() for p in trained)
        weights = numbers * (2 if recipe.jepa else 1)  # and averages
        state = weights + 2 * numbers  # and moments
        wanted = state * (recipe.engine.keep.last + 1) + (2 * weights if recipe.select == "best" else 0)
        there = sum(f.stat().st_size for f in self.work.glob("*-*/*.safetensors"))
        free, needed = shutil.disk_usage(self.work).free, max(wanted - there, state)
        if free < needed:
            raise TrainingError(
                f"The disk has no room for this training's states: {needed / 1e6:,.0f} MB are needed, "
                f"{free / 1e6:,.0f} MB are free.",
                where=str(self.work),
                do="Free space, or lower engine.keep.last.",
            )


def _conditions(training: Training) -> dict[str, Any]:
    """What rounding may depend on besides the recipe."""
    engine = training.recipe.engine
    names = ("zero_stage", "micro_batch", "attention", "gradient_checkpointing", "compile")
    return {
        "processes": training.world,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        **{name: getattr(engine, name) for name in names},
    }


class _Kept(Mapping[str, Tensor]):
    """The tensors of a state, read when they are asked for."""

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        self._opened = [safe_open(folder / name, framework="pt") for name in sorted(files)]
        self._where = {key: opened for opened in self._opened for key in opened.keys()}  # noqa: SIM118

    def __getitem__(self, key: str) -> Tensor:
        return self._where[key].get_tensor(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def _saved(part: Path, rank: int, n: int, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Writes tensors into a file of a rank and gives its name and sha256."""
    file = part / f"tensors-{rank:04}-{n:04}.safetensors"
    save_file(tensors, file)
    kept.sync(file)
    return {file.name: file_sha256(file)}


def _synced_size(file: Path) -> int:
    kept.sync(file)
    return file.stat().st_size


def _linked(source: str, target: str) -> None:
    """A copy that takes no room where the file system can do that."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
