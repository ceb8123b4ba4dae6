"""Who was fitted on whom: every fit writes down the rows that reached it, and `fitted_on.json` keeps them.

The ledger knows nothing of splits. It is told, by the function that fits, the subjects of the very rows it
was given; a guard that reads the splits by itself says afterwards whether those were allowed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ehr_assets.leakage.fits import fitted_on

Role = Literal["fitted", "chosen"]
"""`fitted`: parameters follow from these rows. `chosen`: settings (a penalty, a threshold, rounds) do."""


@dataclass(frozen=True)
class Entry:
    """One fit: what was made (`scaler`, `logistic`, …), for which task (None: for all), in which role."""

    step: str
    cohort: str
    task: str | None
    role: Role
    subjects: frozenset[int]

    def document(self) -> dict[str, Any]:
        """As it is written: the hash of the subjects, and how many they are."""
        claim = fitted_on({self.cohort: self.subjects})
        return {
            "step": self.step,
            "cohort": self.cohort,
            "task": self.task,
            "role": self.role,
            "subjects_sha256": claim["subjects_sha256"],
            "n_subjects": claim["n_subjects"],
        }


@dataclass
class FitLedger:
    """The entries of one asset's fits, in order."""

    entries: list[Entry] = field(default_factory=list)

    def saw(
        self, step: str, cohort: str, task: str | None, subjects: Iterable[int], role: Role = "fitted"
    ) -> None:
        """Called by what fits, with the subjects of the rows that it fits on (repeated or not)."""
        self.entries.append(Entry(step, cohort, task, role, frozenset(int(s) for s in subjects)))

    def document(self) -> list[dict[str, Any]]:
        """The `steps` of a `fitted_on.json`, sorted, each distinct entry once."""
        rows = {tuple(sorted(e.document().items(), key=str)): e.document() for e in self.entries}
        return sorted(rows.values(), key=lambda r: (r["cohort"], r["task"] or "", r["step"], r["role"]))


def merged(ledgers: Sequence[FitLedger]) -> FitLedger:
    """One ledger of several, as processes send them back."""
    return FitLedger([entry for ledger in ledgers for entry in ledger.entries])
