"""S(t) of every decision node: `embeddings.parquet` from a checkpoint, a token corpus and the nodes.

S(t) is the final hidden state (after the final norm) of the last token known at t, in a window of the
demographics block and the most recent tokens known at t (SMB-Structure §4.3). `recompute.py` proves it.
"""

import platform
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_assets.corpora.reader import TokenCorpus
from ehr_assets.embeddings.encoder import Encoder, Pooling, Precision, Source, workers
from ehr_assets.embeddings.plan import Pass, batches, plan_passes
from ehr_assets.embeddings.recompute import recompute_sample
from ehr_assets.embeddings.shards import EMBEDDINGS, Kept, count_nodes, node_shards
from ehr_assets.embeddings.windows import Windows
from ehr_assets.errors import DatasetError, SpecError
from ehr_assets.progress import Progress, no_progress

__all__ = ["EMBEDDINGS", "embed_nodes", "recompute_sample"]

COUNTED = ("nodes", "subjects", "passes", "tokens", "tokens_one_by_one")
BATCH_TOKENS = {"cpu": 1_024, "cuda": 8_192}
"""A core is busy with a thousand tokens; with more at a time, others wait for the last one."""
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
    encoder = Encoder(source, device, dtype)
    if encoder.max_positions and max_tokens > encoder.max_positions:
        raise SpecError(
            f"Windows of {max_tokens} tokens do not fit the backbone's {encoder.max_positions} positions.",
            where="embedding.max_tokens",
            do="Give a smaller embedding.max_tokens, or a backbone with more positions.",
        )
    windows = Windows(max_tokens, anchor)
    batch_tokens = batch_tokens or BATCH_TOKENS.get(encoder.device.type, BATCH_TOKENS["cuda"])
    shards = _Shards(encoder, TokenCorpus(corpus_dir), windows, pooling, batch_tokens, cores, str(source))
    folder = Path(work_dir) if work_dir else Path(out_dir) / ".work"
    kept = Kept(folder / "shards", shards.made_with())
    most = max(1, STATES_BYTES // (4 * encoder.hidden_size))
    total, done, made = count_nodes(nodes_dirs), 0, 0
    counts: Counter[str] = Counter()
    progress("embed", done, total)
    for i, nodes in enumerate(node_shards(nodes_dirs, shard_subjects, most)):
        found = kept.counts(i, nodes)
        if found is None:
            table, found = shards.embed(nodes, lambda n, done=done: progress("embed", done + n, total))
            kept.keep(i, nodes, table, found)
        counts.update(found)
        done, made = done + nodes.height, i + 1
        progress("embed", done, total)
    seen = _put_together(kept, made, encoder.hidden_size, Path(out_dir) / EMBEDDINGS)
    if not work_dir:
        shutil.rmtree(folder)
    return {
        **{name: counts[name] for name in COUNTED},
        **seen,
        "shards": made,
        "dimensions": encoder.hidden_size,
        "dtype": encoder.dtype,
        "device": encoder.device.type,
    }


@dataclass(frozen=True)
class _Shards:
    """Embeds one shard after another, all in the same way. `name`: the encoder's, for errors."""

    encoder: Encoder
    corpus: TokenCorpus
    windows: Windows
    pooling: Pooling
    batch_tokens: int
    cores: int | None
    name: str

    def made_with(self) -> dict[str, Any]:
        """Plain data: what decides about the states beside checkpoint and corpus (whose folder a work folder
        belongs to). A run that goes on on another processor begins anew."""
        return {
            "max_tokens": self.windows.max_tokens,
            "anchor": self.windows.anchor,
            "pooling": self.pooling,
            "batch_tokens": self.batch_tokens,
            "dtype": self.encoder.dtype,
            "device": _processor(self.encoder),
        }

    def embed(
        self, nodes: pl.DataFrame, progress: Callable[[int], object]
    ) -> tuple[pa.Table, dict[str, int]]:
        """The shard as a table, and what was counted. progress: is told how many of its nodes are done."""
        passes = plan_passes(self.corpus, nodes, self.windows)
        states = np.zeros((nodes.height, self.encoder.hidden_size), np.float32)
        read = np.zeros((nodes.height, 4), np.int32)
        groups, done = list(batches(passes, self.batch_tokens)), 0
        with workers(self.encoder.device, self.cores) as pool:
            for batch, found in zip(groups, pool.map(self._encode, groups), strict=True):
                for item, (vectors, spans) in zip(batch, found, strict=True):
                    states[item.nodes], read[item.nodes] = vectors, spans
                    done += len(item.nodes)
                progress(done)
        counts = {
            "nodes": nodes.height,
            "subjects": nodes["subject_id"].n_unique(),
            "passes": len(passes),
            "tokens": sum(p.length for p in passes),
            "tokens_one_by_one": sum(sum(p.ends) for p in passes),
        }
        return _table(nodes, states, read), counts

    def _encode(self, batch: list[Pass]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each pass and each of its nodes: the state, and what was read (tokens, timed, first, last)."""
        looked_up = [item.read(self.corpus, self.windows) for item in batch]
        tokens = [record.token_ids[at] for record, at in looked_up]
        known, largest = self.encoder.vocabulary, max(int(ids.max()) for ids in tokens)
        if largest >= known:
            raise DatasetError(
                f"The corpus uses token {largest}, the checkpoint embeds {known} tokens only.",
                where=f"{self.corpus.path} and {self.name}",
                do="Train the recipe again on this corpus.",
            )
        vectors = self.encoder.encode(tokens, [item.ends for item in batch], self.pooling)
        spans = []
        for item, (record, at) in zip(batch, looked_up, strict=True):
            head = int(np.searchsorted(at, record.n_demographics))
            ends = np.asarray(item.ends)
            timed = np.maximum(ends - head, 0)
            first = np.where(timed > 0, at[min(head, len(at) - 1)], -1)
            spans.append(np.column_stack([ends, timed, first, at[ends - 1]]).astype(np.int32))
        return list(zip(vectors, spans, strict=True))


def _table(nodes: pl.DataFrame, states: np.ndarray, read: np.ndarray) -> pa.Table:
    tokens, timed, first, last = read.T
    columns = [
        nodes["node_id"].to_arrow(),
        nodes["subject_id"].to_arrow(),
        nodes["time"].to_arrow(),
        nodes["cohort"].to_arrow(),
        pa.FixedSizeListArray.from_arrays(pa.array(states.ravel()), states.shape[1]),
        pa.array(tokens),
        pa.array(timed),
        pa.array(first, mask=first < 0),
        pa.array(last),
    ]
    schema = _schema(states.shape[1])
    arrays = [c.cast(f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _schema(dimensions: int) -> pa.Schema:
    return pa.schema(
        [
            ("node_id", pa.string()),
            ("subject_id", pa.int64()),
            ("time", pa.timestamp("us")),
            ("cohort", pa.string()),
            ("embedding", pa.list_(pa.field("element", pa.float32()), dimensions)),
            ("tokens", pa.int32()),
            ("timed_tokens", pa.int32()),
            ("first_timed", pa.int32()),
            ("last", pa.int32()),
        ]
    )


def _put_together(kept: Kept, shards: int, dimensions: int, path: Path) -> dict[str, int]:
    """Writes the file, and counts what no probe can use."""
    finite_nodes = not_finite = 0
    low, high = np.full(dimensions, np.inf), np.full(dimensions, -np.inf)
    with pq.ParquetWriter(path, _schema(dimensions), compression="zstd") as writer:
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


def _processor(encoder: Encoder) -> str:
    if encoder.device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(encoder.device)
    return f"{encoder.device.type} {platform.machine()}"
