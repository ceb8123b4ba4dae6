"""When an event happened and when it was known: formats, later times, anchors, ways that do not hold."""

from datetime import datetime

import polars as pl
import pytest
from cohorts_support import PEOPLE, SPEC, Extracted, extract, tiny, write_tables

from ehr_assets.cohorts.event_spec import TimeSpec
from ehr_assets.cohorts.time_formats import checked_format, has_clock
from ehr_assets.meds.times import formatted

EVENT = {"code": "X", "section": "observations"}
SEEN = {"code": "SEEN", "section": "observations", "time": {"fixed": "2000-01-01"}}
NIGHT = "23:59:59.999999"


def made(tmp_path, row: str, *events: dict, **top) -> Extracted:
    """One row of columns a, b, c, d of one subject, and the events it makes."""
    table = {"name": "t", "file": "lab/labs", "subject_id": "pid", "events": list(events)}
    root = write_tables(tmp_path / "raw", PEOPLE + "1,F,1900,\n", f"pid,a,b,c,d\n1,{row}\n")
    return extract(root, tmp_path, tiny(tables=[SPEC["tables"][0], table], **top))


def times(got: Extracted) -> list[tuple[str, str]]:
    found = got.events.filter(pl.col("code") == "X").select("time", "available_time").rows()
    return [(str(t), str(a)) for t, a in found]


DAY, CLOCK = False, True


@pytest.mark.parametrize(
    ("form", "text", "clocked", "at"),
    [
        ("%d.%m.%Y", "05.03.2020", DAY, "2020-03-05"),
        ("%y%m%d%H%M", "2003050915", CLOCK, "2020-03-05T09:15"),  # ten characters, and no day
        ("%Y%m%d", "20200305", DAY, "2020-03-05"),
        ("%d.%m.%Y %-H:%M", "05.03.2020 9:15", CLOCK, "2020-03-05T09:15"),
        ("%d.%m.%Y %k:%M", "05.03.2020  9:15", CLOCK, "2020-03-05T09:15"),
        ("%e %b %Y %l:%M %p", "5 Mar 2020  9:15 PM", CLOCK, "2020-03-05T21:15"),
        ("%F %r", "2020-03-05 09:15:01 PM", CLOCK, "2020-03-05T21:15:01"),
        ("%F %T%.f", "2020-03-05 09:15:01.25", CLOCK, "2020-03-05T09:15:01.250"),
        ("%c", "Thu Mar  5 09:15:01 2020", CLOCK, "2020-03-05T09:15:01"),
        ("%s", "1583399701", CLOCK, "2020-03-05T09:15:01"),
        ("%Y-%j", "2020-065", DAY, "2020-03-05"),
        ("%G-W%V-%u", "2020-W10-4", DAY, "2020-03-05"),
        ("%A, %d %B %Y", "Thursday, 05 March 2020", DAY, "2020-03-05"),
        ("%Y-%m-%d", "0000-03-05", DAY, None),
        ("%F %H:%M", "2020-03-05 24:00", CLOCK, None),
    ],
)
def test_formats(form, text, clocked, at):
    assert checked_format(form) == form
    assert has_clock(form) is clocked
    read = pl.DataFrame({"t": [text, None, "x"]}).select(formatted(pl.col("t"), form)).to_series()
    assert read.to_list() == [at and datetime.fromisoformat(at), None, None]


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ("%Y-%m", "tells no day"),
        ("%Y", "tells no day"),
        ("%H:%M", "tells no day"),
        ("%F %T %z", "zones are understood in ISO 8601 only"),
        ("%F %T %:z", "zones are understood in ISO 8601 only"),
        ("%F %T %Z", "zones are understood in ISO 8601 only"),
        ("%+", "zones are understood in ISO 8601 only"),
        ("%Y%m%d%H", "half a time of day"),
        ("%F %I:%M", "half a time of day"),
        ("%F %H:%M %p", "half a time of day"),
        ("%F %S", "half a time of day"),
        ("%F %Q", "%Q is no directive"),
        ("%F %", "% is no directive"),
    ],
)
def test_formats_that_would_tell_something_else_than_they_seem_to_are_refused(form, why):
    with pytest.raises(ValueError, match=why):
        TimeSpec.model_validate({"column": "a", "format": form})


DATED = {"column": "a", "kind": "date"}
AT_MIDNIGHT = {"column": "a", "midnight_is_day": True}


