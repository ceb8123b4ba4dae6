"""The bottleneck predictor g_φ: from states of the masked sequence to the target encoder's (SMB §3.2).

The paper calls what lies inside the bottleneck a transformer (eq 3, Table 7) and an MLP (§4.5.2); both are
here. Its "~67M" parameters (A.1) are those of the MLP: two layers at width 1.0 of an 8 B model, 4 x 4096².
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from ehr_assets.models.attention import attend_causally


class Predictor(nn.Module, ABC):
    """``LayerNorm(inside(H W_down) W_up)`` (eq 2, 3).

    Args:
        hidden_size: d, of the encoder.
        size: d_b, of the bottleneck.
        layers: inside the bottleneck.
    """

    def __init__(self, hidden_size: int, size: int, layers: int) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, size, bias=False)
        self.layers = nn.ModuleList(self.layer(size) for _ in range(layers))
        self.up = nn.Linear(size, hidden_size, bias=False)
        self.norm = nn.LayerNorm(hidden_size)

    @abstractmethod
    def layer(self, size: int) -> nn.Module:
        """One layer: called with the states inside and the sequences' lengths."""

    def forward(self, states: Tensor, lengths: Sequence[int]) -> Tensor:
        """Predicts every position's target.

        Args:
            states: ``[T, hidden]`` of [x, ỹ], one example behind the other.
            lengths: of the examples; they sum to T.

        Returns:
            ``[T, hidden]``.
        """
        inside = self.down(states)
        for layer in self.layers:
            inside = layer(inside, lengths)
        return self.norm(self.up(inside))


class TransformerPredictor(Predictor):
    """Pre-norm transformer layers that see no further than the encoder: nothing behind their own position."""

    def __init__(self, hidden_size: int, size: int, layers: int, heads: int) -> None:
        self._heads = heads
        super().__init__(hidden_size, size, layers)

    def layer(self, size: int) -> nn.Module:
        return _TransformerLayer(size, self._heads)


class MLPPredictor(Predictor):
    """Every position by itself: linear layers with GELU."""

    def layer(self, size: int) -> nn.Module:
        return _MLPLayer(size)


class _MLPLayer(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)

    def forward(self, inside: Tensor, lengths: Sequence[int]) -> Tensor:
        return gelu(self.linear(inside))


class _TransformerLayer(nn.Module):
    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.wide, self.narrow = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def forward(self, inside: Tensor, lengths: Sequence[int]) -> Tensor:
        qkv = self.qkv(self.attention_norm(inside)).unflatten(-1, (3, self._heads, -1))
        query, key, value = qkv.permute(1, 2, 0, 3).unbind(0)  # [heads, T, size] each
        mixed = attend_causally(query, key, value, lengths)
        inside = inside + self.out(mixed.transpose(0, 1).flatten(1))
        return inside + self.narrow(gelu(self.wide(self.mlp_norm(inside))))


def build_predictor(kind: str, hidden_size: int, size: int, layers: int, heads: int) -> Predictor:
    """Of kind `transformer` or `mlp` (which has no heads), its weights drawn from torch's random state."""
    if kind == "transformer":
        return TransformerPredictor(hidden_size, size, layers, heads)
    return MLPPredictor(hidden_size, size, layers)


def new_mask_token(hidden_size: int) -> nn.Parameter:
    """The learnable m, drawn from N(0, 0.02) (SMB §3.2; 0.02 is taken as the standard deviation)."""
    return nn.Parameter(torch.empty(hidden_size).normal_(0, 0.02))
