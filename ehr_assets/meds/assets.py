"""Dagster assets of this room: `<cohort>/subject_splits` and `<cohort>/meds_events`."""

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    MaterializeResult,
    TableColumnDep,
    TableColumnLineage,
    asset,
)

from ehr_assets.cohorts.assets import raw_tables_key
from ehr_assets.cohorts.event_spec import EventSpec, SectionRules
from ehr_assets.cohorts.spec import CohortSpec
from ehr_assets.cohorts.templates import template_columns
from ehr_assets.lineage.hashing import code_version
from resources.storage import Datasets, Shown, Stats, Step, asset_name

# The keys of a cohort file that its events depend on; the threshold of the quarantine is the check's alone.
_SHAPES_EVENTS = ("tables", "subjects", "time_zone", "shard_subjects")


def subject_splits_key(cohort: str) -> AssetKey:
    return AssetKey([cohort, "subject_splits"])


def meds_events_key(cohort: str) -> AssetKey:
    return AssetKey([cohort, "meds_events"])


def meds_assets(cohort: CohortSpec) -> list[AssetsDefinition]:
    raw, splits = raw_tables_key(cohort.name), subject_splits_key(cohort.name)

    @asset(
        key=splits,
        deps=[raw],
        group_name=cohort.name,
        kinds={"parquet"},
        code_version=code_version(
            ["meds/splits.py", "cohorts/origin.py"], cohort.config_hash("splits", "subjects", "tables")
        ),
        description="Who is in train, tuning or held_out: by a salted hash of the person alone.",
    )
    def subject_splits(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
        from ehr_assets.cohorts.origin import tables_root
        from ehr_assets.meds.splits import write_splits

        given = cohort.splits.given
        read = {cohort.roster.file, *([given.file] if given else [])}

        def build(step: Step) -> Stats:
            root = tables_root(cohort, step.inputs[asset_name(raw)].path, only=read)
            return write_splits(cohort, root, step.out)

        return datasets.materialize(
            context,
            build,
            config=cohort.splits.model_dump(mode="json"),
            shown=Shown(schema_of="subject_splits"),
        )

    @asset(
        key=meds_events_key(cohort.name),
        deps=[raw, splits],
        group_name=cohort.name,
        kinds={"polars", "parquet"},
        code_version=code_version(
            ["meds/extract.py", "cohorts/origin.py"],
            cohort.config_hash(*_SHAPES_EVENTS),
        ),
        description="Every raw row as MEDS events with the time each could first be known, or in quarantine.",
    )
    def meds_events(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
        from ehr_assets.cohorts.origin import tables_root
        from ehr_assets.meds.extract import extract_meds

        def build(step: Step) -> Stats:
            root = tables_root(cohort, step.inputs[asset_name(raw)].path)
            split_file = step.inputs[asset_name(splits)].path / "subject_splits.parquet"
            return extract_meds(cohort, root, split_file, step.out, step.progress, step.machine)

        return datasets.materialize(
            context,
            build,
            config=cohort.model_dump(mode="json", include={*_SHAPES_EVENTS}),
            shown=Shown(schema_of="data/", column_lineage=_column_lineage(cohort)),
        )

    return [subject_splits, meds_events]


def _column_lineage(cohort: CohortSpec) -> TableColumnLineage:
    """MEDS column → the raw columns (``table.column``) that it can come from, read off the spec."""
    raw = raw_tables_key(cohort.name)
    sources: dict[str, set[str]] = {}
    for table in cohort.tables:
        sources.setdefault("subject_id", set()).add(f"{table.name}.{table.subject_id}")
        for event in table.events:
            for column, names in _columns_by_field(event).items():
                found = (source for name in names for source in table.sources(name))
                sources.setdefault(column, set()).update(f"{table.name}.{source}" for source in found)
    return TableColumnLineage(
        {
            column: [TableColumnDep(asset_key=raw, column_name=name) for name in sorted(names)]
            for column, names in sources.items()
        }
    )


def _columns_by_field(event: EventSpec) -> dict[str, set[str]]:
    times = {c for t in event.time or [] for step in t.steps() for c in step.columns()}
    return {
        "time": times,
        "available_time": times | {c for t in event.available or [] for c in t.columns()},
        "code": template_columns(event.code),
        "numeric_value": {c for c in (event.value, event.numeric_value) if c},
        "text_value": {c for c in (event.value, event.text_value) if c},
        "section": {event.section.column} if isinstance(event.section, SectionRules) else set(),
    }
