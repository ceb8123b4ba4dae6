"""What every serialization gives: records as sequences of text pieces, and how pieces are numbered.

A piece is text that is tokenized by itself, with its event, its time, and when it could be read. The layouts
are `tagged.py` and `smb.py`.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa

from ehr_assets.corpora import phrases

NO_EVENT = -1
NAT = np.datetime64("NaT", "us")


@dataclass(frozen=True)
class Pieces:
    """Serialized records: P pieces of S subjects, subjects ascending.

    Attributes:
        strings: distinct piece texts; the first 16 are `phrases.TAGS`.
        subject_id: int64 [S].
        starts: int64 [S + 1]: the pieces of subject i are starts[i] : starts[i + 1].
        n_demographics: int64 [S]: how many leading pieces are the demographics block.
        events: int64 [S]: rows of each subject.
        piece: int32 [P], positions in `strings`.
        event_index: int32 [P]: the event's row in the subject's availability order; -1 for tags and gaps.
        time: datetime64[us] [P]: the event's time; NaT in the demographics block.
        available: datetime64[us] [P]: when it became known; NaT for what is always known.
        until: datetime64[us] [P]: from when on it is read no more; NaT for never. None for a format whose
            text only ever grows (tagged).
        begins: bool [P]: a window may begin here. None where `until` is.
    """

    strings: list[str]
    subject_id: np.ndarray
    starts: np.ndarray
    n_demographics: np.ndarray
    events: np.ndarray
    piece: np.ndarray
    event_index: np.ndarray
    time: np.ndarray
    available: np.ndarray
    until: np.ndarray | None = None
    begins: np.ndarray | None = None

    def texts(self, t: np.datetime64 | None = None) -> list[str]:
        """The text of each subject's record as it could be read at t (None: in the end)."""
        shown = np.ones(len(self.piece), bool) if t is None else ~(self.available > t)
        if self.until is not None:
            # Tags stand in for an empty text there, which has none.
            shown &= np.isnat(self.until) if t is None else ~(self.until <= t)
            shown &= self.piece >= len(phrases.TAGS)
        ends = np.append(0, np.cumsum(shown))[self.starts].tolist()
        words = pl.Series(self.strings, dtype=pl.String).gather(self.piece[shown]).to_list()
        return ["".join(words[a:b]) for a, b in pairwise(ends)]


def in_availability_order(events: pl.DataFrame) -> pl.DataFrame:
    """Events by subject, available_time (static first), time, then section, code and values.

    `events` must be in the order of a MEDS frame (subject, time, available_time, section, code, values): the
    sort keeps ties as they are, so three integer keys are enough.
    """
    return events.sort("subject_id", "available_time", "time", nulls_last=False, maintain_order=True)


class StringTable:
    """Distinct strings under growing numbers; lists are appended and referred to by their base."""

    def __init__(self) -> None:
        self._parts: list[pl.Series] = []
        self._size = 0
        self.add(phrases.TAGS)

    def add(self, strings: pl.Series | list[str] | tuple[str, ...]) -> int:
        """Appends and returns the number of the first."""
        base = self._size
        self._parts.append(pl.Series("piece", strings, dtype=pl.String))
        self._size += len(self._parts[-1])
        return base

    def used(self, ids: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """`ids` renumbered over the strings that occur (and the tags), without repeats, and those strings."""
        occurs = np.bincount(ids, minlength=self._size) > 0
        occurs[: len(phrases.TAGS)] = True
        kept = np.flatnonzero(occurs)
        strings = pl.concat(self._parts).gather(kept)
        # The text of an event may read like a tag; it must not become one, so tags stay apart.
        words, distinct = encoded(strings.slice(len(phrases.TAGS)))
        renumber = np.full(self._size, -1, np.int32)
        renumber[kept[: len(phrases.TAGS)]] = np.arange(len(phrases.TAGS))
        renumber[kept[len(phrases.TAGS) :]] = len(phrases.TAGS) + words
        return renumber[ids], [*phrases.TAGS, *distinct.to_list()]


def encoded(values: pl.Series | np.ndarray) -> tuple[np.ndarray, pl.Series]:
    """int32 positions in the distinct values, and these, in order of first appearance."""
    if isinstance(values, np.ndarray):
        array = pa.array(values)
    else:
        array = values.to_arrow(compat_level=pl.CompatLevel.oldest())
    encoded = array.dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    distinct = pl.Series("", pl.from_arrow(encoded.dictionary))
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32), distinct
