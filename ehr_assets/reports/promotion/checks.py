"""Dagster checks of this folder: what is in use is what the newest act says."""

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetChecksDefinition, AssetKey, asset_check

from resources.promotions import promotion_key, recorded_acts, rollback_key
from resources.storage import Datasets
from resources.tracking import CHAMPION, MlflowTracking


def promotion_checks(report: str) -> list[AssetChecksDefinition]:
    return [_in_use(promotion_key(report))]


def rollback_checks(model: str) -> list[AssetChecksDefinition]:
    return [_in_use(rollback_key(model))]


def _in_use(key: AssetKey) -> AssetChecksDefinition:
    @asset_check(
        asset=key,
        name="in_use",
        blocking=True,
        description="The record can be read, and the registry's `champion` is on the version that the newest "
        "act about this model put into use. Else somebody moved it by hand.",
    )
    def in_use(
        context: AssetCheckExecutionContext, datasets: Datasets, tracking: MlflowTracking
    ) -> AssetCheckResult:
        from ehr_assets.reports.promotion.acts import read_record

        dataset = datasets.latest(context.instance, key)
        model = read_record(dataset.path)["model"]
        champion = tracking.alias(model, CHAMPION)
        newest = next(a for a in reversed(recorded_acts(context.instance)) if a.model == model)
        told = {"champion": champion or "none", "recorded": newest.version or "none"}
        return datasets.judge(dataset, champion == newest.version, told)

    return in_use
