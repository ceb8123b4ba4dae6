"""A run in a process of its own, in the instance of DAGSTER_HOME: `faults_run.py ASSETS [without-locks]`.

As `ehr` makes one. Without locks: as on another machine that has a local cache of the same store.
"""

import contextlib
import sys

import faults_location
from dagster import AssetKey, AssetSelection, DagsterInstance, materialize

from ehr_assets.lineage.datasets import DatasetStore
from jobs.abandoned import process_tags
from jobs.runner import QUIET


def run(instance: DagsterInstance, datasets, *names: str):
    """Materializes these assets of the fault tests' location with their checks."""
    return materialize(
        [*faults_location.ASSETS, *faults_location.CHECKS],
        selection=AssetSelection.assets(*(AssetKey([faults_location.GROUP, name]) for name in names)),
        resources={"datasets": datasets},
        instance=instance,
        run_config=QUIET,
        tags=process_tags(),
        raise_on_error=False,
    )


if __name__ == "__main__":
    if sys.argv[2:] == ["without-locks"]:
        DatasetStore.making = lambda self, asset, run_id: contextlib.nullcontext()
    with DagsterInstance.get() as ours:
        sys.exit(not run(ours, faults_location.defs.resources["datasets"], *sys.argv[1].split(",")).success)
