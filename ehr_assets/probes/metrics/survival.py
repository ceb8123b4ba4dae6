"""Metrics of risks against times to event: Harrell's concordance, time-dependent AUROC."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ehr_assets.probes.metrics.kernels import MEET, PASS, Floats, Kernel, Step, ratio, steps_to_win, walk


def c_index(duration: NDArray, observed: NDArray, risk: NDArray) -> Kernel:
    """Harrell's concordance: does the higher risk have its event earlier?

    duration: (n,) > 0, any unit. observed: (n,) bool. risk: (n,), higher is worse. A pair counts when the
    earlier of the two times is an event (an event and a censoring at the same time count, the event being
    first); equal risks count one half. With weights of one, it equals lifelines'
    `concordance_index(duration, -risk, observed)`. Each of the O(n^2) pairs differs in one highest bit of the
    rank of its times, so that O(log n) walks over the rows count them all.
    """
    duration, observed = np.asarray(duration, np.float64), np.asarray(observed, bool)
    risk = np.asarray(risk, np.float64)
    # At one time, an event stands before a censoring, and two events at none of them.
    rank = 2 * np.unique(duration, return_inverse=True)[1].reshape(len(duration)) + ~observed
    rank = np.unique(rank, return_inverse=True)[1].reshape(len(duration))
    steps: list[Step] = []
    for bit in range(int(rank.max(initial=0)).bit_length()):
        late, pair = (rank >> bit & 1).astype(bool), rank >> (bit + 1)
        early = observed & ~late & np.isin(pair, pair[late])
        rows = np.flatnonzero(early | (late & np.isin(pair, pair[early])))
        steps += steps_to_win(risk[rows], early[rows], rows, pair[rows])
    # Latest first; at one rank, they meet before they pass, so that none of them meets another.
    latest_first = np.argsort(-rank, kind="stable")
    by_rank = np.split(latest_first, np.flatnonzero(np.diff(-rank[latest_first])) + 1)
    compared = [
        step
        for rows in by_rank
        for step in (
            *((MEET, row) for row in rows[observed[rows]].tolist()),
            *((PASS, row) for row in rows.tolist()),
        )
    ]
    wins, pairs = walk(steps), walk(compared)

    def kernel(w: Floats) -> Floats:
        return ratio(wins(w), pairs(w))

    return kernel


@dataclass(frozen=True)
class CensoringCurve:
    """Kaplan-Meier estimate of the share not yet censored; `fitted` on train subjects, used on others."""

    times: NDArray[np.float64]  # (k,) of censorings, increasing
    uncensored: NDArray[np.float64]  # (k,) share right after each

    @classmethod
    def fitted(cls, duration: NDArray, censored: NDArray) -> "CensoringCurve":
        """duration: (n,). censored: (n,) bool; every other end (event, competing event) is none."""
        duration, censored = np.asarray(duration, np.float64), np.asarray(censored, bool)
        times, counts = np.unique(duration[censored], return_counts=True)
        at_risk = len(duration) - np.searchsorted(np.sort(duration), times, side="left")
        return cls(times, np.cumprod(1 - counts / at_risk, dtype=np.float64))

    def before(self, time: NDArray) -> NDArray[np.float64]:
        """(n,) the share not yet censored just before each time."""
        return np.r_[1.0, self.uncensored][np.searchsorted(self.times, time, side="left")]


def time_dependent_auroc(
    duration: NDArray, status: NDArray, risk: NDArray, horizon: float, censoring: CensoringCurve
) -> Kernel:
    """Cumulative/dynamic AUROC at `horizon`: has who has the event by then a higher risk than who has not?

    Cases: status 1 and duration <= horizon, weighted by 1 / P(not censored before their event) (Uno et al.
    2007, eq 5; Blanche et al. 2013). Controls: alive and without event at the horizon; one weight for all, so
    none is needed. Neither: censored before the horizon, and competing events before it (status 2). A case at
    whose time nobody of those behind `censoring` was still followed has no weight and is left out.
    duration, horizon: days. status: (n,) as in nodes/frames.py.
    """
    duration, status = np.asarray(duration, np.float64), np.asarray(status)
    risk = np.asarray(risk, np.float64)
    cases = np.flatnonzero((status == 1) & (duration <= horizon))
    controls = np.flatnonzero((duration > horizon) | ((duration >= horizon) & (status == 0)))
    share = censoring.before(duration[cases])
    cases, share = cases[share > 0], share[share > 0]
    both, contends = np.r_[cases, controls], np.arange(len(cases) + len(controls)) < len(cases)
    inverse = np.r_[1 / share, np.ones(len(controls))][:, None]
    won = walk(steps_to_win(risk[both], contends))

    def kernel(w: Floats) -> Floats:
        weighted = w[both] * inverse
        return ratio(won(weighted), weighted[contends].sum(axis=0) * weighted[~contends].sum(axis=0))

    return kernel
