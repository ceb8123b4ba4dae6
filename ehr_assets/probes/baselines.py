"""Baselines: XGBoost and logistic regression on flattened features, at the same nodes as the probes.

What a team could have without a world model. Same labels, splits, bootstrap resamples and scoring rules.
"""

from pathlib import Path

import numpy as np

from ehr_assets.probes.classifiers import fit_boosted, fit_logistic
from ehr_assets.probes.features import node_features
from ehr_assets.probes.frames import (
    CohortDirs,
    load_nodes,
    write_fitted_on,
    write_metrics,
    write_predictions,
)
from ehr_assets.probes.predictions import predictions
from ehr_assets.probes.scoring import Method, Scorer
from ehr_assets.progress import Progress, no_progress

RECIPE = "baseline"
"""The `recipe` column of baseline rows."""


def baseline_metrics(
    cohort: str,
    meds_dir: Path,
    dirs: CohortDirs,
    out_dir: Path,
    *,
    seed: int = 1,
    bootstrap: int = 200,
    min_positives: int = 5,
    nthread: int = 1,
    progress: Progress = no_progress,
) -> dict[str, int]:
    """Fits and scores the baselines on every task of a cohort.

    Args:
        meds_dir: the `<cohort>/meds_events` dataset. dirs: its nodes, labels and splits.
        nthread: threads of XGBoost; results are the same for the same number.
        bootstrap, min_positives: as for `probe_recipe`.

    Writes `metrics.parquet` (recipe "baseline", probes "xgboost" and "logistic"), `predictions.parquet`,
    `fitted_on.json`.
    """
    nodes = load_nodes(cohort, dirs)
    table = node_features(meds_dir, nodes, progress=progress)
    usable = np.ones(len(table.X), dtype=bool)
    scorer = Scorer(nodes, bootstrap, min_positives)
    train, tuning = nodes.rows("train"), nodes.rows("tuning")
    boosted, logistic = Method(RECIPE, "xgboost", seed), Method(RECIPE, "logistic", seed)
    rows, tables = [], []
    stats = {
        "tasks": len(nodes.tasks),
        "tasks_scored": 0,
        "nodes": len(table.X),
        "features": len(table.names),
    }
    for done, task in enumerate(nodes.tasks, start=1):
        known = ~np.isnan(task.y)
        fit, choose = train & known, tuning & known
        for method in (boosted, logistic):
            probability = None
            if scorer.fittable(task, usable):
                data = table.X[fit], task.y[fit], table.X[choose], task.y[choose]
                trees = method is boosted
                model = fit_boosted(*data, seed=seed, nthread=nthread) if trees else fit_logistic(*data)
                probability = model.probability(table.X)
                tables.append(predictions(nodes, method, task, probability, usable))
            scored = scorer.binary_rows(method, task, probability, usable)
            rows += scored
            stats["tasks_scored"] += int(method is boosted and np.isfinite(scored[0]["value"]))
        progress("baselines", done, len(nodes.tasks))
    write_metrics(rows, out_dir)
    write_predictions(tables, out_dir)
    write_fitted_on([nodes], out_dir)
    return stats
