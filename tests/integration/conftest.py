"""One small run of the whole chain, shared by the integration tests of a session.

The chain runs as a user runs it: by the `ehr` command, in processes of its own, into a fresh EHR_HOME.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ehr_assets.lineage.manifest import MANIFEST_NAME, Manifest

BIN = Path(sys.executable).parent

REPOSITORY = Path(__file__).parents[2]

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
SAME_TO_CONTINUE = {k: v for k, v in SMALL_RECIPE.items() if k.startswith(("backbone", "adapter"))}
SMALL = {
    "cohorts/synthetic_oncology": {"source.subjects": 80},
    "recipes/smb_sft_demo": SMALL_RECIPE,
    "recipes/smb_curriculum_demo": SAME_TO_CONTINUE,
    "recipes/smb_sft_mimic_demo": {**SMALL_RECIPE, "engine.num_processes": 1},
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
        done = subprocess.run(
            [BIN / command[0], *command[1:]], env=self.env, capture_output=True, text=True, timeout=600
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

    def states(self):
        """Asset → state, as `ehr status` prints them."""
        lines = [line.split() for line in self.ehr("status").splitlines() if "/" in line]
        return {line[0]: "failed check" if line[1] == "failed" else line[1] for line in lines}


@pytest.fixture(scope="session")
def installation(tmp_path_factory):
    """The whole chain, run once by `ehr demo` with two DeepSpeed ranks on the CPU."""
    made = Installation(tmp_path_factory.mktemp("chain") / "home", SMALL, {})
    made.demo_said = made.ehr("demo")  # pyright: ignore[reportAttributeAccessIssue]
    return made


@pytest.fixture(scope="session")
def mimic_installation(tmp_path_factory):
    """The whole chain on MIMIC-IV tables, run once by `ehr run`."""
    root = Path(
        os.environ.get("EHR_MIMIC_IV_ROOT") or REPOSITORY.parent / "shared" / "data" / "mimic_iv_demo"
    )
    if not (root / "hosp").is_dir():
        pytest.skip("no MIMIC-IV tables: set EHR_MIMIC_IV_ROOT to their directory")
    home = tmp_path_factory.mktemp("mimic_iv") / "home"
    made = Installation(home, SMALL, {"EHR_MIMIC_IV_ROOT": str(root)})
    made.run_said = made.ehr("run", "--cohort", "mimic_iv")  # pyright: ignore[reportAttributeAccessIssue]
    return made
