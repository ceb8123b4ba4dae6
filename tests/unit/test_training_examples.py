"""How records are cut into context and continuation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_helpers import recipe_data, record_columns, write_corpus

from ehr_assets.corpora.reader import Record, TokenCorpus
from ehr_assets.errors import TrainingError
from ehr_assets.training.examples import (
    FIRST_EPOCH,
    Example,
    Examples,
    collate,
    cut_example,
    event_boundaries,
    trained_subjects,
)
from ehr_assets.training.recipe import DataSpec, RecipeSpec

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
    example = cut_example(record, data, np.random.default_rng(seed))
    bounds = event_boundaries(record)
    if example is None:
        assert not ((bounds >= data.min_context_tokens) & (bounds < len(record))).any()
        return
    ids, head = example.token_ids, min(n_demographics, data.max_tokens // 2)
    assert 0 < example.n_context < len(ids) <= data.max_tokens
    # The demographics block leads; the rest is one unbroken stretch of the record.
    assert ids[:head].tolist() == list(range(head))
    body = ids[head:]
    assert (np.diff(body) == 1).all()
    assert body[0] >= n_demographics
    # x ends where an event ends, and nothing known earlier than its end comes after it.
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
    a, b = one.example(3, 1, 0), two.example(3, 1, 0)
    assert a.token_ids.tolist() == b.token_ids.tolist()
    assert a.n_context == b.n_context
    other_seed = Examples(corpus, "train", DATA.model_copy(update={"seed": 5}), 2)
    others = [one.example(3, 2, 0), one.example(3, 1, 1), one.example(4, 1, 0), other_seed.example(3, 1, 0)]
    assert sum(o.token_ids.tolist() != a.token_ids.tolist() for o in others) >= 3


@pytest.mark.parametrize(("world", "micro"), [(1, 6), (1, 2), (2, 3), (3, 1)])
def test_ranks_and_micro_batches_share_a_step_out(corpus, world, micro):
    examples = Examples(corpus, "train", DATA, 2)
    steps = list(examples.steps(FIRST_EPOCH, 6))
    assert len(steps) == 3
    for step in steps:
        shares = [share for rank in range(world) for share in step.share(micro, rank, world)]
        assert {len(share) for share in shares} == {micro}, "the mean of their means is the step's mean"
        assert sorted(key(e) for share in shares for e in share) == sorted(map(key, step.examples))


def test_an_epoch_draws_every_example_and_fills_the_last_step_up(corpus):
    examples = Examples(corpus, "train", DATA, 2)
    steps = list(examples.steps(FIRST_EPOCH, 4))
    assert [len(step.examples) for step in steps] == [4] * 5
    drawn = {key(e) for step in steps for e in step.examples}
    assert drawn == {key(examples.example(row, FIRST_EPOCH, k)) for row in range(9) for k in range(2)}
    assert sum(step.tokens for step in steps) > sum(n for step in steps for n, *_ in map(key, step.examples))


def key(example: Example) -> tuple[int, ...]:
    return (example.n_context, *example.token_ids.tolist())


def test_short_records_are_counted_not_cut(tmp_path):
    corpus = TokenCorpus(write_corpus(tmp_path, {"train": 6}, n_events=1))
    examples = Examples(corpus, "train", DATA, 2)
    assert (len(examples), examples.too_short) == (0, 6)


def test_ids_beyond_the_vocabulary_are_refused(corpus):
    with pytest.raises(TrainingError, match="beyond the tokenizer's 20 tokens"):
        Examples(corpus, "train", DATA, 2, vocab_size=20)


def test_collate_pads_on_the_right_and_marks_y(corpus):
    examples = Examples(corpus, "train", DATA, 1)
    some = [examples.example(row, 1, 0) for row in range(4)]
    batch = collate(some, pad=0)
    for i, e in enumerate(some):
        n = len(e.token_ids)
        assert batch.input_ids[i, :n].tolist() == e.token_ids.tolist()
        assert batch.real[i].tolist() == [True] * n + [False] * (batch.input_ids.shape[1] - n)
        assert batch.continuation[i].nonzero().flatten().tolist() == list(range(e.n_context, n))


def test_trained_subjects_follow_the_recipes_length(corpus):
    everyone = [r.subject_id for r in corpus.subjects("train")]
    assert trained_subjects(corpus, RecipeSpec.model_validate(recipe_data())) == everyone
    short = [{"name": "p", "objectives": {"sft": 1.0}, "steps": 1}]
    few = trained_subjects(corpus, RecipeSpec.model_validate(recipe_data(phases=short)))
    assert set(few) < set(everyone)
    first = Examples(corpus, "train", RecipeSpec.model_validate(recipe_data()).data, 2)
    assert set(few) == {everyone[row] for row in next(first.steps(FIRST_EPOCH, 4)).rows}
