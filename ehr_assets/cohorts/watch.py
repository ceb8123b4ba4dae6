"""Whether raw tables changed, looked at again and again: by content, without reading what nobody touched.

A look costs a listing. A file is hashed again only when its size or its time has changed, so a file that was
merely touched, or copied over by its equal, is found to be the same. While files still change from one look
to the next, nothing is said of them: somebody is copying.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ehr_assets.cohorts.inventory import raw_files, raw_root
from ehr_assets.cohorts.origin import recorded_inventory
from ehr_assets.cohorts.spec import CohortSpec
from ehr_assets.lineage.hashing import combined_hash

Seen = tuple[int, int | None, str | None]
"""Of a file: bytes, time of change (ns), SHA-256 or None while it has not been hashed."""


@dataclass(frozen=True)
class Look:
    """What one look found.

    Args:
        files: path → what is known of it; given to the next look.
        moving: a file is new or changed since the last look.
        content: hash of all paths and contents; None while moving, or while not all could be hashed in time.
    """

    files: Mapping[str, Seen]
    moving: bool
    content: str | None


def look(cohort: CohortSpec, before: Mapping[str, Seen], seconds: float) -> Look:
    """Looks at a cohort's raw files.

    Args:
        before: `files` of the last look; {} at the first.
        seconds: stop hashing after so long and go on at the next look; one file is always hashed.

    Raises:
        RawTableError: they are not there or cannot be read.
    """
    deadline = time.monotonic() + seconds
    files: dict[str, Seen] = {}
    unread = {}
    for raw in raw_files(cohort, raw_root(cohort)):
        size, stamp, digest = before.get(raw.path, (None, None, None))
        changed = raw.changed()
        same = (size, stamp) == (raw.bytes, changed)
        files[raw.path] = (raw.bytes, changed, digest if same else None)
        if not same or digest is None:
            unread[raw.path] = raw
    moving = any(tuple(before.get(path, ()))[:2] != files[path][:2] for path in unread)
    if moving or before.keys() - files.keys():
        return Look(files, True, None)
    for path, raw in unread.items():
        if path != next(iter(unread)) and time.monotonic() > deadline:
            return Look(files, False, None)
        files[path] = (*files[path][:2], raw.sha256())
    return Look(files, False, _content({path: str(digest) for path, (_, _, digest) in files.items()}))


def recorded_content(raw_tables: Path) -> str:
    """The same hash, of what a committed `raw_tables` dataset recorded."""
    return _content({entry["file"]: entry["sha256"] for entry in recorded_inventory(raw_tables)})


def _content(digests: Mapping[str, str]) -> str:
    return combined_hash(x for path in sorted(digests) for x in (path, digests[path]))
