"""Shards: where they are cut; a killed run goes on where it was; unusable states are counted."""

import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora_support import SPEC, T0, write_nodes
from embeddings_support import embed, make, nodes_of_rows
from hypothesis import given
from hypothesis import strategies as st

from ehr_assets.embeddings import shards as shards_module
from ehr_assets.embeddings.audit import states
from ehr_assets.embeddings.encoder import Encoder
from ehr_assets.embeddings.plan import read_all_nodes
from ehr_assets.embeddings.shards import Kept, count_nodes, node_shards

KILLED = """
import os, signal, sys
from pathlib import Path
from ehr_assets.embeddings.extract import embed_nodes

root, out, work = (Path(a) for a in sys.argv[1:4])

def progress(what, done, total):
    if done > int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)

embed_nodes(root / "checkpoint", root / "corpus", {"here": root / "nodes"}, out, max_tokens=64,
            batch_tokens=256, device="cpu", shard_subjects=2, work_dir=work, progress=progress)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("shards"), SPEC)


@pytest.fixture
def encoded(monkeypatch):
    """Counts forward passes."""
    calls, honest = [], Encoder.encode

    def counted(self, *args):
        calls.append(len(args[0]))
        return honest(self, *args)

    monkeypatch.setattr(Encoder, "encode", counted)
    return calls


def folders(root: Path, *names: str) -> list[Path]:
    for name in names:
        (root / name).mkdir()
    return [root / name for name in names]


def file_of(folder: Path) -> bytes:
    return (folder / "embeddings.parquet").read_bytes()


def test_a_killed_run_goes_on_where_it_was_with_equal_bytes(made, tmp_path, encoded):
    whole, out, work = folders(tmp_path, "whole", "out", "work")
    stats = embed(made.root, made.nodes, whole, shard_subjects=2)
    passes = sum(encoded)
    assert stats["shards"] == 5
    assert passes == stats["passes"]
    script = [sys.executable, "-c", KILLED, str(made.root), str(out), str(work), str(stats["nodes"] // 2)]
    died = subprocess.run(script, env=dict(os.environ), check=False)
    assert died.returncode == -signal.SIGKILL
    done = sorted(p.name for p in work.glob("shards/*.json") if p.name.startswith("shard-"))
    assert 0 < len(done) < 5
    assert not (out / "embeddings.parquet").exists()

    encoded.clear()
    again = embed(made.root, made.nodes, out, shard_subjects=2, work_dir=work)
    assert 0 < sum(encoded) < passes
    assert file_of(out) == file_of(whole)
    assert again == stats
    assert pq.ParquetFile(out / "embeddings.parquet").num_row_groups == 5


def test_nothing_is_left_behind_without_a_work_folder(made, tmp_path):
    embed(made.root, made.nodes, tmp_path, shard_subjects=2)
    assert [p.name for p in tmp_path.iterdir()] == ["embeddings.parquet"]


def test_shards_that_are_damaged_or_of_other_settings_are_made_again(made, tmp_path, encoded):
    plain, anchored, again, work = folders(tmp_path, "plain", "anchored", "again", "work")
    settings = {"shard_subjects": 2, "work_dir": work}
    embed(made.root, made.nodes, plain, **settings)
    shard = work / "shards/shard-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    (work / "shards/shard-00003.json").write_text("{")
    encoded.clear()
    embed(made.root, made.nodes, again, **settings)
    assert file_of(again) == file_of(plain)
    assert 0 < sum(encoded) < made.stats["passes"]

    encoded.clear()
    stats = embed(made.root, made.nodes, anchored, anchor=0.5, **settings)
    assert sum(encoded) == stats["passes"]
    assert file_of(anchored) != file_of(plain)
    # Other nodes in the same place are not taken for those that were embedded.
    moved = write_nodes(tmp_path / "moved", [(s, t + timedelta(hours=1)) for s, t in nodes_of_rows()])
    encoded.clear()
    (out,) = folders(tmp_path, "out")
    assert embed(made.root, moved, out, anchor=0.5, **settings)["passes"] == sum(encoded)


def test_the_states_do_not_depend_on_how_shards_are_cut(made, tmp_path):
    """To the last bits, which the batches that passes are put into decide."""
    tables = []
    for i, size in enumerate((1, 3, 2048)):
        (out,) = folders(tmp_path, str(i))
        embed(made.root, made.nodes, out, shard_subjects=size)
        tables.append(pl.DataFrame(pq.read_table(out / "embeddings.parquet")))
    for table in tables[1:]:
        assert table.drop("embedding").equals(tables[0].drop("embedding"))
        found, first = table["embedding"].to_numpy(), tables[0]["embedding"].to_numpy()
        assert (np.linalg.norm(found - first, axis=1) <= 1e-5 * np.linalg.norm(first, axis=1)).all()


@given(
    subjects=st.lists(st.integers(1, 9), max_size=12),
    size=st.integers(1, 5),
    most=st.integers(1, 12),
    at_once=st.integers(1, 20),
)
def test_shards_hold_whole_subjects_in_order_whatever_is_read_at_once(
    tmp_path_factory, subjects, size, most, at_once
):
    folder = tmp_path_factory.mktemp("nodes")
    nodes = write_nodes(
        folder / "nodes", [(s, T0 + timedelta(days=i)) for s, n in enumerate(subjects, 1) for i in range(n)]
    )
    dirs = {"one": nodes, "two": nodes}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards_module, "_ROWS_AT_ONCE", at_once)
        cut = list(node_shards(dirs, size, most))
    assert [c.height for c in cut] == [c.height for c in node_shards(dirs, size, most)]
    if cut:
        assert pl.concat(cut).equals(read_all_nodes(dirs))
    assert sum(c.height for c in cut) == count_nodes(dirs) == 2 * sum(subjects)
    for shard in cut:
        assert shard["cohort"].n_unique() == 1
        of_subject = shard["subject_id"].value_counts()
        assert of_subject.height <= size
        assert shard.height <= most or of_subject.height == 1
        assert all(n == subjects[s - 1] for s, n in of_subject.iter_rows())
    # As few as can be: a neighbour did not fit.
    for one, next_one in pairwise(cut):
        first = next_one.filter(pl.col("subject_id") == next_one["subject_id"][0]).height
        full = one["subject_id"].n_unique() == size or one.height + first > most
        assert full or one["cohort"][0] != next_one["cohort"][0]


def test_one_subject_with_one_node(made, tmp_path):
    nodes = write_nodes(tmp_path / "nodes", [(1, datetime(2090, 1, 1))])
    (out,) = folders(tmp_path, "out")
    stats = embed(made.root, nodes, out)
    assert (stats["nodes"], stats["passes"], stats["shards"]) == (1, 1, 1)
    assert stats["not_finite"] == stats["constant_dimensions"] == 0
    assert not states(out, {"here": nodes}).constant


def test_no_nodes_at_all(made, tmp_path):
    nodes = write_nodes(tmp_path / "nodes", [])
    (out,) = folders(tmp_path, "out")
    stats = embed(made.root, nodes, out)
    assert [stats[k] for k in ("nodes", "subjects", "passes", "shards", "constant_dimensions")] == [0] * 5
    found = states(out, {"here": nodes})
    assert (found.nodes, found.missing, found.not_finite, found.constant) == (0, 0, 0, False)


def test_states_that_no_probe_can_use_are_counted(made, tmp_path, monkeypatch):
    (out,) = folders(tmp_path, "out")
    monkeypatch.setattr(
        Encoder, "encode", lambda self, ids, ends, how: [np.ones((len(e), self.hidden_size)) for e in ends]
    )
    stats = embed(made.root, made.nodes, out, shard_subjects=2)
    assert (stats["not_finite"], stats["constant_dimensions"]) == (0, 32)
    assert states(out, {"here": made.nodes}).constant

    file = out / "embeddings.parquet"
    table = pq.read_table(file)
    values = np.random.default_rng(0).normal(size=(table.num_rows, 32)).astype(np.float32)
    values[0, 3], values[5, 0] = np.nan, np.inf
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 32)
    spoiled = table.set_column(4, "embedding", vectors)
    pq.write_table(pa.concat_tables([spoiled.slice(1), spoiled.slice(1, 2)]), file, row_group_size=7)
    found = states(out, {"here": made.nodes})
    assert (found.missing, found.repeated, found.not_finite, found.constant) == (1, 2, 1, False)


def test_states_that_are_not_finite_are_counted_when_they_are_made(made, tmp_path, monkeypatch):
    def spoiled(self, ids, ends, how):
        return [np.full((len(e), self.hidden_size), np.nan) for e in ends]

    monkeypatch.setattr(Encoder, "encode", spoiled)
    stats = embed(made.root, made.nodes, tmp_path, shard_subjects=2)
    assert stats["not_finite"] == stats["nodes"] == states(tmp_path, {"here": made.nodes}).not_finite
    assert stats["constant_dimensions"] == 0


def test_a_work_folder_without_its_note_is_as_empty(tmp_path):
    kept = Kept(tmp_path / "shards", {"a": 1})
    nodes = pl.DataFrame({"node_id": ["x"], "subject_id": [1], "time": [T0]})
    kept.keep(0, nodes, pa.table({"node_id": ["x"]}), {"nodes": 1})
    assert Kept(tmp_path / "shards", {"a": 1}).counts(0, nodes) == {"nodes": 1}
    assert Kept(tmp_path / "shards", {"a": 2}).counts(0, nodes) is None
    assert kept.counts(1, nodes) is None
