"""Files and folders that are odd or broken: Parquet of any type, links, what vanishes, any bytes at all."""

import datetime
import decimal
import gzip
import os

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading_support import read

from ehr_assets.cohorts import readers
from ehr_assets.cohorts.file_spec import FileSpec
from ehr_assets.cohorts.files import RawFile, RawRoot, find_files
from ehr_assets.cohorts.headers import headers
from ehr_assets.cohorts.readers import read_table
from ehr_assets.errors import RawTableError


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


def test_a_linked_folder_is_read_where_links_may_be_followed(tmp_path, monkeypatch):
    monkeypatch.setenv("EHR_RAW_LINKS", "follow")
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
