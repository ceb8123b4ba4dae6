"""Reading a token corpus: memory-mapped records, and the window of a record that a model may see at t.

What is read at t is one rule, here and nowhere else (`shown_at`): a token counts when its `available` is NaT
(always known) or <= t, and its `until`, where the format has one, is NaT (never) or > t. In the tagged format
nothing is ever replaced and the timed tokens are in the order of `available`, so what is read is a prefix of
them. In the smb format a record holds every version of its text, and what is read at t is the text at t.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from ehr_assets.contracts import SPLITS
from ehr_assets.corpora.piece_tokenizer import PieceTokenizer
from ehr_assets.errors import DatasetError

Instant: TypeAlias = datetime | np.datetime64[Any]

END_OF_TIME = np.datetime64("9999-12-31", "us")
"""All of a record is known then."""
STATISTICS = "statistics.json"
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
        event_index: int32 [T], -1 for tags, gaps and date headers.
        until: datetime64[us] [T]: from when on the token is read no more, NaT for never. None for a format
            whose text only grows.
        begins: bool [T]: a window may begin here. None where `until` is.
    """

    cohort: str
    subject_id: int
    n_demographics: int
    token_ids: np.ndarray
    token_time: np.ndarray
    available: np.ndarray
    event_index: np.ndarray
    until: np.ndarray | None = None
    begins: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.token_ids)

    def known(self, t: Instant) -> int:
        """The end of the timed tokens known at t: token_ids[n_demographics : known(t)].

        Of a format whose text only grows.
        """
        assert self.until is None
        body = self.available[self.n_demographics :]
        return self.n_demographics + int(np.searchsorted(body, _instant(t), side="right"))


def shown_at(record: Record, t: Instant) -> np.ndarray:
    """Positions (int64, ascending) of all tokens that are read at t."""
    if record.until is None:
        return np.concatenate(
            [known_demographics(record, t), np.arange(record.n_demographics, record.known(t))]
        )
    # NaT, the smallest number, compares as false both ways: always known, never replaced.
    return np.flatnonzero(~(record.available > _instant(t)) & ~(record.until <= _instant(t)))


def known_demographics(record: Record, t: Instant) -> np.ndarray:
    """Positions (int64) of the demographics tokens known at t: all but, before the first event, the age."""
    available = record.available[: record.n_demographics].astype(np.int64)
    limit = _instant(t).astype(np.int64)
    return np.flatnonzero((available == _NAT) | (available <= limit))


