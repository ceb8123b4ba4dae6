"""S(t): one pass equals one pass per node, and the future does not reach it."""

from datetime import datetime, timedelta
from types import SimpleNamespace

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from corpora_support import SPEC, T0, write_meds, write_nodes
from embeddings_support import MAX_TOKENS, ROWS, embed, make, nodes_of_rows, one_by_one, recomputed, states

from ehr_assets.corpora.reader import TokenCorpus
from ehr_assets.corpora.shards import write_corpus
from ehr_assets.embeddings.encoder import TOLERANCE, Encoder
from ehr_assets.embeddings.plan import batches, plan_passes
from ehr_assets.embeddings.untrained import Untrained
from ehr_assets.embeddings.windows import Windows
from ehr_assets.errors import DatasetError, EhrError, SpecError
from ehr_assets.training.recipe import load_recipe


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny products on many threads mostly wait, the more so beside other tests."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("embeddings"), SPEC)


@pytest.fixture(scope="module")
def made_smb(tmp_path_factory):
    """On a corpus whose records hold versions of their text."""
    return make(tmp_path_factory.mktemp("smb"), SPEC.model_copy(update={"format": "smb"}))


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_one_pass_equals_a_pass_per_node(made, tmp_path, pooling):
    embed(made.root, made.nodes, tmp_path, pooling=pooling)
    ours, plain = states(tmp_path), one_by_one(made, pooling)
    assert (np.linalg.norm(ours - plain, axis=1) < 1e-5 * np.linalg.norm(plain, axis=1)).all()
    assert len(np.unique(plain.round(4), axis=0)) > len(plain) / 2


def test_windows_that_fit_share_one_pass_per_subject(made, tmp_path):
    long = embed(made.root, made.nodes, tmp_path, max_tokens=512)
    # Before its first event a record has no age, so that node cannot share.
    assert long["passes"] == 2 * long["subjects"] == 20
    assert long["tokens"] < long["tokens_one_by_one"] / 2
    assert made.stats["passes"] > long["passes"]
    assert made.stats["nodes"] == len(nodes_of_rows())


def test_the_file_follows_the_nodes_in_the_contracts_schema(made):
    table = pq.read_table(made.root / "embeddings/embeddings.parquet")
    nodes = pq.read_table(made.nodes / "nodes.parquet")
    assert (
        table.select(["node_id", "subject_id", "time", "cohort"]).to_pydict()
        == nodes.select(["node_id", "subject_id", "time", "cohort"]).to_pydict()
    )
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[32]"
    assert np.isfinite(states(made.root / "embeddings")).all()


def test_equal_inputs_give_equal_bytes(made, tmp_path):
    embed(made.root, made.nodes, tmp_path)
    name = "embeddings.parquet"
    assert (tmp_path / name).read_bytes() == (made.root / "embeddings" / name).read_bytes()


def test_deleting_the_future_changes_nothing(made):
    error = recomputed(made)
    assert 0 < error < 1e-5
    assert recomputed(made, sample=5) <= error


def test_deleting_the_future_changes_nothing_of_a_text_with_versions(made_smb, tmp_path):
    assert recomputed(made_smb) <= 1e-4
    assert made_smb.stats["passes"] == made_smb.stats["nodes"]
    for pooling in ("last", "mean"):
        out = tmp_path / pooling
        out.mkdir()
        embed(made_smb.root, made_smb.nodes, out, pooling=pooling)
        assert np.allclose(states(out), one_by_one(made_smb, pooling), atol=2e-5)


def test_a_state_that_saw_the_future_is_found(made, tmp_path):
    """Embeddings taken a day too late, as if a result counted before it was reported."""
    late = write_nodes(tmp_path / "late", [(s, t + timedelta(days=30)) for s, t in nodes_of_rows()])
    (tmp_path / "out").mkdir()
    embed(made.root, late, tmp_path / "out")
    assert recomputed(made, tmp_path / "out") > 1e-2


def test_a_planted_future_event_changes_nothing(made, tmp_path):
    """The corpus is made again from a copy in which every subject has one more, later, unique event."""
    end = datetime(2090, 1, 1)
    planted = {
        split: [*rows, *((s, T0, "PLANTED", 1.5, None, end, "measurements") for s in {r[0] for r in rows})]
        for split, rows in ROWS.items()
    }
    meds, _ = write_meds(tmp_path, planted)
    for name in ("corpus", "out"):
        (tmp_path / name).mkdir()
    write_corpus(SPEC, {"here": meds}, made.root / "tokenizer", tmp_path / "corpus")
    (tmp_path / "checkpoint").symlink_to(made.root / "checkpoint")
    embed(tmp_path, made.nodes, tmp_path / "out")
    np.testing.assert_array_equal(states(tmp_path / "out"), states(made.root / "embeddings"))


