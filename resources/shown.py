"""What Dagster's pages show of a dataset: where it lies, its counts, its columns and where they come from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dagster import (
    AssetKey,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    TableColumn,
    TableColumnLineage,
    TableSchema,
)

from ehr_assets.lineage.datasets import Dataset, DatasetStore
from resources.recorded import DATASET_KEY

ADDRESS_KEY = "address"
"""Metadata of a materialization: where its dataset lies on an object store."""


def _nothing_more(dataset: Dataset) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class Shown:
    """What Dagster's pages show of a dataset beside its stats, when it is made and when it is kept.

    Args:
        schema_of: the first table of this name (or folder) gives the column schema.
        column_lineage: of that table.
        more: metadata read off the dataset, pictures for instance.
    """

    schema_of: str | None = None
    column_lineage: TableColumnLineage | None = None
    more: Callable[[Dataset], Mapping[str, Any]] = _nothing_more


NOTHING_MORE = Shown()


def result(
    store: DatasetStore, key: AssetKey, dataset: Dataset, shown: Shown, also: Mapping[str, Any] | None = None
) -> MaterializeResult:
    """The dataset as a materialization of its asset."""
    m, relative = dataset.manifest, store.relative(dataset)
    metadata: dict[str, Any] = {
        DATASET_KEY: MetadataValue.text(relative),
        "path": MetadataValue.path(str(dataset.path)),
        "bytes": m.total_bytes,
        "files": len(m.files),
        **{k: v for k, v in m.stats.items() if isinstance(v, int | float | str | bool)},
        **shown.more(dataset),
        **(also or {}),
    }
    if store.where(relative) != str(dataset.path):
        metadata[ADDRESS_KEY] = store.where(relative)
    if m.row_counts:
        metadata["dagster/row_count"] = sum(m.row_counts.values())
    table = shown.schema_of and next((s for n, s in m.schemas.items() if n.startswith(shown.schema_of)), None)
    if table:
        metadata["dagster/column_schema"] = TableSchema([TableColumn(n, t) for n, t in table.items()])
    if shown.column_lineage:
        metadata["dagster/column_lineage"] = shown.column_lineage
    if m.overrides:
        metadata["overrides"] = MetadataValue.md("\n".join(f"- {line}" for line in m.overrides))
    return MaterializeResult(asset_key=key, data_version=DataVersion(m.data_version), metadata=metadata)
