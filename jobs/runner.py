"""Launching Dagster runs from Python: what the `ehr` command and its tests stand on.

A run made here lies in the same instance as those launched from the UI, and looks the same there.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from dagster import AssetKey, DagsterInstance, DagsterRunStatus, EventLogEntry
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.execution.api import execute_run
from dagster._core.storage.tags import PARTITION_NAME_TAG

from ehr_assets.settings import PROJECT_ROOT, Settings
from jobs.abandoned import process_tags
from resources.audit import runs_ended
from resources.storage import ONLY_IF_CHANGED_TAG

ASSET_JOB = "__ASSET_JOB"
NO_CONFIG: Mapping[AssetKey, Mapping[str, Any]] = MappingProxyType({})
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def run_assets(
    instance: DagsterInstance,
    keys: Sequence[AssetKey],
    on_event: Callable[[EventLogEntry], None],
    *,
    partition: str | None = None,
    only_if_changed: bool = True,
    config: Mapping[AssetKey, Mapping[str, Any]] = NO_CONFIG,
) -> tuple[str, bool]:
    """Materializes `keys` with their checks in one run, in this process.

    Args:
        partition: the one to make, of partitioned assets.
        on_event: called with every event log entry as it is stored.
        config: of assets that take some.
        only_if_changed: an asset whose inputs, code and settings turn out unchanged keeps its dataset.

    Returns:
        The run id, and whether the run succeeded.
    """
    repository = ReconstructableRepository.for_module("ehr_assets.definitions", "defs", str(PROJECT_ROOT))
    job = repository.get_reconstructable_job(ASSET_JOB).get_subset(asset_selection=frozenset(keys))
    run = instance.create_run_for_job(
        job_def=job.get_definition(),
        run_config={**QUIET, "ops": {"__".join(k.path): {"config": dict(c)} for k, c in config.items()}},
        tags=process_tags()
        | ({ONLY_IF_CHANGED_TAG: "true"} if only_if_changed else {})
        | ({PARTITION_NAME_TAG: partition} if partition else {}),
        job_code_origin=job.get_python_origin(),
        asset_selection=frozenset(keys),
    )
    instance.add_event_listener(run.run_id, on_event)
    result = execute_run(job, run, instance)
    runs_ended(Settings.from_env().home, instance)
    done = instance.get_run_by_id(run.run_id)
    return run.run_id, result.success and done is not None and done.status is DagsterRunStatus.SUCCESS
