"""Work folders: how far something that takes long has come, kept until it is committed.

<home>/work/<asset key>[/<partition>]/<fingerprint>/   whatever the stage keeps; never read by another stage

Staging folders go when their process goes. A work folder stays, whatever happened, for the next run that
would make the same dataset: its name is the hash of all that decides about the dataset.
"""

import contextlib
import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from ehr_assets.errors import DatasetError
from ehr_assets.lineage.locks import take

LOCK = "lock"
SHARED = "processes"
COMMITTED = "committed"
PATIENCE_SECONDS = 30.0
"""How long the processes of an owner that was killed may take to end."""


class Workspace:
    """One work folder. `open` makes it this process's until `close`.

    Args:
        path: need not exist.
        asset: what is made there.
        say: where notes go.
    """

    def __init__(self, path: Path, asset: str, say: Callable[[str], object]) -> None:
        self.path, self._asset, self._say = path, asset, say
        self._lock: IO[str] | None = None

    def open(self) -> Path:
        """The folder, locked: nobody else's until this process closes it or ends.

        Raises:
            DatasetError: another process has it, or processes that worked in it do not end.
        """
        while self._lock is None:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            with contextlib.suppress(FileNotFoundError):  # removed between the two lines: once more
                self._lock = self._locked(self.path / LOCK)
        self._wait_for_processes()
        (self.path / COMMITTED).unlink(missing_ok=True)
        for other in self.others():
            self._say(f"Left unfinished with other code, inputs or settings, and still there: {other}")
        return self.path

    def close(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None

    def discard(self, dataset: str) -> None:
        """Removes what was kept: it became `dataset`. Nothing where the folder was never opened.

        The dataset's name stays: for the run after one that died before it could report it, and for settings
        that are gone back to.
        """
        if not self._lock:
            return
        note = self.path / COMMITTED
        note.with_suffix(".new").write_text(dataset, encoding="utf-8")
        note.with_suffix(".new").rename(note)
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path != note:
                path.unlink(missing_ok=True)
        self.close()

    def committed(self) -> str | None:
        """The dataset that came of this folder, while nothing newer was begun in it."""
        note = self.path / COMMITTED
        return note.read_text(encoding="utf-8") if note.is_file() else None

    def others(self) -> list[Path]:
        """Work folders of the same asset that other code, inputs or settings left unfinished."""
        found = self.path.parent.iterdir() if self.path.parent.is_dir() else ()
        return sorted(p for p in found if p.is_dir() and p != self.path and (p / LOCK).exists())

    def _locked(self, file: Path) -> IO[str]:
        try:
            return take(file)
        except BlockingIOError:
            raise DatasetError(
                "Another run is making the same dataset right now.",
                where=f"{self._asset}: {self.path}",
                do="Wait for it, or cancel it; then run again: what it has reached is kept.",
            ) from None

    def _wait_for_processes(self) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        with (self.path / SHARED).open("a", encoding="utf-8") as handle:
            while True:
                try:
                    return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise DatasetError(
                            "Processes of an earlier run still work on the same dataset.",
                            where=f"{self._asset}: {self.path}",
                            do="End them, then run again: what they have reached is kept.",
                        ) from None
                    time.sleep(0.2)


@contextlib.contextmanager
def sharing(folder: Path) -> Iterator[None]:
    """Marks this process as one that works in a work folder for its owner."""
    with (folder / SHARED).open("a", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield


def remove_abandoned(folder: Path) -> bool:
    """Removes a work folder for good, unless a process has it; whether it did."""
    try:
        with (folder / LOCK).open("a", encoding="utf-8") as lock, (folder / SHARED).open("a") as shared:
            for handle in (lock, shared):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except (BlockingIOError, FileNotFoundError):
        return False
    return True
