"""The MLflow resource: runs opened and closed, and what is said when it cannot be used."""

import traceback

import pytest
from mlflow import MlflowClient

from ehr_assets.errors import TrainingError
from resources.tracking import MAX_PARAM, MlflowTracking, without_credentials

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tracking(tmp_path_factory) -> MlflowTracking:
    return MlflowTracking(uri=f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/deeper/mlflow.db")


def test_a_run_holds_flattened_params_and_tags(tracking):
    run_id = tracking.start("demo", {"git.revision": "abc"}, {"a": {"b": 1}, "long": "x" * 9000})
    run = MlflowClient(tracking.uri).get_run(run_id)
    assert run.info.run_name == "demo"
    assert run.data.params == {"a.b": "1", "long": "x" * MAX_PARAM}
    assert run.data.tags["git.revision"] == "abc"
    assert run.info.status == "RUNNING"
    tracking.finish(run_id, "FAILED")
    assert MlflowClient(tracking.uri).get_run(run_id).info.status == "FAILED"


def test_runs_share_the_experiment(tracking):
    ids = [tracking.start(name, {}, {}) for name in ("one", "two")]
    experiments = {MlflowClient(tracking.uri).get_run(i).info.experiment_id for i in ids}
    assert len(experiments) == 1
    assert MlflowClient(tracking.uri).get_experiment(experiments.pop()).name == "ehr-assets"


def test_a_plain_folder_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="plain folders"):
        MlflowTracking(uri=str(tmp_path)).start("demo", {}, {})


def test_a_store_that_cannot_be_used_is_one_clear_error(tmp_path):
    (tmp_path / "mlflow.db").write_text("this is not a database, it only has its name " * 100)
    with pytest.raises(TrainingError, match="tracking store cannot be used"):
        MlflowTracking(uri=f"sqlite:///{tmp_path}/mlflow.db").start("demo", {}, {})


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_that_ends_early_says_how(tracking, error, status):
    with pytest.raises(error), tracking.run("r", {}, {}) as run_id:
        raise error
    assert MlflowClient(tracking.uri).get_run(run_id).info.status == status


@pytest.mark.parametrize("error", [None, ValueError])
def test_a_server_that_is_gone_at_the_end_costs_nothing(tmp_path, error, caplog):
    database = tmp_path / "mlflow.db"
    tracking = MlflowTracking(uri=f"sqlite:///{database}")

    def block() -> str:
        with tracking.run("r", {}, {}) as run_id:
            object.__setattr__(tracking, "uri", "http://127.0.0.1:9")
            if error:
                raise error
        return run_id

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        if error:
            with pytest.raises(error):
                block()
        else:
            assert block()
    assert "could not be closed" in caplog.text


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://u:secret@db:5432/mlflow", "postgresql://db:5432/mlflow"),
        ("postgresql+psycopg2://u:s/ec@ret@db/mlflow", "postgresql+psycopg2://db/mlflow"),
        ("postgresql://db/mlflow?user=u&password=secret", "postgresql://db/mlflow"),
        ("https://u:secret@mlflow:5000", "https://mlflow:5000"),
        ("http://mlflow:5000", "http://mlflow:5000"),
        ("sqlite:////data/a@b/mlflow.db", "sqlite:////data/a@b/mlflow.db"),
    ],
)
def test_what_is_shown_of_a_uri(uri, shown):
    assert without_credentials(uri) == shown


@pytest.mark.parametrize(
    "uri", ["http://u:secret@127.0.0.1:9", "nothing://u:secret@x/y", "file://u:secret@x"]
)
def test_errors_hold_no_password(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrainingError) as e:
        MlflowTracking(uri=uri).start("demo", {}, {})
    assert "secret" not in "".join(traceback.format_exception(e.value)), "Dagster keeps all of it"


def test_a_run_that_could_not_take_its_params_can_be_found_and_closed(tracking, monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError

    tags = {"dagster.run_id": "r1", **{f"data_version.{i}": "v" for i in range(150)}}
    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_batch", refuse)
        with pytest.raises(TrainingError, match="tracking store cannot be used"):
            tracking.start("demo", tags, {"a": 1})
    tracking.close_abandoned("r1")
    client = MlflowClient(tracking.uri)
    experiment = client.get_experiment_by_name("ehr-assets").experiment_id
    (run,) = client.search_runs([experiment], "tags.`dagster.run_id` = 'r1'")
    assert run.info.status == "KILLED"


def test_more_tags_than_go_into_one_request(tracking):
    tags = {f"t{i:03}": str(i) for i in range(150)}
    run = MlflowClient(tracking.uri).get_run(tracking.start("demo", tags, {}))
    assert tags.items() <= run.data.tags.items()
