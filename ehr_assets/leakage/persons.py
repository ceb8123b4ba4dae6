"""Whether a person lies in one split, in a cohort and over all cohorts that one model sees.

`persons.parquet` of a cohort's `subject_splits` names the person of each subject by a hash, so that persons
can be followed over cohorts without their record numbers. It is read here, with the splits; how the splits
were dealt plays no part.
"""

from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from ehr_assets.leakage.findings import Finding
from ehr_assets.meds.splits import PERSONS_FILE

GUARD = "persons_in_one_split"


def read_persons(splits_dir: Path) -> pl.DataFrame:
    """subject_id, split, person of a committed `subject_splits`, a row per line of its splits."""
    splits = pl.DataFrame(pq.read_table(Path(splits_dir) / "subject_splits.parquet"))
    persons = pl.DataFrame(pq.read_table(Path(splits_dir) / PERSONS_FILE))
    return splits.select("subject_id", pl.col("split").cast(pl.String)).join(
        persons.select("subject_id", pl.col("person").cast(pl.String)), on="subject_id", how="left"
    )


def persons_in_one_split(scope: str, splits_dirs: Mapping[str, Path]) -> list[Finding]:
    """Counts persons who are in several splits, and subjects of whom nobody knows who they are.

    Args:
        scope: what the finding is about, a cohort or a recipe.
        splits_dirs: cohort → its `subject_splits` directory, of all cohorts that are used together.
    """
    found = pl.concat(
        [
            read_persons(folder).with_columns(pl.lit(cohort).alias("cohort"))
            for cohort, folder in splits_dirs.items()
        ]
    )
    known = found.drop_nulls("person")
    of = known.group_by("person").agg(
        pl.col("split").n_unique().alias("splits"), pl.col("cohort").n_unique().alias("cohorts")
    )
    several, shared = of.filter(pl.col("splits") > 1).height, of.filter(pl.col("cohorts") > 1).height
    nameless = found.height - known.height
    return [
        Finding(GUARD, scope, "fail" if several else "ok", None, float(several), 0.0, of.height,
                f"persons in several splits; {shared} of all are in more than one cohort"),
        Finding(GUARD, scope, "fail" if nameless else "ok", "subjects without a person", float(nameless), 0.0,
                found.height, "subjects that persons.parquet does not name"),
    ]  # fmt: skip
