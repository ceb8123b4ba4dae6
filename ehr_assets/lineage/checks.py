"""Dagster check of this room: whether a dossier could show everything to be in order."""

import json

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetChecksDefinition, asset_check

from ehr_assets.lineage.assets import DOCUMENT, dossier_key
from resources.points import Points
from resources.storage import Datasets


def dossier_checks(points: Points) -> list[AssetChecksDefinition]:
    key = dossier_key(points.recipe.name)

    @asset_check(
        asset=key,
        name="closure_in_order",
        partitions_def=points.partitions,
        blocking=True,
        description="No dataset that it was made from is gone, and all their blocking checks passed.",
    )
    def closure_in_order(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        from ehr_assets.lineage.dossier import problems

        dataset = datasets.judged(context, key)
        found = problems(json.loads((dataset.path / DOCUMENT).read_text(encoding="utf-8")))
        return datasets.judge(
            dataset, not found, {"problems": len(found)}, description=" ".join(found) or None
        )

    return [closure_in_order]
