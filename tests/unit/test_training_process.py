"""One rank, in this process: what training does, what it leaves behind, when it stops."""

import itertools
import json
import math
import re
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import yaml
from corpora_support import SPEC, T0, random_rows, write_meds, write_nodes
from peft import PeftModel
from process_support import IDS, SUBJECTS, history, phase, train
from training_helpers import FIRST_WORD, make_job, recipe_data, write_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from ehr_assets.corpora.reader import TokenCorpus
from ehr_assets.corpora.shards import write_corpus
from ehr_assets.corpora.tokenizer import train_tokenizer
from ehr_assets.errors import TrainingError
from ehr_assets.leakage.subjects import subjects_hash
from ehr_assets.models.backbone import build_backbone
from ehr_assets.training import loop
from ehr_assets.training.checkpoint import load_checkpoint
from ehr_assets.training.examples import trained_subjects
from ehr_assets.training.recipe import RecipeSpec
from ehr_assets.training.recipe_parts import ScheduleSpec

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("only_rank")]


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> dict:
    return make_job(tmp_path_factory.mktemp("first"), SUBJECTS)


@pytest.fixture(scope="module")
def trained(job) -> tuple[Path, torch.Tensor]:
    return train(job)


def test_the_loss_falls_and_history_has_every_step(trained):
    rows = history(trained[0])
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 13))  # 24 examples, batches of 4, 2 epochs
    assert sum(r["loss"] for r in steps[-3:]) < sum(r["loss"] for r in steps[:3])
    assert all(row["loss"] == row["losses"]["sft"] for row in steps)
    tuning = [row for row in rows if "tuning_loss" in row]
    assert [row["step"] for row in tuning] == [2, 3, 5, 6, 8, 9, 11, 12]  # four an epoch
    assert tuning[-1]["tuning_loss"] < tuning[0]["tuning_loss"] < steps[0]["loss"]


def test_equal_seeds_give_equal_bytes_and_other_seeds_do_not(trained, job, tmp_path):
    def weights(name: str, seed: int) -> bytes:
        (tmp_path / name).mkdir()
        out, _ = train(job, recipe=recipe_data(seed=seed), out_dir=str(tmp_path / name))
        return (out / "adapter_model.safetensors").read_bytes()

    first = (trained[0] / "adapter_model.safetensors").read_bytes()
    assert weights("same", job["recipe"]["seed"]) == first  # dropout and all
    assert weights("other", 77) != first


def test_plain_peft_and_transformers_load_the_checkpoint(trained):
    out, logits = trained
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.convert_tokens_to_ids("<demographics>") == 1
    backbone = AutoModelForCausalLM.from_pretrained(out / "backbone")
    model = PeftModel.from_pretrained(backbone, str(out)).eval()
    assert model.peft_config["default"].base_model_name_or_path == "backbone"
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, logits, rtol=0, atol=0)
        ours = load_checkpoint(out)[0](IDS).logits
    torch.testing.assert_close(ours, logits, rtol=0, atol=0)


def test_the_checkpoint_says_what_it_is(trained, job):
    out = trained[0]
    recipe = RecipeSpec.model_validate(job["recipe"])
    settings = yaml.safe_load((out / "recipe.yaml").read_text())
    assert settings == recipe.training_settings()
    subjects = trained_subjects(TokenCorpus(Path(job["token_corpus"])), recipe)
    fitted_on = json.loads((out / "fitted_on.json").read_text())
    assert fitted_on == {
        "split": "train",
        "n_subjects": 12,
        "subjects_sha256": subjects_hash(subjects["made_up"]),
    }
    card = (out / "model_card.md").read_text()
    assert not re.search(r"^## .*\n+(## |\Z)", card, re.MULTILINE), "a section without a line"
    assert "12 subjects were trained on" in card
    assert "made by: a test" in card
    assert str(out) not in "".join(p.read_text() for p in out.glob("*.*") if p.suffix != ".safetensors")


