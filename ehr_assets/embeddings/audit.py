"""Looking back at the windows that embeddings were computed from."""

from pathlib import Path

import numpy as np
import polars as pl

from ehr_assets.corpora.reader import TokenCorpus, window


def newest_in_windows(corpus_dir: Path, nodes: pl.DataFrame, max_tokens: int) -> pl.DataFrame:
    """node_id, subject_id, time, available_time of the newest timed token in each node's window.

    Nodes whose window holds no timed token have no row.
    """
    corpus = TokenCorpus(corpus_dir)
    rows = []
    for node_id, cohort, subject_id, t in nodes.select("node_id", "cohort", "subject_id", "time").iter_rows():
        record = corpus.find(cohort, subject_id)
        if record is None:
            continue
        available = record.available[window(record, t, max_tokens)]
        available = available[~np.isnat(available)]
        if len(available):
            rows.append((node_id, subject_id, available.max().astype("datetime64[us]").item()))
    schema = {"node_id": pl.String, "subject_id": pl.Int64, "available_time": pl.Datetime("us")}
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(time=pl.col("available_time"))
