"""One subject's text at one time, made from its events for people to look at.

The future is deleted first, so nothing is asked about times later on: what is left is serialized as a whole.
"""

from datetime import datetime
from pathlib import Path

import polars as pl

from ehr_assets.corpora.phrases import CLOSING_TAGS, OPENING_TAGS
from ehr_assets.corpora.piece_tokenizer import PieceTokenizer
from ehr_assets.corpora.reader import END_OF_TIME, text_until
from ehr_assets.corpora.serialize import serialize
from ehr_assets.corpora.shards import tokens_of
from ehr_assets.corpora.spec import CorpusSpec, Format
from ehr_assets.errors import DatasetError
from ehr_assets.meds.reading import events_of, read_codes

_NOTHING_KNOWN = {"tagged": OPENING_TAGS[0] + CLOSING_TAGS[0], "smb": ""}


def known_events(meds_dir: Path, subject_id: int, t: datetime) -> pl.DataFrame:
    """The rows of a subject that were known at t, static ones included.

    Raises:
        DatasetError: no such subject.
    """
    in_range = -(2**63) <= subject_id < 2**63
    events = events_of(meds_dir, pl.Series([subject_id] if in_range else [], dtype=pl.Int64))
    if not events.height:
        raise DatasetError(
            "There is no subject of that id.",
            where=str(meds_dir),
            do="Give the MEDS subject_id, as metadata/subject_splits.parquet lists them.",
        )
    return events.filter(pl.col("available_time").is_null() | (pl.col("available_time") <= t))


def text_of(events: pl.DataFrame, meds_dir: Path, layout: Format, spec: CorpusSpec | None = None) -> str:
    """The whole text of one subject's events; `spec` None: with the format's defaults."""
    if not events.height:
        return _NOTHING_KNOWN[layout]
    if spec is None:
        folder = {"kind": "folder", "path": "none"}
        plain = {"name": "none", "cohorts": ["none"], "format": layout, "tokenizer": folder}
        spec = CorpusSpec.model_validate(plain)
    (text,) = serialize(events, read_codes(meds_dir), spec).texts()
    return text


def window_text(
    events: pl.DataFrame, meds_dir: Path, spec: CorpusSpec, tokenizer_dir: Path, max_tokens: int
) -> str:
    """The text of what fits a context of `max_tokens`, decoded from its tokens."""
    if not events.height:
        return _NOTHING_KNOWN[spec.format]
    pieces = serialize(events, read_codes(meds_dir), spec)
    tokens = tokens_of(pieces, PieceTokenizer(tokenizer_dir).tokenize(pieces.strings))
    return text_until(tokenizer_dir, tokens.record(0, "", 0), END_OF_TIME, max_tokens)
