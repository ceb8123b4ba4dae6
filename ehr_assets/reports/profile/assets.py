"""Dagster asset of this folder: `<cohort>/profile`."""

from dagster import AssetExecutionContext, AssetKey, AssetsDefinition, MaterializeResult, MetadataValue, asset

from ehr_assets.cohorts.spec import CohortSpec
from ehr_assets.lineage.datasets import Dataset
from ehr_assets.lineage.hashing import code_version
from ehr_assets.meds.assets import meds_events_key
from resources.storage import Datasets, Shown, Stats, Step, asset_name


def profile_key(cohort: str) -> AssetKey:
    return AssetKey([cohort, "profile"])


def profile_assets(cohort: CohortSpec) -> list[AssetsDefinition]:
    events = meds_events_key(cohort.name)

    @asset(
        key=profile_key(cohort.name),
        deps=[events],
        group_name=cohort.name,
        kinds={"html", "duckdb"},
        code_version=code_version(
            [
                "reports/profile/page.py",
                "reports/profile/profile.html",
                "reports/profile/profile.css",
                "reports/blocks.html",
                "reports/report.css",
            ],
            cohort.config_hash("title", "description"),
        ),
        description="What is in the cohort: events by section and year, follow-up, missingness, top codes.",
    )
    def profile(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
        from ehr_assets.reports.profile.page import write_profile

        def build(step: Step) -> Stats:
            meds = step.inputs[asset_name(events)]
            lineage = [
                {
                    "asset": asset_name(events),
                    "data version": meds.data_version[:16],
                    "code version": meds.manifest.code_version,
                }
            ]
            return write_profile(
                cohort.title, cohort.description, meds.path, lineage, step.out, step.machine, step.overrides
            )

        return datasets.materialize(context, build, shown=Shown(more=_profile))

    return [profile]


def _profile(dataset: Dataset) -> dict[str, MetadataValue]:
    from ehr_assets.reports.profile.page import PAGE, picture_png

    picture = f"![events by section and year](data:image/png;base64,{picture_png(dataset.path)})"
    return {
        "page": MetadataValue.path(str(dataset.path / PAGE)),
        "events by section and year": MetadataValue.md(picture),
    }
