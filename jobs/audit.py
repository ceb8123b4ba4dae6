"""The sensor that brings the ends of runs into the audit log while nothing else happens."""

from pathlib import Path

from dagster import DefaultSensorStatus, SensorDefinition, SensorEvaluationContext, SkipReason, sensor

from ehr_assets.withheld import values_withheld

SECONDS = 60


def audit_sensors(home: Path) -> list[SensorDefinition]:
    @sensor(
        name="audit_log",
        minimum_interval_seconds=SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description="Writes the ends of runs into the audit log. Switched off, the next run writes them.",
    )
    @values_withheld()
    def audit_log(context: SensorEvaluationContext) -> SkipReason:
        from resources.audit import runs_ended

        ended = runs_ended(home, context.instance)
        return SkipReason(f"{len(ended)} runs ended." if ended else "No run ended.")

    return [audit_log]
