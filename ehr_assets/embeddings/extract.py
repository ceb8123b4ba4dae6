"""S(t) of every decision node: `embeddings.parquet` from a checkpoint, a token corpus and the nodes.

S(t) is the final hidden state (after the final norm) of the last token known at t, in a window of the
demographics block and the most recent tokens known at t (SMB-Structure §4.3). `recompute.py` proves it.
"""

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ehr_assets.embeddings.encoder import Pooling, Precision, Source
from ehr_assets.embeddings.recompute import recompute_sample
from ehr_assets.embeddings.shards import EMBEDDINGS, Kept, count_nodes, node_shards
from ehr_assets.embeddings.tasks import (
    How,
    ShardTask,
    about_model,
    embed_shard,
    embedding_schema,
    forget,
    unwatched,
)
from ehr_assets.embeddings.windows import Windows
from ehr_assets.errors import SpecError
from ehr_assets.fanout import GB, Crew, Machine
from ehr_assets.progress import Progress, no_progress

__all__ = ["EMBEDDINGS", "embed_nodes", "recompute_sample"]

COUNTED = ("nodes", "subjects", "passes", "tokens", "tokens_one_by_one")
WORKER_BYTES = 2 * GB
"""Of a worker elsewhere that embeds a shard, unless its model needs more: then the node must have it."""
STATES_BYTES = 1 << 28
"""Of a shard's states, at most (unless one subject alone has more)."""


def embed_nodes(
    source: Path | Source,
    corpus_dir: Path,
    nodes_dirs: Mapping[str, Path],
    out_dir: Path,
    *,
    max_tokens: int,
    pooling: Pooling = "last",
    dtype: Precision = "auto",
    anchor: float = 0.0,
    shard_subjects: int = 2048,
    device: str = "auto",
    batch_tokens: int | None = None,
    work_dir: Path | None = None,
    cores: int | None = None,
    machine: Machine | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Writes `embeddings.parquet`: node_id, subject_id, time, cohort, embedding (fixed_size_list<float32>).

    And what was read at each node, from the very tokens that were encoded (`audit.py` holds it against the
    record): `tokens`, how many; `timed_tokens`, how many of them are no demographics; `first_timed` (null
    without any) and `last`, positions in the subject's record.

    Rows follow `nodes_dirs` and, within a cohort, its `nodes.parquet`; a row group is a shard. Equal inputs
    give equal bytes whatever the number of cores and interruptions; between kinds of processors the last bits
    may differ. Of states and nodes, memory holds one shard.

    Args:
        source: a checkpoint folder, as `training/checkpoint.py` describes it, or what takes its place.
        corpus_dir: the token corpus whose tokenizer the checkpoint was trained with.
        nodes_dirs: cohort → decision_nodes directory.
        out_dir: an existing, empty directory.
        max_tokens, pooling, dtype, anchor, shard_subjects: as in `EmbeddingSpec`.
        device: "auto", or a torch device.
        batch_tokens: padded tokens in one forward pass, at most (a single longer window still runs); by
            default as `BATCH_TOKENS` says for the kind of processor.
        work_dir: keeps finished shards until the file is written: an interrupted run given the same folder
            again encodes only what is missing. None: in `out_dir`.
        cores: for forward passes on a CPU; all by default.
        machine: one with a cluster has its workers embed the shards; work_dir must lie where they see it.
        progress: is told the nodes done.

    Returns:
        nodes, subjects, passes, tokens (encoded, without padding), tokens_one_by_one (what one pass per node
        would have encoded), shards, dimensions; not_finite (nodes) and constant_dimensions (with the same
        finite value at every node, of two or more); dtype and device, as they came out.

    Raises:
        TrainingError: not a checkpoint.
        DatasetError: not a corpus, a node without record, or another vocabulary.
        SpecError: the windows are longer than the backbone's positions.
    """
    windows = Windows(max_tokens, anchor)
    how = How(source, Path(corpus_dir), windows, pooling, dtype, device, batch_tokens, cores)
    folder = Path(work_dir) if work_dir else Path(out_dir) / ".work"
    total, done, made = count_nodes(nodes_dirs), 0, 0
    counts: Counter[str] = Counter()
    try:
        with machine.crew(WORKER_BYTES, gpus=True) if machine and machine.cluster else Crew(1) as crew:
            (about,) = crew.map(about_model, [how])
            if about.max_positions and max_tokens > about.max_positions:
                raise SpecError(
                    f"Windows of {max_tokens} tokens do not fit the backbone's {about.max_positions} "
                    "positions.",
                    where="embedding.max_tokens",
                    do="Give a smaller embedding.max_tokens, or a backbone with more positions.",
                )
            kept = Kept(folder / "shards", about.made_with)
            most = max(1, STATES_BYTES // (4 * about.dimensions))
            shards = node_shards(nodes_dirs, shard_subjects, most)
            progress("embed", done, total)

            def watch(n: int) -> None:
                progress("embed", done + n, total)

            tasks = (
                ShardTask(how, about, kept, i, nodes, watch if crew.here else unwatched)
                for i, nodes in enumerate(shards)
            )
            for found in crew.map(embed_shard, tasks):
                counts.update(found)
                done, made = done + found["nodes"], made + 1
                progress("embed", done, total)
    finally:
        forget()
    seen = _put_together(kept, made, about.dimensions, Path(out_dir) / EMBEDDINGS)
    if not work_dir:
        shutil.rmtree(folder)
    return {
        **{name: counts[name] for name in COUNTED},
        **seen,
        "shards": made,
        "dimensions": about.dimensions,
        "dtype": about.dtype,
        "device": about.device,
    }


def _put_together(kept: Kept, shards: int, dimensions: int, path: Path) -> dict[str, int]:
    """Writes the file, and counts what no probe can use."""
    finite_nodes = not_finite = 0
    low, high = np.full(dimensions, np.inf), np.full(dimensions, -np.inf)
    with pq.ParquetWriter(path, embedding_schema(dimensions), compression="zstd") as writer:
        for table in kept.tables(shards):
            writer.write_table(table, row_group_size=max(1, table.num_rows))
            flat = np.concatenate([c.flatten().to_numpy() for c in table["embedding"].chunks])
            values = flat.reshape(-1, dimensions)
            finite = values[np.isfinite(values).all(axis=1)]
            finite_nodes, not_finite = finite_nodes + len(finite), not_finite + len(values) - len(finite)
            low = np.minimum(low, finite.min(axis=0, initial=np.inf))
            high = np.maximum(high, finite.max(axis=0, initial=-np.inf))
    constant = int((low == high).sum()) if finite_nodes > 1 else 0
    return {"not_finite": not_finite, "constant_dimensions": constant}
