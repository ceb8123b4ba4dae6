"""Jobs, to be launched from the UI or a schedule: the chain of each report, and the points of each grid."""

from dagster import AssetKey, AssetSelection, define_asset_job
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from ehr_assets.catalog import Catalog


def _dossier_jobs(catalog: Catalog) -> list[UnresolvedAssetJobDefinition]:
    """`<recipe>_dossier`: where its newest checkpoint comes from. What it tells of must be there."""
    return [
        define_asset_job(
            f"{name}_dossier",
            selection=AssetSelection.assets(AssetKey([name, "dossier"])),
            description=f"Writes the lineage dossier of the checkpoint of {name}.",
        )
        for name in (*catalog.recipes, *catalog.grids)
    ]


def chain_jobs(catalog: Catalog) -> list[UnresolvedAssetJobDefinition]:
    """`<report>_chain`: from raw tables to the report, and to the profiles of its cohorts.

    `<grid>_points`, `<recipe>_seeds`: from a point's or seed's training to its scores, a run per partition;
    what they read must be there. A report on recipes of several seeds has no chain: one run is one partition
    (`ehr run --report` goes through them).
    """
    partitioned = {f"{name}_points": (name, grid.spec.title) for name, grid in catalog.grids.items()}
    seeded = {name: recipe for name, recipe in catalog.recipes.items() if recipe.seeds}
    partitioned |= {f"{name}_seeds": (name, recipe.title) for name, recipe in seeded.items()}
    parts = [
        define_asset_job(
            job,
            selection=AssetSelection.assets(
                *(
                    AssetKey([name, part])
                    for part in ("checkpoint", "node_embeddings", "leak_audit", "probe_metrics")
                )
            ),
            description=f"Trains and scores: {title}",
        )
        for job, (name, title) in partitioned.items()
    ]
    chains = [
        define_asset_job(
            f"{name}_chain",
            selection=AssetSelection.assets(
                AssetKey([name, "report"]), *(AssetKey([cohort, "profile"]) for cohort in report.cohorts)
            ).upstream(),
            description=f"The whole chain, from raw tables to the report: {report.title}",
        )
        for name, report in catalog.reports.items()
        if not seeded.keys() & set(report.recipes)
    ]
    return [*parts, *_dossier_jobs(catalog), *chains]
