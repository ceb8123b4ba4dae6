"""The comparison of methods from their predictions: same nodes, same resamples, families named."""

import json

import numpy as np
import polars as pl
import pytest
from compare_support import RULES, compare_into, held_out_rows, one_row
from predictions_support import MadeUp, write
from scipy.stats import norm
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from ehr_assets.fanout import Machine
from ehr_assets.probes.compare import TABLES
from ehr_assets.probes.multiplicity import benjamini_hochberg, holm
from ehr_assets.probes.resample import subject_weights


@pytest.fixture(scope="module")
def compared(all_kinds, predicted, tmp_path_factory):
    return compare_into(all_kinds, predicted, tmp_path_factory.mktemp("compared") / "out")


def test_tables_have_their_schemas_and_no_nan(compared):
    for name, table in compared[0].items():
        schema = TABLES[name][0]
        assert table.to_arrow().cast(schema).schema == schema
        assert table.height, name
        assert not any(table[c].is_nan().any() for c in table.columns if table[c].dtype.is_float())


def test_metrics_equal_sklearn_at_the_held_out_nodes(compared, predicted):
    metrics, rows = compared[0]["metrics"], held_out_rows(predicted["weak"], "tox", "weak", "logistic")
    y, p = rows["boolean_value"].to_numpy(), rows["predicted_boolean_probability"].to_numpy()
    for name, reference in {
        "auroc": roc_auc_score(y, p),
        "auprc": average_precision_score(y, p),
        "brier": brier_score_loss(y, p.astype(float)),
    }.items():
        row = one_row(metrics, recipe="weak", task="tox", metric=name, indication=None)
        assert row["value"] == pytest.approx(reference, abs=1e-9)
        assert (row["n"], row["n_positive"]) == (len(y), y.sum())
        assert row["n_subjects"] == rows["subject_id"].n_unique()
        assert row["split"] == "held_out"
        assert row["ci_low"] < row["value"] < row["ci_high"]


def test_differences_are_paired_and_equal_a_plain_loop(compared, all_kinds, predicted):
    a = held_out_rows(predicted["weak"], "tox", "weak", "logistic")
    b = held_out_rows(predicted["baseline"], "tox", "baseline", "xgboost")
    assert a["node_id"].equals(b["node_id"])
    # Those without a label of this task too.
    subjects = np.unique(all_kinds.subject[all_kinds.split == "held_out"])
    y, who = a["boolean_value"].to_numpy(), np.searchsorted(subjects, a["subject_id"].to_numpy())
    pa_, pb = (x["predicted_boolean_probability"].to_numpy() for x in (a, b))
    drawn = []
    for w in subject_weights(len(subjects), RULES.replicates):
        rows = np.repeat(np.arange(len(y)), w[who])
        drawn.append(roc_auc_score(y[rows], pa_[rows]) - roc_auc_score(y[rows], pb[rows]))
    row = one_row(compared[0]["differences"], task="tox", metric="auroc", recipe_a="weak", probe_b="xgboost")
    value = roc_auc_score(y, pa_) - roc_auc_score(y, pb)
    assert row["difference"] == pytest.approx(value, abs=1e-9)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(
        tuple(np.percentile(drawn, [2.5, 97.5])), abs=1e-9
    )
    assert row["p"] == pytest.approx(2 * norm.sf(abs(value) / np.std(drawn, ddof=1)), rel=1e-6)
    assert row["p_adjusted"] >= row["p"]


def test_seeds_are_averaged_and_their_spread_is_told_apart_from_that_of_tasks(compared, predicted):
    by_seed = {}
    for seed in (1, 2, 3):
        by_task = []
        for task in ("tox", "prog"):
            rows = held_out_rows(predicted["strong"], task, "strong", "logistic", seed)
            by_task.append(roc_auc_score(rows["boolean_value"], rows["predicted_boolean_probability"]))
        by_seed[seed] = by_task
    values = np.array(list(by_seed.values()))
    row = one_row(compared[0]["means"], recipe="strong", metric="auroc", by="all")
    assert row["value"] == pytest.approx(values.mean(), abs=1e-9)
    assert row["sd_seeds"] == pytest.approx(values.mean(axis=1).std(ddof=1), abs=1e-9)
    assert row["sd_tasks"] == pytest.approx(values.mean(axis=0).std(ddof=1), abs=1e-9)
    assert (row["n_seeds"], row["n_tasks"]) == (3, 2)
    assert (
        one_row(compared[0]["metrics"], recipe="strong", task="tox", metric="auroc", indication=None)["seed"]
        is None
    )
    weak = one_row(compared[0]["means"], recipe="weak", metric="auroc", by="all")
    assert (weak["n_seeds"], weak["sd_seeds"]) == (1, None)


