"""The one loop: kinds of task, bad cohorts, the proof of who was fitted on whom, files for other tools."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from probes_support import make_cohort, write_embeddings

from ehr_assets.cohorts.spec import load_cohort
from ehr_assets.errors import SpecError
from ehr_assets.leakage.proof import CohortFiles, fits_proved
from ehr_assets.nodes.frames import CENSORED, COMPETING, EVENT, labels_path, read_labels, write_parquet
from ehr_assets.probes.baselines import baseline_metrics
from ehr_assets.probes.frames import CohortDirs, CohortNodes
from ehr_assets.probes.oracle import oracle_metrics
from ehr_assets.probes.predictions import MEDS_PREDICTION_SCHEMA
from ehr_assets.probes.probe import probe_recipe
from ehr_assets.probes.spec import BaselineSpec, ProbeSpec
from ehr_assets.settings import PROJECT_ROOT

KINDS = {"time_to_event": "months_365d", "regression": "change_180d"}
"""Tasks that are added to the made-up cohort, by kind."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The made-up cohort with a time to event and a number beside its binary tasks."""
    root = make_cohort(tmp_path_factory.mktemp("cohort"))
    tasks = [{**t, "kind": "binary"} for t in json.loads((root / "task_labels/tasks.json").read_text())]
    severity = pl.read_parquet(root / "latent_truth/latent_states.parquet").group_by("subject_id").first()
    base = read_labels(root / "task_labels", "death_365d").join(
        severity.select("subject_id", "z_burden"), on="subject_id", maintain_order="left"
    )
    rng = np.random.default_rng(1)
    z, n = base["z_burden"].to_numpy(), base.height
    unasked = rng.random(n) < 0.1
    status = rng.choice([CENSORED, EVENT, COMPETING], n, p=[0.4, 0.5, 0.1])
    columns = {
        "time_to_event": {
            "duration_days": np.minimum(365, 1 + 90 * np.exp(-1.2 * z) * rng.exponential(1, n)),
            "status": status,
        },
        "regression": {"numeric_value": 2 * z + rng.normal(0, 0.8, n)},
    }
    for kind, name in KINDS.items():
        empty = base.drop("z_burden").with_columns(
            *(pl.lit(None).cast(base.schema[c]).alias(c)
              for c in ("boolean_value", "numeric_value", "event_time", "duration_days", "status")),
            pl.Series("reason", ["not_at_risk" if u else None for u in unasked], dtype=pl.String),
        )  # fmt: skip
        made = empty.with_columns(
            pl.Series(c, [None if u else v for u, v in zip(unasked, x.tolist(), strict=True)], base.schema[c])
            for c, x in columns[kind].items()
        )
        write_parquet(made.to_arrow(), labels_path(root / "task_labels", name))
        tasks.append({"name": name, "kind": kind, "category": "durability", "horizon_days": 365})
    (root / "task_labels/tasks.json").write_text(json.dumps(tasks))
    return root


def dirs(root):
    return CohortDirs(root / "decision_nodes", root / "task_labels", root / "subject_splits")


def probe(root, out, spec=None):
    out.mkdir()
    spec = spec or ProbeSpec(bootstrap=10)
    return probe_recipe("r", root / "node_embeddings", {"made_up": dirs(root)}, out, spec)


def baseline(root, out, spec=None):
    out.mkdir()
    return baseline_metrics(
        "made_up", root / "meds_events", dirs(root), out, spec or BaselineSpec(bootstrap=10)
    )


def oracle(root, out, spec=None):
    out.mkdir()
    truth = root / "latent_truth"
    return oracle_metrics("made_up", truth, dirs(root), out, spec or BaselineSpec(bootstrap=10))


