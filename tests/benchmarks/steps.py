"""The fused step beside the literal algorithm (SMB §3.3.3), on the same model, batch and kernels.

Literal: one pass over [x, y] for SFT, one over [x, ỹ] for JEPA, and the target encoder's over [x, y] without
gradient. Fused: one pass over [x, y, ỹ], and the target encoder's. In both, examples lie one behind the other
without padding, and attention is PyTorch's causal kernel, example by example; only ỹ needs a mask.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ehr_assets.catalog import PACKAGE
from ehr_assets.models.attention import attention_arguments, use_attention
from ehr_assets.models.backbone import build_backbone, causal_lm, with_lora
from ehr_assets.models.batch import CONTINUATION, Batch
from ehr_assets.models.objectives import mean_by_example
from ehr_assets.models.predictor import build_predictor
from ehr_assets.models.target import TargetEncoder
from ehr_assets.models.world_model import WorldModel
from ehr_assets.training.collate import collate
from ehr_assets.training.cutting import Example

PAPER_RECIPES = PACKAGE / "paper" / "recipes"
BOTH = {"sft": 1.0, "jepa": 1.0}
QWEN3_1B7 = {
    "vocab_size": 151_936 + 16,
    "hidden_size": 2048,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "intermediate_size": 6144,
    "max_position_embeddings": 4096,
}
"""The shape of Qwen3-1.7B, with the delimiters."""


def world_model(
    sizes: dict[str, int], tokens: Sequence[int], kind: str = "transformer", attention: str = "segments"
) -> WorldModel:
    """LoRA and predictor as in Table 7, without dropout, so that two ways give the same."""
    backbone = build_backbone(**sizes, seed=1)
    adapted = with_lora(backbone, r=64, alpha=128, dropout=0.0, trainable_tokens=tokens, base_name="none")
    hidden = sizes["hidden_size"]
    model = WorldModel(adapted, build_predictor(kind, hidden, hidden, 2, 8))
    use_attention(causal_lm(adapted), attention)
    return model.train()


def made_up_batch(n: int, tokens: int, continuation: float, vocabulary: int) -> Batch:
    """`n` examples of so many tokens, that share of them continuation, half of which is hidden."""
    rng, m = np.random.default_rng(0), round(tokens * continuation)
    hidden = np.arange(m) % 2 == 0
    event = np.arange(tokens, dtype=np.int32)
    examples = [Example(rng.integers(1, vocabulary, tokens), tokens - m, event, hidden) for _ in range(n)]
    return collate(examples)


@dataclass(frozen=True)
class Places:
    """Where in a batch an objective looks, as indices: on the meta device a mask has no length."""

    labels: Tensor
    masked: Tensor
    hidden: Tensor
    target: Tensor

    @classmethod
    def of(cls, batch: Batch) -> "Places":
        masked = batch.in_masked()
        hidden = batch.hidden[masked].nonzero().squeeze(1)
        return cls(
            labels=(batch.part == CONTINUATION).nonzero().squeeze(1),
            masked=masked.nonzero().squeeze(1),
            hidden=hidden,
            target=hidden,  # the k-th of [x, ỹ] stands where the k-th of [x, y] does
        )

    def to(self, device: str) -> "Places":
        return Places(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


class Steps:
    """Both ways over one batch; each gives its loss and leaves gradients.

    Args:
        model, target: on `device`.
        batch: on the CPU, with ỹ.
        device: "meta" to count, or a real one.
    """

    def __init__(self, model: WorldModel, target: TargetEncoder, batch: Batch, device: str = "cpu") -> None:
        self.model, self.target = model, target
        self.places, self.batch = Places.of(batch).to(device), batch.to(device)
        plain, masked = batch.in_unmasked(), batch.in_masked()
        self.plain = batch.unmasked().to(device)
        self.plain_labels = Places.of(batch.unmasked()).labels.to(device)
        # [x, ỹ] by itself is a plain sequence too.
        part = {name: getattr(batch, name)[masked] for name in ("token_ids", "position", "example", "hidden")}
        self.masked = replace(batch, **part, part=batch.part[plain], copied=False).to(device)

    def fused(self) -> Tensor:
        target = self._target()
        online = self.model.encode(self.batch)
        sft = self._sft(online, self.batch, self.places.labels)
        return self._backward(sft + self._jepa(online[self.places.masked], target))

    def literal(self) -> Tensor:
        """Backward after each pass, as whoever runs them one after the other would: less memory."""
        target = self._target()
        sft = self._backward(self._sft(self.model.encode(self.plain), self.plain, self.plain_labels))
        return sft + self._backward(self._jepa(self._encode_masked(), target))

    def _encode_masked(self) -> Tensor:
        lm, batch = causal_lm(self.model.backbone), self.masked
        embedded = self.model.vocabulary.embed(batch.token_ids)
        embedded = torch.where(batch.hidden[:, None], self.model.mask_token.to(embedded.dtype), embedded)
        given = {"position_ids": batch.position[None], "use_cache": False, **attention_arguments(lm, batch)}
        return lm.base_model(inputs_embeds=embedded[None], **given).last_hidden_state[0]

    def _target(self) -> Tensor:
        with self.target.in_place():
            return self.model.encode(self.plain)

    def _sft(self, online: Tensor, batch: Batch, labels: Tensor) -> Tensor:
        nll = self.model.vocabulary.nll(online[labels - 1], batch.token_ids[labels])
        return _sum_of_means(nll, batch.example[labels], len(batch.spans))

    def _jepa(self, masked: Tensor, target: Tensor) -> Tensor:
        predictor = self.model.objectives["jepa"].predictor
        predicted = predictor(masked, [span.plain for span in self.batch.spans])[self.places.hidden]
        error = (predicted.float() - target[self.places.target].float()).square().mean(dim=-1)
        return _sum_of_means(error, self.masked.example[self.places.hidden], len(self.batch.spans))

    @staticmethod
    def _backward(loss: Tensor) -> Tensor:
        loss.backward()
        return loss.detach()


def _sum_of_means(values: Tensor, example: Tensor, examples: int) -> Tensor:
    if values.device.type == "meta":  # bincount has no length there
        return values.sum()
    return mean_by_example(values, example, examples).sum()


def flops(way: Callable[[], object]) -> int:
    """Of the matrix products, backward included; causal attention is counted as if it were whole."""
    with FlopCounterMode(display=False) as counter:
        way()
    return counter.get_total_flops()


def counted(sizes: dict[str, int], n: int, tokens: int, continuation: float) -> tuple[int, int]:
    """FLOPs (fused, literal) of a step on a model of these sizes, without making it."""
    with torch.device("meta"):
        model = world_model(sizes, range(1, 17))
        target = TargetEncoder(model.backbone, model.trained_encoder(), 0.996)
    steps = Steps(model, target, made_up_batch(n, tokens, continuation, sizes["vocab_size"]), "meta")
    return flops(steps.fused), flops(steps.literal)
