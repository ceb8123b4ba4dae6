"""Task labels at decision nodes: what happened in (t + buffer, t + horizon], and who can be asked.

Labels are the truth about the future, so they go by when things *happened* (event `time`), not by when they
became known. The events that any task needs are read once; each task is then a handful of as-of joins over
all nodes at once. Window boundaries are exact to the microsecond.
"""

import json
from pathlib import Path
from typing import Any

import meds
import polars as pl
import pyarrow as pa

from ehr_assets.contracts import DEATH
from ehr_assets.meds.reading import (
    deaths_in_doubt,
    event_codes,
    follow_up,
    matching_codes,
    scan_events,
    select_events,
)
from ehr_assets.nodes.frames import (
    CENSORED,
    EVENT,
    LABEL_SCHEMA,
    MICROSECONDS_PER_DAY,
    REASONS,
    labels_path,
    microseconds,
    read_nodes,
    shifted,
    write_parquet,
)
from ehr_assets.nodes.pattern_spec import EventPattern, ValueCondition
from ehr_assets.nodes.task_spec import TaskSet, TaskSpec
from ehr_assets.nodes.trigger_spec import NodesSpec
from ehr_assets.progress import Progress, no_progress

_COLUMNS = ["subject_id", "time", "code", "numeric_value", "section"]


