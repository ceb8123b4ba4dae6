"""The table of a grid: what the probes read off every point, in the layout of SMB-Structure's Table 6.

One number per point: the mean held-out AUROC over the tasks of a cohort that every point could score. Reads
the points' metrics; numbers, table and picture come from the same rows.
"""

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from ehr_assets.errors import DatasetError
from ehr_assets.probes.summary import read_metrics
from ehr_assets.training.grid import Grid

TABLE = "ablation.parquet"
COLUMNS = "columns.json"
NUMBER = "{:.3f}"


def write_ablation(grid: Grid, metrics: Mapping[str, Path], out_dir: Path) -> dict[str, int | float]:
    """Writes `ablation.parquet` (a row per line of the table) and `columns.json` (its titles).

    Columns: group, point, one per column of the grid, auroc, tasks, best (of its group, as printed).

    Args:
        metrics: point → its `probe_metrics` dataset.

    Returns counts, and the best mean AUROC: points, tasks, best.

    Raises:
        DatasetError: there is no task that every point could score.
    """
    scores = {point: _aurocs(folder, grid.spec.cohort) for point, folder in metrics.items()}
    common = set.intersection(*(set(tasks) for tasks in scores.values()))
    if not common:
        raise DatasetError(
            f"The cohort '{grid.spec.cohort}' has no task that all {len(metrics)} points could score.",
            where=f"grid '{grid.spec.name}'",
            do="Take a larger cohort, or lower probe.min_positives of the base recipe.",
        )
    means = {point: sum(tasks[t] for t in sorted(common)) / len(common) for point, tasks in scores.items()}
    printed = [NUMBER.format(means[point.key]) for point in grid.points]
    top: dict[str, str] = {}
    for point, value in zip(grid.points, printed, strict=True):
        top[point.group] = max(value, top.get(point.group, ""))
    rows = [
        {
            "group": point.group,
            "point": point.key,
            **dict(zip((c.title for c in grid.spec.columns), point.cells, strict=True)),
            "auroc": means[point.key],
            "tasks": len(common),
            "best": value == top[point.group],
        }
        for point, value in zip(grid.points, printed, strict=True)
    ]
    pl.DataFrame(rows).write_parquet(out_dir / TABLE)
    titles = [column.title for column in grid.spec.columns]
    (out_dir / COLUMNS).write_text(json.dumps(titles, indent=1) + "\n", encoding="utf-8")
    return {"points": len(metrics), "tasks": len(common), "best": max(means.values())}


def read_ablation(folder: Path) -> tuple[pl.DataFrame, list[str]]:
    """The rows, and the titles of the columns that tell points apart."""
    return pl.read_parquet(folder / TABLE), json.loads((folder / COLUMNS).read_text(encoding="utf-8"))


def ablation_markdown(folder: Path) -> str:
    """Table 6's layout: a line per point under its group's title; the best of each group in bold."""
    rows, titles = read_ablation(folder)
    lines = ["| " + " | ".join([*titles, "mean AUROC"]) + " |", "|" + "---|" * (len(titles) + 1)]
    group = None
    several = {g for g, n in rows.group_by("group").len().iter_rows() if n > 1}
    for row in rows.iter_rows(named=True):
        if row["group"] != group:
            group = row["group"]
            lines.append(f"| *{group}* |" + " |" * len(titles))
        value = NUMBER.format(row["auroc"])
        value = f"**{value}**" if row["best"] and group in several else value
        lines.append("| " + " | ".join([*(row[t] for t in titles), value]) + " |")
    return "\n".join(lines) + f"\n\nMean over {rows['tasks'][0]} tasks, on held-out subjects."


def ablation_png(folder: Path) -> str:
    """The same as a picture, base64 PNG: a dot per point, groups apart, a line at the first group's best."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, titles = read_ablation(folder)
    groups = rows["group"].unique(maintain_order=True).to_list()
    figure = Figure(figsize=(7, 0.25 * (rows.height + len(groups)) + 1.0), layout="constrained")
    axes = figure.subplots()
    place, ticks = 0, []
    for n, group in enumerate(groups):
        place += 1  # for the group's title
        where = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 8}
        axes.text(0.01, place - 1, group, weight="bold", **where)
        for row in rows.filter(pl.col("group") == group).iter_rows(named=True):
            axes.plot(row["auroc"], place, "o", color=f"C{n}", markersize=7 if row["best"] else 5)
            ticks.append((place, ", ".join(row[t] for t in titles)))
            place += 1
    first = rows.filter(pl.col("group") == groups[0])["auroc"].max()
    axes.axvline(float(first), color="0.6", linewidth=1, linestyle="--")  # type: ignore[arg-type]
    axes.set_yticks([at for at, _ in ticks], [label for _, label in ticks], fontsize=8)
    axes.set(xlabel="mean AUROC on held-out subjects", ylim=(place - 0.5, -0.5))
    axes.set_title(", ".join(titles), loc="left", fontsize=8)
    axes.grid(axis="x", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    return base64.b64encode(out.getvalue()).decode()


def _aurocs(folder: Path, cohort: str) -> dict[str, float]:
    """Task → AUROC over all indications and subgroups, of the tasks that have one."""
    wanted = pl.col("indication").is_null() & pl.col("subgroup").is_null() & (pl.col("metric") == "auroc")
    found = read_metrics(folder).filter(wanted & (pl.col("cohort") == cohort)).drop_nulls("value")
    return dict(found.filter(pl.col("value").is_not_nan()).select("task", "value").iter_rows())
