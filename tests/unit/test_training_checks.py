"""The checkpoint's checks as Dagster runs them: what blocks, what only warns, what does not apply."""

import json
from typing import Any

import dagster as dg
import pytest
from training_helpers import recipe_data

from ehr_assets.lineage.datasets import DatasetStore
from ehr_assets.lineage.manifest import now
from ehr_assets.training.checks import training_checks
from ehr_assets.training.recipe import RecipeSpec
from resources.points import Points
from resources.recorded import DATASET_KEY
from resources.storage import Datasets

SOUND = {"std": 1.0, "std_min": 0.5, "spread": 0.9, "effective_rank": 20.0, "possible_rank": 32.0}
SOUND |= {"cosine": 0.9}
FLAT = {**SOUND, "spread": 1e-4}


@pytest.fixture
def judged(tmp_path):
    """Runs a check on a checkpoint that has this history."""

    def run(name: str, rows: list[dict[str, Any]], jepa: bool) -> dg.AssetCheckResult:
        both = {"name": "both", "objectives": {"sft": 1, "jepa": 1}, "steps": 1}
        sft = {"name": "sft", "objectives": {"sft": 1}, "steps": 1}
        changes = {"jepa": {"predictor": {"heads": 2}}, "phases": [sft, both]} if jepa else {"phases": [sft]}
        recipe = RecipeSpec.model_validate(recipe_data(**changes))
        store = DatasetStore(tmp_path)
        with store.staging() as staged:
            (staged / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            dataset = store.commit(staged, asset="made_up/checkpoint", code_version="x", started_at=now())
        check = next(c for c in training_checks(Points.of(recipe)) if next(iter(c.check_specs)).name == name)
        with dg.DagsterInstance.ephemeral() as instance:
            instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    ["made_up", "checkpoint"],
                    metadata={DATASET_KEY: store.relative(dataset)},
                    tags={"dagster/data_version": dataset.data_version},
                )
            )
            context = dg.build_asset_check_context(instance=instance)
            result = check(context, Datasets(home=str(tmp_path), gates={}))
        assert isinstance(result, dg.AssetCheckResult)
        return result

    return run


def row(step: int, phase: str, loss: float) -> dict[str, Any]:
    return {"step": step, "phase": phase, "loss": loss, "losses": {"sft": loss}, "lr": 1e-3}


def tuning(step: int, phase: str, loss: float, target: dict[str, float] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"step": step, "phase": phase, "tuning_loss": loss, "losses": {"sft": loss}}
    return {**found, **({"target": target} if target else {})}


@pytest.mark.parametrize(("target", "passed"), [(SOUND, True), (FLAT, False)])
def test_a_collapse_fails_the_check(judged, target, passed):
    rows = [row(1, "both", 3.0), tuning(1, "both", 2.0, SOUND), tuning(2, "both", 2.0, target)]
    result = judged("representations_not_collapsed", rows, jepa=True)
    assert result.passed is passed
    assert result.severity == dg.AssetCheckSeverity.ERROR
    assert passed or "nearly the same vector" in (result.description or "")


def test_without_a_target_encoder_there_is_nothing_to_collapse(judged):
    result = judged("representations_not_collapsed", [row(1, "sft", 3.0)], jepa=False)
    assert result.passed
    assert "Not applicable" in (result.description or "")
    assert not judged("representations_not_collapsed", [row(1, "both", 3.0)], jepa=True).passed


def test_a_tuning_loss_that_did_not_fall_is_a_warning_about_the_last_phase(judged):
    rows = [row(1, "sft", 9.0), row(2, "both", 3.0), tuning(2, "both", 4.0, SOUND)]
    result = judged("tuning_loss_fell", rows, jepa=True)
    assert not result.passed, "4 is more than 3, though less than the first phase's 9"
    assert result.severity == dg.AssetCheckSeverity.WARN
    assert judged("tuning_loss_fell", [row(1, "sft", 3.0), tuning(1, "sft", 2.0)], jepa=False).passed


def test_losses_of_every_objective_must_be_finite(judged):
    bad = {**row(1, "sft", 1.0), "losses": {"sft": 1.0, "jepa": float("nan")}}
    assert not judged("losses_finite", [bad], jepa=False).passed
    assert judged("losses_finite", [row(1, "sft", 1.0)], jepa=False).passed


def test_which_checks_block():
    recipe = RecipeSpec.model_validate(recipe_data())
    checks = training_checks(Points.of(recipe))
    blocking = {spec.name: spec.blocking for check in checks for spec in check.check_specs}
    assert blocking == {
        "fitted_on_train_only": True,
        "losses_finite": True,
        "tuning_loss_fell": False,
        "representations_not_collapsed": True,
    }
