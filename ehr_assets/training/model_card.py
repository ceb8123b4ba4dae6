"""The model card: what a checkpoint is, from the facts of its own training, for people."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ehr_assets.lineage.hashing import file_sha256
from ehr_assets.models.backbone import NAMED_BACKBONE
from ehr_assets.training.collapse import judge_collapse
from ehr_assets.training.history import read_history
from ehr_assets.training.licences import licence_of
from ehr_assets.training.recipe import RecipeSpec
from ehr_assets.training.recipe_parts import ConfigBackbone, LoraSpec, PhaseSpec, ScheduleSpec

CARD = "model_card.md"


def write_card(
    folder: Path,
    recipe: RecipeSpec,
    fitted_on: Mapping[str, Any],
    stats: Mapping[str, Any],
    facts: Mapping[str, str],
) -> None:
    """Writes the card of a checkpoint folder that is complete but for it.

    Equal folders give equal text: it holds no clock reading.

    Args:
        fitted_on: the content of `fitted_on.json`.
        stats: what `training/process.py` counted.
        facts: further lines on the origins, name to text.
    """
    sections = {
        "What it is": _what(recipe, stats),
        "Data": _data(recipe, fitted_on, stats),
        "Training": _training(recipe, stats),
        "Losses": _losses(stats),
        "Representations": _representations(folder, recipe, stats),
        "Licence": [licence_of(recipe.backbone)],
        "Limits": [
            "It describes the cohort it was trained on, and may not carry over to another.",
            "It was trained to continue records. It was not tested for use in care, and is not meant for it.",
            "It may have memorised parts of its training records: handle it like the data it came from.",
        ],
        "Files": [f"`{name}`: sha256 {sha}" for name, sha in _weights(folder)],
        "Origins": [f"{name}: {text}" for name, text in sorted(facts.items())],
    }
    lines = [f"# {recipe.name}", "", recipe.title]
    for title, points in sections.items():
        if said := [f"- {point}" for point in points]:
            lines += ["", f"## {title}", *said]
    lines += ["", "## Loading", "```python", *_loading(folder, recipe), "```"]
    (folder / CARD).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _what(recipe: RecipeSpec, stats: Mapping[str, Any]) -> Iterator[str]:
    backbone, adapter = recipe.backbone, recipe.adapter
    kept = "frozen" if isinstance(adapter, LoraSpec) else "trained"
    if isinstance(backbone, ConfigBackbone):
        yield (
            f"Backbone: a {backbone.architecture} architecture with random weights (seed {backbone.seed}): "
            f"{backbone.num_hidden_layers} layers, width {backbone.hidden_size}, {kept}."
        )
    else:
        yield f"Backbone: `{backbone.path}`, {kept}."
    counts = f"{stats['trainable_parameters']:,} of {stats['parameters']:,} parameters were trained"
    if isinstance(adapter, LoraSpec):
        yield (
            f"LoRA r {adapter.r}, alpha {adapter.alpha}, dropout {adapter.dropout} on all linear layers; "
            f"token embeddings: {adapter.trainable_tokens}. {counts}."
        )
    else:
        yield f"Full fine-tuning, without an adapter. {counts}."
    if jepa := recipe.jepa:
        predictor = jepa.predictor
        yield (
            f"JEPA hides {jepa.mask_ratio:.0%} of the continuation by {jepa.mask_unit}; its target encoder "
            f"is the moving average with momentum {jepa.momentum}. Predictor: {predictor.kind}, "
            f"{predictor.layers} layers, width {predictor.width:g} of the backbone's, "
            f"{stats['predictor_parameters']:,} parameters."
        )


def _data(recipe: RecipeSpec, fitted_on: Mapping[str, Any], stats: Mapping[str, Any]) -> Iterator[str]:
    data = recipe.data
    low, high = data.continuation_fraction
    yield (
        f"Token corpus `{recipe.corpus}`, split `{fitted_on['split']}` only: {fitted_on['n_subjects']:,} "
        f"subjects were trained on (sha256 of their ids {fitted_on['subjects_sha256']}); "
        f"{stats['subjects_too_short']:,} records were too short to be cut."
    )
    yield (
        f"{stats['examples']:,} examples, {stats['tokens']:,} tokens, windows of at most {data.max_tokens} "
        f"tokens, continuation {low:.0%} to {high:.0%} of a window; cut at decision nodes "
        f"({data.cuts.nodes:.0%}) and event boundaries ({data.cuts.boundaries:.0%})."
    )
    yield (
        f"The `tuning` split ({stats['tuning_subjects']:,} subjects, at most {recipe.tuning.examples:,} "
        "examples) was used for the tuning loss alone. `held_out` was not read."
    )


def _training(recipe: RecipeSpec, stats: Mapping[str, Any]) -> Iterator[str]:
    optimizer = recipe.optimizer
    yield f"Phases: {'; '.join(_phase(phase) for phase in recipe.phases)}; {stats['steps']:,} steps in all."
    if recipe.continues:
        yield f"Continues `{recipe.continues}`."
    yield (
        f"{recipe.batch} examples a step; AdamW, learning rate {optimizer.lr:g}, betas {optimizer.betas}, "
        f"weight decay {optimizer.weight_decay:g}, gradients clipped at {optimizer.clip:g}; "
        f"{_schedule(recipe.schedule)}; seed {recipe.seed}; precision "
        f"{stats.get('precision', recipe.engine.precision)}."
    )
    known = ""
    if best := stats.get("best_step"):
        known = f"; the last phase's best tuning loss was {stats['best_loss']:.4f}, at step {best}"
    yield f"The weights are those of step {stats.get('selected_step', stats['steps'])}{known}."
    resumed = stats.get("resumed_on")
    yield (
        f"It was taken up again under other conditions than it had begun with: {resumed}. Sums were rounded "
        "otherwise from there on."
        if resumed
        else "It was trained under the same conditions from first to last: if it was interrupted, it was "
        "taken up exactly."
    )


def _phase(phase: PhaseSpec) -> str:
    weights = " + ".join(f"{weight:g} {name}" for name, weight in phase.objectives.items())
    length = f"{phase.epochs or phase.steps} {'epoch' if phase.epochs else 'step'}"
    length += "s" if (phase.epochs or phase.steps) != 1 else ""
    trains = f", training {', '.join(phase.trains)}" if phase.trains else ""
    own = f", by its own {_schedule(phase.schedule)}" if phase.schedule else ""
    return f"{phase.name} ({weights}, {length}{trains}{own})"


def _schedule(schedule: ScheduleSpec) -> str:
    scaled = f" at {schedule.lr_scale:g} of the learning rate" if schedule.lr_scale != 1 else ""
    return f"{schedule.kind} schedule with {schedule.warmup_fraction:.0%} warmup{scaled}"


def _losses(stats: Mapping[str, Any]) -> Iterator[str]:
    yield f"Training: {stats['first_loss']:.4f} at the first step, {stats['last_loss']:.4f} at the last."
    if stats["tuning_loss"] is None:
        yield "There were no tuning subjects."
    else:
        each = ", ".join(f"{name} {loss:.4f}" for name, loss in stats["tuning_losses"].items())
        yield f"Tuning, at the end: {stats['tuning_loss']:.4f} ({each})."


def _representations(folder: Path, recipe: RecipeSpec, stats: Mapping[str, Any]) -> Iterator[str]:
    """What tells whether they collapsed; nothing without a target encoder."""
    if recipe.jepa is None:
        return
    found = judge_collapse(read_history(folder), stats.get("selected_step"))
    if f := found.figures:
        yield (
            f"Target encoder on the tuning examples: std of a dimension {f['std']:.4f} (smallest "
            f"{f['std_min']:.4f}), spread {f['spread']:.3f}, effective rank {f['effective_rank']:.1f} of "
            f"at most {f['possible_rank']:.0f}, cosine with the online encoder {f['cosine']:.4f}."
        )
    yield f"Collapse: {found.problem or 'none was found'}."


def _weights(folder: Path) -> Iterator[tuple[str, str]]:
    """(name, sha256) of the files with weights, and of the tokenizer."""
    for file in sorted(folder.rglob("*.safetensors")):
        name = file.relative_to(folder).as_posix()
        if not name.startswith("resume/"):
            yield name, file_sha256(file)
    if (folder / NAMED_BACKBONE).is_file():
        named = json.loads((folder / NAMED_BACKBONE).read_text(encoding="utf-8"))
        yield f"{named['path']} (the backbone's weights, not copied)", named["weights_sha256"]
    if (folder / "tokenizer.json").is_file():
        yield "tokenizer.json", file_sha256(folder / "tokenizer.json")


def _loading(folder: Path, recipe: RecipeSpec) -> list[str]:
    backbone = recipe.backbone
    tokenizer = "tokenizer = AutoTokenizer.from_pretrained(folder)"
    if not isinstance(recipe.adapter, LoraSpec):
        return [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            tokenizer,
            "model = AutoModelForCausalLM.from_pretrained(folder)",
        ]
    source = 'folder + "/backbone"' if isinstance(backbone, ConfigBackbone) else f'"{backbone.path}"'
    lines = [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        tokenizer,
        f"backbone = AutoModelForCausalLM.from_pretrained({source})",
    ]
    if not isinstance(backbone, ConfigBackbone):
        lines.append("if len(tokenizer) > backbone.get_input_embeddings().weight.shape[0]:")
        lines.append("    backbone.resize_token_embeddings(len(tokenizer))")
    return [*lines, "model = PeftModel.from_pretrained(backbone, folder)"]
