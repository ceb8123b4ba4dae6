"""Metrics in short, for Dagster's pages. The whole of them is `metrics.parquet`; the report is `reports/`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    rows = _whole_cohort_aurocs(metrics).sort("cohort", "task", "probe").iter_rows(named=True)
    return _markdown(
        ("cohort", "task", "probe", "AUROC", "95 % interval", "n", "positive"),
        [
            (r["cohort"], r["task"], r["probe"], _number(r["value"]), _interval(r), r["n"], r["n_positive"])
            for r in rows
        ],
    )


def _whole_cohort_aurocs(metrics: pl.DataFrame) -> pl.DataFrame:
    return metrics.filter((pl.col("metric") == "auroc") & pl.col("indication").is_null())


def comparison_tables(folder: Path) -> dict[str, str]:
    """Markdown tables of a comparison, by title; those without rows are left out."""
    names = ("metrics", "means", "differences", "subgroups", "ceiling")
    read = {name: pl.read_parquet(folder / f"{name}.parquet") for name in names}
    tables = {
        "means over tasks": _means(read["means"]),
        "differences of means": _differences(read["differences"]),
        "largest gaps of subgroups": _gaps(read["subgroups"]),
        "fraction of the oracle": _fractions(read["ceiling"]),
        "listed, not scored": _listed(read["metrics"]),
    }
    return {title: text for title, text in tables.items() if text}


def _means(means: pl.DataFrame) -> str:
    rows = means.filter(pl.col("by") == "all").sort("cohort", "metric", "recipe", "probe")
    return _markdown(
        ("cohort", "metric", "method", "mean", "95 % interval", "SD over tasks", "SD over seeds", "tasks"),
        [
            (
                r["cohort"],
                r["metric"],
                _method(r),
                _number(r["value"]),
                _interval(r),
                _number(r["sd_tasks"]),
                _number(r["sd_seeds"]),
                r["n_tasks"],
            )
            for r in rows.iter_rows(named=True)
        ],
    )


def _differences(differences: pl.DataFrame) -> str:
    rows = differences.filter(pl.col("task").is_null()).sort(
        "cohort", "metric", "family", "recipe_a", "recipe_b", "probe_b"
    )
    return _markdown(
        ("cohort", "metric", "difference", "mean", "95 % interval", "p", "p, corrected", "family"),
        [
            (
                r["cohort"],
                r["metric"],
                f"{_method(r, '_a')} − {_method(r, '_b')}",
                _number(r["difference"], "+.3f"),
                _interval(r, "+.3f"),
                _number(r["p"], ".2g"),
                _number(r["p_adjusted"], ".2g"),
                r["family"],
            )
            for r in rows.iter_rows(named=True)
        ],
    )


def _gaps(subgroups: pl.DataFrame, most: int = 20) -> str:
    """Those whose interval leaves out no gap, largest first."""
    sure = (pl.col("gap_low") > 0) | (pl.col("gap_high") < 0)
    rows = subgroups.filter(sure).sort(pl.col("gap").abs(), "cohort", "task", descending=[True, False, False])
    return _markdown(
        ("cohort", "task", "method", "subgroup", "metric", "gap to the others", "95 % interval"),
        [
            (
                r["cohort"],
                r["task"],
                _method(r),
                f"{r['name']}: {r['group']}",
                r["metric"],
                _number(r["gap"], "+.3f"),
                f"{r['gap_low']:+.2f} to {r['gap_high']:+.2f}",
            )
            for r in rows.head(most).iter_rows(named=True)
        ],
    )


def _fractions(ceiling: pl.DataFrame) -> str:
    rows = ceiling.filter(pl.col("task").is_null()).sort("cohort", "recipe", "probe")
    return _markdown(
        ("cohort", "method", "(AUROC − 0.5) / (oracle − 0.5)", "95 % interval", "tasks"),
        [
            (r["cohort"], _method(r), _number(r["fraction"]), _interval(r), r["n_tasks"])
            for r in rows.iter_rows(named=True)
        ],
    )


def _listed(metrics: pl.DataFrame) -> str:
    """Tasks that no method could score, and the counts that say why."""
    whole = metrics.filter(pl.col("indication").is_null())
    never = whole.group_by("cohort", "task").agg(
        pl.col("n").max(), pl.col("n_positive").max(), pl.col("value").is_not_null().any().alias("scored")
    )
    rows = never.filter(~pl.col("scored")).sort("cohort", "task")
    return _markdown(
        ("cohort", "task", "held-out nodes", "positive"),
        rows.select("cohort", "task", "n", "n_positive").rows(),
    )


def _method(row: Mapping[str, Any], side: str = "") -> str:
    return f"{row[f'recipe{side}']}/{row[f'probe{side}']}"


def _number(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else format(value, form)


def _interval(row: Mapping[str, Any], form: str = ".2f") -> str:
    if row["ci_low"] is None:
        return "–"
    return f"{row['ci_low']:{form}} to {row['ci_high']:{form}}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; empty where there are no rows."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join('–' if c is None else str(c) for c in cells)} |" for cells in lines)
