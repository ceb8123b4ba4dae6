"""What hospitals really send: each is either right, or quarantined with a reason, or one clear error."""

import datetime
import decimal
import gzip
import os
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cohorts_support import Extracted, extract
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ehr_assets.cohorts import csv_files, readers
from ehr_assets.cohorts.csv_files import RAGGED
from ehr_assets.cohorts.file_spec import FileSpec
from ehr_assets.cohorts.files import RawFile, RawRoot, find_files
from ehr_assets.cohorts.headers import headers
from ehr_assets.cohorts.readers import read_table
from ehr_assets.cohorts.spec import CohortSpec
from ehr_assets.errors import RawTableError, SpecError
from ehr_assets.meds.preview import preview_cohort
from ehr_assets.specs import parse_spec

Table = dict[int, tuple[str | None, ...]]


def read(folder: Path, columns=("a", "b"), **how: Any) -> tuple[Table, dict[int, str]]:
    """({record: values}, {record: reason}) of the table `t` in a folder."""
    good, ragged = {}, {}
    spec = parse_spec(FileSpec, {"file": "t", **how}, "t")
    files = find_files(RawRoot.of(folder), "t")
    assert files
    for batch in read_table(files, list(columns), spec):
        good |= {row[1]: row[2:] for row in batch.frame.rows()}
        ragged |= {row: reason for _, row, reason in batch.ragged}
    return good, ragged


AB = {1: ("1", "2"), 2: ("3", "4")}


@pytest.mark.parametrize(
    ("data", "good", "ragged"),
    [
        (b"a,b\r1,2\r3,4\r", AB, {}),
        (b"a,b\r\n1,2\n3,4", AB, {}),
        (b"a,b\r1,2\r\n3,4\n", AB, {}),
        (b"\n\r\na,b\n\n1,2\n\n\n3,4\n\n", AB, {}),
        (b"\xef\xbb\xbfa,b\n1,2\n3,4\n", AB, {}),
        (b'a,b\n1,"x\ry"\n3,4\n', {1: ("1", "x\ry"), 2: ("3", "4")}, {}),
        (b"a,b\n1,x\ry\n3,4\n", {1: ("1", "x"), 3: ("3", "4")}, {2: RAGGED}),
        (b"a,b\n1,2\na,b\n3,4\n", {1: ("1", "2"), 2: ("a", "b"), 3: ("3", "4")}, {}),
        (b"a,b\n   \n1,2\n", {2: ("1", "2")}, {1: RAGGED}),
        (b'a,b\n1,5" tube\n3,6"\n', {1: ("1", '5" tube'), 2: ("3", '6"')}, {}),
        (b'a,b\n1,ab"c,d"e\n3,4\n', {2: ("3", "4")}, {1: RAGGED}),
        (b"a,b,\n1,2,\n3,4,\n", AB, {}),
        (b"a,,b,\n1,,2,\n3,x,4,\n", AB, {}),
        (b"a,b,c,c\n1,2,x,y\n3,4,x,y\n", AB, {}),
        (b"a,b\n,\n\xc2\xa0,4\n", {1: (None, None), 2: ("\xa0", "4")}, {}),
    ],
)
def test_lines_quotes_and_blanks(tmp_path, data, good, ragged):
    (tmp_path / "t.csv").write_bytes(data)
    assert read(tmp_path) == (good, ragged)


def test_a_table_of_one_column(tmp_path):
    (tmp_path / "t.csv").write_bytes(b'a\n1\n""\n3')
    assert read(tmp_path, ["a"]) == ({1: ("1",), 2: (None,), 3: ("3",)}, {})


