"""Steps as jobs of a real Ray cluster: the same data versions as in one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray_support import HERE, ray_cluster

pytestmark = pytest.mark.slow
COHORT = "synthetic_oncology"
MADE = f"{COHORT}/raw_tables"
OVERRIDES = {f"cohorts/{COHORT}": {"source.subjects": 40}}


def run(home: Path, **variables: str) -> dict:
    """In a fresh home. A password among the variables, which no job may be given."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("EHR_", "DAGSTER_", "MLFLOW_"))}
    own = {"EHR_HOME": str(home), "EHR_OVERRIDES": json.dumps(OVERRIDES), "EHR_SOME_PASSWORD": "marker-pass"}
    said = subprocess.run(
        [sys.executable, str(HERE / "drive_run.py"), MADE],
        env={**kept, **own, "PYTHONPATH": str(HERE.parents[1]), **variables},
        cwd=home.parent,  # what a step needs of its surroundings, it is told
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    return json.loads(said.stdout.splitlines()[-1])


def test_steps_are_jobs_on_the_cluster_and_make_the_same(tmp_path):
    here = run(tmp_path / "here", EHR_EXECUTOR="in_process")
    assert here["success"]
    with ray_cluster(2, dashboard=True) as nodes:
        there = run(tmp_path / "there", EHR_EXECUTOR="ray", EHR_RAY_ADDRESS=nodes.address, EHR_MEMORY_GB="1")
        assert there["success"], there["failed"]
        assert there["versions"] == here["versions"] != {MADE: None}
        # The asset and its checks were a job each, and `ehr` heard of what happened in it.
        assert len(there["where"]) == 2
        assert {"STEP_START", "ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION"} <= set(there["told"])
        assert "marker-pass" not in given_to_jobs(nodes.address)


def given_to_jobs(address: str) -> str:
    """What the cluster shows of all its jobs, as text."""
    from ray.job_submission import JobSubmissionClient

    jobs = JobSubmissionClient(address).list_jobs()
    text = json.dumps([dict(job.runtime_env or {}) for job in jobs], default=str)
    assert "EHR_OVERRIDES" in text
    return text
