"""Datasets on disk: staged aside, hashed, promoted by one rename, verified when opened.

<home>/datasets/<asset key>[/<partition>]/<UTC stamp>-<hash>/   files + _manifest.json
<home>/staging/<random>/                                        what is being written (staging.py)
<home>/locks/<asset key>[/<partition>].lock                     held while a version is made (locks.py)
<home>/work/<asset key>[/<partition>]/<fingerprint>/            how far a long making is (workspace.py)
"""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ehr_assets.errors import DatasetError, StorageError
from ehr_assets.lineage.files import describe, file_problem, files_of
from ehr_assets.lineage.hashing import combined_hash, file_sha256, git_revision, lock_hash
from ehr_assets.lineage.locks import making
from ehr_assets.lineage.manifest import MANIFEST_NAME, FileEntry, InputEntry, Manifest, now
from ehr_assets.lineage.names import asset_and_partition, launch_command
from ehr_assets.lineage.staging import next_name, staging_directory
from ehr_assets.lineage.workspace import Workspace
from ehr_assets.paths import leads_out

STAMPED = re.compile(r"\d{8}T\d{12}Z-[0-9a-f]{12}")
"""What the folder of one dataset is called."""


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


class DatasetStore:
    """Datasets under one local root. Those on an object store, of which this is the cache: `remote.py`.

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
        files, schemas = describe(staged, volatile)
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
        return Dataset(self._promote(staged, manifest), manifest)

    def _promote(self, staged: Path, manifest: Manifest) -> Path:
        """Makes a finished folder the dataset that others see; where it lies then."""
        folder = self.directory(manifest.asset)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        while True:
            try:
                return staged.rename(folder / next_name(self.versions(manifest.asset), manifest))
            except OSError as e:
                if e.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise  # otherwise another process was quicker

    def directory(self, asset: str) -> Path:
        """Where all versions of an asset lie, or of one partition of it (`names.py`)."""
        return self._folder("datasets", asset)

    def _folder(self, kind: str, asset: str) -> Path:
        """Of an asset, or of one partition of it: without the brackets, which mean something in a glob."""
        name, partition = asset_and_partition(asset)
        if leads_out(name) or (partition is not None and leads_out(partition)):
            raise DatasetError("This cannot be an asset's name.", where=asset, do="Rename it.")
        return self.home / kind / name / (partition or "")

    def previous(self, dataset: Dataset) -> Path | None:
        """Where the newest older, complete version of the asset with another content lies; None if none does.

        Contents are not verified: it is something to compare with, not to build on.
        """
        asset = dataset.manifest.asset
        older = (name for name in self.versions(asset) if name < dataset.path.name)
        for name in sorted(older, reverse=True):  # names are in the order of commits (staging.py)
            path = self.directory(asset) / name
            relative = path.relative_to(self.home).as_posix()
            if self.problem(asset, relative, None, thorough=False):
                continue
            found = Dataset(path, self.manifest(relative))
            if found.data_version != dataset.data_version:
                self.bring(found)
                return path
        return None

    def versions(self, asset: str) -> list[str]:
        """The folders' names of all that is kept of an asset, whole or not."""
        folder = self.directory(asset)
        return [p.name for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []

    def relative(self, dataset: Dataset) -> str:
        return dataset.path.relative_to(self.home).as_posix()

    def where(self, relative: str) -> str:
        """The dataset's place, for people."""
        return str(self.home / relative)

    def manifest(self, relative: str) -> Manifest:
        """The manifest of the dataset at `relative` under the root; its files are not looked at.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it cannot be read.
        """
        return Manifest.read(self.home / relative / MANIFEST_NAME)

    def sizes(self, relative: str) -> dict[str, int]:
        """Bytes by name of the files that are kept of a dataset, without its manifest."""
        return {name: path.stat().st_size for name, path in files_of(self.home / relative).items()}

    def sha256_of(self, relative: str, name: str) -> str:
        """Of a file where the dataset is kept, all of it read again. FileNotFoundError if there is none."""
        return file_sha256(self.home / relative / name)

    def bring(self, dataset: Dataset) -> None:
        """Sees to it that the files lie where the stages read them. Here they always do."""

    def everything(self) -> dict[str, bool]:
        """Where all lies that is kept of any dataset, from the root → whether it has its manifest."""
        found = {}
        for at, folders, _ in os.walk(self.home / "datasets"):
            own = [name for name in folders if STAMPED.fullmatch(name)]
            for folder in (Path(at) / name for name in own):
                found[folder.relative_to(self.home).as_posix()] = (folder / MANIFEST_NAME).exists()
            folders[:] = [name for name in folders if name not in own]
        return found

    def remove(self, relative: str) -> None:
        """Removes a dataset. Its manifest goes first: if this is cut off, what is left is none."""
        (self.home / relative / MANIFEST_NAME).unlink(missing_ok=True)
        shutil.rmtree(self.home / relative, ignore_errors=True)

    def open(self, asset: str, relative: str, *, data_version: str | None = None) -> Dataset:
        """The dataset at `relative` under the root, verified file by file.

        Raises:
            DatasetError: no manifest, another asset's or version's manifest, a file missing or altered.
        """
        where = f"{asset}: {self.where(relative)}"
        try:
            if leads_out(relative):
                raise FileNotFoundError
            manifest = self.manifest(relative)
        except FileNotFoundError:
            raise DatasetError(
                "The dataset is not there, or was never committed (it has no manifest).",
                where=where,
                do=rebuild_hint(asset),
            ) from None
        except ValueError as e:
            raise DatasetError(
                "The dataset's manifest cannot be read.", where=where, do=rebuild_hint(asset)
            ) from e
        if manifest.asset != asset or (data_version and manifest.data_version != data_version):
            raise DatasetError(
                "The manifest belongs to another asset or version than the one recorded.",
                where=where,
                do=rebuild_hint(asset),
            )
        dataset = Dataset(self.home / relative, manifest)
        self.bring(dataset)
        self.verify(dataset)
        return dataset

    def problem(self, asset: str, relative: str, data_version: str | None, *, thorough: bool) -> str | None:
        """Why the dataset at `relative` cannot be used; None if it can.

        Args:
            thorough: compare contents too; otherwise the manifest, and which files there are, of what size.

        Raises:
            StorageError: the store of the datasets cannot be asked.
        """
        try:
            if thorough:
                self.open(asset, relative, data_version=data_version)
            expected = {f.path: f.bytes for f in self.manifest(relative).files}
            return None if self.sizes(relative) == expected else "its files were altered"
        except FileNotFoundError:
            return "its dataset is gone from the storage root"
        except StorageError:  # of which nothing follows about the dataset
            raise
        except DatasetError as e:
            return e.what[0].lower() + e.what[1:].rstrip(".")
        except ValueError:
            return "its manifest cannot be read"

    def verify(self, dataset: Dataset) -> None:
        """Compares every file with the manifest; files unchanged since last time are not read again."""
        m = dataset.manifest
        for f in m.files:
            if wrong := "is missing" if leads_out(f.path) else file_problem(dataset.path / f.path, f):
                raise self.altered(dataset, f, wrong)
        listed = {f.path for f in m.files}
        for name, path in files_of(dataset.path).items():
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

    def altered(self, dataset: Dataset, entry: FileEntry, what: str) -> DatasetError:
        asset = dataset.manifest.asset
        where = f"{asset}: {self.where(self.relative(dataset))}/{entry.path}"
        return DatasetError(f"A file of this dataset {what}.", where=where, do=rebuild_hint(asset))
