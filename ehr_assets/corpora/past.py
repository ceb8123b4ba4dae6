"""Records made from events whose future was deleted: what a corpus, and all made of it, must agree with.

Nothing is asked about times here: what is left of the events is serialized and tokenized as a whole.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from ehr_assets.contracts import SECTIONS
from ehr_assets.corpora.piece_tokenizer import PieceTokenizer
from ehr_assets.corpora.reader import Record
from ehr_assets.corpora.serialize import serialize
from ehr_assets.corpora.shards import tokens_of
from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.meds.reading import events_of, read_codes

_AT_A_TIME = 4
"""Records cut at once: a subject may have a million events."""


def records_of_the_past(
    spec: CorpusSpec, tokenizer: PieceTokenizer, meds_dir: Path, asked: pl.DataFrame
) -> Iterator[Record]:
    """One record for each row of `asked`, from the events of its subject that were known at its time.

    Args:
        spec, tokenizer: as the corpus was made with.
        meds_dir: the meds_events directory of the subjects.
        asked: subject_id, time.
    """
    codes = read_codes(meds_dir)
    everything = events_of(meds_dir, asked["subject_id"].unique()).with_row_index("row")
    # A subject of whom nothing was known has the empty demographics block.
    tags = np.array([tokenizer.tag_ids[0], tokenizer.tag_ids[len(SECTIONS)]], np.int32)
    never = np.full(2, np.datetime64("NaT", "us"))
    empty = Record("", 0, 2, tags, never, never, np.full(2, -1, np.int32))
    for some in asked.select("subject_id", t="time").iter_slices(_AT_A_TIME):
        cut = (
            everything.join(some.with_row_index("place"), on="subject_id")
            .filter(pl.col("available_time").is_null() | (pl.col("available_time") <= pl.col("t")))
            .sort("place", "row")
            .with_columns(pl.col("place").cast(pl.Int64).alias("subject_id"))
            .drop("place", "row", "t")
        )
        pieces = serialize(cut, codes, spec)
        tokens = tokens_of(pieces, tokenizer.tokenize(pieces.strings))
        spans = {int(s): i for i, s in enumerate(pieces.subject_id)}
        for place in range(some.height):
            yield tokens.record(spans[place], cohort="", subject_id=place) if place in spans else empty
