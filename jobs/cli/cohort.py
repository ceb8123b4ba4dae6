"""`ehr cohort`: look at a cohort file, its raw tables and its language, before anything is run."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ehr_assets.errors import SpecError

if TYPE_CHECKING:
    from ehr_assets.cohorts.files import RawRoot
    from ehr_assets.cohorts.spec import CohortSpec
    from ehr_assets.meds.preview import EventPreview, Preview, TablePreview

app = typer.Typer(no_args_is_help=True, help="Cohort files: check one, begin one, describe their language.")
console = Console()

SIMULATED = 20  # subjects, to look at a cohort whose tables are simulated


@app.command()
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A cohort file, or the name of a cohort.")],
    root: Annotated[
        str | None,
        typer.Option(help="Where the raw tables lie (a directory or s3://…); default: as it says."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Records of each table to look at.")] = 1000,
    events: Annotated[int, typer.Option(min=0, help="Events of each kind to show.")] = 2,
) -> None:
    """Check a cohort file against its raw tables, without running anything.

    Shows what the first records of every table become. For that it prints raw values to this terminal, and
    nowhere else: mind who looks on. Ends with status 1 when the spec or a table cannot be used.
    """
    from ehr_assets.meds.concerns import concerns

    spec = _found(file)
    preview = _previewed(spec, root, rows)
    doubts = concerns(preview)
    for table in preview.tables:
        _show_table(table, doubts[table.spec.name], events)
    console.rule(f"{spec.name}: {escape(spec.title)}", align="left")
    _show_doubts(doubts[""])
    if roster := preview.roster:
        console.print(f"{roster.subjects:,} subjects; {len(preview.tables)} tables.")
    for problem in preview.problems:
        console.print(f"✗ {problem}", style="red", markup=False, highlight=False)
    count, warned = len(preview.problems), sum(map(len, doubts.values()))
    if count:
        console.print(f"✗ cannot be used: {count} problem(s), {warned} warning(s)", style="bold red")
        raise typer.Exit(1)
    console.print(f"✓ can be used: {warned} warning(s)", style="bold yellow" if warned else "bold green")


@app.command()
def new(
    folder: Annotated[str, typer.Argument(help="Where the raw tables lie: a directory or s3://…")],
    name: Annotated[str | None, typer.Option(help="Of the cohort; default: the folder's.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Default: this terminal.")] = None,
) -> None:
    """Write a first, commented cohort file for a folder of raw tables, guessed from their first rows."""
    from ehr_assets.cohorts.starter import starter

    place = _place(folder)
    if out is not None and out.exists():
        raise SpecError("The file is there already.", where=str(out), do="Choose another, or remove it.")
    text = starter(place, _named(name, place.uri, out), _schema_from(out))
    if out is None:
        typer.echo(text, nl=False)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    console.print(f"Wrote {out}. Read it, then: ehr cohort check {out} --root {folder}", highlight=False)


@app.command()
def schema() -> None:
    """Print the JSON schema of cohort files, for editors (docs/cohort.schema.json)."""
    from ehr_assets.cohorts.schema import schema_text

    typer.echo(schema_text(), nl=False)


def _found(file: str) -> "CohortSpec":
    """The spec at a path, or a cohort's by name. SpecError where there is neither."""
    from ehr_assets.catalog import BUILT_IN, unknown
    from ehr_assets.cohorts.spec import load_cohort
    from ehr_assets.settings import Settings

    settings = Settings.from_env()
    folders = [BUILT_IN["cohorts"], *(d / "cohorts" for d in settings.spec_dirs)]
    if file.endswith((".yaml", ".yml")) or "/" in file:
        return load_cohort(Path(file), search=folders)
    named = {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
    if file not in named:
        raise unknown("cohort", file, named, "ehr cohort check")
    return load_cohort(named[file], settings.overrides.get(f"cohorts/{file}", {}), search=folders)


def _place(root: str) -> "RawRoot":
    from ehr_assets.cohorts.files import RawRoot

    place = RawRoot.of(root if "://" in root else Path(root).resolve())
    if not place.exists():
        raise SpecError("There is no such directory of raw tables.", where=place.uri, do="Check the path.")
    return place


def _named(name: str | None, folder: str, out: Path | None) -> str:
    """The name of a new cohort: as given, or as its file or its folder is called."""
    if name is None:
        name = re.sub(r"[^a-z0-9]+", "_", (out.stem if out else folder.split("/")[-1]).lower()).strip("_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise SpecError(
            f"'{name}' cannot be a cohort's name.",
            where="--name",
            do="Give one of small letters, digits and underscores that begins with a letter.",
        )
    return name


def _schema_from(out: Path | None) -> str | None:
    """The published schema as seen from the new file; None where it is not there."""
    from ehr_assets.settings import PROJECT_ROOT

    published = PROJECT_ROOT / "docs" / "cohort.schema.json"
    if out is None or not published.exists():
        return None
    return os.path.relpath(published, out.resolve().parent)


def _previewed(spec: "CohortSpec", root: str | None, rows: int) -> "Preview":
    import tempfile

    from ehr_assets.cohorts.inventory import raw_root
    from ehr_assets.cohorts.spec import SyntheticSource
    from ehr_assets.meds.preview import preview_cohort

    source = spec.source
    if root is not None:
        return preview_cohort(spec, _place(root), rows)
    if not isinstance(source, SyntheticSource):
        return preview_cohort(spec, raw_root(spec), rows)
    from ehr_assets.cohorts.synthetic.simulate import simulate

    with tempfile.TemporaryDirectory(prefix="ehr-check-") as folder:
        tables, truth = Path(folder, "tables"), Path(folder, "truth")
        tables.mkdir()
        truth.mkdir()
        few = min(SIMULATED, source.subjects)
        simulate(source.simulator, tables, truth, subjects=few, seed=source.seed)
        return preview_cohort(spec, tables, rows)


def _show_table(table: "TablePreview", doubts: list[str], events: int) -> None:
    console.rule(f"[bold]{table.spec.name}[/]", align="left")
    if table.files:
        size = sum(f.bytes for f in table.files) / 1e6
        first = table.files[0].path
        several = (
            f" … {len(table.files):,} files ({table.looked_at} looked at)" if len(table.files) > 1 else ""
        )
        console.print(f"{first}{several}, {size:,.1f} MB", highlight=False, markup=False)
    for problem in table.problems:
        console.print(f"✗ {problem}", style="red", markup=False, highlight=False)
    if table.read:
        console.print(
            f"{table.read:,} rows looked at: {table.accepted:,} accepted, {table.quarantined:,} quarantined",
            highlight=False,
        )
    if table.reasons:
        shown = _grid("rows", "column", "reason")
        for (column, reason), n in sorted(table.reasons.items(), key=lambda item: -item[1]):
            shown.add_row(f"{n:,}", _cell(column), reason)
        console.print(shown)
    for join in table.joins:
        if not join.absent:
            part = "" if join.whole else f" (its first {join.rows:,} rows)"
            console.print(
                f"join of {join.file}{part}: found for {join.found:,} of {join.asked:,} rows",
                highlight=False,
                markup=False,
            )
    if events and any(e.events.height for e in table.events):
        console.print(_first_events(table.events, events))
    _show_doubts(doubts)


def _first_events(made: "list[EventPreview]", count: int) -> Table:
    shown = _grid("of", "time", "available", "code", "number", "text", "unit", "section")
    for event in made:
        for i, row in enumerate(event.events.head(count).iter_rows()):
            total = f"{event.events.height:,}" if i == 0 else ""
            shown.add_row(total, *(_cell(value) for value in row))
    return shown


def _cell(value: object) -> str:
    text = "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return escape(text if len(text) <= 60 else f"{text[:59]}…")


def _grid(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(
            column, overflow="fold", justify="right" if column in ("rows", "of", "number") else "left"
        )
    return table


def _show_doubts(doubts: list[str]) -> None:
    for doubt in doubts:
        console.print(f"! {doubt}", style="yellow", markup=False, highlight=False)
