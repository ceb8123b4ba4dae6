"""Raw tables → MEDS frames: the walk over the tables, spread over processes, in bounded memory.

Follow one raw row with a finger: `readers.read_table` → `rows.TablePlan.make` → `staging.Stage.add` →
`shards.write_shard`. The tables are read here, one after the other; workers turn their batches into staged
events, then staged events into shards. The result does not depend on how many there are.
"""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from meds import data_subdirectory, subject_splits_filepath

from ehr_assets.cohorts.batches import RawBatch
from ehr_assets.cohorts.files import RawFile, RawRoot, find_files, require_files
from ehr_assets.cohorts.readers import read_table
from ehr_assets.cohorts.spec import CohortSpec, JoinSpec
from ehr_assets.contracts import SPLITS
from ehr_assets.errors import DatasetError
from ehr_assets.fanout import ONE_WORKER, Crew, Machine
from ehr_assets.handed import NOT_WRITTEN, Handed, hand
from ehr_assets.meds.accounts import Accounts
from ehr_assets.meds.dimensions import Dimension, build_dimension
from ehr_assets.meds.frames import (
    UNITS_FILE,
    code_parents,
    validate_meds,
    write_codes,
    write_dataset_json,
    write_parquet,
)
from ehr_assets.meds.reading import DEATHS_IN_DOUBT
from ehr_assets.meds.rows import Made, TablePlan
from ehr_assets.meds.shards import ShardCounts, write_shard
from ehr_assets.meds.splits import read_splits, write_split_table
from ehr_assets.meds.staging import Stage
from ehr_assets.meds.subjects import Subjects, sharded
from ehr_assets.progress import Progress, no_progress

WORKER_BYTES = 5 << 27  # what one worker takes at most: a batch in the making, or a group of subjects sorted
SMALL_BYTES = 32 << 20  # of text: less is done before a second process has started
PARTS = 64  # of staged events; each has one shard or several
GROUP_ROWS = 1 << 18  # events sorted at once: those of as many whole subjects as fit, of one at least


@dataclass(frozen=True)
class _Job:
    """What every worker knows. Written once; workers read it from the scratch folder: from `file`."""

    spec: CohortSpec
    shards: list[tuple[str, int]]
    scratch: Path
    out_dir: Path
    parts: int
    group_rows: int
    file: Handed = NOT_WRITTEN

    def part_of(self, shard: np.ndarray | int) -> Any:
        """Shards lie in parts in their order; in one each, if there are no more shards than parts."""
        return shard * self.parts // len(self.shards)


def extract_meds(
    spec: CohortSpec,
    raw_root: RawRoot | Path,
    splits: Path | pl.DataFrame,
    out_dir: Path,
    progress: Progress = no_progress,
    machine: Machine = ONE_WORKER,
) -> dict[str, Any]:
    """Writes the cohort's MEDS dataset, with quarantine and accounting, to `out_dir`.

    Args:
        spec: the cohort.
        raw_root: of its raw tables.
        splits: of all subjects in the roster (see `splits.read_splits`).
        out_dir: exists and is empty.
        machine: the processes and the memory to use; the result is the same.

    Returns:
        Counts: subjects, events, codes, read, accepted, quarantined, quarantined_fraction, reasons
        (reason → rows), deaths_in_doubt (subjects with a record that may have told their death, and
        made none), tables (table → read, accepted, accepted_without_event, quarantined, events),
        absent_tables (optional ones that were not there), dimensions (of each joined table: file, on, rows,
        ragged, duplicate_keys).

    Raises:
        RawTableError: a table cannot be read as a whole.
        DatasetError: the splits do not cover the roster, or a worker died.
    """
    root, assigned = RawRoot.of(raw_root), read_splits(splits)
    scratch = out_dir / ".staging"
    scratch.mkdir()
    try:
        shards, subjects = sharded(assigned, spec.shard_subjects, spec.subjects.ids == "text")
        subjects.save(scratch)
        files, absent = _found(spec, root)
        job = _Job(spec, shards, scratch, out_dir, min(len(shards), PARTS), GROUP_ROWS)
        job = replace(job, file=hand(job, scratch / "job.pickle"))
        (scratch / "accounts").mkdir()
        accounts = Accounts(scratch / "accounts", [t.name for t in spec.tables])
        text = sum(f.text_bytes for found in files.values() for f in found)
        with machine.crew(WORKER_BYTES, 1 if text < SMALL_BYTES else None) as crew:
            dimensions = _build_dimensions(job, files, root, crew, progress)
            staged = _read_all(job, files, crew, accounts, progress)
            _write_all(job, staged, crew, accounts, progress)
        parents = code_parents(root) if spec.source.kind == "meds" else {}
        return _finish(job, assigned, files, accounts, parents) | {
            "absent_tables": absent,
            "dimensions": dimensions,
        }
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        _plans.cache_clear()


