"""The checkpoint folder: written from tensors by name, loaded by plain peft and transformers; its card."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from training_helpers import recipe_data, write_tokenizer
from transformers import AutoModelForCausalLM

from ehr_assets.embeddings.encoder import Encoder
from ehr_assets.errors import TrainingError
from ehr_assets.lineage.hashing import file_sha256
from ehr_assets.models.backbone import build_backbone, hidden_states, with_lora
from ehr_assets.models.predictor import build_predictor
from ehr_assets.models.world_model import WorldModel
from ehr_assets.training.checkpoint import (
    load_checkpoint,
    load_predictor,
    save_backbone,
    save_checkpoint,
    trained_tensors,
)
from ehr_assets.training.licences import licence_of
from ehr_assets.training.model_card import write_card
from ehr_assets.training.recipe import RecipeSpec
from ehr_assets.training.recipe_parts import ConfigBackbone, PretrainedBackbone
from ehr_assets.training.tags import card_facts

pytestmark = pytest.mark.slow

IDS = torch.arange(1, 41).unsqueeze(0)
BOTH = {"name": "both", "objectives": {"sft": 1.0, "jepa": 1.0}, "steps": 2}
JEPA = {"predictor": {"kind": "mlp"}}
FITTED = {"split": "train", "n_subjects": 3, "subjects_sha256": "abc"}
STATS = {"steps": 2, "examples": 8, "tokens": 99, "subjects_too_short": 0, "tuning_subjects": 1}
STATS |= {"first_loss": 3.0, "last_loss": 2.0, "tuning_loss": 2.5, "tuning_losses": {"sft": 1.5, "jepa": 1.0}}
STATS |= {"parameters": 100, "trainable_parameters": 10, "predictor_parameters": 5}


def plain_backbone() -> Any:
    sizes = {k: v for k, v in recipe_data()["backbone"].items() if k != "kind"}
    return build_backbone(vocab_size=48, **sizes)


def world_model(adapter: str = "lora", layers: int = 2, seed: int = 0) -> WorldModel:
    """A world model with weights that no other seed gives."""
    model: Any = plain_backbone()
    torch.manual_seed(seed)
    if adapter == "lora":
        rows = range(48)
        model = with_lora(model, r=8, alpha=16, dropout=0.1, trainable_tokens=rows, base_name="backbone")
    made = WorldModel(model, build_predictor("mlp", 32, 32, layers=layers, heads=1))
    with torch.no_grad():
        for p in made.trainable().values():
            p += 0.02 * torch.randn_like(p)
    return made.eval()


def saved(folder: Path, adapter: str = "lora") -> tuple[WorldModel, dict[str, torch.Tensor]]:
    """A checkpoint of a world model, and the target encoder's average that was saved with it."""
    folder.mkdir()
    model, other = world_model(adapter), world_model(adapter, seed=1)
    if adapter == "lora":
        save_backbone(plain_backbone(), folder)
    target = {name: p.detach().clone() for name, p in other.trained_encoder().items()}
    kept = {name: t.clone() for name, t in trained_tensors(model).items()}
    with torch.no_grad():  # with ZeRO-3 the model's own parameters are empty by now
        for p in model.trainable().values():
            p.zero_()
    recipe = RecipeSpec.model_validate(
        recipe_data(adapter={"kind": adapter} if adapter == "full" else {}, jepa=JEPA, phases=[BOTH])
        | ({"adapter": {"r": 8, "alpha": 16, "trainable_tokens": "all"}} if adapter == "lora" else {})
    )
    tokenizer = write_tokenizer(folder.parent / f"tokenizer-{folder.name}")
    save_checkpoint(folder, model, tokenizer, recipe, FITTED, tensors=kept, target=target)
    write_card(folder, recipe, FITTED, STATS, {"made by": "a test"})
    return world_model(adapter), target


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def with_target(model: WorldModel, target: dict[str, torch.Tensor]) -> Any:
    with torch.no_grad():
        for name, p in model.trained_encoder().items():
            p.copy_(target[name])
    return model.backbone


def test_online_and_target_adapter_load_with_plain_peft(tmp_path):
    model, target = saved(tmp_path / "c")

    def loaded(adapter: Path) -> Any:
        backbone = AutoModelForCausalLM.from_pretrained(tmp_path / "c" / "backbone")
        return PeftModel.from_pretrained(backbone, str(adapter)).eval()

    torch.testing.assert_close(logits(loaded(tmp_path / "c")), logits(model.backbone), rtol=0, atol=0)
    of_target = logits(loaded(tmp_path / "c" / "target_adapter"))
    assert not torch.allclose(of_target, logits(model.backbone))
    torch.testing.assert_close(of_target, logits(with_target(model, target)), rtol=0, atol=0)


