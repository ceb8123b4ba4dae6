"""Dagster checks of this room: MEDS schema, row accounting, quarantine, splits, the GE suite."""

from pathlib import Path

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetChecksDefinition, asset_check

from ehr_assets.cohorts.spec import CohortSpec
from ehr_assets.expectations import Verdict
from ehr_assets.fanout import Machine
from ehr_assets.lineage.datasets import Dataset
from ehr_assets.meds.assets import meds_events_key, subject_splits_key
from ehr_assets.meds.suites import meds_suite, validate
from resources.storage import Datasets
from resources.suites import suite_checks


def meds_checks(cohort: CohortSpec) -> list[AssetChecksDefinition]:
    events_key, splits_key = meds_events_key(cohort.name), subject_splits_key(cohort.name)

    @asset_check(
        asset=splits_key,
        name="splits_disjoint",
        blocking=True,
        description="Every subject is in exactly one split.",
    )
    def splits_disjoint(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        import polars as pl

        from ehr_assets.leakage.subjects import splits_disjoint

        dataset = datasets.latest(context.instance, splits_key)
        finding = splits_disjoint(pl.read_parquet(dataset.path / "subject_splits.parquet"))
        return datasets.judge(
            dataset,
            finding.ok,
            {
                "subjects": finding.subjects,
                "in_several_splits": finding.in_several_splits,
                "listed_again": finding.listed_again,
                **{f"subjects_{split}": n for split, n in finding.per_split.items()},
            },
        )

    @asset_check(
        asset=events_key,
        name="meds_schema",
        blocking=True,
        description="Every data and metadata file validates with the `meds` package (MEDS 0.4.1).",
    )
    def meds_schema(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        from ehr_assets.meds.audit import schema_problems

        dataset = datasets.latest(context.instance, events_key)
        problems = schema_problems(dataset.path)
        return datasets.judge(dataset, not problems, {"files_with_problems": len(problems)})

    @asset_check(
        asset=events_key,
        name="rows_accounted_for",
        blocking=True,
        description="Table by table: accepted + quarantined = rows read.",
    )
    def rows_accounted_for(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        from ehr_assets.meds.audit import accounting

        dataset = datasets.latest(context.instance, events_key)
        a = accounting(dataset.path)
        return datasets.judge(
            dataset,
            a.balanced,
            {
                "read": a.read,
                "accepted": a.accepted,
                "quarantined": a.quarantined,
                "tables_off": a.tables_off,
            },
        )

    @asset_check(
        asset=events_key,
        name="quarantine_below_threshold",
        blocking=True,
        description=f"At most {cohort.quarantine_threshold:.1%} of the rows read are in quarantine.",
    )
    def quarantine_below_threshold(
        context: AssetCheckExecutionContext, datasets: Datasets
    ) -> AssetCheckResult:
        from ehr_assets.meds.audit import accounting

        dataset = datasets.latest(context.instance, events_key)
        a = accounting(dataset.path)
        return datasets.judge(
            dataset,
            a.quarantined <= cohort.quarantine_threshold * a.read,
            {
                "share": a.quarantined / max(a.read, 1),
                **{f"quarantined: {reason}": n for reason, n in a.reasons.items()},
            },
        )

    @asset_check(
        asset=events_key,
        name="files_follow_splits",
        blocking=True,
        additional_deps=[splits_key],
        description="Every subject's events lie in the folder of the split it was given.",
    )
    def files_follow_splits(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        import polars as pl

        from ehr_assets.leakage.subjects import splits_agree
        from ehr_assets.meds.audit import subjects_by_folder

        dataset = datasets.latest(context.instance, events_key)
        splits = datasets.used(context.instance, dataset, splits_key)
        finding = splits_agree(
            subjects_by_folder(dataset.path), pl.read_parquet(splits.path / "subject_splits.parquet")
        )
        return datasets.judge(
            dataset,
            finding.ok,
            {"subjects": finding.subjects, "misplaced": finding.in_another_split + finding.without_split},
        )

    def suite(dataset: Dataset, datasets: Datasets, scratch: Path) -> list[Verdict]:
        previous = datasets.store.previous(dataset)
        return validate(dataset.path, cohort.quality, Machine.from_env(), previous, scratch)

    return [
        splits_disjoint,
        meds_schema,
        rows_accounted_for,
        quarantine_below_threshold,
        files_follow_splits,
        suite_checks(events_key, meds_suite(cohort.quality), suite),
    ]
