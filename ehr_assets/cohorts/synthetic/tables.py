"""Writing OMOP CDM 5.4-shaped CSV tables, one subject at a time, with the defects real extracts have.

What belongs here: the columns of the tables, one subject's chart, the streaming writer and the defects.
Column names are OMOP's own; the subset is what an extract for research usually has. One extension column,
`filed_datetime` on measurement, observation and note, tells when the record was filed, i.e. could be known.
Concept ids of clinical concepts are in the range above 2,000,000,000 that OMOP leaves to a site.
"""

import csv
import io
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np

HEADERS: dict[str, tuple[str, ...]] = {
    "person": (
        "person_id", "gender_concept_id", "year_of_birth", "month_of_birth", "day_of_birth", "birth_datetime",
        "race_concept_id", "ethnicity_concept_id", "person_source_value", "gender_source_value",
        "race_source_value",
    ),
    "observation_period": (
        "observation_period_id", "person_id", "observation_period_start_date", "observation_period_end_date",
        "period_type_concept_id",
    ),
    "visit_occurrence": (
        "visit_occurrence_id", "person_id", "visit_concept_id", "visit_start_date", "visit_start_datetime",
        "visit_end_date", "visit_end_datetime", "visit_type_concept_id", "visit_source_value",
    ),
    "condition_occurrence": (
        "condition_occurrence_id", "person_id", "condition_concept_id", "condition_start_date",
        "condition_type_concept_id", "visit_occurrence_id", "condition_source_value",
        "condition_source_concept_id",
    ),
    "drug_exposure": (
        "drug_exposure_id", "person_id", "drug_concept_id", "drug_exposure_start_date",
        "drug_exposure_start_datetime", "drug_exposure_end_date", "drug_type_concept_id", "quantity",
        "route_source_value", "dose_unit_source_value", "visit_occurrence_id", "drug_source_value",
    ),
    "measurement": (
        "measurement_id", "person_id", "measurement_concept_id", "measurement_date", "measurement_datetime",
        "measurement_type_concept_id", "value_as_number", "unit_source_value", "visit_occurrence_id",
        "measurement_source_value", "value_source_value", "filed_datetime",
    ),
    "observation": (
        "observation_id", "person_id", "observation_concept_id", "observation_date", "observation_datetime",
        "observation_type_concept_id", "value_as_number", "value_as_string", "visit_occurrence_id",
        "observation_source_value", "filed_datetime",
    ),
    "procedure_occurrence": (
        "procedure_occurrence_id", "person_id", "procedure_concept_id", "procedure_date",
        "procedure_type_concept_id", "visit_occurrence_id", "procedure_source_value",
    ),
    "note": (
        "note_id", "person_id", "note_date", "note_datetime", "note_type_concept_id",
        "note_class_concept_id", "note_title", "note_text", "visit_occurrence_id", "filed_datetime",
    ),
    "death": ("person_id", "death_date", "death_type_concept_id"),
    "concept": (
        "concept_id", "concept_name", "domain_id", "vocabulary_id", "concept_class_id", "concept_code",
    ),
}  # fmt: skip

EHR_TYPE = 32817  # OMOP type concept "EHR"
FIRST_LOCAL_CONCEPT = 2_000_000_001
FIRST_PERSON = 10_001
VISITS_PER_PERSON = 1_000

# The columns a defect may spoil. The roster (person), deaths and observation periods stay whole: an extract
# that lost those would not be loaded at all.
_TIME_COLUMN = {
    "visit_occurrence": "visit_start_datetime",
    "condition_occurrence": "condition_start_date",
    "drug_exposure": "drug_exposure_start_datetime",
    "measurement": "measurement_datetime",
    "observation": "observation_datetime",
    "procedure_occurrence": "procedure_date",
    "note": "note_datetime",
}
_NUMBER_COLUMN = {"measurement": "value_as_number", "observation": "value_as_number"}
_BAD_TIMES = ("0000-00-00", "2016-02-30 10:00:00", "unknown")
_BAD_NUMBERS = ("hemolyzed", "see comment", "1.2.3")
_ORPHAN_OFFSET = 900_000_000
DEFECT_KINDS = ("unparsable_time", "orphan_person", "non_numeric")


@dataclass(frozen=True, slots=True)
class Concept:
    """One row of `concept.csv`; `key` is how charts name it and, through the cohort spec, its MEDS code."""

    vocabulary: str
    code: str
    name: str
    domain: str
    kind: str
    concept_id: int | None = None  # None: the next local id

    @property
    def key(self) -> str:
        return f"{self.vocabulary}/{self.code}"


def concept_ids(concepts: Sequence[Concept]) -> dict[str, int]:
    """Ids by key: fixed ones as given, the rest numbered in order from `FIRST_LOCAL_CONCEPT`."""
    local = iter(range(FIRST_LOCAL_CONCEPT, FIRST_LOCAL_CONCEPT + len(concepts)))
    return {c.key: next(local) if c.concept_id is None else c.concept_id for c in concepts}


