"""Probes, baselines and oracle on a made-up cohort: who is fitted on whom, nulls, repeatability."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from probes_support import make_cohort, write_embeddings
from sklearn.metrics import roc_auc_score

from ehr_assets.errors import DatasetError
from ehr_assets.leakage.subjects import subjects_hash
from ehr_assets.nodes.frames import labels_path, read_labels, tasks_of, write_parquet
from ehr_assets.probes.baselines import baseline_metrics
from ehr_assets.probes.classifiers import fit_boosted, fit_logistic
from ehr_assets.probes.frames import CohortDirs, load_embeddings, load_nodes
from ehr_assets.probes.linear import probe_recipe
from ehr_assets.probes.oracle import oracle_metrics
from ehr_assets.probes.predictions import youden_threshold
from ehr_assets.probes.schemas import METRICS_SCHEMA
from ehr_assets.probes.survival import fit_cox


def _dirs(root):
    return CohortDirs(root / "decision_nodes", root / "task_labels", root / "subject_splits")


def _probe(root, out, **kwargs):
    out.mkdir(parents=True)
    return probe_recipe("r", root / "node_embeddings", {"made_up": _dirs(root)}, out, bootstrap=50, **kwargs)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def probed(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("probe") / "out"
    return out, _probe(root, out)


def _metrics(out, **wanted):
    table = pl.read_parquet(out / "metrics.parquet")
    return table.filter(*(pl.col(k) == v for k, v in wanted.items())) if wanted else table


def _bytes(out):
    return {f.name: f.read_bytes() for f in sorted(out.iterdir())}


def test_probe_finds_the_signal_and_says_what_it_scored(probed):
    out, stats = probed
    assert stats["tasks"] == 4
    assert stats["tasks_scored"] == 3
    row = _metrics(out, task="death_365d", probe="logistic", metric="auroc").filter(
        pl.col("indication").is_null()
    )
    assert row["value"][0] > 0.62
    assert row["ci_low"][0] < row["value"][0] < row["ci_high"][0]
    assert row["split"][0] == "held_out"
    assert pq.read_schema(out / "metrics.parquet").equals(METRICS_SCHEMA)
    assert _metrics(out, probe="cox", task="death_365d")["value"][0] > 0.57


def test_a_task_without_positives_is_listed_with_nulls(probed):
    rows = _metrics(probed[0], task="never_90d")
    assert set(rows["metric"]) == {"auroc", "auprc", "brier"}
    assert rows.select(pl.col("value", "ci_low", "ci_high").is_null().all()).row(0) == (True, True, True)
    assert (rows["n"] > 50).all()
    assert (rows["n_positive"] == 0).all()
    assert "never_90d" not in set(pl.read_parquet(probed[0] / "predictions.parquet")["task"])


def test_metrics_can_be_recomputed_from_predictions(probed):
    stored = pl.read_parquet(probed[0] / "predictions.parquet").filter(pl.col("split") == "held_out")
    for task in ("death_365d", "toxicity_90d"):
        rows = stored.filter(pl.col("task") == task)
        expected = roc_auc_score(
            rows["boolean_value"].to_numpy(), rows["predicted_boolean_probability"].to_numpy()
        )
        found = _metrics(probed[0], task=task, metric="auroc").filter(pl.col("indication").is_null())
        assert found["value"][0] == pytest.approx(expected, abs=1e-12)
        assert found["n"][0] == rows.height
    assert set(pl.read_parquet(probed[0] / "predictions.parquet")["split"]) == {"tuning", "held_out"}


def test_fitted_on_names_exactly_the_labelled_train_subjects(root, probed):
    splits = pl.read_parquet(root / "subject_splits/subject_splits.parquet")
    train = splits.filter(pl.col("split") == "train")["subject_id"].to_list()
    said = json.loads((probed[0] / "fitted_on.json").read_text())
    assert said["split"] == "train"
    assert said["subjects_sha256"] == subjects_hash(train)
    assert said["n_subjects"] == len(train)


def test_equal_inputs_give_equal_bytes(root, probed, tmp_path):
    _probe(root, tmp_path / "again")
    assert _bytes(tmp_path / "again") == _bytes(probed[0])


def test_held_out_values_change_no_fit(root, probed, tmp_path):
    """Held-out embeddings and labels are replaced: tuning predictions, which show the fit, stay the same."""
    table = pl.read_parquet(root / "node_embeddings/embeddings.parquet")
    splits = pl.read_parquet(root / "subject_splits/subject_splits.parquet")
    held_out = splits.filter(pl.col("split") == "held_out")["subject_id"]
    changed = table["subject_id"].is_in(held_out.implode()).to_numpy()
    vectors = np.stack(table["embedding"].to_numpy())
    vectors[changed] = np.random.default_rng(5).normal(50, 9, size=(int(changed.sum()), vectors.shape[1]))
    write_embeddings(
        tmp_path / "node_embeddings", [(*r[:3], None, None, r[3]) for r in _keys(table)], vectors
    )
    for part in ("decision_nodes", "subject_splits"):
        (tmp_path / part).symlink_to(root / part)
    for task in tasks_of(root / "task_labels"):
        labels = read_labels(root / "task_labels", task["name"])
        flipped = labels.with_columns(
            pl.when(pl.col("subject_id").is_in(held_out.implode()))
            .then(pl.col("boolean_value").not_())
            .otherwise(pl.col("boolean_value"))
        )
        write_parquet(flipped.to_arrow(), labels_path(tmp_path / "task_labels", task["name"]))
    (tmp_path / "task_labels/tasks.json").write_text((root / "task_labels/tasks.json").read_text())
    _probe(tmp_path, tmp_path / "out")

    def tuning(out):
        rows = pl.read_parquet(out / "predictions.parquet").filter(pl.col("split") == "tuning")
        return rows.select("node_id", "task", "predicted_boolean_probability", "predicted_boolean_value")

    assert tuning(tmp_path / "out").equals(tuning(probed[0]))
    assert (tmp_path / "out/fitted_on.json").read_bytes() == (probed[0] / "fitted_on.json").read_bytes()
    assert not _metrics(tmp_path / "out").equals(_metrics(probed[0]))


def _keys(table):
    return table.select("node_id", "subject_id", "time", "cohort").rows()


def test_tuning_only_chooses():
    """Whatever the tuning rows say, the model is one of those fitted on train alone."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(80, 5)), (rng.random(80) < 0.5).astype(float)
    alone = {C: fit_logistic(X, y, X[:0], y[:0], strengths=[C]).coefficients for C in (1e-3, 1e-1, 10.0)}
    for seed in range(4):
        noise = np.random.default_rng(seed)
        X_tuning, y_tuning = noise.normal(size=(40, 5)), (noise.random(40) < 0.5).astype(float)
        chosen = fit_logistic(X, y, X_tuning, y_tuning, strengths=tuple(alone))
        np.testing.assert_array_equal(chosen.coefficients, alone[chosen.C])
        np.testing.assert_allclose(chosen.mean, X.mean(axis=0), atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_one_class_in_tuning_still_chooses(value):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), np.repeat([0.0, 1.0], 30)
    assert np.isfinite(fit_logistic(X, y, X[:9], np.full(9, value)).coefficients).all()
    assert fit_boosted(X, y, X[:9], np.full(9, value), seed=1).rounds >= 1
    assert np.isfinite(fit_boosted(X, y, X[:0], y[:0], seed=1).probability(X)).all()


