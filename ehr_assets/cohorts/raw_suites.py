"""The Great Expectations suites of raw tables: from the promises in a cohort file to expectations, and run.

Everything runs on DuckDB. A CSV table is parsed once, into a DuckDB table of the columns that promises name
(as text, stripped, empty = null); a Parquet table is viewed where it lies. For promises that Great
Expectations has no SQL for on DuckDB (regular expressions, other tables, numbers in text) the view has one
more column: typed, or a flag that is null where all is well. So all promises about single values of a table
are counted by one statement. Records with the wrong number of fields are not seen here: extraction
quarantines them.
"""

import codecs
import csv
import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, time
from pathlib import Path
from typing import Any

from ehr_assets.cohorts.expect_spec import ExpectSpec, Kind, RangeSpec
from ehr_assets.cohorts.spec import CohortSpec, TableSpec
from ehr_assets.errors import RawTableError, SpecError
from ehr_assets.expectations import Expectation, Verdict, Workbench, named, quoted, run_suite, workbench
from ehr_assets.fanout import Machine

_ENCODINGS = {"utf-8": "utf-8", "ascii": "utf-8", "iso8859-1": "latin-1"}  # as DuckDB calls them
_LONGEST_LINE = 64 << 20


@dataclass(frozen=True)
class Promise:
    """One promise about one table; `name` is the check's, `at` the view's column made for it."""

    name: str
    at: str
    table: TableSpec
    kind: Kind
    columns: tuple[str, ...]
    argument: Any
    entry: ExpectSpec

    @property
    def target(self) -> tuple[str, str]:
        """(table, column) that `references` names."""
        table, _, column = self.argument.partition(".")
        return table, column


def promises(cohort: CohortSpec) -> list[Promise]:
    """All promises of a cohort's tables, under names that are unique in the cohort.

    Raises:
        SpecError: a reference to a table that the cohort does not have, or an encoding DuckDB cannot read.
    """
    tables = {t.name: t for t in cohort.tables}
    found: list[Promise] = []
    for table in cohort.tables:
        for number, (entry, (kind, columns, argument)) in enumerate(_of(table)):
            name = re.sub(r"\W", "_", "__".join([table.name, kind, *columns])).rstrip("_")
            again = sum(p.name == name or p.name.startswith(f"{name}__again") for p in found)
            name += f"__again_{again}" if again else ""
            promise = Promise(name, f"promise_{number}", table, kind, columns, argument, entry)
            involved = [table]
            if kind == "references":
                if promise.target[0] not in tables:
                    raise SpecError(
                        f"A reference names the table '{promise.target[0]}', which the cohort does not have.",
                        where=f"cohort '{cohort.name}', tables.{table.name}.expect",
                        do=f"Use one of: {', '.join(tables)}.",
                    )
                involved.append(tables[promise.target[0]])
            for t in involved:
                if codecs.lookup(t.encoding).name not in _ENCODINGS:
                    raise SpecError(
                        f"Promises cannot be kept track of in a table written in {t.encoding}: "
                        "only utf-8 and latin-1 can be read for it.",
                        where=f"cohort '{cohort.name}', tables.{t.name}",
                        do="Convert the table to UTF-8, or take `expect` (and references to it) away.",
                    )
            found.append(promise)
    return found


def _of(table: TableSpec) -> Iterator[tuple[ExpectSpec, tuple[Kind, tuple[str, ...], Any]]]:
    for entry in table.expect:
        for promise in entry.promises():
            yield entry, promise


def raw_suite(cohort: CohortSpec) -> list[Expectation]:
    """One expectation per promise; light: it imports nothing of Great Expectations."""
    return [_expectation(p) for p in promises(cohort)]


def validate_raw(cohort: CohortSpec, root: Path, machine: Machine) -> list[Verdict]:
    """Runs the suite over the raw tables under `root`. An absent table's promises are skipped, with a note; a
    column that a table lacks fails the promises that name it."""
    made = promises(cohort)
    there = _headers(cohort, root, made)
    told = {p.name: Verdict(p.name, False, note=note) for p in made if (note := _lacking(p, there))}
    kept = [p for p in made if p.name not in told]
    with workbench(machine) as bench:
        _lay_out(bench, cohort, root, [p for p in kept if p.table.name in there], there)
        asked = [
            replace(_expectation(p), skip=f"The table {p.target[0]} is not there.")
            if p.kind == "references" and p.target[0] not in there
            else _expectation(p)
            for p in kept
        ]
        told |= {v.name: v for v in run_suite(bench, asked)}
    return [told[p.name] for p in made]


