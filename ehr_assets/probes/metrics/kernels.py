"""What metrics share: weights block by block, ratios, and the weight of pairs of rows, walked in order.

Rows are walked one by one, all resamples of a row at once. Per row that is a handful of vector operations on
numbers in the processor's nearest cache, which beats whole-matrix running sums and permutations four times.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Kernel = Callable[[Floats], Floats]
"""Weights (n, replicates) >= 0, float64, a row's weights side by side -> values (replicates,)."""

BLOCK = 1024
"""Resamples that are walked together: three vectors of 8 kB."""

PASS, MEET, TIE = 0, 1, 2
"""Steps of a walk: a row is left behind; it meets those behind it; it meets them, to count one half."""

Step = tuple[int, int]


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


def walk(walks: Sequence[Sequence[Step]]) -> Kernel:
    """The weight of all pairs (a row that meets, a row that it has behind it), over independent walks.

    walks: each a sequence of (PASS, MEET or TIE, row), in order.
    """

    def kernel(w: Floats) -> Floats:
        met, tied, product = (np.zeros(w.shape[1]) for _ in range(3))
        for steps in walks:
            behind = np.zeros(w.shape[1])
            for what, row in steps:
                if what == PASS:
                    np.add(behind, w[row], out=behind)
                else:
                    np.multiply(behind, w[row], out=product)
                    kind = met if what == MEET else tied
                    np.add(kind, product, out=kind)
        return met + tied / 2

    return kernel


def levels(of: NDArray) -> Iterator[NDArray[np.int64]]:
    """The positions of each distinct value, lowest value first."""
    order = np.argsort(of, kind="stable")
    ordered = np.asarray(of)[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else []
    for start, end in pairwise([*starts, len(order)]):
        yield order[start:end]


def steps_to_win(score: NDArray, contends: NDArray) -> list[Step]:
    """A walk in which the rows that contend meet the others of lower score; at equal score, they tie.

    score, contends: (n,) of the rows 0 to n - 1.
    """
    steps: list[Step] = []
    for rows in levels(score):
        mine = contends[rows]
        if mine.all():
            steps += [(MEET, row) for row in rows.tolist()]
        elif not mine.any():
            steps += [(PASS, row) for row in rows.tolist()]
        else:  # half of who is below and half of who is not above: the tied count one half
            ties = [(TIE, row) for row in rows[mine].tolist()]
            steps += [*ties, *((PASS, row) for row in rows[~mine].tolist()), *ties]
    return steps


def relabelled(steps: Sequence[Step], rows: NDArray) -> list[Step]:
    """The same walk, its row k being `rows[k]`."""
    names = rows.tolist()
    return [(what, names[row]) for what, row in steps]
