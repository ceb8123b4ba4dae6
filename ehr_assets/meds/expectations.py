"""Running Great Expectations suites on DuckDB over Parquet files.

Only counts come out: Great Expectations puts raw values into its results, and those stay here.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ehr_assets.errors import DatasetError


@dataclass(frozen=True)
class Expectation:
    """One expectation, as data, so that check specs exist without importing Great Expectations.

    Args:
        name: the Dagster check's name; unique in its suite.
        description: what must hold, for people.
        kind: a Great Expectations class name.
        kwargs: its arguments. `unexpected_rows_query` names its own table ``{batch}``.
        table: the view it runs on.
    """

    name: str
    description: str
    kind: str
    table: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """The outcome of one expectation: counts only."""

    name: str
    passed: bool
    rows: int | None
    unexpected: int | None


def no_rows(name: str, description: str, table: str, query: str) -> Expectation:
    """An expectation that `query` (SQL over the suite's tables) selects nothing; ``{batch}`` is `table`."""
    return Expectation(
        name, description, "UnexpectedRowsExpectation", table, {"unexpected_rows_query": query}
    )


def run_suite(
    tables: Mapping[str, Path | Sequence[Path]], expectations: Sequence[Expectation]
) -> list[Verdict]:
    """Validates Parquet files.

    Args:
        tables: view name → a Parquet file, or several (the view then has `filename` and `file_row_number`).
        expectations: run in order, each on its own table.

    Raises:
        DatasetError: an expectation could not be evaluated at all (a column is missing, say).
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        _datasource(Path(folder) / "suite.duckdb", tables) as source,
    ):
        verdicts = []
        for table in dict.fromkeys(e.table for e in expectations):
            asset = source.add_table_asset(name=table, table_name=table)
            batch = asset.add_batch_definition_whole_table(name="all").get_batch()
            verdicts += [_evaluate(batch, e) for e in expectations if e.table == table]
    order = {e.name: i for i, e in enumerate(expectations)}
    return sorted(verdicts, key=lambda v: order[v.name])


def _view(name: str, files: Path | Sequence[Path]) -> str:
    paths = [files] if isinstance(files, Path) else list(files)
    quoted = ", ".join("'" + str(p).replace("'", "''") + "'" for p in paths)
    with_name = "" if isinstance(files, Path) else ", filename = true, file_row_number = true"
    return f'CREATE VIEW "{name}" AS SELECT * FROM read_parquet([{quoted}]{with_name})'


def _evaluate(batch: Any, expectation: Expectation) -> Verdict:
    import great_expectations.expectations as gxe

    made = getattr(gxe, expectation.kind)(**expectation.kwargs)
    found = batch.validate(made, result_format="BASIC")
    if found.exception_info and _raised(found.exception_info):
        raise DatasetError(
            f"The expectation '{expectation.name}' could not be evaluated on '{expectation.table}'.",
            where=_raised(found.exception_info),
            do="Check that the table has the columns this expectation names.",
        )
    result = found.result
    unexpected = result.get("unexpected_count", result.get("observed_value"))
    return Verdict(
        expectation.name,
        bool(found.success),
        result.get("element_count"),
        unexpected if isinstance(unexpected, int) else None,
    )


def _raised(info: Mapping[str, Any]) -> str:
    """The kind of the exception (never its text, which may quote a value); empty if none was raised."""
    entries = [info] if "raised_exception" in info else list(info.values())
    bad = [e for e in entries if e.get("raised_exception")]
    return str(bad[0].get("exception_message", "")).split(":")[0][:80] if bad else ""


@contextmanager
def _datasource(path: Path, tables: Mapping[str, Path | Sequence[Path]]):
    """A Great Expectations data source on a small DuckDB file that holds nothing but views."""
    kind = _datasource_type()
    import duckdb
    import great_expectations as gx

    with duckdb.connect(path) as db:
        for name, files in tables.items():
            db.execute(_view(name, files))
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # pyright: ignore[reportAttributeAccessIssue]
    datasource = kind(name="duckdb", connection_string=f"duckdb:///{path}", create_temp_table=False)
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
