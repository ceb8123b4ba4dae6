"""Whether predicted risks are right in size: reliability by category, and the calibration error of each
method.
"""

from typing import Any, cast

import matplotlib.pyplot as plt
import polars as pl

from ehr_assets.reports.blocks import Block, Cell, Figure, Group, Head, Row, Section, Table, absent
from ehr_assets.reports.figures import MUTED, STYLE, WIDTH, method_legend, svg_text
from ehr_assets.reports.inputs import Inputs
from ehr_assets.reports.methods import Method, looks, main_methods, methods_of
from ehr_assets.reports.paper_tables import group_means
from ehr_assets.reports.tables import Results


def calibration(inputs: Inputs, results: Results) -> Section:
    title = "Calibration"
    if inputs.comparison is None:
        why = f"{inputs.spec.name}/comparison has not been made."
        return Section(title, [absent("Reliability", why)])
    blocks: list[Block] = []
    bins = inputs.compared_on("reliability", results.cohort.name)
    if bins.height:
        categories = {r.task: r.category for r in results.rows}
        bins = bins.with_columns(pl.col("task").replace_strict(categories, default=None).alias("category"))
        methods = [m for m in main_methods(inputs, methods_of(inputs, bins["key"].to_list())) if m.competes]
        blocks.append(
            Figure(
                reliability_figure(pooled(bins), methods),
                f"Predicted and observed risk: {results.cohort.title}",
                "Held-out nodes of each task sorted by predicted risk and cut into bins; bins of equal "
                "rank are averaged "
                "over the tasks of a category. On the dashed line, predicted and observed agree.",
                inputs.compared,
            )
        )
    if table := _errors(inputs, results):
        blocks.append(table)
    return Section(title, blocks or [absent("Reliability", "No task was scored.")])


def pooled(bins: pl.DataFrame) -> pl.DataFrame:
    """Reliability by category, method and bin: means over tasks, weighted by nodes. Columns: category, key,
    bin, predicted, observed, n."""
    weight = pl.col("n") / pl.col("n").sum()
    return (
        bins.drop_nulls("category")
        .filter(pl.col("n") > 0)
        .sort("task")
        .group_by("category", "key", "bin", maintain_order=True)
        .agg(
            (pl.col("predicted") * weight).sum(),
            (pl.col("observed") * weight).sum(),
            pl.col("n").sum(),
        )
        .sort("category", "key", "bin")
    )


def reliability_figure(found: pl.DataFrame, methods: list[Method]) -> str:
    """Predicted and observed risk of bins, a panel per category.

    Args:
        found: of each bin category, key (of its method), predicted, observed.
    """
    look = looks(methods)
    names = found["category"].unique().sort().to_list()
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    with plt.rc_context(cast(Any, STYLE)):
        fig, axes = plt.subplots(
            lines, columns, figsize=(WIDTH, 3.6 * lines + 0.8), layout="constrained", squeeze=False
        )
        for ax in axes.ravel()[len(names) :]:
            ax.set_visible(False)
        for ax, name in zip(axes.ravel(), names, strict=False):
            ax.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=(0, (4, 3)))
            top = 0.1
            for method in methods:
                mine = found.filter(pl.col("category") == name, pl.col("key") == method.key)
                x, y = mine["predicted"].to_numpy(), mine["observed"].to_numpy()
                ax.plot(x, y, lw=1.3, **look[method.key])
                top = max([top, *x, *y])
            ax.set(xlim=(0, min(1.02, top * 1.08)), ylim=(0, min(1.02, top * 1.08)), aspect="equal")
            ax.set_title(name, fontsize=10, loc="left", weight="bold")
            ax.grid(True)
            ax.set_xlabel("mean predicted risk")
            ax.set_ylabel("observed share")
        method_legend(fig, methods)
        return svg_text(fig)


def _errors(inputs: Inputs, results: Results) -> Table | None:
    found = group_means(inputs, results.cohort, "all", "ece")
    if not found.height:
        return None

    values = {r["key"]: (r["value"], r["sd_tasks"]) for r in found.iter_rows(named=True)}

    def cell(key: str) -> Cell:
        value, sd = values[key]
        return Cell(f"{value:.3f}", "" if sd is None else f"± {sd:.3f}")

    rows = [Row(m.label, [cell(m.key)]) for m in methods_of(inputs, values) if m.competes]
    return Table(
        f"Calibration: {results.cohort.title}",
        "Methods",
        [Head("Expected calibration error")],
        [Group(None, rows)],
        inputs.compared,
        "Mean ± standard deviation over tasks; lower is better. Bins of equal size, edges the same for all "
        "resamples.",
    )
