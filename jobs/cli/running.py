"""`ehr demo` and `ehr run`: Dagster runs over what is not fresh, watched live."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dagster import AssetCheckSeverity, AssetKey, DagsterEventType, EventLogEntry
from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ehr_assets.catalog import unknown
from ehr_assets.errors import EhrError
from ehr_assets.lineage.guards import OVERRIDE_VARIABLE, override_reason
from ehr_assets.reports.ablation.assets import ablation_key
from ehr_assets.reports.assets import report_key
from ehr_assets.reports.profile.assets import profile_key
from jobs.abandoned import close_dead_runs
from jobs.cli.project import Project
from jobs.runner import run_assets
from jobs.status import AssetStatus, State
from resources.storage import asset_name


class RunFailedError(EhrError):
    """The Dagster run did not succeed; carries what its failed steps said."""


def run_reports(
    console: Console, *, cohort: str | None = None, recipe: str | None = None, report: str | None = None
) -> list[Path]:
    """Brings a report up to date, or those about a cohort, with the profiles of their cohorts.

    Returns:
        The report datasets' directories.

    Raises:
        SpecError: unknown cohort, recipe or report.
        RunFailedError: a step failed or a blocking check did not pass.
    """
    project = Project()
    names = project.reports_for(cohort, recipe) if cohort else [project.report_named(report or "")]
    reports = [report_key(name) for name in names]
    cohorts = dict.fromkeys(c for name in names for c in project.catalog.reports[name].cohorts)
    wanted = project.graph.upstream([*reports, *(profile_key(c) for c in ([cohort] if cohort else cohorts))])
    close_dead_runs(project.instance, project.settings)
    before, parts, after = _around_partitions(project, wanted)
    made = _make(console, project, before)
    for partition, keys in parts.items():
        made |= _make(console, project, keys, partition)
    made |= _make(console, project, after)
    if not made:
        console.print(f"All {len(wanted)} assets are fresh; nothing to run.")
    statuses = project.statuses(thorough=reports)
    return [project.dataset(statuses, asset_name(key)).path for key in reports]


def run_grid(console: Console, name: str) -> Path:
    """Brings a grid up to date: what its points read, each point in a run of its own, then their table.

    A point that fails (its representations collapse, say, which some settings are tried for) stops no other.
    The table comes of all points or not at all: with some left out it would have other bests and be taken for
    the whole. One made earlier stays as it is, and is stale.

    Returns:
        The table's directory.

    Raises:
        SpecError: unknown grid.
        RunFailedError: what all points read, or the table, could not be made; or points could not, after all
            of them were tried. A step failed or a blocking check did not pass.
    """
    project = Project()
    if name not in project.catalog.grids:
        raise unknown("grid", name, project.catalog.grids, "--grid")
    table = ablation_key(name)
    close_dead_runs(project.instance, project.settings)

    before, parts, after = _around_partitions(project, project.graph.upstream([table]))
    _make(console, project, before)
    failed = {}
    for point, keys in parts.items():
        try:
            _make(console, project, keys, point)
        except RunFailedError as e:
            failed[point] = f"{point}, {e.where}: {e.what}".replace("\n", "\n    ")
            console.print(f"{name}, {point}: failed; on with the other points.", markup=False)
    if failed:
        raise RunFailedError(
            f"{len(failed)} of {len(parts)} points could not be made, so there is no new table:\n    "
            + "\n    ".join(failed.values()),
            where=f"grid {name}, points {', '.join(failed)}",
            do="Mend what is named above and run the command again: finished points are kept. A setting that "
            f"cannot pass its checks: take it out of the grid, or set {OVERRIDE_VARIABLE} to the reason, and "
            "the point is scored all the same.",
        )
    _make(console, project, after)
    return project.dataset(project.statuses(thorough=[table]), asset_name(table)).path


def _around_partitions(
    project: Project, wanted: Sequence[AssetKey]
) -> tuple[list[AssetKey], dict[str, list[AssetKey]], list[AssetKey]]:
    """What is made in one run each, in this order: assets without partitions, those of each partition, and
    assets without any that are made from all partitions."""
    partitions = project.graph.partitions
    without = [key for key in wanted if key not in partitions]
    later = {key for key in without if partitions.keys() & set(project.graph.upstream([key]))}
    names = dict.fromkeys(name for key in wanted for name in partitions.get(key, ()))
    parts = {name: [key for key in wanted if name in partitions.get(key, ())] for name in names}
    before = [key for key in without if key not in later]
    return before, parts, [key for key in without if key in later]


def _make(console: Console, project: Project, keys: Sequence[AssetKey], partition: str | None = None) -> bool:
    """Runs what of these is not fresh; whether anything had to be."""
    todo, statuses = _not_usable(console, project, keys, partition)
    if todo:
        of = f"{partition}: " if partition else ""
        fresh = len(keys) - len(todo)
        console.print(f"{of}{fresh} of {len(keys)} assets are fresh; running {len(todo)}.", markup=False)
        _run(console, project, todo, statuses, partition)
    return bool(todo)


def _not_usable(
    console: Console, project: Project, wanted: Sequence[AssetKey], partition: str | None = None
) -> tuple[list[AssetKey], dict[AssetKey, AssetStatus]]:
    """Those of the wanted assets (of their partition) that must be made, and the status of all."""
    statuses = project.statuses(thorough=wanted)
    usable = {State.FRESH, State.FAILED_CHECK} if override_reason() else {State.FRESH}
    todo = []
    for key in wanted:
        status = statuses[key] if partition is None else statuses[key].partitions[partition]
        if status.state not in usable:
            todo.append(key)
        elif status.state is State.FAILED_CHECK:
            said = f"{status.name} is used although it failed: {'; '.join(status.reasons)}."
            console.print(said, markup=False)
    return todo, statuses


def run_once(console: Console, project: Project, key: AssetKey, config: Mapping[str, Any]) -> None:
    """Runs one asset that takes config, whatever its state. RunFailedError when it or a check of it fails."""
    view = _RunView(console, [asset_name(key)], {})
    with view:
        done = run_assets(project.instance, [key], view.on_event, only_if_changed=False, config={key: config})
    _require_success(view, *done)


def _run(
    console: Console,
    project: Project,
    todo: Sequence[AssetKey],
    statuses: dict[AssetKey, AssetStatus],
    partition: str | None = None,
) -> None:
    view = _RunView(console, [asset_name(k) for k in todo], {s.name: s.reasons for s in statuses.values()})
    with view:
        done = run_assets(project.instance, todo, view.on_event, partition=partition)
    _require_success(view, *done)


def _require_success(view: "_RunView", run_id: str, success: bool) -> None:
    if not success:
        raise RunFailedError(
            "The run did not finish:\n    " + "\n    ".join(view.failures or ["see the run's log"]),
            where=f"Dagster run {run_id}",
            do="Mend what is named above and run the command again: finished work is kept.",
        )


MARKS = {"done": "[green]✓[/]", "kept": "[green]=[/]", "failed": "[red]✗[/]", "waiting": "[dim]·[/]"}


class _RunView:
    """A line per asset: waiting, running with its newest message, done, failed."""

    def __init__(self, console: Console, names: list[str], why: dict[str, list[str]]) -> None:
        self.console, self.names, self.why = console, names, why
        self.state = dict.fromkeys(names, "waiting")
        self.message = dict.fromkeys(names, "")
        self.started: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.checks: dict[str, list[bool]] = {name: [] for name in names}
        self.warned: dict[str, list[str]] = {}
        self.failures: list[str] = []
        self.spinner = Spinner("dots")
        self.live = Live(console=console, get_renderable=self._draw, refresh_per_second=4, transient=True)

    def __enter__(self) -> "_RunView":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.live.stop()
            self.console.print(self._draw(final=True))

    def on_event(self, entry: EventLogEntry) -> None:
        """Takes in one event log entry of the run."""
        step_assets = self._assets_of(entry.step_key)
        event = entry.dagster_event
        if event is None:
            for name in step_assets:
                self.message[name] = entry.user_message.split("\n")[0]
            return
        kind = event.event_type
        if kind is DagsterEventType.STEP_START:
            for name in step_assets:
                self.state[name], self.started[name] = "running", time.monotonic()
        elif kind is DagsterEventType.ASSET_MATERIALIZATION and event.asset_key:
            name = asset_name(event.asset_key)
            kept = "kept" in event.step_materialization_data.materialization.metadata
            self._finish(name, "kept" if kept else "done")
        elif kind is DagsterEventType.ASSET_CHECK_EVALUATION:
            found = event.asset_check_evaluation_data
            name = asset_name(found.asset_key)
            self.checks.setdefault(name, []).append(found.passed)
            if not found.passed and found.severity is not AssetCheckSeverity.ERROR:
                self.warned.setdefault(name, []).append(found.check_name)
            elif not found.passed:
                self.state[name] = "failed"
                self.failures.append(
                    f"check '{found.check_name}' of {name} failed. {found.description or ''}"
                )
        elif kind is DagsterEventType.STEP_FAILURE:
            self._fail(entry, step_assets)

    def _fail(self, entry: EventLogEntry, step_assets: list[str]) -> None:
        event = entry.dagster_event
        data = event.step_failure_data if event else None
        if data is None:
            return
        if data.user_failure_data:
            text = data.user_failure_data.description or ""
        elif data.error and data.error.cls_name == "DagsterAssetCheckFailedError":
            return  # the check's own event has told it
        else:
            cause = data.error.cause if data.error and data.error.cause else data.error
            text = cause.message.strip() if cause else "failed"
            if cause and cause.cls_name in ("DagsterExecutionInterruptedError", "KeyboardInterrupt"):
                text = "interrupted; a training goes on from the last state that it kept."
        for name in step_assets:
            self._finish(name, "failed")
        self.failures.append(f"{entry.step_key}: {text}".replace("\n", "\n    "))

    def _assets_of(self, step_key: str | None) -> list[str]:
        key = (step_key or "").replace("__", "/")
        if key.endswith("/simulated_tables"):
            cohort = key.rsplit("/", 1)[0]
            return [n for n in (f"{cohort}/raw_tables", f"{cohort}/latent_truth") if n in self.state]
        return [key] if key in self.state else []

    def _finish(self, name: str, state: str) -> None:
        if name not in self.state:
            return
        self.state[name] = state
        self.seconds[name] = time.monotonic() - self.started.get(name, time.monotonic())
        if not self.console.is_terminal:
            self.console.print(f"{MARKS[state]} {name} ({self.seconds[name]:.1f} s)")

    def _draw(self, final: bool = False) -> Group:
        table = Table.grid(padding=(0, 1))
        for name in self.names:
            state = self.state[name]
            mark = (
                self.spinner if state == "running" and not final else Text.from_markup(MARKS.get(state, " "))
            )
            took = f"{self.seconds[name]:.1f} s" if name in self.seconds else ""
            table.add_row(mark, name, took, self._note(name, state))
        return Group(table)

    def _note(self, name: str, state: str) -> Text:
        checks = self.checks[name]
        if state in ("done", "kept") and checks:
            look = f"; look at {', '.join(self.warned[name])}" if name in self.warned else ""
            return Text(f"{sum(checks)}/{len(checks)} checks passed{look}", style="dim")
        if state == "running":
            return Text(self.message[name][:90], style="dim")
        if state == "waiting":
            return Text("; ".join(self.why.get(name, []))[:90], style="dim")
        return Text("")
