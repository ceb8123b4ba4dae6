"""How the steps of a run are spread: in its process, a process, a pod or a job of a Ray cluster each."""

import os
import re
from collections.abc import Iterable, Mapping

from dagster import AssetsDefinition, ExecutorDefinition, in_process_executor, multiprocess_executor

from ehr_assets.fanout import PARENT_BYTES, Machine
from ehr_assets.settings import Settings

GPU_POOL = "gpu"
_PASSED_ON = re.compile(
    r"^(EHR_|DAGSTER_HOME$|PYTHONPATH$|HF_HOME$|HF_HUB_|MLFLOW_TRACKING_URI$|AWS_(DEFAULT_)?REGION$|NCCL_|GLOO_)"
)
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|KEY|CREDENTIAL|SALT|WEBHOOK|NOTIF")
_LOGIN = re.compile(r"://[^/]*@")


def executor_of(
    settings: Settings, assets: Iterable[AssetsDefinition] = (), env: Mapping[str, str] = os.environ
) -> ExecutorDefinition:
    """The executor that EHR_EXECUTOR names.

    assets: those of the pool "gpu" are given one, where each step has a pod of its own.
    """
    if settings.executor == "ray":
        return _on_ray(settings, env)
    if settings.executor == "kubernetes":
        return _in_pods(assets, env)
    return {
        # Heavy libraries are imported once per run; the right choice on a laptop.
        "in_process": in_process_executor,
        # A step that runs out of memory takes only itself down.
        "multiprocess": multiprocess_executor,
    }[settings.executor]


def _on_ray(settings: Settings, env: Mapping[str, str]) -> ExecutorDefinition:
    """Each step a job of the cluster, on a node with the memory that it may use.

    One CPU, since its shards and ranks ask for their own. A step's tag `dagster-ray/config` adds to it.
    """
    from dagster_ray import ray_executor

    asked = {"num_cpus": 1.0, "memory": Machine.from_env(env).memory_bytes}
    return ray_executor.configured(
        {"ray": {"address": settings.ray_address, "env_vars": passed_on(env), **asked}}, name="ray"
    )


def _in_pods(assets: Iterable[AssetsDefinition], env: Mapping[str, str]) -> ExecutorDefinition:
    """Each step a pod, that asks for the cores and the memory that it may use; those of the pool "gpu" for a
    GPU beside. Image, volumes, secrets and the rest are the run's, as the run launcher has made it."""
    from dagster_k8s import k8s_job_executor

    machine = Machine.from_env(env)
    # The step's Python and what it holds beside the work is on top of its budget.
    memory = f"{(machine.memory_bytes + PARENT_BYTES) >> 20}Mi"
    cores = env.get("EHR_WORKERS", "1")
    resources = {"requests": {"cpu": cores, "memory": memory}, "limits": {"memory": memory}}
    on_gpu = {
        "container_config": {
            "resources": {**resources, "limits": {**resources["limits"], "nvidia.com/gpu": "1"}}
        },
        "pod_spec_config": {
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
        },
    }
    return k8s_job_executor.configured(
        {
            "step_k8s_config": {"container_config": {"resources": resources}},
            "per_step_k8s_config": {a.op.name: on_gpu for a in assets if GPU_POOL in a.op.pools},
        },
        name="kubernetes",
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
