"""Looking back at a committed token corpus: what its checks ask. Counts only come out."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from ehr_assets.contracts import SPLITS
from ehr_assets.corpora.past import records_of_the_past
from ehr_assets.corpora.piece_tokenizer import PieceTokenizer
from ehr_assets.corpora.reader import END_OF_TIME, Record, TokenCorpus, shown_at
from ehr_assets.corpora.spec import CorpusSpec


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


def texts_that_saw_the_future(
    spec: CorpusSpec,
    corpus_dir: Path,
    tokenizer_dir: Path,
    meds_dirs: Mapping[str, Path],
    *,
    records: int = 64,
    instants: int = 4,
    seed: int = 0,
) -> tuple[int, int]:
    """Texts compared, and those that hold other tokens at an instant than events known by then give.

    Args:
        spec, tokenizer_dir: as the corpus was made with.
        corpus_dir: what `write_corpus` filled.
        meds_dirs: cohort → meds_events directory, for each of `spec.cohorts`.
        records: how many records are drawn; all when there are fewer.
        instants: at so many instants of each: when something becomes known, or just before.
        seed: of the choice.
    """
    rng, corpus = np.random.default_rng([seed, 13]), TokenCorpus(corpus_dir)
    tokenizer = PieceTokenizer(tokenizer_dir)
    counts = [corpus.count(split) for split in SPLITS]
    rows = np.sort(rng.choice(len(corpus), min(records, len(corpus)), replace=False))
    splits = np.searchsorted(np.cumsum(counts), rows, side="right")
    rows -= (np.cumsum(counts) - counts)[splits]
    drawn = [corpus.record(SPLITS[s], row) for s, row in zip(splits.tolist(), rows.tolist(), strict=True)]
    compared = wrong = 0
    for cohort, meds_dir in meds_dirs.items():
        asked = [(r, t) for r in drawn if r.cohort == cohort for t in _instants(r, instants, rng)]
        if not asked:
            continue
        schema = {"subject_id": pl.Int64, "time": pl.Datetime("us")}
        known = pl.DataFrame([(r.subject_id, t.item()) for r, t in asked], schema, orient="row")
        past = records_of_the_past(spec, tokenizer, Path(meds_dir), known)
        for (record, t), alone in zip(asked, past, strict=True):
            compared += 1
            wrong += not np.array_equal(
                record.token_ids[shown_at(record, t)], alone.token_ids[shown_at(alone, END_OF_TIME)]
            )
    return compared, wrong


def _instants(record: Record, n: int, rng: np.random.Generator) -> np.ndarray:
    """datetime64[us] [at most n], drawn from a record."""
    known = np.unique(record.available[~np.isnat(record.available)])
    moments = np.concatenate([known, known - np.timedelta64(1, "us")])
    return rng.choice(moments, min(n, len(moments)), replace=False)
