"""SMB-Structure's Tables 2, 3 and 5 in the paper's layout: methods as rows, under their backbone.

Mean ± standard deviation over tasks by indication and by category; task by horizon. The best of each column
is bold, the second underlined, as printed; the oracle takes no part.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import polars as pl

from ehr_assets.reports.blocks import EMPTY, Cell, Group, Head, Look, Row, Table
from ehr_assets.reports.inputs import CohortInputs, Inputs
from ehr_assets.reports.methods import Method, methods_of
from ehr_assets.reports.small_cells import FEWEST, masked
from ehr_assets.reports.tables import Results, TaskRow

DIGITS = 3

Values = Mapping[str, tuple[float, float | None] | None]
"""Method key → value and standard deviation, of one column."""


def table2(inputs: Inputs, results: Results) -> Table | None:
    """Mean AUROC by indication."""
    return _means(inputs, results.cohort, "indication", "Table 2", "AUROC by indication")


def table3(inputs: Inputs, results: Results) -> Table | None:
    """Mean AUROC by category, in the order of the task file."""
    order = [name for name, _ in results.categories]
    return _means(inputs, results.cohort, "category", "Table 3", "AUROC by category", order)


def table5(inputs: Inputs, results: Results) -> Table | None:
    """AUROC task by horizon, a column per task; tasks that differ in their horizon alone stand side by
    side.
    """
    tasks = [row for row in results.rows if row.has("auroc")]
    tasks.sort(key=lambda row: [family(r) for r in results.rows].index(family(row)))
    if not tasks:
        return None
    heads = [
        Head(
            f"{t.horizon_days} days" if t.horizon_days else t.title,
            f"n {masked(t.n)}, {masked(t.n_positive)} pos.",
            family(t),
        )
        for t in tasks
    ]
    columns: list[Values] = [
        {k: None if s.value is None else (s.value, None) for k, s in t.by_metric["auroc"].items()}
        for t in tasks
    ]
    methods = [m for m in results.methods if any(column.get(m.key) for column in columns)]
    return Table(
        f"Table 5. AUROC by task and horizon: {results.cohort.title}",
        "Methods",
        heads,
        grouped(methods, columns),
        inputs.scored_from(results.cohort),
        "AUROC on held-out nodes; n: nodes with a known outcome. Bold: best of the column, underlined: "
        "second.",
    )


WHOLE = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "sensitivity_at_spec90": "Sensitivity at 90 % specificity",
    "specificity_at_spec90": "Specificity reached there",
    "brier": "Brier score",
    "c_index": "C-index",
    "td_auroc": "AUROC at the horizon",
    "spearman": "Rank correlation",
}
"""Metrics whose means over all tasks are shown, with the interval of the mean, in this order."""


def means_table(inputs: Inputs, results: Results) -> Table | None:
    """Every metric's mean over all tasks that every method could score, with its interval."""
    found = {m: group_means(inputs, results.cohort, "all", m) for m in WHOLE}
    found = {m: rows for m, rows in found.items() if rows.height}
    keys = [key for rows in found.values() for key in rows["key"].to_list()]
    if not keys:
        return None
    heads, columns = [], []
    for metric, rows in found.items():
        n = rows["n_tasks"].max()
        heads.append(Head(WHOLE[metric], f"{n} task{'s' if n != 1 else ''}"))
        columns.append({r["key"]: r for r in rows.iter_rows(named=True)})

    def cell(row: Mapping[str, Any] | None) -> Cell:
        if row is None:
            return EMPTY
        known = row["ci_low"] is not None and row["ci_high"] is not None
        return Cell(f"{row['value']:.3f}", f"{row['ci_low']:.2f}–{row['ci_high']:.2f}" if known else "")

    def row(method: Method) -> Row:
        cells = [cell(column.get(method.key)) for column in columns]
        return Row(method.label, cells, "" if method.competes else "ceiling")

    methods = methods_of(inputs, keys)
    return Table(
        f"Means over all tasks: {results.cohort.title}",
        "Methods",
        heads,
        [Group(title, [row(m) for m in some]) for title, some in groupby(methods, lambda m: m.group)],
        inputs.compared,
        "Means over the tasks that every method could score, with the 95 % interval of the mean over "
        "resamples of subjects. The threshold for 90 % specificity is taken from tuning subjects: what it "
        "reached on "
        "held-out subjects stands beside.",
    )


