"""What was promoted and rolled back, as Dagster recorded it, and the verdict that is to be beaten.

Read from the events of the runs that did it, not from the records they wrote: a damaged record stops nobody
from rolling back.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dagster import AssetKey, DagsterInstance, EventLogRecord

from ehr_assets.reports.promotion.acts import Act, accepted
from resources.recorded import DATASET_KEY
from resources.storage import Datasets, asset_name
from resources.tracking import CHAMPION, MlflowTracking

if TYPE_CHECKING:
    from ehr_assets.reports.verdict import Accepted

PROMOTION, ROLLBACK = "promotion", "rollback"
PAGE = 500


def promotion_key(report: str) -> AssetKey:
    return AssetKey([report, PROMOTION])


def rollback_key(model: str) -> AssetKey:
    return AssetKey([model, ROLLBACK])


def recorded_acts(instance: DagsterInstance) -> list[Act]:
    """All promotions and rollbacks, oldest first; those of reports that are no more among them."""
    keys = [k for k in instance.all_asset_keys() if len(k.path) == 2 and k.path[-1] in (PROMOTION, ROLLBACK)]
    records = sorted((r for key in keys for r in _events(instance, key)), key=lambda r: r.storage_id)
    return [act for record in records if (act := _act(record))]


def rollback_begun(instance: DagsterInstance, acts: list[Act], model: str, run_id: str) -> Act | None:
    """The newest act about a model, if it is a rollback that this run, or one that failed, recorded.

    Whether the alias had moved by then or not: who tries again means the same version, and none further back.
    """
    act = next((a for a in reversed(acts) if a.model == model), None)
    if act is None or act.action != "rolled_back":
        return None
    run = instance.get_run_by_id(act.run_id)
    return act if act.run_id == run_id or (run is not None and run.is_failure_or_canceled) else None


def verdict_to_beat(
    instance: DagsterInstance, datasets: Datasets, tracking: MlflowTracking, report: str
) -> "Accepted | None":
    """The accepted verdict that a report's candidate is held against; None if there is none.

    Raises:
        DatasetError: its record is gone or was altered.
        TrackingError: the registry cannot be asked what is in use.
    """
    from ehr_assets.reports.verdict import Accepted, read_verdict

    act = accepted(recorded_acts(instance), report, lambda model: tracking.alias(model, CHAMPION))
    if act is None:
        return None
    found = datasets.store.open(
        asset_name(promotion_key(report)), act.dataset, data_version=act.data_version or None
    )
    return Accepted(read_verdict(found.path), found.data_version)


def _events(instance: DagsterInstance, key: AssetKey) -> Iterator[EventLogRecord]:
    cursor = None
    while True:
        found = instance.fetch_materializations(key, limit=PAGE, cursor=cursor)
        yield from found.records
        if not found.has_more:
            return
        cursor = found.cursor


def _act(record: EventLogRecord) -> Act | None:
    made = record.asset_materialization
    if made is None or DATASET_KEY not in made.metadata:
        return None
    told: dict[str, Any] = {k: made.metadata[k].value for k in Act.__annotations__ if k in made.metadata}
    told[DATASET_KEY] = str(told[DATASET_KEY])
    told["run_id"] = record.run_id
    told["data_version"] = (made.tags or {}).get("dagster/data_version", "")
    return Act(**{"version": None, "previous": None, **told})
