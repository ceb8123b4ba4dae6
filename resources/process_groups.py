"""Commands in process groups of their own, none of which outlives the block that started them."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO

TAIL_LINES = 30


class Groups:
    """Running commands, each the leader of a process group.

    Args:
        tell: is given their standard error line by line; by default it goes to this process's.

    Attributes:
        tail: the last lines of their standard error.
    """

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        env: Mapping[str, str],
        tell: Callable[[str], object] = sys.stderr.write,
    ) -> None:
        self._tell = tell
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._running: list[subprocess.Popen[bytes]] = []
        self._copiers: list[threading.Thread] = []
        self._commands, self._env = commands, dict(env)

    def start(self) -> None:
        for command in self._commands:
            process = subprocess.Popen(
                command, env=self._env, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
            )
            self._running.append(process)
            copier = threading.Thread(
                target=_copy_stderr, args=(process.stderr, self.tail, self._tell), daemon=True
            )
            copier.start()
            self._copiers.append(copier)

    def code(self) -> int | None:
        """0 if all have ended well, or an exit code that is not 0, if one of them ended so."""
        codes = [process.poll() for process in self._running]
        bad = [code for code in codes if code]
        return bad[0] if bad else None if None in codes else 0

    def wait(self) -> int:
        """0 once all have ended well, or the first exit code that is not, at once."""
        while (code := self.code()) is None:
            time.sleep(0.1)
        return code

    def ended(self) -> tuple[int, int] | None:
        """Which of the commands has ended, and its exit code; None while all run."""
        codes = enumerate(process.poll() for process in self._running)
        return next(((i, code) for i, code in codes if code is not None), None)

    def end(self, grace: float) -> None:
        """TERM, a while, KILL. A group lives on while any process of it does, leader or not."""
        for signum, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
            for process in self._running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signum)
            until = time.monotonic() + patience
            while time.monotonic() < until and any(map(_group_lives, self._running)):
                time.sleep(0.05)
        for process, copier in zip(self._running, self._copiers, strict=True):
            process.wait()
            copier.join(timeout=2)
            for stream in (process.stdin, process.stderr):
                with contextlib.suppress(OSError):
                    if stream:
                        stream.close()


@contextlib.contextmanager
def own_groups(commands: Sequence[Sequence[str]], env: Mapping[str, str], grace: float) -> Iterator[Groups]:
    """Starts the commands; however the block ends (done, error, cancelled run), none of their processes is
    left. If this very process is killed, they see their standard input close.

    Args:
        grace: seconds between TERM and KILL.
    """
    groups = Groups(commands, env)
    try:
        groups.start()
        yield groups
    finally:
        groups.end(grace)


def _copy_stderr(stream: IO[bytes], tail: deque[str], tell: Callable[[str], object]) -> None:
    with contextlib.suppress(ValueError, OSError):  # closed under our hands at the end
        for raw in stream:
            line = raw.decode(errors="replace")
            tail.append(line.rstrip())
            tell(line)


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()  # reaps the leader: a zombie would keep the group in existence
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True