def _found(spec: CohortSpec, root: RawRoot) -> tuple[dict[int, list[RawFile]], list[str]]:
    """The files of every table (by position), and the optional tables that are absent."""
    files, absent = {}, []
    for index, table in enumerate(spec.tables):
        found = find_files(root, table.file) if table.optional and root.exists() else None
        if found == []:
            absent.append(table.name)
        else:
            files[index] = found or require_files(root, table.file, key=f"table '{table.name}'")
    return files, absent


def _dimension_folder(scratch: Path, join: JoinSpec) -> Path:
    # Joins of several tables that read the same are one dimension, whatever they call its columns.
    return scratch / "dimensions" / join.as_stored().config_hash()[:32]


def _build_dimensions(
    job: _Job, files: dict[int, list[RawFile]], root: RawRoot, crew: Crew, progress: Progress
) -> list[dict[str, Any]]:
    """Writes the joined tables of all tables that are there."""
    wanted: dict[Path, tuple[JoinSpec, RawRoot, Path, str]] = {}
    for index in files:
        table = job.spec.tables[index]
        for join in table.joins:
            folder = _dimension_folder(job.scratch, join)
            wanted.setdefault(folder, (join.as_stored(), root, folder, f"a join of table '{table.name}'"))
    counts = []
    for done, (task, found) in enumerate(
        zip(wanted.values(), crew.map(_build, wanted.values()), strict=True), 1
    ):
        counts.append({"file": task[0].file, "on": list(task[0].on.values()), **found})
        progress("read joined tables", done, len(wanted))
    return counts


def _build(task: tuple[JoinSpec, RawRoot, Path, str]) -> dict[str, int]:
    join, root, folder, key = task
    shutil.rmtree(folder, ignore_errors=True)  # of a worker that was lost
    return build_dimension(join, root, folder, key=key)


def _read_all(
    job: _Job, files: dict[int, list[RawFile]], crew: Crew, accounts: Accounts, progress: Progress
) -> int:
    """Stages the events of all tables, and returns how many."""
    spec = job.spec
    roster = spec.tables.index(spec.roster)
    # What a second row of a subject is depends on all rows before it: the roster is read in one process.
    alone = [roster] if spec.subjects.one_row_each else []
    for index in files:
        accounts.opened(index)
    others = {i: found for i, found in files.items() if i not in alone}
    staged, numbers = 0, count()
    for workers, tables in ((Crew(1), {i: files[i] for i in alone}), (crew, others)):
        for index, made, rows in workers.map(_make, _batches(job, tables, numbers, progress)):
            accounts.add_batch(index, made)
            staged += rows
    return staged


def _batches(
    job: _Job, files: dict[int, list[RawFile]], numbers: Iterator[int], progress: Progress
) -> Iterator[tuple[Handed, int, int, RawBatch]]:
    for index, found in files.items():
        table = job.spec.tables[index]

        def watch(done: int, total: int, phase: str = f"read {table.name}") -> None:
            progress(phase, done, total)

        for batch in read_table(found, table.raw_columns(), table, watch):
            yield job.file, next(numbers), index, batch


def _make(task: tuple[Handed, int, int, RawBatch]) -> tuple[int, Made, int]:
    """One batch: its events are staged; how many they are, and the rest, is handed back."""
    file, number, index, batch = task
    job, plans = _plans(file)
    plan = plans.get(index) or plans.setdefault(index, _plan(job, index))
    made = plan.make(batch)
    parts = job.part_of(plan.subjects.shards[made.events["subject"].to_numpy()].astype(np.int64))
    if made.events.height:
        Stage(job.scratch / "staged").add(made.events, parts, number)
    return index, replace(made, events=made.events.clear()), made.events.height


@cache
def _plans(file: Handed) -> tuple[_Job, dict[int, TablePlan]]:
    """What a process needs for its batches: the job, and the plans of the tables met so far."""
    return file.take(), {}


