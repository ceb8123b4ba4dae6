"""Whether a closure still is what was recorded: all files hashed again, manifests held against the log."""

from collections.abc import Container, Iterable, Mapping

from ehr_assets.lineage.audit_log import Entry
from ehr_assets.lineage.closure import Closure, Node
from ehr_assets.lineage.datasets import DatasetStore
from ehr_assets.lineage.hashing import combined_hash, file_sha256
from ehr_assets.lineage.manifest import MANIFEST_NAME


def sealed_manifests(entries: Iterable[Entry]) -> dict[str, str]:
    """Dataset → sha256 of its manifest, as the audit log has it: at the end of the first run that made it."""
    sealed: dict[str, str] = {}
    for entry in entries:
        for line in entry.facts.get("manifests", ()) if entry.action == "run_finished" else ():
            dataset, _, digest = line.rpartition(" ")
            sealed.setdefault(dataset, digest)
    return sealed


def vanished(entries: Iterable[Entry], there: Container[str], ending: str) -> list[str]:
    """Datasets of assets with this ending that the log says were made, and that neither are there nor were
    collected.

    A closure is found by its manifest: of what has none any more only the log can tell.
    """
    places: set[str] = set()
    for entry in entries:
        if entry.action == "run_finished":
            places |= {line.rpartition(" ")[0] for line in entry.facts.get("manifests", ())}
        elif entry.action == "collected":
            places.discard(str(entry.facts.get("dataset")))
    return [place for place in sorted(places) if f"{ending}/" in place and place not in there]


def differences(store: DatasetStore, closure: Closure, sealed: Mapping[str, str]) -> list[str]:
    """``asset, file: what differs``, of every dataset of a closure; empty when nothing does.

    Args:
        sealed: `sealed_manifests`; a dataset that is not in it has its manifest's word alone.
    """
    return [f"{n.asset}, {line}" for n in closure.nodes for line in _differences(store, n, sealed)]


def _differences(store: DatasetStore, node: Node, sealed: Mapping[str, str]) -> list[str]:
    m = node.manifest
    if m is None:
        said = _other_version(store, node.dataset)
        return [f"{node.dataset}: {said or 'the dataset is gone, or its manifest cannot be read'}"]
    found = []
    kept, expected = _sha256(store, node, MANIFEST_NAME), sealed.get(node.dataset)
    if expected and expected != kept:
        found.append(f"{MANIFEST_NAME}: it was edited since the run that made it ended (audit log)")
    if kept and kept != file_sha256(store.home / node.dataset / MANIFEST_NAME):
        found.append(f"{MANIFEST_NAME}: the one on the object store is not the one in the cache")
    try:
        listed, there = {f.path: f for f in m.files}, store.sizes(node.dataset)
    except FileNotFoundError:  # of an object store, whose cache still has it
        return [f"{node.dataset}: the dataset is gone"]
    for name, entry in listed.items():
        if name not in there:
            found.append(f"{name}: missing")
        elif there[name] != entry.bytes or _sha256(store, node, name) != entry.sha256:
            found.append(f"{name}: altered")
    found += [f"{name}: not in the manifest" for name in sorted(there.keys() - listed.keys())]
    if combined_hash(x for f in m.files if not f.volatile for x in (f.path, f.sha256)) != m.data_version:
        found.append(f"{MANIFEST_NAME}: its file hashes do not give its data version")
    return found


def _sha256(store: DatasetStore, node: Node, name: str) -> str | None:
    try:
        return store.sha256_of(node.dataset, name)
    except FileNotFoundError:
        return None


def _other_version(store: DatasetStore, dataset: str) -> str | None:
    try:
        version = store.manifest(dataset).data_version[:12]
    except (OSError, ValueError):
        return None
    return f"its manifest says data version {version}, another than was used"
