"""What runs write into the audit log: that they began and ended, which checks failed or were passed over.

The beginning is written by the first step of a run that touches a dataset, whoever launched it: nothing is
made without it. No step can write the end, since the run outlives it (or is killed). So an open run has a
file, and whoever comes next (the `ehr` command, the sensor, the next run, `ehr audit`) writes the end that
Dagster knows.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from dagster import (
    AssetCheckExecutionContext,
    DagsterEventType,
    DagsterInstance,
    DagsterInvariantViolationError,
)

from ehr_assets.lineage.audit_log import AuditLog
from ehr_assets.lineage.hashing import file_sha256, git_revision, lock_hash
from ehr_assets.lineage.manifest import MANIFEST_NAME, Manifest
from ehr_assets.lineage.names import dataset_name
from ehr_assets.lineage.provenance import keep_run
from ehr_assets.settings import Settings
from resources.recorded import DATASET_KEY

LAUNCHED_BY = ("dagster/schedule_name", "dagster/sensor_name", "dagster/backfill", "user")
"""Tags that say what asked for a run."""


def run_begins(home: Path, instance: DagsterInstance, run_id: str) -> None:
    """Records a run, once; nothing outside a run. Called by each of its steps before anything else.

    Raises:
        AuditLogError: it cannot be recorded, and so must not run.
    """
    opened = _open_runs(home) / run_id
    if opened.exists() or (run := instance.get_run_by_id(run_id)) is None:
        return
    runs_ended(home, instance)
    with _alone(home):
        if opened.exists():
            return
        settings = Settings.from_env()
        keep_run(home, run_id, settings.overrides, settings.spec_dirs)
        selected = sorted("/".join(key.path) for key in run.asset_selection or ())
        facts = {
            "run": run_id,
            "job": run.job_name,
            "assets": selected,
            "partition": run.tags.get("dagster/partition"),
            "launched_by": [f"{tag}={run.tags[tag]}" for tag in LAUNCHED_BY if tag in run.tags],
            "git_revision": git_revision(),
            "lock_hash": lock_hash(),
        }
        AuditLog(home).append("run_started", facts)
        opened.touch(mode=0o600)


def runs_ended(home: Path, instance: DagsterInstance) -> list[str]:
    """Records the end of each run that Dagster knows to be over; returns their ids."""
    folder, ended = _open_runs(home), []
    for run_id in sorted(p.name for p in folder.iterdir()) if folder.is_dir() else ():
        found = instance.get_run_record_by_id(run_id)
        if found is not None and not found.dagster_run.is_finished:
            continue
        with _alone(home):
            if not (folder / run_id).exists():
                continue
            facts = {
                "run": run_id,
                "status": found.dagster_run.status.value if found else "UNKNOWN: Dagster has no such run",
                "ended": _time(found.end_time if found else None),
                **_made(home, instance, run_id),
            }
            AuditLog(home).append("run_finished", facts)
            (folder / run_id).unlink()
        ended.append(run_id)
    return ended


def check_failed(home: Path, manifest: Manifest, check: str | None, *, warns: bool) -> None:
    """Records that a check did not pass.

    Args:
        check: its name; by default that of the check that runs just now.
    """
    facts = {
        "asset": manifest.asset,
        "data_version": manifest.data_version,
        "check": check or _running_check(),
        "severity": "warning" if warns else "error",
        "made_by_run": manifest.run_id,
    }
    AuditLog(home).append("check_failed", facts)


def _running_check() -> str | None:
    """None outside of a check, or in one that stands for several."""
    try:
        specs = AssetCheckExecutionContext.get().check_specs
    except DagsterInvariantViolationError:
        return None
    return specs[0].name if len(specs) == 1 else None


def check_overridden(home: Path, run_id: str, asset: str, line: str) -> None:
    """Records that an asset was started although a check of what it reads had failed."""
    AuditLog(home).append("check_overridden", {"run": run_id, "asset": asset, "override": line})


def _made(home: Path, instance: DagsterInstance, run_id: str) -> dict[str, list[str]]:
    """What a run made or kept, in order: ``asset @ data version``, and ``dataset sha256`` of its manifest.

    Files and data version follow from one another; of what else a manifest says (overrides, settings) only
    this hash tells whether it was edited since.
    """
    records = instance.get_records_for_run(run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION).records
    made, manifests = [], []
    for record in records:
        found = record.event_log_entry.asset_materialization
        if found and DATASET_KEY in found.metadata:
            name = dataset_name("/".join(found.asset_key.path), found.partition)
            made.append(f"{name} @ {(found.tags or {}).get('dagster/data_version', 'unknown')}")
            file = home / str(found.metadata[DATASET_KEY].value) / MANIFEST_NAME
            if file.is_file():
                manifests.append(f"{found.metadata[DATASET_KEY].value} {file_sha256(file)}")
    return {"made": made, "manifests": manifests}


def _open_runs(home: Path) -> Path:
    return home / "audit" / "open"


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    folder = _open_runs(home)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(folder.parent / "open.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _time(seconds: float | None) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else None
