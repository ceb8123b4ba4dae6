"""What is chosen and not fitted: a penalty and columns by patient-grouped cross-validation, a threshold.

Cross-validation is over development (train and tuning); what is then fitted is fitted on train alone, so that
the tuning subjects can still say where a threshold lies.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ehr_assets.probes.rows import How, Rows

NOISE = 0.002
"""AUROCs (or shares of explained variance) that differ by less are not told apart."""

Columns = Literal["standardized", "whitened"]


@dataclass(frozen=True)
class Setting:
    """How a linear model is fitted: on which columns, and how strong its penalty is (as `linear.py` says)."""

    columns: Columns
    strength: float


Path = Callable[[Any, NDArray, Any, Sequence[Setting]], NDArray]
"""(X, y, X_test, settings) -> (settings, n_test) answers of models fitted on (X, y), scaling included."""


@dataclass(frozen=True)
class Choice:
    """The setting, from how many folds it follows (0: it is the default), and its score over them."""

    setting: Setting
    folds: int
    score: float


def choose_setting(
    development: Rows, settings: Sequence[Setting], default: Setting, how: How, path: Path
) -> Choice:
    """The setting that predicts subjects best whom it has not seen.

    Score of a fold: AUROC, or for numbers the share of variance explained; the mean over folds counts. Those
    within `NOISE` of the best count as equal, and the loss (log loss, squared error) over all left-out rows
    decides among them: a penalty that ranks as well but squeezes all probabilities together is no better.
    Other columns than the default's must be better, in score or in loss, by more than a standard error of the
    folds' differences: where positives are few, they win by chance. Without two folds that hold both classes
    on either side, it is the default.
    """
    development.saw("folds", "chosen")
    y, binary = development.y, development.kind == "binary"
    scores, losses = [], []
    for fit, left_out in grouped_folds(development, how.folds):
        if binary and (len(np.unique(y[fit])) < 2 or len(np.unique(y[left_out])) < 2):
            continue
        answers = path(development.X[fit], y[fit], development.X[left_out], settings)
        scores.append(score(y[left_out], answers, binary=binary))
        losses.append(_losses(y[left_out], answers, binary=binary))
    if len(scores) < 2:
        return Choice(default, 0, float("nan"))
    by_fold, loss = np.array(scores), np.concatenate(losses, axis=1).mean(axis=1)
    plain = np.array([setting.columns == default.columns for setting in settings])
    best, usual = (_best(by_fold.mean(axis=0), loss, among) for among in (np.ones_like(plain), plain))
    lost = np.array([of_fold.mean(axis=1) for of_fold in losses])
    if not (_sure(by_fold[:, best] - by_fold[:, usual]) or _sure(lost[:, usual] - lost[:, best])):
        best = usual
    return Choice(settings[best], len(scores), float(by_fold[:, best].mean()))


def _sure(gain: NDArray) -> bool:
    """Whether the mean over folds lies above its standard error."""
    return bool(gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain)))


def _best(mean: NDArray, loss: NDArray, among: NDArray[np.bool_]) -> int:
    """Of least loss among those within `NOISE` of the best score; among all where there are no scores."""
    highest = np.nanmax(mean[among]) if np.isfinite(mean[among]).any() else np.nan
    return int(np.argmin(np.where(among & ~(mean < highest - NOISE), loss, np.inf)))


def grouped_folds(rows: Rows, most: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """(fit, left out) positions: no subject in two folds, classes as even as that allows.

    As many as there are subjects of the rarer class, at most `most`; none where that is fewer than two.
    """
    binary = rows.kind == "binary"
    return _folds(rows.subject_id.tobytes(), rows.y.tobytes() if binary else None, most)


@lru_cache(maxsize=2)
def _folds(
    subject_bytes: bytes, y_bytes: bytes | None, most: int
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """The methods of a task have the same rows: their folds are dealt once."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    subjects = np.frombuffer(subject_bytes, dtype=np.int64)
    if y_bytes is None:
        k = min(most, len(np.unique(subjects)))
        return list(GroupKFold(k).split(subjects, groups=subjects)) if k >= 2 else []
    y = np.frombuffer(y_bytes, dtype=np.float64)
    k = min(most, *(len(np.unique(subjects[y == value])) for value in (0, 1)))
    return list(StratifiedGroupKFold(k).split(subjects, y, subjects)) if k >= 2 else []


def score(y: NDArray, answers: NDArray, *, binary: bool) -> NDArray[np.float64]:
    """AUROC, or the share of variance explained, of answers (…, n); NaN where it is not defined.

    Higher is better. Equal to `sklearn.metrics.roc_auc_score` and `r2_score`, for many answers at once.
    """
    if len(np.unique(y)) < 2:
        return np.full(answers.shape[:-1], np.nan)
    if not binary:
        return 1 - ((y - answers) ** 2).sum(axis=-1) / ((y - y.mean()) ** 2).sum()
    from scipy.stats import rankdata

    positive = y == 1
    n = int(positive.sum())
    above = rankdata(answers, axis=-1)[..., positive].sum(axis=-1) - n * (n + 1) / 2
    return above / (n * (len(y) - n))


def _losses(y: NDArray, answers: NDArray, *, binary: bool) -> NDArray[np.float64]:
    """Row by row: squared error, or the log loss of answers that are margins (log odds)."""
    return np.logaddexp(0, np.where(y == 1, -answers, answers)) if binary else (y - answers) ** 2


def threshold(tuning: Rows, probability: NDArray) -> float:
    """The probability from which a node counts as positive: `youden_threshold` of the tuning rows."""
    tuning.saw("threshold", "chosen")
    return youden_threshold(tuning.y, probability)


def youden_threshold(y: NDArray, probability: NDArray) -> float:
    """The threshold with the largest sensitivity + specificity on (y, probability); 0.5 if one class."""
    positive = y == 1
    if len(y) == 0 or positive.all() or not positive.any():
        return 0.5
    cuts = np.unique(probability)
    below = np.searchsorted(np.sort(probability[positive]), cuts, side="left")
    below_negative = np.searchsorted(np.sort(probability[~positive]), cuts, side="left")
    youden = (1 - below / positive.sum()) + below_negative / (~positive).sum()
    return float(cuts[np.argmax(youden)])
