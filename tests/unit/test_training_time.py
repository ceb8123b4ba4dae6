"""Training looks into no future: what an example's context holds was known at its cut, what it continues with
was not. Over both formats of a corpus, cut at boundaries and at decision nodes."""

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest
from corpora_support import SPEC, T0, random_rows, write_meds, write_nodes
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_assets.corpora.reader import Record, TokenCorpus
from ehr_assets.corpora.shards import write_corpus
from ehr_assets.corpora.tokenizer import train_tokenizer
from ehr_assets.errors import TrainingError
from ehr_assets.training.cutting import ExampleId, cut_example, node_cuts, possible_cuts
from ehr_assets.training.eligible import eligible_rows
from ehr_assets.training.examples import Examples, trained_subjects
from ehr_assets.training.node_times import NodeTimes, read_node_times
from ehr_assets.training.recipe import RecipeSpec
from ehr_assets.training.recipe_parts import CutsSpec, DataSpec

PEOPLE = {"train": range(1, 13), "tuning": range(21, 25), "held_out": range(31, 35)}
DATA = DataSpec(max_tokens=200, min_context_tokens=8, cuts=CutsSpec(nodes=0.5, boundaries=0.5))


class ByPosition(TokenCorpus):
    """Whose tokens are their positions in the record, so that an example says what it was made of."""

    def record(self, split: str, row: int) -> Record:
        record = super().record(split, row)
        return replace(record, token_ids=np.arange(len(record), dtype=np.int32))


def corpus_of(folder, text_format: str, cohorts=("here",)) -> ByPosition:
    spec = SPEC.model_copy(update={"format": text_format, "cohorts": list(cohorts)})
    dirs = {}
    for i, cohort in enumerate(cohorts):  # equal ids, other records
        rows = {split: random_rows(ids, i, events=60) for split, ids in PEOPLE.items()}
        dirs[cohort] = write_meds(folder / cohort, rows)
    for name in ("tokenizer", "corpus"):
        (folder / name).mkdir()
    meds, splits = ({c: pair[i] for c, pair in dirs.items()} for i in (0, 1))
    train_tokenizer(spec, meds, splits, folder / "tokenizer")
    write_corpus(spec, meds, folder / "tokenizer", folder / "corpus")
    return ByPosition(folder / "corpus")


def node_times_of(folder, corpus: TokenCorpus) -> NodeTimes:
    rng = np.random.default_rng(3)
    nodes = [
        (s, T0 + timedelta(hours=float(rng.integers(-50, 60_000)) / 2))
        for ids in PEOPLE.values()
        for s in ids
        for _ in range(6)
    ]
    return read_node_times({"here": str(write_nodes(folder, nodes))}, corpus, ("train", "tuning"))


@pytest.fixture(scope="module", params=["tagged", "smb"])
def made(request, tmp_path_factory) -> tuple[ByPosition, NodeTimes]:
    folder = tmp_path_factory.mktemp(request.param)
    corpus = corpus_of(folder, request.param)
    return corpus, node_times_of(folder / "nodes", corpus)


def split_in_time(record: Record, taken: np.ndarray, n_context: int) -> tuple[np.ndarray, np.ndarray]:
    """The places in the record of x and of y; x was known before anything of y."""
    x, y = taken[:n_context], taken[n_context:]
    known = record.available[x]
    latest = known[~np.isnat(known)].max()
    assert len(y)
    assert (record.available[y] > latest).all()  # NaT (always known) would fail
    return x, y


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["train", "tuning"]), st.integers(0, 11), st.integers(0, 5), st.integers(0, 3))
def test_no_example_looks_ahead(made, split, row, epoch, k):
    corpus, nodes = made
    examples = Examples(corpus, split, DATA, 4, nodes)
    row = examples.rows[row % len(examples.rows)]
    example = examples.example(ExampleId(split, row, epoch, k))
    split_in_time(corpus.record(split, row), example.token_ids, example.n_context)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["train", "tuning"]), st.integers(0, 11), st.integers(0, 2**32))
def test_a_cut_at_a_node_is_a_cut_at_its_time(made, split, row, seed):
    corpus, nodes = made
    record = corpus.record(split, row % corpus.count(split))
    rng = np.random.default_rng(seed)
    for t in node_cuts(record, nodes.of("here", record.subject_id), DATA):
        example = cut_example(record, t, DATA, rng)
        x, y = split_in_time(record, example.token_ids, example.n_context)
        known = record.available[x]
        assert (known[~np.isnat(known)] <= t).all()
        assert (record.available[y] > t).all()
        if record.until is not None:  # the text as it was read at t
            replaced = record.until[x]
            assert (replaced[~np.isnat(replaced)] > t).all()


def test_some_examples_are_cut_at_nodes_and_some_are_not(made):
    corpus, nodes = made
    at_nodes, at_boundaries = (
        Examples(
            corpus, "train", DATA.model_copy(update={"cuts": CutsSpec(nodes=n, boundaries=1 - n)}), 1, nodes
        )
        for n in (1.0, 0.0)
    )
    found = {True: 0, False: 0}
    for row in at_nodes.rows:
        one, other = (e.example(ExampleId("train", row, 1, 0)).n_context for e in (at_nodes, at_boundaries))
        found[one == other] += 1
    assert found[False] > len(at_nodes.rows) / 2


def test_nodes_of_held_out_subjects_are_not_read(made):
    _, nodes = made
    assert all(len(nodes.of("here", s)) for s in (1, 12, 21, 24))
    assert not any(len(nodes.of("here", s)) for s in (31, 34, 99))
    assert not len(nodes.of("elsewhere", 1))


def test_a_cohort_without_nodes_is_named(made, tmp_path):
    with pytest.raises(TrainingError, match="decision nodes, and those of here were not given"):
        read_node_times({}, made[0], ("train",))


@settings(max_examples=40, deadline=None)
@given(least=st.integers(1, 900))
def test_eligible_are_the_records_that_can_be_cut(made, least):
    data = DataSpec(max_tokens=2000, min_context_tokens=least)
    for split in PEOPLE:
        want = [i for i, r in enumerate(made[0].subjects(split)) if len(possible_cuts(r, data))]
        assert eligible_rows(made[0], split, data).tolist() == want


def test_subjects_of_two_cohorts_may_have_equal_ids(tmp_path):
    corpus = corpus_of(tmp_path, "tagged", ("one", "two"))
    settings = {
        "name": "r",
        "title": "",
        "corpus": "c",
        "phases": [{"name": "p", "objectives": {"sft": 1}, "epochs": 1}],
    }
    backbone = {"kind": "pretrained", "path": "nowhere"}
    recipe = RecipeSpec.model_validate({**settings, "backbone": backbone, "data": DATA.model_dump()})
    assert trained_subjects(corpus, recipe) == {name: list(PEOPLE["train"]) for name in ("one", "two")}
    times = {c: datetime(2021, 1, 1 + i) for i, c in enumerate(("one", "two"))}
    folders = {c: str(write_nodes(tmp_path / f"{c}_nodes", [(1, t)], c)) for c, t in times.items()}
    nodes = read_node_times(folders, corpus, ("train",))
    assert [nodes.of(c, 1).tolist() for c in times] == [[t] for t in times.values()]
