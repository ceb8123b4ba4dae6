"""Jobs: the whole chain of each report as one run, to be launched from the UI or a schedule."""

from dagster import AssetKey, AssetSelection, define_asset_job
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from ehr_assets.catalog import Catalog


def chain_jobs(catalog: Catalog) -> list[UnresolvedAssetJobDefinition]:
    """`<report>_chain`: from raw tables to the report, and to the profiles of its cohorts."""
    return [
        define_asset_job(
            f"{name}_chain",
            selection=AssetSelection.assets(
                AssetKey([name, "report"]), *(AssetKey([cohort, "profile"]) for cohort in report.cohorts)
            ).upstream(),
            description=f"The whole chain, from raw tables to the report: {report.title}",
        )
        for name, report in catalog.reports.items()
    ]
