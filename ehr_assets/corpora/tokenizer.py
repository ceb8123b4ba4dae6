"""The corpus tokenizer: fitted on the pieces of train subjects, or brought by a backbone and adopted.

What belongs here: what becomes a tokenizer folder. How it is applied is `piece_tokenizer.py`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

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
from ehr_assets.model_folders import AsksForCodeError, load_tokenizer
from ehr_assets.progress import Progress, no_progress

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
ALONE = Machine(workers=1)
ALONE_EVENTS = 1_000_000
"""Up to so many events one process is done before others have started."""
WORKER_BYTES = GB
"""What a process that works off chunk after chunk may need; measured at 60,000 notes of 4 kB."""
MOST_PIECES, MOST_CHARS = 1_000_000, 200_000_000
"""How many distinct pieces, and characters in them, are held while a vocabulary is fitted."""
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
    with crew_of(machine, len(tasks), total) as crew:
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


def crew_of(machine: Machine, tasks: int, events: int) -> Crew:
    """Workers for so many files of so many events together: one where starting others costs more."""
    return machine.crew(WORKER_BYTES, tasks if tasks > 1 and events > ALONE_EVENTS else 1)


def _count_pieces(task: tuple[CorpusSpec, Path, Path]) -> dict[str, int]:
    spec, meds_dir, file = task
    counts, codes = PieceCounts(), read_codes(meds_dir)
    for events in iter_file(file):
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


def _adopt(settings: FolderTokenizer, out_dir: Path) -> int:
    where = f"tokenizer.path: {settings.path}"
    try:
        tokenizer = load_tokenizer(settings.path)
    except Exception as e:  # what a broken folder makes transformers raise has no type in common
        raise SpecError(
            f"The tokenizer cannot be loaded: {e if isinstance(e, AsksForCodeError) else type(e).__name__}.",
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
