"""Where the evaluated nodes come from: who was left out, three records, labels per task and why some are
missing.
"""

import polars as pl

from ehr_assets.reports.blocks import (
    Block,
    Cell,
    Figure,
    Flow,
    Group,
    Head,
    Row,
    Section,
    Table,
    Text,
    absent,
)
from ehr_assets.reports.figures import label_counts
from ehr_assets.reports.inputs import Inputs
from ehr_assets.reports.small_cells import FEWEST, masked, number
from ehr_assets.reports.tables import KNOWN, Results
from ehr_assets.reports.timelines import pick_timelines, timelines


def cohort(inputs: Inputs, results: Results) -> Section:
    blocks = [*_flow(inputs, results), *_timelines(inputs, results), *_labels(inputs, results)]
    return Section("Where nodes and labels come from", blocks)


def _flow(inputs: Inputs, results: Results) -> list[Block]:
    """Who is left after each step, and what each step took away, from the nodes' `flow.parquet`."""
    cohort = results.cohort
    path = cohort.nodes / "flow.parquet"
    if not path.is_file():
        return [absent("Who was left out", f"{cohort.name}/decision_nodes does not say.")]
    flow = pl.read_parquet(path)
    counts = pl.concat([flow["subjects"], flow["nodes"]])
    few = bool(counts.is_between(1, FEWEST - 1).any())
    left: dict[str, str] = {}
    taken: dict[str, list[tuple[str, str]]] = {}
    for r in flow.iter_rows(named=True):
        name = str(r["step"]).replace("_", " ")
        taken.setdefault(name, [])
        if r["reason"] is None:
            left[name] = _counted(r["subjects"], r["nodes"], rounded=few)
        elif r["subjects"] or r["nodes"]:
            said = _counted(r["subjects"], r["nodes"])
            taken[name].append((str(r["reason"]).replace("_", " "), said))
    steps = [(name, left.get(name, ""), reasons) for name, reasons in taken.items()]
    sources = inputs.of_cohort(cohort.name, "decision_nodes")
    return [
        Text(heading="Who is in it, and who was left out"),
        Flow(steps, sources),
        Text(
            f"Left: who remains after a step; right: what it took away, and why. Counts below {FEWEST} are "
            "not printed"
            + (
                ", and who remains is rounded to tens so that none can be found by subtracting."
                if few
                else "."
            ),
            quiet=True,
        ),
    ]


def _counted(subjects: int, nodes: int, *, rounded: bool = False) -> str:
    def said(n: int) -> str:
        return f"about {number(round(n, -1))}" if rounded and n >= FEWEST else masked(n)

    return ", ".join(f"{said(n)} {what}" for n, what in ((subjects, "subjects"), (nodes, "nodes")) if n)


def _timelines(inputs: Inputs, results: Results) -> list[Block]:
    c = results.cohort
    if c.oracle is None:
        why = "No single record of people who exist stands on a page that may be mailed."
        return [absent("Three records and their decision nodes", why)]
    svg = timelines(pick_timelines(c.meds, c.nodes, c.splits))
    if svg is None:
        return []
    return [
        Figure(
            svg,
            "Three held-out records and their decision nodes",
            "At each node the model sees what had become known by then, and nothing to the right of it. "
            "Darker ticks "
            "hold more events. Subjects are relabelled and time is counted from the first event.",
            inputs.of_cohort(c.name, "meds_events", "decision_nodes", "subject_splits"),
        )
    ]


def _labels(inputs: Inputs, results: Results) -> list[Block]:
    if not results.rows:
        return [absent("Labels", "There are no tasks.")]
    sources = inputs.of_cohort(results.cohort.name, "task_labels")
    counted = list(dict.fromkeys(k for row in results.rows for k, n in row.labels.items() if n))
    names = [*KNOWN[:2], *(name for name in counted if name not in KNOWN[:2])]
    groups = [
        Group(
            category,
            [Row(r.title, [Cell(masked(r.labels.get(k, 0))) for k in names]) for r in rows],
        )
        for category, rows in results.categories
    ]
    return [
        Figure(
            label_counts(results.rows),
            "Labels per task",
            "An outcome counts when it falls after the buffer and within the horizon; without one, a node "
            "is negative "
            "only when the subject was followed to the horizon.",
            sources,
        ),
        Table(
            "Label counts and why labels are missing",
            "Task",
            [Head(name.replace("_", " ").capitalize()) for name in names],
            groups,
            sources,
            "Nodes of all splits that the task is asked at. Null for one reason each, in the order in "
            f"which they are asked. Counts below {FEWEST} are not printed.",
            folded=True,
        ),
    ]
