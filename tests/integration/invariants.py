"""What must hold of a storage root and its Dagster instance after a fault, once somebody has tidied."""

import os
from collections.abc import Collection
from pathlib import Path

from dagster import AssetKey, DagsterInstance

from ehr_assets.lineage import files
from ehr_assets.lineage.datasets import DatasetStore
from ehr_assets.lineage.manifest import MANIFEST_NAME, Manifest
from jobs.abandoned import is_gone
from resources.recorded import recorded


def broken_promises(home: Path, instance: DagsterInstance, keys: Collection[AssetKey]) -> list[str]:
    """What does not hold of these:

    - every directory among the datasets is committed, and its files are what its manifest says;
    - Dagster's newest record of each of `keys`, if it has any, is of such a dataset;
    - no run without a process is open, and no run that ended holds a slot of a pool;
    - nothing is in staging but what a living process writes;
    - no process works in this storage root for a run that ended.
    """
    files._verified.clear()  # every byte is to be read
    store, problems = DatasetStore(home), []
    committed = {path.parent for path in (home / "datasets").rglob(MANIFEST_NAME)}
    for path in committed:
        asset = Manifest.read(path / MANIFEST_NAME).asset
        if problem := store.problem(asset, path.relative_to(home).as_posix(), None, thorough=True):
            problems.append(f"{path.relative_to(home)}: {problem}")
    for path in (p for p in (home / "datasets").rglob("*") if p.is_file()):
        if not any(parent in committed for parent in path.parents):
            problems.append(f"{path.relative_to(home)}: of no committed dataset")
    for key in keys:
        newest = recorded(instance, "/".join(key.path))
        if newest and home / newest.dataset not in committed:
            problems.append(f"{newest.asset}: Dagster's newest dataset is not there")
    runs = {run.run_id: run for run in instance.get_runs()}
    for run in runs.values():
        if not run.is_finished and is_gone(instance, run):
            problems.append(f"run {run.run_id} is open and has no process")
    for run_id in instance.event_log_storage.get_concurrency_run_ids():
        if run_id not in runs or runs[run_id].is_finished:
            problems.append(f"a pool's slot is held by run {run_id}, which ended")
    if all(run.is_finished for run in runs.values()):
        problems += [f"{path.relative_to(home)}: left behind" for path in (home / "staging").glob("*")]
        problems += [f"process {pid} still works there: {line}" for pid, line in workers_of(home).items()]
    return problems


def workers_of(home: Path) -> dict[int, str]:
    """Process id → command of spawned processes (runs, steps, crews, ranks) whose EHR_HOME this is."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        ours = f"EHR_HOME={home}".encode() in environment and int(folder.name) != os.getpid()
        if ours and ("spawn_main" in command or "rank" in command):
            found[int(folder.name)] = command.strip()
    return found
