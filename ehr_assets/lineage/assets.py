"""Dagster asset of this room: `<recipe>/dossier`, the lineage of its checkpoint and scores as a page."""

import json
from typing import Any

from dagster import AssetExecutionContext, AssetKey, AssetsDefinition, MaterializeResult, MetadataValue, asset

from ehr_assets.lineage.closure import DOSSIER
from ehr_assets.lineage.datasets import Dataset
from ehr_assets.lineage.hashing import code_version
from ehr_assets.probes.assets import probe_metrics_key
from ehr_assets.training.assets import checkpoint_key
from ehr_assets.training.recipe import RecipeSpec
from resources.points import Points
from resources.storage import Datasets, Shown, Stats, Step, asset_name

PAGE, DOCUMENT, UNCHANGING = "lineage.html", "lineage.json", "closure.json"
MADE_OF = ("closure.py", "dossier.py", "page.py", "picture.py", "dossier.html")


def dossier_key(recipe: str) -> AssetKey:
    return AssetKey([recipe, DOSSIER])


def dossier_assets(points: Points) -> list[AssetsDefinition]:
    name = points.recipe.name
    checkpoint = checkpoint_key(name)

    @asset(
        key=dossier_key(name),
        deps=[checkpoint, probe_metrics_key(name)],
        group_name=name,
        kinds={"html"},
        code_version=code_version([*(f"lineage/{file}" for file in MADE_OF), "reports/report.css"], "page"),
        description="Where the checkpoint comes from, back to the raw files, and its scores: for auditors.",
        partitions_def=points.partitions,
        metadata=points.metadata(_settings),
    )
    def dossier(context: AssetExecutionContext, datasets: Datasets) -> MaterializeResult:
        def build(step: Step) -> Stats:
            from ehr_assets.lineage.dossier import problems, unchanging
            from ehr_assets.lineage.page import dossier_page
            from resources.closures import dossier_of

            dataset = datasets.store.relative(step.inputs[asset_name(checkpoint)])
            document = dossier_of(context.instance, datasets.store, datasets.gates, dataset)
            (step.out / PAGE).write_text(dossier_page(document), encoding="utf-8")
            for file, content in ((DOCUMENT, document), (UNCHANGING, unchanging(document))):
                (step.out / file).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            return {
                "datasets": len(document["datasets"]),
                "raw_files": len(document["raw_files"]),
                "problems": len(problems(document)),
                "overridden": len(document["overrides"]),
            }

        # Runs and times are in the page, and differ between equal makings; contents alone make its version.
        return datasets.materialize(
            context, build, config={}, volatile=(PAGE, DOCUMENT), shown=Shown(more=_page)
        )

    return [dossier]


def _settings(_: RecipeSpec) -> dict[str, Any]:
    return {}


def _page(dataset: Dataset) -> dict[str, MetadataValue]:
    return {"page": MetadataValue.path(str(dataset.path / PAGE))}
