"""A grid backfilled by Dagster: its points train, its table stands, a new point leaves the others alone."""

from pathlib import Path

import pytest
import yaml
from conftest import SMALL, SMALL_RECIPE, Installation
from dagster import AssetKey, DagsterInstance

from ehr_assets.lineage.manifest import MANIFEST_NAME, Manifest
from ehr_assets.reports.ablation.table import read_ablation

SCRIPT = Path(__file__).with_name("backfill.py")

RECIPE = {
    "name": "tiny",
    "title": "Tiny",
    "extends": "smb_hybrid_demo",
    "backbone": {k.removeprefix("backbone."): v for k, v in SMALL_RECIPE.items() if "backbone" in k},
    "adapter": {"r": 8, "alpha": 16},
    "data": {"max_tokens": 128, "examples_per_subject": 1},
    "phases": [{"name": "both", "objectives": {"sft": 1.0, "jepa": 1.0}, "steps": 8}],
    "jepa": {"predictor": {"heads": 2}},
    "embedding": {"max_tokens": 128},
    "probe": {"bootstrap": 5, "min_positives": 2},
}
GRID = {
    "name": "tiny_grid",
    "title": "Tiny grid",
    "base": "tiny",
    "cohort": "synthetic_oncology",
    "columns": [{"title": "r_m", "short": "r", "settings": ["jepa.mask_ratio"], "form": "{:.2f}"}],
    "groups": [
        {"title": "SFT only", "set": {"jepa": None, "phases.0.objectives": {"sft": 1.0}}},
        {"title": "masking", "grid": {"jepa.mask_ratio": [0.5]}},
    ],
}


def write(folder, ratios):
    grid = {**GRID, "groups": [GRID["groups"][0], {"title": "masking", "grid": {"jepa.mask_ratio": ratios}}]}
    for kind, spec in (("recipes", RECIPE), ("grids", grid)):
        (folder / kind).mkdir(exist_ok=True)
        (folder / kind / f"{spec['name']}.yaml").write_text(yaml.safe_dump(spec))


def state(installation, asset):
    line = next(line for line in installation.ehr("status").splitlines() if line.startswith(f"{asset} "))
    return line.split()[1:3]


def manifest(installation, asset, point):
    (newest,) = (installation.home / "datasets" / asset / point).iterdir()
    return Manifest.read(newest / MANIFEST_NAME)


@pytest.fixture(scope="module")
def backfilled(tmp_path_factory):
    """In a home of its own: it reads no baseline and no trained recipe, only the cohort and its corpus."""
    specs = tmp_path_factory.mktemp("specs")
    write(specs, [0.5])
    made = Installation(tmp_path_factory.mktemp("grid") / "home", SMALL, {"EHR_SPECS": str(specs)})
    made.said = made.run("python", str(SCRIPT), "tiny_grid")  # pyright: ignore[reportAttributeAccessIssue]
    return made


def test_a_backfill_trains_and_scores_every_point(backfilled):
    assert "COMPLETED_SUCCESS 2 runs SUCCESS SUCCESS" in backfilled.said
    for part in ("checkpoint", "node_embeddings", "leak_audit", "probe_metrics"):
        assert state(backfilled, f"tiny_grid/{part}") == ["fresh", "2/2"]
    plain, half = (manifest(backfilled, "tiny_grid/checkpoint", p) for p in ("plain", "r0.5"))
    assert (plain.asset, plain.config["jepa"]) == ("tiny_grid/checkpoint[plain]", None)
    assert half.config["jepa"]["mask_ratio"] == 0.5
    assert half.data_version != plain.data_version
    used = {i.asset for i in manifest(backfilled, "tiny_grid/probe_metrics", "r0.5").inputs}
    assert {name for name in used if "tiny" in name} == {
        "tiny_grid/node_embeddings[r0.5]",
        "tiny_grid/leak_audit[r0.5]",
    }


def test_the_table_and_the_plot_stand_in_dagster(backfilled):
    said = backfilled.ehr("run", "--grid", "tiny_grid")
    assert "running 1." in said  # the table: the points are fresh
    rows, titles = read_ablation(backfilled.path("tiny_grid/ablation"))
    assert titles == ["r_m"]
    assert rows.select("group", "point", "r_m").rows() == [
        ("SFT only", "plain", "–"),
        ("masking", "r0.5", "0.50"),
    ]
    assert rows["auroc"].is_between(0, 1).all()
    with DagsterInstance.from_config(str(backfilled.home / "dagster")) as instance:
        event = instance.get_latest_materialization_event(AssetKey(["tiny_grid", "ablation"]))
    metadata = event.asset_materialization.metadata
    assert "| r_m | mean AUROC |" in metadata["table"].value
    assert f"| {rows['auroc'][1]:.3f} |" in metadata["table"].value
    assert "data:image/png;base64," in metadata["plot"].value


def test_a_new_point_is_trained_and_no_other_is(backfilled):
    before = {p: manifest(backfilled, "tiny_grid/checkpoint", p).run_id for p in ("plain", "r0.5")}
    write(Path(backfilled.variables["EHR_SPECS"]), [0.5, 1.0])
    assert state(backfilled, "tiny_grid/checkpoint") == ["stale", "2/3"]
    assert "missing: r1" in backfilled.ehr("status")
    said = backfilled.ehr("run", "--grid", "tiny_grid")
    assert "r1: 0 of 4 assets are fresh; running 4." in said
    assert "r0.5: " not in said
    assert before == {p: manifest(backfilled, "tiny_grid/checkpoint", p).run_id for p in before}
    rows, _ = read_ablation(backfilled.path("tiny_grid/ablation"))
    assert rows["point"].to_list() == ["plain", "r0.5", "r1"]
    path = backfilled.ehr("show", "tiny_grid/checkpoint[r1]", "--path").strip()
    assert Path(path).parent.name == "r1"
