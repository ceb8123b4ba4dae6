"""The commands of `ehr`. Each reads its arguments, asks `jobs.*` and prints; no work is done here."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ehr_assets.errors import EhrError
from ehr_assets.private import keep_private
from ehr_assets.settings import PROJECT_ROOT, Settings
from ehr_assets.withheld import values_withheld
from jobs.cli import audit, cohort, corpus, lineage, recipe, ui

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="From raw health-record tables to world-model checkpoints and probe reports, as Dagster runs.",
)
app.add_typer(cohort.app, name="cohort")
app.add_typer(corpus.app, name="corpus")
app.add_typer(recipe.app, name="recipe")
app.add_typer(lineage.app, name="lineage")
app.add_typer(audit.app, name="audit")
app.command("reproduce")(lineage.reproduce)
app.add_typer(ui.app, name="ui")
console = Console()
errors = Console(stderr=True)

DEMO_REPORT = "synthetic_oncology"


@app.command()
def demo() -> None:
    """Run the whole chain on the embedded oncology cohort and print its result table."""
    from jobs.cli.results import show_results
    from jobs.cli.running import run_reports

    show_results(console, run_reports(console, report=DEMO_REPORT))


@app.command()
def run(
    cohort: Annotated[str | None, typer.Option(help="The reports about this cohort alone.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="With --cohort: only the reports that show this recipe.")
    ] = None,
    report: Annotated[str | None, typer.Option(help="This report.")] = None,
    grid: Annotated[str | None, typer.Option(help="This grid: its points one by one, its table.")] = None,
) -> None:
    """Bring reports or a grid up to date: only what is missing or stale is run."""
    from jobs.cli.results import show_ablation, show_results
    from jobs.cli.running import run_grid, run_reports

    if sum(name is not None for name in (cohort, report, grid)) != 1:
        raise typer.BadParameter("Give one of --cohort, --report and --grid.")
    if recipe is not None and cohort is None:
        raise typer.BadParameter("--recipe goes with --cohort.")
    if grid is not None:
        show_ablation(console, run_grid(console, grid))
    else:
        show_results(console, run_reports(console, cohort=cohort, recipe=recipe, report=report))


@app.command()
def promote(
    report: Annotated[str, typer.Argument(help="The report whose candidate is to be put into use.")],
    why: Annotated[str, typer.Option(help="The reason, which is recorded.")],
    by: Annotated[str | None, typer.Option(help="Who asks; default: you, on this machine.")] = None,
) -> None:
    """Put a report's candidate into use (registry alias `champion`), if its verdict allows it."""
    from jobs.cli.promotion import promote

    promote(console, report, why, by)


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(help="The model: the recipe's name.")],
    why: Annotated[str, typer.Option(help="The reason, which is recorded.")],
    by: Annotated[str | None, typer.Option(help="Who asks; default: you, on this machine.")] = None,
    to: Annotated[
        str, typer.Option(help="A version that was in use once, or 'none'; default: the one before.")
    ] = "",
) -> None:
    """Put the version of a model back into use that was before the present one."""
    from jobs.cli.promotion import roll_back

    roll_back(console, model, why, by, to)


@app.command()
def status() -> None:
    """Show each asset: fresh, stale, missing or failed check, and why."""
    from jobs.cli.looking import show_status

    show_status(console)


@app.command()
def show(
    asset: Annotated[str, typer.Argument(help="An asset's key, e.g. synthetic_oncology/meds_events.")],
    path: Annotated[bool, typer.Option("--path", help="Print the dataset's path alone.")] = False,
) -> None:
    """Show where an asset's dataset lies and its manifest in short."""
    from jobs.cli.looking import show_asset

    show_asset(console, asset, path_only=path)


@app.command()
def collect(
    keep: Annotated[int, typer.Option(min=1, help="Of every asset the newest so many stay.")] = 3,
    older_than: Annotated[int, typer.Option(min=0, help="Days; what is younger stays.")] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
) -> None:
    """Remove old datasets that nothing needs: no input of what is kept, nothing that is in use."""
    from jobs.cli.collect import show_collection

    show_collection(console, keep=keep, older_than=older_than, dry_run=dry_run)


@app.command()
def doctor() -> None:
    """Show what is installed, found and missing."""
    from jobs.cli.doctor import examine

    if not examine(console):
        raise typer.Exit(1)


@app.command()
def dev(port: Annotated[int, typer.Option(help="Port of the web UI.")] = 3000) -> None:
    """Start the Dagster UI and daemon with this workspace."""
    from jobs.abandoned import close_dead_runs
    from jobs.instance import open_instance

    settings = Settings.from_env()
    with open_instance(settings) as instance:
        close_dead_runs(instance, settings)
    dagster = Path(sys.executable).with_name("dagster")
    os.chdir(PROJECT_ROOT)
    os.execv(dagster, [str(dagster), "dev", "--workspace", "workspace.yaml", "--port", str(port)])


def run_command() -> None:
    """Entry point: an error that a user can act on is printed as it is, without a traceback."""
    # A closed terminal ends a run as Ctrl-C's neighbour SIGTERM does: in order.
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        keep_private()
        app()
    except Exception as e:
        from jobs.instance import storage_problem

        known = e if isinstance(e, EhrError) else storage_problem(e, Settings.from_env().home)
        if known is None:
            with values_withheld():  # a schedule's log is a store, too
                raise
        errors.print(f"Error: {known}", style="red", markup=False, highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    run_command()
