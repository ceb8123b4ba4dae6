"""Nodes every few hours of a stay, for as long as the stay is not known to be over."""

import polars as pl

from ehr_assets.nodes.frames import microseconds
from ehr_assets.nodes.trigger_spec import EveryTrigger


def every_so_often(trigger: EveryTrigger, starts: pl.DataFrame, ends: pl.DataFrame) -> pl.DataFrame:
    """subject_id, available_time: the moments of each stay, strictly before its end was known.

    Args:
        starts, ends: subject_id, time, available_time of the events that start and end stays.
    """
    stays = (
        starts.group_by("subject_id", pl.col("available_time").alias("known"))
        .agg(pl.col("time").max().alias("started"))
        .sort("known", "subject_id")
        .with_columns(pl.col("known").shift(-1).over("subject_id").alias("next_start"))
    )
    told = ends.select("subject_id", "time", pl.col("available_time").alias("end_known")).sort(
        "end_known", "subject_id", "time"
    )
    by_then = told.with_columns(pl.col("time").cum_max().over("subject_id").alias("last_end"))
    # An end known by the start's own time counts if it happened after it; one known later always does.
    stays = stays.join_asof(
        by_then.select("subject_id", pl.col("end_known").alias("end_known_before"), "last_end"),
        left_on="known",
        right_on="end_known_before",
        by="subject_id",
        strategy="backward",
        check_sortedness=False,
    ).join_asof(
        told.select("subject_id", "end_known"),
        left_on="known",
        right_on="end_known",
        by="subject_id",
        strategy="forward",
        allow_exact_matches=False,
        check_sortedness=False,
        coalesce=False,
    )
    stays = stays.filter((pl.col("last_end") > pl.col("started")).fill_null(False).not_())

    step = microseconds(trigger.hours)
    first = step if trigger.first_hours is None else microseconds(trigger.first_hours)
    open_for = (pl.min_horizontal("end_known", "next_start") - pl.col("known")).dt.total_microseconds()
    # The moments first + k * step that lie before the end; all of them while none is known.
    fitting = ((open_for - first + step - 1) // step).clip(0, trigger.most).fill_null(trigger.most)
    moments = stays.with_columns(pl.int_ranges(0, fitting).alias("k")).explode("k", empty_as_null=False)
    waited = pl.duration(microseconds=pl.col("k") * step + first, time_unit="us")
    return moments.select("subject_id", (pl.col("known") + waited).alias("available_time"))
