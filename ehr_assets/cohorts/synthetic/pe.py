"""The embedded pulmonary embolism cohort: everybody had a CT angiogram of the chest, and what came of it.

What belongs here: the course of care of one subject in days around the index study (before it, the stay, the
clinic, admissions again). It has the shape of INSPECT (Huang et al., NeurIPS 2023): an index study, dense
records around it, then death, readmission and pulmonary hypertension; about one study in six shows no
embolism. Who falls ill is `pe_subjects.py`, the hidden state `engine.py`, the views of it `pe_views.py`,
numbers and codes `pe_catalog.py`.
"""

import math
from datetime import datetime, time, timedelta

import numpy as np

from ehr_assets.cohorts.synthetic.engine import Treatment, truth_columns
from ehr_assets.cohorts.synthetic.life import Life, Simulator
from ehr_assets.cohorts.synthetic.pe_catalog import (
    ADMITTED_FOR,
    ANALYTES,
    ANTICOAGULANTS,
    BLEEDING,
    DRUG_KEY,
    DRUGS,
    DYNAMICS,
    EMBOLISM,
    EMBOLISM_WITH_STRAIN,
    HYPERTENSION,
    PULMONARY_HYPERTENSION_RVSP,
    concepts,
)
from ehr_assets.cohorts.synthetic.pe_subjects import (
    FIRST_PERSON,
    draw_course,
    draw_profile,
    resting_reserve,
)
from ehr_assets.cohorts.synthetic.pe_views import ARRIVAL, CLINIC, MORNING, SYMPTOMS, Views
from ehr_assets.cohorts.synthetic.tables import HEADERS, Chart
from ehr_assets.cohorts.synthetic.views import Bedside

DRAIN = 0.0025  # of anticoagulation on the reserve, per day
CHRONIC_AFTER = 75  # days of treatment before a raised pressure is called chronic
DENSE_TRUTH = 30  # days for which the truth is told daily; weekly after


