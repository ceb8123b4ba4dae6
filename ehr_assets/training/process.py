"""One process of a training: `python -m ehr_assets.training.process JOB.json`.

Started by `deepspeed.launcher.launch` it is one of several; started by hand it is the only one. The job file
is described in `training/job.py`, what comes before the first step in `start.py` and `prepare.py`, the
training itself is `loop.py`.
"""

import contextlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import distributed as dist

from ehr_assets.errors import EhrError, TrainingError
from ehr_assets.leakage.fits import fitted_on
from ehr_assets.lineage.workspace import sharing
from ehr_assets.models.backbone import causal_lm
from ehr_assets.private import keep_private
from ehr_assets.training import kept
from ehr_assets.training.checkpoint import save_checkpoint, trained_tensors
from ehr_assets.training.examples import trained_rows
from ehr_assets.training.hooks import Everyone
from ehr_assets.training.job import TrainingJob
from ehr_assets.training.loop import Progress, Training, train
from ehr_assets.training.model_card import write_card
from ehr_assets.training.prepare import prepare
from ehr_assets.training.sinks import Log, pipes_if_launched_by_dagster
from ehr_assets.training.start import bf16, join_ranks
from ehr_assets.training.state import States
from ehr_assets.training.watch import Watch
from ehr_assets.withheld import values_withheld


def run(job: TrainingJob, rank: int, world: int, watch: Watch) -> None:
    """Trains what is left of the recipe and, on rank 0, writes the checkpoint."""
    with said_clearly(job):
        training = prepare(job, rank, world)
        watch.say(
            f"{len(training.examples):,} examples per epoch of {len(training.examples.rows):,} subjects; "
            f"{world} process(es)"
        )
        states = States(job.work, training, watch.say)
        progress = states.resume()
        watch.take_up()
        watch.begin(job.recipe, causal_lm(training.model.backbone).config.to_dict(), world)
        progress = train(training, progress, Everyone(watch, states))
        states.select(progress)
        if rank == 0:
            write(job, training, progress, states, watch)
        dist.barrier()


def write(job: TrainingJob, training: Training, progress: Progress, states: States, watch: Watch) -> None:
    """The checkpoint, and the report to whoever launched the training."""
    recipe, examples = job.recipe, training.examples
    subjects = examples.subject_ids(trained_rows(examples, progress.step, recipe.batch))
    trainable = training.model.trainable()
    stats = {
        "steps": progress.step,
        "examples": progress.step * recipe.batch,
        "tokens": progress.tokens,
        "subjects": sum(map(len, subjects.values())),
        "subjects_too_short": examples.too_short,
        "tuning_subjects": len(training.tuning.rows),
        "first_loss": progress.first_loss,
        "last_loss": progress.last_loss,
        "tuning_loss": progress.tuning_loss,
        "tuning_losses": progress.tuning,
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "trainable_parameters": sum(p.numel() for p in trainable.values()),
        "precision": "bf16" if bf16(recipe) else "fp32",
        "predictor_parameters": sum(p.numel() for p in training.model.objectives.parameters()),
    }
    if progress.best:
        stats["best_step"], stats["best_loss"] = progress.best
        if recipe.select == "best":
            stats["selected_step"] = progress.best[0]
    if progress.resumed_on:
        stats["resumed_on"] = "; ".join(progress.resumed_on)
    out, fitted = Path(job.out_dir), fitted_on(subjects)
    save_checkpoint(
        out,
        training.model,
        Path(job.tokenizer),
        recipe,
        fitted,
        tensors=trained_tensors(training.model),
        target=progress.target.average if progress.target else None,
    )
    watch.finish(stats, progress.tokens)
    states.hand_over(out, recipe.engine.keep.in_checkpoint_gb * 1e9)
    write_card(out, recipe, fitted, stats, job.facts)  # reads the history, which is there by now
    if job.work_dir is None:
        shutil.rmtree(job.work)


def main(path: str) -> int:
    """Exit code 0, or 1 with the reason in `JOB.error.json` when a person can do something about it."""
    keep_private()  # another host's shell has a umask of its own
    job = TrainingJob.model_validate_json(Path(path).read_text(encoding="utf-8"))
    try:
        job.work.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(values_withheld())  # what a process prints goes into logs and errors
            stack.enter_context(sharing(job.work))
            rank, world = join_ranks(job.recipe.engine.timeout_minutes)
            pipes = stack.enter_context(pipes_if_launched_by_dagster()) if rank == 0 else None
            watch = Watch(job.work, Log(pipes), job.tracking if rank == 0 else None, job.log_every, rank == 0)
            run(job, rank, world, watch)
    except EhrError as e:
        return _give_up(path, e)
    dist.destroy_process_group()
    return 0


class LostError(TrainingError):
    """Another process is gone or silent. Why is in that one's last words, which the launcher adds."""


@contextlib.contextmanager
def said_clearly(job: TrainingJob) -> Iterator[None]:
    """Errors of this block as one that a person can act on, with what a re-run would go on from.

    Raises:
        TrainingError: in place of what can be told so; everything else as it is.
    """
    try:
        yield
    except TrainingError as e:
        if "goes on from" in (e.do or "") or not kept.promoted(job.work, kept.STEP):
            raise
        raise TrainingError(e.what, where=e.where, do=f"{e.do} {kept.promise(job.work)}") from e
    except torch.OutOfMemoryError as e:
        raise TrainingError(
            f"The device ran out of memory: {str(e).splitlines()[0]}",
            where="engine.micro_batch, data.max_tokens",
            do="Halve engine.micro_batch (the step stays the same), set engine.gradient_checkpointing, or "
            f"lower data.max_tokens. {kept.promise(job.work)}",
        ) from e
    except Exception as e:
        if kept.disk_full(e):
            raise kept.disk_is_full(job.work, "what the training writes") from e
        if isinstance(e, RuntimeError) and _LOST.search(str(e)):
            raise LostError(
                "Another process of the training ended, or did not answer within "
                f"{job.recipe.engine.timeout_minutes:g} minutes.",
                where="engine.num_processes, engine.timeout_minutes",
                do="Its last words, if it had any, are above; one that was killed had too little memory: "
                f"lower engine.micro_batch or engine.num_processes. {kept.promise(job.work)}",
            ) from e
        raise


# How gloo and NCCL say it (torch 2.13).
_LOST = re.compile(
    r"connection (was )?(closed|reset|refused)|broken pipe|timed? ?out|remote process exited|socket error",
    re.IGNORECASE,
)


def _give_up(path: str, e: EhrError) -> int:
    """Leaves the reason for the launcher. Several ranks may have the same; the first one is enough."""
    print(e, file=sys.stderr, flush=True)
    with (
        contextlib.suppress(FileExistsError),
        Path(path).with_suffix(".error.json").open("x", encoding="utf-8") as f,
    ):
        json.dump({"what": e.what, "where": e.where, "do": e.do, "lost": isinstance(e, LostError)}, f)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
