"""How records are cut into context and continuation."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_helpers import recipe_data, record_columns, write_corpus

from ehr_assets.corpora.reader import Record, TokenCorpus
from ehr_assets.errors import TrainingError
from ehr_assets.training.collate import collate
from ehr_assets.training.cutting import (
    Example,
    ExampleId,
    cut_example,
    event_boundaries,
    node_cuts,
    possible_cuts,
    with_hidden,
)
from ehr_assets.training.examples import FIRST_EPOCH, Examples, trained_subjects
from ehr_assets.training.node_times import NodeTimes
from ehr_assets.training.recipe import RecipeSpec
from ehr_assets.training.recipe_parts import CutsSpec, DataSpec, JepaSpec

DATA = DataSpec(max_tokens=64, min_context_tokens=16)


def made_up_record(seed: int, n_events: int, n_demographics: int) -> Record:
    c = record_columns(np.random.default_rng(seed), n_events, n_demographics)
    nat = np.datetime64("NaT", "us")
    times = np.array([nat if t is None else t for t in c["available"]], dtype="datetime64[us]")
    # Unique ids, so that a stretch of tokens says where in the record it lies.
    ids = np.arange(len(times), dtype=np.int32)
    event = np.array(c["event_index"], dtype=np.int32)
    return Record("made_up", 1, n_demographics, ids, times, times, event)


specs = st.builds(
    lambda max_tokens, context, low, more: DataSpec(
        max_tokens=max_tokens,
        min_context_tokens=min(context, max_tokens - int(min(low + more, 0.9) * max_tokens) - 1),
        continuation_fraction=(low, min(low + more, 0.9)),
    ),
    st.integers(16, 200),
    st.integers(1, 60),
    st.floats(0.05, 0.5),
    st.floats(0, 0.4),
)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 80), st.integers(0, 30), specs)
def test_cuts(seed, n_events, n_demographics, data):
    record = made_up_record(seed, n_events, n_demographics)
    bounds, cuts = event_boundaries(record), possible_cuts(record, data)
    known = record.available
    between = {b for b in bounds[:-1] if b >= data.min_context_tokens and known[b] > known[b - 1]}
    assert set(cuts) == between
    if not len(cuts):
        return
    rng = np.random.default_rng(seed)
    example = cut_example(record, rng.choice(cuts), data, rng)
    ids, head = example.token_ids, min(n_demographics, data.max_tokens // 2)
    assert 0 < example.n_context < len(ids) <= data.max_tokens
    # The demographics block leads; the rest is one unbroken stretch of the record.
    assert ids[:head].tolist() == list(range(head))
    body = ids[head:]
    assert (np.diff(body) == 1).all()
    assert body[0] >= n_demographics
    # x ends where an event ends.
    cut = int(ids[example.n_context])
    assert cut in bounds
    assert cut >= data.min_context_tokens
    # y is bounded, and ends with an event unless that one alone is too long.
    longest = data.continuation_fraction[1] * min(data.max_tokens, len(record))
    assert len(ids) - example.n_context <= max(1, longest)
    end = int(ids[-1]) + 1
    assert end in bounds or not ((bounds > cut) & (bounds <= end)).any()
    # Context that would have fitted is not left out, but for less than an event.
    if body[0] > n_demographics:
        lost = len(ids) < data.max_tokens
        assert not lost or body[0] in bounds


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 60), st.integers(0, 10))
def test_boundaries_split_no_event_and_tear_off_no_tag(seed, n_events, n_demographics):
    record = made_up_record(seed, n_events, n_demographics)
    event, time = record.event_index, record.available
    for p in event_boundaries(record)[:-1]:
        assert p > n_demographics
        assert event[p] < 0 or event[p] != event[p - 1]
        assert time[p] != time[p - 1] or (event[p] >= 0 and event[p - 1] >= 0)
    assert event_boundaries(record)[-1] == len(record)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> TokenCorpus:
    subjects = {"train": 9, "tuning": 2, "held_out": 3}
    return TokenCorpus(write_corpus(tmp_path_factory.mktemp("corpus"), subjects))


def test_examples_are_a_function_of_seed_epoch_subject_and_k(corpus):
    one, two = (Examples(corpus, "train", DATA, 2) for _ in range(2))
    first = ExampleId("train", 3, 1, 0)
    a, b = one.example(first), two.example(first)
    assert a.token_ids.tolist() == b.token_ids.tolist()
    assert a.n_context == b.n_context
    other_seed = Examples(corpus, "train", DATA.model_copy(update={"seed": 5}), 2)
    changed = [ExampleId("train", 3, 2, 0), ExampleId("train", 3, 1, 1), ExampleId("train", 4, 1, 0)]
    others = [*(one.example(which) for which in changed), other_seed.example(first)]
    assert sum(o.token_ids.tolist() != a.token_ids.tolist() for o in others) >= 3


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_a_step_out(corpus, world):
    examples = Examples(corpus, "train", DATA, 2)
    for s in range(1, 4):
        shares = [examples.share(s, 6, rank, world) for rank in range(world)]
        assert {len(share) for share in shares} == {6 // world}
        assert sorted(str(w) for share in shares for w in share) == sorted(map(str, examples.step(s, 6)))


def test_an_epoch_draws_every_example_and_fills_the_last_step_up(corpus):
    examples = Examples(corpus, "train", DATA, 2)
    assert examples.steps_per_epoch(4) == 5
    steps = [examples.step(s, 4) for s in range(1, 11)]
    assert [len(step) for step in steps] == [4] * 10
    for epoch, of_epoch in ((FIRST_EPOCH, steps[:5]), (FIRST_EPOCH + 1, steps[5:])):
        drawn = [which for step in of_epoch for which in step]
        everything = {ExampleId("train", row, epoch, k) for row in range(9) for k in range(2)}
        assert set(drawn) == everything
        assert len(drawn) == 20
    assert steps[0] != [ExampleId("train", w.row, 1, w.k) for w in steps[5]]


def test_what_is_hidden_changes_nothing_about_the_cut(corpus):
    examples, which = Examples(corpus, "train", DATA, 2), ExampleId("train", 3, 1, 0)
    bare, hidden = examples.example(which), examples.example(which, JepaSpec())
    assert bare.hidden is None
    assert hidden.token_ids.tolist() == bare.token_ids.tolist()
    assert hidden.hidden is not None
    assert hidden.hidden.sum() == max(1, round(0.5 * bare.n_continuation))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.01, 1.0), st.sampled_from(["token", "event"]))
def test_so_much_is_hidden_and_events_are_hidden_whole(seed, ratio, unit):
    rng = np.random.default_rng(seed)
    event = np.repeat(np.arange(12), rng.integers(1, 5, 12)).astype(np.int32)
    example = Example(np.arange(len(event)), int(rng.integers(1, len(event))), event)
    hidden = with_hidden(example, JepaSpec(mask_ratio=ratio, mask_unit=unit), rng).hidden
    assert hidden is not None
    wanted = max(1, round(ratio * example.n_continuation))
    if unit == "token":
        assert hidden.sum() == wanted
        return
    y = event[example.n_context :]
    sizes = [int((y == e).sum()) for e in np.unique(y)]
    assert wanted <= hidden.sum() < wanted + max(sizes)
    assert all(len(set(hidden[y == e])) == 1 for e in np.unique(y))


def test_records_are_cut_at_their_decision_nodes(corpus):
    """What is known at the node is the context, what becomes known later the continuation."""
    records = list(corpus.subjects("train"))
    before = np.datetime64("2000-01-01", "us")  # nothing known
    at = {r.subject_id: r.available[r.n_demographics + 20] for r in records}
    rows = [(s, time) for s, t in at.items() for time in (t, before)]
    frame = pl.DataFrame({"subject_id": [s for s, _ in rows], "time": np.array([t for _, t in rows])})
    nodes = NodeTimes({"made_up": frame})
    data = DATA.model_copy(update={"cuts": CutsSpec(nodes=1.0, boundaries=0.0)})
    examples = Examples(corpus, "train", data, 4, nodes)
    for row, record in enumerate(records):
        node = at[record.subject_id]
        assert node_cuts(record, nodes.of("made_up", record.subject_id), data) == [node]
        cut = record.known(node)
        for k in range(4):
            example = examples.example(ExampleId("train", row, 1, k))
            n = example.n_context
            assert example.token_ids[n - 1] == record.token_ids[cut - 1]
            assert example.token_ids[n:].tolist() == record.token_ids[cut:][: example.n_continuation].tolist()
            assert (record.available[cut:] > node).all()


def test_without_a_usable_node_records_are_cut_at_boundaries(corpus):
    data = DATA.model_copy(update={"cuts": CutsSpec(nodes=1.0, boundaries=0.0)})
    which = ExampleId("train", 0, 1, 0)
    assert Examples(corpus, "train", data, 1).example(which).n_continuation > 0


def test_short_records_are_counted_not_cut(tmp_path):
    corpus = TokenCorpus(write_corpus(tmp_path, {"train": 6}, n_events=1))
    examples = Examples(corpus, "train", DATA, 2)
    assert (len(examples), examples.too_short) == (0, 6)


def test_ids_beyond_the_vocabulary_are_refused(corpus):
    with pytest.raises(TrainingError, match="beyond the tokenizer's 20 tokens"):
        Examples(corpus, "train", DATA, 2, vocab_size=20)


def test_collate_lays_examples_one_behind_the_other(corpus):
    examples = Examples(corpus, "train", DATA, 1)
    for jepa in (None, JepaSpec()):
        some = [examples.example(ExampleId("train", row, 1, 0), jepa) for row in range(4)]
        batch = collate(some)
        assert len(batch) == sum(batch.lengths)
        for i, e in enumerate(some):
            mine, y = batch.example == i, e.token_ids[e.n_context :].tolist()
            want = e.token_ids.tolist() + (y if jepa else [])
            assert batch.token_ids[mine].tolist() == want
            places = list(range(len(e.token_ids)))
            assert batch.position[mine].tolist() == places + (places[e.n_context :] if jepa else [])
            assert batch.part[mine].bincount().tolist() == [e.n_context, len(y), *([len(y)] if jepa else [])]
            if e.hidden is not None:
                assert batch.hidden[mine][-len(y) :].tolist() == e.hidden.tolist()
        assert not batch.hidden[(batch.part != 2)].any()


def test_trained_subjects_follow_the_recipes_length(corpus):
    everyone = [r.subject_id for r in corpus.subjects("train")]
    assert trained_subjects(corpus, RecipeSpec.model_validate(recipe_data())) == {"made_up": everyone}
    short = [{"name": "p", "objectives": {"sft": 1.0}, "steps": 1}]
    few = trained_subjects(corpus, RecipeSpec.model_validate(recipe_data(phases=short)))
    assert set(few["made_up"]) < set(everyone)
    first = Examples(corpus, "train", RecipeSpec.model_validate(recipe_data()).data, 2)
    assert set(few["made_up"]) == {everyone[which.row] for which in first.step(1, 4)}
