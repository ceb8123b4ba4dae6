"""What stands in the records at the nodes: events of the very outcome, and the newest that was known.

An outcome code that is known at t is no leak by itself (a progression is predicted after earlier ones), but
who reads a score must know in how many windows the answer's own words stand. And a window that lacks the
newest known event was cut on the wrong side.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ehr_assets.contracts import BIRTH, SPLITS
from ehr_assets.leakage.findings import Finding
from ehr_assets.meds.reading import event_codes, iter_file, matching_codes, split_files

OUTCOMES = "outcomes_known_at_nodes"
NEWEST = "newest_known_in_window"


def outcome_patterns(task: Mapping[str, Any], derived: Mapping[str, Any]) -> list[str]:
    """The regexes of a task's outcome (as dumped from its spec), with those of derived events it names."""
    outcome = task.get("outcome") or task.get("target") or {}
    found = list(_codes_in(outcome))
    named = [name for name in _strings_in(outcome) if name in derived]
    return sorted({*found, *(p for name in named for p in _codes_in(derived[name]))})


def _codes_in(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        own = value.get("codes")
        held = [str(c) for c in own] if isinstance(own, Sequence) and not isinstance(own, str) else []
        return held + [c for key, inner in value.items() if key != "codes" for c in _codes_in(inner)]
    if isinstance(value, list | tuple):
        return [c for inner in value for c in _codes_in(inner)]
    return []


def _strings_in(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [s for v in inner for s in _strings_in(v)]


def outcomes_known_at_nodes(
    cohort: str, patterns: Mapping[str, list[str]], nodes: pl.DataFrame, meds_dir: Path
) -> list[Finding]:
    """Per task, the share of nodes at whose time an event with one of its outcome's codes was known.

    Never fails: it is told. A task none of whose codes occur in the cohort is a warning.

    Args:
        patterns: task → regexes. nodes: subject_id, time.
    """
    codes = event_codes(meds_dir)
    of_task = {task: matching_codes(codes, wanted) for task, wanted in patterns.items()}
    first = _first_known(meds_dir, {code for found in of_task.values() for code in found})
    n = nodes.height
    findings = []
    for task, wanted in of_task.items():
        by_subject = (
            first.filter(pl.col("code").is_in(wanted))
            .group_by("subject_id")
            .agg(pl.col("available_time").min().alias("first"))
        )
        known = nodes.join(by_subject, on="subject_id").filter(pl.col("first") <= pl.col("time")).height
        findings.append(
            Finding(
                OUTCOMES,
                cohort,
                "ok" if wanted else "warn",
                task,
                known / n if n else 0.0,
                None,
                n,
                "share of nodes with an outcome code known at t" if wanted else "no such code in the cohort",
            )
        )
    return findings


def _first_known(meds_dir: Path, codes: set[str]) -> pl.DataFrame:
    """subject_id, code, available_time: when each subject's first event of each code was known."""
    parts = [
        chunk.filter(pl.col("code").is_in(sorted(codes)) & pl.col("available_time").is_not_null())
        .group_by("subject_id", "code")
        .agg(pl.col("available_time").min())
        for split in SPLITS
        for path in split_files(meds_dir, split)
        for chunk in iter_file(path)
    ]
    schema = {"subject_id": pl.Int64, "code": pl.String, "available_time": pl.Datetime("us")}
    return pl.concat(parts) if parts else pl.DataFrame(schema=schema)


def newest_known(meds_dir: Path, nodes: pl.DataFrame) -> pl.DataFrame:
    """node_id, known: when the newest event known at each node became known; null where there is none.

    Args:
        nodes: node_id, subject_id, time.
    """
    at = nodes.select("node_id", "subject_id", "time")
    parts = []
    for split in SPLITS:
        for path in split_files(meds_dir, split):
            for chunk in iter_file(path):
                times = chunk.filter(
                    pl.col("time").is_not_null()
                    & pl.col("available_time").is_not_null()
                    & (pl.col("code") != BIRTH)
                ).select("subject_id", pl.col("available_time").alias("known"))
                mine = at.join(chunk.select("subject_id").unique(), on="subject_id", how="semi").sort("time")
                known = mine.join_asof(
                    times.sort("known"),
                    left_on="time",
                    right_on="known",
                    by="subject_id",
                    check_sortedness=False,
                    coalesce=False,
                )
                parts.append(known.select("node_id", "known"))
    schema = {"node_id": pl.String, "known": pl.Datetime("us")}
    known = pl.concat(parts) if parts else pl.DataFrame(schema=schema)
    return at.select("node_id").join(known, on="node_id", how="left", maintain_order="left")


def newest_known_in_window(scope: str, known: pl.DataFrame, windows: pl.DataFrame) -> Finding:
    """Nodes whose window ends with something older (or newer) than the newest event known at them.

    Args:
        known: of `newest_known`. windows: node_id, available_time of the newest token in its window.
    """
    both = known.join(windows.select("node_id", "available_time"), on="node_id", how="left")
    wrong = both.filter(~pl.col("known").eq_missing(pl.col("available_time"))).height
    return Finding(
        guard=NEWEST,
        scope=scope,
        verdict="fail" if wrong else "ok",
        measured=float(wrong),
        limit=0.0,
        n=both.height,
        note="windows that do not end with the newest event known",
    )
