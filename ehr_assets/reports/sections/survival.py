"""Kaplan-Meier curves of held-out subjects by predicted risk, in thirds that were cut on tuning subjects.

One node per subject, the first at which the task can be asked: subjects count once, so that the log-rank
test means what it says. A competing event ends follow-up here (cause-specific). Curves end where fewer than
FEWEST are at risk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ehr_assets.nodes.frames import EVENT
from ehr_assets.reports.blocks import Block, Figure, Section, absent
from ehr_assets.reports.figures import MUTED, STYLE, WIDTH, svg_text, wrapped
from ehr_assets.reports.inputs import Inputs, RecipeInputs
from ehr_assets.reports.small_cells import FEWEST, masked
from ehr_assets.reports.tables import Results

THIRDS = ("low", "middle", "high")
COLOURS = ("#56B4E9", "#E69F00", "#D55E00")
MOST = 6
"""Tasks that are drawn: the first of the task file that can be."""


@dataclass(frozen=True)
class Curve:
    """One third. days, survival: (k,) of the steps; at_risk: at each of the panel's `marks`."""

    third: str
    n: int
    days: NDArray[np.float64]
    survival: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    at_risk: Sequence[int]


@dataclass(frozen=True)
class Panel:
    title: str
    marks: Sequence[int]
    curves: Sequence[Curve]
    p: float | None


def survival(inputs: Inputs, results: Results) -> Section:
    title = "Survival by predicted risk"
    recipe = inputs.candidate
    panels = panels_of(recipe, results)
    if not panels:
        why = "No task of time to event has predictions of the candidate on tuning and held-out subjects."
        return Section(title, [absent("Kaplan-Meier curves", why)])
    blocks: list[Block] = [
        Figure(
            _draw(panels[i : i + 2]),
            f"Kaplan-Meier by thirds of risk, {inputs.spec.label(recipe.name)}"
            + (f" ({i // 2 + 1} of {-(-len(panels) // 2)})" if len(panels) > 2 else ""),
            "Held-out subjects at the first node of each, in thirds of predicted risk that were cut on "
            "tuning subjects; shaded: 95 % interval. p: log-rank test of the thirds drawn. A death that is "
            "not the outcome ends follow-up, so that more is missing from a curve than the share who will "
            f"have the event. Below: subjects still at risk. Curves end where fewer than {FEWEST} are left.",
            inputs.sources(recipe.assets("probe_metrics")[0]),
        )
        for i in range(0, len(panels), 2)
    ]
    return Section(title, blocks)


def panels_of(recipe: RecipeInputs, results: Results) -> list[Panel]:
    """A panel per task of time to event with enough held-out subjects in two thirds or more; of the first
    run.
    """
    path = recipe.runs[0].metrics / "predictions.parquet"
    table = pl.read_parquet(path).filter(
        pl.col("cohort") == results.cohort.name,
        pl.col("recipe") == recipe.name,
        pl.col("risk").is_not_null() & pl.col("duration_days").is_not_null() & pl.col("status").is_not_null(),
    )
    out = []
    for row in results.rows:
        mine = table.filter(pl.col("task") == row.task)
        # One seed and one probe: the first of each, whatever else there may be.
        for column in ("seed", "probe"):
            mine = mine.filter(pl.col(column) == mine[column].sort().first()) if mine.height else mine
        if panel := panel_of(row.title, mine, row.horizon_days):
            out.append(panel)
    return out[:MOST]


