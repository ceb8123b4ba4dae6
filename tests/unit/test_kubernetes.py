"""infra/kubernetes, held against the schemas of Kubernetes and of Dagster: unknown fields are refused.

There is no cluster here, so nothing of it is run, and KubeRay's own fields are only named.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import AssetKey, Shape
from dagster._config import validate_config
from dagster._core.instance.config import dagster_instance_config_schema
from dagster_k8s import K8sRunLauncher
from dagster_k8s.job import UserDefinedDagsterK8sConfig
from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict
from kubernetes import client

from ehr_assets.build import build_project
from ehr_assets.settings import PROJECT_ROOT, Settings
from resources.executors import GPU_POOL, executor_of

FOLDER = PROJECT_ROOT / "infra" / "kubernetes"
KINDS = {
    ("v1", "Namespace"): client.V1Namespace,
    ("v1", "ConfigMap"): client.V1ConfigMap,
    ("v1", "Service"): client.V1Service,
    ("v1", "ServiceAccount"): client.V1ServiceAccount,
    ("v1", "PersistentVolumeClaim"): client.V1PersistentVolumeClaim,
    ("apps/v1", "Deployment"): client.V1Deployment,
    ("apps/v1", "StatefulSet"): client.V1StatefulSet,
    ("networking.k8s.io/v1", "NetworkPolicy"): client.V1NetworkPolicy,
    ("rbac.authorization.k8s.io/v1", "Role"): client.V1Role,
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): client.V1RoleBinding,
}
IMAGE = "registry.example.org/ehr-assets:0.1.0"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


RESOURCES = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
ALL = [(name, document) for name in RESOURCES for document in documents(name)]
PLAIN = [document for _, document in ALL if document["kind"] != "RayCluster"]
(RAY,) = [document for _, document in ALL if document["kind"] == "RayCluster"]


def named(document: dict[str, Any]) -> str:
    return f"{document['kind']} {document['metadata']['name']}"


def strictly(model: type, data: dict[str, Any]) -> Any:
    """As the API server with --validate=strict: camelCase fields, no unknown ones."""
    assert not [key for key in keys_of(data) if "_" in key and key.islower() and key in snake_fields()]
    return k8s_model_from_dict(model, k8s_snake_case_dict(model, data))


def keys_of(data: Any):
    if isinstance(data, dict):
        for key, value in data.items():
            if key != "data":  # of a ConfigMap: no fields
                yield key
                yield from keys_of(value)
    elif isinstance(data, list):
        for value in data:
            yield from keys_of(value)


def snake_fields() -> set[str]:
    models = [client.V1PodSpec, client.V1Container, client.V1DeploymentSpec, client.V1SecurityContext]
    return {a for m in models for a, b in m.attribute_map.items() if a != b}


def pods() -> dict[str, dict[str, Any]]:
    """Every pod template by the name of what makes it."""
    found = {named(d): d["spec"]["template"] for d in PLAIN if "template" in d.get("spec", {})}
    found["RayCluster head"] = RAY["spec"]["headGroupSpec"]["template"]
    for group in RAY["spec"]["workerGroupSpecs"]:
        found[f"RayCluster {group['groupName']}"] = group["template"]
    return found


def test_every_manifest_is_a_resource_and_every_kind_is_known():
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert files == set(RESOURCES)
    names = [named(document) for _, document in ALL]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("document", PLAIN, ids=named)
def test_manifests_have_the_fields_of_their_kind_and_no_others(document):
    strictly(KINDS[document["apiVersion"], document["kind"]], document)


def test_an_unknown_field_would_be_found():
    document = yaml.safe_load(yaml.safe_dump(next(d for d in PLAIN if d["kind"] == "Deployment")))
    document["spec"]["template"]["spec"]["containers"][0]["imagePullPolcy"] = "Always"
    with pytest.raises(Exception, match="imagePullPolcy"):
        strictly(client.V1Deployment, document)


@pytest.mark.parametrize("name", pods())
def test_pods_run_as_nobody_special_within_limits(name):
    template = pods()[name]
    pod = strictly(client.V1PodTemplateSpec, template)
    assert pod.spec.security_context.run_as_non_root is True
    assert pod.spec.security_context.seccomp_profile.type == "RuntimeDefault"
    assert "app.kubernetes.io/part-of" in pod.metadata.labels
    mounted = {v.name for v in pod.spec.volumes or []} | {"data"}
    for container in pod.spec.containers:
        assert container.security_context.allow_privilege_escalation is False
        assert container.security_context.capabilities.drop == ["ALL"]
        assert container.resources.requests["cpu"]
        assert container.resources.limits["memory"]
        assert {mount.name for mount in container.volume_mounts} <= mounted
        assert container.image in (IMAGE, "postgres:17")


def test_no_secret_stands_in_a_manifest():
    assert not [named(d) for _, d in ALL if d["kind"] == "Secret"]
    for name, template in pods().items():
        for container in template["spec"]["containers"]:
            for variable in container.get("env", []):
                if re.search("PASSWORD|SECRET|TOKEN|KEY|_URL", variable["name"]):
                    assert "valueFrom" in variable, name
    told = (FOLDER / "secrets.md").read_text()
    for template in pods().values():
        for container in template["spec"]["containers"]:
            for source in container.get("envFrom", []):
                assert "secretRef" not in source or f"generic {source['secretRef']['name']} " in told


def test_services_and_policies_select_pods_that_exist():
    labels = [template["metadata"]["labels"] for template in pods().values()]
    for document in PLAIN:
        if document["kind"] == "Service":
            assert any(document["spec"]["selector"].items() <= have.items() for have in labels)
        if document["kind"] == "NetworkPolicy":
            for asked in document["spec"]["podSelector"].get("matchExpressions", []):
                assert set(asked["values"]) <= {have["app"] for have in labels}


def test_kuberays_cluster_has_a_gpu_pool_and_the_version_that_is_installed():
    """Its definition is not to be had here: only the fields that we use are named."""
    import ray

    assert (RAY["apiVersion"], RAY["spec"]["rayVersion"]) == ("ray.io/v1", ray.__version__)
    assert set(RAY["spec"]) == {
        *("rayVersion", "enableInTreeAutoscaling", "autoscalerOptions"),
        *("headGroupSpec", "workerGroupSpecs"),
    }
    gpu = pods()["RayCluster gpu"]["spec"]
    assert gpu["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert gpu["tolerations"]
    assert settings()["EHR_RAY_ADDRESS"] == f"{RAY['metadata']['name']}-head-svc:6379"


def settings() -> dict[str, str]:
    (found,) = [d["data"] for d in PLAIN if named(d) == "ConfigMap ehr-settings"]
    return found


def instance() -> dict[str, Any]:
    (found,) = [d["data"] for d in PLAIN if named(d) == "ConfigMap dagster-instance"]
    return yaml.safe_load(found["dagster.yaml"])


def test_settings_are_understood():
    found = Settings.from_env(settings())
    assert (found.executor, found.train_on_ray) == ("ray", True)


def test_the_instance_is_as_dagster_wants_it():
    config = instance()
    said = validate_config(dagster_instance_config_schema(), config)
    assert said.success, said.errors
    launcher = config["run_launcher"]
    said = validate_config(Shape(K8sRunLauncher.config_type()), launcher["config"])
    assert said.success, said.errors
    run = UserDefinedDagsterK8sConfig.from_dict(launcher["config"]["run_k8s_config"])
    k8s_model_from_dict(client.V1PodSpec, {**run.pod_spec_config, "containers": []})
    k8s_model_from_dict(client.V1Container, {**run.container_config, "name": "run"})
    wrong = {**launcher["config"], "run_k8s_config": {"pod_spec_confg": {}}}
    assert not validate_config(Shape(K8sRunLauncher.config_type()), wrong).success


@pytest.fixture(scope="module")
def in_pods(tmp_path_factory) -> tuple[Any, dict[str, Any]]:
    """The project with a pod per step, and its executor's configuration, checked by Dagster."""
    home = tmp_path_factory.mktemp("home")
    project = build_project(Settings(home=home, executor="kubernetes"))
    assets = [a for a in project.definitions.assets or [] if hasattr(a, "op")]
    env = {"EHR_WORKERS": "8", "EHR_MEMORY_GB": "31"}
    executor = executor_of(Settings(home=home, executor="kubernetes"), assets, env)
    said = executor.apply_config_mapping({"config": {}})
    assert said.success, said.errors
    return assets, said.value["config"]


