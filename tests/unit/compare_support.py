"""A made-up cohort with tasks of every kind, the predictions of many methods, and their comparison."""

from pathlib import Path
from typing import Any

import polars as pl
from predictions_support import MadeUp

from ehr_assets.probes.compare import TABLES, compare
from ehr_assets.probes.panel_scores import Rules

RULES = Rules(replicates=120)
TASKS = {
    "tox": ("binary", 0.3),
    "prog": ("binary", 0.4),
    "rare": ("binary", 0.005),
    "death": ("time_to_event", 0.5),
    "marker": ("regression", 0.5),
}


def every_kind(root: Path) -> MadeUp:
    found = MadeUp(root, TASKS)
    found.subgroups()
    return found


def predict_by_many(made: MadeUp) -> dict[str, Path]:
    """Method -> folder of predictions: the baseline lacks the marker, the oracle has binary tasks alone."""
    found = {
        "weak": made.predict("weak", "weak", 0.6),
        "strong": made.predict("strong", "strong", 2.0, seeds=(1, 2, 3)),
    }
    binary = [t for t in made.tasks if made.tasks[t][0] == "binary"]
    for probe in ("logistic", "xgboost"):
        found["baseline"] = made.predict("base", "baseline", 0.4, probe=probe, tasks=binary)
    found["baseline"] = made.predict("base", "baseline", 0.4, tasks=["death"])
    made.predict("oracle", "oracle", 4.0, probe="xgboost", tasks=binary[:1])
    found["oracle"] = made.predict("oracle", "oracle", 4.0, probe="logistic", tasks=binary[1:])
    return found


def compare_into(
    made: MadeUp, predictions: dict[str, Path], out: Path, **kwargs: Any
) -> tuple[dict[str, pl.DataFrame], dict[str, int]]:
    """The tables by name, and the statistics."""
    out.mkdir(parents=True)
    stats = compare(
        {made.cohort: made.dirs},
        {made.cohort: {k: [v] for k, v in predictions.items()}},
        ["weak", "strong"],
        out,
        RULES,
        **kwargs,
    )
    return {name: pl.read_parquet(out / f"{name}.parquet") for name in TABLES}, stats


def held_out_rows(folder: Path, task: str, recipe: str, probe: str, seed: int = 1) -> pl.DataFrame:
    return (
        pl.read_parquet(folder / "predictions.parquet")
        .filter(
            pl.col("split") == "held_out",
            pl.col("task") == task,
            pl.col("recipe") == recipe,
            pl.col("probe") == probe,
            pl.col("seed") == seed,
        )
        .sort("node_id")
    )


def one_row(table: pl.DataFrame, **wanted: Any) -> dict[str, Any]:
    """The only row in which the columns named have these values."""
    found = table.filter(*(pl.col(k).is_null() if v is None else pl.col(k) == v for k, v in wanted.items()))
    assert found.height == 1, found
    return found.row(0, named=True)
