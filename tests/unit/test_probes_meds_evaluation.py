"""Agreement with meds-evaluation: it reads our predictions, and finds the same scores."""

import polars as pl
import pytest
from predictions_support import MadeUp

from ehr_assets.probes.compare import compare
from ehr_assets.probes.panel_scores import Rules

evaluate = pytest.importorskip("meds_evaluation.evaluate")

THEIRS = {"auroc": "roc_auc_score", "auprc": "average_precision_score", "brier": "brier_score"}
COLUMNS = [
    "subject_id",
    "prediction_time",
    "boolean_value",
    "predicted_boolean_value",
    "predicted_boolean_probability",
]


@pytest.mark.parametrize("ties", [False, True])
def test_meds_evaluation_finds_the_same(ties, tmp_path):
    made = MadeUp(tmp_path / "made", {"tox": ("binary", 0.3), "relapse": ("binary", 0.1)}, subjects=240)
    folders = {who: made.predict(who, who, sees) for who, sees in (("blind", 0.0), ("seeing", 1.5))}
    if ties:
        probability = pl.col("predicted_boolean_probability")
        for folder in folders.values():
            path = folder / "predictions.parquet"
            pl.read_parquet(path).with_columns(probability.round(1)).write_parquet(path)
    (tmp_path / "out").mkdir()
    compare(
        {"made_up": made.dirs},
        {"made_up": {who: [folder] for who, folder in folders.items()}},
        list(folders),
        tmp_path / "out",
        Rules(replicates=2),
    )
    ours = pl.read_parquet(tmp_path / "out/metrics.parquet").filter(pl.col("indication").is_null())
    compared = 0
    for who, folder in folders.items():
        predictions = pl.read_parquet(folder / "predictions.parquet").filter(pl.col("split") == "held_out")
        for (task,), rows in predictions.partition_by("task", as_dict=True).items():
            theirs = evaluate.evaluate_binary_classification(rows.select(COLUMNS))["samples_equally_weighted"]
            mine = dict(ours.filter(recipe=who, task=task).select("metric", "value").iter_rows())
            for name, their_name in THEIRS.items():
                # Its Brier score is a mean of float32.
                exact = 1e-6 if name == "brier" else 1e-12
                assert mine[name] == pytest.approx(theirs[their_name], abs=exact), (who, task, name)
                compared += 1
    assert compared == 12
