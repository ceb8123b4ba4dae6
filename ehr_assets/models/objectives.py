"""Objectives: what a world model is trained to do. Each is a small class with a name.

An objective takes the model and a batch and gives one scalar to be minimised. It may own parameters (it is
a module): whatever it registers is trained with the model. Recipes name objectives; `OBJECTIVES` finds them.
To add one: write the class here, decorate it, and add its name to `training/recipe.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ehr_assets.models.backbone import hidden_states, token_logits


@dataclass(frozen=True)
class Batch:
    """Context x followed by continuation y, right-padded.

    Attributes:
        input_ids: ``[batch, tokens]`` int64.
        real: ``[batch, tokens]`` bool, false on padding.
        continuation: ``[batch, tokens]`` bool, true on y; at least one per example, never the first token.
    """

    input_ids: Tensor
    real: Tensor
    continuation: Tensor

    def to(self, device: torch.device | str) -> "Batch":
        return Batch(self.input_ids.to(device), self.real.to(device), self.continuation.to(device))


class Objective(nn.Module):
    """Base of the objectives: ``forward(model, batch)`` returns the loss, a scalar in float32."""

    name: ClassVar[str]

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        raise NotImplementedError


OBJECTIVES: dict[str, type[Objective]] = {}


def objective(cls: type[Objective]) -> type[Objective]:
    """Registers an objective under its name."""
    OBJECTIVES[cls.name] = cls
    return cls


@objective
class SFT(Objective):
    """Next-token prediction of the continuation given the context (SMB eq 4).

    ``L_SFT = -1/m sum_t log p(y_t | y_<t, x)``, the mean over y's own m tokens, then over the batch:
    every example weighs the same, however long its continuation, so the loss does not depend on how examples
    were gathered into batches or spread over processes.
    """

    name = "sft"

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        hidden = hidden_states(model, batch.input_ids)
        # Token i is predicted from position i - 1. Only the positions that predict y go through the output
        # head: its logits are the largest tensor of the step.
        row, position = batch.continuation.nonzero(as_tuple=True)
        logits = token_logits(model, hidden[row, position - 1])
        nll = cross_entropy(logits.float(), batch.input_ids[row, position], reduction="none")
        share = 1 / (batch.continuation.sum(dim=1)[row] * len(batch.input_ids))
        return (nll * share).sum()


class Trained(nn.Module):
    """A backbone with the objectives of all phases: one module, so that one engine holds every parameter."""

    def __init__(self, backbone: nn.Module, names: set[str]) -> None:
        super().__init__()
        self.backbone = backbone
        self.objectives = nn.ModuleDict({name: OBJECTIVES[name]() for name in sorted(names)})

    def forward(self, batch: Batch, weights: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the named objectives (SMB eq 7), and each of them, detached."""
        losses = {name: self.objectives[name](self.backbone, batch) for name, w in weights.items() if w > 0}
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        return total, {name: loss.detach() for name, loss in losses.items()}
