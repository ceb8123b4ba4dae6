"""What metrics share: weights block by block, ratios, and the weight of pairs of rows, walked in order.

Rows are walked one by one, all resamples of a row at once. Per row that is a handful of vector operations on
numbers in the processor's nearest cache, which beats whole-matrix running sums and permutations four times.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Kernel = Callable[[Floats], Floats]
"""Weights (n, replicates) >= 0, float64, a row's weights side by side -> values (replicates,)."""

BLOCK = 1024
"""Resamples that are walked together: three vectors of 8 kB."""

APART, PASS, MEET, TIE = 0, 1, 2, 3
"""Steps of a walk: it begins anew; a row is left behind; it meets those behind it; it does for one half."""

Step = tuple[int, int]
"""(what, row)."""


def evaluate(kernel: Kernel, weights: NDArray) -> Floats:
    """The metric for each row of `weights` (replicates, n); NaN throughout where n is 0."""
    replicates, n = weights.shape
    if n == 0:
        return np.full(replicates, np.nan)
    return by_blocks(kernel, np.ascontiguousarray(weights.T, dtype=np.float64))


def by_blocks(kernel: Kernel, weights: Floats) -> Floats:
    """`kernel` on weights (n, replicates), `BLOCK` resamples at a time."""
    out = np.empty(weights.shape[1])
    for start in range(0, len(out), BLOCK):
        out[start : start + BLOCK] = kernel(weights[:, start : start + BLOCK])
    return out


def ratio(top: NDArray, bottom: NDArray, otherwise: float = np.nan) -> Floats:
    """top / bottom where bottom is positive."""
    return np.divide(top, bottom, out=np.full(np.shape(bottom), otherwise), where=bottom > 0)


def walk(steps: Sequence[Step]) -> Kernel:
    """The weight of all pairs of a row that meets and a row that is behind it by then."""

    def kernel(w: Floats) -> Floats:
        behind, met, tied, product = (np.zeros(w.shape[1]) for _ in range(4))
        for what, row in steps:
            if what == PASS:
                np.add(behind, w[row], out=behind)
            elif what == APART:
                behind.fill(0)
            else:
                np.multiply(behind, w[row], out=product)
                kind = met if what == MEET else tied
                np.add(kind, product, out=kind)
        return met + tied / 2

    return kernel


def steps_to_win(
    score: NDArray, contends: NDArray, rows: NDArray | None = None, group: NDArray | None = None
) -> list[Step]:
    """A walk in which the rows that contend meet the others of lower score; at equal score, they tie.

    score: (n,). contends: (n,) bool. rows: (n,) their positions in the weights, 0 to n - 1 if not said.
    group: (n,) whole numbers >= 0; only rows of one group meet. Where scores tie, a row that contends meets
    those of lower score and those of no higher score, for one half each.
    """
    rows = np.arange(len(score)) if rows is None else rows
    levels, level = np.unique(score, return_inverse=True)
    if group is not None:
        levels, level = np.unique(group * len(levels) + level, return_inverse=True)
    both = np.zeros((2, len(levels)), dtype=bool)
    both[0, level[contends]], both[1, level[~contends]] = True, True
    mixed = both[0] & both[1]
    tied = contends & mixed[level]
    parts = [  # the order within a level, what, row, of whom
        (2, PASS, ~contends),
        (2, MEET, contends & ~tied),
        (1, TIE, tied),
        (3, TIE, tied),
    ]
    order = [level[who] * 4 + place for place, _, who in parts]
    whats = [np.full(who.sum(), what) for _, what, who in parts]
    called = [rows[who] for _, _, who in parts]
    if group is not None:
        first = np.unique(group, return_index=True)[1]
        lowest = np.full(int(group.max(initial=-1)) + 1, len(levels))
        np.minimum.at(lowest, group, level)
        order.append(lowest[group[first]] * 4)
        whats.append(np.full(len(first), APART))
        called.append(np.zeros(len(first), np.int64))
    at = np.argsort(np.concatenate(order), kind="stable")
    return list(zip(np.concatenate(whats)[at].tolist(), np.concatenate(called)[at].tolist(), strict=True))
