"""Spreading work over processes, within the cores and the memory that this machine grants.

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
_THREADS = ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "RAYON_NUM_THREADS")


@dataclass(frozen=True)
class Machine:
    """What one asset may use: `EHR_WORKERS` processes (default: all cores), `EHR_MEMORY_GB` (default 4)."""

    workers: int = 1
    memory_bytes: int = 4 * GB

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> "Machine":
        """SpecError where a variable is no positive number."""
        cores = len(os.sched_getaffinity(0))
        return cls(
            int(_positive(env, "EHR_WORKERS", cores, whole=True)),
            int(_positive(env, "EHR_MEMORY_GB", 4) * GB),
        )

    def workers_of(self, memory_each: int) -> int:
        """How many workers that need `memory_each` bytes fit into the budget; at least one."""
        return max(1, min(self.workers, (self.memory_bytes - PARENT_BYTES) // memory_each))


ONE_WORKER = Machine()


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
    for name in _THREADS:
        os.environ[name] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with, args=(pickle.loads(setup),), daemon=True).start()


def _end_with(parent: int) -> None:
    """A worker whose parent was killed would wait for work for ever."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
