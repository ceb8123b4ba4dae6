"""Splits: by person alone, in the fractions asked for, and never moved by newcomers."""

import polars as pl
import pytest
from cohorts_support import LABS, PEOPLE, tiny, write_tables
from hypothesis import given, settings
from hypothesis import strategies as st
from meds import SubjectSplitSchema
from pyarrow import parquet as pq

from ehr_assets.cohorts import csv_files
from ehr_assets.errors import DatasetError
from ehr_assets.meds.splits import assign_splits, read_splits, roster_keys, write_splits

IDS = st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=200)
FRACTION = st.floats(0, 0.99)


@settings(max_examples=50, deadline=None)
@given(ids=IDS, newcomers=IDS, held_out=FRACTION, tuning=FRACTION, salt=st.text(min_size=1))
def test_newcomers_and_order_move_nobody(ids, newcomers, held_out, tuning, salt):
    before = dict(zip(ids, assign_splits(ids, salt, held_out, tuning), strict=True))
    everybody = [*newcomers, *reversed(ids)]
    after = dict(zip(everybody, assign_splits(everybody, salt, held_out, tuning), strict=True))
    assert {i: after[i] for i in ids} == before


@settings(max_examples=50, deadline=None)
@given(ids=IDS, tuning=FRACTION, small=FRACTION, large=FRACTION)
def test_a_larger_held_out_keeps_those_already_held_out(ids, tuning, small, large):
    small, large = sorted((small, large))
    held = [
        {i for i, s in zip(ids, assign_splits(ids, "salt", f, tuning), strict=True) if s == "held_out"}
        for f in (small, large)
    ]
    assert held[0] <= held[1]


def test_fractions_and_salts():
    a = assign_splits(range(20_000), "a", 0.15, 0.15)
    b = assign_splits(range(20_000), "b", 0.15, 0.15)
    for splits in (a, b):
        assert splits.count("held_out") / 20_000 == pytest.approx(0.15, abs=0.01)
        assert splits.count("tuning") / 20_000 == pytest.approx(0.15 * 0.85, abs=0.01)
    both = sum(x == y == "held_out" for x, y in zip(a, b, strict=True)) / 20_000
    assert both == pytest.approx(0.15**2, abs=0.01)  # another salt deals independently


def test_an_id_counts_by_its_digits_wherever_it_comes_from():
    assert assign_splits([10000032], "s", 0.5, 0.5) == assign_splits(["10000032"], "s", 0.5, 0.5)
    # Written down so that a change of the rule, which would re-deal every cohort, cannot pass unseen.
    fixed = ["held_out", "held_out", "tuning", "tuning", "held_out"]
    assert assign_splits([10000032, 10001217, 10002428, 10003046, 10004235], "mimic", 0.4, 0.5) == fixed


def test_the_roster_is_written_as_strict_meds(tmp_path):
    people = PEOPLE + "7,F,1950,\n3,M,1950,\nx,F,1950,\n,F,1950,\n7,M,1960,\n-2,F,1950,\n"
    root = write_tables(tmp_path / "raw", people, LABS)
    counts = write_splits(tiny(), root, tmp_path)
    table = pq.read_table(tmp_path / "subject_splits.parquet")
    SubjectSplitSchema.validate(table)
    assert table["subject_id"].to_pylist() == [-2, 3, 7]
    assert counts["subjects"] == 3 == sum(counts[s] for s in ("train", "tuning", "held_out"))


def test_a_person_key_joins_two_cohorts(tmp_path):
    spec = tiny(subjects={"table": "people", "column": "pid", "person_key": "sex"})
    here = write_tables(tmp_path / "a", PEOPLE + "".join(f"{i},P{i},1950,\n" for i in range(50)), LABS)
    there = write_tables(
        tmp_path / "b", PEOPLE + "".join(f"{900 - i}, P{i} ,1950,\n" for i in range(50)), LABS
    )
    (tmp_path / "sa").mkdir()
    (tmp_path / "sb").mkdir()
    write_splits(spec, here, tmp_path / "sa")
    write_splits(spec, there, tmp_path / "sb")
    a = dict(read_splits(tmp_path / "sa").rows())
    b = dict(read_splits(tmp_path / "sb").rows())
    assert all(a[i] == b[900 - i] for i in range(50))
    assert len(set(a.values())) == 3


def test_a_subject_without_person_key_falls_back_to_the_id(tmp_path):
    spec = tiny(subjects={"table": "people", "column": "pid", "person_key": "sex"})
    root = write_tables(tmp_path / "raw", PEOPLE + "".join(f"{i},,1950,\n" for i in range(50)), LABS)
    write_splits(spec, root, tmp_path)
    assert [s for _, s in read_splits(tmp_path).rows()] == assign_splits(range(50), "ehr-assets", 0.15, 0.15)


@pytest.mark.parametrize("ids", ["integer", "text"])
@pytest.mark.parametrize("block", [32, 1 << 20])
def test_the_first_person_key_that_a_subject_has_counts(tmp_path, monkeypatch, ids, block):
    """Also where its first row, or a whole batch, has none."""
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", block)
    subjects = {"table": "people", "column": "pid", "person_key": "sex", "one_row_each": False, "ids": ids}
    rows = "1,,1950,\n2,B,1950,\n2,C,1950,\n3,,1950,\n1,,1950,\n1,A,1950,\n1,B,1950,\n"
    root = write_tables(tmp_path / "raw", PEOPLE + rows, LABS)
    keys = roster_keys(tiny(subjects=subjects), root).sort("raw_id")
    assert keys.select("raw_id", "key").rows() == [("1", "A"), ("2", "B"), ("3", "3")]


@pytest.mark.parametrize("splits", [["train", "test"], ["train", None]])
def test_unknown_splits_are_refused(splits):
    with pytest.raises(DatasetError, match="exactly one"):
        read_splits(pl.DataFrame({"subject_id": [1, 2], "split": splits}))


def test_a_subject_in_two_splits_is_refused():
    with pytest.raises(DatasetError, match="exactly one"):
        read_splits(pl.DataFrame({"subject_id": [1, 1], "split": ["train", "tuning"]}))
