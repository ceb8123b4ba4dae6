"""The look of the report's figures, and those of scores, labels and training, as SVG text.

Each takes plain values and gives SVG; equal values give equal bytes (fixed hash salt, no date). Text is drawn
as outlines, so that a page looks the same wherever it is opened. Colours are Okabe and Ito's, safe for
colour-blind readers, and every method has its own marker too.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ehr_assets.reports.methods import RECIPE_COLOURS, RECIPE_MARKERS, Method, looks
from ehr_assets.reports.small_cells import FEWEST
from ehr_assets.reports.tables import KNOWN, TaskRow
from ehr_assets.training.history import phases, points, read_history, steps

WIDTH = 11.0  # inches; shown about 1,050 px wide
MOST_IN_DETAIL = 4
"""With more training runs in a figure, the losses of single steps would hide the rest."""
INK, MUTED, RULE = "#1f2933", "#66707a", "#d9dee3"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "ehr-assets",
    "svg.fonttype": "path",
}


LABEL_BARS = (
    (RECIPE_COLOURS[0], "outcome within the horizon"),
    ("#a9c9de", "no outcome, followed to the horizon"),
    ("#8fbfa6", "value measured"),
    ("#e6e9ec", "not evaluable (see the label table)"),
)
"""Colour and name of what `KNOWN` counts, and of the rest."""


def forest(rows: Sequence[TaskRow], methods: Sequence[Method]) -> str:
    """AUROC with 95 % intervals per task, one line per method."""
    look = looks(methods)
    with plt.rc_context(cast(Any, STYLE)):
        height = max(0.42, 0.09 * len(methods)) * len(rows) + 1.2
        fig, ax = plt.subplots(figsize=(WIDTH, height), layout="constrained")
        drawn = [r.score(m) for r in rows for m in methods]
        ends = [v for s in drawn for v in (s.value, s.low, s.high) if v is not None]
        left, right = min([0.45, *ends]), max([0.75, *ends])
        ax.set_xlim(np.floor(left * 20) / 20, min(1.005, np.ceil(right * 20) / 20 + 0.005))
        ax.set_ylim(len(rows) - 0.4, -0.75)
        ax.axvline(0.5, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
        ax.text(0.5, 1.0, "chance ", transform=ax.get_xaxis_transform(), ha="right", va="top", color=MUTED)
        spread = 0.24 if len(methods) < 4 else 0.7 / len(methods)
        for at, row in enumerate(rows):
            ax.axhline(at, color=RULE, lw=0.5, zorder=0)
            for i, method in enumerate(methods):
                score = row.score(method)
                if score.value is None:
                    continue
                line = at + (i - (len(methods) - 1) / 2) * spread
                if score.low is not None and score.high is not None:
                    colour = look[method.key]["color"]
                    ax.plot([score.low, score.high], [line, line], color=colour, lw=1.6, zorder=2)
                ax.plot([score.value], [line], ls="", zorder=3, **look[method.key])
        ax.set_yticks(range(len(rows)), [wrapped(row.title) for row in rows])
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x", zorder=0)
        ax.set_axisbelow(True)
        ax.set_xlabel("AUROC on held-out subjects, 95 % interval")
        ax.spines["left"].set_visible(False)
        method_legend(fig, methods)
        return svg_text(fig)


def label_counts(rows: Sequence[TaskRow]) -> str:
    """Nodes per task: positive, negative, measured, not evaluable; prevalence in print."""
    with plt.rc_context(cast(Any, STYLE)):
        titles = [wrapped(r.title) for r in rows]
        height = 0.38 if len(rows) < 30 or any("\n" in t for t in titles) else 0.29
        fig, ax = plt.subplots(figsize=(WIDTH, height * len(rows) + 1.2), layout="constrained")
        places = np.arange(len(rows))
        total = np.array([r.asked() for r in rows], dtype=float)
        parts = [[r.labels[name] for r in rows] for name in KNOWN] + [[r.asked() - r.known() for r in rows]]
        left = np.zeros(len(rows))
        for values, (colour, name) in zip(np.array(parts, dtype=float), LABEL_BARS, strict=True):
            if values.any():
                ax.barh(places, values, left=left, height=0.66, color=colour, label=name)
            left += values
        widest = max(total.max(initial=0), 1)
        for place, row, t in zip(places, rows, total, strict=True):
            ax.text(t + 0.01 * widest, float(place), _prevalence(row), va="center", fontsize=9, color=INK)
        ax.set_yticks(places, titles)
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.set_xlim(0, widest * 1.08)
        ax.set_xlabel("decision nodes of all splits; printed: share with the outcome among the evaluable")
        ax.spines["left"].set_visible(False)
        if total.any():
            fig.legend(loc="outside upper center", ncols=4, fontsize=9.5, handlelength=1.2)
        return svg_text(fig)


def _prevalence(row: TaskRow) -> str:
    """The share with the outcome among the evaluable; of few people only that there are few."""
    if not row.known():
        return "none evaluable"
    if row.labels["measured"]:
        return "a value"
    few = 0 < row.labels["positive"] < FEWEST
    return "few" if few else f"{row.labels['positive'] / row.known():.0%}"


def training_curves(histories: Mapping[str, Sequence[Path]]) -> str | None:
    """Loss, tuning loss and learning rate by step; seeds of a recipe look alike.

    Args:
        histories: recipe -> the checkpoint folders of its runs.
    """
    read = {name: [read_history(folder) for folder in folders] for name, folders in histories.items()}
    read = {name: kept for name, runs in read.items() if (kept := [rows for rows in runs if steps(rows)])}
    if not read:
        return None
    each_step = sum(map(len, read.values())) <= MOST_IN_DETAIL
    with plt.rc_context(cast(Any, STYLE)):
        fig, axes = plt.subplots(
            2, 1, figsize=(WIDTH, 5.8), layout="constrained", sharex=True, height_ratios=[3, 1]
        )
        handles = []
        for i, (name, runs) in enumerate(read.items()):
            colour, marker = (those[i % len(those)] for those in (RECIPE_COLOURS, RECIPE_MARKERS))
            tuned = {"mec": colour, "mfc": "white", "marker": marker, "ms": 6.5, "mew": 1.4}
            handles.append(Line2D([], [], color=colour, lw=1.8, label=name, **tuned))
            for history in runs:
                step, loss = np.array(points(history, "loss")).T
                if each_step:
                    axes[0].plot(step, loss, color=colour, lw=0.8, alpha=0.28)
                axes[0].plot(step, smoothed(loss), color=colour, lw=1.8 if each_step else 1.2)
                if tuning := points(history, "tuning_loss"):
                    axes[0].plot(*np.array(tuning).T, ls=(0, (1, 2)), color=colour, lw=1, **tuned)
                axes[1].plot(*np.array(points(history, "lr")).T, color=colour, lw=1.5)
        for phase, first in dict.fromkeys(
            one for runs in read.values() for history in runs for one in phases(history)[1:]
        ):
            axes[0].axvline(first, color=MUTED, lw=0.8, ls=(0, (2, 2)))
            at_top = axes[0].get_xaxis_transform()
            axes[0].text(first, 1.0, f" {phase}", transform=at_top, va="top", fontsize=9)
        axes[0].set_ylabel("loss (weighted sum of objectives)")
        axes[1].set_ylabel("learning rate")
        axes[1].set_xlabel("optimizer step")
        axes[1].set_ylim(bottom=0)
        axes[1].ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
        for ax in axes:
            ax.grid(True)
        fig.legend(handles=handles, loc="outside upper center", ncols=min(4, len(handles)), fontsize=9.5)
        return svg_text(fig)


def smoothed(values: np.ndarray) -> np.ndarray:
    """Centred moving mean over a twentieth of the run (the window shrinks at both ends)."""
    half = max(1, len(values) // 40)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def wrapped(title: str, width: int = 46) -> str:
    """Long titles in two (or more) lines of about equal length."""
    lines = -(-len(title) // width)
    return (
        "\n".join(textwrap.wrap(title, len(title) // lines + 6, break_long_words=False))
        if lines > 1
        else title
    )


def method_legend(fig: Figure, methods: Sequence[Method], marks: bool = True) -> None:
    """The methods' names above a figure. marks: as points; else as lines."""
    look = looks(methods)
    handles = [
        Line2D([], [], lw=1.6, label=m.label, **(look[m.key] if marks else {"color": look[m.key]["color"]}))
        for m in methods
    ]
    fig.legend(handles=handles, loc="outside upper center", ncols=min(5, len(handles)), fontsize=9.5)


def svg_text(fig: Figure) -> str:
    """The finished figure as an <svg> element; closes it."""
    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(fig)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
