"""Raw tables → MEDS frames: the walk over the tables, the accounts, the quarantine.

Follow one raw row with a finger: `readers.read_table` → `rows.TablePlan.make` → `shards.write_shard`.
"""

import shutil
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from meds import data_subdirectory, subject_splits_filepath, train_split

from ehr_assets.cohorts.readers import find_table, read_table, require_table
from ehr_assets.cohorts.spec import CohortSpec, TableSpec
from ehr_assets.contracts import SPLITS
from ehr_assets.meds.frames import validate_meds, write_codes, write_dataset_json, write_parquet
from ehr_assets.meds.reading import DEATHS_IN_DOUBT
from ehr_assets.meds.rows import QUARANTINE, Dimension, Subjects, TablePlan, load_dimension
from ehr_assets.meds.shards import Staging, write_shard
from ehr_assets.meds.splits import read_splits, write_split_table
from ehr_assets.progress import Progress, no_progress

QUARANTINE_FILE = Path("quarantine") / "quarantine.parquet"
ACCOUNTING_FILE = Path("accounting.parquet")
_QUARANTINE_ARROW = pa.schema(
    [("table", pa.string()), ("row", pa.int64()), ("column", pa.string()), ("reason", pa.string())]
)
_COUNTS = ("read", "accepted", "accepted_without_event", "quarantined", "events")
_ACCOUNTING_ARROW = pa.schema([("table", pa.string()), *((name, pa.int64()) for name in _COUNTS)])


@dataclass
class _Account:
    """The counts of one table while it is read; `read` is counted apart from what becomes of the rows."""

    read: int = 0
    accepted: int = 0
    with_events: int = 0


@dataclass
class _Harvest:
    """What accumulates over all tables."""

    accounts: dict[str, _Account] = field(default_factory=dict)
    quarantined: list[pl.DataFrame] = field(default_factory=lambda: [pl.DataFrame(schema=QUARANTINE)])
    described: dict[str, str] = field(default_factory=dict)
    units: list[pl.DataFrame] = field(default_factory=list)
    deaths_in_doubt: set[int] = field(default_factory=set)
    absent: list[str] = field(default_factory=list)
    dimensions: dict[str, dict[str, int]] = field(default_factory=dict)


