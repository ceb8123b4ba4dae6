"""The prediction times at which training may cut: decision nodes of the cohorts, by subject."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from ehr_assets.corpora.reader import TokenCorpus
from ehr_assets.errors import TrainingError
from ehr_assets.nodes.frames import read_nodes

NEVER = np.zeros(0, "datetime64[us]")


class NodeTimes:
    """(cohort, subject) → the times of its decision nodes, in two flat arrays per cohort.

    Args:
        nodes: cohort → `subject_id` and `time`, in any order.
    """

    def __init__(self, nodes: Mapping[str, pl.DataFrame]) -> None:
        self._of: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for cohort, frame in nodes.items():
            rows = frame.select("subject_id", "time").drop_nulls().unique().sort("subject_id", "time")
            times = rows["time"].to_numpy().astype("datetime64[us]")
            self._of[cohort] = (rows["subject_id"].to_numpy(), times)

    def __len__(self) -> int:
        return sum(len(times) for _, times in self._of.values())

    def of(self, cohort: str, subject_id: int) -> np.ndarray:
        """datetime64[us], ascending, each once; empty where there is none."""
        if cohort not in self._of:
            return NEVER
        subjects, times = self._of[cohort]
        start, end = np.searchsorted(subjects, (subject_id, subject_id + 1))
        return times[start:end]


def read_node_times(folders: Mapping[str, str], corpus: TokenCorpus, splits: tuple[str, ...]) -> NodeTimes:
    """Those of the subjects of these splits, and of no others.

    Args:
        folders: cohort → its `decision_nodes`.

    Raises:
        TrainingError: a cohort of the corpus has no folder.
        DatasetError: a folder holds no nodes.
    """
    subjects: dict[str, list[np.ndarray]] = {}
    for split in splits:
        for cohort, ids in corpus.subject_ids(split).items():
            subjects.setdefault(cohort, []).append(ids)
    if missing := sorted(set(subjects) - set(folders)):
        raise TrainingError(
            f"The recipe cuts records at decision nodes, and those of {', '.join(missing)} were not given.",
            where="data.cuts.nodes",
            do="Give the job the decision_nodes of every cohort of the corpus, or set data.cuts.nodes to 0.",
        )
    return NodeTimes(
        {
            cohort: read_nodes(Path(folders[cohort])).filter(
                pl.col("subject_id").is_in(pl.Series(np.concatenate(ids)).implode())
            )
            for cohort, ids in subjects.items()
        }
    )
