"""Whether every fit saw only whom it may: the ledger of an asset's fits held against splits and labels.

`ledger.py` writes down, at each fit, the subjects of the very rows that reached it. Here the splits and the
labels are read from their files, and the subjects that a fit of each role may and must have seen are made
from them anew. A ledger entry with any other set of subjects is a leak, whatever it is called.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from ehr_assets.leakage.findings import Finding
from ehr_assets.leakage.fits import FITTED_ON, LEFT_OUT
from ehr_assets.leakage.subjects import splits_agree, subjects_hash
from ehr_assets.nodes.frames import labels_path

GUARD = "fits_proved"
ROLES = {"fitted": (("train",),), "chosen": (("tuning",), ("train", "tuning"))}
"""Role → the splits that a fit of it may rest on, one of these."""


@dataclass(frozen=True)
class CohortFiles:
    """`decision_nodes`, `task_labels` and `subject_splits` of a cohort."""

    nodes: Path
    labels: Path
    splits: Path


def fits_proved(scope: str, fits_dir: Path, cohorts: Mapping[str, CohortFiles]) -> list[Finding]:
    """A finding per entry that is not allowed, per score without a fit, and one for all.

    Args:
        fits_dir: a dataset with `fitted_on.json`, whose `steps` are a ledger, and `predictions.parquet`.
    """
    entries = _entries(fits_dir)
    if entries is None:
        return [Finding(GUARD, scope, "fail", None, note="the fits left no ledger of the rows they saw")]
    left_out = _left_out(fits_dir)
    allowed = {c: _Allowed(files, left_out.get(c, [])) for c, files in cohorts.items()}
    wrong = [e for e in entries if not _holds(e, allowed)]
    problems = [
        Finding(GUARD, scope, "fail", f"{e.get('cohort')}: {e.get('task') or 'all tasks'}: {e.get('step')}",
                float(e.get("n_subjects") or 0), None, 0, f"{e.get('role')} on subjects that it may not see")
        for e in wrong
    ]  # fmt: skip
    fitted = {(e.get("cohort"), e.get("task")) for e in entries if e.get("role") == "fitted"}
    for cohort, task, probe in _scored(fits_dir):
        if (cohort, task) not in fitted:
            about = f"{cohort}: {task}: {probe}"
            problems.append(Finding(GUARD, scope, "fail", about, note="scores without a fit in the ledger"))
    note = "fits whose subjects are not exactly those that they may see, and scores without a fit"
    verdict = "fail" if problems else "ok"
    together = Finding(GUARD, scope, verdict, None, float(len(problems)), 0.0, len(entries), note)
    return [together, *problems, *_predictions_in_their_splits(scope, fits_dir, cohorts)]


def _entries(folder: Path) -> list[dict[str, Any]] | None:
    try:
        steps = json.loads((Path(folder) / FITTED_ON).read_text(encoding="utf-8"))["steps"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return steps if isinstance(steps, list) and all(isinstance(s, dict) for s in steps) else None


def _left_out(folder: Path) -> dict[str, list[str]]:
    """Cohort → its nodes without features."""
    path = Path(folder) / LEFT_OUT
    rows = pl.DataFrame(pq.read_table(path)).iter_rows() if path.is_file() else ()
    found: dict[str, list[str]] = {}
    for cohort, node in rows:
        found.setdefault(cohort, []).append(node)
    return found


def _holds(entry: Mapping[str, Any], allowed: Mapping[str, "_Allowed"]) -> bool:
    cohort, role = str(entry.get("cohort")), str(entry.get("role"))
    if not entry.get("step") or cohort not in allowed or role not in ROLES:
        return False
    said = (entry.get("subjects_sha256"), entry.get("n_subjects"))
    return said in allowed[cohort].claims(entry.get("task"), entry.get("indication"), ROLES[role])


class _Allowed:
    """The subjects of one cohort that fits may rest on, read from its splits, nodes and labels."""

    def __init__(self, files: CohortFiles, left_out: Sequence[str] = ()) -> None:
        self._labels, self._left_out = files.labels, list(left_out)
        table = pq.read_table(files.splits / "subject_splits.parquet", columns=["subject_id", "split"])
        self._splits: dict[str, set[int]] = {}
        for subject, split in pl.DataFrame(table).iter_rows():
            self._splits.setdefault(str(split), set()).add(subject)
        columns = ["node_id", "subject_id", "indication"]
        self._nodes = pl.DataFrame(pq.read_table(files.nodes / "nodes.parquet", columns=columns))
        self._usable: dict[tuple[str | None, str | None], list[set[int]]] = {}

    def claims(
        self, task: str | None, indication: str | None, splits: Sequence[Sequence[str]]
    ) -> set[tuple[str, int]]:
        """(hash, number) of the subjects that are usable for this, in one of these unions of splits."""
        key = (task, indication)
        if key not in self._usable:
            self._usable[key] = self._anything(indication) if task is None else self._kinds(task, indication)
        unions = [set().union(*(self._splits.get(name, set()) for name in names)) for names in splits]
        held = [subjects & union for subjects in self._usable[key] for union in unions]
        return {(subjects_hash(h), len(h)) for h in held}

    def _anything(self, indication: str | None) -> list[set[int]]:
        """Subjects with nodes, and those with a label that is usable for any task."""
        nodes = self._of(indication)
        tasks = [path.stem for path in sorted((self._labels / "labels").glob("*.parquet"))]
        labelled = set().union(*(kind for task in tasks for kind in self._kinds(task, indication)))
        return [set(nodes["subject_id"].to_list()), labelled]

    def _kinds(self, task: str, indication: str | None) -> list[set[int]]:
        """Subjects with a boolean value, with a time to event above zero, with a number; those not empty."""
        path = labels_path(self._labels, task)
        if not path.is_file():
            return []
        columns = ["node_id", "subject_id", "boolean_value", "numeric_value", "duration_days", "status"]
        labels = pl.DataFrame(pq.read_table(path, columns=columns))
        labels = labels.join(self._of(indication).select("node_id"), on="node_id", how="semi")
        labels = labels.filter(~pl.col("node_id").is_in(self._left_out))
        usable = (
            pl.col("boolean_value").is_not_null(),
            pl.col("status").is_not_null() & (pl.col("duration_days") > 0),
            pl.col("numeric_value").is_not_null() & pl.col("numeric_value").is_not_nan(),
        )
        return [kind for rule in usable if (kind := set(labels.filter(rule)["subject_id"].to_list()))]

    def _of(self, indication: str | None) -> pl.DataFrame:
        return self._nodes.filter(pl.col("indication") == indication) if indication else self._nodes


def _scored(folder: Path) -> list[tuple[str, str, str]]:
    """(cohort, task, probe) of the predictions."""
    path = Path(folder) / "predictions.parquet"
    if not path.is_file():
        return []
    columns = pl.DataFrame(pq.read_table(path, columns=["cohort", "task", "probe"]))
    return sorted(columns.unique().iter_rows())


def _predictions_in_their_splits(
    scope: str, folder: Path, cohorts: Mapping[str, CohortFiles]
) -> Iterator[Finding]:
    """Per cohort, predictions that stand under another split than their subject's, or under train."""
    path = Path(folder) / "predictions.parquet"
    if not path.is_file():
        return
    found = pl.DataFrame(pq.read_table(path, columns=["cohort", "subject_id", "split"])).unique()
    for cohort, files in cohorts.items():
        mine = found.filter(pl.col("cohort") == cohort)
        finding = splits_agree(mine, pl.DataFrame(pq.read_table(files.splits / "subject_splits.parquet")))
        wrong = (
            finding.in_another_split + finding.without_split + mine.filter(pl.col("split") == "train").height
        )
        verdict, about = "fail" if wrong else "ok", f"{cohort}: predictions"
        note = "subjects scored in another split than their own, or in train"
        yield Finding(GUARD, scope, verdict, about, float(wrong), 0.0, finding.subjects, note)
