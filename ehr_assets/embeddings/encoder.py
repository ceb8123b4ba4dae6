"""The frozen encoder: a checkpoint folder loaded by plain peft + transformers, and one forward pass.

Torch and what needs it are imported when an encoder is loaded, not when this module is.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

Pooling = Literal["last", "mean"]
Precision = Literal["auto", "float32", "bfloat16"]

TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""By how much (relative, of the whole vector) S(t) may differ from S(t) computed in another batch.

bfloat16 keeps 8 bits of a number: products of batches of other shapes round otherwise, layer upon layer.
"""


class Source(Protocol):
    """Where a model comes from that is no checkpoint."""

    def load(self) -> Any: ...


class Encoder:
    """f_θ, frozen: token ids in, S out (SMB-Structure §4.3).

    Weights and results are float32 whatever the checkpoint's own precision, so that S(t) can be recomputed.
    In bfloat16 the products are, not the weights nor what is added up over layers (torch's autocast).

    Args:
        source: a checkpoint folder (a peft adapter with `backbone/`, unless that is a hub's, or a whole
            model), or another source of a causal LM of transformers (`untrained.py`).
        device: "auto" (a GPU when there is one), or a torch device.
        dtype: "auto" is bfloat16 on a GPU that has it, float32 otherwise.

    Attributes:
        hidden_size: the length of S.
        vocabulary: how many token ids the backbone embeds.
        dtype: "float32" or "bfloat16".

    Raises:
        TrainingError: the folder is no checkpoint, or its pretrained backbone cannot be found.
    """

    def __init__(self, source: Path | Source, device: str = "auto", dtype: Precision = "auto") -> None:
        import torch

        self.device = _device(device)
        fast = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        self.dtype: str = ("bfloat16" if fast else "float32") if dtype == "auto" else dtype
        model: Any = _model(source).float().to(self.device).eval()
        # The adapter is added into the weights it adapts, in float32: a frozen encoder need not pay for it
        # at every token. After full fine-tuning there is none. The network below the language-model head
        # gives the final hidden states (after the final norm) without computing any logits.
        whole: Any = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
        self._network: Any = whole.base_model
        config = self._network.config
        self.hidden_size: int = config.hidden_size
        self.vocabulary: int = self._network.get_input_embeddings().weight.shape[0]
        self.max_positions: int | None = getattr(config, "max_position_embeddings", None)

    def encode(
        self, sequences: Sequence[np.ndarray], ends: Sequence[Sequence[int]], pooling: Pooling
    ) -> list[np.ndarray]:
        """States of prefixes of sequences, in one forward pass.

        Sequences are padded on the right, where causal attention never looks, so no mask is needed.

        Args:
            sequences: int32 token ids, each of any length >= 1.
            ends: per sequence, prefix lengths (1 to its length).
            pooling: "last": the hidden state of the prefix's last token; "mean": the mean over the prefix.

        Returns:
            per sequence, float32 [len(ends), hidden_size].
        """
        import torch

        width = max(len(s) for s in sequences)
        ids = np.zeros((len(sequences), width), np.int64)
        for i, sequence in enumerate(sequences):
            ids[i, : len(sequence)] = sequence
        rows = torch.from_numpy(np.repeat(np.arange(len(sequences)), [len(e) for e in ends])).to(self.device)
        at = torch.from_numpy(np.concatenate([np.asarray(e, np.int64) for e in ends]) - 1).to(self.device)
        half = torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == "bfloat16")
        with torch.inference_mode(), half:
            out = self._network(input_ids=torch.from_numpy(ids).to(self.device), use_cache=False)
            states = _pooled(out.last_hidden_state, rows, at, pooling).float().cpu().numpy()
        return np.split(states, np.cumsum([len(e) for e in ends])[:-1])


@contextlib.contextmanager
def workers(device: "torch.device", cores: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """A pool that runs one forward pass per core, each on a single thread; on a GPU one at a time.

    How a product is divided among threads decides its last bits: on one thread, equal inputs give equal
    bytes whatever the number of cores. And small products on many threads mostly wait for one another,
    badly so on a busy machine.

    Args:
        cores: all that this process may use by default.
    """
    import torch

    cores = cores or len(os.sched_getaffinity(0))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(cores if device.type == "cpu" else 1) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def _model(source: Path | Source) -> Any:
    if not isinstance(source, Path):
        return source.load()
    from ehr_assets.training.checkpoint import load_checkpoint

    return load_checkpoint(source)[0]


def _pooled(
    hidden: "torch.Tensor", rows: "torch.Tensor", at: "torch.Tensor", pooling: Pooling
) -> "torch.Tensor":
    if pooling == "last":
        return hidden[rows, at]
    # Running sums in float64, so that a long prefix's mean is as exact as a short one's.
    return hidden.double().cumsum(dim=1)[rows, at] / (at + 1).unsqueeze(1)


def _device(name: str) -> "torch.device":
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
