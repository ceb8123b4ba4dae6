"""A committed tokenizer applied piece by piece.

A piece (see `pieces.py`) is tokenized by itself, so the tokens of a record do not depend on what follows, and
each distinct piece is tokenized once. No begin or end token and no space is put before a piece, whatever the
tokenizer would do before a text. The sixteen tags are added tokens; the same characters inside an event's
text never become one.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from ehr_assets.corpora.phrases import TAGS
from ehr_assets.errors import DatasetError

MOST_KNOWN, KNOWN_CHARS = 200_000, 128
"""The tokens of so many pieces are kept from chunk to chunk, if so short: long ones rarely come again."""
ENCODED_CHARS = 500_000
"""Tokenized at a time, since the library's own results take many bytes for each character."""


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
        self._known: dict[str, np.ndarray] = {}
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
        found = [self._known.get(piece) for piece in pieces]
        new = [i for i, known in enumerate(found) if known is None]
        for some in _in_shares(new, pieces):
            encoded = self._tokenizer.encode_batch_fast([pieces[i] for i in some], add_special_tokens=False)
            for i, encoding in zip(some, encoded, strict=True):
                found[i] = ids = np.array(encoding.ids, np.int32)
                if len(pieces[i]) <= KNOWN_CHARS:
                    self._known[pieces[i]] = ids
        all_ids = [np.array(self.tag_ids, np.int32), *(ids for ids in found if ids is not None)]
        lengths = [1] * len(TAGS) + [len(ids) for ids in all_ids[1:]]
        return PieceTokens(np.concatenate(all_ids), np.append(0, np.cumsum(lengths)))

    def decode(self, token_ids: Sequence[int] | np.ndarray) -> str:
        """The text of tokens, tags included."""
        return self._tokenizer.decode([int(i) for i in token_ids], skip_special_tokens=False)


def _in_shares(new: Sequence[int], pieces: Sequence[str]) -> Iterator[Sequence[int]]:
    """Positions of pieces, as they come, in runs of about `ENCODED_CHARS` characters."""
    ends = np.cumsum([len(pieces[i]) for i in new])
    share = ends // ENCODED_CHARS
    for some in np.split(np.array(new, np.int64), np.flatnonzero(np.diff(share)) + 1):
        if len(some):
            yield some.tolist()


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
