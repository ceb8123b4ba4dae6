"""Dagster checks of this room: pages stand alone, and a profile shows no rare code."""

import re

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetChecksDefinition, AssetKey, asset_check

from ehr_assets.cohorts.spec import CohortSpec
from ehr_assets.reports.assets import profile_key, report_key
from ehr_assets.reports.spec import ReportSpec
from resources.storage import Datasets


def report_checks(report: ReportSpec) -> list[AssetChecksDefinition]:
    return [_self_contained(report_key(report.name), "report.html")]


def profile_checks(cohort: CohortSpec) -> list[AssetChecksDefinition]:
    key = profile_key(cohort.name)

    @asset_check(
        asset=key,
        name="no_rare_codes",
        blocking=True,
        description="Every code on the page, and in the numbers behind it, is one that many subjects have.",
    )
    def no_rare_codes(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        from ehr_assets.reports.profile import read_profile
        from ehr_assets.reports.profile_tables import FEWEST

        dataset = datasets.latest(context.instance, key)
        codes = read_profile(dataset.path).codes
        rare = sum(code.subjects < FEWEST for code in codes)
        return datasets.judge(dataset, not rare, {"codes_shown": len(codes), "rare": rare})

    return [_self_contained(key, "profile.html"), no_rare_codes]


def _self_contained(key: AssetKey, page: str) -> AssetChecksDefinition:
    @asset_check(
        asset=key,
        name="self_contained",
        blocking=True,
        description="The page fetches nothing: no link, script, style sheet or picture from elsewhere.",
    )
    def self_contained(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        dataset = datasets.latest(context.instance, key)
        text = (dataset.path / page).read_text(encoding="utf-8")
        outside = re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", text)
        return datasets.judge(dataset, not outside, {"outside_references": len(outside)})

    return self_contained
