"""The stays of a subject of the embolism cohort in hospital: one at a time, coded when it ends.

What belongs here: the stay under way, when it is to end, and what it will be coded with. Why a subject comes
and what is done is `pe.py`.
"""

from datetime import datetime

import numpy as np

from ehr_assets.cohorts.synthetic.pe_catalog import ADMITTED_FOR, EMBOLISM, EMBOLISM_WITH_STRAIN
from ehr_assets.cohorts.synthetic.pe_views import Scan
from ehr_assets.cohorts.synthetic.tables import Chart


class Stays:
    """The stays of one subject; days count from its index study.

    Attributes:
        visit: the visit under way; None at home.
        leaves: the day on which it is to end.
        left: the day on which the last one ended.
        codes: what it will be coded with.
    """

    def __init__(self, chart: Chart, rng: np.random.Generator) -> None:
        self.chart, self.rng = chart, rng
        self.visit: int | None = None
        self.leaves = 0
        self.left: int | None = None
        self.codes: list[str] = []

    @property
    def here(self) -> int:
        """The visit under way; there must be one."""
        assert self.visit is not None
        return self.visit

    def begin(self, day: int, at: datetime, nights: int, key: str | None) -> None:
        self.visit = self.chart.visit("VISIT/INPATIENT", at, at)
        self.leaves = day + nights
        self.codes = [key] if key else []

    def end(self, day: int, at: datetime) -> None:
        """Discharge: what the stay was for is coded now."""
        self.chart.end_visit(self.here, at)
        for key in self.codes:
            self.chart.condition(key, at.date(), self.here)
        self.visit, self.left, self.codes = None, day, []

    def explain(self, scan: Scan) -> None:
        """Adds the code of what an angiogram showed; of another reason, where that was nothing."""
        if not scan.embolism:
            self.codes.append(self.other_reason())
        else:
            self.codes.append(EMBOLISM_WITH_STRAIN if scan.central > 1.3 else EMBOLISM)

    def other_reason(self) -> str:
        codes, shares = list(ADMITTED_FOR), list(ADMITTED_FOR.values())
        return "ICD10CM/" + codes[int(self.rng.choice(len(codes), p=shares))]
