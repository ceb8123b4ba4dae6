"""Flattened features per decision node, for the tabular baselines: what a risk model is usually given.

Counts of codes in windows before the node, last values and trends of numeric codes, age, static codes
(sex and the like), indication, triggers, and how long and how busy the record is. Everything is computed
from events known at the node (`leakage.windows.events_known_at`) and from nothing else; what becomes a
feature is decided on what is known of *train* subjects at their nodes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehr_assets.contracts import BIRTH
from ehr_assets.leakage.ledger import FitLedger
from ehr_assets.leakage.windows import events_known_at
from ehr_assets.meds.reading import scan_events
from ehr_assets.probes.frames import CohortNodes, names_at_train, one_hot
from ehr_assets.progress import Progress, no_progress

WINDOWS_DAYS = (30.0, 180.0, np.inf)
TREND_DAYS = 180.0
DAY_US = 86_400_000_000
YEAR_DAYS = 365.25
JOINED_ROWS = 2_000_000
"""Pairs of (event, node) held at once: some 200 MB. Records are walked in subject ranges of that size."""


@dataclass(frozen=True)
class FeatureTable:
    """X: (n, f) float32, rows in the order of the nodes, NaN where a value was never measured."""

    X: NDArray[np.float32]
    names: list[str]


@dataclass(frozen=True)
class Vocabulary:
    """What becomes columns, chosen on train. Codes: known of most subjects first, ties by code."""

    counted: list[str]
    measured: list[str]
    static: list[str]
    indications: list[str]
    triggers: list[str]


def node_features(
    meds_dir: Path, nodes: CohortNodes, vocabulary: Vocabulary, *, progress: Progress = no_progress
) -> FeatureTable:
    """Features of every node of a cohort, (n, f), in the order of `nodes`.

    Memory is bounded by `JOINED_ROWS` and the result, not by events x nodes.
    """
    events = readable_events(meds_dir)
    n, k = nodes.frame.height, len(vocabulary.counted)
    counts = np.zeros((n, len(WINDOWS_DAYS), k + 1), dtype=np.float32)  # the last column counts all codes
    values = np.full((n, 2, len(vocabulary.measured)), np.nan, dtype=np.float32)
    static = np.zeros((n, len(vocabulary.static)), dtype=np.float32)
    general = np.full((n, 3), np.nan, dtype=np.float32)
    done = 0
    for chunk, known in known_at_nodes(events, nodes):
        _fill_counts(known, vocabulary.counted, counts)
        _fill_values(known, vocabulary.measured, values)
        _fill_static(known, vocabulary.static, static)
        _fill_general(known, general)
        done += chunk.height
        progress("features", done, n)
    np.log1p(counts, out=counts)
    labels = [("all" if w == np.inf else f"{w:g}d") for w in WINDOWS_DAYS]
    return FeatureTable(
        X=np.concatenate(
            [
                counts.reshape(n, len(WINDOWS_DAYS) * (k + 1)),
                values.reshape(n, 2 * len(vocabulary.measured)),
                static,
                general,
                one_hot(nodes.indications, vocabulary.indications),
                one_hot(nodes.triggers, vocabulary.triggers),
            ],
            axis=1,
        ),
        names=[
            *(f"log_count_{w}|{code}" for w in labels for code in [*vocabulary.counted, "any"]),
            *(f"{kind}|{code}" for kind in ("last", "trend") for code in vocabulary.measured),
            *(f"static|{code}" for code in vocabulary.static),
            "age_years",
            "record_days",
            "days_since_previous_event",
            *(f"indication|{name}" for name in vocabulary.indications),
            *(f"trigger|{name}" for name in vocabulary.triggers),
        ],
    )


def choose_vocabulary(
    meds_dir: Path,
    nodes: CohortNodes,
    ledger: FitLedger,
    *,
    top_codes: int = 150,
    top_measured: int = 60,
    top_static: int = 24,
) -> Vocabulary:
    """The codes known of most train subjects by their last node, and what their nodes are."""
    found = codes_at_train(readable_events(meds_dir), nodes, ledger)

    def top(column: str, k: int) -> list[str]:
        some = found.filter(pl.col(column) > 0)
        return some.sort(column, "code", descending=[True, False]).head(k)["code"].to_list()

    return Vocabulary(
        top("counted", top_codes),
        top("measured", top_measured),
        top("static", top_static),
        names_at_train(nodes, nodes.indications, ledger),
        names_at_train(nodes, nodes.triggers, ledger),
    )


def readable_events(meds_dir: Path) -> pl.LazyFrame:
    return scan_events(meds_dir).select("subject_id", "time", "available_time", "code", "numeric_value")


def codes_at_train(events: pl.LazyFrame, nodes: CohortNodes, ledger: FitLedger) -> pl.DataFrame:
    """Per code, of how many train subjects it is known by their last node.

    Columns: code; counted (with a time), measured (with a time and a number), static. Births are left out.
    """
    last = (
        nodes.frame.filter(nodes.rows("train"))
        .group_by("subject_id")
        .agg(pl.col("time").max().alias("last_node"))
    )
    ledger.saw("vocabulary", nodes.cohort, None, last["subject_id"])
    timed, subjects = pl.col("time").is_not_null(), pl.col("subject_id")
    return (
        events.join(last.lazy(), on="subject_id")
        .filter(~timed | (pl.col("available_time") <= pl.col("last_node")), pl.col("code") != BIRTH)
        .group_by("code")
        .agg(
            subjects.filter(timed).n_unique().alias("counted"),
            subjects.filter(timed & pl.col("numeric_value").is_not_null()).n_unique().alias("measured"),
            subjects.filter(~timed).n_unique().alias("static"),
        )
        .collect(engine="streaming")
    )


def known_at_nodes(events: pl.LazyFrame, nodes: CohortNodes) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """(nodes, lines), range of subjects by range: a line per node and event known at it.

    Of lines: row (the node's position), code, numeric_value, time, available_time, node_time, age in days.
    """
    at = nodes.frame.select(
        pl.int_range(pl.len()).cast(pl.Int64).alias("row"), "node_id", "subject_id", "time"
    )
    for chunk, first, last in _subject_ranges(events, at):
        inside = events.filter(pl.col("subject_id").is_between(first, last)).collect(engine="streaming")
        yield chunk, _known(inside, chunk)


def _subject_ranges(events: pl.LazyFrame, at: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, int, int]]:
    """Nodes in ranges of subject ids whose events x nodes stay under `JOINED_ROWS` (or are one subject)."""
    if not at.height:
        return
    lengths = events.group_by("subject_id").len("events").collect(engine="streaming")
    sizes = (
        at.group_by("subject_id")
        .len("nodes")
        .join(lengths, on="subject_id", how="left")
        .with_columns((pl.col("nodes") * pl.col("events").fill_null(0)).alias("pairs"))
        .sort("subject_id")
    )
    subjects, pairs = sizes["subject_id"].to_list(), sizes["pairs"].to_list()
    start, held = 0, 0
    for i in range(len(subjects) + 1):
        if i == len(subjects) or (held and held + pairs[i] > JOINED_ROWS):
            first, last = subjects[start], subjects[i - 1]
            yield at.filter(pl.col("subject_id").is_between(first, last)), first, last
            start, held = i, 0
        if i < len(subjects):
            held += pairs[i]


def _known(events: pl.DataFrame, chunk: pl.DataFrame) -> pl.DataFrame:
    age = (pl.col("node_time") - pl.col("time")).dt.total_microseconds() / DAY_US
    return (
        events_known_at(events, chunk)
        .join(chunk.lazy().select("node_id", "row"), on="node_id")
        .select("row", "code", "numeric_value", "time", "available_time", "node_time", age.alias("age"))
        .collect()
    )


def _fill_counts(known: pl.DataFrame, codes: Sequence[str], counts: NDArray[np.float32]) -> None:
    timed = known.filter(pl.col("time").is_not_null() & (pl.col("code") != BIRTH))
    windows = [(pl.col("age") <= w).sum().alias(f"w{i}") for i, w in enumerate(WINDOWS_DAYS)]
    total = timed.group_by("row").agg(windows)
    by_code = timed.join(columns_of(codes), on="code").group_by("row", "column").agg(windows)
    for i in range(len(WINDOWS_DAYS)):
        counts[total["row"], i, -1] = total[f"w{i}"]
        counts[by_code["row"], i, by_code["column"]] = by_code[f"w{i}"]


def _fill_values(known: pl.DataFrame, codes: Sequence[str], values: NDArray[np.float32]) -> None:
    """Last value, and least-squares slope per 30 days over the last `TREND_DAYS`, of each measured code."""
    measured = (
        known.filter(pl.col("numeric_value").is_finite() & pl.col("time").is_not_null())
        .join(columns_of(codes), on="code")
        .sort("row", "column", "time", "available_time", "numeric_value")
    )
    if not measured.height:
        return
    row, column = measured["row"].to_numpy(), measured["column"].to_numpy()
    y, x = measured["numeric_value"].to_numpy().astype(np.float64), -measured["age"].to_numpy() / 30.0
    starts = np.flatnonzero(np.r_[True, (row[1:] != row[:-1]) | (column[1:] != column[:-1])])
    ends = np.r_[starts[1:], len(row)] - 1
    values[row[starts], 0, column[starts]] = y[ends]
    # Sums over sorted groups, and not a group-by: the order of addition is fixed, so are the last bits.
    recent = (x >= -TREND_DAYS / 30.0).astype(np.float64)
    count = np.maximum(np.add.reduceat(recent, starts), 1)
    lengths = np.diff(np.r_[starts, len(row)])
    dx = (x - np.repeat(np.add.reduceat(recent * x, starts) / count, lengths)) * recent
    dy = (y - np.repeat(np.add.reduceat(recent * y, starts) / count, lengths)) * recent
    spread = np.add.reduceat(dx * dx, starts)
    slope = np.full(len(starts), np.nan)
    np.divide(np.add.reduceat(dx * dy, starts), spread, out=slope, where=spread > 1e-6)
    slope[np.abs(slope) > np.finfo(np.float32).max] = np.nan  # of numbers that stand for "none", such as 3e38
    values[row[starts], 1, column[starts]] = slope


def _fill_static(known: pl.DataFrame, codes: Sequence[str], static: NDArray[np.float32]) -> None:
    found = (
        known.filter(pl.col("time").is_null())
        .join(columns_of(codes), on="code")
        .select("row", "column")
        .unique()
    )
    static[found["row"], found["column"]] = 1


def _fill_general(known: pl.DataFrame, general: NDArray[np.float32]) -> None:
    """Age in years, days since the first known event, and days since the last event known a day before."""
    born = pl.col("code") == BIRTH
    timed = pl.col("time").is_not_null() & ~born
    since_known = (pl.col("node_time") - pl.col("available_time")).dt.total_microseconds() / DAY_US
    found = known.group_by("row").agg(
        (pl.col("age").filter(born).max() / YEAR_DAYS).alias("years"),
        pl.col("age").filter(timed).max().alias("record"),
        # Something always becomes known at the node itself - its trigger -, hence the day in between.
        since_known.filter(timed & (since_known >= 1)).min().alias("pause"),
    )
    for i, name in enumerate(("years", "record", "pause")):
        general[found["row"], i] = found[name].cast(pl.Float32).fill_null(np.nan).to_numpy()


def columns_of(codes: Sequence[str]) -> pl.DataFrame:
    """code, column (its position)."""
    return pl.DataFrame(
        {"code": list(codes), "column": np.arange(len(codes))}, schema={"code": pl.String, "column": pl.Int64}
    )
