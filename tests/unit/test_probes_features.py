"""Flattened features against a plain loop, and against leaks from the future or from other splits."""

from datetime import timedelta

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from probes_support import make_cohort

from ehr_assets.leakage.ledger import FitLedger
from ehr_assets.leakage.subjects import subjects_hash
from ehr_assets.probes import features
from ehr_assets.probes.controls import bag_of_codes
from ehr_assets.probes.features import choose_vocabulary, node_features
from ehr_assets.probes.frames import CohortDirs, read_nodes


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("cohort"), subjects=40)


@pytest.fixture(scope="module")
def nodes(root):
    return read_nodes(
        "made_up", CohortDirs(root / "decision_nodes", root / "task_labels", root / "subject_splits")
    )


@pytest.fixture(scope="module")
def table(root, nodes):
    return _features(root / "meds_events", nodes)


def _features(meds_dir, nodes, **most):
    return node_features(meds_dir, nodes, choose_vocabulary(meds_dir, nodes, FitLedger(), **most))


def _events(root):
    return pl.read_parquet(sorted((root / "meds_events/data").glob("*/*.parquet")))


def _written(events, tmp_path):
    (tmp_path / "data/train").mkdir(parents=True)
    pq.write_table(events.to_arrow(), tmp_path / "data/train/0.parquet")
    return tmp_path


def test_features_equal_a_plain_loop(root, nodes, table):
    events, column = _events(root), {name: i for i, name in enumerate(table.names)}
    for row in range(0, nodes.frame.height, 11):
        t, subject = nodes.frame["time"][row], nodes.frame["subject_id"][row]
        known = events.filter((pl.col("subject_id") == subject) & (pl.col("available_time") <= t))
        timed = known.filter(pl.col("code") != "MEDS_BIRTH")
        x = table.X[row]
        recent = timed.filter(pl.col("time") >= t - timedelta(days=30))
        for code in ("RxNorm/1", "NOTE/RADIOLOGY"):
            n = recent.filter(pl.col("code") == code).height
            assert x[column[f"log_count_30d|{code}"]] == pytest.approx(np.log1p(n), rel=1e-6)
        assert x[column["log_count_all|any"]] == pytest.approx(np.log1p(timed.height), rel=1e-6)
        hb = timed.filter(pl.col("code") == "LOINC/718-7").sort("time")
        if hb.height:
            assert x[column["last|LOINC/718-7"]] == pytest.approx(hb["numeric_value"][-1], rel=1e-6)
        window = hb.filter(pl.col("time") >= t - timedelta(days=180))
        if window.height >= 2:
            days = (window["time"] - t).dt.total_microseconds().to_numpy() / 86_400e6 / 30
            slope = np.polyfit(days, window["numeric_value"].to_numpy().astype(float), 1)[0]
            assert x[column["trend|LOINC/718-7"]] == pytest.approx(slope, rel=1e-4, abs=1e-5)
        birth = known.filter(pl.col("code") == "MEDS_BIRTH")["time"][0]
        assert x[column["age_years"]] == pytest.approx((t - birth).total_seconds() / 86400 / 365.25, rel=1e-6)
        assert x[column["static|GENDER//F"]] == subject % 2


def test_events_known_later_change_nothing(root, nodes, table, tmp_path):
    """A result reported after its node, or happening after it, leaves that node's row as it was."""
    events = _events(root)
    last = nodes.frame.group_by("subject_id").agg(pl.col("time").max().alias("t"))
    planted = last.select(
        "subject_id",
        (pl.col("t") - timedelta(hours=1)).alias("time"),
        pl.lit("LOINC/718-7").alias("code"),
        pl.lit(99.0, pl.Float32).alias("numeric_value"),
        pl.lit(None, pl.String).alias("text_value"),
        (pl.col("t") + timedelta(microseconds=1)).alias("available_time"),
        pl.lit("measurements").alias("section"),
    )
    more = pl.concat(
        [events, planted.with_columns(pl.col("time").cast(pl.Datetime("us")))], how="vertical_relaxed"
    )
    again = _features(_written(more, tmp_path), nodes)
    assert again.names == table.names
    np.testing.assert_array_equal(again.X, table.X)


def test_only_train_records_decide_which_codes_become_features(root, nodes, table, tmp_path):
    events = _events(root)
    train = nodes.subject_id[nodes.rows("train")]
    renamed = events.with_columns(
        pl.when(pl.col("subject_id").is_in(train.tolist()))
        .then(pl.col("code"))
        .otherwise(pl.concat_str(pl.lit("ELSEWHERE/"), "code"))
        .alias("code")
    )
    again = _features(_written(renamed, tmp_path), nodes)
    assert again.names == table.names
    rows = np.isin(nodes.subject_id, train)
    np.testing.assert_array_equal(again.X[rows], table.X[rows])


def test_walking_in_small_ranges_gives_the_same(root, nodes, table, monkeypatch):
    monkeypatch.setattr(features, "JOINED_ROWS", 500)
    again = _features(root / "meds_events", nodes)
    np.testing.assert_array_equal(again.X, table.X)


def test_the_most_prevalent_codes_are_kept(root, nodes):
    few = _features(root / "meds_events", nodes, top_codes=2, top_measured=1, top_static=0)
    assert sum(name.startswith("log_count_all|") for name in few.names) == 3  # two codes, and any
    assert sum(name.startswith("last|") for name in few.names) == 1
    assert few.X.shape[1] == len(few.names)


def test_the_ledger_hears_of_the_train_subjects_and_of_no_others(root, nodes):
    ledger = FitLedger()
    choose_vocabulary(root / "meds_events", nodes, ledger)
    bag_of_codes(root / "meds_events", nodes, ledger)
    train = subjects_hash(nodes.subject_id[nodes.rows("train")].tolist())
    assert {(r["step"], r["subjects_sha256"]) for r in ledger.document()} == {("vocabulary", train)}


def test_the_bag_counts_every_code_known_at_the_node(root, nodes):
    events = _events(root)
    bag = bag_of_codes(root / "meds_events", nodes, FitLedger()).toarray()
    train = (
        nodes.frame.filter(nodes.rows("train")).group_by("subject_id").agg(pl.col("time").max().alias("t"))
    )
    known = events.join(train, on="subject_id").filter(
        pl.col("available_time").is_null() | (pl.col("available_time") <= pl.col("t"))
    )
    codes = sorted(set(known["code"]) - {"MEDS_BIRTH"})
    assert bag.shape == (nodes.frame.height, len(codes))
    for row in range(0, nodes.frame.height, 17):
        t, subject = nodes.frame["time"][row], nodes.frame["subject_id"][row]
        held = events.filter(
            pl.col("subject_id") == subject,
            pl.col("available_time").is_null() | (pl.col("available_time") <= t),
        )
        expected = [np.log1p(held.filter(pl.col("code") == code).height) for code in codes]
        np.testing.assert_allclose(bag[row], expected, rtol=1e-6)
