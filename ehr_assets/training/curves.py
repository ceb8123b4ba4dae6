"""The training curve of a checkpoint folder, as numbers and as a picture."""

import base64
import io
import json
from pathlib import Path
from typing import Any


def read_history(checkpoint_dir: Path) -> list[dict[str, Any]]:
    """The rows of `history.jsonl`: step, phase, loss, lr, …, or step, phase, tuning_loss."""
    lines = (checkpoint_dir / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def curve_png(checkpoint_dir: Path) -> str:
    """A small picture of training and tuning loss by step, as base64 PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    history = read_history(checkpoint_dir)
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    for key, style, label in (("loss", "-", "training"), ("tuning_loss", "o--", "tuning")):
        points = [(row["step"], row[key]) for row in history if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1, markersize=4)
    axes.set(xlabel="optimizer step", ylabel="loss (nats per token)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    return base64.b64encode(out.getvalue()).decode()
