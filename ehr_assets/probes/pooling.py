"""Over tasks: means of metrics, paired differences between methods, the fraction of the oracle's lead.

All from scored panels, whose resamples are the same resamples of the same subjects. In a resample that
leaves a task one class, that task has no value; the mean then moves as the other tasks do.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ehr_assets.probes.measures import COMPARED, MEASURES, PRIMARY
from ehr_assets.probes.metrics.kernels import Floats
from ehr_assets.probes.multiplicity import benjamini_hochberg, holm, p_of_difference
from ehr_assets.probes.panel_scores import Scored
from ehr_assets.probes.panels import BASELINE, ORACLE, Method
from ehr_assets.probes.resample import interval

MAIN_PROBE = {"binary": "logistic", "time_to_event": "cox", "regression": "ridge"}
"""By kind of task: the probe of a recipe that is compared with others."""

REFERENCE = {"binary": "xgboost", "time_to_event": "cox", "regression": "xgboost"}
"""By kind of task: the baseline that recipes are held against first."""

CEILING_FROM = 0.55
"""The oracle's interval must lie above this: where it is near chance, a fraction of its lead is noise."""

TAKES_PART = 0.5
"""Of the tasks that any method scores, the share that a method must score to stand in a mean."""

Row = dict[str, Any]


def cohorts_of(scored: Iterable[Scored]) -> dict[tuple[str, str], list[Scored]]:
    """(cohort, kind) -> its panels, in order."""
    out: dict[tuple[str, str], list[Scored]] = {}
    for panel in scored:
        out.setdefault((panel.cohort, panel.kind), []).append(panel)
    return out


def mean_over(draws: Sequence[Floats]) -> Floats:
    """Of each task (..., 1 + replicates) -> (..., 1 + replicates): mean value, and how resamples move it."""
    stacked = np.stack(draws)
    values = stacked[..., :1].mean(axis=0)
    moved = stacked[..., 1:] - stacked[..., :1]
    known = ~np.isnan(moved)
    count = known.sum(axis=0)
    total = np.where(known, moved, 0).sum(axis=0)
    shift = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return np.concatenate([values, values + shift], axis=-1)


def means(scored: Iterable[Scored]) -> list[Row]:
    """MEANS_SCHEMA: over all tasks, by category, and of the primary metric by indication."""
    rows: list[Row] = []
    for (cohort, kind), panels in cohorts_of(scored).items():
        methods = panels[0].methods
        for metric in MEASURES[kind]:
            groups: dict[tuple[str, str | None], list[tuple[Scored, Floats]]] = {}
            for panel in panels:
                for key in (("all", None), ("category", panel.category)):
                    groups.setdefault(key, []).append((panel, panel.draws[metric]))
                if metric == PRIMARY[kind]:
                    for indication, draws in panel.by_indication.items():
                        groups.setdefault(("indication", indication), []).append((panel, draws))
            for (by, group), members in groups.items():
                about = {"cohort": cohort, "metric": metric, "by": by, "group": group}
                rows += _means_of(methods, members, metric, about)
    return rows


def _means_of(
    methods: Sequence[Method], members: Sequence[tuple[Scored, Floats]], metric: str, about: Row
) -> list[Row]:
    """A row per method that takes part, over the tasks where all of those have a value.

    Part takes who has one for at least `TAKES_PART` of the tasks that any method scores: else one method
    that answers a single task would leave all others that task alone.
    """
    known = np.array([np.isfinite(d[:, 0]) for _, d in members])
    share = known.sum(axis=0) / max(1, int(known.any(axis=1).sum()))
    present = np.flatnonzero(share >= TAKES_PART).tolist()
    complete = [(p, d) for p, d in members if np.isfinite(d[present, 0]).all()]
    if not present or not complete:
        return []
    subjects = len(np.unique(np.concatenate([p.subjects for p, _ in complete])))
    pooled = mean_over([d[present] for _, d in complete])
    rows = []
    for draws, i in zip(pooled, present, strict=True):
        found = interval(draws, subjects)
        values = [d[i, 0] for _, d in complete]
        sd_seeds, n_seeds = _over_seeds([p.seeds[metric][i] for p, _ in complete], about["by"])
        rows.append(
            {
                "recipe": methods[i][0],
                "probe": methods[i][1],
                **about,
                "value": found.value,
                "sd_tasks": float(np.std(values, ddof=1)) if len(values) > 1 else np.nan,
                "sd_seeds": sd_seeds,
                "ci_low": found.ci_low,
                "ci_high": found.ci_high,
                "n_tasks": len(complete),
                "n_seeds": n_seeds,
            }
        )
    return rows


def _over_seeds(by_task: Sequence[Mapping[int, float]], by: str) -> tuple[float, int]:
    """Standard deviation over seeds of the mean over tasks, and how many seeds all of these tasks have."""
    common = sorted(set.intersection(*(set(own) for own in by_task)))
    if len(common) < 2 or by == "indication":
        return np.nan, len(common)
    each = [np.mean([own[seed] for own in by_task]) for seed in common]
    return float(np.std(each, ddof=1)), len(common)


