"""What stands first: mean scores, the verdict on the candidate, how many subjects, events and nodes there
are.
"""

from typing import Any

import numpy as np

from ehr_assets.reports.blocks import Block, Cards, Cell, Group, Head, Row, Section, Table, Text, absent
from ehr_assets.reports.inputs import Inputs
from ehr_assets.reports.methods import Method, main_methods, reference
from ehr_assets.reports.paper_tables import group_means
from ehr_assets.reports.small_cells import masked
from ehr_assets.reports.tables import Results, cohort_counts, common_tasks
from ehr_assets.reports.verdict import CRITERIA, read_verdict


def summary(inputs: Inputs, results: Results) -> Section:
    return Section("Summary", [*_headline(inputs, results), *_counts(inputs, results)])


def verdict(inputs: Inputs) -> Section:
    """Whether the candidate may be promoted, criterion by criterion."""
    title = "May it be promoted?"
    if inputs.verdict is None:
        return Section(title, [absent("Verdict", "It has not been made.")])
    found: dict[str, Any] = read_verdict(inputs.verdict)
    names = dict(
        zip(CRITERIA, ("Better than the baseline", "Not worse than the accepted version"), strict=False)
    )
    names |= {"calibrated": "Calibrated", "no_guard_fails": "No leak guard fails"}
    rows = [Row(names[c["name"]], [_passed(c["passed"]), Cell(c["said"])]) for c in found["criteria"]]
    said = "may be promoted" if found["may_be_promoted"] else "may not be promoted"
    return Section(
        title,
        [
            Text(
                f"{inputs.spec.label(found['recipe'])} {said}. The candidate and the thresholds were fixed "
                "in the "
                "report's spec before held-out subjects were scored."
            ),
            Table(
                f"Promotion of {inputs.spec.label(found['recipe'])}",
                "Criterion",
                [Head("Passed", words=True), Head("What was found", words=True)],
                [Group(None, rows)],
                inputs.sources(f"{inputs.spec.name}/verdict"),
            ),
        ],
    )


def _passed(passed: bool) -> Cell:
    return Cell("yes") if passed else Cell("no", look="bad")


def _headline(inputs: Inputs, results: Results) -> list[Block]:
    """Mean AUROC of the methods over the tasks that all of them could score, as cards, and counts of wins."""
    shown = main_methods(inputs, results.scored_with("auroc"))
    compared = group_means(inputs, results.cohort, "all")
    # A method that answers few tasks stands in no mean: else it would leave the others those few.
    methods = [m for m in shown if m.key in set(compared["key"])] if compared.height else shown
    common = common_tasks(results.rows, methods) if methods else []
    if not common:
        return [
            Text(
                "No task could be scored by every method: there are too few positives or negatives in the "
                "train or "
                "held-out split. The counts are below."
            )
        ]

    def value(row: Any, method: Method) -> float:
        return float(row.score(method).value)

    means = {m.key: float(np.mean([value(r, m) for r in common])) for m in methods}
    if compared.height:
        # The comparison's own means, over the tasks that all methods (those not shown here too) could score.
        means |= {r["key"]: r["value"] for r in compared.iter_rows(named=True) if r["key"] in means}
        n = compared["n_tasks"].max()
    else:
        n = len(common)
    said = [f"Mean AUROC over the {n} task(s) that every method could score, of {len(results.rows)} asked."]
    if few := [m.label for m in shown if m not in methods]:
        said.append(f"Scored too few tasks to stand beside them: {', '.join(few)}.")
    baseline = next((m for m in methods if m.key == reference(inputs)), None)
    for method in (m for m in methods if m.kind == "recipe"):
        above = sum((r.score(method).low or 0.0) > 0.5 for r in common)
        beats = (
            f"above {baseline.label} on {sum(value(r, method) > value(r, baseline) for r in common)}"
            if baseline
            else ""
        )
        parts = ", ".join(filter(None, (beats, f"interval wholly above chance on {above}")))
        said.append(f"{method.label}: {parts} of {len(common)}.")
    said.append("Tasks share subjects and outcomes overlap, so these are counts, not independent tests.")
    cards = [(m.label, f"{means[m.key]:.3f}", m.kind) for m in methods]
    return [Cards(cards, inputs.scored_from(results.cohort)), Text(" ".join(said), quiet=True)]


def _counts(inputs: Inputs, results: Results) -> list[Block]:
    cohort = results.cohort
    counts = cohort_counts(cohort)
    keys = ("all", "train", "tuning", "held_out")
    rows = [
        Row(name, [Cell(masked(values[key])) for key in keys])
        for name, values in (
            ("Subjects", counts.subjects),
            ("Events", counts.events),
            ("Decision nodes", counts.nodes),
        )
    ]
    triggers = ", ".join(f"{name.replace('_', ' ')} {masked(n)}" for name, n in counts.triggers)
    return [
        Table(
            f"Who is in it: {cohort.title}",
            cohort.title,
            [Head("All"), Head("Train"), Head("Tuning"), Head("Held out")],
            [Group(None, rows)],
            inputs.of_cohort(cohort.name, "meds_events", "decision_nodes", "subject_splits"),
            f"Decision nodes by trigger (a node may have several): {triggers}. Train subjects fit, tuning "
            "subjects "
            "choose (penalty, number of trees, threshold), held-out subjects score.",
        )
    ]
