"""Settings of a cluster, and what of this process's environment a step on it is given."""

from pathlib import Path

import pytest

from ehr_assets.build import build_project
from ehr_assets.errors import SpecError
from ehr_assets.fanout import ONE_WORKER, Cluster, Crew, Machine
from ehr_assets.settings import Settings
from resources.executors import executor_of, passed_on

ADDRESS = {"EHR_RAY_ADDRESS": "head:6379"}


def test_a_step_is_given_settings_and_no_secret():
    env = {
        "EHR_HOME": "/shared/home",
        "EHR_OVERRIDES": "{}",
        "DAGSTER_HOME": "/shared/home/dagster",
        "PYTHONPATH": "/code",
        "MLFLOW_TRACKING_URI": "postgresql://someone:secret@db/mlflow",
        "EHR_POSTGRES_URL": "postgresql://someone:secret@db/dagster",
        "EHR_WEBHOOK": "https://example.org/T0/secret",
        "EHR_SALT": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "eu-central-1",
        "HF_TOKEN": "secret",
        "LANG": "C",
    }
    given = passed_on(env)
    assert given == ["AWS_REGION", "DAGSTER_HOME", "EHR_HOME", "EHR_OVERRIDES", "PYTHONPATH"]
    assert passed_on({"MLFLOW_TRACKING_URI": "http://mlflow:5000"}) == ["MLFLOW_TRACKING_URI"]


def test_a_step_asks_its_node_for_the_memory_it_may_use(tmp_path):
    env = {**ADDRESS, "EHR_EXECUTOR": "ray", "EHR_MEMORY_GB": "12", "EHR_HOME": str(tmp_path)}
    said = executor_of(Settings.from_env(env), env=env).apply_config_mapping({"config": {}})
    assert said.success, said.errors
    assert said.value
    config = said.value["config"]["ray"]
    assert (config["address"], config["memory"]) == ("head:6379", 12 << 30)
    assert "EHR_MEMORY_GB" in config["env_vars"]


@pytest.mark.parametrize(
    ("env", "what"),
    [
        ({"EHR_EXECUTOR": "ray"}, "not said where it is"),
        ({"EHR_HOSTS": "ray"}, "not said where it is"),
        ({**ADDRESS, "EHR_HOSTS": "slurm"}, "does not say where training runs"),
        ({**ADDRESS, "EHR_HOST_SLOTS": "0"}, "positive whole number"),
        ({**ADDRESS, "EHR_HOST_SLOTS": "many"}, "positive whole number"),
        ({"EHR_EXECUTOR": "slurm"}, "is not an executor"),
    ],
)
def test_settings_that_make_no_sense_are_refused(env, what):
    with pytest.raises(SpecError, match=what):
        Settings.from_env(env)


def test_the_launcher_is_told_of_the_cluster_only_where_it_takes_the_training(tmp_path):
    for hosts, address in (("", ""), ("ray", "head:6379")):
        env = {**ADDRESS, "EHR_HOSTS": hosts, "EHR_HOST_SLOTS": "8", "EHR_HOME": str(tmp_path)}
        launcher = build_project(Settings.from_env(env)).definitions.resources["launcher"]
        assert (launcher.ray_address, launcher.slots) == (address, 8)


def test_a_cluster_is_part_of_the_machine():
    assert Machine.from_env({}).cluster is None
    assert Machine.from_env(ADDRESS).cluster == Cluster("head:6379")
    assert Machine.from_env({**ADDRESS, "EHR_RAY_TASKS": "200"}).cluster == Cluster("head:6379", 200)
    with pytest.raises(SpecError, match="EHR_RAY_TASKS"):
        Machine.from_env({**ADDRESS, "EHR_RAY_TASKS": "0"})


def test_without_one_the_crew_is_of_this_machine():
    with ONE_WORKER.crew(1 << 20) as crew:
        assert type(crew) is Crew
        assert crew.here
    with Machine(4, 64 << 30).crew(1 << 30, most=2) as crew:
        assert (crew.workers, crew.here) == (2, False)
    with Machine(4, 2 << 30).crew(Path(__file__).stat().st_size, most=0) as crew:
        assert crew.workers == 1
