"""What Dagster's pages say of metrics."""

import polars as pl
import pytest

from ehr_assets.probes.summary import auroc_means, auroc_table


def metrics(*rows: tuple) -> pl.DataFrame:
    names = [
        "cohort",
        "task",
        "probe",
        "metric",
        "indication",
        "value",
        "ci_low",
        "ci_high",
        "n",
        "n_positive",
    ]
    return pl.DataFrame(rows, schema=names, orient="row")


FOUND = metrics(
    ("c", "death", "logistic", "auroc", None, 0.8, 0.7, 0.9, 100, 20),
    ("c", "relapse", "logistic", "auroc", None, 0.6, 0.5, 0.75, 90, 10),
    ("c", "rare", "logistic", "auroc", None, None, None, None, 90, 1),
    ("c", "death", "logistic", "auroc", "lung", 0.1, None, None, 10, 5),
    ("c", "death", "logistic", "brier", None, 0.2, 0.1, 0.3, 100, 20),
    ("c", "death", "xgboost", "auroc", None, 0.9, None, None, 100, 20),
)


def test_means_are_over_the_scored_tasks_of_the_whole_cohort():
    assert auroc_means(FOUND) == {"logistic": pytest.approx(0.7), "xgboost": pytest.approx(0.9)}


def test_the_table_has_a_row_per_task_and_probe_and_hides_no_unscored_task():
    lines = auroc_table(FOUND).splitlines()
    assert len(lines) == 2 + 4
    assert lines[2] == "| c | death | logistic | 0.800 | 0.70 to 0.90 | 100 | 20 |"
    assert "| c | rare | logistic | – | – | 90 | 1 |" in lines
    assert len({line.count("|") for line in lines}) == 1