def extract_meds(
    spec: CohortSpec,
    raw_root: Path,
    splits: Path | pl.DataFrame,
    out_dir: Path,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Writes the cohort's MEDS dataset, with quarantine and accounting, to `out_dir`.

    Args:
        spec: the cohort.
        raw_root: directory of its raw tables.
        splits: of all subjects in the roster (see `splits.read_splits`).
        out_dir: exists and is empty.

    Returns:
        Counts: subjects, events, codes, read, accepted, quarantined, quarantined_fraction, reasons
        (reason → rows), deaths_in_doubt (subjects with a quarantined record that may have told their
        death), tables (table → read, accepted, accepted_without_event, quarantined, events),
        absent_tables (optional ones that were not there), dimensions (joined file → rows, ragged,
        duplicate_keys).

    Raises:
        RawTableError: a table cannot be read as a whole.
        DatasetError: the splits do not cover the roster.
    """
    assigned = read_splits(splits)
    shards, subjects = _shards(assigned, spec.shard_subjects)
    staging = Staging(out_dir / ".staging")
    try:
        harvest = _Harvest()
        for index, table in enumerate(spec.tables):
            _read(spec, table, index, raw_root, subjects, staging, harvest, progress)
        staging.close()
        return _finish(spec, assigned, shards, staging, harvest, out_dir, progress)
    finally:
        staging.close()
        shutil.rmtree(staging.folder, ignore_errors=True)


def _shards(splits: pl.DataFrame, size: int) -> tuple[list[tuple[str, int]], Subjects]:
    """(split, number in the split) of every shard, and the shard of every subject. No split is without shard:
    an empty one keeps readers of an empty split (or cohort) from stumbling over missing files."""
    shards: list[tuple[str, int]] = []
    of = np.zeros(splits.height, np.int32)
    names = splits["split"].to_numpy()
    for split in SPLITS:
        members = np.flatnonzero(names == split)
        of[members] = len(shards) + np.arange(members.size) // size
        shards += [(split, number) for number in range(max(1, -(-members.size // size)))]
    return shards, Subjects(splits["subject_id"].to_numpy(), of, names == train_split)


def _read(
    spec: CohortSpec,
    table: TableSpec,
    index: int,
    root: Path,
    subjects: Subjects,
    staging: Staging,
    harvest: _Harvest,
    progress: Progress,
) -> None:
    """Stages the events of one table, batch by batch."""
    path = find_table(root, table.file)
    if path is None and table.optional and root.is_dir():
        harvest.absent.append(table.name)
        return
    path = path or require_table(root, table.file, key=f"table '{table.name}'")
    dimensions = [_dimension(table, join, root, harvest) for join in table.joins]
    plan = TablePlan(table, index, dimensions, subjects, is_roster=table.name == spec.subjects.table)
    account = harvest.accounts[table.name] = _Account()
    units = []

    def watch(done: int, total: int) -> None:
        progress(f"read {table.name}", done, total)

    for batch in read_table(path, plan.columns, encoding=table.encoding, on_bytes=watch):
        made = plan.make(batch)
        account.read += batch.frame.height + len(batch.ragged)
        account.accepted += made.accepted
        account.with_events += made.with_events
        harvest.quarantined.append(made.quarantined)
        for code, description in made.described.iter_rows():
            harvest.described.setdefault(code, description)
        units.append(made.units)
        harvest.deaths_in_doubt |= made.deaths_in_doubt
        staging.add(made.events)
    harvest.units.append(pl.concat(units).group_by("code", "unit").agg(pl.col("len").sum()))


def _dimension(table: TableSpec, join, root: Path, harvest: _Harvest) -> Dimension:
    dimension = load_dimension(join, root, table)
    harvest.dimensions[join.file] = {
        "rows": dimension.rows,
        "ragged": dimension.ragged,
        "duplicate_keys": dimension.duplicate_keys,
    }
    return dimension


def _finish(
    spec: CohortSpec,
    splits: pl.DataFrame,
    shards: list[tuple[str, int]],
    staging: Staging,
    harvest: _Harvest,
    out_dir: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Writes all files of the dataset from what was staged, and the stats."""
    names = [t.name for t in spec.tables]
    codes: set[str] = set()
    events = []
    for done, (split, number) in enumerate(shards):
        progress("write shards", done, len(shards))
        path = out_dir / data_subdirectory / split / f"{number:05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        counts = write_shard(staging.read(done), path, names)
        codes |= counts.codes
        events.append(counts.events)
        harvest.quarantined.append(counts.before_birth)
        harvest.deaths_in_doubt |= counts.deaths_in_doubt
        for table, rows in counts.before_birth["table"].value_counts().iter_rows():
            harvest.accounts[table].accepted -= rows
            harvest.accounts[table].with_events -= rows  # they all made an event: the one before birth
    progress("write shards", len(shards), len(shards))

    (out_dir / subject_splits_filepath).parent.mkdir(exist_ok=True)
    write_split_table(splits, out_dir / subject_splits_filepath)
    n_codes = write_codes(codes, harvest.described, pl.concat(harvest.units), out_dir)
    write_dataset_json(spec.name, metadata.version("ehr-assets"), out_dir)
    quarantined = _write_quarantine(harvest.quarantined, names, out_dir)
    doubtful = pa.table({"subject_id": pa.array(sorted(harvest.deaths_in_doubt), pa.int64())})
    write_parquet(doubtful, out_dir / DEATHS_IN_DOUBT)
    per_table = dict(pl.concat(events).group_by("table").agg(pl.col("events").sum()).iter_rows())
    tables = _write_accounting(harvest.accounts, quarantined, per_table, out_dir)
    validate_meds(out_dir)

    total = {name: sum(row[name] for row in tables.values()) for name in ("read", "accepted", "quarantined")}
    reasons = sorted(quarantined["reason"].value_counts().iter_rows())
    return {
        "subjects": splits.height,
        "events": sum(row["events"] for row in tables.values()),
        "codes": n_codes,
        **total,
        "quarantined_fraction": total["quarantined"] / total["read"] if total["read"] else 0.0,
        "reasons": dict(reasons),
        "deaths_in_doubt": len(harvest.deaths_in_doubt),
        "tables": tables,
        "absent_tables": harvest.absent,
        "dimensions": harvest.dimensions,
    }


def _write_quarantine(parts: list[pl.DataFrame], tables: list[str], out_dir: Path) -> pl.DataFrame:
    order = pl.col("table").replace_strict({name: i for i, name in enumerate(tables)}, return_dtype=pl.Int64)
    frame = pl.concat(parts).sort(order, "row")
    path = out_dir / QUARANTINE_FILE
    path.parent.mkdir()
    write_parquet(frame.to_arrow().cast(_QUARANTINE_ARROW), path)
    return frame


def _write_accounting(
    accounts: dict[str, _Account], quarantined: pl.DataFrame, events: dict[str, int], out_dir: Path
) -> dict[str, dict[str, int]]:
    lost = dict(quarantined["table"].value_counts().iter_rows())
    rows = {
        name: {
            "read": account.read,
            "accepted": account.accepted,
            "accepted_without_event": account.accepted - account.with_events,
            "quarantined": lost.get(name, 0),
            "events": events.get(name, 0),
        }
        for name, account in accounts.items()
    }
    records = [{"table": name, **row} for name, row in rows.items()]
    write_parquet(pa.Table.from_pylist(records, schema=_ACCOUNTING_ARROW), out_dir / ACCOUNTING_FILE)
    return rows