def test_constant_and_missing_columns_do_no_harm():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), np.repeat([0.0, 1.0], 30)
    X[:, 1], X[5:, 2] = 7.0, np.nan
    assert np.isfinite(fit_logistic(X, y, X, y).probability(X)).all()


def test_cox_of_flat_features_is_none_and_of_real_ones_ranks():
    rng = np.random.default_rng(0)
    X, observed = rng.normal(size=(200, 6)), np.ones(200, dtype=bool)
    duration = np.exp(-1.5 * X[:, 0]) * rng.exponential(30, 200)
    assert fit_cox(np.ones((200, 6)), duration, observed) is None
    model = fit_cox(X, duration, observed)
    assert model is not None
    assert np.corrcoef(model.log_hazard(X), X[:, 0])[0, 1] > 0.9


def test_nodes_without_a_finite_embedding_are_counted_not_scored(root, tmp_path):
    table = pl.read_parquet(root / "node_embeddings/embeddings.parquet")
    vectors = np.stack(table["embedding"].to_numpy())
    vectors[3, 0] = np.inf
    rows = [(*r[:3], None, None, r[3]) for r in _keys(table)]
    write_embeddings(tmp_path / "e", rows[:-1], vectors[:-1])
    (tmp_path / "out").mkdir()
    stats = probe_recipe("r", tmp_path / "e", {"made_up": _dirs(root)}, tmp_path / "out", bootstrap=5)
    assert stats["nodes_without_embedding"] == 2
    assert stats["nodes"] == table.height


