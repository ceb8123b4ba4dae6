"""How long work tells its watcher how far it is. Pure stages call it; the skins decide what to show."""

from typing import Any, Protocol


class Progress(Protocol):
    def __call__(self, phase: str, done: int, total: int) -> None: ...


def no_progress(phase: str, done: int, total: int) -> None:
    """The silent watcher."""


class LogProgress:
    """Progress as log lines, at most one per tenth of each phase."""

    def __init__(self, log: Any) -> None:
        self.log = log
        self.shown: dict[str, int] = {}

    def __call__(self, phase: str, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if tenth > self.shown.get(phase, 0):
            self.shown[phase] = tenth
            self.log.info(f"{phase}: {done} of {total}")
