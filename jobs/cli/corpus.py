"""`ehr corpus`: what a model reads of one subject at one time, printed to the terminal and nowhere else."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from ehr_assets.corpora.spec import CorpusSpec, Format

app = typer.Typer(no_args_is_help=True, help="Look at the text and tokens of subjects.")


@app.callback()
def corpus() -> None:
    """Look at the text that models read. A privileged look at raw data: nothing of it is logged."""


@app.command()
def text(
    cohort: Annotated[str, typer.Option(help="A cohort spec's name.")],
    subject: Annotated[int, typer.Option(help="The MEDS subject id.")],
    until: Annotated[str, typer.Option(help="Prediction time, ISO: 2020-03-01 or 2020-03-01T08:30.")],
    layout: Annotated[
        Format | None,
        typer.Option("--format", help="The serialization; default: the corpus' own, tagged."),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(help="A corpus spec's name; default: the only one of cohort and format."),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=2, help="What fits a context of so many tokens; default: all.")
    ] = None,
) -> None:
    """Print what a model would read at a time: only what was available by then."""
    made_as, shown = known_text(cohort, subject, until, layout, corpus, tokens)
    typer.echo(made_as, err=True)
    typer.echo(shown, nl=False)


def known_text(
    cohort: str, subject: int, until: str, layout: Format | None, corpus: str | None, tokens: int | None
) -> tuple[str, str]:
    """Which corpus' settings were used, and the text of a subject at a time, from the newest events.

    A corpus spec gives the settings, and with `tokens` its committed tokenizer the tokens. Where the cohort
    has none of the format, the format's defaults hold.

    Raises:
        SpecError: no such cohort, corpus or time; several corpora; with `tokens`, no corpus of that format.
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
    spec = corpus_for(corpora, cohort, layout, corpus)
    if tokens is not None and spec is None:
        raise unknown(f"corpus of format '{layout or 'tagged'}' on cohort", cohort, corpora, "--tokens")
    meds_dir = folder(cohort, "meds_events")
    events = known_events(meds_dir, subject, t)
    if spec is None:
        layout = layout or "tagged"
        return f"No corpus: {layout}, with its defaults.", text_of(events, meds_dir, layout)
    made_as = f"As in the corpus {spec.name}."
    if tokens is None:
        return made_as, text_of(events, meds_dir, spec.format, spec)
    return made_as, window_text(events, meds_dir, spec, folder(spec.name, "tokenizer"), tokens)


def corpus_for(
    corpora: Mapping[str, CorpusSpec], cohort: str, layout: Format | None, name: str | None
) -> CorpusSpec | None:
    """The corpus that is meant: the one named, or the only one of that cohort and format; None for none."""
    from ehr_assets.catalog import unknown
    from ehr_assets.errors import SpecError

    if name is not None:
        fitting = [c for c, s in corpora.items() if cohort in s.cohorts and layout in (None, s.format)]
        if name not in fitting:
            which = f"corpus on cohort '{cohort}'" + (f" of format '{layout}'" if layout else "") + " named"
            raise unknown(which, name, fitting, "--corpus")
        return corpora[name]
    found = [s for s in corpora.values() if cohort in s.cohorts and s.format == (layout or "tagged")]
    if len(found) > 1:
        raise SpecError(
            f"Several corpora of the cohort '{cohort}' have this format: {', '.join(s.name for s in found)}.",
            where="--corpus",
            do="Name the one that is meant with --corpus.",
        )
    return found[0] if found else None


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
