"""Who is where: the hash that names a set of subjects, and whether splits keep subjects apart.

Findings carry counts, never subject ids. Nothing here raises on a leak: the blocking checks do.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import polars as pl


def subjects_hash(ids: Iterable[int]) -> str:
    """sha256 hex of the distinct ids, sorted as numbers, in decimal, joined by newlines."""
    distinct = sorted({int(i) for i in ids})
    return hashlib.sha256("\n".join(map(str, distinct)).encode()).hexdigest()


def cohorts_hash(subjects: Mapping[str, Iterable[int]]) -> str:
    """sha256 hex of the distinct subjects of cohorts (cohort → ids).

    Of one cohort that of its ids (`subjects_hash`); of several, that of the lines "cohort ids' hash", since
    their ids may be alike.
    """
    hashes = {cohort: subjects_hash(ids) for cohort, ids in subjects.items()}
    if len(hashes) < 2:
        return next(iter(hashes.values()), subjects_hash(()))
    lines = (f"{cohort} {of_ids}" for cohort, of_ids in sorted(hashes.items()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class SplitFinding:
    """Subjects counted by what is wrong with their split.

    Attributes:
        subjects: distinct subjects looked at.
        in_several_splits: subjects found in more than one split.
        without_split: subjects that the reference splits do not know (or whose split is null).
        in_another_split: subjects found in a split other than the reference one.
        per_split: distinct subjects per split, as found.
        listed_again: rows of a subject_splits table that repeat a subject with the same split.
    """

    subjects: int
    in_several_splits: int
    without_split: int
    in_another_split: int
    per_split: Mapping[str, int] = field(default_factory=dict)
    listed_again: int = 0

    @property
    def ok(self) -> bool:
        wrong = (self.in_several_splits, self.without_split, self.in_another_split, self.listed_again)
        return not any(wrong)


def splits_disjoint(splits: pl.DataFrame) -> SplitFinding:
    """Whether each subject of a subject_splits table (subject_id, split) is in one split, in one row."""
    again = splits.height - splits.select("subject_id", "split").unique().height
    return replace(splits_agree(splits, splits), listed_again=again)


def splits_agree(found: pl.DataFrame, reference: pl.DataFrame) -> SplitFinding:
    """Whether the subjects of a dataset lie in the split that the reference gives them.

    Args:
        found: subject_id, split: in which split's files (or rows) a dataset holds a subject; repeats allowed.
        reference: subject_id, split: the cohort's subject_splits table.
    """
    seen = found.select(pl.col("subject_id").cast(pl.Int64), pl.col("split").cast(pl.String)).unique()
    truth = reference.select(pl.col("subject_id").cast(pl.Int64), pl.col("split").cast(pl.String)).unique()
    several = seen.group_by("subject_id").len().filter(pl.col("len") > 1).height
    known = truth.filter(pl.col("split").is_not_null())
    stray = seen.join(known, on="subject_id", how="anti")
    misplaced = seen.join(known, on="subject_id", how="semi").join(
        known, on=["subject_id", "split"], how="anti"
    )
    per_split = seen.drop_nulls("split").group_by("split").len().sort("split")
    return SplitFinding(
        subjects=seen["subject_id"].n_unique(),
        in_several_splits=several,
        without_split=stray["subject_id"].n_unique(),
        in_another_split=misplaced["subject_id"].n_unique(),
        per_split=dict(per_split.iter_rows()),
    )
