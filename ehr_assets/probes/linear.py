"""Linear models on standardized columns: L2 logistic regression, and ridge regression for numbers.

Fitted on train rows only; the strength of the penalty is chosen on development (`choose.py`). Nothing in
here reads files.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehr_assets.probes.choose import Choice, choose_strength
from ehr_assets.probes.rows import How, NoModelError, Rows, joined
from ehr_assets.probes.scaling import Scaler, fit_scaler, scaling_of

L2_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""sklearn's `C` (inverse strength) for 1,000 rows: scaled by 1000 / n, to mean the same at any size."""

RIDGE_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Penalty per row, of standardized columns: sklearn's `alpha` / n."""

MOST_ITERATIONS = 500


@dataclass(frozen=True)
class Linear:
    """A fitted model: ``scaler(X) @ coefficients + intercept``, as log odds where it is logistic."""

    scaler: Scaler
    coefficients: NDArray[np.float64]
    intercept: float
    logistic: bool
    choice: Choice
    converged: bool = True

    @property
    def chosen(self) -> Mapping[str, Any]:
        return {
            "strength": self.choice.strength,
            "folds": self.choice.folds,
            "chosen_by": "cross_validation" if self.choice.folds else "default",
            "converged": self.converged,
        }

    def predict(self, rows: Rows) -> NDArray[np.float32]:
        z = self.scaler(rows.X) @ self.coefficients + self.intercept
        if self.logistic:
            z = 1 / (1 + np.exp(-np.clip(z, -700, 700)))
        return z.astype(np.float32)


def fit_logistic(train: Rows, tuning: Rows, how: How) -> Linear:
    """Logistic regression; of train rows with both classes."""
    scaler = fit_scaler(train)
    choice = choose_strength(joined(train, tuning), L2_STRENGTHS, how, _logistic_path)
    train.saw("logistic")
    ((coefficients, intercept, converged),) = _logistic(scaler(train.X), train.y, [choice.strength], tol=1e-5)
    return Linear(scaler, coefficients, intercept, True, choice, converged)


def fit_ridge(train: Rows, tuning: Rows, how: How) -> Linear:
    """Ridge regression. Raises NoModelError where the number never differs."""
    if np.ptp(train.y) == 0:
        raise NoModelError("constant_outcome")
    scaler = fit_scaler(train)
    choice = choose_strength(joined(train, tuning), RIDGE_STRENGTHS, how, _ridge_path)
    train.saw("ridge")
    coefficients, intercept = _ridge(scaler(train.X), train.y, choice.strength)
    return Linear(scaler, coefficients, intercept, False, choice)


def _logistic_path(X: Any, y: NDArray, X_test: Any, strengths: Sequence[float]) -> NDArray[np.float64]:
    """Margins."""
    scaler = scaling_of(X)
    Z, Z_test = scaler(X), scaler(X_test)
    return np.array([Z_test @ w + b for w, b, _ in _logistic(Z, y, strengths, tol=1e-4)])


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


def _ridge_path(X: Any, y: NDArray, X_test: Any, strengths: Sequence[float]) -> NDArray[np.float64]:
    scaler = scaling_of(X)
    Z, Z_test = scaler(X), scaler(X_test)
    return np.array([Z_test @ w + b for w, b in (_ridge(Z, y, s) for s in strengths)])


def _ridge(Z: Any, y: NDArray, strength: float) -> tuple[NDArray[np.float64], float]:
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=strength * len(y)).fit(Z, y)
    return np.asarray(model.coef_, dtype=np.float64), float(model.intercept_)