def test_families_are_named_and_hold_what_they_say(compared):
    found = compared[0]["differences"]
    assert found["family"].null_count() == 0
    for (family,), rows in found.group_by("family"):
        means = rows["task"].null_count()
        assert means in (0, rows.height), family
        method = holm if means else benjamini_hochberg
        assert ("Holm" if means else "Benjamini-Hochberg") in str(family)
        rows = rows.with_columns(pl.col("p").fill_null(float("nan")))
        assert str(family).endswith(f"over {rows['p'].is_not_nan().sum()}")
        assert rows["p_adjusted"].fill_null(float("nan")).to_numpy() == pytest.approx(
            np.array(method(rows["p"].to_list())), nan_ok=True
        )
        reference = "reference" in str(family)
        others = rows.filter((pl.col("recipe_b") == "baseline") & (pl.col("metric") == "auroc"))
        assert set(others["probe_b"]) <= ({"xgboost"} if reference else {"logistic"})
    pairs = set(found.filter(metric="auroc").select("recipe_a", "recipe_b", "probe_b").unique().rows())
    assert pairs == {
        ("strong", "weak", "logistic"),
        *((r, "baseline", p) for r in ("weak", "strong") for p in ("xgboost", "logistic")),
    }
    strong = one_row(found, task=None, metric="auroc", recipe_a="strong", recipe_b="weak")
    assert strong["ci_low"] > 0
    assert strong["p_adjusted"] < 0.01


def test_only_the_pairs_that_are_asked_for(all_kinds, predicted, tmp_path):
    tables, _ = compare_into(all_kinds, predicted, tmp_path / "a", pairs=[("weak", "x")])
    assert not tables["differences"].filter(recipe_a="strong", recipe_b="weak").height
    assert tables["differences"].filter(recipe_a="strong", recipe_b="baseline").height


def test_what_is_too_rare_is_listed_with_its_counts_and_not_scored(compared):
    tables, stats = compared
    rows = tables["metrics"].filter(task="rare")
    assert set(rows["recipe"]) == {"weak", "strong", "baseline", "oracle"}
    assert rows["value"].null_count() == rows.height
    assert (rows["n"] > 20).all()
    assert (rows["n_positive"] < 5).all()
    for name in ("means", "differences", "subgroups", "reliability"):
        assert "task" not in tables[name].columns or "rare" not in tables[name]["task"].to_list()
    assert stats["panels_listed"] == 1
    assert stats["panels_scored"] == 4


def test_every_kind_has_its_metrics(compared):
    metrics = compared[0]["metrics"].filter(pl.col("indication").is_null(), pl.col("value").is_not_null())
    of = {t: set(metrics.filter(task=t)["metric"]) for t in ("tox", "death", "marker")}
    assert of == {
        "tox": {"auroc", "auprc", "brier", "ece", "sensitivity_at_spec90", "specificity_at_spec90"},
        "death": {"c_index", "td_auroc"},
        "marker": {"spearman", "r2", "mae"},
    }
    reached = metrics.filter(metric="specificity_at_spec90")["value"]
    assert ((reached > 0.75) & (reached < 1)).all()  # from tuning, so not exactly 0.9
    assert (metrics.filter(metric="td_auroc", recipe="strong")["value"] > 0.7).all()


def test_the_threshold_comes_from_tuning(all_kinds, predicted, compared):
    rows = pl.read_parquet(predicted["weak"] / "predictions.parquet").filter(task="tox")
    tuning = rows.filter(pl.col("split") == "tuning", ~pl.col("boolean_value"))
    p = np.sort(rows.filter(pl.col("split") == "tuning")["predicted_boolean_probability"].to_numpy())
    negatives = tuning["predicted_boolean_probability"].to_numpy()
    cut = next(c for c in p if (negatives < c).mean() >= 0.9)
    held_out = rows.filter(pl.col("split") == "held_out", pl.col("boolean_value"))
    expected = (held_out["predicted_boolean_probability"].to_numpy() >= cut).mean()
    row = one_row(
        compared[0]["metrics"], recipe="weak", task="tox", metric="sensitivity_at_spec90", indication=None
    )
    assert row["value"] == pytest.approx(expected)


def test_subgroups_have_gaps_to_everybody_else(compared, all_kinds, predicted):
    subgroups = compared[0]["subgroups"]
    assert set(subgroups["name"]) == {"sex", "age_band", "indication"}
    rows = held_out_rows(predicted["weak"], "tox", "weak", "logistic")
    sex = rows["subject_id"].to_numpy() % 2 == 0
    y, p = rows["boolean_value"].to_numpy(), rows["predicted_boolean_probability"].to_numpy()
    female, male = (roc_auc_score(y[at], p[at]) for at in (sex, ~sex))
    row = one_row(subgroups, recipe="weak", task="tox", name="sex", group="F")
    assert row["value"] == pytest.approx(female, abs=1e-9)
    assert row["gap"] == pytest.approx(female - male, abs=1e-9)
    assert row["gap_low"] < row["gap"] < row["gap_high"]
    assert row["n"] == sex.sum()
    other = one_row(subgroups, recipe="weak", task="tox", name="sex", group="M")
    assert other["gap"] == pytest.approx(-row["gap"])
    assert other["gap_low"] == pytest.approx(-row["gap_high"])


