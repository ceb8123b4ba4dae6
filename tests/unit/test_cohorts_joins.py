"""The words of the cohort language for columns that come from elsewhere: joins, and the first of several."""

from datetime import datetime

import polars as pl
import pytest
from language_support import EVENT, cohort, run, timed

from ehr_assets.errors import SpecError


def test_joins_by_name_and_defaults_for_all_tables(raw):
    spec = cohort(
        {**EVENT, "time": "day", "available": "out"},
        {"joins": ["visit"], "delimiter": ","},
        joins={"visit": {"file": "visits", "on": ["v"], "columns": {"day": "day", "out": "out"}}},
        table_defaults={"delimiter": ";"},
    )
    root = raw(
        **{"t.csv": "id,v\n1,7\n1,8\n", "visits.csv": "v;day;out\n7;2020-01-01 10:00;2020-01-05 12:00\n"}
    )
    got = run(root, spec)
    assert timed(got) == [(datetime(2020, 1, 1, 10), datetime(2020, 1, 5, 12))]
    assert got.reasons == [("t", 2, "day", "no time")]
    with pytest.raises(SpecError, match="no join 'visits'"):
        cohort(EVENT, {"joins": ["visits"]}, joins={"visit": {}})


def test_a_join_by_several_columns_in_any_order(raw):
    joins = [
        {"file": "d", "on": {"a": "x", "b": "y"}, "columns": {"one": "z"}},
        {"file": "d", "on": {"b": "y", "a": "x"}, "columns": {"two": "z"}},
    ]
    spec = cohort({**EVENT, "code": "{one}{two}", "time": "at"}, {"joins": joins})
    got = run(raw(**{"t.csv": "id,at,a,b\n1,2020-01-01,p,q\n", "d.csv": "x,y,z\nq,p,no\np,q,yes\n"}), spec)
    assert "yesyes" in got.events["code"].to_list()


def test_the_first_of_several_columns_counts(raw):
    """Also where they come from joins: the source code if there is one, else the standard code, else text."""
    concept = {"file": "concept", "columns": {"voc": "voc", "code": "code"}, "when": {"not_in": {"cid": [0]}}}
    table = {
        "joins": [
            {"join": "concept", "on": {"src": "cid"}, "prefix": "source_"},
            {"join": "concept", "on": {"std": "cid"}},
        ],
        "first_of": {"vocabulary": ["source_voc", "voc"], "any_code": ["source_code", "code", "said"]},
    }
    event = {**EVENT, "code": "{vocabulary|RAW}/{any_code}", "time": "at"}
    spec = cohort(event, table, joins={"concept": {**concept, "on": ["cid"]}})
    rows = "".join(f"1,2020-01-0{n},{row}\n" for n, row in enumerate(("5,6,a", "0,6,b", "9,0,c"), 1))
    got = run(
        raw(
            **{
                "t.csv": "id,at,src,std,said\n" + rows,
                "concept.csv": "cid,voc,code\n0,None,x\n5,I,C50\n6,S,77\n",
            }
        ),
        spec,
    )
    assert got.events.filter(pl.col("time").is_not_null())["code"].to_list() == ["I/C50", "S/77", "RAW/c"]
    # Both joins read the same columns of the same table: it was read and kept once.
    joins = spec.tables[1].joins
    assert joins[0].as_stored() == joins[1].as_stored()
    for bad, why in (
        ({"first_of": {"said": ["a"], "x": ["said"]}}, "which it gives itself"),
        ({**table, "first_of": {"code": ["said"]}}, "a second meaning"),
        ({"joins": [{"join": "concepts", "on": {"src": "cid"}}]}, "no join 'concepts'"),
    ):
        with pytest.raises(SpecError, match=why):
            cohort(event, bad, joins={"concept": {**concept, "on": ["cid"]}})