def test_a_record_longer_than_a_block_is_right_or_told(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_bytes(b"a,b\n1,2\n3," + b"x" * (5 << 20) + b"\n3,4\n")
    good, ragged = read(tmp_path)
    assert (len(good), ragged) == (3, {})
    assert len(good[2][1] or "") == 5 << 20
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", 1 << 20)
    with pytest.raises(RawTableError, match="a record is longer than 1 MB") as e:
        read(tmp_path)
    assert "xxx" not in str(e.value)


def test_tens_of_thousands_of_columns(tmp_path):
    names = [f"column_{i}" for i in range(120_000)]  # a header of more than a mebibyte
    (tmp_path / "t.csv").write_text(",".join(names) + "\n" + ",".join(map(str, range(120_000))) + "\n")
    assert read(tmp_path, ["column_0", "column_119999"]) == ({1: ("0", "119999")}, {})
    with pytest.raises(RawTableError, match="no column 'columns_7'") as e:
        read(tmp_path, ["columns_7"])
    assert len(str(e.value)) < 2000


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no header"),
        (b"\n\n", "no header"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0), "is a gzip file"),
        (b"PAR1\x00", "is a Parquet file"),
        (b"PK\x03\x04\x00", "an Excel workbook"),
        ("a,b\n1,2\n".encode("utf-16"), "`encoding: utf-16`"),
        ("a,b\n1,2\n".encode("utf-16-le"), "seems to be UTF-16"),
        ("a,b\n1,2\n".encode("utf-32"), "`encoding: utf-32`"),
        ("a,b\n1,ü\n".encode("latin-1"), "list both"),
        (b"a,a,b\n1,2,3\n", "more than once"),
        (b'a,b\n1,"2\n3,4\n', "never closed"),
        (b'"a,b\n1,2\n', "no column 'a'"),
    ],
)
def test_what_is_no_table_of_text_is_told(tmp_path, data, said):
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(RawTableError, match=said) as e:
        read(tmp_path)
    assert str(tmp_path) in str(e.value)
    assert e.value.do


@pytest.mark.parametrize("row", ["4711,Doe", "P0815,F", "1950-01-01,x", "12.5,a"])
def test_a_file_without_header_does_not_lend_its_first_record_to_the_error(tmp_path, row):
    (tmp_path / "t.csv").write_text(f"{row}\n{row}\n")
    with pytest.raises(RawTableError, match="does not look like a header") as e:
        read(tmp_path)
    assert row.split(",")[0] not in str(e.value)


def test_lines_of_two_encodings(tmp_path):
    (tmp_path / "t.csv").write_bytes("a,b\n1,ü\n".encode() + "3,ü\n".encode("latin-1"))
    assert read(tmp_path, encoding=["utf-8", "latin-1"])[0] == {1: ("1", "ü"), 2: ("3", "ü")}


@pytest.mark.parametrize("encoding", ["base64", "zip", "rot13", "nonsense", ""])
def test_what_is_no_encoding_of_text_is_refused(encoding):
    with pytest.raises(SpecError, match="is not an encoding"):
        parse_spec(FileSpec, {"file": "t", "encoding": encoding}, "t")


def gz_of(records: int) -> bytearray:
    lines = b"".join(b"%d,%s\n" % (i, os.urandom(9).hex().encode()) for i in range(records))
    return bytearray(gzip.compress(b"a,b\n" + lines))


@pytest.mark.parametrize("at", [0.3, 0.5, 0.9])
def test_a_gzip_that_is_corrupt_in_the_middle(tmp_path, at):
    data = gz_of(20_000)
    data[int(len(data) * at)] ^= 255
    (tmp_path / "t.csv.gz").write_bytes(data)
    with pytest.raises(RawTableError, match="not a sound gzip"):
        read(tmp_path)


def test_a_gzip_of_several_members_and_one_with_something_behind(tmp_path):
    data = gzip.compress(b"a,b\n1,2\n") + gzip.compress(b"3,4\n")
    (tmp_path / "t.csv.gz").write_bytes(data)
    assert read(tmp_path) == (AB, {})
    (tmp_path / "t.csv.gz").write_bytes(data + b"and more")
    with pytest.raises(RawTableError, match="not a sound gzip"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pa.array([1, None]), ("1", None)),
        (pa.array([2**63 - 1, -(2**63)]), ("9223372036854775807", "-9223372036854775808")),
        (pa.array([decimal.Decimal("1.50"), None]), ("1.50", None)),
        (pa.array([1.0, float("nan")]), ("1", "nan")),
        (pa.array(["x", None], pa.large_string()), ("x", None)),
        (pa.array(["x", None], pa.string_view()), ("x", None)),
        (pa.array([b"x", None]), ("x", None)),
        (pa.array(["x", None]).dictionary_encode(), ("x", None)),
        (pa.array([5, None]).dictionary_encode(), ("5", None)),
        (pa.array([True, None]), ("true", None)),
        (pa.nulls(2), (None, None)),
        (pa.array([datetime.date(1900, 1, 2), None]), ("1900-01-02", None)),
        (pa.array([datetime.time(1, 2, 3), None]), ("01:02:03.000000", None)),
        (pa.array([datetime.timedelta(days=1), None]), ("86400", None)),
        (pa.array([1, None], pa.timestamp("s")), ("1970-01-01 00:00:01.000", None)),
    ],
    ids=lambda v: str(v.type) if isinstance(v, pa.Array) else "",
)
def test_parquet_of_any_flat_type(tmp_path, values, texts):
    pq.write_table(pa.table({"a": values}), tmp_path / "t.parquet")
    good, _ = read(tmp_path, ["a"])
    assert tuple(row[0] for row in good.values()) == texts