@pytest.mark.parametrize(
    ("event", "row", "expected"),
    [
        # The clock of a format is kept, and does not make a day known before it is over.
        ({"time": {"column": "a", "format": "%d.%m.%Y %-H:%M"}}, "05.03.2020 9:15", ["2020-03-05 09:15:00"]),
        ({"time": {"column": "a", "format": "%y%m%d%H%M"}}, "2003050915", ["2020-03-05 09:15:00"]),
        # What is added counts from the end of the day.
        ({"time": DATED, "available": {**DATED, "plus_hours": 6}}, "2020-03-05",
         ["2020-03-05 00:00:00", "2020-03-06 05:59:59.999999"]),
        ({"time": AT_MIDNIGHT, "available": {**AT_MIDNIGHT, "plus_hours": 6}}, "2020-03-05 00:00:00",
         ["2020-03-05 00:00:00", "2020-03-06 05:59:59.999999"]),
        ({"time": AT_MIDNIGHT, "available": {**AT_MIDNIGHT, "plus_hours": 6}}, "2020-03-05 18:00:00",
         ["2020-03-05 18:00:00", "2020-03-06 00:00:00"]),
        ({"time": "a", "available": {"elapsed": "b", "unit": "days", "since": "a", "plus_days": 1}},
         "2020-03-05 10:00:00,2", ["2020-03-05 10:00:00", f"2020-03-08 {NIGHT}"]),
        # Hours since a day that is known to the day only.
        ({"time": {"elapsed": "b", "unit": "hours", "since": DATED}}, "2020-03-05,5",
         ["2020-03-05 05:00:00", "2020-03-06 04:59:59.999999"]),
        ({"time": DATED, "available": {"elapsed": "b", "unit": "minutes", "since": DATED}}, "2020-03-05,90",
         ["2020-03-05 00:00:00", "2020-03-06 01:29:59.999999"]),
        ({"time": {"elapsed": "b", "unit": "clock", "since": {**DATED, "clock": "c"}}},
         "2020-03-05,5:00,8:00", ["2020-03-05 13:00:00"]),
        # A way that says "known before it happened" says nothing: the next is tried.
        ({"time": "a", "available": ["b", {"column": "a", "plus_hours": 24}]},
         "2020-03-05 10:00:00,2020-03-05 09:59:00", ["2020-03-05 10:00:00", "2020-03-06 10:00:00"]),
        ({"time": "a", "available": ["b", "c"]}, "2020-03-05 10:00,2020-03-05 09:59,2020-03-05 09:00",
         ["2020-03-05 10:00:00"]),
        # Where a way does not hold, it is as if its column were empty, and so are those it counts from.
        ({"time": [{"column": "b", "when": {"equals": {"c": "yes"}}}, "a"]}, "2020-03-05 10:00,junk,no",
         ["2020-03-05 10:00:00"]),
        ({"time": [{"elapsed": "b", "unit": "days", "since": "d", "when": {"equals": {"c": "yes"}}}, "a"]},
         "2020-03-05 10:00,3,no,junk", ["2020-03-05 10:00:00"]),
        ({"time": [{"year": "b", "when": {"equals": {"c": "yes"}}}, "a"]}, "2020-03-05 10:00,0,no",
         ["2020-03-05 10:00:00"]),
    ],
)  # fmt: skip
def test_moments(tmp_path, event, row, expected):
    got = made(tmp_path, row + "," * (3 - row.count(",")), {**EVENT, **event})
    assert got.reasons == []
    assert times(got) == [(expected[0], expected[-1])]


CALENDAR = {"year": "a", "month": "b", "day": "c"}


@pytest.mark.parametrize(
    ("time", "row", "column"),
    [
        (CALENDAR, "1950,13,,", "a"),
        (CALENDAR, "1950,2,30,", "a"),
        ({"year": "a"}, "0,,,", "a"),
        ({"year": "a", "minus_years": "b"}, "1950,1950,,", "a"),
        ({"elapsed": "a", "unit": "days", "since": ["b", "c"]}, "99999999,,2020-01-01,", "a"),
        ([{"column": "b", "when": {"equals": {"d": "yes"}}}, "a"], "2020-03-05,junk,,yes", "b"),
    ],
)
def test_what_is_no_date_is_quarantined_whatever_else_the_row_makes(tmp_path, time, row, column):
    got = made(tmp_path, row, {**EVENT, "time": time}, SEEN)
    assert got.reasons == [("t", 1, column, "unparsable time")]


@pytest.mark.parametrize(
    ("time", "row"),
    [
        (CALENDAR, ",13,5,"),
        ({"year": "a", "minus_years": "b"}, "1950,,,"),
        ({"elapsed": "a", "unit": "days", "since": ["b", "c"]}, "5,,,"),
    ],
)
def test_a_time_of_which_a_part_was_not_recorded_is_none_and_the_row_is_kept(tmp_path, time, row):
    got = made(tmp_path, row, {**EVENT, "time": time}, SEEN)
    assert (got.reasons, times(got)) == ([], [])


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("2020-03-05 10:00+14:00", "2020-03-04 20:00:00"),
        ("2020-03-05 10:00+99:99", None),
        ("2020-03-05 10:00+15:00", None),
        ("2020-03-05 10:00+0٩:00", None),  # an Arabic nine
        ("2020-03-0５ 10:00Z", None),  # a wide five
        ("0001-01-01 00:00+01:00", None),  # in the year 0
    ],
)
def test_zones_that_are_none_are_no_times(tmp_path, text, local):
    got = made(tmp_path, f"{text},,,", {**EVENT, "time": "a"}, time_zone="UTC")
    assert times(got) == ([(local, local)] if local else [])
    assert got.reasons == ([] if local else [("t", 1, "a", "unparsable time")])
