"""What the records of a pulmonary embolism show of the latent state: vital signs, blood, echo and CT.

What belongs here: levels given the state, and which of them are looked at. When is `pe.py`.
"""

import math
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from ehr_assets.cohorts.synthetic import analytes as lab
from ehr_assets.cohorts.synthetic.engine import Course
from ehr_assets.cohorts.synthetic.pe_catalog import CENTRAL, CTPA, ECHO, PERIPHERAL, RVSP, TAPSE
from ehr_assets.cohorts.synthetic.views import Bedside, Delay, Reported

VITALS = (lab.HEART_RATE, lab.SYSTOLIC, lab.RESPIRATION, lab.SATURATION, lab.TEMPERATURE)
# At arrival; every morning on the ward; in clinic. With the chance of each to be drawn.
ARRIVAL = {lab.TROPONIN: 0.85, lab.BNP: 0.75, lab.D_DIMER: 0.7, lab.LACTATE: 0.6, lab.CREATININE: 0.98,
           lab.HEMOGLOBIN: 0.98, lab.PLATELETS: 0.98, lab.LEUKOCYTES: 0.95}  # fmt: skip
MORNING = {lab.TROPONIN: 0.3, lab.BNP: 0.15, lab.CREATININE: 0.8, lab.HEMOGLOBIN: 0.9, lab.PLATELETS: 0.8,
           lab.LEUKOCYTES: 0.7}  # fmt: skip
CLINIC = {lab.BNP: 0.35, lab.D_DIMER: 0.2, lab.CREATININE: 0.6, lab.HEMOGLOBIN: 0.6, lab.PLATELETS: 0.4}
SYMPTOMS = CLINIC | {lab.BNP: 0.7, lab.D_DIMER: 0.6, lab.TROPONIN: 0.3}
IMAGING = Delay(3.0, 0.05, 1.0)
REPORT = Delay(0.8, 0.0, 0.0)  # an embolism does not wait for tomorrow
READING_ERROR = 0.12  # of what an angiogram shows, in logs


def levels(course: Course, female: bool) -> dict[str, float]:
    """By analyte, the level that the state makes (a log where the analyte is one)."""
    clot, reserve, drain = max(course.burden, 0.0), course.reserve, course.toxicity
    central, peripheral = (max(x, 0.0) for x in course.sites)
    shock = max(central - 1.2, 0.0)
    return {
        lab.HEART_RATE: 76 + 9 * central - 7 * reserve,
        lab.SYSTOLIC: 128 - 11 * shock + 5 * reserve,
        lab.RESPIRATION: 15.5 + 2.4 * clot - 1.2 * reserve,
        lab.SATURATION: 96.3 - 1.8 * clot + 0.7 * reserve,
        lab.TEMPERATURE: 36.8 + 0.15 * clot,
        lab.D_DIMER: math.log(0.6) + 0.7 * clot,
        lab.TROPONIN: math.log(0.008) + 0.8 * central - 0.25 * reserve,
        lab.BNP: math.log(190) + 0.6 * central + 0.3 * peripheral - 0.8 * reserve,
        lab.LACTATE: math.log(1.2) + 0.4 * shock - 0.1 * reserve,
        lab.CREATININE: math.log(0.92) + 0.08 * central - 0.22 * reserve,
        lab.HEMOGLOBIN: (12.6 if female else 13.8) + 1.0 * reserve - 150 * drain,
        lab.PLATELETS: math.log(235) + 0.05 * reserve - 0.05 * clot,
        lab.LEUKOCYTES: math.log(8.2) + 0.08 * clot - 0.08 * reserve,
        RVSP: 27 + 7 * central + 9 * peripheral,
        TAPSE: 22.5 - 1.8 * central - 1.4 * peripheral + 0.8 * reserve,
    }


@dataclass(frozen=True, slots=True)
class Scan:
    """What a radiologist sees on one CT angiogram: the state, each part of it with an error of its own."""

    clot: float
    central: float
    peripheral: float
    organization: float

    @classmethod
    def of(cls, course: Course, rng: np.random.Generator) -> "Scan":
        state = [course.burden, course.sites[CENTRAL], course.sites[PERIPHERAL], course.resistance]
        errors = READING_ERROR * rng.standard_normal(len(state))
        return cls(*(x + float(e) for x, e in zip(state, errors, strict=True)))

    @property
    def embolism(self) -> bool:
        return self.clot > 0.0

    @property
    def strain(self) -> float:
        """The ratio of the ventricles' diameters, right by left."""
        return 0.82 + 0.22 * max(self.central, 0.0)

    def report(self) -> str:
        """Sizes only, compared with nothing."""
        if not self.embolism:
            return "No pulmonary embolism."
        where = "central" if self.central > 1.0 else "segmental"
        webs = " Peripheral webs." if self.peripheral > 1.0 and self.organization > 0.5 else ""
        index = 100 * (1 - math.exp(-0.45 * self.clot))
        return (
            f"Pulmonary embolism, {where}. Obstruction index {index:.0f} %. "
            f"RV/LV ratio {self.strain:.1f}.{webs}"
        )


@dataclass(slots=True)
class Views:
    """The views of one subject."""

    bedside: Bedside
    course: Course
    female: bool

    def signs(self, at: datetime, visit: int, *, seen: float = 0.93) -> None:
        """One round of vital signs, of which each is written down with chance `seen`."""
        state = levels(self.course, self.female)
        self.bedside.panel(dict.fromkeys(VITALS, seen), state, at, visit, lab.CHARTED)

    def blood(self, panel: dict[str, float], at: datetime, visit: int) -> None:
        """One draw of a panel."""
        self.bedside.panel(panel, levels(self.course, self.female), at, visit, lab.REPORTED)

    def echo(self, at: datetime, visit: int) -> Reported[float]:
        """One echocardiogram; returns the right ventricular systolic pressure that it shows (mm Hg)."""
        state = levels(self.course, self.female)
        self.bedside.chart.procedure(ECHO, at.date(), visit)
        self.bedside.read(TAPSE, state[TAPSE], at, visit, IMAGING)
        return self.bedside.read(RVSP, state[RVSP], at, visit, IMAGING)

    def angiogram(self, at: datetime, visit: int) -> Reported[Scan]:
        """One CT angiogram with its report."""
        chart, rng = self.bedside.chart, self.bedside.rng
        seen, filed = Scan.of(self.course, rng), REPORT.after(at, rng)
        chart.procedure(CTPA, at.date(), visit)
        chart.note("NOTE/CTPA", at, "CT pulmonary angiogram", seen.report(), filed, visit)
        return Reported(seen, filed)
