"""File locks: what one process has to itself until it lets go or ends, in whatever way it ends.

The kernel keeps them, so that none outlives its owner, and neither a clock nor a process id that was given
out again can mislead. On a network file system they hold between its hosts; homes on an object store have a
local cache each, and no lock in common.
"""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ehr_assets.errors import DatasetError


def take(file: Path) -> IO[str]:
    """The file, made where it is missing and locked until it is closed.

    Raises:
        BlockingIOError: it is locked already.
    """
    while True:
        handle = file.open("a+", encoding="utf-8")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle.fileno()).st_ino == file.stat().st_ino:
                return handle
        except FileNotFoundError:
            pass  # removed by the one who had it before: once more
        except BaseException:
            handle.close()
            raise
        handle.close()


@contextlib.contextmanager
def making(file: Path, asset: str, run_id: str) -> Iterator[None]:
    """Around the making of a new version of an asset: one process at a time.

    Args:
        file: the asset's lock; says who has it.

    Raises:
        DatasetError: another one is at it, and which.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        lock = take(file)
    except BlockingIOError:
        raise DatasetError(
            "Another run is making the same dataset right now.",
            where=f"{asset}: {file.read_text(encoding='utf-8') or 'it has just begun'}",
            do="Wait for it, or cancel it; then run again: what is unchanged by then is kept.",
        ) from None
    with lock:
        lock.truncate(0)
        lock.write(f"run {run_id} in process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield
