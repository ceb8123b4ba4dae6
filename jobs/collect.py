"""Garbage collection: datasets that nothing needs any more, and what killed processes left.

What may go is decided in `ehr_assets/lineage/collection.py`; here is who is asked, and the removing.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dagster import DagsterInstance, RunsFilter

from ehr_assets.lineage.audit_log import AuditLog
from ehr_assets.lineage.collection import Plan, Policy, plan, read_all, untouched
from ehr_assets.lineage.datasets import DatasetStore
from ehr_assets.lineage.manifest import now
from ehr_assets.lineage.workspace import COMMITTED, LOCK, remove_abandoned
from ehr_assets.settings import Settings
from jobs.abandoned import OPEN, close_dead_runs
from resources.object_store import open_store
from resources.recorded import recorded
from resources.tracking import MlflowTracking

LEAST_IDLE = timedelta(days=1)
"""Folders that somebody may be writing to stay at least so long after the last write."""


@dataclass(frozen=True)
class Collection:
    """What a collection would remove, or removed. `work` and `staging`: folders of processes long gone."""

    plan: Plan
    work: list[Path]
    staging: list[Path]


def collect(
    instance: DagsterInstance,
    settings: Settings,
    policy: Policy,
    *,
    dry_run: bool,
    say: Callable[[str], object],
    at: datetime | None = None,
) -> Collection:
    """Removes what the policy lets go; with `dry_run` nothing.

    Cut off in the middle it leaves whole datasets and remnants without a manifest, which are no datasets and
    are removed by the next collection.

    Args:
        say: where a line per removed dataset goes.
        at: now.

    Raises:
        StorageError: the store cannot be used.
        TrainingError: MLflow's registry cannot be asked which models are in use.
    """
    at = at or now()
    store = open_store(settings.home, settings.remote)
    if not dry_run:
        close_dead_runs(instance, settings)
    in_use, unknown = _in_use(instance, settings, store)
    found = plan(store, policy, in_use, unknown, at, _runs_since(instance))
    idle_since = min(policy.before(at), at - LEAST_IDLE)
    collection = Collection(
        found,
        [f for f in _work_folders(settings.home) if untouched(f, idle_since)],
        [f for f in _folders(settings.home / "staging") if untouched(f, idle_since)],
    )
    if not dry_run:
        _remove(collection, store, AuditLog(settings.home), policy, say)
    return collection


def _in_use(
    instance: DagsterInstance, settings: Settings, store: DatasetStore
) -> tuple[dict[str, str], dict[str, str]]:
    in_use = MlflowTracking(uri=settings.mlflow_uri).in_use()
    unknown = {}
    for asset in sorted({m.asset for m in read_all(store)[0].values()}):
        newest = recorded(instance, asset)
        if newest is None:  # of another instance, perhaps, which has the same store
            unknown[asset] = "this Dagster instance knows nothing of its asset"
        else:
            in_use[newest.dataset] = "Dagster's newest"
    return in_use, unknown


def _runs_since(instance: DagsterInstance) -> datetime | None:
    records = instance.get_run_records(RunsFilter(statuses=OPEN))
    return min((r.create_timestamp.astimezone(UTC) for r in records), default=None)


def _work_folders(home: Path) -> list[Path]:
    marks = [p for name in (LOCK, COMMITTED) for p in (home / "work").rglob(name)]
    # A stage may call a file of its own like one of ours: what counts is the uppermost.
    return [f for f in sorted({p.parent for p in marks}) if not any((up / LOCK).exists() for up in f.parents)]


def _folders(home: Path) -> list[Path]:
    return sorted(p for p in home.iterdir() if p.is_dir()) if home.is_dir() else []


def _remove(
    collection: Collection, store: DatasetStore, log: AuditLog, policy: Policy, say: Callable[[str], object]
) -> None:
    for place, manifest in collection.plan.remove.items():
        # Said before it is done: a removal that nobody can look up is worse than one that is said twice.
        log.append(
            "collected",
            {
                "dataset": place,
                "asset": manifest.asset,
                "data_version": manifest.data_version,
                "bytes": manifest.total_bytes,
                "keep": policy.keep,
                "older_than_days": policy.older_than.days,
            },
        )
        store.remove(place)
        say(f"Removed {place}")
    for place in collection.plan.remnants:
        store.remove(place)
    for folder in collection.work:
        remove_abandoned(folder)
    for folder in collection.staging:
        shutil.rmtree(folder, ignore_errors=True)
