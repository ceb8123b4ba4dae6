"""A `Crew` whose workers are those of a Ray cluster. Ray is imported when one is made.

The tasks' paths must lead to the same files on all nodes, and the nodes have this checkout and its
environment at the same place (docs/operations/scale_out.md).
"""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from ehr_assets.errors import DatasetError, EhrError, SpecError
from ehr_assets.fanout import ONE_THREAD, Cluster, Crew
from ehr_assets.private import keep_private

T = TypeVar("T")
R = TypeVar("R")

RETRIES = 3
"""How often a task is begun again when its worker or its node is lost. An error of its own is not retried."""


class RayCrew(Crew):
    """The workers of a cluster, for one asset's work.

    Args:
        memory_each: bytes that a task asks of its node, beside one CPU.
        most: tasks at once, at most; by default as the cluster's settings say.
        gpus: a task gets one, if the cluster has any.

    Raises:
        SpecError: there is no such cluster.
    """

    def __init__(
        self, cluster: Cluster, memory_each: int, most: int | None = None, *, gpus: bool = False
    ) -> None:
        connect(cluster.address)
        import ray

        # Of a cluster that grows with its load, what it has now says little: EHR_RAY_TASKS does.
        tasks = cluster.tasks or int(ray.cluster_resources().get("CPU", 1))
        super().__init__(1)
        self.workers = max(1, min(tasks, most or tasks))
        # Asking for more than any node has would be waiting for ever; here as on one machine, one at a time.
        largest = max(node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"])
        self._options: dict[str, Any] = {
            "num_cpus": 1,
            "memory": min(memory_each, int(largest)),
            "max_retries": RETRIES,
            "retry_exceptions": False,
            "scheduling_strategy": "SPREAD",
            "runtime_env": {"env_vars": ONE_THREAD},
        }
        if gpus and (there := int(ray.cluster_resources().get("GPU", 0))):
            self._options["num_gpus"] = 1
            self.workers = min(self.workers, there)

    @property
    def here(self) -> bool:
        return False

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """As `Crew.map`; a task whose worker is lost is begun again on another.

        Raises:
            DatasetError: its worker was lost each time.
        """
        import ray

        remote = ray.remote(**self._options)(_called)
        waiting: deque[Any] = deque()
        try:
            for task in tasks:
                waiting.append(remote.remote(function, task))
                while len(waiting) > self.workers + 1 or (waiting and _done(waiting[0])):
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())
        finally:
            for reference in waiting:
                # Not by force: a worker that is killed would be begun again.
                with contextlib.suppress(Exception):
                    ray.cancel(reference, force=False)


def connect(address: str) -> None:
    """Connects this process to the cluster, once.

    Raises:
        SpecError: there is none at this address.
    """
    # Tasks that it ended for want of memory Ray counts apart, and begins again for ever unless it is told so
    # before it is first imported.
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))
    import ray

    if ray.is_initialized():
        return
    with _own_signals():
        try:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as e:
            raise SpecError(
                f"There is no Ray cluster to be reached ({type(e).__name__}).",
                where="environment variable EHR_RAY_ADDRESS",
                do="Give the address that `ray start --head` printed, and run this on one of its nodes.",
            ) from None


def _knock(address: str) -> None:
    """Ray itself would try for minutes. OSError: nobody listens there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=20).close()


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray makes SIGTERM an exit; Dagster cancels a run by it, and must hear of it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _called(function: Callable[[T], R], task: T) -> tuple[R | None, EhrError | None]:
    """In a worker. An error for people comes back as it is; any other goes the way of Ray's."""
    keep_private()
    try:
        return function(task), None
    except EhrError as e:
        return None, e


def _done(reference: Any) -> bool:
    import ray

    return bool(ray.wait([reference], timeout=0, fetch_local=False)[0])


def _result(reference: Any) -> Any:
    import ray
    from ray.exceptions import (
        NodeDiedError,
        ObjectLostError,
        OutOfMemoryError,
        RayTaskError,
        WorkerCrashedError,
    )

    try:
        # In slices: a signal must find Python awake.
        while not ray.wait([reference], timeout=1)[0]:
            pass
        result, error = ray.get(reference)
    except RayTaskError as e:
        raise e.cause if isinstance(e.cause, Exception) else e from None
    except (NodeDiedError, WorkerCrashedError, OutOfMemoryError, ObjectLostError) as e:
        raise DatasetError(
            f"A task's worker on the cluster was lost {RETRIES + 1} times ({type(e).__name__}), most likely "
            "because memory ran out.",
            do="Look at the nodes' memory, lower EHR_RAY_TASKS or give the nodes more; then run it again.",
        ) from None
    if error is not None:
        raise error
    return result
