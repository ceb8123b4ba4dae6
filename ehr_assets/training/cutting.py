"""Cutting a record into context x and continuation y, and hiding tokens of y.

A record is cut between two moments at which something became known, or at a decision node: into what was
known then, and what became known later. Which cut an example gets is drawn by `examples.py`; what becomes of
it is `models/`' matter.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from ehr_assets.corpora.reader import Record, unrolled
from ehr_assets.training.recipe_parts import DataSpec, JepaSpec

Cut: TypeAlias = int | np.datetime64
"""Where a context ends: a position in the record, or a moment."""


@dataclass(frozen=True)
class ExampleId:
    """Which example it is; tells nothing about the subject without the corpus.

    Attributes:
        split: of the corpus.
        row: the record's position in the split.
        epoch, k: the k-th example of the record in this epoch.
    """

    split: str
    row: int
    epoch: int
    k: int

    def __str__(self) -> str:
        return f"{self.split} record {self.row}, example {self.k} of epoch {self.epoch}"


@dataclass(frozen=True)
class Example:
    """One subject's context followed by its continuation.

    Attributes:
        token_ids: ``[tokens]`` int64: the demographics block, the most recent context, the continuation.
        n_context: how many of them are context (x); the rest is continuation (y), never empty.
        event_index: ``[tokens]`` int32: the event of each token, -1 of tags, gaps and the demographics block.
        hidden: ``[continuation]`` bool: which tokens of y the model does not read in ỹ; None where there is
            no ỹ.
    """

    token_ids: np.ndarray
    n_context: int
    event_index: np.ndarray
    hidden: np.ndarray | None = None

    @property
    def n_continuation(self) -> int:
        return len(self.token_ids) - self.n_context


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


def possible_cuts(record: Record, data: DataSpec) -> np.ndarray:
    """Where the context may end: between two moments at which something became known.

    Positions in the record, or, of a record with versions, the last instants of days.
    """
    if record.until is None:
        cuts = np.flatnonzero(record.available[1:] != record.available[:-1]) + 1
        return cuts[cuts >= max(data.min_context_tokens, record.n_demographics + 1)]
    last = np.isnat(record.until)
    last[: record.n_demographics] = False
    days = np.unique(record.token_time[last].astype("datetime64[D]"))
    ends = (days + 1).astype("datetime64[us]") - np.timedelta64(1, "us")
    # NaT is the smallest number, so it counts as known; as an end it is never reached.
    known = np.searchsorted(np.sort(record.available.astype(np.int64)), ends.astype(np.int64), "right")
    replaced = np.sort(record.until[~np.isnat(record.until)].astype(np.int64))
    read = known - np.searchsorted(replaced, ends.astype(np.int64), "right")
    return ends[:-1][read[:-1] >= data.min_context_tokens]


def node_cuts(record: Record, times: Iterable[np.datetime64], data: DataSpec) -> list[np.datetime64]:
    """The prediction times at which enough was known of the subject, and after which something came."""
    return [t for t in times if _split_at(record, t, data) is not None]


def _split_at(record: Record, cut: Cut, data: DataSpec) -> tuple[Record, int] | None:
    """The record as it is read at the cut and goes on from there, and the position of the cut in it."""
    least = data.min_context_tokens
    if record.until is None:
        at = record.known(cut) if isinstance(cut, np.datetime64) else int(cut)
        # Before the first event not even all of the demographics is known (the age is not).
        least = max(least, record.n_demographics + 1)
    else:
        assert isinstance(cut, np.datetime64)
        record, at = unrolled(record, cut)
    return (record, at) if least <= at < len(record) else None


def cut_example(record: Record, cut: Cut, data: DataSpec, rng: np.random.Generator) -> Example:
    """The example with this cut.

    A record with versions of its text (smb) is cut at a moment: the context is the text as it was read then,
    the continuation the dates that came.

    The continuation may take a fraction of the window drawn from `continuation_fraction` and ends with an
    event (a single event longer than that is itself cut). The context keeps the demographics block (half the
    window of it, if it is longer) and, of the rest, the most recent whole events that fit.

    Args:
        cut: one of `possible_cuts` or `node_cuts`.
    """
    found = _split_at(record, cut, data)
    assert found is not None, "not a possible cut"
    record, at = found
    bounds = event_boundaries(record)
    n = len(record)
    head = min(record.n_demographics, max(data.max_tokens // 2, 1))  # as corpora.reader.window cuts it
    room = int(rng.uniform(*data.continuation_fraction) * min(data.max_tokens, n))
    # A token of context beside the demographics at least.
    room = min(max(1, room), data.max_tokens - head - 1)
    ends = bounds[(bounds > at) & (bounds <= at + room)]
    end = int(ends[-1]) if len(ends) else min(at + room, n)

    start = max(record.n_demographics, at - (data.max_tokens - head - (end - at)))
    if start > record.n_demographics:  # begin with a whole event, unless the last one alone is too long
        next_ = int(np.searchsorted(bounds, start))
        if next_ < len(bounds) and bounds[next_] < at:
            start = int(bounds[next_])
    taken = np.r_[:head, start:end]
    return Example(
        record.token_ids[taken].astype(np.int64), head + at - start, record.event_index[taken].copy()
    )


def with_hidden(example: Example, jepa: JepaSpec, rng: np.random.Generator) -> Example:
    """The example with a share of its continuation hidden: `mask_ratio` of the tokens, one at least.

    By events, whole ones (and tags and gaps between them) are hidden until that share is reached.
    """
    m = example.n_continuation
    wanted = max(1, round(jepa.mask_ratio * m))
    hidden = np.zeros(m, bool)
    if jepa.mask_unit == "token":
        hidden[rng.permutation(m)[:wanted]] = True
    else:
        event = example.event_index[example.n_context :]
        unit = np.cumsum(np.r_[0, event[1:] != event[:-1]])
        order = rng.permutation(unit[-1] + 1)
        reached = np.cumsum(np.bincount(unit)[order])
        hidden = np.isin(unit, order[: int(np.searchsorted(reached, wanted)) + 1])
    return replace(example, hidden=hidden)
