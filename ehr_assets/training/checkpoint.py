"""The checkpoint folder: written after the last step, loaded by plain peft + transformers.

| file | what |
|---|---|
| `adapter_config.json`, `adapter_model.safetensors` | the LoRA adapter and the trained token embeddings |
| `backbone/` | the frozen backbone, when it was built from a configuration (a pretrained one is only named) |
| `tokenizer.json` and friends | the corpus's tokenizer |
| `recipe.yaml` | the resolved settings that made it |
| `history.jsonl` | loss, learning rate, gradient norm per step; tuning losses |
| `timing.jsonl` | seconds, tokens per second, memory: differs between equal runs |
| `resume/` | the last state, if it is small (`state.py`); no part of the content hash either |
| `fitted_on.json` | the hash of the subjects that were really trained on |
| `model_card.md` | the same for people |
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ehr_assets.errors import TrainingError
from ehr_assets.models.backbone import fit_vocabulary, load_backbone
from ehr_assets.training.recipe import RecipeSpec

BACKBONE = "backbone"
VOLATILE = ("timing.jsonl", "resume/*")
"""Clock readings, and what depends on the machine: leave them out of a content hash."""

NOT_TOKENIZER = ("fitted_on.json", "_manifest.json")


def save_backbone(model: PreTrainedModel, out_dir: Path) -> None:
    """Writes a backbone that was built from a configuration. Training does not change it."""
    model.save_pretrained(out_dir / BACKBONE)


def save_checkpoint(
    out_dir: Path,
    model: PeftModel,
    tokenizer_dir: Path,
    recipe: RecipeSpec,
    fitted_on: Mapping[str, Any],
    card: str,
) -> None:
    """Writes everything but `backbone/`, `history.jsonl`, `timing.jsonl` and `resume/`.

    The card comes as text, so that its wording is no part of the code that a checkpoint depends on.
    """
    config = model.peft_config["default"]
    settings = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
    settings["inference_mode"] = True
    _write_json(out_dir / "adapter_config.json", settings)
    # Neither the base's embeddings (frozen or in the token adapter) nor a look at the hub is wanted here.
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: state[name].detach().cpu().contiguous() for name in sorted(state)}
    save_file(tensors, out_dir / "adapter_model.safetensors", metadata={"format": "pt"})
    for file in sorted(tokenizer_dir.iterdir()):
        if file.is_file() and file.name not in NOT_TOKENIZER:
            shutil.copyfile(file, out_dir / file.name)
    _write_json(out_dir / "fitted_on.json", fitted_on)
    resolved = yaml.safe_dump(recipe.training_settings(), sort_keys=False, allow_unicode=True)
    (out_dir / "recipe.yaml").write_text(resolved, encoding="utf-8")
    (out_dir / "model_card.md").write_text(card, encoding="utf-8")


def load_checkpoint(folder: Path, *, trainable: bool = False) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """The trained model, on CPU, and its tokenizer; in evaluation mode unless `trainable`.

    Raises:
        TrainingError: when the folder is no checkpoint, or its pretrained backbone cannot be found.
    """
    config = folder / "adapter_config.json"
    if not config.is_file():
        raise TrainingError(
            "This folder is not a checkpoint: it has no adapter_config.json.",
            where=str(folder),
            do="Materialize the recipe's checkpoint again.",
        )
    named = json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"]
    own = folder / BACKBONE
    backbone = load_backbone(own if own.is_dir() else named)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    fit_vocabulary(backbone, len(tokenizer))
    model = PeftModel.from_pretrained(backbone, str(folder), is_trainable=trainable)
    model.train(trainable)
    return model, tokenizer


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Appends JSON lines."""
    with file.open("a", encoding="utf-8") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)


def _write_json(file: Path, data: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
