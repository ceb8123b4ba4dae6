"""The files of a dataset: what its manifest says of each, and whether a file still is what it says."""

from pathlib import Path

from ehr_assets.lineage.hashing import file_sha256
from ehr_assets.lineage.manifest import MANIFEST_NAME, FileEntry

_verified: dict[tuple[int, int], tuple[str, int, int]] = {}
"""By device and inode what was found to be so: a file keeps it when it is renamed."""


def _table_facts(path: Path) -> tuple[int, dict[str, str]] | None:
    """Row count and column types of a Parquet or Arrow IPC file, from its footer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix == ".parquet":
        meta = pq.read_metadata(path)
        schema, rows = meta.schema.to_arrow_schema(), meta.num_rows
    elif path.suffix == ".arrow":
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            schema = reader.schema
            rows = sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
    else:
        return None
    return rows, {field.name: str(field.type) for field in schema}


def describe(root: Path, volatile: tuple[str, ...]) -> tuple[list[FileEntry], dict[str, dict[str, str]]]:
    """The manifest's entry for every file of a folder, and the columns of those that are tables.

    Args:
        volatile: glob patterns of files that differ between equal runs (timings).
    """
    files, schemas = [], {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        name = path.relative_to(root).as_posix()
        table = _table_facts(path)
        if table:
            schemas[name] = table[1]
        files.append(
            FileEntry(
                path=name,
                bytes=path.stat().st_size,
                sha256=file_sha256(path),
                rows=table[0] if table else None,
                volatile=any(path.relative_to(root).match(pattern) for pattern in volatile),
            )
        )
    return files, schemas


def files_of(folder: Path) -> dict[str, Path]:
    """Name → path of all files of a dataset but its manifest."""
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    found.pop(MANIFEST_NAME, None)
    return found


def file_problem(path: Path, entry: FileEntry) -> str | None:
    """What is wrong with a file that should be this one; unchanged since last time, it is not read again."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return "is missing"
    file, seen = (stat.st_dev, stat.st_ino), (entry.sha256, stat.st_size, stat.st_mtime_ns)
    if _verified.get(file) != seen:
        if stat.st_size != entry.bytes or file_sha256(path) != entry.sha256:
            return "was altered after it was committed"
        _verified[file] = seen
    return None
