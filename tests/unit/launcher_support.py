"""Launching ranks inside a Dagster run, and looking for what is left of them."""

import time
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

from resources.launcher import DeepSpeedLauncher


def in_a_run(body, **settings) -> tuple[Any, list[str]]:
    """What `body(context, launcher)` returned inside an asset of a Dagster run, and the run's log lines."""
    got = []

    @dg.asset
    def trained(context: dg.AssetExecutionContext, launcher: DeepSpeedLauncher) -> dg.MaterializeResult:
        got.append(body(context, launcher))
        return dg.MaterializeResult()

    with dg.DagsterInstance.ephemeral() as instance:
        launcher = DeepSpeedLauncher(**{"cores": 2, "grace_seconds": 1.0, **settings})
        run = dg.materialize([trained], instance=instance, resources={"launcher": launcher})
        return got[0], [entry.user_message for entry in instance.all_logs(run.run_id)]


def files(job: dict) -> dict[str, bytes]:
    out = Path(job["out_dir"])
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def still_there(pids: Path) -> set[int]:
    """Which of the processes that noted their ids in the folder are alive."""
    noted = {int(pid) for file in pids.iterdir() if not file.suffix for pid in file.read_text().split()}
    return {pid for pid in noted if _lives(pid)}


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it may end while it is looked at
        return False


def wait_until(condition, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)
