"""The embedded intensive care cohort: an admission to hospital with a stay in the ICU, hour by hour.

What belongs here: the course of care of one subject (where it lies, which support runs, what is given) until
it leaves hospital or dies there, and the clinic before and after. Deaths after discharge are not simulated.
Who comes is `icu_subjects.py`, the hidden state `engine.py`, the views of it `icu_views.py`, numbers and
codes `icu_catalog.py`.
"""

import math
from datetime import datetime, timedelta

import numpy as np

from ehr_assets.cohorts.synthetic.engine import Treatment, truth_columns
from ehr_assets.cohorts.synthetic.icu_catalog import (
    ANALYTES,
    CARDIOVASCULAR,
    COMPLICATIONS,
    DIALYSIS,
    DRAIN,
    DRAIN_VASOPRESSOR,
    DRAIN_VENTILATOR,
    DRUG_KEY,
    DRUGS,
    DYNAMICS,
    HIGH_FLOW,
    INFECTIONS,
    NEUROLOGIC,
    POTENCY,
    RENAL,
    RESPIRATORY,
    SITES,
    VENTILATOR,
    concepts,
)
from ehr_assets.cohorts.synthetic.icu_subjects import FIRST_PERSON, LONGEST_STAY, draw_course, draw_profile
from ehr_assets.cohorts.synthetic.icu_views import Charting, Support
from ehr_assets.cohorts.synthetic.life import Life, Simulator
from ehr_assets.cohorts.synthetic.tables import HEADERS, Chart
from ehr_assets.cohorts.synthetic.views import Bedside

JUDGEMENT = 0.15  # error of the bedside judgement of an organ's state