def test_a_cohort_without_nodes_gives_an_empty_file(made, tmp_path):
    nodes = write_nodes(tmp_path / "nodes", [])
    (tmp_path / "out").mkdir()
    assert embed(made.root, nodes, tmp_path / "out")["nodes"] == 0
    assert pq.read_table(tmp_path / "out/embeddings.parquet").num_rows == 0
    made_empty = SimpleNamespace(spec=made.spec, root=made.root, meds=made.meds, nodes=nodes)
    assert recomputed(made_empty, tmp_path / "out") == 0


def test_nodes_of_unknown_subjects_are_counted(made, tmp_path):
    nodes = write_nodes(tmp_path / "nodes", [(1, T0), (987_654, T0), (987_655, T0)])
    with pytest.raises(DatasetError, match=r"2 node\(s\) belong to subjects who are not") as error:
        embed(made.root, nodes, tmp_path)
    assert "987" not in str(error.value)


def test_windows_longer_than_the_backbone_are_refused(made, tmp_path):
    with pytest.raises(SpecError, match="512 positions"):
        embed(made.root, made.nodes, tmp_path, max_tokens=513)


def test_a_checkpoint_of_another_vocabulary_is_refused(made, tmp_path, monkeypatch):
    made_encoder = Encoder(made.root / "checkpoint", "cpu")
    made_encoder.vocabulary = 20
    monkeypatch.setattr("ehr_assets.embeddings.tasks.Encoder", lambda *_: made_encoder)
    with pytest.raises(DatasetError, match="20 tokens only"):
        embed(made.root, made.nodes, tmp_path)


def test_a_folder_that_is_no_checkpoint_is_named(made, tmp_path):
    with pytest.raises(EhrError, match="adapter_config"):
        Encoder(tmp_path, "cpu")


def test_batches_hold_every_pass_once_within_the_budget(made):
    nodes = pl.DataFrame(pq.read_table(made.nodes / "nodes.parquet"))
    corpus = TokenCorpus(made.root / "corpus")
    windows = Windows(MAX_TOKENS)
    passes = plan_passes(corpus, nodes, windows)
    assert sorted(n for p in passes for n in p.nodes) == list(range(nodes.height))
    assert all(1 <= end <= p.length <= MAX_TOKENS for p in passes for end in p.ends)
    assert all(len(p.read(corpus, windows)[1]) == p.length == max(p.ends) for p in passes)
    assert not any(isinstance(getattr(p, name), np.ndarray) for p in passes for name in p.__slots__), (
        "a plan of a million nodes must not hold their tokens"
    )
    groups = list(batches(passes, 200))
    assert [id(p) for g in groups for p in g] == [id(p) for p in passes]
    assert all(len(g) * max(p.length for p in g) <= 200 or len(g) == 1 for g in groups)


def test_bfloat16_stays_within_its_tolerance_and_gives_float32(made, tmp_path):
    stats = embed(made.root, made.nodes, tmp_path, dtype="bfloat16")
    assert (stats["dtype"], made.stats["dtype"]) == ("bfloat16", "float32")
    found, exact = states(tmp_path), states(made.root / "embeddings")
    errors = np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert found.dtype == np.float32
    assert TOLERANCE["float32"] < errors.max() <= TOLERANCE["bfloat16"]
    assert recomputed(made, tmp_path, dtype="bfloat16") <= TOLERANCE["bfloat16"]
    assert recomputed(made, tmp_path, dtype="float32") == pytest.approx(errors.max(), rel=1e-2)


def test_the_mean_is_recomputed_as_well_as_the_last_token(made, tmp_path):
    embed(made.root, made.nodes, tmp_path, pooling="mean")
    assert 0 < recomputed(made, tmp_path, pooling="mean") <= TOLERANCE["float32"]
    assert recomputed(made, tmp_path, pooling="last") > 1e-2


def test_the_control_is_the_backbone_before_training(made, tmp_path):
    import torch

    from ehr_assets.models.backbone import build_backbone

    backbone = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "seed": 3}
    recipe = load_recipe(
        "smb_sft_demo", {f"backbone.{key}": value for key, value in backbone.items()} | {"name": "r"}
    )
    source = Untrained(recipe, made.root / "tokenizer")
    stats = embed(made.root, made.nodes, tmp_path, source=source)
    sizes = recipe.backbone.model_dump(exclude={"kind", "architecture"})
    plain = build_backbone(vocab_size=Encoder(source).vocabulary, **sizes).eval()
    corpus, expected = TokenCorpus(made.root / "corpus"), []
    for s, t in sorted(nodes_of_rows()):
        record = corpus.find("here", s)
        ids = torch.tensor(record.token_ids[Windows(MAX_TOKENS).at(record, t)][None].astype(np.int64))
        with torch.no_grad():
            expected.append(plain(ids, output_hidden_states=True).hidden_states[-1][0, -1].numpy())
    np.testing.assert_allclose(states(tmp_path), np.stack(expected), rtol=1e-4, atol=1e-5)
    assert stats["nodes"] == made.stats["nodes"]
    assert recomputed(made, tmp_path, source=source) <= TOLERANCE["float32"]
    assert not np.allclose(states(tmp_path), states(made.root / "embeddings"), atol=0.1)
