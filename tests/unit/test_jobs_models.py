"""Registered models by name: a registry that cannot be asked is not one that knows no such model."""

import pytest
from mlflow.exceptions import MlflowException

from ehr_assets.errors import DatasetError, TrackingError
from ehr_assets.settings import Settings
from jobs.models import dataset_of_model, model_of_dataset
from resources.tracking import MlflowTracking


class Registry:
    """In place of MLflow's client: answers every question with one error."""

    def __init__(self, code):
        self.error = MlflowException("its own words", error_code=code)

    def _fails(self, *_, **__):
        raise self.error

    get_model_version = get_model_version_by_alias = search_model_versions = _fails


@pytest.fixture
def asked(monkeypatch, tmp_path):
    def asked(code):
        monkeypatch.setattr(MlflowTracking, "_client", lambda _: Registry(code))
        return Settings(home=tmp_path, tracking_uri="http://someone:hidden@tracking")

    return asked


@pytest.mark.parametrize(
    ("name", "code"),
    [("demo@champion", "INVALID_PARAMETER_VALUE"), ("models:/demo/3", "RESOURCE_DOES_NOT_EXIST")],
)
def test_a_version_that_is_not_there(asked, name, code):
    from mlflow.protos import databricks_pb2

    with pytest.raises(DatasetError, match="no registered model version"):
        dataset_of_model(asked(databricks_pb2.ErrorCode.Value(code)), name)


def test_a_registry_that_does_not_answer(asked):
    from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

    settings = asked(TEMPORARILY_UNAVAILABLE)
    for ask in (
        lambda: dataset_of_model(settings, "demo@champion"),
        lambda: model_of_dataset(settings, "demo", "datasets/demo/checkpoint/x"),
    ):
        with pytest.raises(TrackingError) as e:
            ask()
        assert "hidden" not in str(e.value)


def test_what_is_no_name_of_a_model(asked, tmp_path):
    assert dataset_of_model(asked(None), "demo/checkpoint") is None
    assert dataset_of_model(Settings(home=tmp_path), "demo@champion") is None, "no registry yet"
