"""Training examples: a subject's tokens cut into context x and continuation y at event boundaries.

Nothing is drawn ahead of time: example k of a subject in an epoch is a pure function of (seed, epoch,
subject, k), so any rank can make any example, and a run can be taken up anywhere. What becomes of an example
is `models/objectives.py`'s matter.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ehr_assets.corpora.reader import Record, TokenCorpus, unrolled
from ehr_assets.errors import TrainingError
from ehr_assets.models.objectives import Batch
from ehr_assets.training.recipe import DataSpec, RecipeSpec

TUNING_EPOCH = 0
"""The tuning loss is always taken on the same examples, whatever the epoch."""

FIRST_EPOCH = 1
POOL_STEPS = 16
"""Steps whose examples are sorted by length together: enough to spare most padding, few enough to mix."""


@dataclass(frozen=True)
class Example:
    """One subject's context followed by its continuation.

    Attributes:
        token_ids: ``[tokens]`` int64: the demographics block, the most recent context, the continuation.
        n_context: how many of them are context (x); the rest is continuation (y), never empty.
    """

    token_ids: np.ndarray
    n_context: int


def event_boundaries(record: Record) -> np.ndarray:
    """Positions p, in increasing order, such that cutting the tokens before p splits no event.

    A cut may fall where the availability time changes, or, within one moment, between two neighbouring tokens
    of different events. Section tags and time gaps (event index -1) are thus never torn from their events.
    The record's end is a boundary; the demographics block and its front edge hold none.
    """
    if record.begins is not None:  # the text of a record with versions: its lines
        begins = np.flatnonzero(record.begins)
        return np.append(begins[begins > record.n_demographics], len(record))
    event, time = record.event_index, record.available
    new_time = time[1:] != time[:-1]
    new_event = (event[1:] != event[:-1]) & (event[1:] >= 0) & (event[:-1] >= 0)
    cuts = np.flatnonzero(new_time | new_event) + 1
    return np.append(cuts[cuts > record.n_demographics], len(event))


def cut_example(record: Record, data: DataSpec, rng: np.random.Generator) -> Example | None:
    """Cuts one example at a random event boundary; None when the record is too short for one.

    A record with versions of its text (smb) is cut at the end of a random day: the context is the text as it
    was read then, the continuation the dates that came.

    The cut is uniform over the boundaries that leave `min_context_tokens` before them and one event after.
    The continuation may take a fraction of the window drawn from `continuation_fraction` and ends with an
    event (a single event longer than that is itself cut). The context keeps the demographics block (half the
    window of it, if it is longer) and, of the rest, the most recent whole events that fit.
    """
    cuts = possible_cuts(record, data)
    if not len(cuts):
        return None
    cut = rng.choice(cuts)
    if record.until is not None:
        record, cut = unrolled(record, cut)
    cut = int(cut)
    bounds = event_boundaries(record)
    n = len(record)
    head = min(record.n_demographics, max(data.max_tokens // 2, 1))  # as corpora.reader.window cuts it
    room = int(rng.uniform(*data.continuation_fraction) * min(data.max_tokens, n))
    room = min(
        max(1, room), data.max_tokens - head - 1
    )  # a token of context beside the demographics at least
    ends = bounds[(bounds > cut) & (bounds <= cut + room)]
    end = int(ends[-1]) if len(ends) else min(cut + room, n)

    start = max(record.n_demographics, cut - (data.max_tokens - head - (end - cut)))
    if start > record.n_demographics:  # begin with a whole event, unless the last one alone is too long
        i = int(np.searchsorted(bounds, start))
        start = int(bounds[i]) if i < len(bounds) and bounds[i] < cut else start
    tokens = np.concatenate([record.token_ids[:head], record.token_ids[start:end]]).astype(np.int64)
    return Example(tokens, n_context=head + cut - start)


def possible_cuts(record: Record, data: DataSpec) -> np.ndarray:
    """Where the context may end: boundaries, or, of a record with versions, the last instants of days."""
    if record.until is None:
        bounds = event_boundaries(record)
        return bounds[(bounds >= data.min_context_tokens) & (bounds < len(record))]
    last = np.isnat(record.until)
    last[: record.n_demographics] = False
    days = np.unique(record.token_time[last].astype("datetime64[D]"))
    ends = (days + 1).astype("datetime64[us]") - np.timedelta64(1, "us")
    # NaT is the smallest number, so it counts as known; as an end it is never reached.
    known = np.searchsorted(np.sort(record.available.astype(np.int64)), ends.astype(np.int64), "right")
    replaced = np.sort(record.until[~np.isnat(record.until)].astype(np.int64))
    read = known - np.searchsorted(replaced, ends.astype(np.int64), "right")
    return ends[:-1][read[:-1] >= data.min_context_tokens]


class Examples:
    """The examples of one split, spread over ranks.

    Args:
        corpus, split: whose records.
        data: how to cut them.
        per_subject: examples a subject gives per epoch.
        vocab_size: token ids must lie below it.

    Attributes:
        rows: the records that are long enough, as positions in the split.
        too_short: how many are not.

    Raises:
        TrainingError: when a token id lies outside the vocabulary.
    """

    def __init__(
        self, corpus: TokenCorpus, split: str, data: DataSpec, per_subject: int, vocab_size: int = 2**31
    ) -> None:
        self.corpus, self.split, self.data, self.per_subject = corpus, split, data, per_subject
        self.rows: list[int] = []
        for row, record in enumerate(corpus.subjects(split)):
            if len(record) and int(record.token_ids.max()) >= vocab_size:
                raise TrainingError(
                    f"The token corpus uses ids beyond the tokenizer's {vocab_size} tokens.",
                    where=f"split {split}",
                    do="Materialize tokenizer and token corpus again: they do not belong together.",
                )
            if len(possible_cuts(record, data)):
                self.rows.append(row)
        self.too_short = corpus.count(split) - len(self.rows)

    def __len__(self) -> int:
        """Examples per epoch."""
        return len(self.rows) * self.per_subject

    def subject_ids(self, rows: Iterable[int]) -> list[int]:
        return [self.corpus.record(self.split, row).subject_id for row in rows]

    def example(self, row: int, epoch: int, k: int) -> Example:
        """Example `k` of a subject in an epoch."""
        record = self.corpus.record(self.split, row)
        subject = record.subject_id % 2**64  # seeds cannot be negative, ids can
        example = cut_example(record, self.data, np.random.default_rng([self.data.seed, epoch, subject, k]))
        assert example is not None, "rows holds only records that can be cut"
        return example

    def order(self, epoch: int) -> np.ndarray:
        """``[examples, 2]`` of (row, k): the epoch's shuffled order, the same on every rank."""
        pairs = np.array([(row, k) for row in self.rows for k in range(self.per_subject)])
        return np.random.default_rng([self.data.seed, epoch]).permutation(pairs)

    def steps(self, epoch: int, size: int) -> Iterator["Step"]:
        """An epoch in optimizer steps of `size` examples, the same on every rank; the last filled up.

        Within pools of a few steps, examples of like length go together, which spares padding (a fifth of
        the demo's tokens). How a step is shared out over ranks and micro-batches changes nothing about it.
        """
        order = self.order(epoch)
        order = np.resize(order, (math.ceil(len(order) / size) * size, 2))
        shuffle = np.random.default_rng([self.data.seed, epoch, 1])
        for start in range(0, len(order), POOL_STEPS * size):
            pairs = order[start : start + POOL_STEPS * size].tolist()
            pool = [(row, self.example(row, epoch, k)) for row, k in pairs]
            pool.sort(key=lambda drawn: len(drawn[1].token_ids))
            for step in shuffle.permutation(len(pool) // size):
                rows, examples = zip(*pool[step * size : (step + 1) * size], strict=True)
                yield Step(rows, examples)


@dataclass(frozen=True)
class Step:
    """The examples of one optimizer step on all ranks, with the rows they come from."""

    rows: Sequence[int]
    examples: Sequence[Example]

    @property
    def tokens(self) -> int:
        return sum(len(e.token_ids) for e in self.examples)

    def share(self, micro_batch: int, rank: int, world: int) -> Iterator[Sequence[Example]]:
        """A rank's micro-batches, all of equal size when a step has a whole number of them per rank."""
        mine = self.examples[rank::world]
        for start in range(0, len(mine), micro_batch):
            yield mine[start : start + micro_batch]


def trained_subjects(corpus: TokenCorpus, recipe: RecipeSpec) -> list[int]:
    """The train subjects, ascending, that a run of the recipe on this corpus trains on.

    Worked out from corpus and recipe alone, to be held against a checkpoint's `fitted_on.json`. Subjects
    whose record is too short to be cut are not among them.
    """
    examples = Examples(corpus, "train", recipe.data, recipe.data.examples_per_subject)
    size = recipe.engine.examples_per_step
    steps = sum(phase.length(len(examples), size) for phase in recipe.phases)
    rows: set[int] = set()
    for epoch in itertools.count(FIRST_EPOCH):
        if steps <= 0 or len(rows) == len(examples.rows):
            break
        for step in itertools.islice(examples.steps(epoch, size), steps):
            rows.update(step.rows)
            steps -= 1
    return sorted(set(examples.subject_ids(rows)))


def collate(examples: Sequence[Example], pad: int) -> Batch:
    """Right-pads examples to the longest of them.

    Returns:
        A `Batch` of ``[len(examples), longest]`` tensors.
    """
    longest = max(len(e.token_ids) for e in examples)
    input_ids = torch.full((len(examples), longest), pad, dtype=torch.int64)
    real, continuation = (torch.zeros_like(input_ids, dtype=torch.bool) for _ in range(2))
    for i, e in enumerate(examples):
        n = len(e.token_ids)
        input_ids[i, :n] = torch.from_numpy(e.token_ids)
        real[i, :n] = True
        continuation[i, e.n_context : n] = True
    return Batch(input_ids, real, continuation)
