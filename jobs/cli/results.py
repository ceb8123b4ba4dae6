"""What `ehr demo` and `ehr run` print when they are done: small tables of a report, or of a grid."""

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Row = Mapping[str, Any]
KINDS = {
    "binary": "with too few nodes or outcomes",
    "time_to_event": "of time to event",
    "regression": "of a value",
}
"""Why a task of this kind has no AUROC."""
OTHERS = ("baseline", "oracle")
"""Beside the probe on a recipe's S(t): methods that no recipe has a part in."""


def show_results(console: Console, reports: Sequence[Path]) -> None:
    """Prints each report's small result tables, one per cohort, and its path.

    Of one recipe every task, of several the means over the tasks that all could score; then whether the
    candidate may be promoted, and why not.
    """
    for report in reports:
        summary = json.loads((report / "summary.json").read_text(encoding="utf-8"))
        rows: list[Row] = summary["rows"]
        cohorts = [(cohort, list(some)) for cohort, some in groupby(rows, lambda row: row["cohort"])]
        for cohort, some in cohorts:
            about = f", {cohort}" if len(cohorts) > 1 else ""
            one = len({row["recipe"] for row in some if row["probe"] is not None}) < 2
            console.print(_tasks(some, about) if one else _means(some, about))
        if verdict := summary.get("verdict"):
            console.print(_verdict(verdict), highlight=False)
        console.print(f"Report: {report / 'report.html'}", soft_wrap=True, highlight=False)


def _verdict(verdict: Mapping[str, Any]) -> str:
    may = "may" if verdict["may_be_promoted"] else "may not"
    return "\n  ".join([f"{verdict['recipe']} {may} be promoted.", *verdict["reasons"]])


def _tasks(rows: Sequence[Row], about: str) -> Table:
    if scoring := [row for row in rows if row["probe"] is not None]:
        rows = [row for row in rows if row["recipe"] == scoring[0]["recipe"]]
    methods = [m for m in ("probe", *OTHERS) if any(row[m] is not None for row in rows)]
    table = _table(f"held-out AUROC [95 % interval]{about}", "task", ["nodes", "pos.", *methods])
    unscored: Counter[str] = Counter()
    for row in rows:
        if all(row[m] is None for m in methods):
            unscored[KINDS[row["kind"]]] += 1
            continue
        scores = [_score(row[m], row[f"{m}_ci"] if m == "probe" else None) for m in methods]
        table.add_row(row["task"], str(row["n"]), str(row["n_positive"]), *scores)
    if unscored:
        said = ", ".join(f"{n} {kind}" for kind, n in unscored.items())
        table.caption = f"Without an AUROC, in the report: {said}."
        table.caption_justify = "left"
    scored = [row for row in rows if all(row[m] is not None for m in methods)]
    if scored:
        means = [_score(statistics.mean(row[m] for row in scored)) for m in methods]
        table.add_row(f"mean of {len(scored)} tasks", "", "", *means, style="bold")
    return table


def _means(rows: Sequence[Row], about: str) -> Table:
    probes: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["probe"] is not None:
            probes.setdefault(row["recipe"], {})[row["task"]] = row["probe"]
    others = {m: {row["task"]: row[m] for row in rows if row[m] is not None} for m in OTHERS}
    methods = {**probes, **{m: scores for m, scores in others.items() if scores}}
    common = set.intersection(*(set(scores) for scores in methods.values()))
    table = _table(f"held-out AUROC{about}", f"mean of {len(common)} task(s)", ["AUROC"])
    for name, scores in methods.items():
        table.add_row(name, f"{statistics.mean(scores[t] for t in common):.3f}" if common else "–")
    return table


def _table(title: str, first: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def show_ablation(console: Console, folder: Path) -> None:
    """Prints a grid's table and its path."""
    from ehr_assets.reports.ablation.table import NUMBER, read_ablation

    rows, titles = read_ablation(folder)
    table = Table(title=f"mean AUROC over {rows['tasks'][0]} tasks", title_justify="left", box=None)
    for name in ("group", *titles, "AUROC"):
        table.add_column(name, no_wrap=True)
    for row in rows.iter_rows(named=True):
        style = "bold" if row["best"] else None
        table.add_row(row["group"], *(row[t] for t in titles), NUMBER.format(row["auroc"]), style=style)
    console.print(table)
    console.print(f"Table: {folder}", soft_wrap=True, highlight=False)


def _score(value: float | None, interval: Sequence[float | None] | None = None) -> str:
    if value is None:
        return "–"
    low, high = interval or (None, None)
    if low is None or high is None:
        return f"{value:.2f}"
    return f"{value:.2f} [{low:.2f}, {high:.2f}]".replace("[0.", "[.").replace(" 0.", " .")
