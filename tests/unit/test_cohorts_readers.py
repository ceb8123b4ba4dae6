"""Reading raw tables: exact rows, and one clear error for every way a file can be unreadable."""

import gzip
import os
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ehr_assets.cohorts import csv_files, sources
from ehr_assets.cohorts.batches import FILE, ROW
from ehr_assets.cohorts.csv_files import RAGGED, RAGGED_LINES
from ehr_assets.cohorts.file_spec import FileSpec
from ehr_assets.cohorts.files import RawFile, RawRoot, find_files, require_files
from ehr_assets.cohorts.patterns import ENDINGS
from ehr_assets.cohorts.readers import read_table
from ehr_assets.errors import RawTableError


def rows(path: Path, columns=("a", "b"), **options):
    """({record number: values}, {record number: reason})."""
    good, ragged = {}, {}
    file = RawFile(RawRoot.of(path.parent), path.name, path.stat().st_size)
    on_bytes = options.pop("on_bytes", None)
    for batch in read_table([file], list(columns), FileSpec(file="t", **options), on_bytes):
        good |= {r[1]: r[2:] for r in batch.frame.rows()}
        ragged |= {row: reason for _, row, reason in batch.ragged}
        assert batch.frame.columns == [FILE, ROW, *columns]
        assert set(batch.frame.dtypes[2:]) == {pl.String}
    return good, ragged


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def refusal(path: Path, columns=("a", "b"), **options) -> str:
    with pytest.raises(RawTableError) as e:
        rows(path, columns, **options)
    assert str(path) in str(e.value)
    assert e.value.do
    return str(e.value)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_rows_are_numbered_from_one_and_empty_is_null(tmp_path, name):
    path = write(tmp_path / name, b'b,x,a\r\n1,,"two\nlines"\r\n"",0,3')
    assert rows(path) == ({1: ("two\nlines", "1"), 2: ("3", None)}, {})


