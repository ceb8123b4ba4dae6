"""Scores: SMB-Structure's tables and figures, every task with its interval, time to event, what was not
scored.
"""

from collections.abc import Sequence

from ehr_assets.reports.blocks import (
    EMPTY,
    Block,
    Cell,
    Figure,
    Group,
    Head,
    Look,
    Row,
    Section,
    Table,
    absent,
)
from ehr_assets.reports.figures import forest
from ehr_assets.reports.inputs import Inputs
from ehr_assets.reports.methods import Method, main_methods
from ehr_assets.reports.paper_figures import figure3, figure4
from ehr_assets.reports.paper_tables import means_table, ranks, table2, table3, table5
from ehr_assets.reports.small_cells import FEWEST, masked
from ehr_assets.reports.tables import Results, Score, TaskRow

OTHER_METRICS = (
    (
        "c_index",
        "Time to event, Harrell's C",
        "Penalized Cox models on principal components; subjects lost to follow-up before the horizon count "
        "until then.",
    ),
    (
        "td_auroc",
        "Time to event, AUROC at the horizon",
        "Cumulative cases against those event-free at the horizon, weighted for censoring.",
    ),
    ("spearman", "Values, rank correlation", "Spearman's correlation of predicted and observed values."),
    ("r2", "Values, share of variance explained", "R² on held-out nodes; below zero is worse than the mean."),
)
"""Metric, heading and note of the tasks that no AUROC describes."""


def paper(inputs: Inputs, results: Results) -> Section:
    """Tables 2, 3 and 5 and Figures 3 and 4, as far as the comparison gives them."""
    spec, name = inputs.spec, results.cohort.name
    found: list[Block | None] = []
    if inputs.comparison is None:
        why = f"{spec.name}/comparison has not been made."
        return Section("Methods compared", [absent("Means by indication and category", why)])
    found.append(means_table(inputs, results))
    if name in spec.by_horizon:
        found.append(table5(inputs, results))
    found += [table3(inputs, results), table2(inputs, results), figure3(inputs, results)]
    if spec.figure4:
        found.append(figure4(inputs, results, spec.figure4))
    blocks = [block for block in found if block]
    return Section(
        "Methods compared",
        blocks
        or [absent("Means by indication and category", "There is no task that every method could score.")],
    )


def tasks(inputs: Inputs, results: Results) -> Section:
    """Every scored task with interval: a table, and a forest plot per category."""
    sources = inputs.scored_from(results.cohort)
    methods = main_methods(inputs, results.methods)
    scored = [
        (name, some) for name, rows in results.categories if (some := [r for r in rows if r.has("auroc")])
    ]
    blocks: list[Block] = []
    if scored:
        blocks.append(
            Table(
                f"AUROC by task: {results.cohort.title}",
                "Task",
                [
                    Head("Held-out nodes"),
                    Head("of them positive"),
                    *(Head(m.label, kind=m.kind) for m in methods),
                ],
                [Group(name, [_row(r, methods) for r in rows]) for name, rows in scored],
                sources,
                "AUROC on held-out nodes with a known outcome, and its 95\N{NO-BREAK SPACE}% interval "
                "(subjects "
                "resampled with replacement, the same resamples for every method). Bold: highest of the "
                "methods "
                "that read records, underlined: second.",
                folded=len(results.rows) > 25,
            )
        )
    for name, rows in scored:
        blocks.append(
            Figure(
                forest(rows, methods),
                f"{name}: AUROC by task",
                "Each mark is an AUROC on held-out subjects, each line its 95 % interval. Where intervals "
                "are wide, "
                "the held-out split has few positives."
                + (
                    " The oracle reads the simulator's hidden disease state." if results.cohort.oracle else ""
                ),
                sources,
            )
        )
    for metric, title, note in OTHER_METRICS:
        if any(r.has(metric) for r in results.rows):
            blocks.append(_of_metric(inputs, results, metric, title, note))
    return Section("Results by task", [*blocks, *_not_scored(inputs, results)])


def _row(row: TaskRow, methods: Sequence[Method]) -> Row:
    rank = ranks({m.key: (v, None) for m in methods if m.competes and (v := row.score(m).value) is not None})
    cells = [_cell(row.score(m), rank.get(m.key, "") if m.competes else "ceiling") for m in methods]
    return Row(row.title, [Cell(masked(row.n)), _of_outcome(row, row.n_positive), *cells])


def _of_outcome(row: TaskRow, count: int) -> Cell:
    """How many have the outcome; a value is none."""
    return EMPTY if row.kind == "regression" else Cell(masked(count))


def _cell(score: Score, look: Look = "") -> Cell:
    if score.value is None:
        return EMPTY
    known = score.low is not None and score.high is not None
    return Cell(f"{score.value:.3f}", f"{score.low:.2f}–{score.high:.2f}" if known else "", look)


def _of_metric(inputs: Inputs, results: Results, metric: str, title: str, note: str) -> Table:
    """Tasks by method of a metric that tasks of another kind than binary have."""
    methods = results.scored_with(metric)

    def row(task: TaskRow) -> Row:
        scores = {m.key: task.score(m, metric) for m in methods}
        rank = ranks(
            {m.key: (v, None) for m in methods if m.competes and (v := scores[m.key].value) is not None}
        )
        return Row(task.title, [_cell(scores[m.key], rank.get(m.key, "")) for m in methods])

    return Table(
        f"{title}: {results.cohort.title}",
        "Task",
        [Head(m.label, kind=m.kind) for m in methods],
        [Group(None, [row(r) for r in results.rows if r.has(metric)])],
        inputs.scored_from(results.cohort),
        note,
    )


def _not_scored(inputs: Inputs, results: Results) -> list[Block]:
    """Tasks that are listed, not scored, and why."""
    rows = [r for r in results.rows if not r.scored]
    if not rows:
        return []
    return [
        Table(
            f"Listed, not scored: {results.cohort.title}",
            "Task",
            [
                Head("Held-out nodes"),
                Head("of them positive"),
                Head("Positive in all splits"),
                Head("Why", words=True),
            ],
            [
                Group(
                    None,
                    [
                        Row(
                            r.title,
                            [
                                Cell(masked(r.n)),
                                _of_outcome(r, r.n_positive),
                                _of_outcome(r, r.labels["positive"]),
                                Cell(_why(r)),
                            ],
                        )
                        for r in rows
                    ],
                )
            ],
            [*inputs.scored_from(results.cohort), *inputs.of_cohort(results.cohort.name, "task_labels")],
            "A score from so few would be chance; the tasks stand here so that none is dropped silently. "
            f"Counts below {FEWEST} are not printed.",
        ),
    ]


def _why(row: TaskRow) -> str:
    if not row.asked():
        return "asked at no node"
    if not row.known():
        return "no node is evaluable"
    if row.kind == "regression":
        return "too few values in a split"
    if not row.labels["positive"]:
        return "the outcome never follows a node"
    if not row.labels["negative"]:
        return "the outcome follows every node"
    return "too few positives or negatives in a split"
