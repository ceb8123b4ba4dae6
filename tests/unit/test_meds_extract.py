"""Extraction: what each kind of row becomes, and how the events lie on disk."""

import hashlib
from datetime import datetime

import polars as pl
import pyarrow.parquet as pq
import pytest
from cohorts_support import (
    LABS,
    PEOPLE,
    PERSON,
    SPEC,
    Extracted,
    extract,
    extract_rows,
    tiny,
    with_lab_event,
    write_tables,
)

from ehr_assets.contracts import SECTIONS, SPLITS
from ehr_assets.meds.frames import MEDS_SCHEMA, validate_meds


def lab_times(got: Extracted):
    labs = got.events.filter(pl.col("code").str.starts_with("LAB"))
    return [(str(t), str(a)) for t, a in labs.select("time", "available_time").rows()]


def test_a_subject_from_raw_rows_to_events(tmp_path):
    raw = write_tables(
        tmp_path / "raw",
        PEOPLE + PERSON,
        LABS + "1,50, mg ,2020-01-01 10:00:00,2020-01-01 11:30:00,1.5,high\n"
        "1,50,mg,2020-01-01T10:00,,,hazy\n1,60,,2020-01-02,,,\n",
    )
    (raw / "items.csv").write_text("item,name\n50,Sodium\n50,Other\n")
    got = extract(raw, tmp_path)
    known = datetime(2020, 1, 1, 11, 30)
    drawn = datetime(2020, 1, 1, 10)
    end = datetime(2020, 1, 2, 23, 59, 59, 999999)
    died, night = datetime(2020, 3, 5), datetime(2020, 3, 5, 23, 59, 59, 999999)
    assert got.events.rows() == [
        (1, None, "GENDER//F", None, None, None, "demographics"),
        (1, datetime(1950, 1, 1), "MEDS_BIRTH", None, None, datetime(1950, 1, 1), "demographics"),
        (1, drawn, "LAB//50//mg", None, "hazy", drawn, "measurements"),
        (1, drawn, "LAB//50//mg", 1.5, None, known, "measurements"),
        (1, datetime(2020, 1, 2), "LAB//60//UNK", None, None, end, "measurements"),
        (1, died, "MEDS_DEATH", None, None, night, "death"),
    ]
    described = {r["code"]: (r["description"], r["unit"]) for r in got.codes.to_dicts()}
    assert described["LAB//50//mg"] == ("Sodium", "mg")
    assert described["LAB//60//UNK"] == (None, None)
    assert got.accounting.rows() == [("people", 1, 1, 0, 0, 3), ("labs", 3, 3, 0, 0, 3)]
    assert got.stats["dimensions"] == [
        {"file": "items", "on": ["item"], "rows": 2, "ragged": 0, "duplicate_keys": 1}
    ]


def test_the_dataset_is_strict_meds_with_a_file_for_every_split(tmp_path):
    got = extract_rows(tmp_path)
    assert validate_meds(got.out) == 3
    for split in SPLITS:
        for path in (got.out / "data" / split).glob("*.parquet"):
            assert pq.read_schema(path).equals(MEDS_SCHEMA, check_metadata=False)
    assert {p.parent.name for p in got.out.glob("data/*/*.parquet")} == set(SPLITS)
    assert not (got.out / ".staging").exists()


def test_an_empty_cohort_is_no_error(tmp_path):
    got = extract_rows(tmp_path, people="", labs="")
    assert validate_meds(got.out) == 0
    assert got.accounting["read"].to_list() == [0, 0]
    assert got.stats["quarantined_fraction"] == 0


@pytest.mark.parametrize(
    "time",
    ["yesterday", "2020-02-30", "2020-01-01 25:00:00", "01/02/2020", "2020-1-1", "0"],
)
@pytest.mark.parametrize("column", ["drawn", "filed"])
def test_an_unparsable_time_is_quarantined(tmp_path, time, column):
    drawn, filed = (time, "") if column == "drawn" else ("2020-01-01", time)
    got = extract_rows(tmp_path, labs=f"1,50,mg,2020-01-01,,1,\n1,50,mg,{drawn},{filed},1,\n")
    assert got.reasons == [("labs", 2, column, "unparsable time")]
    assert got.accounting.rows()[1] == ("labs", 2, 1, 0, 1, 1)


@pytest.mark.parametrize(
    ("raw", "time"),
    [
        ("2020-01-01 10:30:05.25", "2020-01-01 10:30:05.250000"),
        ("2020-01-01T10:30:05.1234567", "2020-01-01 10:30:05.123456"),
        (" 2020-01-01 10:30 ", "2020-01-01 10:30:00"),
    ],
)
def test_times_that_are_understood(tmp_path, raw, time):
    assert lab_times(extract_rows(tmp_path, labs=f"1,50,mg,{raw},,1,\n")) == [(time, time)]


