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
from ehr_assets.leakage.fits import FITTED_ON
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
    allowed = {cohort: _Allowed(files) for cohort, files in cohorts.items()}
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
    together = Finding(GUARD, scope, "fail" if problems else "ok", None, float(len(problems)), 0.0, len(entries),
                       "fits whose subjects are not exactly those that they may see")  # fmt: skip
    return [together, *problems, *_predictions_in_their_splits(scope, fits_dir, cohorts)]


def _entries(folder: Path) -> list[dict[str, Any]] | None:
    try:
        steps = json.loads((Path(folder) / FITTED_ON).read_text(encoding="utf-8"))["steps"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return steps if isinstance(steps, list) and all(isinstance(s, dict) for s in steps) else None


def _holds(entry: Mapping[str, Any], allowed: Mapping[str, "_Allowed"]) -> bool:
    cohort, role = entry.get("cohort"), entry.get("role")
    if not entry.get("step") or cohort not in allowed or role not in ROLES:
        return False
    said = (entry.get("subjects_sha256"), entry.get("n_subjects"))
    return said in set(allowed[cohort].claims(entry.get("task"), ROLES[role]))


class _Allowed:
    """The subjects of one cohort that fits may rest on, read from its splits, nodes and labels."""

    def __init__(self, files: CohortFiles) -> None:
        self._files = files
        table = pq.read_table(files.splits / "subject_splits.parquet", columns=["subject_id", "split"])
        self._splits: dict[str, set[int]] = {}
        for subject, split in pl.DataFrame(table).iter_rows():
            self._splits.setdefault(str(split), set()).add(subject)
        self._usable: dict[str | None, list[set[int]]] = {}

    def claims(self, task: str | None, splits: Sequence[Sequence[str]]) -> Iterator[tuple[str, int]]:
        """(hash, number) of the subjects with a usable label of the task in one of these unions of splits."""
        for subjects in self._of(task):
            for names in splits:
                held = subjects & set().union(*(self._splits.get(name, set()) for name in names))
                yield subjects_hash(held), len(held)

    def _of(self, task: str | None) -> list[set[int]]:
        """Sets of subjects that are usable for a task, by the kinds of labels; of none: for anything."""
        if task not in self._usable:
            if task is None:
                nodes = pq.read_table(self._files.nodes / "nodes.parquet", columns=["subject_id"])
                labelled = [self._kinds(path.stem) for path in sorted((self._files.labels / "labels").glob("*"))]
                some = {s for kinds in labelled for kind in kinds for s in kind}
                self._usable[None] = [set(nodes["subject_id"].to_pylist()), some]
            else:
                self._usable[task] = self._kinds(task)
        return self._usable[task]

    def _kinds(self, task: str) -> list[set[int]]:
        """Subjects with a boolean value, with a time to event above zero, with a number; those not empty."""
        path = labels_path(self._files.labels, task)
        if not path.is_file():
            return []
        columns = ["subject_id", "boolean_value", "numeric_value", "duration_days", "status"]
        labels = pl.DataFrame(pq.read_table(path, columns=columns))
        usable = (
            pl.col("boolean_value").is_not_null(),
            pl.col("status").is_not_null() & (pl.col("duration_days") > 0),
            pl.col("numeric_value").is_not_null() & pl.col("numeric_value").is_not_nan(),
        )
        return [kind for rule in usable if (kind := set(labels.filter(rule)["subject_id"].to_list()))]


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
        wrong = finding.in_another_split + finding.without_split + mine.filter(pl.col("split") == "train").height
        yield Finding(GUARD, scope, "fail" if wrong else "ok", f"{cohort}: predictions", float(wrong), 0.0,
                      finding.subjects, "subjects that are scored in another split than their own")  # fmt: skip
