"""How records come to show a latent state: a noisy value of a person, filed with a delay.

What belongs here: what the views of all diseases share. Which values a state has is `<disease>_views.py`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

import numpy as np

from ehr_assets.cohorts.synthetic.tables import Chart

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reported(Generic[T]):
    """What somebody found, and when it was filed: before that nobody can act on it."""

    found: T
    filed: datetime


def filed(at: datetime, rng: np.random.Generator, *, hours: float, late: float, late_days: float) -> datetime:
    """When a record made at `at` is filed: after `hours` on average; with chance `late`, days later."""
    delay = timedelta(hours=0.25 + float(rng.exponential(hours)))
    if rng.random() < late:
        delay += timedelta(days=1 + float(rng.exponential(late_days)))
    return (at + delay).replace(microsecond=0)


@dataclass(frozen=True, slots=True)
class Delay:
    """The arguments of `filed`, as kinds of record have them."""

    hours: float
    late: float
    late_days: float

    def after(self, at: datetime, rng: np.random.Generator) -> datetime:
        return filed(at, rng, hours=self.hours, late=self.late, late_days=self.late_days)


@dataclass(frozen=True, slots=True)
class Analyte:
    """Something measured. `person` and `noise`: spread between persons and between readings.

    With `log`, these and the levels are logs of the value. `low`, `high`: what the instrument can show.
    """

    name: str
    unit: str
    person: float
    noise: float
    log: bool = False
    low: float = 0.0
    high: float = math.inf

    def value(self, level: float, offset: float, rng: np.random.Generator) -> float:
        """A reading at `level` (of the state) of a person with the standard normal constant `offset`."""
        value = level + self.person * offset + self.noise * float(rng.standard_normal())
        return min(max(math.exp(value) if self.log else value, self.low), self.high)


@dataclass(slots=True)
class Bedside:
    """Writes readings of one subject into its chart: constants of the person, and when each is filed."""

    chart: Chart
    analytes: dict[str, Analyte]
    offsets: dict[str, float]
    rng: np.random.Generator

    @classmethod
    def draw(cls, chart: Chart, analytes: dict[str, Analyte], rng: np.random.Generator) -> "Bedside":
        offsets = dict(zip(analytes, rng.standard_normal(len(analytes)).tolist(), strict=True))
        return cls(chart, analytes, offsets, rng)

    def read(self, key: str, level: float, at: datetime, visit: int | None, delay: Delay) -> Reported[float]:
        """Records one reading and returns it."""
        analyte = self.analytes[key]
        value = analyte.value(level, self.offsets[key], self.rng)
        known = delay.after(at, self.rng)
        self.chart.measurement(key, at, value, analyte.unit, known, visit)
        return Reported(value, known)

    def panel(
        self,
        chances: Mapping[str, float],
        levels: Mapping[str, float],
        at: datetime,
        visit: int | None,
        delay: Delay,
    ) -> None:
        """Records what is taken together: each analyte of `chances` is there with its chance."""
        for (key, chance), luck in zip(chances.items(), self.rng.random(len(chances)), strict=True):
            if luck < chance:
                self.read(key, levels[key], at, visit, delay)
