"""What a training leaves of its course: `history.jsonl` (facts) and `timing.jsonl` (clock readings).

Lines of the history are those of `training/loop.py`: of a step `step, phase, loss, losses, grad_norm, lr,
tokens`; of a tuning pass `step, phase, tuning_loss, losses` and, with a target encoder, `target`. Equal
trainings leave equal histories; what a clock or this machine says is in the other file. Nothing heavy is
imported here: checks, plots and reports read these files too.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HISTORY, TIMING = "history.jsonl", "timing.jsonl"
VOLATILE = (TIMING, "model_card.md", "resume/*")
"""Clock readings, what depends on the machine, and words about the other files: left out of a checkpoint's
content hash, so that a better word on the card makes no other checkpoint."""

Row = dict[str, Any]
Point = tuple[int, float]


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Appends JSON lines."""
    with file.open("a", encoding="utf-8") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)


def read_rows(file: Path) -> list[Row]:
    """The lines of such a file; none where there is no file."""
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def read_history(checkpoint_dir: Path) -> list[Row]:
    """The history of a checkpoint folder."""
    return read_rows(checkpoint_dir / HISTORY)


def steps(rows: Iterable[Row]) -> list[Row]:
    """The lines of optimizer steps."""
    return [row for row in rows if "loss" in row]


def tunings(rows: Iterable[Row]) -> list[Row]:
    """The lines of tuning passes."""
    return [row for row in rows if "tuning_loss" in row]


def points(rows: Iterable[Row], *keys: str) -> list[Point]:
    """(step, value) of the lines that have a value at these nested keys."""
    found = [(row.get("step"), _at(row, keys)) for row in rows]
    return [(step, value) for step, value in found if step is not None and value is not None]


def objectives(rows: Iterable[Row]) -> list[str]:
    """The objectives that occur, in the order of their first line."""
    return list(dict.fromkeys(name for row in rows for name in row.get("losses", ())))


def phases(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """Each phase and its first step."""
    found: dict[str, int] = {}
    for row in rows:
        found.setdefault(row["phase"], row["step"])
    return list(found.items())


def _at(row: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        row = row.get(key) if isinstance(row, dict) else None
    return row