def test_the_model_card_code_runs(trained):
    card = (trained[0] / "model_card.md").read_text()
    scope: dict = {"folder": str(trained[0])}
    exec(card.split("```python\n")[1].split("```")[0], scope)
    with torch.no_grad():
        torch.testing.assert_close(scope["model"].eval()(IDS).logits, trained[1])


def test_a_recipe_continues_where_another_ended(trained, job, tmp_path):
    recipe = recipe_data(name="next", continues="made_up", phases=[phase(steps=2)], optimizer={"lr": 1e-5})
    out, logits = train(job, recipe=recipe, out_dir=str(tmp_path), start_from=str(trained[0]))
    rows = history(out)
    assert rows[-1]["tuning_loss"] == pytest.approx(history(trained[0])[-1]["tuning_loss"], rel=1e-2)
    with torch.no_grad():
        torch.testing.assert_close(load_checkpoint(out)[0](IDS).logits, logits)


def test_continuing_with_another_adapter_is_refused(trained, job, tmp_path):
    recipe = recipe_data(name="next", continues="made_up", adapter={"r": 4, "trainable_tokens": "all"})
    with pytest.raises(TrainingError, match="cannot continue 'made_up'"):
        train(job, recipe=recipe, out_dir=str(tmp_path), start_from=str(trained[0]))


def test_a_pretrained_backbone_gets_the_delimiters_and_is_only_named(job, tmp_path):
    """A backbone whose vocabulary lacks the last tokens: they are added, the delimiters' rows are trained."""
    pretrained = tmp_path / "pretrained"
    sizes = recipe_data()["backbone"]
    del sizes["kind"]
    build_backbone(vocab_size=40, **sizes).save_pretrained(pretrained)
    write_tokenizer(pretrained)
    recipe = recipe_data(
        backbone={"kind": "pretrained", "path": str(pretrained)},
        adapter={"r": 4, "trainable_tokens": "delimiters"},
        phases=[phase(steps=3)],
    )
    (tmp_path / "out").mkdir()
    out, logits = train(job, recipe=recipe, out_dir=str(tmp_path / "out"))
    assert not (out / "backbone").exists()
    model, _ = load_checkpoint(out)
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, logits, rtol=0, atol=0)
    tokens = model.get_base_model().get_input_embeddings().token_adapter
    moved = (tokens.trainable_tokens_delta["default"] != tokens.trainable_tokens_original["default"]).any(1)
    assert tokens.token_indices["default"] == list(range(1, FIRST_WORD))
    assert moved.any()


def test_phases_follow_one_another_and_accumulation_is_a_larger_batch(job, tmp_path):
    def run(name: str, micro: int) -> list[dict]:
        recipe = recipe_data(
            adapter={"r": 4, "dropout": 0.0, "trainable_tokens": "all"},
            engine={"micro_batch": micro},
            phases=[phase(steps=2), {**phase(steps=3), "name": "second"}],
        )
        (tmp_path / name).mkdir()
        return history(train(job, recipe=recipe, out_dir=str(tmp_path / name))[0])

    whole, parts = run("whole", 4), run("parts", 2)
    assert [row["phase"] for row in whole if "loss" in row] == ["sft"] * 2 + ["second"] * 3
    for a, b in zip(whole, parts, strict=True):
        key = "loss" if "loss" in a else "tuning_loss"
        assert b[key] == pytest.approx(a[key], rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"optimizer": {"lr": 1e30}, "schedule": {"warmup_fraction": 0.0}},
            r"not finite at step [12]\. Its examples: train record \d+, example \d of epoch 1",
        ),
        ({"backbone": {"kind": "pretrained", "path": "/nowhere/at/all"}}, "backbone cannot be loaded"),
    ],
)
def test_a_run_that_cannot_go_on_stops_with_a_reason(job, tmp_path, changes, said):
    with pytest.raises(TrainingError, match=said):
        train(job, recipe=recipe_data(**changes), out_dir=str(tmp_path))
    assert not (tmp_path / "adapter_model.safetensors").exists()


