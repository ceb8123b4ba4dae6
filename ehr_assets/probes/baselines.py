"""Baselines and controls on what a record holds, at the same nodes as the probes: a cohort without its model.

What a team could have without a world model. Same labels, splits, bootstrap resamples and scoring rules.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ehr_assets.fanout import ONE_WORKER, Machine
from ehr_assets.leakage.ledger import FitLedger
from ehr_assets.probes.controls import bag_of_codes
from ehr_assets.probes.features import choose_vocabulary, node_features
from ehr_assets.probes.frames import CohortDirs, read_nodes
from ehr_assets.probes.linear import fit_logistic, fit_ridge
from ehr_assets.probes.rows import How
from ehr_assets.probes.run import Contender, Field, Rules, run
from ehr_assets.probes.spec import BaselineMethod, BaselineSpec
from ehr_assets.probes.survival import fit_cox
from ehr_assets.probes.trees import fit_boosted, fit_forest
from ehr_assets.progress import Progress, no_progress

RECIPE = "baseline"
"""The `recipe` column of baseline rows."""

BAG = "bag_of_codes"

METHODS: dict[BaselineMethod, Contender] = {
    "logistic": Contender("logistic", {"binary": fit_logistic}),
    "ridge": Contender("ridge", {"regression": fit_ridge}),
    "cox": Contender("cox", {"time_to_event": fit_cox}),
    "random_forest": Contender("random_forest", {"binary": fit_forest, "regression": fit_forest}),
    "xgboost": Contender("xgboost", {"binary": fit_boosted, "regression": fit_boosted}),
    "bag_of_codes": Contender(BAG, {"binary": fit_logistic, "regression": fit_ridge}, matrix=BAG),
}


def baseline_metrics(
    cohort: str,
    meds_dir: Path,
    dirs: CohortDirs,
    out_dir: Path,
    spec: BaselineSpec,
    *,
    machine: Machine = ONE_WORKER,
    progress: Progress = no_progress,
) -> dict[str, int]:
    """Fits and scores the baselines of `spec` on every task of a cohort.

    Args:
        meds_dir: the `<cohort>/meds_events` dataset. dirs: its nodes, labels and splits.

    Writes what `run` does; the `recipe` is "baseline". Returns its counts and the number of features.
    """
    contenders = [METHODS[name] for name in spec.methods]
    ledger, nodes = FitLedger(), read_nodes(cohort, dirs)
    matrices, stats = {}, {}
    if any(c.matrix == "X" for c in contenders):
        vocabulary = choose_vocabulary(meds_dir, nodes, ledger)
        matrices["X"] = node_features(meds_dir, nodes, vocabulary, progress=progress).X
        stats["features"] = matrices["X"].shape[1]
    if any(c.matrix == BAG for c in contenders):
        matrices[BAG] = bag_of_codes(meds_dir, nodes, ledger)
        stats["codes_in_the_bag"] = matrices[BAG].shape[1]
    usable = np.ones(nodes.frame.height, dtype=bool)

    def fields() -> Iterator[Field]:
        yield Field(nodes, dirs, matrices, usable, contenders, ledger)

    rules = Rules(RECIPE, spec, How(spec.seed, spec.folds, spec.tuning))
    return {**stats, **run(fields(), rules, out_dir, machine=machine, progress=progress)}
