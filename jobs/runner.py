"""Launching Dagster runs from Python: what the `ehr` command and its tests stand on.

A run made here lies in the same instance as those launched from the UI, and looks the same there.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from dagster import AssetKey, DagsterInstance, DagsterRunStatus, EventLogEntry
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.execution.api import execute_run
from dagster._core.origin import get_python_environment_entry_point
from dagster._core.storage.tags import PARTITION_NAME_TAG

from ehr_assets.settings import PROJECT_ROOT, Settings
from jobs.abandoned import process_tags
from jobs.following import follow
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
        on_event: called with every event log entry, when it is stored or (from other machines) soon after.
        config: of assets that take some.
        only_if_changed: an asset whose inputs, code and settings turn out unchanged keeps its dataset.

    Returns:
        The run id, and whether the run succeeded.
    """
    repository = ReconstructableRepository(
        ModuleCodePointer("ehr_assets.definitions", "defs", str(PROJECT_ROOT)),
        executable_path=sys.executable,
        # How another machine runs a step: `dagster` alone need not be found there.
        entry_point=get_python_environment_entry_point(sys.executable),
    )
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
    definition = job.get_definition()
    with follow(
        instance, run.run_id, on_event, elsewhere=definition.executor_def.name in ("ray", "kubernetes")
    ):
        result = execute_run(job, run, instance)
    runs_ended(Settings.from_env().home, instance)
    done = instance.get_run_by_id(run.run_id)
    return run.run_id, result.success and done is not None and done.status is DagsterRunStatus.SUCCESS
