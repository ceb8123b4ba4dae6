"""Runs whose process is gone: a killed `ehr` leaves its run open, with the pool slots it held.

Dagster's run monitoring cannot see it, since such a run has no worker that could be asked. So `ehr` marks its
runs with the process they live in, and whoever comes next closes those whose process no longer exists.
"""

import os
import shutil
import socket
from pathlib import Path

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.storage.tags import MAX_RETRIES_TAG

from ehr_assets.settings import Settings
from resources.tracking import MlflowTracking

PROCESS_TAG = "ehr/process"
OPEN = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]


def process_tags() -> dict[str, str]:
    """Tags that say in which process a run lives, and that no daemon starts it again elsewhere."""
    return {
        PROCESS_TAG: f"{socket.gethostname()} {os.getpid()} {_started(os.getpid())}",
        MAX_RETRIES_TAG: "0",
    }


def close_dead_runs(instance: DagsterInstance, settings: Settings) -> list[str]:
    """Closes this machine's runs whose process is gone, frees their pool slots, and tidies what they left.

    Not their work folders (`lineage/workspace.py`): those are for the runs that come after them.

    Returns:
        The ids of the runs that were closed.
    """
    closed = []
    for run in instance.get_runs(RunsFilter(statuses=OPEN)):
        if not _is_dead(run.tags.get(PROCESS_TAG)):
            continue
        instance.report_run_failed(run, "The process of this run is gone: it was killed.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        if _may_track(settings.mlflow_uri):
            MlflowTracking(uri=settings.mlflow_uri).close_abandoned(run.run_id)
        closed.append(run.run_id)
    for folder in (settings.home / "staging").glob("*-*-*"):
        host, pid, _ = folder.name.rsplit("-", 2)  # a host's name may begin like another's
        if host == socket.gethostname() and pid.isdecimal() and _started(int(pid)) is None:
            shutil.rmtree(folder, ignore_errors=True)
    return closed


def _is_dead(tag: str | None) -> bool:
    host, _, process = (tag or "").partition(" ")
    pid, _, started = process.partition(" ")
    return host == socket.gethostname() and pid.isdecimal() and str(_started(int(pid))) != started


def _started(pid: int) -> str | None:
    """What tells a process from a later one with the same id; None when there is none."""
    try:
        # The fields behind the name in brackets, which may hold anything; starttime is the 22nd of all.
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return "running"


def _may_track(uri: str) -> bool:
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists()
