"""Dagster checks of this room: what a cohort file promises of its raw tables."""

from pathlib import Path

from dagster import AssetChecksDefinition

from ehr_assets.cohorts.assets import raw_tables_key
from ehr_assets.cohorts.promises import promised_tables, raw_suite
from ehr_assets.cohorts.spec import CohortSpec
from ehr_assets.expectations import Verdict
from ehr_assets.fanout import Machine
from ehr_assets.lineage.datasets import Dataset
from resources.storage import Datasets
from resources.suites import suite_checks


def cohort_checks(cohort: CohortSpec) -> list[AssetChecksDefinition]:
    expectations = raw_suite(cohort)
    if not expectations:
        return []
    read = {table.file for table in promised_tables(cohort)}

    def validate(dataset: Dataset, _: Datasets, scratch: Path) -> list[Verdict]:
        from ehr_assets.cohorts.origin import tables_root
        from ehr_assets.cohorts.raw_suites import validate_raw

        root = tables_root(cohort, dataset.path, only=read)
        return validate_raw(cohort, root, Machine.from_env(), scratch)

    return [suite_checks(raw_tables_key(cohort.name), expectations, validate)]
