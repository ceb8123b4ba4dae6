"""The corpus tokenizer: fitted on train subjects or brought by a backbone, and applied piece by piece.

A piece (tag, gap, name, value; see `phrases.py`) is tokenized by itself, so the tokens of a record do not
depend on what follows, and each distinct piece is tokenized once. No begin or end token and no space is put
before a piece, whatever the tokenizer would do before a text. The sixteen tags are added tokens; the
same characters inside an event's text never become one.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from ehr_assets.corpora.phrases import TAGS
from ehr_assets.corpora.serialize import serialize
from ehr_assets.corpora.spec import BpeTokenizer, CorpusSpec, FolderTokenizer
from ehr_assets.errors import DatasetError, SpecError
from ehr_assets.fanout import GB, Crew, Machine
from ehr_assets.leakage.fits import FITTED_ON, fitted_on
from ehr_assets.meds.reading import (
    count_rows,
    iter_file,
    read_codes,
    split_files,
    subjects_in,
    train_subjects,
)
from ehr_assets.progress import Progress, no_progress

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
ALONE = Machine(workers=1)
CHUNK_ROWS = 250_000
"""Events serialized at a time. A constant, for the batches of a corpus' files follow it."""
ALONE_EVENTS = 1_000_000
"""Up to so many events one process is done before others have started."""
WORKER_BYTES = GB
"""What a process that serializes and tokenizes such chunks may need."""
MOST_PIECES, MOST_CHARS = 1_000_000, 200_000_000
"""How many distinct pieces, and characters in them, are held while a vocabulary is fitted."""
MOST_KNOWN = 200_000
"""Pieces whose tokens are kept from one chunk to the next, beyond those of the chunk itself."""
# What BPE may merge into one token. Whole names, gaps, lags and units, so that a frequent event costs few
# tokens and a context holds much history; of numbers, three digits at a time, the decimals with their point.
_WORDS = "|".join(
    [
        r"\n[^\n]+",  # a name, or the age, with the newline before it
        r"\+[\d.]+[a-z]+| @-[\d.]+[a-z]+",
        r"(?<=\p{N}) (?:10\*|[^\s\p{N}])\S*$",  # the unit at the end of a number
        r":? ?\.?\p{N}{1,3}",
        r" ?\p{L}[\p{L}\p{M}]*",
        r" ?[^\s\p{L}\p{N}]+",
        r"\s",
    ]
)


def train_tokenizer(
    spec: CorpusSpec,
    meds_dirs: Mapping[str, Path],
    splits_dirs: Mapping[str, Path],
    out_dir: Path,
    progress: Progress = no_progress,
    machine: Machine = ALONE,
) -> dict[str, int]:
    """Writes the corpus' tokenizer folder, loadable by `AutoTokenizer`, and `fitted_on.json`.

    kind bpe: byte-level BPE over the distinct pieces of train subjects, a piece that occurs n times counting
    1 + floor(log2 n) times, so that rare descriptions still shape the vocabulary. kind folder: nothing is
    fitted; the delimiters that the given tokenizer lacks are added as special tokens.

    Args:
        spec: the corpus.
        meds_dirs: cohort → meds_events directory, for each of `spec.cohorts`.
        splits_dirs: cohort → subject_splits directory.
        out_dir: an existing, empty directory.
        progress: is told the number of distinct pieces found.
        machine: how many processes and how much memory may be used; the result does not depend on it.

    Returns:
        counts: vocabulary, pieces (distinct ones fitted on), subjects.

    Raises:
        DatasetError: a train file holds a subject that the splits do not put in train.
        SpecError: the given tokenizer folder cannot be used.
    """
    out_dir = Path(out_dir)
    if isinstance(spec.tokenizer, FolderTokenizer):
        size = _adopt(spec.tokenizer, out_dir)
        _write_fitted_on(out_dir, {}, split="none")
        return {"vocabulary": size, "pieces": 0, "subjects": 0}
    fitted: dict[str, set[int]] = {}
    allowed = train_subjects(meds_dirs, splits_dirs)
    for cohort in spec.cohorts:
        fitted[cohort] = subjects_in(meds_dirs[cohort], "train")
        if strange := fitted[cohort] - allowed[cohort]:
            raise DatasetError(
                f"{len(strange)} subject(s) in the train files are not in train by the splits.",
                where=f"cohort {cohort}",
                do="Materialize the cohort's meds_events again, so that its files follow its splits.",
            )
    counts = PieceCounts()
    tasks = [
        (spec, meds_dirs[cohort], file)
        for cohort in spec.cohorts
        for file in split_files(meds_dirs[cohort], "train")
    ]
    total = sum(count_rows(meds_dirs[cohort], "train") for cohort in spec.cohorts)
    with Crew(crew_size(machine, len(tasks), total)) as crew:
        for found_in_file in crew.map(_count_pieces, tasks):
            counts.add(found_in_file)
            progress("pieces of train subjects", len(counts.of), len(counts.of))
    words = {w: n for w, n in counts.of.items() if n and w not in TAGS}
    tokenizer = _fit(spec.tokenizer, words)
    _save(tokenizer, out_dir)
    _write_fitted_on(out_dir, fitted, split="train")
    return {
        "vocabulary": tokenizer.get_vocab_size(),
        "pieces": len(words),
        "subjects": sum(map(len, fitted.values())),
    }


