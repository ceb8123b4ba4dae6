"""The model registry: versions that lead back, in a database and behind a real MLflow server."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import dagster as dg
import pytest
from mlflow import MlflowClient
from training_helpers import recipe_data

from ehr_assets.lineage.datasets import DatasetStore
from ehr_assets.lineage.manifest import InputEntry, now
from ehr_assets.training.assets import registered
from ehr_assets.training.recipe import RecipeSpec
from resources.recorded import DATASET_KEY
from resources.tracking import CANDIDATE, RUN_FILE, MlflowTracking

pytestmark = pytest.mark.slow

TAGS = {
    "dataset": "datasets/demo/checkpoint/1",
    "data_version": "abc",
    "code_version": "x.y",
    "recipe": "demo",
}


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The URL of an MLflow server of our own."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=2)
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < until, (folder / "log").read_text()
                time.sleep(0.3)
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait(timeout=20)


@pytest.fixture(params=["database", "server"])
def tracking(request) -> MlflowTracking:
    return MlflowTracking(uri=request.getfixturevalue(request.param))


def client(tracking: MlflowTracking) -> MlflowClient:
    return MlflowClient(tracking.uri, registry_uri=tracking.uri)


def test_a_version_leads_back_and_the_newest_is_the_candidate(tracking, tmp_path):
    first = tracking.start("demo", {}, {})
    assert tracking.register("demo", first, tmp_path, TAGS) == "1"
    assert tracking.register("demo", first, tmp_path, TAGS) == "1", "once per dataset"
    second = tracking.start("demo", {}, {})
    later = {**TAGS, "data_version": "def"}
    assert tracking.register("demo", second, tmp_path, later) == "2"
    mlflow = client(tracking)
    newest = mlflow.get_model_version_by_alias("demo", CANDIDATE)
    assert (str(newest.version), newest.run_id, newest.tags) == ("2", second, later)
    assert mlflow.get_model_version("demo", "1").tags == TAGS
    assert mlflow.get_run(second).data.tags["model_version"] == "demo/2"
    # What is the candidate was decided by a person in the meantime, perhaps.
    mlflow.set_registered_model_alias("demo", CANDIDATE, "1")
    assert tracking.register("demo", second, tmp_path, later) == "2"
    assert str(mlflow.get_model_version_by_alias("demo", CANDIDATE).version) == "1"


def test_the_source_is_the_folder_or_what_names_it(tracking, tmp_path):
    run_id = tracking.start("where", {}, {})
    tracking.register("where", run_id, tmp_path, TAGS)
    mlflow = client(tracking)
    if not tracking.uri.startswith("http"):
        assert mlflow.get_model_version("where", "1").source == tmp_path.as_uri()
        return
    file = mlflow.download_artifacts(run_id, "checkpoint/checkpoint.json", str(tmp_path))
    assert str(tmp_path) in Path(file).read_text()


def test_more_parameters_and_tags_than_a_request_may_hold(tracking):
    params = {"many": {f"p{i}": i for i in range(230)}, "phases": [{"name": "a"}, {"name": "b"}]}
    tags = {f"t{i}": "x" for i in range(150)}
    run = client(tracking).get_run(tracking.start("big", tags, params)).data
    assert len(run.params) == 232
    assert run.params["phases.1.name"] == "b"
    assert tags.items() <= run.tags.items()


def test_a_training_that_is_taken_up_goes_on_in_a_run_of_its_own(tracking, tmp_path):
    work = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt), tracking.run("r", {}, {}, work) as first:
        raise KeyboardInterrupt
    with tracking.run("r", {"recipe": "r"}, {}, work) as second:
        pass
    assert (work / RUN_FILE).read_text().strip() == second
    tags = client(tracking).get_run(second).data.tags
    assert (tags["resumed_from"], tags["recipe"]) == (first, "r")
    assert "resumed_from" not in client(tracking).get_run(first).data.tags


def test_a_registry_that_fails_costs_no_training(tmp_path, database, monkeypatch):
    """The checkpoint is committed and shown; what failed is warned of; what is kept is registered later."""
    store = DatasetStore(tmp_path)
    tracking = MlflowTracking(uri=database)
    with store.staging() as staged:
        (staged / "adapter_model.safetensors").write_bytes(b"weights")
        dataset = store.commit(
            staged,
            asset="made_up/checkpoint",
            code_version="x.y",
            started_at=now(),
            inputs=[InputEntry(asset="made_up/token_corpus", data_version="v7", dataset="datasets/c/1")],
            stats={"mlflow_run_id": tracking.start("made_up", {}, {})},
            run_id="dagster-1",
        )
    recipe = RecipeSpec.model_validate(recipe_data())
    shown = {"path": dg.MetadataValue.path(str(dataset.path)), "steps": 3}
    shown[DATASET_KEY] = dg.MetadataValue.text(store.relative(dataset))
    result = dg.MaterializeResult(metadata=shown, data_version=dg.DataVersion(dataset.data_version))

    def fails(*_, **__):
        raise ConnectionError("no registry today")

    with dg.build_asset_context() as context, monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_model_version", fails)
        warned: list[str] = []
        patch.setattr(context.log, "warning", warned.append)
        found = registered(context, tracking, recipe, result)
        assert str((found.metadata or {})["model version"]).startswith("not registered: The MLflow")
        assert (found.metadata or {})["steps"] == 3
        assert "was not registered" in warned[0]
    with dg.build_asset_context() as context:
        found = registered(context, tracking, recipe, result)
    assert (found.metadata or {})["model version"] == "made_up/1"
    tags = client(tracking).get_model_version("made_up", "1").tags
    assert tags["dataset"] == store.relative(dataset)
    assert tags["data_version"] == dataset.data_version
    assert tags["data_version.made_up.token_corpus"] == "v7"
    assert (tags["dagster.run_id"], tags["recipe"], tags["code_version"]) == ("dagster-1", "made_up", "x.y")
