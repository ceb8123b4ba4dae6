"""Any rows at all through the whole extraction, with all the words of the language: none is lost."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from cohorts_support import Extracted, extract
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ehr_assets.cohorts import csv_files
from ehr_assets.cohorts.spec import CohortSpec
from ehr_assets.meds.preview import preview_cohort
from ehr_assets.specs import parse_spec

PEOPLE = "id,born,died,index\n" + "".join(f"{i:03d},19{50 + i},,2020-01-0{i}\n" for i in range(1, 6))


def cohort(event: dict[str, Any], table: dict[str, Any], ids: str) -> CohortSpec:
    birth = {"code": "MEDS_BIRTH", "time": {"year": "born"}, "section": "demographics"}
    people = {"name": "people", "file": "people", "subject_id": "id", "events": [birth]}
    rows = {"name": "t", "file": "t/{ward:[a-z]+}", "subject_id": "id", "events": [event], **table}
    index = {"file": "people", "on": {"id": "id"}, "columns": {"index": "index"}}
    top = {
        "name": "c",
        "title": "C",
        "source": {"kind": "tables", "root_env": "EHR_C"},
        "joins": {"index": index},
    }
    top |= {"subjects": {"table": "people", "column": "id", "ids": ids}, "tables": [people, rows]}
    return parse_spec(CohortSpec, top, "c.yaml")


BASE = {"code": "X//{ward}//{k}", "section": "measurements"}

EVENTS = [
    {**BASE, "time": "at", "value": "v", "unit": "u", "convert": {"g": {"to": "mg", "factor": 1000}}},
    {**BASE, "time": {"column": "at", "kind": "date", "clock": "c"}, "numeric_value": "v", "text_value": "k"},
    {**BASE, "time": [{"elapsed": "v", "unit": "days", "since": ["index", {"fixed": "2000-01-01"}]}, "at"]},
    {**BASE, "time": {"elapsed": "c", "unit": "clock", "since": "index"}, "available": "at"},
    {**BASE, "time": {"year": "v", "month": "k"}, "unit_text": "mg", "value": "u"},
    {**BASE, "time": {"column": "at", "format": "%d.%m.%Y"}, "when": {"at_least": {"v": 1}}},
    {**BASE, "time": "at", "section": {"column": "k", "rules": {"^[0-9]": "drugs"}, "default": "notes"}},
    {"code": "S//{k|NONE}", "static": True, "section": "demographics", "when": {"not_null": ["u"]}},
]

TABLES = [
    {"joins": ["index"]},
    {
        "joins": ["index"],
        "missing": ["NA", "-1"],
        "recode": {"u": {"mg": "g", "x": None}},
        "when": {"not_in": {"u": ["-"]}},
    },
    {"joins": ["index"], "when": {"not_in": {"k": ["1"]}, "is_null": ["d"]}, "optional_columns": ["d"]},
]

CELLS = st.sampled_from(
    [
        *("", "1", "2", "3.5", "-1", "-99999999", "1e39", "nan", "9" * 30, "NA", " ", "x", "mg", "g", "ü"),
        *("2020-01-01", "2020-01-02 10:00:00", "31.12.2019", "12:30", "1900-01-01", "2200-12-31"),
        *("2020-02-30", "2021-03-14 02:30:00+01", "\0", '"', "a\nb", "k" * 1200),
    ]
)

IDS = st.sampled_from(["001", "1", "002", "003", "004", "005", "6", "", "x", " 001 ", "9" * 25, "-1"])


@st.composite
def wards(draw):
    """Files of a table: rows by file, with their line ends and how many fields each row lacks or has more."""
    files = {}
    for ward in draw(st.lists(st.sampled_from(["icu", "er", "ob"]), min_size=1, unique=True)):
        row = st.tuples(IDS, CELLS, CELLS, CELLS, CELLS, CELLS, st.sampled_from([0] * 8 + [-1, 1]))
        files[ward] = draw(st.lists(row, max_size=12)), draw(st.sampled_from(["\n", "\r\n"]))
    return files


def written(root: Path, files: dict[str, Any]) -> int:
    """Writes the files; returns how many records there are."""
    (root / "t").mkdir(parents=True)
    (root / "people.csv").write_text(PEOPLE)
    for ward, (rows, end) in files.items():
        lines = ["id,at,c,k,u,v"]
        for *cells, more in rows:
            quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
            lines.append(",".join([*quoted, "more"][: len(cells) + more]))
        (root / "t" / f"{ward}.csv").write_bytes(end.join(lines).encode())
    return sum(len(rows) for rows, _ in files.values())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=wards(),
    event=st.sampled_from(EVENTS),
    table=st.sampled_from(TABLES),
    ids=st.sampled_from(["integer", "text"]),
    block=st.sampled_from([1 << 13, 1 << 20]),
)
def test_accepted_and_quarantined_are_what_was_read(tmp_path_factory, files, event, table, ids, block):
    work = tmp_path_factory.mktemp("fuzz")
    records = written(work / "raw", files)
    spec = cohort(event, table, ids)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_files, "BLOCK_BYTES", block)
        got = extract(work / "raw", work, spec)
    check_accounts(got, records, files)
    found = preview_cohort(spec, work / "raw")
    assert not found.problems
    seen = found.tables[1]
    assert (seen.read, seen.accepted + seen.quarantined) == (records, records)


def check_accounts(got: Extracted, records: int, files: dict[str, Any]) -> None:
    assert got.balanced()
    account = got.accounting.row(1, named=True)
    assert account["read"] == records
    lost = got.quarantine.filter(table="t")
    assert lost.select("file", "row").is_unique().all()
    for ward, (rows, _) in files.items():
        mine = set(lost.filter(file=f"t/{ward}.csv")["row"])
        ragged = {i for i, row in enumerate(rows, 1) if row[-1]}
        assert ragged <= mine <= set(range(1, len(rows) + 1))
    assert set(lost["reason"].unique()) <= REASONS
    made = got.events.filter(pl.col("code") != "MEDS_BIRTH")
    assert made.height == account["events"] == account["accepted"] - account["accepted_without_event"]


REASONS = {
    *("wrong number of fields", "wrong number of fields, over several lines", "missing subject id"),
    *(
        "unparsable subject id",
        "unknown subject",
        "unparsable time",
        "unparsable number",
        "number out of range",
    ),
    *("time with a zone, but the cohort declares no time_zone", "NUL byte", "no code", "code too long"),
    *("no time", "before birth"),
}


def test_units_that_change_within_a_code_are_counted(tmp_path):
    rows = [("001", "2020-01-01", "", "a", "mg", "1", 0), ("001", "2020-01-01", "", "a", "mmol", "1", 0)]
    written(tmp_path / "raw", {"icu": (rows, "\n")})
    got = extract(tmp_path / "raw", tmp_path, cohort(EVENTS[0], TABLES[0], "text"))
    units = pl.read_parquet(got.out / "quality" / "units.parquet").select("code", "unit", "rows")
    assert units.rows() == [("X//icu//a", "mg", 1), ("X//icu//a", "mmol", 1)]


def test_a_subject_in_two_files_is_one_subject(tmp_path):
    row = ("002", "2020-01-01", "", "a", "mg", "1", 0)
    written(tmp_path / "raw", {"icu": ([row], "\n"), "er": ([row], "\n")})
    got = extract(tmp_path / "raw", tmp_path, cohort(EVENTS[0], TABLES[0], "text"))
    made = got.events.filter(pl.col("code").str.starts_with("X"))
    assert made["subject_id"].n_unique() == 1
    assert made["code"].to_list() == ["X//er//a", "X//icu//a"]
    shards = [pl.read_parquet(p) for p in got.out.glob("data/*/*.parquet")]
    holds = [shard for shard in shards if shard["code"].str.starts_with("X").any()]
    assert len(holds) == 1


def test_a_header_within_the_data_is_quarantined(tmp_path):
    rows = [("id", "at", "c", "k", "u", "v", 0), ("002", "2020-01-01", "", "a", "mg", "1", 0)]
    written(tmp_path / "raw", {"icu": (rows, "\n")})
    for ids, reason in (("text", "unknown subject"), ("integer", "unparsable subject id")):
        got = extract(tmp_path / "raw", tmp_path / ids, cohort(EVENTS[0], TABLES[0], ids))
        assert got.reasons == [("t", 1, "id", reason)]