def crew_size(machine: Machine, tasks: int, events: int) -> int:
    """Workers for so many files of so many events together: one where starting others costs more."""
    return min(machine.workers_of(WORKER_BYTES), tasks) if tasks > 1 and events > ALONE_EVENTS else 1


def _count_pieces(task: tuple[CorpusSpec, Path, Path]) -> dict[str, int]:
    spec, meds_dir, file = task
    counts, codes = PieceCounts(), read_codes(meds_dir)
    for events in iter_file(file, CHUNK_ROWS):
        pieces = serialize(events, codes, spec)
        n = np.bincount(pieces.piece, minlength=len(pieces.strings)).tolist()
        counts.add(dict(zip(pieces.strings, n, strict=True)))
    return counts.of


class PieceCounts:
    """How often each distinct piece occurs, in bounded memory: when there are too many, rare ones go.

    What goes depends on the counts and the order of `add` alone, so equal inputs give equal counts.
    """

    def __init__(self, most: int = MOST_PIECES, most_chars: int = MOST_CHARS) -> None:
        self.of: dict[str, int] = {}
        self._most, self._most_chars = most, most_chars
        self._chars = 0

    def add(self, found: Mapping[str, int]) -> None:
        for piece, n in found.items():
            if n:
                before = self.of.get(piece, 0)
                self._chars += 0 if before else len(piece)
                self.of[piece] = before + n
        rarest = 1
        while len(self.of) > self._most or self._chars > self._most_chars:
            self.of = {piece: n for piece, n in self.of.items() if n > rarest}
            self._chars = sum(map(len, self.of))
            rarest *= 2


@dataclass(frozen=True)
class PieceTokens:
    """Token ids of distinct pieces: piece i has ids[starts[i] : starts[i + 1]].

    Attributes:
        ids: int32, all pieces' ids one after the other.
        starts: int64 [pieces + 1].
    """

    ids: np.ndarray
    starts: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)


