"""Datasets that are kept on an object store, and read and written in a local folder: the cache of it.

<address>/datasets/<asset key>[/<partition>]/<UTC stamp>-<hash>/   files + _manifest.json, uploaded last

A store of objects has no rename, so the manifest is the promotion: a folder without it is no dataset, and is
swept by `ehr collect`. Stages read plain local paths; `bring` fetches what the cache lacks, and holds every
file against the manifest before it gets its name there.
"""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from ehr_assets.lineage.datasets import STAMPED, Dataset, DatasetStore
from ehr_assets.lineage.files import file_problem
from ehr_assets.lineage.hashing import file_sha256
from ehr_assets.lineage.manifest import MANIFEST_NAME, FileEntry, Manifest
from ehr_assets.lineage.staging import next_name, staging_directory

AT_ONCE = 4
"""Files of a dataset that are on their way at a time."""


class Remote(Protocol):
    """A place for bytes under names. A StorageError says why it cannot be used.

    `address`: for people, without credentials.
    """

    address: str

    def read(self, name: str) -> bytes:
        """The content. FileNotFoundError if there is none."""
        ...

    def fetch(self, name: str, to: Path) -> None:
        """Writes the content to a file. FileNotFoundError if there is none."""
        ...

    def put(self, file: Path, name: str) -> None:
        """Keeps a file, whole or not at all."""
        ...

    def sizes(self, under: str) -> dict[str, int]:
        """Name, from `under` on, → bytes of all that is kept under a folder, however deep."""
        ...

    def folders(self, under: str) -> list[str]:
        """The folders right under a folder."""
        ...

    def remove(self, names: Sequence[str]) -> None:
        """Removes what there is of these."""
        ...


class RemoteDatasetStore(DatasetStore):
    """Datasets on an object store.

    Args:
        home: the cache. Its `datasets/` may be removed while nothing runs, and is filled again as needed.
        remote: where the datasets are.
    """

    def __init__(self, home: Path, remote: Remote) -> None:
        super().__init__(home)
        self.remote = remote

    def where(self, relative: str) -> str:
        return f"{self.remote.address}/{relative}"

    def _promote(self, staged: Path, manifest: Manifest) -> Path:
        target = self.directory(manifest.asset) / next_name(self.versions(manifest.asset), manifest)
        relative = target.relative_to(self.home).as_posix()
        with _several() as pool:
            list(pool.map(lambda f: self.remote.put(staged / f.path, f"{relative}/{f.path}"), manifest.files))
        self.remote.put(staged / MANIFEST_NAME, f"{relative}/{MANIFEST_NAME}")
        _name(staged, target)
        return target

    def versions(self, asset: str) -> list[str]:
        return self.remote.folders(self.directory(asset).relative_to(self.home).as_posix())

    def manifest(self, relative: str) -> Manifest:
        with contextlib.suppress(FileNotFoundError, ValueError):  # torn by a power cut
            return super().manifest(relative)
        content = self.remote.read(f"{relative}/{MANIFEST_NAME}")
        found = Manifest.model_validate_json(content)
        with staging_directory(self.home) as aside:
            file = aside / "file"
            file.write_bytes(content)
            _name(file, self.home / relative / MANIFEST_NAME)
        return found

    def sizes(self, relative: str) -> dict[str, int]:
        found = self.remote.sizes(relative)
        if found.pop(MANIFEST_NAME, None) is None:  # collected, though it may lie in the cache
            raise FileNotFoundError(relative)
        return found

    def sha256_of(self, relative: str, name: str) -> str:
        with staging_directory(self.home) as aside:  # what the cache holds says nothing of the object
            self.remote.fetch(f"{relative}/{name}", aside / "file")
            return file_sha256(aside / "file")

    def bring(self, dataset: Dataset) -> None:
        lacking = [f for f in dataset.manifest.files if file_problem(dataset.path / f.path, f)]
        if not lacking:
            return
        # Aside, before it gets its name: another process may be reading the dataset's folder.
        with staging_directory(self.home) as aside, _several() as pool:
            files = [aside / str(i) for i in range(len(lacking))]
            list(pool.map(lambda f, file: self._fetch(dataset, f, file), lacking, files))

    def _fetch(self, dataset: Dataset, entry: FileEntry, file: Path) -> None:
        try:
            self.remote.fetch(f"{self.relative(dataset)}/{entry.path}", file)
        except FileNotFoundError:
            raise self.altered(dataset, entry, "is missing") from None
        if wrong := file_problem(file, entry):
            raise self.altered(dataset, entry, wrong)
        _name(file, dataset.path / entry.path)

    def everything(self) -> dict[str, bool]:
        """Also what is in the cache alone: it is of no dataset any more."""
        found = dict.fromkeys(super().everything(), False)
        for name in self.remote.sizes("datasets"):
            parts = name.split("/")
            stamped = next((i for i, part in enumerate(parts) if STAMPED.fullmatch(part)), None)
            if stamped is not None:
                relative = "/".join(["datasets", *parts[: stamped + 1]])
                found[relative] = found.get(relative, False) or parts[stamped + 1 :] == [MANIFEST_NAME]
        return found

    def remove(self, relative: str) -> None:
        names = [f"{relative}/{name}" for name in self.remote.sizes(relative)]
        manifest = f"{relative}/{MANIFEST_NAME}"
        self.remote.remove([manifest])
        self.remote.remove([name for name in names if name != manifest])
        super().remove(relative)


def _name(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.rename(target)


@contextlib.contextmanager
def _several() -> Iterator[ThreadPoolExecutor]:
    """Threads for transfers. After an error those not begun are not begun any more."""
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
