"""The small tables at the end of a run, from made-up summaries."""

import io
import json

from rich.console import Console

from jobs.cli.results import show_results


def row(cohort, recipe, task, probe, baseline=0.6):
    scores = {"probe": probe, "baseline": baseline, "oracle": 0.9}
    intervals = {f"{m}_ci": [0.5, 0.8] for m in scores}
    about = {"cohort": cohort, "recipe": recipe, "task": task, "kind": "binary", "n": 40, "n_positive": 9}
    return {**about, **scores, **intervals}


def said(tmp_path, rows, verdict=None):
    (tmp_path / "summary.json").write_text(json.dumps({"rows": rows, "verdict": verdict}))
    printed = io.StringIO()
    show_results(Console(width=100, file=printed), [tmp_path])
    return [" ".join(line.split()) for line in printed.getvalue().splitlines()]


def test_of_one_recipe_every_task(tmp_path):
    rows = [row("c", "a", "death", 0.75), row("c", "a", "stay", None), row("c", "a", "return", 0.65)]
    lines = said(tmp_path, rows)
    assert "death 40 9 0.75 [.50, .80] 0.60 0.90" in lines
    assert "stay 40 9 – 0.60 0.90" in lines
    assert "mean of 2 tasks 0.70 0.60 0.90" in lines


def test_in_a_narrow_terminal_names_of_tasks_give_way_and_numbers_do_not(tmp_path):
    rows = [row("c", "a", "alkaline_phosphatase_above_150_or_below_20_90d", 0.75)]
    (tmp_path / "summary.json").write_text(json.dumps({"rows": rows}))
    printed = io.StringIO()
    show_results(Console(width=60, file=printed), [tmp_path])
    lines = printed.getvalue().splitlines()
    assert lines[1].split() == ["task", "nodes", "pos.", "probe", "baseline", "oracle"]
    assert any("0.75 [.50, .80]" in line for line in lines)
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed.getvalue()


def test_tasks_without_an_auroc_are_counted_by_why(tmp_path):
    none = {"probe": None, "baseline": None, "oracle": None}
    rows = [row("c", "a", "death", 0.75), {**row("c", "a", "rare", None), **none}]
    rows += [
        {**row("c", "a", name, None), **none, "kind": kind}
        for name, kind in (
            ("survival", "time_to_event"),
            ("creatinine", "regression"),
            ("albumin", "regression"),
        )
    ]
    lines = said(tmp_path, rows)
    assert any(line.startswith("death 40 9 0.75") for line in lines)
    assert not any(line.startswith(("rare", "survival", "creatinine")) for line in lines)
    told = " ".join(lines)
    assert (
        "Without an AUROC, in the report: 1 with too few nodes or outcomes, 1 of time to event, 2 of a value."
        in told
    )


def test_of_several_recipes_the_means_over_common_tasks_by_cohort(tmp_path):
    rows = [
        *(row("c", "a", "death", 0.8), row("c", "a", "stay", 0.5), row("c", "b", "death", 0.7)),
        row("c", "b", "stay", None),
        *(row("d", "a", "death", None), row("d", "b", "death", 0.66)),
    ]
    lines = said(tmp_path, rows)
    first = lines.index("held-out AUROC, c")
    second = lines.index("held-out AUROC [95 % interval], d")
    assert lines[first + 1] == "mean of 1 task(s) AUROC"
    assert {"a 0.800", "b 0.700", "baseline 0.600", "oracle 0.900"} <= set(lines[first:second])
    assert "death 40 9 0.66 [.50, .80] 0.60 0.90" in lines[second:]


def test_the_verdict_and_its_reasons_follow_the_table(tmp_path):
    rows = [row("c", "a", "death", 0.75)]
    reasons = ["It is not calibrated.", "A leak guard failed."]
    lines = said(tmp_path, rows, {"recipe": "a", "may_be_promoted": False, "reasons": reasons})
    at = lines.index("a may not be promoted.")
    assert lines[at + 1 : at + 3] == reasons
    assert "a may be promoted." in said(
        tmp_path, rows, {"recipe": "a", "may_be_promoted": True, "reasons": []}
    )
    assert not any("promoted" in line for line in said(tmp_path, rows))
