"""Whether a fit finds something where nothing is to be found: outcomes dealt out anew within each split.

With permuted outcomes, no honest fit tells held-out nodes apart. One that has seen the outcomes of held-out
rows, or makes features of the outcomes it is given, still does. (A feature that carries the true outcome is
no longer told here: `univariate.py` names it.) The fit is made by the very code whose scores are
reported; the AUROC and its distribution under chance are computed here. As outcomes are permuted node by
node, that distribution is exactly that of the rank sum, however nodes cluster in subjects.
"""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ehr_assets.leakage.findings import Finding

GUARD = "permuted_labels_at_chance"
FALSE_ALARMS = 1e-3
"""How often a chain without a leak would be stopped."""
FEWEST = 5

Fit = Callable[[str, NDArray[np.float64]], "NDArray[np.float64] | None"]
"""A task and its permuted outcomes (n,) → scores (n,) of a model fitted to them; None where it cannot be."""


def permuted_within(y: NDArray[np.float64], split: NDArray[np.str_], rng: np.random.Generator) -> NDArray:
    """y (n,) with its known values exchanged within each split; NaN stay where they are."""
    out = y.copy()
    for name in np.unique(split):
        rows = np.flatnonzero((split == name) & ~np.isnan(y))
        out[rows] = y[rng.permutation(rows)]
    return out


def chance_when_permuted(
    scope: str,
    fit: Fit,
    outcomes: dict[str, NDArray[np.float64]],
    split: NDArray[np.str_],
    *,
    most_tasks: int = 8,
    seed: int = 0,
) -> list[Finding]:
    """A finding per task that is off chance, and one for all: the mean over tasks and the largest of them.

    Args:
        outcomes: task → y (n,) of 1, 0, NaN.
        split: (n,) of the same nodes.
        most_tasks: those with the most held-out positives and negatives are tried.
    """
    held_out = split == "held_out"
    size = {task: min((y[held_out] == 1).sum(), (y[held_out] == 0).sum()) for task, y in outcomes.items()}
    tried = sorted((t for t in size if size[t] >= FEWEST), key=lambda t: (-size[t], t))[:most_tasks]
    scores: dict[str, float] = {}
    for i, task in enumerate(tried):
        y = permuted_within(outcomes[task], split, np.random.default_rng([seed, 17, i]))
        score = fit(task, y)
        if score is None:
            continue
        rows = held_out & ~np.isnan(y) & ~np.isnan(score)
        scores[task] = deviation(y[rows], np.asarray(score, dtype=np.float64)[rows])
    # Half of the false alarms for the largest of the tasks, half for their mean.
    limit = NormalDist().inv_cdf(1 - FALSE_ALARMS / 4 / max(len(scores), 1))
    of_mean = NormalDist().inv_cdf(1 - FALSE_ALARMS / 4)
    mean = sum(scores.values()) / max(len(scores), 1) ** 0.5
    findings = [
        Finding(GUARD, scope, "fail", task, abs(z), limit, 0, "standard errors from chance")
        for task, z in scores.items()
        if abs(z) > limit
    ]
    largest = max(map(abs, scores.values()), default=0.0)
    together = Finding(
        GUARD,
        scope,
        "fail" if abs(mean) > of_mean else "ok",
        None,
        abs(mean),
        of_mean,
        len(scores),
        f"standard errors from chance, tasks with permuted outcomes together; largest of one: {largest:.2f}",
    )
    return [together, *findings]


def deviation(y: NDArray[np.float64], score: NDArray[np.float64]) -> float:
    """(rank sum - its mean) / its standard deviation if y were dealt at random; 0 where it has none."""
    from scipy.stats import rankdata

    positive = y == 1
    n, n_pos = len(y), int(positive.sum())
    n_neg = n - n_pos
    if not n_pos or not n_neg:
        return 0.0
    ranks = rankdata(score)
    _, ties = np.unique(score, return_counts=True)
    correction = float((ties.astype(np.float64) ** 3 - ties).sum()) / (n * (n - 1))
    variance = n_pos * n_neg / 12 * (n + 1 - correction)
    if variance <= 0:
        return 0.0
    return float((ranks[positive].sum() - n_pos * (n + 1) / 2) / np.sqrt(variance))
