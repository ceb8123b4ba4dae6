"""Dagster checks of this room: pages stand alone, a profile shows no rare code, a grid's table is whole."""

import re

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetChecksDefinition, AssetKey, asset_check

from ehr_assets.cohorts.spec import CohortSpec
from ehr_assets.reports.assets import ablation_key, profile_key, report_key
from ehr_assets.reports.spec import ReportSpec
from ehr_assets.training.grid import Grid
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


def ablation_checks(grid: Grid) -> list[AssetChecksDefinition]:
    key = ablation_key(grid.spec.name)

    @asset_check(
        asset=key,
        name="every_point_scored",
        blocking=True,
        description="The table has a line for every point of every group, and a finite score in each.",
    )
    def every_point_scored(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        from ehr_assets.reports.ablation import read_ablation

        dataset = datasets.latest(context.instance, key)
        rows, _ = read_ablation(dataset.path)
        scored = rows.filter(rows["auroc"].is_finite()).select("group", "point").rows()
        expected = [(point.group, point.key) for point in grid.points]
        return datasets.judge(dataset, scored == expected, {"lines": len(expected), "scored": len(scored)})

    return [every_point_scored]


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
