"""What a subject of the embolism cohort is given: its anticoagulant for as long as it takes it, and the rest.

What belongs here: choice, supply and end of an anticoagulant, and drug rows. What it is given for is `pe.py`.
"""

from datetime import datetime

import numpy as np

from ehr_assets.cohorts.synthetic.engine import Course, Treatment
from ehr_assets.cohorts.synthetic.pe_catalog import ANTICOAGULANTS, DRUG_KEY, DRUGS
from ehr_assets.cohorts.synthetic.tables import Chart

DRAIN = 0.0025  # of anticoagulation on the reserve, per day


class Pharmacy:
    """The drugs of one subject.

    Attributes:
        agent: the anticoagulant that it takes, if any.
        until: the day on which it is to be stopped.
        refill: the day of the next supply.
    """

    def __init__(self, chart: Chart, course: Course, rng: np.random.Generator) -> None:
        self.chart, self.course, self.rng = chart, course, rng
        self.agent: str | None = None
        self.until = self.refill = 0

    def give(self, name: str, at: datetime, visit: int | None) -> None:
        _, amount, unit, route, days = DRUGS[name]
        self.chart.drug(DRUG_KEY[name], at, amount=amount, route=route, days=days, visit=visit, unit=unit)

    def anticoagulate(self, day: int, *, cancer: bool, potency: float) -> None:
        """Chooses an agent; its first supply follows within days."""
        rng, names = self.rng, list(ANTICOAGULANTS)
        agent = names[int(rng.choice(len(names), p=list(ANTICOAGULANTS.values())))]
        self.agent = "enoxaparin" if cancer and rng.random() < 0.6 else agent
        months = 24 if cancer or rng.random() < 0.3 else int(rng.integers(3, 9))
        self.until = day + 30 * months
        self.refill = day + int(rng.integers(1, 4))
        self.course.start(Treatment(potency, DRAIN))

    def renew(self, day: int, at: datetime, visit: int | None) -> None:
        assert self.agent is not None
        self.give(self.agent, at, visit)
        self.refill = day + DRUGS[self.agent][4] + int(self.rng.integers(-2, 6))

    def stop(self) -> None:
        self.agent = None
        self.course.stop()
