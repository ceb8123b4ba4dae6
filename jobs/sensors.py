"""Sensors that request retrainings: raw tables that changed, and choices made in the launchpad."""

import json
import time
from typing import Any

from dagster import (
    DagsterRunStatus,
    DefaultSensorStatus,
    JobDefinition,
    RunRequest,
    RunStatusSensorContext,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    run_status_sensor,
    sensor,
)

from ehr_assets.catalog import unknown
from ehr_assets.cohorts.assets import is_simulated, raw_tables_key
from ehr_assets.errors import EhrError, RawTableError
from ehr_assets.settings import Settings
from ehr_assets.withheld import values_withheld
from jobs.retraining import CHOSEN, Choice, Retraining, chosen, load_retraining
from jobs.schedules import open_retraining
from resources.recorded import recorded
from resources.storage import Datasets, asset_name

CHANGED, ASKED = "raw_tables_changed", "retraining_chosen"
LOOK_SECONDS = 120
HASH_SECONDS = 30
"""At most, per look: Dagster gives a sensor a minute. A single file that takes longer to hash than that needs
DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS raised."""


def raw_tables_sensor(retraining: Retraining, settings: Settings) -> SensorDefinition:
    """Requests one run per change of a cohort's raw tables; off until somebody turns it on.

    Its cursor holds what is known of every file: {cohort: {path: [bytes, time of change, SHA-256]}}.
    """
    cohorts = {name: c for name, c in retraining.catalog.cohorts.items() if not is_simulated(c)}

    @sensor(
        name=CHANGED,
        job=retraining.job,
        minimum_interval_seconds=LOOK_SECONDS,
        default_status=DefaultSensorStatus.STOPPED,
        description="Looks at the raw tables of cohorts that were made once, and requests their reports anew "
        "when contents changed. Files that were only touched, or are still being copied, request nothing.",
    )
    @values_withheld()
    def raw_tables_changed(context: SensorEvaluationContext, datasets: Datasets) -> SensorResult | SkipReason:
        from ehr_assets.cohorts.watch import look, recorded_content

        known: dict[str, Any] = json.loads(context.cursor or "{}")
        deadline = time.monotonic() + HASH_SECONDS
        requests, said = [], []
        for name, cohort in cohorts.items():
            made = recorded(context.instance, asset_name(raw_tables_key(name)))
            if made is None:
                continue
            try:
                found = look(cohort, known.get(name, {}), deadline - time.monotonic())
                known[name] = found.files
                if found.content is None:
                    said.append(f"{name}: {'files change' if found.moving else 'not all hashed'}; next time")
                    continue
                last = datasets.latest(context.instance, raw_tables_key(name))
                if found.content == recorded_content(last.path):
                    continue
                if run_id := open_retraining(context.instance, f"{CHANGED}/{name}"):
                    said.append(f"{name} changed, and run {run_id[:8]} is still open")
                    continue
                # With the dataset in it: back to an earlier content is a change again.
                key = f"{made.dataset}:{found.content}"
                choice = _about(retraining, settings, name)
                requests.append(retraining.request(choice, f"{CHANGED}/{name}", key))
            except RawTableError as e:
                said.append(f"{name}: {e.what}")
            except EhrError as e:
                context.log.error(f"{name}: {e.what}")
                said.append(f"{name}: {e.what}")
        reason = SkipReason("; ".join(said) or "No raw table changed.")
        return SensorResult(
            run_requests=requests, skip_reason=None if requests else reason, cursor=json.dumps(known)
        )

    return raw_tables_changed


def _about(retraining: Retraining, settings: Settings, cohort: str) -> Choice:
    """The reports about a cohort: of those that are set for the schedule, if some are.

    Raises:
        SpecError: one that is set for the schedule is none.
    """
    spec, reports = load_retraining(settings), retraining.catalog.reports
    for name in spec.reports:
        if name not in reports:
            raise unknown("report", name, reports, "retraining, reports")
    named = [r for r in spec.reports if cohort in reports[r].cohorts]
    chain = [
        r for r in retraining.catalog.reports_on(cohort) if not retraining.seeded & {*reports[r].recipes}
    ]
    return Choice(reports=tuple(named or chain), only_if_changed=True)


def chosen_sensor(retraining: Retraining, job: JobDefinition) -> SensorDefinition:
    """Requests the run that a run of `retrain_chosen` asked for."""

    @run_status_sensor(
        name=ASKED,
        run_status=DagsterRunStatus.SUCCESS,
        monitored_jobs=[job],
        request_job=retraining.job,
        minimum_interval_seconds=5,
        default_status=DefaultSensorStatus.RUNNING,
        description=f"Requests what a run of {CHOSEN} was given.",
    )
    @values_withheld()
    def retraining_chosen(context: RunStatusSensorContext) -> RunRequest:
        run = context.dagster_run
        return retraining.request(chosen(run.run_config), f"{CHOSEN}/{run.run_id}", run.run_id)

    return retraining_chosen
