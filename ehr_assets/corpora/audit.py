"""Looking back at a committed token corpus: what its checks ask. Counts only come out."""

from pathlib import Path

import numpy as np
import polars as pl

from ehr_assets.contracts import SPLITS
from ehr_assets.corpora.reader import TokenCorpus


def subjects_by_file(corpus_dir: Path) -> pl.DataFrame:
    """cohort, subject_id, split of every record."""
    corpus = TokenCorpus(corpus_dir)
    rows = [(r.cohort, r.subject_id, split) for split in SPLITS for r in corpus.subjects(split)]
    schema = {"cohort": pl.String, "subject_id": pl.Int64, "split": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def records_out_of_order(corpus_dir: Path) -> tuple[int, int]:
    """Records, and those whose timed tokens do not ascend in availability or lack it.

    With versions of the text, the order is that of the text instead; there a record is wrong when a token is
    replaced before it is read.
    """
    corpus = TokenCorpus(corpus_dir)
    records = wrong = 0
    for split in SPLITS:
        for record in corpus.subjects(split):
            records += 1
            if record.until is not None:
                wrong += bool((record.until <= record.available).any())
                continue
            body = record.available[record.n_demographics :]
            wrong += bool(np.isnat(body).any() or (np.diff(body.astype(np.int64)) < 0).any())
    return records, wrong
