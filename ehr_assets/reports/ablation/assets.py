"""Dagster asset of this folder: `<grid>/ablation`."""

from dagster import AssetExecutionContext, AssetKey, AssetsDefinition, MaterializeResult, MetadataValue, asset

from ehr_assets.lineage.datasets import Dataset
from ehr_assets.lineage.hashing import code_version
from ehr_assets.lineage.names import dataset_name
from ehr_assets.probes.assets import probe_metrics_key
from ehr_assets.training.grid import Grid
from resources.storage import Datasets, Shown, Stats, Step, asset_name


def ablation_key(grid: str) -> AssetKey:
    return AssetKey([grid, "ablation"])


def ablation_assets(grid: Grid) -> list[AssetsDefinition]:
    metrics = probe_metrics_key(grid.spec.name)

    @asset(
        key=ablation_key(grid.spec.name),
        deps=[metrics],
        group_name=grid.spec.name,
        kinds={"parquet"},
        code_version=code_version(["reports/ablation/table.py"], grid.spec.config_hash()),
        description=grid.spec.title,
    )
    def ablation(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
        from ehr_assets.reports.ablation.table import write_ablation

        def build(step: Step) -> Stats:
            found = {p: step.inputs[dataset_name(asset_name(metrics), p)].path for p in grid.recipes}
            return write_ablation(grid, found, step.out)

        return datasets.materialize(
            context, build, config=grid.spec.model_dump(mode="json"), shown=Shown(more=_ablation)
        )

    return [ablation]


def _ablation(dataset: Dataset) -> dict[str, MetadataValue]:
    from ehr_assets.reports.ablation.table import ablation_markdown, ablation_png

    picture = f"![mean AUROC of each point](data:image/png;base64,{ablation_png(dataset.path)})"
    return {"table": MetadataValue.md(ablation_markdown(dataset.path)), "plot": MetadataValue.md(picture)}
