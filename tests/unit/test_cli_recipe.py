"""`ehr recipe check`, and what the checkpoint's asset refuses in the same words before it starts anything."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizers import AddedToken, Tokenizer
from training_helpers import recipe_data, write_tokenizer
from typer.testing import CliRunner

from ehr_assets.corpora.phrases import TAGS
from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.errors import SpecError, TrainingError
from ehr_assets.training.examine import DELIMITERS, examine, require_usable
from ehr_assets.training.recipe import RecipeSpec
from jobs.cli.recipe import app

CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


def check(*args: str) -> tuple[int, str]:
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["check", *args])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Writes a recipe of seconds that stands on a shipped corpus; gives its file."""
    (tmp_path / "recipes").mkdir()
    monkeypatch.setenv("EHR_SPECS", str(tmp_path))
    monkeypatch.setenv("EHR_HOME", str(tmp_path / "home"))

    def write(name: str = "made_up", **changes: Any) -> str:
        file = tmp_path / f"{name}.yaml"
        data = recipe_data(**{"corpus": "synthetic_oncology_tagged", "name": name, **changes})
        file.write_text(yaml.safe_dump(data))
        return str(file)

    return write


def backbone(folder: Path, **changes: Any) -> Path:
    """A pretrained backbone's folder, as far as it is looked at without loading."""
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def pretrained(folder: Path | str, **changes: Any) -> RecipeSpec:
    adapter = {"r": 4, "trainable_tokens": "delimiters"}
    of = {"backbone": {"kind": "pretrained", "path": str(folder)}, "adapter": adapter}
    return RecipeSpec.model_validate(recipe_data(**{**of, **changes}))


def on(folder: Path | str) -> CorpusSpec:
    """A corpus that adopts a folder's tokenizer."""
    tokenizer = {"kind": "folder", "path": str(folder)}
    return CorpusSpec.model_validate({"name": "c", "cohorts": ["x"], "tokenizer": tokenizer})


def test_a_sound_recipe_says_what_it_would_train_and_need(project):
    both = {"name": "both", "objectives": {"sft": 1, "jepa": 1}, "epochs": 1}
    code, said = check(project(jepa={"predictor": {"heads": 2}}, phases=[both]))
    assert code == 0
    for words in ("LoRA", "token embeddings", "predictor", "mask token 32", "FLOP per step", "B per process"):
        assert words in said
    assert "✓ can be used: 0 warning(s)" in said


def test_a_shipped_recipe_by_name_with_all_its_settings():
    code, said = check("smb_sft_mimic_demo", "--resolved")
    assert code == 0
    assert "momentum" not in said
    shown = yaml.safe_load(said[said.index("name:") : said.index("backbone  ")])
    assert shown["corpus"] == "mimic_iv_tagged"
    assert shown["optimizer"]["betas"] == [0.9, 0.95]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimiser": {}}, r"optimiser: unknown key\. Did you mean 'optimizer'\?"),
        ({"phases": [{"name": "p", "objectives": {"sft": 0}, "epochs": 1}]}, "all weights are zero"),
        ({"data": {"max_tokens": 256}}, r"data.max_tokens \(256\) is longer than"),
        ({"corpus": "synthetic_oncology_taged"}, r"There is no corpus .* Did you mean"),
        ({"continues": "smb_sft_dem"}, r"There is no recipe 'smb_sft_dem'\. Did you mean 'smb_sft_demo'"),
        ({"continues": "smb_sft_demo"}, "It continues 'smb_sft_demo', whose backbone differs"),
        ({"continues": "made_up"}, "cannot continue itself"),
    ],
)
def test_mistakes_name_file_and_key(project, changes, said):
    file = project(**changes)
    with pytest.raises(SpecError, match=said) as error:
        check(file)
    assert file in str(error.value)


@pytest.mark.parametrize("ratio", [0, 1.5])
def test_mask_ratios_that_cannot_be(project, ratio):
    both = {"name": "both", "objectives": {"jepa": 1}, "epochs": 1}
    with pytest.raises(SpecError, match=r"jepa\.mask_ratio"):
        check(project(jepa={"mask_ratio": ratio, "predictor": {"kind": "mlp"}}, phases=[both]))


def test_names_that_are_not_there(project):
    with pytest.raises(SpecError, match=r"no recipe 'smb_sft_dem'\. Did you mean 'smb_sft_demo'"):
        check("smb_sft_dem")
    with pytest.raises(SpecError, match="does not exist"):
        check("nowhere.yaml")
    file = project()
    Path(file).rename(Path(file).with_name("other.yaml"))
    code, said = check(str(Path(file).with_name("other.yaml")))
    assert (code, "must be called made_up.yaml" in said) == (0, True)


def test_a_fitted_tokenizer_is_not_a_pretrained_backbones(project, tmp_path):
    folder = backbone(tmp_path / "b")
    adapter = {"r": 4, "trainable_tokens": "delimiters"}
    file = project(backbone={"kind": "pretrained", "path": str(folder)}, adapter=adapter)
    code, said = check(file)
    assert code == 1
    assert "knows its own tokens alone" in said
    assert "cannot be used: 1 problem(s)" in said


