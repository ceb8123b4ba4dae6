"""A small cohort of raw tables and its spec, for the tests of reading and extraction."""

import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import polars as pl

from ehr_assets.cohorts.spec import CohortSpec
from ehr_assets.meds.extract import extract_meds
from ehr_assets.meds.splits import write_splits
from ehr_assets.specs import parse_spec
from ehr_assets.yamls import parse_yaml

# Real cohorts lie beside the clone, or where EHR_SHARED_DATA says.
SHARED = Path(os.environ.get("EHR_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data")

SPEC: dict[str, Any] = parse_yaml("""
name: tiny
title: Tiny
source: {kind: tables, root_env: EHR_TINY_ROOT}
subjects: {table: people, column: pid}
tables:
  - name: people
    file: people
    subject_id: pid
    events:
      - {code: "GENDER//{sex|UNKNOWN}", static: true, section: demographics}
      - {code: MEDS_BIRTH, time: {year: born}, section: demographics}
      - {code: MEDS_DEATH, time: {column: died, kind: date}, section: death}
  - name: labs
    file: lab/labs
    subject_id: pid
    joins:
      - {file: items, on: [item], columns: {label: name}, optional: true}
    events:
      - code: "LAB//{item}//{unit|UNK}"
        time: drawn
        available: filed
        numeric_value: number
        text_value: text
        unit: unit
        description: "{label}"
        section: measurements
decision_nodes:
  task_set: tiny
  triggers: [{name: lab, kind: event, codes: ["^LAB//"]}]
""")

PEOPLE = "pid,sex,born,died\n"
PERSON = "1,F,1950,2020-03-05\n"
LABS = "pid,item,unit,drawn,filed,number,text\n"


def tiny(**changes: Any) -> CohortSpec:
    """The spec above, top-level keys replaced."""
    return parse_spec(CohortSpec, {**deepcopy(SPEC), **changes}, where="tiny.yaml")


def write_tables(root: Path, people: str | bytes, labs: str | bytes) -> Path:
    (root / "lab").mkdir(parents=True, exist_ok=True)
    for name, content in (("people.csv", people), ("lab/labs.csv", labs)):
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


class Extracted:
    """What an extraction wrote and said."""

    def __init__(self, out: Path, stats: dict[str, Any]) -> None:
        self.out, self.stats = out, stats
        self.events = pl.concat([pl.read_parquet(p) for p in sorted(out.glob("data/*/*.parquet"))])
        self.quarantine = pl.read_parquet(out / "quarantine" / "quarantine.parquet")
        self.accounting = pl.read_parquet(out / "accounting.parquet")
        self.codes = pl.read_parquet(out / "metadata" / "codes.parquet")

    @property
    def reasons(self) -> list[tuple]:
        """(table, row, column, reason) of every quarantined row."""
        return self.quarantine.drop("file").rows()

    def balanced(self) -> bool:
        a, q = self.accounting, self.quarantine
        return (a["accepted"] + a["quarantined"] == a["read"]).all() and a["quarantined"].sum() == q.height


def extract(root: Path, work: Path, spec: CohortSpec | None = None) -> Extracted:
    spec = spec or tiny()
    splits, out = work / "splits", work / "meds"
    splits.mkdir(parents=True)
    out.mkdir()
    write_splits(spec, root, splits)
    return Extracted(out, extract_meds(spec, root, splits, out))


def extract_rows(tmp_path, people=PERSON, labs="", spec=None) -> Extracted:
    """What these rows become; by default, of one person."""
    root = write_tables(tmp_path / "raw", PEOPLE + people, LABS + labs)
    return extract(root, tmp_path, spec)


def with_lab_event(**changes):
    """A cohort whose lab event is changed; None removes a key."""
    lab = {**SPEC["tables"][1]["events"][0], **changes}
    labs = {**SPEC["tables"][1], "events": [{k: v for k, v in lab.items() if v is not None}]}
    return tiny(tables=[SPEC["tables"][0], labs])
