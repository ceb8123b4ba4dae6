"""`ehr promote` and `ehr rollback`: a Dagster run each, which records who asked and why."""

import getpass
import socket

from dagster import AssetKey
from rich.console import Console

from ehr_assets.catalog import unknown
from jobs.abandoned import close_dead_runs
from jobs.cli.project import Project
from jobs.cli.running import run_once
from resources.promotions import promotion_key, recorded_acts, rollback_key


def promote(console: Console, report: str, why: str, by: str | None) -> None:
    """Puts the candidate of a report into use.

    Raises:
        SpecError: no such report.
        RunFailedError: the verdict does not allow it, or is no longer about what there is.
    """
    project = Project()
    _act(console, project, promotion_key(project.report_named(report)), _asked(why, by))


def roll_back(console: Console, model: str, why: str, by: str | None, to: str) -> None:
    """Puts an earlier version of a model back into use.

    Raises:
        SpecError: no report has a candidate of this name.
        RunFailedError: there is none before, or its checkpoint is damaged.
    """
    project = Project()
    models = {report.candidate for report in project.catalog.reports.values()}
    if model not in models:
        raise unknown("candidate", model, models, "MODEL")
    _act(console, project, rollback_key(model), {**_asked(why, by), "to": to})


def _act(console: Console, project: Project, key: AssetKey, config: dict[str, str]) -> None:
    close_dead_runs(project.instance, project.settings)
    run_once(console, project, key, config)
    act = recorded_acts(project.instance)[-1]
    before = f"version {act.previous}" if act.previous else "none"
    now = f"version {act.version}" if act.version else "no version"
    console.print(f"{act.model}: {now} is in use; before it {before}.", highlight=False, markup=False)


def _asked(why: str, by: str | None) -> dict[str, str]:
    return {"asked_by": by or f"{getpass.getuser()}@{socket.gethostname()}", "reason": why}
