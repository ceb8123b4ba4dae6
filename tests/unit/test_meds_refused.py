"""Extraction of rows that cannot be: each is quarantined with its reason, and spares the others."""

from datetime import datetime

import polars as pl
import pytest
from cohorts_support import (
    LABS,
    PEOPLE,
    PERSON,
    SPEC,
    extract,
    extract_rows,
    tiny,
    write_tables,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ehr_assets.cohorts import csv_files
from ehr_assets.errors import DatasetError, RawTableError
from ehr_assets.meds.extract import extract_meds
from ehr_assets.meds.reading import deaths_in_doubt


def test_subjects_that_cannot_be_are_quarantined(tmp_path):
    labs = "".join(
        f"{pid},50,mg,2020-01-01,,1,\n" for pid in ("1", "2", "", "1.0", "99999999999999999999", " 1 ")
    )
    got = extract_rows(tmp_path, labs=labs)
    assert [(row, reason) for _, row, _, reason in got.reasons] == [
        (2, "unknown subject"),
        (3, "missing subject id"),
        (4, "unparsable subject id"),
        (5, "unparsable subject id"),
    ]
    assert got.stats["reasons"] == {"missing subject id": 1, "unknown subject": 1, "unparsable subject id": 2}


def test_the_second_row_of_a_subject_is_quarantined_also_in_a_later_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", 64)
    people = "".join(f"{i},F,1950,\n" for i in range(1, 9)) + "8,M,1960,\n3,M,1960,\n3,M,1960,\n"
    got = extract_rows(tmp_path, people=people)
    assert got.reasons == [("people", row, "pid", "duplicate subject") for row in (9, 10, 11)]
    assert got.events.filter(pl.col("subject_id") == 3)["code"].to_list() == ["GENDER//F", "MEDS_BIRTH"]


def test_a_death_before_birth_is_quarantined_and_spares_the_other_rows(tmp_path):
    got = extract_rows(
        tmp_path,
        people="1,F,2000,1999-12-31\n2,F,1950,\n",
        labs="1,50,mg,1990-01-01,,1,\n2,50,mg,1990-01-01,,1,\n",
    )
    assert got.reasons == [("people", 1, None, "before birth")]
    assert sorted(got.events["subject_id"].unique()) == [1, 2]
    assert got.accounting.rows() == [("people", 2, 1, 0, 1, 2), ("labs", 2, 2, 0, 0, 2)]


def test_any_event_before_birth_takes_its_whole_row_along(tmp_path):
    twice = {**SPEC["tables"][1]["events"][0], "code": "FILED", "time": "filed", "available": None}
    labs = {**SPEC["tables"][1], "events": [SPEC["tables"][1]["events"][0], twice]}
    got = extract_rows(
        tmp_path, labs="1,50,mg,1949-12-31,2020-01-01,1,\n", spec=tiny(tables=[SPEC["tables"][0], labs])
    )
    assert got.reasons == [("labs", 1, None, "before birth")]
    assert got.events.height == 3
    assert got.balanced()


def test_a_record_of_the_day_of_birth_is_not_before_it(tmp_path):
    people = {
        **SPEC["tables"][0],
        "events": [{"code": "MEDS_BIRTH", "time": "born", "section": "demographics"}],
    }
    spec = tiny(tables=[people, SPEC["tables"][1]])
    filed = "1,50,mg,2000-01-01,2000-01-01 10:00,2,\n"
    labs = "1,50,mg,2000-01-01,,1,\n1,50,mg,2000-01-01 13:59:59,,1,\n" + filed
    got = extract_rows(tmp_path, people="1,F,2000-01-01 14:00:00,\n", labs=labs, spec=spec)
    assert got.reasons == [("labs", 2, None, "before birth")]
    birth = datetime(2000, 1, 1, 14)
    assert got.events["time"].unique().to_list() == [birth]
    assert dict(got.events.select("numeric_value", "available_time").rows()) == {
        None: birth, 1: datetime(2000, 1, 1, 23, 59, 59, 999999), 2: birth
    }  # fmt: skip


def test_ragged_rows_and_nul_bytes_are_quarantined(tmp_path):
    got = extract_rows(tmp_path, labs="1,50,mg\n1,5\x000,mg,2020-01-01,,1,\n1,50,mg,2020-01-01,,1,\n")
    assert got.reasons == [("labs", 1, None, "wrong number of fields"), ("labs", 2, "item", "NUL byte")]
    assert got.accounting.rows()[1] == ("labs", 3, 1, 0, 2, 1)


def test_an_absent_table_or_dimension_is_an_error(tmp_path):
    labs = {**SPEC["tables"][1], "joins": [{"file": "items", "on": ["item"], "columns": {"label": "name"}}]}
    with pytest.raises(RawTableError, match="items"):
        extract_rows(tmp_path, spec=tiny(tables=[SPEC["tables"][0], labs]))
    assert not (tmp_path / "meds" / ".staging").exists()


def test_splits_that_do_not_cover_the_roster_are_refused(tmp_path):
    root = write_tables(tmp_path / "raw", PEOPLE + PERSON, LABS)
    for splits in ({"subject_id": [2], "split": ["train"]}, {"subject_id": [], "split": []}):
        out = tmp_path / f"out{len(splits['split'])}"
        out.mkdir()
        with pytest.raises(DatasetError, match="do not cover the roster"):
            extract_meds(tiny(), root, pl.DataFrame(splits), out)


def test_no_value_or_id_is_in_an_error(tmp_path):
    root = write_tables(tmp_path / "raw", PEOPLE + "4711,F,1950,\n", LABS + '4711,"secret')
    with pytest.raises(RawTableError) as e:
        extract(root, tmp_path)
    assert "secret" not in str(e.value)
    assert "4711" not in str(e.value)


def test_a_death_that_cannot_be_read_is_in_doubt(tmp_path):
    people = "1,F,1950,2020-02-30\n2,F,x,\n3,F,1950,2020-02-01\n4,F,1950,1920-01-01\n"
    got = extract_rows(tmp_path, people=people)
    assert deaths_in_doubt(got.out) == [1, 4]
    assert got.stats["deaths_in_doubt"] == 2


def test_the_first_sound_row_of_a_subject_counts(tmp_path):
    got = extract_rows(tmp_path, people="1,F,x,\n1,F,1950,\n1,M,1960,\n")
    assert got.reasons == [
        ("people", 1, "born", "unparsable time"),
        ("people", 3, "pid", "duplicate subject"),
    ]
    assert got.events.filter(code="MEDS_BIRTH")["time"].to_list() == [datetime(1950, 1, 1)]


JUNK = st.sampled_from(["", "x", "-", "2020-13-01", "1e99", '"', '""', "\0", "9" * 30, "1,2", "ü", "\t"])


@st.composite
def corrupted(draw):
    """Lab rows, of which some have one field replaced or the number of fields changed."""
    size = draw(st.integers(1, 25))
    rows = [[str(i % 3 + 1), "50", "mg", f"2020-01-01 00:00:{i:02d}", "", str(i), ""] for i in range(size)]
    bad = draw(st.sets(st.integers(0, size - 1)))
    for i in bad:
        at, junk = draw(st.integers(0, 6)), draw(JUNK)
        kind = draw(st.sampled_from(["replace", "drop", "add"]))
        if kind == "replace":
            rows[i][at] = junk
        elif kind == "drop":
            del rows[i][at]
        else:
            rows[i].insert(at, junk)
    return rows, bad


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=corrupted(), block=st.integers(100, 400))
def test_no_corruption_loses_a_row_or_a_good_event(tmp_path_factory, made, block):
    rows, bad = made
    work = tmp_path_factory.mktemp("fuzz")
    quoted = ('"' + '","'.join(f.replace('"', '""') for f in row) + '"\n' for row in rows)
    root = write_tables(
        work / "raw", PEOPLE + "".join(f"{i},F,1950,\n" for i in (1, 2, 3)), LABS + "".join(quoted)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_files, "BLOCK_BYTES", block)
        got = extract(root, work)
    assert got.balanced()
    assert got.accounting.filter(pl.col("table") == "labs")["read"].item() == len(rows)
    assert set(got.quarantine["row"]) <= {i + 1 for i in bad}
    kept = set(got.events["numeric_value"].drop_nulls().cast(pl.Int64, strict=False))
    assert {i for i in range(len(rows)) if i not in bad} <= kept
