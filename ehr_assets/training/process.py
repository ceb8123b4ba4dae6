"""One rank of a training run: `python -m ehr_assets.training.process JOB.json`.

Read `train` for the whole of it. Started by `deepspeed.launcher.launch` it is one of several ranks; started
by hand it is the only one. The job file is described in `training/job.py`, what comes before the first step
in `training/start.py`.
"""

import contextlib
import itertools
import json
import math
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from ehr_assets.corpora.reader import TokenCorpus
from ehr_assets.errors import EhrError, TrainingError
from ehr_assets.leakage.fits import fitted_on
from ehr_assets.models.objectives import Trained
from ehr_assets.training.checkpoint import save_checkpoint
from ehr_assets.training.examples import (
    FIRST_EPOCH,
    TUNING_EPOCH,
    Examples,
    Step,
    collate,
)
from ehr_assets.training.job import TrainingJob
from ehr_assets.training.recipe import OptimizerSpec
from ehr_assets.training.start import device, join_ranks, load_tokenizer, prepare_model, start_engine
from ehr_assets.training.watch import Watch, pipes_if_launched_by_dagster


def train(job: TrainingJob, rank: int, world: int, watch: Watch) -> None:
    """Trains the recipe's phases and, on rank 0, writes the checkpoint."""
    recipe = job.recipe
    seed_everything(recipe.seed)
    tokenizer = load_tokenizer(job.tokenizer)
    if world != recipe.engine.num_processes:
        raise TrainingError(
            f"The recipe asks for {recipe.engine.num_processes} process(es), but {world} were started.",
            where="engine.num_processes",
            do="Launch as many as the recipe says.",
        )
    corpus = TokenCorpus(Path(job.token_corpus))
    examples = Examples(corpus, "train", recipe.data, recipe.data.examples_per_subject, len(tokenizer))
    tuning = Examples(corpus, "tuning", recipe.data, 1, len(tokenizer))
    if not examples.rows:
        raise TrainingError(
            f"None of the {examples.too_short} train records can be cut into context and continuation.",
            where=f"corpus {recipe.corpus}, data.min_context_tokens: {recipe.data.min_context_tokens}",
            do="Check the token corpus, or lower data.min_context_tokens.",
        )

    model = prepare_model(job, tokenizer, save_to=Path(job.out_dir) if rank == 0 else None)
    names = {name for phase in recipe.phases for name in phase.objectives}
    engine = start_engine(Trained(model, names), recipe)
    seed_everything(recipe.seed + rank)  # dropout differs between ranks
    pad = tokenizer.pad_token_id or 0
    watch.say(
        f"{len(examples):,} examples per epoch of {len(examples.rows):,} subjects; "
        f"{world} process(es) on {device()}"
    )

    step = tokens = seen = 0
    first_loss = loss = tuning_loss = None
    trained_rows: set[int] = set()
    size = recipe.engine.examples_per_step
    per_epoch = math.ceil(len(examples) / size)
    stream = steps_forever(examples, size)
    for phase in recipe.phases:
        steps = phase.length(len(examples), size)
        for i in range(1, steps + 1):
            lr = learning_rate(i, steps, recipe.optimizer)
            for group in engine.optimizer.param_groups:
                group["lr"] = lr
            drawn = next(stream)
            sums: dict[str, torch.Tensor] = {}
            for part in drawn.share(recipe.engine.micro_batch, rank, world):
                total, losses = engine(collate(part, pad).to(device()), phase.objectives)
                engine.backward(total)  # scales by 1 / gradient_accumulation
                engine.step()  # moves the weights at the last of them
                for name, value in {"loss": total.detach(), **losses}.items():
                    sums[name] = sums.get(name, 0) + value.float()
            means = mean_over_ranks(sums, recipe.engine.gradient_accumulation, world)
            step, loss = step + 1, means.pop("loss")
            tokens, seen = tokens + drawn.tokens, seen + size
            trained_rows.update(drawn.rows)
            first_loss = loss if first_loss is None else first_loss
            grad_norm = float(engine.get_global_grad_norm())
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                raise _not_finite(step, phase.name, "loss" if not math.isfinite(loss) else "gradient")
            row = {"step": step, "phase": phase.name, "loss": loss, "lr": lr, "grad_norm": grad_norm}
            watch.step({**row, "tokens": tokens, "losses": means}, i, steps)
            if tuning.rows and (i % per_epoch == 0 or i == steps):
                tuning_loss = loss_on(engine, tuning, phase.objectives, pad, rank, world)
                if not math.isfinite(tuning_loss):
                    raise _not_finite(step, phase.name, "tuning loss")
                watch.tuning(step, phase.name, tuning_loss)

    if rank == 0:
        subjects = examples.subject_ids(sorted(trained_rows))
        stats = {
            "steps": step,
            "examples": seen,
            "tokens": tokens,
            "subjects": len(set(subjects)),
            "subjects_too_short": examples.too_short,
            "tuning_subjects": len(tuning.rows),
            "first_loss": first_loss,
            "last_loss": loss,
            "tuning_loss": tuning_loss,
            "parameters": sum(p.numel() for p in model.parameters()),
            "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        }
        seen_by = fitted_on(subjects)
        save_checkpoint(Path(job.out_dir), model, Path(job.tokenizer), recipe, seen_by, stats, job.facts)
        watch.finish(stats, tokens)
    dist.barrier()


def learning_rate(i: int, steps: int, spec: OptimizerSpec) -> float:
    """Step i of 1..steps: linear warmup over `warmup_fraction`, then a cosine to zero (SMB Table 7)."""
    warmup = max(1, round(spec.warmup_fraction * steps))
    if i <= warmup:
        return spec.lr * i / warmup
    return spec.lr * 0.5 * (1 + math.cos(math.pi * (i - warmup) / (steps - warmup + 1)))


def steps_forever(examples: Examples, size: int) -> Iterator[Step]:
    """Epoch after epoch."""
    for epoch in itertools.count(FIRST_EPOCH):
        yield from examples.steps(epoch, size)


def loss_on(
    engine: Any, examples: Examples, weights: Mapping[str, float], pad: int, rank: int, world: int
) -> float:
    """The mean loss over one example of every subject, the same ones each time; without dropout."""
    engine.eval()
    total = torch.zeros(2, device=device(), dtype=torch.float64)
    pairs = [(row, 0) for row in examples.rows][rank::world]
    micro = engine.train_micro_batch_size_per_gpu()
    with torch.no_grad():
        for start in range(0, len(pairs), micro):
            some = [examples.example(row, TUNING_EPOCH, k) for row, k in pairs[start : start + micro]]
            loss, _ = engine.module(collate(some, pad).to(device()), weights)
            total += torch.tensor([float(loss) * len(some), len(some)], device=device(), dtype=torch.float64)
    dist.all_reduce(total)
    engine.train()
    return float(total[0] / total[1])


def mean_over_ranks(sums: dict[str, torch.Tensor], accumulate: int, world: int) -> dict[str, float]:
    """Sums over this rank's micro-batches to means over all ranks' micro-batches, in one exchange."""
    values = torch.stack(list(sums.values())) / (accumulate * world)
    dist.all_reduce(values)
    return dict(zip(sums, values.tolist(), strict=True))


def seed_everything(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)


def main(path: str) -> int:
    """Exit code 0, or 1 with the reason in `JOB.error.json` when a person can do something about it."""
    job = TrainingJob.model_validate_json(Path(path).read_text(encoding="utf-8"))
    try:
        rank, world = join_ranks()
        with contextlib.ExitStack() as stack:
            pipes = stack.enter_context(pipes_if_launched_by_dagster()) if rank == 0 else None
            watch = Watch(
                Path(job.out_dir), pipes, job.tracking if rank == 0 else None, job.log_every, rank == 0
            )
            train(job, rank, world, watch)
    except torch.OutOfMemoryError as e:
        return _give_up(path, _out_of_memory(e))
    except EhrError as e:
        return _give_up(path, e)
    dist.destroy_process_group()
    return 0


def _give_up(path: str, e: EhrError) -> int:
    """Leaves the reason for the launcher. Several ranks may have the same; the first one is enough."""
    print(e, file=sys.stderr, flush=True)
    with (
        contextlib.suppress(FileExistsError),
        Path(path).with_suffix(".error.json").open("x", encoding="utf-8") as f,
    ):
        json.dump({"what": e.what, "where": e.where, "do": e.do}, f)
    return 1


def _out_of_memory(e: Exception) -> TrainingError:
    return TrainingError(
        f"The device ran out of memory: {str(e).splitlines()[0]}",
        where="engine.micro_batch, data.max_tokens",
        do="Halve engine.micro_batch and double engine.gradient_accumulation, or lower data.max_tokens.",
    )


def _not_finite(step: int, phase: str, what: str) -> TrainingError:
    return TrainingError(
        f"The {what} is not finite at step {step}.",
        where=f"phase {phase}",
        do="Lower optimizer.lr, or lengthen optimizer.warmup_fraction. No checkpoint was written.",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
