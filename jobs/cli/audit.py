"""`ehr audit`: the audit log, and what auditors ask: which models used a subject, which used some code."""

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ehr_assets.errors import SpecError
from ehr_assets.lineage.audit_log import AuditLog, AuditLogError
from ehr_assets.settings import Settings

app = typer.Typer(
    no_args_is_help=True, help="The audit log; which models used a subject, which used some code."
)
console = Console()


@app.command()
def show(
    last: Annotated[int, typer.Option(help="So many of the newest lines; 0 for all.")] = 20,
    action: Annotated[str | None, typer.Option(help="Only lines of this action.")] = None,
) -> None:
    """Show the newest lines of the audit log."""
    log = _settled()
    entries = [e for e in log.entries() if action in (None, e.action)]
    table = Table(box=None, pad_edge=False)
    for column in ("no.", "time (UTC)", "by", "action", "facts"):
        table.add_column(column, no_wrap=column not in ("facts",), overflow="fold")
    for e in entries[-last:] if last else entries:
        facts = "; ".join(f"{k}: {_short(v)}" for k, v in e.facts.items() if v not in (None, [], ""))
        table.add_row(str(e.sequence), e.time[:19].replace("T", " "), e.by, e.action, escape(facts))
    console.print(table)


@app.command()
def verify(
    head: Annotated[
        str | None, typer.Option(help="What an earlier `ehr audit verify` gave as the head.")
    ] = None,
) -> None:
    """Recompute the audit log's chain; name the first line that was edited, removed, moved or inserted."""
    found = _settled().verify(head)
    for note in found.notes:
        console.print(f"Note: {note}", markup=False, highlight=False)
    if found.fault:
        raise AuditLogError(
            f"The audit log was tampered with, or damaged. {found.fault}",
            where=f"{AuditLog(Settings.from_env().home).path}{f', line {found.line}' if found.line else ''}",
            do="Keep it as it is for whoever looks into it, and compare it with a backup. Lines before this "
            "one are in order.",
        )
    console.print(f"{found.entries} lines, each in its place and as it was written.")
    console.print(f"Head, to be noted elsewhere: {found.head}", soft_wrap=True, highlight=False)


@app.command()
def subject(
    cohort: Annotated[str, typer.Option(help="The cohort that the id is of.")],
) -> None:
    """Tell which models used a subject. The id is asked for, or read from a pipe; it is kept nowhere."""
    from jobs.questions import models_with_subject
    from resources.object_store import open_store

    settings = Settings.from_env()
    number = _subject_id(settings, cohort)
    answers = models_with_subject(open_store(settings.home, settings.remote), cohort, number)
    facts = {"asked": "subject", "cohort": cohort, "models": len(answers)}
    AuditLog(settings.home).append("looked_up", facts)
    table = Table("model", "what it did with the subject", box=None, pad_edge=False)
    for a in answers:
        roles = [r.replace("_", " ") for r in a.roles]
        roles += [f"goes on from {name}, which was trained on it" for name in a.by_way_of]
        roles += [f"not known of {name}: no list was kept here, or its salt is lost" for name in a.unknown]
        gone = " (collected)" if a.gone else ""
        table.add_row(escape(a.model + gone), escape("; ".join(roles) or "nothing"))
    console.print(table)
    trained = sum(a.trained for a in answers)
    console.print(f"{trained} of {len(answers)} models are known to have been trained on this subject.")
    if unknown := sum(bool(a.unknown) and not a.trained for a in answers):
        console.print(f"Of {unknown} it cannot be told: see above.")


@app.command()
def code(
    version: Annotated[str, typer.Argument(help="A code version, a part of one, or a git revision.")],
) -> None:
    """Tell which models were made, or scored, by some version of the code."""
    from jobs.questions import models_with_code
    from resources.object_store import open_store

    settings = Settings.from_env()
    answers = models_with_code(open_store(settings.home, settings.remote), version)
    AuditLog(settings.home).append("looked_up", {"asked": "code", "version": version, "models": len(answers)})
    for a in answers:
        console.print(a.model, markup=False, highlight=False)
        for what, names in (("made from", a.made_from), ("scored by", a.scores)):
            if names:
                console.print(f"  {what}: {', '.join(names)}", markup=False, highlight=False)
    console.print(f"{len(answers)} models used it.")


def _settled() -> AuditLog:
    """The log, with the ends of all runs that Dagster knows to be over."""
    from jobs.instance import open_instance
    from resources.audit import runs_ended

    settings = Settings.from_env()
    with open_instance(settings) as instance:
        runs_ended(settings.home, instance)
    return AuditLog(settings.home)


def _subject_id(settings: Settings, cohort: str) -> int:
    """Asked for without an echo, or read from a pipe: an argument would stand in the shell's history."""
    from ehr_assets.catalog import load_catalog, unknown

    cohorts = load_catalog(settings).cohorts
    if cohort not in cohorts:
        raise unknown("cohort", cohort, cohorts, "--cohort")
    asked = typer.prompt("Subject id", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline()
    text = asked.strip()
    if cohorts[cohort].subjects.ids == "text" and text:
        import polars as pl

        from ehr_assets.meds.expressions import text_ids

        return text_ids(pl.Series([text])).item()
    try:
        return int(text)
    except ValueError:
        raise SpecError(
            "The subject id is none of this cohort's: they are whole numbers.",
            where="standard input",
            do="Give the id as the raw tables have it.",
        ) from None


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 160 else f"{text[:150]} ... ({len(text)} letters)"
