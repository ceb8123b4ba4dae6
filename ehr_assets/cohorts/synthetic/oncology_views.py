"""What the oncology records show of the latent state: labs, performance, toxicity and imaging.

What belongs here: the noisy, delayed and partly missing views. Each tells a level (how much disease, how much
reserve), offset by constants of the person, and none tells the velocity: that takes several of them and the
treatment between. Who is seen when, and what is done about it, is `oncology.py`.
"""

import math
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from ehr_assets.cohorts.synthetic.engine import Course
from ehr_assets.cohorts.synthetic.oncology_catalog import (
    ECOG,
    LABS,
    LOCAL,
    MARKER_DRAWN,
    MARKERS,
    NEW_LESION,
    SITES,
    TOXICITY_PROFILE,
    WEIGHT,
    Indication,
)
from ehr_assets.cohorts.synthetic.tables import Chart
from ehr_assets.cohorts.synthetic.views import Reported, filed

# Changes of log sum of diameters: RECIST 1.1 asks -30 % from baseline for a partial response, +20 % from the
# nadir for progression. One site needs more, as it has fewer lesions to average the reading error over.
PARTIAL_RESPONSE, PROGRESSION, SITE_PROGRESSION = math.log(0.7), math.log(1.2), math.log(1.3)
READING_ERROR, SITE_READING_ERROR = 0.06, 0.09
# Latent severities at which a toxicity is grade 1, 2, 3, 4; chance that a grade is written down at all.
GRADES = (0.9, 1.5, 2.15, 3.1)
GRADE_RECORDED = (0.0, 0.25, 0.6, 0.95, 1.0)


@dataclass
class Body:
    """Constants of a person that shift every view of the state, so that one value says little."""

    indication: Indication
    female: bool
    weight: float
    offsets: dict[str, float]
    ecog: int | None = None  # as last written down

    @classmethod
    def draw(cls, indication: Indication, female: bool, rng: np.random.Generator) -> "Body":
        keys = [*LABS, "marker"]
        offsets = dict(zip(keys, rng.standard_normal(len(keys)).tolist(), strict=True))
        weight = float(rng.normal(69 if female else 83, 12))
        return cls(indication, female, min(max(weight, 42.0), 140.0), offsets)


def laboratory(
    chart: Chart, body: Body, course: Course, at: datetime, visit: int, rng: np.random.Generator
) -> None:
    """The panel drawn at a visit: each analyte is there or not, and filed hours (some, days) later."""
    values = _lab_values(body, course)
    drawn = rng.random(len(LABS)) < [chance for _, _, chance in LABS.values()]
    for (code, (_, unit, _)), there in zip(LABS.items(), drawn, strict=True):
        if there:
            mean, person, noise, log = values[code]
            value = mean + person * body.offsets[code] + noise * rng.standard_normal()
            value = math.exp(value) if log else max(value, 0.3)
            when = filed(at, rng, hours=5, late=0.05, late_days=2)
            chart.measurement(f"LOINC/{code}", at, value, unit, when, visit)
    marker = body.indication.marker
    if marker and rng.random() < MARKER_DRAWN:
        _, unit, median = MARKERS[marker]
        level = max(course.burden, -1.0) + 0.9 * body.offsets["marker"] + 0.22 * rng.standard_normal()
        when = filed(at, rng, hours=20, late=0.08, late_days=3)
        chart.measurement(marker, at, median * math.exp(level), unit, when, visit)


def _lab_values(body: Body, course: Course) -> dict[str, tuple[float, float, float, bool]]:
    """By LOINC code: mean given the state, spread between persons, noise, and whether these are logs."""
    burden, reserve, drain = max(course.burden, 0.0), course.reserve, course.toxicity
    sites = dict(zip(SITES, course.sites, strict=True))
    liver, bone = max(sites["LIVER"], 0.0), max(sites["BONE"], 0.0)
    hemoglobin = (12.8 if body.female else 13.8) + 0.9 * reserve - 20 * drain - 0.3 * burden
    return {
        "718-7": (hemoglobin, 0.7, 0.5, False),
        "751-8": (math.log(4.3) + 0.25 * reserve - 12 * drain, 0.25, 0.25, True),
        "777-3": (math.log(245) + 0.1 * reserve - 8 * drain, 0.2, 0.15, True),
        "2160-0": (math.log(0.93) - 0.12 * reserve, 0.2, 0.1, True),
        "1751-7": (4.1 + 0.22 * reserve - 0.14 * burden, 0.22, 0.18, False),
        "2532-0": (math.log(185) + 0.22 * burden, 0.25, 0.14, True),
        "1742-6": (math.log(23) + 0.3 * liver, 0.3, 0.25, True),
        "6768-6": (math.log(78) + 0.22 * liver + 0.28 * bone, 0.25, 0.15, True),
    }


def performance(
    chart: Chart, body: Body, course: Course, at: datetime, visit: int, rng: np.random.Generator
) -> None:
    """ECOG and weight. The last ECOG is often copied forward while it still roughly fits."""
    if rng.random() < 0.55:
        level = frailty(course) + 0.35 * rng.standard_normal()
        if body.ecog is None or abs(level - body.ecog) > 0.9 or rng.random() < 0.25:
            body.ecog = int(min(max(round(level), 0), 4))
        when = filed(at, rng, hours=8, late=0.06, late_days=5)
        chart.observation(ECOG, at, when, visit, float(body.ecog))
    if rng.random() < 0.35:
        shrink = 0.05 * course.reserve - 0.04 * max(course.burden, 0.0) + 0.012 * rng.standard_normal()
        when = filed(at, rng, hours=1, late=0.02, late_days=2)
        chart.measurement(WEIGHT, at, body.weight * math.exp(shrink), "kg", when, visit)


