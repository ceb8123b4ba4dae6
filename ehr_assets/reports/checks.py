"""Dagster checks of this room: the page stands alone and names no subject."""

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetChecksDefinition, asset_check

from ehr_assets.reports.assets import report_key
from ehr_assets.reports.spec import ReportSpec
from resources.storage import Datasets


def report_checks(report: ReportSpec) -> list[AssetChecksDefinition]:
    key = report_key(report.name)

    @asset_check(
        asset=key,
        name="self_contained",
        blocking=True,
        description="The page fetches nothing: no link, script, style sheet or picture from elsewhere.",
    )
    def self_contained(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        import re

        dataset = datasets.latest(context.instance, key)
        page = (dataset.path / "report.html").read_text(encoding="utf-8")
        outside = re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", page)
        return datasets.judge(dataset, not outside, {"outside_references": len(outside)})

    return [self_contained]
