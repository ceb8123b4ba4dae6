"""What tells whether representations collapse: spread, effective rank, agreement of online and target."""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity


class TargetStatistics:
    """Of the target encoder's states, gathered batch by batch and, if wanted, over processes.

    Collapsed representations are those that do not differ: their spread goes to nothing, or lies in few
    directions (SMB §3.2: "trivial solutions where all representations are identical").

    Args:
        size: d, of a state.
        device: where sums are kept.
    """

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        # count, sum of cosines; sums; products: one tensor, so that processes add theirs in one exchange.
        self.sums = torch.zeros(2 + size + size * size, dtype=torch.float64, device=device)
        self._size = size

    def add(self, online: Tensor, target: Tensor) -> None:
        """States of the same tokens, ``[T, d]`` each."""
        states, d = target.double(), self._size
        self.sums[0] += len(states)
        self.sums[1] += cosine_similarity(online.double(), states).sum()
        self.sums[2 : 2 + d] += states.sum(0)
        self.sums[2 + d :] += (states.T @ states).flatten()

    def result(self) -> dict[str, float]:
        """What there is to know of the states.

        Returns:
            std: of a dimension, the mean over dimensions; std_min: the smallest.
            spread: the part of the states' length in which tokens differ, sqrt(E|h - mean|² / E|h|²): 0 where
            all are the same vector, 1 where their mean is nothing.
            effective_rank: the exponential of the entropy of the normalised singular values of the centred
            states (Roy & Vetterli 2007); between 1 and possible_rank, the most that so many states in d
            dimensions can have.
            cosine: between online and target states, the mean over tokens.
        """
        d, n = self._size, self.sums[0].clamp(min=1)
        mean = self.sums[2 : 2 + d] / n
        covariance = self.sums[2 + d :].view(d, d) / n - torch.outer(mean, mean)
        std = covariance.diagonal().clamp(min=0).sqrt()
        singular = torch.linalg.eigvalsh(covariance).clamp(min=0).sqrt()
        share = singular / singular.sum().clamp(min=1e-300)
        entropy = -torch.special.xlogy(share, share).sum()
        length = self.sums[2 + d :].view(d, d).trace() / n
        return {
            "std": float(std.mean()),
            "std_min": float(std.min()),
            "spread": float((covariance.trace().clamp(min=0) / length.clamp(min=1e-300)).sqrt()),
            "effective_rank": float(entropy.exp()),
            "possible_rank": float(max(1, min(d, int(n) - 1))),
            "cosine": float(self.sums[1] / n),
        }
