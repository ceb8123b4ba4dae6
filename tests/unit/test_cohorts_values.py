"""The words of the cohort language for what is in a row: missing, recoded, converted, listed, filtered."""

import polars as pl
import pytest
from language_support import EVENT, cohort, run

from ehr_assets.errors import SpecError


def test_missing_recoded_and_converted(raw):
    event = {**EVENT, "code": "W//{unit}", "time": "at", "value": "v", "unit": "unit"}
    event["convert"] = {"lb": {"to": "kg", "factor": 0.5, "offset": 1}}
    table = {"missing": ["[Unknown]", -1], "recode": {"unit": {"LBS": "lb", "?": None, "KG": "kg"}}}
    rows = (
        "1,2020-01-01,10,LBS\n1,2020-01-02,10,KG\n1,2020-01-03,-1,kg\n1,2020-01-04,x,lb\n1,2020-01-05,3,?\n"
    )
    got = run(raw(**{"t.csv": "id,at,v,unit\n" + rows}), cohort(event, table))
    values = got.events.filter(pl.col("time").is_not_null()).select("code", "numeric_value", "text_value")
    assert values.rows() == [
        ("W//kg", 6.0, None),
        ("W//kg", 10.0, None),
        ("W//kg", None, None),
        ("W//kg", None, "x"),
    ]
    assert got.reasons == [("t", 5, "unit", "no code")]
    units = pl.read_parquet(got.out / "quality" / "units.parquet")
    assert units.select("code", "unit", "rows").rows() == [("W//kg", "kg", 4)]


def test_capitals_come_before_recoding(raw):
    """And recoding is stronger than the signs for what is missing."""
    table = {"upper": ["k"], "recode": {"k": {"TAXOL": "PACLITAXEL", "?": "UNTOLD"}}, "missing": ["?", "-"]}
    rows = "1,2020-01-01,Taxol\n1,2020-01-02,paclitaxel\n1,2020-01-03,?\n"
    got = run(raw(**{"t.csv": "id,at,k\n" + rows}), cohort({**EVENT, "code": "D//{k}", "time": "at"}, table))
    assert set(got.events["code"]) == {"SEEN", "D//PACLITAXEL", "D//UNTOLD"}


def test_several_values_in_one_text(raw):
    """Each place of the lists makes an event; a record with one bad place is quarantined once, as a whole."""
    table = {"lists": {"separator": "|", "columns": ["at", "kind"]}, "missing": ["?"], "upper": ["kind"]}
    event = {**EVENT, "code": "E//{kind|NONE}", "time": "at", "when": {"not_null": ["at"]}}
    rows = (
        "1,2020-01-01|2020-01-02,a|b\n"  # together
        "1,2020-02-01,c|d\n"  # one time for both
        "1,2020-03-01|2020-03-02|2020-03-03,e|?\n"  # too few kinds
        "1,,f|g\n"  # nothing wanted
        "2,2020-04-01|soon|late,h\n"
    )
    got = run(raw(**{"t.csv": "id,at,kind\n" + rows}), cohort(event, table))
    made = got.events.filter(pl.col("time").is_not_null()).sort("time", "code")
    assert made["code"].to_list() == [
        *("E//A", "E//B", "E//C", "E//D"),
        *("E//E", "E//NONE", "E//NONE"),
    ]
    assert [t.day for t in made["time"]] == [1, 2, 1, 1, 1, 2, 3]
    assert got.reasons == [("t", 5, "at", "unparsable time")]
    row = got.accounting.filter(pl.col("table") == "t").to_dicts()[0]
    assert (row["read"], row["accepted"], row["accepted_without_event"]) == (5, 4, 1)
    assert got.balanced()
    with pytest.raises(SpecError, match="'kin', which no event reads"):
        cohort(event, {**table, "lists": {"separator": "|", "columns": ["at", "kin"]}})
    with pytest.raises(SpecError, match="a row is a subject there"):
        cohort(event, table, subjects={"table": "t", "column": "id"})


@pytest.mark.parametrize(
    ("when", "kept"),
    [
        ({"not_in": {"k": ["a"]}}, [2, 3, 4]),
        ({"matches": {"k": "^[ab]$"}}, [1, 2]),
        ({"is_null": ["k"]}, [4]),
        ({"at_least": {"n": 2}, "at_most": {"n": 3}}, [2, 3]),
        ({"in": {"k": ["a", "b"]}, "at_most": {"n": 1.5}}, [1]),
    ],
)
def test_a_filter_of_the_table_keeps_rows_without_quarantining_the_others(raw, when, kept):
    spec = cohort({**EVENT, "time": "at", "numeric_value": "n"}, {"when": when})
    rows = "1,2020-01-01,a,1\n1,2020-01-01,b,2\n1,2020-01-01,c,3\n1,2020-01-01,,4\n"
    got = run(raw(**{"t.csv": "id,at,k,n\n" + rows}), spec)
    assert sorted(got.events["numeric_value"].drop_nulls().to_list()) == kept
    assert got.accounting.filter(pl.col("table") == "t")["accepted_without_event"].item() == 4 - len(kept)
    assert not got.reasons


def test_a_section_may_be_read_off_the_code(raw):
    rules = {"column": "code", "rules": {"^L": "measurements", "^D": "drugs"}, "default": "observations"}
    spec = cohort({"code": "{code}", "section": rules, "time": "at"})
    got = run(raw(**{"t.csv": "id,at,code\n1,2020-01-01,L1\n1,2020-01-01,D1\n1,2020-01-01,Q\n"}), spec)
    found = dict(got.events.filter(pl.col("time").is_not_null()).select("code", "section").rows())
    assert found == {"L1": "measurements", "D1": "drugs", "Q": "observations"}


def test_a_code_of_ten_thousand_characters_is_quarantined(raw):
    spec = cohort({**EVENT, "code": "C//{c}", "time": "at"})
    got = run(raw(**{"t.csv": f"id,at,c\n1,2020-01-01,{'x' * 10_000}\n1,2020-01-01,{'x' * 500}\n"}), spec)
    assert got.reasons == [("t", 1, "c", "code too long")]