def family(task: TaskRow) -> str:
    """What a task is called without its horizon: tasks of one family differ in that alone."""
    short = task.task.removesuffix(f"_{task.horizon_days}d") if task.horizon_days else task.task
    return short.replace("_", " ").capitalize()


def _means(
    inputs: Inputs,
    cohort: CohortInputs,
    by: str,
    number: str,
    title: str,
    order: Sequence[str] = (),
) -> Table | None:
    """A table of means from the comparison; None where there is nothing to average."""
    means = group_means(inputs, cohort, by)
    if not means.height:
        return None
    known = sorted(means["group"].unique())
    groups = [*(g for g in order if g in known), *(g for g in known if g not in order)]
    columns: list[Values] = []
    heads = []
    for group in groups:
        rows = means.filter(pl.col("group") == group)
        columns.append({r["key"]: (r["value"], r["sd_tasks"]) for r in rows.iter_rows(named=True)})
        n = rows["n_tasks"].max()
        heads.append(Head(str(group).replace("_", " "), f"{n} task{'s' if n != 1 else ''}"))
    small = (
        f" Indications of fewer than {FEWEST} held-out subjects are left out." if by == "indication" else ""
    )
    seeds = means["n_seeds"].max()
    over = f" Means over {seeds} seeds." if isinstance(seeds, int) and seeds > 1 else ""
    return Table(
        f"{number}. {title}: {cohort.title}",
        "Methods",
        heads,
        grouped(methods_of(inputs, means["key"].to_list()), columns),
        inputs.compared,
        "Mean ± standard deviation over the tasks that every method could score: how much tasks differ, "
        "not how "
        f"sure the mean is. Bold: best of the column, underlined: second.{over}{small}",
    )


def group_means(inputs: Inputs, cohort: CohortInputs, by: str, metric: str = "auroc") -> pl.DataFrame:
    """MEANS_SCHEMA of one cohort with the `key` of the method; without rows where there is no comparison.

    Indications of fewer than FEWEST held-out subjects are left out, as subgroups are.
    """
    means = inputs.compared_on("means", cohort.name)
    if not means.width:
        return means
    wanted = (pl.col("by") == by) & (pl.col("metric") == metric) & pl.col("value").is_not_null()
    means = means.filter(wanted)
    if by != "indication":
        return means
    people = inputs.compared_on("metrics", cohort.name).group_by("indication").agg(pl.col("n_subjects").max())
    large = people.filter(pl.col("n_subjects") >= FEWEST)["indication"]
    return means.filter(pl.col("group").is_in(large.implode()))


def grouped(methods: Sequence[Method], columns: Sequence[Values]) -> list[Group]:
    """The rows of a table, under the methods' groups. columns: one mapping of values per column."""
    ranked = [ranks({m.key: column.get(m.key) for m in methods if m.competes}) for column in columns]

    def cells(method: Method) -> Iterable[Cell]:
        for column, rank in zip(columns, ranked, strict=True):
            found = column.get(method.key)
            if found is None:
                yield EMPTY
            else:
                sd = "" if found[1] is None else f"± {found[1]:.{DIGITS}f}"
                yield Cell(f"{found[0]:.{DIGITS}f}", sd, rank.get(method.key, ""))

    def row(method: Method) -> Row:
        return Row(method.label, tuple(cells(method)), "" if method.competes else "ceiling")

    return [Group(title, [row(m) for m in some]) for title, some in groupby(methods, lambda m: m.group)]


def ranks(values: Mapping[str, tuple[float, float | None] | None]) -> dict[str, Look]:
    """The best and the second of a column, by what is printed: what is printed alike is ranked alike."""
    printed = {k: round(v[0], DIGITS) for k, v in values.items() if v is not None}
    order = sorted(set(printed.values()), reverse=True)
    if len(printed) < 2:
        return {}
    looks: tuple[Look, Look] = ("best", "second")
    return {k: looks[order.index(v)] for k, v in printed.items() if order.index(v) < 2}