def test_an_empty_corpus_and_a_foreign_tokenizer_are_refused(tmp_path):
    with pytest.raises(TrainingError, match="None of the 0 train records can be cut"):
        train(make_job(tmp_path / "empty", {}))
    job = make_job(tmp_path / "foreign", SUBJECTS)
    small = write_tokenizer(tmp_path / "small")
    data = json.loads((small / "tokenizer.json").read_text())
    data["model"]["vocab"] = {t: i for t, i in data["model"]["vocab"].items() if i < 20}
    (small / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(TrainingError, match="beyond the tokenizer's 20 tokens"):
        train(job, tokenizer=str(small))


def test_a_corpus_of_text_with_versions_trains_as_well(tmp_path):
    """smb, cut at decision nodes and between days, both objectives."""
    spec = SPEC.model_copy(update={"format": "smb"})
    rows = {"train": random_rows(range(1, 9), 1), "tuning": random_rows(range(11, 13), 2), "held_out": []}
    meds, splits = write_meds(tmp_path, rows)
    for name in ("tokenizer", "corpus", "out"):
        (tmp_path / name).mkdir()
    train_tokenizer(spec, {"here": meds}, {"here": splits}, tmp_path / "tokenizer")
    write_corpus(spec, {"here": meds}, tmp_path / "tokenizer", tmp_path / "corpus")
    nodes = [(s, T0 + timedelta(days=20 * i)) for s in (*range(1, 9), 11, 12) for i in range(4)]
    recipe = recipe_data(
        jepa={"predictor": {"heads": 2}, "mask_unit": "event"},
        phases=[{"name": "both", "objectives": {"sft": 1.0, "jepa": 1.0}, "epochs": 3}],
        data={"max_tokens": 100, "min_context_tokens": 8, "cuts": {"nodes": 0.5, "boundaries": 0.5}},
    )
    job = {"recipe": recipe, "nodes": {"here": str(write_nodes(tmp_path / "nodes", nodes))}}
    job |= {"token_corpus": str(tmp_path / "corpus"), "tokenizer": str(tmp_path / "tokenizer")}
    out, _ = train({**job, "out_dir": str(tmp_path / "out")})
    steps = [row for row in history(out) if "loss" in row]
    for name in ("sft", "jepa"):
        assert sum(r["losses"][name] for r in steps[-3:]) < sum(r["losses"][name] for r in steps[:3])
    with pytest.raises(TrainingError, match="those of here were not given"):
        train({**job, "nodes": {}, "out_dir": str(tmp_path / "out")})


def test_without_tuning_subjects_there_is_no_tuning_loss(tmp_path):
    out, _ = train(make_job(tmp_path, {"train": 4}, phases=[phase(steps=1)]))
    assert all("tuning_loss" not in row for row in history(out))
    assert "no tuning subjects" in (out / "model_card.md").read_text()


def test_learning_rate_warms_up_and_follows_a_cosine_to_nothing():
    schedule = ScheduleSpec(warmup_fraction=0.1)
    rates = [loop.learning_rate(i, 100, 2.0, schedule) for i in range(1, 101)]
    assert rates[:10] == pytest.approx([0.2 * i for i in range(1, 11)])
    assert max(rates) == rates[9] == 2.0
    assert all(a > b for a, b in itertools.pairwise(rates[9:]))
    assert rates[54] == pytest.approx(1 + math.cos(math.pi * 45 / 91))
    assert 0 < rates[-1] < 0.01
    assert loop.learning_rate(1, 1, 2.0, schedule) == 2.0
    constant = ScheduleSpec(kind="constant", warmup_fraction=0.1, lr_scale=0.5)
    assert [loop.learning_rate(i, 10, 2.0, constant) for i in (1, 2, 10)] == [1.0, 1.0, 1.0]