class PieceTokenizer:
    """A committed tokenizer folder, applied to pieces.

    Args:
        folder: what `train_tokenizer` wrote (any folder with a `tokenizer.json` that has the sixteen tags).
    """

    def __init__(self, folder: Path) -> None:
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise DatasetError(
                "This is not a tokenizer folder: it has no tokenizer.json.",
                where=str(folder),
                do="Materialize the corpus' tokenizer again.",
            )
        content = json.loads(path.read_text(encoding="utf-8"))
        for part in ("normalizer", "pre_tokenizer", "decoder"):
            content[part] = _without_prefix(content.get(part))
        self._tokenizer = Tokenizer.from_str(json.dumps(content))
        self._known: dict[str, list[int]] = {}
        # A note that contains "<drugs>" must not open a section.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        tags = [self._tokenizer.token_to_id(tag) for tag in TAGS]
        if None in tags:
            raise DatasetError(
                f"{tags.count(None)} of the sixteen delimiter tokens are not in the vocabulary.",
                where=str(path),
                do="Materialize the corpus' tokenizer again.",
            )
        self.tag_ids: list[int] = [t for t in tags if t is not None]
        model = self._tokenizer.model
        self.unknown_id: int | None = None
        if getattr(model, "unk_token", None):
            self.unknown_id = self._tokenizer.token_to_id(model.unk_token)

    @property
    def size(self) -> int:
        """Entries of the vocabulary, added tokens included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def tokenize(self, strings: Sequence[str]) -> PieceTokens:
        """Tokens of pieces whose first sixteen are the tags (as `Pieces.strings` has them), on all cores."""
        pieces = strings[len(TAGS) :]
        if len(self._known) > MOST_KNOWN:
            self._known.clear()
        new = [piece for piece in pieces if piece not in self._known]
        encoded = self._tokenizer.encode_batch_fast(new, add_special_tokens=False)
        self._known.update(zip(new, (e.ids for e in encoded), strict=True))
        ids = [[tag] for tag in self.tag_ids] + [self._known[piece] for piece in pieces]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        flat = np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum()))
        return PieceTokens(flat, np.concatenate([[0], np.cumsum(lengths)]))

    def decode(self, token_ids: Sequence[int] | np.ndarray) -> str:
        """The text of tokens, tags included."""
        return self._tokenizer.decode([int(i) for i in token_ids], skip_special_tokens=False)


def _fit(settings: BpeTokenizer, counts: Mapping[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        min_frequency=settings.min_frequency,
        special_tokens=[PAD, BOS, EOS, *(AddedToken(t, special=True, normalized=False) for t in TAGS)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_weighted(counts), trainer)
    return tokenizer


def _weighted(counts: Mapping[str, int]) -> Iterator[str]:
    for word in sorted(counts):
        for _ in range(int(counts[word]).bit_length()):
            yield word


def _save(tokenizer: Tokenizer, out_dir: Path) -> None:
    # Written by hand rather than by `save_pretrained`: no import of transformers, and the same bytes
    # whatever its version.
    tokenizer.save(str(out_dir / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "bos_token": BOS,
        "eos_token": EOS,
        "additional_special_tokens": list(TAGS),
        "clean_up_tokenization_spaces": False,
    }
    _write_json(out_dir / "tokenizer_config.json", config)


def _without_prefix(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """A part of a tokenizer.json that puts no space before a text, and takes none away in decoding.

    A piece is not the beginning of a text: a space before each would make `: 11.2` of `:` and `11.2`.
    """
    if part is None:
        return None
    kind = part.get("type")
    if kind == "Prepend" or (kind == "Strip" and "start" in part):
        return None
    if kind == "Metaspace":
        part = {**part, "prepend_scheme": "never"}
        part.pop("add_prefix_space", None)
    elif kind == "ByteLevel":
        part = {**part, "add_prefix_space": False}
    for inner in ("normalizers", "pretokenizers", "decoders"):
        if inner in part:
            kept = [_without_prefix(one) for one in part[inner]]
            part = {**part, inner: [one for one in kept if one is not None]}
    return part


def _adopt(settings: FolderTokenizer, out_dir: Path) -> int:
    from transformers import AutoTokenizer

    where = f"tokenizer.path: {settings.path}"
    try:
        tokenizer = AutoTokenizer.from_pretrained(settings.path, trust_remote_code=False)
    except Exception as e:  # what a broken folder makes transformers raise has no type in common
        raise SpecError(
            f"The tokenizer cannot be loaded: {type(e).__name__}.",
            where=where,
            do="Give a folder that holds tokenizer.json and tokenizer_config.json.",
        ) from e
    if not tokenizer.is_fast:
        raise SpecError(
            "The tokenizer has no fast (Rust) form.",
            where=where,
            do="Save it once as a PreTrainedTokenizerFast.",
        )
    vocabulary = tokenizer.get_vocab()
    missing = [AddedToken(t, special=True, normalized=False) for t in TAGS if t not in vocabulary]
    tokenizer.add_tokens(missing, special_tokens=True)
    tokenizer.save_pretrained(out_dir)
    return len(tokenizer)


def _write_fitted_on(out_dir: Path, subjects: Mapping[str, set[int]], split: str) -> None:
    _write_json(out_dir / FITTED_ON, fitted_on(subjects, split))


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
