"""The words of the cohort language for times: from a few raw lines to moments, and when they were known."""

from datetime import datetime, timedelta

import pytest
from language_support import DAY_END, EVENT, cohort, run, timed


@pytest.mark.parametrize(
    ("time", "row", "expected"),
    [
        ({"column": "a", "kind": "date", "clock": "b"}, "2020-03-01,14:05", ("2020-03-01T14:05", None)),
        ({"column": "a", "kind": "date", "clock": "b"}, "2020-03-01,", ("2020-03-01", "day")),
        ({"column": "a", "format": "%d.%m.%Y"}, "31.12.2019,", ("2019-12-31", "day")),
        ({"column": "a", "format": "%m/%d/%y %H:%M"}, "12/31/19 08:15,", ("2019-12-31T08:15", None)),
        ({"column": "a", "midnight_is_day": True}, "2020-03-01 00:00:00,", ("2020-03-01", "day")),
        ({"column": "a", "midnight_is_day": True}, "2020-03-01 00:00:01,", ("2020-03-01T00:00:01", None)),
        ({"elapsed": "a", "unit": "days", "since": {"year": "b"}}, "10,2015", ("2015-01-11", "day")),
        ({"elapsed": "a", "unit": "days", "since": {"year": "b"}}, "-1.0,2015.0", ("2014-12-31", "day")),
        (
            {"elapsed": "a", "unit": "days", "since": {"year": "b"}, "at": "end_of_day"},
            "1,2015",
            ("2015-01-02T23:59:59.999999", None),
        ),
        (
            {"elapsed": "a", "unit": "hours", "since": "b"},
            "1.5,2020-01-01 10:00:00",
            ("2020-01-01T11:30", None),
        ),
        (
            {"elapsed": "a", "unit": "clock", "since": {"fixed": "2000-01-01"}},
            "47:05,",
            ("2000-01-02T23:05", None),
        ),
        (
            {"elapsed": "a", "unit": "days", "since": [{"year": "b"}, {"fixed": "2010-01-01"}]},
            "3,",
            ("2010-01-04", "day"),
        ),
        ({"year": "a", "month": "b"}, "2001,2", ("2001-02-01", "month")),
        ({"year": "a", "month": "b"}, "2001,", ("2001-01-01", "year")),
        ({"column": "a"}, "1900-01-01 00:00:00,", ("1900-01-01", None)),
        ({"column": "a"}, "2200-12-31 23:59:59,", ("2200-12-31T23:59:59", None)),
    ],
)
def test_times(raw, time, row, expected):
    got = run(raw(**{"t.csv": f"id,a,b\n1,{row}\n"}), cohort({**EVENT, "time": time}))
    at = datetime.fromisoformat(expected[0])
    ends = {"day": at + DAY_END, "month": datetime(2001, 3, 1), "year": datetime(2002, 1, 1)}
    late = ends.get(expected[1] or "", at)
    if expected[1] in ("month", "year"):
        late -= timedelta(microseconds=1)
    assert timed(got) == [(at, late)]


