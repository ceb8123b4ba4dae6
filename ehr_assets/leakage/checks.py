"""Dagster checks of this room: one blocking check per guard of an audit.

The gates read these: nothing is fitted, scored or reported on what a guard has refused. The proof of fits
(`proof.py`) is asked of the assets that fit, by the checks of their room.
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
