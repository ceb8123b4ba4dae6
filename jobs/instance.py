"""The Dagster instance under EHR_HOME: the one that the UI, `dg` and the `ehr` command share."""

import os
import shutil

from dagster import DagsterInstance

from ehr_assets.errors import SpecError
from ehr_assets.settings import PROJECT_ROOT, Settings

INSTANCE_CONFIG = PROJECT_ROOT / "infra" / "dagster.yaml"


def prepare_home(settings: Settings) -> None:
    """Creates EHR_HOME and its Dagster instance, and points DAGSTER_HOME at it for this process."""
    try:
        settings.dagster_home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as e:
        raise SpecError(
            f"The storage root cannot be created: {e.strerror}.",
            where=f"EHR_HOME: {settings.home}",
            do="Point EHR_HOME at a directory you can write to.",
        ) from None
    config = settings.dagster_home / "dagster.yaml"
    if not config.exists():
        shutil.copy(INSTANCE_CONFIG, config)
    os.environ["EHR_HOME"] = str(settings.home)
    os.environ["DAGSTER_HOME"] = str(settings.dagster_home)


def open_instance(settings: Settings) -> DagsterInstance:
    prepare_home(settings)
    return DagsterInstance.get()