@pytest.mark.parametrize(
    ("time", "row", "column"),
    [
        ({"elapsed": "a", "unit": "days", "since": {"year": "b"}}, "soon,2015", "a"),
        ({"elapsed": "a", "unit": "days", "since": {"year": "b"}}, "1e15,2015", "a"),
        ({"elapsed": "a", "unit": "days", "since": {"year": "b"}}, "3,20155", "b"),
        ({"elapsed": "a", "unit": "clock", "since": {"fixed": "2000-01-01"}}, "12:61,", "a"),
        ({"column": "a", "format": "%d.%m.%Y"}, "2019-12-31,", "a"),
        ({"column": "a", "kind": "date", "clock": "b"}, "2020-03-01,2 pm", "b"),
        ({"year": "a", "month": "b"}, "2001,13", "a"),
        ({"column": "a"}, "2020-01-01 10:00:00+01:00,", "a"),
    ],
)
def test_times_that_are_none_are_quarantined(raw, time, row, column):
    got = run(raw(**{"t.csv": f"id,a,b\n1,{row}\n"}), cohort({**EVENT, "time": time}))
    assert not timed(got)
    assert [r[:3] for r in got.reasons] == [("t", 1, column)]
    assert got.balanced()


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("2021-03-14T06:59:00Z", "2021-03-14T01:59"),  # the last minute before the clocks jump from 2 to 3
        ("2021-03-14T07:00:00Z", "2021-03-14T03:00"),
        ("2021-03-14 02:30:00", "2021-03-14T02:30"),  # written without a zone: as it stands
        ("2021-11-07 05:30:00 UTC", "2021-11-07T01:30"),  # the hour that comes twice
        ("2021-11-07 06:30:00+00", "2021-11-07T01:30"),
        ("2021-06-01 10:00:00.25+05:30", "2021-06-01T00:30:00.25"),
    ],
)
def test_times_with_a_zone_become_local_where_the_cohort_says_what_is_local(raw, text, local):
    spec = cohort({**EVENT, "time": "a"}, time_zone="America/New_York")
    at = datetime.fromisoformat(local)
    assert timed(run(raw(**{"t.csv": f"id,a\n1,{text}\n"}), spec)) == [(at, at)]


def test_a_way_to_read_a_time_may_hold_for_some_rows_only(raw):
    """What was coded for billing is known when the visit is over, the rest at once."""
    billed = {"in": {"type": ["claim"]}}
    available = [
        {"column": "visit_end", "midnight_is_day": True, "when": billed},
        {"column": "at", "plus_days": 30, "when": {**billed, "at_least": {"n": 1}}},
    ]
    rows = (
        "1,2020-01-01 10:00:00,claim,2020-01-05 12:00:00,\n"
        "1,2020-01-02 10:00:00,claim,2020-01-05 00:00:00,\n"
        "1,2020-01-03 10:00:00,seen,2020-01-05 12:00:00,1\n"
        "1,2020-01-04 10:00:00,claim,,1\n"
        "1,2020-01-05 10:00:00,claim,,0\n"
    )
    got = run(
        raw(**{"t.csv": "id,at,type,visit_end,n\n" + rows}),
        cohort({**EVENT, "time": "at", "available": available}),
    )
    assert [late for _, late in timed(got)] == [
        datetime(2020, 1, 5, 12),
        datetime(2020, 1, 5) + DAY_END,
        datetime(2020, 1, 3, 10),
        datetime(2020, 2, 3, 10),
        datetime(2020, 1, 5, 10),
    ]


@pytest.mark.parametrize(
    ("text", "end", "time"),
    [
        ("2020-03-01 00:00:00", True, datetime(2020, 3, 1) + DAY_END),
        ("2020-03-01", True, datetime(2020, 3, 1) + DAY_END),
        ("2020-03-01 08:05:00", True, datetime(2020, 3, 1, 8, 5)),
        ("2020-03-01 00:00:00", False, datetime(2020, 3, 1)),
    ],
)
def test_a_midnight_that_is_a_day_may_stand_for_its_end(raw, text, end, time):
    """A death known to the day must not come before what was recorded on that day."""
    at = {"column": "a", "midnight_is_day": True, **({"at": "end_of_day"} if end else {})}
    got = run(raw(**{"t.csv": f"id,a\n1,{text}\n"}), cohort({**EVENT, "time": at}))
    assert [moment for moment, _ in timed(got)] == [time]


def test_a_date_alone_in_available_is_its_end(raw):
    got = run(
        raw(**{"t.csv": "id,a,b\n1,2020-01-01 10:00:00,2020-01-03\n"}),
        cohort({**EVENT, "time": "a", "available": "b"}),
    )
    assert timed(got) == [(datetime(2020, 1, 1, 10), datetime(2020, 1, 3) + DAY_END)]
