"""The Dagster instance under EHR_HOME: the one that the UI, `dg` and the `ehr` command share.

Its configuration is `infra/dagster.yaml`, and with it what the settings ask for: `infra/dagster_s3.yaml`
where EHR_HOME is on S3, `infra/dagster_postgres.yaml` where there is a database for it.
"""

import errno
import hashlib
import json
import os
import shutil
import sqlite3
from pathlib import Path
from string import Template

from dagster import DagsterInstance

from ehr_assets.addresses import bucket_and_prefix
from ehr_assets.errors import DatasetError, EhrError, SpecError, StorageUnavailableError
from ehr_assets.settings import POSTGRES_VARIABLE, PROJECT_ROOT, Settings

INSTANCE_CONFIG = PROJECT_ROOT / "infra" / "dagster.yaml"
S3_CONFIG = INSTANCE_CONFIG.with_name("dagster_s3.yaml")
POSTGRES_CONFIG = INSTANCE_CONFIG.with_name("dagster_postgres.yaml")
SEAL = "# As the ehr command put it together: "
"""Begins the last line of a configuration made of several files; the hash of what stands above it follows."""

EARLIER_CONFIGS = {
    "8876847e26ba2d8c1bdc4e348cc3da6211898a752c2882545f19f970265f42c5",
    "28a35eeede5c2b1a2c38e3086418151814ab3d249bdaf6e595d51f076fdf9a8f",
    "eafb3503e2bdb885f210ac3f6e3d8250b405bcce19de517b8761444f32c734c0",
}
"""sha256 of what `infra/dagster.yaml` was before. A copy that is one of them was edited by nobody."""


def prepare_home(settings: Settings) -> None:
    """Creates EHR_HOME and its Dagster instance, and points DAGSTER_HOME at it for this process."""
    try:
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings.dagster_home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as e:
        raise SpecError(
            f"The storage root cannot be created: {e.strerror}.",
            where=f"EHR_HOME: {settings.home}",
            do="Point EHR_HOME at a directory you can write to.",
        ) from None
    _configure(settings, settings.dagster_home / "dagster.yaml")
    os.environ["EHR_HOME"] = settings.where
    if settings.remote:
        os.environ["EHR_CACHE"] = str(settings.home.parent)
    os.environ["DAGSTER_HOME"] = str(settings.dagster_home)


def _configure(settings: Settings, config: Path) -> None:
    """Writes the instance's configuration, unless somebody edited it."""
    text = INSTANCE_CONFIG.read_text(encoding="utf-8")
    more = []
    if settings.remote:
        bucket, prefix = bucket_and_prefix(settings.remote)
        logs, local = f"{prefix}/logs".strip("/"), str(settings.dagster_home / "logs")
        # In quotes, which JSON's strings share with YAML's: a bucket may be called 2026, a folder "a: b #c".
        quoted = {"bucket": json.dumps(bucket), "prefix": json.dumps(logs), "local": json.dumps(local)}
        more.append(Template(S3_CONFIG.read_text(encoding="utf-8")).substitute(quoted))
    if settings.postgres:
        more.append(POSTGRES_CONFIG.read_text(encoding="utf-8"))
    if more:
        text = "\n".join([text, *more])
        text += f"{SEAL}{_digest(text)}\n"
    found = config.read_text(encoding="utf-8") if config.exists() else None
    if found is None or _unedited(found):
        if found != text:
            new = config.with_name(f"dagster.yaml.{os.getpid()}")
            new.write_text(text, encoding="utf-8")
            new.rename(config)
    elif settings.postgres and POSTGRES_VARIABLE not in found:
        raise SpecError(
            f"{POSTGRES_VARIABLE} is set, but the instance's configuration was edited and lacks it.",
            where=str(config),
            do=f"Add what stands in {POSTGRES_CONFIG} to it, or remove it: it is then written anew.",
        )


def _unedited(text: str) -> bool:
    above, seal, digest = text.rpartition(SEAL)
    if seal:
        return digest.strip() == _digest(above)
    return _digest(text) in {*EARLIER_CONFIGS, _digest(INSTANCE_CONFIG.read_text(encoding="utf-8"))}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def open_instance(settings: Settings) -> DagsterInstance:
    """The instance; made ready first.

    Raises:
        SpecError: the storage root cannot be created, or its configuration leaves no room for the settings.
        StorageUnavailableError: its database does not answer.
    """
    prepare_home(settings)
    try:
        return DagsterInstance.get()
    except Exception as e:
        problem = storage_problem(e, settings.home)
        if problem is None:
            raise
        raise problem from None


def storage_problem(error: BaseException | None, home: Path) -> EhrError | None:
    """The error to show when `error`, or what it arose from, is a disk that cannot be written, or a database
    that does not answer; else None.

    With a full disk it is mostly Dagster's own database that notices first.
    """
    while error is not None:
        if type(error).__module__.partition(".")[0] in ("psycopg2", "dagster_postgres"):
            return StorageUnavailableError(
                f"The database of the Dagster instance cannot be used ({type(error).__name__}).",
                where=f"environment variable {POSTGRES_VARIABLE}",
                do="Check that it runs and that the variable names it, its user and password. Then run the "
                "command again: finished datasets are kept.",
            )
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