class Patient(Life):
    """One subject's life: clinic, hospital, ICU, ward, clinic."""

    def __init__(self, chart: Chart, seed: int, index: int, rng: np.random.Generator) -> None:
        super().__init__(chart, rng)
        self.profile = draw_profile(seed, index, rng)
        self.course = draw_course(self.profile, rng)
        self.support = Support()
        fever = self.profile.reason.fever
        self.charting = Charting(Bedside.draw(chart, ANALYTES, rng), self.course, self.support, fever)
        self.potency = self._new_potency()
        self.icu: datetime | None = None  # since when
        self.hours_in_unit = 0
        self.worst = [-math.inf] * len(SITES)
        self.failing = 0
        self.antibiotic = "piperacillin"
        self.charted_rate = (0, 0.0)  # hour and rate of the last infusion row

    def live(self) -> None:
        p = self.profile
        self._earlier()
        self.now = p.admission
        self.visit = self.chart.visit("VISIT/INPATIENT", self.now, self.now)
        self.chart.condition(f"ICD10CM/{p.reason.code}", self.now.date(), self.visit)
        for hour in range(LONGEST_STAY):
            self.now = p.admission + timedelta(hours=hour)
            if hour:
                self.course.step()
            self.know(self.now)
            self.worst = [max(a, b) for a, b in zip(self.worst, self.course.sites, strict=True)]
            if self.icu and self.rng.random() < self.course.hazard:
                self._die(self.now + timedelta(minutes=int(self.rng.integers(60))))
                return
            self.hours_in_unit += 1
            self._treat(hour)
            if self._move(hour):
                break
            self.charting.rounds(hour, self.now, self.visit, icu=self.icu is not None)
        self._go_home()

    def care(self) -> tuple[float, ...]:
        """The vasopressor's rate, whether a ventilator runs, whether the subject is in the ICU."""
        ventilated, icu = self.support.ventilated is not None, self.icu is not None
        return self.support.norepinephrine, float(ventilated), float(icu)

    # ---- where

    def _move(self, hour: int) -> bool:
        """Changes of place in this hour; true when the subject leaves hospital."""
        sick, rng = self.course.burden + JUDGEMENT * float(self.rng.standard_normal()), self.rng
        day_time = 9 <= self.now.hour < 20
        if self.icu is None:
            again = self.hours_in_unit > 4 and hour > self.profile.before and sick > 1.2
            if hour == self.profile.before or again:
                self._enter_icu(hour)
            elif hour > self.profile.before and day_time and self.hours_in_unit > 24:
                return sick < 0.3 and rng.random() < 0.07
        elif (
            not self.support.any
            and sick < 0.45
            and self.hours_in_unit >= 20
            and day_time
            and rng.random() < 0.3
        ):
            self._leave_icu(self.now + timedelta(minutes=30))
            self.hours_in_unit = 0
        return False

    def _enter_icu(self, hour: int) -> None:
        self.icu, self.hours_in_unit = self.now, 0
        if hour == self.profile.before and self.rng.random() < self.profile.reason.ventilated:
            self._ventilate()

    def _leave_icu(self, at: datetime) -> None:
        assert self.icu is not None
        self.chart.detail("VISIT/ICU", self.icu, at, self.visit)
        self.icu = None

    def _end_visit(self, at: datetime, to: str) -> None:
        self.chart.end_visit(self.visit, at)
        self.chart.observation(f"DISCHARGE/{to}", at, at + timedelta(minutes=1), self.visit)
        for code, (_, site, bound) in COMPLICATIONS.items():
            seen = self.worst[site] + JUDGEMENT * float(self.rng.standard_normal())
            if seen > bound and self.rng.random() < 0.9:
                self.chart.condition(f"ICD10CM/{code}", at.date(), self.visit)

    def _die(self, at: datetime) -> None:
        self._stop_all(at)
        if self.icu:
            self._leave_icu(at)
        self._end_visit(at, "EXPIRED")
        self.chart.person(self.profile.who.roster(alive=False))
        self.chart.period(self.first_day, at.date())
        self.chart.death(at.date(), at)

    def _go_home(self) -> None:
        at = self.now + timedelta(minutes=40)
        self._stop_all(at)
        if self.icu:
            self._leave_icu(at)
        frail = self.course.reserve + JUDGEMENT * float(self.rng.standard_normal()) < -0.5
        self._end_visit(at, "FACILITY" if frail or self.rng.random() < 0.12 else "HOME")
        self.chart.person(self.profile.who.roster(alive=True))
        day = int(self.rng.integers(10, 45))
        last = at
        while day <= self.profile.follow_up:
            last = self._clinic(at.replace(hour=0, minute=0) + timedelta(days=day))
            day += int(self.rng.integers(20, 90))
        self.chart.period(self.first_day, last.date())

    def _earlier(self) -> None:
        """A visit to the clinic in the year before, with what was usual for this person."""
        sick, self.course.burden = self.course.burden, DYNAMICS.floor
        day = self.profile.admission.replace(hour=0, minute=0) - timedelta(
            days=int(self.rng.integers(30, 400))
        )
        self.first_day = day.date()
        self.know(day)
        self._clinic(day, self.profile.comorbidities)
        self.course.burden = sick

    def _clinic(self, day: datetime, codes: tuple[str, ...] = ()) -> datetime:
        at = day + timedelta(minutes=int(self.rng.integers(8 * 60, 16 * 60)))
        visit = self.chart.visit("VISIT/OUTPATIENT", at, at + timedelta(minutes=40))
        for code in codes:
            self.chart.condition(f"ICD10CM/{code}", at.date(), visit)
        self.charting.clinic(at, visit)
        return at

    # ---- what is done

    def _new_potency(self) -> float:
        return POTENCY[0] * math.exp(POTENCY[1] * float(self.rng.standard_normal()))

    def _treat(self, hour: int) -> None:
        p, rng = self.profile, self.rng
        if hour == 1:
            self.course.start(self._treatment())
        if hour % 8 == 1:
            self._scheduled(hour)
        if hour % 24 == 20 and hour > 24:
            # What does not help within a day is changed, as far as it shows.
            worse = self.course.velocity + 0.006 * float(rng.standard_normal()) > 0.003
            if worse and self.course.burden > 0.5:
                self.failing += 1
                self.potency = 1.15 * max(self.potency, self._new_potency())
                self.antibiotic = "meropenem" if self.failing > 1 else "vancomycin"
                self.course.start(self._treatment())
                if p.reason.code in INFECTIONS:
                    self._give(self.antibiotic, 1000)
        if self.icu is None:
            return
        judged = [
            x + JUDGEMENT * float(n) for x, n in zip(self.course.sites, rng.standard_normal(6), strict=True)
        ]
        before = (self.support.norepinephrine > 0, self.support.ventilated)
        self._pressure(hour, judged[CARDIOVASCULAR])
        self._breathing(hour, judged[RESPIRATORY], judged[NEUROLOGIC])
        self._kidney(judged[RENAL])
        if before != (self.support.norepinephrine > 0, self.support.ventilated) and hour > 1:
            self.course.adjust(self._treatment())

    def _treatment(self) -> Treatment:
        drain = DRAIN + DRAIN_VASOPRESSOR * (self.support.norepinephrine > 0)
        return Treatment(self.potency, drain + DRAIN_VENTILATOR * (self.support.ventilated is not None))

    def _pressure(self, hour: int, heart: float) -> None:
        """Norepinephrine: started in shock, titrated, weaned. Charted at changes and every 4 hours."""
        running = self.support.norepinephrine > 0
        if (not running and heart > 1.75) or (running and heart > 1.15):
            rate = round(0.06 * math.exp(0.9 * (max(heart, 1.2) - 1.75)), 2)
            since, charted = self.charted_rate
            self.support.norepinephrine = rate
            if not running or abs(rate - charted) >= 0.03 or hour - since >= 4:
                self._give("norepinephrine", rate)
                if rate > 0.15:
                    self._give("vasopressin", 0.03)
                self.charted_rate = (hour, rate)
            if not running:
                self._give("sodium chloride", 1000)
        elif running:
            self.support.norepinephrine = 0.0
        elif heart > 1.2 and hour % 6 == 0:
            self._give("sodium chloride", 500)

    def _breathing(self, hour: int, lung: float, brain: float) -> None:
        s = self.support
        if s.ventilated:
            hours = (self.now - s.ventilated) / timedelta(hours=1)
            if lung < 0.95 and brain < 1.9 and hours >= 8 and 7 <= self.now.hour < 21:
                s.ventilated = self._end_device(VENTILATOR, s.ventilated, self.now)
            elif hour % 8 == 4:
                self._give("propofol", 30)
                self._give("fentanyl", 50)
        elif lung > 1.6 or brain > 2.1:
            if s.high_flow:
                s.high_flow = self._end_device(HIGH_FLOW, s.high_flow, self.now)
            self._ventilate()
        elif s.high_flow:
            if lung < 0.75:
                s.high_flow = self._end_device(HIGH_FLOW, s.high_flow, self.now)
        elif lung > 1.15:
            s.high_flow = self.now + timedelta(minutes=5)

    def _ventilate(self) -> None:
        self.support.ventilated = self.now + timedelta(minutes=10)
        self._give("propofol", 40)
        self._give("fentanyl", 75)

    def _kidney(self, kidney: float) -> None:
        s = self.support
        if s.dialysis is None and kidney > 2.2:
            s.dialysis = self.now + timedelta(minutes=15)
        elif s.dialysis and kidney < 1.4:
            s.dialysis = self._end_device(DIALYSIS, s.dialysis, self.now)

    def _end_device(self, key: str, since: datetime, at: datetime) -> None:
        self.chart.device(key, since, max(at, since), self.visit)

    def _stop_all(self, at: datetime) -> None:
        s = self.support
        for key, since in ((VENTILATOR, s.ventilated), (HIGH_FLOW, s.high_flow), (DIALYSIS, s.dialysis)):
            if since:
                self._end_device(key, since, at)
        s.norepinephrine, s.ventilated, s.high_flow, s.dialysis = 0.0, None, None, None

    def _scheduled(self, hour: int) -> None:
        reason = self.profile.reason.code
        if reason in INFECTIONS:
            self._give(self.antibiotic, 4000 if self.antibiotic == "piperacillin" else 1000)
        if reason == "I50.9":
            self._give("furosemide", 40)
        if reason == "K92.2":
            self._give("pantoprazole", 40)
        elif hour % 24 == 9:
            self._give("heparin", 5000)

    def _give(self, name: str, amount: float) -> None:
        _, unit, route = DRUGS[name]
        at = self.now + timedelta(minutes=int(self.rng.integers(1, 25)))
        self.chart.drug(DRUG_KEY[name], at, amount=amount, unit=unit, route=route, days=0, visit=self.visit)


SIMULATOR = Simulator(
    tables=tuple(t for t in HEADERS if t not in ("procedure_occurrence", "note")),
    concepts=concepts,
    truth_columns=(*truth_columns(DYNAMICS), "z_norepinephrine", "z_ventilated", "z_in_icu"),
    first_person=FIRST_PERSON,
    stream=4,
    life=Patient,
)
