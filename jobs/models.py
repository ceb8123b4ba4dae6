"""Registered model versions and the checkpoints that they are, by the tags that `tracking` gave them."""

from pathlib import Path

from ehr_assets.errors import DatasetError
from ehr_assets.settings import Settings
from resources.tracking import MlflowTracking

PREFIX = "models:/"
NONE_SUCH = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""What MLflow answers of a version, and of an alias, that there is none of."""


def dataset_of_model(settings: Settings, name: str) -> str | None:
    """The checkpoint of a model version: ``recipe/3``, ``recipe@champion``, with ``models:/`` or without.

    Returns:
        Its path below the storage root; None where the name is none of a model version.

    Raises:
        DatasetError: there is no such version.
        TrackingError: the registry cannot be used.
    """
    model, alias, version = _parts(name.removeprefix(PREFIX))
    if not model or not _registry_is_there(settings):
        return None
    from mlflow.exceptions import MlflowException

    found = None
    with MlflowTracking(uri=settings.mlflow_uri).registry() as client:
        try:
            by_alias, by_number = client.get_model_version_by_alias, client.get_model_version
            found = by_alias(model, alias) if alias else by_number(model, version)
        except MlflowException as e:
            if e.error_code not in NONE_SUCH:
                raise
    if found is None or "dataset" not in found.tags:
        raise DatasetError(
            f"There is no registered model version '{name}' that was made here.",
            where="the model registry",
            do="Name one as RECIPE/VERSION or RECIPE@ALIAS, or a checkpoint as RECIPE/checkpoint.",
        )
    return found.tags["dataset"]


def model_of_dataset(settings: Settings, recipe: str, dataset: str) -> str | None:
    """``recipe/version``, the newest that is this dataset; None where there is none, or no registry.

    Raises:
        TrackingError: the registry cannot be used.
    """
    if not _registry_is_there(settings):
        return None
    with MlflowTracking(uri=settings.mlflow_uri).registry() as client:
        versions = client.search_model_versions(f"name='{recipe}'", order_by=["version_number DESC"])
    same = (v for v in versions if v.tags.get("dataset") == dataset)
    return next((f"{recipe}/{v.version}" for v in same), None)


def _parts(name: str) -> tuple[str, str, str]:
    """Model, alias, version; all empty where the name is none of a model version."""
    model, at, alias = name.partition("@")
    if at and model and "/" not in model:
        return model, alias, ""
    model, _, version = name.rpartition("/")
    return (model, "", version) if model and "/" not in model and version.isdecimal() else ("", "", "")


def _registry_is_there(settings: Settings) -> bool:
    uri = settings.mlflow_uri
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists()
