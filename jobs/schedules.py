"""The schedule `retraining`: off until somebody turns it on in the UI."""

from dagster import (
    DagsterInstance,
    DagsterRunStatus,
    DefaultScheduleStatus,
    RunRequest,
    RunsFilter,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SkipReason,
    schedule,
)

from ehr_assets.settings import Settings
from ehr_assets.withheld import values_withheld
from jobs.retraining import NOTHING_CHOSEN, RETRAINING_TAG, Retraining, load_retraining

NAME = "retraining"
OPEN = [
    *(DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING),
    *(DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING),
]


def retraining_schedule(retraining: Retraining, settings: Settings) -> ScheduleDefinition:
    """Requests one run per tick, over what is chosen when it ticks; none while its last is open."""
    spec = load_retraining(settings)

    @schedule(
        name=NAME,
        job=retraining.job,
        cron_schedule=spec.cron,
        execution_timezone=spec.timezone,
        default_status=DefaultScheduleStatus.STOPPED,
        description="Retrains what is chosen in EHR_RETRAINING or by the job `set_retraining`, as one run.",
    )
    @values_withheld()
    def retrain(context: ScheduleEvaluationContext) -> RunRequest | SkipReason:
        if run_id := open_retraining(context.instance, NAME):
            return SkipReason(f"Run {run_id[:8]} of this schedule is still open.")
        choice = load_retraining(settings)
        return SkipReason(NOTHING_CHOSEN) if choice.is_empty else retraining.request(choice, NAME)

    return retrain


def open_retraining(instance: DagsterInstance, asked_by: str) -> str | None:
    """The id of a run that this schedule or sensor asked for and that has not ended."""
    filters = RunsFilter(tags={RETRAINING_TAG: asked_by}, statuses=OPEN)
    return next((run.run_id for run in instance.get_runs(filters, limit=1)), None)
