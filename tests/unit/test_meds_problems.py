"""What cannot become an event is told, also where the row makes another one; and there is one zero."""

import polars as pl
import pytest
from cohorts_support import PEOPLE, SPEC, Extracted, extract, tiny, write_tables
from test_meds_times import EVENT, SEEN, made

from ehr_assets.meds.problems import MAX_CODE_BYTES
from ehr_assets.meds.reading import deaths_in_doubt

STATIC = {**EVENT, "section": "demographics", "static": True}


@pytest.mark.parametrize(
    ("code", "row", "lost"),
    [
        ("C//{a}", "x" * (MAX_CODE_BYTES - 3), False),
        ("C//{a}", "x" * (MAX_CODE_BYTES - 2), True),
        ("C//{a}", "ü" * (MAX_CODE_BYTES // 2), True),
        ("{b|UNKNOWN}{a}", "x" * (MAX_CODE_BYTES - 7), False),
        ("{b|UNKNOWN}{a}", "x" * (MAX_CODE_BYTES - 6), True),
    ],
)
def test_too_long_a_code_is_told_beside_another_event(tmp_path, code, row, lost):
    got = made(tmp_path, f"{row},,,", {**STATIC, "code": code}, SEEN)
    assert got.reasons == ([("t", 1, "a", "code too long")] if lost else [])
    assert got.events.height == (2 if lost else 4)


GRAM = {"code": "W", "section": "measurements", "static": True, "unit": "b"}
GRAM["convert"] = {"kg": {"to": "g", "factor": 1000}}


@pytest.mark.parametrize("event", [{"numeric_value": "a"}, {"value": "a"}])
def test_a_number_is_in_range_after_it_was_converted(tmp_path, event):
    got = made(tmp_path, "1e38,kg,,\n1,3e38,g,,\n1,2,kg,,", {**GRAM, "section": "demographics", **event})
    assert got.reasons == [("t", 1, "a", "number out of range")]
    assert got.events.filter(code="W")["numeric_value"].to_list() == pytest.approx([2000, 3e38])


@pytest.mark.parametrize("event", [{"numeric_value": "a"}, {"value": "a"}])
def test_there_is_one_zero(tmp_path, event):
    """-0 and 0 are equals to the sort: the order of their bytes would be an accident."""
    rows = "\n1,".join(f"{zero},,," for zero in ("-0", "0", "-0.0", "-1e-60"))
    got = made(tmp_path, rows, {**STATIC, **event})
    zeros = got.events.filter(code="X")["numeric_value"]
    assert zeros.to_list() == [0.0] * 4
    assert (1 / zeros > 0).all()


def deaths(tmp_path, event: dict, rows: str, **more) -> Extracted:
    """People with a vital status and a day of death."""
    died = {"code": "MEDS_DEATH", "section": "death", **event}
    people = {**SPEC["tables"][0], "events": [{**STATIC, "code": "SEX//{sex}"}, died], **more}
    root = write_tables(tmp_path / "raw", PEOPLE.replace("born", "status") + rows, "pid\n")
    return extract(root, tmp_path, tiny(tables=[people]))


SAID = {"time": {"column": "died", "kind": "date"}, "when": {"equals": {"status": "dead"}}}


@pytest.mark.parametrize(
    ("event", "rows", "doubtful"),
    [
        # Said to be dead, on no day: lost to a row without sex, and as much in doubt where the row is kept.
        (SAID, "1,,dead,\n2,F,dead,\n3,F,dead,2020-03-05\n4,F,alive,\n5,F,alive,2020-03-05\n", [1, 2]),
        (SAID, "1,F,dead,2020-02-30\n", [1]),
        # Without a condition of its own, only a day tells a death.
        ({"time": SAID["time"]}, "1,,dead,\n2,F,dead,\n3,F,dead,2020-02-30\n", [3]),
        # Days since something that is not known.
        ({"time": {"elapsed": "died", "unit": "days", "since": {"year": "status"}}}, "1,F,,40\n2,F,,\n", [1]),
        ({"time": {"elapsed": "died", "unit": "days", "since": {"year": "status"}}}, "1,F,1999,40\n", []),
    ],
)
def test_a_death_that_was_told_and_not_made_is_in_doubt(tmp_path, event, rows, doubtful):
    got = deaths(tmp_path, event, rows)
    assert deaths_in_doubt(got.out) == doubtful
    made_here = got.events.filter(code="MEDS_DEATH")["subject_id"].to_list()
    assert not set(made_here) & set(doubtful)


def test_a_death_made_by_one_of_two_ways_is_in_no_doubt(tmp_path):
    told = {"code": "MEDS_DEATH", "section": "death", "when": {"equals": {"status": "dead"}}}
    ways = [{**told, "time": {"column": "died", "kind": "date"}}, {**told, "time": {"fixed": "2020-12-31"}}]
    ways[1]["when"] = {**told["when"], "is_null": ["died"]}
    got = deaths(tmp_path, ways[0], "1,F,dead,\n2,F,dead,2020-03-05\n", events=ways)
    assert deaths_in_doubt(got.out) == []
    assert got.events.filter(pl.col("code") == "MEDS_DEATH").height == 2
