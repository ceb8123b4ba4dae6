"""The course of a training as a picture: losses, learning rate, target encoder, speed, memory."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ehr_assets.training.history import (
    TIMING,
    Point,
    Row,
    objectives,
    phases,
    points,
    read_history,
    read_rows,
    steps,
    tunings,
)

COLUMNS = 3
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#66707a"
UNITS = {"sft": "nats per token", "jepa": "squared error per dimension"}


@dataclass(frozen=True)
class Line:
    """One line of a panel; `dots` for values that are few."""

    label: str
    points: Sequence[Point]
    colour: str
    dots: bool = False


@dataclass(frozen=True)
class Panel:
    """One axis; `unit` of what is drawn. `zero`: of amounts, whose small changes shall look small."""

    title: str
    unit: str
    lines: Sequence[Line]
    zero: bool = True


def curves_png(checkpoint_dir: Path) -> str:
    """A picture of what there is to see of a checkpoint's training, as base64 PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    history = read_history(checkpoint_dir)
    panels = panels_of(history, read_rows(checkpoint_dir / TIMING))
    lines = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 2.1 * lines + 0.3), layout="constrained", dpi=90)
    grid = figure.subplots(lines, COLUMNS, squeeze=False, sharex=True).ravel()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, panel in zip(grid, panels, strict=False):
        _draw(axes, panel, phases(history))
    for axes in grid[max(0, len(panels) - COLUMNS) : len(panels)]:
        axes.set_xlabel("optimizer step", fontsize=8)
        axes.xaxis.set_tick_params(labelbottom=True)
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    return base64.b64encode(out.getvalue()).decode()


def panels_of(history: Sequence[Row], timing: Sequence[Row]) -> list[Panel]:
    """The panels that have something to show."""
    trained, tuned = steps(history), tunings(history)

    def both(title: str, unit: str, train: Sequence[str], tuning: Sequence[str]) -> Panel:
        lines = [
            Line("train", points(trained, *train), BLUE),
            Line("tuning", points(tuned, *tuning), ORANGE, dots=True),
        ]
        return Panel(title, unit, lines, zero=False)

    def one(title: str, unit: str, rows: Sequence[Row], *keys: str, dots: bool = False) -> Panel:
        return Panel(title, unit, [Line(title, points(rows, *keys), BLUE, dots)])

    names = objectives(history)
    found = [both(f"{n} loss", UNITS.get(n, ""), ("losses", n), ("losses", n)) for n in names]
    if len(names) > 1:
        found.append(both("weighted sum of losses", "", ("loss",), ("tuning_loss",)))
    found += [
        one("learning rate", "", trained, "lr"),
        one("gradient norm", "before clipping", trained, "grad_norm"),
        one("target: effective rank", "directions", tuned, "target", "effective_rank", dots=True),
        one("target: std of a dimension", "", tuned, "target", "std", dots=True),
        one("target: spread", "share of length", tuned, "target", "spread", dots=True),
        one("cosine of online and target", "", tuned, "target", "cosine", dots=True),
        one("speed", "tokens/s", timing, "tokens_per_s"),
        one("MFU", "share of peak", timing, "mfu"),
        Panel(
            "most memory so far",
            "MB",
            [Line("rank 0", points(timing, "rss_mb"), BLUE), Line("GPU", points(timing, "gpu_mb"), ORANGE)],
        ),
    ]
    return [panel for panel in found if any(line.points for line in panel.lines)]


def _draw(axes: Any, panel: Panel, began: Sequence[tuple[str, int]]) -> None:
    drawn = [line for line in panel.lines if line.points]
    for line in drawn:
        style = {"marker": "o", "markersize": 4, "linestyle": ":"} if line.dots else {}
        axes.plot(*zip(*line.points, strict=True), color=line.colour, label=line.label, linewidth=1, **style)
    for name, first in began[1:]:
        axes.axvline(first, color=GREY, linewidth=0.7, linestyle="--")
        at_top = axes.get_xaxis_transform()
        axes.text(first, 0.98, f" {name}", transform=at_top, va="top", fontsize=7, color=GREY)
    axes.set_title(panel.title, fontsize=9, loc="left")
    axes.set_ylabel(panel.unit, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.1)
    if panel.zero:
        axes.set_ylim(0, 1.1 * max(value for line in drawn for _, value in line.points) or 1)
    if len(drawn) > 1:
        axes.legend(frameon=False, fontsize=7)
