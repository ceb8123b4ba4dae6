"""What a training has kept: folders written aside, made durable, promoted by one rename, verified when read.

A training's work folder:

| name | what |
|---|---|
| `step-00000400/` | the state after step 400: tensors, and `state.json`, which was written last |
| `best-00000400/` | the weights of the best tuning loss, likewise |
| `….part/` | being written, or torn: never read |
| `history.jsonl`, `timing.jsonl` | as in the checkpoint; may have run ahead of the newest state |

No tensors here (`state.py`): the launcher reads it too.
"""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ehr_assets.errors import TrainingError
from ehr_assets.lineage.hashing import file_sha256
from ehr_assets.training.history import HISTORY

STEP, BEST = "step", "best"
STATE = "state.json"
PART = ".part"


def folder_name(kind: str, step: int) -> str:
    return f"{kind}-{step:08}"


def step_of(folder: Path) -> int:
    return int(folder.name.partition("-")[2])


def promoted(work: Path, kind: str) -> list[Path]:
    """Folders of a kind that were written to their end, the newest first."""
    found = (p for p in work.glob(f"{kind}-*") if p.suffix != PART and p.is_dir())
    return sorted(found, key=step_of, reverse=True)


def begin(work: Path, name: str) -> Path:
    """An empty folder to write into, for `promote`."""
    part = work / (name + PART)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def promote(part: Path, facts: Mapping[str, Any]) -> Path:
    """Ends the writing of a folder: `facts` into `state.json`, everything to disk, then its name.

    Args:
        facts: with `files`: name → sha256 of what was written, and synced, into the folder.
    """
    with (part / STATE).open("w", encoding="utf-8") as f:
        f.write(json.dumps(facts, indent=1))
        f.flush()
        os.fsync(f.fileno())
    sync(part)
    final = part.with_name(part.name.removesuffix(PART))
    shutil.rmtree(final, ignore_errors=True)  # of an earlier process, that went on from an older state
    part.rename(final)
    sync(part.parent)
    return final


def sync(path: Path) -> None:
    """Makes a file, or the names in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def facts_of(folder: Path) -> dict[str, Any] | None:
    """What `state.json` says, if the folder's files are what it says they are; else None."""
    try:
        facts = _told(folder)
        intact = all(file_sha256(folder / name) == sha for name, sha in facts["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return facts if intact else None


def _told(folder: Path) -> dict[str, Any]:
    return json.loads((folder / STATE).read_text(encoding="utf-8"))


def newest(work: Path, say: Callable[[str], None], *, best: bool) -> tuple[Path, dict[str, Any]] | None:
    """The newest state that is whole, and its facts. Torn ones are removed, and said to be.

    Args:
        best: whether the best weights that it tells of are needed too.
    """
    for torn in sorted(work.glob(f"*-*{PART}")):
        say(f"{torn.name} was not written to its end; removed.")
        shutil.rmtree(torn)
    for folder in promoted(work, STEP):
        facts = facts_of(folder)
        whole = facts and _size(work / HISTORY) >= facts["history_bytes"]
        if facts and whole and not (best and _lost_best(work, facts)):
            return folder, facts
        say(f"{folder.name} is damaged: its files, or others it tells of, are not as they were; removed.")
        shutil.rmtree(folder)
    return None


def _lost_best(work: Path, facts: Mapping[str, Any]) -> bool:
    """Whether the best weights that a state tells of are not whole."""
    return facts["best"] is not None and facts_of(work / folder_name(BEST, facts["best"][0])) is None


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def prune(work: Path, last: int, best: int | None) -> None:
    """Keeps the last so many states, the best weights that they tell of, and those of step `best`."""
    states = promoted(work, STEP)
    told = {best}
    for state in states[:last]:
        with contextlib.suppress(OSError, ValueError):  # of one that a killed process had begun to remove
            told.add((_told(state)["best"] or [None])[0])
    for old in [*states[last:], *(p for p in promoted(work, BEST) if step_of(p) not in told)]:
        shutil.rmtree(old)


def promise(work: Path) -> str:
    """What a re-run would begin with, for an error's last line."""
    states = promoted(work, STEP)
    if not states:
        return "No state was kept yet: run again, it starts at step 1."
    return f"Run again: it goes on from step {step_of(states[0])}."


def cut_to(file: Path, size: int) -> None:
    """Takes back the lines that were written after the file had `size` bytes."""
    if file.exists() and file.stat().st_size > size:
        os.truncate(file, size)


def end_with_a_line(file: Path) -> None:
    """Takes back a last line that was not written to its end."""
    if file.exists():
        os.truncate(file, file.read_bytes().rfind(b"\n") + 1)


def disk_full(error: BaseException) -> bool:
    """Whether an error of this process, or of a library, means that."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error)


def disk_is_full(work: Path, what: str) -> TrainingError:
    free = shutil.disk_usage(work).free
    return TrainingError(
        f"The disk is full: {what} could not be written ({free / 1e6:,.0f} MB are free).",
        where=str(work),
        do=f"Free space (engine.keep says how many states are kept). {promise(work)}",
    )
