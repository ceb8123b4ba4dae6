"""A batch as the networks see it: examples in one sequence, and which token may see which.

Of an example the sequence holds its context x, its continuation y and, for objectives that predict hidden
tokens, y once more with some tokens hidden (ỹ). With causal attention the states of x are the same whether y
or ỹ follows, so one forward over [x, y, ỹ], in which ỹ sees x and itself and shares y's positions, stands for
one over [x, y] and one over [x, ỹ] (SMB §3.3.3, passes 1 and 2). `training/collate.py` makes batches.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

CONTEXT, CONTINUATION, COPY = 0, 1, 2
PADDING = -1
"""Behind the last example, where attention wants round lengths: an example of its own that nobody reads."""


@dataclass(frozen=True)
class Span:
    """The extents of one example, in tokens."""

    context: int
    continuation: int

    @property
    def plain(self) -> int:
        """Of [x, y], or of [x, ỹ]."""
        return self.context + self.continuation


@dataclass(frozen=True)
class Batch:
    """E examples, one behind the other, all as [x, y, ỹ] or all as [x, y], in T tokens.

    Attributes:
        token_ids: ``[T]`` int64; in ỹ the tokens of y.
        position: ``[T]`` int64, from 0 in each example.
        part: ``[T]`` int64: `CONTEXT`, `CONTINUATION` or `COPY`; `PADDING` behind the last example.
        example: ``[T]`` int64: 0 .. E - 1, or `PADDING`.
        hidden: ``[T]`` bool: the model reads the mask token here; only in ỹ.
        spans: of the examples, in their order.
        copied: whether there is a ỹ.
    """

    token_ids: Tensor
    position: Tensor
    part: Tensor
    example: Tensor
    hidden: Tensor
    spans: tuple[Span, ...]
    copied: bool

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example."""
        return [s.plain + (s.continuation if self.copied else 0) for s in self.spans]

    def to(self, device: torch.device | str) -> "Batch":
        return self._each(lambda tensor: tensor.to(device))

    def in_unmasked(self) -> Tensor:
        """``[T]`` bool: which tokens are [x, y]."""
        return (self.part == CONTEXT) | (self.part == CONTINUATION)

    def in_masked(self) -> Tensor:
        """``[T]`` bool: which are [x, ỹ] (SMB eq 5); the k-th stands where the k-th of [x, y] does."""
        return (self.part == CONTEXT) | (self.part == COPY)

    def unmasked(self) -> "Batch":
        """[x, y] alone: what the target encoder reads, and all that SFT needs."""
        where = self.in_unmasked()
        return replace(self._each(lambda tensor: tensor[where]), copied=False)

    def padded(self, multiple: int) -> "Batch":
        """With padding up to the next multiple of so many tokens."""
        n = -len(self) % multiple
        new = {
            "token_ids": self.token_ids.new_zeros(n),  # any that there is
            "position": torch.arange(n, device=self.position.device),
            "part": self.part.new_full((n,), PADDING),
            "example": self.example.new_full((n,), PADDING),
            "hidden": self.hidden.new_zeros(n),
        }
        return replace(self, **{name: torch.cat([getattr(self, name), new[name]]) for name in new})

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        names = ("token_ids", "position", "part", "example", "hidden")
        return replace(self, **{name: change(getattr(self, name)) for name in names})


def sees(batch: Batch) -> Callable[[Any, Any, Tensor, Tensor], Tensor]:
    """The rule of attention, in FlexAttention's form: (batch, head, query, key) → bool.

    A token sees the context of its example and its own part, up to itself. Padding sees padding, so that no
    softmax is over nothing.
    """
    example, part, position = batch.example, batch.part, batch.position

    def rule(_batch: Any, _head: Any, query: Tensor, key: Tensor) -> Tensor:
        known = (part[key] == CONTEXT) | (part[key] == part[query])
        return (example[query] == example[key]) & known & (position[key] <= position[query])

    return rule


def sees_matrix(batch: Batch) -> Tensor:
    """The rule of attention as ``[T, T]`` bool: row sees column."""
    at = torch.arange(len(batch), device=batch.part.device)
    return sees(batch)(None, None, at[:, None], at[None, :])
