"""Whether the representations of a trained world model have collapsed, judged by its history.

A target encoder that maps every record to the same few states makes JEPA's loss small and its states useless
(SMB §3.2). The figures are those of `models/statistics.py`, of the target encoder on the tuning examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ehr_assets.training.history import Row

SPREAD = 0.01
"""States that differ in less than a hundredth of their length are one vector and its rounding: a step of
bfloat16, which has 8 significant bits, is 0.004 of a number."""
SHRUNK = 0.01
"""Of the std at the first tuning pass. Where norms are trained, all states may shrink together: that lowers
the loss and leaves spread and rank as they are."""
RANK = 2.0
"""States along one line have an effective rank of 1, of a plane at most 2."""
RANK_SHARE = 0.01
"""Of the rank that so many states in so many dimensions can have: 41 of 4,096. Low on purpose: language
models use their dimensions unevenly, and this check stops what follows."""


@dataclass(frozen=True)
class CollapseFinding:
    """What the last tuning pass of those weights says.

    Attributes:
        problem: why the representations cannot be used; None where they can, or where nothing was to judge.
        figures: what it was judged by; empty where nothing was.
    """

    problem: str | None
    figures: dict[str, float]

    @property
    def ok(self) -> bool:
        return self.problem is None


def judge_collapse(rows: Sequence[Row], step: int | None = None) -> CollapseFinding:
    """Judges a training with a target encoder by its history, or the weights of one of its steps.

    A training without any tuning pass has nothing to show for itself, and does not pass.
    """
    measured = [row["target"] for row in rows if row.get("target") and (step is None or row["step"] <= step)]
    if not measured:
        return CollapseFinding("no tuning pass with a target encoder: there is nothing to judge by", {})
    first, last = measured[0], measured[-1]
    needed = max(RANK, RANK_SHARE * last["possible_rank"])
    figures = {**last, "needed_rank": needed, "first_std": first["std"]}
    sound = {
        "the states of different tokens are nearly the same vector": last["spread"] >= SPREAD,
        "the states lie in too few directions": last["effective_rank"] >= needed,
        "the states have shrunk to nothing": last["std"] >= SHRUNK * first["std"],
    }
    problems = [said for said, fine in sound.items() if not fine]  # what is not a number is not fine
    return CollapseFinding("; ".join(problems) or None, figures)
