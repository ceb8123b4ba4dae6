"""`ehr lineage`: where a checkpoint comes from, and whether that still is what was recorded."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from typer.core import TyperGroup

from ehr_assets.errors import DatasetError, SpecError


class _ShowByDefault(TyperGroup):
    """`ehr lineage NAME` is `ehr lineage show NAME`."""

    def parse_args(self, ctx, args):
        if args and args[0] not in (*self.commands, "--help"):
            args = ["show", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_ShowByDefault,
    no_args_is_help=True,
    help="Where a checkpoint comes from: `ehr lineage NAME`; whether that still is so: `ehr lineage verify`.",
)
console = Console()

Name = Annotated[
    str,
    typer.Argument(help="An asset, a model version (RECIPE/3, RECIPE@champion), or a dataset's directory."),
]
FORMATS = ("html", "json")


@app.command()
def show(
    name: Name,
    kind: Annotated[str, typer.Option("--format", help="html or json.")] = "html",
    out: Annotated[Path | None, typer.Option(help="The file; json goes to the terminal without it.")] = None,
) -> None:
    """Write the dossier of a checkpoint: all it was made from, the checks, the scores."""
    from ehr_assets.lineage.audit_log import AuditLog
    from ehr_assets.lineage.page import dossier_page
    from jobs.cli.project import Project
    from jobs.lineage import located_anyhow
    from jobs.models import model_of_dataset
    from resources.closures import dossier_of

    if kind not in FORMATS:
        raise SpecError(f"'{kind}' is no format.", where="--format", do=f"Use one of: {', '.join(FORMATS)}.")
    project = Project()
    dataset = located_anyhow(project.settings, name)
    recipe = dataset.split("/")[1]
    model = model_of_dataset(project.settings, recipe, dataset)
    document = dossier_of(project.instance, project.store, project.gates, dataset, model)
    text = dossier_page(document) if kind == "html" else json.dumps(document, indent=1) + "\n"
    if out is None and kind == "json":
        typer.echo(text, nl=False)
    else:
        out = out or Path(f"lineage_{recipe}_{document['of']['data_version'][:12]}.{kind}")
        _write(out, text)
        console.print(str(out.resolve()), soft_wrap=True, highlight=False)
    facts = {
        "asset": document["of"]["asset"],
        "data_version": document["of"]["data_version"],
        "format": kind,
        "file": out.name if out else "terminal",
        "sha256": sha256(text.encode()).hexdigest(),
    }
    AuditLog(project.settings.home).append("exported", facts)


@app.command()
def verify(
    name: Annotated[str | None, typer.Argument(help="As above; without it, all checkpoints.")] = None,
) -> None:
    """Hash again all that a checkpoint was made from, raw files too, and name what differs."""
    from jobs.cli.project import Project
    from jobs.lineage import verify_closures

    project = Project()
    verified = verify_closures(project.settings, project.store, project.catalog.cohorts, name)
    for line in verified.notes:
        console.print(f"Note: {line}", markup=False, highlight=False)
    if verified.differences:
        raise DatasetError(
            f"{len(verified.differences)} things differ from what was recorded:\n    "
            + "\n    ".join(verified.differences),
            where=str(project.settings.home),
            do="Restore them, or make them again; what was made from them is not to be trusted.",
        )
    console.print(
        f"{verified.datasets} datasets, {verified.files} files and {verified.raw_files} raw files outside "
        "the store are what was recorded."
    )


def reproduce(
    name: Name,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Even where code or packages are not those recorded.")
    ] = False,
    home: Annotated[
        Path | None, typer.Option(help="An empty directory to make it in, kept afterwards.")
    ] = None,
) -> None:
    """Make a checkpoint again from its raw tables, in a place of its own, and compare content hashes."""
    from jobs.cli.project import Project
    from jobs.reproduce import reproduce_closure

    project = Project()
    done = reproduce_closure(project.settings, name, console, anyway=anyway, home=home)
    for line in done.notes:
        console.print(f"Note: {line}", markup=False, highlight=False)
    for asset, agrees in done.agrees.items():
        mark = "[green]=[/] the same" if agrees else "[red]≠[/] another"
        console.print(f"{mark} content: {asset}", highlight=False)
    if done.first:
        raise DatasetError(
            f"{list(done.agrees.values()).count(False)} of {len(done.agrees)} datasets came out with another "
            f"content. The first: {done.first}.",
            where=str(done.home),
            do="Compare the two datasets; what was made from the first that differs differs with it.",
        )
    console.print(f"All {len(done.agrees)} datasets came out with the content that was recorded.")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as e:
        raise DatasetError(
            f"The file cannot be written: {e.strerror}.", where=str(path), do="Give another with --out."
        ) from e
