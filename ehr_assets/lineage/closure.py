"""All that a dataset was made from, back to the raw files, and its scores: read off the manifests.

Pure: it needs the storage root alone, no Dagster. What Dagster knows beside it (check results, column
lineage) is put to it in `dossier.py`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from ehr_assets.errors import DatasetError
from ehr_assets.lineage.datasets import Dataset, DatasetStore, rebuild_hint
from ehr_assets.lineage.files import file_problem
from ehr_assets.lineage.manifest import MANIFEST_NAME, InputEntry, Manifest
from ehr_assets.lineage.names import asset_and_partition

Side = Literal["made_from", "itself", "scores"]
DOSSIER = "dossier"
"""The last part of the name of the asset that a closure is written to. It is no part of any."""

Key = tuple[str, str]
"""Asset and data version."""


@dataclass(frozen=True)
class Node:
    """One dataset of a closure. `manifest`: None where it is gone, or cannot be read."""

    asset: str
    data_version: str
    dataset: str
    side: Side
    manifest: Manifest | None

    @property
    def key(self) -> Key:
        return self.asset, self.data_version


@dataclass(frozen=True)
class Closure:
    """What belongs to one dataset.

    Attributes:
        nodes: inputs before what was made from them.
        shown_in: verdicts and reports that it reached; of each the newest.
    """

    of: Key
    nodes: list[Node]
    shown_in: list[Node]

    @cached_property
    def by_key(self) -> Mapping[Key, Node]:
        return {node.key: node for node in self.nodes}

    @property
    def itself(self) -> Node:
        return self.by_key[self.of]

    def inputs(self, node: Node) -> list[Node]:
        """Of a node, those that the closure holds: all."""
        entries = node.manifest.inputs if node.manifest else []
        return [self.by_key[e.asset, e.data_version] for e in entries]


def all_manifests(store: DatasetStore) -> Iterator[tuple[str, Manifest]]:
    """Every committed dataset under a storage root, oldest first: its path below the root, its manifest.

    Manifests that cannot be read are left out; `ehr status` shows them.
    """
    whole = (place for place, is_whole in store.everything().items() if is_whole)
    for place in sorted(whole, key=lambda p: (p.rpartition("/")[2], p)):
        if manifest := _readable(store, place):
            yield place, manifest


def file_of(store: DatasetStore, node: Node, name: str) -> Path | None:
    """One file of a dataset, brought here where the store is elsewhere; None where the dataset has none.

    Raises:
        DatasetError: it is not what the manifest says.
    """
    entries = [f for f in node.manifest.files if f.path == name] if node.manifest else []
    if not entries or node.manifest is None:
        return None
    dataset = Dataset(store.home / node.dataset, node.manifest)
    store.bring(Dataset(dataset.path, node.manifest.model_copy(update={"files": entries})))
    if wrong := file_problem(dataset.path / name, entries[0]):
        raise store.altered(dataset, entries[0], wrong)
    return dataset.path / name


def closure_of(store: DatasetStore, dataset: str, known: list[tuple[str, Manifest]] | None = None) -> Closure:
    """The closure of a dataset; of a checkpoint, with its own scores and what those were made from.

    Args:
        dataset: its path below the storage root.
        known: `all_manifests`, where it is asked of many.

    Raises:
        DatasetError: there is no committed dataset.
    """
    try:
        root = store.manifest(dataset)
    except (OSError, ValueError) as e:
        raise DatasetError(
            "There is no committed dataset, or its manifest cannot be read.",
            where=store.where(dataset),
            do="Name an asset (`ehr status` lists them), a data version or a dataset's directory.",
        ) from e
    known = list(all_manifests(store)) if known is None else known
    own = (root.asset, root.data_version)
    found: dict[Key, Node] = {}
    _upward(store, [_entry(dataset, root)], "made_from", found, known)
    found[own] = Node(*own, dataset, "itself", root)
    after = _descendants(own, known)
    scores = [(path, m) for path, m in after if _of_the_same(root.asset, m.asset)]
    _upward(store, [_entry(path, m) for path, m in scores], "scores", found, known)
    shown = [
        Node(m.asset, m.data_version, path, "scores", m)
        for path, m in after
        if m.asset.endswith(("/verdict", "/report")) and (m.asset, m.data_version) not in found
    ]
    return Closure(own, _in_order(found), shown)


def _entry(path: str, manifest: Manifest) -> InputEntry:
    return InputEntry(asset=manifest.asset, data_version=manifest.data_version, dataset=path)


def _upward(
    store: DatasetStore,
    start: list[InputEntry],
    side: Side,
    found: dict[Key, Node],
    known: list[tuple[str, Manifest]],
) -> None:
    todo = list(start)
    while todo:
        entry = todo.pop()
        key = (entry.asset, entry.data_version)
        if key in found:
            continue
        path, manifest = entry.dataset, _manifest(store, entry)
        if manifest is None:  # collected: an equal one stands for it, where there is one
            equal = [(p, m) for p, m in known if (m.asset, m.data_version) == key]
            path, manifest = equal[-1] if equal else (path, None)
        found[key] = Node(*key, path, side, manifest)
        todo += manifest.inputs if manifest else []


def _manifest(store: DatasetStore, entry: InputEntry) -> Manifest | None:
    manifest = _readable(store, entry.dataset)
    used = (entry.asset, entry.data_version)
    return manifest if manifest and (manifest.asset, manifest.data_version) == used else None


def _readable(store: DatasetStore, place: str) -> Manifest | None:
    try:
        return store.manifest(place)
    except (OSError, ValueError):
        return None


def _descendants(own: Key, known: list[tuple[str, Manifest]]) -> list[tuple[str, Manifest]]:
    """What was made from it, or from one of equal content; of each asset the newest.

    From there on it goes by place: what another checkpoint was scored with may be equal, and is not its own.
    """
    made = {path for path, m in known if (m.asset, m.data_version) == own}
    newest = {}
    for path, m in known:  # oldest first
        if any(entry.dataset in made for entry in m.inputs):
            made.add(path)
            newest[m.asset] = (path, m)
    return list(newest.values())


def _of_the_same(root: str, other: str) -> bool:
    """Whether an asset is of the recipe of a checkpoint, and of the same partition of it."""
    (name, partition), (other_name, other_partition) = asset_and_partition(root), asset_and_partition(other)
    same = other_name.rpartition("/")[0] == name.rpartition("/")[0] and other_partition == partition
    return name.endswith("/checkpoint") and same and other_name.rpartition("/")[2] != DOSSIER


def _in_order(found: Mapping[Key, Node]) -> list[Node]:
    order: dict[Key, None] = {}

    def visit(key: Key) -> None:
        if key in order:
            return
        manifest = found[key].manifest
        for entry in manifest.inputs if manifest else ():
            visit((entry.asset, entry.data_version))
        order[key] = None

    for key in sorted(found):
        visit(key)
    return [found[key] for key in order]


def located(store: DatasetStore, name: str) -> str | None:
    """The newest dataset that a name stands for: an asset, a data version's first letters, or a directory.

    Returns:
        Its path below the storage root; None where there is none.
    """
    path = Path(name)
    for folder in (path if path.is_absolute() else store.home / name, path.resolve()):
        if (folder / MANIFEST_NAME).is_file() and folder.resolve().is_relative_to(store.home.resolve()):
            return folder.resolve().relative_to(store.home.resolve()).as_posix()
    known = list(all_manifests(store))
    hits = [p for p, m in known if m.asset == name]
    if not hits and len(name) >= 8:
        hits = [p for p, m in known if m.data_version.startswith(name)]
    return hits[-1] if hits else None


def require_located(store: DatasetStore, name: str) -> str:
    """As `located`. DatasetError where there is none."""
    if found := located(store, name):
        return found
    raise DatasetError(
        f"There is no dataset '{name}'.",
        where=str(store.home),
        do=f"Name an asset, a model version or a dataset's directory. {rebuild_hint(name)}",
    )
