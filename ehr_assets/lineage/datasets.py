"""Datasets on disk: staged aside, hashed, promoted by one rename, verified when opened.

<home>/datasets/<asset key>[/<partition>]/<UTC stamp>-<hash>/   files + _manifest.json
<home>/staging/<random>/                                        what is being written (staging.py)
<home>/locks/<asset key>[/<partition>].lock                     held while a version is made (locks.py)
<home>/work/<asset key>[/<partition>]/<fingerprint>/            how far a long making is (workspace.py)
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ehr_assets.errors import DatasetError
from ehr_assets.lineage.hashing import combined_hash, file_sha256, git_revision, lock_hash
from ehr_assets.lineage.locks import making
from ehr_assets.lineage.manifest import MANIFEST_NAME, FileEntry, InputEntry, Manifest, now
from ehr_assets.lineage.names import asset_and_partition, launch_command
from ehr_assets.lineage.staging import promote, staging_directory
from ehr_assets.lineage.workspace import Workspace

_verified: dict[Path, tuple] = {}


@dataclass(frozen=True)
class Dataset:
    """A committed dataset whose files were found to match its manifest."""

    path: Path
    manifest: Manifest

    @property
    def data_version(self) -> str:
        return self.manifest.data_version


def rebuild_hint(asset: str) -> str:
    return f"Rebuild it: {launch_command(asset)}"


def _files(folder: Path) -> dict[str, Path]:
    """Name → path of all files of a dataset but its manifest."""
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    found.pop(MANIFEST_NAME, None)
    return found


class DatasetStore:
    """Datasets under one local root.

    Args:
        home: the storage root (`EHR_HOME`).
    """

    def __init__(self, home: Path) -> None:
        self.home = home

    def staging(self) -> contextlib.AbstractContextManager[Path]:
        """A fresh empty directory, removed on leaving unless it was committed."""
        return staging_directory(self.home)

    def making(self, asset: str, run_id: str) -> contextlib.AbstractContextManager[None]:
        """Around the making of a new version: DatasetError while another process is at it."""
        folder = self._folder("locks", asset)
        return making(folder.with_name(f"{folder.name}.lock"), asset, run_id)

    @contextlib.contextmanager
    def workspace(
        self, asset: str, made_from: Iterable[str], say: Callable[[str], object]
    ) -> Iterator[Workspace]:
        """The work folder for an asset made from just this: code, inputs, settings. Closed on leaving."""
        work = Workspace(self._folder("work", asset) / combined_hash(made_from)[:16], asset, say)
        try:
            yield work
        finally:
            work.close()

    def commit(
        self,
        staged: Path,
        *,
        asset: str,
        code_version: str,
        started_at: datetime,
        inputs: list[InputEntry] | None = None,
        config: dict[str, Any] | None = None,
        seed: int | None = None,
        stats: dict[str, Any] | None = None,
        overrides: list[str] | None = None,
        run_id: str | None = None,
        volatile: tuple[str, ...] = (),
        unless: Dataset | None = None,
    ) -> Dataset:
        """Hashes the staged files, writes the manifest and promotes the directory by rename.

        Args:
            volatile: glob patterns of files that differ between equal runs (timings).
            unless: a dataset that was made from the same; if the content is that of it, it is given back.
        """
        files, schemas = _describe(staged, volatile)
        if not files:
            raise DatasetError("The dataset has no files.", where=asset, do="This is a defect: report it.")
        version = combined_hash(x for f in files if not f.volatile for x in (f.path, f.sha256))
        if unless and version == unless.data_version:
            return unless
        manifest = Manifest(
            asset=asset,
            data_version=version,
            code_version=code_version,
            files=files,
            schemas=schemas,
            row_counts={f.path: f.rows for f in files if f.rows is not None},
            inputs=inputs or [],
            config=config or {},
            seed=seed,
            stats=stats or {},
            overrides=overrides or [],
            lock_hash=lock_hash(),
            git_revision=git_revision(),
            run_id=run_id,
            started_at=started_at,
            committed_at=now(),
        )
        with (staged / MANIFEST_NAME).open("w", encoding="utf-8") as f:
            f.write(manifest.model_dump_json(indent=1))
            f.flush()
            os.fsync(f.fileno())
        target = promote(staged, self.directory(asset), manifest.committed_at, version[:12])
        return Dataset(target, manifest)

    def directory(self, asset: str) -> Path:
        """Where all versions of an asset lie, or of one partition of it (`names.py`)."""
        return self._folder("datasets", asset)

    def _folder(self, kind: str, asset: str) -> Path:
        """Of an asset, or of one partition of it: without the brackets, which mean something in a glob."""
        name, partition = asset_and_partition(asset)
        return self.home / kind / name / (partition or "")

    def previous(self, dataset: Dataset) -> Path | None:
        """Where the newest older, complete version of the asset with another content lies; None if none does.

        Contents are not verified: it is something to compare with, not to build on.
        """
        asset = dataset.manifest.asset
        older = (p for p in self.directory(asset).iterdir() if p.is_dir() and p.name < dataset.path.name)
        for path in sorted(older, reverse=True):  # names are in the order of commits (staging.py)
            relative = path.relative_to(self.home).as_posix()
            if self.problem(asset, relative, None, thorough=False):
                continue
            if Manifest.read(path / MANIFEST_NAME).data_version != dataset.data_version:
                return path
        return None

    def relative(self, dataset: Dataset) -> str:
        return dataset.path.relative_to(self.home).as_posix()

    def open(self, asset: str, relative: str, *, data_version: str | None = None) -> Dataset:
        """The dataset at `relative` under the root, verified file by file.

        Raises:
            DatasetError: no manifest, another asset's or version's manifest, a file missing or altered.
        """
        path = self.home / relative
        try:
            manifest = Manifest.read(path / MANIFEST_NAME)
        except FileNotFoundError:
            raise DatasetError(
                "The dataset is not there, or was never committed (it has no manifest).",
                where=f"{asset}: {path}",
                do=rebuild_hint(asset),
            ) from None
        except ValueError as e:
            raise DatasetError(
                "The dataset's manifest cannot be read.", where=f"{asset}: {path}", do=rebuild_hint(asset)
            ) from e
        if manifest.asset != asset or (data_version and manifest.data_version != data_version):
            raise DatasetError(
                "The manifest belongs to another asset or version than the one recorded.",
                where=f"{asset}: {path}",
                do=rebuild_hint(asset),
            )
        dataset = Dataset(path, manifest)
        self.verify(dataset)
        return dataset

    def problem(self, asset: str, relative: str, data_version: str | None, *, thorough: bool) -> str | None:
        """Why the dataset at `relative` cannot be used; None if it can.

        Args:
            thorough: compare contents too; otherwise the manifest, and which files there are, of what size.
        """
        try:
            if thorough:
                self.open(asset, relative, data_version=data_version)
                return None
            manifest = Manifest.read(self.home / relative / MANIFEST_NAME)
            sizes = {f.path: f.bytes for f in manifest.files}
            found = {name: path.stat().st_size for name, path in _files(self.home / relative).items()}
            return None if found == sizes else "its files were altered"
        except FileNotFoundError:
            return "its dataset is gone from the storage root"
        except DatasetError as e:
            return e.what[0].lower() + e.what[1:].rstrip(".")
        except ValueError:
            return "its manifest cannot be read"

    def verify(self, dataset: Dataset) -> None:
        """Compares every file with the manifest; files unchanged since last time are not read again."""
        m = dataset.manifest
        for f in m.files:
            path = dataset.path / f.path
            try:
                stat = path.stat()
            except FileNotFoundError:
                raise self._altered(dataset, f, "is missing") from None
            seen = (f.sha256, stat.st_size, stat.st_mtime_ns, stat.st_ino)
            if _verified.get(path) == seen:
                continue
            if stat.st_size != f.bytes or file_sha256(path) != f.sha256:
                raise self._altered(dataset, f, "was altered after it was committed")
            _verified[path] = seen
        listed = {f.path for f in m.files}
        for name, path in _files(dataset.path).items():
            if name not in listed:
                raise DatasetError(
                    "This dataset holds a file that its manifest does not list.",
                    where=f"{m.asset}: {path}",
                    do=f"Take it away, or rebuild the dataset: {rebuild_hint(m.asset)}",
                )
        version = combined_hash(x for f in m.files if not f.volatile for x in (f.path, f.sha256))
        if version != m.data_version:
            raise DatasetError(
                "The manifest's file hashes do not give its data version.",
                where=f"{m.asset}: {dataset.path / MANIFEST_NAME}",
                do=rebuild_hint(m.asset),
            )

    @staticmethod
    def _altered(dataset: Dataset, entry: FileEntry, what: str) -> DatasetError:
        return DatasetError(
            f"A file of this dataset {what}.",
            where=f"{dataset.manifest.asset}: {dataset.path / entry.path}",
            do=rebuild_hint(dataset.manifest.asset),
        )


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


def _describe(root: Path, volatile: tuple[str, ...]) -> tuple[list[FileEntry], dict[str, dict[str, str]]]:
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
