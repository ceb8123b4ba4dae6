"""Gaps between people: how far the candidate's AUROC in a subgroup lies from that in everybody else."""

from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
import polars as pl

from ehr_assets.reports.blocks import EMPTY, Block, Cell, Figure, Group, Head, Row, Section, Table, absent
from ehr_assets.reports.figures import MUTED, RECIPE_COLOURS, RULE, STYLE, WIDTH, svg_text
from ehr_assets.reports.inputs import Inputs
from ehr_assets.reports.small_cells import FEWEST, masked
from ehr_assets.reports.tables import Results

METRIC = "auroc"


def subgroups(inputs: Inputs, results: Results) -> Section:
    title = "Subgroups"
    if inputs.comparison is None:
        why = f"{inputs.spec.name}/comparison has not been made."
        return Section(title, [absent("Gaps between subgroups", why)])
    found = inputs.compared_on("subgroups", results.cohort.name)
    if found.height:
        found = found.filter(pl.col("metric") == METRIC, pl.col("key") == inputs.spec.candidate)
    if not found.height:
        why = "The candidate has no score in a subgroup of this cohort."
        return Section(title, [absent("Gaps between subgroups", why)])
    found = found.sort("name", "group", "task")
    tasks = {r.task: r.title for r in results.rows}
    label = inputs.spec.label(inputs.spec.candidate)
    shown = found.filter(pl.col("gap").is_not_null(), pl.col("n_subjects") >= FEWEST)
    blocks: list[Block] = []
    if shown.height:
        blocks.append(
            Figure(
                _draw(shown),
                f"Gaps between subgroups, {label}: {results.cohort.title}",
                "AUROC inside the group less AUROC in everybody else. Each grey dot is a task, the mark the "
                "median over tasks.",
                inputs.compared,
            )
        )
    blocks.append(_table(inputs, results, found, tasks))
    return Section(title, blocks)


def _table(inputs: Inputs, results: Results, found: pl.DataFrame, tasks: dict[str, str]) -> Table:
    groups = []
    for name in found["name"].unique(maintain_order=True).to_list():
        rows = []
        for group in found.filter(pl.col("name") == name)["group"].unique(maintain_order=True).to_list():
            mine = found.filter(pl.col("name") == name, pl.col("group") == group)
            rows.append(Row(str(group).replace("_", " "), _cells(mine, tasks)))
        groups.append(Group(str(name).replace("_", " ").capitalize(), rows))
    return Table(
        f"Subgroups: {results.cohort.title}",
        "Group",
        [
            Head("Held-out subjects"),
            Head("Tasks scored"),
            Head("Median AUROC"),
            Head("Median gap"),
            Head("Tasks surely lower"),
            Head("Largest gap below the others", words=True),
        ],
        groups,
        inputs.compared,
        "Gap: AUROC inside the group less AUROC in everybody else. Surely lower: the 95 % interval of the "
        "gap lies wholly "
        "below zero; with many tasks and groups, one in forty does by chance. Groups of fewer than "
        f"{FEWEST} held-out "
        "subjects are counted, not scored.",
    )


def _cells(mine: pl.DataFrame, tasks: dict[str, str]) -> list[Cell]:
    people = int(mine["n_subjects"].max() or 0)  # type: ignore[arg-type]
    scored = mine.filter(pl.col("value").is_not_null(), pl.col("n_subjects") >= FEWEST)
    if people < FEWEST or not scored.height:
        return [Cell(masked(people)), Cell(str(scored.height) if people >= FEWEST else "–"), *([EMPTY] * 4)]
    gaps = scored.drop_nulls("gap").sort("gap", "task")
    lower = scored.filter(pl.col("gap_high") < 0).height
    worst = gaps.row(0, named=True) if gaps.height and gaps["gap"][0] < 0 else None
    known = worst and worst["gap_low"] is not None
    named = (
        Cell(
            f"{worst['gap']:+.3f}".replace("-", "\N{MINUS SIGN}")
            + f", {tasks.get(worst['task'], worst['task'])}",
            f"{worst['gap_low']:+.2f} to {worst['gap_high']:+.2f}".replace("-", "\N{MINUS SIGN}")
            if known
            else "",
        )
        if worst
        else EMPTY
    )
    median = gaps["gap"].median() if gaps.height else None
    return [
        Cell(masked(people)),
        Cell(str(scored.height)),
        Cell(f"{scored['value'].median():.3f}"),
        EMPTY if median is None else Cell(f"{median:+.3f}".replace("-", "\N{MINUS SIGN}")),
        Cell(str(lower), look="warn" if lower else ""),
        named,
    ]


def _draw(found: pl.DataFrame) -> str:
    groups = found.select("name", "group").unique(maintain_order=True).rows()
    with plt.rc_context(cast(Any, STYLE)):
        fig, ax = plt.subplots(figsize=(WIDTH, 0.34 * len(groups) + 1.1), layout="constrained")
        for y, (name, group) in enumerate(groups):
            mine = found.filter(pl.col("name") == name, pl.col("group") == group)
            dots = mine["gap"].to_numpy()
            ax.plot(dots, np.full(len(dots), y), ls="", marker="o", ms=4, color="#a9b3bc", alpha=0.7, mew=0)
            ax.plot([float(np.median(dots))], [y], marker="D", ms=6, color=RECIPE_COLOURS[0], zorder=4)
            ax.axhline(y, color=RULE, lw=0.5, zorder=0)
        ax.axvline(0, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
        names = [f"{name}: {group}".replace("_", " ") for name, group in groups]
        ax.set_yticks(range(len(groups)), names)
        ax.set_ylim(len(groups) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.grid(axis="x")
        ax.set_xlabel("gap in AUROC to everybody else")
        return svg_text(fig)
