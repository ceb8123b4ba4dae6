"""The world model in training: a backbone with the objectives of all phases, and the passes they share.

One module, so that one engine holds every parameter that is trained.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ehr_assets.models.attention import attention_arguments, laid_out
from ehr_assets.models.backbone import causal_lm
from ehr_assets.models.batch import Batch
from ehr_assets.models.objectives import JEPA, SFT, Objective, States
from ehr_assets.models.predictor import Predictor, new_mask_token
from ehr_assets.models.vocabulary import Vocabulary

_ENCODER = "backbone."


@dataclass(frozen=True)
class Losses:
    """Of a batch of E examples.

    Attributes:
        total: scalar to be minimised: the weighted sum of the objectives (SMB eq 7), summed over examples.
        by_example: objective → its loss of each example, ``[E]`` float32, detached.
    """

    total: Tensor
    by_example: dict[str, Tensor]


class WorldModel(nn.Module):
    """A backbone, and what its objectives own.

    Args:
        backbone: a causal LM of transformers, wrapped by peft or not.
        predictor: g_φ of JEPA; None where no phase weighs it.
    """

    def __init__(self, backbone: nn.Module, predictor: Predictor | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.vocabulary = Vocabulary(causal_lm(backbone))
        objectives: list[Objective] = [SFT(), *([JEPA(predictor)] if predictor else [])]
        self.hidden_size: int = causal_lm(backbone).config.hidden_size
        self.objectives = nn.ModuleDict({o.name: o for o in objectives})
        self.mask_token = new_mask_token(self.hidden_size) if predictor else None
        self._trainable = [name for name, p in self.named_parameters() if p.requires_grad]

    def trainable(self) -> dict[str, nn.Parameter]:
        """What may be trained: what was not frozen when the model was made, whatever a phase leaves out."""
        own = dict(self.named_parameters())
        return {name: own[name] for name in self._trainable}

    def trained_encoder(self) -> dict[str, nn.Parameter]:
        """Of that, the encoder's: what the target encoder averages."""
        return {name: p for name, p in self.trainable().items() if name.startswith(_ENCODER)}

    def encode(self, batch: Batch) -> Tensor:
        """f_θ: the final hidden states ``[T, hidden]``, after the last norm; hidden tokens read as m."""
        model = causal_lm(self.backbone)
        read = laid_out(model, batch)
        embedded = self.vocabulary.embed(read.token_ids)
        if self.mask_token is not None and read.copied:
            embedded = torch.where(read.hidden[:, None], self.mask_token.to(embedded.dtype), embedded)
        states = model.base_model(
            inputs_embeds=embedded[None],
            position_ids=read.position[None],
            use_cache=False,
            **attention_arguments(model, read),
        ).last_hidden_state[0]
        return states[: len(batch)]

    def forward(self, batch: Batch, weights: Mapping[str, float], target: Tensor | None = None) -> Losses:
        """The fused step's online pass: one over [x, y, ỹ], for all objectives.

        Args:
            batch: with ỹ where `hides(weights)`.
            weights: objective → λ; those of weight zero are not computed.
            target: the target encoder's states of the batch's [x, y]; where `hides(weights)`.
        """
        states = States(self.encode(batch), target, self.vocabulary.nll)
        losses = {name: self.objectives[name](states, batch) for name in _weighed(weights)}
        total = torch.stack([weights[name] * loss.sum() for name, loss in losses.items()]).sum()
        return Losses(total, {name: loss.detach() for name, loss in losses.items()})

    def hides(self, weights: Mapping[str, float]) -> bool:
        """Whether these objectives need ỹ and the target encoder."""
        return any(self.objectives[name].hides for name in _weighed(weights))


def _weighed(weights: Mapping[str, float]) -> Iterable[str]:
    return [name for name, weight in weights.items() if weight > 0]
