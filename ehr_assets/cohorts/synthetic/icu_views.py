"""What the records of an ICU show of the latent state: monitors, nurses' charting and the laboratory.

What belongs here: levels given the state and the support that hides it, and how often they are looked at.
What is done about them is `icu.py`.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from ehr_assets.cohorts.synthetic import analytes as lab
from ehr_assets.cohorts.synthetic.engine import Course
from ehr_assets.cohorts.synthetic.views import Bedside

MONITOR = (lab.HEART_RATE, lab.MEAN_PRESSURE, lab.SYSTOLIC, lab.RESPIRATION, lab.SATURATION)
NURSE = (lab.TEMPERATURE, lab.GCS)
CHEMISTRY = {lab.CREATININE: 0.97, lab.UREA: 0.95, lab.SODIUM: 0.97, lab.POTASSIUM: 0.97,
             lab.BICARBONATE: 0.93, lab.HEMOGLOBIN: 0.9, lab.PLATELETS: 0.88,
             lab.LEUKOCYTES: 0.85}  # fmt: skip
DAILY = CHEMISTRY | {lab.BILIRUBIN: 0.6, lab.INR: 0.6}
GASES = {lab.PH: 1.0, lab.PAO2: 1.0, lab.LACTATE: 0.85}
LACTATE = {lab.LACTATE: 1.0}
BASELINE = {lab.CREATININE: 0.7, lab.HEMOGLOBIN: 0.6, lab.PLATELETS: 0.5, lab.SODIUM: 0.5}


@dataclass(slots=True)
class Support:
    """What runs: norepinephrine in ug/kg/min (0: none), and the hours at which devices were started."""

    norepinephrine: float = 0.0
    ventilated: datetime | None = None
    high_flow: datetime | None = None
    dialysis: datetime | None = None

    @property
    def any(self) -> bool:
        return self.norepinephrine > 0 or any((self.ventilated, self.high_flow, self.dialysis))


def levels(course: Course, support: Support, fever: float) -> dict[str, float]:
    """By analyte, the level that state and support make (a log where the analyte is one)."""
    sick, reserve = max(course.burden, 0.0), course.reserve
    lung, heart, kidney, clotting, liver, brain = (max(x, 0.0) for x in course.sites)
    pressure = 85 - 11.5 * heart + 2 * reserve
    if support.norepinephrine:  # titrated to a pressure, not to a cure
        pressure = max(pressure + 60 * support.norepinephrine, 66.0)
    ventilated = support.ventilated is not None
    dialysed = 0.5 if support.dialysis else 1.0
    return {
        lab.HEART_RATE: 82 + 9 * heart + 4 * sick - 4 * reserve,
        lab.MEAN_PRESSURE: pressure,
        lab.SYSTOLIC: 1.42 * pressure + 4,
        lab.RESPIRATION: (15 + lung) if ventilated else 16.5 + 3.6 * lung,
        lab.SATURATION: 97.2 - (0.9 if ventilated else 1.4 if support.high_flow else 2.2) * lung,
        lab.TEMPERATURE: 36.8 + fever * min(sick, 2.0),
        lab.GCS: 6.0 if ventilated else 15.2 - 3.2 * brain,
        lab.URINE: math.log(85) - 0.75 * kidney,
        lab.FIO2: 36 + 15 * lung,
        lab.LACTATE: math.log(1.25) + 0.45 * heart - 0.1 * reserve,
        lab.CREATININE: math.log(0.95) + 0.45 * kidney * dialysed - 0.1 * reserve,
        lab.UREA: math.log(17) + 0.4 * kidney * dialysed - 0.1 * reserve,
        lab.SODIUM: 138.5,
        lab.POTASSIUM: 4.1 + 0.25 * kidney * dialysed,
        lab.BICARBONATE: 24.8 - 2.0 * heart - 1.2 * kidney * dialysed,
        lab.HEMOGLOBIN: 11.4 + 0.5 * reserve - 0.2 * sick,
        lab.PLATELETS: math.log(225) - 0.4 * clotting,
        lab.LEUKOCYTES: math.log(8.5) + 0.25 * fever * sick + 0.1 * sick,
        lab.BILIRUBIN: math.log(0.7) + 0.5 * liver,
        lab.INR: math.log(1.1) + 0.12 * clotting + 0.1 * liver,
        lab.PH: 7.395 - 0.03 * heart - 0.025 * lung,
        lab.PAO2: math.log(92) - 0.16 * lung,
        lab.WEIGHT: math.log(80),
    }


@dataclass(slots=True)
class Charting:
    """The views of one subject; `rounds` decides by the hour what is looked at: the sicker, the more."""

    bedside: Bedside
    course: Course
    support: Support
    fever: float

    def rounds(self, hour: int, now: datetime, visit: int, *, icu: bool) -> None:
        """All that is charted and drawn in this hour of the stay."""
        sick, support = self.course.burden, self.support
        every = 1 if icu and (sick > 0.8 or support.any) else 2 if icu else 4 if sick > 0.3 else 8
        if hour % every == 0:
            self._signs(MONITOR, now, visit, 0.94)
        if hour % max(4, every) == 0:
            self._signs(NURSE, now, visit, 0.9)
        if icu and (sick > 0.8 or support.any):  # a catheter is in
            self._signs((lab.URINE,), now, visit, 0.85)
        if support.ventilated and hour % 4 == 1:
            self._signs((lab.FIO2,), now, visit, 0.95)
        # In an ICU blood is drawn every 4 to 12 hours, on a ward once a day.
        between = (6 if sick > 1.4 else 8 if sick > 0.7 else 12) if icu else 24
        if hour % between == 3:
            self.draw(DAILY if hour % 24 == 3 else CHEMISTRY, now, visit)
        if icu and support.ventilated and hour % (4 if sick > 1.4 else 6) == 2:
            self.draw(GASES, now, visit)
        elif icu and sick > 1.0 and hour % 6 == 2:
            self.draw(LACTATE, now, visit)

    def draw(self, panel: dict[str, float], now: datetime, visit: int | None) -> None:
        """One draw of a panel, within the hour."""
        at = now + timedelta(minutes=int(self.bedside.rng.integers(2, 30)))
        self.bedside.panel(panel, self._levels(), at, visit, lab.REPORTED)

    def _signs(self, keys: tuple[str, ...], now: datetime, visit: int | None, seen: float) -> None:
        at = now + timedelta(minutes=int(self.bedside.rng.integers(0, 20)))
        self.bedside.panel(dict.fromkeys(keys, seen), self._levels(), at, visit, lab.CHARTED)

    def _levels(self) -> dict[str, float]:
        return levels(self.course, self.support, self.fever)

    def clinic(self, at: datetime, visit: int) -> None:
        """What is looked at outside hospital."""
        self._signs((lab.HEART_RATE, lab.SYSTOLIC, lab.SATURATION, lab.WEIGHT), at, visit, 0.8)
        self.draw(BASELINE, at, visit)
