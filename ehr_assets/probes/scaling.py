"""What linear models are fitted behind: standardized columns, and principal components of unit variance."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehr_assets.probes.rows import NoModelError, Rows

FLAT = 1e-6
"""A column that varies by less than this share of its mean (or of 1) is constant: float32 holds no more."""

LEAST_VARIANCE = 1e-8
"""Components of less variance (a standardized column has 1) are rounding."""


@dataclass(frozen=True)
class Scaler:
    """Columns to mean 0 and standard deviation 1; missing values become 0, the mean. Sparse: not centred."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    def __call__(self, X: Any) -> Any:
        if not isinstance(X, np.ndarray):
            return (X @ _diagonal(1 / self.scale)).astype(np.float64)
        return np.nan_to_num((np.asarray(X, dtype=np.float64) - self.mean) / self.scale, nan=0.0)


@dataclass(frozen=True)
class Whitener:
    """Standardized columns as principal components of unit variance: loadings (d, k)."""

    scaler: Scaler
    loadings: NDArray[np.float64]

    def __call__(self, X: Any) -> NDArray[np.float64]:
        return self.scaler(X) @ self.loadings


def fit_scaler(rows: Rows) -> Scaler:
    """Raises NoModelError as `refuse_flat`."""
    rows.saw("scaler")
    refuse_flat(rows)
    return scaling_of(rows.X)


def refuse_flat(rows: Rows) -> None:
    """Raises NoModelError where no column varies: whatever is fitted would say the same of everybody."""
    for start in range(0, rows.X.shape[1], 64):
        block = rows.X[:, start : start + 64]
        block = np.asarray(block if isinstance(block, np.ndarray) else block.toarray(), dtype=np.float64)
        known = ~np.isnan(block)
        low = np.where(known, block, np.inf).min(axis=0, initial=np.inf)
        high = np.where(known, block, -np.inf).max(axis=0, initial=-np.inf)
        if (high - low > FLAT * np.maximum(1, np.abs(low))).any():
            return
    raise NoModelError("constant_features")


def scaling_of(X: Any) -> Scaler:
    """Of X itself, which no ledger hears of: for the folds, whose fits are thrown away.

    Missing values are left out; constant columns get scale 1.
    """
    if isinstance(X, np.ndarray):
        X = np.asarray(X, dtype=np.float64)
        known = ~np.isnan(X)
        count = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, X, 0).sum(axis=0) / count
        variance = (np.where(known, X - mean, 0) ** 2).sum(axis=0) / count
    else:
        n, values = max(X.shape[0], 1), X.astype(np.float64)
        mean = np.asarray(values.sum(axis=0)).ravel() / n
        variance = np.maximum(np.asarray(values.multiply(values).sum(axis=0)).ravel() / n - mean**2, 0)
    scale = np.sqrt(variance)
    return Scaler(mean, np.where(scale > FLAT * np.maximum(1, np.abs(mean)), scale, 1.0))


def principal_components(Z: NDArray, k: int) -> NDArray[np.float64]:
    """Loadings (d, <= k) of the largest components of centred Z (n, d), of unit variance; none of flat Z."""
    from scipy.linalg import eigh

    n, d = Z.shape
    few = n < d  # then the smaller Gram matrix has the same eigenvalues
    square = (Z @ Z.T if few else Z.T @ Z) / n
    k = min(k, len(square))
    values, vectors = eigh(square, subset_by_index=[len(square) - k, len(square) - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = values > LEAST_VARIANCE
    values, vectors = values[kept], vectors[:, kept]
    if few:
        vectors = Z.T @ vectors / np.sqrt(n * values)
    # The sign of an eigenvector is arbitrary: fix it, so that equal inputs give equal coefficients.
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    return vectors / np.sqrt(values)


def _diagonal(values: NDArray) -> Any:
    from scipy.sparse import diags_array

    return diags_array(values, format="csr")
