"""Loading definitions imports no engine that was not chosen, and of a chosen one only its Dagster side."""

import json
import os
import subprocess
import sys

import pytest

ENGINES = ("ray", "dagster_ray", "kubernetes", "dagster_k8s", "torch", "deepspeed")
RAY = {"EHR_RAY_ADDRESS": "head:6379"}


@pytest.mark.parametrize(
    ("chosen", "loaded"),
    [
        ({}, []),
        # The cluster takes shards and ranks: of whoever runs them, not of whoever loads.
        ({**RAY, "EHR_HOSTS": "ray"}, []),
        ({**RAY, "EHR_EXECUTOR": "ray"}, ["dagster_ray"]),
        ({"EHR_EXECUTOR": "kubernetes"}, ["kubernetes", "dagster_k8s"]),
    ],
    ids=["nothing", "shards and ranks on Ray", "steps on Ray", "steps in pods"],
)
def test_only_what_was_chosen_is_loaded(tmp_path, chosen, loaded):
    code = (
        "import sys, json; import ehr_assets.definitions, ehr_assets.fanout_ray, resources.ray_hosts; "
        f"print(json.dumps([m for m in {ENGINES} if m in sys.modules]))"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("EHR_", "DAGSTER_"))}
    env = {**kept, "EHR_HOME": str(tmp_path), **chosen}
    assert json.loads(subprocess.check_output([sys.executable, "-c", code], env=env)) == loaded
