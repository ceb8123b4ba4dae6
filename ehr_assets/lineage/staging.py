"""Directories for what is being written, and the names of what becomes of them.

<home>/staging/<random>/        never read by others; if its process is killed, the next one removes it
<home>/staging/<random>.lock    held by the process that writes there
"""

import contextlib
import errno
import os
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from ehr_assets.errors import DatasetError
from ehr_assets.lineage.locks import take
from ehr_assets.lineage.manifest import Manifest

LOCK_SUFFIX = ".lock"
STAMP = "%Y%m%dT%H%M%S%fZ"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def staging_directory(home: Path) -> Iterator[Path]:
    """A fresh empty directory, removed on leaving unless it was moved away.

    Raises:
        DatasetError: the disk is full.
    """
    # The host and process are for people; who is alive is known by the lock.
    path = home / "staging" / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"
    lock = _lock_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        sweep_staging(home)
        with _taken(lock):
            path.mkdir(mode=0o700)
            yield path
    except OSError as e:
        if e.errno in NO_ROOM:
            raise DatasetError(
                "The disk is full; nothing of this dataset was kept.",
                where=str(home),
                do="Free some space (or point EHR_HOME at another disk) and run again.",
            ) from e
        raise
    finally:
        shutil.rmtree(path, ignore_errors=True)
        lock.unlink(missing_ok=True)


def sweep_staging(home: Path) -> None:
    """Removes staging directories that nobody writes any more: their processes were killed."""
    found = (home / "staging").glob("*")
    for path in {p.with_name(p.name.removesuffix(LOCK_SUFFIX)) for p in found}:
        with contextlib.suppress(BlockingIOError), take(_lock_of(path)):
            shutil.rmtree(path, ignore_errors=True)
            _lock_of(path).unlink(missing_ok=True)


def next_name(names: Iterable[str], manifest: Manifest) -> str:
    """``<UTC stamp>-<hash>``: the name of a version, after those of all that are there.

    The stamp is the time of commit; where the clock was set back since the newest version (or another host's
    is ahead), it is that version's, a moment later.
    """
    stamps = [stamp + timedelta(microseconds=1) for name in names if (stamp := _stamp(name))]
    return f"{max([manifest.committed_at, *stamps]):{STAMP}}-{manifest.data_version[:12]}"


def _taken(lock: Path) -> IO[str]:
    while True:
        with contextlib.suppress(BlockingIOError):  # another one's sweep looks whether anybody has it
            return take(lock)


def _lock_of(path: Path) -> Path:
    return path.with_name(path.name + LOCK_SUFFIX)


def _stamp(name: str) -> datetime | None:
    """The time that the name of a version begins with."""
    try:
        return datetime.strptime(name.partition("-")[0], STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None