def _headers(cohort: CohortSpec, root: Path, made: list[Promise]) -> dict[str, list[str]]:
    """Column names of the tables that promises are about and that are there."""
    from ehr_assets.cohorts.readers import find_table  # polars: not when the definitions load

    wanted = {p.table.name for p in made} | {p.target[0] for p in made if p.kind == "references"}
    files = {t.name: (find_table(root, t.file), t.encoding) for t in cohort.tables if t.name in wanted}
    return {name: _header(path, encoding) for name, (path, encoding) in files.items() if path}


def _header(path: Path, encoding: str) -> list[str]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_schema(path).names
    name = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding=name, newline="") as text:
            return next(csv.reader(text), [])
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error):
        raise _unreadable(path) from None


def _require_whole(path: Path) -> None:
    """DuckDB takes a truncated gzip file, and one with a wrong checksum, for a shorter table."""
    if path.suffix == ".gz":
        try:
            with gzip.open(path) as data:
                while data.read(1 << 20):
                    pass
        except (OSError, EOFError, zlib.error):
            raise _unreadable(path) from None


def _unreadable(path: Path) -> RawTableError:
    return RawTableError(
        "The raw table cannot be read.",
        where=str(path),
        do="Materialize the cohort's meds_events: its reader says what is wrong and in which line.",
    )


def _lacking(p: Promise, there: dict[str, list[str]]) -> str:
    """Which column the promise needs and its table does not have; empty if none."""
    needed = [(p.table.name, c) for c in p.columns] + ([p.target] if p.kind == "references" else [])
    lacking = [f"{t} has no column '{c}'" for t, c in needed if t in there and c not in there[t]]
    return f"{lacking[0]}." if lacking else ""


def _lay_out(
    bench: Workbench, cohort: CohortSpec, root: Path, made: list[Promise], there: dict[str, list[str]]
) -> None:
    """For each table, `<table>__rows` with the columns needed, and the view `<table>` with one more for each
    promise that needs it."""
    import duckdb

    from ehr_assets.cohorts.readers import find_table

    needed: dict[str, set[str]] = {p.table.name: set() for p in made}
    for p in made:
        needed[p.table.name] |= set(p.columns)
        if p.kind == "references" and p.target[0] in there:
            needed.setdefault(p.target[0], set()).add(p.target[1])
    tables = {t.name: t for t in cohort.tables}
    with bench.connect() as db:
        for name, columns in needed.items():
            path = find_table(root, tables[name].file)
            assert path is not None
            _require_whole(path)
            try:
                db.execute(_rows(path, tables[name], sorted(columns) or there[name][:1], there[name]))
            except duckdb.Error:  # its text quotes the line
                raise _unreadable(path) from None
        for name in {p.table.name for p in made}:
            extra = [
                f"{sql} AS {p.at}" for p in made if p.table.name == name and (sql := _expression(p, there))
            ]
            rows = named(f"{name}__rows")
            db.execute(f"CREATE VIEW {named(name)} AS SELECT {', '.join(['*', *extra])} FROM {rows}")


def _rows(path: Path, table: TableSpec, columns: list[str], header: list[str]) -> str:
    texts = ", ".join(f"nullif(trim({named(c)}::VARCHAR), '') AS {named(c)}" for c in columns)
    rows = named(f"{table.name}__rows")
    if path.suffix == ".parquet":
        return f"CREATE VIEW {rows} AS SELECT {texts} FROM read_parquet({quoted(str(path))})"
    names = ", ".join(f"{quoted(c)}: 'VARCHAR'" for c in header)
    encoding = _ENCODINGS[codecs.lookup(table.encoding).name]
    return f"""CREATE TABLE {rows} AS SELECT {texts} FROM read_csv({quoted(str(path))}, auto_detect = false,
      header = true, columns = {{{names}}}, delim = ',', quote = '"', escape = '"', nullstr = '',
      encoding = '{encoding}', ignore_errors = true, max_line_size = {_LONGEST_LINE})"""