def test_full_fine_tuning_is_a_plain_model(tmp_path):
    model, target = saved(tmp_path / "c", "full")
    folder = tmp_path / "c"
    assert not (folder / "adapter_config.json").exists()
    assert not (folder / "backbone").exists()
    plain = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(logits(plain), logits(model.backbone), rtol=0, atol=0)
    ours, tokenizer = load_checkpoint(folder, trainable=True)
    assert ours.training
    assert len(tokenizer) == 48
    of_target = AutoModelForCausalLM.from_pretrained(folder / "target_model")
    torch.testing.assert_close(logits(of_target), logits(with_target(model, target)), rtol=0, atol=0)


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_the_frozen_encoder_reads_both_kinds(tmp_path, adapter):
    model, _ = saved(tmp_path / "c", adapter)
    states = Encoder(tmp_path / "c", "cpu").encode([IDS[0].numpy().astype(np.int32)], [[40]], "last")
    with torch.no_grad():
        expected = hidden_states(model.backbone, IDS)[0, -1]
    np.testing.assert_allclose(states[0][0], expected.numpy(), atol=1e-5)


def test_predictor_and_mask_token_come_back(tmp_path):
    model, _ = saved(tmp_path / "c")
    kept = load_file(tmp_path / "c" / "predictor.safetensors")
    assert {name.split(".")[0] for name in kept} == {"mask_token", "objectives"}
    other = world_model(seed=5)
    assert load_predictor(tmp_path / "c", other)
    for name, tensor in kept.items():
        torch.testing.assert_close(other.get_parameter(name).detach(), tensor, rtol=0, atol=0)
        torch.testing.assert_close(model.get_parameter(name).detach(), tensor, rtol=0, atol=0)
    with pytest.raises(TrainingError, match="another kind or size"):
        load_predictor(tmp_path / "c", world_model(layers=3))
    assert not load_predictor(tmp_path, other), "a recipe before it that knew no JEPA"


def test_a_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(TrainingError, match="not a checkpoint"):
        load_checkpoint(tmp_path)


def test_the_card_names_hashes_predictor_and_licence(tmp_path):
    saved(tmp_path / "c")
    card = (tmp_path / "c" / "model_card.md").read_text()
    for name in ("adapter_model.safetensors", "target_adapter/adapter_model.safetensors"):
        assert f"`{name}`: sha256 {file_sha256(tmp_path / 'c' / name)}" in card
    assert f"`predictor.safetensors`: sha256 {file_sha256(tmp_path / 'c/predictor.safetensors')}" in card
    assert "Predictor: mlp, 2 layers, width 1 of the backbone's, 5 parameters" in card
    assert "no third party's licence" in card
    assert "Collapse: no tuning pass" in card
    assert "jepa 1.0000" in card
    assert "taken up exactly" in card


def test_the_card_says_how_each_phase_was_trained_and_from_what(tmp_path):
    own = {**BOTH, "name": "late", "schedule": {"kind": "constant", "warmup_fraction": 0, "lr_scale": 0.25}}
    recipe = RecipeSpec.model_validate(recipe_data(jepa=JEPA, phases=[BOTH, own]))
    facts = card_facts({"c/token_corpus": "v1"}, "run-1", "abc", "code-1")
    write_card(tmp_path, recipe, FITTED, {**STATS, "precision": "bf16"}, facts)
    card = (tmp_path / "model_card.md").read_text()
    assert "by its own constant schedule with 0% warmup at 0.25 of the learning rate)" in card
    assert card.count("by its own") == 1
    assert "cosine schedule with 3% warmup; seed" in card
    assert "precision bf16." in card
    for line in (
        "data version of c/token_corpus: v1",
        "Dagster run: run-1",
        "git revision: abc",
        "code version: code-1",
    ):
        assert f"- {line}\n" in card


@pytest.mark.parametrize(
    ("files", "licence", "said"),
    [
        ({}, "apache-2.0", "licence is apache-2.0 (by the recipe)"),
        ({"README.md": "---\nlicense: llama3\n---\n# A model\n"}, None, "licence is llama3 (by its own"),
        (
            {"README.md": "---\nlicense: other\nlicense_name: own\nlicense_link: LICENSE\n---\n"},
            None,
            "licence is own (LICENSE)",
        ),
        ({"README.md": "# No front matter\n", "LICENSE": "\n  MIT License\n"}, None, "begins: 'MIT License'"),
        ({"README.md": "---\na: [\n---\n"}, None, "unknown: ask"),
        ({}, None, "unknown: ask"),
    ],
)
def test_whose_licence(tmp_path, files, licence, said):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    spec = PretrainedBackbone(kind="pretrained", path=str(tmp_path), licence=licence)
    assert said in licence_of(spec)


def test_the_licence_of_what_is_not_here():
    assert "unknown: ask" in licence_of(PretrainedBackbone(kind="pretrained", path="nobody/nothing"))
    assert "unknown: ask" in licence_of(PretrainedBackbone(kind="pretrained", path="/no/where/at/all"))
    backbone = recipe_data()["backbone"]
    assert "no third party" in licence_of(ConfigBackbone.model_validate(backbone))
