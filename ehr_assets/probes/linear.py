"""Linear models: L2 logistic regression, and ridge regression for numbers.

On standardized columns or on their whitened principal components, whichever predicts better. The states of
a trained encoder vary in a few directions by far the most (8 of 128 held 98 % of the variance on TCGA), and
the outcome may be told by the others: an L2 penalty on columns as they are forbids to look there. Fitted on
train rows only; columns and penalty are chosen on development (`choose.py`). Nothing in here reads files.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehr_assets.probes.choose import Choice, Columns, Path, Setting, choose_setting
from ehr_assets.probes.rows import How, NoModelError, Rows, joined
from ehr_assets.probes.scaling import Scaler, Whitener, fit_scaler, principal_components, scaling_of

L2_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""sklearn's `C` (inverse strength) for 1,000 rows: scaled by 1000 / n, to mean the same at any size."""

RIDGE_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Penalty per row, of columns of unit variance: sklearn's `alpha` / n."""

COLUMNS: tuple[Columns, ...] = ("standardized", "whitened")
"""What is tried; of sparse columns, whose components would be dense, only the first."""

MOST_COMPONENTS = 512
MOST_ITERATIONS = 500


@dataclass(frozen=True)
class Linear:
    """A fitted model: ``columns(X) @ coefficients + intercept``, as log odds where it is logistic."""

    columns: Scaler | Whitener
    coefficients: NDArray[np.float64]
    intercept: float
    logistic: bool
    choice: Choice
    converged: bool = True

    @property
    def chosen(self) -> Mapping[str, Any]:
        return {
            "columns": self.choice.setting.columns,
            "strength": self.choice.setting.strength,
            "folds": self.choice.folds,
            "chosen_by": "cross_validation" if self.choice.folds else "default",
            "converged": self.converged,
        }

    def predict(self, rows: Rows) -> NDArray[np.float32]:
        z = self.columns(rows.X) @ self.coefficients + self.intercept
        if self.logistic:
            z = 1 / (1 + np.exp(-np.clip(z, -700, 700)))
        return z.astype(np.float32)


def fit_logistic(train: Rows, tuning: Rows, how: How) -> Linear:
    """Logistic regression; of train rows with both classes."""
    scaler = fit_scaler(train)
    choice = _chosen(train, tuning, L2_STRENGTHS, how, _logistic_path)
    columns = _fit_columns(train, scaler, choice)
    train.saw("logistic")
    strength = choice.setting.strength
    ((coefficients, intercept, converged),) = _logistic(columns(train.X), train.y, [strength], tol=1e-5)
    return Linear(columns, coefficients, intercept, True, choice, converged)


def fit_ridge(train: Rows, tuning: Rows, how: How) -> Linear:
    """Ridge regression. Raises NoModelError where the number never differs."""
    if np.ptp(train.y) == 0:
        raise NoModelError("constant_outcome")
    scaler = fit_scaler(train)
    choice = _chosen(train, tuning, RIDGE_STRENGTHS, how, _ridge_path)
    columns = _fit_columns(train, scaler, choice)
    train.saw("ridge")
    coefficients, intercept = _ridge(columns(train.X), train.y, choice.setting.strength)
    return Linear(columns, coefficients, intercept, False, choice)


def _chosen(train: Rows, tuning: Rows, strengths: Sequence[float], how: How, path: Path) -> Choice:
    tried = COLUMNS if isinstance(train.X, np.ndarray) else COLUMNS[:1]
    settings = [Setting(columns, strength) for columns in tried for strength in strengths]
    default = Setting(COLUMNS[0], strengths[len(strengths) // 2])
    return choose_setting(joined(train, tuning), settings, default, how, path)


def _fit_columns(train: Rows, scaler: Scaler, choice: Choice) -> Scaler | Whitener:
    if choice.setting.columns == "standardized":
        return scaler
    train.saw("pca")
    loadings = _loadings(scaler(train.X))
    return scaler if loadings is None else Whitener(scaler, loadings)


def _loadings(Z: NDArray) -> NDArray[np.float64] | None:
    """None where no column of Z varies, as in a fold it may be."""
    loadings = principal_components(Z, MOST_COMPONENTS)
    return loadings if loadings.shape[1] else None


def _by_columns(
    X: Any, X_test: Any, settings: Sequence[Setting]
) -> Iterator[tuple[NDArray, NDArray, list[float]]]:
    """(Z, Z_test, strengths) of each kind of columns in `settings`, made of X; in the order of `settings`."""
    scaler = scaling_of(X)
    Z, Z_test = scaler(X), scaler(X_test)
    for columns, own in groupby(settings, key=lambda setting: setting.columns):
        strengths = [setting.strength for setting in own]
        loadings = _loadings(Z) if columns == "whitened" else None
        yield (Z, Z_test, strengths) if loadings is None else (Z @ loadings, Z_test @ loadings, strengths)


def _logistic_path(X: Any, y: NDArray, X_test: Any, settings: Sequence[Setting]) -> NDArray[np.float64]:
    """Margins."""
    return np.array(
        [
            Z_test @ w + b
            for Z, Z_test, strengths in _by_columns(X, X_test, settings)
            for w, b, _ in _logistic(Z, y, strengths, tol=1e-4)
        ]
    )


def _logistic(
    Z: Any, y: NDArray, strengths: Sequence[float], *, tol: float
) -> Iterator[tuple[NDArray[np.float64], float, bool]]:
    """(coefficients, intercept, converged) by strength; each begins where the one before it ended."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(warm_start=True, max_iter=MOST_ITERATIONS, tol=tol)
    for strength in strengths:
        model.set_params(C=strength * 1000 / len(y))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it is told instead
            model.fit(Z, y)
        done = int(np.max(model.n_iter_)) < MOST_ITERATIONS
        yield model.coef_[0].copy(), np.asarray(model.intercept_).item(), done


def _ridge_path(X: Any, y: NDArray, X_test: Any, settings: Sequence[Setting]) -> NDArray[np.float64]:
    return np.array(
        [
            Z_test @ w + b
            for Z, Z_test, strengths in _by_columns(X, X_test, settings)
            for w, b in (_ridge(Z, y, strength) for strength in strengths)
        ]
    )


def _ridge(Z: Any, y: NDArray, strength: float) -> tuple[NDArray[np.float64], float]:
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=strength * len(y)).fit(Z, y)
    return np.asarray(model.coef_, dtype=np.float64), float(model.intercept_)
