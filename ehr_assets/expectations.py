"""Great Expectations on DuckDB: a workbench of views and small tables, and suites run on it.

Only counts come out: Great Expectations puts raw values into its results, so it is told to fetch none. Rooms
bring their own suites and tables (`meds/suites.py`, `meds/facts.py`, `cohorts/raw_suites.py`).
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ehr_assets.errors import DatasetError
from ehr_assets.fanout import PARENT_BYTES, Machine

# Counts, but no examples of unexpected values: those would be raw values, and one more scan each.
_COUNTS_ONLY = {"result_format": "BASIC", "partial_unexpected_count": 0}


@dataclass(frozen=True)
class Expectation:
    """One expectation, as data, so that check specs exist without importing Great Expectations.

    Args:
        name: the Dagster check's name; unique in its suite.
        description: what must hold, for people.
        kind: a Great Expectations class name.
        table: the view or table it runs on; where the workbench has none of this name, it is skipped.
        kwargs: its arguments.
        blocking: whether its failure stops what is downstream; otherwise it warns.
        of: what a row of the table is.
        also: name → SQL of one number over the workbench's tables, to be told beside the outcome.
        skip: why there is nothing to ask; empty if there is.
        absent: what it means that the workbench does not have the table.
    """

    name: str
    description: str
    kind: str
    table: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    blocking: bool = True
    of: str = "rows"
    also: Mapping[str, str] = field(default_factory=dict)
    skip: str = ""
    absent: str = "The table is not there."


@dataclass(frozen=True)
class Verdict:
    """The outcome of one expectation: counts and shares only; `note` says why it was skipped."""

    name: str
    passed: bool
    counts: Mapping[str, int | float | str] = field(default_factory=dict)
    note: str = ""


class Workbench:
    """A DuckDB file for one validation; it holds views on the data and small tables made from them.

    Args:
        folder: for the file, and for what does not fit into the memory budget.
    """

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.path = folder / "workbench.duckdb"
        self.machine = machine
        self.config: dict[str, Any] = {
            "threads": machine.workers,
            # DuckDB's limit leaves out Python, Great Expectations and the reader's decompression buffers.
            "memory_limit": f"{max(machine.memory_bytes - PARENT_BYTES, PARENT_BYTES // 2) >> 20}MiB",
            "temp_directory": str(folder / "spill"),
        }

    @contextmanager
    def connect(self) -> Iterator[Any]:
        import duckdb

        with duckdb.connect(self.path, config=self.config) as connection:
            connection.execute("SET enable_progress_bar = false")
            yield connection

    def tables(self) -> set[str]:
        """The names of its views and tables."""
        with self.connect() as db:
            return {name for (name,) in db.execute("SELECT table_name FROM duckdb_tables()").fetchall()} | {
                name for (name,) in db.execute("SELECT view_name FROM duckdb_views()").fetchall()
            }


@contextmanager
def workbench(machine: Machine, scratch: Path | None = None) -> Iterator[Workbench]:
    """A workbench in a temporary folder, gone afterwards.

    Args:
        scratch: where to make it; where patients' data is written, a folder of the store. The system's own
            is often memory, and not private.
    """
    with tempfile.TemporaryDirectory(prefix="ehr-validation-", dir=scratch) as folder:
        yield Workbench(Path(folder), machine)


def parquet(files: Iterable[Path], *options: str) -> str:
    """``read_parquet([...])`` over the files, as SQL."""
    return f"read_parquet([{', '.join(quoted(str(f)) for f in files)}]{''.join(', ' + o for o in options)})"


def quoted(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def named(name: str) -> str:
    """A SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def run_suite(bench: Workbench, expectations: Sequence[Expectation]) -> list[Verdict]:
    """Lets Great Expectations validate, one batch per table; in the order of `expectations`.

    Expectations about the values of one column that share a table are counted by one statement.

    Raises:
        DatasetError: an expectation could not be evaluated at all (a column is missing, say).
    """
    there = bench.tables()
    asked = [e for e in expectations if not e.skip and e.table in there]
    extra = _also(bench, asked)
    verdicts = {
        e.name: Verdict(e.name, True, note=e.skip or e.absent) for e in expectations if e not in asked
    }
    if asked:
        with _datasource(bench) as source:
            for table in dict.fromkeys(e.table for e in asked):
                asset = source.add_table_asset(name=table, table_name=table)
                batch = asset.add_batch_definition_whole_table(name="all").get_batch()
                for e, passed, counts in _validate(batch, [e for e in asked if e.table == table]):
                    verdicts[e.name] = Verdict(e.name, passed, {**counts, **extra[e.name]})
    return [verdicts[e.name] for e in expectations]


