"""The code under guard, called as its assets call it: features, fits and windows. Nothing is judged here.

Guards are written against these few functions; how probes and embeddings are organized is known in this file
and in no other of the room.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ehr_assets.corpora.piece_tokenizer import PieceTokenizer
from ehr_assets.corpora.reader import TokenCorpus
from ehr_assets.corpora.serialize import serialize
from ehr_assets.corpora.shards import tokens_of
from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.embeddings.shards import EMBEDDINGS
from ehr_assets.embeddings.windows import Windows
from ehr_assets.leakage.deletion import Features
from ehr_assets.leakage.ledger import FitLedger
from ehr_assets.meds.reading import read_codes
from ehr_assets.probes.features import choose_vocabulary, node_features
from ehr_assets.probes.frames import CohortNodes
from ehr_assets.probes.linear import fit_logistic
from ehr_assets.probes.rows import How, NoModelError, Rows

T = TypeVar("T")


def some_nodes(nodes: CohortNodes, rows: NDArray[np.int64]) -> CohortNodes:
    """The nodes at these rows, labels and all."""
    return replace(_at(nodes, rows, len(nodes.split)), tasks=[_at(t, rows, len(t.y)) for t in nodes.tasks])


def _at(value: T, rows: NDArray[np.int64], n: int) -> T:
    """A dataclass whose arrays and frames of n rows are cut to `rows`."""
    cut = {}
    for field in fields(value):  # type: ignore[arg-type]
        held = getattr(value, field.name)
        if isinstance(held, np.ndarray) and len(held) == n:
            cut[field.name] = held[rows]
        elif isinstance(held, pl.DataFrame) and held.height == n:
            cut[field.name] = held[rows.tolist()]
    return replace(value, **cut)  # type: ignore[type-var]


def features_at(nodes: CohortNodes) -> Features:
    """The baselines' features of these nodes, vocabulary included, as a function of the record."""

    def features(meds_dir: Path) -> tuple[np.ndarray, list[str]]:
        vocabulary = choose_vocabulary(meds_dir, nodes, FitLedger())
        table = node_features(meds_dir, nodes, vocabulary)
        return table.X, table.names

    return features


def logistic_on(
    X: NDArray[np.float32], nodes: CohortNodes
) -> Callable[[str, NDArray[np.float64]], NDArray[np.float64] | None]:
    """(task, y) → scores of all nodes by the probes' logistic regression; None without a model."""

    def fit(task: str, y: NDArray[np.float64]) -> NDArray[np.float64] | None:
        known = ~np.isnan(y)
        train, tuning = (nodes.rows(split) & known for split in ("train", "tuning"))
        if len(np.unique(y[train])) < 2:
            return None
        unknown = np.full(len(y), np.nan)
        rows = Rows(
            X=X,
            y=y,
            duration_days=unknown,
            observed=np.zeros(len(y), dtype=bool),
            subject_id=nodes.subject_id,
            indication=nodes.indication,
            cohort=nodes.cohort,
            task=task,
            kind="binary",
            ledger=FitLedger(),
        )
        try:
            model = fit_logistic(rows[train], rows[tuning], How(folds=3))
        except NoModelError:
            return None
        return model.predict(rows).astype(np.float64)

    return fit


def stored_windows(
    corpus: TokenCorpus, cohort: str, cuts: pl.DataFrame, windows: Windows
) -> list[np.ndarray]:
    """Token ids read at each cut, from the corpus; an empty array for a subject who is not in it."""
    found = []
    for subject, cut in cuts.select("subject_id", "cut").iter_rows():
        record = corpus.find(cohort, subject)
        none = np.zeros(0, np.int32)
        t = np.datetime64(cut, "us")
        found.append(none if record is None else record.token_ids[windows.at(record, t)])
    return found


def windows_of_events(
    spec: CorpusSpec, tokenizer_dir: Path, meds_dir: Path, cuts: pl.DataFrame, laid: Windows
) -> Callable[[pl.DataFrame], list[np.ndarray]]:
    """Events of the cut subjects → token ids read at each cut, serialized and tokenized anew."""
    tokenizer, codes = PieceTokenizer(tokenizer_dir), read_codes(meds_dir)

    def windows(events: pl.DataFrame) -> list[np.ndarray]:
        found: dict[int, np.ndarray] = {}
        at = dict(cuts.select("subject_id", "cut").iter_rows())
        for (subject,), own in events.group_by("subject_id", maintain_order=True):
            pieces = serialize(own, codes, spec)
            tokens = tokens_of(pieces, tokenizer.tokenize(pieces.strings))
            record = tokens.record(0, cohort="", subject_id=int(subject))
            t = np.datetime64(at[subject], "us")
            found[int(subject)] = record.token_ids[laid.at(record, t)]
        return [found.get(s, np.zeros(0, np.int32)) for s in cuts["subject_id"].to_list()]

    return windows


def newest_read(corpus: TokenCorpus, embeddings_dir: Path, cohort: str, nodes: pl.DataFrame) -> pl.DataFrame:
    """node_id, available_time of the newest token that the encoder read at each node; null where none.

    From where the embeddings say that each node's window begins and ends.
    """
    columns = ["node_id", "cohort", "first_timed", "last"]
    read = pl.DataFrame(pq.read_table(Path(embeddings_dir) / EMBEDDINGS, columns=columns))
    asked = nodes.select("node_id", "subject_id", "time").join(
        read.filter(pl.col("cohort") == cohort), on="node_id", how="left", maintain_order="left"
    )
    newest = []
    for subject, t, first, last in asked.select("subject_id", "time", "first_timed", "last").iter_rows():
        record = corpus.find(cohort, subject)
        known = np.zeros(0, "datetime64[us]")
        if record is not None and first is not None:
            known = record.available[first : last + 1]
            if record.until is not None:  # between them stands what was replaced, or is not known yet
                now = np.datetime64(t, "us")
                known = known[~(known > now) & ~(record.until[first : last + 1] <= now)]
            known = known[~np.isnat(known)]
        newest.append(known.max().astype("datetime64[us]").item() if len(known) else None)
    times = pl.Series("available_time", newest, dtype=pl.Datetime("us"))
    return asked.select("node_id").with_columns(times)
