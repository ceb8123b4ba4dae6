"""Where a cohort's raw tables are to be read, whatever kind of source it has."""

import json
from collections.abc import Collection
from pathlib import Path

from ehr_assets.cohorts.inventory import inventory, raw_root, verify_inventory
from ehr_assets.cohorts.roots import RawRoot
from ehr_assets.cohorts.spec import CohortSpec, SyntheticSource
from ehr_assets.errors import DatasetError, RawTableError
from ehr_assets.progress import Progress, no_progress

INVENTORY = "inventory.json"


def write_inventory(cohort: CohortSpec, out_dir: Path, progress: Progress = no_progress) -> dict[str, int]:
    """Writes the inventory of a table cohort's raw files as the `raw_tables` dataset; returns counts."""
    entries = inventory(cohort, raw_root(cohort), progress)
    (out_dir / INVENTORY).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    return {"raw_files": len(entries), "raw_bytes": sum(e["bytes"] for e in entries)}


def tables_root(
    cohort: CohortSpec,
    raw_tables: Path,
    progress: Progress = no_progress,
    *,
    only: Collection[str] | None = None,
) -> RawRoot:
    """Where to read raw tables from, given the committed `raw_tables` dataset.

    Files outside the store are hashed again first: what is read is what was recorded.

    Args:
        only: the `file`s of the spec that will be read; all by default.

    Raises:
        DatasetError: a raw file changed since `raw_tables` was materialized.
        RawTableError: the raw directory is not set or not there, or cannot be read.
    """
    if isinstance(cohort.source, SyntheticSource):
        return RawRoot.of(raw_tables / "tables")
    root = raw_root(cohort)
    verify_inventory(cohort, root, recorded_inventory(raw_tables), progress, only=only)
    return root


def source_changes(cohort: CohortSpec, raw_tables: Path) -> str | None:
    """Why the recorded raw tables are out of date, by content; None if they are not, or cannot be reached."""
    if isinstance(cohort.source, SyntheticSource):
        return None
    try:
        root = raw_root(cohort)
        verify_inventory(cohort, root, recorded_inventory(raw_tables))
    except RawTableError:
        return None
    except DatasetError as e:
        return f"{e.what} ({Path(e.where).name})" if e.where else e.what
    return None


def recorded_inventory(raw_tables: Path) -> list[dict]:
    """What a committed `raw_tables` dataset of a table cohort recorded of its files."""
    return json.loads((raw_tables / INVENTORY).read_text(encoding="utf-8"))
