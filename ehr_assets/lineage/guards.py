"""Gates between assets: nothing is built on data that a blocking check has not passed.

Dagster's `blocking=True` stops downstream steps of the same run only. `require_passed_checks` closes the
door for good: it looks up the newest result of every blocking check for exactly the data version about to
be read, in whichever run it was made.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dagster import AssetCheckEvaluation, AssetCheckKey, AssetKey, DagsterInstance
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord

from ehr_assets.errors import GateRefusedError
from ehr_assets.lineage.ancestry import disagreements
from ehr_assets.lineage.datasets import Dataset
from ehr_assets.lineage.manifest import InputEntry
from ehr_assets.lineage.names import asset_and_partition, launch_command

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
    if reason := override_reason():
        line = f"{asset}@{upstream.data_version[:12]} used although {'; '.join(problems)}. Reason: {reason}"
        return [*upstream.manifest.overrides, line]
    raise GateRefusedError(
        f"'{asset}' has not passed its checks: {'; '.join(problems)}.",
        where=f"{asset}, data version {upstream.data_version[:12]}",
        do=(
            f"Mend the data and rebuild it, or run its checks: {launch_command(asset)}. "
            f"To go on regardless while debugging, set {OVERRIDE_VARIABLE} to the reason; "
            "it is written into every descendant's manifest."
        ),
    )


def require_common_ancestry(inputs: Sequence[Dataset], found: dict[str, dict[str, InputEntry]]) -> list[str]:
    """Refuses inputs whose ancestry holds one asset with two contents; returns the override in force.

    Args:
        inputs: the datasets about to be read together.
        found: their `ancestors`.

    Raises:
        GateRefusedError: naming the asset and both data versions, when no override is set.
    """
    problems = disagreements(found)
    if not problems:
        return []
    names = ", ".join(d.manifest.asset for d in inputs)
    if reason := override_reason():
        return [f"{names} used together although made from different {'; '.join(problems)}. Reason: {reason}"]
    raise GateRefusedError(
        f"The inputs do not belong together, being made from different versions of {'; '.join(problems)}.",
        where=names,
        do="Bring them up to date first: `ehr run` does it for the whole cohort. "
        f"To go on regardless while debugging, set {OVERRIDE_VARIABLE} to the reason; "
        "it is written into every descendant's manifest.",
    )


def override_reason() -> str | None:
    """Why gates are to be opened regardless; None when they are not."""
    return os.environ.get(OVERRIDE_VARIABLE) or None


def failing_checks(
    instance: DagsterInstance, asset: str, data_version: str, checks: Sequence[str]
) -> list[str]:
    """``<check>: <why it does not pass for this data version>``, for those of `checks` that do not."""
    found = ((name, _problem(instance, asset, name, data_version)) for name in checks)
    return [f"{name}: {problem}" for name, problem in found if problem]


@dataclass(frozen=True)
class CheckResult:
    """The newest result of a check for a data version. `time`: seconds since 1970."""

    check: str
    passed: bool
    severity: str
    time: float
    run_id: str


def check_result(instance: DagsterInstance, asset: str, check: str, data_version: str) -> CheckResult | None:
    """None where it has none for this data version."""
    name, partition = asset_and_partition(asset)
    key = AssetCheckKey(AssetKey(name.split("/")), check)
    for record in _history(instance, key):
        evaluation = record.evaluation
        if not isinstance(evaluation, AssetCheckEvaluation):  # planned, and perhaps never run
            continue
        version = evaluation.metadata.get(DATA_VERSION_KEY)
        if evaluation.partition == partition and version is not None and version.value == data_version:
            severity = evaluation.severity.value.lower()
            return CheckResult(check, evaluation.passed, severity, record.create_timestamp, record.run_id)
    return None


def _problem(instance: DagsterInstance, asset: str, check: str, data_version: str) -> str | None:
    """Why this check does not open the gate; None if it passed for this data version."""
    found = check_result(instance, asset, check, data_version)
    if found is None:
        return "has no result for this data version"
    return None if found.passed else "failed"


def _history(instance: DagsterInstance, key: AssetCheckKey) -> Iterator[AssetCheckExecutionRecord]:
    """All results of a check, of whatever partition, newest first."""
    cursor, page = None, 50
    while True:
        found = instance.event_log_storage.get_asset_check_execution_history(key, limit=page, cursor=cursor)
        yield from found
        if len(found) < page:
            return
        cursor = found[-1].id
