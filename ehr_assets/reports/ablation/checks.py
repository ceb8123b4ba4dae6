"""Dagster check of `<grid>/ablation`: no point is missing."""

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetChecksDefinition, asset_check

from ehr_assets.reports.ablation.assets import ablation_key
from ehr_assets.training.grid import Grid
from resources.storage import Datasets


def ablation_checks(grid: Grid) -> list[AssetChecksDefinition]:
    key = ablation_key(grid.spec.name)

    @asset_check(
        asset=key,
        name="every_point_scored",
        blocking=True,
        description="The table has a line for every point of every group, and a finite score in each.",
    )
    def every_point_scored(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        from ehr_assets.reports.ablation.table import read_ablation

        dataset = datasets.latest(context.instance, key)
        rows, _ = read_ablation(dataset.path)
        scored = rows.filter(rows["auroc"].is_finite()).select("group", "point").rows()
        expected = [(point.group, point.key) for point in grid.points]
        return datasets.judge(dataset, scored == expected, {"lines": len(expected), "scored": len(scored)})

    return [every_point_scored]
