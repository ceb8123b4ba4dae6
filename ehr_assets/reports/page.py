"""The report page: one self-contained HTML file, its tables in Markdown, and its numbers as `summary.json`.

Puts the sections together. No scripts, nothing fetched from anywhere, no date, no subject id: equal inputs
give equal bytes, and the file can be mailed or printed.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ehr_assets.progress import Progress, no_progress
from ehr_assets.reports.blocks import Figure, Section, Table, markdown
from ehr_assets.reports.inputs import Inputs, RecipeInputs
from ehr_assets.reports.methods import reference
from ehr_assets.reports.sections.calibration import calibration
from ehr_assets.reports.sections.cohort import cohort as cohort_section
from ehr_assets.reports.sections.comparison import comparison
from ehr_assets.reports.sections.embedding import embedding_map
from ehr_assets.reports.sections.guards import guards
from ehr_assets.reports.sections.results import paper, tasks
from ehr_assets.reports.sections.subgroups import subgroups
from ehr_assets.reports.sections.summary import summary, verdict
from ehr_assets.reports.sections.survival import survival
from ehr_assets.reports.sections.training import training
from ehr_assets.reports.tables import UNSCORED, Results, TaskRow, results_of
from ehr_assets.reports.templates import HERE, environment
from ehr_assets.reports.verdict import read_verdict

PAGE, NUMBERS, TABLES = "report.html", "summary.json", "tables.json"
OF_COHORT = (
    summary,
    paper,
    tasks,
    comparison,
    survival,
    calibration,
    subgroups,
    embedding_map,
    cohort_section,
)


def write_report(
    inputs: Inputs,
    lineage: Sequence[Mapping[str, str]],
    out_dir: Path,
    progress: Progress = no_progress,
    overrides: Sequence[str] = (),
) -> dict[str, int]:
    """Writes `report.html`, `tables.json` (title → Markdown) and `summary.json` into `out_dir`.

    Args:
        lineage: rows of the lineage table, all with the same keys (the first row's keys are the header),
            such as {"asset": …, "data version": …}. Shown as given: leave out what changes from run to run.
        overrides: checks that were passed over on the way to this page; they head it.

    Returns counts: tasks, tasks_scored, tables, figures.
    """
    sections: list[Section] = []
    rows: list[TaskRow] = []
    summaries: list[dict[str, Any]] = []
    for done, cohort in enumerate(inputs.cohorts):
        progress("report", done, len(inputs.cohorts) + 1)
        results = results_of(inputs, cohort)
        made = [of(inputs, results) for of in OF_COHORT]
        if len(inputs.cohorts) > 1:
            made = [Section(f"{cohort.title}: {s.title}", s.blocks) for s in made]
        sections += made
        rows += results.rows
        summaries += _summary(inputs, results)
    sections.insert(1, verdict(inputs))
    sections += [guards(inputs), training(inputs)]
    tables = [b for s in sections for b in s.blocks if isinstance(b, Table)]
    page = (
        environment()
        .get_template("report.html")
        .render(
            spec=inputs.spec,
            css=(HERE / "report.css").read_text(encoding="utf-8"),
            sections=sections,
            lineage=[dict(row) for row in lineage],
            overrides=overrides,
            any_oracle=any(c.oracle for c in inputs.cohorts),
        )
    )
    (out_dir / PAGE).write_text(page, encoding="utf-8")
    _write_json(out_dir / TABLES, {t.title: markdown(t) for t in tables if not t.folded})
    judged = read_verdict(inputs.verdict) if inputs.verdict else None
    said = judged and {k: judged[k] for k in ("recipe", "may_be_promoted", "reasons")}
    _write_json(out_dir / NUMBERS, {"report": inputs.spec.name, "verdict": said, "rows": summaries})
    progress("report", len(inputs.cohorts) + 1, len(inputs.cohorts) + 1)
    return {
        "tasks": len(rows),
        "tasks_scored": sum(row.scored for row in rows),
        "tables": len(tables),
        "figures": sum(isinstance(b, Figure) for s in sections for b in s.blocks),
    }


def paper_tables(report_dir: Path) -> dict[str, str]:
    """Tables 2, 3 and 5 of a written report in Markdown, by title."""
    tables: dict[str, str] = json.loads((report_dir / TABLES).read_text(encoding="utf-8"))
    return {title: text for title, text in tables.items() if title.startswith("Table ")}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def _summary(inputs: Inputs, results: Results) -> list[dict[str, Any]]:
    """One row per recipe and task, for the command line."""

    def row(task: TaskRow, recipe: RecipeInputs) -> dict[str, Any]:
        keys = {"probe": recipe.name, "baseline": reference(inputs), "oracle": "oracle"}
        scores = {name: task.by_metric.get("auroc", {}).get(key, UNSCORED) for name, key in keys.items()}
        return {
            "cohort": task.cohort,
            "recipe": recipe.name,
            "category": task.category,
            "kind": task.kind,
            "task": task.task,
            "n": task.n,
            "n_positive": task.n_positive,
            **{name: score.value for name, score in scores.items()},
            **{f"{name}_ci": [score.low, score.high] for name, score in scores.items()},
        }

    return [row(task, recipe) for task in results.rows for recipe in inputs.recipes]
