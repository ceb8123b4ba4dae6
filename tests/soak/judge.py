"""Whether rounds show flat memory and bounded growth: by ratios to each other, never by the clock."""

import itertools
import statistics
from collections.abc import Sequence
from operator import attrgetter

from tests.soak.rounds import Round

SETTLED = 2
"""Rounds until what is loaded once has been loaded: one changed and one unchanged."""
MEMORY_PER_ROUND = 0.01
MEMORY_AT_MOST = 1.25
FILES_AT_MOST = 4
GROWTH_AT_MOST = 1.5


def troubles(done: Sequence[Round]) -> list[str]:
    """What is not as it should be; at least four rounds are needed to say.

    - memory: the last round's at most a quarter above the second's, and from eight rounds on a slope of at
      most a hundredth of it per round;
    - open files and threads: no more than a few above the second round's;
    - datasets: none by an unchanged round, by a changed one no more than by the first such;
    - stores: a round adds at most half as much again as the first of its kind did; staging is empty.
    """
    if len(done) < 2 * SETTLED:
        raise ValueError("four rounds at least")
    first, last, found = done[SETTLED - 1], done[-1], []
    if last.memory > MEMORY_AT_MOST * first.memory:
        found.append(f"memory grew from {first.memory >> 20} to {last.memory >> 20} MB")
    if len(done) >= 8 and (slope := memory_slope(done)) > MEMORY_PER_ROUND * first.memory:
        found.append(f"memory grows by {slope / 2**20:.1f} MB per round")
    for name, of in (("open files", attrgetter("files")), ("threads", attrgetter("threads"))):
        if of(last) > of(first) + FILES_AT_MOST:
            found.append(f"{name} grew from {of(first)} to {of(last)}")
    for changed in (True, False):
        same = [(before, now) for before, now in itertools.pairwise(done) if now.changed is changed]
        made = [now.datasets - before.datasets for before, now in same]
        if max(made) > (made[0] if changed else 0):
            found.append(f"{'changed' if changed else 'unchanged'} rounds made {made} datasets")
        for store in first.sizes:
            grown = [now.sizes[store] - before.sizes[store] for before, now in same]
            if max(grown[1:], default=0) > max(GROWTH_AT_MOST * grown[0], 1 << 20):
                found.append(
                    f"{store} grew by {grown[0]:,} bytes in the first such round, later {max(grown):,}"
                )
    if last.sizes["staging"]:
        found.append(f"staging holds {last.sizes['staging']:,} bytes")
    return found


def memory_slope(done: Sequence[Round]) -> float:
    """Bytes per round, by least squares over what comes after the settling."""
    later = done[SETTLED:]
    return statistics.linear_regression([r.number for r in later], [r.memory for r in later]).slope
