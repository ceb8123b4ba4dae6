"""The training examples of a split, and which of them every optimizer step takes.

Nothing is drawn ahead of time: example k of a subject in an epoch is a pure function of (seed, epoch,
subject, k), and the examples of step s are one of (seed, s). So any process can make any example, and a
training can be taken up at any step.
"""

import functools
import math
from collections.abc import Iterable

import numpy as np

from ehr_assets.corpora.reader import TokenCorpus
from ehr_assets.errors import TrainingError
from ehr_assets.training.cutting import (
    Example,
    ExampleId,
    cut_example,
    node_cuts,
    possible_cuts,
    with_hidden,
)
from ehr_assets.training.eligible import eligible_rows
from ehr_assets.training.node_times import NEVER, NodeTimes
from ehr_assets.training.recipe import RecipeSpec
from ehr_assets.training.recipe_parts import DataSpec, JepaSpec

TUNING_EPOCH = 0
"""The tuning loss is always taken on the same examples, whatever the epoch."""

FIRST_EPOCH = 1


class Examples:
    """The examples of one split.

    Args:
        corpus, split: whose records.
        data: how to cut them.
        per_subject: examples a subject gives per epoch.
        nodes: decision nodes; needed where `data.cuts` asks for them.
        vocab_size: of the tokenizer; the corpus' must not be larger.

    Attributes:
        rows: the records that are long enough, as positions in the split, ascending.
        too_short: how many are not.

    Raises:
        TrainingError: when token ids may lie outside the vocabulary.
    """

    def __init__(
        self,
        corpus: TokenCorpus,
        split: str,
        data: DataSpec,
        per_subject: int,
        nodes: NodeTimes | None = None,
        vocab_size: int = 2**31,
    ) -> None:
        self.corpus, self.split, self.data, self.per_subject = corpus, split, data, per_subject
        if corpus.vocabulary > vocab_size:
            raise TrainingError(
                f"The token corpus uses ids beyond the tokenizer's {vocab_size} tokens.",
                where=f"split {split}",
                do="Materialize tokenizer and token corpus again: they do not belong together.",
            )
        self._nodes = nodes
        self._lengths = corpus.lengths(split)
        self._rows = eligible_rows(corpus, split, data)
        self.rows: list[int] = self._rows.tolist()
        self.too_short = corpus.count(split) - len(self.rows)

    def __len__(self) -> int:
        """Examples per epoch."""
        return len(self.rows) * self.per_subject

    def subject_ids(self, rows: Iterable[int]) -> dict[str, list[int]]:
        """Cohort → the subjects of these records, ascending, each once."""
        found = self.corpus.subject_ids(self.split, np.fromiter(rows, np.int64))
        return {cohort: ids.tolist() for cohort, ids in found.items()}

    def example(self, which: ExampleId, jepa: JepaSpec | None = None) -> Example:
        """The example of this id; with `jepa`, with hidden tokens."""
        record = self.corpus.record(self.split, which.row)
        subject = record.subject_id % 2**64  # seeds cannot be negative, ids can
        rng = np.random.default_rng([self.data.seed, which.epoch, subject, which.k])
        at_node = rng.random() < self.data.cuts.nodes
        times = self._nodes.of(record.cohort, record.subject_id) if self._nodes and at_node else NEVER
        cuts = node_cuts(record, times, self.data) or possible_cuts(record, self.data)
        example = cut_example(record, cuts[rng.integers(len(cuts))], self.data, rng)
        # Drawn last: what is hidden changes nothing about how records are cut.
        return with_hidden(example, jepa, rng) if jepa else example

    def steps_per_epoch(self, batch: int) -> int:
        return math.ceil(len(self) / batch)

    def step(self, s: int, batch: int) -> list[ExampleId]:
        """The examples of optimizer step `s` (from 1), long records first; an epoch's last step is filled up
        with the epoch's first examples."""
        epoch, i = divmod(s - 1, self.steps_per_epoch(batch))
        order = self.order(FIRST_EPOCH + epoch)
        chosen = np.take(order, range(i * batch, (i + 1) * batch), axis=0, mode="wrap").tolist()
        chosen.sort(key=lambda pair: (-self._lengths[pair[0]], pair))
        return [ExampleId(self.split, row, FIRST_EPOCH + epoch, k) for row, k in chosen]

    def share(self, s: int, batch: int, rank: int, world: int) -> list[ExampleId]:
        """Those of step `s` that fall to a process: as many to each, and about as many tokens."""
        return self.step(s, batch)[rank::world]

    @functools.lru_cache(2)  # noqa: B019 (lives as long as the training does)
    def order(self, epoch: int) -> np.ndarray:
        """``[examples, 2]`` of (row, k): the epoch's shuffled order."""
        place = np.random.default_rng([self.data.seed, epoch]).permutation(len(self))
        return np.stack([self._rows[place // self.per_subject], place % self.per_subject], axis=1)


def trained_rows(examples: Examples, steps: int, batch: int) -> list[int]:
    """The records that the first so many steps draw from, ascending: all of them after an epoch."""
    if steps >= examples.steps_per_epoch(batch):
        return examples.rows
    return np.unique(examples.order(FIRST_EPOCH)[: steps * batch, 0]).tolist()


def trained_subjects(corpus: TokenCorpus, recipe: RecipeSpec) -> dict[str, list[int]]:
    """Cohort → the train subjects, ascending, that a run of the recipe on this corpus trains on.

    Worked out from corpus and recipe alone, without cutting an example, to be held against a checkpoint's
    `fitted_on.json`. Subjects whose record is too short to be cut are not among them.
    """
    examples = Examples(corpus, "train", recipe.data, recipe.data.examples_per_subject)
    steps = sum(phase.length(len(examples), recipe.batch) for phase in recipe.phases)
    return examples.subject_ids(trained_rows(examples, steps, recipe.batch))
