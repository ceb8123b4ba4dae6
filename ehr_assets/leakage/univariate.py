"""Single features that tell the outcome on held-out subjects: as a rule a leak, and always worth a name.

AUROC of every feature for every task, in either direction, a value never measured counting as lower than all.
Above 0.98 a feature is named. It stops the chain when that is no accident of few positives: with at least 20
of them, and at least 10 subjects in either class (the nodes of one are alike); or when the lower end of its
interval over resampled subjects is above 0.98 too, and the feature tells nearly as much, in the same
direction, of the development subjects. What a cohort file accepts, with a reason, is named and stops nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ehr_assets.leakage.accepted_spec import AcceptedFeature, accepted_because
from ehr_assets.leakage.findings import Finding

GUARD = "no_single_feature_tells"
LIMIT = 0.98
CONFIRMED = 0.95
ENOUGH, ENOUGH_SUBJECTS = 20, 10
FEWEST = 5
MOST_ROWS = 20_000
"""Held-out nodes looked at, of subjects drawn at random: with more, an AUROC above the limit is as sure."""
_RESAMPLES = 200


@dataclass(frozen=True)
class Outcomes:
    """What features are held against: names of tasks, and y (n, tasks) of 1, 0 and NaN (not evaluable)."""

    tasks: Sequence[str]
    y: NDArray[np.float64]


def single_features(
    scope: str,
    X: NDArray[np.float32],
    names: Sequence[str],
    outcomes: Outcomes,
    subjects: NDArray[np.int64],
    split: NDArray[np.str_],
    seed: int = 0,
    accepted: Sequence[AcceptedFeature] = (),
) -> list[Finding]:
    """A finding per (task, feature) above the limit, and one for all.

    Args:
        X: (n, f), NaN where never measured; names: (f,). subjects, split: (n,).
    """
    held_out = np.flatnonzero(split == "held_out")
    development = np.flatnonzero(np.isin(split, ("train", "tuning")))
    rows, rest = (part[at_most(MOST_ROWS, subjects[part], seed)] for part in (held_out, development))
    y = outcomes.y[rows]
    positives, negatives = (y == 1).sum(axis=0), (y == 0).sum(axis=0)
    asked = (positives >= FEWEST) & (negatives >= FEWEST)
    named: list[Finding] = []
    highest = 0.5
    for j, name in enumerate(names):
        x = _measured(X[rows, j])
        area = np.where(asked, aurocs(x, y), 0.5)
        highest = max(highest, float(np.maximum(area, 1 - area).max(initial=0.5)))
        for task in np.flatnonzero(np.maximum(area, 1 - area) > LIMIT).tolist():
            up = area[task] > 0.5
            before = aurocs(_measured(X[rest, j]), outcomes.y[rest][:, [task]])[0]
            low = _lower_end(x if up else -x, y[:, task], subjects[rows], seed)
            confirmed = low > LIMIT and (before if up else 1 - before) > CONFIRMED
            people = min(len(np.unique(subjects[rows][y[:, task] == value])) for value in (0, 1))
            certain = (positives[task] >= ENOUGH and people >= ENOUGH_SUBJECTS) or confirmed
            why = accepted_because(accepted, outcomes.tasks[task], name)
            note = f"; accepted: {why}" if why else "" if certain else "; may be chance"
            named.append(
                Finding(
                    GUARD,
                    scope,
                    "fail" if certain and not why else "warn",
                    f"{outcomes.tasks[task]}: {name}",
                    float(area[task] if up else 1 - area[task]),
                    LIMIT,
                    int(positives[task] + negatives[task]),
                    f"{positives[task]} positives{note}",
                )
            )
    looked = f"{len(names)} features, {int(asked.sum())} tasks with {FEWEST} held-out nodes of each class"
    return [Finding(GUARD, scope, "ok", None, highest, LIMIT, len(rows), looked), *named]


def aurocs(x: NDArray, y: NDArray) -> NDArray[np.float64]:
    """AUROC of one score x (n,) for the outcomes y (n, t) of 1, 0, NaN; ties count half, NaN if one class."""
    order = np.argsort(x, kind="stable")
    ordered = x[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(x) else np.zeros(0, np.int64)
    if not len(starts):
        return np.full(y.shape[1], np.nan)
    positive = np.add.reduceat((y[order] == 1).astype(np.float64), starts, axis=0)
    negative = np.add.reduceat((y[order] == 0).astype(np.float64), starts, axis=0)
    below = np.cumsum(negative, axis=0) - negative
    wins = (positive * (below + negative / 2)).sum(axis=0)
    pairs = positive.sum(axis=0) * negative.sum(axis=0)
    return np.divide(wins, pairs, out=np.full(y.shape[1], np.nan), where=pairs > 0)


def _measured(x: NDArray) -> NDArray[np.float64]:
    """NaN as something below every number."""
    return np.where(np.isnan(x), -np.inf, x).astype(np.float64)


def at_most(most: int, subjects: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Positions, ascending, of at most `most` rows (all when they are not more), by whole subjects at random.

    subjects: (n,) of the rows. One subject is kept however many rows it has.
    """
    if len(subjects) <= most:
        return np.arange(len(subjects))
    _, of, sizes = np.unique(subjects, return_inverse=True, return_counts=True)
    order = np.random.default_rng([seed, 3]).permutation(len(sizes))
    drawn = order[: max(1, int(np.searchsorted(np.cumsum(sizes[order]), most, side="right")))]
    return np.flatnonzero(np.isin(of, drawn))


def _lower_end(x: NDArray, y: NDArray, subjects: NDArray[np.int64], seed: int) -> float:
    """2.5th percentile of the AUROC over subjects drawn with replacement; 0 where it cannot be told."""
    known = ~np.isnan(y)
    ids, at = np.unique(subjects[known], return_inverse=True)
    rows = [np.flatnonzero(at == i) for i in range(len(ids))]
    rng = np.random.default_rng([seed, 5])
    x, y = x[known], y[known]
    drawn = []
    for _ in range(_RESAMPLES):
        taken = np.concatenate([rows[i] for i in rng.integers(0, len(ids), len(ids))])
        drawn.append(aurocs(x[taken], y[taken][:, None])[0])
    found = np.array(drawn)[~np.isnan(drawn)]
    return float(np.percentile(found, 2.5)) if len(found) > _RESAMPLES / 2 else 0.0
