"""S(t) of every decision node: `embeddings.parquet` from a checkpoint, a token corpus and the nodes.

S(t) is the final hidden state (after the final norm) of the last token known at t, in a window of the
demographics block and the most recent tokens known at t (SMB-Structure §4.3). `recompute.py` proves it.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_assets.corpora.reader import TokenCorpus
from ehr_assets.embeddings.encoder import Encoder, Pooling, workers
from ehr_assets.embeddings.plan import Pass, batches, plan_passes, read_all_nodes
from ehr_assets.embeddings.recompute import recompute_sample
from ehr_assets.errors import DatasetError, SpecError
from ehr_assets.progress import Progress, no_progress

__all__ = ["embed_nodes", "recompute_sample"]


def embed_nodes(
    checkpoint_dir: Path,
    corpus_dir: Path,
    nodes_dirs: Mapping[str, Path],
    out_dir: Path,
    *,
    max_tokens: int,
    pooling: Pooling = "last",
    device: str = "auto",
    batch_tokens: int = 8_192,
    progress: Progress = no_progress,
) -> dict[str, int]:
    """Writes `embeddings.parquet`: node_id, subject_id, time, cohort, embedding (fixed_size_list<float32>).

    Rows follow `nodes_dirs` and, within a cohort, its `nodes.parquet`. Equal inputs give equal bytes
    whatever the number of cores; between kinds of processors the last bits may differ.

    Args:
        checkpoint_dir: a checkpoint folder, as `training/checkpoint.py` describes it.
        corpus_dir: the token corpus whose tokenizer the checkpoint was trained with.
        nodes_dirs: cohort → decision_nodes directory.
        out_dir: an existing, empty directory.
        max_tokens: the longest window, at least 2.
        pooling: "last" token, or "mean" over the window.
        device: "auto", or a torch device.
        batch_tokens: padded tokens in one forward pass, at most (a single longer window still runs).
        progress: is told the tokens done.

    Returns:
        counts: nodes, subjects, passes, tokens (encoded, without padding), tokens_one_by_one (what one
        pass per node would have encoded), dimensions.

    Raises:
        TrainingError: not a checkpoint.
        DatasetError: not a corpus, a node without record, or another vocabulary.
        SpecError: the windows are longer than the backbone's positions.
    """
    encoder = Encoder(checkpoint_dir, device)
    if encoder.max_positions and max_tokens > encoder.max_positions:
        raise SpecError(
            f"Windows of {max_tokens} tokens do not fit the backbone's {encoder.max_positions} positions.",
            where="embedding.max_tokens",
            do="Give a smaller embedding.max_tokens, or a backbone with more positions.",
        )
    corpus = TokenCorpus(corpus_dir)
    nodes = read_all_nodes(nodes_dirs)
    passes = plan_passes(corpus, nodes, max_tokens)
    total = sum(p.length for p in passes)
    states = np.zeros((nodes.height, encoder.hidden_size), np.float32)
    done = 0
    progress("embed", 0, total)
    groups = list(batches(passes, batch_tokens))

    def encoded(batch: list[Pass]) -> list[np.ndarray]:
        tokens = [p.tokens(corpus, max_tokens) for p in batch]
        if (largest := max(int(ids.max()) for ids in tokens)) >= encoder.vocabulary:
            raise DatasetError(
                f"The corpus uses token {largest}, the checkpoint embeds {encoder.vocabulary} tokens only.",
                where=f"{corpus_dir} and {checkpoint_dir}",
                do="Train the recipe again on this corpus.",
            )
        return encoder.encode(tokens, [p.ends for p in batch], pooling)

    with workers(encoder.device) as pool:
        for batch, found in zip(groups, pool.map(encoded, groups), strict=True):
            for item, vectors in zip(batch, found, strict=True):
                states[item.nodes] = vectors
                done += item.length
            progress("embed", done, total)
    _write(nodes, states, Path(out_dir) / "embeddings.parquet")
    return {
        "nodes": nodes.height,
        "subjects": nodes.select(pl.struct("cohort", "subject_id").n_unique()).item(),
        "passes": len(passes),
        "tokens": total,
        "tokens_one_by_one": sum(sum(p.ends) for p in passes),
        "dimensions": encoder.hidden_size,
    }


def _write(nodes: pl.DataFrame, states: np.ndarray, path: Path) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(states.ravel()), states.shape[1])
    table = pa.table(
        {
            "node_id": nodes["node_id"].to_arrow().cast(pa.string()),
            "subject_id": nodes["subject_id"].to_arrow(),
            "time": nodes["time"].to_arrow().cast(pa.timestamp("us")),
            "cohort": nodes["cohort"].to_arrow().cast(pa.string()),
            "embedding": vectors,
        }
    )
    pq.write_table(table, path, compression="zstd")
