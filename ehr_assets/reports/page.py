"""The report page: one self-contained HTML file, and its numbers as `summary.json`.

Puts together what `tables.py` counted and `figures.py`, `timelines.py` drew. No scripts, nothing fetched
from anywhere, no date, no subject id: equal inputs give equal bytes, and the file can be mailed or printed.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import polars as pl

from ehr_assets.progress import Progress, no_progress
from ehr_assets.reports import figures, timelines
from ehr_assets.reports.spec import ReportSpec
from ehr_assets.reports.tables import (
    BASELINE_PROBE,
    REASONS,
    UNSCORED,
    CohortInputs,
    Method,
    RecipeInputs,
    Score,
    TaskRow,
    cohort_counts,
    means_by,
    methods_of,
    task_rows,
)
from ehr_assets.training.history import points, read_history

HERE = Path(__file__).parent


def write_report(
    spec: ReportSpec,
    cohorts: Sequence[CohortInputs],
    recipes: Sequence[RecipeInputs],
    lineage: Sequence[Mapping[str, str]],
    out_dir: Path,
    progress: Progress = no_progress,
    overrides: Sequence[str] = (),
) -> dict[str, int]:
    """Writes `report.html` and `summary.json` into `out_dir`.

    Args:
        cohorts, recipes: the datasets behind the page, in the order of `spec`.
        lineage: rows of the lineage table, all with the same keys (the first row's keys are the header),
            such as {"asset": …, "data version": …}. Shown as given: leave out what changes from run to run.
        overrides: checks that were passed over on the way to this page; they head it.

    Returns counts: tasks, tasks_scored, figures.
    """
    sections = []
    for done, cohort in enumerate(cohorts):
        progress("report", done, len(cohorts) + 1)
        sections.append(_cohort_section(cohort, recipes))
    histories = {r.name: r.checkpoint for r in recipes}
    curves = figures.training_curves(histories)
    page = (
        environment()
        .get_template("report.html")
        .render(
            spec=spec,
            css=(HERE / "report.css").read_text(encoding="utf-8"),
            sections=sections,
            recipes=[_recipe_section(r) for r in recipes],
            curves=curves,
            lineage=[dict(row) for row in lineage],
            overrides=overrides,
            any_oracle=any(c.oracle for c in cohorts),
            reasons=REASONS,
        )
    )
    (out_dir / "report.html").write_text(page, encoding="utf-8")
    summary = {"report": spec.name, "rows": [row for s in sections for row in _summary(s["rows"], recipes)]}
    (out_dir / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    progress("report", len(cohorts) + 1, len(cohorts) + 1)
    rows: list[TaskRow] = [row for s in sections for row in s["rows"]]
    drawn = sum(bool(s[name]) for s in sections for name in ("forest", "labels", "calibration", "timelines"))
    return {
        "tasks": len(rows),
        "tasks_scored": sum(any(s.value is not None for s in row.scores.values()) for row in rows),
        "figures": drawn + bool(curves),
    }


def _cohort_section(cohort: CohortInputs, recipes: Sequence[RecipeInputs]) -> dict[str, Any]:
    methods = methods_of(cohort, recipes)
    rows = task_rows(cohort, recipes)
    found = timelines.pick_timelines(cohort.meds, cohort.nodes, cohort.splits)
    return {
        "name": cohort.name,
        "title": cohort.title,
        "methods": methods,
        "rows": rows,
        "categories": _grouped(rows),
        "counts": cohort_counts(cohort),
        "headline": _headline(rows, methods),
        "by_category": means_by("category", cohort, recipes, methods),
        "by_indication": means_by("indication", cohort, recipes, methods),
        "forest": figures.forest(rows, methods) if rows else None,
        "labels": figures.label_counts(rows) if rows else None,
        "calibration": figures.calibration(_predictions(cohort, recipes, rows), methods),
        "timelines": timelines.timelines(found),
        "has_c_index": any(row.c_index for row in rows),
    }


def _grouped(rows: Sequence[TaskRow]) -> list[tuple[str, list[TaskRow]]]:
    names = dict.fromkeys(row.category for row in rows)
    return [(name, [row for row in rows if row.category == name]) for name in names]


def _headline(rows: Sequence[TaskRow], methods: Sequence[Method]) -> dict[str, Any]:
    """What the first paragraph says: mean AUROC per method over the tasks all could score; comparisons."""
    common = [r for r in rows if all(r.scores.get(m.key, UNSCORED).value is not None for m in methods)]

    def value(row: TaskRow, key: str) -> float:
        return float(row.scores[key].value or 0.0)

    return {
        "tasks": len(rows),
        "common": len(common),
        "means": [
            (m, float(np.mean([value(r, m.key) for r in common])) if common else None) for m in methods
        ],
        "recipes": [
            {
                "method": m,
                "above_baseline": sum(value(r, m.key) > value(r, "baseline") for r in common),
                "above_chance": sum((r.scores[m.key].low or 0.0) > 0.5 for r in common),
            }
            for m in methods
            if m.kind == "recipe"
        ],
    }


def _predictions(
    cohort: CohortInputs, recipes: Sequence[RecipeInputs], rows: Sequence[TaskRow]
) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Held-out predictions of scored tasks by category: category -> method -> (predicted, outcome)."""
    folders = {**{r.name: r.metrics for r in recipes}, "baseline": cohort.baseline}
    category = {r.task: r.category for r in rows if any(s.value is not None for s in r.scores.values())}
    out: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {
        c: {} for c in dict.fromkeys(category.values())
    }
    for key, folder in folders.items():
        probe = BASELINE_PROBE if key == "baseline" else "logistic"
        table = pl.read_parquet(folder / "predictions.parquet").filter(
            (pl.col("cohort") == cohort.name) & (pl.col("probe") == probe) & (pl.col("split") == "held_out")
        )
        for name in out:
            mine = table.filter(pl.col("task").is_in([t for t, c in category.items() if c == name]))
            if mine.height:
                out[name][key] = (
                    mine["predicted_boolean_probability"].to_numpy(),
                    mine["boolean_value"].cast(pl.Float64).to_numpy(),
                )
    return out


def _recipe_section(recipe: RecipeInputs) -> dict[str, Any]:
    history = read_history(recipe.checkpoint)
    trained, tuned = points(history, "loss"), points(history, "tuning_loss")
    return {
        "name": recipe.name,
        "title": recipe.title,
        "settings": _flat(recipe.settings),
        "steps": trained[-1][0] if trained else None,
        "loss": [trained[0][1], trained[-1][1]] if trained else None,
        "tuning_loss": tuned[-1][1] if tuned else None,
    }


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted key, text), empty values left out."""
    out: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            out += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
            for i, item in enumerate(value, start=1):
                out += _flat(item, f"{prefix}{key} {i}.")
        elif value not in (None, "", [], ()):
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            out.append((prefix + key, text))
    return out


def _summary(rows: Sequence[TaskRow], recipes: Sequence[RecipeInputs]) -> list[dict[str, Any]]:
    """One row per cohort, recipe and task, for the command line."""
    out = []
    for row in rows:
        for recipe in recipes:
            scores = {
                "probe": row.scores.get(recipe.name, UNSCORED),
                "baseline": row.scores.get("baseline", UNSCORED),
                "oracle": row.scores.get("oracle", UNSCORED),
            }
            out.append(
                {
                    "cohort": row.cohort,
                    "recipe": recipe.name,
                    "category": row.category,
                    "task": row.task,
                    "n": row.n,
                    "n_positive": row.n_positive,
                    **{name: score.value for name, score in scores.items()},
                    **{f"{name}_ci": [score.low, score.high] for name, score in scores.items()},
                }
            )
    return out


def environment() -> jinja2.Environment:
    """Templates of this room, with its filters."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = lambda n: f"{n:,}".replace(",", " ")
    environment.filters["auroc"] = _auroc
    environment.filters["plain"] = lambda name: str(name).replace("_", " ")
    return environment


def _auroc(score: Score) -> str:
    return "–" if score.value is None else f"{score.value:.3f}"
