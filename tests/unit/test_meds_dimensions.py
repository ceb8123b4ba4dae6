"""Joined tables on disk: the same answers as a join in memory, whatever the parts and the collisions."""

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ehr_assets.cohorts import csv_files
from ehr_assets.cohorts.files import RawRoot
from ehr_assets.cohorts.spec import JoinSpec
from ehr_assets.errors import RawTableError
from ehr_assets.meds import dimensions
from ehr_assets.meds.dimensions import Dimension, build_dimension

KEYS = st.sampled_from(["a", "b", "c", "d", "e", None])


def build(tmp_path, table: str | None, **spec) -> tuple[Dimension, dict[str, int]]:
    root = tmp_path / "raw"
    root.mkdir(exist_ok=True)
    if table is not None:
        (root / "d.csv").write_text(table)
    join = JoinSpec.model_validate({"file": "d", "on": ["k"], "columns": {"v": "v"}, **spec})
    folder = tmp_path / f"dimension-{len(list(tmp_path.iterdir()))}"
    counts = build_dimension(join.as_stored(), RawRoot.of(root), folder, key="table 't'")
    return Dimension(join, folder), counts


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    there=st.lists(st.tuples(KEYS, KEYS, st.integers(0, 9)), max_size=12),
    asked=st.lists(st.tuples(KEYS, KEYS), max_size=12),
    part_bytes=st.sampled_from([5, 30, 1 << 20]),
)
def test_it_answers_as_a_left_join_to_the_first_row_of_each_key(tmp_path, there, asked, part_bytes):
    frame = pl.DataFrame(asked, schema={"k": pl.String, "j": pl.String}, orient="row")
    rows = "".join(f"{k or ''},{j or ''},{v}\n" for k, j, v in there)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dimensions, "PART_BYTES", part_bytes)
        dimension, counts = build(tmp_path, "k,j,v\n" + rows, on=["k", "j"])
        found = dimension.add_to(frame)
    right = pl.DataFrame(
        [(k, j, str(v)) for k, j, v in there], schema=dict.fromkeys("kjv", pl.String), orient="row"
    )
    right = right.drop_nulls(["k", "j"])
    unique = right.unique(["k", "j"], keep="first", maintain_order=True)
    expected = frame.join(unique, on=["k", "j"], how="left", maintain_order="left")
    assert found.equals(expected)
    assert counts == {"rows": len(there), "ragged": 0, "duplicate_keys": right.height - unique.height}


def test_a_part_is_one_growing_file_however_many_batches_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(dimensions, "PART_BYTES", 500)
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", 64)
    files = []
    sort = dimensions._sorted_part
    monkeypatch.setattr(
        dimensions,
        "_sorted_part",
        lambda rows, out: files.append([*out.parent.rglob("*-*")]) or sort(rows, out),
    )
    table = "k,v\n" + "".join(f"{k % 200},{k}\n" for k in range(300))
    dimension, counts = build(tmp_path, table)
    assert len(files[0]) == dimension.parts == len(files) > 3
    assert counts == {"rows": 300, "ragged": 0, "duplicate_keys": 100}
    asked = pl.DataFrame({"k": [str(k) for k in range(201)]})
    assert dimension.add_to(asked)["v"].to_list() == [*(str(k) for k in range(200)), None]


def test_keys_that_share_a_hash_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(pl.Expr, "hash", lambda self, *_: pl.lit(7, pl.UInt64) + 0 * self.str.len_bytes())
    dimension, _ = build(tmp_path, "k,v\na,1\nb,2\nc,3\n")
    frame = pl.DataFrame({"k": ["c", "x", "a", "b", None]})
    assert dimension.add_to(frame)["v"].to_list() == ["3", None, "1", "2", None]


def test_an_absent_optional_table_gives_nulls_and_another_is_an_error(tmp_path):
    dimension, counts = build(tmp_path, None, optional=True)
    assert dimension.add_to(pl.DataFrame({"k": ["a"]})).rows() == [("a", None)]
    assert counts == {"rows": 0, "ragged": 0, "duplicate_keys": 0}
    with pytest.raises(RawTableError, match=r"A raw table is missing: d \(table 't'\)"):
        build(tmp_path, None)


def test_only_the_rows_that_the_join_wants(tmp_path):
    when = {"at_least": {"n": 2}, "not_null": ["v"]}
    dimension, counts = build(tmp_path, "k,v,n\na,1,1\na,2,2\nb,,3\nc,x\n", when=when)
    assert dimension.add_to(pl.DataFrame({"k": ["a", "b"]}))["v"].to_list() == ["2", None]
    assert counts == {"rows": 4, "ragged": 1, "duplicate_keys": 0}