def test_a_row_that_was_meant_to_make_an_event_and_made_none_is_quarantined(tmp_path):
    got = extract_rows(
        tmp_path, labs="1,50,mg,,2020-01-01,1,\n1,,mg,2020-01-01,,1,\n1,50,mg,2020-01-01,,1,\n"
    )
    assert got.reasons == [("labs", 1, "drawn", "no time"), ("labs", 2, "item", "no code")]
    assert got.accounting.rows()[1] == ("labs", 3, 1, 0, 2, 1)


def test_a_code_that_the_joined_table_lacks_is_not_lost_in_silence(tmp_path):
    labs = "1,50,mg,2020-01-01,,1,\n1,60,mg,2020-01-01,,1,\n"
    root = write_tables(tmp_path / "raw", PEOPLE + PERSON, LABS + labs)
    (root / "items.csv").write_text("item,name\n50,Sodium\n60,Potassium, serum\n")
    got = extract(root, tmp_path, with_lab_event(code="LAB//{label}"))
    assert got.reasons == [("labs", 2, "label", "no code")]
    assert got.stats["dimensions"][0]["ragged"] == 1


def test_what_tells_only_its_beginning_is_known_some_days_later(tmp_path):
    spec = with_lab_event(available=["filed", {"column": "drawn", "kind": "date", "plus_days": 60}])
    got = extract_rows(
        tmp_path, labs="1,50,mg,2020-01-01 10:00,,1,\n1,50,mg,2020-01-02,2020-01-03 08:00,1,\n", spec=spec
    )
    assert lab_times(got) == [
        ("2020-01-01 10:00:00", "2020-03-01 23:59:59.999999"),
        ("2020-01-02 00:00:00", "2020-01-03 08:00:00"),
    ]


def test_nothing_is_available_before_it_happened(tmp_path):
    got = extract_rows(tmp_path, labs="1,50,mg,2020-01-05 10:00:00,2020-01-05 09:00:00,1,\n")
    assert lab_times(got) == [("2020-01-05 10:00:00", "2020-01-05 10:00:00")]


def test_a_date_is_available_at_its_end_whatever_it_is_read_for(tmp_path):
    spec = with_lab_event(
        time={"column": "drawn", "kind": "date"}, available={"column": "filed", "kind": "date"}
    )
    got = extract_rows(
        tmp_path, labs="1,50,mg,2020-01-01 10:00:00,,1,\n1,50,mg,2020-01-01,2020-01-03,1,\n", spec=spec
    )
    assert lab_times(got) == [
        ("2020-01-01 00:00:00", "2020-01-01 23:59:59.999999"),
        ("2020-01-01 00:00:00", "2020-01-03 23:59:59.999999"),
    ]


def test_a_date_known_before_it_falls_back_to_its_end(tmp_path):
    spec = with_lab_event(time={"column": "drawn", "kind": "date"})
    got = extract_rows(tmp_path, labs="1,50,mg,2020-01-02,2020-01-01 10:00:00,1,\n", spec=spec)
    assert lab_times(got) == [("2020-01-02 00:00:00", "2020-01-02 23:59:59.999999")]


def test_a_date_may_stand_for_its_end(tmp_path):
    got = extract_rows(
        tmp_path,
        labs="1,50,mg,2020-01-01,,1,\n",
        spec=with_lab_event(time={"column": "drawn", "kind": "date", "at": "end_of_day"}),
    )
    assert lab_times(got) == [("2020-01-01 23:59:59.999999",) * 2]


def test_the_first_time_that_is_there_counts(tmp_path):
    spec = with_lab_event(time=["drawn", {"column": "filed", "kind": "date"}], available=None)
    got = extract_rows(
        tmp_path, labs="1,50,mg,2020-01-01 10:00:00,2020-01-02,1,\n1,50,mg,,2020-01-02,1,\n", spec=spec
    )
    assert lab_times(got) == [
        ("2020-01-01 10:00:00", "2020-01-01 10:00:00"),
        ("2020-01-02 00:00:00", "2020-01-02 23:59:59.999999"),
    ]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("1,5", "unparsable number"),
        ("high", "unparsable number"),
        ("nan", "unparsable number"),
        ("1e39", "number out of range"),
    ],
)
def test_a_number_that_is_none_is_quarantined(tmp_path, number, reason):
    quoted = f'"{number}"'
    got = extract_rows(tmp_path, labs=f"1,50,mg,2020-01-01,,{quoted},x\n")
    assert got.reasons == [("labs", 1, "number", reason)]


