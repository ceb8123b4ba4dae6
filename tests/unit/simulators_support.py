"""Running a simulator and reading back what it wrote, as text."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from nodes_support import all_labels

from ehr_assets.cohorts.spec import CohortSpec, load_cohort
from ehr_assets.cohorts.synthetic.simulate import simulate
from ehr_assets.meds.extract import extract_meds
from ehr_assets.meds.splits import write_splits
from ehr_assets.nodes.labels import label_nodes
from ehr_assets.nodes.task_spec import load_task_set, task_set_path
from ehr_assets.nodes.triggers import find_nodes

SPECS = Path(__file__).parents[2] / "ehr_assets" / "cohorts" / "specs"
SEED = 20260101
SUBJECTS = {"oncology": 100, "pe": 500, "icu": 250}
TIMED = {  # table: (time column, filing column)
    "visit_occurrence": ("visit_start_datetime", None),
    "visit_detail": ("visit_detail_start_datetime", None),
    "condition_occurrence": ("condition_start_date", None),
    "drug_exposure": ("drug_exposure_start_datetime", None),
    "device_exposure": ("device_exposure_start_datetime", None),
    "measurement": ("measurement_datetime", "filed_datetime"),
    "observation": ("observation_datetime", "filed_datetime"),
    "procedure_occurrence": ("procedure_date", None),
    "note": ("note_datetime", "filed_datetime"),
}


def stamp(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def linear_r2(features: np.ndarray, target: np.ndarray, groups: np.ndarray) -> float:
    """R² of a linear model on subjects it was not fitted on (those with an odd id)."""
    scaled = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-9)
    X = np.column_stack([np.ones(len(scaled)), scaled])
    train = groups % 2 == 0
    beta, *_ = np.linalg.lstsq(X[train], target[train], rcond=None)
    error, test = target[~train] - X[~train] @ beta, target[~train]
    return 1.0 - float((error**2).mean() / test.var())


@dataclass
class Simulated:
    """What one run of a simulator left, and the datasets made from it when first asked for."""

    name: str
    root: Path
    counts: dict[str, int]

    @classmethod
    def run(cls, name: str, root: Path, subjects: int, **more: Any) -> "Simulated":
        for folder in ("tables", "truth"):
            (root / folder).mkdir(parents=True)
        given = {"subjects": subjects, "seed": SEED, **more}
        return cls(name, root, simulate(name, root / "tables", root / "truth", **given))

    @property
    def tables(self) -> Path:
        return self.root / "tables"

    @property
    def spec(self) -> CohortSpec:
        return load_cohort(SPECS / f"synthetic_{self.name}.yaml")

    def bytes(self) -> dict[str, bytes]:
        """Every file by name."""
        return {p.name: p.read_bytes() for p in sorted(self.root.glob("t*/*"))}

    def rows(self, table: str) -> Iterator[dict[str, str]]:
        with (self.tables / f"{table}.csv").open(encoding="utf-8", newline="") as f:
            yield from csv.DictReader(f)

    @cached_property
    def truth(self) -> pl.DataFrame:
        return pl.read_parquet(self.root / "truth" / "latent_states.parquet")

    def _new(self, name: str) -> Path:
        (self.root / name).mkdir()
        return self.root / name

    @cached_property
    def splits(self) -> Path:
        out = self._new("splits")
        write_splits(self.spec, self.tables, out)
        return out

    @cached_property
    def meds(self) -> tuple[Path, dict[str, Any]]:
        out = self._new("meds")
        splits = self.splits / "subject_splits.parquet"
        return out, dict(extract_meds(self.spec, self.tables, splits, out))

    @cached_property
    def nodes(self) -> Path:
        out = self._new("nodes")
        find_nodes(self.spec.decision_nodes, self.spec.name, self.meds[0], out)
        return out

    @cached_property
    def labels(self) -> Path:
        out = self._new("labels")
        decisions = self.spec.decision_nodes
        tasks = load_task_set(task_set_path(decisions.task_set))
        label_nodes(tasks, decisions, self.nodes, self.meds[0], out)
        return out

    def rates(self) -> dict[str, float]:
        """Share of positives by task."""
        table = all_labels(self.labels).drop_nulls("boolean_value")
        return dict(table.group_by("task").agg(pl.col("boolean_value").mean()).iter_rows())
