"""The checkpoint folder: written after the last step, loaded by plain peft + transformers.

| file | what |
|---|---|
| `adapter_config.json`, `adapter_model.safetensors` | the LoRA adapter and the trained token embeddings |
| `backbone/` | the frozen backbone, when it was built from a configuration |
| `backbone.json` | instead, of a pretrained one: its path or hub name, and the hash of its weights |
| `config.json`, `model.safetensors` | instead of these, under full fine-tuning: the whole model |
| `target_adapter/`, `target_model/` | the target encoder in the same form, where JEPA was trained |
| `predictor.safetensors` | JEPA's predictor and the mask token |
| `tokenizer.json` and friends | the corpus's tokenizer |
| `recipe.yaml` | the resolved settings that made it |
| `history.jsonl`, `timing.jsonl` | the course of the training (`history.py`) |
| `resume/` | the last state, if it is small (`state.py`); no part of the content hash |
| `fitted_on.json` | the hash of the subjects that were really trained on |
| `model_card.md` | the same for people (`model_card.py`) |

Weights are written from tensors by name, whole ones, wherever the model's own parameters lie (with ZeRO-3
they are spread over processes). A recipe that continues another takes up the online weights, the predictor
and the mask token. Its target encoder begins at the online weights, as its optimizer's moments begin anew:
that is one rule whether or not the recipe before had a target, and an average over 1 / (1 - τ) = 250 steps
(SMB: τ = 0.996) soon holds nothing of where it began.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ehr_assets.errors import TrainingError
from ehr_assets.model_folders import AsksForCodeError, load_tokenizer, refuse_code
from ehr_assets.models.backbone import (
    ADAPTER_CONFIG,
    BACKBONE,
    NAMED_BACKBONE,
    fit_vocabulary,
    load_backbone,
    load_base,
    weights_sha256,
)
from ehr_assets.models.world_model import WorldModel
from ehr_assets.training.recipe import RecipeSpec

TARGET_ADAPTER, TARGET_MODEL = "target_adapter", "target_model"
PREDICTOR = "predictor.safetensors"
_ENCODER = "backbone."
"""What the world model's names of the encoder's parameters begin with."""

NOT_TOKENIZER = ("fitted_on.json", "_manifest.json")


def save_backbone(model: PreTrainedModel, out_dir: Path) -> None:
    """Writes a backbone that was built from a configuration. Training does not change it."""
    model.save_pretrained(out_dir / BACKBONE)


def name_backbone(model: PreTrainedModel, path: str, out_dir: Path) -> None:
    """Notes which pretrained backbone this is, as it was loaded: it is not copied, and what lies there may be
    another one when the checkpoint is read."""
    _write_json(out_dir / NAMED_BACKBONE, {"path": path, "weights_sha256": weights_sha256(model)})


def keep_backbone(folder: Path, out_dir: Path) -> None:
    """What a checkpoint that is continued has of its backbone, for the new one."""
    if (folder / BACKBONE).is_dir():
        shutil.copytree(folder / BACKBONE, out_dir / BACKBONE)
    if (folder / NAMED_BACKBONE).is_file():
        shutil.copyfile(folder / NAMED_BACKBONE, out_dir / NAMED_BACKBONE)


def trained_tensors(model: WorldModel) -> dict[str, Tensor]:
    """What is trained, by name, where every process holds it whole: all but ZeRO-3."""
    return {name: p.detach() for name, p in model.trainable().items()}


def save_checkpoint(
    out_dir: Path,
    model: WorldModel,
    tokenizer_dir: Path,
    recipe: RecipeSpec,
    fitted_on: Mapping[str, Any],
    *,
    tensors: Mapping[str, Tensor],
    target: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes everything but `backbone/`, the histories, which exist by then, and the card.

    Args:
        model: gives configuration and names; its values are not read.
        tensors: of all of `model.trainable()`, whole.
        target: the target encoder's average, of all of `model.trained_encoder()`, whole.
    """
    _save_encoder(out_dir, model.backbone, _of(_ENCODER, tensors))
    if target is not None:
        inside = out_dir / (TARGET_ADAPTER if isinstance(model.backbone, PeftModel) else TARGET_MODEL)
        inside.mkdir()
        _save_encoder(inside, model.backbone, _of(_ENCODER, target))
    if predicting := {k: v for k, v in tensors.items() if not k.startswith(_ENCODER)}:
        _save_tensors(out_dir / PREDICTOR, predicting)
    for file in sorted(tokenizer_dir.iterdir()):
        if file.is_file() and file.name not in NOT_TOKENIZER:
            shutil.copyfile(file, out_dir / file.name)
    _write_json(out_dir / "fitted_on.json", fitted_on)
    resolved = yaml.safe_dump(recipe.training_settings(), sort_keys=False, allow_unicode=True)
    (out_dir / "recipe.yaml").write_text(resolved, encoding="utf-8")


