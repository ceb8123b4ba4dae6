"""The quick table of one method: every kind of task has its metrics, on held-out nodes, or is listed."""

import numpy as np
import pytest
from lifelines.utils import concordance_index
from predictions_support import MadeUp
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, r2_score, roc_auc_score

from ehr_assets.probes.frames import load_nodes
from ehr_assets.probes.scoring import Method, Scorer

TASKS = {"tox": ("binary", 0.3), "death": ("time_to_event", 0.5), "marker": ("regression", 0.5)}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    made = MadeUp(tmp_path_factory.mktemp("made"), TASKS)
    return load_nodes("made_up", made.dirs)


@pytest.mark.parametrize("name", TASKS)
def test_each_kind_is_scored_on_held_out_nodes_or_listed(nodes, name):
    task = next(t for t in nodes.tasks if t.name == name)
    kind, n = task.kind, len(nodes.split)
    answers = np.random.default_rng(0).random(n).astype(np.float32)
    everywhere = np.ones(n, dtype=bool)
    rows = Scorer(nodes, 30, 20, 5).rows(Method("r", "p", 1), task, kind, answers, everywhere)
    at = (nodes.split == "held_out") & task.evaluable(kind)
    y, p = task.y[at], answers[at].astype(float)
    expected = {
        "tox": lambda: {"auroc": roc_auc_score(y, p), "auprc": average_precision_score(y, p)},
        "death": lambda: {"c_index": concordance_index(task.duration_days[at], -p, task.status[at] == 1)},
        "marker": lambda: {"spearman": spearmanr(y, p)[0], "r2": r2_score(y, p)},
    }[name]()
    whole = {r["metric"]: r for r in rows if r["indication"] is None}
    for metric, value in expected.items():
        assert whole[metric]["value"] == pytest.approx(value, abs=1e-9)
        assert whole[metric]["ci_low"] < whole[metric]["ci_high"]
        assert whole[metric]["n"] == at.sum()
    assert {r["indication"] for r in rows} == {None, "lung", "pancreas", "prostate"}
    for listed in (
        Scorer(nodes, 30, 10**6, 5).rows(Method("r", "p", 1), task, kind, answers, everywhere),
        Scorer(nodes, 30, 20, 5).rows(Method("r", "p", 1), task, kind, None, everywhere),
    ):
        assert [r["n"] for r in listed] == [at.sum()] * len(whole)
        assert np.isnan([r["value"] for r in listed]).all()
