"""Spreading work over processes: of this machine, or of a Ray cluster (`fanout_ray.py`).

A stage says what its tasks need and hands them out; where they run is settled here alone (`Machine.crew`).
Light imports only: a worker's thread limits must be set before polars or torch are first imported.
"""

import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TypeVar

from ehr_assets.errors import DatasetError, SpecError

T = TypeVar("T")
R = TypeVar("R")

GB = 1 << 30
PARENT_BYTES = GB  # what the process that hands out the work needs for itself
ONE_THREAD = {
    **dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "RAYON_NUM_THREADS"), "1"),
    "TOKENIZERS_PARALLELISM": "false",
}
"""The environment of a worker: there are as many of them as cores."""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster: `EHR_RAY_ADDRESS`, and `EHR_RAY_TASKS` at once for one asset (0: one per CPU of it)."""

    address: str
    tasks: int = 0


@dataclass(frozen=True)
class Machine:
    """What one asset may use: `EHR_WORKERS` processes (default: all cores), `EHR_MEMORY_GB` (default 4).

    cluster: where its shards are worked off instead, if anywhere.
    """

    workers: int = 1
    memory_bytes: int = 4 * GB
    cluster: Cluster | None = None

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> "Machine":
        """SpecError where a variable is no positive number."""
        cores = len(os.sched_getaffinity(0))
        return cls(
            int(_positive(env, "EHR_WORKERS", cores, whole=True)),
            int(_positive(env, "EHR_MEMORY_GB", 4) * GB),
            _cluster(env),
        )

    def crew(self, memory_each: int, most: int | None = None, *, gpus: bool = False) -> "Crew":
        """Workers for tasks of `memory_each` bytes, at most so many; with one, the work is done here.

        gpus: on a cluster that has any, a task gets one.
        """
        if self.cluster and most != 1:
            from ehr_assets.fanout_ray import RayCrew

            return RayCrew(self.cluster, memory_each, most, gpus=gpus)
        workers = self.workers_of(memory_each)
        return Crew(workers if most is None else max(1, min(workers, most)))

    def workers_of(self, memory_each: int) -> int:
        """How many workers that need `memory_each` bytes fit into the budget; at least one."""
        return max(1, min(self.workers, (self.memory_bytes - PARENT_BYTES) // memory_each))


ONE_WORKER = Machine()


def _cluster(env: Mapping[str, str]) -> Cluster | None:
    address = env.get("EHR_RAY_ADDRESS", "")
    tasks = int(_positive(env, "EHR_RAY_TASKS", 1, whole=True)) if env.get("EHR_RAY_TASKS") else 0
    return Cluster(address, tasks) if address else None


def _positive(env: Mapping[str, str], name: str, default: float, *, whole: bool = False) -> float:
    text = env.get(name, "")
    try:
        value = float(text) if text else float(default)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6 or (whole and value != int(value)):
        raise SpecError(
            f"{name} must be a positive {'whole ' if whole else ''}number.",
            where=f"environment variable {name}",
            do=f"Set it to e.g. {default:g}, or leave it out.",
        )
    return value


class Crew:
    """Worker processes for one asset's work; as a context manager, none outlives it.

    Args:
        workers: processes; with 1, the work is done in this process.

    Functions and their arguments must be picklable. A worker's polars and tokenizers get one thread each.

    On a cluster a task may be begun again elsewhere, when its worker is lost: whatever it leaves behind, in
    files too, must then be the same as if it had been done once (files written anew, not added to; nothing
    deleted that it needs).
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None
        if workers > 1:
            setup = pickle.dumps(os.getpid())
            # Not fork: polars' threads would not survive it.
            self._pool = ProcessPoolExecutor(
                workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(setup,)
            )

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def here(self) -> bool:
        """Whether the work is done in this process."""
        return self._pool is None

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """The results in the order of the tasks, which are drawn only as fast as they are worked off.

        Raises:
            DatasetError: a worker died (it ran out of memory, as a rule).
        """
        if self._pool is None:
            yield from map(function, tasks)
            return
        waiting: deque[Future[R]] = deque()
        try:
            for task in tasks:
                waiting.append(self._pool.submit(function, task))
                # One task in hand for each, and one more: nobody waits, and little is held in memory.
                while len(waiting) > self.workers + 1 or (waiting and waiting[0].done()):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise DatasetError(
                "A worker process was killed, most likely because memory ran out.",
                do="Lower EHR_WORKERS, or raise EHR_MEMORY_GB where the machine has more; then run it again.",
            ) from None
        finally:
            for future in waiting:
                future.cancel()


def _begin(setup: bytes) -> None:
    """The first thing in a worker, before the modules of its work are imported."""
    os.environ.update(ONE_THREAD)
    threading.Thread(target=_end_with, args=(pickle.loads(setup),), daemon=True).start()


def _end_with(parent: int) -> None:
    """A worker whose parent was killed would wait for work for ever."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
