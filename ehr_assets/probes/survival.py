"""Time-to-event probe: a Cox proportional hazards model on principal components of the embedding.

The paper's probe for survival tasks (SMB-Structure §4.2). Components and coefficients are fitted on train
rows only; embeddings have more columns than there are events, hence the components and the penalty.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ehr_assets.probes.classifiers import standardization, standardize
from ehr_assets.probes.threads import blas_threads_for

MAX_COMPONENTS = 16
EVENTS_PER_COMPONENT = 10
"""The usual rule of thumb for Cox models; fewer events, fewer components."""

PENALIZER = 0.1


@dataclass(frozen=True)
class CoxProbe:
    """A fitted Cox model: log partial hazard = ((x - mean) / scale) @ components @ coefficients."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    components: NDArray[np.float64]  # (d, k), columns scaled to unit variance on train
    coefficients: NDArray[np.float64]  # (k,)

    def log_hazard(self, X: NDArray) -> NDArray[np.float64]:
        """(n, d) -> (n,): higher means an earlier event."""
        with blas_threads_for(X.size):
            return standardize(X, self.mean, self.scale) @ self.components @ self.coefficients


def fit_cox(X: NDArray, duration_days: NDArray, observed: NDArray) -> CoxProbe | None:
    """Fits on train rows: X (n, d), duration_days (n,) > 0, observed (n,) bool.

    Returns None when the partial likelihood has no finite optimum (too few events, constant features).
    """
    import pandas as pd
    from lifelines import CoxPHFitter
    from lifelines.exceptions import ConvergenceError

    mean, scale = standardization(X)
    Z = standardize(X, mean, scale)
    k = int(min(MAX_COMPONENTS, max(1, observed.sum() // EVENTS_PER_COMPONENT), *Z.shape))
    with blas_threads_for(Z.size):
        components = _principal_components(Z, k)
        if components is None:
            return None
        names = [f"pc{i}" for i in range(components.shape[1])]
        frame = pd.DataFrame(Z @ components, columns=pd.Index(names))
        frame["duration_days"], frame["observed"] = duration_days, observed
        try:
            model = CoxPHFitter(penalizer=PENALIZER).fit(frame, "duration_days", "observed")
        except ConvergenceError:
            return None
    return CoxProbe(mean, scale, components, model.params_[names].to_numpy(dtype=np.float64))


def _principal_components(Z: NDArray, k: int) -> NDArray[np.float64] | None:
    """Loadings (d, <= k) of the largest components of centred Z (n, d), of unit variance; None if flat."""
    values, vectors = np.linalg.eigh(Z.T @ Z / len(Z))
    values, vectors = values[::-1][:k], vectors[:, ::-1][:, :k]
    kept = values > 1e-8
    if not kept.any():
        return None
    values, vectors = values[kept], vectors[:, kept]
    # The sign of an eigenvector is arbitrary: fix it, so that equal inputs give equal coefficients.
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    return vectors / np.sqrt(values)
