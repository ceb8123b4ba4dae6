"""The comparison of a report's methods: predictions in; metrics, means, differences, subgroups out.

All methods are scored at the same held-out nodes, under one resampling of the cohort's held-out subjects.
Nothing is fitted or chosen on them: thresholds come from tuning, the censoring curve from train.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ehr_assets.fanout import ONE_WORKER, Machine
from ehr_assets.nodes.frames import tasks_of, write_parquet
from ehr_assets.probes import schemas
from ehr_assets.probes.frames import CohortDirs
from ehr_assets.probes.panel_scores import RULES, Rules, Scored, score_panel
from ehr_assets.probes.panels import Panel, Predictions, panels
from ehr_assets.probes.pooling import Row, ceiling, differences, means
from ehr_assets.progress import Progress, no_progress

WORKER_BYTES = 1 << 28  # a panel with its resamples

TABLES = {
    "metrics": (
        schemas.METRICS_SCHEMA,
        ("cohort", "task", "metric", "recipe", "probe", "indication"),
    ),
    "means": (schemas.MEANS_SCHEMA, ("cohort", "metric", "by", "group", "recipe", "probe")),
    "differences": (
        schemas.DIFFERENCES_SCHEMA,
        ("cohort", "metric", "task", "recipe_a", "probe_a", "recipe_b", "probe_b"),
    ),
    "subgroups": (schemas.SUBGROUPS_SCHEMA, ("cohort", "task", "name", "group", "recipe", "probe", "metric")),
    "reliability": (schemas.RELIABILITY_SCHEMA, ("cohort", "task", "recipe", "probe", "bin")),
    "ceiling": (schemas.CEILING_SCHEMA, ("cohort", "task", "recipe", "probe")),
}
"""`<name>.parquet` -> its columns, and what its rows are sorted by."""


def compare(
    cohorts: Mapping[str, CohortDirs],
    predictions: Mapping[str, Predictions],
    recipes: Sequence[str],
    out_dir: Path,
    rules: Rules = RULES,
    *,
    pairs: Sequence[tuple[str, str]] = (),
    machine: Machine = ONE_WORKER,
    progress: Progress = no_progress,
) -> dict[str, int]:
    """Scores and compares all methods on all cohorts.

    Args:
        predictions: of each cohort.
        recipes: whose differences are told. pairs: those of them that are asked for (none: every two).

    Writes the TABLES. Returns counts: panels (a task, asked in one way), those scored, those only listed.

    Raises:
        DatasetError: the predictions do not belong to these nodes, splits and labels, or to one another.
    """

    def tasks() -> Iterator[Panel]:
        for cohort, dirs in sorted(cohorts.items()):
            yield from panels(cohort, dirs, predictions[cohort])

    scored: list[Scored] = []
    total = sum(len(tasks_of(dirs.labels)) for dirs in cohorts.values())
    with machine.crew(WORKER_BYTES) as crew:
        for found in crew.map(partial(score_panel, rules=rules), tasks()):
            scored.append(found)
            progress("comparison", min(len(scored), total), total)
    tables: dict[str, Iterable[Row]] = {
        "metrics": [row for s in scored for row in s.metrics],
        "means": means(scored),
        "differences": differences(scored, recipes, pairs),
        "subgroups": [row for s in scored for row in s.subgroups],
        "reliability": [row for s in scored for row in s.reliability],
        "ceiling": ceiling(scored),
    }
    for name, rows in tables.items():
        write_parquet(_table(rows, *TABLES[name]), out_dir / f"{name}.parquet")
    done = sum(bool(s.seeds) and any(s.seeds.values()) for s in scored)
    return {
        "cohorts": len(cohorts),
        "panels": len(scored),
        "panels_scored": done,
        "panels_listed": len(scored) - done,
        "methods": len({(s.cohort, m) for s in scored for m in s.methods}),
        "resamples": rules.replicates,
    }


def _table(rows: Iterable[Row], schema: pa.Schema, keys: Sequence[str]) -> pa.Table:
    """Sorted, nulls first; NaN as null."""

    def key(row: Row) -> tuple:
        return tuple((row[k] is not None, row[k]) for k in keys)

    return pa.Table.from_pylist(
        [{k: _known(row[k]) for k in schema.names} for row in sorted(rows, key=key)], schema
    )


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
