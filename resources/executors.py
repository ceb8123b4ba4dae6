"""How the steps of a run are spread: in its process, one process per step, or as jobs of a Ray cluster."""

import os
import re
from collections.abc import Mapping

from dagster import ExecutorDefinition, in_process_executor, multiprocess_executor

from ehr_assets.settings import Settings

_PASSED_ON = re.compile(
    r"^(EHR_|DAGSTER_HOME$|PYTHONPATH$|HF_HOME$|HF_HUB_|MLFLOW_TRACKING_URI$|AWS_(DEFAULT_)?REGION$|NCCL_|GLOO_)"
)
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|KEY|CREDENTIAL|SALT|WEBHOOK|NOTIF")
_LOGIN = re.compile(r"://[^/]*@")


def executor_of(settings: Settings, env: Mapping[str, str] = os.environ) -> ExecutorDefinition:
    """The executor that EHR_EXECUTOR names."""
    if settings.executor == "ray":
        return _on_ray(settings, env)
    return {
        # Heavy libraries are imported once per run; the right choice on a laptop.
        "in_process": in_process_executor,
        # A step that runs out of memory takes only itself down.
        "multiprocess": multiprocess_executor,
    }[settings.executor]


def _on_ray(settings: Settings, env: Mapping[str, str]) -> ExecutorDefinition:
    """Each step a job of the cluster; what it asks of its node stands in its tag `dagster-ray/config`."""
    from dagster_ray import ray_executor

    return ray_executor.configured(
        {"ray": {"address": settings.ray_address, "env_vars": passed_on(env)}}, name="ray"
    )


def passed_on(env: Mapping[str, str]) -> list[str]:
    """Names of the variables that a step is given of this process's; their values are read when it starts.

    The cluster shows everybody what a job was given. So secrets are not among them, nor is an address with
    a password in it: those the nodes must have themselves.
    """
    return sorted(
        name
        for name, value in env.items()
        if _PASSED_ON.search(name) and not _SECRET.search(name) and not _LOGIN.search(value)
    )
