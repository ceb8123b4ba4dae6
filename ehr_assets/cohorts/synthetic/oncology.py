"""The embedded oncology cohort: who falls ill, how they are treated, and the raw tables that come of it.

What belongs here: the course of care of one subject (visits, lines of therapy, surgery, imaging and what
follows from it). Who falls ill is `oncology_subjects.py`, the hidden state `engine.py`,
the views of it `oncology_views.py`, numbers and codes `oncology_catalog.py`.
"""

import math
from datetime import datetime, time, timedelta

import numpy as np

from ehr_assets.cohorts.synthetic import oncology_views as views
from ehr_assets.cohorts.synthetic.engine import Treatment, truth_columns
from ehr_assets.cohorts.synthetic.life import Life, Simulator
from ehr_assets.cohorts.synthetic.oncology_catalog import (
    DRUG_KEY,
    DRUGS,
    DYNAMICS,
    LOCAL,
    METASTASIS,
    NEW_LESION,
    SITES,
    Regimen,
    concepts,
)
from ehr_assets.cohorts.synthetic.oncology_subjects import FIRST_PERSON, STREAM, draw_course, draw_profile
from ehr_assets.cohorts.synthetic.tables import HEADERS, Chart
from ehr_assets.cohorts.synthetic.views import Reported, filed

OPERABLE = {"I": 0.92, "II": 0.85, "III": 0.5, "IV": 0.0}
ADJUVANT = {"I": 0.05, "II": 0.45, "III": 0.7, "IV": 0.0}
STEP_DAYS = DYNAMICS.step.days