def differences(
    scored: Iterable[Scored], recipes: Sequence[str], pairs: Sequence[tuple[str, str]] = ()
) -> list[Row]:
    """DIFFERENCES_SCHEMA: recipes with one another and with baselines, by task and over the tasks both score.

    Two families of hypotheses per metric. The first is what the report is about: recipes with one another
    (`pairs`, or every two) and with the reference baseline; the second is recipes with all other methods.
    Means are corrected by Holm over all cohorts, tasks by Benjamini-Hochberg within a cohort.
    """
    rows: list[Row] = []
    for (cohort, kind), panels in cohorts_of(scored).items():
        methods = panels[0].methods
        for a, b, first in _pairs(methods, kind, recipes, pairs):
            i, j = methods.index(a), methods.index(b)
            for metric in (m for m in MEASURES[kind] if m in COMPARED):
                both = [(p, p.draws[metric][i] - p.draws[metric][j]) for p in panels]
                both = [(p, d) for p, d in both if np.isfinite(d[0])]
                about = {"cohort": cohort, "metric": metric, "first": first}
                about |= {"recipe_a": a[0], "probe_a": a[1], "recipe_b": b[0], "probe_b": b[1]}
                rows += [_difference([p], d, {**about, "task": p.task}) for p, d in both]
                if both:
                    mean = mean_over([d for _, d in both])
                    rows.append(_difference([p for p, _ in both], mean, {**about, "task": None}))
    _correct(
        [r for r in rows if r["task"] is None],
        holm,
        lambda r: f"means of {r['metric']}, {_side(r)}: Holm",
    )
    _correct(
        [r for r in rows if r["task"] is not None],
        benjamini_hochberg,
        lambda r: f"tasks of {r['cohort']}, {r['metric']}, {_side(r)}: Benjamini-Hochberg",
    )
    return [{k: v for k, v in r.items() if k != "first"} for r in rows]


def _pairs(
    methods: Sequence[Method], kind: str, recipes: Sequence[str], asked: Sequence[tuple[str, str]]
) -> list[tuple[Method, Method, bool]]:
    """(a, b, whether the report is about this difference)."""
    ours = [(r, MAIN_PROBE[kind]) for r in recipes if (r, MAIN_PROBE[kind]) in methods]
    wanted = {frozenset(p) for p in asked}
    out = [
        (b, a, True)  # the later recipe of the report less the earlier one
        for a, b in combinations(ours, 2)
        if not wanted or frozenset((a[0], b[0])) in wanted
    ]
    others = [m for m in methods if m not in ours and m[0] != ORACLE]
    for a in ours:
        for b in others:
            if b[0] not in recipes or b[0] == a[0]:  # another probe of a recipe is held against its own
                out.append((a, b, b == (BASELINE, REFERENCE[kind])))
    return out


def _side(row: Row) -> str:
    return "recipes and reference baseline" if row["first"] else "other methods"


def _difference(panels: Sequence[Scored], draws: Floats, about: Row) -> Row:
    subjects = len(np.unique(np.concatenate([p.subjects for p in panels])))
    found = interval(draws, subjects)
    return {
        **about,
        "difference": found.value,
        "ci_low": found.ci_low,
        "ci_high": found.ci_high,
        "p": np.nan if np.isnan(found.ci_low) else p_of_difference(draws),
        "n": sum(p.n for p in panels),
        "n_subjects": subjects,
    }


def _correct(
    rows: Sequence[Row], method: Callable[[Sequence[float]], list[float]], family: Callable[[Row], str]
) -> None:
    """Writes `p_adjusted` and `family` into the rows, family by family."""
    families: dict[str, list[Row]] = {}
    for row in rows:
        families.setdefault(family(row), []).append(row)
    for name, members in families.items():
        tested = sum(not np.isnan(r["p"]) for r in members)
        for row, p in zip(members, method([r["p"] for r in members]), strict=True):
            row["p_adjusted"], row["family"] = p, f"{name} over {tested}"


def ceiling(scored: Iterable[Scored]) -> list[Row]:
    """CEILING_SCHEMA: how much of the oracle's lead over chance each method reaches, where there is one."""
    rows: list[Row] = []
    for (cohort, kind), panels in cohorts_of(scored).items():
        methods = panels[0].methods
        if kind != "binary" or (ORACLE, ORACLE) not in methods:
            continue
        oracle = methods.index((ORACLE, ORACLE))
        sure = [
            p for p in panels if interval(p.draws["auroc"][oracle], len(p.subjects)).ci_low > CEILING_FROM
        ]
        for i, (recipe, probe) in enumerate(methods):
            about = {"recipe": recipe, "cohort": cohort, "probe": probe}
            found = [
                (p, _fraction(p.draws["auroc"][i], p.draws["auroc"][oracle]))
                for p in sure
                if i != oracle and np.isfinite(p.draws["auroc"][i, 0])
            ]
            rows += [_part([p], d, oracle, {**about, "task": p.task}) for p, d in found]
            if found:
                mean = mean_over([d for _, d in found])
                rows.append(_part([p for p, _ in found], mean, oracle, {**about, "task": None}))
    return rows


def _fraction(draws: Floats, oracle: Floats) -> Floats:
    lead = oracle - 0.5
    return np.divide(draws - 0.5, lead, out=np.full(draws.shape, np.nan), where=lead > 0)


def _part(panels: Sequence[Scored], draws: Floats, oracle: int, about: Row) -> Row:
    found = interval(draws, len(np.unique(np.concatenate([p.subjects for p in panels]))))
    return {
        **about,
        "fraction": found.value,
        "ci_low": found.ci_low,
        "ci_high": found.ci_high,
        "oracle": float(np.mean([p.draws["auroc"][oracle, 0] for p in panels])),
        "n_tasks": len(panels),
    }
