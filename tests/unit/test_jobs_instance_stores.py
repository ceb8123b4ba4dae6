"""The instance's configuration follows the settings: logs of steps on S3, runs in Postgres."""

import dagster as dg
import pytest
import yaml
from dagster import AssetExecutionContext, AssetKey, DagsterInstance, RetryPolicy
from dagster._core.instance.ref import InstanceRef

from ehr_assets.errors import RawTableError, SpecError
from ehr_assets.settings import Settings
from jobs.instance import INSTANCE_CONFIG, open_instance, prepare_home
from jobs.local_launcher import LocalRunLauncher
from resources.storage import Datasets

HOME = "s3://team/hospital/ehr"
KEY = AssetKey(["c", "thing"])


@pytest.fixture(autouse=True)
def variables(monkeypatch):
    for name in ("DAGSTER_HOME", "EHR_HOME", "EHR_CACHE", "EHR_POSTGRES_URL"):
        monkeypatch.setenv(name, "")


def configured(settings):
    prepare_home(settings)
    return yaml.safe_load((settings.dagster_home / "dagster.yaml").read_text())


def test_the_configuration_follows_the_settings_and_back(tmp_path):
    plain, remote, both = (
        Settings(home=tmp_path, remote=where, postgres=database)
        for where, database in (("", False), (HOME, False), (HOME, True))
    )
    assert "compute_logs" not in configured(plain)
    logs = configured(remote)["compute_logs"]["config"]
    assert (logs["bucket"], logs["prefix"]) == ("team", "hospital/ehr/logs")
    found = configured(both)
    assert found["storage"] == {"postgres": {"postgres_url": {"env": "EHR_POSTGRES_URL"}}}
    assert found["run_monitoring"] == configured(plain)["run_monitoring"]
    assert (tmp_path / "dagster" / "dagster.yaml").read_text() == INSTANCE_CONFIG.read_text()


@pytest.mark.parametrize("database", [False, True])
@pytest.mark.parametrize("where", ["", HOME, "s3://2026/1e5"])
def test_dagster_takes_every_combination_with_the_same_launcher(tmp_path, monkeypatch, where, database):
    monkeypatch.setenv("EHR_POSTGRES_URL", "postgresql://someone:else@127.0.0.1:9/nowhere")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    home = tmp_path / "a: b #c"
    prepare_home(Settings(home=home, remote=where, postgres=database))
    ref = InstanceRef.from_dir(str(home / "dagster"))
    assert ref.run_launcher_data.class_name == "LocalRunLauncher"
    assert isinstance(ref.run_launcher, LocalRunLauncher)
    logs = ref.compute_log_manager
    assert type(logs).__name__ == ("S3ComputeLogManager" if where else "LocalComputeLogManager")
    if where:
        assert logs.local_manager.get_captured_local_path(["run"], "out").startswith(
            str(home / "dagster" / "logs")
        )
    storage = ref.storage_data.class_name if ref.storage_data else ""
    assert ("Postgres" in storage) is database


def test_what_somebody_edited_stays_and_a_database_it_lacks_is_told(tmp_path):
    configured(Settings(home=tmp_path, remote=HOME))
    file = tmp_path / "dagster" / "dagster.yaml"
    edited = file.read_text().replace("max_concurrent_runs: 2", "max_concurrent_runs: 1")
    file.write_text(edited)
    prepare_home(Settings(home=tmp_path, remote=HOME))
    assert file.read_text() == edited
    with pytest.raises(SpecError, match="was edited"):
        prepare_home(Settings(home=tmp_path, remote=HOME, postgres=True))


@dg.asset(key=KEY)
def says_something():
    print("this was printed by a step")


def test_what_steps_print_lies_in_the_bucket(s3, tmp_path):
    with open_instance(Settings(home=tmp_path, remote=HOME)) as instance:
        assert dg.materialize([says_something], instance=instance).success
        client = s3.client()
        found = client.list_objects_v2(Bucket="team", Prefix="hospital/ehr/logs/").get("Contents", [])
        texts = [client.get_object(Bucket="team", Key=o["Key"])["Body"].read() for o in found]
    assert any(b"this was printed by a step" in text for text in texts)


def test_a_step_bears_that_its_log_cannot_be_kept(s3, tmp_path):
    """Hours of training are not lost for the want of a log."""
    s3.fault = lambda method, path: "503"
    with open_instance(Settings(home=tmp_path, remote=HOME)) as instance:
        assert dg.materialize([says_something], instance=instance, raise_on_error=False).success


class Asset:
    """One asset on S3 that is tried twice, and a count of how often its body ran."""

    def __init__(self, home):
        self.instance = DagsterInstance.ephemeral()
        self.datasets = Datasets(home=str(home), remote=HOME, gates={})
        self.ran = 0

    def run(self, error=None):
        chain = self

        def body(step):
            chain.ran += 1
            if error:
                raise error
            (step.out / "a.txt").write_text("a")
            return {"n": 1}

        @dg.asset(key=KEY, code_version="1", retry_policy=RetryPolicy(max_retries=1))
        def thing(context: AssetExecutionContext, datasets: Datasets):
            return datasets.materialize(context, body)

        resources = {"datasets": self.datasets}
        return dg.materialize([thing], instance=self.instance, resources=resources, raise_on_error=False)


def test_storage_that_does_not_answer_is_tried_again_by_dagster_and_bad_data_is_not(s3, tmp_path):
    made = Asset(tmp_path)
    s3.fault = lambda method, path: "503" if method == "PUT" and made.ran < 2 else ""
    assert made.run().success
    assert made.ran == 2
    assert made.datasets.latest(made.instance, KEY).path.is_relative_to(tmp_path)
    bad = Asset(tmp_path)
    assert not bad.run(RawTableError("no such column")).success
    assert bad.ran == 1


def test_storage_that_refuses_is_not_tried_again(s3, tmp_path):
    made = Asset(tmp_path)
    s3.fault = lambda method, path: "403 AccessDenied" if method == "PUT" else ""
    result = made.run()
    assert made.ran == 1
    failure = next(e for e in result.all_events if e.is_step_failure).step_failure_data.user_failure_data
    assert "denies access" in failure.description
    assert HOME in failure.description


def test_a_dataset_on_s3_shows_where_it_lies(s3, tmp_path):
    made = Asset(tmp_path)
    (event,) = made.run().get_asset_materialization_events()
    shown = event.materialization.metadata
    assert shown["address"].value == f"{HOME}/{shown['dataset'].value}"
