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
    """One fit: what was made (`scaler`, `logistic`, …), for which task (None: for all), in which role.

    `kind`: what the task was asked as; a binary one may be asked as a time to event too, of the subjects that
    were followed. `within`: of fits that are about one indication alone, which; the subjects are then those
    of its nodes.
    """

    step: str
    cohort: str
    task: str | None
    role: Role
    subjects: frozenset[int]
    kind: str | None = None
    within: str | None = None

    def document(self) -> dict[str, Any]:
        """As it is written: the hash of the subjects, and how many they are."""
        claim = fitted_on({self.cohort: self.subjects})
        return {
            "step": self.step,
            "cohort": self.cohort,
            "task": self.task,
            "kind": self.kind,
            "role": self.role,
            "indication": self.within,
            "subjects_sha256": claim["subjects_sha256"],
            "n_subjects": claim["n_subjects"],
        }


@dataclass
class FitLedger:
    """The entries of one asset's fits, in order."""

    entries: list[Entry] = field(default_factory=list)

    def saw(
        self,
        step: str,
        cohort: str,
        task: str | None,
        subjects: Iterable[int],
        role: Role = "fitted",
        *,
        kind: str | None = None,
        within: str | None = None,
    ) -> None:
        """Called by what fits, with the subjects of the rows that it fits on (repeated or not)."""
        distinct = frozenset(int(s) for s in subjects)
        self.entries.append(Entry(step, cohort, task, role, distinct, kind, within))

    def document(self) -> list[dict[str, Any]]:
        """The `steps` of a `fitted_on.json`, sorted, each distinct entry once."""
        rows = {tuple(sorted(e.document().items(), key=str)): e.document() for e in self.entries}
        return sorted(rows.values(), key=_place)


def _place(row: dict[str, Any]) -> tuple[str, ...]:
    keys = ("cohort", "task", "kind", "step", "role", "indication", "subjects_sha256")
    return tuple(row[key] or "" for key in keys)


def merged(ledgers: Sequence[FitLedger]) -> FitLedger:
    """One ledger of several, as processes send them back."""
    return FitLedger([entry for ledger in ledgers for entry in ledger.entries])
