"""Who the simulated persons are, and which of them appear in more than one cohort.

What belongs here: a person's key and what is the same in every cohort (sex, birth, race). A person is in two
cohorts when both rosters carry its key in `person_source_value` (a medical record number). Cohorts of the
same seed describe the same persons; under different seeds equal keys mean nothing.

Subject i of a cohort can only be the person that subject i of the oncology cohort is, so sizes do not matter.
What happened to it in the other cohort lies before its cancer was found, and it survived that: no person
dies twice, and no course is bent to make it so (see `Shared`).
"""

from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np

RACES = (("5", 0.68), ("3", 0.12), ("2", 0.11), (None, 0.09))  # None: not recorded
DAYS_PER_YEAR = 365.25


@dataclass(frozen=True, slots=True)
class Person:
    """Key, sex, birth and race (concept code of vocabulary Race; None: not recorded)."""

    key: str
    female: bool
    birth: date
    race: str | None


@dataclass(frozen=True, slots=True)
class Shared:
    """The oncology subject that a subject of another cohort may be, and when it fell ill with cancer.

    A simulator takes its demographics and dates its own records before `diagnosis`. Only at the end, and only
    if the subject lives, does it take the key as well: so the course is that of anybody.
    """

    person: Person
    diagnosis: date


@dataclass(frozen=True, slots=True)
class Candidate:
    """Who a subject of a cohort that shares persons is, and the key it has if it cannot be that person."""

    person: Person
    own_key: str

    def roster(self, *, alive: bool) -> Person:
        """The person that the roster tells: the shared one only if it is still alive for its cancer."""
        return self.person if alive else replace(self.person, key=self.own_key)


def record_number(number: int) -> str:
    return f"MRN{number:08d}"


def draw_race(rng: np.random.Generator) -> str | None:
    return RACES[int(rng.choice(len(RACES), p=[share for _, share in RACES]))][0]


def draw_person(
    number: int, on: date, rng: np.random.Generator, *, age: float, spread: float, female: float
) -> Person:
    """A person of this cohort alone, whose age on a day is normal about `age` years (18 to 92)."""
    is_female = bool(rng.random() < female)
    race = draw_race(rng)
    years = min(max(float(rng.normal(age, spread)), 18.0), 92.0)
    return Person(record_number(number), is_female, on - timedelta(days=int(years * DAYS_PER_YEAR)), race)