class Patient(Life):
    """One subject's life from some months before the index study to death or censoring, day by day."""

    def __init__(self, chart: Chart, seed: int, index: int, rng: np.random.Generator) -> None:
        super().__init__(chart, rng)
        self.profile = draw_profile(seed, index, rng)
        self.course = draw_course(self.profile, rng)
        self.began = self.course.reserve
        bedside = Bedside.draw(chart, ANALYTES, rng)
        self.views = Views(bedside, self.course, self.profile.who.person.female)
        self.index_day = datetime.combine(self.profile.index, time())
        self.visit: int | None = None  # the stay under way
        self.leaves = 0
        self.left: int | None = None
        self.agent: str | None = None
        self.until = self.refill = 0
        self.next_clinic = self.profile.days + 1
        self.next_echo: int | None = None
        self.symptomatic: set[int] = set()  # days with a visit before the index study
        self.hypertension = False
        self.discharge_codes: list[str] = []

    def live(self) -> None:
        p = self.profile
        self._before()
        for day in range(p.first, p.days):
            self.today = self.index_day + timedelta(days=day)
            if day == p.onset:
                self._strike(p.burden, p.velocity)
            elif day > p.onset:
                self.course.step()
            else:
                self._rest(day)
            if day <= DENSE_TRUTH or day % 7 == 0:
                self.know(self.today)
            if day > 0 and self.rng.random() < self.course.hazard:
                self._finish(day - 1, alive=False)
                return
            self._day(day)
        self._finish(p.days - 1, alive=True)

    def care(self) -> tuple[float, float]:
        """Whether an anticoagulant is taken, and whether the subject is in hospital."""
        return float(self.agent is not None), float(self.visit is not None)

    def _finish(self, day: int, *, alive: bool) -> None:
        """Censoring after `day`, or death in the night that follows it."""
        p, last = self.profile, self.index_day + timedelta(days=day)
        if self.visit is not None:
            # Of the dead, too, the stay is coded; on a day of which the records are complete.
            self._leave(day, last + timedelta(hours=23, minutes=59))
        self.chart.person(p.who.roster(alive=alive))
        end = last if alive else last + timedelta(days=1)
        self.chart.period((self.index_day + timedelta(days=p.start)).date(), end.date())
        if not alive:
            self.chart.death(end.date())

    def _at(self, first: float, last: float) -> datetime:
        """A time of today between two hours."""
        return self.today + timedelta(minutes=int(self.rng.integers(int(first * 60), int(last * 60))))

    # ---- days

    def _before(self) -> None:
        """Months or years without a clot: what is usual for this person, and where its health is heading."""
        p, rng = self.profile, self.rng
        for number, day in enumerate(self._days_between(p.start, p.first - 2, (30, 110))):
            self.today = self.index_day + timedelta(days=day)
            self._rest(day)
            self.know(self.today)
            visit = self._outpatient(CLINIC)
            if number == 0:
                for code in p.comorbidities:
                    self.chart.condition(f"ICD10CM/{code}", self.today.date(), visit)
        if p.sees_doctor:
            self.symptomatic = set(self._days_between(p.onset + int(rng.integers(0, 3)), 0, (2, 5)))

    def _days_between(self, first: int, last: int, gap: tuple[int, int]) -> list[int]:
        days = [first]
        while days[-1] < last:
            days.append(days[-1] + int(self.rng.integers(*gap)))
        return days[:-1]

    def _rest(self, day: int) -> None:
        self.course.reserve = resting_reserve(self.course, self.began, day - self.profile.start)

    def _day(self, day: int) -> None:
        p, rng = self.profile, self.rng
        if day == p.admitted and day < 0:
            at = self._at(7, 20)
            self._admit(day, at, p.index_stay - day, p.primary)
            self.views.signs(at + timedelta(minutes=15), self._stay())
            self.views.blood(MORNING, at + timedelta(minutes=30), self._stay())
        elif day == 0:
            self._index_study()
        elif self.visit is not None:
            self._ward_day(day)
        elif day > 0:
            self._home_day(day)
        elif day in self.symptomatic:
            self._outpatient(SYMPTOMS)
        if self.agent is not None and day >= self.refill:
            self._renew(day)
        bleeds = day > 0 and self.agent is not None and day != self.left
        if bleeds and rng.random() < 0.0003 * math.exp(-0.9 * self.course.reserve):
            self._bleed(day)

    def _index_study(self) -> None:
        p, rng = self.profile, self.rng
        arrival = self._at(1, 12)
        if self.visit is None:
            self._admit(0, arrival, p.index_stay, None)
            self.views.signs(arrival + timedelta(minutes=12), self._stay(), seen=1.0)
            self.views.blood(ARRIVAL, arrival + timedelta(minutes=35), self._stay())
        else:
            self._ward_day(0)
        scan = self.today + timedelta(hours=13, minutes=int(rng.integers(0, 8 * 60)))
        for hour in range(2, 13, 2):
            if arrival + timedelta(hours=hour) < scan:
                self.views.signs(arrival + timedelta(hours=hour), self._stay())
        self.know(scan)
        seen = self.views.angiogram(scan, self._stay())
        if seen > 0.0:
            self._embolism(0, scan, seen)
        else:
            self.discharge_codes.append("ICD10CM/" + self._other_reason())
            self.leaves = min(self.leaves, int(rng.integers(1, 5)))
        for hour in (1, 2):
            self.views.signs(scan + timedelta(hours=hour), self._stay())

    def _embolism(self, day: int, scan: datetime, seen: float) -> None:
        """Treats what an angiogram showed."""
        rng, central = self.rng, self.course.sites[0]
        self.discharge_codes.append(EMBOLISM_WITH_STRAIN if central > 1.3 else EMBOLISM)
        if self.agent is None:
            names = list(ANTICOAGULANTS)
            agent = names[int(rng.choice(len(names), p=list(ANTICOAGULANTS.values())))]
            self.agent = "enoxaparin" if self.profile.cancer and rng.random() < 0.6 else agent
            self._give("heparin", scan + timedelta(minutes=80))
            months = 24 if self.profile.cancer or rng.random() < 0.3 else int(rng.integers(3, 9))
            self.until = day + 30 * months
            self.refill = day + int(rng.integers(1, 4))
            self.course.start(Treatment(self.profile.potency, DRAIN))
        if central > 2.0 and rng.random() < 0.6:
            self._give("alteplase", scan + timedelta(hours=2))
            self.course.remove(0.5 + 0.4 * float(rng.random()), 0, self.course.offsets[0])
            self.course.reserve -= 0.1
        if seen > 0.4 and rng.random() < 0.75:
            self.views.echo(scan + timedelta(minutes=int(rng.integers(40, 170))), self._stay())
        self.next_echo = day + int(rng.integers(80, 130))
        self.know(scan + timedelta(hours=3))

    def _ward_day(self, day: int) -> None:
        sick = self.course.burden > 1.0 or self.course.reserve < -0.6
        rounds = (1, 5, 9, 13, 17, 21) if sick else (6, 14, 22)
        if day == self.leaves:
            rounds = (6,)
        for hour in rounds:
            self.views.signs(self._at(hour, hour + 0.9), self._stay())
        self.views.blood(MORNING, self._at(5, 7.5), self._stay())
        if self.course.sites[0] > 0.8:
            self._give("oxygen", self._at(8, 9))
        if day >= self.leaves:
            if self.course.hazard > 0.006 and self.rng.random() < 0.7:
                self.leaves = day + 1  # not fit to go
            else:
                self._leave(day, self._at(13, 17))

    def _home_day(self, day: int) -> None:
        rng, course = self.rng, self.course
        away = day - (self.left if self.left is not None else -60)
        recur = 0.00016 * (0.3 if self.agent else 1.0) * (2.5 if self.profile.cancer else 1.0)
        strain = math.exp(min(0.7 * max(course.burden, 0.0) - 1.6 * course.reserve, 3.0))
        luck = rng.random()
        if luck < recur:
            self._strike(float(rng.normal(1.0, 0.6)), float(rng.normal(0.01, 0.02)))
            self._readmit(day, None)
            scan = self._at(16, 20)
            seen = self.views.angiogram(scan, self._stay())
            if seen > 0.0:
                self._embolism(day, scan, seen)
        elif luck < recur + 0.00042 * (1 + 6.0 * math.exp(-away / 18)) * strain:
            self._readmit(day, "ICD10CM/" + self._other_reason())
        elif day >= self.next_clinic:
            gap = (28, 60) if course.burden > 0.3 or course.reserve < -0.6 else (45, 100)
            self.next_clinic = day + int(rng.integers(*gap))
            if rng.random() < 0.93:
                self._follow_up(day)

    def _strike(self, burden: float, velocity: float) -> None:
        """An embolism: what it obstructs at once also costs reserve."""
        self.course.strike(burden, velocity)
        self.course.reserve -= 0.42 * max(burden, 0.0)

    # ---- contacts

    def _outpatient(self, panel: dict[str, float]) -> int:
        at = self._at(8, 16)
        visit = self.chart.visit(
            "VISIT/OUTPATIENT", at, at + timedelta(minutes=int(self.rng.integers(15, 90)))
        )
        self.views.signs(at + timedelta(minutes=5), visit, seen=0.8)
        self.views.blood(panel, at + timedelta(minutes=20), visit)
        return visit

    def _follow_up(self, day: int) -> None:
        visit = self._outpatient(CLINIC)
        if self.agent is not None and day >= self.until:
            self._stop()
        if self.next_echo is None or day < self.next_echo:
            return
        # Who is breathless or failing is looked at; of the others only some.
        breathless = self.course.burden > 0.2 or self.course.reserve < -0.5
        self.next_echo = day + int(self.rng.integers(90, 200))
        if self.rng.random() > (0.9 if breathless or self.hypertension else 0.35):
            return
        pressure = self.views.echo(self._at(8, 16), visit)
        if pressure > PULMONARY_HYPERTENSION_RVSP and not self.hypertension and day >= CHRONIC_AFTER:
            self.hypertension = True
            kind = HYPERTENSION[0] if self.course.resistance > 0.4 else HYPERTENSION[1]
            self.chart.condition(kind, self.today.date(), visit)
            self._give("riociguat" if kind == HYPERTENSION[0] else "furosemide", self._at(15, 16), visit)

    def _admit(self, day: int, at: datetime, nights: int, code: str | None) -> None:
        self.visit = self.chart.visit("VISIT/INPATIENT", at, at)
        self.leaves = day + nights
        self.discharge_codes = [f"ICD10CM/{code}"] if code else []

    def _readmit(self, day: int, key: str | None) -> None:
        at = self._at(6, 15)
        self._admit(day, at, 1 + int(self.rng.geometric(0.25)), None)
        self.discharge_codes = [key] if key else []
        self.views.signs(at + timedelta(minutes=10), self._stay(), seen=1.0)
        self.views.blood(ARRIVAL, at + timedelta(minutes=40), self._stay())

    def _stay(self) -> int:
        assert self.visit is not None
        return self.visit

    def _leave(self, day: int, at: datetime) -> None:
        """Discharge: what the stay was for is coded now."""
        self.chart.end_visit(self._stay(), at)
        for key in self.discharge_codes:
            self.chart.condition(key, at.date(), self._stay())
        self.visit, self.left, self.discharge_codes = None, day, []
        self.next_clinic = day + int(self.rng.integers(7, 21))

    def _bleed(self, day: int) -> None:
        self.course.reserve -= 0.35
        if self.visit is None:
            self._readmit(day, BLEEDING)
        else:
            self.discharge_codes.append(BLEEDING)
        if self.rng.random() < 0.5:
            self._stop()
        self.know(self.today + timedelta(hours=23))

    # ---- drugs

    def _renew(self, day: int) -> None:
        assert self.agent is not None
        self._give(self.agent, self._at(17, 20))
        self.refill = day + DRUGS[self.agent][4] + int(self.rng.integers(-2, 6))

    def _stop(self) -> None:
        self.agent = None
        self.course.stop()

    def _give(self, name: str, at: datetime, visit: int | None = None) -> None:
        _, amount, unit, route, days = DRUGS[name]
        seen_in = self.visit if visit is None else visit
        self.chart.drug(DRUG_KEY[name], at, amount=amount, route=route, days=days, visit=seen_in, unit=unit)

    def _other_reason(self) -> str:
        return list(ADMITTED_FOR)[int(self.rng.choice(len(ADMITTED_FOR), p=list(ADMITTED_FOR.values())))]


SIMULATOR = Simulator(
    tables=tuple(t for t in HEADERS if t not in ("observation", "visit_detail", "device_exposure")),
    concepts=concepts,
    truth_columns=(*truth_columns(DYNAMICS), "z_anticoagulated", "z_inpatient"),
    first_person=FIRST_PERSON,
    stream=2,
    life=Patient,
)
