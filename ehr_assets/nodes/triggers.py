"""Decision nodes: when in a subject's record a clinical junction was reached (SMB-Structure Table 4).

Everything here sees the record as it became known: events in order of `available_time`, and nothing that
was known after a node bears on that node. Deleting every event with available_time > t leaves a node at t,
its triggers and its indication as they were. All of it is vectorised over subjects.
"""

import hashlib
from pathlib import Path
from typing import Any, assert_never

import polars as pl
import pyarrow as pa

from ehr_assets.contracts import DEATH
from ehr_assets.meds.reading import event_codes, matching_codes, scan_events, select_events
from ehr_assets.nodes.frames import MICROSECONDS_PER_DAY, TIMESTAMP, microseconds, shifted, write_parquet
from ehr_assets.nodes.trigger_spec import (
    DecreaseTrigger,
    EventTrigger,
    FirstTrigger,
    IncreaseTrigger,
    NewRegimenTrigger,
    NodesSpec,
    Trigger,
)
from ehr_assets.progress import Progress, no_progress

NODE_SCHEMA = pa.schema(
    [
        ("node_id", pa.string()),
        ("subject_id", pa.int64()),
        ("time", pa.timestamp("us")),
        ("trigger", pa.list_(pa.string())),
        ("indication", pa.string()),
        ("cohort", pa.string()),
    ]
)

_COLUMNS = ["subject_id", "time", "available_time", "code", "numeric_value"]
# float32 values: 1.3 - 1.0 must count as an increase by 0.3. Two roundings of relative size 2^-24 each.
_ROUNDING = 2.0**-23


