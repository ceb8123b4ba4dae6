"""Who falls ill: a subject at diagnosis, and the latent course that begins there.

What belongs here: drawing one subject's profile, traits and initial state, also for other cohorts that share
the person. What then happens to it is `oncology.py`.
"""

import math
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from ehr_assets.cohorts.synthetic.engine import Course, Traits
from ehr_assets.cohorts.synthetic.oncology_catalog import (
    COMORBIDITIES,
    DYNAMICS,
    INDICATIONS,
    LOCAL,
    NEW_LESION,
    SITES,
    WEIGHTS,
    Indication,
)
from ehr_assets.cohorts.synthetic.persons import (
    DAYS_PER_YEAR,
    Person,
    Shared,
    draw_race,
    record_number,
)

FIRST_PERSON = 10_001
SHARED = 0.25  # of another cohort's subjects may be persons of this one; those who live are
STREAM = 0
FIRST_DAY, LAST_DAY = date(2010, 1, 4), date(2023, 12, 31)
# Mean and spread of the burden at diagnosis.
STAGE_BURDEN = {"I": (0.5, 0.2), "II": (0.85, 0.2), "III": (1.2, 0.25), "IV": (1.6, 0.35)}


@dataclass(frozen=True, slots=True)
class Profile:
    """A subject at diagnosis."""

    indication: Indication
    person: Person
    diagnosis: date
    weeks: int  # of follow-up, until administrative censoring
    stage: str
    comorbidities: tuple[str, ...]


def draw_profile(index: int, rng: np.random.Generator) -> Profile:
    """Who subject `index` is at diagnosis, and for how long it will be followed."""
    ind = INDICATIONS[int(rng.choice(len(INDICATIONS), p=WEIGHTS))]
    female = bool(rng.random() < ind.female)
    race = draw_race(rng)
    weeks = int((0.5 + 5.5 * rng.beta(1.25, 1.7)) * DAYS_PER_YEAR / 7)
    last = (LAST_DAY - FIRST_DAY).days - weeks * 7
    diagnosis = FIRST_DAY + timedelta(days=int(rng.integers(last + 1)))
    age = min(max(float(rng.normal(ind.age, 9)), 25.0), 90.0)
    birth = diagnosis - timedelta(days=int(age * DAYS_PER_YEAR))
    stage = ("I", "II", "III", "IV")[int(rng.choice(4, p=ind.stages))]
    ill = tuple(code for code, (_, share) in COMORBIDITIES.items() if rng.random() < share)
    person = Person(record_number(FIRST_PERSON + index), female, birth, race)
    return Profile(ind, person, diagnosis, weeks, stage, ill)


def shared_person(seed: int, index: int) -> Shared:
    """The person that subject `index` of the oncology cohort of this seed is."""
    profile = draw_profile(index, np.random.default_rng([seed, index, STREAM]))
    return Shared(profile.person, profile.diagnosis)


def perhaps_shared(seed: int, index: int, rng: np.random.Generator) -> Shared | None:
    """That person for a share of another cohort's subjects, drawn by their generator; None for the others."""
    return shared_person(seed, index) if rng.random() < SHARED else None


def draw_course(profile: Profile, rng: np.random.Generator) -> Course:
    """The latent course that begins at diagnosis."""
    ind = profile.indication
    age = (profile.diagnosis - profile.person.birth).days / DAYS_PER_YEAR
    setpoint = 0.4 * rng.standard_normal() - 0.018 * (age - 64) - 0.15 * (len(profile.comorbidities) - 1)
    traits = Traits(
        growth=1.1 * ind.growth * math.exp(0.4 * rng.standard_normal()),
        resistance_rate=0.034 * math.exp(0.45 * rng.standard_normal()),
        reserve_setpoint=float(setpoint),
        site_affinity=tuple((np.asarray(ind.affinity) + 0.55 * rng.standard_normal(len(SITES))).tolist()),
    )
    mean, spread = STAGE_BURDEN[profile.stage]
    burden = float(max(mean + spread * rng.standard_normal(), 0.25))
    offsets = list(traits.site_affinity)
    offsets[LOCAL] = max(offsets[LOCAL], -0.2)
    spread_to = [k for k in range(len(SITES)) if k != LOCAL]
    if profile.stage == "IV":
        first = max(spread_to, key=lambda k: offsets[k])
        offsets[first] = max(offsets[first], NEW_LESION + 0.15 - burden)
    else:
        for k in spread_to:  # not (yet) metastatic: below what imaging calls a lesion
            offsets[k] = min(offsets[k], 0.2 - burden)
    noise = rng.standard_normal((profile.weeks, DYNAMICS.noises)).tolist()
    reserve = float(setpoint + 0.2 * rng.standard_normal())
    return Course(DYNAMICS, traits, noise, burden=burden, reserve=reserve, site_offsets=offsets)
