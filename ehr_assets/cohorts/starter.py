"""A first cohort file for a folder of raw tables, with a comment wherever a person must look.

Writes text, because of the comments; what it writes loads, and `ehr cohort check` runs on it.
"""

import re
from collections.abc import Iterator, Sequence

from ehr_assets.cohorts import guesses
from ehr_assets.cohorts.guesses import Subjects
from ehr_assets.cohorts.profiles import Profile, profiles
from ehr_assets.cohorts.roots import RawRoot
from ehr_assets.cohorts.starter_lines import code_of, comment, word
from ehr_assets.cohorts.starter_tables import StarterTable
from ehr_assets.errors import RawTableError


def starter(root: RawRoot, name: str, schema: str | None = None) -> str:
    """The text of a cohort file for the tables under `root`.

    Args:
        name: of the cohort.
        schema: where the JSON schema lies, seen from the file; for editors.

    Raises:
        RawTableError: there are no tables, or none with a column of subject ids.
    """
    tables = profiles(root)
    usable = [t for t in tables if t.problem is None and t.columns]
    found = guesses.subjects(usable)
    if found is None:
        raise RawTableError(
            "No table has a column that looks like subject ids (subject_id, patient_id, mrn …)."
            if usable
            else "There are no tables that can be read.",
            where=root.uri,
            do="Give the folder that holds the tables (.csv, .csv.gz, .tsv, .txt, .parquet).",
        )
    text = "\n".join(_lines(name, schema, tables, usable, found)) + "\n"
    return re.sub(r"\n{3,}", "\n\n", text)


def _lines(
    name: str, schema: str | None, tables: Sequence[Profile], usable: list[Profile], found: Subjects
) -> Iterator[str]:
    if schema:
        yield f"# yaml-language-server: $schema={schema}"
    variable = f"EHR_{re.sub(r'[^A-Z0-9]', '_', name.upper())}_ROOT"
    roster = found.roster
    yield from comment(
        "A first draft, guessed from the first rows of each table. Read it line by line; what follows CHECK "
        f"is doubtful. `ehr cohort check {name}.yaml` shows the events it makes. How to go on: "
        "docs/add_your_cohort.md."
    )
    yield f"name: {name}"
    yield f"title: {word(name.replace('_', ' ').capitalize())}"
    yield 'description: ""  # whose records, from when to when, from where'
    yield f"source: {{kind: tables, root_env: {variable}}}"
    if any(c.zoned for t in usable for c in t.columns.values()):
        yield from comment("CHECK: some times are written with a zone. Where is the hospital?")
        yield "time_zone: UTC"
    keys = [f"table: {roster.name}", f"column: {word(found.columns[roster.name])}"]
    keys += [] if found.integer else ["ids: text"]
    keys += [] if found.single else ["one_row_each: false"]
    if not found.single:
        yield from comment("CHECK: no table has one row per subject; whoever is in this one is a subject.")
    yield f"subjects: {{{', '.join(keys)}}}"
    yield ""
    yield "tables:"
    others = [t for t in usable if t.name in found.columns and t is not roster]
    deaths = guesses.death(roster) or [c for t in others for c in guesses.death(t)][:1]
    for table in [roster, *others]:
        yield from StarterTable(table, usable, found, deaths).lines()
    yield from _not_used(tables, found)
    yield ""
    yield from comment(
        "Decision nodes: the moments at which a model is asked, and the task file that says what it is "
        "asked. Without them the cohort has MEDS frames and can be part of a corpus."
    )
    yield "# decision_nodes:"
    yield "#   task_set: my_tasks"
    yield "#   triggers:"
    stays = next((code_of(t.name) for t in others if guesses.VISIT.search(t.name)), "ADMISSIONS")
    yield f'#     - {{name: admission, kind: event, codes: ["^{stays}//"]}}'


def _not_used(tables: Sequence[Profile], found: Subjects) -> Iterator[str]:
    lost = [t for t in tables if t.name not in found.columns or t.problem]
    if lost:
        yield ""
        yield from comment("Make no events (dictionaries among them are joined where they are needed):")
    for table in lost:
        why = table.problem or "no column of subject ids"
        yield f"#   {table.file}: {why if table.rows or table.problem else 'no rows'}"
