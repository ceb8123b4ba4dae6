"""Dagster checks of this room: what a cohort file promises of its raw tables."""

from collections.abc import Iterator

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSpec,
    multi_asset_check,
)

from ehr_assets.cohorts.assets import raw_tables_key
from ehr_assets.cohorts.promises import raw_suite
from ehr_assets.cohorts.spec import CohortSpec
from ehr_assets.fanout import Machine
from resources.storage import Datasets


def cohort_checks(cohort: CohortSpec) -> list[AssetChecksDefinition]:
    key = raw_tables_key(cohort.name)
    expectations = {e.name: e for e in raw_suite(cohort)}
    if not expectations:
        return []

    @multi_asset_check(
        name=f"{cohort.name}__raw_tables__suite",
        specs=[
            AssetCheckSpec(e.name, asset=key, description=e.description, blocking=e.blocking)
            for e in expectations.values()
        ],
    )
    def suite(context: AssetCheckExecutionContext, datasets: Datasets) -> Iterator[AssetCheckResult]:
        from ehr_assets.cohorts.origin import tables_root
        from ehr_assets.cohorts.raw_suites import validate_raw

        dataset = datasets.latest(context.instance, key)
        root = tables_root(cohort, dataset.path)
        for verdict in validate_raw(cohort, root, Machine.from_env()):
            yield datasets.judge(
                dataset,
                verdict.passed,
                verdict.counts,
                check_name=verdict.name,
                description=verdict.note or None,
                warns=not expectations[verdict.name].blocking,
            )

    return [suite]
