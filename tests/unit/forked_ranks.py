"""Real training processes, forked from one that has imported everything: they start in a fraction of a
second, can be killed at a moment of the test's choice, and can be given faults."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Fault = Callable[[int], None]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["ehr_assets.training.process"])


class Ranks:
    """A training on `world` processes of one thread each.

    Args:
        job: see `training_helpers.make_job`.
        fault: called in every process, with its rank, before the training begins.
    """

    def __init__(self, job: Mapping[str, Any], world: int = 1, fault: Fault | None = None) -> None:
        self.folder = Path(job["out_dir"]).parent
        self.file = self.folder / "job.json"
        self.file.write_text(json.dumps(job))
        self.error_file = self.file.with_suffix(".error.json")
        self.error_file.unlink(missing_ok=True)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.processes = [
            CONTEXT.Process(target=_main, args=(str(self.file), rank, world, port, fault))
            for rank in range(world)
        ]
        for process in self.processes:
            process.start()

    def wait(self, seconds: float = 120) -> list[int | None]:
        """Exit codes, by rank. When one failed, the others are given time to notice."""
        until = time.monotonic() + seconds
        while any(p.is_alive() for p in self.processes) and time.monotonic() < until:
            if any(p.exitcode for p in self.processes):
                until = min(until, time.monotonic() + 10)
            time.sleep(0.02)
        failed = any(p.exitcode for p in self.processes)
        stuck = any(p.is_alive() for p in self.processes)
        self.kill()
        assert failed or not stuck, "a process did not end"
        return [p.exitcode for p in self.processes]

    def kill(self) -> None:
        for process in self.processes:
            if process.is_alive():
                process.kill()
            process.join()

    @property
    def error(self) -> dict[str, Any]:
        return json.loads(self.error_file.read_text())


def forked(job: Mapping[str, Any], world: int = 1, fault: Fault | None = None) -> list[int | None]:
    """Runs a training with a fresh `out_dir`; exit codes by rank."""
    empty(job)
    return Ranks(job, world, fault).wait()


def empty(job: Mapping[str, Any]) -> None:
    """As a staging folder is when a run begins."""
    shutil.rmtree(job["out_dir"], ignore_errors=True)
    Path(job["out_dir"]).mkdir(parents=True)


def files_of(job: Mapping[str, Any]) -> dict[str, bytes]:
    """The checkpoint folder, without clock readings."""
    out = Path(job["out_dir"])
    found = {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}
    return {name: data for name, data in found.items() if name != "timing.jsonl"}


def _main(file: str, rank: int, world: int, port: int, fault: Fault | None) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        DS_ACCELERATOR="cpu",
    )
    import torch

    from ehr_assets.training import process

    torch.set_num_threads(1)
    if fault:
        fault(rank)
    code = process.main(file)
    os._exit(code)


class KillAtWrite:
    """Rank 0 kills itself at its `n`-th write point: before each file, sync, rename, removal of a state."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self, rank: int) -> None:
        if rank:
            return
        from ehr_assets.training import kept, state

        def watched(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                self._point()
                return function(*args, **kwargs)

            return call

        for module, name in ((kept, "begin"), (kept, "sync"), (kept, "prune"), (state, "save_file")):
            setattr(module, name, watched(getattr(module, name)))
        Path.rename = watched(Path.rename)  # type: ignore[method-assign]
        shutil.rmtree = watched(shutil.rmtree)  # type: ignore[assignment]

    def _point(self) -> None:
        self.n -= 1
        if self.n == 0:
            os.kill(os.getpid(), signal.SIGKILL)
