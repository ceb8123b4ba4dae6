"""The raw files of a table cohort: where they lie, and proof that they are still the same bytes."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ehr_assets.cohorts.files import RawFile, find_files, require_files
from ehr_assets.cohorts.roots import RawRoot
from ehr_assets.cohorts.spec import CohortSpec, SyntheticSource
from ehr_assets.errors import DatasetError, RawTableError
from ehr_assets.progress import Progress, no_progress


def raw_root(spec: CohortSpec, environ: Mapping[str, str] = os.environ) -> RawRoot:
    """Where a cohort's raw tables lie. RawTableError when it is not set or not there."""
    assert not isinstance(spec.source, SyntheticSource)
    variable = spec.source.root_env
    value = environ.get(variable, "")
    root = RawRoot.of(value if "://" in value else Path(value).resolve())
    if not value or not root.exists():
        what = "names no directory" if value else "is not set"
        raise RawTableError(
            f"The raw tables of cohort '{spec.name}' cannot be found: {variable} {what}.",
            where=f"environment variable {variable}",
            do=f"Set {variable} to the directory (or the s3:// prefix) that holds {spec.roster.file}.",
        )
    return root


def inventory(
    spec: CohortSpec, root: RawRoot | Path, progress: Progress = no_progress
) -> list[dict[str, Any]]:
    """The raw files that the spec uses, dimension tables included, sorted by file.

    Returns:
        One dict per file: table (name in the spec; of a dimension, its file without ending), file (relative
        to `root`), bytes, sha256. Optional tables that are absent are left out.

    Raises:
        RawTableError: a table that is not optional is missing.
    """
    root = RawRoot.of(root)
    found: dict[str, tuple[str, RawFile]] = {}
    for table in spec.tables:
        required = [(table.file, table.name, table.optional)]
        required += [(j.file, j.file, j.optional or table.optional) for j in table.joins]
        for file, name, optional in required:
            key = f"table '{table.name}'"
            for raw in find_files(root, file) if optional else require_files(root, file, key=key):
                found.setdefault(raw.path, (name, raw))
    if given := spec.splits.given:
        for raw in require_files(root, given.file, key="splits.given"):
            found.setdefault(raw.path, (given.file, raw))
    files = [raw for _, (_, raw) in sorted(found.items())]
    entries = []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # hashing leaves the interpreter free
        for done, (raw, digest) in enumerate(zip(files, pool.map(RawFile.sha256, files), strict=True), 1):
            name, _ = found[raw.path]
            entries.append({"table": name, "file": raw.path, "bytes": raw.bytes, "sha256": digest})
            progress("hash raw tables", done, len(files))
    return entries


def verify_inventory(
    spec: CohortSpec,
    root: RawRoot | Path,
    recorded: Sequence[Mapping[str, Any]],
    progress: Progress = no_progress,
) -> None:
    """Raises DatasetError when a raw file was altered, removed or added since `recorded` was taken."""
    root = RawRoot.of(root)
    before = {entry["file"]: entry["sha256"] for entry in recorded}
    try:
        now = {entry["file"]: entry["sha256"] for entry in inventory(spec, root, progress)}
    except RawTableError as e:
        raise _changed(spec, e.where or root.uri, "is missing") from None
    for file in sorted(before.keys() | now.keys()):
        if before.get(file) != now.get(file):
            change = "is missing" if file not in now else "was added" if file not in before else "was altered"
            raise _changed(spec, root.where(file), change)


def _changed(spec: CohortSpec, where: str, change: str) -> DatasetError:
    return DatasetError(
        f"A raw table {change} since {spec.name}/raw_tables was materialized.",
        where=where,
        do=f"If the change is meant, re-materialize {spec.name}/raw_tables; otherwise restore the file.",
    )
