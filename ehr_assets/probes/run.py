"""The one loop of this room: every task of a cohort, put to every method, and what comes of it.

Probes, baselines and the oracle differ in their features and their methods; which rows are fitted on, which
are answered, and what is written is the same for all and stands here. Tasks are spread over processes: what
they share lies in files beside the result, and a worker reads the labels of its own task only.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from ehr_assets.fanout import ONE_WORKER, Machine
from ehr_assets.handed import Handed, hand
from ehr_assets.leakage.ledger import FitLedger
from ehr_assets.nodes.frames import tasks_of
from ehr_assets.probes.choose import threshold
from ehr_assets.probes.frames import CohortDirs, CohortNodes, TaskLabels, read_task
from ehr_assets.probes.predictions import Answers, PredictionsFile, predictions
from ehr_assets.probes.results import write_fits, write_fitted_on, write_left_out, write_metrics
from ehr_assets.probes.rows import Fit, How, Kind, NoModelError, Rows, shortage
from ehr_assets.probes.scoring import Method, Scorer
from ehr_assets.probes.spec import FitSpec
from ehr_assets.progress import Progress, no_progress

WORKER_BYTES = 400_000_000
"""Of a worker with the libraries loaded, before its rows."""


@dataclass(frozen=True)
class Contender:
    """A method: its name in the `probe` column, the matrix it reads, its fit for each kind it can answer."""

    probe: str
    fits: Mapping[Kind, Fit]
    matrix: str = "X"


@dataclass(frozen=True)
class Field:
    """What the contenders compete on in one cohort.

    matrices: by name, (n, d) arrays or CSR in the order of the nodes. usable: (n,) nodes that have features.
    ledger: what was fitted for all tasks together, features chosen for instance.
    """

    nodes: CohortNodes
    dirs: CohortDirs
    matrices: Mapping[str, Any]
    usable: NDArray[np.bool_]
    contenders: Sequence[Contender]
    ledger: FitLedger = field(default_factory=FitLedger)


@dataclass(frozen=True)
class Rules:
    """What is the same for all fields of a run: the `recipe` column, the settings, the seed."""

    recipe: str
    spec: FitSpec
    how: How


@dataclass(frozen=True)
class _Shared:
    """What workers find in a file; the matrices lie beside it."""

    nodes: CohortNodes
    dirs: CohortDirs
    usable: NDArray[np.bool_]
    contenders: Sequence[Contender]
    implied_survival: bool
    rules: Rules


@dataclass
class _Solved:
    """All that came of one task."""

    metrics: list[dict[str, Any]] = field(default_factory=list)
    fits: list[dict[str, Any]] = field(default_factory=list)
    tables: list[pa.Table] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    fitted: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


def run(
    fields: Iterator[Field],
    rules: Rules,
    out_dir: Path,
    *,
    machine: Machine = ONE_WORKER,
    progress: Progress = no_progress,
) -> dict[str, int]:
    """Fits and scores every contender on every task of each field (one a cohort, drawn one by one).

    Writes `metrics.parquet`, `predictions.parquet`, `meds/`, `fits.parquet`, `fitted_on.json` and
    `left_out.parquet`; equal inputs give equal bytes on any number of workers. Returns counts: tasks,
    tasks_scored (by any method), nodes, nodes_without_features, and methods that gave no answer, by reason
    (`not_fitted/…`).
    """
    metrics, fits, steps = [], [], []
    left_out: dict[str, list[str]] = {}
    fitted: dict[str, set[int]] = {}
    stats: Counter[str] = Counter(tasks=0, tasks_scored=0, nodes=0, nodes_without_features=0)
    with PredictionsFile(out_dir) as file:
        for one in fields:
            cohort, tasks = one.nodes.cohort, tasks_of(one.dirs.labels)
            left_out[cohort] = one.nodes.frame["node_id"].filter(~pl.Series(one.usable)).to_list()
            stats["nodes"] += len(one.usable)
            stats["nodes_without_features"] += len(left_out[cohort])
            seen = fitted.setdefault(cohort, set())
            steps += one.ledger.document()
            seen.update(s for entry in one.ledger.entries for s in entry.subjects)
            for done, solved in enumerate(_solve_all(one, tasks, rules, out_dir, machine), start=1):
                metrics += solved.metrics
                fits += solved.fits
                steps += solved.steps
                seen.update(solved.fitted.tolist())
                file.add(solved.tables)
                stats["tasks"] += 1
                stats["tasks_scored"] += any(np.isfinite(row["value"]) for row in solved.metrics)
                stats.update(f"not_fitted/{row['note']}" for row in solved.fits if row["note"])
                progress(f"{rules.recipe} on {cohort}", done, len(tasks))
    write_metrics(metrics, out_dir)
    write_fits(fits, out_dir)
    write_left_out(left_out, out_dir)
    write_fitted_on(fitted, steps, out_dir)
    return dict(stats)


def _solve_all(
    one: Field, tasks: list[dict[str, Any]], rules: Rules, out_dir: Path, machine: Machine
) -> Iterator[_Solved]:
    size = sum(X.nbytes if isinstance(X, np.ndarray) else X.data.nbytes * 2 for X in one.matrices.values())
    # A fit holds its rows in double precision, standardized, and those of a fold beside them.
    crew = machine.crew(WORKER_BYTES + 6 * size, max(1, len(tasks)))
    timed = any(task.get("kind") == "time_to_event" for task in tasks)
    shared = _Shared(one.nodes, one.dirs, one.usable, one.contenders, not timed, rules)
    with tempfile.TemporaryDirectory(prefix=".shared-", dir=out_dir) as name, crew:
        folder = Path(name)
        handed = hand(shared, folder / "shared.pickle")
        for matrix, X in one.matrices.items():
            _save(X, folder / matrix)
        yield from crew.map(_solve, [(handed, task) for task in tasks])
        _opened.cache_clear()


def _solve(job: tuple[Handed, Mapping[str, Any]]) -> _Solved:
    """One task, in a worker. One thread of linear algebra, so that bytes do not depend on the cores."""
    import sklearn.linear_model  # noqa: F401  threads can only be limited of libraries that are loaded
    from threadpoolctl import threadpool_limits

    handed, entry = job
    shared, matrices, scorer = _opened(handed)
    task = read_task(shared.nodes, shared.dirs, entry)
    ledger, solved = FitLedger(), _Solved()
    with threadpool_limits(limits=1):
        for kind in _asked_as(task, shared):
            for contender in shared.contenders:
                if fit := contender.fits.get(kind):
                    rows = _rows(shared, matrices[contender.matrix], task, kind, ledger)
                    _compete(shared, scorer, contender.probe, fit, task, rows, solved)
    solved.steps = ledger.document()
    made = [sorted(entry.subjects) for entry in ledger.entries if entry.role == "fitted"]
    solved.fitted = np.unique(np.concatenate([np.array(ids, dtype=np.int64) for ids in made] or [[]]))
    return solved


def _asked_as(task: TaskLabels, shared: _Shared) -> tuple[Kind, ...]:
    """A binary task about survival is a time to event too, where the cohort has none of its own."""
    words = shared.rules.spec.survival_categories
    survival = task.kind == "binary" and any(word in task.category.lower() for word in words)
    return (task.kind, "time_to_event") if survival and shared.implied_survival else (task.kind,)


def _rows(shared: _Shared, X: Any, task: TaskLabels, kind: Kind, ledger: FitLedger) -> Rows:
    """All nodes of the cohort, as rows of this task."""
    nodes = shared.nodes
    return Rows(
        X=X,
        y=task.y,
        duration_days=task.duration_days,
        observed=task.observed,
        subject_id=nodes.subject_id,
        indication=nodes.indication,
        cohort=nodes.cohort,
        task=task.name,
        kind=kind,
        ledger=ledger,
    )


def _compete(
    shared: _Shared, scorer: Scorer, probe: str, fit: Fit, task: TaskLabels, rows: Rows, solved: _Solved
) -> None:
    """One method's fit, answers and scores. Where it has no answer, rows without values and the reason."""
    nodes, rules, kind = shared.nodes, shared.rules, rows.kind
    method = Method(rules.recipe, probe, rules.how.seed)
    known = shared.usable & task.evaluable(kind)
    train, tuning = rows[known & nodes.rows("train")], rows[known & nodes.rows("tuning")]
    answers, chosen = None, {}
    note = shortage(train, rules.spec.min_samples, rules.spec.min_positives)
    if note is None:
        try:
            answers, chosen = _answers(shared, fit, rows, train, tuning, known)
        except NoModelError as e:
            note = str(e)
    if answers is not None:
        solved.tables.append(predictions(nodes, method, task, answers))
    values = answers.values if answers else None
    solved.metrics += scorer.rows(method, task, kind, values, shared.usable)
    positive = {"binary": train.y == 1, "time_to_event": train.observed}
    solved.fits.append(
        {
            "recipe": method.recipe,
            "cohort": nodes.cohort,
            "task": task.name,
            "kind": kind,
            "probe": probe,
            "seed": method.seed,
            "note": note,
            "chosen": json.dumps(chosen, sort_keys=True) if note is None else None,
            "n_train": len(train),
            "n_train_positive": int(positive[kind].sum()) if kind in positive else None,
            "n_tuning": len(tuning),
        }
    )