@dataclass
class Chart:
    """The rows of one subject, by table. The first column of a row is its id, filled in by the writer.

    Times are naive local times. `filed` defaults to the time of the record itself.
    """

    person_id: int
    ids: dict[str, int]
    rows: dict[str, list[list[Any]]] = field(default_factory=lambda: {t: [] for t in HEADERS})

    def person(self, birth: date, gender: str, race: str | None) -> None:
        """`gender` is M or F; `race` is a concept code of vocabulary Race, or None when not recorded."""
        midnight = _stamp(datetime.combine(birth, time()))
        race_id = self.ids[f"Race/{race}"] if race else 0
        self.rows["person"].append(
            [self.person_id, self.ids[f"Gender/{gender}"], birth.year, birth.month, birth.day, midnight,
             race_id, 0, f"MRN{self.person_id:08d}", gender, race or ""]
        )  # fmt: skip

    def period(self, start: date, end: date) -> None:
        self.rows["observation_period"].append([None, self.person_id, start, end, EHR_TYPE])

    def visit(self, key: str, start: datetime, end: datetime) -> int:
        """Adds a visit and returns its id, which other rows of the visit carry."""
        visit_id = self.person_id * VISITS_PER_PERSON + len(self.rows["visit_occurrence"])
        self.rows["visit_occurrence"].append(
            [visit_id, self.person_id, self.ids[key], start.date(), _stamp(start), end.date(), _stamp(end),
             EHR_TYPE, _source(key)]
        )  # fmt: skip
        return visit_id

    def condition(self, key: str, day: date, visit: int | None = None) -> None:
        # The site keeps diagnoses as ICD-10-CM: the standard concept is 0 (unmapped), the source concept set.
        self.rows["condition_occurrence"].append(
            [None, self.person_id, 0, day, EHR_TYPE, visit, _source(key), self.ids[key]]
        )

    def drug(self, key: str, at: datetime, *, mg: float, route: str, days: int, visit: int | None) -> None:
        end = (at + timedelta(days=days)).date()
        self.rows["drug_exposure"].append(
            [None, self.person_id, self.ids[key], at.date(), _stamp(at), end, EHR_TYPE, _number(mg), route,
             "mg", visit, _source(key)]
        )  # fmt: skip

    def measurement(
        self, key: str, at: datetime, value: float, unit: str, filed: datetime, visit: int | None
    ) -> None:
        number = _number(value)
        self.rows["measurement"].append(
            [None, self.person_id, self.ids[key], at.date(), _stamp(at), EHR_TYPE, number, unit, visit,
             _source(key), number, _stamp(filed)]
        )  # fmt: skip

    def observation(
        self, key: str, at: datetime, filed: datetime, visit: int | None = None, value: float | None = None
    ) -> None:
        number = "" if value is None else _number(value)
        self.rows["observation"].append(
            [None, self.person_id, self.ids[key], at.date(), _stamp(at), EHR_TYPE, number, "", visit,
             _source(key), _stamp(filed)]
        )  # fmt: skip

    def procedure(self, key: str, day: date, visit: int | None) -> None:
        self.rows["procedure_occurrence"].append(
            [None, self.person_id, self.ids[key], day, EHR_TYPE, visit, _source(key)]
        )

    def note(
        self, key: str, at: datetime, title: str, text: str, filed: datetime, visit: int | None = None
    ) -> None:
        self.rows["note"].append(
            [None, self.person_id, at.date(), _stamp(at), EHR_TYPE, self.ids[key], title, text, visit,
             _stamp(filed)]
        )  # fmt: skip

    def death(self, day: date) -> None:
        """Adds the death, and ends stays and supplies that would last beyond it."""
        self.rows["death"].append([self.person_id, day, EHR_TYPE])
        midnight = _stamp(datetime.combine(day, time()))
        for row in self.rows["visit_occurrence"]:
            row[5], row[6] = min(row[5], day), min(row[6], midnight)
        for row in self.rows["drug_exposure"]:
            row[5] = min(row[5], day)


class OmopWriter:
    """Streams charts into `<dir>/<table>.csv`; holds one subject at a time. Use as a context manager.

    Defects: each row of a spoilable table is spoiled with probability `defect_rate`, by the generator given
    with the chart, so that the defects of a subject do not depend on the size of the cohort.
    """

    def __init__(self, tables_dir: Path, concepts: Sequence[Concept], *, defect_rate: float) -> None:
        self.defect_rate = defect_rate
        self.counts: dict[str, int] = dict.fromkeys(HEADERS, 0)
        self.defects: dict[str, int] = dict.fromkeys(DEFECT_KINDS, 0)
        self._stack = ExitStack()
        self._writers: dict[str, Any] = {}
        for table, header in HEADERS.items():
            # Opened by hand so that bytes do not depend on the platform's newline or encoding.
            raw = self._stack.enter_context((tables_dir / f"{table}.csv").open("wb"))
            text = self._stack.enter_context(io.TextIOWrapper(raw, encoding="utf-8", newline=""))
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(header)
            self._writers[table] = writer
        ids = concept_ids(concepts)
        for c in concepts:
            self._write("concept", [[ids[c.key], c.name, c.domain, c.vocabulary, c.kind, c.code]])

    def __enter__(self) -> "OmopWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def add(self, chart: Chart, rng: np.random.Generator) -> None:
        """Writes one subject's rows, with ids and defects."""
        for table, rows in chart.rows.items():
            if not rows:
                continue
            if table in _TIME_COLUMN:
                for row, spoil in zip(rows, rng.random(len(rows)) < self.defect_rate, strict=True):
                    if spoil:
                        self._spoil(table, row, rng)
            self._write(table, rows)

    def _write(self, table: str, rows: list[list[Any]]) -> None:
        for row in rows:
            self.counts[table] += 1
            if row[0] is None:
                row[0] = self.counts[table]
        self._writers[table].writerows(rows)

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


def _stamp(at: datetime) -> str:
    return at.isoformat(sep=" ", timespec="seconds")


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def _source(key: str) -> str:
    return key.partition("/")[2]