def frailty(course: Course) -> float:
    """The performance status the person has, on the ECOG scale but continuous."""
    return 0.55 + 0.45 * max(course.burden - 1.0, 0.0) - 0.75 * course.reserve + 12 * course.toxicity


def toxicity(
    chart: Chart, course: Course, kind: str, cycle: int, at: datetime, visit: int, rng: np.random.Generator
) -> dict[str, int]:
    """Toxicities since the last cycle of a `kind` of regimen; the true grades, not all written down.

    Severity rises as the reserve falls; neuropathy also with the number of cycles given.
    """
    grades: dict[str, int] = {}
    for name, mean in TOXICITY_PROFILE[kind].items():
        severity = mean - 0.65 * course.reserve + 0.75 * rng.standard_normal()
        if name == "NEUROPATHY":
            severity += 0.12 * cycle
        grade = sum(severity > bound for bound in GRADES)
        if grade and rng.random() < GRADE_RECORDED[grade]:
            when = filed(at, rng, hours=12, late=0.12, late_days=6)
            chart.observation(f"CTCAE/{name}", at, when, visit, float(grade))
        if grade:
            grades[name] = grade
    return grades


@dataclass
class Reading:
    """What one scan found: a RECIST category, and the sites involved for the first time."""

    response: str
    new: list[str]


@dataclass
class Imaging:
    """What the radiologist compares a scan with: sites known to be involved, baseline and nadirs (logs)."""

    involved: set[int] = field(default_factory=set)
    baseline: float = 0.0
    nadir: float = 0.0
    site_nadir: list[float] = field(default_factory=list)

    def rebase(self, course: Course) -> None:
        """Takes the present disease as the new baseline (diagnosis, start of a line, surgery)."""
        self.baseline = self.nadir = course.burden
        self.site_nadir = list(course.sites)

    def read(
        self, chart: Chart, course: Course, at: datetime, rng: np.random.Generator, *, treated: bool
    ) -> Reported[Reading]:
        """One scan: a note with sizes, and mostly a response (on treatment) and the sites that progressed."""
        seen = course.burden + READING_ERROR * rng.standard_normal()
        sites = [x + SITE_READING_ERROR * rng.standard_normal() for x in course.sites]
        new = [k for k, x in enumerate(sites) if k not in self.involved and x > NEW_LESION]
        known = sorted(self.involved)
        worse = [k for k in known if sites[k] > max(self.site_nadir[k], 0.0) + SITE_PROGRESSION]
        grown = seen > max(self.nadir, 0.0) + PROGRESSION
        self.involved.update(new)
        when = filed(at, rng, hours=30, late=0.08, late_days=3)
        text = _report(seen, [(SITES[k], sites[k]) for k in sorted(self.involved) if sites[k] > 0.0])
        chart.note("NOTE/RADIOLOGY", at, "Restaging scan", text, when)
        response = _response(seen, self.baseline, progressed=bool(new or worse or grown))
        progressing: list[int] = []
        if response == "PD":
            # A rise of the sum alone is put down to the site that rose most.
            rise = {k: sites[k] - self.site_nadir[k] for k in sorted(self.involved)}
            progressing = sorted({*new, *worse}) or [max(rise, key=lambda k: rise[k]) if rise else LOCAL]
            self.involved.update(progressing)
            self.nadir, self.site_nadir = seen, sites
        else:
            self.nadir = min(self.nadir, seen)
            self.site_nadir = [min(a, b) for a, b in zip(self.site_nadir, sites, strict=True)]
        # The oncologist's assessment, filed as one some time after the report; parts of it are not recorded.
        assessed = filed(when, rng, hours=12, late=0.1, late_days=5)
        if (treated or response == "PD") and rng.random() < 0.8:
            chart.observation(f"ONC/RESPONSE/{response}", at, assessed)
        for k in progressing:
            if rng.random() < 0.9:
                chart.observation(f"ONC/PROGRESSION/{SITES[k]}", at, assessed)
        return Reported(Reading(response, [SITES[k] for k in new]), when)


def _response(seen: float, baseline: float, *, progressed: bool) -> str:
    if progressed:
        return "PD"
    if seen < 0.0 and baseline > 0.0:
        return "CR"
    return "PR" if seen - baseline <= PARTIAL_RESPONSE else "SD"


def _report(total: float, lesions: list[tuple[str, float]]) -> str:
    """The report gives sizes and compares with nothing: the change is in the series of reports.

    A site's largest lesion grows slower than its burden, of which more lesions are a part.
    """
    if total < 0.0:
        return "No measurable disease."
    sizes = ", ".join(
        f"{site.replace('_', ' ').lower()} {10 * math.exp(0.6 * x):.0f} mm" for site, x in lesions
    )
    found = f" Lesions: {sizes}." if lesions else ""
    return f"Sum of target lesions {18 * math.exp(total):.0f} mm.{found}"
