"""Whether methods may be compared: the same nodes for all, and only held-out subjects among what is scored.

Reads predictions and splits by itself, and shares no code with what makes the comparison.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

LEAST_SHARED = 0.95
"""Of the nodes at which any method answers a task, every method must answer this share."""


@dataclass(frozen=True)
class Coverage:
    """answers: methods x tasks (and seeds). short: those of them that leave out too many nodes. least: the
    smallest share of a task's nodes that a method answers at."""

    answers: int
    short: int
    least: float

    @property
    def ok(self) -> bool:
        return self.short == 0

    @property
    def counts(self) -> dict[str, float]:
        return {"answers": self.answers, "leave_out_too_many": self.short, "smallest_share": self.least}


def coverage(predictions: Sequence[Path], cohorts: Sequence[str]) -> Coverage:
    """Of every method that answers a task: at how many of the held-out nodes that any method answers at.

    predictions: the files. cohorts: those that are compared. A method without any answer to a task could not
    be fitted there; it is listed and leaves nobody's nodes out.
    """
    asked = ["cohort", "task", "kind"]
    nodes = (
        _scan(predictions, cohorts)
        .filter(pl.col("split") == "held_out")
        .select(*asked, "recipe", "probe", "seed", "node_id")
        .unique()
    )
    each = nodes.group_by(*asked, "recipe", "probe", "seed").len("answered")
    union = nodes.group_by(asked).agg(pl.col("node_id").n_unique().alias("of"))
    shares = (
        each.join(union, on=asked)
        .select((pl.col("answered") / pl.col("of")).alias("share"))
        .collect()["share"]
    )
    least = shares.min()
    return Coverage(len(shares), int((shares < LEAST_SHARED).sum()), float(least) if shares.len() else 1.0)  # type: ignore[arg-type]


@dataclass(frozen=True)
class HeldOut:
    """predictions: rows looked at. misplaced: those whose split is not that of their subject, or is train.
    elsewhere: rows of the comparison that are about another split than held-out."""

    predictions: int
    misplaced: int
    elsewhere: int

    @property
    def ok(self) -> bool:
        return self.misplaced == 0 and self.elsewhere == 0

    @property
    def counts(self) -> dict[str, int]:
        return {
            "predictions": self.predictions,
            "misplaced": self.misplaced,
            "scored_elsewhere": self.elsewhere,
        }


def held_out_only(comparison: Path, predictions: Sequence[Path], splits: Mapping[str, Path]) -> HeldOut:
    """splits: cohort -> its `subject_splits.parquet`. predictions: the files that were compared."""
    looked, misplaced = 0, 0
    for cohort, path in splits.items():
        dealt = pl.scan_parquet(path).select("subject_id", pl.col("split").alias("dealt"))
        wrong = (pl.col("split") != pl.col("dealt")).fill_null(True) | ~pl.col("split").is_in(
            ["tuning", "held_out"]
        )
        found = (
            _scan(predictions, [cohort])
            .select("subject_id", "split")
            .join(dealt, on="subject_id", how="left")
            .select(pl.len().alias("looked"), wrong.sum().alias("wrong"))
            .collect()
        )
        looked, misplaced = looked + found["looked"][0], misplaced + int(found["wrong"][0])
    scored = pl.read_parquet(comparison, columns=["split"])["split"]
    return HeldOut(looked, misplaced, int((scored != "held_out").sum()))


def _scan(predictions: Sequence[Path], cohorts: Sequence[str]) -> pl.LazyFrame:
    parts = [pl.scan_parquet(path) for path in predictions]
    return pl.concat(parts).filter(pl.col("cohort").is_in(list(cohorts)))
