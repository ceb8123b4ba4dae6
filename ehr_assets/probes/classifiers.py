"""The classifiers that probes and baselines fit: L2 logistic regression and gradient-boosted trees.

Each is fitted on train rows only; tuning rows only choose (the L2 strength, the number of trees). Nothing
in here has ever seen a held-out row, and nothing in here reads files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehr_assets.probes.metrics.binary import weighted_auroc
from ehr_assets.probes.threads import blas_threads_for

L2_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Grid of sklearn's `C` (inverse strength), for 1,000 rows: scaled by 1000 / n_train, see `fit_logistic`."""

AUROC_NOISE = 0.002
"""AUROCs on tuning that differ by less are not told apart."""


@dataclass(frozen=True)
class Logistic:
    """A fitted logistic regression on standardized columns; missing values are the train mean (0)."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    intercept: float
    C: float
    tuning_auroc: float

    def probability(self, X: NDArray) -> NDArray[np.float32]:
        """(n, d) -> (n,). Rounded to float32, as it is stored: metrics can be recomputed from the file."""
        with blas_threads_for(X.size):
            z = standardize(X, self.mean, self.scale) @ self.coefficients + self.intercept
        return (1 / (1 + np.exp(-np.clip(z, -700, 700)))).astype(np.float32)


def fit_logistic(
    X: NDArray,
    y: NDArray,
    X_tuning: NDArray,
    y_tuning: NDArray,
    strengths: Sequence[float] = L2_STRENGTHS,
) -> Logistic:
    """Logistic regression on (n, d) train rows; its L2 strength has the best AUROC on the tuning rows.

    AUROCs within `AUROC_NOISE` of the best count as equal, and the log loss on tuning decides among them
    (it alone decides when tuning holds one class): a penalty that ranks as well but squeezes all
    probabilities together is no better. Without tuning rows the middle of the grid is used.
    """
    from sklearn.linear_model import LogisticRegression

    mean, scale = standardization(X)
    Z, Z_tuning = standardize(X, mean, scale), standardize(X_tuning, mean, scale)
    fitted: list[tuple[float, Logistic]] = []
    for C in strengths if len(y_tuning) else [strengths[len(strengths) // 2]]:
        # sklearn's C weighs the *sum* of row losses: dividing by n makes the grid mean the same at any size.
        model = LogisticRegression(C=C * 1000 / len(y), max_iter=500, tol=1e-5)
        with blas_threads_for(Z.size):
            model.fit(Z, y)
        coefficients, intercept = model.coef_[0], np.asarray(model.intercept_).item()
        margin = Z_tuning @ coefficients + intercept
        candidate = Logistic(mean, scale, coefficients, intercept, C, _auroc(y_tuning, margin))
        fitted.append((_log_likelihood(y_tuning, margin), candidate))
    ceiling = max((c.tuning_auroc for _, c in fitted if not np.isnan(c.tuning_auroc)), default=np.nan)
    close = [(ll, c) for ll, c in fitted if not c.tuning_auroc < ceiling - AUROC_NOISE]
    return max(close, key=lambda pair: pair[0])[1]


@dataclass(frozen=True)
class Boosted:
    """A fitted XGBoost model, cut at the round that was best on tuning."""

    booster: Any
    rounds: int
    tuning_auroc: float
    nthread: int

    def probability(self, X: NDArray) -> NDArray[np.float32]:
        """(n, d) -> (n,) float32."""
        import xgboost as xgb

        rows = xgb.DMatrix(X, nthread=self.nthread)
        return self.booster.predict(rows, iteration_range=(0, self.rounds))


def fit_boosted(
    X: NDArray,
    y: NDArray,
    X_tuning: NDArray,
    y_tuning: NDArray,
    *,
    seed: int,
    nthread: int = 1,
    max_depth: int = 4,
    max_rounds: int = 400,
) -> Boosted:
    """XGBoost (hist) on (n, d) train rows, stopped early on the log loss of the tuning rows.

    Log loss and not AUROC, because a few positives make AUROC jump too much to stop on. Deterministic for
    a given seed and number of threads. Without tuning rows, 100 rounds are made. One thread is the default:
    at a few thousand rows more are no faster, and on a busy machine, where OpenMP's threads wait for one
    another in a loop, two were seen to be 200 times slower.
    """
    import xgboost as xgb

    params = {
        "objective": "binary:logistic",
        "eval_metric": "logloss",
        "tree_method": "hist",
        "max_depth": max_depth,
        "eta": 0.08,
        "min_child_weight": 2,
        "subsample": 0.8,
        "colsample_bytree": 0.5,
        "lambda": 2.0,
        "max_bin": 64,
        "nthread": nthread,
        "seed": seed,
    }
    train = xgb.QuantileDMatrix(X, y, max_bin=64, nthread=nthread)
    if not len(y_tuning):
        return Boosted(xgb.train(params, train, 100, verbose_eval=False), 100, float("nan"), nthread)
    tuning = xgb.QuantileDMatrix(X_tuning, y_tuning, ref=train, max_bin=64, nthread=nthread)
    booster = xgb.train(
        params,
        train,
        max_rounds,
        evals=[(tuning, "tuning")],
        early_stopping_rounds=25,
        verbose_eval=False,
    )
    rounds = booster.best_iteration + 1
    margin = booster.predict(tuning, iteration_range=(0, rounds), output_margin=True)
    return Boosted(booster, rounds, _auroc(y_tuning, margin), nthread)


def standardization(X: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation per column, missing values left out; constant columns get scale 1."""
    X = np.asarray(X, dtype=np.float64)
    known = ~np.isnan(X)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, X, 0).sum(axis=0) / count
    variance = (np.where(known, X - mean, 0) ** 2).sum(axis=0) / count
    scale = np.sqrt(variance)
    return mean, np.where(scale > 1e-8 * np.maximum(1, np.abs(mean)), scale, 1.0)


def standardize(X: NDArray, mean: NDArray, scale: NDArray) -> NDArray[np.float64]:
    """(X - mean) / scale; missing values become 0, the train mean."""
    return np.nan_to_num((np.asarray(X, dtype=np.float64) - mean) / scale, nan=0.0)


def _auroc(y: NDArray, margin: NDArray) -> float:
    return float(weighted_auroc(y, margin, np.ones((1, len(y))))[0])


def _log_likelihood(y: NDArray, margin: NDArray) -> float:
    """Mean over rows; 0 without rows."""
    return float(-np.logaddexp(0, np.where(y == 1, -margin, margin)).mean()) if len(y) else 0.0