def test_parquet_gives_the_same_text_as_csv(tmp_path):
    table = pa.table(
        {"a": pa.array([1, None], pa.int64()), "b": ["x", ""], "t": pa.array([0, 1], pa.timestamp("us"))}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    good, _ = rows(tmp_path / "t.parquet", ["a", "b", "t"])
    assert good == {
        1: ("1", "x", "1970-01-01 00:00:00.000000"),
        2: (None, None, "1970-01-01 00:00:00.000001"),
    }


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_ending_is_found_by_itself(tmp_path, ending):
    (tmp_path / f"t{ending}").touch()
    assert [f.path for f in find_files(RawRoot.of(tmp_path), "t")] == [f"t{ending}"]


@pytest.mark.parametrize("packed", [e for e in ENDINGS if e != ".csv"])
@pytest.mark.parametrize(
    ("file", "stem"), [("t", "t"), ("t_{site}", "t_a"), ("**", "d/t"), ("d", "d/part-0")]
)
def test_a_table_that_is_there_packed_and_unpacked_is_refused(tmp_path, packed, file, stem):
    """Read both, and every event counts twice; take one, and nobody knows which."""
    for ending in (".csv", packed):
        (tmp_path / f"{stem}{ending}").parent.mkdir(exist_ok=True)
        (tmp_path / f"{stem}{ending}").touch()
    with pytest.raises(RawTableError, match=f"twice: {stem}.csv and {stem}{packed}"):
        find_files(RawRoot.of(tmp_path), file)
    if file in ("t", "t_{site}"):  # the ending says which
        assert [f.path for f in find_files(RawRoot.of(tmp_path), f"{file}{packed}")] == [f"{stem}{packed}"]


def test_a_missing_table_names_the_files_tried_and_its_neighbour(tmp_path):
    (tmp_path / "labevents.csv").touch()
    with pytest.raises(RawTableError, match=r"tried labevent.csv, labevent.csv.gz, labevent.tsv") as e:
        require_files(RawRoot.of(tmp_path), "labevent", key="table 'labs'")
    assert "Did you mean 'labevents'?" in str(e.value)
    assert "table 'labs'" in str(e.value)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_missing_column_names_the_nearest(tmp_path, kind):
    path = tmp_path / f"t.{kind}"
    frame = pl.DataFrame({"charttime": ["x"], "b": ["y"]})
    frame.write_csv(path) if kind == "csv" else frame.write_parquet(path)
    text = refusal(path, ["chartime"])
    assert "no column 'chartime'" in text
    assert "Did you mean 'charttime'?" in text


def test_a_column_given_twice_is_refused(tmp_path):
    path = write(tmp_path / "t.csv", b"a,b,a\n1,2,3\n")
    assert "more than once" in refusal(path)
    assert rows(path, ["b"])[0] == {1: ("2",)}


@pytest.mark.parametrize("data", [b"", b"\n", b"\r\n\r\n", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_file_without_header_is_refused(tmp_path, name, data):
    assert "no header" in refusal(write(tmp_path / name, data))


def test_an_empty_gz_file_is_refused(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.touch()
    assert "no header" in refusal(path)


@pytest.mark.parametrize("data", [b"a,b", b"a,b\n", b"\xef\xbb\xbfa,b\r\n"])
def test_a_header_without_rows_is_an_empty_table(tmp_path, data):
    assert rows(write(tmp_path / "t.csv", data)) == ({}, {})


def noise(records: int) -> bytes:
    return b"a,b\n" + b"".join(b"%d,%s\n" % (i, os.urandom(20).hex().encode()) for i in range(records))


@pytest.mark.parametrize("missing", [4, 9, 1000])
def test_a_truncated_gzip_is_told(tmp_path, missing):
    path = write(tmp_path / "t.csv.gz", noise(2000))
    path.write_bytes(path.read_bytes()[:-missing])
    assert "truncated gzip" in refusal(path)


def test_a_corrupt_gzip_is_told(tmp_path):
    path = write(tmp_path / "t.csv.gz", noise(2000))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert "not a sound gzip" in refusal(path)
    path.write_bytes(b"a,b\n1,2\n")
    assert "not a sound gzip" in refusal(path)


def test_a_truncated_parquet_is_told(tmp_path):
    pl.DataFrame({"a": ["1"], "b": ["2"]}).write_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-5])
    assert "not a sound Parquet" in refusal(tmp_path / "t.parquet")


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_another_encoding_names_its_first_line(tmp_path, name, monkeypatch):
    monkeypatch.setattr(sources, "CHUNK", 7)  # characters and line counts across chunk borders
    data = 'a,b\n1,ok\n"two\nlines",ü\n3,é\n'.encode("latin-1")
    path = write(tmp_path / name, data)
    text = refusal(path)
    assert "not written in utf-8" in text
    assert "line 4" in text  # of the text, as an editor counts
    assert "`encoding: latin-1`" in text
    assert rows(path, encoding="latin-1")[0] == {1: ("1", "ok"), 2: ("two\nlines", "ü"), 3: ("3", "é")}


def test_utf16_is_recognised_and_readable_when_declared(tmp_path):
    path = write(tmp_path / "t.csv", "a,b\n1,é\n".encode("utf-16"))
    assert "`encoding: utf-16`" in refusal(path)
    assert rows(path, encoding="utf-16")[0] == {1: ("1", "é")}


def test_ragged_rows_are_handed_over_with_their_numbers(tmp_path):
    path = write(tmp_path / "t.csv", b"a,b\n1,2\n3\n4,5\n\n6,7,8\n" + b'"9\n9",x,y\n' + b"10,11\n12\n")
    good, ragged = rows(path)
    assert good == {1: ("1", "2"), 3: ("4", "5"), 6: ("10", "11")}
    assert ragged == {2: RAGGED, 4: RAGGED, 5: RAGGED_LINES, 7: RAGGED}


@pytest.mark.parametrize("header", ["a,b", "a,b,c,c"])
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_blank_lines_above_the_header_count_as_nothing(tmp_path, monkeypatch, header, chunk):
    monkeypatch.setattr(sources, "CHUNK", chunk)
    more = ",x" * (header.count(",") - 1)
    path = write(tmp_path / "t.csv", f"\r\n\n{header}\n1,2{more}\n3\n\n4,5{more}\n".encode())
    assert rows(path) == ({1: ("1", "2"), 3: ("4", "5")}, {2: RAGGED})


def test_a_table_of_ragged_rows_only(tmp_path):
    assert rows(write(tmp_path / "t.csv", b"a,b\n1\n2\n")) == ({}, {1: RAGGED, 2: RAGGED})


def test_a_quote_never_closed_does_not_swallow_the_rest(tmp_path, monkeypatch):
    path = write(tmp_path / "t.csv", b'a,b\n1,2\n3,"4\n' + b"5,6\n" * 50)
    assert "never closed" in refusal(path)  # at the end of the file, within a block
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", 64)
    assert "never closed" in refusal(path)  # beyond a block


def test_a_nul_byte_stays_in_its_value_and_hides_no_quote_behind_it(tmp_path):
    path = write(tmp_path / "t.csv", b'a,b\n1,x\0y\n"L\0","P\n"\n2,z\n')
    assert rows(path)[0] == {1: ("1", "x\0y"), 2: ("L\0", "P\n"), 3: ("2", "z")}


def test_progress_ends_at_the_file_size(tmp_path):
    path = write(tmp_path / "t.csv.gz", noise(500))
    seen = []
    rows(path, on_bytes=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)


FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=st.lists(
        st.one_of(st.tuples(FIELD, FIELD), st.tuples(FIELD), st.tuples(FIELD, FIELD, FIELD)), max_size=30
    ),
    block=st.integers(64, 200),
    end=st.sampled_from(["\n", ""]),
)
def test_any_table_comes_back_record_by_record(tmp_path, table, block, end):
    quoted = ['","'.join(f.replace('"', '""') for f in record) for record in table]
    text = "a,b\n" + "\n".join(f'"{q}"' for q in quoted) + (end if table else "")
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_files, "BLOCK_BYTES", block)
        good, ragged = rows(path)
    expected = {i: tuple(f or None for f in r) for i, r in enumerate(table, 1) if len(r) == 2}
    assert good == expected
    assert set(ragged) == {i for i, r in enumerate(table, 1) if len(r) != 2}
