"""Reading a token corpus: memory-mapped records, and the window of a record that a model may see at t.

What is known at t is one rule, here and nowhere else: a token counts when its `available` is NaT (always
known) or <= t. The timed tokens are in that order, so the known ones are a prefix of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from ehr_assets.contracts import SPLITS
from ehr_assets.corpora.tokenizer import PieceTokenizer
from ehr_assets.errors import DatasetError

Instant: TypeAlias = datetime | np.datetime64[Any]

_NAT = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Record:
    """One subject's tokens (T of them), views into the mapped file.

    Attributes:
        cohort, subject_id: whose they are.
        n_demographics: how many leading tokens are the demographics block.
        token_ids: int32 [T].
        token_time: datetime64[us] [T], NaT in the demographics block.
        available: datetime64[us] [T], NaT for what is always known (of the demographics block, all but the
            age, which is known from the first event on).
        event_index: int32 [T], -1 for tags and gaps.
    """

    cohort: str
    subject_id: int
    n_demographics: int
    token_ids: np.ndarray
    token_time: np.ndarray
    available: np.ndarray
    event_index: np.ndarray

    def __len__(self) -> int:
        return len(self.token_ids)

    def known(self, t: Instant) -> int:
        """The end of the timed tokens known at t: token_ids[n_demographics : known(t)]."""
        body = self.available[self.n_demographics :]
        return self.n_demographics + int(np.searchsorted(body, _instant(t), side="right"))


def known_demographics(record: Record, t: Instant) -> np.ndarray:
    """Positions (int64) of the demographics tokens known at t: all but, before the first event, the age."""
    available = record.available[: record.n_demographics].astype(np.int64)
    limit = _instant(t).astype(np.int64)
    return np.flatnonzero((available == _NAT) | (available <= limit))


def window(record: Record, t: Instant, max_tokens: int) -> np.ndarray:
    """Positions (int64, ascending) of the tokens a model reads at t, at most `max_tokens` of them.

    The demographics block, then the most recent tokens known at t that fit, from the beginning of an event
    on (unless the last event alone is too long). A demographics block longer than half of `max_tokens` is
    cut to that half, so that there is always room for events.

    Args:
        record: the subject's tokens.
        t: the prediction time.
        max_tokens: at least 2.
    """
    head = known_demographics(record, t)[: max_tokens // 2]
    end = record.known(t)
    start = max(record.n_demographics, end - (max_tokens - len(head)))
    if start > record.n_demographics:
        start = _next_event(record, start, end)
    return np.concatenate([head, np.arange(start, end)])


def _next_event(record: Record, start: int, end: int) -> int:
    """The first position from `start` on that tears no event, tag or gap; `start` if there is none."""
    event, known = record.event_index[start - 1 : end], record.available[start - 1 : end]
    another = (event[1:] != event[:-1]) & (event[1:] >= 0) & (event[:-1] >= 0)
    whole = np.flatnonzero(another | (known[1:] != known[:-1]))
    return start + int(whole[0]) if len(whole) else start


def text_until(tokenizer_dir: Path, record: Record, t: Instant, max_tokens: int | None = None) -> str:
    """What a model with a context of `max_tokens` (None: unlimited) would read of `record` at t."""
    shown = window(record, t, max_tokens or 2 * len(record))
    return PieceTokenizer(tokenizer_dir).decode(record.token_ids[shown])


class TokenCorpus:
    """A token corpus on disk, memory-mapped.

    Args:
        path: the directory `write_corpus` filled.

    Raises:
        DatasetError: a file is missing or is not Arrow IPC.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._batches: dict[str, list[pa.RecordBatch]] = {}
        for split in SPLITS:
            file = self.path / f"{split}.arrow"
            try:
                reader = pa.ipc.open_file(pa.memory_map(str(file), "r"))
                self._batches[split] = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            except (OSError, pa.ArrowInvalid) as e:
                raise DatasetError(
                    f"The token corpus cannot be read: {type(e).__name__}.",
                    where=str(file),
                    do="Materialize the token corpus again.",
                ) from e

    def __len__(self) -> int:
        return sum(self.count(split) for split in SPLITS)

    def count(self, split: str) -> int:
        """Subjects in a split."""
        return sum(batch.num_rows for batch in self._batches[split])

    def lengths(self, split: str) -> np.ndarray:
        """Tokens per subject of a split, int64, in the order of `record`."""
        parts = [np.diff(b.column("token_ids").offsets.to_numpy()) for b in self._batches[split]]
        return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)

    def record(self, split: str, row: int) -> Record:
        """The row-th subject of a split."""
        ends = self._ends[split]
        if not 0 <= row < (ends[-1] if len(ends) else 0):
            raise IndexError(f"row {row} of split '{split}', which has {self.count(split)}")
        batch = int(np.searchsorted(ends, row, side="right"))
        first = int(ends[batch - 1]) if batch else 0
        return _record(self._batches[split][batch], row - first)

    def subjects(self, split: str) -> Iterator[Record]:
        """All records of a split, in file order."""
        for batch in self._batches[split]:
            for i in range(batch.num_rows):
                yield _record(batch, i)

    def find(self, cohort: str, subject_id: int) -> Record | None:
        """A subject's record, whatever its split."""
        at = self._index.get((cohort, int(subject_id)))
        return None if at is None else self.record(*at)

    def split_of(self, cohort: str, subject_id: int) -> str | None:
        """The split a subject is in."""
        at = self._index.get((cohort, int(subject_id)))
        return None if at is None else at[0]

    @cached_property
    def _ends(self) -> dict[str, np.ndarray]:
        return {s: np.cumsum([b.num_rows for b in batches]) for s, batches in self._batches.items()}

    @cached_property
    def _index(self) -> dict[tuple[str, int], tuple[str, int]]:
        index: dict[tuple[str, int], tuple[str, int]] = {}
        for split, batches in self._batches.items():
            row = 0
            for batch in batches:
                ids = batch.column("subject_id").to_pylist()
                for cohort, subject_id in zip(batch.column("cohort").to_pylist(), ids, strict=True):
                    index[(cohort, subject_id)] = (split, row)
                    row += 1
        return index


def _instant(t: Instant) -> np.datetime64:
    return np.asarray(t, "datetime64[us]").reshape(1)[0]


def _record(batch: pa.RecordBatch, i: int) -> Record:
    return Record(
        cohort=batch.column("cohort")[i].as_py(),
        subject_id=batch.column("subject_id")[i].as_py(),
        n_demographics=batch.column("n_demographics")[i].as_py(),
        token_ids=_values(batch, "token_ids", i),
        token_time=_values(batch, "token_time", i),
        available=_values(batch, "token_available_time", i),
        event_index=_values(batch, "event_index", i),
    )


def _values(batch: pa.RecordBatch, name: str, i: int) -> np.ndarray:
    lists = batch.column(name)
    start, end = lists.offsets[i].as_py(), lists.offsets[i + 1].as_py()
    return lists.values.slice(start, end - start).to_numpy(zero_copy_only=False)
