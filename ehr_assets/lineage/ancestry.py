"""What datasets were made from, all the way up, and whether several of them agree about it.

Gates judge each input by itself. Two inputs that passed may still not belong together: a model trained under
one deal of subjects and splits dealt anew, a checkpoint of one vocabulary and a corpus of another.
"""

from collections.abc import Callable, Iterable

from ehr_assets.lineage.datasets import Dataset, DatasetStore
from ehr_assets.lineage.manifest import InputEntry

Newest = Callable[[str], InputEntry | None]


def ancestors(
    store: DatasetStore, datasets: Iterable[Dataset], newest: Newest
) -> dict[str, dict[str, InputEntry]]:
    """Name → data version → dataset, of the datasets themselves and of all they were made from.

    Content decides: where an ancestor's newest dataset has the very data version that was used, the newest
    stands for it, since it would have given the same. A dataset that is gone has no ancestors.

    Args:
        newest: the newest dataset of this name (`names.py`), None if there is none.
    """
    found: dict[str, dict[str, InputEntry]] = {}
    todo = [
        InputEntry(asset=d.manifest.asset, data_version=d.data_version, dataset=store.relative(d))
        for d in datasets
    ]
    while todo:
        entry = todo.pop()
        known = found.setdefault(entry.asset, {})
        if entry.data_version in known:
            continue
        last = newest(entry.asset)
        if last and last.data_version == entry.data_version:
            entry = last
        known[entry.data_version] = entry
        try:
            todo += store.manifest(entry.dataset).inputs
        except (FileNotFoundError, ValueError):
            continue
    return found


def names_above(store: DatasetStore, datasets: Iterable[Dataset]) -> set[str]:
    """The names of the datasets and of all they were made from, as their own manifests tell it."""
    found: set[str] = set()
    seen: set[str] = set()
    todo = [(d.manifest.asset, store.relative(d)) for d in datasets]
    while todo:
        name, dataset = todo.pop()
        found.add(name)
        if dataset in seen:
            continue
        seen.add(dataset)
        try:
            inputs = store.manifest(dataset).inputs
        except (FileNotFoundError, ValueError):
            continue
        todo += [(entry.asset, entry.dataset) for entry in inputs]
    return found


def disagreements(found: dict[str, dict[str, InputEntry]]) -> list[str]:
    """``asset (versions ...)`` of every asset that stands in the ancestry with more than one content."""
    return [
        f"{asset} (data versions {' and '.join(sorted(v[:12] for v in versions))})"
        for asset, versions in sorted(found.items())
        if len(versions) > 1
    ]