def window(record: Record, t: Instant, max_tokens: int) -> np.ndarray:
    """Positions (int64, ascending) of the tokens a model reads at t, at most `max_tokens` of them.

    The demographics block, then the most recent tokens read at t that fit, from the beginning of an event or
    line on (unless the last one alone is too long). A demographics block longer than half of `max_tokens` is
    cut to that half, so that there is always room for events.

    Args:
        record: the subject's tokens.
        t: the prediction time.
        max_tokens: at least 2.
    """
    shown = shown_at(record, t)
    n_head = int(np.searchsorted(shown, record.n_demographics))
    head, body = shown[: min(n_head, max_tokens // 2)], shown[n_head:]
    start = len(body) - (max_tokens - len(head))
    if start > 0:
        find = event_boundary if record.until is None else _line_boundary
        whole = find(record, body, start)
        body = body[start if whole is None else whole :]
    return np.concatenate([head, body])


def event_boundary(record: Record, body: np.ndarray, start: int) -> int | None:
    """The first place of `body` from `start` (at least 1) on that tears no event, tag or gap; None if there
    is none."""
    around = body[start - 1 :]
    event, known = record.event_index[around], record.available[around]
    another = (event[1:] != event[:-1]) & (event[1:] >= 0) & (event[:-1] >= 0)
    whole = np.flatnonzero(another | (known[1:] != known[:-1]))
    return start + int(whole[0]) if len(whole) else None


def _line_boundary(record: Record, body: np.ndarray, start: int) -> int | None:
    """The first place of `body` from `start` on at which a line or a date begins; None if there is none."""
    assert record.begins is not None
    whole = np.flatnonzero(record.begins[body[start:]])
    return start + int(whole[0]) if len(whole) else None


def unrolled(record: Record, t: Instant) -> tuple[Record, int]:
    """A record with versions as training reads it, cut at the end of a day: the text at t, then what came.

    What came are the dates after that of t as they stand in the end. Rows of the past that became known
    later are in neither part. Each token stands once, so the result has no versions.

    Returns:
        the record, and how many of its tokens are the text at t.
    """
    assert record.until is not None
    assert record.begins is not None
    seen = shown_at(record, t)
    later = np.isnat(record.until) & (record.token_time >= _day_after(t))
    later[: record.n_demographics] = False
    at = np.concatenate([seen, np.flatnonzero(later)])
    text = Record(
        cohort=record.cohort,
        subject_id=record.subject_id,
        n_demographics=int((seen < record.n_demographics).sum()),
        token_ids=record.token_ids[at],
        token_time=record.token_time[at],
        available=record.available[at],
        event_index=record.event_index[at],
        begins=record.begins[at],
    )
    return text, len(seen)


def _day_after(t: Instant) -> np.datetime64:
    return (_instant(t).astype("datetime64[D]") + 1).astype("datetime64[us]")


def text_until(tokenizer_dir: Path, record: Record, t: Instant, max_tokens: int | None = None) -> str:
    """What a model with a context of `max_tokens` (None: unlimited) would read of `record` at t."""
    ids = record.token_ids[window(record, t, max_tokens or 2 * len(record))]
    tokenizer = PieceTokenizer(tokenizer_dir)
    if record.until is not None:  # tags stand for an empty text there, and are no part of one
        ids = ids[~np.isin(ids, tokenizer.tag_ids)]
    return tokenizer.decode(ids)


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
            files = sorted((self.path / split).glob("*.arrow"))
            if not files:
                raise _unreadable(self.path / split, "no Arrow file")
            self._batches[split] = [batch for file in files for batch in _mapped(file)]

    def __len__(self) -> int:
        return sum(self.count(split) for split in SPLITS)

    def count(self, split: str) -> int:
        """Subjects in a split."""
        return sum(batch.num_rows for batch in self._batches[split])

    def batches(self, split: str) -> Sequence[pa.RecordBatch]:
        """The mapped tables, in the order of `record`: for what is asked of all records at once."""
        return self._batches[split]

    def subject_ids(self, split: str, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Cohort → ids (int64, ascending, each once) of a split's subjects, or of those in some rows."""
        batches = self._batches[split]
        if not batches:
            return {}
        cohort = pa.chunked_array([b.column("cohort") for b in batches]).dictionary_encode().combine_chunks()
        ids = np.concatenate([b.column("subject_id").to_numpy() for b in batches])
        code = cohort.indices.to_numpy()
        if rows is not None:
            ids, code = ids[rows], code[rows]
        names = cohort.dictionary.to_pylist()
        return {name: np.unique(ids[code == i]) for i, name in enumerate(names) if (code == i).any()}

    @cached_property
    def vocabulary(self) -> int:
        """Token ids lie below it: the size of the tokenizer that the corpus was written with."""
        said = self.path / STATISTICS
        if said.is_file():
            return int(json.loads(said.read_text(encoding="utf-8"))["vocabulary"])
        ids = [b.column("token_ids").flatten() for batches in self._batches.values() for b in batches]
        return 1 + max((int(i.to_numpy().max()) for i in ids if len(i)), default=-1)

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


def _mapped(file: Path) -> list[pa.RecordBatch]:
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(file), "r"))
        return [reader.get_batch(i) for i in range(reader.num_record_batches)]
    except (OSError, pa.ArrowInvalid) as e:
        raise _unreadable(file, type(e).__name__) from e


def _unreadable(where: Path, why: str) -> DatasetError:
    return DatasetError(
        f"The token corpus cannot be read: {why}.", where=str(where), do="Materialize the token corpus again."
    )


def _instant(t: Instant) -> np.datetime64:
    return np.asarray(t, "datetime64[us]").reshape(1)[0]


def _record(batch: pa.RecordBatch, i: int) -> Record:
    versions = "token_until_time" in batch.schema.names
    return Record(
        cohort=batch.column("cohort")[i].as_py(),
        subject_id=batch.column("subject_id")[i].as_py(),
        n_demographics=batch.column("n_demographics")[i].as_py(),
        token_ids=_values(batch, "token_ids", i),
        token_time=_values(batch, "token_time", i),
        available=_values(batch, "token_available_time", i),
        event_index=_values(batch, "event_index", i),
        until=_values(batch, "token_until_time", i) if versions else None,
        begins=_values(batch, "token_begins", i) if versions else None,
    )


def _values(batch: pa.RecordBatch, name: str, i: int) -> np.ndarray:
    lists = batch.column(name)
    start, end = lists.offsets[i].as_py(), lists.offsets[i + 1].as_py()
    return lists.values.slice(start, end - start).to_numpy(zero_copy_only=False)
