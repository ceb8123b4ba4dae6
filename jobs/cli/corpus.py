"""`ehr corpus`: what a model reads of one subject at one time, printed to the terminal and nowhere else."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from ehr_assets.corpora.spec import Format

app = typer.Typer(no_args_is_help=True, help="Look at the text and tokens of subjects.")


@app.callback()
def corpus() -> None:
    """Look at the text that models read. A privileged look at raw data: nothing of it is logged."""


@app.command()
def text(
    cohort: Annotated[str, typer.Option(help="A cohort spec's name.")],
    subject: Annotated[int, typer.Option(help="The MEDS subject id.")],
    until: Annotated[str, typer.Option(help="Prediction time, ISO: 2020-03-01 or 2020-03-01T08:30.")],
    layout: Annotated[Format, typer.Option("--format", help="The serialization.")] = "tagged",
    tokens: Annotated[
        int | None, typer.Option(min=2, help="What fits a context of so many tokens; default: all.")
    ] = None,
) -> None:
    """Print what a model would read at a time: only what was available by then."""
    typer.echo(known_text(cohort, subject, until, layout, tokens), nl=False)


def known_text(cohort: str, subject: int, until: str, layout: Format, tokens: int | None) -> str:
    """The text of a subject at a time, from the cohort's newest committed events.

    A corpus spec of this cohort and format gives the settings, and with `tokens` its committed tokenizer the
    tokens. Without such a spec the format's defaults hold.

    Raises:
        SpecError: no such cohort or time; with `tokens`, no corpus of that format.
        DatasetError: no events (or tokenizer) yet, or no such subject.
    """
    from dagster import AssetKey

    from ehr_assets.catalog import unknown
    from ehr_assets.corpora.text import known_events, text_of, window_text
    from jobs.cli.project import Project
    from resources.storage import asset_name

    t = moment(until)
    project = Project()
    if cohort not in project.catalog.cohorts:
        raise unknown("cohort", cohort, project.catalog.cohorts, "--cohort")
    statuses = project.statuses()

    def folder(*key: str) -> Path:
        return project.dataset(statuses, asset_name(AssetKey(key))).path

    corpora = project.catalog.corpora
    spec = next((c for c in corpora.values() if cohort in c.cohorts and c.format == layout), None)
    if tokens is not None and spec is None:
        raise unknown(f"corpus of format '{layout}' on cohort", cohort, corpora, "--tokens")
    meds_dir = folder(cohort, "meds_events")
    events = known_events(meds_dir, subject, t)
    if tokens is None or spec is None:
        return text_of(events, meds_dir, layout, spec)
    return window_text(events, meds_dir, spec, folder(spec.name, "tokenizer"), tokens)


def moment(text: str) -> datetime:
    """A time without zone, as MEDS has them. SpecError for anything else."""
    from ehr_assets.errors import SpecError

    try:
        t = datetime.fromisoformat(text)
    except ValueError:
        t = None
    if t is None or t.tzinfo is not None:
        raise SpecError(
            "This is not a date or a time without time zone.",
            where="--until",
            do="Write it like 2020-03-01 or 2020-03-01T08:30:00.",
        )
    return t
