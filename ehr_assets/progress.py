"""How long work tells its watcher how far it is. Pure stages call it; the skins decide what to show."""

from typing import Protocol


class Progress(Protocol):
    def __call__(self, phase: str, done: int, total: int) -> None: ...


def no_progress(phase: str, done: int, total: int) -> None:
    """The silent watcher."""