def _expression(p: Promise, there: dict[str, list[str]]) -> str:
    """The SQL of the column that a promise needs beside the table's own; empty if it needs none."""
    if p.kind == "between":
        return _typed(named(p.columns[0]), p.argument)
    if p.kind == "matches":
        return _flag(f"NOT regexp_matches({named(p.columns[0])}, {quoted(p.argument)})")
    if p.kind == "references" and p.target[0] in there:
        table, column = named(f"{p.target[0]}__rows"), named(p.target[1])
        known = f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL"
        return _flag(f"{named(p.columns[0])} IS NOT NULL AND {named(p.columns[0])} NOT IN ({known})")
    return ""


def _flag(wrong: str) -> str:
    return f"CASE WHEN {wrong} THEN true END"


def _typed(column: str, limits: RangeSpec) -> str:
    """The text as a number or time; what is neither becomes infinite, on the side that has a limit."""
    kind = "TIMESTAMP" if limits.of_dates else "DOUBLE"
    sign = "" if limits.max is not None else "-"
    return f"""CASE WHEN {column} IS NOT NULL
      THEN coalesce(try_cast({column} AS {kind}), '{sign}infinity'::{kind}) END"""


def _expectation(p: Promise) -> Expectation:
    columns = " and ".join(p.columns)
    kind, kwargs, what = _asked(p, columns)
    share = "" if p.entry.mostly == 1 else f", in at least {p.entry.mostly:.2%} of the rows"
    if p.kind != "row_count":
        kwargs["mostly"] = p.entry.mostly
    return Expectation(
        p.name,
        f"{p.table.name}: {what}{share}.",
        kind,
        p.table.name,
        kwargs,
        p.entry.blocking,
        absent=f"The table {p.table.name} is not there.",
    )


def _asked(p: Promise, columns: str) -> tuple[str, dict[str, Any], str]:
    """Great Expectations' class, its arguments, and the promise in words."""
    if p.kind == "unique" and len(p.columns) > 1:
        kwargs: dict[str, Any] = {"column_list": list(p.columns)}
        return "ExpectCompoundColumnsToBeUnique", kwargs, f"{columns} are unique together"
    if p.kind == "unique":
        return "ExpectColumnValuesToBeUnique", {"column": columns}, f"{columns} is unique"
    if p.kind == "not_null":
        return "ExpectColumnValuesToNotBeNull", {"column": columns}, f"{columns} is never empty"
    if p.kind == "one_of":
        kwargs = {"column": columns, "value_set": list(p.argument)}
        return "ExpectColumnValuesToBeInSet", kwargs, f"{columns} is one of {', '.join(p.argument)}"
    if p.kind == "row_count":
        limits = {"min_value": p.argument.min, "max_value": p.argument.max}
        return "ExpectTableRowCountToBeBetween", limits, f"the table has {_in_words(p.argument)} rows"
    if p.kind == "between":
        kwargs = {
            "column": p.at,
            "min_value": _limit(p.argument.min),
            "max_value": _limit(p.argument.max, True),
        }
        return "ExpectColumnValuesToBeBetween", kwargs, f"{columns} is {_in_words(p.argument)}"
    what = f"{columns} matches {p.argument}" if p.kind == "matches" else f"{columns} is found in {p.argument}"
    return "ExpectColumnValuesToBeNull", {"column": p.at}, what


def _limit(value: Any, last: bool = False) -> Any:
    """A day as its first or last moment; a number as it is."""
    if value is None or isinstance(value, float):
        return value
    return datetime.combine(value, time.max if last else time.min)


def _in_words(limits: Any) -> str:
    def text(value: Any) -> str:
        return f"{value:g}" if isinstance(value, float) else str(value)

    if limits.max is None:
        return f"at least {text(limits.min)}"
    return (
        f"at most {text(limits.max)}" if limits.min is None else f"{text(limits.min)} to {text(limits.max)}"
    )
