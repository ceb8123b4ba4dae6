"""Whether labels keep the window rule, recomputed from the labels and the record, not from the labeller.

Positives: the outcome lies in (t + buffer, t + horizon]. Negatives: the subject was followed to the horizon,
or died before it. Nulls: no value, no event. Findings carry counts per task, never subject ids.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from ehr_assets.nodes.frames import EVENT


@dataclass(frozen=True)
class LabelFinding:
    """Labels counted by what is wrong with them.

    Attributes:
        labels: rows looked at.
        inside_buffer: positives whose event_time <= t + buffer (that is also: at or before t).
        beyond_horizon: positives whose event_time > t + horizon.
        without_event_time: positives that name no event.
        without_follow_up: negatives whose subject was neither followed to the horizon nor died before it.
        null_with_event: null labels that carry an event or claim an observation.
        near_death: labels given in the last days before death, or after it.
        unknown_task: rows of a task without a horizon.
        repeated: rows beyond the first of a (node, task).
        by_task: task -> number of rows with any of the above.
    """

    labels: int
    inside_buffer: int
    beyond_horizon: int
    without_event_time: int
    without_follow_up: int
    null_with_event: int
    near_death: int
    unknown_task: int
    repeated: int
    by_task: Mapping[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.by_task


def labels_keep_window(
    labels: Mapping[str, pl.DataFrame],
    horizon_days: Mapping[str, int],
    follow_up: pl.DataFrame,
    buffer_hours: float,
    end_of_life_days: float,
    extension_days: Mapping[str, int] | None = None,
) -> LabelFinding:
    """Checks every label against the window rule.

    Args:
        labels: task -> node_id, subject_id, prediction_time, boolean_value, event_time, status.
        horizon_days: task -> horizon in days (from tasks.json).
        follow_up: subject_id, last_time, death_time (`ehr_assets.meds.reading.follow_up`).
        extension_days: task -> follow-up in days beyond last_time; tasks not named have none.
    """
    horizons = pl.DataFrame(
        {"task": list(horizon_days), "_days": list(horizon_days.values())},
        schema={"task": pl.String, "_days": pl.Int64},
    )
    extensions = pl.DataFrame(
        {"task": list(extension_days or {}), "_extra": list((extension_days or {}).values())},
        schema={"task": pl.String, "_extra": pl.Int64},
    )
    every = pl.concat([frame.with_columns(pl.lit(task).alias("task")) for task, frame in labels.items()])
    rows = (
        every.join(horizons, on="task", how="left")
        .join(extensions, on="task", how="left")
        .join(follow_up.select("subject_id", "last_time", "death_time"), on="subject_id", how="left")
    )
    t, event, death = pl.col("prediction_time"), pl.col("event_time"), pl.col("death_time")
    value = pl.col("boolean_value")
    closes = t + pl.duration(days="_days", time_unit="us")
    followed = pl.col("last_time") + pl.duration(days=pl.col("_extra").fill_null(0), time_unit="us")
    problems: dict[str, pl.Expr] = {
        "inside_buffer": value & (event <= t + _span(buffer_hours)),
        "beyond_horizon": value & (event > closes),
        "without_event_time": value & event.is_null(),
        "without_follow_up": ~value
        & ~((death <= closes).fill_null(False) | (followed >= closes).fill_null(False)),
        "null_with_event": value.is_null() & (event.is_not_null() | (pl.col("status") == EVENT)),
        "near_death": value.is_not_null() & (death <= t + _span(24 * end_of_life_days)),
        "unknown_task": pl.col("_days").is_null(),
        "repeated": pl.struct("node_id", "task").is_first_distinct().not_(),
    }
    flagged = rows.select("task", *[e.fill_null(False).alias(name) for name, e in problems.items()])
    per_task = flagged.filter(pl.any_horizontal(*problems)).group_by("task").len().sort("task").iter_rows()
    return LabelFinding(
        labels=every.height,
        **{name: int(flagged[name].sum()) for name in problems},
        by_task=dict(per_task),
    )


def _span(hours: float) -> pl.Expr:
    return pl.duration(microseconds=round(hours * 3_600_000_000), time_unit="us")
