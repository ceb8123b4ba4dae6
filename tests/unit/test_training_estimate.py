"""Estimates by shape, held against the networks themselves."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from training_helpers import recipe_data
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from ehr_assets.models.attention import use_attention
from ehr_assets.models.backbone import build_backbone, causal_lm, with_lora
from ehr_assets.models.limits import LOGITS_AT_ONCE
from ehr_assets.models.predictor import build_predictor
from ehr_assets.models.target import TargetEncoder
from ehr_assets.models.world_model import WorldModel
from ehr_assets.training import estimate
from ehr_assets.training.collate import collate
from ehr_assets.training.cutting import Example
from ehr_assets.training.recipe import RecipeSpec
from ehr_assets.training.recipe_parts import ConfigBackbone, EngineSpec

SIZES = {"hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
SIZES |= {"intermediate_size": 640, "max_position_embeddings": 1024}
VOCABULARY = 300


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("config", [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config])
def test_parameters_by_shape(config, tied):
    made = config(**SIZES, head_dim=64, vocab_size=VOCABULARY, tie_word_embeddings=tied)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(made)
    shape = estimate.shape_of(made.to_dict())
    assert shape
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    adapted = with_lora(model, r=8, alpha=16, dropout=0.0, trainable_tokens=range(1, 17), base_name="made_up")
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert trained == shape.lora(8) + shape.matrices * 16 * 256


def test_another_family_is_not_guessed_at():
    assert estimate.shape_of({**SIZES, "model_type": "gemma3", "vocab_size": 5}) is None
    assert estimate.shape_of({"model_type": "qwen3"}) is None


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
def test_parameters_flops_and_memory_of_the_fused_step(kind):
    both = {"name": "both", "objectives": {"sft": 1, "jepa": 1}, "steps": 1}
    recipe = RecipeSpec.model_validate(
        recipe_data(
            backbone={"kind": "config", **SIZES, "seed": 1},
            jepa={"predictor": {"kind": kind, "heads": 2, "layers": 3, "width": 0.5}},
            phases=[{"name": "sft", "objectives": {"sft": 1}, "steps": 1}, both],
            batch=1,
        )
    )
    assert isinstance(recipe.backbone, ConfigBackbone)
    assert recipe.jepa
    shape = estimate.shape_of_spec(recipe.backbone, VOCABULARY)
    torch.manual_seed(0)
    model = with_lora(
        build_backbone(vocab_size=VOCABULARY, **SIZES, seed=1),
        r=8,
        alpha=16,
        dropout=0.1,
        trainable_tokens=range(VOCABULARY),
        base_name="x",
    )
    use_attention(causal_lm(model), "segments")
    world = WorldModel(model, build_predictor(kind, 256, 128, layers=3, heads=2))
    trained = estimate.trained(recipe, shape, VOCABULARY)
    assert sum(trained.values()) == sum(p.numel() for p in world.trainable().values())
    n, m = estimate.expected_example(recipe)
    rng = np.random.default_rng(0)
    for phase in recipe.phases:
        hides = "jepa" in phase.weighed
        hidden = rng.random(m) < 0.5 if hides else None
        batch = collate([Example(rng.integers(0, 300, n + m), n, np.zeros(n + m, np.int32), hidden)])
        target = TargetEncoder(model, world.trained_encoder(), 0.99) if hides else None
        saved = {}

        def keep(x, saved=saved):
            saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with FlopCounterMode(display=False) as counted:
            states = None
            if target:
                with torch.no_grad(), target.in_place():
                    states = world.encode(batch.unmasked())
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
                losses = world(batch, phase.objectives, states)
            losses.total.backward()
        # The counter does not see the CPU's attention, a few per cent at this length.
        ours = estimate.example_flops(recipe, phase, shape, n, m)
        assert counted.get_total_flops() == pytest.approx(ours, rel=0.05)
    weights = {p.untyped_storage().data_ptr() for p in world.parameters()}
    measured = sum(size for place, size in saved.items() if place not in weights)
    parts = estimate.memory_bytes(recipe, shape, VOCABULARY, bf16=False)
    assert 0.75 < (parts["activations"] + parts["logits"]) / measured < 1.5


def test_logits_are_kept_a_stretch_at_a_time():
    recipe = RecipeSpec.model_validate(recipe_data(data={"max_tokens": 128}, embedding={"max_tokens": 128}))
    assert isinstance(recipe.backbone, ConfigBackbone)
    m = estimate.expected_example(recipe)[1]
    for vocabulary, examples in ((VOCABULARY, 4), (151_936, 4), (151_936, 104)):
        several = recipe.model_copy(
            update={"batch": examples, "engine": EngineSpec.model_validate({"micro_batch": examples})}
        )
        shape = estimate.shape_of_spec(recipe.backbone, vocabulary)
        found = estimate.memory_bytes(several, shape, vocabulary, bf16=True)["logits"]
        assert found == min(examples * m * vocabulary, LOGITS_AT_ONCE) * 10
    assert found == pytest.approx(0.67e9, rel=0.01), "not the 6 GB of all of them"