def label_nodes(
    tasks: TaskSet,
    nodes_spec: NodesSpec,
    nodes_dir: Path,
    meds_dir: Path,
    out_dir: Path,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Writes `labels/<task>.parquet` (LABEL_SCHEMA), `meds/<task>.parquet` and `tasks.json` into `out_dir`.

    A null label carries the first of REASONS that holds. `duration_days` runs from t to the outcome, else to
    the end of follow-up or the horizon, whichever is first; it is null where the label is null for another
    reason than censoring.

    Returns:
        counts: nodes, and per task n, positive, negative, null (by reason), codes_matched (outcome codes
        in this cohort; 0 means that the outcome can never be seen here).
    """
    tasks.require_triggers_of(nodes_spec)
    nodes = read_nodes(nodes_dir)
    events = scan_events(meds_dir)
    codes = event_codes(meds_dir)
    outcomes = {t.name: matching_codes(codes, t.outcome.codes) for t in tasks.tasks}
    priors = {
        t.name: matching_codes(codes, t.at_risk.no_prior.codes) if t.at_risk else [] for t in tasks.tasks
    }
    extensions = extension_days(tasks, nodes_spec, meds_dir)
    wanted = set().union(*outcomes.values(), *priors.values())
    history = select_events(events, wanted, _COLUMNS)
    frame = nodes.select("node_id", "subject_id", pl.col("time").alias("prediction_time"), "trigger").join(
        follow_up(events), on="subject_id", how="left", maintain_order="left"
    )
    doubtful = pl.Series(deaths_in_doubt(meds_dir), dtype=pl.Int64)
    frame = frame.with_columns(pl.col("subject_id").is_in(doubtful.implode()).alias("death_in_doubt"))

    stats: dict[str, Any] = {"nodes": nodes.height, "tasks": {}}
    for i, task in enumerate(tasks.tasks):
        progress("labelling", i, len(tasks.tasks))
        labels = label_task(
            task,
            asked_nodes(task, frame),
            outcome=_happenings(task.outcome, outcomes[task.name], history, task.outcome.new_agent),
            prior=_happenings(task.at_risk.no_prior, priors[task.name], history) if task.at_risk else None,
            buffer_hours=tasks.buffer_hours,
            end_of_life_days=tasks.end_of_life_days,
            extension_days=extensions[task.name],
        )
        table = labels.select(LABEL_SCHEMA.names).to_arrow().cast(LABEL_SCHEMA)
        write_parquet(table, labels_path(out_dir, task.name))
        write_parquet(_meds_labels(labels), out_dir / "meds" / f"{task.name}.parquet")
        stats["tasks"][task.name] = _counts(labels) | {"codes_matched": len(outcomes[task.name])}
    progress("labelling", len(tasks.tasks), len(tasks.tasks))

    about = [
        t.model_dump(mode="json", include={"name", "category", "horizon_days", "description"})
        for t in tasks.tasks
    ]
    (out_dir / "tasks.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return stats


def extension_days(tasks: TaskSet, nodes_spec: NodesSpec, meds_dir: Path) -> dict[str, int]:
    """Per task, the days of follow-up beyond the subject's last event: the cohort's, if death is the outcome.

    Death is the outcome when the task's codes match MEDS_DEATH and no other code of the cohort.
    """
    codes = {*event_codes(meds_dir), DEATH}
    days = nodes_spec.follow_up.death_extension_days
    return {t.name: days if matching_codes(codes, t.outcome.codes) == [DEATH] else 0 for t in tasks.tasks}


def asked_nodes(task: TaskSpec, nodes: pl.DataFrame) -> pl.DataFrame:
    """The nodes a task is asked at: all, or those with one of its triggers."""
    if task.triggers is None:
        return nodes
    return nodes.filter(pl.col("trigger").list.eval(pl.element().is_in(task.triggers)).list.any())


def label_task(
    task: TaskSpec,
    nodes: pl.DataFrame,
    outcome: pl.DataFrame,
    prior: pl.DataFrame | None,
    buffer_hours: float,
    end_of_life_days: float,
    extension_days: int = 0,
) -> pl.DataFrame:
    """One task's labels, in the order of `nodes`.

    Args:
        nodes: node_id, subject_id, prediction_time, last_time, death_time (the last two null if unknown),
            death_in_doubt (bool: a death may have been recorded, but could not be read).
        outcome: subject_id, time of the events that count as the outcome.
        prior: subject_id, time of the events that put a subject out of risk; None when all are at risk.
        extension_days: follow-up beyond last_time (only for outcomes that are known that long). There is
            none where the death is in doubt.

    Returns:
        the columns of LABEL_SCHEMA.
    """
    t = pl.col("prediction_time")
    horizon_end = shifted(t, task.horizon_days * MICROSECONDS_PER_DAY)
    columns = ["node_id", "subject_id", "prediction_time", "last_time", "death_time", "death_in_doubt"]
    out = nodes.select(columns).with_columns(
        shifted(t, microseconds(buffer_hours)).alias("opens"), horizon_end.alias("closes")
    )
    out = _first_after(out, "prediction_time", outcome, "next_outcome")
    out = _first_after(out, "opens", outcome, "window_outcome")
    if prior is None:
        at_risk, lost = pl.lit(True), pl.lit(False)
    else:
        out = _last_until(out, "prediction_time", prior, "prior")
        at_risk = pl.col("prior").is_null()
        # Whoever falls out of risk within the buffer is not at risk when the window opens.
        out = _last_until(out, "opens", prior, "prior_by_opening")
        lost = (pl.col("prior_by_opening") > t).fill_null(False)
        if task.at_risk and task.at_risk.no_prior.within_days is not None:
            within = round(task.at_risk.no_prior.within_days * MICROSECONDS_PER_DAY)
            at_risk |= pl.col("prior") < shifted(t, -within)

    death, opens, closes = pl.col("death_time"), pl.col("opens"), pl.col("closes")
    # A death ends follow-up, and completes it: after it nothing more can happen.
    last = pl.col("last_time")
    extended = shifted(last, extension_days * MICROSECONDS_PER_DAY)
    observed_until = pl.coalesce(death, pl.when("death_in_doubt").then(last).otherwise(extended), t)
    positive = (pl.col("window_outcome") <= closes).fill_null(False)
    complete = ((death <= closes) | (observed_until >= closes)).fill_null(False)
    in_buffer = (pl.col("next_outcome") <= opens).fill_null(False)
    near_death = death <= shifted(t, round(end_of_life_days * MICROSECONDS_PER_DAY))
    reason = (
        pl.when(death <= t).then(pl.lit("after_death"))
        .when(near_death).then(pl.lit("end_of_life"))
        .when(~at_risk).then(pl.lit("not_at_risk"))
        .when(lost).then(pl.when(in_buffer).then(pl.lit("outcome_in_buffer")).otherwise(pl.lit("not_at_risk")))
        .when(positive).then(pl.lit(None, dtype=pl.String))
        .when(in_buffer).then(pl.lit("outcome_in_buffer"))
        .when(~complete).then(pl.lit("censored"))
    )  # fmt: skip
    ends = pl.when(positive).then("window_outcome").otherwise(pl.min_horizontal(observed_until, closes))
    waited = (ends - t).dt.total_microseconds().clip(lower_bound=0)
    # Whole days apart from the rest: a horizon of 30 days gives 30.0 and nothing near it.
    days = waited // MICROSECONDS_PER_DAY + (waited % MICROSECONDS_PER_DAY) / MICROSECONDS_PER_DAY
    evaluable = pl.col("reason").is_null()
    observed = evaluable & positive
    timed = evaluable | (pl.col("reason") == "censored")
    return out.with_columns(reason.alias("reason")).select(
        "node_id",
        "subject_id",
        "prediction_time",
        pl.when(evaluable).then(positive).alias("boolean_value"),
        pl.lit(None, dtype=pl.Float64).alias("numeric_value"),
        pl.when(observed).then("window_outcome").alias("event_time"),
        pl.when(timed).then(days).alias("duration_days"),
        pl.when(timed).then(pl.when(observed).then(EVENT).otherwise(CENSORED)).cast(pl.Int8).alias("status"),
        "reason",
    )


def _happenings(
    pattern: EventPattern, codes: list[str], history: pl.DataFrame, new_agent: bool = False
) -> pl.DataFrame:
    """subject_id, time of the events that the pattern means; `new_agent`: the first of each code only."""
    found = history.filter(pl.col("code").is_in(codes))
    if pattern.section is not None:
        found = found.filter(pl.col("section") == pattern.section)
    if pattern.value is not None:
        found = found.filter(value_holds(pattern.value))
    if new_agent:
        found = found.group_by("subject_id", "code").agg(pl.col("time").min())
    return found.select("subject_id", "time").unique().sort("time", "subject_id")


def value_holds(value: ValueCondition) -> pl.Expr:
    """The condition on numeric_value, in float32: 6.1 as stored is not below a bound written 6.1."""
    number = pl.col("numeric_value")
    bounds = {"ge": number.__ge__, "gt": number.__gt__, "le": number.__le__, "lt": number.__lt__}
    parts = [
        compare(pl.lit(bound, dtype=pl.Float32))
        for name, compare in bounds.items()
        if (bound := getattr(value, name)) is not None
    ]
    # polars orders NaN above every number; a missing value never meets a condition.
    return pl.all_horizontal(number.is_not_null(), number.is_not_nan(), *parts)


def _first_after(nodes: pl.DataFrame, start: str, events: pl.DataFrame, name: str) -> pl.DataFrame:
    """Adds `name`: the time of the subject's first event strictly after `start`."""
    return _asof(nodes, start, events, name, "forward", exact=False)


def _last_until(nodes: pl.DataFrame, end: str, events: pl.DataFrame, name: str) -> pl.DataFrame:
    """Adds `name`: the time of the subject's last event at or before `end`."""
    return _asof(nodes, end, events, name, "backward", exact=True)


def _asof(
    nodes: pl.DataFrame, on: str, events: pl.DataFrame, name: str, strategy: Any, exact: bool
) -> pl.DataFrame:
    right = events.select("subject_id", pl.col("time").alias(name)).sort(name)
    rows = nodes.with_row_index("_row").sort(on)
    joined = rows.join_asof(
        right,
        left_on=on,
        right_on=name,
        by="subject_id",
        strategy=strategy,
        allow_exact_matches=exact,
        coalesce=False,
        check_sortedness=False,
    )
    return joined.sort("_row").drop("_row")


def _meds_labels(labels: pl.DataFrame) -> pa.Table:
    """The evaluable labels in the MEDS label schema, validated by the meds package."""
    table = labels.filter(pl.col("boolean_value").is_not_null()).select(
        "subject_id", "prediction_time", "boolean_value"
    )
    aligned = meds.LabelSchema.align(table.to_arrow())
    meds.LabelSchema.validate(aligned)
    return aligned


def _counts(labels: pl.DataFrame) -> dict[str, Any]:
    value, reason = labels["boolean_value"], labels["reason"]
    return {
        "n": labels.height,
        "positive": int(value.sum()),
        "negative": int((~value).sum()),
        "null": {r: int((reason == r).sum()) for r in REASONS},
    }
