"""How messages of a launched process come into the run: a file that grows, read line by line.

Dagster's own reader takes what stands in the file for a line even while the line is being written, which on a
busy machine ends the reading, and with it the report of a training, once in many messages.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from dagster import PipesMessageHandler, PipesMessageReader
from dagster_pipes import PipesDefaultMessageWriter, PipesParams

POLL_SECONDS = 0.1


def whole_lines(path: Path, done: Callable[[], bool], poll_seconds: float = POLL_SECONDS) -> Iterator[bytes]:
    """The lines of a file that is being written, each when its end is there.

    Once `done`, what is there is read to its end. A last line without an end is of a process that was killed
    in the middle of it, and is not given.
    """
    with path.open("rb") as file:
        begun = b""
        while True:
            last = done()
            *lines, begun = (begun + file.read()).split(b"\n")
            yield from lines
            if last:
                return
            time.sleep(poll_seconds)


class WholeMessagesReader(PipesMessageReader):
    """As Dagster's `PipesFileMessageReader`, but a message is read when all of it is there.

    Args:
        path: of the file; it is made here, and its folder is the caller's to remove.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def read_messages(self, handler: PipesMessageHandler) -> Iterator[PipesParams]:
        """Passes messages on to `handler` in a thread, until the block ends."""
        self._path.touch()
        closed = Event()
        thread = Thread(target=self._pass_on, args=(handler, closed), daemon=True)
        thread.start()
        try:
            yield {PipesDefaultMessageWriter.FILE_PATH_KEY: str(self._path)}
        finally:
            closed.set()
            thread.join()

    def _pass_on(self, handler: PipesMessageHandler, closed: Event) -> None:
        try:
            for line in whole_lines(self._path, closed.is_set):
                handler.handle_message(json.loads(line))
        except Exception:
            handler.report_pipes_framework_exception(type(self).__name__, sys.exc_info())
            raise

    def no_messages_debug_text(self) -> str:
        return f"Attempted to read messages from the file {self._path}."
