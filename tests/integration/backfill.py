"""Backfills all partitions of a grid as Dagster's daemon does, but launches the runs in this process.

What all points read is made first, and nothing else of the chain. Run by `test_grid.py` with the environment
of an installation: `python backfill.py GRID`.
"""

import logging
import sys
import time

from dagster import AssetKey, DagsterInstance
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.instance.ref import InstanceRef
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.backfill import execute_backfill_iteration

from ehr_assets.definitions import project
from ehr_assets.settings import PROJECT_ROOT
from jobs.instance import prepare_home
from jobs.runner import run_assets
from jobs.status import Graph

HERE = {
    "run_launcher": {
        "module": "dagster._core.launcher.sync_in_memory_run_launcher",
        "class": "SyncInMemoryRunLauncher",
    },
    "run_coordinator": {
        "module": "dagster._core.run_coordinator.default_run_coordinator",
        "class": "DefaultRunCoordinator",
    },
}
PARTS = ("checkpoint", "node_embeddings", "leak_audit", "probe_metrics")
MOST_ITERATIONS = 100


def backfill(grid: str) -> None:
    prepare_home(project.settings)
    graph = Graph(project.definitions)
    points = [AssetKey([grid, part]) for part in PARTS]
    above = [key for key in graph.upstream(points) if key not in points]
    ref = InstanceRef.from_dir(str(project.settings.dagster_home), overrides=HERE)
    target = ModuleTarget(
        "ehr_assets.definitions", attribute=None, working_directory=str(PROJECT_ROOT), location_name="ehr"
    )
    with (
        DagsterInstance.from_ref(ref) as instance,
        create_test_daemon_workspace_context(target, instance) as context,
    ):
        _, success = run_assets(instance, above, lambda _: None)
        assert success
        asked = PartitionBackfill.from_asset_partitions(
            backfill_id=f"of_{grid}",
            asset_graph=context.create_request_context().asset_graph,
            partition_names=list(project.catalog.grids[grid].recipes),
            asset_selection=points,
            backfill_timestamp=time.time(),
            tags={},
            dynamic_partitions_store=instance,
            all_partitions=False,
            title=None,
            description=None,
            run_config=None,
        )
        instance.add_backfill(asked)
        for _ in range(MOST_ITERATIONS):
            errors = [e for e in execute_backfill_iteration(context, logging.getLogger("backfill")) if e]
            found = instance.get_backfill(asked.backfill_id)
            assert not errors, errors
            assert found
            if found.status is not BulkActionStatus.REQUESTED:
                break
        runs = instance.get_runs()
        made = [run for run in runs if run.tags.get("dagster/backfill") == asked.backfill_id]
        print(found.status.value, len(made), "runs", *(run.status.value for run in made))


if __name__ == "__main__":
    backfill(sys.argv[1])
