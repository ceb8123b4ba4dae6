"""Which backbones are taken, which are refused, and full fine-tuning."""

import json
import shutil

import pytest
import torch
from training_helpers import make_job, recipe_data, write_tokenizer
from transformers import (
    AutoTokenizer,
    Cohere2Config,
    FalconConfig,
    Gemma2Config,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
)

from ehr_assets.corpora.phrases import TAGS
from ehr_assets.errors import TrainingError
from ehr_assets.models.backbone import build_backbone, causal_lm, hidden_states, load_backbone, with_lora
from ehr_assets.training.backbones import prepare_backbone
from ehr_assets.training.checkpoint import load_checkpoint
from ehr_assets.training.job import TrainingJob
from ehr_assets.training.suitable import unsuitable

SIZES = {k: v for k, v in recipe_data()["backbone"].items() if k != "kind"}
IDS = torch.arange(1, 20).unsqueeze(0)
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 64, "long_factor": [2.0] * 64}
LONG |= {"factor": 2.0, "original_max_position_embeddings": 4096}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (LlamaConfig(max_position_embeddings=8192), None),
        (Qwen3Config(max_position_embeddings=8192, use_sliding_window=False, sliding_window=512), None),
        (Qwen2Config(max_position_embeddings=8192), None),
        (MistralConfig(sliding_window=None), None),
        (MistralConfig(sliding_window=4096), None),
        (MistralConfig(sliding_window=1024), "it sees 1024 tokens back"),
        (LlamaConfig(max_position_embeddings=2048), "it can place 2048 tokens"),
        (Gemma2Config(), "capped"),
        (GptOssConfig(sliding_window=8192), "sinks"),
        (Qwen3NextConfig(max_position_embeddings=8192), "not all of full attention"),
        (FalconConfig(alibi=True, max_position_embeddings=8192), "ALiBi"),
        (GraniteConfig(logits_scaling=8.0, max_position_embeddings=8192), "changes its logits"),
        (Cohere2Config(sliding_window=1024), "changes its logits"),
        (LlamaConfig(max_position_embeddings=8192, rope_parameters=LONG), "rope_type longrope"),
    ],
)
def test_what_does_not_attend_causally_to_everything_is_named(config, said):
    found = unsuitable(config.to_dict(), max_tokens=3300)
    assert any(said in problem for problem in found) if said else found == []


def own_tokenizer(folder, *, drop: str | None = None):
    """The made-up corpus' tokenizer as a backbone has it: without the delimiters."""
    file = write_tokenizer(folder) / "tokenizer.json"
    data = json.loads(file.read_text())
    data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] not in TAGS]
    kept = data["model"]["vocab"].items()
    data["model"]["vocab"] = {t: i for t, i in kept if t not in TAGS and t != drop}
    file.write_text(json.dumps(data))


@pytest.fixture
def pretrained(tmp_path):
    folder = tmp_path / "pretrained"
    build_backbone(vocab_size=40, **SIZES).save_pretrained(folder)
    own_tokenizer(folder)
    return folder


def job_on(folder, path, **changes) -> TrainingJob:
    changes.setdefault("adapter", {"r": 4, "trainable_tokens": "delimiters"})
    return TrainingJob.model_validate(
        make_job(folder, {"train": 4}, backbone={"kind": "pretrained", "path": str(path)}, **changes)
    )


def prepared(job: TrainingJob):
    return prepare_backbone(job, AutoTokenizer.from_pretrained(job.tokenizer), None)


def test_a_corpus_in_the_backbones_own_tokens_is_taken(pretrained, tmp_path):
    model = prepared(job_on(tmp_path / "job", pretrained))
    assert len(causal_lm(model).get_input_embeddings().weight) == 48


def test_a_backbone_that_changed_since_is_not_taken_for_the_former_one(pretrained, tmp_path):
    job, out = job_on(tmp_path / "job", pretrained), tmp_path / "out"
    tokenizer = AutoTokenizer.from_pretrained(job.tokenizer)
    out.mkdir()
    prepare_backbone(job, tokenizer, out).save_pretrained(out)
    tokenizer.save_pretrained(out)
    assert load_checkpoint(out)
    build_backbone(vocab_size=40, **{**SIZES, "seed": 8}).save_pretrained(pretrained)
    with pytest.raises(TrainingError, match="its weights have changed"):
        load_checkpoint(out)
    (out / "backbone.json").unlink()
    with pytest.raises(TrainingError, match="cannot be verified"):
        load_checkpoint(out)


def test_a_corpus_in_other_tokens_is_refused(pretrained, tmp_path):
    own_tokenizer(pretrained, drop="w30")
    with pytest.raises(TrainingError, match=r"0 of its 31 tokens are .* and 1 are new beside the delimiters"):
        prepared(job_on(tmp_path / "missing", pretrained))
    own_tokenizer(pretrained)
    vocabulary = json.loads((pretrained / "tokenizer.json").read_text())
    vocabulary["model"]["vocab"] |= {"w30": 31, "w31": 30}
    (pretrained / "tokenizer.json").write_text(json.dumps(vocabulary))
    with pytest.raises(TrainingError, match="2 of its 32 tokens are missing or numbered otherwise"):
        prepared(job_on(tmp_path / "other", pretrained))


def test_a_backbone_without_tokenizer_is_refused(pretrained, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (pretrained / name).unlink()
    with pytest.raises(TrainingError, match="has no tokenizer"):
        prepared(job_on(tmp_path / "job", pretrained))


def test_a_backbone_that_slides_is_refused_when_it_is_loaded(pretrained, tmp_path):
    config = json.loads((pretrained / "config.json").read_text())
    config |= {"use_sliding_window": True, "sliding_window": 32, "layer_types": ["sliding_attention"] * 2}
    (pretrained / "config.json").write_text(json.dumps(config))
    with pytest.raises(TrainingError, match=r"sees 32 tokens back \(sliding_window\), not data.max_tokens"):
        prepared(job_on(tmp_path / "job", pretrained))


@pytest.mark.parametrize("beside", [True, False])
def test_a_published_adapter_is_a_backbone(pretrained, tmp_path, beside):
    """As our checkpoints are: adapter and trained tokens, their own backbone beside them or named."""
    base = load_backbone(pretrained)
    base.resize_token_embeddings(48)
    published = tmp_path / "published"
    name = "backbone" if beside else str(pretrained)
    model = with_lora(base, r=4, alpha=8, dropout=0.0, trainable_tokens=range(1, 17), base_name=name)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, 0, 0.1)
    model.save_pretrained(published, save_embedding_layers=False)
    shutil.copy(pretrained / "config.json", published)  # harmless
    write_tokenizer(published)
    if beside:
        base_alone = load_backbone(pretrained)
        base_alone.save_pretrained(published / "backbone")
    with torch.no_grad():
        want, got = (hidden_states(m.eval(), IDS) for m in (model, load_backbone(published)))
    torch.testing.assert_close(got[:, 16:], want[:, 16:], rtol=1e-4, atol=1e-5)
    again = prepared(job_on(tmp_path / "job", published)).eval()
    with torch.no_grad():
        torch.testing.assert_close(hidden_states(again, IDS)[:, 16:], want[:, 16:], rtol=1e-4, atol=1e-5)


def test_full_fine_tuning_trains_every_weight(pretrained, tmp_path):
    model = prepared(job_on(tmp_path / "job", pretrained, adapter={"kind": "full"}))
    assert all(p.requires_grad for p in model.parameters())
    assert type(model).__name__ == "Qwen3ForCausalLM"
