"""The oracle ceiling: the best that can be done when the latent disease state itself is known.

Only for simulated cohorts, and only for the report: the latent truth must never reach a model that claims
to learn from records. What the oracle cannot predict is chance in the simulator, not a fault of a model.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from ehr_assets.errors import DatasetError
from ehr_assets.fanout import ONE_WORKER, Machine
from ehr_assets.leakage.ledger import FitLedger
from ehr_assets.nodes.frames import write_parquet
from ehr_assets.probes.choose import score
from ehr_assets.probes.frames import CohortDirs, CohortNodes, names_at_train, one_hot, read_nodes
from ehr_assets.probes.linear import fit_logistic, fit_ridge
from ehr_assets.probes.rows import Fit, Fitted, How, Rows
from ehr_assets.probes.run import Contender, Field, Rules, run
from ehr_assets.probes.spec import BaselineSpec
from ehr_assets.probes.survival import fit_cox
from ehr_assets.probes.trees import fit_boosted
from ehr_assets.progress import Progress, no_progress

RECIPE = "oracle"
"""The `recipe` column of oracle rows, and the `probe` column: which model it was says `fits.parquet`."""


def oracle_metrics(
    cohort: str,
    truth_dir: Path,
    dirs: CohortDirs,
    out_dir: Path,
    spec: BaselineSpec,
    *,
    machine: Machine = ONE_WORKER,
    progress: Progress = no_progress,
) -> dict[str, int]:
    """Scores models of the latent state at each node (its `z_*` columns), indication and triggers.

    A linear model and boosted trees are both fitted on train, and the better one on tuning is kept; times to
    event get a Cox model. Files as `run` writes them, and `latent_at_nodes.parquet`: node_id and the state.
    """
    nodes, ledger = read_nodes(cohort, dirs), FitLedger()
    latent = latent_at_nodes(truth_dir, nodes)
    write_parquet(latent.to_arrow().cast(_float_schema(latent)), out_dir / "latent_at_nodes.parquet")
    Z = latent.select(pl.exclude("node_id").fill_null(np.nan)).to_numpy().astype(np.float32)
    known = [one_hot(v, names_at_train(nodes, v, ledger)) for v in (nodes.indications, nodes.triggers)]
    X = np.concatenate([Z, *known], axis=1)
    contender = Contender(
        RECIPE,
        {
            "binary": BetterOf(fit_logistic, fit_boosted),
            "regression": BetterOf(fit_ridge, fit_boosted),
            "time_to_event": fit_cox,
        },
    )

    def fields() -> Iterator[Field]:
        yield Field(nodes, dirs, {"X": X}, np.ones(len(X), dtype=bool), [contender], ledger)

    rules = Rules(RECIPE, spec, How(spec.seed, spec.folds, spec.tuning))
    stats = run(fields(), rules, out_dir, machine=machine, progress=progress)
    return {**stats, "features": X.shape[1]}


@dataclass(frozen=True)
class BetterOf:
    """Fits both; the one with the better score on tuning answers (the first, where neither has one)."""

    first: Fit
    second: Fit

    def __call__(self, train: Rows, tuning: Rows, how: How) -> "Kept":
        models = [fit(train, tuning, how) for fit in (self.first, self.second)]
        tuning.saw("model", "chosen")
        binary, names = train.kind == "binary", ("linear", "boosted")
        scores = (
            [score(tuning.y, m.predict(tuning), binary=binary) for m in models] if len(tuning) else [0, 0]
        )
        best = int(scores[1] > scores[0])
        return Kept(models[best], {**models[best].chosen, "model": names[best]})


@dataclass(frozen=True)
class Kept:
    """The model that was better, under its own name."""

    model: Fitted
    chosen: Mapping[str, Any]

    def predict(self, rows: Rows) -> NDArray[np.float32]:
        return self.model.predict(rows)


def latent_at_nodes(truth_dir: Path, nodes: CohortNodes) -> pl.DataFrame:
    """node_id and the newest latent state at or before it (`z_*`, float32, null: none), in node order."""
    states = pl.read_parquet(truth_dir / "latent_states.parquet")
    columns = sorted(c for c in states.columns if c.startswith("z_"))
    if not columns:
        raise DatasetError(
            "The latent truth has no z_* columns.",
            where=f"{nodes.cohort}/latent_truth",
            do=f"Materialize {nodes.cohort}/raw_tables again.",
        )
    at = nodes.frame.select(pl.int_range(pl.len()).alias("row"), "node_id", "subject_id", "time")
    return (
        at.sort("time")
        .join_asof(
            states.select("subject_id", "time", *columns).sort("time"),
            on="time",
            by="subject_id",
            strategy="backward",
            check_sortedness=False,
        )
        .sort("row")
        .select("node_id", pl.col(columns).cast(pl.Float32))
    )


def _float_schema(latent: pl.DataFrame) -> pa.Schema:
    return pa.schema([("node_id", pa.string()), *((c, pa.float32()) for c in latent.columns[1:])])
