"""The proof that S(t) saw nothing later than t: recompute it from records whose future was deleted.

A seeded sample of nodes is taken. From the MEDS events of each, every row with `available_time > t` is
deleted; what is left goes through serialization, tokenizer and encoder again, alone and as a whole
record: nothing is asked about times any more, because there is no future left to look at.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from ehr_assets.contracts import SECTIONS
from ehr_assets.corpora.reader import Record, window
from ehr_assets.corpora.serialize import serialize
from ehr_assets.corpora.shards import tokens_of
from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.corpora.tokenizer import PieceTokenizer
from ehr_assets.embeddings.encoder import Encoder, Pooling, workers
from ehr_assets.embeddings.plan import read_all_nodes
from ehr_assets.errors import DatasetError
from ehr_assets.meds.reading import events_of, read_codes
from ehr_assets.progress import Progress, no_progress

_END_OF_TIME = np.datetime64("9999-12-31", "us")


def recompute_sample(
    spec: CorpusSpec,
    checkpoint_dir: Path,
    tokenizer_dir: Path,
    meds_dirs: Mapping[str, Path],
    nodes_dirs: Mapping[str, Path],
    embeddings_dir: Path,
    *,
    max_tokens: int,
    pooling: Pooling = "last",
    sample: int = 32,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = no_progress,
) -> float:
    """The largest relative error ||stored - recomputed|| / ||recomputed|| over a sample of nodes.

    Args:
        spec: the corpus the embeddings were made from.
        checkpoint_dir, tokenizer_dir: as they were used for the embeddings.
        meds_dirs, nodes_dirs: cohort → meds_events and decision_nodes directories.
        embeddings_dir: what `embed_nodes` wrote.
        max_tokens, pooling: as given to `embed_nodes`.
        sample: how many nodes; all when there are fewer.
        seed: of the choice.
        device: "auto", or a torch device.
        progress: is told the nodes done.

    Returns:
        0.0 when there are no nodes; infinity when a state is not finite.

    Raises:
        DatasetError: a sampled node has no embedding.
    """
    nodes = read_all_nodes(nodes_dirs)
    if not nodes.height:
        return 0.0
    size = min(sample, nodes.height)
    rows = np.sort(np.random.default_rng([seed, 11]).choice(nodes.height, size, replace=False))
    chosen = nodes[rows.tolist()]
    stored = _stored(embeddings_dir, chosen["node_id"])
    encoder = Encoder(checkpoint_dir, device)
    tokenizer = PieceTokenizer(tokenizer_dir)
    worst, done = 0.0, 0

    def alone(record: Record) -> np.ndarray:
        ids = record.token_ids[window(record, _END_OF_TIME, max_tokens)]
        return encoder.encode([ids], [[len(ids)]], pooling)[0][0].astype(np.float64)

    with workers(encoder.device) as pool:
        for cohort in nodes_dirs:
            mine = chosen.with_row_index("at").filter(pl.col("cohort") == cohort)
            records = _cut_records(spec, tokenizer, Path(meds_dirs[cohort]), mine) if mine.height else []
            for at, again in zip(mine["at"], pool.map(alone, records), strict=True):
                error = np.linalg.norm(stored[at] - again) / max(float(np.linalg.norm(again)), 1e-12)
                worst = max(worst, float(error) if np.isfinite(error) else np.inf)
                done += 1
                progress("recompute", done, size)
    return worst


def _stored(embeddings_dir: Path, node_ids: pl.Series) -> np.ndarray:
    path = Path(embeddings_dir) / "embeddings.parquet"
    table = pl.DataFrame(pq.read_table(path, columns=["node_id", "embedding"]))
    found = node_ids.to_frame().join(table, on="node_id", how="left", maintain_order="left")["embedding"]
    if found.null_count():
        raise DatasetError(
            f"{found.null_count()} of {len(found)} sampled nodes have no embedding.",
            where=str(path),
            do="Materialize the node embeddings again.",
        )
    return found.to_numpy().astype(np.float64)


def _cut_records(
    spec: CorpusSpec, tokenizer: PieceTokenizer, meds_dir: Path, nodes: pl.DataFrame
) -> list[Record]:
    """One record per node, from the events known at its time; the node's position stands for the subject."""
    asked = nodes.select("subject_id", pl.col("time").alias("t")).with_row_index("node")
    events = events_of(meds_dir, nodes["subject_id"].unique()).with_row_index("row")
    cut = (
        events.join(asked, on="subject_id")
        .filter(pl.col("available_time").is_null() | (pl.col("available_time") <= pl.col("t")))
        .sort("node", "row")
        .with_columns(pl.col("node").cast(pl.Int64).alias("subject_id"))
        .drop("node", "row", "t")
    )
    pieces = serialize(cut, read_codes(meds_dir), spec)
    tokens = tokens_of(pieces, tokenizer.tokenize(pieces.strings))
    spans = {int(s): i for i, s in enumerate(pieces.subject_id)}
    # A subject of whom nothing was known has the empty demographics block.
    tags = np.array([tokenizer.tag_ids[0], tokenizer.tag_ids[len(SECTIONS)]], np.int32)
    never = np.full(2, np.datetime64("NaT", "us"))
    empty = Record("", 0, 2, tags, never, never, np.full(2, -1, np.int32))
    return [
        tokens.record(spans[node], cohort="", subject_id=node) if node in spans else empty
        for node in range(nodes.height)
    ]