def panel_of(title: str, predictions: pl.DataFrame, horizon_days: int | None) -> Panel | None:
    """predictions: of one method and task, tuning and held-out rows; None where they cannot fill two
    thirds.
    """
    first = predictions.sort("subject_id", "prediction_time", "node_id").unique(
        "subject_id", keep="first", maintain_order=True
    )
    tuning = first.filter(pl.col("split") == "tuning")["risk"].drop_nans().to_numpy()
    held_out = first.filter(pl.col("split") == "held_out", pl.col("risk").is_not_nan())
    if len(tuning) < len(THIRDS) or not held_out.height:
        return None
    cuts = np.quantile(tuning, [1 / 3, 2 / 3])
    third = np.searchsorted(cuts, held_out["risk"].to_numpy(), side="right")
    days = held_out["duration_days"].to_numpy().astype(float)
    event = (held_out["status"] == EVENT).to_numpy()
    end = float(horizon_days or days.max())
    event &= days <= end
    days = np.minimum(days, end)
    marks = [round(end * k / 4) for k in range(5)]
    filled = [k for k in range(len(THIRDS)) if (third == k).sum() >= FEWEST]
    if len(filled) < 2:
        return None
    curves = [_curve(THIRDS[k], days[third == k], event[third == k], marks) for k in filled]
    shown = np.isin(third, filled)
    return Panel(title, marks, curves, _log_rank(days[shown], third[shown], event[shown]))


def _curve(third: str, days: NDArray, event: NDArray, marks: Sequence[int]) -> Curve:
    from lifelines import KaplanMeierFitter

    fitted = KaplanMeierFitter().fit(days, event)
    at = fitted.survival_function_.index.to_numpy(dtype=float)
    ends = fitted.confidence_interval_.to_numpy()
    kept = np.array([(days >= t).sum() >= FEWEST for t in at])
    kept[0] = True
    return Curve(
        third=third,
        n=len(days),
        days=at[kept],
        survival=fitted.survival_function_.to_numpy()[kept, 0],
        low=np.nan_to_num(ends[kept, 0], nan=1.0),
        high=np.nan_to_num(ends[kept, 1], nan=1.0),
        at_risk=[int((days >= mark).sum()) for mark in marks],
    )


def _log_rank(days: NDArray, third: NDArray, event: NDArray) -> float | None:
    from lifelines.statistics import multivariate_logrank_test

    if not event.any():
        return None
    p = float(multivariate_logrank_test(days, third, event).p_value)
    return p if np.isfinite(p) else None


def _draw(panels: Sequence[Panel]) -> str:
    with plt.rc_context(cast(Any, STYLE)):
        fig, axes = plt.subplots(
            2,
            2,
            figsize=(WIDTH, 4.6),
            layout="constrained",
            squeeze=False,
            height_ratios=[5, 1.1],
            sharex="col",
        )
        for column in range(2):
            if column < len(panels):
                _panel(axes[0, column], panels[column])
                _at_risk(axes[1, column], panels[column])
            else:
                axes[0, column].set_visible(False)
                axes[1, column].set_visible(False)
        return svg_text(fig)


def _panel(ax: Axes, panel: Panel) -> None:
    for curve in panel.curves:
        colour = COLOURS[THIRDS.index(curve.third)]
        ax.step(curve.days, curve.survival, where="post", color=colour, lw=1.8, label=f"{curve.third} risk")
        ax.fill_between(curve.days, curve.low, curve.high, step="post", color=colour, alpha=0.15, lw=0)
    p = "not defined" if panel.p is None else "<0.001" if panel.p < 0.001 else f"{panel.p:.3f}"
    ax.set_title(wrapped(panel.title, 52), fontsize=10, loc="left", weight="bold")
    ax.text(0.02, 0.04, f"log-rank p {p}", transform=ax.transAxes, color=MUTED, fontsize=9)
    ax.set_ylim(0, 1.03)
    ax.set_ylabel("without the event")
    ax.grid(True)
    ax.legend(loc="lower right", fontsize=9)


def _at_risk(ax: Axes, panel: Panel) -> None:
    for line, curve in enumerate(panel.curves):
        for mark, n in zip(panel.marks, curve.at_risk, strict=True):
            said = masked(n)
            ax.text(mark, line, said, ha="center", va="center", fontsize=8.5)
    ax.set_yticks(range(len(panel.curves)), [c.third for c in panel.curves])
    ax.set_ylim(len(panel.curves) - 0.4, -0.6)
    ax.set_xticks(panel.marks)
    ax.tick_params(axis="y", length=0, labelsize=9)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("days since the decision node; numbers at risk")