def find_nodes(
    spec: NodesSpec, cohort: str, meds_dir: Path, out_dir: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Writes `nodes.parquet` (columns of NODE_SCHEMA, sorted by subject_id, time) into `out_dir`.

    One node per subject and calendar day: its time is the latest of that day's triggers, and it lists them
    all. Triggers at or after the time at which the subject's death is known make no node.

    Returns:
        counts: nodes, subjects, triggers_found, triggers_after_death, by_trigger, by_indication,
        codes_matched (per trigger: how many distinct codes its regexes match; 0 deserves a look).
    """
    codes = event_codes(meds_dir)
    matched = {t.name: matching_codes(codes, t.codes) for t in spec.triggers}
    blockers = {t.name: matching_codes(codes, t.unless) for t in spec.triggers}
    indicated = {name: matching_codes(codes, patterns) for name, patterns in spec.indications.items()}
    wanted = {DEATH}.union(*matched.values(), *blockers.values(), *indicated.values())
    events = select_events(scan_events(meds_dir), wanted, _COLUMNS).filter(
        pl.col("available_time").is_not_null()
    )

    found = []
    for i, trigger in enumerate(spec.triggers):
        progress("finding decision nodes", i, len(spec.triggers))
        mine = events.filter(pl.col("code").is_in(matched[trigger.name]))
        blocking = events.filter(pl.col("code").is_in(blockers[trigger.name]))
        found.append(_wait(trigger, trigger_times(trigger, mine), blocking))
    triggers = pl.concat(found)
    alive = _before_known_death(triggers, events)
    nodes = _with_indication(_one_per_day(alive), events, indicated)
    nodes = _with_ids(nodes, cohort)
    progress("finding decision nodes", len(spec.triggers), len(spec.triggers))

    write_parquet(nodes.select(NODE_SCHEMA.names).to_arrow().cast(NODE_SCHEMA), out_dir / "nodes.parquet")
    by_trigger = dict(nodes.explode("trigger", empty_as_null=False).group_by("trigger").len().iter_rows())
    by_indication = dict(nodes.group_by(pl.col("indication").fill_null("none")).len().iter_rows())
    return {
        "nodes": nodes.height,
        "subjects": nodes["subject_id"].n_unique(),
        "triggers_found": triggers.height,
        "triggers_after_death": triggers.height - alive.height,
        "by_trigger": {t.name: by_trigger.get(t.name, 0) for t in spec.triggers},
        "by_indication": {k: by_indication.get(k, 0) for k in [*spec.indications, "none"]},
        "codes_matched": {name: len(m) for name, m in matched.items()},
    }


def trigger_times(trigger: Trigger, events: pl.DataFrame) -> pl.DataFrame:
    """When the trigger was known to have fired, before its offset: subject_id, time (= available_time).

    `events` are the trigger's own (subject_id, time, available_time, code, numeric_value), in any order.
    """
    known = events.sort("subject_id", "available_time", "time", "code")
    match trigger:
        case EventTrigger():
            fired = known
        case FirstTrigger():
            fired = known.filter(pl.col("subject_id").is_first_distinct())
        case NewRegimenTrigger():
            fired = _new_regimens(known, trigger.gap_days)
        case IncreaseTrigger():
            fired = _changes(known).filter(pl.col("change") >= trigger.by - pl.col("rounding"))
        case DecreaseTrigger():
            fired = _changes(known).filter(-pl.col("change") >= trigger.by - pl.col("rounding"))
        case _:
            assert_never(trigger)
    return fired.select("subject_id", pl.col("available_time").alias("time")).unique(maintain_order=True)


def _new_regimens(known: pl.DataFrame, gap_days: float) -> pl.DataFrame:
    """Agents not known before, and agents given more than `gap_days` after the last one known until then."""
    gap = pl.duration(microseconds=round(gap_days * MICROSECONDS_PER_DAY), time_unit="us")
    last_given = pl.col("time").shift(1).cum_max().over("subject_id")
    new_agent = pl.struct("subject_id", "code").is_first_distinct()
    return known.filter(new_agent | (pl.col("time") - last_given > gap))


def _changes(known: pl.DataFrame) -> pl.DataFrame:
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


def _wait(trigger: Trigger, fired: pl.DataFrame, blocking: pl.DataFrame) -> pl.DataFrame:
    """Moves the triggers by the offset and drops those with an `unless` event known in (t0, t0 + offset]."""
    offset = microseconds(trigger.offset_hours)
    waited = fired.select("subject_id", pl.col("time").alias("t0"), shifted(pl.col("time"), offset))
    if offset and blocking.height:
        times = blocking.select("subject_id", pl.col("available_time").alias("blocked_at")).sort("blocked_at")
        waited = waited.sort("t0").join_asof(
            times,
            left_on="t0",
            right_on="blocked_at",
            by="subject_id",
            strategy="forward",
            allow_exact_matches=False,
            check_sortedness=False,
        )
        waited = waited.filter(pl.col("blocked_at").is_null() | (pl.col("blocked_at") > pl.col("time")))
    return waited.select("subject_id", "time", pl.lit(trigger.name).alias("trigger"))


def _before_known_death(triggers: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """Drops triggers at or after the moment the death is known.

    Not after its date: a death recorded as a date becomes known at the end of that day, and using it sooner
    would let the future decide about a node. Labels give nodes in between the reason `after_death`.
    """
    deaths = (
        events.filter(pl.col("code") == DEATH)
        .group_by("subject_id")
        .agg(pl.col("available_time").min().alias("death"))
    )
    return triggers.join(deaths, on="subject_id", how="left").filter(
        pl.col("death").is_null() | (pl.col("time") < pl.col("death"))
    )


def _one_per_day(triggers: pl.DataFrame) -> pl.DataFrame:
    """Merges a calendar day's triggers: subject_id, time (the latest), trigger (sorted, distinct)."""
    return (
        triggers.group_by("subject_id", pl.col("time").dt.date().alias("day"))
        .agg(pl.col("time").max(), pl.col("trigger").unique().sort())
        .sort("subject_id", "time")
        .select("subject_id", "time", "trigger")
    )


def _with_indication(
    nodes: pl.DataFrame, events: pl.DataFrame, indicated: dict[str, list[str]]
) -> pl.DataFrame:
    """Adds the subject's first known indication, if known at the node's time; ties go to the spec's order."""
    pairs = [(code, name, order) for order, (name, codes) in enumerate(indicated.items()) for code in codes]
    schema = {"code": pl.String, "indication": pl.String, "order": pl.Int64}
    names = pl.DataFrame(pairs, schema=schema, orient="row")
    first = (
        events.join(names, on="code")
        .sort("subject_id", "available_time", "time", "order")
        .unique("subject_id", keep="first", maintain_order=True)
        .select("subject_id", "indication", pl.col("available_time").alias("known_at"))
    )
    known = pl.when(pl.col("known_at") <= pl.col("time")).then(pl.col("indication"))
    return (
        nodes.join(first, on="subject_id", how="left", maintain_order="left")
        .with_columns(known.alias("indication"))
        .drop("known_at")
    )


def _with_ids(nodes: pl.DataFrame, cohort: str) -> pl.DataFrame:
    """Adds cohort and node_id: the first 16 hex digits of sha256("cohort|subject_id|time in ISO format")."""
    rows = nodes.select("subject_id", pl.col("time").cast(TIMESTAMP)).iter_rows()
    ids = [hashlib.sha256(f"{cohort}|{s}|{t.isoformat()}".encode()).hexdigest()[:16] for s, t in rows]
    return nodes.with_columns(
        pl.Series("node_id", ids, dtype=pl.String), pl.lit(cohort, dtype=pl.String).alias("cohort")
    )
