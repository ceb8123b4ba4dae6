"""Rows: some nodes' features, outcomes and subjects, which stay together however they are cut.

Every fit of this room takes Rows and says what it does with them (`saw`), so that the ledger hears of the
very rows that reached a fit, and not of those that somebody meant to hand over.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ehr_assets.leakage.ledger import FitLedger, Role

Kind = Literal["binary", "time_to_event", "regression"]


@dataclass(frozen=True)
class Rows:
    """n nodes of one cohort and one task.

    X: (n, d) array, or a scipy CSR matrix. y: (n,) 0/1 or the number of a regression task, NaN = unknown.
    duration_days (n,), observed (n,): the time to an event and whether it came. subject_id (n,).
    indication (n,) str, "" = none.
    """

    X: Any
    y: NDArray[np.float64]
    duration_days: NDArray[np.float64]
    observed: NDArray[np.bool_]
    subject_id: NDArray[np.int64]
    indication: NDArray[np.str_]
    cohort: str
    task: str
    kind: Kind
    ledger: FitLedger = field(repr=False)
    within: str | None = None

    def __len__(self) -> int:
        return len(self.subject_id)

    def __getitem__(self, at: NDArray) -> "Rows":
        """The rows of a mask or of positions."""
        return replace(
            self,
            X=self.X[at],
            y=self.y[at],
            duration_days=self.duration_days[at],
            observed=self.observed[at],
            subject_id=self.subject_id[at],
            indication=self.indication[at],
        )

    def of(self, indication: str) -> "Rows":
        """Those of one indication; the ledger is told that these fits are about it alone."""
        return replace(self[self.indication == indication], within=indication)

    def saw(self, step: str, role: Role = "fitted") -> None:
        """Tells the ledger that `step` was made from all of these rows."""
        about = self.cohort, self.task
        self.ledger.saw(step, *about, self.subject_id, role, kind=self.kind, within=self.within)


def joined(a: Rows, b: Rows) -> Rows:
    """The rows of both, a's first."""
    return replace(
        a,
        X=stacked(a.X, b.X),
        y=np.r_[a.y, b.y],
        duration_days=np.r_[a.duration_days, b.duration_days],
        observed=np.r_[a.observed, b.observed],
        subject_id=np.r_[a.subject_id, b.subject_id],
        indication=np.r_[a.indication, b.indication],
    )


def stacked(a: Any, b: Any) -> Any:
    """Two matrices of equal width, dense or CSR, one above the other."""
    if isinstance(a, np.ndarray):
        return np.concatenate([a, b])
    from scipy.sparse import vstack

    return vstack([a, b], format="csr")


@dataclass(frozen=True)
class How:
    """What a fit must know beside its rows: the seed of what is drawn, folds, how many settings to try."""

    seed: int = 1
    folds: int = 5
    tuning: Literal["small", "full"] = "small"


class Fitted(Protocol):
    """A fitted model. `chosen`: the settings it was chosen with, for `fits.parquet`."""

    @property
    def chosen(self) -> Mapping[str, Any]: ...

    def predict(self, rows: Rows) -> NDArray[np.float32]:
        """(n,): the probability, the number, or the log hazard, as the kind of the task asks.

        float32, as it is stored: metrics can be recomputed from the file."""
        ...


class Fit(Protocol):
    """Fits on train rows; tuning rows (there may be none) only choose."""

    def __call__(self, train: Rows, tuning: Rows, how: How) -> Fitted: ...


class NoModelError(Exception):
    """There is no model of these rows, for a reason that `fits.parquet` names."""


def shortage(rows: Rows, min_samples: int, min_positives: int) -> str | None:
    """Why these rows are too few to be fitted on, or None. Numbers only need samples."""
    if len(rows) < min_samples:
        return "too_few_samples"
    if rows.kind == "time_to_event":
        return "too_few_events" if rows.observed.sum() < min_positives else None
    if rows.kind == "binary":
        rarer = min((rows.y == 1).sum(), (rows.y == 0).sum())
        return "too_few_of_a_class" if rarer < min_positives else None
    return None
