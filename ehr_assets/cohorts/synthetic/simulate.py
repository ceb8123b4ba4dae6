"""Running a simulator: subjects in batches over processes, written in order.

What belongs here: batches, random streams and counts. What a subject lives through is the simulator's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ehr_assets.cohorts.synthetic.registry import simulator
from ehr_assets.cohorts.synthetic.tables import Chart, concept_ids
from ehr_assets.cohorts.synthetic.writer import Batch, CohortWriter
from ehr_assets.fanout import Crew
from ehr_assets.progress import Progress, no_progress

BATCH = 20
"""Subjects that a process makes at a time; no more of them are ever in its memory."""
WORKER_BYTES = 200 << 20
"""What a worker needs at most, its share of the batches that wait to be written included."""
_BATCHES_WORTH_A_WORKER = 4


@dataclass(frozen=True)
class _Range:
    name: str
    seed: int
    start: int
    stop: int


def simulate(
    name: str,
    tables_dir: Path,
    truth_dir: Path,
    *,
    subjects: int,
    seed: int,
    workers: int = 1,
    progress: Progress = no_progress,
) -> dict[str, int]:
    """Writes OMOP-shaped CSV tables to `tables_dir` and `latent_states.parquet` to `truth_dir`.

    Both directories exist and are empty. Equal arguments give equal bytes, whatever the number of workers; a
    larger cohort of the same seed begins with the same subjects and rows. Memory does not grow with
    `subjects`.

    Returns:
        Counts: `subjects`, `deaths`, `latent_rows`, `rows_<table>` per table and `defects_<kind>` per kind.

    Raises:
        SpecError: there is no simulator of this name.
    """
    disease = simulator(name)
    workers = max(1, min(workers, subjects // (_BATCHES_WORTH_A_WORKER * BATCH)))
    with (
        CohortWriter(
            tables_dir,
            truth_dir,
            tables=disease.tables,
            concepts=disease.concepts(),
            truth_columns=disease.truth_columns,
        ) as writer,
        Crew(workers) as crew,
    ):
        for batch in crew.map(_live, _ranges(name, seed, subjects)):
            writer.add(batch)
            progress("simulating subjects", writer.subjects, subjects)
    return {
        "subjects": writer.subjects,
        "deaths": writer.counts["death"],
        "latent_rows": writer.latent_rows,
        **{f"rows_{table}": n for table, n in writer.counts.items()},
        **{f"defects_{kind}": n for kind, n in writer.defects.items()},
    }


def _ranges(name: str, seed: int, subjects: int) -> Iterator[_Range]:
    for start in range(0, subjects, BATCH):
        yield _Range(name, seed, start, min(start + BATCH, subjects))


@cache
def _concept_ids(name: str) -> dict[str, int]:
    return concept_ids(simulator(name).concepts())


def _live(task: _Range) -> Batch:
    disease, batch = simulator(task.name), Batch()
    for index in range(task.start, task.stop):
        rng = np.random.default_rng([task.seed, index, disease.stream])
        chart = Chart(disease.first_person + index, _concept_ids(task.name))
        life = disease.life(chart, task.seed, index, rng)
        life.live()
        # A stream of its own: the defects of a subject do not change what happens to it.
        defects = np.random.default_rng([task.seed, index, disease.stream + 1])
        batch.add(chart, life.truth, defects)
    return batch
