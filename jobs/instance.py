"""The Dagster instance under EHR_HOME: the one that the UI, `dg` and the `ehr` command share."""

import errno
import hashlib
import os
import shutil
import sqlite3
from pathlib import Path

from dagster import DagsterInstance

from ehr_assets.errors import DatasetError, EhrError, SpecError
from ehr_assets.settings import PROJECT_ROOT, Settings

INSTANCE_CONFIG = PROJECT_ROOT / "infra" / "dagster.yaml"

EARLIER_CONFIGS = {
    "8876847e26ba2d8c1bdc4e348cc3da6211898a752c2882545f19f970265f42c5",
    "28a35eeede5c2b1a2c38e3086418151814ab3d249bdaf6e595d51f076fdf9a8f",
    "eafb3503e2bdb885f210ac3f6e3d8250b405bcce19de517b8761444f32c734c0",
}
"""sha256 of what `infra/dagster.yaml` was before. A copy that is one of them was edited by nobody."""


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
    if not config.exists() or hashlib.sha256(config.read_bytes()).hexdigest() in EARLIER_CONFIGS:
        shutil.copy(INSTANCE_CONFIG, config)
    os.environ["EHR_HOME"] = str(settings.home)
    os.environ["DAGSTER_HOME"] = str(settings.dagster_home)


def open_instance(settings: Settings) -> DagsterInstance:
    prepare_home(settings)
    return DagsterInstance.get()


def storage_problem(error: BaseException | None, home: Path) -> EhrError | None:
    """The error to show when `error`, or what it arose from, is a disk that cannot be written; else None.

    With a full disk it is mostly Dagster's own database that notices first.
    """
    while error is not None:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or isinstance(error, sqlite3.OperationalError):
            free = shutil.disk_usage(home).free if home.exists() else 0
            return DatasetError(
                f"The storage root cannot be written: {error} ({free / 1e6:,.0f} MB are free there).",
                where=f"EHR_HOME: {home}",
                do="Free space or move EHR_HOME, then run the command again. Finished datasets are kept; "
                "what was being written is not used.",
            )
        error = error.__cause__ or error.__context__
    return None
