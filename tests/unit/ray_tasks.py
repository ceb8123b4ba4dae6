"""Tasks for the tests of the cluster: what they leave in files tells where and how often they ran."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from ehr_assets.errors import DatasetError


def where(seconds: float) -> tuple[float, str, int, str]:
    import ray

    time.sleep(seconds)
    node = ray.get_runtime_context().get_node_id()
    return seconds, node, os.getpid(), os.environ.get("POLARS_MAX_THREADS", "")


def fail(task: int) -> int:
    if task == 2:
        raise DatasetError("task two is bad", where="here", do="nothing")
    if task == 12:
        raise ValueError("nobody expected this")
    return task


@dataclass(frozen=True)
class Dies:
    """A task whose worker is killed the first so many times."""

    number: int
    folder: Path
    times: int = 0


def die(task: Dies) -> int:
    begun = len(list(task.folder.glob(f"{task.number}-*")))
    (task.folder / f"{task.number}-{os.getpid()}-{time.monotonic_ns()}").touch()
    if begun < task.times:
        os.kill(os.getpid(), signal.SIGKILL)
    return task.number


def wait_for_the_gate(task: Dies) -> int:
    """Says on which node it waits; the test opens the gate."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    (task.folder / f"{task.number}-{node}").write_text(str(os.getpid()))
    until = time.monotonic() + 120
    while not (task.folder / "gate").exists() and time.monotonic() < until:
        time.sleep(0.05)
    return task.number