def test_small_subgroups_are_listed(all_kinds, predicted, tmp_path):
    odd = MadeUp(tmp_path / "made", {"tox": ("binary", 0.3)}, subjects=80)
    somebody = odd.subject[odd.split == "held_out"][0]
    names = np.where(odd.subject == somebody, "rare", "common")
    columns = {"node_id": odd.node, "name": np.full(len(odd.node), "race"), "value": names}
    write(odd.root / "decision_nodes/subgroups.parquet", columns)
    tables, _ = compare_into(odd, {"weak": odd.predict("weak", "weak", 1.0)}, tmp_path / "out")
    row = one_row(tables["subgroups"], name="race", group="rare")
    assert (row["n_subjects"], row["value"], row["gap"]) == (1, None, None)


def test_reliability_counts_every_prediction(compared):
    bins = compared[0]["reliability"]
    metrics = compared[0]["metrics"].filter(pl.col("indication").is_null(), pl.col("metric") == "ece")
    for r in metrics.drop_nulls("value").iter_rows(named=True):
        mine = bins.filter(task=r["task"], recipe=r["recipe"], probe=r["probe"])
        seeds = 3 if r["recipe"] == "strong" else 1
        assert mine["n"].sum() == seeds * r["n"]
        assert mine["predicted"].is_sorted()
        if seeds == 1:
            ece = ((mine["predicted"] - mine["observed"]).abs() * mine["n"]).sum() / r["n"]
            assert ece == pytest.approx(r["value"], abs=1e-9)


def test_the_interval_of_a_calibration_error_holds_the_error(compared):
    found = compared[0]["metrics"].filter(pl.col("metric") == "ece").drop_nulls("ci_low")
    assert found.height
    assert (found["ci_low"] >= 0).all()
    assert ((found["ci_low"] < found["value"]) & (found["value"] < found["ci_high"])).all()
    means = compared[0]["means"].filter(pl.col("metric") == "ece")
    assert ((means["ci_low"] < means["value"]) & (means["value"] < means["ci_high"])).all()


def test_the_ceiling_is_the_fraction_of_the_oracles_lead(compared):
    found, metrics = compared[0]["ceiling"], compared[0]["metrics"]
    auroc = {
        (r["recipe"], r["probe"], r["task"]): r["value"]
        for r in metrics.filter(pl.col("indication").is_null(), metric="auroc").iter_rows(named=True)
    }
    fractions = []
    for task in ("tox", "prog"):
        row = one_row(found, recipe="weak", task=task)
        lead = auroc["oracle", "oracle", task] - 0.5
        assert row["fraction"] == pytest.approx((auroc["weak", "logistic", task] - 0.5) / lead)
        fractions.append(row["fraction"])
    mean = one_row(found, recipe="weak", task=None)
    assert mean["fraction"] == pytest.approx(np.mean(fractions))
    assert mean["ci_low"] < mean["fraction"] < mean["ci_high"]
    assert mean["n_tasks"] == 2
    assert "oracle" not in found["recipe"].to_list()


def test_no_ceiling_where_the_oracle_is_near_chance(all_kinds, predicted, tmp_path):
    blind = all_kinds.predict("blind", "oracle", 0.0, tasks=["tox", "prog"])
    tables, _ = compare_into(all_kinds, {**predicted, "oracle": blind}, tmp_path / "out")
    assert tables["ceiling"].is_empty()


def test_equal_predictions_give_equal_bytes_whatever_the_workers(all_kinds, predicted, compared, tmp_path):
    compare_into(all_kinds, predicted, tmp_path / "one")
    compare_into(all_kinds, predicted, tmp_path / "two", machine=Machine(workers=2))
    for name in TABLES:
        one, two = ((tmp_path / x / f"{name}.parquet").read_bytes() for x in ("one", "two"))
        assert one == two, name
        assert pl.read_parquet(tmp_path / "one" / f"{name}.parquet").equals(compared[0][name])


def test_tables_hold_no_subject_and_no_node(compared, all_kinds):
    text = json.dumps([t.to_dicts() for t in compared[0].values()])
    assert not any(str(s) in text for s in np.unique(all_kinds.subject))
    assert not any(n in text for n in all_kinds.node[:50])