@pytest.fixture(scope="module")
def ran(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    for name, run in (("probe", probe), ("baseline", baseline), ("oracle", oracle)):
        run(root, out / name)
    probe(root, out / "by_indication", ProbeSpec(bootstrap=10, fit=("pooled", "by_indication")))
    return out


RUNS = ["probe", "baseline", "oracle", "by_indication"]


def predictions(out, **wanted):
    table = pl.read_parquet(out / "predictions.parquet")
    return table.filter(*(pl.col(k) == v for k, v in wanted.items()))


# --- kinds


def test_every_kind_is_answered_by_those_who_can(ran):
    asked = {
        (name, r["kind"], r["probe"])
        for name in ("probe", "baseline", "oracle")
        for r in predictions(ran / name).select("kind", "probe").unique().to_dicts()
    }
    assert asked == {
        *(("probe", *x) for x in (("binary", "logistic"), ("regression", "ridge"), ("time_to_event", "cox"))),
        *(("baseline", "binary", m) for m in ("logistic", "random_forest", "xgboost", "bag_of_codes")),
        *(("baseline", "regression", m) for m in ("ridge", "random_forest", "xgboost", "bag_of_codes")),
        ("baseline", "time_to_event", "cox"),
        *(("oracle", kind, "oracle") for kind in ("binary", "regression", "time_to_event")),
    }


def test_a_time_to_event_is_predicted_with_its_outcome_beside_it(root, ran):
    rows = predictions(ran / "probe", task=KINDS["time_to_event"]).sort("node_id")
    labels = read_labels(root / "task_labels", KINDS["time_to_event"]).filter(pl.col("status").is_not_null())
    true = rows.select("node_id").join(labels, on="node_id", how="left", maintain_order="left")
    assert rows["duration_days"].equals(true["duration_days"])
    assert rows["status"].equals(true["status"].cast(pl.Int8))
    nulls = ("boolean_value", "predicted_boolean_probability", "numeric_value", "predicted_numeric_value")
    assert all(rows[c].null_count() == rows.height for c in nulls)
    assert rows["risk"].null_count() == 0
    early = rows.filter(pl.col("status") == EVENT)
    assert np.corrcoef(early["risk"], np.log(early["duration_days"]))[0, 1] < -0.3


def test_a_number_is_predicted_with_its_outcome_beside_it(root, ran):
    labels = read_labels(root / "task_labels", KINDS["regression"]).drop_nulls("numeric_value")
    for name, probe_name in (("probe", "ridge"), ("baseline", "xgboost"), ("oracle", "oracle")):
        rows = predictions(ran / name, task=KINDS["regression"], probe=probe_name)
        true = rows.select("node_id").join(labels, on="node_id", how="left", maintain_order="left")
        assert rows["numeric_value"].equals(true["numeric_value"])
        assert rows["boolean_value"].null_count() == rows["risk"].null_count() == rows.height
        assert np.corrcoef(rows["numeric_value"], rows["predicted_numeric_value"])[0, 1] > 0.4, name


def test_a_binary_survival_task_is_a_time_too_only_where_the_cohort_has_no_such_task(root, ran, tmp_path):
    assert set(predictions(ran / "probe", task="death_365d")["kind"]) == {"binary"}
    copy = _copy(root, tmp_path)
    tasks = json.loads((copy / "task_labels/tasks.json").read_text())[:-2]
    (copy / "task_labels/tasks.json").write_text(json.dumps(tasks))
    probe(copy, tmp_path / "out")
    assert set(predictions(tmp_path / "out", task="death_365d")["kind"]) == {"binary", "time_to_event"}
    probe(copy, tmp_path / "none", ProbeSpec(bootstrap=10, survival_categories=()))
    assert set(predictions(tmp_path / "none", task="death_365d")["kind"]) == {"binary"}


def test_all_methods_answer_the_same_nodes(ran):
    for task, rows in predictions(ran / "baseline", kind="binary").group_by("task"):
        nodes = {m[0]: sorted(r["node_id"]) for m, r in rows.group_by("probe")}
        other = sorted(predictions(ran / "probe", task=task[0], kind="binary")["node_id"])
        assert all(found == other for found in nodes.values())


def test_fits_say_how_they_were_chosen(ran):
    fits = pl.read_parquet(ran / "baseline/fits.parquet")
    chosen = {
        (r["probe"], r["kind"]): json.loads(r["chosen"])
        for r in fits.filter(pl.col("note").is_null()).to_dicts()
    }
    assert {"strength", "folds", "chosen_by", "threshold"} <= set(chosen["logistic", "binary"])
    assert {"max_depth", "min_child_weight", "rounds", "threshold"} <= set(chosen["xgboost", "binary"])
    assert "threshold" not in chosen["xgboost", "regression"]
    assert set(fits.filter(pl.col("task") == "never_90d")["note"]) == {"too_few_of_a_class"}


# --- who was fitted on whom


@pytest.mark.parametrize("name", RUNS)
def test_the_ledger_is_proved_by_splits_and_labels(root, ran, name):
    findings = fits_proved(name, ran / name, {"made_up": CohortFiles(*vars(dirs(root)).values())})
    assert [f for f in findings if f.verdict == "fail"] == []
    steps = json.loads((ran / name / "fitted_on.json").read_text())["steps"]
    made = {step["step"] for step in steps}
    assert {"scaler", "folds", "threshold", "logistic", "cox", "pca", "ridge"} <= made
    assert ("vocabulary" in made) == (name in ("baseline", "oracle"))


@pytest.mark.parametrize("run", [probe, baseline, oracle])
def test_held_out_rows_among_those_of_train_show_in_the_ledger(root, tmp_path, monkeypatch, run):
    honest = CohortNodes.rows

    def leaking(self, split):
        more = honest(self, "held_out") if split == "train" else False
        return honest(self, split) | more

    monkeypatch.setattr(CohortNodes, "rows", leaking)
    run(root, tmp_path / "out")
    findings = fits_proved("x", tmp_path / "out", {"made_up": CohortFiles(*vars(dirs(root)).values())})
    failed = [f for f in findings if f.verdict == "fail" and f.about]
    assert any("logistic" in (f.about or "") for f in failed)
    assert any("scaler" in (f.about or "") for f in failed)


def test_a_subject_without_states_takes_nothing_from_the_proof(root, tmp_path):
    """A few states that are no numbers are counted and left out; the fits of the others are still honest."""
    states = pl.read_parquet(root / "node_embeddings/embeddings.parquet")
    train = pl.read_parquet(root / "subject_splits/subject_splits.parquet").filter(pl.col("split") == "train")
    gone = states["subject_id"] == train["subject_id"].sort()[0]
    vectors = np.where(gone.to_numpy()[:, None], np.nan, np.stack(states["embedding"].to_numpy()))
    rows = [(r[0], r[1], r[2], None, None, r[3]) for r in states.drop("embedding").iter_rows()]
    write_embeddings(tmp_path / "states", rows, vectors)
    (tmp_path / "out").mkdir()
    cohorts = {"made_up": dirs(root)}
    stats = probe_recipe("r", tmp_path / "states", cohorts, tmp_path / "out", ProbeSpec(bootstrap=5))
    assert stats["nodes_without_features"] == gone.sum() > 0
    findings = fits_proved("r", tmp_path / "out", {"made_up": CohortFiles(*vars(dirs(root)).values())})
    assert [f for f in findings if f.verdict == "fail"] == []


# --- files for other tools


def test_predictions_are_read_by_meds_evaluation(ran):
    schema = pytest.importorskip("meds_evaluation.schema").PredictionSchema
    files = sorted((ran / "baseline/meds").rglob("*.parquet"))
    assert {f.relative_to(ran / "baseline/meds").parts for f in files} == {
        ("made_up", task, f"{probe}.parquet")
        for task in ("death_365d", "progression_180d", "toxicity_90d")
        for probe in ("logistic", "random_forest", "xgboost", "bag_of_codes")
    }
    for file in files:
        table = pq.read_table(file)
        assert table.schema.equals(MEDS_PREDICTION_SCHEMA)
        assert schema.align(table).equals(table)
        held_out = predictions(
            ran / "baseline", task=file.parent.name, probe=file.stem, kind="binary", split="held_out"
        )
        assert pl.from_arrow(table).equals(held_out.select(table.column_names))


# --- bad input


def _copy(root, tmp_path):
    return Path(shutil.copytree(root, tmp_path / "copy", symlinks=True))


@pytest.mark.parametrize("noise", [0, 1e-7])
def test_constant_embeddings_are_never_a_silent_half(root, tmp_path, noise):
    copy = _copy(root, tmp_path)
    table = pl.read_parquet(root / "node_embeddings/embeddings.parquet")
    vectors = 0.3 + noise * np.random.default_rng(0).normal(size=(table.height, 8))
    rows = [
        (*r[:3], None, None, r[3]) for r in table.select("node_id", "subject_id", "time", "cohort").rows()
    ]
    write_embeddings(copy / "node_embeddings", rows, vectors.astype(np.float32))
    stats = probe(copy, tmp_path / "out")
    assert stats["tasks_scored"] == 0
    assert stats["not_fitted/constant_features"] == 5
    assert pl.read_parquet(tmp_path / "out/metrics.parquet")["value"].null_count() > 0
    assert predictions(tmp_path / "out").height == 0
    assert set(pl.read_parquet(tmp_path / "out/fits.parquet")["note"]) == {
        "constant_features",
        "too_few_of_a_class",
    }


def _cut(root, copy, keep):
    """The cohort with the nodes and labels of these subjects alone."""
    for file in (copy / "decision_nodes/nodes.parquet", *(copy / "task_labels/labels").glob("*.parquet")):
        table = pl.read_parquet(file)
        kept = table.filter(pl.col("subject_id").is_in(keep))
        write_parquet(kept.to_arrow().cast(pq.read_schema(file)), file)


@pytest.mark.parametrize("which", ["one subject", "no train", "no tuning", "no held_out"])
@pytest.mark.parametrize("run", [probe, baseline, oracle])
def test_small_cohorts_are_listed_and_stop_nothing(root, tmp_path, run, which):
    copy = _copy(root, tmp_path)
    splits = pl.read_parquet(root / "subject_splits/subject_splits.parquet")
    if which == "one subject":
        keep = splits["subject_id"].head(1).to_list()
    else:
        keep = splits.filter(pl.col("split") != which.split()[1])["subject_id"].to_list()
    _cut(root, copy, keep)
    stats = run(copy, tmp_path / "out")
    assert stats["tasks"] == 6
    scored = stats["tasks_scored"]
    assert scored >= 3 if which == "no tuning" else scored == 0
    aurocs = pl.read_parquet(tmp_path / "out/metrics.parquet").filter(
        pl.col("metric") == "auroc", pl.col("indication").is_null()
    )
    assert (aurocs["value"].drop_nulls() != 0.5).all()
    findings = fits_proved("x", tmp_path / "out", {"made_up": CohortFiles(*vars(dirs(copy)).values())})
    assert [f for f in findings if f.verdict == "fail"] == []


@pytest.mark.parametrize("value", [float("inf"), 3e38], ids=["infinite", "sentinel"])
def test_measurements_that_are_no_numbers_stop_no_baseline(root, tmp_path, value):
    copy = _copy(root, tmp_path)
    for file in (copy / "meds_events/data").rglob("*.parquet"):
        table = pl.read_parquet(file)
        made = table.with_columns(
            pl.when(pl.int_range(pl.len()) % 7 == 0)
            .then(pl.lit(value))
            .otherwise(pl.col("numeric_value"))
            .cast(pl.Float32)
            .alias("numeric_value")
        )
        write_parquet(made.to_arrow().cast(pq.read_schema(file)), file)
    assert baseline(copy, tmp_path / "out")["tasks_scored"] >= 3


# --- settings


def test_settings_of_baselines_are_checked_when_the_cohort_is_read():
    path = PROJECT_ROOT / "ehr_assets/cohorts/specs/synthetic_oncology.yaml"
    assert load_cohort(path).baselines == BaselineSpec()
    assert load_cohort(path, {"baselines": {"methods": ["xgboost"]}}).baselines.methods == ("xgboost",)
    for wrong in ({"methods": ["svm"]}, {"methods": []}, {"folds": 1}, {"tuning": "huge"}, {"grid": 3}):
        with pytest.raises(SpecError, match="baselines"):
            load_cohort(path, {"baselines": wrong})


def test_only_the_methods_asked_for_are_run(root, tmp_path):
    stats = baseline(root, tmp_path / "out", BaselineSpec(bootstrap=10, methods=("bag_of_codes",)))
    assert "features" not in stats
    assert set(predictions(tmp_path / "out")["probe"]) == {"bag_of_codes"}
