"""The words of the cohort language for files: many of a table, their headers, their names."""

from datetime import datetime

import polars as pl
import pytest
from language_support import EVENT, cohort, run, timed

from ehr_assets.cohorts.files import RawRoot, find_files
from ehr_assets.errors import RawTableError


def test_one_table_in_many_files_that_differ(raw):
    """The path gives columns; headers may differ, have several lines and other names."""
    head = "id|at|{}\nline two\nCDE:1|CDE:2|CDE:3\n"
    root = raw(
        **{
            "d__f_brca.txt": (head.format("drug") + "1|2020-01-01|tamoxifen\n").encode(),
            "d__f_luad.txt": (head.format("drug_name") + '2|2020-01-02|5" n\xe4me\n1|x|y|z\n').encode(
                "latin-1"
            ),
            "d___SUCCESS.txt": b"",
        }
    )
    table = {
        "file": "d/f_{cancer:[a-z]+}",
        "delimiter": "|",
        "quote": None,
        "skip_rows": 2,
        "encoding": ["utf-8", "latin-1"],
        "aliases": {"agent": ["drug", "drug_name"]},
        "optional_columns": ["dose"],
    }
    event = {**EVENT, "code": "{cancer}//{agent}//{dose|NONE}", "time": "at"}
    got = run(root, cohort(event, table))
    codes = got.events.filter(pl.col("time").is_not_null())["code"].to_list()
    assert sorted(codes) == ["brca//tamoxifen//NONE", 'luad//5" näme//NONE']
    assert got.quarantine.rows() == [("t", "d/f_luad.txt", 2, None, "wrong number of fields")]
    assert got.balanced()


def test_a_folder_of_parts_is_a_table(raw):
    root = raw(**{"t__part-1.csv": "id,at\n1,2020-01-01\n", "t__part-0.csv": "id,at\n2,2020-01-02\n"})
    assert [f.path for f in find_files(RawRoot.of(root), "t")] == ["t/part-0.csv", "t/part-1.csv"]
    assert len(timed(run(root, cohort({**EVENT, "time": "at"})))) == 2


def test_a_column_that_no_file_has_is_an_error_that_names_it(raw):
    root = raw(**{"t__a.csv": "id,att\n", "t__b.csv": "id,at2\n"})
    with pytest.raises(RawTableError, match=r"no column 'at'.*Did you mean 'att'"):
        run(root, cohort({**EVENT, "time": "at"}))


def test_names_in_the_case_of_a_database(raw):
    """Oracle and Snowflake export PERSON.csv with upper-case headers; a name as it is written comes first."""
    root = raw(**{"D__T__part-0.csv": "ID,At,at\n1,2020-01-01,2020-01-02\n"})
    got = run(root, cohort({**EVENT, "time": "at"}, {"file": "D/t"}))
    assert [time for time, _ in timed(got)] == [datetime(2020, 1, 2)]


@pytest.mark.parametrize("skipped", [0, 2])
def test_two_columns_with_one_name(raw, skipped):
    """Which is meant must be said; rows are counted as ever, also around ragged ones."""
    head = "id,at,k,k\n" + "more,of,the,header\n" * skipped
    root = raw(**{"t.csv": head + "1,2020-01-01,a,b\n1,2020-01-02,c\n1,soon,d,e\n"})
    event = {**EVENT, "code": "K//{kind}", "time": "at"}
    got = run(root, cohort(event, {"aliases": {"kind": ["k", "k#2"]}, "skip_rows": skipped}))
    assert set(got.events["code"]) == {"SEEN", "K//b"}
    assert [r[1:] for r in got.reasons] == [(2, None, "wrong number of fields"), (3, "at", "unparsable time")]
    with pytest.raises(RawTableError, match=r"(?s)column .k. more than once.*k#1 or k#2"):
        run(root, cohort(event, {"aliases": {"kind": "k"}, "skip_rows": skipped}))
