"""Writing a token corpus: `{train,tuning,held_out}/00000.arrow` and so on, and `statistics.json`.

One row per subject; one file per MEDS file, cohorts in the spec's order, subjects in that of the MEDS files.
The files are uncompressed Arrow IPC, so that a reader (`reader.py`) maps them into memory instead of loading
them.
"""

import functools
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from ehr_assets.contracts import SPLITS
from ehr_assets.corpora.piece_tokenizer import PieceTokenizer, PieceTokens
from ehr_assets.corpora.reader import Record
from ehr_assets.corpora.serialize import Pieces, serialize
from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.corpora.statistics import Tally, write_statistics
from ehr_assets.corpora.tokenizer import ALONE, crew_of
from ehr_assets.fanout import Machine
from ehr_assets.meds.reading import count_rows, iter_file, read_codes, split_files
from ehr_assets.progress import Progress, no_progress

SCHEMA = pa.schema(
    [
        pa.field("cohort", pa.string(), nullable=False),
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("n_demographics", pa.int32(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("token_time", pa.list_(pa.timestamp("us")), nullable=False),
        pa.field("token_available_time", pa.list_(pa.timestamp("us")), nullable=False),
        pa.field("event_index", pa.list_(pa.int32()), nullable=False),
    ]
)
VERSIONED_SCHEMA = SCHEMA.append(
    pa.field("token_until_time", pa.list_(pa.timestamp("us")), nullable=False)
).append(pa.field("token_begins", pa.list_(pa.bool_()), nullable=False))
"""Of a format whose text changes behind its end (smb): a token is read while available <= t < until."""


def write_corpus(
    spec: CorpusSpec,
    meds_dirs: Mapping[str, Path],
    tokenizer_dir: Path,
    out_dir: Path,
    progress: Progress = no_progress,
    machine: Machine = ALONE,
) -> dict[str, Any]:
    """Serializes and tokenizes every subject of the spec's cohorts, one MEDS file per task.

    Args:
        spec: the corpus.
        meds_dirs: cohort → meds_events directory, for each of `spec.cohorts`.
        tokenizer_dir: what `train_tokenizer` wrote.
        out_dir: an existing, empty directory; gets the Arrow files (one empty file for a split without
            subjects) and `statistics.json`. Its bytes do not depend on `machine`.
        progress: is told the event rows done.
        machine: how many processes and how much memory may be used.

    Returns:
        counts over all splits: subjects, events, tokens (of the texts in the end), stored_tokens (of all
        versions of them), unknown_tokens, truncated_subjects (longer than context_tokens); and
        tokens_per_event, unless there are no events.
    """
    total = sum(count_rows(meds_dirs[c], s) for c in spec.cohorts for s in SPLITS)
    vocabulary = PieceTokenizer(tokenizer_dir).size
    tasks = [
        _Shard(spec, cohort, meds_dirs[cohort], source, tokenizer_dir, split, Path(out_dir) / split)
        for split in SPLITS
        for cohort in spec.cohorts
        for source in split_files(meds_dirs[cohort], split)
    ]
    numbers = {split: itertools.count() for split in SPLITS}
    tasks = [replace(t, out=t.out / f"{next(numbers[t.split]):05d}.arrow") for t in tasks]
    for split in SPLITS:
        (Path(out_dir) / split).mkdir()
        if not any(task.split == split for task in tasks):
            _write_batches(Path(out_dir) / split / "00000.arrow", [])
    tallies = {split: Tally() for split in SPLITS}
    progress("tokenize", 0, total)
    with crew_of(machine, len(tasks), total) as crew:
        for task, tally in zip(tasks, crew.map(_write_shard, tasks), strict=True):
            tallies[task.split].add(tally)
            progress("tokenize", sum(t.events for t in tallies.values()), total)
    return write_statistics(spec, vocabulary, tallies, Path(out_dir))


@dataclass(frozen=True)
class _Shard:
    """One MEDS file to become one Arrow file."""

    spec: CorpusSpec
    cohort: str
    meds_dir: Path
    source: Path
    tokenizer_dir: Path
    split: str
    out: Path


def _write_shard(task: _Shard) -> Tally:
    tokenizer, codes, tally = _tokenizer(task.tokenizer_dir), read_codes(task.meds_dir), Tally()

    def batch(events: pl.DataFrame) -> pa.RecordBatch:
        pieces = serialize(events, codes, task.spec)
        tokens = tokens_of(pieces, tokenizer.tokenize(pieces.strings))
        tally.count(tokens, events.height, tokenizer.unknown_id)
        return _batch(task.cohort, pieces.subject_id, tokens)

    _write_batches(task.out, map(batch, iter_file(task.source)))
    return tally


@functools.lru_cache(1)
def _tokenizer(folder: Path) -> PieceTokenizer:
    return PieceTokenizer(folder)


def _write_batches(path: Path, batches: Iterable[pa.RecordBatch]) -> None:
    """An Arrow file; one without batches has the columns of a tagged corpus."""
    batches = iter(batches)
    batch = next(batches, None)
    schema = SCHEMA if batch is None else batch.schema
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as out:
        while batch is not None:
            out.write_batch(batch)
            batch = None  # it is let go before the next is made
            batch = next(batches, None)


@dataclass(frozen=True)
class Tokens:
    """The tokens of records, laid end to end: T tokens of S subjects.

    Attributes:
        starts: int64 [S + 1].
        n_demographics: int32 [S].
        ids, event_index: int32 [T].
        time, available: datetime64[us] [T].
        until, begins: as in `Pieces`; only the first token of a piece begins a window.
    """

    starts: np.ndarray
    n_demographics: np.ndarray
    ids: np.ndarray
    event_index: np.ndarray
    time: np.ndarray
    available: np.ndarray
    until: np.ndarray | None = None
    begins: np.ndarray | None = None

    def record(self, i: int, cohort: str, subject_id: int) -> Record:
        """The i-th record."""
        span = slice(self.starts[i], self.starts[i + 1])
        return Record(
            cohort=cohort,
            subject_id=subject_id,
            n_demographics=int(self.n_demographics[i]),
            token_ids=self.ids[span],
            token_time=self.time[span],
            available=self.available[span],
            event_index=self.event_index[span],
            until=None if self.until is None else self.until[span],
            begins=None if self.begins is None else self.begins[span],
        )


def tokens_of(pieces: Pieces, tokens: PieceTokens) -> Tokens:
    """Replaces each piece by its tokens, which take over its event and times."""
    count = tokens.lengths[pieces.piece]
    ends = np.concatenate([[0], np.cumsum(count)])
    starts = ends[pieces.starts]
    at = np.repeat(tokens.starts[pieces.piece] - ends[:-1], count)
    at += np.arange(ends[-1])
    begins = None
    if pieces.begins is not None:
        begins = np.zeros(ends[-1], bool)
        begins[ends[:-1][pieces.begins & (count > 0)]] = True
    return Tokens(
        starts=starts,
        n_demographics=(ends[pieces.starts[:-1] + pieces.n_demographics] - starts[:-1]).astype(np.int32),
        ids=tokens.ids[at],
        event_index=np.repeat(pieces.event_index, count),
        time=np.repeat(pieces.time, count),
        available=np.repeat(pieces.available, count),
        until=None if pieces.until is None else np.repeat(pieces.until, count),
        begins=begins,
    )


def _batch(cohort: str, subject_id: np.ndarray, tokens: Tokens) -> pa.RecordBatch:
    offsets = pa.array(tokens.starts.astype(np.int32))
    columns = [tokens.ids, tokens.time, tokens.available, tokens.event_index]
    schema = SCHEMA
    if tokens.until is not None:
        columns += [tokens.until, tokens.begins]
        schema = VERSIONED_SCHEMA
    lists = [pa.ListArray.from_arrays(offsets, pa.array(values)) for values in columns]
    head = [pa.array([cohort] * len(subject_id)), pa.array(subject_id), pa.array(tokens.n_demographics)]
    return pa.RecordBatch.from_arrays([*head, *lists], schema=schema)