def _validate(
    batch: Any, expectations: Sequence[Expectation]
) -> Iterator[tuple[Expectation, bool, dict[str, int | float | str]]]:
    import great_expectations as gx
    import great_expectations.expectations as gxe

    made = [
        getattr(gxe, e.kind)(
            **e.kwargs, meta={"name": e.name}, severity="critical" if e.blocking else "warning"
        )
        for e in expectations
    ]
    suite = gx.ExpectationSuite(name=expectations[0].table, expectations=made)
    # Not in the order of the suite: Great Expectations gives those that failed to evaluate first.
    found = {
        r.expectation_config.meta["name"]: r
        for r in batch.validate(suite, result_format=_COUNTS_ONLY).results
    }
    for e in expectations:
        result = found[e.name]
        if raised := _raised(result.exception_info or {}):
            raise DatasetError(
                f"The expectation '{e.name}' could not be evaluated on '{e.table}'.",
                where=raised,
                do="Check that the table has the columns this expectation names.",
            )
        yield e, bool(result.success), _counts(e, result.result)


def _counts(e: Expectation, result: Mapping[str, Any]) -> dict[str, int | float | str]:
    counts: dict[str, int | float | str] = {"of": e.of}
    if "unexpected_count" in result:
        counts |= {
            "checked": int(result["element_count"]),
            "unexpected": int(result["unexpected_count"] or 0),
        }
    elif e.kind == "ExpectTableRowCountToBeBetween":
        counts["checked"] = int(result["observed_value"])
    return counts


def _also(bench: Workbench, asked: Sequence[Expectation]) -> dict[str, dict[str, int | float]]:
    with bench.connect() as db:
        return {
            e.name: {name: (db.execute(sql).fetchone() or [0])[0] or 0 for name, sql in e.also.items()}
            for e in asked
        }


def _raised(info: Mapping[str, Any]) -> str:
    """The kind of the exception (never its text, which may quote a value); empty if none was raised."""
    entries = [info] if "raised_exception" in info else list(info.values())
    bad = [e for e in entries if isinstance(e, Mapping) and e.get("raised_exception")]
    return str(bad[0].get("exception_message", "")).split(":")[0][:80] if bad else ""


@contextmanager
def _datasource(bench: Workbench) -> Iterator[Any]:
    kind = _datasource_type()
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # pyright: ignore[reportAttributeAccessIssue]
    datasource = kind(
        name="duckdb",
        connection_string=f"duckdb:///{bench.path}",
        kwargs={"connect_args": {"config": bench.config}},
        create_temp_table=False,
    )
    datasource._data_context = context
    try:
        yield datasource
    finally:
        datasource.get_execution_engine().close()
        datasource.get_engine().dispose()


@cache  # Great Expectations keeps a registry of data source types and refuses to see one twice
def _datasource_type() -> Any:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    from great_expectations.datasource.fluent.sql_datasource import SQLDatasource
    from great_expectations.execution_engine.sqlalchemy_execution_engine import SqlAlchemyExecutionEngine

    class DuckDBExecutionEngine(SqlAlchemyExecutionEngine):
        """Keeps its connection open: duckdb-engine loses a result when its connection closes first."""

        @contextmanager
        def get_connection(self):
            if not self._connection:
                self._connection = self.engine.connect()
            yield self._connection

    class DuckDBDatasource(SQLDatasource):
        type: Literal["ehr_duckdb"] = "ehr_duckdb"  # pyright: ignore[reportIncompatibleVariableOverride]

        @property
        def execution_engine_type(self):
            return DuckDBExecutionEngine

    return DuckDBDatasource
