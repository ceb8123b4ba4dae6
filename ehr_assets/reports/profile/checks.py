"""Dagster checks of `<cohort>/profile`: the page stands alone and shows no rare code."""

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetChecksDefinition, asset_check

from ehr_assets.cohorts.spec import CohortSpec
from ehr_assets.reports.checks import self_contained
from ehr_assets.reports.profile.assets import profile_key
from resources.storage import Datasets


def profile_checks(cohort: CohortSpec) -> list[AssetChecksDefinition]:
    key = profile_key(cohort.name)

    @asset_check(
        asset=key,
        name="no_rare_codes",
        blocking=True,
        description="Every code on the page, and in the numbers behind it, is one that many subjects have.",
    )
    def no_rare_codes(context: AssetCheckExecutionContext, datasets: Datasets) -> AssetCheckResult:
        from ehr_assets.reports.profile.page import read_profile
        from ehr_assets.reports.profile.tables import FEWEST

        dataset = datasets.latest(context.instance, key)
        codes = read_profile(dataset.path).codes
        rare = sum(code.subjects < FEWEST for code in codes)
        return datasets.judge(dataset, not rare, {"codes_shown": len(codes), "rare": rare})

    return [self_contained(key, "profile.html"), no_rare_codes]