def test_a_step_in_a_pod_asks_for_what_it_may_use(in_pods):
    _, config = in_pods
    every = UserDefinedDagsterK8sConfig.from_dict(config["step_k8s_config"]).container_config
    assert every["resources"]["requests"] == {"cpu": "8", "memory": "32768Mi"}


def test_steps_of_the_gpu_pool_get_a_gpu_and_others_none(in_pods):
    assets, config = in_pods
    of_pool = {asset.op.name for asset in assets if GPU_POOL in asset.op.pools}
    assert of_pool == set(config["per_step_k8s_config"])
    names = {asset.op.name for asset in assets if AssetKey(["smb_sft_demo", "checkpoint"]) in asset.keys}
    assert names <= of_pool
    assert len(of_pool) < len(assets) / 2
    for step in config["per_step_k8s_config"].values():
        found = UserDefinedDagsterK8sConfig.from_dict(step)
        assert found.container_config["resources"]["limits"]["nvidia.com/gpu"] == "1"
        k8s_model_from_dict(client.V1PodSpec, {**found.pod_spec_config, "containers": []})
        k8s_model_from_dict(client.V1Container, {**found.container_config, "name": "step"})


def test_the_image_is_built_of_what_is_there():
    text = (PROJECT_ROOT / "infra" / "docker" / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        for name in line.split():
            assert (PROJECT_ROOT / name).exists(), name
    assert re.search(r"^USER 1000$", text, re.MULTILINE)
    assert Path("/opt/ehr-assets").as_posix() in text
