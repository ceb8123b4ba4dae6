"""The launcher of runs on one machine: Dagster's own, which can also say whether a run's process is alive.

Dagster's does not: a run that was queued from the UI and whose process died together with the daemon (a
machine that restarted) would stay open for ever, with the pool slots it holds. With this one run monitoring
closes such a run within its poll interval, and those of a killed `ehr` too.
"""

from dagster import DagsterRun
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus

from jobs.abandoned import GONE, is_gone


class LocalRunLauncher(DefaultRunLauncher):
    """Runs in processes of the code server on this machine."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        if is_gone(self._instance, run):
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, GONE)
        return CheckRunHealthResult(WorkerStatus.RUNNING)
