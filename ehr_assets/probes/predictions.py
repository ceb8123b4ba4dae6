"""Predictions as tables: one row per method, task and evaluable node of tuning and held-out.

Train nodes are left out, since a method's answers at the nodes it was fitted on say nothing.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ehr_assets.probes.frames import CohortNodes, TaskLabels
from ehr_assets.probes.schemas import PREDICTIONS_SCHEMA
from ehr_assets.probes.scoring import EVALUATED_SPLIT, Method


def predictions(
    nodes: CohortNodes, method: Method, task: TaskLabels, probability: NDArray, usable: NDArray[np.bool_]
) -> pa.Table:
    """Predictions on tuning and held-out nodes with a known label (PREDICTIONS_SCHEMA).

    The predicted class uses the threshold with the best Youden index on tuning (0.5 where tuning
    holds one class); held-out outcomes play no part in it.
    """
    known = usable & ~np.isnan(task.y)
    tuning = known & nodes.rows("tuning")
    threshold = youden_threshold(task.y[tuning], probability[tuning])
    at = np.flatnonzero(tuning | (known & nodes.rows(EVALUATED_SPLIT)))
    frame = nodes.frame[at]
    n = len(at)
    columns = {
        "recipe": pa.repeat(pa.scalar(method.recipe), n),
        "cohort": pa.repeat(pa.scalar(nodes.cohort), n),
        "task": pa.repeat(pa.scalar(task.name), n),
        "kind": pa.repeat(pa.scalar("binary"), n),
        "probe": pa.repeat(pa.scalar(method.probe), n),
        "seed": pa.repeat(pa.scalar(method.seed), n),
        "node_id": frame["node_id"].to_arrow().cast(pa.string()),
        "split": pa.array(nodes.split[at].tolist(), pa.string()),
        "subject_id": pa.array(nodes.subject_id[at], pa.int64()),
        "prediction_time": frame["time"].to_arrow().cast(pa.timestamp("us")),
        "indication": frame["indication"].to_arrow().cast(pa.string()),
        "boolean_value": pa.array(task.y[at] == 1, pa.bool_()),
        "predicted_boolean_value": pa.array(probability[at] >= threshold, pa.bool_()),
        "predicted_boolean_probability": pa.array(probability[at].astype(np.float32), pa.float32()),
    }
    for field in PREDICTIONS_SCHEMA:
        columns.setdefault(field.name, pa.nulls(n, field.type))
    return pa.table(columns, schema=PREDICTIONS_SCHEMA)


def youden_threshold(y: NDArray, probability: NDArray) -> float:
    """The threshold with the largest sensitivity + specificity on (y, probability); 0.5 if one class."""
    positive = y == 1
    if len(y) == 0 or positive.all() or not positive.any():
        return 0.5
    cuts = np.unique(probability)
    below = np.searchsorted(np.sort(probability[positive]), cuts, side="left")
    below_negative = np.searchsorted(np.sort(probability[~positive]), cuts, side="left")
    youden = (1 - below / positive.sum()) + below_negative / (~positive).sum()
    return float(cuts[np.argmax(youden)])