@pytest.mark.parametrize(
    "values",
    [
        *(
            pa.array([[1], None]),
            pa.array([{"q": 1}]),
            pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        ),
        *(pa.array([b"\xff"]), pa.array([b"\xff"], pa.large_binary())),
    ],
    ids=lambda v: str(v.type),
)
def test_parquet_of_what_is_no_text_is_told(tmp_path, values):
    pq.write_table(pa.table({"a": values}), tmp_path / "t.parquet")
    with pytest.raises(RawTableError, match="which has no text form"):
        read(tmp_path, ["a"])


@pytest.mark.parametrize("data", [b"", b"PAR1PAR1", b"a,b\n1,2\n", b"PAR1" + b"x" * 100 + b"PAR1"])
def test_what_is_no_parquet_is_told(tmp_path, data):
    (tmp_path / "t.parquet").write_bytes(data)
    with pytest.raises(RawTableError, match="not a sound Parquet"):
        read(tmp_path)


def test_a_folder_that_links_to_itself_is_read_once(tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "part.csv").write_bytes(b"a,b\n1,2\n")
    (tmp_path / "t" / "up").symlink_to(tmp_path)
    (tmp_path / "t" / "self.csv").symlink_to("self.csv")
    (tmp_path / "t" / "nowhere.csv").symlink_to("nothing")
    assert [f.path for f in find_files(RawRoot.of(tmp_path), "t")] == ["t/part.csv"]
    assert [f.path for f in find_files(RawRoot.of(tmp_path), "**")] == ["t/part.csv"]


def test_a_linked_folder_is_read(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "part.csv").write_bytes(b"a,b\n1,2\n")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "t").symlink_to(tmp_path / "elsewhere")
    assert [f.path for f in find_files(RawRoot.of(tmp_path / "root"), "t")] == ["t/part.csv"]


@pytest.mark.parametrize("name", ["t", "t.csv", "t.parquet"])
def test_a_directory_named_like_a_table_is_the_table(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "part-0.csv").write_bytes(b"a,b\n1,2\n")
    assert read(tmp_path)[0] == {1: ("1", "2")}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_a_file_that_may_not_be_read_is_told(tmp_path, ending):
    (tmp_path / f"t.{ending}").write_bytes(b"a,b\n1,2\n")
    (tmp_path / f"t.{ending}").chmod(0)
    with pytest.raises(RawTableError, match="Permission denied"):
        read(tmp_path)


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
@pytest.mark.parametrize("after", ["the search", "the header"])
def test_a_file_that_vanishes_is_told(tmp_path, monkeypatch, ending, after):
    path = tmp_path / f"t.{ending}"
    if ending == "parquet":
        pl.DataFrame({"a": ["1"], "b": ["2"]}).write_parquet(path)
    else:
        path.write_bytes(gzip.compress(b"a,b\n1,2\n") if ending == "csv.gz" else b"a,b\n1,2\n")
    files = find_files(RawRoot.of(tmp_path), "t")
    if after == "the search":
        path.unlink()
    else:
        resolved = readers.resolved

        def then_gone(*args):
            names = resolved(*args)
            path.unlink()
            return names

        monkeypatch.setattr(readers, "resolved", then_gone)
    with pytest.raises(RawTableError, match="cannot be read"):
        list(read_table(files, ["a"], FileSpec(file="t")))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), ending=st.sampled_from(["csv", "csv.gz", "parquet"]), gz=st.booleans())
def test_no_bytes_crash_a_reader(tmp_path, data, ending, gz):
    path = tmp_path / f"t.{ending}"
    path.write_bytes(gzip.compress(data) if gz else data)
    file = RawFile(RawRoot.of(tmp_path), path.name, path.stat().st_size)
    for encoding in (["utf-8"], ["utf-8", "latin-1"], ["latin-1"], ["utf-16"]):
        try:
            how = FileSpec(file="t", encoding=encoding)
            header = headers(file, how)
            list(read_table([file], [h for h in header if header.count(h) == 1], how))
        except RawTableError as e:
            assert e.do  # noqa: PT017 (that it is raised is not what is tested)


# ---- the whole extraction, with all the words of the language

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
