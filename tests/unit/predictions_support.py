"""A made-up cohort of nodes, labels and the predictions of many methods, for tests of their comparison.

Nothing is fitted: how much of the hidden number a method sees is said when it is made.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_assets.nodes.frames import LABEL_SCHEMA, SUBGROUP_SCHEMA, labels_path
from ehr_assets.probes.frames import CohortDirs
from ehr_assets.probes.schemas import PREDICTIONS_SCHEMA

US = pa.timestamp("us")
INDICATIONS = np.array(["lung", "pancreas", "prostate", ""])
KINDS = {"binary": "logistic", "time_to_event": "cox", "regression": "ridge"}


class MadeUp:
    """Datasets under `root`, and the truth they were made from.

    tasks: name -> (kind, share of positives). Horizons are 180 days; an eighth of the nodes has no label.
    """

    def __init__(
        self,
        root: Path,
        tasks: Mapping[str, tuple[str, float]],
        subjects: int = 200,
        nodes_each: int = 4,
        cohort: str = "made_up",
        seed: int = 0,
    ) -> None:
        self.root, self.cohort, self.tasks = root, cohort, dict(tasks)
        self.rng = rng = np.random.default_rng(seed)
        ids = np.sort(71_000_000 + rng.permutation(subjects * 3)[:subjects])
        split_of = rng.permutation(np.resize(["train", "train", "tuning", "held_out"], subjects))
        n = subjects * nodes_each
        self.subject = np.repeat(ids, nodes_each)
        self.split = np.repeat(split_of, nodes_each)
        self.time = [datetime(2019, 1, 1) + timedelta(days=i % nodes_each * 90) for i in range(n)]
        self.node = np.array([f"{cohort}-{i:07d}" for i in range(n)], dtype=np.str_)
        self.indication = np.repeat(INDICATIONS[rng.integers(0, 4, subjects)], nodes_each)
        self.hidden = np.repeat(rng.normal(size=subjects), nodes_each) + rng.normal(size=n) / 2
        self.known = {task: rng.random(n) > 0.125 for task in self.tasks}
        self.truth = {task: self._truth(kind, share) for task, (kind, share) in self.tasks.items()}
        self._write(ids, split_of)

    @property
    def dirs(self) -> CohortDirs:
        return CohortDirs(*(self.root / x for x in ("decision_nodes", "task_labels", "subject_splits")))

    def _truth(self, kind: str, share: float) -> dict[str, np.ndarray]:
        n, rng = len(self.node), self.rng
        value = self.hidden + rng.normal(size=n)
        happens = value > np.quantile(value, 1 - share) if share and n else np.zeros(n, bool)
        if kind == "regression":
            return {"numeric_value": value}
        if kind == "binary":
            return {"boolean_value": happens}
        after = np.where(happens, rng.uniform(1, 180, n) * np.exp(-self.hidden / 4), 400.0)
        lost = np.where(rng.random(n) < 0.2, rng.uniform(1, 180, n), 180.0)
        status = np.where(after <= lost, 1, np.where((rng.random(n) < 0.05) & (lost < 180), 2, 0))
        return {"duration_days": np.minimum(np.minimum(after, lost), 180.0), "status": status.astype(np.int8)}

    def _write(self, ids: np.ndarray, split_of: np.ndarray) -> None:
        n = len(self.node)
        write(
            self.root / "decision_nodes/nodes.parquet",
            {
                "node_id": self.node,
                "subject_id": self.subject,
                "time": pa.array(self.time, US),
                "trigger": pa.array([["start_of_therapy"]] * n),
                "indication": pa.array([i or None for i in self.indication.tolist()]),
                "cohort": [self.cohort] * n,
            },
        )
        write(self.root / "subject_splits/subject_splits.parquet", {"subject_id": ids, "split": split_of})
        for task in self.tasks:
            rows = np.flatnonzero(self.known[task])
            columns = {k: v[rows] for k, v in self.truth[task].items()}
            columns |= {"node_id": self.node[rows], "subject_id": self.subject[rows]}
            columns["prediction_time"] = pa.array([self.time[i] for i in rows], US)
            write(labels_path(self.root / "task_labels", task), columns, LABEL_SCHEMA)
        tasks = [
            {
                "name": task,
                "kind": kind,
                "category": ("survival", "toxicity", "progression")[i % 3],
                "horizon_days": 180,
                "description": task,
            }
            for i, (task, (kind, _)) in enumerate(self.tasks.items())
        ]
        (self.root / "task_labels/tasks.json").write_text(json.dumps(tasks))

    def subgroups(self) -> None:
        """Writes sex and age band of every node."""
        sex = np.where(self.subject % 2 == 0, "F", "M")
        age = np.array(["<50", "50-70", "70+"])[self.subject % 3]
        columns = {
            "node_id": np.r_[self.node, self.node],
            "name": np.repeat(["sex", "age_band"], len(self.node)),
            "value": np.r_[sex, age],
        }
        write(self.root / "decision_nodes/subgroups.parquet", columns, SUBGROUP_SCHEMA)

    def predict(
        self,
        folder: str,
        recipe: str,
        sees: float,
        probe: str | None = None,
        tasks: Sequence[str] | None = None,
        seeds: Sequence[int] = (1,),
        drop: int = 0,
    ) -> Path:
        """Adds a method's predictions to `root/folder`. sees: weight of the hidden number beside noise.

        probe: of every kind of task; else the usual one. drop: so many held-out nodes get no answer.
        """
        tables = []
        for task in self.tasks if tasks is None else tasks:
            kind = self.tasks[task][0]
            for seed in seeds:
                rows = np.flatnonzero(self.known[task] & (self.split != "train"))
                rows = np.delete(rows, np.flatnonzero(self.split[rows] == "held_out")[:drop])
                score = sees * self.hidden[rows] + self.rng.normal(size=len(rows))
                columns = {k: v[rows] for k, v in self.truth[task].items()}
                columns |= {
                    "node_id": self.node[rows],
                    "subject_id": self.subject[rows],
                    "split": self.split[rows],
                }
                columns["indication"] = pa.array([i or None for i in self.indication[rows].tolist()])
                columns["prediction_time"] = pa.array([self.time[i] for i in rows], US)
                if kind == "binary":
                    probability = (1 / (1 + np.exp(-score))).astype(np.float32)
                    columns["predicted_boolean_probability"] = probability
                    columns["predicted_boolean_value"] = probability >= 0.5
                else:
                    name = "risk" if kind == "time_to_event" else "predicted_numeric_value"
                    columns[name] = score.astype(np.float32)
                same = {"recipe": recipe, "cohort": self.cohort, "task": task, "kind": kind, "seed": seed}
                same["probe"] = probe or KINDS[kind]
                columns |= {k: pa.repeat(pa.scalar(v), len(rows)) for k, v in same.items()}
                tables.append(table(columns, PREDICTIONS_SCHEMA))
        path = self.root / folder / "predictions.parquet"
        if path.is_file():
            tables.insert(0, pq.read_table(path))
        write(path, None, PREDICTIONS_SCHEMA, pa.concat_tables(tables or [PREDICTIONS_SCHEMA.empty_table()]))
        return path.parent


def table(columns: Mapping, schema: pa.Schema | None = None) -> pa.Table:
    if schema is None:
        return pa.table(dict(columns))
    n = len(columns["node_id"])
    made = {f.name: columns.get(f.name, pa.nulls(n, f.type)) for f in schema}
    cast = [
        c.cast(f.type) if isinstance(c, pa.Array) else pa.array(c, f.type)
        for c, f in zip(made.values(), schema, strict=True)
    ]
    return pa.table(cast, schema=schema)


def write(
    path: Path, columns: Mapping | None, schema: pa.Schema | None = None, made: pa.Table | None = None
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(made if made is not None else table(columns or {}, schema), path)
