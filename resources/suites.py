"""Suites of expectations as Dagster checks: one result per expectation, counts only."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSpec,
    AssetKey,
    multi_asset_check,
)

from ehr_assets.expectations import Expectation, Verdict
from ehr_assets.lineage.datasets import Dataset
from resources.storage import Datasets

Validate = Callable[[Dataset, Datasets, Path], Sequence[Verdict]]


def suite_checks(
    key: AssetKey, expectations: Sequence[Expectation], validate: Validate
) -> AssetChecksDefinition:
    """The checks of an asset's newest dataset.

    Args:
        expectations: at least one; those that do not block warn.
        validate: a verdict for each, given the dataset and a folder of the store for what is written on the
            way, which is gone afterwards.
    """
    suite = {e.name: e for e in expectations}

    @multi_asset_check(
        name="__".join([*key.path, "suite"]),
        specs=[
            AssetCheckSpec(e.name, asset=key, description=e.description, blocking=e.blocking)
            for e in suite.values()
        ],
    )
    def checks(context: AssetCheckExecutionContext, datasets: Datasets) -> Iterator[AssetCheckResult]:
        dataset = datasets.latest(context.instance, key)
        with datasets.store.staging() as scratch:
            verdicts = validate(dataset, datasets, scratch)
        for verdict in verdicts:
            yield datasets.judge(
                dataset,
                verdict.passed,
                verdict.counts,
                check_name=verdict.name,
                description=verdict.note or None,
                warns=not suite[verdict.name].blocking,
            )

    return checks
