"""A closure with what Dagster knows beside it: the newest check results, the column lineage of frames."""

from collections.abc import Mapping, Sequence
from typing import Any

from dagster import AssetKey, AssetRecordsFilter, DagsterEventType, DagsterInstance

from ehr_assets.lineage.closure import Closure, Key, Node, closure_of
from ehr_assets.lineage.datasets import DatasetStore
from ehr_assets.lineage.dossier import dossier, moment
from ehr_assets.lineage.guards import check_result
from ehr_assets.lineage.names import asset_and_partition
from resources.recorded import DATASET_KEY

FRAMES = "/meds_events"
COLUMNS_KEY = "dagster/column_lineage"


def dossier_of(
    instance: DagsterInstance,
    store: DatasetStore,
    gates: Mapping[str, Sequence[str]],
    dataset: str,
    model: str | None = None,
) -> dict[str, Any]:
    """The dossier of a dataset (`lineage/dossier.py`).

    Args:
        gates: asset → its blocking checks, which are listed even where they never ran.
        dataset: its path below the storage root.
        model: the registered model version, if it is known.

    Raises:
        DatasetError: there is no such dataset.
    """
    closure = closure_of(store, dataset)
    columns = {n.asset: found for n in closure.nodes if (found := _columns(instance, n))}
    return dossier(store, closure, check_results(instance, closure, gates), columns, model)


def check_results(
    instance: DagsterInstance, closure: Closure, gates: Mapping[str, Sequence[str]]
) -> dict[Key, list[dict[str, Any]]]:
    """Of each dataset, the newest result of its blocking checks and of all that ran with it."""
    ran: dict[str, dict[str, set[str]]] = {}
    results: dict[Key, list[dict[str, Any]]] = {}
    for node in closure.nodes:
        asset, _ = asset_and_partition(node.asset)
        run_id = node.manifest.run_id if node.manifest else None
        if run_id and run_id not in ran:
            ran[run_id] = _ran_in(instance, run_id)
        names = {*gates.get(asset, ()), *ran.get(run_id or "", {}).get(asset, ())}
        results[node.key] = [_result(instance, node, name) for name in sorted(names)]
    return results


def _result(instance: DagsterInstance, node: Node, name: str) -> dict[str, Any]:
    found = check_result(instance, node.asset, name, node.data_version)
    return {
        "check": name,
        "passed": found.passed if found else None,
        "severity": found.severity if found else "error",
        "time": moment(found.time) if found else None,
        "run_id": found.run_id if found else None,
    }


def _ran_in(instance: DagsterInstance, run_id: str) -> dict[str, set[str]]:
    """Asset → the checks that a run evaluated."""
    of_type = DagsterEventType.ASSET_CHECK_EVALUATION
    found: dict[str, set[str]] = {}
    for record in instance.get_records_for_run(run_id, of_type=of_type).records:
        event = record.event_log_entry.dagster_event
        if event:
            data = event.asset_check_evaluation_data
            found.setdefault("/".join(data.asset_key.path), set()).add(data.check_name)
    return found


def _columns(instance: DagsterInstance, node: Node) -> dict[str, list[str]]:
    """Column → ``asset: column`` it can come from, as recorded with the frame; empty where it is none."""
    if not node.asset.endswith(FRAMES):
        return {}
    which = AssetRecordsFilter(asset_key=AssetKey(node.asset.split("/")))
    for record in instance.fetch_materializations(which, limit=100).records:
        made = record.asset_materialization
        if made and DATASET_KEY in made.metadata and made.metadata[DATASET_KEY].value == node.dataset:
            recorded: Any = made.metadata.get(COLUMNS_KEY)
            deps = recorded.value.deps_by_column if recorded else {}
            return {
                column: [f"{'/'.join(d.asset_key.path)}: {d.column_name}" for d in sources]
                for column, sources in sorted(deps.items())
                if sources
            }
    return {}
