"""Who comes to the index CT angiogram, and the latent course that begins with the embolism.

What belongs here: drawing one subject's profile, traits and initial state, and how it rests before the
embolism. What then happens to it is `pe.py`.
"""

import math
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from ehr_assets.cohorts.synthetic.engine import Course, Traits
from ehr_assets.cohorts.synthetic.oncology_subjects import perhaps_shared
from ehr_assets.cohorts.synthetic.pe_catalog import (
    AFFINITY,
    CANCER_SHARE,
    CANCERS,
    COMORBIDITIES,
    DYNAMICS,
    GROWTH,
    ORGANIZATION,
    POTENCY,
    PRIMARY_ADMISSIONS,
)
from ehr_assets.cohorts.synthetic.persons import DAYS_PER_YEAR, Candidate, draw_person, record_number

FIRST_PERSON = 20_000_001
FIRST_DAY, LAST_DAY = date(2008, 1, 7), date(2023, 12, 31)


@dataclass(frozen=True, slots=True)
class Profile:
    """A subject at its index study. Days count from it: `start` to `days`, the embolism at `onset` < 0."""

    who: Candidate
    index: date
    start: int
    onset: int
    days: int
    admitted: int  # 0: came for the embolism; before `onset`: it happened in hospital
    index_stay: int  # nights after the study
    sees_doctor: bool  # every few days, with the first symptoms
    primary: str | None
    burden: float
    velocity: float
    potency: float
    comorbidities: tuple[str, ...]
    cancer: bool

    @property
    def first(self) -> int:
        """The day from which there is something to tell every day."""
        return min(self.onset, self.admitted)


def draw_profile(seed: int, index: int, rng: np.random.Generator) -> Profile:
    """Who subject `index` is, when its study was, and for how long it will be followed."""
    days = int((0.35 + 2.9 * rng.beta(1.3, 1.5)) * DAYS_PER_YEAR)
    start = -int(rng.integers(150, 720))
    shared = perhaps_shared(seed, index, rng)
    if shared:
        study = shared.diagnosis - timedelta(days=days + int(rng.integers(30, 365)))
        person = shared.person
    else:
        span = (LAST_DAY - FIRST_DAY).days - days
        study = FIRST_DAY + timedelta(days=int(rng.integers(span)))
        person = draw_person(FIRST_PERSON + index, study, rng, age=63, spread=15, female=0.52)
    ill = [code for code, (_, share) in COMORBIDITIES.items() if rng.random() < share]
    # A shared person's cancer is yet to be found.
    cancer = shared is None and bool(rng.random() < CANCER_SHARE)
    if cancer:
        ill.append(list(CANCERS)[int(rng.integers(len(CANCERS)))])
    onset = -int(rng.integers(2, 15))
    admitted = onset - int(rng.integers(1, 6)) if rng.random() < 0.3 else 0
    return Profile(
        who=Candidate(person, record_number(FIRST_PERSON + index)),
        index=study,
        start=start,
        onset=onset,
        days=days,
        admitted=admitted,
        index_stay=1 + int(rng.geometric(0.24)),
        sees_doctor=not admitted and bool(rng.random() < 0.65),
        primary=PRIMARY_ADMISSIONS[int(rng.integers(len(PRIMARY_ADMISSIONS)))] if admitted else None,
        burden=float(rng.normal(0.65, 0.7)),
        velocity=float(rng.normal(0.03, 0.055)),
        potency=POTENCY[0] * math.exp(POTENCY[1] * float(rng.standard_normal())),
        comorbidities=tuple(ill),
        cancer=cancer,
    )


def draw_course(profile: Profile, rng: np.random.Generator) -> Course:
    """The latent course; at rest until the embolism strikes."""
    age = (profile.index - profile.who.person.birth).days / DAYS_PER_YEAR
    burden_of_age = 0.016 * (age - 62) + 0.12 * (len(profile.comorbidities) - 1.5) + 0.35 * profile.cancer
    setpoint = float(0.45 * rng.standard_normal() - burden_of_age)
    traits = Traits(
        growth=float(rng.normal(*GROWTH)),
        resistance_rate=ORGANIZATION[0] * math.exp(ORGANIZATION[1] * float(rng.standard_normal())),
        reserve_setpoint=setpoint,
        site_affinity=tuple(float(rng.normal(*affinity)) for affinity in AFFINITY),
    )
    noise = rng.standard_normal((profile.days - profile.onset, DYNAMICS.noises)).tolist()
    # Health is often on its way down (or up again) long before: what it was when the record begins.
    reserve = float(setpoint + rng.normal(0.35, 0.6))
    offsets = list(traits.site_affinity)
    return Course(DYNAMICS, traits, noise, burden=DYNAMICS.floor, reserve=reserve, site_offsets=offsets)


def resting_reserve(course: Course, began: float, days: int) -> float:
    """The reserve `days` after it was `began`, on its way to where this person's health is heading."""
    setpoint = course.traits.reserve_setpoint
    return setpoint + (began - setpoint) * math.exp(-DYNAMICS.reserve_pull * days)
