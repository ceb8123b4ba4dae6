"""Raw tables to MEDS frames, against the least that any extraction must do."""

import itertools
from pathlib import Path

import polars as pl
from rich.console import Console

from tests.benchmarks.measure import Row, interleaved, show
from tests.benchmarks.world import World

SIZES = (300, 600, 1200, 2400)
COLUMNS = {  # table: (time, code, value)
    "condition_occurrence": ("condition_start_date", "condition_concept_id", None),
    "drug_exposure": ("drug_exposure_start_datetime", "drug_concept_id", "quantity"),
    "measurement": ("measurement_datetime", "measurement_concept_id", "value_as_number"),
    "observation": ("observation_datetime", "observation_concept_id", "value_as_string"),
    "procedure_occurrence": ("procedure_date", "procedure_concept_id", None),
    "note": ("note_datetime", "note_type_concept_id", "note_text"),
}


def least(tables: Path, out: Path) -> None:
    """Reads the event tables, parses times, sorts by subject and time, writes Parquet.

    No check, no quarantine, no availability, no split, no join, everything in memory.
    """
    frames = []
    for table, (time, code, value) in COLUMNS.items():
        read = pl.read_csv(tables / f"{table}.csv", infer_schema=False, truncate_ragged_lines=True)
        frames.append(
            read.select(
                subject_id=pl.col("person_id").cast(pl.Int64, strict=False),
                time=pl.col(time).str.to_datetime(strict=False),
                code=pl.format(f"{table}//{{}}", code),
                value=pl.col(value) if value else pl.lit(None, pl.String),
            )
        )
    pl.concat(frames).sort("subject_id", "time", maintain_order=True).write_parquet(out)


def main(console: Console, folder: Path) -> None:
    rows = []
    for subjects in SIZES:
        world = World(folder / str(subjects), subjects)
        names = (f"again{i}" for i in itertools.count())
        target = folder / str(subjects) / "least.parquet"
        assert world.splits.exists()
        ours, reference = interleaved(
            lambda world=world, names=names: world.extract(next(names)),
            lambda world=world, target=target: least(world.raw, target),
            repeats=5,
        )
        rows.append(Row(f"{subjects} subjects", world.events, ours, reference))
    show(
        console,
        "Extraction: OMOP tables to sharded MEDS with availability, quarantine and accounting",
        "polars alone: read, parse times, sort, write; nothing checked, all in memory",
        "events",
        rows,
    )
