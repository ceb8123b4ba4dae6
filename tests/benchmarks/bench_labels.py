"""Labels of all oncology and embolism tasks on up to 10 M events, against es-aces for one task.

The embedded cohort's events and nodes, copied under new subject ids. Each size is a process of its own, with
the workers that it starts; memory is that of all of them together. es-aces is given the record as one file,
with an event at every node, and asked for `mortality_365d` twice: one query, which finds its positives; and
the three queries that a label needs (who had it, who was followed to the end, who died). Both must be ours.
"""

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

import ehr_assets
from ehr_assets.cohorts.spec import load_cohort
from ehr_assets.fanout import Machine
from ehr_assets.nodes.frames import read_labels
from ehr_assets.nodes.labels import label_nodes
from ehr_assets.nodes.task_spec import TaskSet, load_task_set, task_set_path
from tests.benchmarks.measure import Row, Whole, growth, whole_process

if TYPE_CHECKING:  # the processes that are timed (and their workers, which import this too) need neither
    from tests.benchmarks.world import World
    from tests.unit.aces_support import Answers, Question


SPEC = Path(ehr_assets.__file__).parent / "cohorts" / "specs" / "synthetic_oncology.yaml"
SUBJECTS = 600
EVENTS = {"1×": 625_000, "4×": 2_500_000, "16×": 10_000_000}
ROWS_PER_FILE = 500_000
ONE = "mortality_365d"
ANSWER = ["subject_id", "prediction_time", "boolean_value"]


def all_tasks() -> TaskSet:
    """Both task files as one; tasks of triggers that the cohort lacks are asked at every node."""
    oncology, pe = (load_task_set(task_set_path(name)) for name in ("oncology", "pe"))
    own = [t.model_dump(exclude_unset=True) for t in oncology.tasks]
    others = [
        {**t.model_dump(exclude_unset=True), "name": f"pe_{t.name}", "triggers": None} for t in pe.tasks
    ]
    return TaskSet.model_validate({**oncology.model_dump(exclude_unset=True), "tasks": [*own, *others]})


def replicate(world: "World", events: int, out: Path) -> int:
    """Copies of the world's events (at least so many) and nodes; returns the number of events."""
    copies = -(-events // world.events)
    step = 10 * world.subjects + int(
        pl.scan_parquet(world.meds / "data/*/*.parquet").select(pl.col("subject_id").max()).collect().item()
    )
    written = 0
    for split in ("train", "tuning", "held_out"):
        source = pl.read_parquet(world.meds / "data" / split / "*.parquet")
        (out / "meds/data" / split).mkdir(parents=True)
        at_once = max(1, ROWS_PER_FILE // max(source.height, 1))
        for first in range(0, copies, at_once):
            parts = [_moved(source, step * copy) for copy in range(first, min(first + at_once, copies))]
            table = pl.concat(parts).to_arrow()
            pq.write_table(table, out / "meds/data" / split / f"{first:05d}.parquet", compression="zstd")
            written += table.num_rows
    (out / "meds/metadata").symlink_to(world.meds / "metadata")
    nodes = pl.read_parquet(world.nodes / "nodes.parquet")
    (out / "nodes").mkdir()
    moved = [
        _moved(nodes, step * copy).with_columns(
            node_id=pl.lit(f"{copy:04x}") + pl.col("node_id").str.slice(4)
        )
        for copy in range(copies)
    ]
    pq.write_table(pl.concat(moved).to_arrow(), out / "nodes/nodes.parquet", compression="zstd")
    return written


def _moved(frame: pl.DataFrame, by: int) -> pl.DataFrame:
    return frame.with_columns(pl.col("subject_id") + by)


def ours(root: Path) -> None:
    spec = load_cohort(SPEC).decision_nodes
    assert spec
    (root / "labels").mkdir()
    label_nodes(all_tasks(), spec, root / "nodes", root / "meds", root / "labels", machine=Machine.from_env())


def question(root: Path) -> "Question":
    from tests.unit.aces_support import Question, codes_of

    tasks = all_tasks()
    (task,) = (t for t in tasks.tasks if t.name == ONE)
    return Question(task, tasks, codes_of(root / "meds"))


def one_query(root: Path) -> None:
    answers = question(root).ask(root / "flat.parquet")
    _write_answers({node: True for node, happened in answers.items() if happened}, root / "positives.parquet")


def one_task(root: Path) -> None:
    _write_answers(question(root).answer(root / "flat.parquet"), root / "answers.parquet")


def _write_answers(answers: "Answers", path: Path) -> None:
    rows = sorted((*node, happened) for node, happened in answers.items())
    pl.DataFrame(rows, schema=ANSWER, orient="row").write_parquet(path)


def run(way: str, root: Path) -> Whole:
    return whole_process([sys.executable, "-m", "tests.benchmarks.bench_labels", way, str(root)], os.environ)


def agree(root: Path) -> int:
    """How many labels both gave; AssertionError if they are not the same."""
    mine = read_labels(root / "labels", ONE).select(ANSWER).drop_nulls().sort(ANSWER)
    assert mine.filter("boolean_value").rows() == pl.read_parquet(root / "positives.parquet").rows()
    assert mine.rows() == pl.read_parquet(root / "answers.parquet").rows()
    return mine.height


def main(console: Console, folder: Path) -> None:
    from tests.benchmarks.world import World
    from tests.unit.aces_support import write_flat

    world = World(folder / "world", SUBJECTS)
    tasks = len(all_tasks().tasks)
    machine, known = Machine.from_env(), importlib.util.find_spec("aces") is not None
    title = f"Labels of {tasks} tasks at once, {machine.workers} workers; es-aces: one of them, {ONE}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    theirs = ("one query", "peak", "/ ours", "its three", "peak", "/ ours")
    for column in ("size", "events", "nodes", "ours", "peak", *theirs):
        table.add_column(column, justify="right")
    rows, found = [], 0
    for size, events in EVENTS.items():
        root = folder / size
        written = replicate(world, events, root)
        nodes = pq.ParquetFile(root / "nodes/nodes.parquet").metadata.num_rows
        mine = run("ours", root)
        cells = ["not installed", *[""] * 5]
        if known:
            spec = world.cohort.decision_nodes
            assert spec
            write_flat(question(root), spec, root / "nodes", root / "meds", root / "flat.parquet", whole=True)
            cells = [
                cell
                for way in ("one_query", "one_task")
                for whole in [run(way, root)]
                for cell in (f"{whole.seconds:.1f} s", _mb(whole.peak), f"{whole.seconds / mine.seconds:.2f}")
            ]
            found = agree(root)
        rows.append(Row(size, written, mine.seconds, mine.seconds))
        table.add_row(size, f"{written:,}", f"{nodes:,}", f"{mine.seconds:.1f} s", _mb(mine.peak), *cells)
    console.print(table)
    console.print(
        f"growth with events: n^{growth(rows, lambda r: r.ours):.2f}; from {rows[-2].size} to "
        f"{rows[-1].size}: n^{growth(rows[-2:], lambda r: r.ours):.2f}; both gave the same {found:,} "
        f"labels of {ONE} at {rows[-1].size}\n",
        style="dim",
    )


def _mb(size: int) -> str:
    return f"{size >> 20:,} MB"


if __name__ == "__main__":
    {"ours": ours, "one_query": one_query, "one_task": one_task}[sys.argv[1]](Path(sys.argv[2]))
