"""May the report's candidate be promoted? Read off the comparison and the leak audits, written as
`verdict.json`.

Whoever promotes reads this file and nothing else:

    format           1
    report, recipe   the report, and the candidate that its spec names
    may_be_promoted  true when every criterion passed
    reasons          one sentence per criterion that did not pass; empty when it may be promoted
    criteria         [{name, passed, said}]: `beats_baseline`, `not_worse_than_accepted`, `calibrated`,
                     `no_guard_fails`, in this order; `said` is a sentence with the numbers
    thresholds       the spec's `promotion`, as it was applied
    numbers          metric; cohorts: {cohort: {mean, n_tasks, ece, difference, ci_low, ci_high, p_adjusted,
                     tasks: {task: value}}}; a number that could not be had is null
    versions         {asset: data version} of every dataset that was read
    accepted         null, or {recipe, data_version} of the accepted verdict that it was held against

Nothing is chosen here: candidate and thresholds are fixed in the spec before held-out subjects are scored.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ehr_assets.errors import DatasetError
from ehr_assets.leakage.findings import read_findings
from ehr_assets.reports.inputs import BASELINE, USUAL_PROBES
from ehr_assets.reports.spec import ReportSpec

VERDICT = "verdict.json"
FORMAT = 1
CRITERIA = ("beats_baseline", "not_worse_than_accepted", "calibrated", "no_guard_fails")
SAME_NODES = ("decision_nodes", "task_labels", "subject_splits")
"""What two versions must have been scored on alike, to be compared."""

ROUNDING = 1e-9
NO_COHORT = "it embeds no cohort of the report"


@dataclass(frozen=True)
class Accepted:
    """The verdict of the version that is in use, and the data version of the dataset that holds it."""

    verdict: Mapping[str, Any]
    data_version: str


@dataclass(frozen=True)
class Criterion:
    name: str
    passed: bool
    said: str


def write_verdict(
    spec: ReportSpec,
    comparison: Path,
    audits: Mapping[str, Path],
    versions: Mapping[str, str],
    accepted: Accepted | None,
    out_dir: Path,
    *,
    embedded: Collection[str],
) -> dict[str, Any]:
    """Judges the candidate and writes `verdict.json` into `out_dir`.

    Args:
        comparison: the `<report>/comparison` dataset.
        audits: cohort or recipe → its `leak_audit` dataset.
        versions: asset → data version of all inputs, nodes, labels and splits of the cohorts among them.
        embedded: the cohorts that the candidate embeds. On each of them that the report shows it must have a
            score: one that it fails on altogether is no reason not to ask.

    Returns the stats: whether it may be promoted, and which criteria passed.
    """
    numbers = {c: _numbers(spec, comparison, c) for c in spec.cohorts if c in embedded}
    criteria = [
        _beats_baseline(spec, numbers),
        _not_worse_than_accepted(spec, numbers, versions, accepted),
        _calibrated(spec, numbers),
        _no_guard_fails(spec, audits),
    ]
    verdict = {
        "format": FORMAT,
        "report": spec.name,
        "recipe": spec.candidate,
        "may_be_promoted": all(c.passed for c in criteria),
        "reasons": [c.said for c in criteria if not c.passed],
        "criteria": [{"name": c.name, "passed": c.passed, "said": c.said} for c in criteria],
        "thresholds": spec.promotion.model_dump(mode="json"),
        "numbers": {"metric": spec.promotion.baseline.metric, "cohorts": numbers},
        "versions": dict(sorted(versions.items())),
        "accepted": accepted
        and {"recipe": accepted.verdict["recipe"], "data_version": accepted.data_version},
    }
    (out_dir / VERDICT).write_text(json.dumps(verdict, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return {"may_be_promoted": verdict["may_be_promoted"], **{c.name: c.passed for c in criteria}}


def read_verdict(folder: Path) -> dict[str, Any]:
    """A written verdict. Raises DatasetError when it is none of this format."""
    path = folder / VERDICT
    try:
        verdict = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise DatasetError("The verdict cannot be read.", where=str(path), do="Make it again.") from e
    named = [c.get("name") for c in verdict.get("criteria", [])]
    if verdict.get("format") != FORMAT or named != list(CRITERIA):
        raise DatasetError(
            "The verdict is of another format.", where=str(path), do="Make it again with this version."
        )
    return verdict


def _numbers(spec: ReportSpec, comparison: Path, cohort: str) -> dict[str, Any]:
    metric = spec.promotion.baseline.metric
    ours = (
        (pl.col("cohort") == cohort)
        & (pl.col("recipe") == spec.candidate)
        & pl.col("probe").is_in(USUAL_PROBES)
    )
    means = pl.read_parquet(comparison / "means.parquet").filter(ours, pl.col("by") == "all")
    mean, ece = (means.filter(pl.col("metric") == m).head(1).to_dicts() for m in (metric, "ece"))
    whole = pl.col("indication").is_null() & pl.col("subgroup").is_null() & pl.col("value").is_not_null()
    tasks = (
        pl.read_parquet(comparison / "metrics.parquet")
        .filter(ours, whole, pl.col("metric") == metric, pl.col("split") == "held_out")
        .group_by("task")
        .agg(pl.col("value").mean())
        .sort("task")
    )
    found = _difference(spec, comparison, cohort)
    return {
        "mean": mean[0]["value"] if mean else None,
        "n_tasks": mean[0]["n_tasks"] if mean else 0,
        "ece": ece[0]["value"] if ece else None,
        **{k: found.get(k) for k in ("difference", "ci_low", "ci_high", "p_adjusted")},
        "tasks": dict(tasks.iter_rows()),
    }


def _difference(spec: ReportSpec, comparison: Path, cohort: str) -> dict[str, Any]:
    """The paired difference of means, candidate less baseline; empty where it was not asked for."""
    bar = spec.promotion.baseline
    rows = pl.read_parquet(comparison / "differences.parquet").filter(
        pl.col("cohort") == cohort, pl.col("task").is_null(), pl.col("metric") == bar.metric
    )

    def sides(a: str, b: str) -> pl.DataFrame:
        return rows.filter(
            pl.col(f"recipe_{a}") == spec.candidate,
            pl.col(f"probe_{a}").is_in(USUAL_PROBES),
            pl.col(f"recipe_{b}") == BASELINE,
            pl.col(f"probe_{b}") == bar.method,
        )

    if found := sides("a", "b").head(1).to_dicts():
        return found[0]
    if found := sides("b", "a").head(1).to_dicts():
        row = found[0]
        turned = {"difference": row["difference"], "ci_low": row["ci_high"], "ci_high": row["ci_low"]}
        return {**row, **{k: None if v is None else -v for k, v in turned.items()}}
    return {}


def _beats_baseline(spec: ReportSpec, numbers: Mapping[str, Any]) -> Criterion:
    bar = spec.promotion.baseline
    said, passed = [], bool(numbers)
    for cohort, found in numbers.items():
        value = found[bar.by]
        passed &= value is not None and value >= bar.min_difference
        if found["difference"] is None:
            said.append(f"{cohort}: no difference to {bar.method} is known")
        else:
            low, high = (f"{found[k]:+.3f}" if found[k] is not None else "?" for k in ("ci_low", "ci_high"))
            said.append(f"{cohort}: {found['difference']:+.3f} ({low} to {high})")
    asked = "lower end of the interval" if bar.by == "ci_low" else "difference"
    return Criterion(
        CRITERIA[0],
        passed,
        f"Mean {bar.metric} less that of {bar.method}, whose {asked} must be at least "
        f"{bar.min_difference:+.3f}: "
        f"{'; '.join(said) or NO_COHORT}.",
    )


def _not_worse_than_accepted(
    spec: ReportSpec, numbers: Mapping[str, Any], versions: Mapping[str, str], accepted: Accepted | None
) -> Criterion:
    name = CRITERIA[1]
    if accepted is None:
        return Criterion(name, True, "There is no accepted version yet.")
    before = accepted.verdict
    changed = sorted(
        asset
        for cohort in before["numbers"]["cohorts"]
        for asset in (f"{cohort}/{a}" for a in SAME_NODES)
        if before["versions"].get(asset) != versions.get(asset)
    )
    if changed or before["numbers"]["metric"] != spec.promotion.baseline.metric:
        what = f"its {', '.join(changed)} are others" if changed else "it was judged by another metric"
        return Criterion(
            name,
            False,
            f"The accepted version ({before['recipe']}) was scored on something else: {what}. Not compared; "
            "score the accepted checkpoint on today's nodes first.",
        )
    bar, said, passed = spec.promotion.accepted, [], True
    for cohort, then in before["numbers"]["cohorts"].items():
        now = numbers.get(cohort, {"tasks": {}})["tasks"]
        both = sorted(now.keys() & then["tasks"].keys())
        if not both:
            passed = False
            said.append(f"{cohort}: no task that both scored")
            continue
        drop = sum(then["tasks"][t] - now[t] for t in both) / len(both)
        lost = sorted(then["tasks"].keys() - now.keys())
        passed &= drop <= bar.max_drop + ROUNDING and not lost
        told = f"{cohort}: {-drop:+.3f} over {len(both)} task{'s' if len(both) != 1 else ''}"
        said.append(told + (f", without a score on {', '.join(lost)}" if lost else ""))
    return Criterion(
        name,
        passed,
        f"Against the accepted version ({before['recipe']}), of which at most {bar.max_drop:.3f} may be "
        "lost: "
        f"{'; '.join(said)}.",
    )


def _calibrated(spec: ReportSpec, numbers: Mapping[str, Any]) -> Criterion:
    limit = spec.promotion.calibration.max_ece
    values = {cohort: found["ece"] for cohort, found in numbers.items()}
    passed = bool(values) and all(v is not None and v <= limit for v in values.values())
    said = "; ".join(f"{c}: {'not known' if v is None else f'{v:.3f}'}" for c, v in values.items())
    return Criterion(
        CRITERIA[2],
        passed,
        f"Mean calibration error over tasks, at most {limit:.3f}: {said or NO_COHORT}.",
    )


def _no_guard_fails(spec: ReportSpec, audits: Mapping[str, Path]) -> Criterion:
    wanted, name = spec.promotion.guards, CRITERIA[3]
    if not audits:
        return Criterion(name, False, "No leak guard has looked.")
    found = pl.concat([read_findings(folder) for _, folder in sorted(audits.items())])
    if wanted != "all":
        found = found.filter(pl.col("guard").is_in(wanted))
        if missing := sorted(set(wanted) - set(found["guard"])):
            return Criterion(name, False, f"These leak guards have not looked: {', '.join(missing)}.")
    failed = found.filter(pl.col("verdict") == "fail")
    guards = found["guard"].n_unique()
    if not guards:
        return Criterion(name, False, "No leak guard has found anything to look at.")
    if failed.height:
        which = sorted(f"{g} ({s})" for g, s in failed.select("guard", "scope").unique().iter_rows())
        return Criterion(name, False, f"Leak guards failed: {', '.join(which)}.")
    return Criterion(name, True, f"{guards} leak guards looked at {len(audits)} datasets; none failed.")
