"""The timeline figure: a few held-out subjects' records and decision nodes, without ids or dates.

Subjects are named A, B, C; time is counted from each subject's first event. Drawn densities, not single
records, where many events fall together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ehr_assets.contracts import BIRTH, DEATH
from ehr_assets.meds.reading import scan_events
from ehr_assets.reports.figures import INK, MUTED, RECIPE_COLOURS, RULE, STYLE, WIDTH, svg_text

SECTIONS = ("conditions", "measurements", "observations", "procedures", "drugs", "notes")
RECORD_QUANTILES = (0.25, 0.5, 0.85)
BINS = 420
DAY_US = 86_400_000_000
DAYS_PER_MONTH = 365.25 / 12
TRIGGER_MARKERS = ("v", "o", "s", "D", "^", "P", "X", "*")
TRIGGER_COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#0072B2", "#5b6770")


@dataclass(frozen=True)
class Timeline:
    """One subject: days since the first event, for events by section, nodes and death."""

    letter: str
    events: dict[str, np.ndarray]
    nodes: list[tuple[float, list[str]]]
    death: float | None
    n_events: int


def pick_timelines(meds: Path, nodes_dir: Path, splits_dir: Path) -> list[Timeline]:
    """Three held-out subjects with short, middling and long records, two nodes or more if there are such.

    Deterministic: ordered by number of events (ties by id), taken at fixed quantiles.
    """
    splits = pl.read_parquet(splits_dir / "subject_splits.parquet").filter(pl.col("split") == "held_out")
    nodes = pl.read_parquet(nodes_dir / "nodes.parquet").join(splits, on="subject_id", how="semi")
    per_subject = nodes.group_by("subject_id").len("nodes")
    several = per_subject.filter(pl.col("nodes") >= 2)
    candidates = several if several.height >= len(RECORD_QUANTILES) else per_subject
    events = scan_events(meds).filter(pl.col("time").is_not_null() & (pl.col("code") != BIRTH))
    sizes = (
        events.join(candidates.lazy(), on="subject_id", how="semi")
        .group_by("subject_id")
        .len()
        .collect(engine="streaming")
        .sort("len", "subject_id")
    )
    if not sizes.height:
        return []
    ranks = dict.fromkeys(round(q * (sizes.height - 1)) for q in RECORD_QUANTILES)
    chosen = [sizes["subject_id"][rank] for rank in ranks]
    record = events.filter(pl.col("subject_id").is_in(chosen)).collect(engine="streaming")
    return [_timeline("ABC"[i], subject, record, nodes) for i, subject in enumerate(chosen)]


def _timeline(letter: str, subject: int, record: pl.DataFrame, nodes: pl.DataFrame) -> Timeline:
    mine = record.filter(pl.col("subject_id") == subject)
    first = mine["time"].min()

    def days(column: pl.Series) -> np.ndarray:
        return (column - first).dt.total_microseconds().to_numpy() / DAY_US

    at = nodes.filter(pl.col("subject_id") == subject).sort("time")
    death = days(mine.filter(pl.col("code") == DEATH)["time"])
    return Timeline(
        letter=letter,
        events={s: days(mine.filter(pl.col("section") == s)["time"]) for s in SECTIONS},
        nodes=list(zip(days(at["time"]).tolist(), at["trigger"].to_list(), strict=True)),
        death=float(death[0]) if len(death) else None,
        n_events=mine.height,
    )


def timelines(found: Sequence[Timeline]) -> str | None:
    """The figure, one panel per subject; None when there is no subject to show."""
    if not found:
        return None
    triggers = sorted({name for t in found for _, names in t.nodes for name in names})
    looks: dict[str, dict[str, Any]] = {
        name: {"marker": TRIGGER_MARKERS[i % 8], "color": TRIGGER_COLOURS[i % 8], "mec": "white", "mew": 0.7}
        for i, name in enumerate(triggers)
    }
    with plt.rc_context(cast(Any, STYLE)):
        fig, axes = plt.subplots(
            len(found), 1, figsize=(WIDTH, 2.6 * len(found) + 0.7), layout="constrained", squeeze=False
        )
        fig.get_layout_engine().set(h_pad=0.1)  # type: ignore[union-attr]
        for ax, timeline in zip(axes[:, 0], found, strict=True):
            _panel(ax, timeline, looks)
        handles = [Line2D([], [], ls="", ms=8, label=n.replace("_", " "), **looks[n]) for n in triggers]
        if handles:
            fig.legend(handles=handles, loc="outside upper center", ncols=min(5, len(handles)), fontsize=9.5)
        return svg_text(fig)


def _panel(ax: Axes, timeline: Timeline, looks: Mapping[str, dict[str, Any]]) -> None:
    """One subject: a line per section, the decision nodes above, in days or (long records) months."""
    days = [*(d for held in timeline.events.values() for d in held), *(t for t, _ in timeline.nodes)]
    end = max(1.0, *days, timeline.death or 0.0)
    unit, scale = ("months", DAYS_PER_MONTH) if end > 120 else ("days", 1.0)
    end /= scale
    for line, section in enumerate(SECTIONS, start=1):
        _density(ax, timeline.events[section] / scale, line, end)
    for at, names in timeline.nodes:
        ax.axvline(at / scale, color=MUTED, lw=0.8, ls=(0, (3, 3)), zorder=1)
        for i, name in enumerate(names):
            offset = (i - (len(names) - 1) / 2) * 0.42
            ax.plot([at / scale], [offset], ls="", ms=7.5, zorder=4, clip_on=False, **looks[name])
    if timeline.death is not None:
        ax.axvline(timeline.death / scale, color=INK, lw=1.8)
        ax.text(timeline.death / scale, -0.8, "death ", ha="right", va="bottom", fontsize=9)
    rows = ("decision nodes", *SECTIONS)
    for line in range(len(rows)):
        ax.axhline(line, color=RULE, lw=0.5, zorder=0)
    ax.set_yticks(range(len(rows)), rows)
    ax.set_ylim(len(rows) - 0.45, -0.75)
    ax.set_xlim(-0.01 * end, 1.01 * end)
    ax.tick_params(axis="y", length=0, labelsize=9)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(f"{unit} since the first event", fontsize=9)
    title = f"Subject {timeline.letter}: {timeline.n_events:,} events, {len(timeline.nodes)} decision nodes"
    ax.set_title(title, loc="left", fontsize=10.5, weight="bold", pad=10)


def _density(ax: Axes, times: np.ndarray, line: int, end: float) -> None:
    """One tick per bin of time that holds an event, darker where it holds more."""
    if not len(times):
        return
    counts, edges = np.histogram(times, bins=BINS, range=(0, end))
    held = np.flatnonzero(counts)
    middle = (edges[held] + edges[held + 1]) / 2
    alpha = 0.4 + 0.6 * np.log1p(counts[held]) / np.log1p(max(counts.max(), 8))
    ax.vlines(middle, line - 0.32, line + 0.32, color=RECIPE_COLOURS[0], alpha=alpha, lw=1.5, zorder=2)
