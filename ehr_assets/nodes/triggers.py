"""Decision nodes: when in a subject's record a clinical junction was reached (SMB-Structure Table 4).

Everything here sees the record as it became known: events in order of `available_time`, and nothing that
was known after a node bears on that node. Deleting every event with available_time > t leaves a node at t,
its triggers and its indication as they were. All of it is vectorised over subjects.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from ehr_assets.contracts import DEATH
from ehr_assets.meds.reading import event_codes, matching_codes, scan_events, select_events
from ehr_assets.nodes.flow import Flow
from ehr_assets.nodes.frames import (
    FLOW_SCHEMA,
    SUBGROUP_SCHEMA,
    TIMESTAMP,
    microseconds,
    shifted,
    write_parquet,
)
from ehr_assets.nodes.kinds import trigger_times
from ehr_assets.nodes.subgroups import subgroups_at
from ehr_assets.nodes.trigger_spec import EventTrigger, EveryTrigger, NodesSpec, Trigger
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


def find_nodes(
    spec: NodesSpec, cohort: str, meds_dir: Path, out_dir: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Writes the nodes, whom they are about, and how they were arrived at.

    `nodes.parquet` (NODE_SCHEMA, by subject_id and time): what the triggers of a calendar day make one node
    of, or keep apart, is said by their `merge`. Triggers at or after the time at which the subject's death is
    known make no node. `subgroups.parquet` (SUBGROUP_SCHEMA) and `flow.parquet` (FLOW_SCHEMA).

    Returns:
        counts: nodes, subjects, triggers_found, triggers_after_death, by_trigger, by_indication,
        by_subgroup, codes_matched (per trigger: how many distinct codes its regexes match; 0 deserves a
        look), known_later (per trigger: how many of its events became known after they happened).
    """
    codes = event_codes(meds_dir)
    matched = {t.name: matching_codes(codes, t.codes) for t in spec.triggers}
    looked_at = [matching_codes(codes, t.patterns) for t in spec.triggers]
    indicated = {name: matching_codes(codes, patterns) for name, patterns in spec.indications.items()}
    scanned = scan_events(meds_dir)
    events = select_events(scanned, {DEATH}.union(*looked_at, *indicated.values()), _COLUMNS).filter(
        pl.col("available_time").is_not_null()
    )

    def events_of(patterns: Sequence[str]) -> pl.DataFrame:
        return events.filter(pl.col("code").is_in(matching_codes(codes, patterns)))

    begun, fired, waited = [], [], []
    for i, trigger in enumerate(spec.triggers):
        progress("finding decision nodes", i, len(spec.triggers))
        named = pl.lit(trigger.name).alias("trigger")
        times = trigger_times(trigger, events_of)
        begun.append(trigger_times(_unconfirmed(trigger), events_of) if _confirms(trigger) else times)
        fired.append(times)
        waited.append(_waited(trigger, times, events_of).with_columns(named))
    triggers = pl.concat(waited)
    alive = _before_known_death(triggers, events)
    alone = [t.name for t in spec.triggers if t.stands_alone]
    nodes = _with_indication(merged(alive, alone), events, indicated)
    nodes = _with_ids(nodes, cohort)
    subgroups = subgroups_at(nodes, spec.subgroups, meds_dir, codes)
    progress("finding decision nodes", len(spec.triggers), len(spec.triggers))

    flow = Flow(subjects=scanned.select(pl.col("subject_id").n_unique()).collect().item())
    flow.step("triggers", pl.concat(begun), "no trigger")
    flow.step("confirmation", pl.concat(fired), "not confirmed")
    flow.step("wait", triggers, "stay or life known to be over within the wait")
    flow.step("life", alive, "death known")
    flow.step("merging", nodes, "one node for the triggers of a day or moment")
    for table, schema, file in (
        (nodes, NODE_SCHEMA, "nodes.parquet"),
        (subgroups, SUBGROUP_SCHEMA, "subgroups.parquet"),
        (flow.table(), FLOW_SCHEMA, "flow.parquet"),
    ):
        write_parquet(table.select(schema.names).to_arrow().cast(schema), out_dir / file)

    by_trigger = dict(nodes.explode("trigger", empty_as_null=False).group_by("trigger").len().iter_rows())
    by_indication = dict(nodes.group_by(pl.col("indication").fill_null("none")).len().iter_rows())
    by_subgroup = subgroups.group_by("name", "value").len().sort("name", "value").iter_rows()
    return {
        "nodes": nodes.height,
        "subjects": nodes["subject_id"].n_unique(),
        "triggers_found": triggers.height,
        "triggers_after_death": triggers.height - alive.height,
        "by_trigger": {t.name: by_trigger.get(t.name, 0) for t in spec.triggers},
        "by_indication": {k: by_indication.get(k, 0) for k in [*spec.indications, "none"]},
        "by_subgroup": {f"{name}: {value}": n for name, value, n in by_subgroup},
        "codes_matched": {name: len(m) for name, m in matched.items()},
        "known_later": {
            t.name: events_of(t.codes).filter(pl.col("available_time") > pl.col("time")).height
            for t in spec.triggers
        },
    }


def _confirms(trigger: Trigger) -> bool:
    return isinstance(trigger, EventTrigger) and trigger.confirmed_by is not None


def _unconfirmed(trigger: Trigger) -> Trigger:
    return trigger.model_copy(update={"confirmed_by": None})


def _waited(
    trigger: Trigger, fired: pl.DataFrame, events_of: Callable[[Sequence[str]], pl.DataFrame]
) -> pl.DataFrame:
    """Moves the triggers by the offset and drops those with an `unless` event known in (t0, t0 + offset]."""
    if isinstance(trigger, EveryTrigger) or not trigger.offset_hours:
        return fired
    wait = shifted(pl.col("time"), microseconds(trigger.offset_hours))
    waited = fired.select("subject_id", pl.col("time").alias("t0"), wait)
    if trigger.unless:
        blocking = events_of(trigger.unless)
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
    return waited.select("subject_id", "time")


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


def merged(triggers: pl.DataFrame, alone: Sequence[str]) -> pl.DataFrame:
    """Makes nodes of triggers: subject_id, time, trigger (sorted, distinct), by subject and time.

    Triggers named in `alone` stand at their own time. The others of a calendar day make one node at the last
    of them, and another one wherever a node that stands alone lies between: which nodes there are up to some
    node is then settled by what was known at it. Where times are equal to the microsecond, the node is one.
    """
    stands = pl.col("trigger").is_in(alone)
    apart = triggers.filter(stands).select("subject_id", "time", "trigger")
    together = triggers.filter(~stands).sort("time").with_columns(pl.col("time").dt.date().alias("day"))
    borders = apart.select("subject_id", pl.col("time").alias("border")).unique().sort("border")
    together = together.join_asof(
        borders,
        left_on="time",
        right_on="border",
        by="subject_id",
        strategy="forward",
        check_sortedness=False,
        coalesce=False,
    ).with_columns(pl.col("time").max().over("subject_id", "day", "border"))
    nodes = pl.concat([apart, together.select("subject_id", "time", "trigger")])
    return (
        nodes.group_by("subject_id", "time").agg(pl.col("trigger").unique().sort()).sort("subject_id", "time")
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
