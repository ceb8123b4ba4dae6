"""Dagster checks of this room: one blocking check per guard of an audit, and the proof of fits.

The gates read these: nothing is fitted, scored or reported on what a guard has refused.
"""

from collections.abc import Mapping, Sequence

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetKey,
    PartitionsDefinition,
    asset_check,
)

from ehr_assets.cohorts.spec import CohortSpec
from ehr_assets.leakage.assets import leak_audit_key
from ehr_assets.leakage.guards import COHORT_GUARDS, RECIPE_GUARDS
from ehr_assets.meds.assets import subject_splits_key
from ehr_assets.nodes.assets import decision_nodes_key, task_labels_key
from resources.points import Points
from resources.storage import Datasets


def cohort_audit_checks(cohort: CohortSpec) -> list[AssetChecksDefinition]:
    return _guard_checks(leak_audit_key(cohort.name), COHORT_GUARDS)


def recipe_audit_checks(points: Points, cohorts: Sequence[str]) -> list[AssetChecksDefinition]:
    guards = dict(RECIPE_GUARDS)
    if len(cohorts) == 1:  # nothing to compare it with: its own audit has told
        del guards["no_near_duplicates"]
    return _guard_checks(leak_audit_key(points.recipe.name), guards, points.partitions)


def _guard_checks(
    key: AssetKey, guards: Mapping[str, str], partitions: PartitionsDefinition | None = None
) -> list[AssetChecksDefinition]:
    return [_guard_check(key, name, about, partitions) for name, about in guards.items()]


def _guard_check(
    key: AssetKey, guard: str, about: str, partitions: PartitionsDefinition | None
) -> AssetChecksDefinition:
    @asset_check(asset=key, name=guard, partitions_def=partitions, blocking=True, description=about)
    def holds(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        from ehr_assets.leakage.findings import read_findings, verdict

        dataset = datasets.judged(context, key)
        said = verdict(read_findings(dataset.path), guard)
        return datasets.judge(dataset, said.passed, said.counts, description=said.problem)

    return holds


def fit_checks(
    key: AssetKey, cohorts: Sequence[str], partitions: PartitionsDefinition | None = None
) -> list[AssetChecksDefinition]:
    """Of an asset with fits: its ledger against the splits and labels that it was made from."""
    parts = {c: (decision_nodes_key(c), task_labels_key(c), subject_splits_key(c)) for c in cohorts}

    @asset_check(
        asset=key,
        name="fits_proved",
        partitions_def=partitions,
        blocking=True,
        additional_deps=[k for keys in parts.values() for k in keys],
        description="Every fit saw exactly the train subjects of its task, every choice its development.",
    )
    def fits_proved(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        from ehr_assets.leakage.findings import as_frame, verdict
        from ehr_assets.leakage.proof import GUARD, CohortFiles, fits_proved

        dataset = datasets.judged(context, key)
        files = {
            cohort: CohortFiles(*(datasets.used(context.instance, dataset, k).path for k in keys))
            for cohort, keys in parts.items()
        }
        said = verdict(as_frame(fits_proved(dataset.manifest.asset, dataset.path, files)), GUARD)
        return datasets.judge(dataset, said.passed, said.counts, description=said.problem)

    return [fits_proved]
