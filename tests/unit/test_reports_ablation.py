"""The table of a grid, from metrics that were made up: which tasks count, and what is best."""

import polars as pl
import pytest
from training_helpers import recipe_data

from ehr_assets.errors import DatasetError
from ehr_assets.reports.ablation.table import ablation_markdown, read_ablation, write_ablation
from ehr_assets.training.grid import GridSpec, lay_out
from ehr_assets.training.recipe import RecipeSpec

COLUMN = {"title": "r_m", "short": "r", "settings": ["jepa.mask_ratio"], "form": "{:.2f}"}
SFT = {"title": "SFT only", "set": {"jepa": None, "phases.0.objectives": {"sft": 1.0}}}
MASKING = {"title": "masking", "grid": {"jepa.mask_ratio": [0.25, 0.5]}}
HALF = {"title": "half", "grid": {"jepa.mask_ratio": [0.5]}}


@pytest.fixture
def grid():
    both = {"name": "both", "objectives": {"sft": 1.0, "jepa": 1.0}, "steps": 1}
    base = recipe_data(jepa={"predictor": {"heads": 2}}, phases=[both])
    spec = {"name": "g", "title": "G", "base": "made_up", "cohort": "c"}
    spec |= {"columns": [COLUMN], "groups": [SFT, MASKING, HALF]}
    return lay_out(GridSpec.model_validate(spec), RecipeSpec.model_validate(base), "g.yaml")


def metrics(folder, scores, **other):
    """A point's metrics: task → AUROC on the grid's cohort, and rows that are none of the table's."""
    row = {"cohort": "c", "indication": None, "subgroup": None, "metric": "auroc"}
    rows = [{**row, "task": task, "value": value} for task, value in scores.items()]
    apart = [{"cohort": "d"}, {"indication": "lung"}, {"subgroup": "female"}, {"metric": "auprc"}]
    rows += [{**row, "task": "death", "value": 0.01, **differs} for differs in apart]
    folder.mkdir()
    schema = {**dict.fromkeys(("cohort", "indication", "subgroup", "metric", "task"), pl.String)}
    pl.DataFrame(rows, schema={**schema, "value": pl.Float64}).write_parquet(folder / "metrics.parquet")
    return folder


def table(grid, tmp_path, scores):
    found = {point: metrics(tmp_path / point, tasks) for point, tasks in scores.items()}
    out = tmp_path / "out"
    out.mkdir()
    return write_ablation(grid, found, out), read_ablation(out), ablation_markdown(out)


def test_the_mean_is_over_the_tasks_that_all_points_could_score(grid, tmp_path):
    scores = {
        "plain": {"death": 0.7, "sepsis": 0.5, "stroke": 0.9},
        "r0.25": {"death": 0.8, "sepsis": 0.6, "stroke": float("nan")},
        "r0.5": {"death": 0.9, "sepsis": 0.6, "stroke": None, "fall": 0.1},
    }
    stats, (rows, titles), _ = table(grid, tmp_path, scores)
    assert stats == {"points": 3, "tasks": 2, "best": pytest.approx(0.75)}
    assert titles == ["r_m"]
    assert rows["tasks"].unique().to_list() == [2]
    assert rows.select("group", "point", "r_m", "best").rows() == [
        ("SFT only", "plain", "–", True),
        ("masking", "r0.25", "0.25", False),
        ("masking", "r0.5", "0.50", True),
        ("half", "r0.5", "0.50", True),
    ]
    assert rows["auroc"].to_list() == pytest.approx([0.6, 0.7, 0.75, 0.75])


def test_what_is_printed_alike_is_best_alike(grid, tmp_path):
    scores = {"plain": {"death": 0.5}, "r0.25": {"death": 0.70004}, "r0.5": {"death": 0.70001}}
    _, (rows, _), said = table(grid, tmp_path, scores)
    assert rows["best"].to_list() == [True] * 4
    assert said.splitlines() == [
        "| r_m | mean AUROC |",
        "|---|---|",
        "| *SFT only* | |",
        "| – | 0.500 |",
        "| *masking* | |",
        "| 0.25 | **0.700** |",
        "| 0.50 | **0.700** |",
        "| *half* | |",
        "| 0.50 | 0.700 |",
        "",
        "Mean over 1 tasks, on held-out subjects.",
    ]


def test_points_without_a_common_task_make_no_table(grid, tmp_path):
    scores = {"plain": {"death": 0.7}, "r0.25": {"death": 0.8}, "r0.5": {"sepsis": 0.6}}
    with pytest.raises(DatasetError, match="no task that all 3 points could score"):
        table(grid, tmp_path, scores)
