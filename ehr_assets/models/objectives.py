"""Objectives: what a world model is trained to do. Each is a small class with a name.

An objective makes one loss per example from the states of the encoder; the passes over the encoder are the
same for all (`world_model.py`). It may own parameters. Recipes name objectives; `OBJECTIVES` finds them. To
add one: write the class here, decorate it, and add its name to `training/recipe_parts.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ehr_assets.models.batch import CONTINUATION, Batch
from ehr_assets.models.predictor import Predictor


@dataclass(frozen=True)
class States:
    """What the passes over the encoder gave.

    Attributes:
        online: ``[T, hidden]``: final hidden states of the batch, after the last norm.
        target: ``[T', hidden]``: the target encoder's, of the batch's [x, y]; without gradient. None where no
            objective asks for them.
        nll: states ``[n, hidden]`` and labels ``[n]`` to ``-log p(label)``, ``[n]`` float32.
    """

    online: Tensor
    target: Tensor | None
    nll: Callable[[Tensor, Tensor], Tensor]


class Objective(nn.Module):
    """Base of the objectives: ``forward(states, batch)`` gives one loss per example, ``[E]`` float32."""

    name: ClassVar[str]
    hides: ClassVar[bool] = False
    """Whether it needs ỹ, the copy of the continuation with hidden tokens, and the target encoder."""

    def forward(self, states: States, batch: Batch) -> Tensor:
        raise NotImplementedError


OBJECTIVES: dict[str, type[Objective]] = {}


def objective(cls: type[Objective]) -> type[Objective]:
    """Registers an objective under its name."""
    OBJECTIVES[cls.name] = cls
    return cls


@objective
class SFT(Objective):
    """Next-token prediction of the continuation given the context (SMB eq 4).

    ``L_SFT = -1/m sum_t log p(y_t | y_<t, x)``: the mean over y's own m tokens.
    """

    name = "sft"

    def forward(self, states: States, batch: Batch) -> Tensor:
        # Token i is predicted from position i - 1. Only those that predict y go through the output head.
        at = (batch.part == CONTINUATION).nonzero().squeeze(1)
        nll = states.nll(states.online[at - 1], batch.token_ids[at])
        return mean_by_example(nll, batch.example[at], len(batch.spans))


@objective
class JEPA(Objective):
    """Prediction of the target encoder's states at the hidden tokens of the continuation (SMB eq 5, 6).

    ``L_JEPA = 1/|M| sum_(i in M) ||ĥ_i - h̄_i||² / d``. Equation 6 prints the sum over the d dimensions, the
    text calls it the MSE; it is the mean over them here, since a sum would weigh thousands of times what the
    weights 1 : 1 of Table 7 say.

    Args:
        predictor: g_φ.
    """

    name = "jepa"
    hides = True

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, states: States, batch: Batch) -> Tensor:
        assert states.target is not None
        where = batch.in_masked()
        hidden, example = batch.hidden[where], batch.example[where]
        predicted = self.predictor(states.online[where], [span.plain for span in batch.spans])
        error = (predicted[hidden].float() - states.target[hidden].float()).square().mean(dim=-1)
        return mean_by_example(error, example[hidden], len(batch.spans))


def mean_by_example(values: Tensor, example: Tensor, examples: int) -> Tensor:
    """The mean of the values of each example, ``[E]``; every example weighs the same, however long it is.

    So a loss does not depend on how examples were put into batches or spread over processes.
    """
    sums = torch.zeros(examples, dtype=values.dtype, device=values.device).index_add(0, example, values)
    return sums / torch.bincount(example, minlength=examples)
