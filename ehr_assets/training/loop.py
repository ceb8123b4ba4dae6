"""The training loop: phases, steps, tuning losses. What is watched and kept is told to hooks.

With `prepare.py`, and what both import, it decides what is learnt: a checkpoint's code version is made of
these files. Where figures go (`watch.py`), what is kept of a state and put back (`state.py`: tests hold it to
the same bytes) and what is written at the end (`process.py`) are not among them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from ehr_assets.errors import TrainingError
from ehr_assets.models.statistics import TargetStatistics
from ehr_assets.models.target import TargetEncoder
from ehr_assets.models.world_model import WorldModel
from ehr_assets.training.collate import collate
from ehr_assets.training.cutting import ExampleId
from ehr_assets.training.engine import Engine, seed_step
from ehr_assets.training.examples import TUNING_EPOCH, Examples
from ehr_assets.training.hooks import Hooks
from ehr_assets.training.recipe import RecipeSpec
from ehr_assets.training.recipe_parts import PhaseSpec, ScheduleSpec
from ehr_assets.training.start import device


@dataclass(frozen=True)
class Training:
    """What one process trains with."""

    recipe: RecipeSpec
    model: WorldModel
    examples: Examples
    tuning: Examples
    rank: int
    world: int

    def __post_init__(self) -> None:
        self.recipe.engine.shared(self.recipe.batch, self.world)

    def lengths(self) -> list[int]:
        """Optimizer steps of each phase."""
        return [phase.length(len(self.examples), self.recipe.batch) for phase in self.recipe.phases]


@dataclass
class Progress:
    """How far a training is: all that a later process needs to know besides weights and moments.

    Attributes:
        step: optimizer steps made, over all phases.
        tokens: of the examples so far, without ỹ.
        first_loss, last_loss: weighted sums of the first and last step.
        tuning, tuning_loss: the last tuning losses by objective, and their weighted sum.
        best: (step, tuning loss) of the best one in the last phase.
        target: the moving average; from the first phase on that needs one.
        moments: the optimizer's state (as in `Engine.tensors`), when a phase is taken up in its middle.
        resumed_on: where the training was taken up under other conditions than before, in words.
    """

    step: int = 0
    tokens: int = 0
    first_loss: float | None = None
    last_loss: float | None = None
    tuning: dict[str, float] = field(default_factory=dict)
    tuning_loss: float | None = None
    best: tuple[int, float] | None = None
    target: TargetEncoder | None = None
    moments: Mapping[str, Tensor] | None = None
    resumed_on: list[str] = field(default_factory=list)


def train(training: Training, progress: Progress, hooks: Hooks) -> Progress:
    """Trains what is left of the recipe's phases.

    Raises:
        TrainingError: a loss or a gradient is not finite. The weights are then as that step left them.
    """
    recipe, done = training.recipe, 0
    for phase, steps in zip(recipe.phases, training.lengths(), strict=True):
        if progress.step < done + steps:
            _train_phase(training, phase, done, steps, progress, hooks)
        done += steps
    return progress


def _train_phase(
    training: Training, phase: PhaseSpec, before: int, steps: int, progress: Progress, hooks: Hooks
) -> None:
    recipe, model = training.recipe, training.model
    hides = model.hides(phase.objectives)
    engine = Engine(model, recipe, phase, training.world)
    if progress.target:
        engine.adopt(progress.target)
    elif hides:
        assert recipe.jepa
        progress.target = TargetEncoder(model.backbone, model.trained_encoder(), recipe.jepa.momentum)
    if progress.moments is not None:
        engine.restore(progress.moments, progress.step - before)
        progress.moments = None
    target = progress.target if hides else None
    per_epoch = training.examples.steps_per_epoch(recipe.batch)
    for i in range(progress.step - before + 1, steps + 1):
        lr = learning_rate(i, steps, recipe.optimizer.lr, recipe.schedule_of(phase))
        engine.set_lr(lr)
        step = before + i
        row = {"step": step, "phase": phase.name}
        row |= _step(training, phase, engine, target, step)
        if progress.target:
            progress.target.update()
        progress.step, progress.tokens = step, progress.tokens + row.pop("tokens")
        progress.last_loss = row["loss"]
        progress.first_loss = row["loss"] if progress.first_loss is None else progress.first_loss
        hooks.on_step({**row, "lr": lr, "tokens": progress.tokens}, i, steps)
        best = False
        if training.tuning.rows and (recipe.tuning.due(i, per_epoch) or i == steps):
            best = _tune(training, phase, engine, target, progress, hooks)
        hooks.on_state(progress, engine, best=best)
    engine.close(progress.target)


def _tune(
    training: Training,
    phase: PhaseSpec,
    engine: Engine,
    target: TargetEncoder | None,
    progress: Progress,
    hooks: Hooks,
) -> bool:
    """A tuning pass; whether its loss is the best so far of the last phase."""
    found = tuning_losses(training, phase, engine, target)
    loss = found["tuning_loss"]
    progress.tuning, progress.tuning_loss = found["losses"], loss
    if not math.isfinite(loss):
        raise _not_finite(progress.step, phase.name, "tuning loss", [])
    hooks.on_tuning({"step": progress.step, "phase": phase.name, **found})
    if phase is not training.recipe.phases[-1] or (progress.best and loss >= progress.best[1]):
        return False
    progress.best = (progress.step, loss)
    return True


def _step(
    training: Training, phase: PhaseSpec, engine: Engine, target: TargetEncoder | None, step: int
) -> dict[str, Any]:
    """One optimizer step on all processes: loss, losses, grad_norm, tokens.

    Raises:
        TrainingError: on all processes, when one of them met a loss that is not finite.
    """
    recipe = training.recipe
    mine = training.examples.share(step, recipe.batch, training.rank, training.world)
    names = list(phase.weighed)
    sums = torch.zeros(len(names) + 2, dtype=torch.float64, device=device())  # losses, tokens, not finite
    bad: list[ExampleId] = []
    for m in range(engine.accumulate):
        ids = mine[m * engine.micro : (m + 1) * engine.micro]
        drawn = [training.examples.example(which, recipe.jepa if target else None) for which in ids]
        seed_step(recipe.seed, step, m, training.rank)
        batch = collate(drawn).to(device())
        losses = engine.micro_step(batch, target).by_example
        for n, name in enumerate(names):
            sums[n] += losses[name].double().sum()
            bad += [ids[e] for e in (~losses[name].isfinite()).nonzero().flatten().tolist()]
        sums[-2] += sum(len(e.token_ids) for e in drawn)
    sums[-1] = len(bad)
    dist.all_reduce(sums)
    *totals, tokens, n_bad = sums.tolist()
    if n_bad:
        raise _not_finite(step, phase.name, "loss", _gathered(bad, training.world))
    grad_norm = engine.grad_norm()
    if not math.isfinite(grad_norm):
        raise _not_finite(step, phase.name, "gradient", _gathered(mine, training.world))
    losses = {name: total / recipe.batch for name, total in zip(names, totals, strict=True)}
    loss = sum(phase.objectives[name] * value for name, value in losses.items())
    return {"loss": loss, "losses": losses, "grad_norm": grad_norm, "tokens": int(tokens)}


def tuning_losses(
    training: Training, phase: PhaseSpec, engine: Engine, target: TargetEncoder | None
) -> dict[str, Any]:
    """Mean losses over one example of each of `tuning.examples` subjects, the same ones every time.

    Without dropout.

    Returns:
        tuning_loss (the weighted sum), losses (objective → loss), and with a target encoder its
        statistics (`models/statistics.py`).
    """
    recipe, model, names = training.recipe, training.model, list(phase.weighed)
    rows = training.tuning.rows
    rows = rows[:: math.ceil(len(rows) / recipe.tuning.examples)]
    ids = [ExampleId(training.tuning.split, row, TUNING_EPOCH, 0) for row in rows]
    mine = ids[training.rank :: training.world]
    # With ZeRO-3 a pass needs all processes: those with fewer examples go through their first ones again.
    passes = math.ceil(math.ceil(len(ids) / training.world) / engine.micro)
    sums = torch.zeros(len(names), dtype=torch.float64, device=device())
    statistics = TargetStatistics(model.hidden_size, device()) if target else None
    was = model.training
    model.eval()
    with torch.no_grad(), engine.reading():
        for n in range(passes):
            some = mine[n * engine.micro : (n + 1) * engine.micro]
            idle = not some
            drawn = [
                training.tuning.example(which, recipe.jepa if target else None)
                for which in some or ids[: engine.micro]
            ]
            batch = collate(drawn).to(device())
            states = engine.target_states(batch, target)
            by_example = model(batch, phase.objectives, states).by_example
            online = model.encode(batch.unmasked()) if statistics else None
            if idle:
                continue
            sums += torch.stack([by_example[name].double().sum() for name in names])
            if statistics and online is not None and states is not None:
                statistics.add(online, states)
    model.train(was)
    dist.all_reduce(sums)
    losses = {name: value / len(ids) for name, value in zip(names, sums.tolist(), strict=True)}
    found: dict[str, Any] = {"losses": losses}
    found["tuning_loss"] = sum(phase.objectives[name] * value for name, value in losses.items())
    if statistics:
        dist.all_reduce(statistics.sums)
        if math.isfinite(found["tuning_loss"]):  # else there are no singular values
            found["target"] = statistics.result()
    return found


def learning_rate(i: int, steps: int, lr: float, schedule: ScheduleSpec) -> float:
    """Of step i of 1..steps: linear warmup, then a cosine to zero or constant (SMB Table 7)."""
    peak = lr * schedule.lr_scale
    warmup = max(1, round(schedule.warmup_fraction * steps))
    if i <= warmup:
        return peak * i / warmup
    if schedule.kind == "constant":
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (i - warmup) / (steps - warmup + 1)))


def _gathered(ids: Sequence[ExampleId], world: int) -> list[ExampleId]:
    """Those of all processes."""
    found: list[Any] = [None] * world
    dist.all_gather_object(found, list(ids))
    return [which for part in found for which in part]


def _not_finite(step: int, phase: str, what: str, examples: Sequence[ExampleId]) -> TrainingError:
    named = "; ".join(str(which) for which in examples[:8])
    return TrainingError(
        f"The {what} is not finite at step {step}." + (f" Its examples: {named}." if named else ""),
        where=f"phase {phase}",
        do="Lower optimizer.lr, lengthen schedule.warmup_fraction, or look at those records in the corpus.",
    )
