"""The Great Expectations suites of raw tables: laid out on DuckDB, and run.

The columns that promises name are read as extraction reads them (`readers.py`: encodings, aliases, missing
markers, many files, S3) and written to Parquet, where DuckDB finds them. For promises that Great Expectations
has no SQL for on DuckDB (regular expressions, other tables, numbers in text) the view of a table has one
more column: typed, or a flag that is null where all is well. So all promises about single values of a table
are counted by one statement. Records with the wrong number of fields are not seen here: extraction
quarantines them.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ehr_assets.cohorts.expect_spec import RangeSpec
from ehr_assets.cohorts.files import RawFile, find_files
from ehr_assets.cohorts.promises import Promise, expectation, promised_tables, promises
from ehr_assets.cohorts.roots import RawRoot
from ehr_assets.cohorts.spec import CohortSpec, TableSpec
from ehr_assets.expectations import Verdict, Workbench, named, quoted, run_suite, workbench
from ehr_assets.fanout import Machine


def validate_raw(
    cohort: CohortSpec, root: RawRoot | Path, machine: Machine, scratch: Path | None = None
) -> list[Verdict]:
    """Runs the suite over the raw tables under `root`. An absent table's promises are skipped, with a note; a
    column that a table lacks, and a pattern that DuckDB does not read, fail the promises that name it.

    Args:
        scratch: a folder for copies of the columns that are looked at; private.

    Raises:
        RawTableError: a table that promises are about cannot be read.
    """
    made = promises(cohort)
    found = {t.name: (t, find_files(RawRoot.of(root), t.file)) for t in promised_tables(cohort)}
    there = {name: table for name, table in found.items() if table[1]}
    lost = _lost(made, there)
    with workbench(machine, scratch) as bench:
        notes = {p.name: _note(p, lost) or _unreadable(bench, p) for p in made}
        told = {name: Verdict(name, False, note=note) for name, note in notes.items() if note}
        kept = [p for p in made if p.name not in told]
        _lay_out(bench, [p for p in kept if p.table.name in there], there)
        asked = [
            replace(expectation(p), skip=f"The table {p.target[0]} is not there.")
            if p.kind == "references" and p.target[0] not in there
            else expectation(p)
            for p in kept
        ]
        told |= {v.name: v for v in run_suite(bench, asked)}
    return [told[p.name] for p in made]


_Tables = dict[str, tuple[TableSpec, list[RawFile]]]


def _needed(made: Sequence[Promise], there: _Tables) -> dict[str, list[str]]:
    """The columns of each table that the promises read."""
    needed: dict[str, set[str]] = {p.table.name: set() for p in made if p.table.name in there}
    for p in made:
        if p.table.name in there:
            needed[p.table.name] |= set(p.columns)
        if p.kind == "references" and p.target[0] in there:
            needed.setdefault(p.target[0], set()).add(p.target[1])
    return {name: sorted(columns) for name, columns in needed.items()}


def _lost(made: Sequence[Promise], there: _Tables) -> set[tuple[str, str]]:
    """(table, column) that promises read and no file of the table has."""
    from ehr_assets.cohorts.headers import lacking  # polars: not when the definitions load

    lost = set()
    for name, columns in _needed(made, there).items():
        table, files = there[name]
        lost |= {(name, column) for column in lacking(files, columns, table)}
    return lost


def _note(p: Promise, lost: set[tuple[str, str]]) -> str:
    """Which column the promise needs and its table does not have; empty if none."""
    needed = [(p.table.name, c) for c in p.columns] + ([p.target] if p.kind == "references" else [])
    return next((f"{t} has no column '{c}'." for t, c in needed if (t, c) in lost), "")


def _unreadable(bench: Workbench, p: Promise) -> str:
    """Why DuckDB cannot look for the promise's pattern; empty if it can, or there is none."""
    import duckdb

    if p.kind == "matches":
        with bench.connect() as db:
            try:
                db.execute("SELECT regexp_matches('', ?)", [p.argument])
            except duckdb.Error:
                return "This pattern is none that DuckDB (RE2) reads."
    return ""


def _lay_out(bench: Workbench, made: Sequence[Promise], there: _Tables) -> None:
    """For each table, `<table>__rows` with the columns needed, and the view `<table>` with one more for each
    promise that needs it."""
    with bench.connect() as db:
        for number, (name, columns) in enumerate(_needed(made, there).items()):
            path = bench.path.parent / f"rows-{number}.parquet"
            _write_rows(*there[name], columns, path)
            rows = named(f"{name}__rows")
            db.execute(f"CREATE VIEW {rows} AS SELECT * FROM read_parquet({quoted(str(path))})")
        for name in {p.table.name for p in made}:
            extra = [
                f"{sql} AS {p.at}" for p in made if p.table.name == name and (sql := _expression(p, there))
            ]
            rows = named(f"{name}__rows")
            db.execute(f"CREATE VIEW {named(name)} AS SELECT {', '.join(['*', *extra])} FROM {rows}")


def _write_rows(table: TableSpec, files: list[RawFile], columns: list[str], path: Path) -> None:
    """The table's columns (or, for its rows alone, their numbers) as extraction sees them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ehr_assets.cohorts.batches import ROW
    from ehr_assets.cohorts.cleaning import cleaned
    from ehr_assets.cohorts.readers import read_table

    fields = [pa.field(ROW, pa.int64()), *(pa.field(c, pa.large_string()) for c in columns)]
    with pq.ParquetWriter(path, pa.schema(fields), compression="lz4") as out:
        for batch in read_table(files, columns, table):
            rows = batch.frame.select(ROW, *cleaned(columns, table)).to_arrow()
            out.write_table(rows.cast(out.schema))


def _expression(p: Promise, there: _Tables) -> str:
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
    from ehr_assets.cohorts.cleaning import NUMBER  # polars: not when the definitions load

    kind, form = ("TIMESTAMP", "^[-+:. TZ0-9]+$") if limits.of_dates else ("DOUBLE", NUMBER)
    sign = "" if limits.max is not None else "-"
    read = f"try_cast({column} AS {kind})"
    # DuckDB also reads nan, inf, epoch and 1_000; extraction does not.
    sound = f"regexp_matches({column}, {quoted(form)}) AND isfinite({read})"
    return f"""CASE WHEN {column} IS NOT NULL
      THEN coalesce(CASE WHEN {sound} THEN {read} END, '{sign}infinity'::{kind}) END"""
