"""Small MEDS datasets for the tests of corpora and embeddings."""

import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from ehr_assets.contracts import SECTIONS, SPLITS
from ehr_assets.corpora.spec import CorpusSpec

T0 = datetime(2020, 3, 1, 8)
SCHEMA = {
    "subject_id": pl.Int64,
    "time": pl.Datetime("us"),
    "code": pl.String,
    "numeric_value": pl.Float32,
    "text_value": pl.String,
    "available_time": pl.Datetime("us"),
    "section": pl.String,
}
CODES = pl.DataFrame(
    {
        "code": ["LAB//hb", "LAB//na", "DX//C34", "RX//40048", "GENDER//F", "MEDS_DEATH"],
        "description": [
            "Hemoglobin",
            "Sodium",
            "Malignant neoplasm of lung",
            None,
            "Gender: female",
            "Death",
        ],
        "unit": ["g/dL", None, None, None, None, None],
    },
    schema={"code": pl.String, "description": pl.String, "unit": pl.String},
)
SPEC = CorpusSpec.model_validate(
    {"name": "c", "cohorts": ["here"], "tokenizer": {"kind": "bpe", "vocab_size": 400}, "context_tokens": 60}
)


def frame(rows: list[tuple]) -> pl.DataFrame:
    """Rows (subject, time, code, number, text, available, section) as a MEDS frame in its order."""
    order = pl.col("section").replace_strict(list(SECTIONS), list(range(8)), return_dtype=pl.Int32)
    return (
        pl.DataFrame(rows, schema=SCHEMA, orient="row")
        .with_columns(order.alias("_section"))
        .sort(
            "subject_id",
            "time",
            "available_time",
            "_section",
            "code",
            "numeric_value",
            "text_value",
            nulls_last=False,
        )
        .drop("_section")
    )


def known_at(events: pl.DataFrame, t: datetime) -> pl.DataFrame:
    """The rows that remain when the future is deleted."""
    return events.filter(pl.col("available_time").is_null() | (pl.col("available_time") <= t))


def random_rows(subjects: range, seed: int, events: int = 25) -> list[tuple]:
    """Subjects with birth, gender, labs, diagnoses (late), drugs and notes."""
    rng = np.random.default_rng([seed, 5])
    rows: list[tuple] = []
    for s in subjects:
        born = datetime(1950, 1, 1) + timedelta(days=int(rng.integers(0, 9000)))
        rows.append((s, None, "GENDER//F", None, None, None, "demographics"))
        rows.append((s, born, "MEDS_BIRTH", None, None, born, "demographics"))
        t = T0
        for _ in range(int(rng.integers(3, events))):
            t += timedelta(hours=float(rng.choice([0, 1, 30, 200, 2000])))
            kind = int(rng.integers(0, 4))
            if kind == 0:
                rows.append(
                    (s, t, "DX//C34", None, None, t + timedelta(days=int(rng.integers(0, 9))), "conditions")
                )
            elif kind == 1:
                rows.append((s, t, "LAB//hb", round(float(rng.normal(12, 2)), 1), None, t, "measurements"))
            elif kind == 2:
                rows.append((s, t, "RX//40048", None, None, t, "drugs"))
            else:
                text = " ".join(rng.choice(["stable", "lesion", "growing", "liver", "no"], 4))
                rows.append((s, t, "NOTE", None, text, t + timedelta(hours=5), "notes"))
    return rows


def write_meds(
    root: Path, rows_by_split: dict[str, list[tuple]], codes: pl.DataFrame = CODES
) -> tuple[Path, Path]:
    """Writes meds_events and subject_splits below `root`; returns both directories."""
    meds, splits = root / "meds_events", root / "subject_splits"
    for folder in (meds / "metadata", splits, *(meds / "data" / s for s in SPLITS)):
        folder.mkdir(parents=True)
    pairs = []
    for split, rows in rows_by_split.items():
        events = frame(rows)
        pq.write_table(events.to_arrow(), meds / "data" / split / "0.parquet")
        pairs += [(s, split) for s in events["subject_id"].unique(maintain_order=True)]
    table = pl.DataFrame(pairs, schema={"subject_id": pl.Int64, "split": pl.String}, orient="row").to_arrow()
    pq.write_table(table, splits / "subject_splits.parquet")
    pq.write_table(codes.to_arrow(), meds / "metadata" / "codes.parquet")
    return meds, splits


def write_nodes(folder: Path, nodes: list[tuple[int, datetime]], cohort: str = "here") -> Path:
    """Writes nodes.parquet; ids are n0, n1, ... in the order of (subject, time)."""
    folder.mkdir(parents=True)
    table = pl.DataFrame(
        [(f"n{i}", s, t, ["x"], None, cohort) for i, (s, t) in enumerate(sorted(nodes))],
        schema={
            "node_id": pl.String,
            "subject_id": pl.Int64,
            "time": pl.Datetime("us"),
            "trigger": pl.List(pl.String),
            "indication": pl.String,
            "cohort": pl.String,
        },
        orient="row",
    )
    pq.write_table(table.to_arrow(), folder / "nodes.parquet")
    return folder


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
