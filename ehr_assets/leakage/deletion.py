"""Records from which the future was deleted, and what is computed from them: it must not have changed.

The deletion is made here, row by row of events, with arithmetic of its own; what is recomputed asks no times
of what is deleted, because there is nothing left to ask about.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from ehr_assets.leakage.findings import Finding
from ehr_assets.meds.reading import EVENT_SCHEMA, events_of
from ehr_assets.nodes.frames import write_parquet


def sampled_cuts(nodes: pl.DataFrame, subjects: int, seed: int) -> pl.DataFrame:
    """node_id, subject_id, cut: one node of each of so many subjects (all when there are fewer)."""
    return (
        nodes.sample(fraction=1.0, shuffle=True, seed=seed)
        .unique("subject_id", keep="first", maintain_order=True)
        .head(subjects)
        .select("node_id", "subject_id", pl.col("time").alias("cut"))
        .sort("subject_id")
    )


def without_future(events: pl.DataFrame, cuts: pl.DataFrame) -> pl.DataFrame:
    """The rows of `events` that were known at their subject's cut; static rows always were."""
    limits = dict(zip(cuts["subject_id"].to_list(), cuts["cut"].to_physical().to_list(), strict=True))
    known = events["available_time"].to_physical()
    limit = events["subject_id"].replace_strict(limits, default=None, return_dtype=pl.Int64)
    static = events["time"].is_null() & events["available_time"].is_null()
    return events.filter((known <= limit).fill_null(False) | (static & limit.is_not_null()))


def record_of(meds_dir: Path, cuts: pl.DataFrame) -> pl.DataFrame:
    """All events of the subjects that are cut."""
    return events_of(meds_dir, cuts["subject_id"])


def write_record(events: pl.DataFrame, codes_of: Path, out: Path) -> Path:
    """A small MEDS dataset of these events, with the codes of the dataset `codes_of`."""
    (out / "metadata").mkdir(parents=True)
    write_parquet(
        events.select(EVENT_SCHEMA.names()).sort("subject_id", maintain_order=True).to_arrow(),
        out / "data" / "train" / "0.parquet",
    )
    shutil.copy(codes_of / "metadata" / "codes.parquet", out / "metadata" / "codes.parquet")
    return out


Features = Callable[[Path], tuple[np.ndarray, list[str]]]
"""A MEDS directory → features (n, f) of a fixed list of nodes, and their names."""


def rows_that_differ(whole: tuple[np.ndarray, list[str]], other: tuple[np.ndarray, list[str]]) -> int:
    """Nodes with another value of any feature; a feature that only one of the two has is another value."""
    (X, names), (Z, others) = whole, other
    if set(names) != set(others):
        return len(X)
    Z = Z[:, [others.index(name) for name in names]]
    return int((~((X == Z) | (np.isnan(X) & np.isnan(Z)))).any(axis=1).sum())


def features_without_future(
    features: Features, cohort: str, meds_dir: Path, cuts: pl.DataFrame, scratch: Path
) -> Finding:
    """Features of the cut nodes, from their subjects' whole records and from what was known at the cuts.

    Args:
        features: of exactly the nodes of `cuts`, in a fixed order.
        scratch: an empty folder.
    """
    record = record_of(meds_dir, cuts)
    whole = features(write_record(record, meds_dir, scratch / "whole"))
    past = features(write_record(without_future(record, cuts), meds_dir, scratch / "past"))
    changed = rows_that_differ(whole, past)
    return Finding(
        guard="features_without_future",
        scope=cohort,
        verdict="fail" if changed else "ok",
        measured=float(changed),
        limit=0.0,
        n=cuts.height,
        note=f"nodes whose {whole[0].shape[1]} features change when what became known later is deleted",
    )
