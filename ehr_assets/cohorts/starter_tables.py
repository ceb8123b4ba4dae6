"""The lines of one table of a starter spec: how it is read, its joins, its events, and what is not used.

What columns may mean is guessed in `guesses.py`; the spec as a whole is written in `starter.py`.
"""

import json
import re
from collections.abc import Iterator, Sequence

from ehr_assets.cohorts import guesses
from ehr_assets.cohorts.guesses import Subjects
from ehr_assets.cohorts.profiles import Column, Profile
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
from ehr_assets.cohorts.table_spec import TableSpec
from ehr_assets.specs import parse_spec
from ehr_assets.yamls import parse_yaml

_BEGINNING = "2000-01-01"
_DOUBTS = {
    "encoding": "CHECK: are names and units spelled right?",
    "skip_rows": "further header lines",
    "missing": "CHECK: do all mean nothing?",
}


class StarterTable:
    """The lines of one table.

    Args:
        tables: all that can be read, for keys that they share.
        found: who the subjects are.
        deaths: the columns that tell deaths.
    """

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
        joins = ["    joins:", *(f"      - {join}" for join in self.joins)] if self.joins else []
        lines = [*head, *joins, "    events:", *events]
        yield from lines
        yield from self._not_used(lines)
        yield ""

    def _not_used(self, lines: list[str]) -> Iterator[str]:
        """The columns that nothing in these lines reads: nothing is left out without a word."""
        (written,) = parse_yaml("\n".join(lines))
        spec = parse_spec(TableSpec, written, f"the table {self.table.name}")
        left = [c for c in self.table.columns if c not in spec.raw_columns()]
        if left:
            yield from (f"    {line}" for line in comment(f"CHECK: not used: {', '.join(left)}"))

    def _head(self) -> Iterator[str]:
        table = self.table
        yield f"  - name: {table.name}"
        yield f"    file: {word(table.file)}" + (f"  # {table.files:,} files" if table.files > 1 else "")
        yield f"    subject_id: {word(self.subject)}"
        for column in table.columns.values():
            if len(column.formats) > 1:
                also = " or ".join(column.formats[1:])
                yield f"    # CHECK: {column.name} is read as {column.formats[0]}, but may be {also}"
        for key, said in _how(table).items():
            yield f"    {key}: {said}" + (f"  # {_DOUBTS[key]}" if key in _DOUBTS else "")

    def _events(self) -> Iterator[str]:
        if self.roster:
            yield from self._birth()
        yield from self._death()
        if self.roster and self.found.single:
            for column in guesses.categories(self.table, self.taken):
                # The name that MEDS datasets mostly give it, and the profile looks for.
                kind = "GENDER" if re.fullmatch(r"sex|gender", column.name, re.I) else code_of(column.name)
                code = f"{kind}//{{{column.name}}}"
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
        if end is not None and guesses.VISIT.search(table.name):
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
            if key.table.name not in self.found.columns or not guesses.VISIT.search(key.table.name):
                continue
            times = guesses.moments(key.table)
            end = times.end or times.start
            if end is not None:
                if "visit_end" not in self.joined:
                    self._join(key.table, {key.here: key.there}, {"visit_end": end.name})
                return moment_of(end, name="visit_end")
        return None

    def _join(self, table: Profile, on: dict[str, str], columns: dict[str, str]) -> None:
        keys = {"file": word(table.file), **_how(table), "on": mapping(on), "columns": mapping(columns)}
        self.joins.append(f"{{{', '.join(f'{key}: {said}' for key, said in keys.items())}}}")
        self.joined.update(columns)


def _how(table: Profile) -> dict[str, str]:
    """How its files are read, where it is not as usual, in YAML."""
    how, out = table.how, {}
    if how.encoding != ["utf-8"]:
        out["encoding"] = f"[{', '.join(how.encoding)}]"
    if how.delimiter != ",":
        out["delimiter"] = json.dumps(how.delimiter)
    if how.quote is None:
        out["quote"] = "null"
    if how.skip_rows:
        out["skip_rows"] = str(how.skip_rows)
    if markers := sorted({m for c in table.columns.values() for m in c.markers}):
        out["missing"] = f"[{', '.join(quoted(m) for m in markers)}]"
    return out


_HINT = {
    "conditions": "Codes for billing are known at discharge.",
    "procedures": "Codes for billing are known at discharge.",
    "measurements": "Results are known when they are filed.",
    "notes": "A note is known when it is signed.",
}
