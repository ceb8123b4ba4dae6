"""Made-up inputs of a report: a comparison of the probes' own scores, audits, flow, risks, subgroups.

The tables have the schemas of their rooms; numbers that nothing measures here are drawn.
"""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_assets.leakage.findings import Finding, write_findings
from ehr_assets.nodes.frames import CENSORED, EVENT, FLOW_SCHEMA
from ehr_assets.probes.schemas import (
    DIFFERENCES_SCHEMA,
    MEANS_SCHEMA,
    PREDICTIONS_SCHEMA,
    RELIABILITY_SCHEMA,
    SUBGROUPS_SCHEMA,
)

METHOD = ["recipe", "cohort", "probe"]


def write_table(path: Path, frame: pl.DataFrame, schema: pa.Schema) -> None:
    """Columns that the frame lacks are null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        f.name: frame[f.name].to_arrow().cast(f.type)
        if f.name in frame.columns
        else pa.nulls(frame.height, f.type)
        for f in schema
    }
    pq.write_table(pa.table(columns, schema=schema), path)


def make_comparison(folder: Path, metrics: list[Path], seed: int = 0) -> Path:
    """A comparison of the methods in these metrics folders."""
    rng = np.random.default_rng(seed)
    table = pl.concat([pl.read_parquet(m / "metrics.parquet") for m in metrics])
    folder.mkdir(parents=True, exist_ok=True)
    table.write_parquet(folder / "metrics.parquet")
    scored = table.filter(pl.col("value").is_not_null() & (pl.col("metric") == "auroc"))
    # The oracle is one method, whichever of its fits a task was scored by.
    scored = scored.with_columns(
        probe=pl.when(pl.col("recipe") == "oracle").then(pl.lit("xgboost")).otherwise("probe")
    )
    whole, within = (scored.filter(pl.col("indication").is_null() == wanted) for wanted in (True, False))
    means = [
        _means(whole.with_columns(group=pl.lit(None, pl.String)), "all"),
        _means(whole.with_columns(group="category"), "category"),
        _means(within.with_columns(group="indication"), "indication"),
    ]
    calibrated = means[0].with_columns(metric=pl.lit("ece"), value=pl.col("value") * 0 + 0.04)
    write_table(folder / "means.parquet", pl.concat([*means, calibrated]), MEANS_SCHEMA)
    write_table(folder / "differences.parquet", _differences(whole), DIFFERENCES_SCHEMA)
    groups = [("sex", "female"), ("sex", "male"), ("age_band", "65-74"), ("race", "other")]
    rows = []
    for row in whole.filter(pl.col("recipe") != "oracle").iter_rows(named=True):
        for name, group in groups:
            gap = float(rng.normal(0, 0.04))
            small = group == "other"
            rows.append(
                {
                    **{k: row[k] for k in (*METHOD, "task", "metric")},
                    "name": name,
                    "group": group,
                    "value": None if small else row["value"] + gap,
                    "gap": None if small else gap,
                    "gap_low": None if small else gap - 0.06,
                    "gap_high": None if small else gap + 0.06,
                    "n": 7 if small else 40,
                    "n_subjects": 4 if small else 18,
                }
            )
    write_table(folder / "subgroups.parquet", pl.DataFrame(rows, infer_schema_length=None), SUBGROUPS_SCHEMA)
    bins = [
        {**{k: row[k] for k in (*METHOD, "task")}, "bin": b, "predicted": b / 10, "observed": b / 11, "n": 12}
        for row in whole.filter(pl.col("recipe") != "oracle").iter_rows(named=True)
        for b in range(8)
    ]
    write_table(folder / "reliability.parquet", pl.DataFrame(bins), RELIABILITY_SCHEMA)
    return folder


def _means(scored: pl.DataFrame, by: str) -> pl.DataFrame:
    methods = scored.select(METHOD).unique().height
    complete = scored.group_by("group", "task").len().filter(pl.col("len") == methods)
    common = scored.join(complete, on=["group", "task"], how="semi", nulls_equal=True)
    return (
        common.group_by(*METHOD, "metric", "group")
        .agg(
            value=pl.col("value").mean(),
            sd_tasks=pl.col("value").std(),
            ci_low=pl.col("value").mean() - 0.05,
            ci_high=pl.col("value").mean() + 0.05,
            n_tasks=pl.len().cast(pl.Int64),
            n_seeds=pl.lit(1, pl.Int64),
        )
        .with_columns(by=pl.lit(by))
        .sort(*METHOD, "group")
    )


def _differences(whole: pl.DataFrame) -> pl.DataFrame:
    """Every two methods, on each task and on the mean."""
    values = {
        key: dict(rows.select("task", "value").iter_rows())
        for key, rows in whole.sort(METHOD).group_by(METHOD, maintain_order=True)
    }
    rows = []
    for a, ours in values.items():
        for b, theirs in values.items():
            if a <= b or "oracle" in (a[0], b[0]):
                continue
            found = {t: ours[t] - theirs[t] for t in sorted(ours.keys() & theirs.keys())}
            for task, d in [*found.items(), (None, float(np.mean(list(found.values()))))]:
                names = {"recipe_a": a[0], "probe_a": a[2], "recipe_b": b[0], "probe_b": b[2], "cohort": a[1]}
                numbers = {
                    "difference": d,
                    "ci_low": d - 0.02,
                    "ci_high": d + 0.03,
                    "p": 0.03,
                    "p_adjusted": 0.04,
                }
                family = "tasks (Benjamini-Hochberg)" if task else "means (Holm)"
                counts = {"n": 80, "n_subjects": 20, "family": family}
                rows.append({**names, "task": task, "metric": "auroc", **numbers, **counts})
    return pl.DataFrame(rows, infer_schema_length=None)


def add_risks(metrics: Path, cohort: Path, name: str, task: str, recipe: str, seed: int = 0) -> None:
    """Predictions of a task of time to event, from the hidden number, beside those in a metrics folder."""
    rng = np.random.default_rng(seed)
    labels = pl.read_parquet(cohort / f"task_labels/labels/{task}.parquet").drop_nulls("duration_days")
    splits = pl.read_parquet(cohort / "subject_splits/subject_splits.parquet").filter(
        pl.col("split") != "train"
    )
    truth = pl.read_parquet(cohort / "latent_truth/latent_states.parquet").unique("subject_id", keep="any")
    rows = labels.join(splits, on="subject_id").join(truth.select("subject_id", "z_burden"), on="subject_id")
    rows = rows.sort("subject_id", "prediction_time").with_columns(
        recipe=pl.lit(recipe),
        cohort=pl.lit(name),
        task=pl.lit(task),
        kind=pl.lit("time_to_event"),
        probe=pl.lit("cox"),
        seed=pl.lit(1),
        status=pl.when(pl.col("boolean_value")).then(EVENT).otherwise(CENSORED),
        risk=pl.col("z_burden") + rng.normal(0, 0.3, rows.height),
        boolean_value=pl.lit(None, pl.Boolean),
    )
    path = metrics / "predictions.parquet"
    write_table(metrics / "risks.parquet", rows, PREDICTIONS_SCHEMA)
    both = pa.concat_tables([pq.read_table(path), pq.read_table(metrics / "risks.parquet")])
    pq.write_table(both, path)
    (metrics / "risks.parquet").unlink()


def add_flow(nodes: Path) -> None:
    rows = [
        ("triggers", None, 90, 400),
        ("merged", "same day", 70, 60),
        ("merged", None, 90, 340),
        ("alive", "after death", 3, 4),
        ("alive", None, 90, 336),
    ]
    pq.write_table(
        pa.Table.from_pylist([dict(zip(FLOW_SCHEMA.names, r, strict=True)) for r in rows], FLOW_SCHEMA),
        nodes / "flow.parquet",
    )


def add_audit(folder: Path, scope: str, *more: Finding) -> Path:
    """Findings that are fine, and those given."""
    folder.mkdir()
    fine = [Finding("future_deleted", scope, "ok", n=32), Finding("permuted_labels", scope, "ok", n=3)]
    write_findings([*fine, *more], folder)
    return folder


def add_velocity(oracle: Path, cohort: Path) -> None:
    """`latent_at_nodes.parquet`, as the oracle writes it."""
    truth = pl.read_parquet(cohort / "latent_truth/latent_states.parquet").unique("subject_id", keep="first")
    nodes = pl.read_parquet(cohort / "decision_nodes/nodes.parquet")
    found = nodes.join(truth.select("subject_id", "z_velocity", "z_burden"), on="subject_id").sort("node_id")
    found.select("node_id", "z_velocity", "z_burden").write_parquet(oracle / "latent_at_nodes.parquet")
