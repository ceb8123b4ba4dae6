"""Metrics in short, for Dagster's pages. The whole of them is `metrics.parquet`; the report is `reports/`."""

from pathlib import Path

import polars as pl


def read_metrics(metrics_dir: Path) -> pl.DataFrame:
    """`metrics.parquet` of a committed directory."""
    return pl.read_parquet(metrics_dir / "metrics.parquet")


def auroc_means(metrics: pl.DataFrame) -> dict[str, float]:
    """Mean AUROC over the scored tasks, by probe; a probe without scored task is left out."""
    rows = _whole_cohort_aurocs(metrics).drop_nulls("value")
    means = rows.group_by("probe").agg(pl.col("value").mean()).sort("probe")
    return dict(means.iter_rows())


def auroc_table(metrics: pl.DataFrame) -> str:
    """Markdown: a row per task and probe with AUROC, its interval and the counts behind it."""
    lines = [
        "| cohort | task | probe | AUROC | 95 % interval | n | positive |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in _whole_cohort_aurocs(metrics).sort("cohort", "task", "probe").iter_rows(named=True):
        value = "–" if r["value"] is None else f"{r['value']:.3f}"
        interval = "–" if r["ci_low"] is None else f"{r['ci_low']:.2f} to {r['ci_high']:.2f}"
        cells = (r["cohort"], r["task"], r["probe"], value, interval, r["n"], r["n_positive"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _whole_cohort_aurocs(metrics: pl.DataFrame) -> pl.DataFrame:
    return metrics.filter((pl.col("metric") == "auroc") & pl.col("indication").is_null())
