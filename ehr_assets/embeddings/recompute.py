"""The proof that S(t) saw nothing later than t: recompute it from records whose future was deleted.

A seeded sample of nodes is taken. From the MEDS events of each, every row with `available_time > t` is
deleted; what is left goes through serialization, tokenizer (`corpora/past.py`) and encoder again, alone and
as a whole record: nothing is asked about times any more, because there is no future left to look at.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from ehr_assets.corpora.past import records_of_the_past
from ehr_assets.corpora.piece_tokenizer import PieceTokenizer
from ehr_assets.corpora.reader import END_OF_TIME, Record
from ehr_assets.corpora.spec import CorpusSpec
from ehr_assets.embeddings.encoder import Encoder, Pooling, Precision, Source, workers
from ehr_assets.embeddings.plan import read_all_nodes
from ehr_assets.embeddings.shards import EMBEDDINGS
from ehr_assets.embeddings.windows import Windows
from ehr_assets.errors import DatasetError
from ehr_assets.progress import Progress, no_progress


def recompute_sample(
    spec: CorpusSpec,
    source: Path | Source,
    tokenizer_dir: Path,
    meds_dirs: Mapping[str, Path],
    nodes_dirs: Mapping[str, Path],
    embeddings_dir: Path,
    *,
    max_tokens: int,
    pooling: Pooling = "last",
    dtype: Precision = "auto",
    anchor: float = 0.0,
    sample: int = 32,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = no_progress,
) -> float:
    """The largest relative error ||stored - recomputed|| / ||recomputed|| over a sample of nodes.

    Args:
        spec: the corpus the embeddings were made from.
        source, tokenizer_dir: as they were used for the embeddings.
        meds_dirs, nodes_dirs: cohort → meds_events and decision_nodes directories.
        embeddings_dir: what `embed_nodes` wrote.
        max_tokens, pooling, anchor: as given to `embed_nodes`.
        dtype: as it came out there; "float32" for embeddings in bfloat16 says what that precision costs.
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
    encoder, windows = Encoder(source, device, dtype), Windows(max_tokens, anchor)
    tokenizer = PieceTokenizer(tokenizer_dir)
    worst, done = 0.0, 0

    def alone(record: Record) -> np.ndarray:
        ids = record.token_ids[windows.at(record, END_OF_TIME)]
        return encoder.encode([ids], [[len(ids)]], pooling)[0][0].astype(np.float64)

    with workers(encoder.device) as pool:
        for cohort in nodes_dirs:
            mine = chosen.with_row_index("at").filter(pl.col("cohort") == cohort)
            if not mine.height:
                continue
            records = records_of_the_past(spec, tokenizer, Path(meds_dirs[cohort]), mine)
            for at, again in zip(mine["at"], pool.map(alone, records), strict=True):
                error = np.linalg.norm(stored[at] - again) / max(float(np.linalg.norm(again)), 1e-12)
                worst = max(worst, float(error) if np.isfinite(error) else np.inf)
                done += 1
                progress("recompute", done, size)
    return worst


def _stored(embeddings_dir: Path, node_ids: pl.Series) -> np.ndarray:
    path = Path(embeddings_dir) / EMBEDDINGS
    wanted = [("node_id", "in", node_ids.to_list())]
    table = pl.DataFrame(pq.read_table(path, columns=["node_id", "embedding"], filters=wanted))
    found = node_ids.to_frame().join(table, on="node_id", how="left", maintain_order="left")["embedding"]
    if found.null_count():
        raise DatasetError(
            f"{found.null_count()} of {len(found)} sampled nodes have no embedding.",
            where=str(path),
            do="Materialize the node embeddings again.",
        )
    return found.to_numpy().astype(np.float64)
