"""The raw files of a table cohort: where they lie, and proof that they are still the same bytes."""

import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ehr_assets.cohorts.files import RawFile, find_files, require_files
from ehr_assets.cohorts.roots import RawRoot
from ehr_assets.cohorts.spec import CohortSpec, SyntheticSource
from ehr_assets.errors import DatasetError, MissingTableError, RawTableError
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
        RawTableError: a table that is not optional is missing, or one cannot be read.
    """
    used = _used(spec, RawRoot.of(root))
    digests = _hashed([u.file for u in used.values()], progress)
    return [
        {"table": u.table, "file": path, "bytes": u.file.bytes, "sha256": digests[path]}
        for path, u in used.items()
    ]


def raw_files(spec: CohortSpec, root: RawRoot | Path) -> list[RawFile]:
    """The raw files that the spec uses, sorted by path. RawTableError as `inventory`."""
    return [used.file for used in _used(spec, RawRoot.of(root)).values()]


@dataclass(frozen=True)
class _Used:
    """A raw file, the first table that reads it, and the `file`s of the spec that stand for it."""

    table: str
    file: RawFile
    asked: set[str] = field(default_factory=set)


def _used(spec: CohortSpec, root: RawRoot) -> dict[str, _Used]:
    """The raw files that extraction reads, by path: no joined table of a table that is not there."""
    used: dict[str, _Used] = {}

    def add(file: str, name: str, key: str, *, optional: bool) -> bool:
        found = find_files(root, file) if optional else require_files(root, file, key=key)
        for raw in found:
            used.setdefault(raw.path, _Used(name, raw)).asked.add(file)
        return bool(found)

    for table in spec.tables:
        key = f"table '{table.name}'"
        if add(table.file, table.name, key, optional=table.optional):
            for join in table.joins:
                add(join.file, join.file, key, optional=join.optional)
    if given := spec.splits.given:
        add(given.file, given.file, "splits.given", optional=False)
    return dict(sorted(used.items()))


def _hashed(files: Sequence[RawFile], progress: Progress) -> dict[str, str]:
    """Path → SHA-256."""
    digests = {}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # hashing leaves the interpreter free
        for raw, digest in zip(files, pool.map(RawFile.sha256, files), strict=True):
            digests[raw.path] = digest
            progress("hash raw tables", len(digests), len(files))
    return digests


def verify_inventory(
    spec: CohortSpec,
    root: RawRoot | Path,
    recorded: Sequence[Mapping[str, Any]],
    progress: Progress = no_progress,
    *,
    only: Collection[str] | None = None,
) -> None:
    """Proves that the raw files are those of which `recorded` was taken.

    Args:
        only: the `file`s of the spec that are to be read, and so hashed again; all by default. The other
            files must be there and have their size.

    Raises:
        DatasetError: a file was altered, removed or added.
        RawTableError: they cannot be read.
    """
    root = RawRoot.of(root)
    before = {entry["file"]: entry for entry in recorded}
    try:
        now = _used(spec, root)
    except MissingTableError as e:
        raise _changed(spec, e.where or root.uri, "is missing") from None
    for path in sorted(before.keys() | now.keys()):
        if path not in now or path not in before:
            raise _changed(spec, root.where(path), "was added" if path in now else "is missing")
        if now[path].file.bytes != before[path]["bytes"]:
            raise _changed(spec, root.where(path), "was altered")
    read = [u.file for u in now.values() if only is None or not u.asked.isdisjoint(only)]
    for path, digest in _hashed(read, progress).items():
        if digest != before[path]["sha256"]:
            raise _changed(spec, root.where(path), "was altered")


def _changed(spec: CohortSpec, where: str, change: str) -> DatasetError:
    return DatasetError(
        f"A raw table {change} since {spec.name}/raw_tables was materialized.",
        where=where,
        do=f"If the change is meant, re-materialize {spec.name}/raw_tables; otherwise restore the file.",
    )
