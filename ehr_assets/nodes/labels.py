"""Task labels at decision nodes, in one pass over the events: all tasks at once, chunk by chunk.

What a label is, is `rules.py`; here is how they are gathered, file by file and then task by task. Memory
holds a chunk of events, or one task's answers. What is written does not depend on the number of workers.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from ehr_assets.contracts import SPLITS
from ehr_assets.fanout import ONE_WORKER, Machine
from ehr_assets.meds.reading import count_rows, event_codes, split_files
from ehr_assets.nodes.frames import (
    COUNT_SCHEMA,
    REASONS,
    labels_path,
    write_parquet,
)
from ehr_assets.nodes.label_tables import label_table, meds_labels
from ehr_assets.nodes.plan import Plan, TaskPlan, plan_tasks
from ehr_assets.nodes.rules import EVALUABLE, NodesOf, answer
from ehr_assets.nodes.stream import Chunk, Ints, read_chunks
from ehr_assets.nodes.strips import Questions, Strips
from ehr_assets.nodes.task_spec import TaskSet
from ehr_assets.nodes.trigger_spec import NodesSpec
from ehr_assets.progress import Progress, no_progress

_WORKER_BYTES = 400 << 20
_ROWS_PER_WORKER = 1_000_000  # for fewer, starting another process takes longer than it saves
_BEYOND_FOLLOW_UP = 0.95


def label_nodes(
    tasks: TaskSet,
    nodes_spec: NodesSpec,
    nodes_dir: Path,
    meds_dir: Path,
    out_dir: Path,
    progress: Progress = no_progress,
    machine: Machine = ONE_WORKER,
) -> dict[str, Any]:
    """Writes all labels into `out_dir`.

    `labels/<task>.parquet` (LABEL_SCHEMA), `meds/<task>.parquet` (the MEDS label schema, evaluable nodes),
    `tasks.json` and `counts.parquet` (COUNT_SCHEMA). A null label carries the first of REASONS that holds.
    `duration_days` runs from t to the outcome, else to the competing event, the end of follow-up or the
    horizon, whichever is first. A time to event begins at t, though no outcome counts in the buffer.

    Returns:
        counts: nodes, same_definitions (groups of tasks that ask the same), and per task n; positive and
        negative, or measured; null (by reason); codes_matched; outcome_events (in whole records);
        never_occurs (no such event anywhere); horizon_beyond_follow_up (more than 95 % censored of those
        whom no rule leaves out).
    """
    tasks.require_triggers_of(nodes_spec)
    plan = plan_tasks(tasks, nodes_spec, event_codes(meds_dir))
    files = [path for split in SPLITS for path in split_files(meds_dir, split)]
    rows = sum(count_rows(meds_dir, split) for split in SPLITS)
    with tempfile.TemporaryDirectory(prefix="strips-", dir=out_dir) as folder:
        work = Path(folder)
        Questions.lay_out(nodes_spec, nodes_dir, meds_dir, work)
        jobs = [_File(plan, path, work, f"{i:05d}") for i, path in enumerate(files)]
        events = np.zeros(len(plan.tasks), np.int64)
        with machine.crew(_WORKER_BYTES, 1 + rows // _ROWS_PER_WORKER) as crew:
            for i, counted in enumerate(crew.map(_label_file, jobs)):
                events += counted
                progress("labelling", i + 1, len(jobs))
            _label_the_rest(plan, work, len(jobs))
            layouts = [_Task(t, i, nodes_dir, work, out_dir) for i, t in enumerate(plan.tasks)]
            counts = []
            for i, counted in enumerate(crew.map(_write_task, layouts)):
                counts.append(counted)
                progress("writing labels", i + 1, len(layouts))
        nodes = len(Questions.read(work).subject)
    _write_counts(counts, out_dir)
    _describe(tasks, out_dir)
    return {
        "nodes": nodes,
        "same_definitions": tasks.same_definitions(),
        "tasks": {
            c.task: c.stats(int(n), t.codes_matched)
            for c, n, t in zip(counts, events, plan.tasks, strict=True)
        },
    }


@dataclass(frozen=True)
class _File:
    """One MEDS file to be answered for. Its strips go to `work`, under `name`."""

    plan: Plan
    path: Path
    work: Path
    name: str


def _label_file(job: _File) -> Ints:
    """Writes the strips; returns, per task, how many events count as its outcome."""
    questions = Questions.read(job.work)
    counted = np.zeros(len(job.plan.tasks), np.int64)
    plan = job.plan
    with Strips(job.work, job.name) as strips:
        for chunk in read_chunks(job.path, plan.codes, plan.observed_until, plan.extra_columns):
            counted += _answer_all(plan, chunk, questions, strips)
    return counted


def _answer_all(plan: Plan, chunk: Chunk, questions: Questions, strips: Strips) -> Ints:
    ids = chunk.subject_ids
    first = np.searchsorted(questions.subject, ids[0])
    last = np.searchsorted(questions.subject, ids[-1], side="right")
    place = np.searchsorted(ids, questions.subject[first:last])
    nodes = first + np.flatnonzero(ids[place] == questions.subject[first:last])
    strips.nodes(nodes)
    counted = np.zeros(len(plan.tasks), np.int64)
    doubtful = np.isin(questions.subject[nodes], questions.in_doubt)

    def asked_at(triggers: tuple[int, ...] | None) -> NodesOf:
        mine = questions.asked(triggers, nodes)
        return NodesOf(place[nodes[mine] - first], questions.t[nodes[mine]], doubtful[mine])

    # Many tasks are asked at the same nodes.
    about = {triggers: asked_at(triggers) for triggers in {task.asked for task in plan.tasks}}
    for i, task in enumerate(plan.tasks):
        answers = answer(task, chunk, about[task.asked])
        strips.add(i, answers, task.target is not None)
        counted[i] = answers.events
    return counted


def _label_the_rest(plan: Plan, work: Path, files: int) -> None:
    """Nodes of subjects without any event: nothing is known of them."""
    questions = Questions.read(work)
    seen = np.zeros(len(questions.subject), bool)
    for nodes in Strips.all_nodes(work):
        seen[nodes] = True
    ids = np.unique(questions.subject[~seen])
    if len(ids):
        nothing = pa.nulls(len(ids))
        empty = pa.table(
            {
                "subject_id": pa.array(ids),
                "time": nothing.cast(pa.timestamp("us")),
                "available_time": nothing.cast(pa.timestamp("us")),
                "code": pa.array([""] * len(ids)).dictionary_encode(),
                "section": pa.array([""] * len(ids)).dictionary_encode(),
                "numeric_value": nothing.cast(pa.float32()),
            }
        )
        with Strips(work, f"{files:05d}") as strips:
            _answer_all(plan, Chunk(empty, plan.codes, ()), questions, strips)


@dataclass(frozen=True)
class _Task:
    """One task whose strips are to be laid out and written."""

    plan: TaskPlan
    number: int
    nodes_dir: Path
    work: Path
    out: Path


@dataclass(frozen=True)
class _Counted:
    """How many nodes and subjects of a task got which label."""

    task: str
    n: int
    nodes: dict[str, int]
    subjects: dict[str, int]

    def stats(self, outcome_events: int, codes_matched: int) -> dict[str, Any]:
        given = {k: v for k, v in self.nodes.items() if k not in REASONS}
        nulls = {k: self.nodes[k] for k in REASONS}
        asked = nulls["censored"] + sum(given.values())
        return {
            "n": self.n,
            **given,
            "null": nulls,
            "codes_matched": codes_matched,
            "outcome_events": outcome_events,
            "never_occurs": outcome_events == 0,
            "horizon_beyond_follow_up": nulls["censored"] > _BEYOND_FOLLOW_UP * asked,
        }


def _write_task(job: _Task) -> _Counted:
    questions = Questions.read(job.work)
    laid = Strips.of_task(job.work, job.plan, job.number)
    table = label_table(job.nodes_dir, job.work, laid)
    name = job.plan.spec.name
    write_parquet(table, labels_path(job.out, name), repeating=["reason"])
    write_parquet(meds_labels(table, laid), job.out / "meds" / f"{name}.parquet", repeating=[])
    reason = np.ascontiguousarray(laid.strip["reason"])
    kinds = {r: reason == 1 + i for i, r in enumerate(REASONS)}
    evaluable = reason == EVALUABLE
    if laid.numbers is None:
        value = laid.strip["value"]
        kinds = {"positive": evaluable & (value == 1), "negative": evaluable & (value == 0), **kinds}
    else:
        kinds = {"measured": evaluable, **kinds}
    subject = questions.subject[laid.asked]
    return _Counted(
        name,
        len(subject),
        {k: int(mask.sum()) for k, mask in kinds.items()},
        {k: _distinct(subject[mask]) for k, mask in kinds.items()},
    )


def _distinct(ordered: Ints) -> int:
    return int(np.count_nonzero(np.diff(ordered))) + (len(ordered) > 0)


def _write_counts(counts: list[_Counted], out_dir: Path) -> None:
    rows = [(c.task, label, nodes, c.subjects[label]) for c in counts for label, nodes in c.nodes.items()]
    table = pl.DataFrame(rows, COUNT_SCHEMA.names, orient="row").to_arrow().cast(COUNT_SCHEMA)
    write_parquet(table, out_dir / "counts.parquet")


def _describe(tasks: TaskSet, out_dir: Path) -> None:
    about = [
        {
            "name": task.name,
            "category": task.category,
            "description": task.description,
            "kind": task.kind,
            "horizon_days": task.longest_days,
            "closed_by_event": task.until is not None,
            "competing": task.competing.counts_as if task.competing else "negative",
            "buffer_hours": tasks.buffer_of(task),
            "end_of_life_days": tasks.end_of_life_of(task),
        }
        for task in tasks.tasks
    ]
    (out_dir / "tasks.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
