"""DeepSpeed around a world model for the length of a phase: who trains, the step, the shares of the work."""

import sys
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
from ehr_assets.training.start import bf16

deepspeed = import_deepspeed()
import_muon_uncompiled()


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
            parameter.requires_grad_(part_of(name) in (phase.trains or recipe.trainable))
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
            "bf16": {"enabled": in_bf16},
            "steps_per_print": sys.maxsize,
        }
        if in_bf16:
            # Sums of many small gradients in bfloat16 would lose the small ones.
            config["data_types"] = {"grad_accum_dtype": "fp32"}
        if recipe.engine.zero_stage == 3:
            # Small parameters would otherwise stay whole, and the target encoder's shards unread.
            config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        self.deepspeed: Any = deepspeed.initialize(
            model=model, optimizer=optimizer, config=config, dist_init_required=False
        )[0]
        self.deepspeed.train()

    def set_lr(self, lr: float) -> None:
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = lr

    def micro_step(self, batch: Batch, target: TargetEncoder | None) -> Losses:
        """Forward, backward and, at the last micro-batch of a step, the step."""
        states = target_states(self.model, batch, target)
        losses = cast(Losses, self.deepspeed(batch, self.weights, states))
        # The engine takes the mean over processes and micro-batches; each example shall weigh the same.
        self.deepspeed.backward(losses.total / self.micro)
        self.deepspeed.step()
        return losses

    def grad_norm(self) -> float:
        """Of the last step, before clipping."""
        return float(self.deepspeed.get_global_grad_norm())

    def close(self) -> None:
        """Lets go of the model, so that the next phase can have an engine of its own."""
        self.deepspeed.destroy()


def target_states(model: WorldModel, batch: Batch, target: TargetEncoder | None) -> Tensor | None:
    """The target encoder's states of [x, y]; None without one."""
    if target is None:
        return None
    with target.in_place():
        return model.encode(batch.unmasked())


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
