"""Fresh, stale, missing, failed: the state of every asset and why, from what Dagster recorded.

The rule is Dagster's own (code version and input data versions of the last materialization against today's)
but followed downstream, which Dagster's is not: what hangs on a stale asset is stale.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dagster import AssetKey, DagsterInstance, Definitions

from ehr_assets.errors import DatasetError
from ehr_assets.lineage.datasets import DatasetStore, rebuild_hint
from ehr_assets.lineage.guards import failing_checks
from ehr_assets.lineage.hashing import settings_hash
from ehr_assets.lineage.names import asset_and_partition, dataset_name
from resources.points import SETTINGS_KEY
from resources.recorded import DATASET_KEY, newest_materialization
from resources.storage import asset_name

CODE_VERSION_TAG = "dagster/code_version"
DATA_VERSION_TAG = "dagster/data_version"


class State(StrEnum):
    FRESH = "fresh"
    STALE = "stale"
    MISSING = "missing"
    FAILED_CHECK = "failed check"


@dataclass
class AssetStatus:
    """The state of one asset, or of one partition of it, and the reasons if it is not fresh.

    `partitions`: of a partitioned asset, which is as fresh as all of them are, the status of each.
    """

    key: AssetKey
    state: State
    reasons: list[str] = field(default_factory=list)
    dataset: str | None = None
    data_version: str | None = None
    partition: str | None = None
    partitions: Mapping[str, "AssetStatus"] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return dataset_name(asset_name(self.key), self.partition)

    @property
    def extent(self) -> str:
        """Of a partitioned asset, how many of its partitions are fresh: `` 12/16``."""
        fresh = sum(s.state is State.FRESH for s in self.partitions.values())
        return f" {fresh}/{len(self.partitions)}" if self.partitions else ""


class Graph:
    """The assets of the definitions: order, dependencies, code versions, partitions.

    `settings`: of a partitioned asset, the hash of what each partition must have been made with.
    """

    def __init__(self, defs: Definitions) -> None:
        specs = {spec.key: spec for spec in defs.resolve_all_asset_specs()}
        self.deps = {key: [d.asset_key for d in spec.deps] for key, spec in specs.items()}
        self.code_versions = {key: spec.code_version for key, spec in specs.items()}
        self.partitions = {
            key: spec.partitions_def.get_partition_keys()
            for key, spec in specs.items()
            if spec.partitions_def is not None
        }
        self.settings = {key: specs[key].metadata.get(SETTINGS_KEY, {}) for key in self.partitions}
        self.order = self._topological()

    def _topological(self) -> list[AssetKey]:
        order: dict[AssetKey, None] = {}

        def visit(key: AssetKey) -> None:
            if key not in order:
                for dep in self.deps[key]:
                    visit(dep)
                order[key] = None

        for key in sorted(self.deps):
            visit(key)
        return list(order)

    def upstream(self, targets: Iterable[AssetKey]) -> list[AssetKey]:
        """The targets and everything they are made from, in order."""
        wanted: set[AssetKey] = set()
        todo = list(targets)
        while todo:
            key = todo.pop()
            if key not in wanted:
                wanted.add(key)
                todo += self.deps[key]
        return [key for key in self.order if key in wanted]


def asset_statuses(
    instance: DagsterInstance,
    graph: Graph,
    store: DatasetStore,
    gates: Mapping[str, list[str]],
    changed_sources: Mapping[AssetKey, str] | None = None,
    thorough: Collection[AssetKey] = (),
) -> dict[AssetKey, AssetStatus]:
    """The status of every asset, upstream first.

    Args:
        gates: the blocking checks of every asset.
        changed_sources: assets whose source outside the store changed, with the reason.
        thorough: the assets whose files are compared with their manifest byte by byte; else by size.
    """
    statuses: dict[AssetKey, AssetStatus] = {}

    def status_of(key: AssetKey, partition: str | None) -> AssetStatus:
        status = _own_status(instance, key, partition, graph, store, statuses, key in thorough)
        if key in (changed_sources or {}) and status.state is not State.MISSING:
            status.state = State.STALE
            status.reasons.insert(0, (changed_sources or {})[key])
        if status.state is State.FRESH and status.data_version:
            checks = gates.get(asset_name(key), [])
            if failing := failing_checks(instance, status.name, status.data_version, checks):
                status.state, status.reasons = State.FAILED_CHECK, failing
        return status

    for key in graph.order:
        parts = graph.partitions.get(key)
        if parts is None:
            statuses[key] = status_of(key, None)
        else:
            statuses[key] = _together(key, {part: status_of(key, part) for part in parts})
    return statuses


def _together(key: AssetKey, partitions: Mapping[str, AssetStatus]) -> AssetStatus:
    """The status of an asset whose partitions have these: fresh if all are."""
    by_state: dict[State, list[str]] = {}
    for part, status in partitions.items():
        by_state.setdefault(status.state, []).append(part)
    reasons = [f"{s}: {_shortened(parts)}" for s, parts in by_state.items() if s is not State.FRESH]
    states = set(by_state)
    if len(states) == 1:
        (state,) = states
    else:
        state = State.FAILED_CHECK if states == {State.FRESH, State.FAILED_CHECK} else State.STALE
    return AssetStatus(key, state, reasons, partitions=partitions)


def _own_status(
    instance: DagsterInstance,
    key: AssetKey,
    partition: str | None,
    graph: Graph,
    store: DatasetStore,
    upstream: Mapping[AssetKey, AssetStatus],
    thorough: bool,
) -> AssetStatus:
    name = dataset_name(asset_name(key), partition)
    found = newest_materialization(instance, asset_name(key), partition)
    if found is None or DATASET_KEY not in found.metadata:
        return AssetStatus(key, State.MISSING, ["never materialized"], partition=partition)
    dataset = str(found.metadata[DATASET_KEY].value)
    tags = found.tags or {}
    version = tags.get(DATA_VERSION_TAG)
    if problem := store.problem(name, dataset, version, thorough=thorough):
        return AssetStatus(key, State.MISSING, [problem], partition=partition)
    manifest = store.manifest(dataset)
    reasons = _code_reasons(tags.get(CODE_VERSION_TAG), graph.code_versions[key])
    if partition is not None and settings_hash(manifest.config) != graph.settings[key].get(partition):
        reasons.append("its spec changed")
    used = {entry.asset: entry.data_version for entry in manifest.inputs}
    waiting: dict[str, list[str]] = {}
    for dep in graph.deps[key]:
        for above in _read_by(partition, upstream[dep]):
            if above.state in (State.MISSING, State.STALE):
                waiting.setdefault(f"{above.state} upstream", []).append(_seen_from(key, above))
            elif used.get(above.name) != above.data_version:
                waiting.setdefault("new data upstream", []).append(_seen_from(key, above))
    reasons += [f"{what}: {_shortened(names)}" for what, names in waiting.items()]
    state = State.STALE if reasons else State.FRESH
    return AssetStatus(key, state, reasons, dataset, version, partition)


def _read_by(partition: str | None, upstream: AssetStatus) -> Iterable[AssetStatus]:
    """What a dataset of this partition (None: without) reads of an upstream asset."""
    if not upstream.partitions:
        return [upstream]
    return upstream.partitions.values() if partition is None else [upstream.partitions[partition]]


def _shortened(names: list[str], most: int = 2) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _seen_from(key: AssetKey, other: AssetStatus) -> str:
    """The name of an asset, without the group where that is the reader's own."""
    own = other.key.path[:-1] == key.path[:-1]
    return dataset_name(other.key.path[-1], other.partition) if own else other.name


def _code_reasons(recorded: str | None, current: str | None) -> list[str]:
    if recorded == current:
        return []
    old_code, _, old_config = (recorded or "").partition(".")
    new_code, _, new_config = (current or "").partition(".")
    reasons = []
    if old_code != new_code:
        reasons.append("its code changed")
    if old_config != new_config:
        reasons.append("its spec changed")
    return reasons


def locate(statuses: Mapping[AssetKey, AssetStatus], name: str) -> AssetStatus:
    """The status of the asset, or partition, with this name, which must have been materialized."""
    asset, partition = asset_and_partition(name)
    status = next((s for s in statuses.values() if s.name == asset), None)
    if status is not None and partition is not None:
        status = status.partitions.get(partition)
    if status is None or status.dataset is None:
        why = "; ".join(status.reasons) if status else "there is no such asset"
        if status is not None and status.partitions:
            why = f"name one of its partitions, as in {name}[{next(iter(status.partitions))}]"
        raise DatasetError(f"'{name}' cannot be shown: {why}.", do=rebuild_hint(name))
    return status
