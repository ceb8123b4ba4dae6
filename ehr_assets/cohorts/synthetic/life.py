"""What a simulator is to the rest: `Simulator`, and `Life`, what the lives of all its subjects share."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from ehr_assets.cohorts.synthetic.engine import Course
from ehr_assets.cohorts.synthetic.tables import Chart, Concept


class Life:
    """One subject's chart and the truth behind it. Subclasses set `course` and implement `live`."""

    course: Course

    def __init__(self, chart: Chart, rng: np.random.Generator) -> None:
        self.chart, self.rng = chart, rng
        self.truth: list[tuple[datetime, *tuple[float, ...]]] = []

    def live(self) -> None:
        """Fills the chart and the truth."""
        raise NotImplementedError

    def care(self) -> tuple[float, ...]:
        """What of the present care the truth tells, beside the latent state."""
        raise NotImplementedError

    def know(self, at: datetime) -> None:
        """Adds the present state to the truth; also called when a decision changes it between two steps."""
        self.truth.append((at, *self.course.truth(), *self.care()))


@dataclass(frozen=True)
class Simulator:
    """A disease as the runner sees it.

    Attributes:
        tables: those written (keys of `tables.HEADERS`).
        concepts: the rows of `concept.csv`; new ones go at the end, or ids change.
        truth_columns: names of the values in a row of `Life.truth` behind its time.
        first_person: id of subject 0. Ranges of simulators must not overlap: own record numbers follow them.
        stream: even number that tells this simulator's random streams from those of the others.
        life: a subject, from its chart, the seed, its index and its own generator.
    """

    tables: tuple[str, ...]
    concepts: Callable[[], list[Concept]]
    truth_columns: tuple[str, ...]
    first_person: int
    stream: int
    life: Callable[[Chart, int, int, np.random.Generator], Life]
