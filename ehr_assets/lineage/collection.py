"""What of the kept datasets may go, by policy: and what stays, with the reason.

Pure: it reads manifests and decides. Who is asked for the datasets in use, and what removes them, is
`jobs/collect.py`.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from graphlib import TopologicalSorter
from pathlib import Path

from ehr_assets.lineage.datasets import STAMPED, DatasetStore
from ehr_assets.lineage.manifest import Manifest
from ehr_assets.lineage.names import asset_and_partition

MARGIN = timedelta(hours=1)
"""Younger than this nothing goes, whatever the policy: it may be committed and not yet reported."""
RECORDS = ("promotion", "rollback")
"""Assets (the last part of their keys) whose datasets say what was decided: they stay, however old."""


@dataclass(frozen=True)
class Policy:
    """How much of the past is kept.

    Args:
        keep: so many of the newest datasets of every asset, or partition of one.
        older_than: and all that are younger.
    """

    keep: int = 3
    older_than: timedelta = timedelta(days=30)

    def before(self, at: datetime) -> datetime:
        """What was made later than this stays."""
        return at - max(self.older_than, MARGIN)


@dataclass
class Plan:
    """What goes and what stays.

    Attributes:
        remove: datasets by their place, in the order in which they go: none before what was made from it.
        remnants: places of what is no dataset: uploads and removals that were cut off.
        kept: place → why it stays.
        unreadable: places of manifests that cannot be read; they stay, for a person to look at.
    """

    remove: dict[str, Manifest] = field(default_factory=dict)
    remnants: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(m.total_bytes for m in self.remove.values())


def read_all(store: DatasetStore) -> tuple[dict[str, Manifest], list[str], list[str]]:
    """The manifests of all datasets by place; the places without one, and with one that cannot be read."""
    manifests, without, unreadable = {}, [], []
    for relative, whole in sorted(store.everything().items()):
        if not whole:
            without.append(relative)
            continue
        try:
            manifests[relative] = store.manifest(relative)
        except FileNotFoundError:
            without.append(relative)
        except ValueError:
            unreadable.append(relative)
    return manifests, without, unreadable


def plan(
    store: DatasetStore,
    policy: Policy,
    in_use: Mapping[str, str],
    unknown: Mapping[str, str],
    at: datetime,
    runs_since: datetime | None = None,
) -> Plan:
    """What may go now.

    Args:
        in_use: place → why it stays: what Dagster records as newest, what a registered model points to.
        unknown: asset → why all of its datasets stay.
        at: now.
        runs_since: when the oldest run in progress began: it may read what was the newest then, or since.
    """
    manifests, without, unreadable = read_all(store)
    before = policy.before(at)
    hidden = max((_stamp(place) for place in unreadable), default=None)
    kept = {place: why for place, why in in_use.items() if place in manifests}
    for asset, places in _by_asset(manifests).items():
        successors = [*places[1:], None]
        for i, (place, successor) in enumerate(zip(places, successors, strict=True)):
            replaced = manifests[successor].committed_at if successor else at
            why = None
            if asset in unknown:
                why = unknown[asset]
            elif asset_and_partition(asset)[0].rpartition("/")[2] in RECORDS:
                why = "a record of what was decided"
            elif i >= len(places) - policy.keep:
                why = f"one of the newest {policy.keep}"
            elif manifests[place].committed_at > before:
                why = "too young"
            elif hidden is not None and _stamp(place) < hidden:
                why = "one that cannot be read may have been made from it"
            elif runs_since is not None and replaced > runs_since:
                why = "a run in progress may read it"
            if why:
                kept.setdefault(place, why)
    _with_inputs(kept, manifests)
    removed = {place for place in manifests if place not in kept}
    cut_off_before = min(before, runs_since or before)  # later ones may still be on their way to the store
    old = [place for place in without if _stamp(place) < cut_off_before]
    ordered = {place: manifests[place] for place in _descendants_first(removed, manifests)}
    return Plan(ordered, old, kept, unreadable)


def _by_asset(manifests: Mapping[str, Manifest]) -> dict[str, list[str]]:
    """Asset → the places of its datasets, oldest first."""
    found: dict[str, list[str]] = defaultdict(list)
    for place in sorted(manifests, key=lambda p: (manifests[p].committed_at, p)):
        found[manifests[place].asset].append(place)
    return found


def _with_inputs(kept: dict[str, str], manifests: Mapping[str, Manifest]) -> None:
    """Adds all that the kept were made from, all the way up.

    Where the very dataset is gone, one with the same content stands for it, as `ancestors` has it.
    """
    same = {(m.asset, m.data_version): place for place, m in manifests.items()}  # the newest comes last
    todo = list(kept)
    while todo:
        place = todo.pop()
        for entry in manifests[place].inputs:
            found = (
                entry.dataset if entry.dataset in manifests else same.get((entry.asset, entry.data_version))
            )
            if found is not None and found not in kept:
                kept[found] = f"made into {manifests[place].asset}"
                todo.append(found)


def _descendants_first(removed: set[str], manifests: Mapping[str, Manifest]) -> list[str]:
    """So that an input never goes before what was made from it: if this is cut off, what is left is whole."""
    made_from: dict[str, set[str]] = {place: set() for place in sorted(removed)}
    for place in removed:
        for entry in manifests[place].inputs:
            if entry.dataset in removed:
                made_from[entry.dataset].add(place)
    return list(TopologicalSorter(made_from).static_order())


def _stamp(place: str) -> datetime:
    """When a dataset was begun to be put there, by its name."""
    name = place.rpartition("/")[2]
    assert STAMPED.fullmatch(name)
    return datetime.strptime(name.partition("Z-")[0], "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC)


def untouched(folder: Path, before: datetime) -> bool:
    """Whether nothing in a folder was written since."""
    times = [p.lstat().st_mtime for p in (folder, *folder.rglob("*"))]
    return max(times) < before.timestamp()