def test_a_backbone_that_goes_with_its_corpus(tmp_path):
    folder = backbone(tmp_path / "b")
    found = examine(pretrained(folder), on(folder))
    assert (found.problems, found.doubts, found.vocabulary) == ([], [], 48)
    assert found.shape
    assert found.shape.vocabulary == 64, "padded, as published models are"
    require_usable(pretrained(folder), folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_position_embeddings": 32}, "can place 32 tokens, not data.max_tokens (64)"),
        (
            {"max_position_embeddings": 64, "embedding": 100},
            "embedding.max_tokens: the backbone can place 64",
        ),
        ({"sliding_window": 16, "layer_types": ["full_attention", "sliding_attention"]}, "sliding_window"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "not all of full attention"),
        ({"attn_logit_softcapping": 50.0}, "attention is capped"),
    ],
)
def test_backbones_that_cannot_be_world_models(tmp_path, changes, said):
    longest = changes.pop("embedding", 64)
    folder = backbone(tmp_path / "b", **changes)
    found = examine(pretrained(folder, embedding={"max_tokens": longest}), on(folder))
    assert any(said in problem for problem in found.problems), found.problems
    with pytest.raises(TrainingError, match="This recipe cannot be trained"):
        require_usable(pretrained(folder, embedding={"max_tokens": longest}), folder)


@pytest.mark.parametrize(
    ("named", "doubted"),
    [("GPT2LMHeadModel", False), ("Qwen3ForCausalLM", False), ("BertForMaskedLM", True)],
)
def test_what_may_be_no_causal_language_model_is_doubted(tmp_path, named, doubted):
    folder = backbone(tmp_path / "b", architectures=[named])
    found = examine(pretrained(folder), on(folder))
    said = [f"backbone.path: {named} may be no causal language model."] if doubted else []
    assert (found.problems, found.doubts) == ([], said)


def test_the_points_of_a_grid_that_cannot_be_used_are_named(project, tmp_path):
    code, said = check("smb_table6_demo")
    assert (code, "16 points" in said, "✓ can be used: 0 warning(s)" in said) == (0, True, True)
    adapter = {"r": 4, "trainable_tokens": "delimiters"}
    folder = backbone(tmp_path / "b")
    base = project(backbone={"kind": "pretrained", "path": str(folder)}, adapter=adapter)
    Path(base).rename(tmp_path / "recipes" / "made_up.yaml")
    grid = {"name": "g", "title": "g", "base": "made_up", "cohort": "synthetic_oncology"}
    grid["columns"] = [{"title": "length", "short": "n", "settings": ["data.max_tokens"]}]
    grid["groups"] = [{"title": "a", "grid": {"data.max_tokens": [64, 200]}}]
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "g.yaml").write_text(yaml.safe_dump(grid))
    code, said = check("g")
    assert code == 1
    assert "✗ n200: backbone.path: it can place 128 tokens, not data.max_tokens (200)" in said
    assert "n64" not in said
    assert "✗ all 2 points: corpus: its tokenizer is fitted" in said


def test_a_predictor_that_its_backbone_cannot_have(tmp_path):
    folder = backbone(tmp_path / "b")
    both = {"name": "both", "objectives": {"sft": 1, "jepa": 1}, "steps": 1}
    recipe = pretrained(folder, jepa={"predictor": {"heads": 3}}, phases=[both])
    assert "3 heads cannot share" in examine(recipe, on(folder)).problems[0]


def test_folders_that_hold_no_backbone(tmp_path, monkeypatch):
    def problems(path: Path | str) -> str:
        return " ".join(examine(pretrained(path), on(path)).problems)

    assert "there is no folder" in problems(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no config.json" in problems(empty)
    (empty / "config.json").write_text("{")
    assert "cannot be read as JSON" in problems(empty)
    (empty / "config.json").write_text(json.dumps(CONFIG))
    assert "no *.safetensors" in problems(empty)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "neither a folder nor kept here" in problems("somebody/a-model")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert not problems("somebody/a-model")
    assert "not here" in examine(pretrained("somebody/a-model"), on("somebody/a-model")).doubts[0]


def test_an_unknown_family_is_used_but_not_estimated(tmp_path):
    folder = backbone(tmp_path / "b", model_type="olmo9", architectures=["Olmo9ForCausalLM"])
    found = examine(pretrained(folder), on(folder))
    assert (found.problems, found.shape) == ([], None)
    assert "cannot be estimated" in found.doubts[0]


def test_the_committed_tokenizer_is_held_against_the_backbones(tmp_path):
    folder, corpus = backbone(tmp_path / "b"), write_tokenizer(tmp_path / "corpus")
    tokenizer = Tokenizer.from_file(str(corpus / "tokenizer.json"))
    assert examine(pretrained(folder), tokenizer=corpus).problems == []
    tokenizer.add_tokens([AddedToken("<other>")])
    tokenizer.save(str(corpus / "tokenizer.json"))
    assert "1 are new beside the delimiters" in examine(pretrained(folder), tokenizer=corpus).problems[0]
    data = json.loads((folder / "tokenizer.json").read_text())
    words = data["model"]["vocab"]
    words["w17"], words["w18"] = words["w18"], words["w17"]
    (folder / "tokenizer.json").write_text(json.dumps(data))
    found = examine(pretrained(folder), tokenizer=write_tokenizer(tmp_path / "again")).problems
    assert "2 of its 48 tokens are missing or numbered otherwise" in found[0]
    (folder / "tokenizer.json").unlink()
    assert "cannot be compared" in examine(pretrained(folder), tokenizer=corpus).doubts[0]


def test_the_delimiters_are_those_of_the_corpora():
    assert set(TAGS) == DELIMITERS


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from jobs.cli.recipe import app; app(['check', 'smb_sft_demo'], standalone_mode=False);"
        "print([m for m in ('torch', 'transformers', 'mlflow') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip().splitlines()[-1] == "[]"
