"""Writing a token corpus: `{train,tuning,held_out}.arrow` and `statistics.json`. Reading it is `reader.py`.

One row per subject, cohorts in the spec's order, subjects in the order of the MEDS files. The files are
uncompressed Arrow IPC, so that a reader maps them into memory instead of loading them.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from ehr_assets.contracts import SPLITS
from ehr_assets.corpora.reader import TokenCorpus
from ehr_assets.corpora.serialize import Pieces, serialize
from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.corpora.tokenizer import PieceTokenizer, PieceTokens
from ehr_assets.meds.reading import count_rows, iter_subjects, read_codes
from ehr_assets.progress import Progress, no_progress

__all__ = ["SCHEMA", "QUANTILES", "TokenCorpus", "tokens_of", "write_corpus"]  # noqa: RUF022

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
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def write_corpus(
    spec: CorpusSpec,
    meds_dirs: Mapping[str, Path],
    tokenizer_dir: Path,
    out_dir: Path,
    progress: Progress = no_progress,
) -> dict[str, int]:
    """Serializes and tokenizes every subject of the spec's cohorts.

    Args:
        spec: the corpus.
        meds_dirs: cohort → meds_events directory, for each of `spec.cohorts`.
        tokenizer_dir: what `train_tokenizer` wrote.
        out_dir: an existing, empty directory; gets the three Arrow files (also for a split without
            subjects) and `statistics.json`.
        progress: is told the event rows done.

    Returns:
        counts: subjects, events, tokens, unknown_tokens, truncated_subjects (longer than context_tokens).
    """
    tokenizer = PieceTokenizer(tokenizer_dir)
    total = sum(count_rows(meds_dirs[c], s) for c in spec.cohorts for s in SPLITS)
    done = 0
    tallies = {split: _Tally() for split in SPLITS}
    codes = {cohort: read_codes(meds_dirs[cohort]) for cohort in spec.cohorts}
    progress("tokenize", 0, total)
    for split, tally in tallies.items():
        with (
            pa.OSFile(str(Path(out_dir) / f"{split}.arrow"), "wb") as sink,
            pa.ipc.new_file(sink, SCHEMA) as out,
        ):
            for cohort in spec.cohorts:
                for events in iter_subjects(meds_dirs[cohort], split):
                    pieces = serialize(events, codes[cohort], spec)
                    tokens = tokenizer.tokenize(pieces.strings)
                    for batch in _batches(cohort, pieces, tokens):
                        out.write_batch(batch)
                        tally.add(batch, tokenizer.unknown_id)
                    tally.events += events.height
                    done += events.height
                    progress("tokenize", done, total)
    statistics = {
        "corpus": spec.name,
        "vocabulary": tokenizer.size,
        "context_tokens": spec.context_tokens,
        "splits": {split: tally.summary(spec.context_tokens) for split, tally in tallies.items()},
        "all": _Tally.merged(list(tallies.values())).summary(spec.context_tokens),
    }
    path = Path(out_dir) / "statistics.json"
    path.write_text(json.dumps(statistics, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    everyone = statistics["all"]
    return {k: everyone[k] for k in ("subjects", "events", "tokens", "unknown_tokens", "truncated_subjects")}


@dataclass(frozen=True)
class Tokens:
    """The tokens of records, laid end to end: T tokens of S subjects.

    Attributes:
        starts: int64 [S + 1].
        n_demographics: int32 [S].
        ids, event_index: int32 [T].
        time, available: datetime64[us] [T].
    """

    starts: np.ndarray
    n_demographics: np.ndarray
    ids: np.ndarray
    event_index: np.ndarray
    time: np.ndarray
    available: np.ndarray


def tokens_of(pieces: Pieces, tokens: PieceTokens) -> Tokens:
    """Replaces each piece by its tokens, which take over its event and times."""
    count = tokens.lengths[pieces.piece]
    ends = np.concatenate([[0], np.cumsum(count)])
    inside = np.arange(ends[-1]) - np.repeat(ends[:-1], count)
    starts = ends[pieces.starts]
    return Tokens(
        starts=starts,
        n_demographics=(ends[pieces.starts[:-1] + pieces.n_demographics] - starts[:-1]).astype(np.int32),
        ids=tokens.ids[np.repeat(tokens.starts[pieces.piece], count) + inside],
        event_index=np.repeat(pieces.event_index, count),
        time=np.repeat(pieces.time, count),
        available=np.repeat(pieces.available, count),
    )


def _batches(cohort: str, pieces: Pieces, piece_tokens: PieceTokens) -> Iterator[pa.RecordBatch]:
    tokens = tokens_of(pieces, piece_tokens)
    n = len(pieces.subject_id)
    if not n:
        return
    offsets = pa.array(tokens.starts.astype(np.int32))
    lists = [
        pa.ListArray.from_arrays(offsets, pa.array(values))
        for values in (tokens.ids, tokens.time, tokens.available, tokens.event_index)
    ]
    head = [pa.array([cohort] * n), pa.array(pieces.subject_id), pa.array(tokens.n_demographics)]
    yield pa.RecordBatch.from_arrays([*head, *lists], schema=SCHEMA)


@dataclass
class _Tally:
    """What `statistics.json` says of one split."""

    lengths: list[np.ndarray] = field(default_factory=list)
    events: int = 0
    unknown: int = 0

    def add(self, batch: pa.RecordBatch, unknown_id: int | None) -> None:
        ids = batch.column("token_ids")
        self.lengths.append(np.diff(ids.offsets.to_numpy()).astype(np.int64))
        if unknown_id is not None:
            self.unknown += int((ids.values.to_numpy() == unknown_id).sum())

    @staticmethod
    def merged(parts: "list[_Tally]") -> "_Tally":
        lengths = [a for p in parts for a in p.lengths]
        return _Tally(lengths, sum(p.events for p in parts), sum(p.unknown for p in parts))

    def summary(self, context_tokens: int) -> dict:
        lengths = np.concatenate([np.zeros(0, np.int64), *self.lengths])
        n, tokens = len(lengths), int(lengths.sum())
        cut = lengths > context_tokens
        at = np.quantile(lengths, QUANTILES, method="nearest") if n else []
        return {
            "subjects": n,
            "events": self.events,
            "tokens": tokens,
            "tokens_per_subject": {f"{q:g}": int(v) for q, v in zip(QUANTILES, at, strict=False)},
            "truncated_subjects": int(cut.sum()),
            "truncated_subjects_share": float(cut.mean()) if n else None,
            "truncated_tokens_share": float((lengths - context_tokens)[cut].sum() / tokens)
            if tokens
            else None,
            "unknown_tokens": self.unknown,
        }
