"""Leaks planted in S(t) itself, beside those of `test_planted_leaks.py`: each is refused by the guard named.

They need a network: a tiny one, on records of a few events (`embeddings_support.py`).
"""

import shutil
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora_support import SPEC, write_nodes
from embeddings_support import MAX_TOKENS, embed, make, nodes_of_rows, recomputed

from ehr_assets.corpora.reader import TokenCorpus
from ehr_assets.embeddings.audit import windows_read
from ehr_assets.embeddings.encoder import TOLERANCE, Encoder
from ehr_assets.embeddings.windows import Windows
from ehr_assets.leakage import guarded
from ehr_assets.leakage.in_window import newest_known, newest_known_in_window


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("states"), SPEC)


def same_without_the_future(made, folder) -> bool:
    return recomputed(made, folder) <= TOLERANCE["float32"]


def windows_are_what_was_known(made, folder) -> bool:
    return windows_read(made.root / "corpus", folder).ok


def newest_known_is_read(made, folder) -> bool:
    nodes = pl.read_parquet(made.nodes / "nodes.parquet")
    newest = guarded.newest_read(TokenCorpus(made.root / "corpus"), folder, "here", nodes)
    return newest_known_in_window("r", newest_known(made.meds, nodes), newest).verdict == "ok"


GUARDS = (same_without_the_future, windows_are_what_was_known, newest_known_is_read)


@pytest.mark.parametrize("guard", GUARDS)
def test_clean_states_pass(made, guard):
    assert guard(made, made.root / "embeddings")


def rewritten(made, out, change: Callable[[pa.Table], pa.Table]):
    shutil.copytree(made.root / "embeddings", out, dirs_exist_ok=True)
    path = out / "embeddings.parquet"
    pq.write_table(change(pq.read_table(path)), path)


def states_in_another_order(made, out, patch):
    order = np.random.default_rng(0).permutation(made.stats["nodes"])
    column = "embedding"
    rewritten(
        made, out, lambda t: t.set_column(t.schema.get_field_index(column), column, t[column].take(order))
    )


def padding_taken_for_the_last_token(made, out, patch):
    honest = Encoder.encode

    def padded(self, sequences, ends, pooling):
        width = max(map(len, sequences))
        longer = [np.concatenate([s, np.zeros(width - len(s), s.dtype)]) for s in sequences]
        return honest(self, longer, [[width] * len(e) for e in ends], pooling)

    patch.setattr(Encoder, "encode", padded)
    embed(made.root, made.nodes, out)
    patch.undo()


def states_a_month_too_late(made, out, patch):
    late = write_nodes(out / "late", [(s, t + timedelta(days=30)) for s, t in nodes_of_rows()])
    embed(made.root, late, out)


def windows_that_forget_the_newest(made, out, patch):
    """A fault in the very code that lays windows: whoever calls it again finds the same."""
    honest = Windows.at
    patch.setattr(Windows, "at", lambda self, record, t: honest(self, record, t)[: MAX_TOKENS // 4])
    embed(made.root, made.nodes, out)


@pytest.mark.parametrize(
    ("plant", "guard"),
    [
        (states_in_another_order, same_without_the_future),
        (padding_taken_for_the_last_token, same_without_the_future),
        (states_a_month_too_late, same_without_the_future),
        (windows_that_forget_the_newest, windows_are_what_was_known),
        (windows_that_forget_the_newest, newest_known_is_read),
    ],
)
def test_a_leak_in_the_states_is_caught(made, tmp_path, monkeypatch, plant, guard):
    plant(made, tmp_path, monkeypatch)
    assert not guard(made, tmp_path)
