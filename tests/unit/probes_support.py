"""A small made-up cohort on disk, events to embeddings, for tests of probes and reports.

Not a simulator: one hidden number per subject drives everything, so that tests know what must be found.
"""

import hashlib
import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_assets.nodes.frames import CENSORED, EVENT, LABEL_SCHEMA, labels_path

START = datetime(2019, 3, 1)
US = pa.timestamp("us")
TASKS = [
    {"name": "death_365d", "category": "survival", "horizon_days": 365, "description": "Death of any cause"},
    {
        "name": "progression_180d",
        "category": "progression",
        "horizon_days": 180,
        "description": "Progression",
    },
    {"name": "toxicity_90d", "category": "toxicity", "horizon_days": 90, "description": "Grade 3 or more"},
    {
        "name": "never_90d",
        "category": "toxicity",
        "horizon_days": 90,
        "description": "Never comes",
    },
]
INDICATIONS = ["lung", "pancreas", "prostate"]


def make_cohort(
    root: Path, name: str = "made_up", subjects: int = 120, seed: int = 0, width: int = 8
) -> Path:
    """Writes every dataset under `root/<asset>` and returns root. Subject ids start at 71000000."""
    rng = np.random.default_rng(seed)
    ids = 71_000_000 + rng.permutation(subjects * 3)[:subjects]
    split = np.where(np.arange(subjects) < 0.6 * subjects, "train", "held_out")
    split[int(0.6 * subjects) : int(0.78 * subjects)] = "tuning"
    events, nodes, labels, latent, vectors = [], [], [], [], []
    for i in np.argsort(ids):
        subject, severity = int(ids[i]), float(rng.normal())
        indication = INDICATIONS[i % len(INDICATIONS)]
        start = START + timedelta(days=int(rng.integers(0, 900)))
        last = start + timedelta(days=int(rng.integers(500, 1500)))
        events += _events(rng, subject, severity, indication, start, last)
        for k in range(int(rng.integers(2, 6))):
            t = start + timedelta(days=40 + 75 * k, hours=int(rng.integers(8, 18)))
            node = hashlib.sha256(f"{name}|{subject}|{t.isoformat()}".encode()).hexdigest()[:16]
            trigger = ["start_of_therapy"] if k % 2 == 0 else ["confirmed_progression", "performance_decline"]
            nodes.append((node, subject, t, trigger, indication if k or i % 5 else None, name))
            latent.append((subject, t - timedelta(days=2), severity, severity * 0.5))
            vectors.append(np.r_[severity + rng.normal(0, 0.7), rng.normal(size=width - 1)])
            labels += [_label(rng, node, subject, t, task, severity) for task in TASKS]
    for part in ("train", "tuning", "held_out"):
        mine = {int(s) for s in ids[split == part]}
        _write(root / f"meds_events/data/{part}/0.parquet", [e for e in events if e[0] in mine], _EVENTS)
    codes = sorted({e[2] for e in events})
    _write(root / "meds_events/metadata/codes.parquet", [(c, None, None) for c in codes], _CODES)
    _write(root / "decision_nodes/nodes.parquet", nodes, _NODES)
    for task in TASKS:
        mine = [(*r[:3], *r[4:]) for r in labels if r[3] == task["name"]]
        _write(labels_path(root / "task_labels", task["name"]), mine, LABEL_SCHEMA)
    (root / "task_labels/tasks.json").write_text(json.dumps(TASKS))
    _write(
        root / "subject_splits/subject_splits.parquet",
        sorted(zip(ids.tolist(), split.tolist(), strict=True)),
        _SPLITS,
    )
    _write(root / "latent_truth/latent_states.parquet", latent, _LATENT)
    write_embeddings(root / "node_embeddings", nodes, np.array(vectors, np.float32))
    return root


