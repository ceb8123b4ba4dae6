"""Which records of a corpus can be cut into context and continuation: all records at once.

What a cut is, is `cutting.py`'s; here is only the question whether a record has one, without reading it token
by token where that can be avoided. A test holds it against `cutting.possible_cuts`.
"""

import numpy as np
import pyarrow as pa

from ehr_assets.corpora.reader import TokenCorpus
from ehr_assets.training.cutting import possible_cuts
from ehr_assets.training.recipe_parts import DataSpec

_DAY = 86_400_000_000
_NEVER = np.iinfo(np.int64).min
"""NaT as a number."""


def eligible_rows(corpus: TokenCorpus, split: str, data: DataSpec) -> np.ndarray:
    """int64, ascending: the records of a split, by position, that `possible_cuts` can cut."""
    found, first = [np.zeros(0, np.int64)], 0
    for batch in corpus.batches(split):
        versions = "token_until_time" in batch.schema.names
        can = _with_versions(corpus, split, first, batch, data) if versions else _growing(batch, data)
        found.append(first + np.flatnonzero(can))
        first += batch.num_rows
    return np.concatenate(found)


def _growing(batch: pa.RecordBatch, data: DataSpec) -> np.ndarray:
    """bool ``[records]``, of a text that only grows.

    Its tokens stand in the order of availability, so something came after the first possible cut exactly
    where the last token became known later than the one before that cut: two tokens of a record are read.
    """
    starts, length = _extents(batch)
    before_cut = np.maximum(batch.column("n_demographics").to_numpy() + 1, data.min_context_tokens) - 1
    can = before_cut + 1 < length
    available = batch.column("token_available_time").values
    known = _at(available, starts[can] + before_cut[can])
    last = _at(available, starts[can] + length[can] - 1)
    can[can] = last > known
    return can


def _with_versions(
    corpus: TokenCorpus, split: str, first: int, batch: pa.RecordBatch, data: DataSpec
) -> np.ndarray:
    """bool ``[records]``, of a text whose former versions are kept.

    At the end of the last day but one nearly every record has been read long enough; the few that had not
    are looked at one by one.
    """
    starts, length = _extents(batch)
    inside = np.arange(int(length.sum())) - np.repeat(np.cumsum(length) - length, length)
    here = slice(int(starts[0]), int(starts[0] + length.sum())) if len(starts) else slice(0)
    time, available, until = (
        _numbers(batch.column(name).values[here])
        for name in ("token_time", "token_available_time", "token_until_time")
    )
    n_demographics = np.repeat(batch.column("n_demographics").to_numpy(), length)
    day = np.where((until == _NEVER) & (inside >= n_demographics), time // _DAY, _NEVER)
    last = np.repeat(_by_record(np.maximum, day, length, _NEVER), length)
    day_before = _by_record(np.maximum, np.where(day < last, day, _NEVER), length, _NEVER)
    end = np.repeat((np.where(day_before == _NEVER, 0, day_before) + 1) * _DAY - 1, length)
    shown = (available <= end) & ((until == _NEVER) | (until > end))  # NaT, the smallest, counts as known
    read = _by_record(np.add, shown.astype(np.int64), length, 0)
    can = (day_before != _NEVER) & (read >= data.min_context_tokens)
    for i in np.flatnonzero((day_before != _NEVER) & ~can):
        can[i] = len(possible_cuts(corpus.record(split, first + int(i)), data)) > 0
    return can


def _extents(batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    """Where each record's tokens begin among the batch's, and how many they are."""
    offsets = batch.column("token_ids").offsets.to_numpy().astype(np.int64)
    return offsets[:-1], np.diff(offsets)


def _at(values: pa.Array, places: np.ndarray) -> np.ndarray:
    return _numbers(values.take(pa.array(places)))


def _numbers(times: pa.Array) -> np.ndarray:
    """int64 microseconds; `_NEVER` for null."""
    return times.to_numpy(zero_copy_only=False).astype("datetime64[us]").astype(np.int64)


def _by_record(reduce: np.ufunc, values: np.ndarray, length: np.ndarray, empty: int) -> np.ndarray:
    """The values of each record, reduced; `empty` for a record without tokens."""
    out = np.full(len(length), empty, np.int64)
    some = length > 0
    if some.any():
        out[some] = reduce.reduceat(values, (np.cumsum(length) - length)[some])
    return out
