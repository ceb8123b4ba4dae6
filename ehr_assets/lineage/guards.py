"""Gates between assets: nothing is built on data that a blocking check has not passed.

Dagster's `blocking=True` stops downstream steps of the same run only. `require_passed_checks` closes the
door for good: it looks up the newest result of every blocking check for exactly the data version about to
be read, in whichever run it was made.
"""

import os
from collections.abc import Sequence

from dagster import AssetCheckEvaluation, AssetCheckKey, AssetKey, DagsterInstance

from ehr_assets.errors import GateRefusedError
from ehr_assets.lineage.datasets import Dataset

DATA_VERSION_KEY = "data_version"
OVERRIDE_VARIABLE = "EHR_ALLOW_FAILED_CHECKS"


def require_passed_checks(instance: DagsterInstance, upstream: Dataset, checks: Sequence[str]) -> list[str]:
    """Refuses unless the newest result of each named check passed for this data version.

    Returns the overrides in force: empty, or one line that names the checks that were passed over and the
    reason given in ``EHR_ALLOW_FAILED_CHECKS``. It belongs in the descendant's manifest.

    Raises:
        GateRefusedError: a check failed or has no result for this data version, and no override is set.
    """
    asset = upstream.manifest.asset
    problems = failing_checks(instance, asset, upstream.data_version, checks)
    if not problems:
        return list(upstream.manifest.overrides)
    reason = os.environ.get(OVERRIDE_VARIABLE)
    if reason:
        line = f"{asset}@{upstream.data_version[:12]} used although {'; '.join(problems)}. Reason: {reason}"
        return [*upstream.manifest.overrides, line]
    raise GateRefusedError(
        f"'{asset}' has not passed its checks: {'; '.join(problems)}.",
        where=f"{asset}, data version {upstream.data_version[:12]}",
        do=(
            f"Mend the data and rebuild it, or run its checks: dg launch --assets 'key:{asset}'. "
            f"To go on regardless while debugging, set {OVERRIDE_VARIABLE} to the reason; "
            "it is written into every descendant's manifest."
        ),
    )


def failing_checks(
    instance: DagsterInstance, asset: str, data_version: str, checks: Sequence[str]
) -> list[str]:
    """``<check>: <why it does not pass for this data version>``, for those of `checks` that do not."""
    found = ((name, _problem(instance, asset, name, data_version)) for name in checks)
    return [f"{name}: {problem}" for name, problem in found if problem]


def _problem(instance: DagsterInstance, asset: str, check: str, data_version: str) -> str | None:
    """Why this check does not open the gate; None if it passed for this data version."""
    key = AssetCheckKey(AssetKey(asset.split("/")), check)
    history = instance.event_log_storage.get_asset_check_execution_history(key, limit=50)
    for record in history:
        evaluation = record.evaluation
        if not isinstance(evaluation, AssetCheckEvaluation):  # planned, and perhaps never run
            continue
        version = evaluation.metadata.get(DATA_VERSION_KEY)
        if version is not None and version.value == data_version:
            return None if evaluation.passed else "failed"
    return "has no result for this data version"
