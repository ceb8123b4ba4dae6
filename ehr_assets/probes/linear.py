"""The linear probe: can the outcome be read off the frozen embedding S(t) by a linear model?

One logistic regression per task on the same embedding (SMB-Structure §4, "single-embedding, multi-task"),
and a Cox model for survival tasks. Fitted on train subjects; the L2 strength is chosen on tuning subjects;
scored once on held-out subjects.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ehr_assets.probes.classifiers import fit_logistic
from ehr_assets.probes.frames import (
    CohortDirs,
    load_embeddings,
    load_nodes,
    write_fitted_on,
    write_metrics,
    write_predictions,
)
from ehr_assets.probes.predictions import predictions
from ehr_assets.probes.scoring import Method, Scorer
from ehr_assets.probes.survival import fit_cox
from ehr_assets.progress import Progress, no_progress

TIME_TO_EVENT_WORDS = ("survival", "mortality")
"""Tasks whose category holds one of these words get a Cox probe beside the logistic one."""


def probe_recipe(
    recipe: str,
    embeddings_dir: Path,
    cohorts: Mapping[str, CohortDirs],
    out_dir: Path,
    *,
    bootstrap: int = 200,
    min_positives: int = 5,
    seed: int = 1,
    progress: Progress = no_progress,
) -> dict[str, int]:
    """Probes one recipe's embeddings on every task of every cohort given.

    Args:
        recipe: written into the `recipe` column.
        embeddings_dir: the `<recipe>/node_embeddings` dataset.
        cohorts: cohort name -> its nodes, labels and splits. Probes are fitted per cohort.
        bootstrap: subject resamples behind each interval.
        min_positives: fewer positives or negatives in train or held-out: listed, not scored.
        seed: written into the `seed` column; the fits themselves are deterministic.

    Writes `metrics.parquet`, `predictions.parquet`, `fitted_on.json`. Nodes without a finite embedding
    are left out of fit and score and counted in the returned stats.
    """
    logistic, cox = Method(recipe, "logistic", seed), Method(recipe, "cox", seed)
    loaded = {name: load_nodes(name, dirs) for name, dirs in sorted(cohorts.items())}
    total = sum(len(nodes.tasks) for nodes in loaded.values())
    rows, tables, done = [], [], 0
    stats = {"tasks": total, "tasks_scored": 0, "nodes": 0, "nodes_without_embedding": 0}
    for nodes in loaded.values():
        X = load_embeddings(embeddings_dir, nodes)
        usable = np.asarray(np.isfinite(X).all(axis=1))
        stats["nodes"] += len(usable)
        stats["nodes_without_embedding"] += int((~usable).sum())
        scorer = Scorer(nodes, bootstrap, min_positives)
        train, tuning = nodes.rows("train"), nodes.rows("tuning")
        for task in nodes.tasks:
            probability = None
            if scorer.fittable(task, usable):
                fit, choose = (usable & split & ~np.isnan(task.y) for split in (train, tuning))
                model = fit_logistic(X[fit], task.y[fit], X[choose], task.y[choose])
                probability = np.full(len(X), np.nan, dtype=np.float32)
                probability[usable] = model.probability(X[usable])
                tables.append(predictions(nodes, logistic, task, probability, usable))
            scored = scorer.binary_rows(logistic, task, probability, usable)
            stats["tasks_scored"] += int(np.isfinite(scored[0]["value"]))
            rows += scored
            if any(word in task.category.lower() for word in TIME_TO_EVENT_WORDS):
                fit = usable & train & task.followed
                risk = None
                if task.observed[fit].sum() >= min_positives:
                    model = fit_cox(X[fit], task.duration_days[fit], task.observed[fit])
                    if model is not None:
                        risk = np.full(len(X), np.nan)
                        risk[usable] = model.log_hazard(X[usable])
                rows.append(scorer.survival_row(cox, task, risk, usable))
            done += 1
            progress("probes", done, total)
    write_metrics(rows, out_dir)
    write_predictions(tables, out_dir)
    write_fitted_on(list(loaded.values()), out_dir)
    return stats