def test_a_value_is_a_number_where_it_is_one_and_text_elsewhere(tmp_path):
    spec = with_lab_event(value="text", numeric_value=None, text_value=None)
    got = extract_rows(
        tmp_path,
        labs="1,50,mg,2020-01-01,,,-1.5e2\n1,50,mg,2020-01-02,,,120/80\n1,50,mg,2020-01-03,,,1e40\n",
        spec=spec,
    )
    values = got.events.filter(pl.col("code") == "LAB//50//mg").select("numeric_value", "text_value").rows()
    assert values == [(-150.0, None), (None, "120/80"), (None, "1e40")]


def test_a_condition_decides_over_the_event_not_the_row(tmp_path):
    spec = with_lab_event(when={"not_null": ["number"], "in": {"item": [50, 51]}})
    labs = "1,50,mg,2020-01-01,,1,\n1,50,mg,2020-01-01,,,x\n1,60,mg,2020-01-01,,1,\n1,60,mg,never,,1,\n"
    got = extract_rows(tmp_path, labs=labs, spec=spec)
    assert got.reasons == []  # the unreadable time belongs to an event that is not wanted
    assert got.accounting.rows()[1] == ("labs", 4, 4, 3, 0, 1)


def test_an_absent_optional_table_is_told(tmp_path):
    spec = tiny(tables=[SPEC["tables"][0], {**SPEC["tables"][1], "file": "nowhere", "optional": True}])
    got = extract_rows(tmp_path, spec=spec)
    assert got.stats["absent_tables"] == ["labs"]
    assert got.accounting["table"].to_list() == ["people"]


def many(tmp_path):
    people = "".join(f"{i},F,1950,\n" for i in range(40))
    labs = "".join(f"{i % 40},{i % 7},mg,2020-01-{i % 28 + 1:02d} 10:00,,{i},\n" for i in range(400))
    return write_tables(tmp_path / "raw", PEOPLE + people, LABS + labs)


def test_shards_hold_whole_subjects_sorted_and_change_nothing(tmp_path):
    root = many(tmp_path)
    one = extract(root, tmp_path / "one")
    small = extract(root, tmp_path / "small", tiny(shard_subjects=3))
    files = sorted(small.out.glob("data/train/*.parquet"))
    assert len(files) > 5
    assert all(pl.read_parquet(f)["subject_id"].n_unique() <= 3 for f in files)
    assert small.events.equals(one.events)
    section = pl.col("section").replace_strict({s: i for i, s in enumerate(SECTIONS)})
    for path in [*files, *one.out.glob("data/*/*.parquet")]:
        frame = pl.read_parquet(path)
        keys = ["subject_id", "time", "available_time", section, "code", "numeric_value", "text_value"]
        assert frame.equals(frame.sort(keys, nulls_last=False))


def test_equal_input_gives_equal_bytes_whatever_the_packing(tmp_path):
    root = many(tmp_path)

    def digests(out):
        return {
            p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in out.rglob("*")
            if p.is_file()
        }

    first = digests(extract(root, tmp_path / "first").out)
    assert first == digests(extract(root, tmp_path / "second").out)
    pl.read_csv(root / "lab" / "labs.csv", infer_schema=False).write_parquet(root / "lab" / "labs.parquet")
    (root / "lab" / "labs.csv").unlink()
    assert first == digests(extract(root, tmp_path / "third").out)


def test_a_unit_is_listed_where_train_knows_one_only(tmp_path):
    people = "".join(f"{i},F,1950,\n" for i in range(1, 41))
    root = write_tables(tmp_path / "raw", PEOPLE + people, LABS)
    extract(root, tmp_path / "first")
    splits = pl.read_parquet(tmp_path / "first" / "splits" / "subject_splits.parquet")
    train, held_out = (splits.filter(split=s)["subject_id"][0] for s in ("train", "held_out"))
    units = [(train, 1, "a"), (train, 2, "a"), (train, 2, "b"), (held_out, 1, "b"), (held_out, 3, "a")]
    labs = "".join(f"{who},{item},{unit},2020-01-01,,1,\n" for who, item, unit in units)
    root = write_tables(tmp_path / "more", PEOPLE + people, LABS + labs)
    codes = extract(root, tmp_path / "second", with_lab_event(code="LAB//{item}")).codes
    listed = dict(codes.filter(pl.col("code").str.starts_with("LAB")).select("code", "unit").rows())
    assert listed == {"LAB//1": "a", "LAB//2": None, "LAB//3": None}
