"""Small runs of the whole chain, each shared by the integration tests of a file.

The chains run as a user runs them: by the `ehr` command, in processes of its own, into a fresh EHR_HOME.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from ehr_assets.catalog import BUILT_IN
from ehr_assets.lineage.manifest import MANIFEST_NAME, Manifest
from ehr_assets.specs import read_yaml

BIN = Path(sys.executable).parent

REPOSITORY = Path(__file__).parents[2]

ON_REQUEST = ("dossier", "promotion", "rollback")
"""The last parts of the names of assets that no report's chain has."""

SMALL_RECIPE = {
    "backbone.hidden_size": 32,
    "backbone.num_hidden_layers": 2,
    "backbone.num_attention_heads": 2,
    "backbone.num_key_value_heads": 1,
    "backbone.intermediate_size": 64,
    "adapter.r": 8,
    "adapter.alpha": 16,
    "data.max_tokens": 256,
    "data.examples_per_subject": 1,
    "phases": [{"name": "sft", "objectives": {"sft": 1.0}, "epochs": 1, "steps": None}],
    "engine.num_processes": 2,
    "embedding.max_tokens": 256,
    "probe.bootstrap": 20,
    "probe.min_positives": 2,
}


def few(task_set, *names):
    """These tasks of a built-in set, as an override: the cost of a chain is mostly that of its tasks."""
    tasks = {task["name"]: task for task in read_yaml(BUILT_IN["tasks"] / f"{task_set}.yaml")["tasks"]}
    return {"tasks": [tasks[name] for name in names]}


# Each kind of task, derived outcomes, a window with an end of its own, and one too rare to be scored.
ONCOLOGY_TASKS = few(
    "oncology",
    "progression_any_180d",
    "cea_doubled_180d",
    "toxicity_grade3_any_90d",
    "toxicity_grade3_colitis_90d",
    "next_line_365d",
    "response_180d",
    "mortality_365d",
    "survival_365d",
)
MIMIC_TASKS = few(
    "mimic_iv",
    "mortality_365d",
    "in_hospital_mortality",
    "readmission_90d",
    "creatinine_above_2_7d",
    "invasive_ventilation_2d",
    "creatinine_highest_2d",
    "time_to_hospital_discharge",
    "survival_365d",
)
# An epoch of eleven thousand people is long.
SHORT = [{"name": "sft", "objectives": {"sft": 1.0}, "steps": 40}]
SAME_TO_CONTINUE = {k: v for k, v in SMALL_RECIPE.items() if k.startswith(("backbone", "adapter"))}
SMALL = {
    "cohorts/synthetic_oncology": {"source.subjects": 80, "baselines.bootstrap": 20},
    "cohorts/mimic_iv": {"baselines.bootstrap": 20},
    "cohorts/tcga": {"baselines.bootstrap": 20, "baselines.methods": ["logistic", "cox", "xgboost"]},
    "tasks/oncology": ONCOLOGY_TASKS,
    "tasks/mimic_iv": MIMIC_TASKS,
    "recipes/smb_sft_demo": SMALL_RECIPE,
    "recipes/smb_curriculum_demo": SAME_TO_CONTINUE,
    "recipes/smb_sft_mimic_demo": {**SMALL_RECIPE, "engine.num_processes": 1},
    "recipes/smb_sft_tcga_demo": {**SMALL_RECIPE, "engine.num_processes": 1, "phases": SHORT},
}


@dataclass
class Installation:
    """An EHR_HOME with the small overrides, and the commands on it."""

    home: Path
    overrides: dict
    variables: dict

    @property
    def env(self):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("EHR_", "DAGSTER_", "MLFLOW_"))}
        own = {
            "EHR_HOME": str(self.home),
            "DAGSTER_HOME": str(self.home / "dagster"),
            "EHR_OVERRIDES": json.dumps(self.overrides),
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "200",
        }
        return {**env, **own, **self.variables}

    def run(self, *command, fails=False):
        """Runs a command of the environment; returns stdout and stderr together."""
        # The limit is for what hangs: a busy machine takes five times as long as a quiet one.
        done = subprocess.run(
            [BIN / command[0], *command[1:]], env=self.env, capture_output=True, text=True, timeout=1800
        )
        said = done.stdout + done.stderr
        assert (done.returncode != 0) is fails, said
        return said

    def ehr(self, *args, fails=False):
        return self.run("ehr", *args, fails=fails)

    def changed(self, overrides=None, **variables):
        """The same installation with other overrides or environment variables."""
        both = {**self.overrides, **(overrides or {})}
        return Installation(self.home, both, {**self.variables, **variables})

    def path(self, asset):
        """The newest dataset's directory, found without the seconds that `ehr show ASSET --path` takes."""
        return max(p for p in (self.home / "datasets" / asset).iterdir() if (p / MANIFEST_NAME).exists())

    def manifest(self, asset):
        return Manifest.read(self.path(asset) / MANIFEST_NAME)

    def states(self, said=None):
        """Asset → state, as `ehr status` prints them (or has just printed them)."""
        lines = [line.split() for line in (said or self.ehr("status")).splitlines() if "/" in line]
        return {line[0]: "failed check" if line[1] == "failed" else line[1] for line in lines}

    def states_of_chains(self):
        """The same without the assets that are made on request."""
        return {name: state for name, state in self.states().items() if not name.endswith(ON_REQUEST)}


@pytest.fixture(scope="session")
def installation(tmp_path_factory):
    """The whole chain, run once by `ehr demo` with two DeepSpeed ranks on the CPU."""
    made = Installation(tmp_path_factory.mktemp("chain") / "home", SMALL, {})
    made.demo_said = made.ehr("demo")  # pyright: ignore[reportAttributeAccessIssue]
    return made


def of_real_tables(tmp_path_factory, cohort, variable, root, holds):
    """The whole chain on real tables, run once by `ehr run`; skipped where they are not there."""
    if not (root / holds).exists():
        pytest.skip(f"no tables of {cohort}: set {variable} to their directory")
    home = tmp_path_factory.mktemp(cohort) / "home"
    made = Installation(home, SMALL, {variable: str(root)})
    made.run_said = made.ehr("run", "--cohort", cohort)  # pyright: ignore[reportAttributeAccessIssue]
    return made


@pytest.fixture(scope="session")
def mimic_installation(tmp_path_factory):
    given = os.environ.get("EHR_MIMIC_IV_ROOT")
    root = Path(given or REPOSITORY.parent / "shared" / "data" / "mimic_iv_demo")
    return of_real_tables(tmp_path_factory, "mimic_iv", "EHR_MIMIC_IV_ROOT", root, "hosp")


@pytest.fixture(scope="session")
def tcga_installation(tmp_path_factory):
    root = Path(os.environ.get("EHR_TCGA_ROOT") or "unset")
    return of_real_tables(tmp_path_factory, "tcga", "EHR_TCGA_ROOT", root, "biotab")


def page_without_oracle(made, cohort):
    """The report is where the run said, and has figures."""
    report = made.path(f"{cohort}/report") / "report.html"
    assert str(report) in made.run_said
    page = report.read_text(encoding="utf-8")
    assert "data:image" in page or "<svg" in page
    assert "Oracle" not in page, "nobody knows the truth about real patients"


def balanced_accounting(made, cohort):
    """The rows of each raw table, all of which were accepted or quarantined."""
    accounting = pl.read_parquet(made.path(f"{cohort}/meds_events") / "accounting.parquet")
    assert (accounting["read"] > 0).all()
    assert (accounting["accepted"] + accounting["quarantined"] == accounting["read"]).all()
    return accounting
