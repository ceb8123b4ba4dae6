"""From charts to CSV tables on disk, and the defects that real extracts have.

What belongs here: spoiling rows, CSV text, row numbers, and the latent states beside the tables. Subjects
come in batches, made anywhere in any number of processes; what is written depends on the subjects alone.

Defects: each row of a spoilable table is spoiled with a probability, by a generator of the subject's own, so
that they depend on nothing else. The roster (person), deaths and observation periods stay whole: an extract
that lost those would not be loaded at all.
"""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_assets.cohorts.synthetic.tables import HEADERS, Chart, Concept, concept_ids

DEFECT_RATE = 0.002
DEFECT_KINDS = ("unparsable_time", "orphan_person", "non_numeric")
_TIME_COLUMN = {
    "visit_occurrence": "visit_start_datetime",
    "condition_occurrence": "condition_start_date",
    "drug_exposure": "drug_exposure_start_datetime",
    "measurement": "measurement_datetime",
    "observation": "observation_datetime",
    "procedure_occurrence": "procedure_date",
    "note": "note_datetime",
    "device_exposure": "device_exposure_start_datetime",
}
_NUMBER_COLUMN = {"measurement": "value_as_number", "observation": "value_as_number"}
_BAD_TIMES = ("0000-00-00", "2016-02-30 10:00:00", "unknown")
_BAD_NUMBERS = ("hemolyzed", "see comment", "1.2.3")
_ORPHAN_OFFSET = 900_000_000
# Their first column is a running number over the whole table, known only when the rows are written.
NUMBERED = frozenset(HEADERS) - {"person", "visit_occurrence", "death", "concept"}
LATENT_STATES = "latent_states.parquet"
_ROWS_PER_GROUP = 20_000


@dataclass
class Batch:
    """Some consecutive subjects: CSV lines by table (numbered ones without their number), and latent states.

    `truth`: per subject its id, times (datetime64[us], n) and states (float64, n x number of truth columns).
    """

    lines: dict[str, list[str]] = field(default_factory=dict)
    truth: list[tuple[int, np.ndarray, np.ndarray]] = field(default_factory=list)
    defects: Counter[str] = field(default_factory=Counter)
    subjects: int = 0

    def add(
        self, chart: Chart, truth: Sequence[tuple[datetime, *tuple[float, ...]]], rng: np.random.Generator
    ) -> None:
        """Adds a subject; `rng` is for its defects only."""
        for table, rows in chart.rows.items():
            if not rows:
                continue
            if table in _TIME_COLUMN:
                for row, spoil in zip(rows, rng.random(len(rows)) < DEFECT_RATE, strict=True):
                    if spoil:
                        self._spoil(table, row, rng)
            _write(rows, self.lines.setdefault(table, []))
        times = np.array([row[0] for row in truth], dtype="datetime64[us]")
        self.truth.append((chart.person_id, times, np.array([row[1:] for row in truth], dtype=float)))
        self.subjects += 1

    def _spoil(self, table: str, row: list[Any], rng: np.random.Generator) -> None:
        header = HEADERS[table]
        kinds = DEFECT_KINDS if table in _NUMBER_COLUMN else DEFECT_KINDS[:2]
        kind = kinds[rng.integers(len(kinds))]
        if kind == "orphan_person":
            row[header.index("person_id")] += _ORPHAN_OFFSET
        elif kind == "unparsable_time":
            row[header.index(_TIME_COLUMN[table])] = _BAD_TIMES[rng.integers(len(_BAD_TIMES))]
        else:
            row[header.index(_NUMBER_COLUMN[table])] = _BAD_NUMBERS[rng.integers(len(_BAD_NUMBERS))]
        self.defects[kind] += 1


class CohortWriter:
    """Streams batches into `<tables_dir>/<table>.csv` and the latent states; use as a context manager."""

    def __init__(
        self,
        tables_dir: Path,
        truth_dir: Path,
        *,
        tables: Sequence[str],
        concepts: Sequence[Concept],
        truth_columns: Sequence[str],
    ) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(tables, 0))
        self.defects: Counter[str] = Counter(dict.fromkeys(DEFECT_KINDS, 0))
        self.subjects = self.latent_rows = 0
        self._stack = ExitStack()
        self._files: dict[str, io.TextIOWrapper] = {}
        for table in tables:
            # Opened by hand so that bytes do not depend on the platform's newline or encoding.
            raw = self._stack.enter_context((tables_dir / f"{table}.csv").open("wb"))
            text = self._stack.enter_context(io.TextIOWrapper(raw, encoding="utf-8", newline=""))
            text.write(",".join(HEADERS[table]) + "\n")
            self._files[table] = text
        ids = concept_ids(concepts)
        rows = [[ids[c.key], c.name, c.domain, c.vocabulary, c.kind, c.code] for c in concepts]
        self._append("concept", _write(rows, []))
        self._schema = pa.schema(
            [("subject_id", pa.int64()), ("time", pa.timestamp("us"))]
            + [(name, pa.float64()) for name in truth_columns]
        )
        path = truth_dir / LATENT_STATES
        self._latent = self._stack.enter_context(pq.ParquetWriter(path, self._schema, compression="zstd"))
        self._waiting: list[tuple[int, np.ndarray, np.ndarray]] = []

    def __enter__(self) -> "CohortWriter":
        return self

    def __exit__(self, failure: object, *exc: object) -> None:
        if failure is None:
            self._flush()
        self._stack.close()

    def add(self, batch: Batch) -> None:
        for table, lines in batch.lines.items():
            self._append(table, lines)
        self.defects.update(batch.defects)
        self.subjects += batch.subjects
        for states in batch.truth:
            self._waiting.append(states)
            self.latent_rows += len(states[1])
            # By subject, not by batch: row groups, and so the bytes, are the same for any batch size.
            if sum(len(times) for _, times, _ in self._waiting) >= _ROWS_PER_GROUP:
                self._flush()

    def _append(self, table: str, lines: list[str]) -> None:
        if table in NUMBERED:
            first = self.counts[table] + 1
            lines = [f"{number}{line}" for number, line in enumerate(lines, first)]
        self._files[table].writelines(lines)
        self.counts[table] += len(lines)

    def _flush(self) -> None:
        if not self._waiting:
            return
        subject = np.concatenate([np.full(len(times), who) for who, times, _ in self._waiting])
        times = np.concatenate([times for _, times, _ in self._waiting])
        states = np.concatenate([states for _, _, states in self._waiting])
        columns = [pa.array(subject), pa.array(times), *(pa.array(column) for column in states.T)]
        self._latent.write_table(pa.table(columns, schema=self._schema))
        self._waiting = []


class _Lines(list[str]):
    """The file-like object that makes csv.writer give one string per row."""

    write = list.append


def _write(rows: Sequence[Sequence[Any]], lines: list[str]) -> list[str]:
    """Adds the rows as CSV lines; a row number that is not known yet (None) comes out empty."""
    written = _Lines()
    csv.writer(written, lineterminator="\n").writerows(rows)
    lines += written
    return lines
