"""Dagster checks of a report: its page stands alone, its comparison is fair, its verdict can be read."""

import re
from pathlib import Path

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetChecksDefinition, AssetKey, asset_check

from ehr_assets.lineage.datasets import Dataset
from ehr_assets.lineage.names import asset_and_partition
from ehr_assets.meds.assets import subject_splits_key
from ehr_assets.reports.assets import comparison_key, report_key, verdict_key
from ehr_assets.reports.spec import ReportSpec
from resources.storage import Datasets, asset_name


def report_checks(report: ReportSpec) -> list[AssetChecksDefinition]:
    return [self_contained(report_key(report.name), "report.html")]


def verdict_checks(report: ReportSpec) -> list[AssetChecksDefinition]:
    """One blocking check that the verdict can be read, and its criteria one by one, which stop nobody."""
    key = verdict_key(report.name)

    @asset_check(
        asset=key,
        name="readable",
        blocking=True,
        description="The verdict has its format, names the report's candidate, and agrees with its criteria.",
    )
    def readable(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        from ehr_assets.reports.verdict import read_verdict

        dataset = datasets.latest(context.instance, key)
        found = read_verdict(dataset.path)
        passed = all(c["passed"] for c in found["criteria"])
        agrees = found["may_be_promoted"] is passed and bool(found["reasons"]) is not passed
        named = (found["report"], found["recipe"]) == (report.name, report.candidate)
        return datasets.judge(dataset, agrees and named, {"may_be_promoted": found["may_be_promoted"]})

    def criterion(name: str, description: str) -> AssetChecksDefinition:
        @asset_check(asset=key, name=name, blocking=False, description=description)
        def check(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
            from ehr_assets.reports.verdict import read_verdict

            dataset = datasets.latest(context.instance, key)
            (found,) = (c for c in read_verdict(dataset.path)["criteria"] if c["name"] == name)
            return datasets.judge(dataset, found["passed"], description=found["said"], warns=True)

        return check

    return [
        readable,
        criterion("beats_baseline", "The candidate's mean lies above the baseline's on every cohort."),
        criterion(
            "not_worse_than_accepted", "The candidate loses no more than is allowed to what is in use."
        ),
        criterion("calibrated", "The candidate's mean calibration error is small enough on every cohort."),
        criterion("no_guard_fails", "Leak guards have looked at all of the report, and none failed."),
    ]


def comparison_checks(report: ReportSpec) -> list[AssetChecksDefinition]:
    key = comparison_key(report.name)

    def made_from(datasets: Datasets, dataset: Dataset) -> dict[str, list[Path]]:
        """Asset -> the datasets (of each partition) that the comparison was made from."""
        found: dict[str, list[Path]] = {}
        for entry in dataset.manifest.inputs:
            opened = datasets.store.open(entry.asset, entry.dataset, data_version=entry.data_version)
            found.setdefault(asset_and_partition(entry.asset)[0], []).append(opened.path)
        return found

    def predictions(found: dict[str, list[Path]]) -> list[Path]:
        """The files among them."""
        files = (folder / "predictions.parquet" for folders in found.values() for folder in folders)
        return [file for file in files if file.is_file()]

    @asset_check(
        asset=key,
        name="same_nodes",
        blocking=True,
        description="Every method answers at (nearly) all nodes at which any of them does.",
    )
    def same_nodes(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        from ehr_assets.probes.compare_audit import coverage

        dataset = datasets.latest(context.instance, key)
        found = coverage(predictions(made_from(datasets, dataset)), report.cohorts)
        return datasets.judge(dataset, found.ok, found.counts)

    @asset_check(
        asset=key,
        name="held_out_only",
        blocking=True,
        description="What is scored are held-out subjects, as the splits say it, and no others.",
    )
    def held_out_only(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        from ehr_assets.probes.compare_audit import held_out_only

        dataset = datasets.latest(context.instance, key)
        inputs = made_from(datasets, dataset)
        splits = {
            c: inputs[asset_name(subject_splits_key(c))][0] / "subject_splits.parquet" for c in report.cohorts
        }
        found = held_out_only(dataset.path / "metrics.parquet", predictions(inputs), splits)
        return datasets.judge(dataset, found.ok, found.counts)

    return [same_nodes, held_out_only]


def self_contained(key: AssetKey, page: str) -> AssetChecksDefinition:
    """Of any page of this room."""

    @asset_check(
        asset=key,
        name="self_contained",
        blocking=True,
        description="The page fetches nothing: no link, script, style sheet or picture from elsewhere.",
    )
    def check(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        dataset = datasets.latest(context.instance, key)
        text = (dataset.path / page).read_text(encoding="utf-8")
        outside = re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", text)
        return datasets.judge(dataset, not outside, {"outside_references": len(outside)})

    return check
