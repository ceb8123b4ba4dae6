"""Whether labels keep the window rule, recomputed from the labels and the record, not from the labeller.

Positives: the outcome lies in (t + buffer, end of the window]. Negatives: the subject was followed to that
end, died before it, or met a competing event. Values of regressions were measured in it. Nulls: no value, no
event. Task by task, so that one task's labels are in memory. Findings carry counts, never subject ids.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from ehr_assets.nodes.frames import CENSORED, COMPETING, EVENT

_MICROSECONDS_PER_DAY = 86_400_000_000


@dataclass(frozen=True)
class LabelFinding:
    """Labels counted by what is wrong with them.

    Attributes:
        labels: rows looked at.
        inside_buffer: positives, or values, whose event_time <= t + buffer (that is also: at or before t).
        beyond_horizon: positives, or values, whose event_time lies behind the end of the window.
        without_event_time: positives, or values, that name no moment.
        without_follow_up: negatives (and censored times, and values that need it) of subjects who were not
            followed that long, did not die, and met no competing event.
        null_with_event: null labels that carry an event or claim an observation.
        near_death: labels given in the last days before death, or after it.
        wrong_duration: rows whose duration, status and event_time contradict one another or the record.
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
    wrong_duration: int
    unknown_task: int
    repeated: int
    by_task: Mapping[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.by_task


@dataclass(frozen=True)
class LabelRules:
    """What a task promises beyond its horizon; null settings are those of the task file.

    Attributes:
        regression: it has values, not classes.
        closing: subject_id, time of the events that close the window before the horizon.
        ending: subject_id, time of competing events that answer the question with no.
        cutting: subject_id, time of competing events at which follow-up ends.
        death_ends: whether a death answers the question with no, too; else it leaves the question open.
        needs_follow_up: whether an answer other than a positive needs follow-up to the end of the window.
    """

    buffer_hours: float | None = None
    end_of_life_days: float | None = None
    regression: bool = False
    closing: pl.DataFrame | None = None
    ending: pl.DataFrame | None = None
    cutting: pl.DataFrame | None = None
    death_ends: bool = True
    needs_follow_up: bool = True


def labels_keep_window(
    labels: Mapping[str, pl.DataFrame],
    horizon_days: Mapping[str, int],
    follow_up: pl.DataFrame,
    buffer_hours: float,
    end_of_life_days: float,
    extension_days: Mapping[str, int] | None = None,
    rules: Mapping[str, LabelRules] | None = None,
) -> LabelFinding:
    """Checks every label against the window rule.

    Args:
        labels: task -> its labels (LABEL_SCHEMA). They are asked for once each, one after the other.
        horizon_days: task -> the longest window in days (from tasks.json).
        follow_up: subject_id, last_time, death_time (`ehr_assets.meds.reading.follow_up`).
        extension_days: task -> follow-up in days beyond last_time; tasks not named have none.
        rules: task -> what is special about it.
    """
    counts: dict[str, int] = dict.fromkeys(_PROBLEMS, 0)
    by_task: dict[str, int] = {}
    rows = 0
    lives = follow_up.select("subject_id", "last_time", "death_time")
    for task in labels:
        rule = (rules or {}).get(task, LabelRules())
        frame = labels[task].join(lives, on="subject_id", how="left")
        buffer = buffer_hours if rule.buffer_hours is None else rule.buffer_hours
        near = end_of_life_days if rule.end_of_life_days is None else rule.end_of_life_days
        days = horizon_days.get(task)
        judged = _with_ends(frame, days or 0, (extension_days or {}).get(task, 0), rule)
        problems = {**_problems(buffer, near, rule), "unknown_task": pl.lit(days is None)}
        flags = judged.select(e.fill_null(False).alias(name) for name, e in problems.items())
        rows += frame.height
        for name in counts:
            counts[name] += int(flags[name].sum())
        if wrong := int(flags.select(pl.any_horizontal(*_PROBLEMS).sum()).item() or 0):
            by_task[task] = wrong
    return LabelFinding(labels=rows, **counts, by_task=by_task)


_PROBLEMS = (
    "inside_buffer", "beyond_horizon", "without_event_time", "without_follow_up", "null_with_event",
    "near_death", "wrong_duration", "unknown_task", "repeated",
)  # fmt: skip


def _with_ends(frame: pl.DataFrame, days: int, extension: int, rule: LabelRules) -> pl.DataFrame:
    """Adds closes, followed (how far the subject was seen), ended (when the answer became no), cut."""
    t = pl.col("prediction_time")
    found = {"_closing": rule.closing, "_ending": rule.ending, "_cutting": rule.cutting}
    out = frame
    for name, events in found.items():
        if events is None:
            out = out.with_columns(pl.lit(None, dtype=pl.Datetime("us")).alias(name))
        else:
            out = _next(out, events, name)
    death, cut = pl.col("death_time"), pl.col("_cutting")
    ended = pl.col("_ending")
    if rule.death_ends:
        ended = _first(ended, death)
    else:
        cut = _first(cut, death)
    horizon = t + pl.duration(days=days, time_unit="us")
    seen = pl.col("last_time") + pl.duration(days=extension, time_unit="us")
    closed = pl.when(pl.col("_closing") <= horizon).then("_closing")
    return out.with_columns(
        _first(horizon, "_closing").alias("closes"),
        _last(seen, closed, death, t).alias("followed"),
        cut.alias("cut"),
        pl.when((ended <= cut) | cut.is_null()).then(ended).alias("ended"),
    )


def _next(frame: pl.DataFrame, events: pl.DataFrame, name: str) -> pl.DataFrame:
    """Adds `name`: the time of the subject's first of these events after t."""
    later = events.select("subject_id", pl.col("time").alias(name)).drop_nulls().unique().sort(name)
    return frame.sort("prediction_time").join_asof(
        later,
        left_on="prediction_time",
        right_on=name,
        by="subject_id",
        strategy="forward",
        allow_exact_matches=False,
        coalesce=False,
        check_sortedness=False,
    )


def _first(*times: pl.Expr | str) -> pl.Expr:
    """As `pl.min_horizontal`, which makes a single row of constant columns (polars 1.44): of what a join
    finds in a cohort of one subject, for instance."""
    return pl.concat_list(*times).list.min()


def _last(*times: pl.Expr | str) -> pl.Expr:
    """As `_first`, the latest."""
    return pl.concat_list(*times).list.max()


def _problems(buffer_hours: float, end_of_life_days: float, rule: LabelRules) -> dict[str, pl.Expr]:
    t, event, death = pl.col("prediction_time"), pl.col("event_time"), pl.col("death_time")
    value, status = pl.col("boolean_value"), pl.col("status")
    given = pl.col("numeric_value").is_not_null() if rule.regression else value.fill_null(False)
    evaluable = pl.col("numeric_value").is_not_null() if rule.regression else value.is_not_null()
    lasted = pl.col("duration_days") * _MICROSECONDS_PER_DAY
    stops = t + pl.duration(microseconds=lasted.round().cast(pl.Int64), time_unit="us")
    ended = (pl.col("ended") <= pl.col("closes")).fill_null(False)
    until = _first("followed", "cut")
    complete = ended | (until >= pl.col("closes")).fill_null(False)
    waits = given if rule.regression else ~value
    overstated = (status == CENSORED) & (stops > _last(until, t))
    return {
        "inside_buffer": given & (event <= t + _span(buffer_hours)),
        "beyond_horizon": given & (event > pl.col("closes")),
        "without_event_time": given & event.is_null(),
        "without_follow_up": ((waits & ~complete) if rule.needs_follow_up else pl.lit(False)) | overstated,
        "null_with_event": ~evaluable & (event.is_not_null() | (status == EVENT).fill_null(False)),
        "near_death": evaluable & (death <= t + _span(24 * end_of_life_days)),
        "wrong_duration": _contradictions(rule, stops, given),
        "repeated": pl.col("node_id").is_first_distinct().not_(),
    }


def _contradictions(rule: LabelRules, stops: pl.Expr, given: pl.Expr) -> pl.Expr:
    status, value = pl.col("status"), pl.col("boolean_value")
    if rule.regression:
        odd = status.is_not_null() | pl.col("duration_days").is_not_null() | value.is_not_null()
        return odd | (given & ~pl.col("numeric_value").is_finite())
    timed = pl.col("duration_days").is_not_null()
    return (
        (timed != status.is_not_null())
        | (pl.col("duration_days") < 0)
        | (stops > pl.col("closes"))
        | ((status == EVENT) != given)
        | (given & (stops != pl.col("event_time")))
        | ((status == COMPETING) & (stops != pl.col("ended")).fill_null(True))
        | pl.col("numeric_value").is_not_null()
    )


def _span(hours: float) -> pl.Expr:
    return pl.duration(microseconds=round(hours * 3_600_000_000), time_unit="us")