def test_embeddings_follow_the_nodes_in_any_file_order(root, tmp_path):
    nodes = load_nodes("made_up", _dirs(root))
    X = load_embeddings(root / "node_embeddings", nodes)
    table = pq.read_table(root / "node_embeddings/embeddings.parquet")
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(table.num_rows)))
    pq.write_table(shuffled, tmp_path / "embeddings.parquet", row_group_size=50)
    np.testing.assert_array_equal(load_embeddings(tmp_path, nodes), X)


def test_a_node_without_a_split_is_refused(root, tmp_path):
    splits = pl.read_parquet(root / "subject_splits/subject_splits.parquet")
    pq.write_table(splits.tail(-1).to_arrow(), tmp_path / "subject_splits.parquet")
    with pytest.raises(DatasetError, match="without a split") as refused:
        load_nodes("made_up", CohortDirs(root / "decision_nodes", root / "task_labels", tmp_path))
    assert str(splits["subject_id"][0]) not in str(refused.value)


@pytest.mark.parametrize("kind", ["baseline", "oracle"])
def test_baseline_and_oracle_find_the_signal_repeatably(root, tmp_path, kind):
    for name in ("a", "b"):
        out = tmp_path / name
        out.mkdir()
        if kind == "baseline":
            stats = baseline_metrics("made_up", root / "meds_events", _dirs(root), out, bootstrap=20)
        else:
            stats = oracle_metrics("made_up", root / "latent_truth", _dirs(root), out, bootstrap=20)
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")
    assert stats["tasks_scored"] == 3
    rows = _metrics(out, task="death_365d", metric="auroc", recipe=kind).filter(
        pl.col("indication").is_null()
    )
    assert set(rows["probe"]) == {"xgboost", "logistic"} if kind == "baseline" else rows.height == 1
    assert (rows["value"] > 0.6).all()


def test_an_empty_cohort_gives_empty_files(root, tmp_path):
    labels = [labels_path(Path("task_labels"), task["name"]) for task in tasks_of(root / "task_labels")]
    for name in ("decision_nodes/nodes.parquet", "node_embeddings/embeddings.parquet", *labels):
        write_parquet(pq.read_table(root / name)[:0], tmp_path / name)
    (tmp_path / "task_labels/tasks.json").write_text((root / "task_labels/tasks.json").read_text())
    (tmp_path / "subject_splits").symlink_to(root / "subject_splits")
    assert _probe(tmp_path, tmp_path / "p")["tasks_scored"] == 0
    (tmp_path / "b").mkdir()
    baseline_metrics("made_up", root / "meds_events", _dirs(tmp_path), tmp_path / "b")
    assert _metrics(tmp_path / "b")["value"].null_count() == _metrics(tmp_path / "b").height > 0


def test_youden_threshold():
    y, p = np.array([0, 0, 1, 1]), np.array([0.1, 0.3, 0.4, 0.9])
    assert youden_threshold(y, p) == pytest.approx(0.4)
    assert youden_threshold(np.ones(3), np.array([0.2, 0.3, 0.4])) == 0.5
