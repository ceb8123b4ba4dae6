"""Probes, baselines and oracle on a made-up cohort: who is fitted on whom, nulls, repeatability, files."""

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
from ehr_assets.fanout import Machine
from ehr_assets.leakage.subjects import subjects_hash
from ehr_assets.nodes.frames import labels_path, read_labels, tasks_of, write_parquet
from ehr_assets.probes.baselines import baseline_metrics
from ehr_assets.probes.frames import CohortDirs, load_embeddings, load_nodes, read_nodes
from ehr_assets.probes.oracle import oracle_metrics
from ehr_assets.probes.probe import probe_recipe
from ehr_assets.probes.schemas import FITS_SCHEMA, METRICS_SCHEMA, PREDICTIONS_SCHEMA
from ehr_assets.probes.spec import BaselineSpec, ProbeSpec


def _dirs(root):
    return CohortDirs(root / "decision_nodes", root / "task_labels", root / "subject_splits")


def _probe(root, out, spec=None, **kwargs):
    out.mkdir(parents=True)
    spec = spec or ProbeSpec(bootstrap=50)
    return probe_recipe("r", root / "node_embeddings", {"made_up": _dirs(root)}, out, spec, **kwargs)


def _baseline(root, out, spec=None, **kwargs):
    out.mkdir(parents=True)
    spec = spec or BaselineSpec(bootstrap=20)
    return baseline_metrics("made_up", root / "meds_events", _dirs(root), out, spec, **kwargs)


def _oracle(root, out, **kwargs):
    out.mkdir(parents=True)
    spec = BaselineSpec(bootstrap=20)
    return oracle_metrics("made_up", root / "latent_truth", _dirs(root), out, spec, **kwargs)


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


def _fits(out, **wanted):
    return (
        pl.read_parquet(out / "fits.parquet").filter(*(pl.col(k) == v for k, v in wanted.items())).to_dicts()
    )


def _bytes(out):
    files = sorted(f for f in out.rglob("*") if f.is_file())
    return {f.relative_to(out).as_posix(): f.read_bytes() for f in files}


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
    for name, schema in (
        ("metrics", METRICS_SCHEMA),
        ("predictions", PREDICTIONS_SCHEMA),
        ("fits", FITS_SCHEMA),
    ):
        assert pq.read_schema(out / f"{name}.parquet").equals(schema), name
    assert _metrics(out, probe="cox", task="death_365d")["value"][0] > 0.57


def test_a_task_without_positives_is_listed_with_nulls(probed):
    rows = _metrics(probed[0], task="never_90d")
    (fit,) = _fits(probed[0], task="never_90d")
    assert (fit["note"], fit["chosen"], fit["n_train_positive"]) == ("too_few_of_a_class", None, 0)
    assert set(rows["metric"]) == {"auroc", "auprc", "brier"}
    assert rows.select(pl.col("value", "ci_low", "ci_high").is_null().all()).row(0) == (True, True, True)
    assert (rows["n"] > 50).all()
    assert (rows["n_positive"] == 0).all()
    assert "never_90d" not in set(pl.read_parquet(probed[0] / "predictions.parquet")["task"])


def test_metrics_can_be_recomputed_from_predictions(probed):
    stored = pl.read_parquet(probed[0] / "predictions.parquet").filter(pl.col("split") == "held_out")
    for task in ("death_365d", "toxicity_90d"):
        rows = stored.filter(pl.col("task") == task, pl.col("probe") == "logistic")
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


def test_nodes_without_a_finite_embedding_are_counted_not_scored(root, tmp_path):
    table = pl.read_parquet(root / "node_embeddings/embeddings.parquet")
    vectors = np.stack(table["embedding"].to_numpy())
    vectors[3, 0] = np.inf
    rows = [(*r[:3], None, None, r[3]) for r in _keys(table)]
    write_embeddings(tmp_path / "e", rows[:-1], vectors[:-1])
    (tmp_path / "out").mkdir()
    stats = probe_recipe(
        "r", tmp_path / "e", {"made_up": _dirs(root)}, tmp_path / "out", ProbeSpec(bootstrap=5)
    )
    assert stats["nodes_without_features"] == 2
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


@pytest.mark.parametrize(("run", "recipe"), [(_baseline, "baseline"), (_oracle, "oracle")])
def test_baselines_and_oracle_find_the_signal(root, tmp_path, run, recipe):
    stats = run(root, tmp_path / "a")
    assert stats["tasks_scored"] == 3
    rows = _metrics(tmp_path / "a", task="death_365d", metric="auroc", recipe=recipe).filter(
        pl.col("indication").is_null()
    )
    # The bag sees no values, and in the made-up records only values tell.
    expected = {"xgboost", "logistic", "random_forest", "bag_of_codes"} if run is _baseline else {"oracle"}
    assert set(rows["probe"]) == expected
    assert (rows.filter(pl.col("probe") != "bag_of_codes")["value"] > 0.6).all()


def test_bytes_do_not_depend_on_the_number_of_workers(root, tmp_path):
    _baseline(root, tmp_path / "one")
    _baseline(root, tmp_path / "two", machine=Machine(workers=2))
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")
    assert not [p for p in (tmp_path / "two").iterdir() if p.name.startswith(".")]


def test_the_oracle_is_repeatable_and_leaves_the_state_at_each_node(root, tmp_path):
    for name in ("a", "b"):
        _oracle(root, tmp_path / name)
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")
    latent = pl.read_parquet(tmp_path / "a/latent_at_nodes.parquet")
    nodes = read_nodes("made_up", _dirs(root))
    assert latent.columns == ["node_id", "z_burden", "z_velocity"]
    assert latent["node_id"].to_list() == nodes.frame["node_id"].to_list()
    truth = pl.read_parquet(root / "latent_truth/latent_states.parquet")
    for row in range(0, latent.height, 29):
        mine = truth.filter(
            pl.col("subject_id") == nodes.subject_id[row], pl.col("time") <= nodes.frame["time"][row]
        )
        assert latent["z_burden"][row] == pytest.approx(mine.sort("time")["z_burden"][-1], rel=1e-6)


def test_an_empty_cohort_gives_empty_files(root, tmp_path):
    labels = [labels_path(Path("task_labels"), task["name"]) for task in tasks_of(root / "task_labels")]
    for name in ("decision_nodes/nodes.parquet", "node_embeddings/embeddings.parquet", *labels):
        write_parquet(pq.read_table(root / name)[:0], tmp_path / name)
    (tmp_path / "task_labels/tasks.json").write_text((root / "task_labels/tasks.json").read_text())
    (tmp_path / "subject_splits").symlink_to(root / "subject_splits")
    assert _probe(tmp_path, tmp_path / "p")["tasks_scored"] == 0
    (tmp_path / "meds_events").symlink_to(root / "meds_events")
    _baseline(tmp_path, tmp_path / "b")
    assert _metrics(tmp_path / "b")["value"].null_count() == _metrics(tmp_path / "b").height > 0
