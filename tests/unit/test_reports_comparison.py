"""The asset `<report>/comparison` and its checks, on datasets that were made up, several seeds among them."""

import shutil

import polars as pl
import pytest
from dagster import (
    AssetExecutionContext,
    AssetKey,
    DagsterInstance,
    StaticPartitionsDefinition,
    asset,
    materialize,
)
from predictions_support import MadeUp

from ehr_assets.catalog import load_catalog
from ehr_assets.probes.compare import TABLES
from ehr_assets.reports.assets import comparison_assets, comparison_key
from ehr_assets.reports.checks import comparison_checks
from ehr_assets.settings import Settings
from resources.storage import Datasets, asset_name

RECIPE, COHORT, SEEDS = "smb_sft_demo", "synthetic_oncology", ("seed1", "seed2")
TASKS = {"tox": ("binary", 0.3), "death": ("time_to_event", 0.5)}


class House:
    """The comparison of a built-in report, over stand-ins for what it reads."""

    def __init__(self, home) -> None:
        catalog = load_catalog(Settings(home=home))
        self.report = catalog.reports[COHORT]
        assert self.report.recipes == (RECIPE,)
        self.instance = DagsterInstance.ephemeral()
        self.resources = {
            "datasets": Datasets(
                home=str(home), gates={}, partitions={f"{RECIPE}/probe_metrics": list(SEEDS)}
            )
        }
        self.made = MadeUp(home / "made", TASKS, cohort=COHORT)
        self.folders = {
            f"{COHORT}/{name}": self.made.root / name
            for name in ("decision_nodes", "task_labels", "subject_splits")
        }
        self.folders[f"{COHORT}/baseline_metrics"] = self.made.predict(
            "base", "baseline", 0.4, "xgboost", ["tox"]
        )
        self.folders[f"{COHORT}/oracle_metrics"] = self.made.predict(
            "oracle", "oracle", 4, "xgboost", ["tox"]
        )
        self.folders[f"{RECIPE}/control_metrics"] = self.made.predict("control", "untrained", 0.2)
        for i, seed in enumerate(SEEDS, start=1):
            self.folders[f"{RECIPE}/probe_metrics[{seed}]"] = self.made.predict(seed, RECIPE, 1.0, seeds=[i])
        self.comparison = comparison_assets(self.report, catalog)
        self.checks = comparison_checks(self.report)

    def stand_in(self, name: str):
        partitions = StaticPartitionsDefinition(list(SEEDS)) if name.endswith("probe_metrics") else None

        @asset(key=AssetKey(name.split("/")), code_version="1", partitions_def=partitions)
        def made(context: AssetExecutionContext, datasets: Datasets):
            which = f"[{context.partition_key}]" if partitions else ""

            def body(step):
                shutil.copytree(self.folders[name + which], step.out, dirs_exist_ok=True)
                return {}

            return datasets.materialize(context, body)

        return made

    def run_inputs(self):
        names = dict.fromkeys(name.split("[")[0] for name in self.folders)
        for name in names:
            for partition in SEEDS if name.endswith("probe_metrics") else (None,):
                materialize(
                    [self.stand_in(name)],
                    instance=self.instance,
                    resources=self.resources,
                    partition_key=partition,
                )

    def run(self):
        stand_ins = [self.stand_in(name) for name in dict.fromkeys(n.split("[")[0] for n in self.folders)]
        result = materialize(
            [*self.comparison, *self.checks, *stand_ins],
            selection=[comparison_key(self.report.name)],
            instance=self.instance,
            resources=self.resources,
            raise_on_error=False,
        )
        return result, {e.check_name: e for e in result.get_asset_check_evaluations()}


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    monkeypatch.setenv("EHR_WORKERS", "1")


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    house = House(tmp_path_factory.mktemp("home"))
    house.run_inputs()
    return house


def test_it_reads_all_seeds_and_shows_its_tables(house):
    result, checks = house.run()
    assert result.success
    assert {name: c.passed for name, c in checks.items()} == {"same_nodes": True, "held_out_only": True}
    assert checks["same_nodes"].metadata["smallest_share"].value == 1.0
    (made,) = result.get_asset_materialization_events()
    metadata = made.materialization.metadata
    assert metadata["panels_scored"].value == 2
    assert f"{RECIPE}/logistic − baseline/xgboost" in metadata["differences of means"].value
    assert "Holm" in metadata["differences of means"].value
    dataset = house.resources["datasets"].latest(house.instance, comparison_key(house.report.name))
    assert sorted(f.name for f in dataset.path.glob("*.parquet")) == sorted(f"{n}.parquet" for n in TABLES)
    means = pl.read_parquet(dataset.path / "means.parquet").filter(pl.col("by") == "all")
    seeds = dict(means.filter(pl.col("metric") == "auroc").select("recipe", "n_seeds").rows())
    assert seeds == {RECIPE: 2, "baseline": 1, "oracle": 1, "untrained": 1}
    assert dataset.manifest.config["replicates"] == 1000


def test_made_again_it_is_the_same(house):
    def version():
        store = house.resources["datasets"]
        return store.latest(house.instance, comparison_key(house.report.name)).data_version

    house.run()
    before = version()
    result, _ = house.run()
    assert result.success
    assert version() == before


def test_its_code_version_follows_the_metrics_and_what_is_compared(tmp_path):
    catalog = load_catalog(Settings(home=tmp_path))
    report = catalog.reports["synthetic_smb"]
    key = comparison_key(report.name)

    def version(r):
        return comparison_assets(r, catalog)[0].code_versions_by_key[key]

    assert version(report) != version(report.model_copy(update={"cohorts": report.cohorts[:1]}))
    assert version(report) == version(report.model_copy(update={"title": "Another"}))


def test_a_method_that_leaves_nodes_out_fails_the_check(tmp_path):
    house = House(tmp_path)
    name = f"{COHORT}/baseline_metrics"
    house.folders[name] = house.made.predict("few", "baseline", 0.4, "xgboost", ["tox"], drop=40)
    house.run_inputs()
    _, checks = house.run()
    assert (checks["same_nodes"].passed, checks["same_nodes"].blocking) == (False, True)
    assert checks["same_nodes"].metadata["leave_out_too_many"].value == 1
    assert asset_name(comparison_key(house.report.name)) == f"{COHORT}/comparison"
