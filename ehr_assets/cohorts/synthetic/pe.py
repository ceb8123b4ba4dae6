"""The embedded pulmonary embolism cohort: everybody had a CT angiogram of the chest, and what came of it.

What belongs here: the course of care of one subject in days around the index study (before it, the stay, the
clinic, admissions again). It has the shape of INSPECT (Huang et al., NeurIPS 2023): an index study, dense
records around it, then death, readmission and pulmonary hypertension; about one study in six shows no
embolism. Who falls ill is `pe_subjects.py`, the hidden state `engine.py`, the views of it `pe_views.py`,
stays and drugs `pe_stays.py` and `pe_drugs.py`, numbers and codes `pe_catalog.py`.

What a study shows is acted upon when its report is filed, never before.
"""

import math
from datetime import datetime, time, timedelta

import numpy as np

from ehr_assets.cohorts.synthetic.engine import truth_columns
from ehr_assets.cohorts.synthetic.life import Life, Simulator
from ehr_assets.cohorts.synthetic.pe_catalog import (
    ANALYTES,
    BLEEDING,
    CENTRAL,
    DYNAMICS,
    HYPERTENSION,
    PULMONARY_HYPERTENSION_RVSP,
    concepts,
)
from ehr_assets.cohorts.synthetic.pe_drugs import Pharmacy
from ehr_assets.cohorts.synthetic.pe_stays import Stays
from ehr_assets.cohorts.synthetic.pe_subjects import (
    FIRST_PERSON,
    draw_course,
    draw_profile,
    resting_reserve,
)
from ehr_assets.cohorts.synthetic.pe_views import ARRIVAL, CLINIC, MORNING, SYMPTOMS, Scan, Views
from ehr_assets.cohorts.synthetic.tables import HEADERS, Chart
from ehr_assets.cohorts.synthetic.views import Bedside, Reported

CHRONIC_AFTER = 75  # days of treatment before a raised pressure is called chronic
DENSE_TRUTH = 30  # days for which the truth is told daily; weekly after
JUDGEMENT = 0.15  # error of the bedside judgement of the state
LAST_HOUR = 21.5  # what becomes known later in the day is acted upon tomorrow


