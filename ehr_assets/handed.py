"""What a process hands to its workers in a file: pickled, and unpickled only if it is that very file.

Workers may run on other machines and read it from shared storage. A pickle runs what it says, so the hash
travels with the task (through the pool's own pipe), and a file that is another by then is refused.
"""

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ehr_assets.errors import DatasetError


@dataclass(frozen=True)
class Handed:
    """A file that was written by `hand`, and its hash."""

    path: Path
    sha256: str

    def take(self) -> Any:
        """What was handed. DatasetError where the file is not the one that was written."""
        data = self.path.read_bytes()
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise DatasetError(
                "A file that a process wrote for its workers was altered.",
                where=str(self.path),
                do="Find out who else writes there, then run it again.",
            )
        return pickle.loads(data)


NOT_WRITTEN = Handed(Path(), "")


def hand(what: Any, path: Path) -> Handed:
    """Writes it for workers to `take`."""
    data = pickle.dumps(what)
    path.write_bytes(data)
    return Handed(path, hashlib.sha256(data).hexdigest())
