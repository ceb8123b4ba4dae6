"""When each kind of trigger is known to have fired, before any wait. Stays: `stays.py`; nodes: `triggers.py`.

Every function takes events as they became known and is vectorised over subjects.
"""

from collections.abc import Callable, Sequence
from typing import assert_never

import polars as pl

from ehr_assets.nodes.frames import MICROSECONDS_PER_DAY, shifted
from ehr_assets.nodes.stays import every_so_often
from ehr_assets.nodes.trigger_spec import (
    Confirmation,
    DecreaseTrigger,
    EventTrigger,
    EveryTrigger,
    FirstTrigger,
    IncreaseTrigger,
    NewRegimenTrigger,
    Trigger,
)

# float32 values: 1.3 - 1.0 must count as an increase by 0.3. Two roundings of relative size 2^-24 each.
_ROUNDING = 2.0**-23


def trigger_times(trigger: Trigger, events_of: Callable[[Sequence[str]], pl.DataFrame]) -> pl.DataFrame:
    """When the trigger was known to have fired, before its offset: subject_id, time, distinct and sorted.

    Args:
        events_of: the events with one of the codes that regexes match, as subject_id, time, available_time,
            code, numeric_value, in any order.
    """
    known = events_of(trigger.codes).sort("subject_id", "available_time", "time", "code")
    match trigger:
        case EventTrigger():
            rule = trigger.confirmed_by
            fired = confirmed(known, events_of(rule.codes), rule) if rule else known
        case FirstTrigger():
            fired = known.filter(pl.col("subject_id").is_first_distinct())
        case NewRegimenTrigger():
            fired = new_regimens(known, trigger.gap_days, trigger.combine_days)
        case IncreaseTrigger():
            fired = changes(known).filter(pl.col("change") >= trigger.by - pl.col("rounding"))
        case DecreaseTrigger():
            fired = changes(known).filter(-pl.col("change") >= trigger.by - pl.col("rounding"))
        case EveryTrigger():
            fired = every_so_often(trigger, known, events_of(trigger.until))
        case _:
            assert_never(trigger)
    times = fired.select("subject_id", pl.col("available_time").alias("time"))
    return times.unique().sort("subject_id", "time")


def new_regimens(known: pl.DataFrame, gap_days: float, combine_days: float | None = None) -> pl.DataFrame:
    """The rows of `known` (in order of availability) that begin a regimen.

    Agents not known before, and agents given more than `gap_days` after the last one known until then;
    without those given within `combine_days` of the first dose of a regimen that was already known.
    """
    gap = pl.duration(microseconds=round(gap_days * MICROSECONDS_PER_DAY), time_unit="us")
    last_given = pl.col("time").shift(1).cum_max().over("subject_id")
    new_agent = pl.struct("subject_id", "code").is_first_distinct()
    begun = known.filter(new_agent | (pl.col("time") - last_given > gap))
    return begun if combine_days is None else _without_partners(begun, combine_days)


def _without_partners(begun: pl.DataFrame, combine_days: float) -> pl.DataFrame:
    """Keeps each subject's first row, drops those near it, and goes on with the first of the rest.

    A round for every line of the subject who has most of them; each is over all subjects at once.
    """
    near = pl.duration(microseconds=round(combine_days * MICROSECONDS_PER_DAY), time_unit="us")
    left, lines = begun.with_row_index("row"), []
    while left.height:
        line = left.filter(pl.col("subject_id").is_first_distinct())
        lines.append(line)
        firsts = line.select("subject_id", pl.col("time").alias("first_dose"))
        left = (
            left.join(firsts, on="subject_id", maintain_order="left")
            .filter((pl.col("time") - pl.col("first_dose")).abs() > near)
            .drop("first_dose")
        )
    return pl.concat(lines).sort("row").drop("row") if lines else begun


def confirmed(known: pl.DataFrame, second: pl.DataFrame, rule: Confirmation) -> pl.DataFrame:
    """subject_id, available_time: of each event that was confirmed, when both were known."""
    events = known.select(
        "subject_id",
        "time",
        "available_time",
        shifted(pl.col("time"), round(rule.after_days * MICROSECONDS_PER_DAY)).alias("opens"),
        shifted(pl.col("time"), round(rule.within_days * MICROSECONDS_PER_DAY)).alias("closes"),
    ).unique()
    again = second.select(
        pl.col("subject_id").alias("subject"),
        pl.col("time").alias("again"),
        pl.col("available_time").alias("again_known"),
    ).unique()
    pairs = events.join_where(
        again,
        pl.col("subject_id") == pl.col("subject"),
        pl.col("again") > pl.col("opens"),
        pl.col("again") <= pl.col("closes"),
    )
    both = pl.max_horizontal("available_time", "again_known")
    return (
        pairs.with_columns(both.alias("both"))
        .group_by("subject_id", "time", "available_time")
        .agg(pl.col("both").min())
        .select("subject_id", pl.col("both").alias("available_time"))
    )


def changes(known: pl.DataFrame) -> pl.DataFrame:
    """Each value's change from the same code's value known just before; simultaneous values are averaged."""
    moment = ["subject_id", "code", "available_time", "time"]
    value = pl.col("numeric_value").cast(pl.Float64)
    previous = pl.col("value").shift(1).over("subject_id", "code")
    return (
        known.filter(pl.col("numeric_value").is_finite())
        .sort(*moment, "numeric_value")
        .group_by(moment, maintain_order=True)
        .agg(value.mean().alias("value"))
        .with_columns(
            (pl.col("value") - previous).alias("change"),
            ((pl.col("value").abs() + previous.abs()) * _ROUNDING).alias("rounding"),
        )
    )