class Patient(Life):
    """One subject's life from some months before the index study to death or censoring, day by day."""

    def __init__(self, chart: Chart, seed: int, index: int, rng: np.random.Generator) -> None:
        super().__init__(chart, rng)
        self.profile = draw_profile(seed, index, rng)
        self.course = draw_course(self.profile, rng)
        self.began = self.course.reserve
        bedside = Bedside.draw(chart, ANALYTES, rng)
        self.drugs = Pharmacy(chart, self.course, rng)
        self.views = Views(bedside, self.course, self.profile.who.person.female)
        self.index_day = datetime.combine(self.profile.index, time())
        self.stays = Stays(chart, rng)
        self.next_clinic = self.profile.days + 1
        self.next_echo: int | None = None
        self.symptomatic: set[int] = set()  # days with a visit before the index study
        self.hypertension = False
        self.scan: Reported[Scan] | None = None  # an angiogram nobody has acted upon yet
        self.raised: Reported[str] | None = None  # a pressure of which the subject is not told yet: its code

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
        return float(self.drugs.agent is not None), float(self.stays.visit is not None)

    def _finish(self, day: int, *, alive: bool) -> None:
        """Censoring after `day`, or death in the night that follows it."""
        p, last = self.profile, self.index_day + timedelta(days=day)
        if self.stays.visit is not None:
            # Of the dead, too, the stay is coded; on a day of which the records are complete.
            coded = last + timedelta(hours=23, minutes=59)
            if self.scan and self.scan.filed <= coded:
                self.stays.explain(self.scan.found)
            self.stays.end(day, coded)
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
            _, visit = self._outpatient(CLINIC)
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
            primary = f"ICD10CM/{p.primary}" if p.primary else None
            self.stays.begin(day, at, p.index_stay - day, primary)
            self.views.signs(at + timedelta(minutes=15), self.stays.here)
            self.views.blood(MORNING, at + timedelta(minutes=30), self.stays.here)
        elif day == 0:
            self._index_study()
        elif self.stays.visit is not None:
            self._ward_day(day)
        elif day > 0:
            self._home_day(day)
        elif day in self.symptomatic:
            self._outpatient(SYMPTOMS)
        if self.scan:
            self._read_scan(day, self.scan)
        treated = self.drugs.agent is not None
        if treated and day >= self.drugs.refill:
            self.drugs.renew(day, self._at(17, 20), self.stays.visit)
        bleeds = day > 0 and treated and day != self.stays.left
        if bleeds and rng.random() < 0.0003 * math.exp(-0.9 * self.course.reserve):
            self._bleed(day)

    def _index_study(self) -> None:
        p, rng = self.profile, self.rng
        arrival = self._at(1, 12)
        if self.stays.visit is None:
            self.stays.begin(0, arrival, p.index_stay, None)
            self.views.signs(arrival + timedelta(minutes=12), self.stays.here, seen=1.0)
            self.views.blood(ARRIVAL, arrival + timedelta(minutes=35), self.stays.here)
        else:
            self._ward_day(0)
        scan = self.today + timedelta(hours=13, minutes=int(rng.integers(0, 8 * 60)))
        for hour in range(2, 13, 2):
            if arrival + timedelta(hours=hour) < scan:
                self.views.signs(arrival + timedelta(hours=hour), self.stays.here)
        self.know(scan)
        self.scan = self.views.angiogram(scan, self.stays.here)
        for hour in (1, 2):
            self.views.signs(scan + timedelta(hours=hour), self.stays.here)

    def _read_scan(self, day: int, scan: Reported[Scan]) -> None:
        """What an angiogram shows is acted upon once it is reported, if today is long enough for it."""
        at = max(scan.filed, self.today)
        if at > self.today + timedelta(hours=LAST_HOUR):
            return
        self.scan = None
        self.stays.explain(scan.found)
        if scan.found.embolism:
            self._embolism(day, at, scan.found)
        else:
            self.stays.leaves = min(self.stays.leaves, day + int(self.rng.integers(1, 5)))

    def _embolism(self, day: int, at: datetime, scan: Scan) -> None:
        """Treats what an angiogram showed."""
        rng = self.rng
        if scan.clot > 0.4 and rng.random() < 0.75:
            self.views.echo(at + timedelta(minutes=int(rng.integers(20, 110))), self.stays.here)
        if self.drugs.agent is None:
            self.drugs.give("heparin", at + timedelta(minutes=int(rng.integers(5, 60))), self.stays.here)
            self.drugs.anticoagulate(day, cancer=self.profile.cancer, potency=self.profile.potency)
        if scan.central > 2.0 and rng.random() < 0.6:
            self.drugs.give("alteplase", at + timedelta(hours=2), self.stays.here)
            self.course.remove(0.5 + 0.4 * float(rng.random()), CENTRAL, self.course.offsets[CENTRAL])
            self.course.reserve -= 0.1
        self.next_echo = day + int(rng.integers(80, 130))
        self.know(at + timedelta(hours=2))

    def _ward_day(self, day: int) -> None:
        sick = self.course.burden > 1.0 or self.course.reserve < -0.6
        rounds = (1, 5, 9, 13, 17, 21) if sick else (6, 14, 22)
        if day == self.stays.leaves:
            rounds = (6,)
        for hour in rounds:
            self.views.signs(self._at(hour, hour + 0.9), self.stays.here)
        self.views.blood(MORNING, self._at(5, 7.5), self.stays.here)
        if self.course.sites[CENTRAL] + JUDGEMENT * float(self.rng.standard_normal()) > 0.8:
            self.drugs.give("oxygen", self._at(8, 9), self.stays.here)
        if day >= self.stays.leaves and not self.scan:
            if self.course.hazard > 0.006 and self.rng.random() < 0.7:
                self.stays.leaves = day + 1  # not fit to go
            else:
                self.stays.end(day, self._at(13, 17))
                self.next_clinic = day + int(self.rng.integers(7, 21))

    def _home_day(self, day: int) -> None:
        rng, course = self.rng, self.course
        away = day - (self.stays.left if self.stays.left is not None else -60)
        recur = 0.00016 * (0.3 if self.drugs.agent else 1.0) * (2.5 if self.profile.cancer else 1.0)
        strain = math.exp(min(0.7 * max(course.burden, 0.0) - 1.6 * course.reserve, 3.0))
        luck = rng.random()
        if luck < recur:
            self._strike(float(rng.normal(1.0, 0.6)), float(rng.normal(0.01, 0.02)))
            self._readmit(day, None)
            self.scan = self.views.angiogram(self._at(16, 20), self.stays.here)
        elif luck < recur + 0.00042 * (1 + 6.0 * math.exp(-away / 18)) * strain:
            self._readmit(day, self.stays.other_reason())
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

    def _outpatient(self, panel: dict[str, float]) -> tuple[datetime, int]:
        at = self._at(8, 16)
        visit = self.chart.visit(
            "VISIT/OUTPATIENT", at, at + timedelta(minutes=int(self.rng.integers(15, 90)))
        )
        self.views.signs(at + timedelta(minutes=5), visit, seen=0.8)
        self.views.blood(panel, at + timedelta(minutes=20), visit)
        return at, visit

    def _follow_up(self, day: int) -> None:
        at, visit = self._outpatient(CLINIC)
        if self.drugs.agent is not None and day >= self.drugs.until:
            self.drugs.stop()
        if self.raised and self.raised.filed <= at:
            self._hypertension(self.raised.found, at, visit)
        if self.next_echo is None or day < self.next_echo:
            return
        # Who is breathless or failing is looked at; of the others only some.
        breathless = self.course.burden > 0.2 or self.course.reserve < -0.5
        self.next_echo = day + int(self.rng.integers(90, 200))
        if self.rng.random() > (0.9 if breathless or self.hypertension else 0.35):
            return
        pressure = self.views.echo(at + timedelta(minutes=int(self.rng.integers(25, 120))), visit)
        chronic = not self.hypertension and day >= CHRONIC_AFTER
        if chronic and pressure.found > PULMONARY_HYPERTENSION_RVSP:
            scar = self.course.resistance + JUDGEMENT * float(self.rng.standard_normal())
            self.raised = Reported(HYPERTENSION[0] if scar > 0.4 else HYPERTENSION[1], pressure.filed)
            self.next_clinic = min(self.next_clinic, day + int(self.rng.integers(5, 15)))  # called back

    def _hypertension(self, kind: str, at: datetime, visit: int) -> None:
        """The diagnosis, and the drug for it, at the first visit after the echocardiogram was reported."""
        self.hypertension, self.raised = True, None
        self.chart.condition(kind, at.date(), visit)
        drug = "riociguat" if kind == HYPERTENSION[0] else "furosemide"
        self.drugs.give(drug, at + timedelta(minutes=30), visit)

    def _readmit(self, day: int, key: str | None) -> None:
        at = self._at(6, 15)
        self.stays.begin(day, at, 1 + int(self.rng.geometric(0.25)), key)
        self.views.signs(at + timedelta(minutes=10), self.stays.here, seen=1.0)
        self.views.blood(ARRIVAL, at + timedelta(minutes=40), self.stays.here)

    def _bleed(self, day: int) -> None:
        self.course.reserve -= 0.35
        if self.stays.visit is None:
            self._readmit(day, BLEEDING)
        else:
            self.stays.codes.append(BLEEDING)
        if self.rng.random() < 0.5:
            self.drugs.stop()
        self.know(self.today + timedelta(hours=23, minutes=45))


SIMULATOR = Simulator(
    tables=tuple(t for t in HEADERS if t not in ("observation", "visit_detail", "device_exposure")),
    concepts=concepts,
    truth_columns=(*truth_columns(DYNAMICS), "z_anticoagulated", "z_inpatient"),
    first_person=FIRST_PERSON,
    stream=2,
    life=Patient,
)
