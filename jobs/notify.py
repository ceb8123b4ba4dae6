"""The sensor that tells of failed runs; to whom is `resources/notifiers.py`.

A message has the run, the job, the assets that failed and the kinds of their errors, and none of their words:
those stand in the run's log, for those who may read it.
"""

from dagster import (
    AssetCheckSeverity,
    DagsterEventType,
    DefaultSensorStatus,
    RunFailureSensorContext,
    SensorDefinition,
    run_failure_sensor,
)

from ehr_assets.withheld import values_withheld
from resources.notifiers import Message, Notifier
from resources.storage import asset_name

NAME = "failed_runs"


def failure_sensor() -> SensorDefinition:
    @run_failure_sensor(
        name=NAME,
        monitor_all_code_locations=False,
        default_status=DefaultSensorStatus.RUNNING,
        description="Tells the notifier of every failed run: run, job, failed assets, kinds of errors.",
    )
    @values_withheld()
    def failed_runs(context: RunFailureSensorContext, notifier: Notifier) -> None:
        notifier.tell(message(context), context.log)

    return failed_runs


def message(context: RunFailureSensorContext) -> Message:
    """What is told of a failed run."""
    run = context.dagster_run
    steps = {e.step_key or "": e for e in context.get_step_failure_events()}
    failed = {step.replace("__", "/"): _kind(event) for step, event in sorted(steps.items())}
    checks = context.instance.all_logs(run.run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION)
    evaluated = (e.dagster_event.asset_check_evaluation_data for e in checks if e.dagster_event)
    unpassed = sorted(
        f"{asset_name(e.asset_key)}: {e.check_name}"
        for e in evaluated
        if not e.passed and e.severity is AssetCheckSeverity.ERROR
    )
    said = "; ".join(f"{asset} ({kind})" for asset, kind in failed.items()) or "no step; its process was lost"
    also = f" Checks: {'; '.join(unpassed)}." if unpassed else ""
    return {
        "run_id": run.run_id,
        "job": run.job_name,
        "failed": failed,
        "checks": unpassed,
        "text": f"Run {run.run_id} of {run.job_name} failed: {said}.{also}",
    }


def _kind(event) -> str:
    """The class of the error that a step failed with, below what Dagster wraps it in."""
    error = event.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return error.cls_name if error is not None and error.cls_name else "unknown"
