"""Who comes to intensive care, and the latent course that begins with the admission to hospital.

What belongs here: drawing one subject's profile, traits and initial state. What then happens is `icu.py`.
"""

import math
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

import numpy as np

from ehr_assets.cohorts.synthetic.engine import Course, Traits
from ehr_assets.cohorts.synthetic.icu_catalog import (
    AFFINITY_SPREAD,
    COMORBIDITIES,
    DYNAMICS,
    FAILURE,
    GROWTH,
    REASONS,
    SITES,
    Reason,
)
from ehr_assets.cohorts.synthetic.oncology_subjects import perhaps_shared
from ehr_assets.cohorts.synthetic.persons import DAYS_PER_YEAR, Candidate, draw_person, record_number

FIRST_PERSON = 30_000_001
FIRST_DAY, LAST_DAY = date(2008, 1, 7), date(2022, 10, 31)
# Years before the cancer: earlier than anything the pulmonary embolism cohort tells of a shared person.
YEARS_BEFORE_CANCER = (7.0, 9.0)
LONGEST_STAY = 35 * 24


@dataclass(frozen=True, slots=True)
class Profile:
    """A subject at admission to hospital. `before`: hours until the ICU; `ward`: there, not in the ED."""

    who: Candidate
    admission: datetime
    reason: Reason
    before: int
    ward: bool
    comorbidities: tuple[str, ...]
    follow_up: int  # days after discharge


def draw_profile(seed: int, index: int, rng: np.random.Generator) -> Profile:
    """Who subject `index` is, when and why it was admitted."""
    shared = perhaps_shared(seed, index, rng)
    day = FIRST_DAY + timedelta(days=int(rng.integers((LAST_DAY - FIRST_DAY).days)))
    if shared:
        years = float(rng.uniform(*YEARS_BEFORE_CANCER))
        day = shared.diagnosis - timedelta(days=int(years * DAYS_PER_YEAR))
    if shared and (day - shared.person.birth).days >= 18 * DAYS_PER_YEAR:
        person = shared.person
    else:
        person = draw_person(FIRST_PERSON + index, day, rng, age=63, spread=16, female=0.44)
    reason = REASONS[int(rng.choice(len(REASONS), p=[r.share for r in REASONS]))]
    ward = bool(rng.random() < 0.3)
    return Profile(
        who=Candidate(person, record_number(FIRST_PERSON + index)),
        admission=datetime.combine(day, time()) + timedelta(minutes=int(rng.integers(24 * 60))),
        reason=reason,
        before=int(rng.integers(20, 90)) if ward else int(rng.integers(2, 11)),
        ward=ward,
        comorbidities=tuple(code for code, (_, share) in COMORBIDITIES.items() if rng.random() < share),
        follow_up=int(rng.integers(45, 400)),
    )


def draw_course(profile: Profile, rng: np.random.Generator) -> Course:
    """The latent course from admission. On the ward it is milder at first and rises."""
    age = (profile.admission.date() - profile.who.person.birth).days / DAYS_PER_YEAR
    setpoint = float(
        0.4 * rng.standard_normal() - 0.012 * (age - 62) - 0.12 * (len(profile.comorbidities) - 1.3)
    )
    reason = profile.reason
    traits = Traits(
        growth=float(rng.normal(*GROWTH)),
        resistance_rate=FAILURE[0] * math.exp(FAILURE[1] * float(rng.standard_normal())),
        reserve_setpoint=setpoint,
        site_affinity=tuple(
            (np.asarray(reason.affinity) + AFFINITY_SPREAD * rng.standard_normal(len(SITES))).tolist()
        ),
    )
    noise = rng.standard_normal((LONGEST_STAY, DYNAMICS.noises)).tolist()
    burden = float(rng.normal(reason.severity - 0.5 * profile.ward, 0.5))
    reserve = float(setpoint + 0.12 * rng.standard_normal())
    course = Course(
        DYNAMICS, traits, noise, burden=burden, reserve=reserve, site_offsets=traits.site_affinity
    )
    course.velocity = float(rng.normal(0.012 if profile.ward else 0.004, 0.01))
    return course
