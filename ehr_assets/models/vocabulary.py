"""Tokens into the decoder and out of it: embeddings, and next-token losses in bounded memory.

peft copies the whole embedding matrix, the trained rows put in, whenever tokens are embedded or scored, and
makes a gradient of that size too. Here the frozen matrix is read where it lies and the trained rows beside
it: the same states and gradients (a test holds them against peft's), without the copies. Logits, the largest
tensor of a step, are made a stretch at a time and made again in backward.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding, linear
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from ehr_assets.models.limits import LOGITS_AT_ONCE


class Vocabulary:
    """The embeddings and the output head of a causal LM, wrapped by peft or not.

    Args:
        model: without what peft wraps around it as a whole.
        logits_at_once: as above.
    """

    def __init__(self, model: PreTrainedModel, logits_at_once: int = LOGITS_AT_ONCE) -> None:
        self._model = model
        self._logits_at_once = logits_at_once
        self._indices: dict[tuple[int, torch.device], _Index] = {}

    def embed(self, token_ids: Tensor) -> Tensor:
        """``[..., hidden]`` of ids ``[...]``."""
        layer: Any = self._model.get_input_embeddings()
        rows = _trained_rows(layer)
        if rows is None or type(layer.token_adapter.base_layer) is not nn.Embedding:
            return layer(token_ids)
        frozen: nn.Embedding = layer.token_adapter.base_layer
        index = self._index(layer.token_adapter, frozen.num_embeddings, token_ids.device)
        if index.everything:
            return embedding(token_ids, rows)
        row = index.row[token_ids]
        return torch.where((row >= 0)[..., None], embedding(row.clamp(min=0), rows), frozen(token_ids))

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits ``[..., vocabulary]`` of states ``[..., hidden]``."""
        layer: Any = self._model.get_output_embeddings()
        rows = _trained_rows(layer)
        frozen: Any = None if rows is None else layer.token_adapter.base_layer
        if rows is None or type(frozen) is not nn.Linear or frozen.bias is not None:
            return layer(hidden)
        index = self._index(layer.token_adapter, frozen.out_features, hidden.device)
        trained = linear(hidden, rows)
        return trained if index.everything else frozen(hidden).index_copy_(-1, index.ids, trained)

    def nll(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """``-log p(label)``, ``[n]`` float32, of states ``[n, hidden]`` and labels ``[n]``."""
        at_once = max(1, self._logits_at_once // self._model.config.get_text_config().vocab_size)
        if len(labels) <= at_once:
            return self._nll(hidden, labels)
        how: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}  # nothing is drawn there
        parts = zip(hidden.split(at_once), labels.split(at_once), strict=True)
        return torch.cat([checkpoint(self._nll, h, y, **how) for h, y in parts])  # type: ignore[misc]

    def _nll(self, hidden: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(self.logits(hidden).float(), labels, reduction="none")

    def _index(self, adapter: Any, size: int, device: torch.device) -> "_Index":
        key = (id(adapter), device)
        if key not in self._indices:
            trained = list(adapter.token_indices[adapter.active_adapters[0]])
            ids = torch.tensor(trained, device=device)
            row = torch.full((size,), -1, device=device)
            row = row.index_copy_(0, ids, torch.arange(len(ids), device=device))
            self._indices[key] = _Index(ids, row, trained == list(range(size)))
        return self._indices[key]


@dataclass(frozen=True)
class _Index:
    """Which tokens are trained: their ids, each token's row among them (-1: none), whether all in order."""

    ids: Tensor
    row: Tensor
    everything: bool


def _trained_rows(layer: Any) -> nn.Parameter | None:
    """``[trained, hidden]``: the rows that peft trains of a layer, where they may be read beside it.

    Under ZeRO-3 they may not: DeepSpeed gathers a parameter only for the module that it belongs to, and
    already looking it up by its name would gather it.
    """
    adapter = getattr(layer, "token_adapter", None)
    if adapter is None or adapter.merged or adapter.disable_adapters or len(adapter.active_adapters) != 1:
        return None
    deltas: nn.ParameterDict = adapter.trainable_tokens_delta
    if any(hasattr(p, "ds_id") for p in deltas.parameters()):
        return None
    return deltas[adapter.active_adapters[0]]