class Patient(Life):
    """One subject's life from diagnosis to death or censoring, week by week."""

    def __init__(self, chart: Chart, seed: int, index: int, rng: np.random.Generator) -> None:
        super().__init__(chart, rng)
        self.profile = draw_profile(index, rng)
        self.body = views.Body.draw(self.profile.indication, self.profile.person.female, self.rng)
        self.course = draw_course(self.profile, self.rng)
        self.imaging = views.Imaging(involved={LOCAL})
        self.start = datetime.combine(self.profile.diagnosis, time())
        self.lines_given = 0
        self.regimen: Regimen | None = None
        self.cycle = 0
        self.cycles_planned = 0
        self.dose = 1.0
        self.next_cycle = self.next_clinic = self.next_scan = 0
        self.next_line: int | None = None  # the week a planned line starts
        self.surgery: int | None = None
        self.supportive = False
        self.scan: Reported[views.Reading] | None = None  # read, not yet acted upon
        self.scanned_line = 0  # how many lines had been given by then
        self.metastases: list[str] = []  # reported, not yet in the problem list

    def live(self) -> None:
        self._diagnosis()
        for week in range(self.profile.weeks):
            if week:
                self.course.step()
            self.now = self.start + timedelta(days=STEP_DAYS * week)
            self.know(self.now)
            if self.rng.random() < self.course.hazard:
                day = (self.now + timedelta(days=int(self.rng.integers(STEP_DAYS)))).date()
                if day > self.profile.diagnosis:
                    self.chart.death(day)
                    self.chart.period(self.profile.diagnosis, day)
                    return
            self._week(week)
        last = self.start + timedelta(days=STEP_DAYS * self.profile.weeks - 1)
        self.chart.period(self.profile.diagnosis, last.date())

    def care(self) -> tuple[float, float]:
        """Whether a regimen is running, and how many lines remain to be tried."""
        left = len(self.profile.indication.lines) - self.lines_given
        return float(self.regimen is not None), 0.0 if self.supportive else float(left)

    def _moment(self) -> datetime:
        """A time in clinic hours, on one of the first five days of this week."""
        minutes = int(self.rng.integers(8 * 60, 16 * 60))
        return self.now + timedelta(days=int(self.rng.integers(5)), minutes=minutes)

    # ---- what happens in a week

    def _diagnosis(self) -> None:
        p, rng = self.profile, self.rng
        self.chart.person(p.person)
        self.now = self.start
        at = self.start + timedelta(minutes=int(rng.integers(8 * 60, 16 * 60)))
        visit = self._visit(at)
        self.chart.condition(f"ICD10CM/{p.indication.code}", p.diagnosis, visit)
        for code in p.comorbidities:
            self.chart.condition(f"ICD10CM/{code}", p.diagnosis, visit)
        staged = filed(at, rng, hours=60, late=0.1, late_days=7)
        self.chart.observation(f"ONC/STAGE/{p.stage}", at, staged, visit)
        views.laboratory(self.chart, self.body, self.course, at, visit, rng)
        views.performance(self.chart, self.body, self.course, at, visit, rng)
        self.imaging.rebase(self.course)
        if p.stage == "IV":
            seen = [k for k, x in enumerate(self.course.sites) if k != LOCAL and x > NEW_LESION]
            self.imaging.involved.update(seen)
            self.metastases = [SITES[k] for k in seen]
        known = (staged - self.start).days // STEP_DAYS + 1  # the first week in which the stage is known
        if rng.random() < OPERABLE[p.stage]:
            self.surgery = max(int(rng.integers(2, 7)), known)
        else:
            self.next_line = max(int(rng.integers(2, 6)), known)
        self.next_clinic = 1
        self.next_scan = int(rng.integers(8, 12))

    def _week(self, week: int) -> None:
        if self.scan and self.scan.filed <= self.now:
            self._read_scan(week, self.scan.found)
        if week == self.surgery:
            self._operate(week)
        elif week == self.next_line and self.regimen is None:
            self._start_line(week)
        elif self.regimen is not None and week >= self.next_cycle:
            self._cycle(week)
        elif self.regimen is None and week >= self.next_clinic:
            self._clinic(week)
        elif self.rng.random() < 0.0022 * math.exp(0.8 * views.frailty(self.course)):
            self._admit(self._moment(), days=int(self.rng.integers(2, 8)))
        if week >= self.next_scan and week != self.surgery:
            self._scan(week)

    def _visit(self, at: datetime) -> int:
        stay = timedelta(minutes=int(self.rng.integers(20, 180)))
        return self.chart.visit("VISIT/OUTPATIENT", at, at + stay)

    def _examine(self) -> tuple[datetime, int]:
        at = self._moment()
        visit = self._visit(at)
        views.laboratory(self.chart, self.body, self.course, at, visit, self.rng)
        views.performance(self.chart, self.body, self.course, at, visit, self.rng)
        for site in self.metastases:
            self.chart.condition(METASTASIS[site], at.date(), visit)
        self.metastases = []
        return at, visit

    def _clinic(self, week: int) -> None:
        """A visit off treatment; closer together with known disease than in surveillance after a cure."""
        gap = (5, 9) if self.supportive else (9, 14) if self.course.burden > 0.3 else (11, 16)
        self.next_clinic = week + int(self.rng.integers(*gap))
        if self.rng.random() < 0.05:
            return  # did not attend
        at, visit = self._examine()
        if self.supportive and self.rng.random() < 0.6:
            self._give("morphine", at, visit)

    def _admit(self, at: datetime, *, days: int) -> int:
        visit = self.chart.visit("VISIT/INPATIENT", at, at + timedelta(days=days))
        views.laboratory(self.chart, self.body, self.course, at + timedelta(hours=2), visit, self.rng)
        return visit

    def _operate(self, week: int) -> None:
        """Curative surgery: takes most of the burden; what it leaves decides whether the disease returns."""
        p, rng = self.profile, self.rng
        at = self._moment()
        visit = self.chart.visit("VISIT/INPATIENT", at, at + timedelta(days=int(rng.integers(2, 8))))
        self.chart.procedure(f"CPT4/{p.indication.surgery}", at.date(), visit)
        left = {"I": 2.6, "II": 2.2, "III": 1.8, "IV": 1.0}[p.stage] + 0.8 * rng.standard_normal()
        self.course.remove(max(self.course.burden + max(left, 0.3), 0.3), LOCAL, -1.0)
        self.course.reserve -= 0.25
        self.imaging.involved.discard(LOCAL)
        self.imaging.rebase(self.course)
        self.know(at)
        if rng.random() < ADJUVANT[p.stage]:
            self.next_line = week + int(rng.integers(5, 9))
        self.next_clinic = week + int(rng.integers(3, 6))
        self.next_scan = week + int(rng.integers(14, 22))

    def _start_line(self, week: int) -> None:
        p, rng, line = self.profile, self.rng, self.lines_given
        regimen = p.indication.lines[line]
        if line == 0 and p.indication.first_line_alternative and rng.random() < 0.35:
            regimen = p.indication.first_line_alternative
        adjuvant = line == 0 and self.surgery is not None
        self.lines_given += 1
        self.regimen, self.cycle, self.dose, self.next_line = regimen, 0, 1.0, None
        if adjuvant:
            self.cycles_planned = min(regimen.cycles, 4 if regimen.cycle <= 3 else 5)
        else:
            self.cycles_planned = regimen.cycles
        sensitivity = math.exp(0.4 * rng.standard_normal()) * 0.88**line
        self.potency = regimen.potency * sensitivity
        self.course.start(self._treatment())
        self.imaging.rebase(self.course)
        self.next_scan = week + int(rng.integers(8, 11))
        self.know(self._cycle(week))

    def _treatment(self) -> Treatment:
        assert self.regimen is not None
        # A lower dose spares the reserve more than it costs in effect.
        return Treatment(self.potency * self.dose**0.5, self.regimen.toxicity * self.dose)

    def _cycle(self, week: int) -> datetime:
        """A treatment visit; returns its time. Severe toxicity lowers the dose or ends the regimen."""
        regimen, rng = self.regimen, self.rng
        assert regimen is not None
        at, visit = self._examine()
        if self.cycle:
            grades = views.toxicity(self.chart, self.course, regimen.kind, self.cycle, at, visit, rng)
            worst = max(grades.values(), default=0)
            if worst >= 3:
                if rng.random() < 0.3:
                    self._admit(at + timedelta(hours=3), days=int(rng.integers(2, 7)))
                if grades.get("NEUTROPENIA", 0) >= 3 and rng.random() < 0.7:
                    self._give("filgrastim", at + timedelta(hours=1), visit)
                if rng.random() < (0.55 if self.dose < 0.9 else 0.3):
                    self._discontinue(week, at, visit)
                    return at
                self.dose = max(self.dose - 0.2, 0.6)
                self.course.adjust(self._treatment())
        if self.cycle >= self.cycles_planned:
            self._end_regimen(week)
            return at
        for agent in regimen.agents:
            # Leuprolide and tablets come in fixed doses, infusions by body size.
            size = (self.body.weight / 75) ** 0.5 if DRUGS[agent][2] == "intravenous" else 1.0
            self._give(agent, at + timedelta(minutes=45), visit, self.dose * size)
        if regimen.kind in ("platinum", "cytotoxic", "taxane") and rng.random() < 0.3:
            support = "ondansetron" if rng.random() < 0.6 else "dexamethasone"
            self._give(support, at + timedelta(minutes=15), visit)
        self.cycle += 1
        delayed = regimen.cycle < 6 and rng.random() < 0.1
        self.next_cycle = week + regimen.cycle + int(delayed)
        return at

    def _give(self, agent: str, at: datetime, visit: int, factor: float = 1.0) -> None:
        _, mg, route, days = DRUGS[agent]
        self.chart.drug(DRUG_KEY[agent], at, amount=mg * factor, route=route, days=days, visit=visit)

    def _discontinue(self, week: int, at: datetime, visit: int) -> None:
        when = filed(at, self.rng, hours=20, late=0.1, late_days=5)
        self.chart.observation("ONC/DISCONTINUATION", at, when, visit)
        self._end_regimen(week)
        if self.rng.random() < 0.4:
            self._plan_line(week, (3, 8))

    def _end_regimen(self, week: int) -> None:
        self.regimen = None
        self.course.stop()
        self.next_clinic = week + int(self.rng.integers(5, 9))
        self.next_scan = max(self.next_scan, week + 4)

    def _plan_line(self, week: int, gap: tuple[int, int]) -> None:
        """Plans the next line, unless none is left, the subject is too frail, or declines."""
        frail = views.frailty(self.course) > 2.8
        if self.lines_given >= len(self.profile.indication.lines) or frail or self.rng.random() < 0.1:
            self.supportive = True
            self.next_clinic = week + 2
            return
        self.next_line = week + int(self.rng.integers(*gap))
        self.next_clinic = self.next_line + 1

    def _scan(self, week: int) -> None:
        treated = self.regimen is not None
        self.scan = self.imaging.read(self.chart, self.course, self._moment(), self.rng, treated=treated)
        self.scanned_line = self.lines_given
        gap = (8, 11) if treated else (11, 15) if self.course.burden > 0.0 else (16, 27)
        self.next_scan = week + int(self.rng.integers(*gap))

    def _read_scan(self, week: int, reading: views.Reading) -> None:
        """What a scan showed is acted upon from the first week on that begins with its report."""
        self.scan = None
        # Diagnoses are coded at a later visit, and some never are.
        self.metastases += [s for s in reading.new if s in METASTASIS and self.rng.random() < 0.9]
        if reading.response != "PD" or self.supportive or self.lines_given != self.scanned_line:
            return
        if self.regimen is not None:
            self._end_regimen(week)
        if self.next_line is None:
            self._plan_line(week, (0, 5))


SIMULATOR = Simulator(
    tables=tuple(t for t in HEADERS if t not in ("visit_detail", "device_exposure")),
    concepts=concepts,
    truth_columns=(*truth_columns(DYNAMICS), "z_treated", "z_lines_left"),
    first_person=FIRST_PERSON,
    stream=STREAM,
    life=Patient,
)
