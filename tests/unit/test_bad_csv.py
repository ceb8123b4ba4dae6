"""What hospitals send as CSV: every record is right, or quarantined; or there is one clear error."""

import gzip
import os

import pytest
from reading_support import AB, read

from ehr_assets.cohorts import csv_files
from ehr_assets.cohorts.csv_files import RAGGED
from ehr_assets.cohorts.file_spec import FileSpec
from ehr_assets.errors import RawTableError, SpecError
from ehr_assets.specs import parse_spec


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


@pytest.mark.parametrize("row", ["4711,Doe", "P0815,F", "1950-01-01,x", "12.5,a", "Doe,Jane"])
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
