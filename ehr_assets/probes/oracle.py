"""The oracle ceiling: the best that can be done when the latent disease state itself is known.

Only for simulated cohorts, and only for the report: the latent truth must never reach a model that claims
to learn from records. What the oracle cannot predict is chance in the simulator, not a fault of a model.
"""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehr_assets.errors import DatasetError
from ehr_assets.probes.classifiers import fit_boosted, fit_logistic
from ehr_assets.probes.frames import (
    CohortDirs,
    CohortNodes,
    load_nodes,
    one_hot,
    write_fitted_on,
    write_metrics,
    write_predictions,
)
from ehr_assets.probes.predictions import predictions
from ehr_assets.probes.scoring import Method, Scorer
from ehr_assets.progress import Progress, no_progress

RECIPE = "oracle"
"""The `recipe` column of oracle rows."""


def oracle_metrics(
    cohort: str,
    truth_dir: Path,
    dirs: CohortDirs,
    out_dir: Path,
    *,
    seed: int = 1,
    bootstrap: int = 200,
    min_positives: int = 5,
    nthread: int = 1,
    progress: Progress = no_progress,
) -> dict[str, int]:
    """Scores a classifier on the latent state at each node (its `z_*` columns), indication and triggers.

    Logistic regression and a small XGBoost are both fitted on train; the better AUROC on tuning is kept
    and named in the `probe` column. Files as `baseline_metrics` writes them.
    """
    nodes = load_nodes(cohort, dirs)
    X = latent_features(truth_dir, nodes)
    usable = np.ones(len(X), dtype=bool)
    scorer = Scorer(nodes, bootstrap, min_positives)
    train, tuning = nodes.rows("train"), nodes.rows("tuning")
    rows, tables = [], []
    stats = {"tasks": len(nodes.tasks), "tasks_scored": 0, "nodes": len(X), "features": X.shape[1]}
    for done, task in enumerate(nodes.tasks, start=1):
        method, probability = Method(RECIPE, "logistic", seed), None
        if scorer.fittable(task, usable):
            known = ~np.isnan(task.y)
            fit, choose = train & known, tuning & known
            data = X[fit], task.y[fit], X[choose], task.y[choose]
            model = fit_logistic(*data)
            trees = fit_boosted(*data, seed=seed, nthread=nthread, max_depth=3)
            if trees.tuning_auroc > model.tuning_auroc:
                model, method = trees, Method(RECIPE, "xgboost", seed)
            probability = model.probability(X)
            tables.append(predictions(nodes, method, task, probability, usable))
        scored = scorer.binary_rows(method, task, probability, usable)
        stats["tasks_scored"] += int(np.isfinite(scored[0]["value"]))
        rows += scored
        progress("oracle", done, len(nodes.tasks))
    write_metrics(rows, out_dir)
    write_predictions(tables, out_dir)
    write_fitted_on([nodes], out_dir)
    return stats


def latent_features(truth_dir: Path, nodes: CohortNodes) -> NDArray[np.float32]:
    """(n, f): the newest latent state at or before each node, then one-hot indication and triggers."""
    states = pl.read_parquet(truth_dir / "latent_states.parquet")
    columns = sorted(c for c in states.columns if c.startswith("z_"))
    if not columns:
        raise DatasetError(
            "The latent truth has no z_* columns.",
            where=f"{nodes.cohort}/latent_truth",
            do=f"Materialize {nodes.cohort}/raw_tables again.",
        )
    at = nodes.frame.select(pl.int_range(pl.len()).alias("row"), "subject_id", "time")
    latent = (
        at.sort("time")
        .join_asof(
            states.select("subject_id", "time", *columns).sort("time"),
            on="time",
            by="subject_id",
            strategy="backward",
            check_sortedness=False,
        )
        .sort("row")
    )
    indication, _ = one_hot(nodes, [[i] if i else [] for i in nodes.frame["indication"]])
    trigger, _ = one_hot(nodes, nodes.frame["trigger"].to_list())
    Z = latent.select(pl.col(columns).cast(pl.Float32).fill_null(np.nan)).to_numpy()
    return np.concatenate([Z, indication, trigger], axis=1)
