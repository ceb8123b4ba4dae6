"""The words of the cohort language for who is meant: ids, rosters, splits."""

import polars as pl
import pytest
from language_support import EVENT, cohort, run, timed

from ehr_assets.errors import DatasetError


def test_ids_as_text(raw):
    """Barcodes, leading zeros, longer than 64 bits: each is its own subject, and the splits say which."""
    ids = ["TCGA-OR-A5J1", "007", "7", "98765432109876543210"]
    people = "id\n" + "\n".join(ids) + "\n"
    rows = "".join(f"{i},2020-01-0{n}\n" for n, i in enumerate(ids, 1))
    spec = cohort({**EVENT, "time": "at"}, subjects={"table": "people", "column": "id", "ids": "text"})
    root = raw(people, **{"t.csv": "id,at\n" + rows + "07,2020-01-01\n"})
    got = run(root, spec)
    assert got.events.filter(pl.col("time").is_not_null())["subject_id"].n_unique() == 4
    assert got.reasons == [("t", 5, "id", "unknown subject")]
    splits = got.out.parent / "splits"
    table = pl.read_parquet(splits / "subject_ids.parquet")
    assert sorted(table["raw_id"].to_list()) == sorted(ids)
    assert set(table["subject_id"]) == set(got.events["subject_id"])


def test_ids_as_integers_are_numbers(raw):
    got = run(
        raw("id\n007\n7\n98765432109876543210\n", **{"t.csv": "id,at\n7,2020-01-01\n"}),
        cohort({**EVENT, "time": "at"}),
    )
    assert got.reasons == [
        ("people", 2, "id", "duplicate subject"),
        ("people", 3, "id", "unparsable subject id"),
    ]
    assert len(timed(got)) == 1


def test_a_roster_may_have_many_rows_of_a_subject(raw):
    spec = cohort({**EVENT, "time": "at"}, subjects={"table": "t", "column": "id", "one_row_each": False})
    got = run(raw(**{"t.csv": "id,at\n1,2020-01-01\n5,2020-01-01\n1,2020-01-02\n"}), spec)
    assert got.stats["subjects"] == 2
    assert got.reasons == [("people", 2, "id", "unknown subject")]


def test_splits_dealt_elsewhere(raw):
    spec = cohort({**EVENT, "time": "at"}, splits={"given": {"file": "splits", "subject_id": "who"}})
    files = {"t.csv": "id,at\n1,2020-01-01\n"}
    got = run(raw(**files, **{"splits.csv": "who,split\n1,held_out\n2,tuning\n9,train\n"}), spec)
    table = pl.read_parquet(got.out / "metadata" / "subject_splits.parquet")
    assert table.rows() == [(1, "held_out"), (2, "tuning")]
    with pytest.raises(DatasetError, match="exactly one of"):
        run(raw(**files, **{"splits.csv": "who,split\n1,held_out\n1,train\n"}), spec)
