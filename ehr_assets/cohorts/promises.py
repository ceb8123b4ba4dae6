"""The promises in a cohort file as expectations: names, Great Expectations' classes, words for people.

Light: check specs are made from this when the definitions load. How they are asked stands in `raw_suites.py`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, time
from typing import Any

from ehr_assets.cohorts.expect_spec import ExpectSpec, Kind
from ehr_assets.cohorts.spec import CohortSpec, TableSpec
from ehr_assets.errors import SpecError
from ehr_assets.expectations import Expectation


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
        SpecError: a reference to a table that the cohort does not have.
    """
    tables = {t.name: t for t in cohort.tables}
    found: list[Promise] = []
    for table in cohort.tables:
        for number, (entry, (kind, columns, argument)) in enumerate(_of(table)):
            # Dagster's names are ASCII; columns are not.
            name = re.sub(r"[^A-Za-z0-9_]", "_", "__".join([table.name, kind, *columns])).rstrip("_")
            again = sum(p.name == name or p.name.startswith(f"{name}__again") for p in found)
            name += f"__again_{again}" if again else ""
            promise = Promise(name, f"promise_{number}", table, kind, columns, argument, entry)
            if kind == "references" and promise.target[0] not in tables:
                raise SpecError(
                    f"A reference names the table '{promise.target[0]}', which the cohort does not have.",
                    where=f"cohort '{cohort.name}', tables.{table.name}.expect",
                    do=f"Use one of: {', '.join(tables)}.",
                )
            found.append(promise)
    return found


def _of(table: TableSpec) -> Iterator[tuple[ExpectSpec, tuple[Kind, tuple[str, ...], Any]]]:
    for entry in table.expect:
        for promise in entry.promises():
            yield entry, promise


def promised_tables(cohort: CohortSpec) -> list[TableSpec]:
    """The tables that promises read."""
    made = promises(cohort)
    wanted = {p.table.name for p in made} | {p.target[0] for p in made if p.kind == "references"}
    return [t for t in cohort.tables if t.name in wanted]


def raw_suite(cohort: CohortSpec) -> list[Expectation]:
    """One expectation per promise; light: it imports nothing of Great Expectations."""
    return [expectation(p) for p in promises(cohort)]


def expectation(p: Promise) -> Expectation:
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
