"""What was known at a node: the one window that feature builders use, and the count of what breaks it.

Known at t: events with available_time <= t, and static rows (time and available_time both null).
"""

from dataclasses import dataclass

import polars as pl


def events_known_at(events: pl.LazyFrame | pl.DataFrame, nodes: pl.LazyFrame | pl.DataFrame) -> pl.LazyFrame:
    """Each node with every event of its subject that was known at the node's time.

    Args:
        events: MEDS events (subject_id, time, available_time and whatever else is wanted).
        nodes: node_id, subject_id, time.

    Returns:
        node_id, node_time, and the columns of `events`; one row per (node, known event), in no set order.
        Nodes without any known event have no row. Lazy: aggregate before collecting, since the pairs can
        be many times the events.
    """
    at = nodes.lazy().select("node_id", "subject_id", pl.col("time").alias("node_time"))
    columns = events.lazy().collect_schema().names()
    static = pl.col("time").is_null() & pl.col("available_time").is_null()
    return (
        at.join(events.lazy(), on="subject_id", how="inner")
        .filter(static | (pl.col("available_time") <= pl.col("node_time")))
        .select("node_id", "node_time", *columns)
    )


@dataclass(frozen=True)
class WindowFinding:
    """Rows of per-node windows counted by what is wrong with them.

    Attributes:
        nodes: nodes with at least one row.
        rows: rows looked at.
        late_rows: rows with available_time > t.
        late_nodes: nodes with such a row.
        undated_rows: timed rows without an available_time, of which nothing can be proved.
        unknown_node_rows: rows of a node_id that is no decision node.
        foreign_rows: rows of another subject than the node's.
    """

    nodes: int
    rows: int
    late_rows: int
    late_nodes: int
    undated_rows: int
    unknown_node_rows: int
    foreign_rows: int

    @property
    def ok(self) -> bool:
        return not (self.late_rows or self.undated_rows or self.unknown_node_rows or self.foreign_rows)


def future_in_windows(
    nodes: pl.LazyFrame | pl.DataFrame, windows: pl.LazyFrame | pl.DataFrame
) -> WindowFinding:
    """Counts what a window may not hold.

    Args:
        nodes: node_id, subject_id, time.
        windows: node_id, available_time, and optionally time and subject_id: the events (or tokens, or per
            node the newest one) that something computed at the node has read. Without a `time` column, a
            null available_time counts as static.
    """
    at = nodes.lazy().select(
        "node_id",
        pl.col("time").alias("_t"),
        pl.col("subject_id").alias("_subject"),
        pl.lit(True).alias("_known"),
    )
    columns = windows.lazy().collect_schema().names()
    rows = windows.lazy().join(at, on="node_id", how="left")
    late = (pl.col("available_time") > pl.col("_t")).fill_null(False)
    undated = (
        pl.col("available_time").is_null() & pl.col("time").is_not_null()
        if "time" in columns
        else pl.lit(False)
    )
    foreign = (pl.col("subject_id") != pl.col("_subject")) if "subject_id" in columns else pl.lit(False)
    counts = (
        rows.with_columns(
            late.alias("_late"), undated.alias("_undated"), foreign.fill_null(True).alias("_foreign")
        )
        .select(
            pl.col("node_id").n_unique().alias("nodes"),
            pl.len().alias("rows"),
            pl.col("_late").sum().alias("late_rows"),
            pl.col("node_id").filter("_late").n_unique().alias("late_nodes"),
            pl.col("_undated").sum().alias("undated_rows"),
            pl.col("_known").is_null().sum().alias("unknown_node_rows"),
            (pl.col("_foreign") & pl.col("_known").is_not_null()).sum().alias("foreign_rows"),
        )
        .collect(engine="streaming")
    )
    return WindowFinding(**{k: int(v) for k, v in counts.row(0, named=True).items()})
