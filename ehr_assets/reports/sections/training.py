"""How the recipes were trained: curves, and all settings."""

from collections.abc import Mapping, Sequence
from typing import Any

from ehr_assets.reports.blocks import Block, Figure, Section, Settings, Text
from ehr_assets.reports.figures import training_curves
from ehr_assets.reports.inputs import Inputs, RecipeInputs, RunInputs
from ehr_assets.reports.small_cells import number
from ehr_assets.training.history import points, read_history


def training(inputs: Inputs) -> Section:
    blocks: list[Block] = []
    runs = [(_named(inputs, r, run), r, run) for r in inputs.recipes for run in r.runs]
    folders = {inputs.spec.label(r.name): [run.checkpoint for run in r.runs] for r in inputs.recipes}
    if curves := training_curves(folders):
        blocks.append(
            Figure(
                curves,
                "Training curves",
                "Loss on train records (a moving mean; pale, where runs are few: each step), on tuning "
                "records (marks), and the learning rate; a line per seed. No label is used in training.",
                inputs.sources(*(name for r in inputs.recipes for name in r.assets("checkpoint"))),
            )
        )
    for recipe in inputs.recipes:
        said = [_said(name, run) for name, r, run in runs if r is recipe]
        blocks += [
            Text(" ".join(filter(None, said)), heading=f"{recipe.title} ({recipe.name})"),
            Settings("All settings of this recipe", flat(recipe.settings)),
        ]
    return Section("Training", blocks)


def _named(inputs: Inputs, recipe: RecipeInputs, run: RunInputs) -> str:
    return inputs.spec.label(recipe.name) + (f", {run.partition}" if run.partition else "")


def _said(name: str, run: RunInputs) -> str:
    """How long a run trained and where its loss went; nothing without a history."""
    history = read_history(run.checkpoint)
    trained, tuned = points(history, "loss"), points(history, "tuning_loss")
    if not trained:
        return ""
    said = f"{name}: {number(trained[-1][0])} optimizer steps; "
    said += f"train loss from {trained[0][1]:.3f} to {trained[-1][1]:.3f}"
    return said + (f", tuning loss {tuned[-1][1]:.3f} at the end." if tuned else ".")


def flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted key, text), empty values left out."""
    out: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            out += flat(value, f"{prefix}{key}.")
        elif isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
            for i, item in enumerate(value, start=1):
                out += flat(item, f"{prefix}{key} {i}.")
        elif value not in (None, "", [], ()):
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            out.append((prefix + key, text))
    return out
