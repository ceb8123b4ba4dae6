"""Predictions that cannot be compared as they are: told, refused, or listed without a value."""

import polars as pl
import pytest
from compare_support import compare_into, one_row
from predictions_support import MadeUp, write

from ehr_assets.errors import DatasetError
from ehr_assets.probes.compare_audit import coverage, held_out_only


def test_a_method_that_leaves_nodes_out_costs_all_of_them_and_is_told(all_kinds, predicted, tmp_path):
    few = all_kinds.predict("few", "few", 1.0, tasks=["tox"], drop=10)
    files = [folder / "predictions.parquet" for folder in {*predicted.values(), few}]
    assert coverage(files[:0] or [f for f in files if f.parent != few], ["made_up"]).ok
    found = coverage(files, ["made_up"])
    assert (found.ok, found.short) == (False, 1)
    tables, _ = compare_into(all_kinds, {**predicted, "few": few}, tmp_path / "out")
    ns = tables["metrics"].filter(pl.col("indication").is_null(), task="tox", metric="auroc")["n"]
    all_of_them = int((all_kinds.known["tox"] & (all_kinds.split == "held_out")).sum())
    assert set(ns) == {all_of_them - 10}


def test_what_is_not_held_out_is_seen_by_the_check_and_refused(all_kinds, predicted, tmp_path):
    splits = {"made_up": all_kinds.root / "subject_splits/subject_splits.parquet"}
    write(tmp_path / "ok.parquet", {"split": ["held_out"]})
    files = [folder / "predictions.parquet" for folder in predicted.values()]
    assert held_out_only(tmp_path / "ok.parquet", files, splits).ok
    write(tmp_path / "bad.parquet", {"split": ["held_out", "tuning"]})
    assert held_out_only(tmp_path / "bad.parquet", files, splits).elsewhere == 1
    table = pl.read_parquet(files[0])
    moved = table.with_columns(
        pl.when(pl.int_range(pl.len()) == pl.col("split").eq("tuning").arg_max())
        .then(pl.lit("held_out"))
        .otherwise("split")
        .alias("split")
    )
    (tmp_path / "moved").mkdir()
    moved.write_parquet(tmp_path / "moved/predictions.parquet")
    assert (
        held_out_only(tmp_path / "ok.parquet", [tmp_path / "moved/predictions.parquet"], splits).misplaced
        == 1
    )
    with pytest.raises(DatasetError, match="another split"):
        compare_into(all_kinds, {"weak": tmp_path / "moved"}, tmp_path / "out")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: pl.concat([t, t.head(1)]), "answers twice"),
        (lambda t: t.with_columns(pl.lit("nobody").alias("node_id")), "unknown nodes"),
        (lambda t: t.with_columns(~pl.col("boolean_value")), "different labels"),
    ],
)
def test_predictions_that_do_not_belong_together_are_refused(all_kinds, predicted, tmp_path, spoil, said):
    (tmp_path / "bad").mkdir()
    spoil(pl.read_parquet(predicted["strong"] / "predictions.parquet")).write_parquet(
        tmp_path / "bad/predictions.parquet"
    )
    with pytest.raises(DatasetError, match=said) as refused:
        compare_into(all_kinds, {"weak": predicted["weak"], "strong": tmp_path / "bad"}, tmp_path / "out")
    assert not any(str(s) in str(refused.value) for s in all_kinds.subject)


def test_nothing_to_compare_is_no_crash(tmp_path):
    none = MadeUp(tmp_path / "none", {"tox": ("binary", 0.3)}, subjects=0)
    tables, stats = compare_into(none, {"weak": none.predict("weak", "weak", 1.0)}, tmp_path / "a")
    assert (stats["panels"], stats["panels_scored"]) == (1, 0)
    assert tables["metrics"].select("task", "value", "n").rows() == [("tox", None, 0)]
    unanswered = MadeUp(tmp_path / "unanswered", {"tox": ("binary", 0.3)}, subjects=60)
    tables, _ = compare_into(
        unanswered, {"weak": unanswered.predict("weak", "weak", 1.0, tasks=[])}, tmp_path / "b"
    )
    (row,) = tables["metrics"].rows(named=True)
    assert (row["recipe"], row["value"]) == (None, None)
    assert row["n"] > 20


def test_one_subject_has_values_and_no_interval(tmp_path):
    made = MadeUp(tmp_path / "made", {"tox": ("binary", 0.4)}, subjects=4, nodes_each=60, seed=3)
    tables, _ = compare_into(made, {"weak": made.predict("weak", "weak", 1.0)}, tmp_path / "out")
    row = one_row(tables["metrics"], metric="auroc", indication=None)
    assert (row["n_subjects"], row["ci_low"]) == (1, None)
    assert row["value"] is not None
