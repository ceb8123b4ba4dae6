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
from resources.storage import DATASET_KEY, asset_name

CODE_VERSION_TAG = "dagster/code_version"
DATA_VERSION_TAG = "dagster/data_version"
INPUT_TAG = "dagster/input_data_version/"


class State(StrEnum):
    FRESH = "fresh"
    STALE = "stale"
    MISSING = "missing"
    FAILED_CHECK = "failed check"


@dataclass
class AssetStatus:
    """The state of one asset, and the reasons if it is not fresh."""

    key: AssetKey
    state: State
    reasons: list[str] = field(default_factory=list)
    dataset: str | None = None
    data_version: str | None = None

    @property
    def name(self) -> str:
        return asset_name(self.key)


class Graph:
    """The assets of the definitions: order, dependencies, code versions."""

    def __init__(self, defs: Definitions) -> None:
        specs = {spec.key: spec for spec in defs.resolve_all_asset_specs()}
        self.deps = {key: [d.asset_key for d in spec.deps] for key, spec in specs.items()}
        self.code_versions = {key: spec.code_version for key, spec in specs.items()}
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
    for key in graph.order:
        status = _own_status(instance, key, graph, store, statuses, key in thorough)
        if key in (changed_sources or {}) and status.state is not State.MISSING:
            status.state = State.STALE
            status.reasons.insert(0, (changed_sources or {})[key])
        if status.state is State.FRESH and status.data_version:
            failing = failing_checks(instance, status.name, status.data_version, gates.get(status.name, []))
            if failing:
                status.state, status.reasons = State.FAILED_CHECK, failing
        statuses[key] = status
    return statuses


def _own_status(
    instance: DagsterInstance,
    key: AssetKey,
    graph: Graph,
    store: DatasetStore,
    upstream: Mapping[AssetKey, AssetStatus],
    thorough: bool,
) -> AssetStatus:
    event = instance.get_latest_materialization_event(key)
    found = event.asset_materialization if event else None
    if found is None or DATASET_KEY not in found.metadata:
        return AssetStatus(key, State.MISSING, ["never materialized"])
    dataset = str(found.metadata[DATASET_KEY].value)
    tags = found.tags or {}
    version = tags.get(DATA_VERSION_TAG)
    if problem := store.problem(asset_name(key), dataset, version, thorough=thorough):
        return AssetStatus(key, State.MISSING, [problem])
    reasons = _code_reasons(tags.get(CODE_VERSION_TAG), graph.code_versions[key])
    waiting: dict[str, list[str]] = {}
    for dep in graph.deps[key]:
        above = upstream[dep]
        used = tags.get(INPUT_TAG + dep.to_user_string())
        if above.state in (State.MISSING, State.STALE):
            waiting.setdefault(f"{above.state} upstream", []).append(_seen_from(key, dep))
        elif used != above.data_version:
            waiting.setdefault("new data upstream", []).append(_seen_from(key, dep))
    reasons += [f"{what}: {_shortened(names)}" for what, names in waiting.items()]
    state = State.STALE if reasons else State.FRESH
    return AssetStatus(key, state, reasons, dataset, version)


def _shortened(names: list[str], most: int = 2) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _seen_from(key: AssetKey, other: AssetKey) -> str:
    """The name of an asset, without the group where that is the reader's own."""
    return other.path[-1] if other.path[:-1] == key.path[:-1] else asset_name(other)


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
    """The status of the asset with this name, which must have been materialized."""
    status = next((s for s in statuses.values() if s.name == name), None)
    if status is None or status.dataset is None:
        why = "; ".join(status.reasons) if status else "there is no such asset"
        raise DatasetError(f"'{name}' cannot be shown: {why}.", do=rebuild_hint(name))
    return status