def _plan(job: _Job, index: int) -> TablePlan:
    spec, table = job.spec, job.spec.tables[index]
    is_roster = table.name == spec.subjects.table
    return TablePlan(
        table,
        index,
        [Dimension(join, _dimension_folder(job.scratch, join)) for join in table.joins],
        Subjects.load(job.scratch, texts=spec.subjects.ids == "text"),
        spec.time_zone,
        one_row_each=is_roster and spec.subjects.one_row_each,
        covers=is_roster,
    )


def _write_all(job: _Job, staged: int, crew: Crew, accounts: Accounts, progress: Progress) -> None:
    """Writes the shards, of all `staged` events."""
    for split in SPLITS:
        (job.out_dir / data_subdirectory / split).mkdir(parents=True)
    tasks = [(job.file, part) for part in range(job.parts)]
    stage, read = Stage(job.scratch / "staged"), 0
    for done, counts in enumerate(crew.map(_write_part, tasks), 1):
        for counted in counts:
            accounts.add_shard(counted)
            read += counted.staged
        stage.drop(done - 1)  # not by the worker: if it is lost, the part is written again
        progress("write shards", done, len(tasks))
    if read != staged:
        raise DatasetError(
            f"{staged} events were staged, but {read} were found again.",
            where=str(job.scratch),
            do="If several machines work on it, see that all of them see the same files at once (NFS: "
            "actimeo=1); then run it again.",
        )


def _write_part(task: tuple[Handed, int]) -> list[ShardCounts]:
    """The shards of one part of the staged events."""
    file, part = task
    job, _ = _plans(file)
    scratch = job.scratch
    subjects = Subjects.load(scratch, texts=False)
    stage, dealt, counts = Stage(scratch / "staged"), job.parts < len(job.shards), []
    with tempfile.TemporaryDirectory(prefix=f"part-{part}-", dir=scratch) as folder:
        if dealt:
            stage = stage.deal(part, Path(folder) / "dealt", subjects.shards)
        for shard in (s for s in range(len(job.shards)) if job.part_of(s) == part):
            split, number = job.shards[shard]
            path = job.out_dir / data_subdirectory / split / f"{number:05d}.parquet"
            groups = Path(folder) / f"shard-{shard}"
            counts += write_shard(stage, shard, subjects.ids, path, groups, job.group_rows)
            if dealt:
                stage.drop(shard)
    return counts


def _finish(
    job: _Job,
    splits: pl.DataFrame,
    files: dict[int, list[RawFile]],
    accounts: Accounts,
    parents: dict[str, list[str]],
) -> dict[str, Any]:
    """Writes what stands beside the shards, and the stats."""
    out_dir, spec = job.out_dir, job.spec
    (out_dir / subject_splits_filepath).parent.mkdir(exist_ok=True)
    write_split_table(splits, out_dir / subject_splits_filepath)
    units = accounts.units
    # The text that models read shows units: what is fitted is fitted on train.
    n_codes = write_codes(
        accounts.codes, accounts.described, units.filter(pl.col("split") == SPLITS[0]), out_dir, parents
    )
    (out_dir / UNITS_FILE).parent.mkdir()
    write_parquet(units.to_arrow(compat_level=pl.CompatLevel.oldest()), out_dir / UNITS_FILE)
    write_dataset_json(spec.name, metadata.version("ehr-assets"), out_dir)
    accounts.write_quarantine({i: [f.path for f in found] for i, found in files.items()}, out_dir)
    doubtful = pa.table({"subject_id": pa.array(sorted(accounts.deaths_in_doubt), pa.int64())})
    write_parquet(doubtful, out_dir / DEATHS_IN_DOUBT)
    tables = accounts.write_accounting(out_dir)
    validate_meds(out_dir)
    total = {name: sum(row[name] for row in tables.values()) for name in ("read", "accepted", "quarantined")}
    return {
        "subjects": splits.height,
        "events": sum(row["events"] for row in tables.values()),
        "codes": n_codes,
        **total,
        "quarantined_fraction": total["quarantined"] / total["read"] if total["read"] else 0.0,
        "reasons": dict(sorted(accounts.reasons.items())),
        "deaths_in_doubt": len(accounts.deaths_in_doubt),
        "tables": tables,
    }
