"""Whether what was fitted (tokenizer, scaler, probe) was fitted on the train subjects and no others.

Whatever is fitted leaves a `fitted_on.json` beside it: {"subjects_sha256", "n_subjects", "split"}. It is
compared with the hash of the subjects that should have been used, taken from the splits. Subjects are told
cohort by cohort, since two cohorts may number theirs alike. Only counts and hashes leave this module.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ehr_assets.leakage.subjects import cohorts_hash

FITTED_ON = "fitted_on.json"

LEFT_OUT = "left_out.parquet"
"""cohort, node_id of nodes without features, which no fit has seen. Without the file there are none."""


@dataclass(frozen=True)
class FitFinding:
    """A fit's claim beside what is expected.

    Attributes:
        claimed_sha256, expected_sha256: hashes of the subject lists (claimed: None if not stated).
        claimed_subjects, expected_subjects: their lengths.
        split: the split the fit says it used.
        problem: why the fit cannot be trusted, or None.
    """

    claimed_sha256: str | None
    expected_sha256: str
    claimed_subjects: int | None
    expected_subjects: int
    split: str | None
    problem: str | None

    @property
    def ok(self) -> bool:
        return self.problem is None

    @property
    def counts(self) -> dict[str, int]:
        """What may be shown of it."""
        return {"subjects": self.claimed_subjects or 0, "train_subjects": self.expected_subjects}


def fitted_on(subjects: Mapping[str, Iterable[int]], split: str = "train") -> dict[str, Any]:
    """The content of a `fitted_on.json`: hash and number of the distinct subjects a fit has seen.

    Args:
        subjects: cohort → ids, in any order, repeated or not.
        split: that the fit was made on.
    """
    distinct = {cohort: {int(s) for s in ids} for cohort, ids in subjects.items()}
    n = sum(map(len, distinct.values()))
    return {"subjects_sha256": cohorts_hash(distinct), "n_subjects": n, "split": split}


def read_fitted_on(folder: Path) -> dict[str, Any]:
    """The `fitted_on.json` in `folder`; empty when there is none or it is not a JSON object."""
    try:
        content = json.loads((Path(folder) / FITTED_ON).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def fitted_on_subjects(
    claim: Mapping[str, Any], expected: Mapping[str, Iterable[int]], split: str = "train"
) -> FitFinding:
    """Compares a `fitted_on.json` with the subjects (cohort → ids) that the fit should have seen."""
    truth = fitted_on(expected, split)
    sha, n, said = claim.get("subjects_sha256"), claim.get("n_subjects"), claim.get("split")
    if sha is None:
        problem = "the fit does not say which subjects it has seen"
    elif said != split:
        problem = f"the fit names another split than {split}"
    elif n != truth["n_subjects"]:
        problem = "the fit has seen another number of subjects"
    elif sha != truth["subjects_sha256"]:
        problem = "the fit has seen other subjects"
    else:
        problem = None
    return FitFinding(sha, truth["subjects_sha256"], n, truth["n_subjects"], said, problem)
