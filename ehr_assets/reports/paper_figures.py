"""SMB-Structure's Figures 3 and 4: methods by indication, and on one indication."""

from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
import polars as pl

from ehr_assets.reports.blocks import Figure
from ehr_assets.reports.figures import MUTED, RULE, STYLE, WIDTH, method_legend, svg_text
from ehr_assets.reports.inputs import Inputs
from ehr_assets.reports.methods import Method, looks, methods_of
from ehr_assets.reports.paper_tables import group_means
from ehr_assets.reports.tables import Results


def figure3(inputs: Inputs, results: Results) -> Figure | None:
    """Mean AUROC by indication, a mark per method; the bar is one standard deviation over tasks."""
    means = group_means(inputs, results.cohort, "indication")
    if not means.height:
        return None
    methods = methods_of(inputs, means["key"].to_list())
    groups = sorted(means["group"].unique())
    look = looks(methods)
    with plt.rc_context(cast(Any, STYLE)):
        fig, ax = plt.subplots(figsize=(WIDTH, 4.4), layout="constrained")
        width = 0.8 / len(methods)
        for i, method in enumerate(methods):
            mine = {r["group"]: r for r in means.filter(pl.col("key") == method.key).iter_rows(named=True)}
            at = [k + (i - (len(methods) - 1) / 2) * width for k, g in enumerate(groups) if g in mine]
            values = [mine[g]["value"] for g in groups if g in mine]
            spread = [mine[g]["sd_tasks"] or 0.0 for g in groups if g in mine]
            ax.errorbar(at, values, yerr=spread, ls="", elinewidth=0.8, alpha=0.95, **look[method.key])
        for k in range(1, len(groups)):
            ax.axvline(k - 0.5, color=RULE, lw=0.8)
        n = [means.filter(pl.col("group") == g)["n_tasks"].max() for g in groups]
        ticks = [f"{str(g).replace('_', ' ')}\n{k} tasks" for g, k in zip(groups, n, strict=True)]
        ax.set_xticks(range(len(groups)), ticks)
        ax.tick_params(axis="x", length=0)
        ax.set_xlim(-0.5, len(groups) - 0.5)
        ax.axhline(0.5, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
        ax.grid(axis="y")
        ax.set_ylabel("mean AUROC on held-out subjects")
        method_legend(fig, methods)
        return Figure(
            svg_text(fig),
            f"Performance by indication: {results.cohort.title}",
            "Mean AUROC over the tasks that every method could score in the indication; bars are one "
            "standard "
            "deviation over those tasks (SMB-Structure, Figure 3).",
            inputs.compared,
        )


def figure4(inputs: Inputs, results: Results, indication: str) -> Figure | None:
    """Every method's mean AUROC on one indication, with the interval of the mean."""
    means = group_means(inputs, results.cohort, "indication")
    means = means.filter(pl.col("group") == indication) if means.height else means
    if not means.height:
        return None
    methods = list(reversed(methods_of(inputs, means["key"].to_list())))
    rows = {r["key"]: r for r in means.iter_rows(named=True)}
    look = looks(list(reversed(methods)))
    with plt.rc_context(cast(Any, STYLE)):
        fig, ax = plt.subplots(figsize=(WIDTH, 0.36 * len(methods) + 1.0), layout="constrained")
        values = [rows[m.key]["value"] for m in methods]
        ends = [v for m in methods for v in (rows[m.key]["ci_low"], rows[m.key]["ci_high"]) if v is not None]
        left = np.floor(min([0.5, *values, *ends]) * 20) / 20
        for y, method in enumerate(methods):
            _mark(ax, y, rows[method.key], look[method.key])
        ax.set_yticks(range(len(methods)), [_named(m) for m in methods])
        ax.set_ylim(-0.6, len(methods) - 0.4)
        ax.set_xlim(left, min(1.0, np.ceil(max([*values, *ends]) * 20) / 20) + 0.02)
        ax.axvline(0.5, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.grid(axis="x")
        ax.set_xlabel("mean AUROC on held-out subjects, 95 % interval of the mean")
        return Figure(
            svg_text(fig),
            f"Benchmark on {indication.replace('_', ' ')}: {results.cohort.title}",
            f"Mean over the {means['n_tasks'].max()} tasks that every method could score there "
            "(SMB-Structure, Figure 4).",
            inputs.compared,
        )


def _mark(ax: Any, y: float, row: dict[str, Any], look: dict[str, Any]) -> None:
    if row["ci_low"] is not None and row["ci_high"] is not None:
        ax.plot([row["ci_low"], row["ci_high"]], [y, y], color=look["color"], lw=1.6, zorder=2)
    ax.plot([row["value"]], [y], ls="", zorder=3, **look)
    ax.annotate(
        f"{row['value']:.3f}", (row["value"], y), (0, 6), textcoords="offset points", ha="center", fontsize=8
    )


def _named(method: Method) -> str:
    return method.label if method.kind != "control" else f"{method.label} (control)"
