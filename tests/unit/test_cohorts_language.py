"""The cohort spec language, word by word: from a few raw lines to the events and reasons they give."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from cohorts_support import Extracted

from ehr_assets.cohorts.files import RawRoot, find_files
from ehr_assets.cohorts.spec import CohortSpec, load_cohort
from ehr_assets.errors import DatasetError, RawTableError, SpecError
from ehr_assets.fanout import GB, Machine
from ehr_assets.meds import extract
from ehr_assets.meds.extract import extract_meds
from ehr_assets.meds.splits import write_splits
from ehr_assets.specs import parse_spec

DAY_END = timedelta(days=1) - timedelta(microseconds=1)


def cohort(event: dict[str, Any] | list, table: dict[str, Any] | None = None, **top: Any) -> CohortSpec:
    """Subjects in people.csv, one table `t` in t.csv."""
    events = event if isinstance(event, list) else [event]
    people = {
        "name": "people",
        "file": "people",
        "subject_id": "id",
        "events": [{"code": "SEEN", "static": True, "section": "demographics"}],
    }
    rows = {"name": "t", "file": "t", "subject_id": "id", "events": events, **(table or {})}
    data = {
        "name": "c",
        "title": "C",
        "source": {"kind": "tables", "root_env": "EHR_C_ROOT"},
        "subjects": {"table": "people", "column": "id"},
        "tables": [people, rows],
        **top,
    }
    return parse_spec(CohortSpec, data, "c.yaml")


def run(root: Path, spec: CohortSpec, machine: Machine | None = None) -> Extracted:
    out = root.parent / f"out-{len(list(root.parent.iterdir()))}"
    for part in ("splits", "meds"):
        (out / part).mkdir(parents=True)
    write_splits(spec, root, out / "splits")
    stats = extract_meds(spec, root, out / "splits", out / "meds", machine=machine or Machine())
    return Extracted(out / "meds", stats)


@pytest.fixture
def raw(tmp_path: Path):
    """Writes raw files by name; people 1 and 2 are there."""
    root = tmp_path / "raw"

    def write(people: str = "id\n1\n2\n", **files: str | bytes) -> Path:
        for name, content in {"people.csv": people, **files}.items():
            path = root / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return root

    return write


def timed(got: Extracted) -> list[tuple[datetime, datetime]]:
    return got.events.filter(pl.col("time").is_not_null()).select("time", "available_time").rows()


EVENT = {"code": "X", "section": "observations"}


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


def test_any_meds_dataset_as_it_is(raw, tmp_path):
    """Our own output, read as a foreign dataset, comes back event by event; and one without extensions."""
    event = {
        **EVENT,
        "code": "LAB//{k}",
        "section": "measurements",
        "time": "at",
        "value": "v",
        "available": "late",
    }
    rows = "1,2020-01-01 10:00:00,a,1.1,2020-01-02\n2,2020-01-01,b,text,\n2,2020-01-05 00:00:00,b,0.333333,\n"
    first = run(raw(**{"t.csv": "id,at,k,v,late\n" + rows}), cohort(event))
    meds = {"name": "again", "title": "Again", "source": {"kind": "meds", "root_env": "EHR_M"}}
    again = run(first.out, parse_spec(CohortSpec, meds, "again.yaml"))
    assert again.events.equals(first.events)
    plain = tmp_path / "plain"
    for path in first.out.glob("data/*/*.parquet"):
        (plain / path.relative_to(first.out)).parent.mkdir(parents=True, exist_ok=True)
        old = pl.read_parquet(path).drop("available_time", "section", "text_value")
        old.write_parquet(plain / path.relative_to(first.out))
    meds["source"]["sections"] = {"^LAB//": "measurements"}
    bare = run(plain, parse_spec(CohortSpec, meds, "again.yaml"))
    expected = [(datetime(2020, 1, 1), datetime(2020, 1, 1) + DAY_END)]
    expected += [(datetime(2020, 1, 1, 10),) * 2, (datetime(2020, 1, 5), datetime(2020, 1, 5) + DAY_END)]
    assert sorted(timed(bare)) == expected
    assert set(bare.events.filter(pl.col("time").is_not_null())["section"]) == {"measurements"}


@pytest.mark.parametrize("group_rows", [3, 1_000_000])
def test_equal_bytes_whatever_the_number_of_processes(raw, monkeypatch, group_rows):
    """Also where shards share a part of the staged events, and are written a few subjects at a time."""
    monkeypatch.setattr(extract, "SMALL_BYTES", 0)
    monkeypatch.setattr(extract, "PARTS", 4)
    monkeypatch.setattr(extract, "GROUP_ROWS", group_rows)
    people = "id\n" + "".join(f"{i}\n" for i in range(60))
    rows = "".join(f"{i % 61},2020-01-{1 + i % 28:02d},{i % 7},{i}\n" for i in range(900))
    spec = cohort(
        {**EVENT, "code": "C//{k}", "time": "at", "numeric_value": "v", "description": "{name}"},
        {"joins": [{"file": "names", "on": ["k"], "columns": {"name": "name"}}]},
        shard_subjects=7,
    )
    names = "k,name\n" + "".join(f"{k},Name {k}\n" for k in range(5))
    root = raw(people, **{"t.csv": "id,at,k,v\n" + rows, "names.csv": names})

    def files(machine: Machine) -> dict[str, bytes]:
        got = run(root, spec, machine)
        assert got.balanced()
        return {p.relative_to(got.out).as_posix(): p.read_bytes() for p in got.out.rglob("*") if p.is_file()}

    alone = files(Machine(1))
    assert alone == files(Machine(2, 16 * GB))
    assert sum(name.startswith("data/train") for name in alone) > 4


def test_a_subject_with_a_million_events(raw):
    """One subject is never cut in two, and many small ones around it are written as well."""
    spec = cohort({**EVENT, "code": "C//{k}", "time": "at", "numeric_value": "k"})
    n = 1_000_000
    rows = pl.DataFrame(
        {"at": pl.datetime_range(pl.datetime(2000, 1, 1), pl.datetime(2030, 1, 1), "15m", eager=True)}
    )
    rows = rows.head(n).select(id=pl.lit(1), at="at", k=pl.int_range(pl.len()) % 50)
    root = raw(**{"t.csv": rows.write_csv(datetime_format="%Y-%m-%d %H:%M:%S") + "2,2020-01-01,3\n"})
    got = run(root, spec)
    assert got.events.filter(pl.col("time").is_not_null())["subject_id"].value_counts().sort(
        "subject_id"
    ).rows() == [
        (1, n),
        (2, 1),
    ]
    assert got.events.filter(pl.col("subject_id") == 1)["time"].is_sorted()
    assert got.balanced()


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


def test_a_join_by_several_columns_in_any_order(raw):
    joins = [
        {"file": "d", "on": {"a": "x", "b": "y"}, "columns": {"one": "z"}},
        {"file": "d", "on": {"b": "y", "a": "x"}, "columns": {"two": "z"}},
    ]
    spec = cohort({**EVENT, "code": "{one}{two}", "time": "at"}, {"joins": joins})
    got = run(raw(**{"t.csv": "id,at,a,b\n1,2020-01-01,p,q\n", "d.csv": "x,y,z\nq,p,no\np,q,yes\n"}), spec)
    assert "yesyes" in got.events["code"].to_list()


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


def test_names_in_the_case_of_a_database(raw):
    """Oracle and Snowflake export PERSON.csv with upper-case headers; a name as it is written comes first."""
    root = raw(**{"D__T__part-0.csv": "ID,At,at\n1,2020-01-01,2020-01-02\n"})
    got = run(root, cohort({**EVENT, "time": "at"}, {"file": "D/t"}))
    assert [time for time, _ in timed(got)] == [datetime(2020, 1, 2)]


def test_a_cohort_that_extends_another(tmp_path):
    """It says only what differs; tables are laid over those of the same name."""
    base = {
        "name": "base",
        "title": "Base",
        "source": {"kind": "tables", "root_env": "EHR_B"},
        "subjects": {"table": "people", "column": "id"},
        "joins": {"concept": {"file": "concept", "on": ["c"], "columns": {"label": "name"}}},
        "tables": [
            {"name": "people", "file": "people", "subject_id": "id", "events": [{**EVENT, "time": "born"}]},
            {
                "name": "t",
                "file": "t",
                "subject_id": "id",
                "joins": ["concept"],
                "events": [{**EVENT, "time": "at"}],
            },
            {"name": "u", "file": "u", "subject_id": "id", "events": [{**EVENT, "time": "at"}]},
        ],
    }
    own = {
        "extends": "base",
        "name": "own",
        "subjects": {"person_key": "who"},
        "joins": {"concept": {"file": "my_concept"}},
        "tables": [
            {"name": "u", "drop": True},
            {"name": "t", "file": "mine/t"},
            {"name": "v", "file": "v", "subject_id": "id", "events": [{**EVENT, "time": "at"}]},
        ],
    }
    for name, spec in (("base", base), ("own", own), ("circle", {**own, "extends": "circle"})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(spec))
    got = load_cohort(tmp_path / "own.yaml")
    assert [(t.name, t.file) for t in got.tables] == [("people", "people"), ("t", "mine/t"), ("v", "v")]
    assert (got.title, got.subjects.column, got.subjects.person_key) == ("Base", "id", "who")
    assert got.tables[1].joins[0].file == "my_concept"
    with pytest.raises(SpecError, match=r"in a circle: circle extends circle"):
        load_cohort(tmp_path / "circle.yaml")
    (tmp_path / "lost.yaml").write_text(yaml.safe_dump({**own, "extends": "bass"}))
    with pytest.raises(SpecError, match=r"no cohort 'bass'\. Did you mean 'base'"):
        load_cohort(tmp_path / "lost.yaml", search=[])


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


def test_capitals_come_before_recoding(raw):
    """And recoding is stronger than the signs for what is missing."""
    table = {"upper": ["k"], "recode": {"k": {"TAXOL": "PACLITAXEL", "?": "UNTOLD"}}, "missing": ["?", "-"]}
    rows = "1,2020-01-01,Taxol\n1,2020-01-02,paclitaxel\n1,2020-01-03,?\n"
    got = run(raw(**{"t.csv": "id,at,k\n" + rows}), cohort({**EVENT, "code": "D//{k}", "time": "at"}, table))
    assert set(got.events["code"]) == {"SEEN", "D//PACLITAXEL", "D//UNTOLD"}


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
