"""A first cohort file for a folder of raw tables, with a comment wherever a person must look.

Writes text, because of the comments; what it writes loads, and `ehr cohort check` runs on it.
"""

import json
import re
from collections.abc import Iterator, Sequence

from ehr_assets.cohorts import guesses
from ehr_assets.cohorts.guesses import Subjects
from ehr_assets.cohorts.profiles import Column, Profile, profiles
from ehr_assets.cohorts.roots import RawRoot
from ehr_assets.cohorts.starter_lines import (
    code_of,
    comment,
    day_of,
    either,
    event_of,
    mapping,
    moment_of,
    quoted,
    word,
)
from ehr_assets.errors import RawTableError

_BEGINNING = "2000-01-01"
_VISIT = re.compile(r"admission|visit|encounter|stay|transfer|episode", re.I)


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
        yield from _Table(table, usable, found, deaths).lines()
    yield from _not_used(tables, found)
    yield ""
    yield from comment(
        "Decision nodes: the moments at which a model is asked, and the task file that says what it is "
        "asked. Without them the cohort has MEDS frames and can be part of a corpus."
    )
    yield "# decision_nodes:"
    yield "#   task_set: my_tasks"
    yield "#   triggers:"
    stays = next((code_of(t.name) for t in others if _VISIT.search(t.name)), "ADMISSIONS")
    yield f'#     - {{name: admission, kind: event, codes: ["^{stays}//"]}}'


def _not_used(tables: Sequence[Profile], found: Subjects) -> Iterator[str]:
    lost = [t for t in tables if t.name not in found.columns or t.problem]
    if lost:
        yield ""
        yield from comment("Make no events (dictionaries among them are joined where they are needed):")
    for table in lost:
        why = table.problem or "no column of subject ids"
        yield f"#   {table.file}: {why if table.rows or table.problem else 'no rows'}"


