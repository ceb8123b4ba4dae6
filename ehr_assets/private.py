"""Who may read what this product writes: its owner alone.

The front doors see to it: the `ehr` command, the code location (`definitions.py`), a training's processes.
"""

import os
from pathlib import Path

OTHERS = 0o077


def keep_private() -> None:
    """What this process makes from now on, and what it starts, is its owner's alone."""
    os.umask(OTHERS)


def open_to_others(folder: Path) -> bool:
    """Whether a folder that is there lets in anyone but its owner."""
    return folder.is_dir() and bool(folder.stat().st_mode & OTHERS)
