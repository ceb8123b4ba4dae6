"""Trees on flattened features: a random forest and gradient boosting, of classes and of numbers.

Fitted on train rows only; tuning rows choose the settings and the number of rounds. Missing values are a
branch of their own in both. One thread each: bytes do not depend on the cores, and tasks run side by side.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehr_assets.probes.choose import score
from ehr_assets.probes.rows import How, Rows
from ehr_assets.probes.scaling import refuse_flat

BOOSTED_GRID: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "small": {"max_depth": (3, 5), "min_child_weight": (1, 5), "eta": (0.08,), "subsample": (0.8,)},
    "full": {"max_depth": (3, 5), "min_child_weight": (1, 5), "eta": (0.03, 0.1), "subsample": (0.6, 0.9)},
}
FOREST_GRID: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "small": {"n_estimators": (100,), "min_samples_leaf": (5,)},
    "full": {"n_estimators": (500,), "min_samples_leaf": (1, 5, 20)},
}
MOST_ROUNDS, ROUNDS_WITHOUT_TUNING, PATIENCE = 400, 100, 25
MAX_BIN = 64


@dataclass(frozen=True)
class Trees:
    """A fitted forest or booster, with its settings and its score on tuning (NaN: there was none)."""

    model: Any
    chosen: Mapping[str, Any]
    tuning_score: float

    def predict(self, rows: Rows) -> NDArray[np.float32]:
        return self.model(rows.X)


def fit_boosted(train: Rows, tuning: Rows, how: How) -> Trees:
    """XGBoost (hist), stopped early on the loss of the tuning rows, with the settings of least such loss.

    Log loss and not AUROC, because a few positives make AUROC jump too much to stop on. Without tuning rows,
    100 rounds of the first settings.
    """
    import xgboost as xgb

    refuse_flat(train)
    train.saw("boosted")
    tuning.saw("boosted", "chosen")
    binary = train.kind == "binary"
    fit_rows = xgb.QuantileDMatrix(train.X, train.y, max_bin=MAX_BIN, nthread=1)
    tuning_rows = (
        xgb.QuantileDMatrix(tuning.X, tuning.y, ref=fit_rows, max_bin=MAX_BIN, nthread=1)
        if len(tuning)
        else None
    )
    fixed = {
        "objective": "binary:logistic" if binary else "reg:squarederror",
        "eval_metric": "logloss" if binary else "rmse",
        "tree_method": "hist",
        "colsample_bytree": 0.5,
        "lambda": 2.0,
        "max_bin": MAX_BIN,
        "nthread": 1,
        "seed": how.seed,
    }

    def candidates() -> Iterator[tuple[float, Any, int, dict[str, float]]]:
        for settings in _settings(BOOSTED_GRID[how.tuning]):
            params = {**fixed, **settings, "max_depth": int(settings["max_depth"])}
            if tuning_rows is None:
                booster = xgb.train(params, fit_rows, ROUNDS_WITHOUT_TUNING, verbose_eval=False)
                yield 0.0, booster, ROUNDS_WITHOUT_TUNING, settings
                return
            booster = xgb.train(
                params,
                fit_rows,
                MOST_ROUNDS,
                evals=[(tuning_rows, "tuning")],
                early_stopping_rounds=PATIENCE,
                verbose_eval=False,
            )
            yield booster.best_score, booster, booster.best_iteration + 1, settings

    _, booster, rounds, settings = min(candidates(), key=lambda c: c[0])

    def answer(X: NDArray) -> NDArray[np.float32]:
        return booster.predict(xgb.DMatrix(X, nthread=1), iteration_range=(0, rounds))

    return _chosen(answer, {**settings, "rounds": rounds}, tuning)


def fit_forest(train: Rows, tuning: Rows, how: How) -> Trees:
    """A random forest with the settings of the best score (AUROC, explained variance) on tuning."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    refuse_flat(train)
    train.saw("forest")
    tuning.saw("forest", "chosen")

    def answers(forest: Any) -> Any:
        if train.kind == "binary":
            return lambda X: forest.predict_proba(X)[:, 1].astype(np.float32)
        return lambda X: forest.predict(X).astype(np.float32)

    candidates = []
    for settings in _settings(FOREST_GRID[how.tuning]):
        settings = {k: int(v) for k, v in settings.items()}
        kind = RandomForestClassifier if train.kind == "binary" else RandomForestRegressor
        forest: Any = kind(n_jobs=1, random_state=how.seed)
        forest.set_params(**settings, max_features="sqrt")
        candidates.append(_chosen(answers(forest.fit(train.X, train.y)), settings, tuning))
    return max(candidates, key=lambda c: np.nan_to_num(c.tuning_score, nan=-np.inf))


def _settings(grid: Mapping[str, tuple[float, ...]]) -> Iterator[dict[str, float]]:
    for values in product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _chosen(answer: Any, settings: Mapping[str, Any], tuning: Rows) -> Trees:
    found = float("nan")
    if len(tuning):
        found = float(score(tuning.y, answer(tuning.X), binary=tuning.kind == "binary"))
    return Trees(answer, settings, found)
