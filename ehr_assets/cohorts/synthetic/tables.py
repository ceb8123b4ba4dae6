"""The OMOP CDM 5.4 tables that simulators fill, and the chart in which one subject's rows are collected.

What belongs here: the columns, concepts and the chart. Column names are OMOP's own; the subset is what an
extract for research usually has. One extension column, `filed_datetime` on measurement, observation and note,
tells when the record was filed, i.e. could be known. Concept ids of clinical concepts are in the range above
2,000,000,000 that OMOP leaves to a site. How charts get to disk, and their defects, is `writer.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any

from ehr_assets.cohorts.synthetic.persons import Person

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
    "death": ("person_id", "death_date", "death_datetime", "death_type_concept_id"),
    "concept": (
        "concept_id", "concept_name", "domain_id", "vocabulary_id", "concept_class_id", "concept_code",
    ),
    "visit_detail": (
        "visit_detail_id", "person_id", "visit_detail_concept_id", "visit_detail_start_datetime",
        "visit_detail_end_datetime", "visit_detail_type_concept_id", "visit_occurrence_id",
        "visit_detail_source_value",
    ),
    "device_exposure": (
        "device_exposure_id", "person_id", "device_concept_id", "device_exposure_start_datetime",
        "device_exposure_end_datetime", "device_type_concept_id", "visit_occurrence_id",
        "device_source_value",
    ),
}  # fmt: skip

EHR_TYPE = 32817  # OMOP type concept "EHR"
FIRST_LOCAL_CONCEPT = 2_000_000_001
VISITS_PER_PERSON = 1_000


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


def named(vocabulary: str, domain: str, kind: str, names: Mapping[str, str]) -> list[Concept]:
    """Concepts of one vocabulary from names by code."""
    return [Concept(vocabulary, code, name, domain, kind) for code, name in names.items()]


def demographics() -> list[Concept]:
    """The concepts that every roster uses, with OMOP's own ids."""
    return [
        Concept("Gender", "M", "MALE", "Gender", "Gender", 8507),
        Concept("Gender", "F", "FEMALE", "Gender", "Gender", 8532),
        Concept("Race", "5", "White", "Race", "Race", 8527),
        Concept("Race", "3", "Black or African American", "Race", "Race", 8516),
        Concept("Race", "2", "Asian", "Race", "Race", 8515),
    ]


@dataclass
class Chart:
    """The rows of one subject, by table. The first column of a row is its id, filled in by the writer.

    Times are naive local times. `filed` is when a record could first be known.
    """

    person_id: int
    ids: dict[str, int]
    rows: dict[str, list[list[Any]]] = field(default_factory=lambda: {t: [] for t in HEADERS})

    def person(self, who: Person) -> None:
        midnight = _stamp(datetime.combine(who.birth, time()))
        race_id = self.ids[f"Race/{who.race}"] if who.race else 0
        gender = "F" if who.female else "M"
        self.rows["person"].append(
            [self.person_id, self.ids[f"Gender/{gender}"], who.birth.year, who.birth.month, who.birth.day,
             midnight, race_id, 0, who.key, gender, who.race or ""]
        )  # fmt: skip

    def period(self, start: date, end: date) -> None:
        self.rows["observation_period"].append([None, self.person_id, start, end, EHR_TYPE])

    def visit(self, key: str, start: datetime, end: datetime) -> int:
        """Adds a visit and returns its id, which other rows of the visit carry. See also `end_visit`."""
        visit_id = self.person_id * VISITS_PER_PERSON + len(self.rows["visit_occurrence"])
        self.rows["visit_occurrence"].append(
            [visit_id, self.person_id, self.ids[key], start.date(), _stamp(start), end.date(), _stamp(end),
             EHR_TYPE, _source(key)]
        )  # fmt: skip
        return visit_id

    def end_visit(self, visit: int, end: datetime) -> None:
        """Ends a visit whose end was not known when it was added."""
        row = self.rows["visit_occurrence"][visit % VISITS_PER_PERSON]
        row[5], row[6] = end.date(), _stamp(end)

    def detail(self, key: str, start: datetime, end: datetime, visit: int) -> None:
        """Adds a stay on a ward within a visit."""
        self.rows["visit_detail"].append(
            [None, self.person_id, self.ids[key], _stamp(start), _stamp(end), EHR_TYPE, visit, _source(key)]
        )

    def device(self, key: str, start: datetime, end: datetime, visit: int) -> None:
        self.rows["device_exposure"].append(
            [None, self.person_id, self.ids[key], _stamp(start), _stamp(end), EHR_TYPE, visit, _source(key)]
        )

    def condition(self, key: str, day: date, visit: int | None = None) -> None:
        # The site keeps diagnoses as ICD-10-CM: the standard concept is 0 (unmapped), the source concept set.
        self.rows["condition_occurrence"].append(
            [None, self.person_id, 0, day, EHR_TYPE, visit, _source(key), self.ids[key]]
        )

    def drug(
        self,
        key: str,
        at: datetime,
        *,
        amount: float,
        route: str,
        days: int,
        visit: int | None,
        unit: str = "mg",
    ) -> None:
        """One administration or supply of `days`; of an infusion, its rate from now on."""
        end = (at + timedelta(days=days)).date()
        self.rows["drug_exposure"].append(
            [None, self.person_id, self.ids[key], at.date(), _stamp(at), end, EHR_TYPE, _number(amount),
             route, unit, visit, _source(key)]
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

    def death(self, day: date, at: datetime | None = None) -> None:
        """Adds the death, with its time if known, and ends what would last beyond it.

        Without a time the day's midnight counts: nothing is recorded on the day itself.
        """
        self.rows["death"].append([self.person_id, day, _stamp(at) if at else "", EHR_TYPE])
        last = _stamp(at or datetime.combine(day, time()))
        for row in self.rows["visit_occurrence"]:
            row[5], row[6] = min(row[5], day), min(row[6], last)
        for table in ("visit_detail", "device_exposure"):
            for row in self.rows[table]:
                row[4] = min(row[4], last)
        for row in self.rows["drug_exposure"]:
            row[5] = min(row[5], day)


def _stamp(at: datetime) -> str:
    return at.isoformat(sep=" ", timespec="seconds")


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def _source(key: str) -> str:
    return key.partition("/")[2]
