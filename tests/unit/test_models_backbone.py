"""The backbone: built, loaded, grown, adapted."""

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from ehr_assets.errors import TrainingError
from ehr_assets.models.backbone import (
    build_backbone,
    causal_lm,
    fit_vocabulary,
    hidden_states,
    load_backbone,
    with_lora,
)
from ehr_assets.models.vocabulary import Vocabulary

SIZES = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}


def untied(vocab_size: int = 20) -> Qwen3ForCausalLM:
    sizes = {**SIZES, "vocab_size": vocab_size}
    return Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=8, tie_word_embeddings=False))


def lora(model, tokens):
    return with_lora(model, r=4, alpha=8, dropout=0.0, trainable_tokens=tokens, base_name="base")


def test_equal_seeds_give_equal_weights_and_leave_the_callers_randomness_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two, other = (build_backbone(**SIZES, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("make", [lambda: build_backbone(**SIZES, seed=1), untied])
def test_new_tokens_start_as_the_mean_and_old_ones_stay(make):
    model = make()
    embedding = model.get_input_embeddings().weight.detach().clone()
    head = model.get_output_embeddings().weight.detach().clone()
    fit_vocabulary(model, 23)
    for new, old in ((model.get_input_embeddings(), embedding), (model.get_output_embeddings(), head)):
        assert new.weight.shape == (23, 16)
        torch.testing.assert_close(new.weight[:20], old)
        torch.testing.assert_close(new.weight[20:], old.mean(0).expand(3, 16))
    fit_vocabulary(model, 10)
    assert model.get_input_embeddings().weight.shape == (23, 16)


@pytest.mark.parametrize("make", [lambda: build_backbone(**SIZES, seed=1), untied])
def test_lora_sits_on_every_linear_layer_and_only_it_and_the_tokens_are_trained(make):
    model = make()
    linear = {n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"}
    adapted = lora(model, [3, 1])
    inner = adapted.get_base_model()
    assert {n for n, m in inner.named_modules() if isinstance(m, LoraLayer)} == linear
    trained = [n for n, p in adapted.named_parameters() if p.requires_grad]
    assert all("lora_" in n or "trainable_tokens_delta" in n for n in trained)
    tokens = [p for n, p in adapted.named_parameters() if "trainable_tokens_delta" in n]
    assert {tuple(p.shape) for p in tokens} == {(2, 16)}
    tied = model.config.tie_word_embeddings
    assert len({p.data_ptr() for p in tokens}) == (1 if tied else 2)
    assert adapted.peft_config["default"].base_model_name_or_path == "base"


@pytest.mark.parametrize("make", [lambda: build_backbone(**SIZES, seed=1), untied])
def test_hidden_states_and_logits_are_the_models_own(make):
    adapted = lora(make(), [3, 1]).eval()
    for name, p in adapted.named_parameters():
        if "lora_B" in name or "delta" in name:
            nn.init.normal_(p)  # otherwise the adapter does nothing yet
    ids = torch.randint(0, 20, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        mine = Vocabulary(causal_lm(adapted)).logits(hidden_states(adapted, ids))
        own = adapted(input_ids=ids, attention_mask=mask).logits
        without = make()(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(mine, own)
    assert not torch.allclose(mine, without)


def test_a_backbone_that_cannot_be_loaded_is_one_clear_error(tmp_path):
    with pytest.raises(TrainingError, match=r"cannot be loaded[\s\S]*backbone.path[\s\S]*safetensors"):
        load_backbone(tmp_path)
    model = build_backbone(**SIZES, seed=1)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(TrainingError, match="safetensors"):
        load_backbone(tmp_path)


def test_a_saved_backbone_is_loaded_as_it_was(tmp_path):
    model = build_backbone(**SIZES, seed=1)
    model.save_pretrained(tmp_path)
    loaded = load_backbone(tmp_path).state_dict()
    assert all(torch.equal(p, loaded[n]) for n, p in model.state_dict().items())
