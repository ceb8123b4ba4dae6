"""What Dagster has recorded of datasets: the newest materialization of an asset, or of a partition of it."""

from collections.abc import Collection, Sequence

from dagster import AssetKey, AssetMaterialization, AssetRecordsFilter, DagsterInstance

from ehr_assets.lineage.manifest import InputEntry
from ehr_assets.lineage.names import asset_and_partition

DATASET_KEY = "dataset"
"""Metadata of a materialization: where its dataset lies, from the storage root."""


def newest_materialization(
    instance: DagsterInstance, asset: str, partition: str | None
) -> AssetMaterialization | None:
    """The newest that Dagster knows of an asset, or of one partition of it."""
    key = AssetKey(asset.split("/"))
    if partition is None:
        event = instance.get_latest_materialization_event(key)
        return event.asset_materialization if event else None
    which = AssetRecordsFilter(asset_key=key, asset_partitions=[partition])
    records = instance.fetch_materializations(which, limit=1).records
    return records[0].asset_materialization if records else None


def newest_materializations(
    instance: DagsterInstance, keys: Sequence[AssetKey]
) -> dict[AssetKey, AssetMaterialization]:
    """The newest of each asset, of whatever partition, in one question: a database may be far away."""
    found = instance.event_log_storage.get_latest_materialization_events(keys)
    return {key: e.asset_materialization for key, e in found.items() if e and e.asset_materialization}


def recorded(instance: DagsterInstance, name: str) -> InputEntry | None:
    """The newest dataset of this name (`lineage/names.py`) that Dagster knows."""
    return _entry(name, newest_materialization(instance, *asset_and_partition(name)))


def all_recorded(instance: DagsterInstance, names: Collection[str]) -> dict[str, InputEntry | None]:
    """As `recorded`, of many; those of assets without partitions in one query."""
    keys = {name: AssetKey(name.split("/")) for name in names if asset_and_partition(name)[1] is None}
    newest = newest_materializations(instance, list(keys.values())) if keys else {}
    found = {name: _entry(name, newest.get(key)) for name, key in keys.items()}
    return found | {name: recorded(instance, name) for name in names if name not in keys}


def _entry(name: str, found: AssetMaterialization | None) -> InputEntry | None:
    version = (found.tags or {}).get("dagster/data_version") if found else None
    if found is None or version is None or DATASET_KEY not in found.metadata:
        return None
    return InputEntry(asset=name, data_version=version, dataset=str(found.metadata[DATASET_KEY].value))
