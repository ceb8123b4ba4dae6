"""One rank, in this process: trainings in which JEPA joins SFT, and the average of the weights it needs."""

import pytest
import torch
from process_support import SUBJECTS, history, phase, train
from safetensors.torch import load_file
from training_helpers import make_job, recipe_data

from ehr_assets.models.world_model import WorldModel
from ehr_assets.training import loop
from ehr_assets.training.collapse import judge_collapse
from ehr_assets.training.job import TrainingJob
from ehr_assets.training.prepare import prepare

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("only_rank")]

BOTH = {
    "jepa": {"predictor": {"heads": 2}},
    "phases": [{**phase(steps=4), "objectives": {"sft": 1, "jepa": 1}}],
}


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> dict:
    return make_job(tmp_path_factory.mktemp("first"), SUBJECTS)


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
def test_sft_then_both_objectives(job, tmp_path, kind):
    """The phase with JEPA lowers both losses, and is watched."""
    recipe = recipe_data(
        jepa={"predictor": {"kind": kind, "heads": 2}},
        phases=[phase(steps=3), {"name": "both", "objectives": {"sft": 1.0, "jepa": 1.0}, "steps": 15}],
    )
    out, _ = train(job, recipe=recipe, out_dir=str(tmp_path))
    rows = history(out)
    assert {tuple(row["losses"]) for row in rows if row["phase"] == "sft"} == {("sft",)}
    both = [row for row in rows if row["phase"] == "both" and "loss" in row]
    for name in ("sft", "jepa"):
        assert sum(row["losses"][name] for row in both[-3:]) < sum(row["losses"][name] for row in both[:3])
    last = rows[-1]
    assert last["tuning_loss"] == pytest.approx(sum(last["losses"].values()))
    assert last["target"]["effective_rank"] > 1
    assert 0 < last["target"]["cosine"] < 1  # the target encoder lags behind the online one


def test_a_phase_without_jepa_leaves_the_predictor_as_it_is(job, tmp_path):
    still = {"name": "both", "objectives": {"sft": 1, "jepa": 1}, "steps": 1, "schedule": {"lr_scale": 1e-9}}
    found = []
    for name, phases in (("without", [still]), ("with", [phase(steps=20), still])):
        (tmp_path / name).mkdir()
        recipe = recipe_data(jepa={"predictor": {"heads": 2}}, phases=phases)
        out, _ = train(job, recipe=recipe, out_dir=str(tmp_path / name))
        found.append(load_file(out / "predictor.safetensors"))
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor)


def test_continuing_takes_up_the_predictor_and_the_mask_token(job, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first, _ = train(job, recipe=recipe_data(**BOTH), out_dir=str(tmp_path / "one"))
    still = recipe_data(name="next", continues="made_up", **BOTH, optimizer={"lr": 1e-12})
    second, _ = train(job, recipe=still, out_dir=str(tmp_path / "two"), start_from=str(first))
    before, after = (load_file(out / "predictor.safetensors") for out in (first, second))
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor)
    # The average begins at the online weights, and stays there while they stand still.
    online, target = (
        load_file(out / "adapter_model.safetensors") for out in (second, second / "target_adapter")
    )
    for name, tensor in online.items():
        torch.testing.assert_close(target[name], tensor)
    was = load_file(first / "target_adapter" / "adapter_model.safetensors")
    assert any(not torch.allclose(was[name], target[name]) for name in was)
    card = (second / "model_card.md").read_text()
    assert "Continues `made_up`." in card
    assert "effective rank" in card
    assert "Collapse: none was found." in card


def test_a_collapse_planted_in_a_training_is_found(job, tmp_path, monkeypatch):
    """The encoder's states differ by less than their rounding: losses stay finite, and the check fails."""
    encode = WorldModel.encode

    def collapsed(self, batch):
        states = encode(self, batch)
        return states[:1] + 1e-3 * states

    monkeypatch.setattr(WorldModel, "encode", collapsed)
    out, _ = train(job, recipe=recipe_data(**BOTH), out_dir=str(tmp_path))
    found = judge_collapse(history(out))
    assert not found.ok
    assert "nearly the same vector" in (found.problem or "")
    assert (
        "Collapse: the states of different tokens are nearly the same vector"
        in (out / "model_card.md").read_text()
    )


class Rows(list):
    """Hooks that keep the history."""

    def on_step(self, row, i, steps):
        self.append(row)

    def on_tuning(self, row): ...

    def on_state(self, progress, engine, *, best): ...


def test_full_fine_tuning_moves_every_weight_and_the_average_follows_them_all(tmp_path):
    job = make_job(
        tmp_path,
        SUBJECTS,
        adapter={"kind": "full"},
        jepa={"predictor": {"heads": 2}, "momentum": 0.9},
        phases=[{"name": "both", "objectives": {"sft": 1.0, "jepa": 1.0}, "steps": 20}],
    )
    torch.manual_seed(1)
    training = prepare(TrainingJob.model_validate(job), 0, 1)
    model, rows = training.model, Rows()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    progress = loop.train(training, loop.Progress(), rows)
    for name in ("sft", "jepa"):
        assert sum(r["losses"][name] for r in rows[-3:]) < sum(r["losses"][name] for r in rows[:3])
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert progress.target is not None
    encoder = {name for name in before if name.startswith("backbone.")}
    assert progress.target.average.keys() == encoder
    for name, average in progress.target.average.items():
        now = model.get_parameter(name)
        assert 0 < (average - before[name]).norm() < (now - before[name]).norm() * 2


def test_compiled_layers_train_the_same(tmp_path, monkeypatch):
    """Traced, but not made into kernels, which would take a compiler and a minute."""
    compile_, traced = torch.nn.Module.compile, []

    def trace(layer):
        traced.append(layer)
        compile_(layer, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", trace)
    losses = []
    for on in (False, True):
        (tmp_path / str(on)).mkdir()
        engine = {"micro_batch": 2, "attention": "dense", "compile": on}
        adapter = {"r": 8, "dropout": 0.0, "trainable_tokens": "all"}
        out, _ = train(
            make_job(tmp_path / str(on), {"train": 4, "tuning": 1}, **BOTH, engine=engine, adapter=adapter)
        )
        losses.append([row["loss"] for row in history(out) if "loss" in row])
    assert traced
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