class _Table:
    """The lines of one table."""

    def __init__(
        self, table: Profile, tables: list[Profile], found: Subjects, deaths: Sequence[Column]
    ) -> None:
        self.table, self.tables, self.found, self.deaths = table, tables, found, deaths
        self.subject = found.columns[table.name]
        self.roster = table is found.roster
        self.taken = {self.subject, *table.in_path}
        self.joins: list[str] = []
        self.joined: dict[str, str] = {}  # new name → table, file

    def lines(self) -> Iterator[str]:
        head = list(self._head())
        events = list(self._events())
        if not any(line.lstrip().startswith("- ") for line in events):
            if self.roster:
                events = ["      - {code: SUBJECT, static: true, section: demographics}"]
            else:
                yield f"  # {self.table.file}: not used. CHECK: no column of times was found"
                return
        yield from head
        if self.joins:
            yield "    joins:"
            yield from (f"      - {join}" for join in self.joins)
        yield "    events:"
        yield from events
        yield ""

    def _head(self) -> Iterator[str]:
        table, how = self.table, self.table.how
        yield f"  - name: {table.name}"
        yield f"    file: {word(table.file)}" + (f"  # {table.files:,} files" if table.files > 1 else "")
        yield f"    subject_id: {word(self.subject)}"
        if how.encoding != ["utf-8"]:
            yield f"    encoding: [{', '.join(how.encoding)}]  # CHECK: are names and units spelled right?"
        if how.delimiter != ",":
            yield f"    delimiter: {json.dumps(how.delimiter)}"
        if how.quote is None:
            yield "    quote: null"
        if how.skip_rows:
            yield f"    skip_rows: {how.skip_rows}  # further header lines"
        for column in table.columns.values():
            if len(column.formats) > 1:
                also = " or ".join(column.formats[1:])
                yield f"    # CHECK: {column.name} is read as {column.formats[0]}, but may be {also}"
        markers = sorted({m for c in table.columns.values() for m in c.markers})
        if markers:
            yield f"    missing: [{', '.join(quoted(m) for m in markers)}]  # CHECK: do all mean nothing?"

    def _events(self) -> Iterator[str]:
        if self.roster:
            yield from self._birth()
        yield from self._death()
        if self.roster and self.found.single:
            for column in guesses.categories(self.table, self.taken):
                code = f"{code_of(column.name)}//{{{column.name}}}"
                yield event_of(code, "demographics", static="true")
        else:
            yield from self._records()

    def _birth(self) -> Iterator[str]:
        column = guesses.birth(self.table)
        ages = [c for c in self.table.columns if re.search(r"anchor_(?:year|age)$", c)]
        if column is not None:
            self.taken |= {c for c in self.table.columns if re.search(r"birth|^dob$|^yob$", c, re.I)}
            yield event_of("MEDS_BIRTH", "demographics", time=self._born(column))
        elif len(ages) == 2:
            self.taken.update(ages)
            time = "{year: anchor_year, minus_years: anchor_age}"
            yield event_of("MEDS_BIRTH", "demographics", time=time)
        else:
            yield "      # CHECK: no date or year of birth was found. With one of them:"
            yield "      # - {code: MEDS_BIRTH, time: {year: year_of_birth}, section: demographics}"

    def _born(self, column: Column) -> str:
        if guesses.is_time(column):
            return day_of(column)
        parts = {"year": column.name}
        for part in ("month", "day"):
            name = column.name.replace("year", part)
            if name != column.name and name in self.table.columns:
                parts[part] = name
        return f"{{{', '.join(f'{k}: {word(v)}' for k, v in parts.items())}}}"

    def _death(self) -> Iterator[str]:
        mine = [c for c in self.deaths if self.table.columns.get(c.name) is c]
        if mine:
            self.taken |= {c.name for c in mine}
            times = [moment_of(c) if c.kind == "timestamp" else day_of(c, at="end_of_day") for c in mine]
            yield event_of("MEDS_DEATH", "death", time=either(times))
        elif self.roster and not self.deaths:
            yield "      # CHECK: no time of death was found. With one:"
            yield "      # - {code: MEDS_DEATH, time: {column: date_of_death, kind: date}, section: death}"

    def _records(self) -> Iterator[str]:
        """What was recorded of subjects: a code and a value, several numbers, or a fact."""
        times = self._times()
        if times is None:
            return
        time, known, end = times
        table, section = self.table, guesses.section_of(self.table)
        self.taken |= {c.name for c in table.columns.values() if guesses.is_time(c) or c.kind == "clock"}
        prefix = code_of(table.name)
        code = guesses.code(table, self.taken)
        common: dict[str, str | None] = {"time": time, "available": known}
        if known is None and section in ("conditions", "procedures", "measurements", "notes"):
            yield f"      # CHECK: when was it known? Without `available`: at its time. {_HINT[section]}"
        if code is None and len(wide := guesses.measures(table, self.taken)) > 1:
            for column in wide:
                when = f"{{not_null: [{word(column.name)}]}}"
                yield event_of(
                    f"{prefix}//{code_of(column.name)}", section, **common, value=column.name, when=when
                )
            wide_names = {c.name for c in wide}
            for column in guesses.categories(table, self.taken | wide_names):
                yield event_of(f"{prefix}//{code_of(column.name)}//{{{column.name}}}", section, **common)
            return
        if code is not None:
            self.taken.add(code.name)
            common["description"] = self._described(code)
        yield event_of(self._coded(prefix, code), section, **common, **self._valued())
        if end is not None and _VISIT.search(table.name):
            yield event_of(f"{prefix}_END", section, time=moment_of(end))

    def _coded(self, prefix: str, code: Column | None) -> str:
        if code is None:
            return prefix
        version = guesses.version(self.table, code)
        if version is not None:
            self.taken.add(version.name)
        parts = [prefix, *(f"{{{c.name}}}" for c in (version, code) if c is not None)]
        first, _ = guesses.value(self.table, self.taken)
        unit = guesses.unit(self.table, first) if first else None
        if unit is not None:
            parts.append(f"{{{unit.name}|UNK}}")
        return "//".join(parts)

    def _valued(self) -> dict[str, str | None]:
        first, text = guesses.value(self.table, self.taken)
        if first is None:
            return {}
        unit = guesses.unit(self.table, first)
        told = {"unit": unit.name if unit else None}
        if text is not None:
            return {"numeric_value": first.name, "text_value": text.name, **told}
        return {"value": first.name, **told}

    def _described(self, code: Column) -> str | None:
        """Joins the dictionary of the codes, where there is one."""
        for key in guesses.keys(self.table, self.tables, self.taken - {code.name}):
            label = guesses.label(key.table, key.there)
            if key.here == code.name and label is not None and key.table.name not in self.found.columns:
                pairs = {key.here: key.there}
                version = guesses.version(self.table, code)
                if version is not None and version.name in key.table.columns:
                    pairs[version.name] = version.name
                self._join(key.table, pairs, {"label": label.name})
                return "{label}"
        return None

    def _times(self) -> tuple[str, str | None, Column | None] | None:
        """Time and `available` of the records; from the visit that they belong to, where they have none."""
        found = guesses.moments(self.table)
        if found.start is not None:
            ways = [moment_of(found.start), *([day_of(found.day)] if found.day else [])]
            known = moment_of(found.known) if found.known else None
            if known is None and guesses.section_of(self.table) in ("conditions", "procedures"):
                known = self._visit_end()
            return either(ways), known, found.end
        if visit := self._visit_end():
            return visit, visit, None
        if clock := guesses.clock(self.table):
            since = f"{{fixed: {_BEGINNING}}}"
            return f"{{elapsed: {word(clock.name)}, unit: clock, since: {since}}}", None, None
        return None

    def _visit_end(self) -> str | None:
        """Joins the table of visits whose key the records have; when the visit ended."""
        for key in guesses.keys(self.table, self.tables, self.taken):
            if key.table.name not in self.found.columns or not _VISIT.search(key.table.name):
                continue
            times = guesses.moments(key.table)
            end = times.end or times.start
            if end is not None:
                if "visit_end" not in self.joined:
                    self._join(key.table, {key.here: key.there}, {"visit_end": end.name})
                return moment_of(end, name="visit_end")
        return None

    def _join(self, table: Profile, on: dict[str, str], columns: dict[str, str]) -> None:
        how = table.how
        keys = [f"file: {word(table.file)}"]
        if how.encoding != ["utf-8"]:
            keys.append(f"encoding: [{', '.join(how.encoding)}]")
        if how.delimiter != ",":
            keys.append(f"delimiter: {json.dumps(how.delimiter)}")
        keys += [f"on: {mapping(on)}", f"columns: {mapping(columns)}"]
        self.joins.append(f"{{{', '.join(keys)}}}")
        self.joined.update(columns)


_HINT = {
    "conditions": "Codes for billing are known at discharge.",
    "procedures": "Codes for billing are known at discharge.",
    "measurements": "Results are known when they are filed.",
    "notes": "A note is known when it is signed.",
}
