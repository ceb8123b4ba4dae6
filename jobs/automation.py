"""What Dagster may make by itself when its inputs change, and how old reports may become.

Only what costs no GPU, and only behind passed checks. The sensor `automation` is off until somebody turns it
on; so that a checkpoint or embeddings are made anew takes a run that somebody, or a schedule, asked for.
"""

from collections.abc import Iterable
from datetime import timedelta

from dagster import (
    AssetsDefinition,
    AssetSelection,
    AssetSpec,
    AutomationCondition,
    AutomationConditionSensorDefinition,
    DefaultSensorStatus,
    FreshnessPolicy,
)

from jobs.retraining import RetrainingSpec
from resources.storage import ONLY_IF_CHANGED_TAG

CHEAP = {
    *("leak_audit", "probe_metrics", "control_metrics", "comparison", "verdict", "report", "profile"),
    "ablation",
}
"""Last parts of the keys of what is made by itself."""


def cheap_condition() -> AutomationCondition:
    """When an input has another content than before (one made again to the same content has not), all are
    there, none is being made, and all blocking checks of the inputs have passed."""
    changed = AutomationCondition.data_version_changed()
    return (
        AutomationCondition.eager().replace("newly_updated", changed)
        & AutomationCondition.all_deps_blocking_checks_passed()
    )


def with_automation(assets: Iterable[AssetsDefinition], spec: RetrainingSpec) -> list[AssetsDefinition]:
    """The same assets with their conditions, and the reports with their freshness."""
    cheap = cheap_condition()
    fresh = FreshnessPolicy.time_window(
        fail_window=timedelta(days=spec.fail_days), warn_window=timedelta(days=spec.warn_days)
    )

    def given(asset: AssetSpec) -> AssetSpec:
        last = asset.key.path[-1]
        if last == "report":
            asset = asset.replace_attributes(freshness_policy=fresh)
        return asset.replace_attributes(automation_condition=cheap) if last in CHEAP else asset

    return [
        definition.map_asset_specs(given)
        if any(key.path[-1] in CHEAP for key in definition.keys)
        else definition
        for definition in assets
    ]


def automation_sensor(assets: Iterable[AssetsDefinition]) -> AutomationConditionSensorDefinition:
    """Makes what `with_automation` gave a condition, in runs that keep what would come out as it is."""
    cheap = [key for definition in assets for key in definition.keys if key.path[-1] in CHEAP]
    return AutomationConditionSensorDefinition(
        "automation",
        target=AssetSelection.assets(*cheap),
        default_status=DefaultSensorStatus.STOPPED,
        run_tags={ONLY_IF_CHANGED_TAG: "true"},
        description="Audits, probes, comparisons, verdicts, reports and profiles after their inputs changed.",
    )
