"""Runs whose process is gone: they stay open in Dagster, with the pool slots they held.

`ehr` marks its runs with the process they live in. Runs from the UI or a schedule live in processes of a code
server, which can be asked while it is there. Where a daemon runs, run monitoring asks (`local_launcher.py`);
else whoever comes next. No clock decides, and no process id alone, since ids are given out again.
"""

import json
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.storage.tags import GRPC_INFO_TAG, MAX_RETRIES_TAG

from ehr_assets.lineage.staging import sweep_staging
from ehr_assets.settings import Settings
from resources.tracking import MlflowTracking

PROCESS_TAG = "ehr/process"
OPEN = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
GONE = "The process of this run is gone: it was killed."
HERE = ("localhost", "127.0.0.1")
_STARTED = re.compile(r"^Started process for run \(pid: (\d+)\)")


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
        if not is_gone(instance, run):
            continue
        instance.report_run_failed(run, GONE)
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        if _may_track(settings.mlflow_uri):
            MlflowTracking(uri=settings.mlflow_uri).close_abandoned(run.run_id)
        closed.append(run.run_id)
    _free_slots_of_ended_runs(instance)
    sweep_staging(settings.home)
    return closed


def is_gone(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Whether an open run has no process any more. False where that cannot be known from here."""
    if not _has_no_process(instance, run):
        return False
    now = instance.get_run_by_id(run.run_id)  # it may have finished while we looked
    return now is not None and not now.is_finished


def _free_slots_of_ended_runs(instance: DagsterInstance) -> None:
    """Run monitoring does, after a while by the clock: if that was set back, when it has caught up."""
    for run_id in instance.event_log_storage.get_concurrency_run_ids():
        run = instance.get_run_by_id(run_id)
        if run is None or (run.is_finished and _has_no_process(instance, run)):
            instance.event_log_storage.free_concurrency_slots_for_run(run_id)


def _has_no_process(instance: DagsterInstance, run: DagsterRun) -> bool:
    if tag := run.tags.get(PROCESS_TAG):
        return _is_dead(tag)
    if GRPC_INFO_TAG not in run.tags:
        return False
    pid = _pid(instance, run)
    if pid is None:
        return False  # about to start; if it never does, run monitoring's start timeout closes it
    server = json.loads(run.tags[GRPC_INFO_TAG])
    known = _known(server, run.run_id)
    if known or server.get("host") not in HERE:
        return known is False
    return not _goes_on(pid, server)


def _is_dead(tag: str) -> bool:
    """Whether such a tag (`process_tags`) is of a process of this machine that is gone."""
    host, _, process = tag.partition(" ")
    pid, _, since = process.partition(" ")
    return host == socket.gethostname() and pid.isdecimal() and str(_started(int(pid))) != since


def _started(pid: int) -> str | None:
    """What tells a process from a later one with the same id; None when there is none."""
    try:
        # The fields behind the name in brackets, which may hold anything; starttime is the 22nd of all.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return fields[19] if fields[0] != "Z" else None
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return "running"


def _known(server: Mapping[str, Any], run_id: str) -> bool | None:
    """Whether the code server that started a run has it in hand; None where there is no such server."""
    from dagster._core.errors import DagsterUserCodeUnreachableError, DagsterUserCodeUnreachableTimeoutError
    from dagster._grpc.client import DagsterGrpcClient
    from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
    from dagster._serdes import deserialize_value

    client = DagsterGrpcClient(
        host=server.get("host") or "localhost",
        port=server.get("port"),
        socket=server.get("socket"),
        use_ssl=bool(server.get("use_ssl", False)),
    )
    try:
        said = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run_id))
    except DagsterUserCodeUnreachableTimeoutError:
        return True  # busy, not gone
    except DagsterUserCodeUnreachableError:
        return None
    return deserialize_value(said, CanCancelExecutionResult).can_cancel


def _pid(instance: DagsterInstance, run: DagsterRun) -> int | None:
    """The run's process, as its log names it; None where it was not started yet."""
    events = instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT)
    found = (_STARTED.match(event.dagster_event.message or "") for event in events if event.dagster_event)
    return next((int(match[1]) for match in found if match), None)


def _goes_on(pid: int, server: Mapping[str, Any]) -> bool:
    """Whether this is still the run's process: a spawned one, of that server or of none any more."""
    if "multiprocessing" not in _command(pid):
        return False
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except OSError:
        return False
    command = _command(parent)
    return "grpc" not in command or str(server.get("socket") or server.get("port")) in command


def _command(pid: int) -> str:
    """The command line of a process; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        # Where there is no /proc, nobody can say whose process it is: one that lives is taken for the run's.
        return "" if Path("/proc/self").exists() or _started(pid) is None else "multiprocessing"


def _may_track(uri: str) -> bool:
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists()