def _answers(
    shared: _Shared, fit: Fit, rows: Rows, train: Rows, tuning: Rows, known: NDArray[np.bool_]
) -> tuple[Answers, dict[str, Any]]:
    """What a fit says at all tuning and held-out nodes with features, and the settings it was chosen with."""
    nodes, kind = shared.nodes, rows.kind
    model = fit(train, tuning, shared.rules.how)
    asked = shared.usable & ~nodes.rows("train")
    values = np.full(len(rows), np.nan, dtype=np.float32)
    if asked.any():
        values[asked] = model.predict(rows[asked])
        if not np.isfinite(values[asked]).all():
            raise NoModelError("non_finite_answers")
        if asked.sum() > 1 and np.ptp(values[asked]) == 0:
            raise NoModelError("constant_answers")  # it ranks nobody: 0.5 would look like a finding
    chosen = dict(model.chosen)
    if kind != "binary":
        return Answers(kind, values), chosen
    chosen["threshold"] = threshold(tuning, values[known & nodes.rows("tuning")])
    return Answers(kind, values, chosen["threshold"]), chosen


def _save(X: Any, stem: Path) -> None:
    if isinstance(X, np.ndarray):
        np.save(stem.with_suffix(".npy"), X)
    else:
        from scipy.sparse import save_npz

        save_npz(stem.with_suffix(".npz"), X)


@lru_cache(maxsize=1)
def _opened(handed: Handed) -> tuple[_Shared, dict[str, Any], Scorer]:
    """What a worker reads once: dense matrices are mapped, and so shared by all."""
    from scipy.sparse import load_npz

    shared: _Shared = handed.take()
    folder = handed.path.parent
    matrices: dict[str, Any] = {p.stem: np.load(p, mmap_mode="r") for p in folder.glob("*.npy")}
    matrices |= {p.stem: load_npz(p) for p in folder.glob("*.npz")}
    spec = shared.rules.spec
    return shared, matrices, Scorer(shared.nodes, spec.bootstrap, spec.min_samples, spec.min_positives)
