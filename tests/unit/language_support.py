"""A cohort of two tables in a few words, and what its raw lines become: for tests of the cohort language."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from cohorts_support import Extracted

from ehr_assets.cohorts.spec import CohortSpec
from ehr_assets.fanout import Machine
from ehr_assets.meds.extract import extract_meds
from ehr_assets.meds.splits import write_splits
from ehr_assets.specs import parse_spec

DAY_END = timedelta(days=1) - timedelta(microseconds=1)

EVENT = {"code": "X", "section": "observations"}


def cohort(event: dict[str, Any] | list, table: dict[str, Any] | None = None, **top: Any) -> CohortSpec:
    """Subjects in people.csv, one table `t` in t.csv."""
    events = event if isinstance(event, list) else [event]
    people = {
        "name": "people",
        "file": "people",
        "subject_id": "id",
        "events": [{"code": "SEEN", "static": True, "section": "demographics"}],
    }
    rows = {"name": "t", "file": "t", "subject_id": "id", "events": events, **(table or {})}
    data = {
        "name": "c",
        "title": "C",
        "source": {"kind": "tables", "root_env": "EHR_C_ROOT"},
        "subjects": {"table": "people", "column": "id"},
        "tables": [people, rows],
        **top,
    }
    return parse_spec(CohortSpec, data, "c.yaml")


def run(root: Path, spec: CohortSpec, machine: Machine | None = None) -> Extracted:
    out = root.parent / f"out-{len(list(root.parent.iterdir()))}"
    for part in ("splits", "meds"):
        (out / part).mkdir(parents=True)
    write_splits(spec, root, out / "splits")
    stats = extract_meds(spec, root, out / "splits", out / "meds", machine=machine or Machine())
    return Extracted(out / "meds", stats)


def timed(got: Extracted) -> list[tuple[datetime, datetime]]:
    return got.events.filter(pl.col("time").is_not_null()).select("time", "available_time").rows()