def load_checkpoint(folder: Path, *, trainable: bool = False) -> tuple[Any, PreTrainedTokenizerBase]:
    """The trained model, on CPU, and its tokenizer; in evaluation mode unless `trainable`.

    With an adapter it is a PeftModel; after full fine-tuning, transformers' own.

    Raises:
        TrainingError: when the folder is no whole checkpoint, or its pretrained backbone cannot be found or
            is no longer the one that it was trained on.
    """
    adapter = folder / ADAPTER_CONFIG
    if not adapter.is_file() and not (folder / "config.json").is_file():
        raise TrainingError(
            "This folder is not a checkpoint: it has neither adapter_config.json nor config.json.",
            where=str(folder),
            do="Materialize the recipe's checkpoint again.",
        )
    try:
        refuse_code(folder)
    except AsksForCodeError as e:
        raise TrainingError(
            f"This checkpoint would not be loaded without running code: {e}.",
            where=str(folder),
            do="Materialize the recipe's checkpoint again; ours are safetensors.",
        ) from e
    tokenizer = load_tokenizer(folder)
    if not adapter.is_file():
        whole = load_backbone(folder)
        whole.train(trainable)
        return whole, tokenizer
    if not (folder / BACKBONE).is_dir() and not (folder / NAMED_BACKBONE).is_file():
        raise TrainingError(
            f"This checkpoint does not say what it was trained on: it has neither {BACKBONE}/ nor "
            f"{NAMED_BACKBONE}, so its backbone cannot be verified.",
            where=str(folder),
            do="Materialize the recipe's checkpoint again.",
        )
    backbone = load_base(folder)
    fit_vocabulary(backbone, len(tokenizer))
    model = PeftModel.from_pretrained(backbone, str(folder), is_trainable=trainable)
    model.train(trainable)
    return model, tokenizer


def load_predictor(folder: Path, model: WorldModel) -> bool:
    """Puts a checkpoint's predictor and mask token into a model that has them; whether there were any.

    Raises:
        TrainingError: they are of another kind or size than the model's.
    """
    file = folder / PREDICTOR
    own = {k: p for k, p in model.named_parameters() if not k.startswith(_ENCODER)}
    if not own or not file.is_file():
        return False
    kept = load_file(file)
    if {k: v.shape for k, v in kept.items()} != {k: p.shape for k, p in own.items()}:
        raise TrainingError(
            "The predictor of the recipe that this one continues has another kind or size.",
            where="jepa.predictor",
            do="Give both recipes the same jepa.predictor.",
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(kept[name])
    return True


def _save_encoder(folder: Path, backbone: Any, tensors: Mapping[str, Tensor]) -> None:
    """In the form that plain peft, or plain transformers, loads."""
    if not isinstance(backbone, PeftModel):
        backbone.save_pretrained(folder, state_dict=_plain(tensors))
        return
    config = backbone.peft_config["default"]
    settings = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
    settings["inference_mode"] = True
    _write_json(folder / ADAPTER_CONFIG, settings)
    # Neither the base's embeddings (frozen or in the token adapter) nor a look at the hub is wanted here.
    state = get_peft_model_state_dict(backbone, state_dict=dict(tensors), save_embedding_layers=False)
    _save_tensors(folder / "adapter_model.safetensors", state)


def _save_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file(_plain(tensors), file, metadata={"format": "pt"})


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In the order of their names, so that equal weights give equal bytes."""
    return {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}


def _of(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _write_json(file: Path, data: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
