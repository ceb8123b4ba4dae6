"""DeepSpeed around a world model for the length of a phase: who trains, the step, the shares of the work."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ehr_assets.models.batch import Batch
from ehr_assets.models.target import TargetEncoder
from ehr_assets.models.world_model import Losses, WorldModel
from ehr_assets.training.lean_deepspeed import import_deepspeed, import_muon_uncompiled
from ehr_assets.training.recipe import RecipeSpec
from ehr_assets.training.recipe_parts import PhaseSpec, Trainable
from ehr_assets.training.shards import joined, made_whole, shard_of, whole
from ehr_assets.training.start import bf16, wait_at_most

deepspeed = import_deepspeed()
import_muon_uncompiled()

MOMENTS = ("exp_avg", "exp_avg_sq")
AVERAGE = "average"
"""With a slash, what precedes a parameter's name in the names of `Engine.tensors`."""


class Engine:
    """One phase's engine: a fresh AdamW (SMB Table 7), its moments begin with the phase.

    Args:
        model: on its device.
        recipe, phase: what trains, and how.
        world: processes.

    Attributes:
        micro, accumulate: examples per micro-batch, and micro-batches per step, of this process.
    """

    def __init__(self, model: WorldModel, recipe: RecipeSpec, phase: PhaseSpec, world: int) -> None:
        self.model, self.weights = model, phase.objectives
        self.micro, self.accumulate = recipe.engine.shared(recipe.batch, world)
        for name, parameter in model.trainable().items():
            parameter.requires_grad_(part_of(name) in recipe.trained_in(phase))
        spec = recipe.optimizer
        optimizer = torch.optim.AdamW(
            _groups(model, spec.weight_decay), lr=spec.lr, betas=spec.betas, weight_decay=spec.weight_decay
        )
        in_bf16 = bf16(recipe)
        config: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": self.micro,
            "gradient_accumulation_steps": self.accumulate,
            "gradient_clipping": spec.clip,
            "zero_optimization": {"stage": recipe.engine.zero_stage},
            # Otherwise DeepSpeed (0.19) sums a step's gradients in stage 1 as g1, then g1 + g2, and so on:
            # those of earlier micro-batches count several times.
            "bf16": {"enabled": in_bf16, "immediate_grad_update": in_bf16},
            "steps_per_print": sys.maxsize,
        }
        if in_bf16:
            # Sums of many small gradients in bfloat16 would lose the small ones.
            config["data_types"] = {"grad_accum_dtype": "fp32"}
        self._sharded = recipe.engine.zero_stage == 3
        if self._sharded:
            # Whatever stayed whole, or was fetched ahead, would be the online encoder's in the target pass
            # or the target's in the online pass.
            keep_nothing = ("param_persistence_threshold", "prefetch_bucket_size", "max_reuse_distance")
            config["zero_optimization"] |= {f"stage3_{name}": 0 for name in keep_nothing}
        self.deepspeed: Any = deepspeed.initialize(
            model=model, optimizer=optimizer, config=config, dist_init_required=False
        )[0]
        wait_at_most(recipe.engine.timeout_minutes)
        self.deepspeed.train()

    def set_lr(self, lr: float) -> None:
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = lr

    def micro_step(self, batch: Batch, target: TargetEncoder | None) -> Losses:
        """Forward, backward and, at the last micro-batch of a step, the step."""
        states = self.target_states(batch, target)
        losses = cast(Losses, self.deepspeed(batch, self.weights, states))
        # The engine takes the mean over processes and micro-batches; each example shall weigh the same.
        self.deepspeed.backward(losses.total / self.micro)
        self.deepspeed.step()
        return losses

    def target_states(self, batch: Batch, target: TargetEncoder | None) -> Tensor | None:
        """The target encoder's states of [x, y]; None without one."""
        if target is None:
            return None
        if self._sharded:
            # What is not let go of would be read instead of the average, and nobody would notice.
            assert not any(p.numel() for p in self.model.trained_encoder().values())
        with self.reading(), target.in_place():
            return self.model.encode(batch.unmasked())

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around passes that are no training steps: with ZeRO-3, a module fetches the shards of parameters
        that it reads of other modules (peft's token adapter does) inside DeepSpeed's own forward alone."""
        owners: list[Any] = [m._parameters for m in self.model.modules()] if self._sharded else []
        before = [parameters._in_forward for parameters in owners]
        try:
            for parameters in owners:
                parameters._in_forward = True
            yield
        finally:
            for parameters, was in zip(owners, before, strict=True):
                parameters._in_forward = was

    def grad_norm(self) -> float:
        """Of the last step, before clipping."""
        return float(self.deepspeed.get_global_grad_norm())

    def adopt(self, target: TargetEncoder) -> None:
        """Makes a target encoder of the whole model one of this engine's model."""
        if self._sharded:
            trained = self.model.trained_encoder()
            target.bind(trained, {n: shard_of(target.average[n], p) for n, p in trained.items()})

    def tensors(self, target: TargetEncoder | None, *, moments: bool = True) -> Iterator[tuple[str, Tensor]]:
        """All that later steps depend on besides the step's number, whole, one after the other.

        ``NAME`` is a trained parameter (where it trains in this phase, float32), ``exp_avg/NAME`` and
        ``exp_avg_sq/NAME`` are its moments, ``average/NAME`` is the target encoder's. Every process must go
        through all of them: each is gathered from all.
        """
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        self._link_moments()
        for name, p in self.model.trainable().items():
            yield name, cast(Tensor, safe_get_full_fp32_param(p)) if p.requires_grad else whole(p)
            if moments and p.requires_grad:
                for moment in MOMENTS:
                    yield f"{moment}/{name}", cast(Tensor, safe_get_full_optimizer_state(p, moment))
        if target:
            trained = self.model.trained_encoder()
            for name, average in target.average.items():
                yield f"{AVERAGE}/{name}", joined(average, trained[name]) if self._sharded else average

    def restore(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Takes up the optimizer as `tensors` gave it after `steps` steps of this engine's phase.

        The model has its values already. DeepSpeed (0.19) has no public way to give a fresh optimizer its
        moments: the names of the flat partitions are its own, and a test holds them.
        """
        from deepspeed.utils import (
            safe_set_full_fp32_param,
            safe_set_full_optimizer_state,
            safe_set_local_fp32_param,
            safe_set_local_optimizer_state,
        )

        zero = self.deepspeed.optimizer
        for flat in next(getattr(zero, name) for name in _FLAT_PARTITIONS if hasattr(zero, name)):
            moments = {name: torch.zeros_like(flat) for name in MOMENTS}
            zero.optimizer.state[flat] = {"step": torch.tensor(float(steps)), **moments}
        self._link_moments()
        for name, p in self.model.trainable().items():
            if not p.requires_grad:
                continue
            of_moments = {moment: tensors[f"{moment}/{name}"].to(p.device) for moment in MOMENTS}
            if self._sharded:  # its setter of whole ones cannot deal with padded shards
                safe_set_local_fp32_param(p, shard_of(tensors[name].to(p.device), p))
                for moment, value in of_moments.items():
                    safe_set_local_optimizer_state(p, shard_of(value, p), moment)
            else:
                safe_set_full_fp32_param(p, tensors[name].to(p.device))
                for moment, value in of_moments.items():
                    safe_set_full_optimizer_state(p, value, moment)

    def _link_moments(self) -> None:
        """Lets parameters find their moments in stages 1 and 2. DeepSpeed 0.19 does so in the first group's
        first step, when the second group has none yet."""
        if not self._sharded:
            zero = self.deepspeed.optimizer
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()

    def close(self, target: TargetEncoder | None) -> None:
        """Lets go of the model, whole on every process, so that the next phase can have an engine."""
        averages: dict[str, Tensor] = {}
        if self._sharded and target:
            trained = self.model.trained_encoder()
            averages = {name: joined(average, trained[name]) for name, average in target.average.items()}
        self.deepspeed.destroy()
        if self._sharded:
            made_whole(self.model)
            if target:
                target.bind(self.model.trained_encoder(), averages)


_FLAT_PARTITIONS = (
    "fp32_groups_flat_partition",  # stage 1 in bf16
    "single_partition_of_fp32_groups",  # stages 1 and 2
    "fp32_partitioned_groups_flat",  # stage 3
)


def part_of(name: str) -> Trainable:
    """Which part a parameter of the world model belongs to, by its name."""
    if not name.startswith("backbone."):
        return "predictor"
    return "tokens" if "trainable_tokens" in name else "backbone"


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Norms, biases and the mask token are not decayed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def seed_step(seed: int, step: int, micro: int, rank: int) -> None:
    """Makes dropout a function of the step, so that no random state need be kept for resuming."""
    state = np.random.SeedSequence([seed, step, micro, rank]).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(state >> np.uint64(1)))
