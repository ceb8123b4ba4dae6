"""Anchored windows: shared by neighbours, moved by nothing that comes later; the look back at windows."""

from datetime import timedelta

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora_support import SPEC, write_nodes
from embeddings_support import MAX_TOKENS, embed, make, nodes_of_rows, one_by_one, recomputed, states

from ehr_assets.corpora.past import records_of_the_past
from ehr_assets.corpora.piece_tokenizer import PieceTokenizer
from ehr_assets.corpora.reader import END_OF_TIME, TokenCorpus, window
from ehr_assets.embeddings.audit import windows_read
from ehr_assets.embeddings.plan import plan_passes, read_all_nodes
from ehr_assets.embeddings.windows import Windows
from ehr_assets.errors import DatasetError

ANCHORS = [0.1, 0.25, 0.5]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("windows"), SPEC)


@pytest.fixture(scope="module")
def made_smb(tmp_path_factory):
    return make(tmp_path_factory.mktemp("smb"), SPEC.model_copy(update={"format": "smb"}))


def every_instant(made):
    """(record, t) at every moment at which something becomes known."""
    for split in ("train", "held_out"):
        for record in TokenCorpus(made.root / "corpus").subjects(split):
            for t in np.unique(record.available[~np.isnat(record.available)]):
                yield record, t


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize("max_tokens", [48, 64, 96])
def test_an_anchored_window_is_the_end_of_the_plain_one(made, max_tokens, anchor):
    shorter = 0
    for record, t in every_instant(made):
        plain, found = window(record, t, max_tokens), Windows(max_tokens, anchor).at(record, t)
        head = int((plain < record.n_demographics).sum())
        assert (found[:head] == plain[:head]).all()
        assert (found[head:] == plain[len(plain) - len(found) + head :]).all()
        lost, room = len(plain) - len(found), max_tokens - head
        assert lost <= 1.5 * anchor * room
        shorter += lost > 0
        # It tears no event that the plain window leaves whole.
        if lost:
            before, first = record.event_index[found[head] - 1], record.event_index[found[head]]
            assert before != first or record.available[found[head] - 1] != record.available[found[head]]
    assert shorter


def test_nodes_far_apart_in_tokens_share_windows_that_begin_on_the_grid(made):
    corpus, nodes = TokenCorpus(made.root / "corpus"), read_all_nodes({"here": made.nodes})
    passes = {a: len(plan_passes(corpus, nodes, Windows(MAX_TOKENS, a))) for a in (0, 0.5)}
    assert passes[0.5] < passes[0]
    for record, t in every_instant(made):
        starts = Windows(MAX_TOKENS, 0.5).at(record, t)
        assert len(starts) <= MAX_TOKENS


@pytest.mark.parametrize("anchor", ANCHORS)
def test_the_grid_does_not_move_with_the_future(made, anchor):
    """Windows of records from which the future was deleted hold the same tokens."""
    windows, tokenizer = Windows(MAX_TOKENS, anchor), PieceTokenizer(made.root / "tokenizer")
    nodes = read_all_nodes({"here": made.nodes})
    corpus, moved = TokenCorpus(made.root / "corpus"), 0
    past = records_of_the_past(made.spec, tokenizer, made.meds, nodes)
    for (s, t), cut in zip(nodes.select("subject_id", "time").iter_rows(), past, strict=True):
        record = corpus.find("here", s)
        expected = record.token_ids[windows.at(record, t)]
        assert (cut.token_ids[windows.at(cut, END_OF_TIME)] == expected).all()
        moved += len(expected) < len(window(record, t, MAX_TOKENS))
    assert moved


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_anchored_passes_equal_a_pass_per_node_and_the_past(made, tmp_path, pooling):
    stats = embed(made.root, made.nodes, tmp_path, pooling=pooling, anchor=0.5)
    plain = one_by_one(made, pooling, anchor=0.5)
    errors = np.linalg.norm(states(tmp_path) - plain, axis=1) / np.linalg.norm(plain, axis=1)
    assert errors.max() <= 1e-4
    assert recomputed(made, tmp_path, pooling=pooling, anchor=0.5) <= 1e-4
    assert recomputed(made, tmp_path, pooling=pooling, anchor=0) > 1e-2
    assert stats["passes"] < made.stats["passes"]


def test_a_text_with_versions_is_not_anchored(made_smb, tmp_path):
    stats = embed(made_smb.root, made_smb.nodes, tmp_path, anchor=0.5)
    np.testing.assert_array_equal(states(tmp_path), states(made_smb.root / "embeddings"))
    assert stats["passes"] == stats["nodes"]


@pytest.mark.parametrize("which", ["made", "made_smb"])
@pytest.mark.parametrize("anchor", [0, 0.5])
def test_what_was_read_is_what_was_known(request, tmp_path, which, anchor):
    made = request.getfixturevalue(which)
    embed(made.root, made.nodes, tmp_path, anchor=anchor)
    found = windows_read(made.root / "corpus", tmp_path)
    assert found.ok
    assert found.nodes == len(nodes_of_rows())


@pytest.mark.parametrize("which", ["made", "made_smb"])
def test_a_window_without_the_newest_event_is_found_where_a_recomputation_agrees(
    request, tmp_path, monkeypatch, which
):
    """Truncation on the right, in the one function that lays all windows."""
    made, honest = request.getfixturevalue(which), Windows.at

    def cut(self, record, t):
        shown = honest(self, record, t)
        events = record.event_index[shown]
        return shown[events != events[-1]] if len(set(events[events >= 0])) > 1 else shown

    monkeypatch.setattr(Windows, "at", cut)
    embed(made.root, made.nodes, tmp_path)
    assert recomputed(made, tmp_path) <= 1e-4
    found = windows_read(made.root / "corpus", tmp_path)
    assert not found.ok
    assert found.not_newest > len(nodes_of_rows()) / 2


def test_windows_of_a_later_day_are_found(made, tmp_path):
    late = write_nodes(tmp_path / "late", [(s, t + timedelta(days=30)) for s, t in nodes_of_rows()])
    (tmp_path / "out").mkdir()
    embed(made.root, late, tmp_path / "out")
    file = tmp_path / "out/embeddings.parquet"
    table = pl.DataFrame(pq.read_table(file)).with_columns(pl.col("time") - timedelta(days=30))
    pq.write_table(table.to_arrow().cast(pq.read_schema(file)), file)
    found = windows_read(made.root / "corpus", tmp_path / "out")
    assert found.with_future > 10
    assert found.nodes == len(nodes_of_rows())


def test_a_token_left_out_in_between_is_found(made, tmp_path, monkeypatch):
    honest = Windows.at
    monkeypatch.setattr(Windows, "at", lambda *args: np.delete(honest(*args), -3))
    embed(made.root, made.nodes, tmp_path)
    assert windows_read(made.root / "corpus", tmp_path).not_whole > 10


def test_subjects_outside_the_corpus_and_older_files_are_named(made, tmp_path):
    table = pq.read_table(made.root / "embeddings/embeddings.parquet")
    ids = pa.array([987_654] * table.num_rows)
    pq.write_table(table.set_column(1, "subject_id", ids), tmp_path / "embeddings.parquet")
    assert windows_read(made.root / "corpus", tmp_path).without_record == table.num_rows
    pq.write_table(table.drop(["last"]), tmp_path / "embeddings.parquet")
    with pytest.raises(DatasetError, match="no column last"):
        windows_read(made.root / "corpus", tmp_path)
