"""Who the subjects of an extraction are: ids, shards and splits as arrays that all workers map from disk."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ehr_assets.contracts import SPLITS
from ehr_assets.meds import expressions as ex


@dataclass(frozen=True)
class Subjects:
    """The subjects of the cohort's splits.

    Args:
        ids: sorted, int64.
        shards: position of each one's shard, int32.
        splits: position of each one's split in SPLITS, int8.
        texts: whether raw ids are text (`SubjectsSpec.ids`).
    """

    ids: np.ndarray
    shards: np.ndarray
    splits: np.ndarray
    texts: bool = False

    def parse(self, raw: pl.Series) -> pl.Series:
        """int64 ids of raw text; null where it is none."""
        if self.texts:
            return ex.text_ids(raw)
        return raw.to_frame("raw").select(ex.whole_number(pl.col("raw"))).to_series()

    def find(self, ids: pl.Series) -> tuple[np.ndarray, np.ndarray]:
        """Position of each id (0 where unknown or null), and whether it is known."""
        wanted = ids.fill_null(0).to_numpy()
        if not self.ids.size:
            return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
        at = np.minimum(np.searchsorted(self.ids, wanted), self.ids.size - 1)
        known = (self.ids[at] == wanted) & ids.is_not_null().to_numpy()
        return np.where(known, at, 0), known

    def save(self, folder: Path) -> None:
        for name in ("ids", "shards", "splits"):
            np.save(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, folder: Path, texts: bool) -> "Subjects":
        def mapped(name: str) -> np.ndarray:
            return np.load(folder / f"{name}.npy", mmap_mode="r")

        return cls(mapped("ids"), mapped("shards"), mapped("splits"), texts)


def sharded(splits: pl.DataFrame, size: int, texts: bool) -> tuple[list[tuple[str, int]], Subjects]:
    """(split, number in the split) of every shard, and the subjects.

    No split is without shard: an empty one keeps readers of an empty split (or cohort) from stumbling over
    missing files.

    Args:
        splits: subject_id, split, sorted by subject_id.
        size: subjects per shard.
    """
    shards: list[tuple[str, int]] = []
    of = np.zeros(splits.height, np.int32)
    which = np.zeros(splits.height, np.int8)
    names = splits["split"].to_numpy()
    for index, split in enumerate(SPLITS):
        members = np.flatnonzero(names == split)
        of[members] = len(shards) + np.arange(members.size) // size
        which[members] = index
        shards += [(split, number) for number in range(max(1, -(-members.size // size)))]
    return shards, Subjects(splits["subject_id"].to_numpy(), of, which, texts)