def write_embeddings(folder: Path, nodes: list[tuple], vectors: np.ndarray) -> None:
    """nodes: rows of nodes.parquet; vectors: (n, d)."""
    folder.mkdir(parents=True, exist_ok=True)
    flat = pa.array(vectors.astype(np.float32).ravel(), pa.float32())
    table = pa.table(
        {
            "node_id": [n[0] for n in nodes],
            "subject_id": pa.array([n[1] for n in nodes], pa.int64()),
            "time": pa.array([n[2] for n in nodes], US),
            "cohort": [n[5] for n in nodes],
            "embedding": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        }
    )
    pq.write_table(table, folder / "embeddings.parquet")


def _events(rng, subject, severity, indication, start, last):
    rows = [
        (subject, None, "GENDER//F" if subject % 2 else "GENDER//M", None, None, None, "demographics"),
        (
            subject,
            datetime(1950 + subject % 40, 1, 1),
            "MEDS_BIRTH",
            None,
            None,
            datetime(1950 + subject % 40, 1, 1),
            "demographics",
        ),
        (subject, start, f"ICD10CM/{indication}", None, None, start, "conditions"),
    ]
    for _ in range(int(rng.integers(60, 160))):
        t = start + timedelta(days=float(rng.uniform(0, (last - start).days)))
        kind = rng.integers(0, 4)
        late = timedelta(hours=float(rng.uniform(0, 48)))
        if kind == 0:
            value = 13.0 - severity + rng.normal(0, 0.8)
            rows.append((subject, t, "LOINC/718-7", value, None, t + late, "measurements"))
        elif kind == 1:
            rows.append(
                (
                    subject,
                    t,
                    "LOINC/89247-1",
                    float(np.clip(round(1.2 + severity), 0, 4)),
                    None,
                    t,
                    "observations",
                )
            )
        elif kind == 2:
            rows.append((subject, t, f"RxNorm/{int(rng.integers(1, 6))}", None, None, t, "drugs"))
        else:
            rows.append((subject, t, "NOTE/RADIOLOGY", None, "stable disease", t + late, "notes"))
    return sorted(rows, key=lambda r: (r[1] or datetime.min, r[5] or datetime.min, r[2]))


def _label(rng, node, subject, t, task, severity):
    risk = {"survival": 1.1, "progression": 0.9, "toxicity": 0.6}[task["category"]]
    hidden = 1 / (1 + np.exp(-(risk * severity - 0.6)))
    happens = bool(rng.random() < hidden) and task["name"] != "never_90d"
    horizon = float(task["horizon_days"])
    if rng.random() < 0.12:
        waited = float(rng.uniform(2, horizon))
        return (node, subject, t, task["name"], None, None, None, waited, CENSORED, "censored")
    if rng.random() < 0.05:
        return (node, subject, t, task["name"], None, None, None, None, None, "end_of_life")
    after = float(rng.uniform(2, horizon)) if happens else horizon
    event = t + timedelta(days=after) if happens else None
    status = EVENT if happens else CENSORED
    return (node, subject, t, task["name"], happens, None, event, after, status, None)


def _write(path: Path, rows: list, schema: pa.Schema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(zip(*rows, strict=True)) or [[] for _ in schema]
    pq.write_table(
        pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema), path
    )


_EVENTS = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("time", US),
        ("code", pa.string()),
        ("numeric_value", pa.float32()),
        ("text_value", pa.large_string()),
        ("available_time", US),
        ("section", pa.string()),
    ]
)
_CODES = pa.schema(
    [("code", pa.string()), ("description", pa.string()), ("parent_codes", pa.list_(pa.string()))]
)
_NODES = pa.schema(
    [
        ("node_id", pa.string()),
        ("subject_id", pa.int64()),
        ("time", US),
        ("trigger", pa.list_(pa.string())),
        ("indication", pa.string()),
        ("cohort", pa.string()),
    ]
)
_SPLITS = pa.schema([("subject_id", pa.int64()), ("split", pa.string())])
_LATENT = pa.schema(
    [("subject_id", pa.int64()), ("time", US), ("z_burden", pa.float64()), ("z_velocity", pa.float64())]
)
