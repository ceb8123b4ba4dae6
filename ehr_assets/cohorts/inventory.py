"""The raw files of a table cohort: where they lie, and proof that they are still the same bytes."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ehr_assets.cohorts.readers import find_table, require_table
from ehr_assets.cohorts.spec import CohortSpec, TablesSource
from ehr_assets.errors import DatasetError, RawTableError
from ehr_assets.lineage.hashing import file_sha256
from ehr_assets.progress import Progress, no_progress


def raw_root(spec: CohortSpec, environ: Mapping[str, str] = os.environ) -> Path:
    """The directory of a table cohort's raw tables. RawTableError when it is not set or not there."""
    assert isinstance(spec.source, TablesSource)
    variable = spec.source.root_env
    value = environ.get(variable, "")
    if not value or not Path(value).is_dir():
        what = "names no directory" if value else "is not set"
        raise RawTableError(
            f"The raw tables of cohort '{spec.name}' cannot be found: {variable} {what}.",
            where=f"environment variable {variable}",
            do=f"Set {variable} to the directory that holds {spec.roster.file}.",
        )
    return Path(value).resolve()


def inventory(spec: CohortSpec, root: Path, progress: Progress = no_progress) -> list[dict[str, Any]]:
    """The raw files that the spec uses, dimension tables included, sorted by file.

    Returns:
        One dict per file: table (name in the spec; of a dimension, its file without ending), file (relative
        to `root`), bytes, sha256. Optional tables that are absent are left out.

    Raises:
        RawTableError: a table that is not optional is missing.
    """
    found: dict[Path, str] = {}
    for table in spec.tables:
        required = [(table.file, table.name, table.optional)]
        required += [(j.file, j.file, j.optional or table.optional) for j in table.joins]
        for file, name, optional in required:
            path = find_table(root, file)
            if path is None and not optional:
                path = require_table(root, file, key=f"table '{table.name}'")
            if path is not None:
                found.setdefault(path, name)
    entries = []
    for done, (path, name) in enumerate(sorted(found.items())):
        progress("hash raw tables", done, len(found))
        file = path.relative_to(root).as_posix()
        entries.append(
            {"table": name, "file": file, "bytes": path.stat().st_size, "sha256": file_sha256(path)}
        )
    progress("hash raw tables", len(found), len(found))
    return entries


def verify_inventory(
    spec: CohortSpec, root: Path, recorded: Sequence[Mapping[str, Any]], progress: Progress = no_progress
) -> None:
    """Raises DatasetError when a raw file was altered, removed or added since `recorded` was taken."""
    before = {entry["file"]: entry["sha256"] for entry in recorded}
    try:
        now = {entry["file"]: entry["sha256"] for entry in inventory(spec, root, progress)}
    except RawTableError as e:
        raise _changed(spec, e.where or str(root), "is missing") from None
    for file in sorted(before.keys() | now.keys()):
        if before.get(file) != now.get(file):
            change = "is missing" if file not in now else "was added" if file not in before else "was altered"
            raise _changed(spec, str(root / file), change)


def _changed(spec: CohortSpec, where: str, change: str) -> DatasetError:
    return DatasetError(
        f"A raw table {change} since {spec.name}/raw_tables was materialized.",
        where=where,
        do=f"If the change is meant, re-materialize {spec.name}/raw_tables; otherwise restore the file.",
    )
