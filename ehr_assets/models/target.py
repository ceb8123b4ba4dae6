"""The target encoder f_θ̄: the moving average of what is trained of the encoder (SMB §3.2).

The backbone's own weights are frozen, so the average is over adapters and token embeddings alone: a second
set of those, not a second model. For the target pass it takes their place, and gives it back.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class TargetEncoder:
    """θ̄ ← τ θ̄ + (1 - τ) θ after each optimizer step, beginning at θ.

    The average is kept in float32: in bfloat16 an increment of 1 - τ = 0.004 would be lost to rounding.

    Args:
        encoder: whose dropout is off in the target pass.
        trained: its trained parameters by name. With ZeRO-3, a process averages its own shards.
        momentum: τ.
    """

    def __init__(self, encoder: nn.Module, trained: Mapping[str, nn.Parameter], momentum: float) -> None:
        self.momentum = momentum
        self._trained = {name: _stored(p) for name, p in trained.items()}
        self.average = {name: t.detach().float().clone() for name, t in self._trained.items()}
        self._dropouts = [m for m in encoder.modules() if isinstance(m, nn.Dropout)]

    def bind(self, trained: Mapping[str, nn.Parameter], average: Mapping[str, Tensor]) -> None:
        """Goes on with other tensors of the same names, laid out in another way: in shards, or whole."""
        self._trained = {name: _stored(p) for name, p in trained.items()}
        self.average = dict(average)

    @torch.no_grad()
    def update(self) -> None:
        """After an optimizer step."""
        now = [t.detach().float() for t in self._trained.values()]
        torch._foreach_lerp_(list(self.average.values()), now, 1 - self.momentum)  # pyright: ignore

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the encoder is the target encoder: without gradient, without dropout.

        Before the online pass, not between it and its backward: what checkpointing computes again would
        be computed with the wrong weights.
        """
        own = {name: t.data for name, t in self._trained.items()}
        training = [m.training for m in self._dropouts]
        try:
            for name, t in self._trained.items():
                t.data = self.average[name].to(t.dtype)
            _each_train(self._dropouts, [False] * len(training))
            with torch.no_grad():
                yield
        finally:
            for name, t in self._trained.items():
                t.data = own[name]
            _each_train(self._dropouts, training)

    @torch.no_grad()
    def load(self, average: Mapping[str, Tensor]) -> None:
        """Takes up an average that was kept. KeyError where a name is missing."""
        for name, own in self.average.items():
            own.copy_(average[name])

    @property
    def bytes(self) -> int:
        """Of memory that the average takes."""
        return sum(t.numel() * t.element_size() for t in self.average.values())


def _stored(parameter: nn.Parameter) -> Tensor:
    """Where a parameter's values are between passes: with ZeRO-3 in this process's shard."""
    return getattr(parameter, "ds_tensor", parameter)


def _each_train(modules: Iterable[nn.Module], modes: Iterable[bool]) -> None:
    for module, mode in zip(modules, modes, strict=True):
        module.train(mode)
