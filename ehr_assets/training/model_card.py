"""The model card: what a checkpoint is, from the facts of its own training, for people."""

from collections.abc import Mapping
from typing import Any

from ehr_assets.training.recipe import RecipeSpec
from ehr_assets.training.recipe_parts import ConfigBackbone, LoraSpec, PhaseSpec


def model_card(
    recipe: RecipeSpec, fitted_on: Mapping[str, Any], stats: Mapping[str, Any], facts: Mapping[str, str]
) -> str:
    """The card in Markdown. Equal inputs give equal text: it holds no clock reading.

    Args:
        fitted_on: the content of `fitted_on.json`.
        stats: what `training/process.py` counted.
        facts: further lines on the origins, name to text.
    """
    backbone, data = recipe.backbone, recipe.data
    low, high = data.continuation_fraction
    if isinstance(backbone, ConfigBackbone):
        base = (
            f"a {backbone.architecture} architecture with random weights (seed {backbone.seed}): "
            f"{backbone.num_hidden_layers} layers, width {backbone.hidden_size}, frozen; in `backbone/`"
        )
        source = 'folder + "/backbone"'
        licence = "The backbone was drawn at random here; no third party's licence applies to it."
    else:
        base = f"`{backbone.path}`, frozen; not copied into this folder"
        source = f'"{backbone.path}"'
        licence = "The backbone has its own licence; see its source."
    lines = [
        f"# {recipe.name}",
        "",
        recipe.title,
        "",
        "## What it is",
        f"- Backbone: {base}.",
        f"- Trained: {_trained(recipe)} {stats['trainable_parameters']:,} of {stats['parameters']:,} "
        "parameters.",
        f"- Phases: {'; '.join(_phase(phase) for phase in recipe.phases)}.",
        "",
        "## Data",
        f"- Token corpus `{recipe.corpus}`, split `{fitted_on['split']}` only: {fitted_on['n_subjects']:,} "
        f"subjects were trained on (sha256 of their ids {fitted_on['subjects_sha256']}); "
        f"{stats['subjects_too_short']:,} records were too short to be cut.",
        f"- {stats['examples']:,} examples, {stats['tokens']:,} tokens, windows of at most {data.max_tokens} "
        f"tokens, continuation {low:.0%} to {high:.0%} of a window.",
        f"- The `tuning` split ({stats['tuning_subjects']:,} subjects) was used for the tuning loss alone. "
        "`held_out` was not read.",
        "",
        "## Losses",
        f"- First step {stats['first_loss']:.4f}, last step {stats['last_loss']:.4f}"
        + (
            f"; tuning {stats['tuning_loss']:.4f}."
            if stats["tuning_loss"] is not None
            else "; no tuning subjects."
        ),
        "",
        "## Limits",
        "- It describes the cohort it was trained on, and may not carry over to another.",
        "- It was trained to continue records. It was not tested for use in care, and is not meant for it.",
        "- It may have memorised parts of its training records: handle it like the data it came from.",
        f"- {licence}",
        "",
        "## Loading",
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        f"backbone = AutoModelForCausalLM.from_pretrained({source})",
    ]
    if not isinstance(backbone, ConfigBackbone):
        lines.append("if len(tokenizer) > backbone.get_input_embeddings().weight.shape[0]:")
        lines.append("    backbone.resize_token_embeddings(len(tokenizer))")
    lines += ["model = PeftModel.from_pretrained(backbone, folder)", "```"]
    if facts:
        lines += ["", "## Origins", *(f"- {name}: {text}" for name, text in sorted(facts.items()))]
    return "\n".join(lines) + "\n"


def _trained(recipe: RecipeSpec) -> str:
    adapter = recipe.adapter
    if not isinstance(adapter, LoraSpec):
        return "all weights of the backbone."
    return (
        f"LoRA r {adapter.r}, alpha {adapter.alpha}, dropout {adapter.dropout} on all linear layers; token "
        f"embeddings: {adapter.trainable_tokens}."
    )


def _phase(phase: PhaseSpec) -> str:
    weights = " + ".join(f"{weight:g} {name}" for name, weight in phase.objectives.items())
    length = f"{phase.epochs} epochs" if phase.epochs else f"{phase.steps} steps"
    return f"{phase.name} ({weights}, {length})"
