"""Differences between methods on the same held-out subjects, and how much of the ceiling is reached."""

from collections.abc import Sequence

import polars as pl

from ehr_assets.probes.panel_scores import RULES
from ehr_assets.reports.blocks import Block, Cell, Group, Head, Row, Section, Table, absent
from ehr_assets.reports.inputs import Inputs
from ehr_assets.reports.methods import methods_of
from ehr_assets.reports.small_cells import masked, number
from ehr_assets.reports.tables import Results

SURE = 0.05
OF_THESE_FITS = "Intervals and p are about these trained models; training again would give others."


def comparison(inputs: Inputs, results: Results) -> Section:
    title = "Differences"
    if inputs.comparison is None:
        why = f"{inputs.spec.name}/comparison has not been made."
        return Section(title, [absent("Paired differences", why)])
    found = inputs.compared_on("differences", results.cohort.name)
    blocks: list[Block] = []
    if found.height:
        found = inputs.keyed(found, "recipe_a", "probe_a", "a")
        found = inputs.keyed(found, "recipe_b", "probe_b", "b")
        names = {m.key: m.label for m in methods_of(inputs, [*found["a"], *found["b"]])}
        blocks += _of_means(inputs, results, found, names)
        blocks += _of_tasks(inputs, results, found, names)
    else:
        blocks.append(absent("Paired differences", "No two methods scored the same task."))
    return Section(title, [*blocks, *_ceiling(inputs, results)])


def _of_means(inputs: Inputs, results: Results, found: pl.DataFrame, names: dict[str, str]) -> list[Block]:
    means = found.filter(pl.col("task").is_null())
    if not means.height:
        return []
    families = "; ".join(sorted({str(f) for f in means["family"] if f}))
    # AUROC first: it is what the tables above are about.
    means = means.sort(pl.col("metric") != "auroc", "metric", maintain_order=True)
    rows = [
        Row(
            f"{names[r['a']]} − {names[r['b']]}",
            [Cell(_plain(r["metric"])), *_numbers(r), Cell(masked(r["n_subjects"]))],
        )
        for r in means.iter_rows(named=True)
    ]
    return [
        Table(
            f"Differences of means: {results.cohort.title}",
            "Difference",
            [
                Head("Metric", words=True),
                Head("Difference of means"),
                Head("p"),
                Head("p, corrected"),
                Head("Held-out subjects"),
            ],
            [Group(None, rows)],
            inputs.compared,
            "Mean over the tasks that both score; 95 % interval over "
            f"{number(RULES.replicates)} resamples of subjects that all methods share, so differences are "
            f"paired. Corrected within: {families or 'nothing'}. {OF_THESE_FITS}",
        )
    ]


def _of_tasks(inputs: Inputs, results: Results, found: pl.DataFrame, names: dict[str, str]) -> list[Block]:
    tasks = found.filter(pl.col("task").is_not_null(), pl.col("metric") == "auroc")
    if not tasks.height:
        return []
    titles = {r.task: r.title for r in results.rows}
    families = "; ".join(sorted({str(f) for f in tasks["family"] if f}))
    groups, counted = [], []
    for (a, b), some in tasks.group_by(["a", "b"], maintain_order=True):
        pair = f"{names[str(a)]} − {names[str(b)]}"
        sure = some.filter(pl.col("p_adjusted") < SURE)
        up, down = (sure.filter(pl.col("difference") * sign > 0).height for sign in (1, -1))
        counted.append(Row(pair, [Cell(str(some.height)), Cell(str(up)), Cell(str(down))]))
        groups.append(
            Group(
                pair,
                [
                    Row(titles.get(r["task"]) or str(r["task"]), _numbers(r))
                    for r in some.iter_rows(named=True)
                ],
            )
        )
    return [
        Table(
            f"Tasks on which methods differ: {results.cohort.title}",
            "Difference in AUROC",
            [Head("Tasks"), Head("surely higher"), Head("surely lower")],
            [Group(None, counted)],
            inputs.compared,
            f"Surely: p below {SURE} after correction within {families or 'nothing'}. {OF_THESE_FITS}",
        ),
        Table(
            f"Difference on each task: {results.cohort.title}",
            "Task",
            [Head("Difference in AUROC"), Head("p"), Head("p, corrected")],
            groups,
            inputs.compared,
            folded=True,
        ),
    ]


def _ceiling(inputs: Inputs, results: Results) -> Sequence[Block]:
    """The share of the oracle's lead over chance that a method reaches."""
    found = inputs.compared_on("ceiling", results.cohort.name)
    if not found.height or "fraction" not in found.columns:
        if results.cohort.oracle is None:
            return []
        return [
            absent("Fraction of the oracle ceiling", "No task has an oracle whose interval lies above 0.55.")
        ]
    whole = found.filter(pl.col("task").is_null()) if "task" in found.columns else found
    labels = {m.key: m for m in methods_of(inputs, whole["key"].to_list())}
    rows = [
        Row(labels[r["key"]].label, [Cell(_signed(r["fraction"], "{:.2f}"), _interval(r, "{:.2f}"))])
        for r in sorted(whole.iter_rows(named=True), key=lambda r: list(labels).index(r["key"]))
    ]
    if not rows:
        return []
    return [
        Table(
            f"Fraction of the oracle: {results.cohort.title}",
            "Method",
            [Head("(AUROC − 0.5) / (oracle − 0.5)")],
            [Group(None, rows)],
            inputs.compared,
            "Mean over the tasks whose oracle lies above 0.55 with its whole interval: below that the "
            "fraction means "
            "nothing. One: as good as knowing the hidden state.",
        ),
    ]


def _numbers(r: dict) -> list[Cell]:
    sure = r["p_adjusted"] is not None and r["p_adjusted"] < SURE
    return [
        Cell(_signed(r["difference"]), _interval(r), "best" if sure else ""),
        Cell(_p(r["p"])),
        Cell(_p(r["p_adjusted"])),
    ]


def _signed(value: float | None, form: str = "{:+.3f}") -> str:
    return "–" if value is None else form.format(value).replace("-", "\N{MINUS SIGN}")


def _interval(r: dict, form: str = "{:+.3f}") -> str:
    if r["ci_low"] is None or r["ci_high"] is None:
        return ""
    return f"{_signed(r['ci_low'], form)} to {_signed(r['ci_high'], form)}"


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _plain(name: str) -> str:
    return {"auroc": "AUROC", "auprc": "AUPRC", "brier": "Brier", "c_index": "C"}.get(
        name, name.replace("_", " ")
    )
